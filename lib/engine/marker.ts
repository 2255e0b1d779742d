import { statSync } from "node:fs";
import { readOwn, removeIfThere, writeAtomic } from "../base/files.ts";
import { present } from "../base/paths.ts";
import { type Path, readdirAll, statAll } from "../base/stat.ts";
import type { Step } from "./plan.ts";
import { firstChange, readSourceTimes, readTimes, type SourceTimes, type TimeEntry, writeTimes } from "./tree-times.ts";

/**
 * `.NAME.synced`: the four keys of euler-files, and ef's own. euler-files reads ours and ignores the rest; one of its own
 * has no `ef` key, and says nothing about the depth of the tree.
 */
export interface Marker {
  /** Unix time of the end of the sync, in seconds. */
  synced_at: number;
  /** Newest modification time of the source directory and its immediate children, in seconds. */
  source_mtime: number;
  var_name: string;
  source: string;
  ef?: {
    /** Which file of directory times belongs to it. */
    times: string;
    /** `Step.rules` of the sync. */
    rules: string;
    host: string;
    job?: string;
  };
}

/** Clocks of two nodes differ a little; a marker further ahead than this, in seconds, comes from a wrong clock. */
const skewS = 2;

/** Read a marker; undefined if there is none, or none that can be understood. */
export function readMarker(file: string): Marker | undefined {
  const bytes = readOwn(file, 1 << 16);
  if (!bytes) return undefined;
  try {
    const marker = JSON.parse(bytes.toString("utf8")) as Marker | null;
    const whole = typeof marker?.synced_at === "number" && typeof marker.source === "string";
    return whole ? marker : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Is the copy of `step` still what its last sync left, and the source what it was then?
 *
 * @param maxAgeS age in seconds from which a marker no longer counts; 0 never counts
 * @returns undefined if it is fresh, else why it is not, in words
 */
export async function whyStale(step: Step, maxAgeS: number, now = Date.now() / 1000): Promise<string | undefined> {
  const marker = readMarker(step.marker);
  if (!marker) return "not synced yet";
  if (marker.source !== step.source) return `synced from another source, ${marker.source}`;
  if (marker.synced_at > now + skewS) return "its marker is from the future";
  if (now - marker.synced_at >= maxAgeS) return "its marker has aged";
  if (!marker.ef) return "synced by euler-files, which does not look below the top";
  if (marker.ef.rules !== step.rules) return "excludes or rsync_extra_args changed";
  const state = readTimes(step.times);
  if (!state || state.run !== marker.ef.times) return "its directory times are missing or of another run";
  const change = await firstChange(state.entries, step.source, step.target);
  if (!change) return undefined;
  const where = change.path.toString() === "" ? "its top directory" : change.path.toString();
  return change.side === "source" ? `the source changed: ${where}` : `scratch changed: ${where}`;
}

/**
 * From when on a file on scratch that changed is a job's work, in seconds since 1970; 0 if that is not known: the end of
 * the last sync that kept no such file. Not of the last one: what it kept would be older than that, and lost to the
 * next. Stands with the directory times, which an interrupted copy leaves where they are.
 */
export const jobsWorkSince = (step: Step): number =>
  readTimes(step.times)?.at ?? readMarker(step.marker)?.synced_at ?? 0;

/** What the source looked like before a copy: a change while that runs is then seen by the next sync. */
export interface Before {
  times: SourceTimes;
  /** Seconds, for `source_mtime`. */
  newestMtime: number;
}

export async function lookAtSource(step: Step): Promise<Before> {
  const times = await readSourceTimes(step.source);
  return { times, newestMtime: await newestMtime(step.source) };
}

/**
 * Say that the copy is whole. Times first, then the marker that names them: a crash between them is just not fresh.
 *
 * @param workSince what {@link jobsWorkSince} is to say from now on; default: now
 */
export function writeMarker(
  step: Step,
  before: Before,
  entries: TimeEntry[],
  by: { host: string; job?: string },
  workSince?: number,
): void {
  const synced_at = Date.now() / 1000;
  const times = writeTimes(step.times, workSince ?? synced_at, entries);
  const marker: Marker = {
    synced_at,
    source_mtime: before.newestMtime,
    var_name: step.name,
    source: step.source,
    ef: { times, rules: step.rules, ...by },
  };
  writeAtomic(step.marker, `${JSON.stringify(marker)}\n`);
  removeIfThere(step.partial);
}

/** The copy is about to change: until {@link writeMarker}, it is not known to be whole. */
export function removeMarker(step: Step): void {
  writeAtomic(step.partial, "");
  removeIfThere(step.marker);
}

/** Was a copy begun and not finished? */
export const isPartial = (step: Step): boolean => present(step.partial);

/**
 * The newest modification time of a directory and its immediate children, in seconds, as Python's `st_mtime` has it:
 * euler-files compares it with its own reading of the same directory, to the last bit.
 */
async function newestMtime(dir: string): Promise<number> {
  const [children = []] = await readdirAll([dir]);
  const paths: Path[] = [dir, ...children.map(({ path }) => path)];
  const times = (await statAll(paths)).map((stat) => stat?.mtimeMs ?? 0); // 0: a dangling link, or gone meanwhile
  const newest = times.reduce((a, b) => Math.max(a, b), 0);
  // The same to the microsecond is perhaps not the same to the nanosecond: only these are asked for all their digits.
  const exact = paths.filter((_, i) => (times[i] ?? 0) > newest - 0.001).map(exactSeconds);
  return exact.reduce((a, b) => Math.max(a, b), 0);
}

function exactSeconds(path: Path): number {
  const ns = statSync(path, { bigint: true, throwIfNoEntry: false })?.mtimeNs ?? 0n;
  return Number(ns / 1_000_000_000n) + 1e-9 * Number(ns % 1_000_000_000n);
}
