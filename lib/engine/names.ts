/** Names that ef gives to its own files inside the trees of users. */
import { hostname } from "node:os";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { randomId } from "../base/files.ts";

const prefix = ".ef-tmp-";
/** A file that is being written, and whose. */
const pattern = /^\.ef-tmp-([0-9A-Za-z._-]+)-(\d+)-[0-9a-f]{16}-[0-9a-z]+$/;
/** A large file that an interrupted run began: `.ef-part-` and what it will be. */
const partPattern = /^\.ef-part-[0-9a-f]{16}$/;

/** A leftover of another host may be a running copy, where locks do not work between nodes, until it is this old. */
const abandonedMs = 6 * 3_600_000;

let names: { start: string; next: number } | undefined;

/**
 * A name that no other run, process or node uses; short, as the name it stands for may have all of the 255 bytes that
 * a name can have.
 */
export function tempName(): ByteString {
  names ??= { start: `${prefix}${ownHost()}-${process.pid}-${randomId()}-`, next: 0 };
  return names.start + (names.next++).toString(36);
}

const ownHost = () =>
  hostname()
    .replace(/[^0-9A-Za-z._-]/g, "_")
    .slice(0, 64);

/** The name of the beginning of a large file. */
export const partName = (id: string): ByteString => `.ef-part-${id}`;

/** Of the path of the beginning of a large file: what is the same for each version of that file. */
export const partOf = (path: ByteString): ByteString => path.slice(0, -8);

/** Is it a file that ef was writing: never copied, compared or shown? */
export const isTemp = (name: ByteString): boolean => pattern.test(name) || partPattern.test(name);

/**
 * Was a temporary file left by a run that is gone?
 *
 * @param ageMs since it was last written
 */
export function isAbandoned(name: ByteString, ageMs: number): boolean {
  const [, host, pid] = pattern.exec(name) ?? [];
  if (host === undefined) return ageMs > 7 * 24 * 3_600_000; // the beginning of a large file: to be gone on with
  if (host !== ownHost()) return ageMs > abandonedMs;
  if (Number(pid) === process.pid) return names === undefined || !name.startsWith(names.start);
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return errnoOf(error) === "ESRCH";
  }
}
