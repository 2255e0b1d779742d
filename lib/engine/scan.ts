/**
 * Read a directory tree into a table: readdir(3) of each directory, lstat(2) of each entry, with as many requests in
 * flight as its storage answers.
 */
import type { BigIntStats } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { oneMore } from "../base/memory.ts";
import { get, type Steps } from "../base/steps.ts";
import type { Look } from "../drivers/statx.ts";
import { crew } from "./crew.ts";
import type { Gauge } from "./gauge.ts";
import { isTemp } from "./names.ts";
import { lookOf, type Storage } from "./storage.ts";
import { Flag, type Kind, Tree } from "./tree.ts";

export interface ScanOptions {
  storage: Storage;
  gauge: Gauge;
  signal?: AbortSignal | undefined;
  /** Says what is left out, with all that is below it; `path` is relative to the root. */
  exclude?: ((path: ByteString, isDirectory: boolean) => boolean) | undefined;
  /** Knows the entries of a directory without asking the storage; undefined if it does not. */
  recall?: ((path: ByteString) => Recalled | undefined) | undefined;
  /** Knows what a name in a directory is without a look at it, if it is there; names are asked for in byte order. */
  trust?: Trust | undefined;
  /** Called once when the tree turns out to be large, and its storage quick. */
  onLarge?: (() => void) | undefined;
  /** Hears how many entries more have been looked at. */
  onLook?: ((entries: number) => void) | undefined;
  /** Hears what a look found, of the root too: for counting, and dates for a purge forecast. */
  onEntry?: ((stat: BigIntStats) => void) | undefined;
}

/** Gives the facts of a name to a row; false where only a look can tell. */
export type Trust = (path: ByteString) => ((name: ByteString, tree: Tree, row: number) => boolean) | undefined;

/** Entries of a directory, in byte order of their names, with what a look would find. */
export interface Recalled {
  names: ByteString[];
  /** Give the facts of the i-th name to the row. */
  fill(tree: Tree, row: number, i: number): void;
}

export interface Scan {
  tree: Tree;
  /** What could not be read: relative paths, with the error. */
  problems: { path: ByteString; error: unknown }[];
  /** Temporary files of earlier runs: relative paths; they are in no row. */
  temps: ByteString[];
}

/** Rows looked at by one task: few, so that a large directory keeps many requests in flight. */
const rowsAtOnce = 16;
/** From so many entries on, a second thread has started before the work is done. */
export const largeRows = 3000;
/** A change after a look may leave the time that was seen: within a tick of the kernel, or the grain of the clock. */
const tickMs = 20;
const grainMs = 2000;

/**
 * @param root absolute; a link there is followed
 * @throws the root cannot be read; the signal's reason
 */
