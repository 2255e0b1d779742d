/** The two directories of a push. */
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import type { Step } from "./plan.ts";

/** Is there anything on scratch? Where nothing is, nothing is pushed: that scratch was purged, or is not mounted. @throws {EfError} IO */
export function scratchIsThere({ target }: Step): boolean {
  try {
    return readdirSync(target).length > 0;
  } catch (error) {
    // Storage may hide for a moment what is there: then nobody may go on as if it had been pushed.
    if (errnoOf(error) === "ENOENT" && !existsSync(target)) return false;
    throw new EfError("IO", `Cannot read ${target}: ${reasonOf(error)}`, { path: target, cause: error });
  }
}

/** The source's directory, and those above it; never more open than scratch's. */
export function makeSource({ from, to, isNew }: { from: string; to: string; isNew: boolean }): void {
  if (!isNew) return;
  try {
    mkdirSync(dirname(to), { recursive: true });
    mkdirSync(to, { mode: statSync(from).mode & 0o777 });
  } catch (error) {
    if (errnoOf(error) === "EEXIST" && statSync(to, { throwIfNoEntry: false })?.isDirectory()) return;
    throw new EfError("IO", `Cannot make the directory ${to}: ${reasonOf(error)}`, { path: to, cause: error });
  }
}
