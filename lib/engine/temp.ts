import { chmodSync, chownSync, lstatSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { type ByteString, bytesOf, osPath } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { randomId, shortHost } from "../base/files.ts";

/**
 * A leftover of another host is taken for a running copy until it is this old, in milliseconds: where locks do not work
 * between nodes, it may be one.
 */
const abandonedMs = 6 * 3_600_000;

/**
 * A directory of our own beside `target`, for files that are not whole yet; removed when disposed.
 *
 * Not inside `target`, where jobs would see it and a push would bring it home. New files get the group of the directory
 * they are made in, so it takes the target's.
 *
 * @param prefix `Step.temp`; host, process and a random part are added, so that two runs with a broken lock do not meet
 */
export function tempDirFor(target: string, prefix: string): Disposable & { path: string } {
  const path = `${prefix}${hostname()}-${process.pid}-${randomId()}`;
  mkdirSync(path, { mode: 0o700 });
  const want = statSync(target);
  try {
    if (statSync(path).gid !== want.gid) chownSync(path, -1, want.gid);
    if (want.mode & 0o2000) chmodSync(path, 0o2700);
  } catch {
    // a group that is not ours: the files get the group that mkdir gave
  }
  return { path, [Symbol.dispose]: () => removeTree(path) };
}

/**
 * Remove a directory of our own with all in it, also what is in directories that may not be written to.
 *
 * What cannot be removed now (`.nfsXXXX` of an open file, a stale handle) is a leftover for the next run, and no error.
 */
export function removeTree(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    try {
      makeWritable(bytesOf(path));
      rmSync(path, { recursive: true, force: true });
    } catch {
      // see above
    }
  }
}

function makeWritable(dir: ByteString): void {
  if (!lstatSync(osPath(dir), { throwIfNoEntry: false })?.isDirectory()) return;
  chmodSync(osPath(dir), 0o700);
  for (const name of readdirSync(osPath(dir), { encoding: "latin1" })) makeWritable(`${dir}/${name}`);
}

/**
 * Remove the temporary directories that runs of this variable left when they were killed, and files that they were writing.
 * Call it with the lock held.
 *
 * @param written files that are written by a rename (see `writeAtomic`), in the directory of `prefix`
 */
export function removeLeftovers(prefix: string, written: readonly string[] = []): void {
  const parent = dirname(prefix);
  const start = basename(prefix);
  const removePart = partRemover(parent, written);
  for (const name of readdirSync(parent)) {
    if (!name.startsWith(start)) removePart(name);
    else if (isAbandoned(join(parent, name), name.slice(start.length), "directory")) removeTree(join(parent, name));
  }
}

/**
 * Remove what killed runs had begun to write to these files (see `writeAtomic`): no lock is needed, since a process that
 * has ended writes no more.
 *
 * @param files of one directory
 */
export function removeParts(files: readonly [string, ...string[]]): void {
  const dir = dirname(files[0]);
  try {
    readdirSync(dir).forEach(partRemover(dir, files));
  } catch {
    // one that may not be read keeps them
  }
}

/** The temporary directories of this prefix that killed runs left. Call it with the lock held, or only to look. */
export function leftoversOf(prefix: string): string[] {
  const [parent, start] = [dirname(prefix), basename(prefix)];
  return readdirSync(parent)
    .filter((name) => name.startsWith(start))
    .filter((name) => isAbandoned(join(parent, name), name.slice(start.length), "directory"))
    .map((name) => join(parent, name));
}

function partRemover(dir: string, files: readonly string[]): (name: string) => void {
  const starts = files.map((file) => `.${basename(file).replace(/^\./, "")}.ef-`);
  return (name) => {
    const begun = starts.find((each) => name.startsWith(each));
    const end = name.endsWith(".tmp") ? name.slice(begun?.length, -".tmp".length) : "";
    if (begun !== undefined && isAbandoned(join(dir, name), end, "file")) removeTree(join(dir, name));
  };
}

/**
 * Remove the temporary directories `.NAME.tmp-…` that killed runs left in a directory, whatever their names: no lock is
 * needed, since a process that has ended writes no more.
 */
export function removeAllLeftovers(dir: string): void {
  for (const name of readdirSync(dir)) {
    const [, suffix] = /^\..+\.tmp-(.+)$/.exec(name) ?? [];
    if (suffix !== undefined && isAbandoned(join(dir, name), suffix, "directory")) removeTree(join(dir, name));
  }
}

function isAbandoned(path: string, suffix: string, kind: "directory" | "file"): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  const [, host, pid] = /^(.+)-(\d+)-[0-9a-f]{16}$/.exec(suffix) ?? [];
  if (!stat || stat.uid !== process.geteuid?.() || host === undefined) return false;
  if (!(kind === "file" ? stat.isFile() : stat.isDirectory())) return false;
  if (host !== (kind === "file" ? shortHost() : hostname())) return Date.now() - stat.mtimeMs > abandonedMs;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return errnoOf(error) === "ESRCH";
  }
}
