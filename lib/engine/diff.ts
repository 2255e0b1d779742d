/**
 * What a sync has to do: from what was put on scratch the last time, what the source is now, and what scratch holds now.
 *
 * Pure. The three tables are walked side by side, names in byte order. The rules, for each path:
 * - The source has it and scratch has the same: nothing. Scratch has none: it is brought. Scratch has another: replaced, if
 *   it is what ef put there; kept, if a job changed it since (a push brings it home, a sync never destroys it).
 * - The source has it no more: with `mirror` it is removed, if it is what ef put there; else it stays.
 * - What ef does not know is a job's, and stays.
 * Without a base nobody knows who wrote what on scratch: a file that is younger than the source's and than the last sync is a
 * job's, unless its contents tell otherwise. An interrupted copy has left its intent, so that what it brought is known to be ef's.
 */
import { oneMore } from "../base/memory.ts";
import type { Base } from "./manifest.ts";
import { Flag, type Tree } from "./tree.ts";

/** What is to be done for a row of the source. */
export const Do = {
  nothing: 0,
  /** Make a directory. */
  mkdir: 1,
  /** Copy a file, where nothing is. */
  copy: 2,
  /** Copy a file over another one. */
  replace: 3,
  /** Make a symbolic link, over whatever is there. */
  symlink: 4,
  /** Make a hard link to {@link Diff.leaders}. */
  link: 5,
  /** Only the permissions differ. */
  chmod: 6,
  /** A job's work is there: kept. */
  keep: 7,
  /** FIFO, socket, device: left out. */
  skip: 8,
  /** Something of another type is there that is not ef's: a person has to look. */
  blocked: 9,
} as const;
export type Do = (typeof Do)[keyof typeof Do];

export interface Rules {
  /** Delete on scratch what the source deleted and ef had put there. */
  mirror: boolean;
  /** Which rows get the time they arrived, instead of the source's; undefined for none. */
  arrival: Uint8Array | undefined;
  /** Without a base: what changed on scratch after this, in nanoseconds since 1970, may be a job's work; 0 for unknown. */
  workSinceNs: bigint;
  /** What is known of the contents of {@link Diff.unsure}, by row of the source. */
  contents?: ReadonlyMap<number, Contents> | undefined;
}

/** How the contents of a file on scratch are to those of the source's: the same, no more than their beginning, or others. */
export type Contents = "same" | "beginning" | "other";

/**
 * Rows that get the time of their arrival: all but those of Python environments, whose `.pyc` files name the times of their
 * sources (PEP 552).
 *
 * @returns by row: 1 for the time of arrival
 */
export function arrivalRows(source: Tree): Uint8Array {
  const arrival = new Uint8Array(source.length).fill(1);
  for (let row = 0; row < source.length; row++) {
    if (source.kind(row) !== "dir") arrival[row] = arrival[source.parent[row] as number] as number;
    else if (row > 0 && arrival[source.parent[row] as number] === 0) arrival[row] = 0;
    else if (source.child(row, "pyvenv.cfg") !== undefined || source.child(row, "conda-meta") !== undefined)
      arrival[row] = 0;
  }
  return arrival;
}

/** What is known of earlier syncs. */
export interface Past {
  /** What the last whole sync put on scratch. */
  base?: Base | undefined;
  /** What a sync since then meant to put there: perhaps it did, perhaps it was killed before. */
  intent?: Base | undefined;
}

export interface Diff {
  source: Tree;
  target: Tree;
  /** By row of the source: {@link Do}. */
  todo: Uint8Array;
  /** By row of the source: its row in the target and 1, or 0. */
  there: Uint32Array;
  /** By row of the source: its row in the base and 1, or 0. */
  known: Uint32Array;
  /** Of rows to be linked: the row whose file they become. */
  leaders: Map<number, number>;
  /** Rows of the target that `mirror` removes, what is in a directory before the directory. */
  remove: number[];
  /** Rows of the target that stand where something of another type goes, in the same order. */
  clear: number[];
  /** Rows of the base that the source has no more, and scratch has still; directories before what is in them. */
  orphans: number[];
  /** Rows of files that are kept because nothing tells whose they are: their contents would ({@link Rules.contents}). */
  unsure: number[];
  /** {@link Rules.arrival} */
  arrival: Uint8Array | undefined;
  /** Files that ef had put on scratch, and that are not there any more, though the source has them. */
  purged: number;
}

