/** What a push does for one path. See push-plan.ts for the rules. */
import { Do, type Past, sameTime } from "./diff.ts";
import type { Base } from "./manifest.ts";
import { Flag, type Kind, type Tree } from "./tree.ts";

/** What is to be done for a row of scratch. The numbers of {@link Do} mean there what they mean here. */
export const Push = {
  /** Both sides are known to be equal. */
  nothing: Do.nothing,
  mkdir: Do.mkdir,
  /** Copy a file to where nothing is. */
  copy: Do.copy,
  /** Copy a file over another one, or over a link. */
  replace: Do.replace,
  symlink: Do.symlink,
  /** Make a hard link to {@link PushPlan.leaders}. */
  link: Do.link,
  /** FIFO, socket, device: left out. */
  skip: Do.skip,
  /** Scratch is as ef left it; the source may have changed, or be gone. */
  left: 10,
  /** Equal contents, or a conflict: somebody has to read them. */
  compare: 11,
  conflict: 12,
  /** Only the permissions changed, and on scratch only. */
  chmod: 13,
  /** One side could not be read: nobody knows. */
  unknown: 14,
  /** Below a directory that is taken as a whole: it is decided there. */
  under: 15,
} as const;

export const onConflicts = ["both", "source", "scratch", "fail"] as const;
/** What becomes of a file that changed on both sides. */
export type OnConflict = (typeof onConflicts)[number];

export interface PushRules {
  onConflict: OnConflict;
  /** Delete at the source what was deleted on scratch. */
  delete: boolean;
  /** Are the permissions on scratch those that a sync gave, so that another one is somebody's doing? */
  modes: boolean;
  /** Does a sync let the group write to the directories of scratch? */
  groupWritable: boolean;
  /**
   * Other nodes push their copies too: what has the size and time of the file at the source may be another one, as tasks write
   * their files at the same moment. It is read.
   */
  isShared?: boolean;
}

/** Two trees, and what is known of earlier syncs. */
export interface PushSides {
  scratch: Tree;
  /** Empty where there is no such directory. */
  source: Tree;
  past: Past;
  /** What a push that was interrupted since meant to bring to the source: perhaps it did. */
  pushing?: Base | undefined;
}

/** One path in all of them: rows, -1 where it is not. */
export interface PathRows {
  scratch: number;
  source: number;
  base: number;
  intent: number;
}

/** Bits that give the rights of a file's owner: no push carries them. */
export const setIds = 0o6000;

/** It vanished while the tree was read. */
export const isGone = (tree: Tree, row: number) => tree.kind(row) === "gone" && !tree.has(row, Flag.unreadable);

/** What is to be done for one path. */
export function decide(sides: PushSides, rules: PushRules, at: PathRows): number {
  const { scratch, source } = sides;
  const kind = scratch.kind(at.scratch);
  if (kind === "other") return Push.skip;
  if (kind === "gone") return scratch.has(at.scratch, Flag.unreadable) ? Push.unknown : Push.left;
  if (at.source >= 0 && source.kind(at.source) === "gone" && source.has(at.source, Flag.unreadable))
    return Push.unknown;
  return kind === "dir" ? directory(sides, rules, at) : fileOrLink(sides, rules, at);
}

function directory(sides: PushSides, rules: PushRules, at: PathRows): number {
  const { scratch, source, past } = sides;
  const there = at.source < 0 ? "gone" : source.kind(at.source);
  if (there === "gone") return at.base >= 0 || at.intent >= 0 ? Push.left : Push.mkdir;
  if (there !== "dir") return isAllAsPut(sides, at) ? Push.left : Push.conflict;
  const { base } = past;
  if (!base || at.base < 0 || !rules.modes || base.tree.kind(at.base) !== "dir") return Push.nothing;
  const bits = 0o1777 & ~(rules.groupWritable ? 0o020 : 0);
  const differs = (a: number, b: number) => ((a ^ b) & bits) !== 0;
  const was = base.tree.permissions(at.base);
  const isOurs = differs(scratch.permissions(at.scratch), was) && !differs(source.permissions(at.source), was);
  return isOurs ? Push.chmod : Push.nothing;
}

function fileOrLink(sides: PushSides, rules: PushRules, at: PathRows): number {
  const { scratch, source, past } = sides;
  const there = at.source < 0 ? "gone" : source.kind(at.source);
  const kind = scratch.kind(at.scratch);
  if (isAsPut(sides, at)) {
    const isAsWas = past.base && at.source >= 0 && isSourceAsWas(source, at.source, past.base, at.base);
    if (!isAsWas || !isAsPut({ ...sides, past: { base: past.base } }, at)) return Push.left;
    return kind === "file" && rules.modes && isChmod(sides, past.base as Base, at) ? Push.chmod : Push.nothing;
  }
  if (there === "gone") return at.base >= 0 || at.intent >= 0 ? conflict(sides, rules, at) : newOne(kind);
  if (isEqual(sides, at)) {
    const isOthers = rules.isShared === true && kind === "file" && !isAsPushed(sides, at);
    return isOthers ? Push.compare : Push.nothing;
  }
  const isPlain = there === "file" || there === "link";
  if (isPlain && isAsPushed(sides, at)) return over(kind);
  const wasMeant = past.intent && at.intent >= 0 && !isSourceAsWas(source, at.source, past.intent, at.intent);
  if (isPlain && !wasMeant && past.base && isSourceAsWas(source, at.source, past.base, at.base)) return over(kind);
  const isSized = kind === "file" && there === "file" && scratch.size[at.scratch] === source.size[at.source];
  return isSized ? Push.compare : conflict(sides, rules, at);
}

