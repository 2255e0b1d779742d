/**
 * Is a copy what it should be? Looked at directly, not through a slow mount, and after the clock has stopped.
 *
 * By our own means instead of `rsync -n`: the contents are read as well, and a list of what a program does not keep
 * (hard links, times of directories) belongs into the table.
 */
import { lstatSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { walk } from "./trees.ts";

export type Difference =
  | "missing"
  | "extra"
  | "type"
  | "size"
  | "content"
  | "mode"
  | "owner"
  | "link target"
  | "hard links"
  | "times"
  | "link times"
  | "directory times";

/** How many paths differ in what; empty for an exact copy. */
export type Differences = Partial<Record<Difference, number>>;

export function compareTrees(source: string, target: string): Differences {
  const found: Differences = {};
  const note = (what: Difference) => {
    found[what] = (found[what] ?? 0) + 1;
  };
  const expected = new Set<string>();
  /** Inode in the source → inode in the target. */
  const pairs = new Map<number, number>();
  for (const { path, stat } of walk(source)) {
    expected.add(path);
    const copy = lstatSync(join(target, path), { throwIfNoEntry: false });
    if (!copy) {
      note("missing");
      continue;
    }
    if ((stat.mode & 0o170000) !== (copy.mode & 0o170000)) {
      note("type");
      continue;
    }
    if (stat.mode !== copy.mode) note("mode");
    if (stat.uid !== copy.uid || stat.gid !== copy.gid) note("owner");
    // Nanoseconds are not compared: tar keeps none.
    const otherTime = Math.floor(stat.mtimeMs / 1000) !== Math.floor(copy.mtimeMs / 1000);
    if (stat.isDirectory()) {
      if (otherTime) note("directory times");
    } else if (stat.isSymbolicLink()) {
      if (otherTime) note("link times");
      if (readlinkSync(join(source, path)) !== readlinkSync(join(target, path))) note("link target");
    } else {
      if (otherTime) note("times");
      const twin = pairs.get(stat.ino);
      pairs.set(stat.ino, copy.ino);
      if (twin !== undefined && twin !== copy.ino) note("hard links");
      if (stat.size !== copy.size) note("size");
      else if (twin !== copy.ino && !sameContent(join(source, path), join(target, path))) note("content");
    }
  }
  for (const { path } of walk(target)) if (!expected.has(path)) note("extra");
  return found;
}

const sameContent = (a: string, b: string) => readFileSync(a).equals(readFileSync(b));

/** `content: 3 paths, hard links: 4800 paths` */
export const describeDifferences = (found: Differences): string =>
  Object.entries(found)
    .map(([what, count]) => `${what}: ${count} path${count === 1 ? "" : "s"}`)
    .join(", ");
