/**
 * Carry out a {@link PushPlan}.
 *
 * Directories are made, files come under temporary names and are synced to the disk, then they get their names, each after
 * one more look at what it replaces: what changed meanwhile is decided anew. Then modes and hard links, the scratch versions
 * of conflicts, the deletions (if all went well), the times of new directories. What was pushed is looked at once more.
 */
import { type BigIntStats, constants } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Steps } from "../base/steps.ts";
import { span } from "../base/trace.ts";
import { assertBelow, lookBelow } from "./below.ts";
import { isBrought, makeHardLinks } from "./carry.ts";
import { type DirectoryRules, each, type Failure, type Job, State } from "./carrying.ts";
import { type Copying, copyAttributes } from "./copy-file.ts";
import { directoryMode, makeDirectories } from "./directories.ts";
import { bringFiles } from "./files.ts";
import { removeTemps } from "./leftovers.ts";
import { type Stamp, storeConflicts } from "./push-conflict.ts";
import { isSameTime, Push, setIds } from "./push-decide.ts";
import { type Moving, pushAgain } from "./push-look.ts";
import type { PushPlan } from "./push-plan.ts";
import type { Tree } from "./tree.ts";

export interface Pushing extends Moving {
  workers: number | "auto";
  /** What new directories take from the source's root. */
  directories: DirectoryRules;
  /** Temporary files of earlier runs at the source. */
  temps: readonly ByteString[];
  stamp: Stamp;
  /** May anything be deleted: was everything readable? */
  deletes: boolean;
}

export interface Pushed {
  /** By row of scratch: {@link State}. */
  state: Uint8Array;
  failures: Failure[];
  /** By row of scratch: the time that the pushed file has at the source, where it is known to be there. */
  arrived: Map<number, bigint>;
  /** By row of scratch: where its version is stored, relative to the source's root. */
  stored: Map<number, ByteString>;
  /** Rows of the source that were deleted. */
  removed: Set<number>;
}

export async function runPush(plan: PushPlan, pushing: Pushing): Promise<Pushed> {
  const { scratch, source, todo, there, leaders } = plan;
  const { cx, gauge, signal, workers } = pushing;
  const failures: Failure[] = [];
  const state = new Uint8Array(new SharedArrayBuffer(scratch.length));
  const job: Job = { source: scratch, target: source, todo, there, state, arrival: undefined };
  await removeTemps(cx, pushing.temps, { source: scratch, todo });
  await makeDirectories(job, cx, pushing, failures);
  await span("push files", () => bringFiles(job, failures, cx, { gauge, signal, workers }));
  await pushAgain(plan, job, state.keys(), pushing, failures);
  await changeModes(plan, job, pushing, failures);
  await makeHardLinks({ source: scratch, leaders }, job, cx, pushing, failures);
  await pushAgain(plan, job, leaders.keys(), pushing, failures);
  // A sync leaves what was purged under its hands to the look after it; here nobody would hear of it. Another failure may be what
  // kept them from being tried.
  const isMeant = (row: number) => isBrought(todo[row]) || todo[row] === Push.link;
  const lost = failures.length > 0 ? [] : rowsWith(plan, (row) => isMeant(row) && state[row] === State.open);
  for (const row of lost)
    failures.push({ path: scratch.path(row), error: new Error("the directory where it goes is gone") });
  const arrived = await confirm(plan, job, pushing, failures);
  const stored = await storeConflicts(plan, pushing.stamp, pushing, failures);
  const removed = new Set<number>();
  if (failures.length === 0 && pushing.deletes) await removeDeleted(plan, removed, pushing, failures);
  await finishDirectories(plan, job, pushing, failures);
  await flush(plan, { arrived, stored, removed }, pushing, failures);
  return { state, failures, arrived, stored, removed };
}

/** Where nothing is to be pushed: what killed runs left goes all the same. @param temps at the source */
export async function pushNothing(
  { scratch, todo }: PushPlan,
  cx: Copying,
  temps: readonly ByteString[],
): Promise<Pushed> {
  await removeTemps(cx, temps, { source: scratch, todo });
  const state = new Uint8Array(scratch.length);
  return { state, failures: [], arrived: new Map(), stored: new Map(), removed: new Set() };
}

/** Is a file or link still what was seen? */
function isAsSeen(stat: BigIntStats | undefined, tree: Tree, row: number): boolean {
  const isKind = tree.kind(row) === "link" ? stat?.isSymbolicLink() : stat?.isFile();
  return isKind === true && Number(stat?.size) === tree.size[row] && stat?.mtimeNs === tree.mtime[row];
}

/** Rows whose permissions alone changed: a mode is no content, so one last look is all that it takes. */
async function changeModes(plan: PushPlan, { state }: Job, pushing: Pushing, failures: Failure[]): Promise<void> {
  const { scratch, source, todo, there } = plan;
  const { cx } = pushing;
  function* change(row: number): Steps<void> {
    const at = `${cx.to}/${scratch.path(row)}`;
    const here = (there[row] as number) - 1;
    const stat = yield* lookBelow(cx.target, cx.to, at);
    const isMode = stat !== undefined && (Number(stat.mode) & 0o7777) === source.permissions(here);
    if (!isMode || !isAsSeen(stat, source, here)) return;
    yield* get(cx.target.chmod(at, (scratch.permissions(row) & ~setIds) | (source.permissions(here) & setIds)));
    state[row] = State.done;
  }
  const rows = rowsWith(plan, (row) => todo[row] === Push.chmod && scratch.kind(row) === "file");
  await each(rows, change, (row) => scratch.path(row), pushing, failures);
}

