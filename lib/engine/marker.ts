import { statSync } from "node:fs";
import { hostname } from "node:os";
import { type ByteString, display, osPath } from "../base/bytes.ts";
import { readOwn, removeIfThere, writeAtomic } from "../base/files.ts";
import { present } from "../base/paths.ts";
import { mtimesAll, type Path } from "../base/stat.ts";
import { bootId } from "../drivers/boot.ts";
import { type Base, readBase, readTimes, type Times, unknownTime, writeManifest } from "./manifest.ts";
import { atCopy, atSource } from "./origin-times.ts";
import { originStep, type Step } from "./plan.ts";
import { strangersPart } from "./strangers.ts";
import type { Tree } from "./tree.ts";

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
    /** Which manifest belongs to it. */
    manifest: string;
    /** `Step.rules` of the sync. */
    rules: string;
    host: string;
    /** When all of both trees was compared last, in seconds; later syncs may have looked at what changed only. */
    compared_at: number;
    /** Of that host: what it had not yet written to its disks is lost when it starts anew. */
    boot: string;
    job?: string;
    /** Where it was read, if that was not the source. */
    from?: string;
    /** Which manifest that copy had then. */
    from_manifest?: string;
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

/** Why a copy is not fresh. */
export interface Stale {
  why: string;
  /** Directories that changed on either side, and those they are in; all others are as the last sync left them. */
  changed?: ReadonlySet<ByteString>;
  /** Only the source is known to have changed. */
  isSourceAlone?: boolean;
}

/**
 * Is the copy of `step` still what its last sync left, and the source what it was then?
 *
 * Judged by directories: adding, removing or renaming anything changes the time of its directory, a purge as well. So the
 * question costs one lstat(2) per directory and no readdir: a new directory shows in its parent. Contents rewritten in
 * place show in no directory; for the files right at the top of the source (where euler-files looks) their own times are
 * kept as well, the marker's age bounds the rest.
 *
 * @param maxAgeS age in seconds from which a marker no longer counts; 0 never counts
 * @returns undefined if it is fresh
 */
export async function whyStale(step: Step, maxAgeS: number, now = Date.now() / 1000): Promise<Stale | undefined> {
  if (strangersPart(step)) return { why: "it is in a place of another user" };
  const marker = readMarker(step.marker);
  if (!marker) return { why: "not synced yet" };
  if (marker.source !== step.source) return { why: `synced from another source, ${marker.source}` };
  if (marker.synced_at > now + skewS) return { why: "its marker is from the future" };
  const age = now - (marker.ef?.compared_at ?? marker.synced_at);
  if (age >= maxAgeS) return { why: "its marker has aged" };
  if (!marker.ef) return { why: "synced by euler-files, which does not look below the top" };
  if ((marker.ef.from ?? marker.source) !== step.from) return { why: "it was copied from elsewhere" };
  const run = originRun(step);
  if (run !== undefined && (run === "" || run !== marker.ef.from_manifest))
    return { why: `${step.from} was synced since` };
  if (marker.ef.rules !== step.rules) return { why: "excludes, mirror or rsync_extra_args changed" };
  if (hasRestarted(marker.ef)) return { why: "this node was restarted since" };
  const state = readTimes(step.manifest);
  if (!state || state.run !== marker.ef.manifest) return { why: "its manifest is missing, damaged or of another run" };
  return changeSince(state, step);
}

/**
 * Which manifest the copy that a step reads has now: a sync may rewrite files there and leave the times of all directories.
 *
 * @returns "" where that is not whole now; undefined where the step reads the source
 */
export function originRun(step: Step): string | undefined {
  const origin = originStep(step);
  return origin && (readMarker(origin.marker)?.ef?.manifest ?? "");
}

/** On the host that made the copy, and only there, it can be told whether its last writes may have been lost. */
function hasRestarted({ host, boot }: NonNullable<Marker["ef"]>): boolean {
  return boot !== "" && host === hostname() && bootId() !== "" && boot !== bootId();
}

