/**
 * Bring one file: read it, write it under a temporary name in the directory where it goes, give it its mode and times,
 * look once more at both sides, rename. Whoever looks at the name sees the old or the new whole file at every moment.
 */
import { type BigIntStats, constants } from "node:fs";
import { type ByteString, osPath } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Maybe, type Steps } from "../base/steps.ts";
import type { Libc } from "../drivers/libc.ts";
import { assertBelow, isDirect } from "./below.ts";
import { tempName } from "./names.ts";
import type { Storage } from "./storage.ts";
import type { Facts } from "./tree.ts";

/** Two roots and how files go from one to the other. */
export interface Copying {
  source: Storage;
  target: Storage;
  /** Absolute, without a slash at the end. */
  from: ByteString;
  to: ByteString;
  /** `to` without links. */
  place: ByteString;
  /** The root of the target, where that is not `to`. */
  root?: ByteString;
  libc: Libc | undefined;
  /** Read back what was written, and compare. */
  verify: boolean;
  /** Extended attributes too, ACLs among them. */
  xattrs: boolean;
  /** fsync(2) each file before it gets its name. */
  durable: boolean;
  /** Replace only what is still as it was when the target was looked at: nothing that went or became a link since. */
  exact?: boolean;
  /** The modification time of what is brought, in nanoseconds; undefined for the source's. */
  arrivalNs: bigint | undefined;
  /**
   * A file that was seen to change is opened only where no directory between it and this one is a link now: the name may be that of
   * another file, elsewhere.
   */
  within?: ByteString;
  /** Directories of the source that were found to be such when a file of theirs was open. */
  direct: Set<ByteString>;
  /** Bits that open(2) takes from the mode. */
  umask: number;
  /** May the kernel copy from one to the other (same file system)? Set to false when it turns out that it cannot. */
  kernel: boolean;
  /** Wait until so many bytes may move. */
  throttle: ((bytes: number) => Maybe<void>) | undefined;
  /** So many bytes, and whole files, more are there. */
  moved(bytes: number, files?: number): void;
  /** A moment for the event loop, where the thread was held for long. @throws the reason of an abort */
  breathe(): Maybe<void>;
  /** Something to know that is no failure. */
  warn(path: ByteString, message: string): void;
}

/** A file to be brought. */
export interface Item extends Facts {
  /** Relative to both roots. */
  path: ByteString;
  /** Where it is at the source, if not there. */
  from?: ByteString;
  hasHoles: boolean;
  /** What was there when the target was looked at; undefined for nothing. */
  replaces: Pick<Facts, "size" | "mtimeNs"> | undefined;
}

/**
 * How it ended. `changed`: the source is not what it was when it was looked at. `taken`: somebody else put something in
 * its place on the target meanwhile.
 */
export type Outcome = "copied" | "changed" | "vanished" | "taken";

/** Files up to this size, in bytes, are read and written in one go. */
export const oneGo = 1 << 20;

export function* copySmall(cx: Copying, item: Item): Steps<Outcome> {
  const opened = yield* openSource(cx, item);
  if (typeof opened === "string") return opened;
  const whole = takeBuffer(item.size + 1);
  try {
    const bytes = whole.subarray(0, item.size + 1); // one more: a file that grew is noticed
    let length: number;
    try {
      yield* get(cx.throttle?.(item.size));
      length = yield* readAll(cx.source, opened, bytes, 0);
    } finally {
      yield* get(cx.source.close(opened));
    }
    if (length !== item.size) return "changed";
    return yield* publish(cx, item, function* (fd) {
      if (item.hasHoles) yield* writeWithHoles(cx.target, fd, bytes, length);
      else yield* writeAll(cx.target, fd, bytes, length, 0);
      if (cx.verify) yield* readBack(cx, item, fd, bytes, length, 0);
      cx.moved(length);
    });
  } finally {
    if (whole.length === pooledBytes) pool.push(whole);
  }
}

/** Most small files fit into one of these, which are used again: new memory costs more than it takes to fill. */
const pooledBytes = 64 << 10;
const pool: Buffer[] = [];

const takeBuffer = (bytes: number) =>
  bytes > pooledBytes ? Buffer.allocUnsafeSlow(bytes) : (pool.pop() ?? Buffer.allocUnsafeSlow(pooledBytes));

/** Open a file of the source and make sure that it is the one that was looked at. */
export function* openSource(cx: Copying, item: Item): Steps<number | Outcome> {
  const path = `${cx.from}/${item.from ?? item.path}`;
  let fd: number;
  try {
    fd = yield* get(cx.source.open(path, constants.O_RDONLY));
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ENOENT") return "vanished";
    if (code === "ELOOP" || code === "ENXIO") return "changed"; // a link, or a FIFO or socket
    throw error;
  }
  try {
    const isSeen = isAsSeen(yield* get(cx.source.fstat(fd)), item);
    if (isSeen && (yield* isDirect(cx, path))) return fd;
  } catch (error) {
    yield* get(cx.source.close(fd));
    throw error;
  }
  yield* get(cx.source.close(fd));
  return "changed";
}

/** Is it still what it was when it was looked at? */
export function isAsSeen(stat: BigIntStats, { size, mtimeNs }: Pick<Facts, "size" | "mtimeNs">): boolean {
  return stat.isFile() && Number(stat.size) === size && stat.mtimeNs === mtimeNs;
}

