/**
 * Carry out what a {@link Diff} says, with many requests in flight on slow storage and several threads on a quick one.
 *
 * In this order, so that an interruption at any moment leaves whole files and no way back: what stands in the way is
 * removed, directories are made, files come, then the hard links to them, then what the source has no more is removed, and
 * the times of directories are set last, as all before changes them.
 */
import type { BigIntStats } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { oneMore } from "../base/memory.ts";
import { get, type Maybe, type Steps } from "../base/steps.ts";
import { assertBelow, lookBelow } from "./below.ts";
import { type Carrying, each, type Failure, fatal, type Job, State } from "./carrying.ts";
import { beside, type Copying, copySmall, giveName, type Outcome, oneGo, quietly } from "./copy-file.ts";
import { copyLarge } from "./copy-large.ts";
import { type Diff, Do, sameTime } from "./diff.ts";
import { finishDirectories, makeDirectories, openDirectories } from "./directories.ts";
import { tempName } from "./names.ts";
import { Flag } from "./tree.ts";

const stateOf: Record<Outcome, number> = {
  copied: State.done,
  changed: State.changed,
  vanished: State.vanished,
  taken: State.taken,
};

/** What bringing a small file leaves behind: names, statistics, steps. */
const garbageKb = 4;

/** Bring one row that is a file or a link. What fails is told to `fail`; only what ends the whole is thrown. */
export function* bringRow(
  cx: Copying,
  job: Job,
  row: number,
  fail: (failure: Failure) => void,
  signal: AbortSignal | undefined,
): Steps<void> {
  const { source, todo, state } = job;
  const path = source.path(row);
  oneMore(garbageKb);
  try {
    yield* get(cx.breathe());
    if (todo[row] === Do.chmod) {
      state[row] = State.done;
      yield* setPermissions(cx, path, source.permissions(row));
    } else if (todo[row] === Do.symlink) {
      state[row] = stateOf[yield* bringLink(cx, job, row, path)];
    } else {
      const item = itemOf(job, row, path);
      const one = job.arrival && !job.arrival[row] ? { ...cx, arrivalNs: undefined } : cx;
      const work = item.size <= oneGo ? copySmall(one, item) : copyLarge(one, item, signal);
      state[row] = stateOf[yield* work];
      if (state[row] === State.done) cx.moved(0, 1);
    }
  } catch (error) {
    if (isGoneFrom(cx.to, error)) return; // its directory was purged just now: the look after the copy finds that
    if (signal?.aborted || fatal.has(errnoOf(error) ?? "")) throw Object.assign(error as Error, { row: path });
    state[row] = State.failed;
    fail({ path, error });
  }
}

/** Is a directory of the target gone that was there? */
function isGoneFrom(target: ByteString, error: unknown): boolean {
  const { path } = error as NodeJS.ErrnoException;
  return errnoOf(error) === "ENOENT" && String(path).startsWith(`${Buffer.from(target, "latin1")}/`);
}

/** Those of a colleague's file, in a copy that a group shares, stay as they are. */
function* setPermissions(cx: Copying, path: ByteString, permissions: number): Steps<void> {
  try {
    const stat = yield* lookBelow(cx.target, cx.to, `${cx.to}/${path}`);
    if (stat?.isFile()) yield* get(cx.target.chmod(`${cx.to}/${path}`, permissions)); // which follows links
  } catch (error) {
    if (errnoOf(error) !== "EPERM") throw error;
    cx.warn(path, "its permissions differ, and it belongs to somebody else");
  }
}

function itemOf({ source, target, there }: Job, row: number, path: ByteString) {
  const here = (there[row] as number) - 1;
  const isFile = here >= 0 && target.kind(here) !== "gone" && target.kind(here) !== "dir";
  return {
    path,
    mode: source.mode[row] as number,
    size: source.size[row] as number,
    mtimeNs: source.mtime[row] as bigint,
    hasHoles: source.has(row, Flag.sparse),
    replaces: isFile ? { size: target.size[here] as number, mtimeNs: target.mtime[here] as bigint } : undefined,
  };
}