export async function scan(root: ByteString, options: ScanOptions): Promise<Scan> {
  const { storage, exclude, recall } = options;
  const tree = new Tree();
  const found: Scan = { tree, problems: [], temps: [] };
  const dirs: number[] = [0];
  const lots: Lot[] = [];
  let isLarge = false;
  const below = (path: ByteString) => (path === "" ? `${root}/` : `${root}/${path}`);

  /**
   * What a directory lists and cannot be found. Mostly somebody has just removed it; but storage was seen to say so of what was
   * there, and then no time tells that this look is wrong: so its directory does not count as known.
   */
  const vanished = (row: number) => tree.flag(tree.parent[row] as number, Flag.racy);

  function* enter(dir: number): Steps<void> {
    const path = tree.path(dir);
    const known = recall?.(path);
    if (known) {
      const first = tree.addChildren(dir, known.names);
      for (let i = 0; i < known.names.length; i++) {
        known.fill(tree, first + i, i);
        if (tree.kind(first + i) === "dir") dirs.push(first + i);
      }
      return;
    }
    let names: ByteString[];
    try {
      // Its row may be what was recalled of its parent: it is to be as it is now, and from before its names are read.
      const now = recall && dir !== 0 ? yield* get(storage.glance(below(path))) : undefined;
      if (now) setRow(tree, dir, now);
      names = (yield* get(storage.list(below(path)))).sort(byBytes);
    } catch (error) {
      if (dir === 0) throw error;
      if (errnoOf(error) === "ENOENT") {
        tree.set(dir, gone);
        return vanished(dir);
      }
      tree.flag(dir, Flag.unreadable);
      found.problems.push({ path, error });
      return;
    }
    const start = path === "" ? "" : `${path}/`;
    if (names.some((name) => name.startsWith(".ef-"))) {
      for (const name of names) if (isTemp(name)) found.temps.push(start + name);
      names = names.filter((name) => !isTemp(name));
    }
    if (exclude) names = names.filter((name) => !(exclude(start + name, true) && exclude(start + name, false)));
    const first = tree.addChildren(dir, names);
    if (options.onLarge && !isLarge && tree.length > largeRows && storage.isQuick) {
      isLarge = true;
      options.onLarge();
    }
    const told = options.trust?.(path);
    const isOpen = (i: number) => !told?.(names[i] as ByteString, tree, first + i);
    for (let at = 0; at < names.length; at++) {
      if (told && !isOpen(at)) continue;
      const to = told ? at + 1 : Math.min(at + rowsAtOnce, names.length);
      lots.push({ start, names, first, at, to });
      at = to - 1;
    }
  }

  function* look({ start, names, first, at, to }: Lot): Steps<void> {
    const seen = options.onEntry ? undefined : storage.glanceAll(`${root}/${start}`, names.slice(at, to));
    for (let i = at; i < to; i++) {
      const path = start + (names[i] as ByteString);
      const row = first + i;
      oneMore();
      try {
        const stat = options.onEntry ? yield* get(storage.lookUp(`${root}/${path}`)) : undefined;
        const known = seen?.[i - at];
        const look =
          seen && known !== null
            ? known
            : options.onEntry
              ? stat && lookOf(stat)
              : yield* get(storage.glance(`${root}/${path}`));
        if (!look) {
          vanished(row);
          continue;
        }
        const kind = setRow(tree, row, look);
        if (exclude?.(path, kind === "dir")) {
          tree.set(row, gone);
          continue;
        }
        if (stat) options.onEntry?.(stat);
        if (kind === "dir") dirs.push(row);
        else if (kind === "link") tree.links.set(row, yield* get(storage.readlink(`${root}/${path}`)));
      } catch (error) {
        tree.set(row, gone);
        if (errnoOf(error) === "ENOENT") {
          vanished(row);
          continue;
        }
        tree.flag(row, Flag.unreadable);
        found.problems.push({ path, error });
      }
    }
    options.onLook?.(to - at);
  }

  const stat = await storage.lstat(`${root}/`);
  tree.addRoot(lookOf(stat));
  options.onEntry?.(stat);
  // Directories first: what they hold is what keeps requests in flight.
  await crew(
    () => dirs.pop() ?? lots.pop(),
    (task) => (typeof task === "number" ? enter(task) : look(task)),
    options,
  );
  return found;
}

/** Some names of a directory, from `at` to before `to`, to be looked at. */
interface Lot {
  /** The path of the directory with a slash, or nothing. */
  start: ByteString;
  names: readonly ByteString[];
  /** The row of the first of all names. */
  first: number;
  at: number;
  to: number;
}

const gone = { mode: 0, size: 0, mtimeNs: 0n };

const byBytes = (a: ByteString, b: ByteString) => (a < b ? -1 : a > b ? 1 : 0);

function setRow(tree: Tree, row: number, look: Look): Kind {
  tree.set(row, look);
  if (isRacy(look)) tree.flag(row, Flag.racy);
  const kind = tree.kind(row);
  if (kind !== "file") return kind;
  if (look.nlink > 1) tree.setInode(row, look.inode());
  const bytes = look.blocks * 512;
  if (bytes < look.size) {
    tree.flag(row, Flag.sparse);
    tree.allocated.set(row, bytes);
  }
  return kind;
}

/** Could it still change without changing its time? Whole seconds mean a file system that stores no more. */
function isRacy({ mtimeS, mtimeRest }: Look): boolean {
  const ageMs = Date.now() - (mtimeS * 1000 + mtimeRest / 1e6);
  if (ageMs > grainMs || ageMs < -grainMs) return false;
  return ageMs < (mtimeRest === 0 ? grainMs : tickMs);
}
