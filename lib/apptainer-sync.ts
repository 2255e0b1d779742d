import { mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { mapLimit } from "./base/async.ts";
import { EfError, reasonOf } from "./base/errors.ts";
import { type Env, isWithin } from "./base/paths.ts";
import { span } from "./base/trace.ts";
import type { Config } from "./config/schema.ts";
import { sidesOf } from "./engine/builtin.ts";
import { builtinOptions, ensureScratch, quotasOnce, Space, withFlags } from "./engine/copying.ts";
import { scratchRoot } from "./engine/plan.ts";
import { refuseStrangers } from "./engine/strangers.ts";
import { type BroughtImage, bringImage, type ImageContext, type ImageEvent, type ImagePlan } from "./images/copying.ts";
import { builtImage, type Image, imagesOf, onScratch } from "./images/store.ts";
import { withWorkspaces } from "./scratch-base.ts";
import { unexpected } from "./sync.ts";

export interface ApptainerSyncOptions {
  /** Names of images, disabled ones too. @default all enabled */
  only?: readonly string[];
  /** Copy an image though its copy is there, and over a newer file. @default false */
  force?: boolean;
  /** Find out what would be copied, and write nothing. @default false */
  dryRun?: boolean;
  /** Check that there is room before the first byte. @default true */
  preflight?: boolean;
  /** Requests in flight. @default `ef.transfer.workers`, else "auto" */
  workers?: number | "auto";
  /** Bytes per second of all images together, e.g. "200M" (K, M, G, T of 1024). @default `ef.transfer.bwlimit` */
  bwlimit?: string;
  /** Stops the copies: what they wrote of large images stays for the next run, which goes on there. */
  signal?: AbortSignal | undefined;
  /** What happens meanwhile. */
  onEvent?: (event: ApptainerSyncEvent) => void;
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

export type ApptainerSyncEvent = ImageEvent | { type: "result"; result: SyncedImage };

/** What came of one image. */
export interface SyncedImage {
  name: string;
  /** The stored image, and its copy on scratch. */
  source: string;
  target: string;
  status: BroughtImage["status"] | "failed";
  /** What was copied, or would be; absent where nothing was to be. */
  plan?: ImagePlan;
  /** Why it failed. */
  error?: EfError;
  seconds: number;
}

export interface ApptainerSyncResult {
  /** Empty where none is built, or enabled. */
  results: SyncedImage[];
  /** `NAME: why`, for each that failed. */
  errors: string[];
  warnings: string[];
}

/**
 * Bring images to scratch. One that fails is in `errors`; the others go on.
 *
 * @throws {EfError} what concerns all: CONFIG_INVALID, UNSET_VARIABLE, BAD_ROOT, UNKNOWN_IMAGE; nothing is written
 * @example
 * const { errors } = await apptainerSync(await loadConfig(), { only: ["train"] });
 */
export async function apptainerSync(written: Config, options: ApptainerSyncOptions = {}): Promise<ApptainerSyncResult> {
  const { env = process.env, signal, onEvent, workers, bwlimit } = options;
  const notes: string[] = [];
  const onWarning = (message: string) => void notes.push(message);
  const asked = await withWorkspaces(written, {
    env,
    missing: options.dryRun ? "fail" : "allocate",
    onWarning,
    signal,
  });
  const config = withFlags(asked, { ...(workers ? { workers } : {}), ...(bwlimit ? { bwlimit } : {}) });
  const images = chosen(config, env, options.only);
  const warnings: string[] = [];
  const tell = (event: ApptainerSyncEvent) => {
    if (event.type === "warning") warnings.push(`${event.name}: ${event.message}`);
    onEvent?.(event);
  };
  signal?.throwIfAborted();
  for (const message of notes) tell({ type: "warning", name: "workspace", message });
  if (!config.apptainer) throw notConfigured();
  const tasks = images.map((image) => ({ image, scratch: onScratch(config, env, image) }));
  const [first] = tasks;
  if (!first) return { results: [], errors: [], warnings };
  const context = await contextOf(config, env, first.scratch.dir, options, tell);
  const results = await mapLimit(tasks, config.parallel_jobs, async ({ image, scratch }): Promise<SyncedImage> => {
    const began = performance.now();
    const outcome = await span(`image ${image.name}`, () => bringImage(image, scratch, context)).catch((error) => {
      signal?.throwIfAborted();
      return { status: "failed" as const, error: error instanceof EfError ? error : unexpected(error) };
    });
    const seconds = (performance.now() - began) / 1000;
    const result = { name: image.name, source: image.sif, target: scratch.sif, ...outcome, seconds };
    tell({ type: "result", result });
    return result;
  });
  return {
    results,
    errors: results.flatMap(({ name, error }) => (error ? [`${name}: ${error.message}`] : [])),
    warnings,
  };
}

const notConfigured = () =>
  new EfError("CONFIG_INVALID", "Cannot tell which images to copy: there is no section apptainer", {
    hint: "make one with: ef apptainer init",
  });

const chosen = (config: Config, env: Env, only: readonly string[] = []): Image[] =>
  only.length > 0
    ? [...new Set(only)].map((name) => builtImage(config, env, name))
    : imagesOf(config, env).filter(({ built }) => built?.enabled);

async function contextOf(
  config: Config,
  env: Env,
  dir: string,
  { force = false, dryRun = false, preflight = true, signal }: ApptainerSyncOptions,
  tell: (event: ApptainerSyncEvent) => void,
): Promise<ImageContext> {
  const options = builtinOptions(config);
  const onProblem = (message: string) => tell({ type: "warning", name: "quota", message });
  return {
    options,
    sides: await sidesOf(options.workers),
    space: new Space(),
    quotas: quotasOnce(dir, { signal, onProblem, env }),
    makeDir: () => makeScratchDir(config, env, dir, dryRun),
    lockTimeoutS: config.lock_timeout_seconds,
    ...{ force, dryRun, preflight, signal, tell },
  };
}

/**
 * Make the directory of the copies, and those above it up to the scratch root; elsewhere only itself: where more is missing,
 * the file system is rather not mounted than new.
 *
 * @throws {EfError} BAD_ROOT, IO
 */
function makeScratchDir(config: Config, env: Env, dir: string, dryRun: boolean): void {
  const root = rootAbove(config, env, dir);
  refuseStrangers({ target: dir, base: root ?? dirname(dir) });
  if (root !== undefined) ensureScratch(root, { dryRun });
  try {
    if (root === undefined && !statSync(dir, { throwIfNoEntry: false })?.isDirectory()) statSync(dirname(dir));
    if (!dryRun) mkdirSync(dir, { recursive: true });
  } catch (cause) {
    throw new EfError("BAD_ROOT", `Cannot make the directory ${dir}: ${reasonOf(cause)}`, {
      hint: "is its file system mounted on this node? Otherwise make it, or: ef config set apptainer.scratch_sif_dir DIR",
      path: dir,
      cause,
    });
  }
}

/** The scratch root if the directory lies in it. */
function rootAbove(config: Config, env: Env, dir: string): string | undefined {
  try {
    const root = scratchRoot(config, env);
    return isWithin(dir, root) ? root : undefined;
  } catch (error) {
    if (error instanceof EfError) return undefined; // it is not needed, if the directory is elsewhere
    throw error;
  }
}
