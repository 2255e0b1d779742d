/**
 * Bring the files of a diff by several rsync processes, each with a list of names of its own.
 *
 * What rsync cannot do without a moment in which the name is gone (a symbolic link or a FIFO becomes a file), and what
 * moves no data (links, modes), ef does itself. Each file is looked at again at the source after its process has ended:
 * rsync takes the time of a file before it reads it, and does not notice what changes meanwhile.
 */

import { type ByteString, display } from "../base/bytes.ts";
import { EfError, errnoOf } from "../base/errors.ts";
import { lastLines } from "../base/exec.ts";
import { get, type Steps } from "../base/steps.ts";
import { span } from "../base/trace.ts";
import { plural } from "../base/units.ts";
import { processors } from "../drivers/limits.ts";
import {
  leastBytesPerS,
  listArgv,
  nameList,
  parseItem,
  parseProgress,
  type RsyncList,
  rsync,
  unescapeName,
} from "../drivers/rsync.ts";
import { lookBelow } from "./below.ts";
import type { BuiltinOptions } from "./builtin.ts";
import { bringRow, isBrought } from "./carry.ts";
import { type Failure, type Job, State } from "./carrying.ts";
import { type Copying, isAsSeen } from "./copy-file.ts";
import { crew } from "./crew.ts";
import { Do, sameTime } from "./diff.ts";
import type { Transfer } from "./engine.ts";
import { Gauge } from "./gauge.ts";
import { Flag } from "./tree.ts";

export interface RsyncOptions extends BuiltinOptions {
  /** Appended to each call, as the user gave them. */
  extraArgs: readonly string[];
}

export interface Lists extends RsyncOptions {
  transfer: Transfer;
  /** Can this rsync be made to set nanoseconds always? */
  nanoseconds: boolean;
  /** Do the user's arguments say what modes files get? */
  setsAttributes: boolean;
  signal: AbortSignal | undefined;
  /** Warnings. */
  said: string[];
}

/** What a file costs besides its contents, in bytes that could be copied meanwhile. */
const fileCost = 256 << 10;
/** From this size on a file goes to the process that has least to do; smaller ones stay with those of their directory. */
const largeFrom = 8 << 20;
/** Less is not worth a process: starting one takes some 30 ms, in which slow storage brings little, and a disk much. */
const worthSlow = 8 << 20;
const worthQuick = 128 << 20;
/** Processes at most. More than 16 gained nothing on slow storage, more than 4 nothing on a disk (scripts/bench). */
const mostSlow = 16;
const mostQuick = 4;

/** Files looked at to see whether rsync did anything. */
const samples = 8;

export async function bringByRsync(job: Job, failures: Failure[], cx: Copying, lists: Lists): Promise<void> {
  const { source, state } = job;
  const own: number[] = [];
  const listed: number[] = [];
  for (let row = 1; row < source.length; row++)
    if (isBrought(job.todo[row]) && state[row] === State.open) (isOwn(job, row, lists) ? own : listed).push(row);

  const rows = own.values();
  const gauge = new Gauge(lists.workers);
  const bring = (row: number) => bringRow(cx, job, row, (failure) => failures.push(failure), lists.signal);
  await crew(() => rows.next().value, bring, { gauge, signal: lists.signal });
  if (listed.length === 0) return;

  const weightOf = (row: number) => fileCost + (source.size[row] as number);
  const isSlow = !cx.source.isQuick || !cx.target.isQuick;
  const count = processes(listed, weightOf, isSlow, lists);
  const shards = shardsOf(listed, weightOf, count);
  const bytesPerS = lists.bytesPerS === undefined ? undefined : lists.bytesPerS / shards.length;
  await span(
    "files",
    () =>
      together(lists.signal, shards, (rows, signal) =>
        new Shard(job, failures, cx, { ...lists, bytesPerS, signal }).bring(rows),
      ),
    { files: listed.length, processes: shards.length },
  );
}

