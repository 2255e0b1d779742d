import { mkdirSync, type Stats, statSync } from "node:fs";
import { dirname } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { isWithin, realPath } from "../base/paths.ts";
import type { Step } from "./plan.ts";

/**
 * Refuse trees that contain each other, before anything is written.
 *
 * A copy into itself grows without end, and a delete would reach the source. Paths are compared after every symbolic
 * link, so `~/scratch -> $SCRATCH` hides nothing.
 *
 * @returns warnings: pairs of variables of which one's source holds the other's (copied twice, but harmless)
 * @throws {EfError} BAD_ROOT
 */
export function checkRoots(steps: readonly Step[]): string[] {
  const real = steps.flatMap(resolved);
  for (const { step, source, target } of real) {
    const why = sameDirectory(source, target)
      ? "are the same directory"
      : liesIn(target, source)
        ? "cannot be used: the copy would lie inside its source"
        : liesIn(source, target)
          ? "cannot be used: the source lies inside the copy"
          : undefined;
    if (!why) continue;
    throw new EfError("BAD_ROOT", `${step.name}: source ${step.source} and scratch copy ${step.target} ${why}`, {
      hint: `change vars.${step.name}.source or scratch_base with: ef config set`,
      path: step.source,
    });
  }
  return real.flatMap((outer) =>
    real
      .filter((inner) => inner !== outer && isWithin(inner.source, outer.source))
      .filter((inner) => inner.source !== outer.source || inner.step.name > outer.step.name)
      .map((inner) => overlapText(outer.step, inner.step, inner.source === outer.source)),
  );
}

/** Real paths; nothing where they cannot be had (no permission, a loop of links): that step fails by itself, in words. */
function resolved(step: Step): { step: Step; source: string; target: string }[] {
  try {
    return [{ step, source: realPath(step.source), target: realPath(step.target) }];
  } catch {
    return [];
  }
}

/** The same by name, or by device and inode: a second mount of one directory has another name. */
export function sameDirectory(a: string, b: string): boolean {
  if (a === b) return true;
  const [one, two] = [a, b].map(quietStat);
  return one !== undefined && two !== undefined && one.dev === two.dev && one.ino === two.ino;
}

function quietStat(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined; // no permission, a file in the way: it is not the same directory
  }
}

/** Is `inner`, or a directory above it, `outer`? */
export function liesIn(inner: string, outer: string): boolean {
  if (isWithin(inner, outer)) return true;
  const above = dirname(inner);
  return above !== inner && (sameDirectory(above, outer) || liesIn(above, outer));
}

function overlapText(outer: Step, inner: Step, same: boolean): string {
  const how = same ? "is also the source of" : `(${outer.source}) contains the source of`;
  return `the source of ${outer.name} ${how} ${inner.name}: the same files are copied twice`;
}

/**
 * Make sure that the scratch root is there.
 *
 * Only its last part is made: a root whose parent is missing is more likely not mounted than new, and a copy to the
 * empty mount point would fill the node's own disk.
 *
 * @throws {EfError} BAD_ROOT, IO
 */
export function ensureScratch(scratchBase: string, { dryRun }: { dryRun: boolean }): void {
  try {
    if (statSync(scratchBase).isDirectory()) return;
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") {
      throw new EfError("IO", `Cannot use scratch_base ${scratchBase}: ${reasonOf(error)}`, {
        path: scratchBase,
        cause: error,
      });
    }
    try {
      if (dryRun) statSync(dirname(scratchBase));
      else mkdirSync(scratchBase);
      return;
    } catch (cause) {
      if (errnoOf(cause) === "EEXIST" && statSync(scratchBase, { throwIfNoEntry: false })?.isDirectory()) return;
      const missing = errnoOf(cause) === "ENOENT" ? `${dirname(scratchBase)} does not exist either` : reasonOf(cause);
      throw new EfError("BAD_ROOT", `Cannot use scratch_base ${scratchBase}: it does not exist (${missing})`, {
        hint: "is the file system mounted on this node? Otherwise make the directory, or: ef config set scratch_base DIR",
        path: scratchBase,
        cause,
      });
    }
  }
  throw new EfError("BAD_ROOT", `Cannot use scratch_base ${scratchBase}: it is not a directory`, { path: scratchBase });
}
