/**
 * Bring one large file: shared blocks where the file system can, else copied by the kernel, else in ranges of which many
 * are in flight, as one stream over a network waits for each answer. Holes stay holes.
 *
 * What was done of it is written behind the end of the temporary file, so that an interrupted copy goes on where it
 * stopped, if the source is still the same.
 */
import { type BigIntStats, constants } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { crc32 } from "../base/crc.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Steps } from "../base/steps.ts";
import { bootId } from "../drivers/boot.ts";
import {
  beside,
  type Copying,
  type Item,
  isAsSeen,
  type Outcome,
  openSource,
  type Part,
  publish,
  readAll,
  readBack,
  writeAll,
} from "./copy-file.ts";
import { crew } from "./crew.ts";
import { Gauge } from "./gauge.ts";
import { partName, tempName } from "./names.ts";
import type { Storage } from "./storage.ts";

/** What one request moves, in bytes: large enough for a disk, small enough to have many in flight. */
const rangeBytes = 1 << 20;
/** Ranges of one file in flight. */
const rangesAtOnce = 16;
/** What the kernel is asked to copy at once: some ten milliseconds of a local disk. */
const kernelBytes = 32 << 20;
/** From this size on, in bytes, the beginning of an interrupted copy is worth keeping. */
const keepFrom = 32 << 20;
/** How often a copy says how far it is, in bytes; and how often it has the disk hold that, in milliseconds. */
const noteEvery = 32 << 20;
const flushEveryMs = 5000;
/** Reasons not to copy in the kernel, here and for the rest of the run (copy_file_range(2)). */
const noKernel = new Set(["EXDEV", "EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EPERM", "EBADF", "EIO"]);

export function* copyLarge(cx: Copying, item: Item, signal: AbortSignal | undefined): Steps<Outcome> {
  const opened = yield* openSource(cx, item);
  if (typeof opened === "string") return opened;
  let isChanged = false;
  try {
    const part = isResumable(item)
      ? {
          ...(yield* beginningOf(cx, item)),
          keep: (error: unknown) => !isChanged && !isFull(error) && errnoOf(error) !== "ENOENT",
        }
      : undefined;
    return yield* publish(
      cx,
      item,
      function* (fd) {
        const done = part?.isThere ? yield* resume(cx, fd, item) : 0;
        yield* fill(cx, item, opened, fd, done, signal);
        const stat = yield* get(cx.source.fstat(opened));
        if (isAsSeen(stat, item)) return;
        isChanged = true;
        throw new ChangedMeanwhile();
      },
      part,
    );
  } catch (error) {
    if (error instanceof ChangedMeanwhile) return "changed";
    throw error;
  } finally {
    yield* get(cx.source.close(opened));
  }
}

/**
 * Take what an earlier run wrote of this file, if there is something: by a rename to a name of our own, which of several
 * runs only one can do.
 */
function* beginningOf(cx: Copying, item: Item): Steps<Omit<Part, "keep">> {
  const store = beside(item.path, partNameOf(item));
  const temp = beside(item.path, tempName());
  try {
    yield* get(cx.target.rename(`${cx.to}/${store}`, `${cx.to}/${temp}`));
    return { store, temp, isThere: true };
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
    return { store, temp, isThere: false };
  }
}

/** Is the beginning of such a file kept when its copy is interrupted? */
export const isResumable = ({ size, hasHoles }: Pick<Item, "size" | "hasHoles">): boolean =>
  size >= keepFrom && !hasHoles;

class ChangedMeanwhile extends Error {}

/** No room: what was written is better given back. */
const isFull = (error: unknown) => ["ENOSPC", "EDQUOT", "EFBIG"].includes(errnoOf(error) ?? "");