function isOwn({ source, target, todo, there }: Job, row: number, { setsAttributes, transfer }: Lists): boolean {
  if (source.kind(row) !== "file") return true;
  // By its time of arrival rsync would take it for another file.
  if (todo[row] === Do.chmod) return !setsAttributes || transfer.arrivalNs !== undefined;
  return todo[row] === Do.replace && target.kind((there[row] as number) - 1) !== "file";
}

function processes(rows: number[], weightOf: (row: number) => number, isSlow: boolean, lists: Lists): number {
  const { workers, bytesPerS, extraArgs } = lists;
  if (extraArgs.some((arg) => arg.startsWith("--bwlimit"))) return 1; // the user's limit is for all
  const most = isSlow ? mostSlow : Math.min(mostQuick, processors());
  const weight = rows.reduce((sum, row) => sum + weightOf(row), 0);
  const worth = Math.ceil(weight / (isSlow ? worthSlow : worthQuick));
  const slowest = bytesPerS === undefined ? worth : Math.floor(bytesPerS / leastBytesPerS);
  return Math.max(1, Math.min(workers === "auto" ? most : workers, worth, slowest, rows.length));
}

/**
 * Rows in `count` parts of about the same weight, none of them empty: the large ones each to the part that has least,
 * then the others in order, as two processes that make names in one directory wait for each other.
 */
export function shardsOf(rows: readonly number[], weightOf: (row: number) => number, count: number): number[][] {
  const shards = Array.from({ length: count }, () => ({ rows: [] as number[], weight: 0 }));
  const put = (shard: (typeof shards)[number], row: number) => {
    shard.rows.push(row);
    shard.weight += weightOf(row);
  };
  const isLarge = (row: number) => weightOf(row) >= largeFrom;
  const large = rows.filter(isLarge).sort((a, b) => weightOf(b) - weightOf(a));
  for (const row of large)
    put(
      shards.reduce((least, shard) => (shard.weight < least.weight ? shard : least)),
      row,
    );
  const share = rows.reduce((sum, row) => sum + weightOf(row), 0) / count;
  let at = 0;
  for (const row of rows) {
    if (isLarge(row)) continue;
    while (at < count - 1 && (shards[at] as { weight: number }).weight >= share) at++;
    put(shards[at] as (typeof shards)[number], row);
  }
  return shards.map((shard) => shard.rows).filter((shard) => shard.length > 0);
}

/** Work on all at once; when one fails the others are stopped, and its error is thrown when they have ended. */
async function together<T>(
  signal: AbortSignal | undefined,
  items: readonly T[],
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const failed = new AbortController();
  const either = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  await Promise.all(items.map((item) => work(item, either).catch((error) => failed.abort(error))));
  signal?.throwIfAborted();
  failed.signal.throwIfAborted();
}

/** The files of one process. */
class Shard {
  readonly #gauge: Gauge;

  constructor(
    readonly job: Job,
    readonly failures: Failure[],
    readonly cx: Copying,
    readonly lists: Lists,
  ) {
    this.#gauge = new Gauge(lists.workers);
  }

