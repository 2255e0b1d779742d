/**
 * Bring the files of a job: on slow storage by many requests in flight from this thread, on a quick one by several
 * threads, each with a directory of its own at a time (two that make names in one directory wait for each other).
 */
import { span } from "../base/trace.ts";
import { bringRow, isBrought } from "./carry.ts";
import { type Failure, type Job, State } from "./carrying.ts";
import { type Copying, oneGo } from "./copy-file.ts";
import { crew } from "./crew.ts";
import type { Gauge } from "./gauge.ts";
import { inThread, threadCount } from "./threads.ts";
import type { TreeColumns } from "./tree.ts";

export interface FilesOptions {
  gauge: Gauge;
  signal: AbortSignal | undefined;
  /** Threads on quick storage; "auto" for as many as {@link threadCount} says. */
  workers: number | "auto";
}

/** Less is done before a thread has started (15 ms): files, and bytes. */
const worthFiles = 400;
const worthBytes = 128 << 20;

/** Places in the numbers that threads share. */
export const Shared = { nextDir: 0, stop: 1 } as const;

/** What a thread is started with. */
export interface ThreadInput {
  source: TreeColumns;
  target: TreeColumns;
  todo: Uint8Array;
  there: Uint32Array;
  state: Uint8Array;
  arrival: Uint8Array | undefined;
  /** Directories that have something to bring. */
  dirs: Uint32Array;
  /** {@link Shared}. */
  shared: Int32Array;
  /** For each thread two numbers: bytes and files that it has moved. */
  moved: Float64Array;
  thread: number;
  copying: Pick<
    Copying,
    "from" | "to" | "place" | "verify" | "xattrs" | "durable" | "exact" | "arrivalNs" | "umask" | "kernel"
  >;
}

/** What a thread says at its end. */
export interface ThreadOutput {
  failures: { path: string; message: string; code: string | undefined; at: string | undefined }[];
  warnings: [path: string, message: string][];
  /** What ended the whole. */
  fatal?: { message: string; code: string | undefined; path: string | undefined; row: string | undefined };
}

export async function bringFiles(
  job: Job,
  failures: Failure[],
  cx: Copying,
  { gauge, signal, workers }: FilesOptions,
): Promise<void> {
  const { files, bytes, dirs } = workOf(job);
  if (files === 0) return;
  const shared = new Int32Array(new SharedArrayBuffer(4 * 2));
  const isQuick = cx.source.isQuick && cx.target.isQuick && !cx.throttle;
  const isWorth = files >= worthFiles || (bytes >= worthBytes && files > 1);
  const threads = isQuick && isWorth && dirs.length > 1 ? Math.min(threadCount(workers), dirs.length) - 1 : 0;
  const moved = new Float64Array(new SharedArrayBuffer(16 * threads));
  const helpers = Array.from({ length: threads }, (_, i) => helper(job, dirs, shared, moved, i, cx));

  const counted = { bytes: 0, files: 0 };
  const count = () => {
    const all = { bytes: 0, files: 0 };
    moved.forEach((one, i) => {
      all[i % 2 === 0 ? "bytes" : "files"] += one;
    });
    cx.moved(all.bytes - counted.bytes, all.files - counted.files);
    Object.assign(counted, all);
  };
  const ticking = threads > 0 ? setInterval(count, 50) : undefined;
  const stop = () => Atomics.store(shared, Shared.stop, 1);
  signal?.addEventListener("abort", stop);
  try {
    const claim = () => Atomics.add(shared, Shared.nextDir, 1);
    const rows = threads > 0 ? inOrder(job, dirs, claim) : inTurn(job, dirs);
    const fail = (failure: Failure) => void failures.push(failure);
    const bring = (todo: Iterator<number, void>) =>
      crew(
        () => (shared[Shared.stop] ? undefined : (todo.next().value ?? undefined)),
        (row) => bringRow(cx, job, row, fail, signal),
        { gauge, signal },
      ).catch((error) => {
        stop();
        throw error;
      });
    const main = bring(rows);
    const ends = await span("files", () => Promise.allSettled([main, ...helpers]), { files, bytes, threads });
    for (const end of ends) if (end.status === "rejected") throw end.reason;
    for (const end of ends.slice(1) as PromiseFulfilledResult<ThreadOutput>[]) {
      for (const [path, message] of end.value.warnings) cx.warn(path, message);
      for (const { path, message, code, at } of end.value.failures)
        failures.push({ path, error: Object.assign(new Error(message), { code, path: at }) });
    }
    signal?.throwIfAborted();
    // What a thread had claimed that died.
    if (threads > 0) await bring(openRows(job, dirs));
  } finally {
    signal?.removeEventListener("abort", stop);
    clearInterval(ticking);
    if (threads > 0) count();
  }
}

