/** Remove a copy: what ef made and nobody changed. What a job made there stays, and can be pushed. */
import * as fs from "node:fs";
import { type ByteString, bytesOf, display, osPath } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { removeIfThere, tempBeside } from "../base/files.ts";
import { sidesOf } from "./builtin.ts";
import { sameTime } from "./diff.ts";
import { excluder } from "./exclude.ts";
import { Gauge } from "./gauge.ts";
import { type Base, unknownTime, writeManifest } from "./manifest.ts";
import { isPartial, knownOf, modeBeside } from "./marker.ts";
import type { Step } from "./plan.ts";
import { scan } from "./scan.ts";
import { excludesOf } from "./transfer.ts";
import type { Tree } from "./tree.ts";

export interface Removed {
  name: string;
  target: string;
  /** Files and links that are not as ef put them there: they stay. */
  left: number;
  /** The first of them. */
  first: string | undefined;
}

/**
 * Remove a copy. Call it with its lock held.
 *
 * @param isWanted asked when the copy is no longer taken for whole: if somebody wants it, it stays
 * @returns undefined if it stays
 * @throws what the file system says
 */
export async function removeMade(step: Step, isWanted: () => boolean): Promise<Removed | undefined> {
  const { name, target } = step;
  const known = knownOf(step); // while its marker says which manifest is its own
  const done: Removed = { name, target, left: 0, first: undefined };
  const aside = tempBeside(step.marker);
  const isWhole = renameIfThere(step.marker, aside);
  if (isWanted()) {
    if (isWhole) fs.renameSync(aside, step.marker);
    return undefined;
  }
  const wasPartial = isPartial(step);
  if (fs.lstatSync(target, { throwIfNoEntry: false })?.isDirectory()) {
    const { base, intent } = known;
    const root = bytesOf(target);
    const { tree, problems, temps } = await scan(root, { storage: (await sidesOf("auto")).target, gauge: new Gauge() });
    const junk = excluder(excludesOf(step));
    const goes = new Uint8Array(tree.length);
    for (let row = 1; row < tree.length; row++) {
      if (tree.kind(row) === "dir" || tree.kind(row) === "gone") continue;
      const path = tree.path(row);
      const isOurs = isMade(tree, row, path, base) || isMade(tree, row, path, intent, sameTime);
      goes[row] = isOurs || isJunk(path, junk) ? 1 : 0;
    }
    const note = () => base === undefined || noteRemoval(step, base, tree, goes, wasPartial);
    const isNoted = note();
    removeIfThere(aside);
    for (const path of temps) unlink(`${root}/${path}`);
    for (let row = 1; row < tree.length; row++)
      if (tree.kind(row) === "dir" && (tree.permissions(row) & 0o300) !== 0o300)
        fs.chmodSync(osPath(`${root}/${tree.path(row)}`), tree.permissions(row) | 0o300);
    // From below: what is in a directory comes after it in the table.
    for (let row = tree.length - 1; row > 0; row--) {
      const path = tree.path(row);
      const kind = tree.kind(row);
      if (kind === "dir") rmdir(`${root}/${path}`);
      else if (goes[row] && unlink(`${root}/${path}`)) continue;
      else if (kind !== "gone") {
        done.left++;
        done.first = display(path);
      }
    }
    done.left += problems.length;
    if (rmdir(root)) removeIfThere(step.manifest);
    else if (!isNoted) note(); // now there is room
  } else {
    removeIfThere(aside);
    removeIfThere(step.manifest);
  }
  if (done.left === 0 || !wasPartial) removeIfThere(step.partial);
  return done;
}

/**
 * Before the first file goes: what goes was not deleted by a job, so that no push deletes it at the source; and where we are
 * killed in the midst of it, what is there is a copy that is not whole, of which each file is known.
 *
 * @returns false where that cannot be written: most often the disk is full, and nothing but a removal helps
 */
function noteRemoval(step: Step, base: Base, tree: Tree, goes: Uint8Array, wasPartial: boolean): boolean {
  const scratch = base.scratch.slice();
  for (let was = 1; was < base.tree.length; was++) {
    if (base.tree.kind(was) === "dir") continue;
    const row = tree.find(base.tree.path(was));
    if (row !== undefined && goes[row]) scratch[was] = unknownTime;
  }
  try {
    const mode = modeBeside(step);
    if (!wasPartial) writeManifest(step.partial, { entries: [], whole: false }, base, mode);
    writeManifest(step.manifest, { entries: [], whole: false }, { tree: base.tree, scratch }, mode);
    return true;
  } catch {
    return false;
  }
}

/** Is it what ef put there? */
function isMade(
  tree: Tree,
  row: number,
  path: ByteString,
  base: Base | undefined,
  isSame: (a: bigint, b: bigint) => boolean = (a, b) => a === b,
): boolean {
  const was = base?.tree.find(path);
  if (base === undefined || was === undefined || base.tree.kind(was) !== tree.kind(row)) return false;
  if (tree.kind(row) === "link") return base.tree.links.get(was) === tree.links.get(row);
  return tree.size[row] === base.tree.size[was] && isSame(base.scratch[was] as bigint, tree.mtime[row] as bigint);
}

/** What is never copied is nothing that anybody misses, and so is what lies below it. */
function isJunk(path: ByteString, junk: ReturnType<typeof excluder>): boolean {
  if (!junk) return false;
  const parts = path.split("/");
  return parts.some((_, i) => junk(parts.slice(0, i + 1).join("/"), i < parts.length - 1));
}

function renameIfThere(from: string, to: string): boolean {
  try {
    fs.renameSync(from, to);
    return true;
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
    return false;
  }
}

/** @returns false if it cannot be removed */
function unlink(path: ByteString): boolean {
  try {
    fs.unlinkSync(osPath(path));
    return true;
  } catch (error) {
    return errnoOf(error) === "ENOENT";
  }
}

function rmdir(path: ByteString): boolean {
  try {
    fs.rmdirSync(osPath(path));
    return true;
  } catch (error) {
    if (!["ENOTEMPTY", "EEXIST", "ENOENT", "EBUSY"].includes(errnoOf(error) ?? "")) throw error;
    return false;
  }
}