  async bring(rows: number[]): Promise<void> {
    const { todo, state } = this.job;
    const having = (...some: Do[]) => rows.filter((row) => some.includes(todo[row] as Do));
    const changed = [
      ...(await this.#run(having(Do.copy), "new")),
      ...(await this.#run(having(Do.replace), "over")),
      ...(await this.#run(having(Do.chmod), "differing")),
    ];
    const restless = new Set(await this.#run(changed, "over")); // found again by the comparison after the copy
    const isWhole = (row: number) => state[row] === State.done && !restless.has(row);
    if (this.lists.verify) await this.#verify(rows.filter(isWhole));
    for (const row of restless) state[row] = State.done;
  }

  /** @returns rows to be brought once more: they changed meanwhile */
  async #run(rows: number[], which: RsyncList["which"]): Promise<number[]> {
    if (rows.length === 0) return [];
    const { transfer, nanoseconds, bytesPerS, signal, said, extraArgs, xattrs } = this.lists;
    const { source } = this.job;
    const { target } = transfer;
    const argv = listArgv({
      ...{ source: transfer.source, target, which, bytesPerS, xattrs, extraArgs },
      nanoseconds: nanoseconds && which !== "differing",
      sparse: rows.some((row) => source.has(row, Flag.sparse)),
    });
    let ran: { code: number; stderr: string };
    try {
      const input = nameList(rows.map((row) => source.path(row)));
      ran = await rsync(argv, { path: target, signal, inheritFd: transfer.lockFd, input, onText: this.#progress() });
    } catch (error) {
      await this.#giveArrivalTimes(rows, undefined).catch(() => {}); // the first error is the one to tell
      throw error;
    }
    await this.#giveArrivalTimes(rows, signal);
    if (ran.code === 0 && ran.stderr.trim() !== "") said.push(`rsync says:${lastLines(ran.stderr)}`);
    return this.#judge(rows, ran);
  }

  /** Hears of progress, and hands on what is new in it. */
  #progress(): (text: string) => void {
    let before = "";
    const counted = { bytes: 0, files: 0 };
    return (text) => {
      before = (before + text).slice(-200);
      const now = parseProgress(before);
      if (!now) return;
      const files = now.files ?? counted.files;
      this.cx.moved(now.bytes - counted.bytes, files - counted.files);
      Object.assign(counted, { bytes: now.bytes, files });
    };
  }

  /** rsync cannot give a time that is not the source's. Files that are not a copy of the source's are a job's. */
  async #giveArrivalTimes(rows: readonly number[], signal: AbortSignal | undefined): Promise<void> {
    const { cx, job } = this;
    const { arrivalNs } = cx;
    if (arrivalNs === undefined) return;
    function* give(row: number): Steps<void> {
      const goal = `${cx.to}/${job.source.path(row)}`;
      try {
        if (isCopy(job, row, yield* get(cx.target.lstat(goal))))
          yield* get(cx.target.setTimes(goal, arrivalNs as bigint));
      } catch (error) {
        if (errnoOf(error) !== "ENOENT") throw error;
      }
    }
    await this.#each(
      rows.filter((row) => job.arrival?.[row]),
      give,
      signal,
    );
  }

  /** Find out what became of each row. @returns those that changed meanwhile */
  async #judge(rows: readonly number[], { code, stderr }: { code: number; stderr: string }): Promise<number[]> {
    const { cx, job, failures } = this;
    const { source, state } = job;
    const changed: number[] = [];
    const missing: number[] = [];
    function* look(row: number): Steps<void> {
      const path = source.path(row);
      try {
        const stat = yield* get(cx.source.lstat(`${cx.from}/${path}`));
        if (!stat.isFile()) {
          state[row] = State.changed;
        } else if (!isAsSeen(stat, { size: source.size[row] as number, mtimeNs: source.mtime[row] as bigint })) {
          state[row] = State.vanished;
          if (!(yield* lookBelow(cx.source, cx.from, `${cx.from}/${path}`))) return;
          state[row] = State.open;
          source.set(row, { mode: Number(stat.mode), size: Number(stat.size), mtimeNs: stat.mtimeNs });
          changed.push(row);
        } else if (code === 0 || (yield* isThere(row, path))) state[row] = State.done;
        else (code === 23 ? missing : changed).push(row);
      } catch (error) {
        state[row] = errnoOf(error) === "ENOENT" ? State.vanished : State.failed;
        if (state[row] === State.failed) failures.push({ path, error });
      }
    }
    function* isThere(row: number, path: ByteString): Steps<boolean> {
      try {
        const stat = yield* get(cx.target.lstat(`${cx.to}/${path}`));
        return isCopy(job, row, stat) || (job.arrival?.[row] === 1 && stat.mtimeNs === cx.arrivalNs);
      } catch (error) {
        if (errnoOf(error) === "ENOENT") return false;
        throw error;
      }
    }
    await this.#each(rows, look, this.lists.signal);
    if (code === 24 && !rows.some((row) => state[row] === State.vanished)) {
      const lines = stderr.split("\n").filter((line) => line.startsWith("file has vanished"));
      const what = plural(lines.length, "file");
      this.lists.said.push(`${what} vanished at the source while it was copied${lastLines(lines.join("\n"))}`);
    }
    if (code === 0 && rows.length > changed.length) await this.#believe(rows);
    // Of names that it was given, rsync takes the lack of one for more than a file that vanished (24).
    if (code === 23 && (missing.length > 0 || !saysOnly(stderr, /failed: No such file or directory \(2\)$/))) {
      const [first, ...others] = missing;
      const path = first === undefined ? "." : source.path(first);
      failures.push({ path, error: new Error(`rsync exit 23${lastLines(stderr)}`) });
      for (const row of others) failures.push({ path: source.path(row), error: new Error("rsync could not copy it") });
      for (const row of missing) state[row] = State.failed;
    }
    return changed;
  }

  /** An rsync that did nothing and says that all is well is found out by a few of its files. */
  async #believe(rows: readonly number[]): Promise<void> {
    const { cx, job, lists } = this;
    const { source, target } = lists.transfer;
    const step = Math.ceil(rows.length / samples);
    for (const [i, row] of rows.entries()) {
      if (i % step !== 0) continue;
      try {
        await cx.target.lstat(`${cx.to}/${job.source.path(row)}`);
        return;
      } catch (error) {
        if (errnoOf(error) !== "ENOENT") throw error;
      }
    }
    const why = "rsync ended well, and the files are not there";
    throw new EfError("TRANSFER_PARTIAL", `Cannot copy ${source} to ${target}: ${why}`, {
      hint: "does rsync_extra_args keep it from copying, or does something delete on scratch?",
      path: target,
    });
  }