/** Put the contents from `done` on into an open file. */
function* fill(cx: Copying, item: Item, from: number, to: number, done: number, signal: AbortSignal | undefined) {
  cx.moved(done);
  const note = isResumable(item) ? new Progress(cx, to, item, done) : undefined;
  if (cx.kernel && !cx.verify && !cx.throttle && (yield* byKernel(cx, item, from, to, done, note))) return;
  const segments = item.hasHoles ? dataSegments(cx, from, item.size) : [[done, item.size] as const];
  const ranges = cut(segments);
  const work = (range: Range) => copyRange(cx, item, from, to, range, note);
  const next = () => ranges.next().value ?? undefined;
  try {
    yield crew(next, work, { gauge: new Gauge(rangesAtOnce), signal });
  } catch (error) {
    yield* get(note?.write(true));
    throw error;
  }
  yield* get(cx.target.truncate(to, item.size)); // a hole at the end; the note of how far it was
}

type Range = readonly [from: number, to: number];

function* cut(segments: Iterable<Range>): Generator<Range, void> {
  for (const [start, end] of segments)
    for (let at = start; at < end; at += rangeBytes) yield [at, Math.min(at + rangeBytes, end)];
}

/** Buffers that are not in use: a new one of this size costs more than filling it. */
const buffers: Buffer[] = [];

function* copyRange(cx: Copying, item: Item, from: number, to: number, [start, end]: Range, note?: Progress) {
  const buffer = buffers.pop() ?? Buffer.allocUnsafeSlow(rangeBytes + 1);
  try {
    yield* get(cx.throttle?.(end - start));
    yield* get(cx.breathe());
    const length = yield* readAll(cx.source, from, buffer.subarray(0, end - start + 1), start);
    if (length < end - start) throw new ChangedMeanwhile();
    const bytes = end - start;
    if (item.hasHoles && !cx.libc && isZero(buffer, bytes)) return cx.moved(bytes);
    yield* writeAll(cx.target, to, buffer, bytes, start);
    if (cx.verify) yield* readBack(cx, item, to, buffer, bytes, start);
    cx.moved(bytes);
    if (note) yield* get(note.finished(start, end));
  } finally {
    buffers.push(buffer);
  }
}

const zeros = Buffer.alloc(1 << 16);

function isZero(bytes: Buffer, length: number): boolean {
  for (let at = 0; at < length; at += zeros.length) {
    const to = Math.min(at + zeros.length, length);
    if (bytes.compare(zeros, 0, to - at, at, to) !== 0) return false;
  }
  return true;
}

/** Where a file has data (lseek(2), SEEK_DATA and SEEK_HOLE); all of it where that cannot be told. */
function* dataSegments({ libc }: Copying, fd: number, size: number): Generator<Range, void> {
  for (let at = 0; at < size; ) {
    let start: number | undefined = at;
    let end: number | undefined = size;
    try {
      start = libc ? libc.nextData(fd, at) : at;
      if (start === undefined) return;
      end = libc?.nextHole(fd, start) ?? size;
    } catch {
      [start, end] = [at, size];
    }
    yield [start, Math.min(end, size)];
    at = end;
  }
}

/** @returns false where the kernel cannot, and nothing was written */
function* byKernel(cx: Copying, item: Item, from: number, to: number, done: number, note?: Progress): Steps<boolean> {
  const { libc } = cx;
  if (!libc) return false;
  let at = done;
  let hasCopied = false;
  try {
    if (done === 0 && libc.reflink(from, to)) {
      cx.moved(item.size);
      return true;
    }
    for (const [start, end] of item.hasHoles ? dataSegments(cx, from, item.size) : [[done, item.size] as const]) {
      for (at = start; at < end; ) {
        const copied = libc.copyRange(from, at, to, at, Math.min(kernelBytes, end - at));
        if (copied === 0) {
          if (hasCopied) throw new ChangedMeanwhile();
          cx.kernel = false;
          return false;
        }
        hasCopied = true;
        at += copied;
        cx.moved(copied);
        if (note) yield* get(note.finished(at - copied, at));
        yield* get(cx.breathe());
      }
    }
    if (item.hasHoles || note) yield* get(cx.target.truncate(to, item.size));
    return true;
  } catch (error) {
    if (hasCopied) yield* get(note?.write(true));
    if (hasCopied || !noKernel.has(errnoOf(error) ?? "")) throw error;
    cx.kernel = false;
    return false;
  }
}

