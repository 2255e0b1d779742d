/**
 * `ef apptainer prune`: delete an environment, its image, or both.
 *
 * In this order: look, ask, take all locks, look again, delete, and only then forget the record. Stopped at any moment, it
 * goes on when it is run again: what to delete is what there is. An environment is renamed to a hidden name first, so that
 * nobody ever sees half of one.
 *
 * The lock files stay: on network storage somebody who waits for one may take a removed file for the one that is there
 * (lib/engine/lock.ts).
 */
import { lstatSync, renameSync, unlinkSync } from "node:fs";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { bytesOf, display } from "./base/bytes.ts";
import { EfError, errnoOf, reasonOf, writeError } from "./base/errors.ts";
import { randomId } from "./base/files.ts";
import { nearest } from "./base/nearest.ts";
import { type Env, present } from "./base/paths.ts";
import { widenPool } from "./base/stat.ts";
import type { Config } from "./config/schema.ts";
import { configPath, loadConfig } from "./config/store.ts";
import { describeHolder, type Held, holderOf, lock } from "./engine/lock.ts";
import { removeMoved } from "./engine/move-remove.ts";
import { Storage } from "./engine/storage.ts";
import { removeParts, removeTree } from "./engine/temp.ts";
import { type Usage, usage } from "./engine/usage.ts";
import { environmentsIn, venvBase } from "./envs/base.ts";
import {
  assertDeletable,
  type PruneLock,
  type PruneMode,
  type Subject,
  subjectOf,
  type Target,
  tempPrefixOf,
} from "./images/prune-targets.ts";
import { withoutRecord } from "./images/records.ts";
import { withWorkspaces } from "./scratch-base.ts";
import { updateConfig } from "./settings.ts";

export { type PruneMode, pruneModes } from "./images/prune-targets.ts";

export interface PruneOptions {
  /** An image, or an environment below `apptainer.venv_base`. */
  name: string;
  /** @default "both" */
  mode?: PruneMode;
  /** Tell what would be deleted, and delete nothing. @default false */
  dryRun?: boolean;
  /** Asked once before anything is deleted; without it, it is done. */
  confirm?: (plan: PrunePlan) => Promise<boolean>;
  /** The file of the configuration. @default configPath() */
  configFile?: string;
  /** @default process.env */
  env?: Env;
  signal?: AbortSignal;
  onEvent?: (event: PruneEvent) => void;
}

export type PruneEvent = { type: "plan"; plan: PrunePlan } | { type: "deleted"; target: PruneTarget };

/** Something to be deleted, or deleted. */
export interface PruneTarget extends Omit<Target, "id"> {
  /** What it takes on disk. */
  size: Usage;
}

export interface PrunePlan {
  name: string;
  mode: PruneMode;
  targets: PruneTarget[];
  /** Is it removed from `apptainer.images` too? */
  hasRecord: boolean;
  warnings: string[];
}

export interface PruneResult extends PrunePlan {
  status: "pruned" | "nothing-to-prune" | "dry-run" | "aborted";
  deleted: PruneTarget[];
  /** Deleted as far as anybody can see it, but something is left to be removed. */
  errors: string[];
  /** Where nothing has this name: one that may have been meant. */
  near?: string;
}

/** How long sizes may take to count, in milliseconds. */
const countingMs = 15_000;

/**
 * Delete an environment, its image, or both. Files that the name does not mean stay, and links are not followed.
 *
 * @throws {EfError} what keeps it from being done: LOCK_TIMEOUT if somebody works with it, UNKNOWN_ENV for a directory that is
 *   no environment, USAGE for the one that this shell uses, UNSET_VARIABLE, CONFIG_INVALID, IO …; the signal's reason
 * @example
 * const { deleted } = await apptainerPrune(await loadConfig(), { name: "train", mode: "sif" });
 */