function workOf({ source, todo, state }: Job) {
  let [files, bytes] = [0, 0];
  const dirs: number[] = [];
  for (let row = 1; row < source.length; row++) {
    if (!isBrought(todo[row]) || state[row] !== State.open) continue;
    files++;
    bytes += source.size[row] as number;
    const dir = source.parent[row] as number;
    if (dirs.at(-1) !== dir) dirs.push(dir);
  }
  const list = new Uint32Array(new SharedArrayBuffer(4 * dirs.length));
  list.set(dirs);
  return { files, bytes, dirs: list };
}

/** Rows to bring, by directories as they are claimed: where several threads claim. */
function* inOrder(job: Job, dirs: Uint32Array, claim: () => number): Generator<number, void> {
  for (let at = claim(); at < dirs.length; at = claim()) yield* rowsToBring(job, dirs[at] as number);
}

/** Directories that rows are taken from in turn. */
const dirsAtOnce = 64;

/**
 * Rows to bring with many requests in flight: what is large first, as what begins last ends last; then from many
 * directories in turn, as a client lets only one request at a time make or rename something in a directory (on a slow
 * target 20,000 files took 37 s in the order of their directories, and 6 s in turn).
 */
function* inTurn(job: Job, dirs: Uint32Array): Generator<number, void> {
  const { source } = job;
  const isLarge = (row: number) => (source.size[row] as number) > oneGo && source.kind(row) === "file";
  for (const dir of dirs) for (const row of rowsToBring(job, dir)) if (isLarge(row)) yield row;
  let next = 0;
  const open: Generator<number, void>[] = [];
  for (let turn = 0; ; turn++) {
    while (open.length < dirsAtOnce && next < dirs.length) open.push(rowsToBring(job, dirs[next++] as number));
    if (open.length === 0) return;
    const at = turn % open.length;
    const row = open[at]?.next().value;
    if (row === undefined) open.splice(at, 1);
    else if (!isLarge(row)) yield row;
  }
}

export function* rowsToBring({ source, todo, state }: Job, dir: number): Generator<number, void> {
  const [from, to] = source.children(dir);
  for (let row = from; row < to; row++) if (isBrought(todo[row]) && state[row] === State.open) yield row;
}

function* openRows(job: Job, dirs: Uint32Array): Generator<number, void> {
  for (const dir of dirs) yield* rowsToBring(job, dir);
}

/** Have a thread help; ends when there is no directory left to claim. One that dies leaves its work to others. */
async function helper(
  { source, target, todo, there, state, arrival }: Job,
  dirs: Uint32Array,
  shared: Int32Array,
  moved: Float64Array,
  thread: number,
  { from, to, place, verify, xattrs, durable, exact = false, arrivalNs, umask, kernel }: Copying,
): Promise<ThreadOutput> {
  const input: ThreadInput = {
    source: source.columns(),
    target: target.columns(),
    ...{ todo, there, state, arrival, dirs, shared, moved, thread },
    copying: { from, to, place, verify, xattrs, durable, exact, arrivalNs, umask, kernel },
  };
  const output = await inThread({ kind: "copy", input }).catch(() => ({ failures: [], warnings: [] }) as ThreadOutput);
  if (!output.fatal) return output;
  Atomics.store(shared, Shared.stop, 1);
  const { message, ...rest } = output.fatal;
  throw Object.assign(new Error(message), rest);
}