/** Times that differ by less, in nanoseconds, are the same: node:fs sets them as doubles. */
const exactNs = 1000n;
const millisecond = 1_000_000n;
const second = 1_000_000_000n;

/**
 * Did a copy get this time from that file? Some file systems keep whole seconds, or two, or 100 ns; Deno sets whole
 * milliseconds.
 */
export function sameTime(source: bigint, target: bigint): boolean {
  const apart = source > target ? source - target : target - source;
  if (apart < exactNs || (target % second === 0n && apart < 2n * second)) return true;
  return target % millisecond === 0n && apart < millisecond;
}

export function diff(source: Tree, target: Tree, { base, intent }: Past, rules: Rules): Diff {
  const result: Diff = {
    source,
    target,
    todo: new Uint8Array(new SharedArrayBuffer(source.length)),
    there: new Uint32Array(new SharedArrayBuffer(4 * source.length)),
    known: new Uint32Array(source.length),
    leaders: new Map(),
    remove: [],
    clear: [],
    orphans: [],
    unsure: [],
    arrival: rules.arrival,
    purged: 0,
  };
  if (base) result.known[0] = 1;
  result.there[0] = target.length > 0 ? 1 : 0;
  const walker = new Walker(result, base, intent, rules);
  walker.directory(0);
  walker.splitNames();
  walker.hardLinks();
  return result;
}

/** Is a row of scratch what was put there? */
export function isAsWas(target: Tree, here: number, { tree, scratch }: Base, was: number): boolean {
  const kind = tree.kind(was);
  if (kind !== target.kind(here)) return false;
  if (kind === "link") return tree.links.get(was) === target.links.get(here);
  if (kind === "dir") return true;
  return tree.size[was] === target.size[here] && sameTime(scratch[was] as bigint, target.mtime[here] as bigint);
}

/** Is it the time that was noted, maybe by a runtime that knows whole milliseconds (Deno)? */
const isAsNoted = (time: bigint, noted: bigint): boolean =>
  time === noted || (noted % 1_000_000n === 0n && time - noted > 0n && time - noted < 1_000_000n);

class Walker {
  readonly #emptied: boolean;

  constructor(
    readonly diff: Diff,
    readonly base: Base | undefined,
    readonly intent: Base | undefined,
    readonly rules: Rules,
  ) {
    // A source that was full and is empty is most often not mounted: nothing is deleted because of it.
    const [from, to] = diff.source.children(0);
    this.#emptied = from === to;
  }

