import { lstatSync, type Stats, statSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { reasonOf } from "../base/errors.ts";
import { lstatAll, type Path, readdirAll } from "../base/stat.ts";
import { mark } from "../base/trace.ts";

/** What a tree takes on its storage. */
export interface Usage {
  /** Allocated, as `du` counts: holes cost nothing, directories cost their own blocks. */
  bytes: number;
  /** Everything that is not a directory; one with several hard links counts once. */
  files: number;
  /** False if the deadline came first, or a directory could not be read: then there is at least this much. */
  complete: boolean;
}

export interface UsageOptions {
  /** When to stop, on the clock of `Date.now()`. @default never */
  deadlineMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** Directories read at once: enough to keep every request of a slow storage in flight. */
const dirsAtOnce = 512;
/** Paths between two looks at the clock: what a storage of 1 ms answers in an eighth of a second. */
const pathsAtOnce = 8192;
/** Unit of `st_blocks`, whatever the file system's own block size is (stat(2)). */
const blockBytes = 512;

/**
 * Count a tree, with as many requests in flight as its storage answers.
 *
 * Gives what `du -s --block-size=1 ROOT/` prints: links inside are not followed, `root` itself may be one. Memory is
 * bounded by the directories not yet read, not by the files.
 *
 * @returns undefined if there is nothing at `root`
 * @throws the signal's reason if that aborts
 * @example
 * const { bytes, files } = (await usage("/home/anna/.cache/huggingface")) ?? { bytes: 0, files: 0 };
 */
export async function usage(root: string, options: UsageOptions = {}): Promise<Usage | undefined> {
  const top = statOf(root);
  if (!top) return undefined;
  const total: Usage = { bytes: 0, files: 0, complete: true };
  const seen = new Set<string>();
  add(total, seen, root, top);
  const waiting: Path[] = top.isDirectory() ? [root] : [];
  while (waiting.length > 0 && (await inTime(total, options))) {
    const read = await readdirAll(waiting.splice(-dirsAtOnce));
    if (read.includes(undefined)) total.complete = false;
    const entries = read.flatMap((dir) => dir ?? []);
    for (const { path, isDirectory } of entries) if (isDirectory) waiting.push(path);
    for (let from = 0; from < entries.length; from += pathsAtOnce) {
      if (from > 0 && !(await inTime(total, options))) return total;
      const paths = entries.slice(from, from + pathsAtOnce).map(({ path }) => path);
      const stats = await lstatAll(paths);
      for (const [i, path] of paths.entries()) add(total, seen, path, stats[i]);
    }
  }
  return total;
}

function statOf(root: string): Stats | undefined {
  try {
    return statSync(root, { throwIfNoEntry: false });
  } catch (error) {
    mark("usage", { path: root, why: reasonOf(error) });
    return undefined;
  }
}

/** Let timers and signals have their turn; say whether there is time left. */
async function inTime(total: Usage, { deadlineMs, signal }: UsageOptions): Promise<boolean> {
  await nextTurn();
  signal?.throwIfAborted();
  if (deadlineMs === undefined || Date.now() < deadlineMs) return true;
  total.complete = false;
  return false;
}

function add(total: Usage, seen: Set<string>, path: Path, stats: Stats | undefined): void {
  if (!stats) {
    total.complete = false;
    return;
  }
  const isDirectory = stats.isDirectory();
  if (!isDirectory && stats.nlink > 1) {
    const inode = inodeOf(path, stats);
    if (seen.has(inode)) return;
    seen.add(inode);
  }
  total.bytes += stats.blocks * blockBytes;
  if (!isDirectory) total.files++;
}

/** Which inode this is. Lustre's numbers do not fit into a double: two neighbours would look like one, so ask again. */
function inodeOf(path: Path, { dev, ino }: Stats): string {
  if (Number.isSafeInteger(ino)) return `${dev}:${ino}`;
  return `${dev}:${lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino ?? ino}`;
}
