import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readSync,
  renameSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";

/** 16 hexadecimal digits that nobody else has. Not from node:crypto: loading that takes longer than all the rest here. */
export function randomId(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(8))).toString("hex");
}

/**
 * A name beside `path` that no other process, node or run uses: hidden, and recognisably ef's.
 *
 * The base name is cut so that a name of 255 bytes (NAME_MAX) still has room for the suffix.
 */
export function tempBeside(path: string): string {
  const base = Buffer.from(basename(path))
    .subarray(0, 180)
    .toString("utf8")
    .replace(/\uFFFD+$/, "");
  return join(dirname(path), `.${base.replace(/^\./, "")}.ef-${shortHost()}-${process.pid}-${randomId()}.tmp`);
}

/** The name of this host, as far as there is room for it in a file name. */
export const shortHost = (): string => hostname().slice(0, 30);

/**
 * Replace the file at `path` by `content`: readers see the old or the new whole file, also after a crash.
 *
 * Written to a temporary name in the same directory, fsynced, renamed; removed again if anything fails (ENOSPC and
 * EDQUOT may be reported as late as close(2) on NFS and Lustre).
 *
 * @param mode permission bits of the new file; not narrowed by the umask, as the default is
 * @param durable false for what may be lost in a crash: then it is not waited for the disk
 */
export function writeAtomic(
  path: string,
  content: string | Uint8Array | readonly Uint8Array[],
  mode = 0o644 & ~process.umask(),
  durable = true,
): void {
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there && !there.isFile() && !there.isSymbolicLink()) {
    throw new Error(`${path} is not a regular file`); // a rename would replace /dev/null as well
  }
  const temp = tempBeside(path);
  const pieces =
    typeof content === "string" ? [Buffer.from(content)] : content instanceof Uint8Array ? [content] : content;
  let fd: number | undefined = openSync(temp, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode);
  try {
    for (const bytes of pieces) for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    fchmodSync(fd, mode);
    if (durable) fsyncSync(fd);
    const closing = fd;
    fd = undefined;
    closeSync(closing);
    renameSync(temp, path);
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    removeIfThere(temp);
    throw error;
  }
}

/** Remove the file at `path`; no error if there is none. */
export function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/**
 * Read a small file without following a link at its end, at most `limit` bytes.
 *
 * For ef's own files in shared directories, where somebody else might have put a link, a FIFO or a huge file.
 *
 * @returns undefined where it is missing, no regular file, too large, or not readable
 */
export function readOwn(path: string, limit: number): Buffer | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
  try {
    const stat = fstatSync(fd);
    const { size } = stat;
    if (!stat.isFile() || size > limit) return undefined;
    const buffer = Buffer.allocUnsafe(size);
    let at = 0;
    while (at < size) {
      const read = readSync(fd, buffer, at, size - at, at);
      if (read === 0) return undefined; // it shrank while we read: being written by somebody who is not atomic
      at += read;
    }
    return buffer;
  } catch {
    return undefined;
  } finally {
    closeSync(fd);
  }
}