function* bringLink(cx: Copying, job: Job, row: number, path: ByteString): Steps<Outcome> {
  const { target } = cx;
  const temp = `${cx.to}/${beside(path, tempName())}`;
  const goal = `${cx.to}/${path}`;
  yield* get(target.symlink(job.source.links.get(row) ?? "", temp));
  try {
    yield* assertBelow(cx, undefined, temp.slice(cx.to.length + 1));
    yield* setTimesWherePossible(cx, temp, job.source.mtime[row] as bigint);
    if (yield* giveName(cx, temp, goal, itemOf(job, row, path).replaces)) return "copied";
    yield* get(target.unlink(temp));
    return "taken";
  } catch (error) {
    yield* quietly(() => target.unlink(temp));
    throw error;
  }
}

/** Times of a link are for the eye only: not every file system has them. */
function* setTimesWherePossible(cx: Copying, path: ByteString, mtimeNs: bigint): Steps<void> {
  try {
    yield* get(cx.target.setTimes(path, mtimeNs));
  } catch (error) {
    if (errnoOf(error) === "ENOENT") throw error;
  }
}

/** Is there something to bring in this row: not a directory, not a hard link? */
export const isBrought = (todo: number | undefined): boolean =>
  todo === Do.copy || todo === Do.replace || todo === Do.symlink || todo === Do.chmod;

const isIdle = (todo: number) => todo === Do.nothing || todo === Do.keep || todo === Do.skip;

export interface Carried {
  state: Uint8Array;
  failures: Failure[];
  /** Nothing had to be done. */
  isAsIs: boolean;
}

export async function carryOut(diff: Diff, cx: Copying, carrying: Carrying): Promise<Carried> {
  const { source, target, todo, there } = diff;
  const failures: Failure[] = [];
  const state = new Uint8Array(new SharedArrayBuffer(source.length));
  const job: Job = { source, target, todo, there, state, arrival: carrying.arrival };
  await openDirectories(diff, cx, carrying, failures);
  await removeRows(diff.clear, diff, cx, carrying, failures);
  await makeDirectories(job, cx, carrying, failures);
  await carrying.files(job, failures);
  await retryChanged(job, cx, carrying, failures);
  await makeHardLinks(diff, job, cx, carrying, failures);
  // Nothing is deleted where not everything came.
  if (failures.length === 0) await removeRows(diff.remove, diff, cx, carrying, failures);
  const finished = await (carrying.finish ?? finishDirectories)(diff, cx, carrying, failures);
  return { state, failures, isAsIs: finished === 0 && todo.every(isIdle) && diff.remove.length === 0 };
}

async function removeRows(rows: number[], { target }: Diff, cx: Copying, carrying: Carrying, failures: Failure[]) {
  if (rows.length === 0) return;
  const path = (row: number) => `${cx.to}/${target.path(row)}`;
  const isDir = (row: number) => target.kind(row) === "dir";
  const remove = (how: (path: ByteString) => Maybe<void>) =>
    function* (row: number): Steps<void> {
      try {
        if (yield* lookBelow(cx.target, cx.to, path(row))) yield* get(how(path(row)));
      } catch (error) {
        const code = errnoOf(error);
        // Gone already, or a job has put something into the directory: then it stays.
        if (code !== "ENOENT" && code !== "ENOTEMPTY" && code !== "EEXIST") throw error;
      }
    };
  function* unlink(row: number): Steps<void> {
    const stat = yield* get(cx.target.lookUp(path(row)));
    if (!stat) return;
    // Written to since we looked: a job's now, and kept.
    if (stat.isFile() && (target.kind(row) !== "file" || stat.mtimeNs !== target.mtime[row])) {
      cx.warn(target.path(row), "it changed on scratch while it was to be removed, and is kept");
      return;
    }
    yield* remove((at) => cx.target.unlink(at))(row);
  }
  const files = rows.filter((row) => !isDir(row));
  await each(files, unlink, (row) => target.path(row), carrying, failures);
  const rmdir = remove((at) => cx.target.rmdir(at));
  for (const row of rows.filter(isDir)) await each([row], rmdir, () => target.path(row), carrying, failures);
}

/** What changed under our hands is looked at again and brought once more. */
async function retryChanged(job: Job, cx: Copying, carrying: Carrying, failures: Failure[]): Promise<void> {
  const { source, state } = job;
  const rows = rowsIn(state, State.changed);
  if (rows.length === 0) return;
  job.anew = new Set(rows);
  const wary = { ...cx, within: cx.from };
  function* again(row: number): Steps<void> {
    const stat = yield* lookBelow(cx.source, cx.from, `${cx.from}/${source.path(row)}`);
    if (!stat) state[row] = State.vanished;
    if (!stat?.isFile()) return;
    source.set(row, { mode: Number(stat.mode), size: Number(stat.size), mtimeNs: stat.mtimeNs });
    if (Number(stat.blocks) * 512 < Number(stat.size)) source.flag(row, Flag.sparse);
    yield* bringRow(wary, job, row, (failure) => failures.push(failure), carrying.signal);
  }
  await each(rows, again, (row) => source.path(row), carrying, failures);
}

