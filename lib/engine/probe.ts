/**
 * What storage does, found out by doing there what a sync does.
 *
 * Every call goes through the thread pool: one that hangs in a dead server can be left behind, where a synchronous one
 * would stop the whole process.
 */
import { type FileHandle, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { tempBeside } from "../base/files.ts";
import { type FlockAnswer, tryFlock } from "../drivers/flock.ts";

/** One block on most file systems: enough to hit a quota, which an empty file does not. */
const probeBytes = 4096;

/**
 * Make a file in `dir`, with some contents, use it, and remove it.
 *
 * @param dir an existing directory
 * @throws the error of the first system call that fails; close(2) may be the one that reports a full quota
 */
export async function withTempFile<T>(dir: string, use: (file: FileHandle, path: string) => Promise<T>): Promise<T> {
  const path = tempBeside(join(dir, "doctor"));
  const file = await open(path, "wx+");
  try {
    try {
      await file.write(Buffer.alloc(probeBytes));
      return await use(file, path);
    } finally {
      await file.close();
    }
  } finally {
    await rm(path, { force: true });
  }
}

/** Can files be written in `dir`? @throws the reason, if not */
export function tryWrite(dir: string): Promise<void> {
  return withTempFile(dir, (file) => file.sync());
}

/**
 * By how many seconds the file system of `dir` is ahead of this node (negative: behind); 0 if that cannot be told apart
 * from the time that the calls took.
 */
export function clockSkew(dir: string): Promise<number> {
  return withTempFile(dir, async (file) => {
    const before = Date.now();
    await file.write("now", 0);
    await file.sync(); // NFS: until then the time may be the client's own
    const { mtimeMs } = await file.stat();
    return (mtimeMs - Math.min(Math.max(mtimeMs, before), Date.now())) / 1000;
  });
}

/**
 * Does an exclusive flock(2) in `dir` keep a second one out? Two flock(1) processes ask for it, on a file opened twice.
 *
 * @returns "held" if it does, "locked" if both got it
 * @throws {EfError} LOCK_FAILED
 */
export function flockTwice(dir: string, signal?: AbortSignal): Promise<FlockAnswer> {
  return withTempFile(dir, async (first, path) => {
    const answer = await tryFlock(first.fd, signal);
    if (answer !== "locked") return answer;
    const second = await open(path, "r+");
    try {
      return await tryFlock(second.fd, signal);
    } finally {
      await second.close();
    }
  });
}
