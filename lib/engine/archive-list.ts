/** What of a scanned tree goes into an archive, in which order and as what. */
import { realpathSync } from "node:fs";
import { type ByteString, osPath } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { lookOf, type Storage } from "./storage.ts";
import type { TarEntry } from "./tar-format.ts";
import { staysInside } from "./tar-links.ts";
import type { Tree } from "./tree.ts";

/** What becomes of a symbolic link that leaves the root; `text`: it is stored with that. */
export type OutsideLink = (
  path: ByteString,
  text: ByteString,
) => "keep" | "follow" | "drop" | { readonly text: ByteString };

/** An entry, and where its contents are and what they were when looked at. */
export interface Planned {
  row: number;
  /** Of a hard link: the row of the file that comes before. */
  first: number;
  /** Of a link that is followed. */
  followed: Followed | undefined;
}

interface Followed {
  /** Absolute, a regular file. */
  path: ByteString;
  mode: number;
  size: number;
  mtimeNs: bigint;
}

export interface List {
  /** Directories before what they hold, names of one directory in byte order. */
  entries: Planned[];
  files: number;
  contentBytes: number;
  dropped: ByteString[];
  followed: ByteString[];
  skipped: ByteString[];
}

/** @param root absolute */
export async function listOf(tree: Tree, root: ByteString, storage: Storage, outside: OutsideLink): Promise<List> {
  const list: List = { entries: [], files: 0, contentBytes: 0, dropped: [], followed: [], skipped: [] };
  const firsts = new Map<number, number>();
  const kept = new Set<number>();
  const toFollow: { entry: Planned; path: ByteString }[] = [];
  const linkAt = (path: ByteString) => {
    const row = tree.find(path);
    return row === undefined ? undefined : kept.has(row) ? null : tree.links.get(row);
  };

  const keep = (row: number, what: "keep" | { readonly text: ByteString }) => {
    kept.add(row);
    if (what !== "keep") tree.links.set(row, what.text);
  };
  const addLink = (entry: Planned) => {
    const path = tree.path(entry.row);
    const text = tree.links.get(entry.row) ?? "";
    if (!kept.has(entry.row) && !staysInside(path, text, linkAt)) {
      const what = outside(path, text);
      if (what === "drop") return void list.dropped.push(path);
      if (what === "follow") toFollow.push({ entry, path });
      else keep(entry.row, what);
    }
    list.entries.push(entry);
  };
  const addFile = (entry: Planned) => {
    const inode = tree.inode[entry.row] as number;
    entry.first = (inode !== 0 && firsts.get(inode)) || entry.row;
    if (inode !== 0 && entry.first === entry.row) firsts.set(inode, entry.row);
    if (entry.first === entry.row) list.contentBytes += tree.size[entry.row] as number;
    list.files++;
    list.entries.push(entry);
  };
  const addDir = (dir: number) => {
    const [from, to] = tree.children(dir);
    for (let row = from; row < to; row++) {
      const entry: Planned = { row, first: row, followed: undefined };
      switch (tree.kind(row)) {
        case "dir":
          list.entries.push(entry);
          addDir(row);
          break;
        case "file":
          addFile(entry);
          break;
        case "link":
          addLink(entry);
          break;
        case "other":
          list.skipped.push(tree.path(row));
          break;
        case "gone": // it vanished before it was looked at, or is excluded
      }
    }
  };
  // First of all those that leave the root themselves: others lead to them, as `python` to `python3`.
  for (const [row, text] of tree.links) {
    const path = tree.path(row);
    if (staysInside(path, text, () => undefined)) continue;
    const what = outside(path, text);
    if (what === "keep" || typeof what === "object") keep(row, what);
  }
  addDir(0);

  const lost = new Set<Planned>();
  for (const { entry, path } of toFollow) {
    entry.followed = await follow(`${root}/${path}`, storage);
    (entry.followed ? list.followed : list.dropped).push(path);
    if (!entry.followed) lost.add(entry);
    else list.contentBytes += entry.followed.size;
  }
  list.files += list.followed.length;
  if (lost.size > 0) list.entries = list.entries.filter((entry) => !lost.has(entry));
  return list;
}

/** The regular file that a link leads to; undefined if it is none. */
async function follow(link: ByteString, storage: Storage): Promise<Followed | undefined> {
  try {
    const path = realpathSync(osPath(link), "buffer").toString("latin1");
    const { mode, size, mtimeNs } = lookOf(await storage.lstat(path));
    return (mode & 0o170000) === 0o100000 ? { path, mode, size, mtimeNs } : undefined;
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return undefined; // dangling, a loop, or not ours to see
  }
}

/** Rounded down, as tar has no less. */
const secondsOf = (ns: bigint): number => {
  const seconds = Number(ns / 1_000_000_000n);
  return ns < 0n && ns % 1_000_000_000n !== 0n ? seconds - 1 : seconds;
};

export function entryOf(tree: Tree, { row, first, followed }: Planned): TarEntry {
  const path = tree.path(row);
  const plain = { path, mode: tree.permissions(row), mtimeS: secondsOf(tree.mtime[row] as bigint), size: 0, link: "" };
  if (followed) {
    const { mode, size, mtimeNs } = followed;
    return { ...plain, type: "file", mode: mode & 0o7777, size, mtimeS: secondsOf(mtimeNs) };
  }
  const kind = tree.kind(row);
  if (kind === "dir") return { ...plain, type: "dir" };
  if (kind === "link") return { ...plain, type: "link", mode: 0o777, link: tree.links.get(row) ?? "" };
  if (first !== row) return { ...plain, type: "hardlink", link: tree.path(first) };
  return { ...plain, type: "file", size: tree.size[row] as number };
}
