/** Read a copy, and send it to all nodes of a round. */
import { type ByteString, bytesOf } from "../base/bytes.ts";
import { EfError } from "../base/errors.ts";
import { sidesOf } from "../engine/builtin.ts";
import { settled } from "../engine/comparing.ts";
import { type Diff, diff } from "../engine/diff.ts";
import { Gauge } from "../engine/gauge.ts";
import { type Base, manifestOf } from "../engine/manifest.ts";
import { packTree, readError } from "../engine/pack.ts";
import { tally } from "../engine/tally.ts";
import type { Throttle } from "../engine/throttle.ts";
import { mostBytes } from "./frames.ts";
import type { Relay } from "./relay.ts";

export interface Sending {
  /** Absolute, a real path. */
  root: string;
  exclude: ((path: ByteString, isDirectory: boolean) => boolean) | undefined;
  /** What this is a copy of, where `root` is one itself; else what is found there. */
  base: Base | undefined;
  pass: Throttle | undefined;
  signal: AbortSignal;
  /** Contents that have been read, in bytes. */
  onProgress: (bytes: number, ofBytes: number) => void;
}

/** What the end says, so that every node knows that it has all. */
export interface Total {
  files: number;
  bytes: number;
}

/**
 * @returns what was sent
 * @throws {EfError} what cannot be read, or changed meanwhile; {@link NotWritten}; the signal's reason
 */
export async function send(sending: Sending, relay: Relay): Promise<Total & { skipped: number }> {
  const { root, exclude, base, pass, signal, onProgress } = sending;
  const storage = (await sidesOf("auto")).source;
  const known = base && within(base);
  const look = { storage, gauge: new Gauge(), signal, exclude: known ?? exclude };
  const found = await settled(bytesOf(root), look);
  const [first] = found.problems;
  if (first) throw readError(root, first.path, first.error, found.problems.length - 1);
  storage.useThreads(); // this one is busy with what has been read
  if (base) assertSame(root, diff(base.tree, found.tree, {}, { mirror: false, arrival: undefined, workSinceNs: 0n }));
  const { tree } = base ?? found;
  for (const piece of pieces(tableOf({ tree, scratch: tree.mtime.slice(0, tree.length) })))
    await relay.make("table", piece);
  const output = {
    async write(piece: Uint8Array) {
      await pass?.(piece.length, signal);
      await relay.make("data", Buffer.from(piece)); // a copy: its memory is filled again
    },
    finish: () => relay.settle(),
    stop: async () => {},
  };
  const packed = await packTree(output, root, found, storage, {
    exclude: look.exclude,
    onOutsideLink: () => "keep",
    signal,
    onProgress: ({ bytes, totalBytes }) => onProgress(bytes, totalBytes),
  });
  const total = { files: packed.files, bytes: packed.contentBytes };
  await relay.make("end", Buffer.from(JSON.stringify(total)));
  await relay.settle();
  return { ...total, skipped: packed.skipped.length };
}

/** @throws {EfError} where a copy is not what it was made as */
function assertSame(root: string, found: Diff): void {
  const { files, newInodes, links, symlinks, names, blocked, kept } = tally(found, false);
  if (files + newInodes + links + symlinks + blocked.length + kept.length === 0) return;
  const message = `Cannot hand on ${root}: ${names[0] ?? blocked[0] ?? kept[0]} was changed there`;
  throw new EfError("IO", message, { path: root });
}

/** Only what ef put there: not what a job made beside it. */
const within =
  ({ tree }: Base) =>
  (path: ByteString, isDirectory: boolean): boolean => {
    const row = tree.find(path);
    return row === undefined || (tree.kind(row) === "dir") !== isDirectory;
  };

const tableOf = (base: Base): Buffer => Buffer.concat(manifestOf({ entries: [], whole: false }, base).pieces);

function* pieces(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += mostBytes) yield bytes.subarray(at, at + mostBytes);
}