/** The beginning of a large file, kept when its copy is interrupted. All paths are relative to the root. */
export interface Part {
  /** Where it is written: nobody else knows this name. */
  temp: ByteString;
  /** Does it hold the beginning that an earlier run made? */
  isThere: boolean;
  /** Where the next run finds it. */
  store: ByteString;
  /** Is it worth keeping after this error? */
  keep: (error: unknown) => boolean;
}

/**
 * Write a file and give it its name.
 *
 * @param write puts the contents into the open temporary file
 * @param temp its name, relative to the root; by default one of its own, removed when anything fails
 */
export function* publish(cx: Copying, item: Item, write: (fd: number) => Steps<void>, part?: Part): Steps<Outcome> {
  const { target } = cx;
  const goal = `${cx.to}/${item.path}`;
  const temp = `${cx.to}/${part?.temp ?? beside(item.path, tempName())}`;
  const flags = constants.O_RDWR | (part?.isThere ? 0 : constants.O_CREAT | constants.O_EXCL);
  const permissions = item.mode & 0o7777;
  // Readable by nobody else until it is whole, if the source is so; writable by us until it is closed.
  let fd: number | undefined = yield* get(target.open(temp, flags, part ? 0o600 : permissions & 0o777));
  try {
    yield* assertBelow(cx, fd, part?.temp ?? temp.slice(cx.to.length + 1));
    yield* write(fd);
    if (cx.xattrs) copyAttributes(cx, item.from ?? item.path, fd); // before the mode, which an ACL changes
    if (part || cx.xattrs || (permissions & (0o7000 | cx.umask)) !== 0) yield* get(target.fchmod(fd, permissions));
    yield* get(target.setTimesOf(fd, cx.arrivalNs ?? item.mtimeNs));
    if (cx.durable) yield* get(target.sync(fd));
    const closing: number = fd;
    fd = undefined;
    yield* get(target.close(closing)); // NFS and Lustre may say here that there was no room
    if (yield* giveName(cx, temp, goal, item.replaces)) return "copied";
    yield* get(target.unlink(temp));
    return "taken";
  } catch (error) {
    const open = fd;
    if (open !== undefined) yield* quietly(() => target.close(open));
    const store = part?.keep(error) ? `${cx.to}/${part.store}` : undefined;
    yield* quietly(() => (store ? target.rename(temp, store) : target.unlink(temp)));
    throw error;
  }
}

/** A name in the directory of `path`. */
export function beside(path: ByteString, name: ByteString): ByteString {
  return path.slice(0, path.lastIndexOf("/") + 1) + name;
}

/**
 * Rename a finished file, unless there is something else than when we looked: nobody's new file is overwritten.
 *
 * @returns false if so
 */
export function* giveName(cx: Copying, temp: ByteString, goal: ByteString, replaces: Item["replaces"]): Steps<boolean> {
  if (!replaces) return yield* cx.target.renameNew(temp, goal);
  const stat = yield* get(cx.target.lookUp(goal));
  const differs = stat && (Number(stat.size) !== replaces.size || stat.mtimeNs !== replaces.mtimeNs);
  if (cx.exact ? differs !== false : differs && stat.isFile()) return false;
  yield* get(cx.target.rename(temp, goal));
  return true;
}

/** Do something to tidy up, where an error is being told already. */
export function* quietly(ask: () => Maybe<void>): Steps<void> {
  try {
    yield* get(ask());
  } catch {
    // the error that led here is the one to tell
  }
}

/** Read until `into` is full or the file ends. @returns how much */
export function* readAll(storage: Storage, fd: number, into: Uint8Array, position: number): Steps<number> {
  let at = 0;
  while (at < into.length) {
    const got = yield* get(storage.read(fd, into, at, into.length - at, position + at));
    at += got;
    // A regular file answers short only at its end; asking again would be a request for nothing.
    if (got === 0 || at === into.length - 1) break;
  }
  return at;
}

export function* writeAll(storage: Storage, fd: number, from: Uint8Array, length: number, position: number) {
  for (let at = 0; at < length; ) at += yield* get(storage.write(fd, from, at, length - at, position + at));
}

/** What file systems hand out at least, in bytes. */
const blockBytes = 4096;
const zeros = Buffer.alloc(blockBytes);

/** Write what is not zero, in whole blocks. */
function* writeWithHoles(storage: Storage, fd: number, from: Buffer, length: number): Steps<void> {
  for (let at = 0; at < length; at += blockBytes) {
    const to = Math.min(at + blockBytes, length);
    if (from.compare(zeros, 0, to - at, at, to) === 0) continue;
    yield* writeAll(storage, fd, from.subarray(at), to - at, at);
  }
  yield* get(storage.truncate(fd, length));
}

/** Compare what is on the storage with what was written. */
export function* readBack(
  cx: Copying,
  item: Item,
  fd: number,
  written: Uint8Array,
  length: number,
  position: number,
): Steps<void> {
  const found = Buffer.allocUnsafe(length);
  let at = 0;
  while (at < length) {
    const got = yield* get(cx.target.read(fd, found, at, length - at, position + at));
    if (got === 0) break;
    at += got;
  }
  if (at === length && found.equals(written.subarray(0, length))) return;
  const error = new Error(`what was written is not what is read back, from byte ${position} on`);
  throw Object.assign(error, { path: `${cx.to}/${item.path}` });
}

/** Give the attributes of a file or directory of the source to its copy. */
export function copyAttributes(cx: Copying, path: ByteString, to: number | ByteString): void {
  const at = typeof to === "number" ? to : osPath(to);
  for (const { name, code } of cx.libc?.copyXattrs(osPath(`${cx.from}/${path}`), at) ?? [])
    cx.warn(path, `its attribute ${name} cannot be set there (${code})`);
}
