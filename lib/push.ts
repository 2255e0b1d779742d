import { existsSync, mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { mapLimit } from "./base/async.ts";
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import { span } from "./base/trace.ts";
import type { Config } from "./config/schema.ts";
import { type QuotaLeft, quotas } from "./drivers/quota.ts";
import {
  type Deletions,
  lockStep,
  type PushContext,
  type PushedStep,
  type PushStepEvent,
  pushStep,
} from "./engine/bring-back.ts";
import { builtinOptions, withFlags } from "./engine/copying.ts";
import { localRoot, localStep } from "./engine/node-local.ts";
import { isNodeLocal, plan, type Step } from "./engine/plan.ts";
import type { OnConflict } from "./engine/push-decide.ts";
import type { PushSummary } from "./engine/push-summary.ts";
import { checkRoots } from "./engine/roots.ts";
import { Space } from "./engine/space.ts";
import { manners } from "./manners.ts";
import { withWorkspaces } from "./scratch-base.ts";
import { unexpected } from "./sync.ts";

export { type OnConflict, onConflicts } from "./engine/push-decide.ts";

export interface PushOptions {
  /** Names of variables, disabled ones too. @default all enabled */
  only?: readonly string[];
  /**
   * Push the copies on this node's own disk. As they are all pushed to the same sources, one node does it at a time.
   *
   * @default in a Slurm job those for which `ef.vars.NAME.node_local` says so
   */
  nodeLocal?: boolean;
  /** Find out what would be pushed, and write nothing. @default false */
  dryRun?: boolean;
  /**
   * What becomes of a file that changed on both sides: `both` stores the scratch version beside the source's, `source` keeps
   * the source's, `scratch` replaces it, `fail` pushes nothing of that variable. @default "both"
   */
  onConflict?: OnConflict;
  /** Delete at the source what was deleted on scratch since the last sync. @default false */
  delete?: boolean;
  /** Delete without a question, and more than half of a tree. @default false */
  yes?: boolean;
  /** Asked before anything is deleted; without it and without `yes` that is an error. */
  confirm?: (deletions: Deletions) => Promise<boolean>;
  /** Keep every changed name in the results instead of the first few. @default false */
  allNames?: boolean;
  /** Check that there is room before the first byte. @default true */
  preflight?: boolean;
  /**
   * For a push while a job still writes: leave what changed within so many seconds to a later push, and conflicts too.
   * @default nothing is left
   */
  settledS?: number | undefined;
  /** Requests in flight, and threads. @default that of the configuration; 4 on a login node */
  workers?: number | "auto";
  /** Bytes per second in all, e.g. `200M`. @default that of the configuration */
  bwlimit?: string;
  /** Stops the copies; locks are freed, temporary files removed. What was pushed by then stays. */
  signal?: AbortSignal;
  /** What happens meanwhile. */
  onEvent?: (event: PushEvent) => void;
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

export type PushEvent =
  | PushStepEvent
  | { type: "warning"; message: string }
  /** Before the first comparison, on a node that many people share. */
  | { type: "login-node" }
  | { type: "result"; result: PushVar };

/** What came of one variable. */
export interface PushVar {
  name: string;
  source: string;
  scratch: string;
  /** `failed`: nothing is said of how far it came. */
  status: PushedStep["status"] | "failed";
  /** What was pushed, or would be; absent where nothing was compared. */
  plan?: PushSummary;
  /** With {@link PushOptions.settledS}: how many files, links and directories were left to a later push. */
  later?: number;
  /** Why it failed, wholly or partly; conflicts that nobody has decided are such a reason. */
  error?: EfError;
  seconds: number;
}

export interface PushResult {
  vars: PushVar[];
  warnings: string[];
  errors: string[];
}

/**
 * Bring back to the sources what jobs changed on scratch.
 *
 * Three-way, against what the last sync put on scratch: no change at the source is ever written over without being told so,
 * and nothing that is missing on scratch is deleted, unless `delete` says it. A variable that fails is in `errors`; the
 * others go on.
 *
 * @throws {EfError} what concerns all: configuration, unset variables, roots that contain each other; nothing is written
 * @example
 * const { vars, errors } = await push(await loadConfig(), { only: ["HF_HOME"] });
 */
export async function push(written: Config, options: PushOptions = {}): Promise<PushResult> {
  const env = options.env ?? process.env;
  const notes: string[] = [];
  const onWarning = (message: string) => void notes.push(message);
  const config = await withWorkspaces(written, { env, missing: "fail", onWarning, signal: options.signal });
  const { scratchBase, steps: planned } = plan(config, env, options.only);
  const steps = planned.map((step) =>
    isNodeLocal(config, env, step.name, options.nodeLocal)
      ? localStep(step, localRoot(config, env), step.source)
      : step,
  );
  const warnings: string[] = [];
  const tell = (event: PushEvent) => {
    if (event.type === "warning") warnings.push("name" in event ? `${event.name}: ${event.message}` : event.message);
    options.onEvent?.(event);
  };
  options.signal?.throwIfAborted();
  for (const message of [...notes, ...checkRoots(steps)]) tell({ type: "warning", message });
  const { isLogin, workers } = await manners(config, options.workers, options.env ?? process.env);
  if (isLogin) tell({ type: "login-node" });
  const context = contextOf(config, { ...options, ...(workers ? { workers } : {}) }, tell);
  const atOnce = options.delete && options.confirm ? 1 : config.parallel_jobs; // one question at a time
  const vars = await mapLimit(steps, atOnce, async (step): Promise<PushVar> => {
    const began = performance.now();
    const outcome = await attempt(step, planned.find(({ name }) => name === step.name) as Step, scratchBase, context);
    context.signal?.throwIfAborted();
    const { name, source, target: scratch } = step;
    const result = { name, source, scratch, ...outcome, seconds: (performance.now() - began) / 1000 };
    tell({ type: "result", result });
    return result;
  });
  const errors = vars.flatMap(({ name, error }) => (error ? [`${name}: ${error.message}`] : []));
  return { vars, warnings, errors };
}

function contextOf(config: Config, options: PushOptions, tell: (event: PushEvent) => void): PushContext {
  return {
    options: builtinOptions(withFlags(config, flagsOf(options))),
    space: new Space(),
    quotas: quotasBySystem(options.signal, (message) => tell({ type: "warning", message })),
    lockTimeoutS: config.lock_timeout_seconds,
    onConflict: options.onConflict ?? "both",
    delete: options.delete ?? false,
    yes: options.yes ?? false,
    confirm: options.confirm,
    modes: config.rsync_extra_args.length === 0,
    arrival: config.ef?.transfer?.times === "arrival",
    dryRun: options.dryRun ?? false,
    preflight: options.preflight ?? true,
    allNames: options.allNames ?? false,
    settledS: options.settledS,
    signal: options.signal,
    tell,
  };
}

const flagsOf = ({ workers, bwlimit }: PushOptions) => ({
  ...(workers === undefined ? {} : { workers }),
  ...(bwlimit === undefined ? {} : { bwlimit }),
});

/** Quotas of a path, asked for once for each file system: sources may lie on several. */
function quotasBySystem(signal: AbortSignal | undefined, onProblem: (message: string) => void) {
  const known = new Map<number | undefined, Promise<readonly QuotaLeft[]>>();
  return (path: string) => {
    const device = statSync(path, { throwIfNoEntry: false })?.dev;
    const asked = known.get(device) ?? quotas(path, { signal, onProblem });
    known.set(device, asked);
    return asked;
  };
}

/** Where there is a scratch, its lock keeps other nodes out, whether the variable was ever copied there or not. */
function makeLockDirectory(scratchBase: string, { lock }: Step): boolean {
  try {
    if (!existsSync(scratchBase)) return false;
    mkdirSync(dirname(lock), { recursive: true, mode: 0o775 });
    return true;
  } catch {
    return false; // each file is looked at again before it is replaced
  }
}

/** @param onScratch the step of its copy on scratch */
async function attempt(
  step: Step,
  onScratch: Step,
  scratchBase: string,
  context: PushContext,
): Promise<PushedStep | { status: "failed"; error: EfError }> {
  try {
    // A lock on this node's own disk keeps no other node out.
    const isShared = step !== onScratch;
    const hasLock = isShared && !context.dryRun && makeLockDirectory(scratchBase, onScratch);
    await using _ = hasLock ? await lockStep(onScratch, context) : undefined;
    return await span(`push ${step.name}`, () => pushStep(step, { ...context, isShared }));
  } catch (error) {
    return { status: "failed", error: error instanceof EfError ? error : unexpected(error) };
  }
}
