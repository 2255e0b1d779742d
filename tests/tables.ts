/** Trees written down in a few words, for what decides without touching a file system. */
import { type Diff, Do, diff, type Past, type Rules } from "../lib/engine/diff.ts";
import { type Base, unknownTime } from "../lib/engine/manifest.ts";
import { Tree } from "../lib/engine/tree.ts";

/** An entry of a tree. Times are in seconds since 1970, maybe with a fraction. */
export interface Entry {
  kind: "file" | "dir" | "link" | "other" | "gone";
  size?: number;
  time?: number;
  mode?: number;
  /** Names of one inode have the same one. */
  inode?: string | undefined;
  /** Where a link points. */
  text?: string;
  /** {@link Flag} */
  flags?: number;
  /** In a base: the time it has on scratch, if another; undefined for the same. */
  scratch?: number | undefined;
}

const types = { file: 0o100000, dir: 0o040000, link: 0o120000, other: 0o010000, gone: 0 };

export const ns = (seconds: number): bigint => BigInt(Math.round(seconds * 1e6)) * 1000n;

export const file = (size: number, time: number, more: Partial<Entry> = {}): Entry => ({
  kind: "file",
  size,
  time,
  ...more,
});
export const dir = (more: Partial<Entry> = {}): Entry => ({ kind: "dir", time: 1, ...more });
export const link = (text: string, more: Partial<Entry> = {}): Entry => ({ kind: "link", text, time: 1, ...more });
export const fifo: Entry = { kind: "other", time: 1 };
export const gone: Entry = { kind: "gone", time: 0 };

export type Entries = Record<string, Entry>;

/** A table of these paths; directories above them are made. The root's own entry is "". */
export function treeOf(entries: Entries): Tree {
  const all = new Map(Object.entries(entries));
  for (const path of Object.keys(entries))
    for (let at = path; at !== ""; ) {
      at = at.includes("/") ? at.slice(0, at.lastIndexOf("/")) : "";
      if (!all.has(at)) all.set(at, dir());
    }
  const tree = new Tree();
  const children = new Map<string, string[]>();
  for (const path of all.keys()) {
    if (path === "") continue;
    const parent = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";
    const names = children.get(parent) ?? [];
    if (names.push(path.slice(path.lastIndexOf("/") + 1)) === 1) children.set(parent, names);
  }
  const put = (row: number, path: string) => {
    const { kind, size = 0, time = 1, mode, inode, text, flags = 0 } = all.get(path) ?? dir();
    const permissions = mode ?? (kind === "dir" ? 0o755 : kind === "link" ? 0o777 : 0o644);
    const facts = { mode: kind === "gone" ? 0 : types[kind] | permissions, size, mtimeNs: ns(time) };
    if (row === 0) tree.addRoot(facts);
    else tree.set(row, facts);
    tree.flag(row, flags);
    if (inode !== undefined) tree.setInode(row, inode);
    if (text !== undefined) tree.links.set(row, text);
  };
  put(0, "");
  const open: [number, string][] = [[0, ""]];
  for (let next = open.shift(); next; next = open.shift()) {
    const [row, path] = next;
    const names = (children.get(path) ?? []).sort((a, b) => (a < b ? -1 : 1));
    const first = tree.addChildren(row, names);
    names.forEach((name, i) => {
      const below = path === "" ? name : `${path}/${name}`;
      put(first + i, below);
      if (tree.kind(first + i) === "dir") open.push([first + i, below]);
    });
  }
  return tree;
}

/** What was put on scratch: with the source's times where an entry says no other. */
export function baseOf(entries: Entries): Base {
  const tree = treeOf(entries);
  const scratch = tree.mtime.slice(0, tree.length) as BigInt64Array;
  for (let row = 0; row < tree.length; row++) {
    const own = entries[tree.path(row)]?.scratch;
    if (own !== undefined) scratch[row] = Number.isNaN(own) ? unknownTime : ns(own);
  }
  return { tree, scratch };
}

export const plainRules: Rules = { mirror: false, arrival: undefined, workSinceNs: 0n };

const words = Object.fromEntries(Object.entries(Do).map(([word, value]) => [value, word]));

/** A decision in words. */
export interface Decided {
  /** What is to be done, by path; nothing is left out. */
  todo: Record<string, string>;
  remove: string[];
  clear: string[];
  orphans: string[];
  /** Which path each is linked to. */
  leaders: Record<string, string>;
  purged: number;
}

export function decide(source: Entries, target: Entries, past: Past = {}, rules: Partial<Rules> = {}): Decided {
  return inWords(diff(treeOf(source), treeOf(target), past, { ...plainRules, ...rules }), past.base);
}

export function inWords(found: Diff, base?: Base): Decided {
  const { source, target, todo, remove, clear, orphans, leaders, purged } = found;
  const rows = Array.from({ length: source.length }, (_, row) => row).filter((row) => todo[row] !== Do.nothing);
  return {
    todo: Object.fromEntries(rows.map((row) => [source.path(row), words[todo[row] as number] ?? "?"])),
    remove: remove.map((row) => target.path(row)),
    clear: clear.map((row) => target.path(row)),
    orphans: orphans.map((row) => base?.tree.path(row) ?? "?"),
    leaders: Object.fromEntries([...leaders].map(([row, leader]) => [source.path(row), source.path(leader)])),
    purged,
  };
}

/** Numbers from a seed, the same each time: 0 to below `below`. */
export function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * below);
  };
}
