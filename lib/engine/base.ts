/** The base of the next sync, made from what this one found; and a tree recalled from it, without asking the storage. */
import type { ByteString } from "../base/bytes.ts";
import { oneMore } from "../base/memory.ts";
import { type Diff, Do } from "./diff.ts";
import { type Base, type Times, unknownTime } from "./manifest.ts";
import type { Recalled } from "./scan.ts";
import { Flag, Tree } from "./tree.ts";

/** Directories kept per tree; past it only those of the top two levels. */
const maxDirs = 20_000;
/** Files at the top of the source whose times are kept: euler-files looks at those. */
const maxTopFiles = 256;

/** Where a row of a new base comes from. */
type From = { source: number; was?: undefined } | { source?: undefined; was: number };

/**
 * What is on scratch now, by a comparison made after the copy.
 *
 * Of what a job changed, the old base stays; of what the source has no more, too, while scratch has it.
 *
 * @param planned the rows still to be brought count as being there, with this time (an intent); undefined for the truth
 */
export function baseOf(diff: Diff, old: Base | undefined, planned?: (row: number) => bigint): Base {
  const { source, target, todo, there, known } = diff;
  const isThere = (row: number) => todo[row] === Do.nothing || todo[row] === Do.chmod;
  const isKept = (row: number) => todo[row] === Do.keep || todo[row] === Do.blocked;
  const timeOf = (row: number) => {
    if (isThere(row) && (there[row] as number) > 0) return target.mtime[(there[row] as number) - 1] as bigint;
    return planned && source.kind(row) !== "dir" ? planned(row) : unknownTime;
  };
  const isPlain = (row: number) => {
    const kind = source.kind(row);
    return kind !== "gone" && kind !== "other" && (isThere(row) || (planned !== undefined && !isKept(row)));
  };
  if (diff.orphans.length === 0 && every(source.length, isPlain)) {
    const times = new BigInt64Array(source.length); // the source itself: no need of a table of its own
    for (let row = 0; row < source.length; row++) {
      oneMore();
      times[row] = timeOf(row);
    }
    return { tree: source, scratch: times };
  }

  const tree = new Tree();
  const scratch: bigint[] = [];
  const orphans = new Set(diff.orphans);
  tree.addRoot({ mode: source.mode[0] as number, size: 0, mtimeNs: source.mtime[0] as bigint });
  scratch.push(target.length > 0 ? (target.mtime[0] as bigint) : unknownTime);
  const put = (row: number, from: From) => {
    if (from.source !== undefined) {
      source.copyRow(from.source, tree, row, "s");
      scratch[row] = timeOf(from.source);
    } else if (old) {
      old.tree.copyRow(from.was, tree, row, "b");
      scratch[row] = old.scratch[from.was] as bigint;
      if (orphans.has(from.was)) tree.flag(row, Flag.orphan);
    }
  };
  /** What goes below a directory that was at these rows of the source and of the old base. */
  const childrenOf = (dir: From, was: number): Map<ByteString, From> => {
    const children = new Map<ByteString, From>();
    const [from, to] = dir.source === undefined ? [0, 0] : source.children(dir.source);
    for (let row = from; row < to; row++) {
      const kind = source.kind(row);
      if (kind === "gone" || kind === "other") continue;
      const had = (known[row] as number) - 1;
      if (isThere(row) || (planned && !isKept(row))) children.set(source.name(row), { source: row });
      else if (isKept(row) && had >= 0) children.set(source.name(row), { was: had });
    }
    const [first, last] = old && was >= 0 ? old.tree.children(was) : [0, 0];
    for (let row = first; old && row < last; row++)
      if (orphans.has(row) && !children.has(old.tree.name(row))) children.set(old.tree.name(row), { was: row });
    return children;
  };
  const dirs: { row: number; from: From }[] = [{ row: 0, from: { source: 0 } }];
  for (let next = dirs.pop(); next; next = dirs.pop()) {
    const was = next.from.source === undefined ? next.from.was : (known[next.from.source] as number) - 1;
    const children = [...childrenOf(next.from, was)].sort(([a], [b]) => (a < b ? -1 : 1));
    const first = tree.addChildren(
      next.row,
      children.map(([name]) => name),
    );
    children.forEach(([, from], i) => {
      put(first + i, from);
      if (tree.kind(first + i) === "dir") dirs.push({ row: first + i, from });
    });
  }
  return { tree, scratch: BigInt64Array.from(scratch) };
}

