/** What others put where a copy goes. */
import { lstatSync, type Stats, statSync } from "node:fs";
import { dirname } from "node:path";
import { EfError } from "../base/errors.ts";
import { isWithin } from "../base/paths.ts";
import type { Step } from "./plan.ts";

type Place = Pick<Step, "target" | "base">;

/**
 * Between the scratch root and a copy, the first path that a stranger made: a link, which leads where he likes; or a directory
 * where anybody can make one (`/tmp`), in which he can change what he likes. Those of a group's directory are shared on purpose,
 * and the root is the user's own choice.
 *
 * @returns undefined if there is none
 */
export function strangersPart({ target, base }: Place): { path: string; stat: Stats } | undefined {
  let above: Stats | undefined;
  try {
    above = statSync(base, { throwIfNoEntry: false });
    const owner = above?.uid;
    for (const path of pathsBetween(base, target)) {
      const stat = lstatSync(path, { throwIfNoEntry: false });
      if (!stat) return undefined;
      if (isStrangers(stat, above, owner)) return { path, stat };
      above = stat.isSymbolicLink() ? statSync(path, { throwIfNoEntry: false }) : stat;
    }
  } catch {
    // what cannot be looked at is told when it is used
  }
  return undefined;
}

function isStrangers(stat: Stats, above: Stats | undefined, owner: number | undefined): boolean {
  if (stat.uid === process.geteuid?.() || stat.uid === 0) return false;
  if (stat.isSymbolicLink()) return true;
  return stat.isDirectory() && stat.uid !== owner && ((above?.mode ?? 0) & 0o1002) === 0o1002;
}

/** From right below `base` down to `target`; that alone where it lies elsewhere. */
function pathsBetween(base: string, target: string): string[] {
  const paths = [target];
  if (!isWithin(target, base)) return paths;
  for (let path = dirname(target); path !== base && path !== dirname(path); path = dirname(path)) paths.unshift(path);
  return paths;
}

/** @throws {EfError} BAD_ROOT where the copy would lie, or lies, in a place of somebody else's choice */
export function refuseStrangers(place: Place): void {
  const found = strangersPart(place);
  if (!found) return;
  const { path, stat } = found;
  const what = stat.isSymbolicLink() ? "symbolic link" : "directory";
  const where = path === place.target ? "it" : path;
  throw new EfError("BAD_ROOT", `Cannot use ${place.target}: ${where} is a ${what} of another user (uid ${stat.uid})`, {
    hint: stat.isSymbolicLink()
      ? "remove it, or make a link of your own"
      : "remove it, or choose a directory of your own with: ef config set scratch_base DIR",
    path: place.target,
  });
}
