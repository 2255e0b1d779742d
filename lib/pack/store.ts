/** Where packages are kept: `$EF_PACKAGE_DIR`, else `$XDG_CACHE_HOME/ef/packages`, else `~/.cache/ef/packages`. */
import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  statSync,
  unlinkSync,
  utimesSync,
} from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { EfError, reasonOf, writeError } from "../base/errors.ts";
import { writeAtomic } from "../base/files.ts";
import { type Env, expandPath } from "../base/paths.ts";
import type { Packed } from "./archive.ts";
import { readMetadata } from "./open.ts";

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
/** What a run that was killed left: as `tempBeside` names it. */
const leftPattern = /^\.[A-Za-z0-9_.-]+-[0-9a-f]{16}\.zip\.ef-.+-\d+-[0-9a-f]{16}\.tmp$/;

/**
 * Keep a package, 0600: one that is there already and whole is not written again.
 *
 * @param output another file than its own name in the store; what is there must be a package
 * @returns its path
 * @throws {EfError} IO, NO_SPACE; BAD_ROOT if the store is somebody else's; EXISTS
 */
export function keep({ id, pieces, sizeBytes, metadata }: Packed, env: Env, output?: string): string {
  if (output !== undefined) return write(replaceable(resolve(output)), pieces);
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
  if (!isTheSame(path, pieces, sizeBytes)) return write(path, pieces);
  const now = new Date();
  utimesSync(path, now, now); // it was asked for today: --clean goes by that
  return path;
}

/** A file of another kind was not meant. */
function replaceable(path: string): string {
  const there = statSync(path, { throwIfNoEntry: false });
  if (!there || readMetadata(path)) return path;
  throw new EfError(
    "EXISTS",
    `Cannot write ${path}: ${there.isFile() ? "it is there, and no package" : "it is no file"}`,
    {
      hint: "choose another name",
      path,
    },
  );
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

/** Is it there, byte for byte? */
function isTheSame(path: string, pieces: readonly Uint8Array[], sizeBytes: number): boolean {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isFile()) return false;
  const fd = openSync(path, "r");
  try {
    if (fstatSync(fd).size !== sizeBytes) return false;
    const buffer = Buffer.allocUnsafe(1 << 20);
    for (const piece of pieces) {
      for (let at = 0; at < piece.length; ) {
        const got = readSync(fd, buffer, 0, Math.min(buffer.length, piece.length - at), null);
        if (got === 0 || buffer.compare(piece, at, at + got, 0, got) !== 0) return false;
        at += got;
      }
    }
    return true;
  } finally {
    closeSync(fd);
  }
}

function write(path: string, pieces: readonly Uint8Array[]): string {
  try {
    writeAtomic(path, pieces, 0o600);
    return path;
  } catch (error) {
    throw writeError(`Cannot write ${path}`, path, error);
  }
}

/**
 * Remove packages that are older than so many seconds: only those that ef made.
 *
 * @param dryRun only find them
 * @returns their paths
 */
export function removeOlder(olderThanS: number, env: Env, dryRun: boolean): string[] {
  const dir = packageDir(env);
  const limitMs = Date.now() - olderThanS * 1000;
  const removed: string[] = [];
  for (const name of namesIn(dir)) {
    const path = join(dir, name);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (!stat?.isFile() || stat.mtimeMs > limitMs) continue;
    if (!leftPattern.test(name) && !(pattern.test(name) && readMetadata(path))) continue; // not ours
    try {
      if (!dryRun) unlinkSync(path);
      removed.push(path);
    } catch (cause) {
      throw new EfError("IO", `Cannot remove ${path}: ${reasonOf(cause)}`, { path, cause });
    }
  }
  return removed;
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch {
    return []; // nothing was packed yet
  }
}
