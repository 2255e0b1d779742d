/**
 * Move a directory of the configuration to another place, such that its contents are whole in at least one of the two at
 * every moment.
 *
 * In this order: copy, verify, mend Python environments, look whether the old place is still what was verified, save
 * the configuration, delete. Before the configuration is saved nothing of the old place is touched; after it, only what was
 * verified is deleted, entry by entry (lib/engine/move-journal.ts says how an interrupted move goes on).
 */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { EfError } from "./base/errors.ts";
import { run } from "./base/exec.ts";
import { removeIfThere } from "./base/files.ts";
import { type Env, present, realPath } from "./base/paths.ts";
import { span } from "./base/trace.ts";
import type { Config } from "./config/schema.ts";
import { configPath, loadConfig, readRaw } from "./config/store.ts";
import { onPath } from "./drivers/programs.ts";
import { sidesOf } from "./engine/builtin.ts";
import { builtinOptions, type TransferFlags, withFlags } from "./engine/copying.ts";
import type { Comparison } from "./engine/engine.ts";
import { describeHolder, type Holder, holderOf, lock } from "./engine/lock.ts";
import { checkEmpty, checkMove, checkRoom, isLink, type Move, unharmed } from "./engine/move-checks.ts";
import {
  assertOurs,
  beginMove,
  claimOf,
  type Journal,
  type JournalFiles,
  journalFiles,
  readJournal,
  removeJournal,
  writeJournal,
} from "./engine/move-journal.ts";
import { mendLinks } from "./engine/move-links.ts";
import { deleteOld, followMove, removeClaim } from "./engine/move-old.ts";
import { type Amount, amountOf, assertUnchanged, copyAndVerify, lookAtMove } from "./engine/move-tree.ts";
import {
  adviceOf,
  directoryOf,
  findMovable,
  type Movable,
  type MoveRecord,
  withPlace,
  writtenNow,
  writtenPlace,
} from "./engine/move-what.ts";
import { plan, type Step } from "./engine/plan.ts";
import { removeParts } from "./engine/temp.ts";
import type { Mended } from "./migrate-envs.ts";
import { withWorkspaces } from "./scratch-base.ts";
import { updateConfig } from "./settings.ts";

export { type Movable, movables } from "./engine/move-what.ts";

