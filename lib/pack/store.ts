/** Where packages are kept: `$EF_PACKAGE_DIR`, else `$XDG_CACHE_HOME/ef/packages`, else `~/.cache/ef/packages`. */
import { lstatSync, mkdirSync, readdirSync, statSync, unlinkSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { EfError, reasonOf, writeError } from "../base/errors.ts";
import { writeAtomic } from "../base/files.ts";
import { type Env, expandPath } from "../base/paths.ts";
import { openPackage, type Packed } from "./archive.ts";

/** @throws {EfError} UNSET_VARIABLE without HOME */
function packageDir(env: Env): string {
  const { EF_PACKAGE_DIR: own, XDG_CACHE_HOME: cache } = env;
  if (own) return resolve(expandPath(own, env, "EF_PACKAGE_DIR"));
  if (cache && isAbsolute(cache)) return join(cache, "ef/packages");
  return join(expandPath("~", env, "the directory of packages"), ".cache/ef/packages");
}

/** `train-3f9a2c1b45d60718.zip` */
const nameOf = (functionName: string, id: string): string => {
  const name = functionName.replaceAll(/[^A-Za-z0-9_.]+/g, "-").replace(/^[-.]+/, "");
  return `${name.slice(0, 60) || "package"}-${id.slice(0, 16)}.zip`;
};
const pattern = /^[A-Za-z0-9_.-]+-[0-9a-f]{16}\.zip$/;

/**
 * Keep a package, 0600: one that is there already and whole is not written again.
 *
 * @param output another file than its own name in the store
 * @returns its path
 * @throws {EfError} IO, NO_SPACE; BAD_ROOT if the store is somebody else's
 */
export function keep({ id, bytes, metadata }: Packed, env: Env, output?: string): string {
  if (output !== undefined) return write(resolve(output), bytes);
  const dir = packageDir(env);
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new EfError("IO", `Cannot make ${dir}, for packages: ${reasonOf(cause)}`, {
      hint: "choose another directory: export EF_PACKAGE_DIR=DIR",
      path: dir,
      cause,
    });
  }
  assertOwn(dir);
  const path = join(dir, nameOf(metadata.function_info.name, id));
  return isWhole(path, id) ? path : write(path, bytes);
}

/** Who may write there could put another package in the place of one. */
function assertOwn(dir: string): void {
  const { uid, mode } = statSync(dir);
  const me = process.geteuid?.();
  const why =
    me !== undefined && uid !== me ? "it belongs to somebody else" : mode & 0o022 ? "others may write to it" : "";
  if (why === "") return;
  throw new EfError("BAD_ROOT", `Cannot keep packages in ${dir}: ${why}`, {
    hint: "choose a directory of your own: export EF_PACKAGE_DIR=DIR (chmod go-w, if it is)",
    path: dir,
  });
}

function isWhole(path: string, id: string): boolean {
  try {
    return lstatSync(path).isFile() && openPackage(path).metadata.package_id === id;
  } catch {
    return false; // not there, or not whole
  }
}

function write(path: string, bytes: Uint8Array): string {
  try {
    writeAtomic(path, bytes, 0o600);
    return path;
  } catch (error) {
    throw writeError(`Cannot write ${path}`, path, error);
  }
}

/**
 * Remove packages that are older than so many seconds: only those that ef made.
 *
 * @returns their paths
 */
export function removeOlder(olderThanS: number, env: Env): string[] {
  const dir = packageDir(env);
  const limitMs = Date.now() - olderThanS * 1000;
  const removed: string[] = [];
  for (const name of namesIn(dir).filter((each) => pattern.test(each))) {
    const path = join(dir, name);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (!stat?.isFile() || stat.mtimeMs > limitMs || !isPackage(path)) continue;
    try {
      unlinkSync(path);
      removed.push(path);
    } catch (cause) {
      throw new EfError("IO", `Cannot remove ${path}: ${reasonOf(cause)}`, { path, cause });
    }
  }
  return removed;
}

function isPackage(path: string): boolean {
  try {
    openPackage(path);
    return true;
  } catch {
    return false; // not ours, or damaged: left to its owner
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch {
    return []; // nothing was packed yet
  }
}
