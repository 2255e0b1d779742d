/** In what scratch is not what the source is: by names, types, sizes, times, modes, links. Pure; contents are not read. */
import { type ByteString, display } from "../base/bytes.ts";
import { reasonOf } from "../base/errors.ts";
import { Do, sameTime } from "./diff.ts";
import { type Comparison, namesKept } from "./engine.ts";
import type { Base } from "./manifest.ts";
import type { Scan } from "./scan.ts";
import { sideBySide } from "./side-by-side.ts";
import { Flag, type Tree } from "./tree.ts";

/** Names of one kind, for people; `names` are the first {@link namesKept}, or all if asked for. */
export interface Listing {
  count: number;
  names: string[];
}

/** What makes a copy differ. */
export const differenceKinds = [
  /** Not on scratch. */
  "missing",
  /** A file here, a directory or link there. */
  "type",
  /** A job changed it since the last sync, and the syncs keep it; listed as nothing else. */
  "changed",
  "size",
  "time",
  "mode",
  /** A symbolic link points elsewhere. */
  "target",
  /** Names of one inode on one side are not so on the other. */
  "hardLinks",
  "contents",
  /** Could not be compared, and why. */
  "unreadable",
] as const;

/** What is worth knowing, and no difference. */
export const noteKinds = [
  /** On scratch only, and not from ef: a job's. */
  "extra",
  /** ef put it there, and the source has it no more. */
  "deleted",
  /** FIFO, socket, device at the source: never copied. */
  "skipped",
] as const;

export type DifferenceKind = (typeof differenceKinds)[number];
export type NoteKind = (typeof noteKinds)[number];
export type Findings = Record<DifferenceKind | NoteKind, Listing>;

/** After a count. */
export const labels: Record<DifferenceKind | NoteKind, string> = {
  missing: "missing on scratch",
  type: "of another type",
  changed: "changed on scratch since the last sync",
  size: "of another size",
  time: "of another time",
  mode: "of another mode",
  target: "pointing elsewhere",
  hardLinks: "hard-linked otherwise",
  contents: "of other contents",
  unreadable: "not comparable",
  extra: "on scratch only",
  deleted: "deleted at the source",
  skipped: "no file, directory or link: never copied",
};

export interface Differences {
  findings: Findings;
  /** Files that are at the source, and their sizes. */
  files: number;
  bytes: number;
  /** By row of the source, for files of the same size: the row on scratch and 1, or 0. What contents may be compared of. */
  alike: Uint32Array;
  /** Add to a kind. */
  note: (kind: DifferenceKind | NoteKind, name: string) => void;
}

/**
 * Times are compared as a sync does it: what it put there is as it put it, also on a file system of coarse times. Files
 * that got the time of their arrival are asked whether the source has changed since. Of directories only the names count.
 *
 * @param base what the last sync put on scratch
 */
export function differences(comparison: Comparison, base: Base | undefined, allNames: boolean): Differences {
  const { source, target, diff } = comparison;
  const [from, to] = [source.tree, target.tree];
  const findings = emptyFindings();
  const note: Differences["note"] = (kind, name) => {
    const listing = findings[kind];
    if (listing.count++ < namesKept || allNames) listing.names.push(name);
  };
  const result: Differences = { findings, files: 0, bytes: 0, alike: new Uint32Array(from.length), note };
  const named = (kind: DifferenceKind | NoteKind, tree: Tree, row: number) =>
    note(kind, display(tree.path(row)) + (tree.kind(row) === "dir" ? "/" : ""));

  /** On scratch alone. A directory is named by what is in it. */
  const stray = (there: number) => {
    if (isFull(to, there)) return;
    named(base?.tree.find(to.path(there)) === undefined ? "extra" : "deleted", to, there);
  };
  const file = (row: number, there: number) => {
    if (from.size[row] !== to.size[there]) return named("size", from, row);
    result.alike[row] = there + 1;
    // Without a base the comparison has read what differs by its time alone.
    const wasRead = !base && (diff.todo[row] === Do.nothing || diff.todo[row] === Do.chmod);
    if (!wasRead && !isTimeSame(comparison, base, row, there)) named("time", from, row);
    if (from.permissions(row) !== to.permissions(there)) named("mode", from, row);
  };
  for (const [row, there] of sideBySide(from, to)) {
    if (row < 0) {
      stray(there);
      continue;
    }
    const kind = from.kind(row);
    if (kind === "file") {
      result.files++;
      result.bytes += from.size[row] as number;
    }
    if (from.has(row, Flag.unreadable) || (there >= 0 && to.has(there, Flag.unreadable))) continue; // named below
    if (kind === "other") named("skipped", from, row);
    else if (there < 0) {
      if (!isFull(from, row)) named("missing", from, row);
    } else if (diff.todo[row] === Do.keep) named("changed", from, row);
    else if (kind !== to.kind(there)) named("type", from, row);
    else if (kind === "link") {
      if (from.links.get(row) !== to.links.get(there)) named("target", from, row);
    } else if (kind === "file") file(row, there);
  }
  for (const row of regrouped(from, to, result.alike)) named("hardLinks", from, row);
  for (const { path, why } of problemsOf(source)) note("unreadable", `${display(path)} (source: ${why})`);
  for (const { path, why } of problemsOf(target))
    if (from.find(path) !== undefined) note("unreadable", `${display(path)} (scratch: ${why})`);
  return result;
}

function emptyFindings(): Findings {
  const kinds = [...differenceKinds, ...noteKinds];
  return Object.fromEntries(kinds.map((kind) => [kind, { count: 0, names: [] }])) as never;
}

function isFull(tree: Tree, row: number): boolean {
  const [first, end] = tree.children(row);
  return first < end;
}

function isTimeSame({ diff, source, target }: Comparison, base: Base | undefined, row: number, there: number): boolean {
  const [time, timeThere] = [source.tree.mtime[row] as bigint, target.tree.mtime[there] as bigint];
  const was = (diff.known[row] as number) - 1;
  const known = base !== undefined && was >= 0 && base.tree.kind(was) === "file";
  const isAsWas = known && base.tree.size[was] === source.tree.size[row] && base.tree.mtime[was] === time;
  if (diff.arrival?.[row]) return !known || isAsWas;
  return sameTime(time, timeThere) || (isAsWas && base.scratch[was] === timeThere);
}

/** Rows whose inode has, among files that are alike, other names on scratch than at the source. */
function regrouped(from: Tree, to: Tree, alike: Uint32Array): number[] {
  const forth = new Map<number, number>();
  const back = new Map<number, number>();
  const isFirst = (known: Map<number, number>, one: number, other: number) => {
    if (!known.has(one)) known.set(one, other);
    return known.get(one) === other;
  };
  const found: number[] = [];
  for (let row = 1; row < from.length; row++) {
    const there = (alike[row] as number) - 1;
    if (there < 0 || (from.inode[row] === 0 && to.inode[there] === 0)) continue;
    // A file of one name is an inode of its own.
    const [here, other] = [from.inode[row] || -row, to.inode[there] || -there];
    const [isSame, isSameBack] = [isFirst(forth, here, other), isFirst(back, other, here)];
    if (!isSame || !isSameBack) found.push(row);
  }
  return found;
}

/** Each path once: the source may have been looked at twice. */
function problemsOf({ problems }: Scan): { path: ByteString; why: string }[] {
  const known = new Map(problems.map(({ path, error }) => [path, reasonOf(error)]));
  return [...known].map(([path, why]) => ({ path, why }));
}