  /** Compare a directory of the source, and all below it, with its counterparts. */
  directory(top: number): void {
    const stack = [top];
    const { source, target, there, known, todo } = this.diff;
    for (let dir = stack.pop(); dir !== undefined; dir = stack.pop()) {
      const [from, to] = source.children(dir);
      if (source.has(dir, Flag.unreadable)) continue; // what is in it, nobody knows
      const here = there[dir] as number;
      const usable = here > 0 && target.kind(here - 1) === "dir";
      let [t, tEnd] = usable ? target.children(here - 1) : [0, 0];
      const was = known[dir] as number;
      let [b, bEnd] = was > 0 && this.base ? this.base.tree.children(was - 1) : [0, 0];
      for (let row = from; row < to; row++) {
        // What the source has no more is passed over on the way to the next name that it has.
        for (; t < tEnd && source.compareNames(row, target, t) > 0; t++) b = this.#stray(t, b, bEnd);
        if (t < tEnd && source.compareNames(row, target, t) === 0) there[row] = ++t;
        for (; b < bEnd && source.compareNames(row, this.#tree, b) > 0; b++);
        if (b < bEnd && source.compareNames(row, this.#tree, b) === 0) known[row] = ++b;
        this.#row(row);
        if (source.kind(row) === "dir" && todo[row] !== Do.blocked) stack.push(row);
      }
      for (; t < tEnd; t++) b = this.#stray(t, b, bEnd);
    }
  }

  get #tree(): Tree {
    return (this.base as Base).tree;
  }

  #row(row: number): void {
    oneMore();
    const { source, target, there, todo } = this.diff;
    const here = (there[row] as number) - 1;
    const kind = source.kind(row);
    if (kind === "gone") {
      const was = this.#known(row);
      if (here < 0 || was < 0 || target.kind(here) === "gone") return;
      // It vanished just now, or it cannot be looked at: in that case nobody knows.
      if (source.has(row, Flag.unreadable)) this.diff.orphans.push(was);
      else this.#orphan(here, was);
      return;
    }
    if (kind === "other") {
      todo[row] = Do.skip;
      // What ef put there when it was a file is the source's no more.
      const was = this.#known(row);
      if (here >= 0 && was >= 0 && target.kind(here) !== "gone") this.#orphan(here, was);
      return;
    }
    const thereKind = here < 0 ? "gone" : target.kind(here);
    if (kind === "dir") {
      if (thereKind === "dir") return;
      const free = thereKind === "gone" || this.#isOurs(row, here);
      todo[row] = free ? Do.mkdir : Do.blocked;
      if (free && thereKind !== "gone") this.diff.clear.push(here);
      return;
    }
    if (thereKind === "gone") {
      todo[row] = kind === "link" ? Do.symlink : Do.copy;
      if (this.#known(row) >= 0 && this.#tree.kind(this.#known(row)) === kind) this.diff.purged++;
      return;
    }
    if (thereKind === "dir") {
      const meant = this.intent?.tree.find(source.path(row)) ?? -1;
      todo[row] = this.#canClear(here, this.#known(row), meant) ? (kind === "link" ? Do.symlink : Do.copy) : Do.blocked;
      if (todo[row] !== Do.blocked) this.#clear(here);
      return;
    }
    if (kind === "link") {
      const same = thereKind === "link" && target.links.get(here) === source.links.get(row);
      if (!same) todo[row] = this.#isOurs(row, here) ? Do.symlink : Do.keep;
      return;
    }
    const contents = this.rules.contents?.get(row);
    if (thereKind === "file" && (contents === "same" || this.#isSame(row, here))) {
      if (source.permissions(row) !== target.permissions(here)) todo[row] = Do.chmod;
      return;
    }
    todo[row] = contents === "beginning" || this.#isOurs(row, here) ? Do.replace : Do.keep;
    if (todo[row] === Do.keep && !this.base && contents === undefined) this.diff.unsure.push(row);
  }

  #known(row: number): number {
    return (this.diff.known[row] as number) - 1;
  }

  /** Is the file on scratch a copy of that at the source? By size and time, or because the base says so. */
  #isSame(row: number, here: number): boolean {
    const { source, target } = this.diff;
    if (source.size[row] !== target.size[here]) return false;
    const { base, intent } = this;
    const was = this.#known(row);
    // It was being written to when it was copied: nobody knows which half of it that was.
    const isUnsure = was >= 0 && base?.tree.has(was, Flag.racy) === true;
    if (!isUnsure) {
      const isPut = base !== undefined && was >= 0 && isAsWas(target, here, base, was);
      if (isPut && this.#sourceIsAsWas(row, base, was)) return true;
      // A copy of what the source was: that its time is near is no sign then.
      const timeTells = !isPut && !this.rules.arrival?.[row];
      if (timeTells && sameTime(source.mtime[row] as bigint, target.mtime[here] as bigint)) return true;
    }
    const meant = intent?.tree.find(source.path(row));
    if (!intent || meant === undefined) return false;
    return this.#sourceIsAsWas(row, intent, meant) && isAsWas(target, here, intent, meant);
  }

  #sourceIsAsWas(row: number, { tree }: Base, was: number): boolean {
    const { source } = this.diff;
    return (
      tree.kind(was) === source.kind(row) &&
      tree.size[was] === source.size[row] &&
      isAsNoted(source.mtime[row] as bigint, tree.mtime[was] as bigint)
    );
  }

  #scratchIsAsWas(here: number, was: number): boolean {
    return isAsWas(this.diff.target, here, this.base as Base, was);
  }

  /** Did ef put there what is there, so that it may be replaced? */
  #isOurs(row: number, here: number): boolean {
    const { source, target } = this.diff;
    const { base, intent } = this;
    const was = this.#known(row);
    if (base && was >= 0 && isAsWas(target, here, base, was)) return true;
    const meant = intent?.tree.find(source.path(row));
    if (intent && meant !== undefined && isAsWas(target, here, intent, meant)) return true;
    if (base) return false;
    if (target.kind(here) !== "file") return true;
    const time = target.mtime[here] as bigint;
    return time <= this.rules.workSinceNs || time <= (source.mtime[row] as bigint);
  }

