/** Files and links of an environment, replaced as a whole. */
import * as fs from "node:fs";
import { dirname } from "node:path/posix";
import { type ByteString, display, osPath } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { asSeconds, futimesSync } from "../base/runtimes.ts";
import type { Libc } from "../drivers/libc.ts";
import { tempName } from "../engine/names.ts";

/** A file that is to hold something else. */
export interface Written {
  /** Relative to the environment. */
  path: ByteString;
  old: Uint8Array;
  bytes: Uint8Array;
}

const permissions = 0o7777;

/**
 * Does no directory on the way lead out of the environment? What is looked up by its name is changed only then.
 *
 * @param root a real path
 * @param path relative to it
 */
export function isInside(root: ByteString, path: ByteString): boolean {
  const real = fs.realpathSync(osPath(`${root}/${dirname(path)}`), { encoding: "latin1" });
  return real === root || real.startsWith(`${root}/`);
}

/**
 * Replace a regular file; mode and modification time stay: a `.pyc` holds the time and the size of its source.
 *
 * By a rename, never in place: uv links the files of its cache into environments, and they are to stay what they are there.
 *
 * @param libc sets the time to the nanosecond; without it, to the microsecond
 */
export function replaceFile(path: ByteString, bytes: Uint8Array, libc?: Libc): void {
  const stat = fs.lstatSync(osPath(path), { bigint: true });
  const temp = osPath(`${dirname(path)}/${tempName()}`);
  const fd = fs.openSync(temp, fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_EXCL, 0o600);
  try {
    try {
      for (let at = 0; at < bytes.length; ) at += fs.writeSync(fd, bytes, at);
      keepOwner(fd, stat);
      fs.fchmodSync(fd, Number(stat.mode) & permissions);
      if (libc) libc.setMtimeFd(fd, stat.mtimeNs);
      else futimesSync(fd, Date.now() / 1000, asSeconds(stat.mtimeNs));
    } finally {
      fs.closeSync(fd);
    }
    fs.renameSync(temp, osPath(path));
  } catch (error) {
    fs.rmSync(temp, { force: true });
    throw error;
  }
}

/** The group of a shared environment is another than our own. Where it cannot be given, ours has to do. */
function keepOwner(fd: number, { uid, gid }: fs.BigIntStats): void {
  const now = fs.fstatSync(fd, { bigint: true });
  if (now.uid === uid && now.gid === gid) return;
  try {
    fs.fchownSync(fd, Number(uid), Number(gid));
  } catch {
    // see above
  }
}

/** Replace a symbolic link, or a file, by a link that says `text`. */
export function replaceLink(path: ByteString, text: ByteString): void {
  const temp = osPath(`${dirname(path)}/${tempName()}`);
  fs.symlinkSync(osPath(text), temp);
  try {
    fs.renameSync(temp, osPath(path));
  } catch (error) {
    fs.rmSync(temp, { force: true });
    throw error;
  }
}

/**
 * Run `work`, which changes a file of an environment. A directory that may not be written to is made writable for it.
 *
 * @param root the environment
 * @param path relative to it
 * @throws {EfError} IO or NO_SPACE, with what to do
 */
export function changing(root: ByteString, path: ByteString, work: () => void): void {
  try {
    try {
      work();
    } catch (error) {
      if (errnoOf(error) !== "EACCES") throw error;
      const dir = osPath(`${root}/${dirname(path)}`);
      const { mode, uid } = fs.statSync(dir);
      if (uid !== process.geteuid?.()) throw error;
      fs.chmodSync(dir, (mode & permissions) | 0o300);
      try {
        work();
      } finally {
        fs.chmodSync(dir, mode & permissions);
      }
    }
  } catch (error) {
    const errno = errnoOf(error);
    const isFull = errno === "ENOSPC" || errno === "EDQUOT";
    const full = display(`${root}/${path}`);
    throw new EfError(isFull ? "NO_SPACE" : "IO", `Cannot change ${full}: ${reasonOf(error)}`, {
      hint: isFull
        ? "make room, and run it again: it goes on where it stopped"
        : "see that the environment is yours and writable (chmod -R u+w), and run it again",
      path: full,
      cause: error,
    });
  }
}
