/** Look at single files of a push again: are two of them equal, and what is to be done now that one has changed? */
import { type BigIntStats, constants } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { get, type Steps } from "../base/steps.ts";
import { lookBelow } from "./below.ts";
import { bringRow } from "./carry.ts";
import { each, type Failure, type Job, State } from "./carrying.ts";
import { type Copying, isAsSeen, readAll } from "./copy-file.ts";
import type { Gauge } from "./gauge.ts";
import { conflict, decide, type PathRows, Push, setIds } from "./push-decide.ts";
import { mergeMode, type PushPlan, rowsOf, settle } from "./push-plan.ts";
import type { Storage } from "./storage.ts";
import { Flag, Tree } from "./tree.ts";

/** What moves files, and the way back. In `cx` the source is scratch, and the target the user's source. */
export interface Moving {
  cx: Copying;
  gauge: Gauge;
  signal: AbortSignal | undefined;
}

/** What one request reads, in bytes. */
const rangeBytes = 1 << 20;
/** A file that changes under our hands is looked at so often. */
const mostLooks = 3;

/** Read what has to be read, and settle it. */
export async function compareContents(plan: PushPlan, moving: Moving, failures: Failure[]): Promise<void> {
  const { scratch, todo } = plan;
  const rows: number[] = [];
  for (let row = 1; row < scratch.length; row++) if (todo[row] === Push.compare) rows.push(row);
  function* compare(row: number): Steps<void> {
    todo[row] = Push.unknown; // until both could be read
    settle(plan, row, yield* isSame(moving.cx, plan, row, rowsOf(plan, row).source));
  }
  await each(rows, compare, (row) => scratch.path(row), moving, failures);
}

/** Have two files of one size the same contents? Not if one of them changes meanwhile. */
function* isSame(
  cx: Copying,
  { scratch, source }: Pick<PushPlan, "scratch" | "source">,
  row: number,
  here: number,
): Steps<boolean> {
  const path = scratch.path(row);
  const size = scratch.size[row] as number;
  const [one, two] = [Buffer.allocUnsafe(rangeBytes + 1), Buffer.allocUnsafe(rangeBytes + 1)];
  const a = yield* get(cx.source.open(`${cx.from}/${path}`, constants.O_RDONLY));
  try {
    const b = yield* get(cx.target.open(`${cx.to}/${path}`, constants.O_RDONLY));
    try {
      for (let at = 0; at < size; at += rangeBytes) {
        yield* get(cx.breathe());
        const want = Math.min(rangeBytes, size - at);
        const got = yield* readAll(cx.source, a, one.subarray(0, want + 1), at);
        const other = yield* readAll(cx.target, b, two.subarray(0, want + 1), at);
        if (got < want || other < want || one.compare(two, 0, want, 0, want) !== 0) return false;
      }
      const isAsIs = isAsSeen(yield* get(cx.source.fstat(a)), factsOf(scratch, row));
      return isAsIs && isAsSeen(yield* get(cx.target.fstat(b)), factsOf(source, here));
    } finally {
      yield* get(cx.target.close(b));
    }
  } finally {
    yield* get(cx.source.close(a));
  }
}

const factsOf = (tree: Tree, row: number) => ({ size: tree.size[row] as number, mtimeNs: tree.mtime[row] as bigint });

/** Rows that changed on one side while they were pushed: each is decided anew. */
export async function pushAgain(
  plan: PushPlan,
  job: Job,
  rows: Iterable<number>,
  moving: Moving,
  failures: Failure[],
): Promise<void> {
  const { scratch } = plan;
  job.anew ??= new Set();
  const changed = [...rows].filter((row) => job.state[row] === State.changed || job.state[row] === State.taken);
  function* again(row: number): Steps<void> {
    for (let looks = 0; looks < mostLooks; looks++) if (yield* oneMore(plan, job, row, moving, failures)) return;
    job.state[row] = State.failed;
    failures.push({ path: scratch.path(row), error: new Error("it keeps changing while it is pushed") });
  }
  await each(changed, again, (row) => scratch.path(row), moving, failures);
}

/** @returns is it done with? */
function* oneMore(plan: PushPlan, job: Job, row: number, moving: Moving, failures: Failure[]): Steps<boolean> {
  const { scratch, source, past, todo, there } = plan;
  const path = scratch.path(row);
  const slash = path.lastIndexOf("/");
  const name = path.slice(slash + 1);
  const dir = slash < 0 ? "" : `/${path.slice(0, slash)}`;
  const cx = {
    ...moving.cx,
    from: moving.cx.from + dir,
    to: moving.cx.to + dir,
    within: moving.cx.from,
    root: moving.cx.to,
  };
  cx.place += dir;
  job.anew?.add(row);
  // Two trees of one name, so that the rules are those of the whole.
  const sides = {
    scratch: yield* lookAt(cx.source, cx.from, name),
    source: yield* lookAt(cx.target, cx.to, name),
    past,
  };
  job.state[row] = State.open;
  const isThere = yield* lookBelow(cx.source, moving.cx.from, `${moving.cx.from}/${path}`);
  if (sides.scratch.kind(1) === "gone" || !isThere) {
    todo[row] = Push.left;
    return true;
  }
  if (sides.scratch.kind(1) === "dir" || sides.scratch.kind(1) === "other") return false;
  const at: PathRows = { ...rowsOf(plan, row), scratch: 1, source: 1 };
  let what = decide(sides, plan.rules, at);
  if (what === Push.compare) {
    const isEqual = yield* isSame(cx, sides, 1, 1);
    what = isEqual ? Push.nothing : conflict(sides, plan.rules, at);
  }
  if (sides.scratch.kind(1) === "file") sides.scratch.mode[1] = (sides.scratch.mode[1] as number) & ~setIds;
  plan.ownModes.delete(row);
  if (what === Push.replace) mergeMode(plan, row, sides, at);
  sides.scratch.copyRow(1, scratch, row, "again");
  const here = (there[row] as number) - 1;
  if (here >= 0) sides.source.copyRow(1, source, here, "again");
  todo[row] = what;
  if (what !== Push.copy && what !== Push.replace && what !== Push.symlink) return true;
  const one: Job = {
    source: sides.scratch,
    target: sides.source,
    todo: new Uint8Array([0, what]),
    there: new Uint32Array([1, 2]),
    state: new Uint8Array(2),
    arrival: undefined,
  };
  yield* bringRow(cx, one, 1, ({ error }) => failures.push({ path, error }), moving.signal);
  job.state[row] = one.state[1] as number;
  return job.state[row] !== State.changed && job.state[row] !== State.taken;
}

/** A tree of a directory and one name in it; the row of the name is `gone` where there is none. */
function* lookAt(storage: Storage, dir: ByteString, name: ByteString): Steps<Tree> {
  const tree = new Tree();
  tree.addRoot({ mode: 0o040700, size: 0, mtimeNs: 0n });
  tree.addChildren(0, [name]);
  const stat: BigIntStats | undefined = yield* get(storage.lookUp(`${dir}/${name}`));
  if (!stat) return tree;
  tree.set(1, { mode: Number(stat.mode), size: Number(stat.size), mtimeNs: stat.mtimeNs });
  if (stat.isSymbolicLink()) tree.links.set(1, yield* get(storage.readlink(`${dir}/${name}`)));
  if (stat.isFile() && Number(stat.blocks) * 512 < Number(stat.size)) tree.flag(1, Flag.sparse);
  return tree;
}
