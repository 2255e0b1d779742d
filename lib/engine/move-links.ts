/** Symbolic links of a directory that moves: those that name the old place by its whole path would lead nowhere. */
import { statSync } from "node:fs";
import { type ByteString, bytesOf, display, osPath } from "../base/bytes.ts";
import { plural } from "../base/units.ts";
import { directoryMode, rulesOf } from "./directories.ts";
import type { Move } from "./move-checks.ts";
import { tempName } from "./names.ts";
import type { Storage } from "./storage.ts";
import type { Tree } from "./tree.ts";

/** How many names a warning lists. */
const named = 5;

/**
 * Make links that lead into the old place lead to the same entry of the new one. Those that leave it by `..` stay as they
 * are, and are told where that leads elsewhere from the new place. Times stay.
 *
 * Safe to repeat: a run that goes on finds links that differ, and brings them anew.
 *
 * @param tree the old place; the new one holds the same
 * @returns how many were made to lead elsewhere
 */
export async function mendLinks(
  move: Move,
  tree: Tree,
  storage: Storage,
  onWarning: (message: string) => void,
): Promise<number> {
  const isOld = oldPlace(move);
  let mended = 0;
  const lost: ByteString[] = [];
  for (const [row, text] of tree.links) {
    const rest = restIn(text, isOld);
    if (rest !== undefined) {
      await relink(bytesOf(move.toReal), tree, row, bytesOf(move.to) + rest, storage);
      mended++;
    } else if (leaves(tree.path(row), text) && isLost(move, tree.path(row))) lost.push(tree.path(row));
  }
  if (lost.length > 0) {
    const names = lost.slice(0, named).map(display).join(", ") + (lost.length > named ? ", …" : "");
    const links = plural(lost.length, "symbolic link");
    onWarning(`${links} led out of ${move.from} by .., and from ${move.to} not to the same: ${names}`);
  }
  return mended;
}

/** Is a path the old place, by whatever name? Each is asked for once. */
function oldPlace({ from, fromReal }: Move): (path: ByteString) => boolean {
  const real = identity(bytesOf(fromReal));
  const known = new Map([from, fromReal].map((path) => [bytesOf(path), true]));
  return (path) => {
    const is = known.get(path) ?? (real !== undefined && identity(path) === real);
    known.set(path, is);
    return is;
  };
}

/** What a path leads to; undefined if to nothing. */
function identity(path: ByteString): string | undefined {
  try {
    const { dev, ino } = statSync(osPath(path), { bigint: true });
    return `${dev} ${ino}`;
  } catch {
    return undefined;
  }
}

/** What of an absolute link comes behind the old place; undefined if it leads elsewhere. */
function restIn(text: ByteString, isOld: (path: ByteString) => boolean): ByteString | undefined {
  if (!text.startsWith("/")) return undefined;
  for (let head = text.replace(/\/+$/, ""); head !== ""; head = head.slice(0, head.lastIndexOf("/"))) {
    if (!isOld(head)) continue;
    const rest = text.slice(head.length);
    return rest.split("/").includes("..") ? undefined : rest;
  }
  return undefined;
}

async function relink(root: ByteString, tree: Tree, row: number, text: ByteString, storage: Storage): Promise<void> {
  const dir = tree.parent[row] as number;
  const at = dir === 0 ? root : `${root}/${tree.path(dir)}`;
  const temp = `${at}/${tempName()}`;
  const was = tree.permissions(dir);
  const mode = dir === 0 ? was : directoryMode(was, rulesOf(statSync(osPath(root))));
  const isShut = (mode & 0o300) !== 0o300;
  if (isShut) await storage.chmod(at, mode | 0o700);
  try {
    await storage.symlink(text, temp);
    await storage.setTimes(temp, tree.mtime[row] as bigint);
    await storage.rename(temp, `${root}/${tree.path(row)}`);
  } finally {
    await storage.setTimes(at, tree.mtime[dir] as bigint);
    if (isShut) await storage.chmod(at, mode);
  }
}

/** Does a relative link leave the root by its names? */
function leaves(path: ByteString, text: ByteString): boolean {
  if (text.startsWith("/")) return false;
  let depth = path.split("/").length - 1;
  for (const name of text.split("/")) {
    if (name === "..") depth--;
    else if (name !== "" && name !== ".") depth++;
    if (depth < 0) return true;
  }
  return false;
}

/** Does a link lead to something at the old place, and from the new one to something else or nothing? */
function isLost({ fromReal, toReal }: Move, path: ByteString): boolean {
  const before = identity(`${bytesOf(fromReal)}/${path}`);
  return before !== undefined && before !== identity(`${bytesOf(toReal)}/${path}`);
}
