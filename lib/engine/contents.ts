/**
 * Compare the contents of files byte by byte: both sides are read at the same time, in pieces of 1 MiB, with as many
 * requests in flight as the slower storage answers.
 */
import { constants } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Maybe, type Steps } from "../base/steps.ts";
import { crew } from "./crew.ts";
import type { Sides } from "./engine.ts";
import { Gauge } from "./gauge.ts";
import type { Storage } from "./storage.ts";
import type { Throttle } from "./throttle.ts";
import type { Tree } from "./tree.ts";

export interface ContentsOptions {
  signal?: AbortSignal | undefined;
  /** Wait until so many bytes may be read, on each side. */
  throttle?: Throttle | undefined;
  /** So many bytes and whole files more are compared, of those that {@link contentsToRead} counted. */
  onProgress: (bytes: number, files: number) => void;
  onDifferent: (path: ByteString) => void;
  /** It could not be compared, and why. */
  onProblem: (path: ByteString, side: "source" | "scratch", error: unknown) => void;
}

/** Files to be compared, by whatever names: as much as both have. */
export interface Pairs {
  source: Tree;
  target: Tree;
  /** By row of the source: the row of the target and 1, or 0. */
  alike: Uint32Array;
}

/** A piece of a file: large ones are read at several places at once. */
interface Piece {
  row: number;
  there: number;
  from: number;
  to: number;
}

const pieceBytes = 16 << 20;
const chunkBytes = 1 << 20;
/** Up to this size a buffer of its own is cheaper than one that is kept. */
const smallBytes = 1 << 16;

/** What {@link compareContents} will read on each side. */
export function contentsToRead(pairs: Pairs): { files: number; bytes: number } {
  const all = { files: 0, bytes: 0 };
  for (const { row, to } of pieces(pairs)) {
    const size = commonSize(pairs, row);
    if (to !== size) continue;
    all.files++;
    all.bytes += size;
  }
  return all;
}

/** What of a file both sides have, in bytes: all of it, where a caller has not paired files of other sizes. */
const commonSize = ({ source, target, alike }: Pairs, row: number): number =>
  Math.min(source.size[row] as number, target.size[(alike[row] as number) - 1] as number);

/** Files with several names once. */
function* pieces(pairs: Pairs): Generator<Piece, void> {
  const { source, target, alike } = pairs;
  const seen = new Set<string>();
  for (let row = 1; row < source.length; row++) {
    const there = (alike[row] as number) - 1;
    const size = there < 0 ? 0 : commonSize(pairs, row);
    if (size === 0) continue;
    if (source.inode[row] !== 0 && target.inode[there] !== 0) {
      const inodes = `${source.inode[row]} ${target.inode[there]}`;
      if (seen.has(inodes)) continue;
      seen.add(inodes);
    }
    for (let from = 0; from < size; from += pieceBytes)
      yield { row, there, from, to: Math.min(from + pieceBytes, size) };
  }
}

/** One of the two trees. */
interface Side {
  name: "source" | "scratch";
  storage: Storage;
  /** Its root, absolute. */
  root: ByteString;
  tree: Tree;
}

/** Why a file could not be compared. */
class Failed {
  constructor(
    readonly side: Side["name"],
    readonly error: unknown,
  ) {}
}

/**
 * @param from the root of the source, absolute
 * @param to that of the target
 * @throws the signal's reason
 */
export async function compareContents(
  pairs: Pairs,
  { from, to }: { from: ByteString; to: ByteString },
  sides: Sides,
  { signal, throttle, onProgress, onDifferent, onProblem }: ContentsOptions,
): Promise<void> {
  const source: Side = { name: "source", storage: sides.source, root: from, tree: pairs.source };
  const scratch: Side = { name: "scratch", storage: sides.target, root: to, tree: pairs.target };
  const work = pieces(pairs);
  /** Rows that are known to differ, or not to be comparable. */
  const settled = new Set<number>();
  const buffers: Buffer[] = [];
  const take = (length: number) =>
    length <= smallBytes ? Buffer.allocUnsafe(length) : (buffers.pop() ?? Buffer.allocUnsafeSlow(chunkBytes));

  function* compare(piece: Piece): Steps<void> {
    const { row } = piece;
    const path = pairs.source.path(row);
    const open: [Storage, number][] = [];
    let left = piece.to - piece.from;
    try {
      if (settled.has(row)) return;
      const one = yield* openAsSeen(source, row, open);
      const other = yield* openAsSeen(scratch, piece.there, open);
      for (let at = piece.from; at < piece.to && !settled.has(row); at += chunkBytes) {
        signal?.throwIfAborted();
        const length = Math.min(chunkBytes, piece.to - at);
        yield* get(throttle?.(length, signal));
        const [a, b] = [take(length), take(length)];
        const asked = [fill(source, one, a, length, at), fill(scratch, other, b, length, at)]; // both are on their way
        const ends: (number | Failed)[] = [];
        for (const answer of asked) ends.push(yield* get(answer));
        for (const buffer of [a, b]) if (length > smallBytes) buffers.push(buffer);
        for (const end of ends) if (end instanceof Failed) throw end;
        left -= length;
        onProgress(length, 0);
        if (ends.every((end) => end === length) && a.compare(b, 0, length, 0, length) === 0) continue;
        settled.add(row);
        onDifferent(path);
      }
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      if (!settled.has(row)) onProblem(path, error.side, error.error);
      settled.add(row);
    } finally {
      for (const [storage, fd] of open) yield* get(storage.close(fd));
      onProgress(left, piece.to === commonSize(pairs, row) ? 1 : 0);
    }
  }
  await crew(() => work.next().value ?? undefined, compare, { gauge: new Gauge(sides.workers), signal });
}

/** Open a file that is still what was looked at. @throws {Failed} */
function* openAsSeen({ name, storage, root, tree }: Side, row: number, open: [Storage, number][]): Steps<number> {
  try {
    const fd = yield* openUntouched(storage, `${root}/${tree.path(row)}`);
    open.push([storage, fd]);
    const stat = yield* get(storage.fstat(fd));
    if (stat.isFile() && Number(stat.size) === tree.size[row] && stat.mtimeNs === tree.mtime[row]) return fd;
  } catch (error) {
    throw new Failed(name, error);
  }
  throw new Failed(name, new Error("it changed while it was compared"));
}

/**
 * Without a new access time: where a site purges by that, a comparison must not put it off. Only the owner may do so
 * (open(2), O_NOATIME).
 */
function* openUntouched(storage: Storage, path: ByteString): Steps<number> {
  try {
    return yield* get(storage.open(path, constants.O_RDONLY | (constants.O_NOATIME ?? 0)));
  } catch (error) {
    if (errnoOf(error) !== "EPERM") throw error;
    return yield* get(storage.open(path, constants.O_RDONLY));
  }
}

/** Read until there are `length` bytes, or the file ends: how many. Never throws, so that two can be on their way. */
function fill(side: Side, fd: number, into: Uint8Array, length: number, position: number): Maybe<number | Failed> {
  const { name, storage } = side;
  const failed = (error: unknown) => new Failed(name, error);
  const more = async (got: number) => {
    let at = got;
    for (let last = got; last > 0 && at < length; at += last)
      last = await storage.read(fd, into, at, length - at, position + at);
    return at;
  };
  try {
    const got = storage.read(fd, into, 0, length, position);
    if (got === length || got === 0) return got;
    return (got instanceof Promise ? got.then(more) : more(got)).catch(failed);
  } catch (error) {
    return failed(error);
  }
}