  /** Is all below a directory of scratch what ef put there? */
  #canClear(here: number, was: number, meant: number): boolean {
    const { base, intent } = this;
    const { target } = this.diff;
    const isAs = (of: Base | undefined, row: number) => of !== undefined && row >= 0 && isAsWas(target, here, of, row);
    if (!isAs(base, was) && !isAs(intent, meant)) return false;
    if (target.kind(here) !== "dir") return true;
    const [from, to] = target.children(here);
    for (let child = from; child < to; child++) {
      const name = target.name(child);
      const known = was < 0 ? undefined : base?.tree.child(was, name);
      const planned = meant < 0 ? undefined : intent?.tree.child(meant, name);
      if (!this.#canClear(child, known ?? -1, planned ?? -1)) return false;
    }
    return true;
  }

  #clear(here: number): void {
    const { target, clear } = this.diff;
    const [from, to] = target.children(here);
    for (let child = from; child < to; child++) this.#clear(child);
    if (target.kind(here) !== "gone") clear.push(here);
  }

  /**
   * A row of the target that the source does not have.
   *
   * @param b where to look in the base from on
   * @returns where to look for the next one
   */
  #stray(here: number, b: number, bEnd: number): number {
    const { target } = this.diff;
    let at = b;
    if (!this.base || target.kind(here) === "gone") return at;
    for (; at < bEnd && target.compareNames(here, this.#tree, at) > 0; at++);
    if (at < bEnd && target.compareNames(here, this.#tree, at) === 0) this.#orphan(here, at);
    return at;
  }

  /** What ef put on scratch and the source has no more. @returns is it removed, with all below it? */
  #orphan(here: number, was: number): boolean {
    const { target, remove, orphans } = this.diff;
    const at = orphans.push(was) - 1;
    let removable = this.rules.mirror && !this.#emptied && this.#scratchIsAsWas(here, was);
    if (target.kind(here) === "dir" && this.#tree.kind(was) === "dir") {
      const [from, to] = target.children(here);
      for (let child = from; child < to; child++) {
        const known = this.#tree.child(was, target.name(child));
        const removed = known !== undefined && this.#orphan(child, known);
        removable &&= removed;
      }
    }
    if (removable) {
      remove.push(here);
      orphans.splice(at); // and all below it, which came after
    }
    return removable;
  }

  /** Names of one inode on scratch that are several files at the source cannot have the permissions of all of them. */
  splitNames(): void {
    const { source, target, todo, there } = this.diff;
    const names = new Map<number, number[]>();
    for (let row = 1; row < source.length; row++) {
      const inode = target.inode[(there[row] as number) - 1] ?? 0;
      if (inode === 0 || source.kind(row) !== "file" || (todo[row] !== Do.nothing && todo[row] !== Do.chmod)) continue;
      names.set(inode, [...(names.get(inode) ?? []), row]);
    }
    for (const rows of names.values()) {
      const inode = source.inode[rows[0] as number];
      if (inode !== 0 && rows.every((row) => source.inode[row] === inode)) continue;
      if (rows.length > 1) for (const row of rows) if (todo[row] === Do.chmod) todo[row] = Do.replace;
    }
  }

  /** Names of one inode at the source are to be names of one inode on scratch. */
  hardLinks(): void {
    const { source, target, todo, there, leaders } = this.diff;
    const first = new Map<number, number>();
    const isPlain = (row: number) => source.kind(row) === "file" && source.inode[row] !== 0 && todo[row] !== Do.keep;
    const stands = (row: number) => todo[row] === Do.nothing || todo[row] === Do.chmod;
    for (let row = 1; row < source.length; row++) {
      if (!isPlain(row) || todo[row] === Do.blocked) continue;
      const inode = source.inode[row] as number;
      const leader = first.get(inode);
      // A name that is there already leads, so that its contents need not move again.
      if (leader === undefined || (!stands(leader) && stands(row))) first.set(inode, row);
    }
    for (let row = 1; row < source.length; row++) {
      if (!isPlain(row) || todo[row] === Do.blocked) continue;
      const leader = first.get(source.inode[row] as number) as number;
      if (leader === row) continue;
      const linked = (at: number) => target.inode[(there[at] as number) - 1] ?? 0;
      const joined = stands(row) && stands(leader) && linked(row) !== 0 && linked(row) === linked(leader);
      if (joined) continue;
      todo[row] = Do.link;
      leaders.set(row, leader);
    }
  }
}
