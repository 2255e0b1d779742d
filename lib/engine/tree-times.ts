/**
 * What two trees looked like after a sync, cheap enough to be asked for before every job.
 *
 * Adding, removing or renaming anything changes the modification time of its directory, a purge as well. So the state of
 * both trees is the times of all their directories, and the question "as they were?" costs one lstat(2) per directory
 * and no readdir: a new directory shows in its parent. Contents rewritten in place show in no directory; for the files
 * right at the top of the source (where euler-files looks) their own times are kept as well, the marker's age bounds
 * the rest.
 *
 * What could go wrong, and why it does not:
 * - A change while the copy runs: the source's times are taken before it begins, so the change differs from them.
 * - A change in the same tick as the reading: times that were younger than the clock's grain when they were read are
 *   stored as "unknown", which is never equal (as git does with racy index entries).
 * - A tree too large to be asked in milliseconds: past {@link maxDirs} directories only the top two levels are kept.
 */
import { sleep } from "../base/async.ts";
import { randomId, readOwn, writeAtomic } from "../base/files.ts";
import { childOf, lstatAll, type Path, readdirAll } from "../base/stat.ts";

/** Directories kept per tree; past it only those of the top two levels. */
export const maxDirs = 20_000;
/** Files at the top of the source whose times are kept. */
const maxTopFiles = 256;
/** What a file of times can measure at most: 20,000 paths of 4,096 bytes, and the header. */
const maxFileBytes = maxDirs * (4096 + 17) + 4096;
/** Two changes closer than this, in milliseconds, may leave the same time: the kernel's tick is 4 or 10 ms. */
const tickMs = 20;
/** A time is never equal to this one. */
const unknown = Number.NaN;

/** One path below both roots (`""` is the roots themselves) and the modification times it has there, in milliseconds. */
export interface TimeEntry {
  path: Path;
  source: number;
  /** Undefined for a file at the top of the source: scratch may differ there. */
  scratch: number | undefined;
}

/** The part of the state that the source gives, before the copy. */
export interface SourceTimes {
  dirs: { path: Path; source: number }[];
  /** Files at the top. */
  files: { path: Path; source: number }[];
}

/** Read the directory times of the source. Links are not followed, but for the root. */
export async function readSourceTimes(source: string): Promise<SourceTimes> {
  const first = await readOnce(source);
  if (![...first.dirs, ...first.files].some((entry) => Number.isNaN(entry.source))) return first;
  await sleep(2 * tickMs); // something changed this very moment: most often it has settled after a tick
  return readOnce(source);
}

async function readOnce(source: string): Promise<SourceTimes> {
  const { dirs, topFiles } = await listDirs(source);
  const now = Date.now();
  const paths = [...dirs, ...topFiles];
  const stats = await lstatAll(paths.map((path) => below(source, path)));
  const entries = paths.map((path, i) => ({ path, source: settled(stats[i]?.mtimeMs, now) }));
  return { dirs: entries.slice(0, dirs.length), files: entries.slice(dirs.length) };
}

/** `root/path`; a trailing slash on the root makes lstat(2) follow a link there. */
function below(root: string, path: Path): Path {
  return path === "" ? `${root}/` : childOf(root, path);
}

/**
 * The time, or NaN where something may still change without changing it: within the grain of the file system's clock.
 * Whole seconds mean a file system that stores no more.
 */
function settled(mtimeMs: number | undefined, now: number): number {
  if (mtimeMs === undefined) return unknown;
  const grainMs = mtimeMs % 1000 === 0 ? 2000 : tickMs;
  return mtimeMs > now - grainMs && mtimeMs <= now + grainMs ? unknown : mtimeMs;
}

/** Directories read at once: the names of their files are in memory until they have been passed over. */
const slice = 256;

/** Paths of the directories below `root`, level by level, and the files in `root` itself. */
async function listDirs(root: string): Promise<{ dirs: Path[]; topFiles: Path[] }> {
  const levels: Path[][] = [[""]];
  let topFiles: Path[] = [];
  let count = 1;
  for (let level: Path[] | undefined = levels[0]; level && level.length > 0; level = levels.at(-1)) {
    const next: Path[] = [];
    for (let at = 0; at < level.length; at += slice) {
      const listed = await readdirAll(level.slice(at, at + slice).map((path) => below(root, path)));
      const entries = listed.flatMap((list) => list ?? []);
      for (const { path, isDirectory } of entries) if (isDirectory) next.push(relativeTo(root, path));
      if (levels.length === 1) topFiles = entries.filter((e) => !e.isDirectory).map((e) => relativeTo(root, e.path));
    }
    count += next.length;
    if (count > maxDirs && levels.length >= 2)
      return { dirs: levels.slice(0, 2).flat().slice(0, maxDirs), topFiles: [] };
    levels.push(next);
  }
  return { dirs: levels.flat(), topFiles: topFiles.slice(0, maxTopFiles) };
}