/** Rows in this state. */
export function rowsIn(state: Uint8Array, what: number): number[] {
  const rows: number[] = [];
  for (let row = state.indexOf(what); row >= 0; row = state.indexOf(what, row + 1)) rows.push(row);
  return rows;
}

/** The target has no hard links, or a file has too many. */
const noLink = new Set(["EPERM", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "EXDEV", "ENOSYS"]);

export async function makeHardLinks(
  diff: Pick<Diff, "source" | "leaders">,
  job: Job,
  cx: Copying,
  carrying: Pick<Carrying, "gauge" | "signal">,
  failures: Failure[],
) {
  const { source, leaders } = diff;
  const { state, todo } = job;
  const path = (row: number) => source.path(row);
  function* join(row: number): Steps<void> {
    const leader = leaders.get(row) as number;
    if (job.anew?.has(leader) && !(yield* isStillOne(cx, path(leader), path(row)))) return yield* alone(row);
    const stands = todo[leader] === Do.nothing || state[leader] === State.done;
    if (stands) {
      const temp = `${cx.to}/${beside(path(row), tempName())}`;
      try {
        yield* get(cx.target.link(`${cx.to}/${path(leader)}`, temp));
        yield* assertBelow(cx, undefined, temp.slice(cx.to.length + 1));
        if (isCopyOf(job, leader, yield* get(cx.target.lookUp(temp)), cx.arrivalNs)) {
          yield* replaceBy(cx, job, row, temp);
          return;
        }
        yield* get(cx.target.unlink(temp)); // a job has put something else there meanwhile
      } catch (error) {
        yield* quietly(() => cx.target.unlink(temp));
        if (isGoneFrom(cx.to, error)) return; // as above
        if (!noLink.has(errnoOf(error) ?? "")) throw error;
        cx.warn(path(row), "it cannot be a hard link there: copied");
      }
    }
    todo[row] = Do.copy;
    yield* bringRow(cx, job, row, (failure) => failures.push(failure), carrying.signal);
  }
  /** A name that is no longer one of the file that it is to be linked to. */
  function* alone(row: number): Steps<void> {
    const stat = yield* lookBelow(cx.source, cx.from, `${cx.from}/${path(row)}`);
    source.inode[row] = 0;
    todo[row] = Do.copy;
    state[row] = stat ? State.changed : State.vanished;
    if (!stat?.isFile()) return;
    source.set(row, { mode: Number(stat.mode), size: Number(stat.size), mtimeNs: stat.mtimeNs });
    yield* bringRow({ ...cx, within: cx.from }, job, row, (failure) => failures.push(failure), carrying.signal);
  }
  await each(leaders.keys(), join, path, carrying, failures);
}

/** Is what is on the target a row that was brought, or stood there? */
function isCopyOf(
  { source, target, there }: Job,
  row: number,
  stat: BigIntStats | undefined,
  arrivalNs?: bigint,
): boolean {
  if (!stat?.isFile() || Number(stat.size) !== source.size[row]) return false;
  const times = [source.mtime[row], arrivalNs, target.mtime[(there[row] as number) - 1]];
  return times.some((time) => time !== undefined && sameTime(time, stat.mtimeNs));
}

/** Are two names still names of one file? */
function* isStillOne(cx: Copying, one: ByteString, other: ByteString): Steps<boolean> {
  const a = yield* get(cx.source.lookUp(`${cx.from}/${one}`));
  const b = yield* get(cx.source.lookUp(`${cx.from}/${other}`));
  return a !== undefined && b !== undefined && a.ino === b.ino && a.dev === b.dev;
}

function* replaceBy(cx: Copying, job: Job, row: number, temp: ByteString): Steps<void> {
  const path = job.source.path(row);
  const done = yield* giveName(cx, temp, `${cx.to}/${path}`, itemOf(job, row, path).replaces);
  // rename(2) does nothing, and leaves both, where the two are the same file already.
  try {
    yield* get(cx.target.unlink(temp));
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
  }
  job.state[row] = done ? State.done : State.taken;
}