/** The name of the beginning of this file: another source, another name. */
export function partNameOf({ path, size, mtimeNs, mode }: Omit<Item, "hasHoles" | "replaces">): ByteString {
  const hex = (text: string) => crc32(Buffer.from(text, "latin1")).toString(16).padStart(8, "0");
  return partName(hex(path) + hex(`${size} ${mtimeNs} ${mode} ${path}`));
}

/** How far a copy is: everything before `done` is written, and on the disk if `flushed`. */
interface Note {
  /** The name under which it is kept. */
  name: string;
  done: number;
  flushed: boolean;
  /** What is only in the memory of a node is lost when that starts anew. */
  boot: string;
  size: number;
}

const noteBytes = 512;

/** Under which name a killed run's beginning of a large file is to be kept; undefined if it is none. */
export function* nameOfBeginning(storage: Storage, path: ByteString): Steps<string | undefined> {
  const fd = yield* get(storage.open(path, constants.O_RDONLY));
  try {
    const size = Number((yield* get(storage.fstat(fd))).size) - noteBytes;
    if (size < keepFrom) return undefined;
    const bytes = Buffer.alloc(noteBytes);
    yield* get(storage.read(fd, bytes, 0, noteBytes, size));
    const note = JSON.parse(bytes.toString()) as Note;
    return note.size === size ? note.name : undefined;
  } catch {
    return undefined; // no note: it was not far, or is something else
  } finally {
    yield* get(storage.close(fd));
  }
}

class Progress {
  readonly #cx: Copying;
  readonly #fd: number;
  readonly #item: Item;
  /** All before it is written; ranges behind it that are finished too. */
  #done: number;
  readonly #ahead = new Map<number, number>();
  #noted: number;
  #flushedAt = performance.now();
  #writing = false;

  constructor(cx: Copying, fd: number, item: Item, done: number) {
    this.#cx = cx;
    this.#fd = fd;
    this.#item = item;
    this.#done = done;
    this.#noted = done;
  }

  finished(start: number, end: number): Promise<void> | undefined {
    this.#ahead.set(start, end);
    for (let to = this.#ahead.get(this.#done); to !== undefined; to = this.#ahead.get(this.#done)) {
      this.#ahead.delete(this.#done);
      this.#done = to;
    }
    if (this.#done - this.#noted < noteEvery || this.#writing) return undefined;
    return this.write(performance.now() - this.#flushedAt > flushEveryMs);
  }

  async write(flush: boolean): Promise<void> {
    this.#writing = true;
    try {
      const done = this.#done;
      if (flush) {
        await this.#cx.target.sync(this.#fd);
        this.#flushedAt = performance.now();
      }
      const { size } = this.#item;
      const note: Note = { name: partNameOf(this.#item), done, flushed: flush, boot: bootId(), size };
      const bytes = Buffer.from(JSON.stringify(note).padEnd(noteBytes));
      await this.#cx.target.write(this.#fd, bytes, 0, noteBytes, size);
      this.#noted = done;
    } catch {
      // a note that cannot be written costs a later run some time, and this one nothing
    } finally {
      this.#writing = false;
    }
  }
}

/** @returns how much of the file an earlier run has written */
function* resume(cx: Copying, fd: number, item: Item): Steps<number> {
  const { size } = item;
  const stat: BigIntStats = yield* get(cx.target.fstat(fd));
  const isOurs = Number(stat.uid) === process.geteuid?.() && stat.nlink === 1n && stat.isFile();
  if (!isOurs) throw Object.assign(new Error("its temporary file belongs to somebody else"), { code: "EEXIST" });
  if (Number(stat.size) !== size + noteBytes) {
    yield* get(cx.target.truncate(fd, 0));
    return 0;
  }
  const bytes = Buffer.alloc(noteBytes);
  yield* get(cx.target.read(fd, bytes, 0, noteBytes, size));
  try {
    const note = JSON.parse(bytes.toString()) as Note;
    const same = note.name === partNameOf(item) && note.size === size && note.done >= 0 && note.done <= size;
    if (same && (note.flushed || (note.boot !== "" && note.boot === bootId()))) return note.done;
  } catch {
    // not a note: begin anew
  }
  yield* get(cx.target.truncate(fd, 0));
  return 0;
}