function relativeTo(root: string, path: Path): Path {
  if (typeof path === "string") return path.slice(root.length).replace(/^\/+/, "");
  let at = Buffer.byteLength(root);
  while (path[at] === 0x2f) at++;
  return path.subarray(at);
}

/**
 * Join the source's times with those of the copy, read now.
 *
 * A directory that the copy does not have was left out on purpose (an exclude): it does not count.
 */
export async function joinScratchTimes(from: SourceTimes, target: string): Promise<TimeEntry[]> {
  const stats = await lstatAll(from.dirs.map(({ path }) => below(target, path)));
  const dirs = from.dirs.flatMap((entry, i) => {
    const stat = stats[i];
    return stat?.isDirectory() ? [{ ...entry, scratch: stat.mtimeMs }] : [];
  });
  return [...dirs, ...from.files.map((entry) => ({ ...entry, scratch: undefined }))];
}

/**
 * Store the times.
 *
 * Layout: a line of JSON (`magic`, `run`, `at`, `count`), then `count` pairs of little-endian doubles (source, scratch; NaN =
 * not kept), then the paths, each ended by NUL.
 *
 * @param at seconds since 1970, for `jobsWorkSince`
 * @returns the id of this state, for the marker: a marker and times that do not belong together are no state at all
 */
export function writeTimes(file: string, at: number, entries: readonly TimeEntry[]): string {
  const run = randomId();
  const header = Buffer.from(`${JSON.stringify({ magic, run, at, count: entries.length })}\n`);
  const times = Buffer.alloc(entries.length * 16);
  entries.forEach((entry, i) => {
    times.writeDoubleLE(entry.source, i * 16);
    times.writeDoubleLE(entry.scratch ?? unknown, i * 16 + 8);
  });
  const paths = entries.flatMap(({ path }) => [Buffer.from(path as string), Buffer.from([0])]);
  writeAtomic(file, Buffer.concat([header, times, ...paths]));
  return run;
}

const magic = "ef-times-1";

/** Read what {@link writeTimes} stored; undefined if it is missing, damaged or of another version. */
export function readTimes(file: string): { run: string; at: number; entries: TimeEntry[] } | undefined {
  const bytes = readOwn(file, maxFileBytes);
  const end = bytes?.indexOf(10) ?? -1;
  if (!bytes || end < 0) return undefined;
  const header = parseHeader(bytes.subarray(0, end).toString());
  const timesAt = end + 1;
  if (!header || timesAt + header.count * 17 > bytes.length) return undefined;
  const entries: TimeEntry[] = [];
  let from = timesAt + header.count * 16;
  for (let i = 0; i < header.count; i++) {
    const stop = bytes.indexOf(0, from);
    if (stop < 0) return undefined;
    const scratch = bytes.readDoubleLE(timesAt + i * 16 + 8);
    entries.push({
      path: asText(bytes.subarray(from, stop)),
      source: bytes.readDoubleLE(timesAt + i * 16),
      scratch: Number.isNaN(scratch) ? undefined : scratch,
    });
    from = stop + 1;
  }
  return { run: header.run, at: header.at, entries };
}

function parseHeader(line: string): { run: string; at: number; count: number } | undefined {
  try {
    const { magic: found, run, at, count } = JSON.parse(line);
    const isOurs = found === magic && typeof run === "string" && typeof at === "number";
    return isOurs && Number.isSafeInteger(count) && count >= 0 ? { run, at, count } : undefined;
  } catch {
    return undefined;
  }
}

function asText(name: Buffer): Path {
  const text = name.toString("utf8");
  return text.includes("\uFFFD") ? name : text;
}

/** The first path whose time is not what it was, on either side; undefined if both trees are as they were. */
export async function firstChange(
  entries: readonly TimeEntry[],
  source: string,
  target: string,
): Promise<{ path: Path; side: "source" | "scratch" } | undefined> {
  const kept = entries.filter((entry) => entry.scratch !== undefined);
  const scratch = await lstatAll(kept.map(({ path }) => below(target, path)));
  const changed = kept.findIndex((entry, i) => scratch[i]?.mtimeMs !== entry.scratch);
  if (changed >= 0) return { path: kept[changed]?.path ?? "", side: "scratch" };
  const sources = await lstatAll(entries.map(({ path }) => below(source, path)));
  const at = entries.findIndex((entry, i) => sources[i]?.mtimeMs !== entry.source);
  return at < 0 ? undefined : { path: entries[at]?.path ?? "", side: "source" };
}