async function changeSince({ entries, whole }: Times, { from, target }: Step): Promise<Stale | undefined> {
  const below = (root: string, path: ByteString): Path =>
    path === "" ? `${root}/` : osPath(`${Buffer.from(root).toString("latin1")}/${path}`); // "/": a link there is followed
  const kept = entries.filter((entry) => entry.scratch !== undefined);
  const scratchTimes = await mtimesAll(kept.map(({ path }) => below(target, path)));
  const sourceTimes = await mtimesAll(entries.map(({ path }) => below(from, path)));
  const onScratch = kept.filter((entry, i) => scratchTimes[i] !== entry.scratch);
  const atSource = entries.filter((entry, i) => sourceTimes[i] !== entry.source);
  const [first] = [...onScratch, ...atSource];
  if (!first) return undefined;
  const where = first.path === "" ? "its top directory" : display(first.path);
  const why = onScratch.length > 0 ? `scratch changed: ${where}` : `the source changed: ${where}`;
  const isSourceAlone = onScratch.length === 0;
  if (!whole) return { why, isSourceAlone };
  const dirs = [...onScratch, ...atSource.map(asDirectory)].map(({ path }) => path);
  return { why, changed: new Set(dirs.flatMap((path) => [path, above(path)])), isSourceAlone };
}

/** The directory that a path is in, "" for the top: what is read again there tells the new times of the path itself. */
const above = (path: ByteString) => path.slice(0, Math.max(0, path.lastIndexOf("/")));

/** Of a file at the top, the directory that it is in. */
const asDirectory = (entry: Times["entries"][number]) => (entry.scratch === undefined ? { ...entry, path: "" } : entry);

/** What is known of earlier syncs of a step. */
export interface Known {
  base: Base | undefined;
  intent: Base | undefined;
  /** From when on a file on scratch that changed may be a job's work, in seconds since 1970; 0 if unknown. */
  workSince: number;
}

/**
 * What earlier syncs left: of the last whole one, if its marker, where there is one, belongs to it; and of a later one that
 * was interrupted.
 */
export function knownOf(step: Step): Known {
  const marker = readMarker(step.marker);
  const origin = originBase(step);
  const base = isOther(marker, step) ? undefined : readBase(step.manifest, marker?.ef?.manifest);
  const intent = isPartial(step) ? readBase(step.partial) : undefined;
  if (base) atCopy(base, origin);
  if (intent) atCopy(intent, origin);
  return { base, intent, workSince: marker?.synced_at ?? 0 };
}

/** What is known of the copy that a step reads in place of its source. */
function originBase(step: Step): Base | undefined {
  const origin = originStep(step);
  return origin && readBase(origin.manifest);
}

/** Was the last whole copy made by euler-files, or of another source? A manifest beside its marker speaks of an earlier one. */
const isOther = (marker: Marker | undefined, { source }: Step): boolean =>
  marker !== undefined && (marker.ef === undefined || marker.source !== source);

/** Of ef's own files, which tell the names in the copy: as open to readers as that. */
export const modeBeside = ({ target }: Pick<Step, "target">): number =>
  0o600 | ((statSync(target, { throwIfNoEntry: false })?.mode ?? 0) & 0o044);

/** Say that the copy is whole. Manifest first, then the marker that names it: a crash between them is just not fresh. */
export function writeMarker(
  step: Step,
  newestMtime: number,
  times: Omit<Times, "run">,
  base: Base,
  by: { host: string; job?: string; compared_at?: number; from_manifest?: string },
): void {
  const mode = modeBeside(step);
  const manifest = writeManifest(step.manifest, times, atSource(base, originBase(step)), mode);
  const now = Date.now() / 1000;
  const run = originRun(step);
  const from = run === undefined ? {} : { from: step.from, from_manifest: run };
  const marker: Marker = {
    synced_at: now,
    source_mtime: newestMtime,
    var_name: step.name,
    source: step.source,
    ef: { manifest, rules: step.rules, boot: bootId(), compared_at: now, ...from, ...by },
  };
  writeAtomic(step.marker, `${JSON.stringify(marker)}\n`, mode, false);
  removeIfThere(step.partial);
}

/**
 * The copy is about to change: until {@link writeMarker}, it is not known to be whole.
 *
 * @param intent what will be there
 * @param ours what is known to be ef's now, where that is more than the manifest says
 */