function every(rows: number, holds: (row: number) => boolean): boolean {
  for (let row = 0; row < rows; row++) if (!holds(row)) return false;
  return true;
}

/**
 * The times that files will have on scratch when a comparison is carried out: a new name of one that is there has its time.
 *
 * @param arrivalNs now, where files get the time of their arrival
 */
export function plannedTimes({ source, target, todo, there, leaders, arrival }: Diff, arrivalNs: bigint | undefined) {
  return (row: number): bigint => {
    const first = todo[row] === Do.link ? (leaders.get(row) ?? row) : row;
    const stands = first !== row && (todo[first] === Do.nothing || todo[first] === Do.chmod);
    if (stands) return target.mtime[(there[first] as number) - 1] as bigint;
    const isFile = source.kind(first) === "file";
    return arrivalNs !== undefined && arrival?.[first] && isFile ? arrivalNs : (source.mtime[first] as bigint);
  };
}

/** The times that tell a fresh copy from another, from the same comparison. */
export function timesOf({ source, target, there }: Diff): Omit<Times, "run"> {
  const dirs: number[] = [];
  const depths = new Uint16Array(source.length);
  for (let row = 0; row < source.length; row++) {
    if (row > 0) depths[row] = (depths[source.parent[row] as number] as number) + 1;
    const here = (there[row] as number) - 1;
    if (source.kind(row) === "dir" && here >= 0 && target.kind(here) === "dir") dirs.push(row);
  }
  const isLarge = dirs.length > maxDirs;
  const kept = isLarge ? dirs.filter((row) => (depths[row] as number) < 2).slice(0, maxDirs) : dirs;
  const entries: Times["entries"] = kept.map((row) => ({
    path: source.path(row),
    source: timeAt(source, row),
    scratch: target.mtime[(there[row] as number) - 1] as bigint,
  }));
  if (isLarge) return { entries, whole: false };
  const [from, to] = source.children(0);
  for (let row = from, files = 0; row < to && files < maxTopFiles; row++) {
    if (source.kind(row) === "dir" || source.kind(row) === "gone") continue;
    files++;
    entries.push({ path: source.path(row), source: timeAt(source, row), scratch: undefined });
  }
  return { entries, whole: true };
}

const timeAt = (tree: Tree, row: number) => (tree.has(row, Flag.racy) ? unknownTime : (tree.mtime[row] as bigint));

/**
 * A side of the last sync, for the directories that are as they were.
 *
 * @param changed paths of the directories that are not
 */
export function recall(base: Base, side: "source" | "scratch", changed: ReadonlySet<ByteString>) {
  const { tree, scratch } = base;
  return (path: ByteString): Recalled | undefined => {
    const dir = changed.has(path) ? undefined : tree.find(path);
    if (dir === undefined || tree.kind(dir) !== "dir") return undefined;
    const [from, to] = tree.children(dir);
    const rows: number[] = [];
    for (let row = from; row < to; row++) if (side === "scratch" || !tree.has(row, Flag.orphan)) rows.push(row);
    return {
      names: rows.map((row) => tree.name(row)),
      fill(into, row, i) {
        const was = rows[i] as number;
        tree.copyRow(was, into, row, "b");
        if (side === "scratch") into.mtime[row] = scratch[was] as bigint;
      },
    };
  };
}

/** May these directories be looked at alone? Not where names of one inode may be in several of them. */
export function canRecall({ tree }: Base, changed: ReadonlySet<ByteString>): boolean {
  for (const path of changed) {
    const dir = tree.find(path);
    if (dir === undefined) return false;
    const [from, to] = tree.children(dir);
    for (let row = from; row < to; row++) if (tree.inode[row] !== 0) return false;
  }
  return true;
}
