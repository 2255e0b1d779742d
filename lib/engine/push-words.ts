/** What a push says of what went wrong, and what is to be decided. */
import { display } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { humanCount, plural } from "../base/units.ts";
import type { Failure } from "./carrying.ts";
import type { Step } from "./plan.ts";
import type { OnConflict } from "./push-decide.ts";
import type { PushConflict } from "./push-summary.ts";
import type { Scan } from "./scan.ts";
import type { Tree } from "./tree.ts";

/** How many failures or conflicts a message names. */
const named = 5;

const more = (count: number) => (count > named ? `\n  and ${plural(count - named, "other")}` : "");

export function fatalError({ source }: Step, error: unknown): EfError {
  if (error instanceof EfError) return error;
  const row = (error as { row?: string }).row;
  const path = row === undefined ? source : `${source}/${display(row)}`;
  const isFull = errnoOf(error) === "ENOSPC" || errnoOf(error) === "EDQUOT";
  return new EfError(isFull ? "NO_SPACE" : "IO", `Cannot write ${path}: ${reasonOf(error)}`, {
    hint: `${isFull ? "make room there, then " : ""}run ef push again: it goes on where it stopped`,
    path,
    cause: error,
  });
}

/** `ef migrate` took it to another place while this push waited for the lock. */
export const movedAway = ({ name, source }: Step): EfError =>
  new EfError("IO", `Cannot push ${name}: its source ${source} was moved or deleted meanwhile`, {
    hint: "run ef push again: if ef migrate moved it, the configuration knows the new place by now",
    path: source,
  });

/** What could not be read, and what could not be pushed; undefined where all went well. */
export function partialError(
  step: Step,
  scans: { scratch: Scan; source: Scan },
  failures: Failure[],
): EfError | undefined {
  const all = [
    ...scans.scratch.problems.map(({ path, error }) => ({ path: `${step.target}/${display(path)}`, error })),
    ...scans.source.problems.map(({ path, error }) => ({ path: `${step.source}/${display(path)}`, error })),
    ...failures.map(({ path, error }) => ({ path: pathOf(error) ?? display(path), error })),
  ];
  const [first] = all;
  if (!first) return undefined;
  const lines = all.slice(0, named).map(({ path, error }) => `\n  ${path}: ${reasonOf(error)}`);
  const what = `Cannot push all of ${step.target} to ${step.source}`;
  return new EfError("TRANSFER_PARTIAL", `${what}:${lines.join("")}${more(all.length)}`, {
    hint: "mend what it names (permissions? quota?), then run ef push again: the rest is pushed already",
    path: first.path,
    cause: first.error,
  });
}

/** The path that a system call was about, without the temporary name. */
function pathOf(error: unknown): string | undefined {
  const { path } = error as { path?: unknown };
  return typeof path === "string" ? path.replace(/\/\.ef-(?:tmp|part)-[^/]*$/, "") : undefined;
}

export function conflictError(conflicts: readonly PushConflict[], ending: string): EfError {
  const lines = conflicts.slice(0, named).map(({ path, why, stored }) => {
    return `\n  ${path}: ${why}${stored === undefined ? "" : `; scratch's is now ${stored}`}`;
  });
  const message = `${plural(conflicts.length, "conflict")}, ${ending}:${lines.join("")}${more(conflicts.length)}`;
  return new EfError("CONFLICT", message, {
    hint: "compare the versions, keep one, and push again; or choose: --on-conflict source|scratch",
    path: conflicts[0]?.path,
  });
}

/** The conflicts that nobody has decided: with `source` that is all of them, with `scratch` those that can be. */
export function openConflicts(conflicts: readonly PushConflict[], onConflict: OnConflict): readonly PushConflict[] {
  return onConflict === "source" ? [] : conflicts;
}

export function sourceGone({ name, source, manifest }: Step, how: string): EfError {
  return new EfError("BAD_ROOT", `Cannot push ${name}: its source ${source} ${how}, and was full when it was synced`, {
    hint: `is its file system mounted? If it is to be made anew from scratch, remove ${manifest} first`,
    path: source,
  });
}

export function tooManyDeletions({ name, source }: Step, count: number, of: number): EfError {
  const what = `${humanCount(count)} of ${plural(of, "file")}`;
  return new EfError("USAGE", `Cannot push the deletions of ${name}: ${what} in ${source}, more than half`, {
    hint: "look with: ef push --delete --dry-run --verbose. If that is right: --yes. Without --delete nothing is deleted",
    path: source,
  });
}

export function nobodyToAsk(name: string, count: number): EfError {
  return new EfError(
    "NOT_INTERACTIVE",
    `Cannot ask whether to delete ${plural(count, "file")} of ${name} at the source`,
    {
      hint: "look with: ef push --delete --dry-run --verbose, then give --yes",
    },
  );
}

export const nameOf = (tree: Tree, row: number) => display(tree.path(row));

export function firstOf(names: readonly string[]): string {
  const [first = "", ...others] = names;
  return others.length > 0 ? `${first} and ${plural(others.length, "other")}` : first;
}