const newOne = (kind: Kind) => (kind === "link" ? Push.symlink : Push.copy);
const over = (kind: Kind) => (kind === "link" ? Push.symlink : Push.replace);

/** A conflict, or what the user has decided about it; directories are nothing to be written over. */
export function conflict({ scratch, source }: PushSides, { onConflict }: PushRules, at: PathRows): number {
  const there = at.source < 0 ? "gone" : source.kind(at.source);
  if (onConflict !== "scratch" || there === "dir" || there === "other") return Push.conflict;
  const kind = scratch.kind(at.scratch);
  return there === "gone" ? newOne(kind) : over(kind);
}

/** Is it what ef put on scratch, the last time or in a sync that was interrupted since? */
function isAsPut({ scratch, past }: PushSides, { scratch: row, base, intent }: PathRows): boolean {
  const as = ({ tree, scratch: times }: Base, was: number, isSame: (a: bigint, b: bigint) => boolean) => {
    if (tree.kind(was) !== scratch.kind(row)) return false;
    if (scratch.kind(row) === "link") return tree.links.get(was) === scratch.links.get(row);
    if (scratch.kind(row) === "dir") return true;
    return tree.size[was] === scratch.size[row] && isSame(times[was] as bigint, scratch.mtime[row] as bigint);
  };
  if (past.base && base >= 0 && as(past.base, base, (a, b) => a === b)) return true;
  return past.intent !== undefined && intent >= 0 && as(past.intent, intent, sameTime);
}

/** The same of a directory, and of all that is in it. */
function isAllAsPut(sides: PushSides, at: PathRows): boolean {
  if (!isAsPut(sides, at)) return false;
  const { scratch, past } = sides;
  if (scratch.has(at.scratch, Flag.unreadable)) return false;
  const [from, to] = scratch.children(at.scratch);
  const within = (tree: Tree | undefined, dir: number, name: string) =>
    tree && dir >= 0 ? (tree.child(dir, name) ?? -1) : -1;
  for (let row = from; row < to; row++) {
    if (isGone(scratch, row)) continue;
    const name = scratch.name(row);
    const base = within(past.base?.tree, at.base, name);
    const intent = within(past.intent?.tree, at.intent, name);
    const one = { scratch: row, source: -1, base, intent };
    if (scratch.kind(row) === "dir" ? !isAllAsPut(sides, one) : !isAsPut(sides, one)) return false;
  }
  return true;
}

/** Is a file or link at the source what it was when it was copied to scratch? */
export function isSourceAsWas(source: Tree, row: number, { tree }: Base, was: number): boolean {
  if (was < 0 || tree.has(was, Flag.orphan) || tree.has(was, Flag.racy)) return false;
  const kind = source.kind(row);
  if (kind !== tree.kind(was)) return false;
  if (kind === "link") return source.links.get(row) === tree.links.get(was);
  return kind === "file" && source.size[row] === tree.size[was] && source.mtime[row] === tree.mtime[was];
}

/** Is a file at the source what an interrupted push put there, so that only scratch has changed since? */
function isAsPushed({ scratch, source, pushing }: PushSides, at: PathRows): boolean {
  const meant = pushing?.tree.find(scratch.path(at.scratch));
  return pushing !== undefined && meant !== undefined && isSourceAsWas(source, at.source, pushing, meant);
}

/** Are both sides the same, as far as can be told without reading them? */
function isEqual({ scratch, source, past }: PushSides, at: PathRows): boolean {
  const kind = scratch.kind(at.scratch);
  if (kind !== source.kind(at.source)) return false;
  if (kind === "link") return scratch.links.get(at.scratch) === source.links.get(at.source);
  const isRacy =
    scratch.has(at.scratch, Flag.racy) ||
    source.has(at.source, Flag.racy) ||
    (past.base !== undefined && at.base >= 0 && past.base.tree.has(at.base, Flag.racy));
  if (isRacy || scratch.size[at.scratch] !== source.size[at.source]) return false;
  return isSameTime(scratch.mtime[at.scratch] as bigint, source.mtime[at.source] as bigint);
}

/** Is one of two files a copy of the other, by its time? Either may be on storage that keeps whole seconds. */
export const isSameTime = (a: bigint, b: bigint): boolean => sameTime(a, b) || sameTime(b, a);

function isChmod({ scratch, source }: PushSides, { tree }: Base, at: PathRows): boolean {
  const was = tree.permissions(at.base) & ~setIds;
  const is = scratch.permissions(at.scratch) & ~setIds;
  return is !== was && (source.permissions(at.source) & ~setIds) === was;
}