export interface MigrateOptions extends TransferFlags {
  /** A variable's name, or `venv_base`, `sif_store`, `venv_store`, `wheelhouse`. */
  what: string;
  /** The new directory: absolute or relative; may contain `$VAR` and `~`, and the configuration will say it so. */
  to: string;
  /** Say what would be done, and write nothing. @default false */
  dryRun?: boolean;
  /** Leave the old directory as it is. @default false */
  keepOld?: boolean;
  /** Read both sides and compare the contents of all files before anything is deleted. @default false */
  checksum?: boolean;
  /** Check that there is room before the first byte. @default true */
  preflight?: boolean;
  /** Asked once before anything is written; without it, it is done. */
  confirm?: (move: MovePlan) => Promise<boolean>;
  /** The file of the configuration. @default configPath() */
  configFile?: string;
  signal?: AbortSignal;
  /** What happens meanwhile. */
  onEvent?: (event: MigrateEvent) => void;
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

/** What will be moved. */
export interface MovePlan extends Amount {
  what: string;
  oldPath: string;
  newPath: string;
  keepOld: boolean;
  /** Where `oldPath` is a symbolic link: the directory that is moved; the link goes too. */
  linkTo?: string;
  /** Only deleting is left: the rest was done by an interrupted run. */
  onlyDelete: boolean;
}

export type MigratePhase = "verifying" | "relocating" | "saving" | "deleting";

export type MigrateEvent =
  | { type: "warning"; name: string; message: string }
  | { type: "waiting"; name: string; holder: Holder | undefined /** The holder in words. */; who: string }
  /** So much is to be copied, or read for comparing. */
  | {
      type: "copying";
      name: string;
      work: "copy" | "compare" | "delete";
      plan: Amount & { names: string[] };
    }
  | { type: "progress"; name: string; bytes: number; files: number }
  | { type: "phase"; name: string; phase: MigratePhase };

export interface MigrateResult extends MovePlan {
  targetType: Movable["type"];
  status: "migrated" | "dry-run" | "aborted";
  dryRun: boolean;
  deletedOld: boolean;
  /** Environments whose files were made to name the new place. */
  relocated: Mended[];
  /** Symbolic links that led into the old place by its whole path, and lead into the new one now. */
  relinked: number;
  /** What a person may have to do now. */
  advice: string[];
  warnings: string[];
  /** The new place is complete and in use, but something of the old one is left. */
  errors: string[];
}

/**
 * Move a directory that the configuration names.
 *
 * @throws {EfError} what keeps it from being moved; the old place is then as it was, and so is the configuration.
 *   Run again, it goes on where it stopped.
 * @example
 * const { newPath } = await migrate(await loadConfig(), { what: "HF_HOME", to: "$PROJECT/huggingface" });
 */
export async function migrate(written: Config, options: MigrateOptions): Promise<MigrateResult> {
  const { env = process.env, signal, dryRun = false } = options;
  signal?.throwIfAborted();
  const warnings: string[] = [];
  const tell = (event: MigrateEvent) => {
    if (event.type === "warning") warnings.push(event.message);
    options.onEvent?.(event);
  };
  const config = await withWorkspaces(written, { env, missing: "leave", signal });
  const configFile = realPath(options.configFile ?? configPath(env));
  const movable = findMovable(config, options.what);
  const files = journalFiles(configFile, movable.what);
  const to = writtenPlace(options.to);
  const job: Job = { config, configFile, movable, files, to, env, options, tell };
  const { plan: whole, done } = await prepare(job);
  const result = { ...whole, targetType: movable.type, dryRun, deletedOld: false };
  const nothing = { relocated: [], relinked: 0, advice: [], warnings, errors: [] };
  if (dryRun) return { ...result, ...nothing, status: "dry-run" };
  if (options.confirm && !(await options.confirm(whole))) return { ...result, ...nothing, status: "aborted" };
  signal?.throwIfAborted();
  return { ...result, warnings, status: "migrated", ...(await done()) };
}

/**
 * Where a directory of the configuration is.
 *
 * @throws {EfError} UNKNOWN_VAR, UNSET_VARIABLE, BAD_ROOT
 */
export function placeOf(config: Config, what: string, env: Env = process.env): string {
  const movable = findMovable(config, what);
  return directoryOf(movable.written, movable.at.join("."), env);
}

/**
 * Could it move there? A look at names only.
 *
 * @throws {EfError} BAD_ROOT, EXISTS and others, with what is wrong
 */
export function checkPlace(config: Config, what: string, to: string, env: Env = process.env): void {
  const configFile = realPath(configPath(env));
  const movable = findMovable(config, what);
  const move = moveOf(movable, placeOf(config, what, env), directoryOf(writtenPlace(to), "--to", env));
  const journal = readJournal(journalFiles(configFile, what));
  if (journal && isInUse(journal, move.from, move.to)) return;
  checkMove(move, config, configFile, env);
  checkEmpty(move, journal !== undefined && isOurs(journal, move));
}

const moveOf = ({ what }: Movable, from: string, to: string): Move => ({
  ...{ what, from, fromReal: realPath(from), to, toReal: realPath(to) },
});

interface Job {
  config: Config;
  configFile: string;
  movable: Movable;
  files: JournalFiles;
  /** The new place as the configuration will say it. */
  to: string;
  env: Env;
  options: MigrateOptions;
  tell: (event: MigrateEvent) => void;
}

type Changed = Pick<MigrateResult, "relocated" | "relinked">;
type Done = Pick<MigrateResult, "deletedOld" | "advice" | "errors"> & Changed;

/** Find out what is to be done; nothing is written before `done` is called. */
async function prepare(job: Job): Promise<{ plan: MovePlan; done: () => Promise<Done> }> {
  const { config, movable, files, to, env, options } = job;
  const keepOld = options.keepOld ?? false;
  const where = movable.at.join(".");
  const newPath = directoryOf(to, "--to", env);
  const now = directoryOf(movable.written, where, env);
  const journal = readJournal(files);
  if (journal && isInUse(journal, now, newPath)) return resumed(job, journal);

  const move = moveOf(movable, now, newPath);
  checkMove(move, config, job.configFile, env);
  checkEmpty(move, journal !== undefined && isOurs(journal, move));
  const sides = await sidesOf(workersOf(job));
  const comparison = await span("look", () => lookAtMove(move, sides, options.signal));
  if (options.preflight ?? true) {
    const onProblem = (message: string) => job.tell({ type: "warning", name: move.what, message });
    await checkRoom(move, comparison.plan, { signal: options.signal, onProblem });
  }
  const plan: MovePlan = {
    ...{ what: move.what, oldPath: move.from, newPath, keepOld, onlyDelete: false, ...amountOf(comparison) },
    ...(isLink(move.from) ? { linkTo: move.fromReal } : {}),
  };
  return { plan, done: () => withLocks(job, () => moveAll(job, move, comparison)) };
}

const workersOf = ({ config, options }: Job) => options.workers ?? config.ef?.transfer?.workers ?? "auto";

/** Is the new place in the configuration already, and only the old one to be deleted? */
function isInUse(journal: Journal, now: string, newPath: string): boolean {
  const real = realPath(newPath);
  return journal.verified !== undefined && journal.new_real === real && realPath(now) === real;
}

/** Is what stands at the new place there because of an earlier run of this very move? */
const isOurs = (journal: Journal, { fromReal, toReal }: Move) =>
  journal.old_real === fromReal && journal.new_real === toReal && existsSync(claimOf(journal));

function resumed(job: Job, journal: Journal): { plan: MovePlan; done: () => Promise<Done> } {
  const { old_path: from, old_real: fromReal, new_path: to, new_real: toReal } = journal;
  const { what } = job.movable;
  const move: Move = { what, from, fromReal, to, toReal };
  const keepOld = job.options.keepOld ?? false;
  const plan = { what, oldPath: from, newPath: to, keepOld, onlyDelete: true, files: 0, bytes: 0 };
  return { plan, done: () => withLocks(job, () => end(job, move, { relocated: [], relinked: 0 })) };
}

/** One move of a thing at a time, and no sync or push of it meanwhile. */
async function withLocks<T>(job: Job, work: () => Promise<T>): Promise<T> {
  const { config, movable, files, options, tell, configFile } = job;
  const { signal } = options;
  const name = movable.what;
  await using _ = await lock(files.lock, { timeoutS: 0, signal }).catch(async (error) => {
    if (!(error instanceof EfError && error.code === "LOCK_TIMEOUT")) throw error;
    const holder = await holderOf(files.lock).catch(() => undefined);
    const who = describeHolder(holder === "unknown" ? undefined : holder);
    const message = `Cannot move ${name}: ${who} is moving it`;
    throw new EfError("LOCK_TIMEOUT", message, { hint: "wait for it to end", path: files.lock, cause: error });
  });
  try {
    removeParts([files.journal, files.list, configFile]);
    if (writtenNow(await readRaw(configFile), movable) !== movable.written) throw changedMeanwhile(job);
    const syncLock = stepOf(config, job)?.lock;
    await using __ = syncLock
      ? await lock(syncLock, {
          timeoutS: config.lock_timeout_seconds,
          signal,
          onWait: (holder) => tell({ type: "waiting", name, holder, who: describeHolder(holder) }),
        })
      : undefined;
    return await work();
  } finally {
    removeIfThere(files.lock); // whoever waits for it sees that the name is gone, and begins again
  }
}

/** What a sync of the variable works with; undefined where there is no scratch here. */
function stepOf(config: Config, { movable, env }: Job): Step | undefined {
  if (movable.type !== "var") return undefined;
  try {
    const [step] = plan(config, env, [movable.what]).steps;
    return step && existsSync(dirname(step.lock)) ? step : undefined;
  } catch {
    return undefined; // SCRATCH is not set on this node: no sync either
  }
}

const changedMeanwhile = ({ movable, configFile }: Job) =>
  new EfError("CONFLICT", `Cannot move ${movable.what}: ${movable.at.join(".")} was changed meanwhile`, {
    hint: `nothing was deleted; look at ${configFile} with: ef config show`,
    path: configFile,
  });

async function moveAll(job: Job, move: Move, first: Comparison): Promise<Done> {
  const { movable, files, to, options, tell } = job;
  const { signal } = options;
  const name = move.what;
  const phase = (what: MigratePhase) => tell({ type: "phase", name, phase: what });
  const warning = (message: string) => tell({ type: "warning", name, message });
  const changed: Changed = { relocated: [], relinked: 0 };
  const seen = (await forgetOther(job, move)) ? undefined : first.source;
  checkEmpty(move, isOurJournal(job, move)); // it may not be empty any more
  try {
    const journal = beginMove(files, move, to, readJournal(files));
    const hasSync = (await onPath("sync", process.env)).length > 0;
    const withXattrs = { ...builtinOptions(withFlags(job.config, flagsOf(options))), xattrs: true, durable: !hasSync };
    const context = {
      sides: first.sides,
      options: withXattrs,
      checksum: options.checksum ?? false,
      signal,
      onCopy: (plan: Comparison["plan"]) => tell({ type: "copying", name, work: "copy", plan }),
      onVerify: () => phase("verifying"),
      onRead: (count: number, bytes: number) =>
        tell({ type: "copying", name, work: "compare", plan: { files: count, bytes, names: [] } }),
      onProgress: (bytes: number, count: number) => tell({ type: "progress", name, bytes, files: count }),
      onWarning: warning,
    };
    // The new directory may have been made just now, so it is looked at again.
    const comparison = await lookAtMove(move, first.sides, signal, seen);
    const { verified, tree } = await copyAndVerify(move, comparison, context);
    changed.relinked = await mendLinks(move, tree, first.sides.target, warning);
    if (movable.field === "venv_base") {
      phase("relocating");
      const { mendEnvironments } = await import("./migrate-envs.ts");
      changed.relocated = await mendEnvironments(move, tree, { signal, onWarning: warning });
    }
    if (hasSync) await run(["sync", "-f", "--", move.toReal], { signal });
    await assertUnchanged(move, verified, context);
    assertOurs(journal);
    phase("saving");
    verified.write(files);
    writeJournal(files, { ...journal, verified: verified.count });
    await save(job, move);
  } catch (error) {
    throw signal?.aborted ? signal.reason : unharmed(error, job.configFile, to);
  }
  return end(job, move, changed);
}

const flagsOf = ({ workers, bwlimit }: MigrateOptions): TransferFlags => ({
  ...(workers === undefined ? {} : { workers }),
  ...(bwlimit === undefined ? {} : { bwlimit }),
});

function isOurJournal({ files }: Job, move: Move): boolean {
  const journal = readJournal(files);
  return journal !== undefined && isOurs(journal, move);
}

/** A journal of a move to somewhere else: it will not be gone on with. @returns was there one? */
async function forgetOther({ files, tell }: Job, move: Move): Promise<boolean> {
  const journal = readJournal(files);
  if (!journal || isOurs(journal, move)) return false;
  const rest = journal.verified === undefined ? journal.new_path : journal.old_path;
  if (present(rest) && rest !== move.from && rest !== move.to) {
    const message = `an earlier move did not come to its end, and is given up; remove what it left yourself: ${rest}`;
    tell({ type: "warning", name: move.what, message });
  }
  if (journal.verified !== undefined) await removeClaim(journal); // that place has been in use
  removeJournal(files);
  return true;
}

/** Put the new place into the configuration, if that still says the old one. */
async function save(job: Job, move: Move): Promise<void> {
  const { configFile, movable, to } = job;
  const record: MoveRecord = { old_path: move.from, new_path: move.to, migrated_at: Date.now() / 1000 };
  await updateConfig(configFile, (raw) => {
    if (writtenNow(raw, movable) !== movable.written) throw changedMeanwhile(job);
    return withPlace(raw, movable, to, record);
  });
}

/** The new place is in use: delete the old one, and say what a person may have to do. */
async function end(job: Job, move: Move, changed: Changed): Promise<Done> {
  const advice = adviceOf(job.movable, move, job.env);
  const step = stepOf(await loadConfig(job.configFile), job);
  if (step) followMove(move, step);
  const journal = readJournal(job.files);
  const finish = async () => {
    if (journal) await removeClaim(journal);
    removeJournal(job.files);
  };
  if (job.options.keepOld) {
    await finish();
    return { ...changed, deletedOld: false, advice, errors: [] };
  }
  job.tell({ type: "phase", name: move.what, phase: "deleting" });
  const { tell, files, options } = job;
  const name = move.what;
  const deletion = deleteOld(move, files, {
    ...{ workers: workersOf(job), signal: options.signal },
    onProgress(count, total) {
      if (count === 1) tell({ type: "copying", name, work: "delete", plan: { files: total, bytes: 0, names: [] } });
      tell({ type: "progress", name, bytes: 0, files: count });
    },
    onWarning: (message) => tell({ type: "warning", name, message }),
  });
  const errors = await span("delete", () => deletion);
  if (errors.length === 0) await finish();
  return { ...changed, deletedOld: errors.length === 0, advice, errors };
}
