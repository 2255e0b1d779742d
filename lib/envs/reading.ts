/**
 * Looks at the files of an environment. What is not there tells nothing, as what is not ours to see; storage that fails is an
 * error: what it hides would keep its old place, and nobody would know.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { type ByteString, display, osPath } from "../base/bytes.ts";
import { EfError, errnoOf, isStorageFault, reasonOf } from "../base/errors.ts";
import { linkEncoding, linkText as textOf } from "../base/runtimes.ts";

/**
 * @param isKnown it was there a moment ago, and ours: any error is then the storage's
 * @throws {EfError} IO if it is the storage that failed
 */
export function unlessStorageFails(path: ByteString, error: unknown, isKnown = false): void {
  if (errnoOf(error) === undefined) throw error;
  if (!isStorageFault(error) && !isKnown) return;
  const full = display(path);
  throw new EfError("IO", `Cannot read ${full}: ${reasonOf(error)}`, {
    hint: "run it again",
    path: full,
    cause: error,
  });
}

/** Names in a directory, in order; none where there is none, or it may not be read. @throws {EfError} IO */
export function namesIn(dir: ByteString): ByteString[] {
  try {
    return readdirSync(osPath(dir), { encoding: "latin1" }).sort();
  } catch (error) {
    unlessStorageFails(dir, error);
    return [];
  }
}

/** What a symbolic link says; undefined of anything else. @throws {EfError} IO */
export function linkText(path: ByteString): ByteString | undefined {
  try {
    return textOf(readlinkSync(osPath(path), linkEncoding));
  } catch (error) {
    unlessStorageFails(path, error);
    return undefined;
  }
}