export async function apptainerPrune(written: Config, options: PruneOptions): Promise<PruneResult> {
  const { name, mode = "both", dryRun = false, env = process.env, signal, onEvent } = options;
  const configFile = options.configFile ?? configPath(env);
  signal?.throwIfAborted();
  const places = { env, missing: "leave", signal } as const;
  const config = await withWorkspaces(written, places);
  const subject = subjectOf(config, env, name, mode);
  const { hasRecord, warnings } = subject;
  assertDeletable(subject, configFile, env);
  const targets = await measured(subject.targets, signal);
  const plan: PrunePlan = { name, mode, targets, hasRecord, warnings };
  const result = { ...plan, deleted: [], errors: [] };
  if (targets.length === 0 && !hasRecord) {
    const near = nearestName(config, env, subject);
    return { ...result, status: "nothing-to-prune", ...(near === undefined ? {} : { near }) };
  }
  if (dryRun) warnings.push(...(await held(subject.locks)));
  onEvent?.({ type: "plan", plan });
  if (dryRun) return { ...result, status: "dry-run" };
  if (options.confirm && !(await options.confirm(plan))) return { ...result, status: "aborted" };
  signal?.throwIfAborted();
  await using _ = await lockAll(subject, signal);
  const now = subjectOf(await withWorkspaces(await loadConfig(configFile), places), env, name, mode);
  assertSame(subject, now);
  assertDeletable(now, configFile, env);
  const job: Job = { ...now, name, signal, done: [], errors: [] };
  const tell = (target: Target) => {
    const found = targets.find(({ path }) => path === target.path);
    if (!found) return;
    job.done.push(found);
    onEvent?.({ type: "deleted", target: found });
  };
  for (const target of now.targets) {
    signal?.throwIfAborted();
    if (await remove(target, job)) tell(target);
  }
  removeBegun(now);
  if (now.hasRecord) await forget(configFile, name);
  return { ...result, status: "pruned", deleted: job.done, errors: job.errors };
}

interface Job extends Subject {
  signal: AbortSignal | undefined;
  done: PruneTarget[];
  errors: string[];
}

const shown = (text: string) => display(bytesOf(text));

async function measured(targets: readonly Target[], signal: AbortSignal | undefined): Promise<PruneTarget[]> {
  const deadlineMs = Date.now() + countingMs;
  return Promise.all(
    targets.map(async ({ id: _, ...target }) => {
      const none: Usage = { bytes: 0, files: 0, complete: true };
      if (target.linkTo === undefined)
        return { ...target, size: (await usage(target.path, { deadlineMs, signal })) ?? none };
      const blocks = lstatSync(target.path, { throwIfNoEntry: false })?.blocks ?? 0;
      return { ...target, size: { bytes: blocks * 512, files: 1, complete: true } };
    }),
  );
}

/** A name that may have been meant; only where nothing has the one that was given. */
function nearestName(config: Config, env: Env, { name, base, venvName }: Subject): string | undefined {
  const names = [...new Set(prunable(config, env))];
  return names.includes(name) || (base !== undefined && names.includes(venvName)) ? undefined : nearest(name, names);
}

/** Every name that has something to be pruned: images first, then environments without one. */
export function prunable(config: Config, env: Env = process.env): string[] {
  const images = Object.keys(config.apptainer?.images ?? {});
  return [...images, ...environments(config, env).filter((name) => !images.includes(name))];
}

/** The names of those in `apptainer.venv_base`; none where it cannot be read. */
export function environments(config: Config, env: Env = process.env): string[] {
  try {
    const names = config.apptainer?.venv_base ? environmentsIn(venvBase(undefined, config, env)) : [];
    return names.map((name) => Buffer.from(name, "latin1").toString("utf8")).filter((name) => !name.includes("\uFFFD"));
  } catch {
    return []; // the directory is not there
  }
}

/** A sentence for each lock that somebody holds. */
async function held(locks: readonly PruneLock[]): Promise<string[]> {
  const holders = await Promise.all(locks.map(({ path }) => holderOf(path).catch(() => undefined)));
  return holders.flatMap((holder, i) => {
    const who = describeHolder(holder === "unknown" ? undefined : holder);
    return holder === undefined ? [] : [`not now: ${who} ${locks[i]?.doing}`];
  });
}

