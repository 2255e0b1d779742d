/** Is a path below a root what it says, or has a link taken the place of one of its directories since that was looked at? */
import { type BigIntStats, readlinkSync } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { linkEncoding, linkText } from "../base/runtimes.ts";
import { get, type Steps } from "../base/steps.ts";
import type { Copying } from "./copy-file.ts";
import type { Storage } from "./storage.ts";

/** What is at a path below a root now; undefined for nothing, also where a directory above it has become a link. */
export function* lookBelow(storage: Storage, root: ByteString, path: ByteString): Steps<BigIntStats | undefined> {
  // The look at the path itself comes last: it is often to say that what is removed next is what was seen.
  return (yield* isBelow(storage, root, path)) ? yield* get(storage.lookUp(path)) : undefined;
}

/** So many are remembered. */
const mostDirect = 1000;

/**
 * Is a file where the scan was to look, and not behind a link that took the place of a directory? Asked once for each directory: in
 * one that was found to be one, a link that comes later leads to files that are not as they were seen.
 */
export function* isDirect({ source, from, within, direct }: Copying, path: ByteString): Steps<boolean> {
  const dir = path.slice(0, path.lastIndexOf("/"));
  if (within === undefined && direct.has(dir)) return true;
  if (!(yield* isBelow(source, within ?? from, path))) return false;
  if (direct.size >= mostDirect) direct.clear();
  direct.add(dir);
  return true;
}

/** Is a path one of directories from a root on, and none of them a link? */
function* isBelow(storage: Storage, root: ByteString, path: ByteString): Steps<boolean> {
  for (let slash = path.indexOf("/", root.length + 1); slash > 0; slash = path.indexOf("/", slash + 1)) {
    const stat = yield* get(storage.lookUp(path.slice(0, slash)));
    if (!stat?.isDirectory()) return false;
  }
  return true;
}

/**
 * Make sure that a new file of the target is where it was to be: nothing is written behind a link that has taken the place of a
 * directory.
 *
 * @param fd that file, open: where it is, the kernel says without asking the storage; what it says may be written otherwise
 * @param path of it, relative to the root
 * @throws as if the directory were gone
 */
export function* assertBelow(cx: Copying, fd: number | undefined, path: ByteString): Steps<void> {
  if (fd !== undefined && placeOf(fd) === `${cx.place}/${path}`) return;
  const full = `${cx.to}/${path}`;
  if (yield* isBelow(cx.target, cx.root ?? cx.to, full)) return;
  const name = Buffer.from(full, "latin1").toString();
  throw Object.assign(new Error(`a directory of ${name} has become a link`), { code: "ENOENT", path: name });
}

/** Where an open file is; undefined where that cannot be known. */
function placeOf(fd: number): ByteString | undefined {
  try {
    return linkText(readlinkSync(`/proc/self/fd/${fd}`, linkEncoding));
  } catch {
    return undefined;
  }
}
