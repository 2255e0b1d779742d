import { lstatSync, mkdirSync } from "node:fs";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";

/**
 * Make a directory of our own where others may write (/tmp): it must be ours and no link, or what we do in it is theirs.
 *
 * @param root its parent exists
 * @param names of what says where it is, for the hint
 * @throws {EfError} BAD_ROOT
 */
export function ownDirectory(root: string, names: string): void {
  try {
    mkdirSync(root, { mode: 0o700 });
  } catch (error) {
    if (errnoOf(error) !== "EEXIST")
      throw new EfError("BAD_ROOT", `Cannot make ${root}: ${reasonOf(error)}`, {
        hint: `set ${names} to a directory on this node where you can write`,
        path: root,
        cause: error,
      });
  }
  const stat = lstatSync(root);
  if (stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o022) === 0) return;
  throw new EfError("BAD_ROOT", `Cannot use ${root}: it is not a directory that only you can write to`, {
    hint: `somebody put it there; set ${names} to a directory of your own`,
    path: root,
  });
}