/** All of them, or none. A lock where nothing is deleted, and no file can be made, keeps nobody out. */
async function lockAll({ name, locks, targets }: Subject, signal: AbortSignal | undefined): Promise<AsyncDisposable> {
  const taken: Held[] = [];
  const free = async () => {
    for (const each of taken) await each[Symbol.asyncDispose]();
  };
  try {
    for (const { path, doing } of locks) {
      const one = await lock(path, { timeoutS: 0, ...(signal ? { signal } : {}) }).catch(async (error) => {
        if (!(error instanceof EfError)) throw error;
        if (error.code === "LOCK_FAILED" && !targets.some((target) => dirname(target.path) === dirname(path)))
          return undefined;
        if (error.code !== "LOCK_TIMEOUT") throw error;
        const holder = await holderOf(path).catch(() => undefined);
        const who = describeHolder(holder === "unknown" ? undefined : holder);
        const message = `Cannot prune ${shown(name)}: ${who} holds ${shown(path)} (who holds it ${doing})`;
        const hint = "nothing was deleted; wait for it to end, then run it again";
        throw new EfError("LOCK_TIMEOUT", message, { hint, path, cause: error });
      });
      if (one) taken.push(one);
    }
  } catch (error) {
    await free();
    throw error;
  }
  return { [Symbol.asyncDispose]: free };
}

/** Nothing may go that nobody was asked about; what is gone meanwhile is no matter. */
function assertSame(asked: Subject, now: Subject): void {
  const other = now.targets.find(({ path, id }) => !asked.targets.some((each) => each.path === path && each.id === id));
  if (other === undefined && (asked.hasRecord || !now.hasRecord)) return;
  const what = other ? `${shown(other.path)} was made or replaced` : "it was built";
  throw new EfError("ABORTED", `Cannot prune ${shown(now.name)}: ${what} meanwhile`, {
    hint: "nothing was deleted; look again, and run it again",
    path: other?.path,
  });
}

/** @returns is it gone, as far as anybody can see? */
async function remove(target: Target, job: Job): Promise<boolean> {
  const { path } = target;
  try {
    if (target.kind === "venv" && target.linkTo === undefined) return await removeEnvironment(target, job);
    unlinkSync(path);
    return true;
  } catch (error) {
    job.signal?.throwIfAborted();
    if (errnoOf(error) === "ENOENT") return true;
    const before = job.done.map((each) => shown(each.path)).join(", ") || "nothing";
    const cause = writeError(`Cannot delete ${shown(path)}`, path, error);
    const why = cause instanceof EfError ? cause.message : `Cannot delete ${shown(path)}: ${reasonOf(error)}`;
    throw new EfError("IO", why, {
      hint: `run it again when that is mended, and it goes on; deleted so far: ${before}`,
      path,
      cause: error,
    });
  }
}

/** Out of sight first, in one step; then everything in it, many at once. */
async function removeEnvironment({ path, isRest }: Target, job: Job): Promise<boolean> {
  const prefix = tempPrefixOf(dirname(path), job.venvName);
  const temp = isRest ? path : `${prefix}${hostname()}-${process.pid}-${randomId()}`;
  if (!isRest) renameSync(path, temp);
  await widenPool();
  const storage = new Storage(undefined);
  const { kept, failed } = await removeMoved(
    temp,
    { has: () => true },
    { storage, workers: "auto", signal: job.signal },
  );
  if (present(temp)) removeTree(temp); // also what is in directories that may not be read
  if (!present(temp)) return true;
  const why = failed[0] ?? kept[0] ?? "something in it came back";
  job.errors.push(
    isRest
      ? `Cannot delete ${shown(path)}, which an interrupted prune left: ${why}`
      : `${shown(path)} is deleted, but not all of it is gone: ${why}; run it again to remove ${shown(temp)}`,
  );
  return !isRest;
}

/** What killed runs had begun to write beside the image. */
function removeBegun({ targets }: Subject): void {
  for (const { kind, path } of targets) if (kind !== "venv") removeParts([path]);
}

/** Remove the record, and leave whatever else was written meanwhile. */
async function forget(configFile: string, name: string): Promise<void> {
  await updateConfig(configFile, (raw) => withoutRecord(raw, name));
}