export function removeMarker(step: Step, intent: Base, ours?: Base): void {
  if (isOther(readMarker(step.marker), step)) removeIfThere(step.manifest); // without the marker it would count again
  const origin = originBase(step);
  if (ours) {
    removeIfThere(step.marker);
    writeManifest(step.manifest, { entries: [], whole: false }, atSource(ours, origin), modeBeside(step));
  }
  writeManifest(step.partial, { entries: [], whole: false }, atSource(intent, origin), modeBeside(step));
  removeIfThere(step.marker);
}

/**
 * Keep a base for later decisions, where scratch is not the same as the source: a sync compares again, whatever the age of
 * the marker. One of euler-files stays as it is.
 */
export function keepBase(step: Step, base: Base): void {
  const marker = readMarker(step.marker);
  if (marker && (!marker.ef || marker.source !== step.source)) return;
  if (marker) removeIfThere(step.marker); // a crash before the new one leaves the manifest alone, which is a base too
  const mode = modeBeside(step);
  const manifest = writeManifest(step.manifest, { entries: [never], whole: false }, base, mode);
  if (marker?.ef) writeAtomic(step.marker, `${JSON.stringify({ ...marker, ef: { ...marker.ef, manifest } })}\n`, mode);
}

/**
 * A copy that was made from a temporary one stands for the copy that this was made of. Call it with the lock held.
 *
 * @param run of {@link originRun}, before that was read
 */
export function movedFrom(step: Step, from: string, run: string | undefined): void {
  const marker = readMarker(step.marker);
  if (!marker?.ef) return;
  const { from: _, from_manifest: __, ...ef } = marker.ef;
  const at = { ...step, from };
  const base = readBase(step.manifest, ef.manifest);
  const times = readTimes(step.manifest);
  if (base && times && run !== undefined)
    ef.manifest = writeManifest(step.manifest, times, atSource(base, originBase(at)), modeBeside(step));
  const said = run === undefined ? ef : { ...ef, from, from_manifest: run };
  writeAtomic(step.marker, `${JSON.stringify({ ...marker, ef: said })}\n`, modeBeside(step), false);
}

/** Beside the manifest while a push runs: what it means to bring to the source. */
const pushingOf = ({ manifest }: Step) => manifest.replace(/manifest$/, "pushing");

/** All files beside a copy that are replaced as a whole: what a killed run was writing to them goes with the next one. */
export const notesOf = (step: Step): [string, ...string[]] => [
  step.marker,
  step.manifest,
  step.partial,
  pushingOf(step),
];

export function notePushing(step: Step, meant: Base): void {
  writeManifest(pushingOf(step), { entries: [], whole: false }, meant, modeBeside(step));
}

export const endPushing = (step: Step): void => removeIfThere(pushingOf(step));

/** What a push that was interrupted meant to bring, unless a sync has come since. */
export function interruptedPush(step: Step): Base | undefined {
  const timeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return timeOf(pushingOf(step)) >= timeOf(step.manifest) ? readBase(pushingOf(step)) : undefined;
}

/** The top of the source at a time that it never has. */
const never: Times["entries"][number] = { path: "", source: unknownTime, scratch: undefined };

/** Was a copy begun and not finished? */
export const isPartial = (step: Step): boolean => present(step.partial);

/**
 * The newest modification time of a directory and its immediate children, in seconds, as Python's `st_mtime` has it:
 * euler-files compares it with its own reading of the same directory, to the last bit, and follows links.
 */
export function newestMtime(source: string, tree: Tree): number {
  let newest = tree.mtime[0] as bigint;
  const [from, to] = tree.children(0);
  for (let row = from; row < to; row++) {
    const time = tree.kind(row) === "link" ? timeBehind(source, tree.name(row)) : (tree.mtime[row] as bigint);
    if (time > newest) newest = time;
  }
  return Number(newest / 1_000_000_000n) + 1e-9 * Number(newest % 1_000_000_000n);
}

/** 0 for a dangling link. */
function timeBehind(source: string, name: ByteString): bigint {
  try {
    const at = osPath(`${Buffer.from(source).toString("latin1")}/${name}`);
    return statSync(at, { bigint: true, throwIfNoEntry: false })?.mtimeNs ?? 0n;
  } catch {
    return 0n;
  }
}
