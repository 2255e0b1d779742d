import { statSync } from "node:fs";
import { dirname } from "node:path";
import { mapLimit } from "./base/async.ts";
import { EfError, reasonOf } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import { widenPool } from "./base/stat.ts";
import { span } from "./base/trace.ts";
import { describeIncongruence } from "./config/congruency.ts";
import type { Config } from "./config/schema.ts";
import type { BringEvent, Brought } from "./engine/bring.ts";
import type { TransferPlan } from "./engine/engine.ts";
import { type Stale, whyStale } from "./engine/marker.ts";
import { isNodeLocal, plan, type Step } from "./engine/plan.ts";
import { strays } from "./engine/strays.ts";
import { withWorkspaces } from "./scratch-base.ts";

export interface SyncOptions {
  /** Names of variables, disabled ones too. @default all enabled */
  only?: readonly string[];
  /** Copy even when the last sync is fresh. @default false */
  force?: boolean;
  /** Find out what would be copied, and write nothing. @default false */
  dryRun?: boolean;
  /** Keep every changed name in the plans instead of the first few. @default false */
  allNames?: boolean;
  /**
   * Copy to this node's own disk, once for all its tasks: from scratch where the copy there is whole, else from the source.
   *
   * @default in a Slurm job those for which `ef.vars.NAME.node_local` says so
   */
  nodeLocal?: boolean;
  /** Keep the copies on this node's own disk until the job has ended, whoever else removes them. @default true */
  keep?: boolean;
  /** Check that there is room before the first byte. @default true */
  preflight?: boolean;
  /** Requests in flight, and threads on quick storage. @default `ef.transfer.workers`, else "auto"; 4 on a login node */
  workers?: number | "auto";
  /** Bytes per second of all variables together, e.g. "200M" (K, M, G, T of 1024). @default `ef.transfer.bwlimit` */
  bwlimit?: string;
  /**
   * Stops the copies; locks are freed, temporary files removed, no marker is written. A function is asked for it when
   * there is something to stop.
   */
  signal?: AbortSignal | (() => AbortSignal);
  /** What happens meanwhile. */
  onEvent?: (event: SyncEvent) => void;
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

export type SyncEvent =
  | BringEvent
  | { type: "warning"; message: string }
  /** Before the first comparison, on a node that many people share. */
  | { type: "login-node" }
  | { type: "result"; result: SyncStep };

/** What came of one variable. */
export interface SyncStep {
  name: string;
  source: string;
  target: string;
  status: Brought["status"] | "failed";
  /** What was copied, or would be; absent where nothing was compared. */
  plan?: TransferPlan;
  /** Why it failed. */
  error?: EfError;
  seconds: number;
}

export interface SyncResult {
  scratchBase: string;
  steps: SyncStep[];
  /** Variables whose scratch copy is whole, and its path. In a dry run: those that would be. */
  exports: Record<string, string>;
  /** Variables that the configuration exports beside them (`ef.vars.NAME.env`). */
  env: Record<string, string>;
  warnings: string[];
  errors: string[];
}

/**
 * Bring caches to scratch.
 *
 * A variable that fails is in `errors` and not in `exports`; the others go on.
 *
 * @throws {EfError} what concerns all: configuration, unset variables, roots that contain each other; nothing is written
 * @example
 * const { exports, errors } = await sync(await loadConfig(), { only: ["HF_HOME"] });
 */
export async function sync(written: Config, options: SyncOptions = {}): Promise<SyncResult> {
  const env = options.env ?? process.env;
  const notes: string[] = [];
  const missing = options.dryRun ? "fail" : "allocate";
  const onWarning = (message: string) => void notes.push(message);
  const config = await withWorkspaces(written, { env, missing, onWarning, signal: options.signal });
  const planned = plan(config, env, options.only);
  const { scratchBase } = planned;
  const warnings: string[] = [];
  const tell = (event: SyncEvent) => {
    if (event.type === "warning") warnings.push("name" in event ? `${event.name}: ${event.message}` : event.message);
    options.onEvent?.(event);
  };
  if (typeof options.signal === "object") options.signal.throwIfAborted();
  for (const message of notes) tell({ type: "warning", message });
  const { steps, local } = await placed(planned.steps, config, options, env, tell);
  for (const stray of await strays(planned.steps, config, env))
    tell({ type: "warning", message: describeIncongruence(stray) });

  const began = performance.now();
  const stale = await mapLimit(steps, config.parallel_jobs, (step) => why(step, config, options));
  const bring = stale.some((reason) => reason !== undefined)
    ? await prepare(config, scratchBase, { steps, local }, options, tell)
    : undefined;
  const tasks = steps.map((step, i) => ({ step, reason: stale[i] }));
  const results = await mapLimit(tasks, config.parallel_jobs, async ({ step, reason }): Promise<SyncStep> => {
    const { name, source, target } = step;
    const from = bring ? performance.now() : began;
    const outcome =
      reason === undefined || !bring
        ? { status: "skipped" as const }
        : await attempt(step, () => bring.run(step, reason));
    bring?.signal?.throwIfAborted();
    const result = { name, source, target, ...outcome, seconds: (performance.now() - from) / 1000 };
    tell({ type: "result", result });
    return result;
  });
  return report(scratchBase, steps, results, warnings);
}

/** The steps, and those of them that go to this node's own disk. */
async function placed(
  steps: Step[],
  config: Config,
  { nodeLocal, keep = true, force = false, dryRun, signal }: SyncOptions,
  env: Env,
  tell: (event: SyncEvent) => void,
): Promise<{ steps: Step[]; local: Step[] }> {
  const chosen =
    nodeLocal || config.ef?.vars ? steps.filter(({ name }) => isNodeLocal(config, env, name, nodeLocal)) : [];
  if (chosen.length === 0) return { steps, local: [] };
  const { toLocal } = await import("./engine/local-steps.ts");
  const onWarning = (message: string) => tell({ type: "warning", message });
  const abort = typeof signal === "function" ? undefined : signal;
  const local = await toLocal(chosen, config, { env, keep, force, dryRun, signal: abort, onWarning });
  return { steps: steps.map((step) => local.find(({ name }) => name === step.name) ?? step), local };
}

/** Did it hold some thousand files the last time? Then a second thread is worth its start, and the sooner the better. */
function isLarge({ manifest }: Step): boolean {
  try {
    return (statSync(manifest, { throwIfNoEntry: false })?.size ?? 0) > 150_000;
  } catch {
    return false; // what is wrong with scratch is said in its place
  }
}

/** Why a step is not fresh; undefined if it is. */
async function why(step: Step, config: Config, { force }: SyncOptions): Promise<Stale | undefined> {
  if (force) return { why: "forced" };
  return span(`fresh ${step.name}`, () => whyStale(step, config.skip_if_fresh_seconds));
}

/** Everything that only a copy needs: loaded, checked and set up once, before anything is written. */
async function prepare(
  config: Config,
  scratchBase: string,
  { steps, local }: { steps: Step[]; local: Step[] },
  options: SyncOptions,
  tell: (event: SyncEvent) => void,
) {
  await widenPool(); // before anything uses it
  const signal = typeof options.signal === "function" ? options.signal() : options.signal;
  const { manners } = await import("./manners.ts");
  const asked = manners(config, options.workers, options.env ?? process.env); // sinfo may run meanwhile
  const loading = span("load", () => import("./engine/copying.ts"));
  const [{ isLogin, workers }, loaded] = await Promise.all([asked, loading]);
  const { bring, checkRoots, chooseEngine, ensureScratch, quotasOnce, Space } = loaded;
  if (isLogin) tell({ type: "login-node" });
  if (steps.some(isLarge)) (await import("./engine/threads.ts")).warm(workers);
  const { bwlimit } = options;
  const engine = chooseEngine(config, { ...(workers ? { workers } : {}), ...(bwlimit ? { bwlimit } : {}) });
  for (const message of checkRoots(steps)) tell({ type: "warning", message });
  if (local.length < steps.length) ensureScratch(scratchBase, { dryRun: options.dryRun ?? false });
  if (local.length > 0 && !options.dryRun) {
    const { removeAbandoned } = await import("./engine/local-use.ts");
    await removeAbandoned(local, signal);
  }
  const onProblem = (message: string) => tell({ type: "warning", message });
  const onScratch = quotasOnce(scratchBase, { signal, onProblem });
  const onNode = quotasOnce(local[0] ? dirname(local[0].target) : scratchBase, { signal, onProblem });
  const context = {
    engine,
    space: new Space(),
    lockTimeoutS: config.lock_timeout_seconds,
    maxAgeS: config.skip_if_fresh_seconds,
    force: options.force ?? false,
    dryRun: options.dryRun ?? false,
    preflight: options.preflight ?? true,
    allNames: options.allNames ?? false,
    arrival: config.ef?.transfer?.times === "arrival",
    signal,
    tell,
  };
  const quotas = (step: Step) => (local.includes(step) ? onNode : onScratch);
  return { signal, run: (step: Step, stale: Stale) => bring(step, stale, { ...context, quotas: quotas(step) }) };
}

async function attempt(
  step: Step,
  work: () => Promise<Brought>,
): Promise<Brought | { status: "failed"; error: EfError }> {
  try {
    return await span(`bring ${step.name}`, work);
  } catch (error) {
    const known = error instanceof EfError ? error : unexpected(error);
    return { status: "failed", error: known };
  }
}

/** A system call that failed where none should: its own words, and no stack trace. */
export function unexpected(cause: unknown): EfError {
  const { syscall, path } = cause as NodeJS.ErrnoException;
  const what = syscall && path ? `Cannot ${syscall} ${path}: ` : "";
  return new EfError("IO", `${what}${reasonOf(cause)}`, {
    path,
    hint: "ef doctor looks at scratch and its mounts",
    cause,
  });
}

function report(scratchBase: string, steps: Step[], results: SyncStep[], warnings: string[]): SyncResult {
  const good = results.filter((result) => result.status !== "failed");
  const copied = new Set(good.filter(({ status }) => status !== "source-missing").map(({ name }) => name));
  return {
    scratchBase,
    steps: results,
    exports: Object.fromEntries(good.map(({ name, target }) => [name, target])),
    // Not where there is no cache yet: HF_HUB_OFFLINE=1 would keep a job from filling it.
    env: Object.assign({}, ...steps.filter(({ name }) => copied.has(name)).map((step) => step.env)),
    warnings,
    errors: results.flatMap(({ name, error }) => (error ? [`${name}: ${error.message}`] : [])),
  };
}
