/** Files and directories that the caller asks for: `--data PATH`. */
import { readdirSync, statSync } from "node:fs";
import { basename, join, relative, sep } from "node:path";
import { EfError, reasonOf } from "../base/errors.ts";
import { isWithin } from "../base/paths.ts";
import { excluder } from "../engine/exclude.ts";
import type { PackageFile } from "./analysis.ts";

/** What is never data: histories, caches of byte code, environments. */
const leftOut = new Set([
  ".git",
  ".hg",
  ".svn",
  "__pycache__",
  ".venv",
  "venv",
  "node_modules",
  ".mypy_cache",
  ".pytest_cache",
]);
/** More files than that are a data set, to be staged. */
const mostFiles = 100_000;

/**
 * The files of them, in their relative places. Links are followed.
 *
 * @param paths absolute
 * @param root absolute: they lie below it
 * @param exclude patterns as rsync has them
 * @throws {EfError} USAGE for what is not there, not below the root, or too much
 */
export function namedData(paths: readonly string[], root: string, exclude: readonly string[]): PackageFile[] {
  const excluded = excluder(exclude, "--exclude");
  const isExcluded = (path: string, isDirectory: boolean) =>
    excluded?.(Buffer.from(relative(root, path)).toString("latin1"), isDirectory) ?? false;
  const found: PackageFile[] = [];
  const add = (source: string, why: PackageFile["why"]) => {
    found.push({ path: `files/${relative(root, source).split(sep).join("/")}`, source, why });
    if (found.length > mostFiles)
      throw new EfError("USAGE", `Cannot pack more than ${mostFiles} files of data`, { hint: "stage them: ef sync" });
  };
  const visit = (dir: string, inside: readonly string[]) => {
    for (const entry of entriesOf(dir)) {
      const path = join(dir, entry);
      const stat = statSync(path, { throwIfNoEntry: false });
      if (leftOut.has(entry) || isExcluded(path, stat?.isDirectory() ?? false)) continue;
      if (stat?.isFile()) add(path, "data");
      else if (!stat?.isDirectory()) throw notData(path, stat !== undefined);
      else if (!inside.includes(`${stat.dev}:${stat.ino}`)) visit(path, [...inside, `${stat.dev}:${stat.ino}`]);
    }
  };
  for (const path of paths) {
    if (!isWithin(path, root))
      throw new EfError(
        "USAGE",
        `Cannot pack ${path}: it does not lie below ${root}, so it has no place in the package`,
        {
          hint: `name a directory that holds both: --root DIR`,
          path,
        },
      );
    const stat = statOf(path);
    if (stat.isDirectory()) visit(path, [`${stat.dev}:${stat.ino}`]);
    else add(path, "named");
  }
  return found;
}

/** Nothing is left out in silence. */
function notData(path: string, isThere: boolean): EfError {
  const gone = path.includes("\uFFFD") ? "its name is not UTF-8" : "a link that leads nowhere";
  const why = isThere ? "it is no file and no directory" : gone;
  return new EfError("NOT_PACKABLE", `Cannot pack ${path}: ${why}`, { hint: "leave it out: --exclude PATTERN", path });
}

function statOf(path: string) {
  try {
    const stat = statSync(path);
    if (stat.isFile() || stat.isDirectory()) return stat;
  } catch (cause) {
    throw new EfError("USAGE", `Cannot pack ${path}: ${reasonOf(cause)}`, { path, cause });
  }
  throw new EfError("USAGE", `Cannot pack ${path}: ${basename(path)} is no file and no directory`, { path });
}

function entriesOf(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch (cause) {
    throw new EfError("IO", `Cannot read ${dir}: ${reasonOf(cause)}`, { path: dir, cause });
  }
}
