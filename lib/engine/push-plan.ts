/**
 * What a push has to do: from what the last sync put on scratch, what scratch holds now, and what the source is now.
 *
 * Pure. For each path that scratch has:
 * - As ef put it there: nothing. What changed at the source, or went there, changed there only.
 * - Changed on scratch, and the source is as it was: brought back. New, and the source has nothing there: brought back.
 * - Changed on both sides, gone at the source, or something of another type there: equal contents are no conflict (they are
 *   read: {@link Push.compare}), the rest is one.
 * What scratch does not have stays at the source: a purge is no deletion. With `delete`, a file that ef put on scratch
 * counts as deleted where another one that ef put into the same directory is still there.
 * Without a base nobody knows who changed what: then what differs changed on both sides.
 *
 * In `planPush` each row is decided; `settle` takes the answers of the comparisons; `finish` makes the rest of it.
 */

import { type Base, unknownTime } from "./manifest.ts";
import {
  conflict,
  decide,
  isGone,
  isSourceAsWas,
  type PathRows,
  Push,
  type PushRules,
  type PushSides,
  setIds,
} from "./push-decide.ts";
import { Flag, type Kind, type Tree } from "./tree.ts";

export interface PushPlan extends PushSides {
  rules: PushRules;
  /** By row of scratch: {@link Push}. */
  todo: Uint8Array;
  /** By row of scratch: its row in the source and 1, or 0. */
  there: Uint32Array;
  /** By row of scratch: its row in the base and 1, or 0. */
  known: Uint32Array;
  /** By row of scratch: its row in the intent and 1, or 0. */
  meant: Uint32Array;
  /** Of rows to be linked: the row whose file they become. */
  leaders: Map<number, number>;
  /** Rows of the source that are deleted. */
  remove: number[];
  /** Of files that get other permissions at the source than they have on scratch: those on scratch. */
  ownModes: Map<number, number>;
}

export function planPush(sides: PushSides, rules: PushRules): PushPlan {
  const { length } = sides.scratch;
  const plan: PushPlan = {
    ...sides,
    rules,
    todo: new Uint8Array(new SharedArrayBuffer(length)),
    there: new Uint32Array(new SharedArrayBuffer(4 * length)),
    known: new Uint32Array(length),
    meant: new Uint32Array(length),
    leaders: new Map(),
    remove: [],
    ownModes: new Map(),
  };
  if (length > 0) new Planner(plan).walk();
  return plan;
}

/** The rows of a path of the plan. */
export function rowsOf({ there, known, meant }: PushPlan, row: number): PathRows {
  return {
    scratch: row,
    source: (there[row] as number) - 1,
    base: (known[row] as number) - 1,
    intent: (meant[row] as number) - 1,
  };
}

/** Names of one directory, to be asked for in byte order. */
class Names {
  #at = 0;
  #end = 0;

  constructor(
    readonly tree: Tree | undefined,
    dir: number,
  ) {
    if (tree && dir >= 0 && tree.length > 0) [this.#at, this.#end] = tree.children(dir);
  }

  /** The row of the name that `row` of another tree has, -1 if there is none. */
  find(of: Tree, row: number): number {
    const { tree } = this;
    if (!tree) return -1;
    while (this.#at < this.#end && of.compareNames(row, tree, this.#at) > 0) this.#at++;
    return this.#at < this.#end && of.compareNames(row, tree, this.#at) === 0 ? this.#at++ : -1;
  }
}

class Planner {
  constructor(readonly plan: PushPlan) {}

  walk(): void {
    const { source, past, there, known, meant } = this.plan;
    there[0] = source.length > 0 ? 1 : 0;
    known[0] = past.base ? 1 : 0;
    meant[0] = past.intent ? 1 : 0;
    const stack = [0];
    for (let dir = stack.pop(); dir !== undefined; dir = stack.pop()) this.#directory(dir, stack);
  }

  #directory(dir: number, stack: number[]): void {
    const { scratch, source, past, todo, there, known, meant } = this.plan;
    const at = rowsOf(this.plan, dir);
    const isKnown = !scratch.has(dir, Flag.unreadable) && !(at.source >= 0 && source.has(at.source, Flag.unreadable));
    if (!isKnown) {
      todo[dir] = Push.unknown;
      this.#below(dir);
      return;
    }
    const names = {
      source: new Names(source, at.source),
      base: new Names(past.base?.tree, at.base),
      intent: new Names(past.intent?.tree, at.intent),
    };
    const [from, to] = scratch.children(dir);
    for (let row = from; row < to; row++) {
      there[row] = names.source.find(scratch, row) + 1;
      known[row] = names.base.find(scratch, row) + 1;
      meant[row] = names.intent.find(scratch, row) + 1;
      todo[row] = decide(this.plan, this.plan.rules, rowsOf(this.plan, row));
      if (scratch.kind(row) !== "dir") continue;
      if (isWhole(this.plan, row)) this.#below(row);
      else stack.push(row);
    }
    if (this.plan.rules.delete) this.#deletions(at);
  }

  /** All below a directory is decided with it. */
  #below(dir: number): void {
    const { scratch, todo } = this.plan;
    const [from, to] = scratch.children(dir);
    for (let row = from; row < to; row++) {
      todo[row] = Push.under;
      this.#below(row);
    }
  }

  /** What was deleted in a directory of scratch that is still there, and was not emptied. */
  #deletions({ scratch: dir, source: atSource, base: was }: PathRows): void {
    const { scratch, source, past, remove } = this.plan;
    const { base } = past;
    if (!base || was < 0 || atSource < 0) return;
    for (const row of missingFrom(scratch, dir, base, was).deleted) {
      const here = source.child(atSource, base.tree.name(row));
      if (here !== undefined && isSourceAsWas(source, here, base, row)) remove.push(here);
    }
  }
}