  /** Have rsync compare contents: it may find no file to be copied. */
  async #verify(rows: readonly number[]): Promise<void> {
    if (rows.length === 0) return;
    const { transfer, extraArgs, signal } = this.lists;
    const { source, target } = transfer;
    const differing: ByteString[] = [];
    const lines = lineReader((line) => {
      const item = parseItem(line);
      if (item?.action === "copy") differing.push(unescapeName(item.name).toString("latin1"));
    });
    const { code, stderr } = await rsync(
      listArgv({ source, target, which: "differing", extraArgs, checksum: true, dryRun: true }),
      { path: target, signal, input: nameList(rows.map((row) => this.job.source.path(row))), onText: lines.push },
    );
    lines.end();
    const error = new Error("its contents on scratch are not those of the source (verified by rsync --checksum)");
    for (const path of differing) this.failures.push({ path, error });
    if (code !== 0) this.lists.said.push(`${display(target)}: not all could be verified:${lastLines(stderr)}`);
  }

  #each(rows: readonly number[], work: (row: number) => Steps<void>, signal: AbortSignal | undefined): Promise<void> {
    const all = rows.values();
    return crew(() => all.next().value, work, { gauge: this.#gauge, signal });
  }
}

/** Are all that rsync complained of lines like this? */
export function saysOnly(stderr: string, pattern: RegExp): boolean {
  const lines = stderr.split("\n").filter((line) => line !== "" && !line.startsWith("rsync error:"));
  return lines.length > 0 && lines.every((line) => pattern.test(line) || line.startsWith("file has vanished"));
}

/** Is it what rsync makes of this row? */
function isCopy({ source }: Job, row: number, stat: { isFile(): boolean; size: bigint; mtimeNs: bigint }): boolean {
  return stat.isFile() && Number(stat.size) === source.size[row] && sameTime(source.mtime[row] as bigint, stat.mtimeNs);
}

/** Cuts pieces of output into lines. */
export function lineReader(read: (line: string) => void) {
  let rest = "";
  return {
    push(text: string) {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) read(line);
    },
    end() {
      if (rest) read(rest);
    },
  };
}