function rowsWith({ scratch }: PushPlan, is: (row: number) => boolean): number[] {
  const rows: number[] = [];
  for (let row = 1; row < scratch.length; row++) if (is(row)) rows.push(row);
  return rows;
}

/** Look at what was pushed: it is there, and it is what scratch has. */
async function confirm(plan: PushPlan, { state }: Job, pushing: Pushing, failures: Failure[]) {
  const { scratch } = plan;
  const { cx } = pushing;
  const arrived = new Map<number, bigint>();
  function* look(row: number): Steps<void> {
    const stat = yield* get(cx.target.lookUp(`${cx.to}/${scratch.path(row)}`));
    if (scratch.kind(row) === "link") {
      if (stat?.isSymbolicLink()) arrived.set(row, stat.mtimeNs);
    } else if (stat?.isFile() && Number(stat.size) === scratch.size[row]) {
      if (isSameTime(stat.mtimeNs, scratch.mtime[row] as bigint)) arrived.set(row, stat.mtimeNs);
    }
  }
  const rows = rowsWith(plan, (row) => state[row] === State.done && scratch.kind(row) !== "dir");
  await each(rows, look, (row) => scratch.path(row), pushing, failures);
  return arrived;
}

/** Delete at the source what was deleted on scratch, if it is still what it was. */
async function removeDeleted(plan: PushPlan, removed: Set<number>, pushing: Pushing, failures: Failure[]) {
  const { source, remove } = plan;
  const { cx } = pushing;
  function* removeOne(row: number): Steps<void> {
    const path = source.path(row);
    const stat = yield* lookBelow(cx.target, cx.to, `${cx.to}/${path}`);
    if (!isAsSeen(stat, source, row)) return cx.warn(path, "it changed at the source meanwhile, and is not deleted");
    if (yield* get(cx.source.lookUp(`${cx.from}/${path}`))) return; // scratch has it again
    yield* get(cx.target.unlink(`${cx.to}/${path}`));
    removed.add(row);
  }
  await each(remove, removeOne, (row) => source.path(row), pushing, failures);
}

/** Times and modes of new directories, and modes that changed: what is deeper first, as a mode may bar the way. */
async function finishDirectories(plan: PushPlan, { state }: Job, pushing: Pushing, failures: Failure[]) {
  const { scratch, source, todo, there, rules } = plan;
  const { cx, directories } = pushing;
  function* finish(row: number): Steps<void> {
    const at = `${cx.to}/${scratch.path(row)}`;
    yield* assertBelow(cx, undefined, `${scratch.path(row)}/`);
    if (todo[row] === Push.mkdir) {
      if (cx.xattrs) copyAttributes(cx, scratch.path(row), at); // before the mode, which an ACL changes
      yield* get(cx.target.setTimes(at, scratch.mtime[row] as bigint));
      yield* get(cx.target.chmod(at, directoryMode(scratch.permissions(row), directories)));
      return;
    }
    const own = 0o6000 | (rules.groupWritable ? 0o020 : 0);
    const here = (there[row] as number) - 1;
    yield* get(cx.target.chmod(at, (scratch.permissions(row) & ~own) | (source.permissions(here) & own)));
    state[row] = State.done;
  }
  const isMine = (row: number) =>
    scratch.kind(row) === "dir" && (todo[row] === Push.mkdir ? state[row] === State.done : todo[row] === Push.chmod);
  for (const row of rowsWith(plan, isMine).reverse())
    await each([row], finish, () => scratch.path(row), pushing, failures);
}

/** Names are on the disk when their directory is: fsync(2). Not every file system takes it, and none has to. */
async function flush(
  { scratch, source }: PushPlan,
  { arrived, stored, removed }: Pick<Pushed, "arrived" | "stored" | "removed">,
  pushing: Pushing,
  failures: Failure[],
): Promise<void> {
  const { cx } = pushing;
  const parentOf = (path: ByteString) => path.slice(0, Math.max(0, path.lastIndexOf("/")));
  const dirs = new Set<ByteString>();
  for (const row of arrived.keys()) dirs.add(scratch.path(scratch.parent[row] as number));
  for (const path of stored.values()) dirs.add(parentOf(path));
  for (const row of removed) dirs.add(parentOf(source.path(row)));
  const paths = [...dirs];
  function* sync(i: number): Steps<void> {
    let fd: number | undefined;
    try {
      fd = yield* get(cx.target.open(`${cx.to}/${paths[i]}`, constants.O_RDONLY | constants.O_DIRECTORY));
      yield* get(cx.target.sync(fd));
    } catch (error) {
      if (["EIO", "ENOSPC", "EDQUOT"].includes(errnoOf(error) ?? "")) throw error;
    } finally {
      if (fd !== undefined) yield* get(cx.target.close(fd));
    }
  }
  await each(paths.keys(), sync, (i) => paths[i] as ByteString, pushing, failures);
}