/**
 * What ef put into a directory and scratch has no more: deleted by somebody, or taken by a purge, as far as can be told.
 *
 * @param dir its row on scratch, -1 where it is gone
 * @param was its row in the base
 * @returns rows of the base
 */
export function missingFrom(
  scratch: Tree,
  dir: number,
  base: Base,
  was: number,
): Record<"deleted" | "purged", number[]> {
  const missing: number[] = [];
  const left = new Set<Kind>();
  const [from, to] = base.tree.children(was);
  for (let row = from; row < to; row++) {
    const kind = base.tree.kind(row);
    if (kind === "dir" || base.tree.has(row, Flag.orphan) || base.scratch[row] === unknownTime) continue;
    const here = dir < 0 ? undefined : scratch.child(dir, base.tree.name(row));
    if (here === undefined) missing.push(row);
    else if (scratch.kind(here) === kind) left.add(kind);
  }
  // A purge may take the files and leave the links: then no link tells that somebody deleted a file.
  const isDeleted = (row: number) => left.has("file") || left.has(base.tree.kind(row));
  return { deleted: missing.filter(isDeleted), purged: missing.filter((row) => !isDeleted(row)) };
}

/** Is a directory of scratch taken as a whole: what is at the source is no directory? */
export function isWhole({ todo, there, source }: PushPlan, row: number): boolean {
  const here = (there[row] as number) - 1;
  const isOther = here >= 0 && source.kind(here) !== "dir" && !isGone(source, here);
  return todo[row] === Push.unknown || isOther;
}

/** Take the answer to a {@link Push.compare}. */
export function settle(plan: PushPlan, row: number, isSame: boolean): void {
  plan.todo[row] = isSame ? Push.nothing : conflict(plan, plan.rules, rowsOf(plan, row));
}

/** Is the scratch version of a conflict stored beside the source's file? */
export const isStored = ({ todo, rules }: PushPlan, row: number): boolean =>
  todo[row] === Push.conflict && (rules.onConflict === "both" || rules.onConflict === "scratch");

/** Does this row make or change something at the source? */
export function isPushed(plan: PushPlan, row: number): boolean {
  const what = plan.todo[row] as number;
  const isWork = what === Push.mkdir || what === Push.copy || what === Push.replace || what === Push.symlink;
  return isWork || what === Push.link || what === Push.chmod || isStored(plan, row);
}

/** When all is compared: the directories that are needed, the modes that files get, names of one inode. */
export function finish(plan: PushPlan): void {
  const { scratch, source, todo, there } = plan;
  // What the source has deleted is made again where something is to go into it. Children come after their directories.
  for (let row = scratch.length - 1; row > 0; row--) {
    const dir = scratch.parent[row] as number;
    const here = (there[dir] as number) - 1;
    const isMissing = todo[dir] === Push.left && (here < 0 || source.kind(here) === "gone");
    if (isPushed(plan, row) && isMissing) todo[dir] = Push.mkdir;
  }
  mergeModes(plan);
  hardLinks(plan);
}

function mergeModes(plan: PushPlan): void {
  const { scratch, todo } = plan;
  for (let row = 1; row < scratch.length; row++) {
    if (scratch.kind(row) !== "file") continue;
    // Set-id bits that somebody gave to a file on scratch would become ours.
    scratch.mode[row] = (scratch.mode[row] as number) & ~setIds;
    if (todo[row] === Push.replace) mergeMode(plan, row, plan, rowsOf(plan, row));
  }
}

/**
 * A file that replaces one at the source gets scratch's permissions, unless it was at the source that they were changed, or scratch
 * has its own idea of permissions.
 *
 * @param row of the plan
 * @param sides the trees that the rows of `at` are in
 */
export function mergeMode(
  { past, rules, ownModes }: PushPlan,
  row: number,
  { scratch, source }: Pick<PushSides, "scratch" | "source">,
  at: PathRows,
): void {
  if (source.kind(at.source) !== "file") return;
  const own = scratch.permissions(at.scratch);
  const isAsPut = at.base >= 0 && own === ((past.base as Base).tree.permissions(at.base) & ~setIds);
  if (rules.modes && !isAsPut) return;
  ownModes.set(row, own);
  scratch.mode[at.scratch] = ((scratch.mode[at.scratch] as number) & ~0o7777) | source.permissions(at.source);
}

/** Names of one inode on scratch become names of one inode at the source, as far as they are brought back. */
function hardLinks({ scratch, todo, leaders }: PushPlan): void {
  const first = new Map<number, number>();
  const stands = (row: number) => todo[row] === Push.nothing || todo[row] === Push.chmod;
  const comes = (row: number) => todo[row] === Push.copy || todo[row] === Push.replace;
  const isNamed = (row: number) => scratch.kind(row) === "file" && scratch.inode[row] !== 0;
  for (let row = 1; row < scratch.length; row++) {
    if (!isNamed(row) || !(stands(row) || comes(row))) continue;
    const leader = first.get(scratch.inode[row] as number);
    if (leader === undefined || (!stands(leader) && stands(row))) first.set(scratch.inode[row] as number, row);
  }
  for (let row = 1; row < scratch.length; row++) {
    if (!isNamed(row) || !comes(row)) continue;
    const leader = first.get(scratch.inode[row] as number) as number;
    if (leader === row) continue;
    todo[row] = Push.link;
    leaders.set(row, leader);
  }
}
