import { statSync } from "node:fs";
import { mapLimit } from "./base/async.ts";
import { bytesOf, display } from "./base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import { widenPool } from "./base/stat.ts";
import { span } from "./base/trace.ts";
import { humanCount } from "./base/units.ts";
import type { Config } from "./config/schema.ts";
import { compareTrees } from "./engine/comparing.ts";
import { compareContents, contentsToRead } from "./engine/contents.ts";
import { type Differences, differenceKinds, differences, type Findings, labels } from "./engine/differences.ts";
import type { Comparison, Transfer } from "./engine/engine.ts";
import { describeHolder, type Holder, holderOf } from "./engine/lock.ts";
import { plan, type Step } from "./engine/plan.ts";
import { checkRoots } from "./engine/roots.ts";
import { Storage } from "./engine/storage.ts";
import { bytesPerSecond, type Throttle, throttle } from "./engine/throttle.ts";
import { transferFor } from "./engine/transfer.ts";
import { withWorkspaces } from "./scratch-base.ts";

export interface VerifyOptions {
  /** Names of variables, disabled ones too. @default all enabled */
  only?: readonly string[];
  /** Read and compare the contents of all files of the same size. @default false */
  checksum?: boolean;
  /** Keep every name instead of the first few of each kind. @default false */
  allNames?: boolean;
  signal?: AbortSignal;
  /** What happens meanwhile. */
  onEvent?: (event: VerifyEvent) => void;
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

export type VerifyEvent =
  | { type: "warning"; name?: string; message: string }
  /** Contents are being read: so much of what both sides hold alike. */
  | { type: "progress"; name: string; bytes: number; files: number; totalBytes: number; totalFiles: number }
  | { type: "result"; result: Verified };

/** What came of one variable. */
export interface Verified {
  name: string;
  source: string;
  scratch: string;
  /** `failed`: it could not be compared at all. */
  status: "same" | "different" | "failed";
  /** Files at the source, and their sizes; absent if it failed. */
  files?: number;
  bytes?: number;
  /** By kind; absent if it failed. */
  findings?: Findings;
  error?: EfError;
  /** Who was syncing it at that time: what differs may have been on its way. */
  holder?: Holder | "unknown";
  seconds: number;
}

export interface VerifyResult {
  scratchBase: string;
  vars: Verified[];
  warnings: string[];
  /** One for each variable that is not the same. */
  errors: string[];
}

/**
 * Is scratch what the source is, file by file? Writes nothing, and takes no lock.
 *
 * @throws {EfError} what concerns all: configuration, unknown or unset variables; the signal's reason
 * @example
 * const { errors } = await verify(await loadConfig(), { only: ["HF_HOME"], checksum: true });
 */
export async function verify(written: Config, options: VerifyOptions = {}): Promise<VerifyResult> {
  const { env = process.env, only, signal } = options;
  const config = await withWorkspaces(written, { env, missing: "fail", signal });
  const { scratchBase, steps } = plan(config, env, only);
  signal?.throwIfAborted();
  const warnings: string[] = [];
  const tell = (event: VerifyEvent) => {
    if (event.type === "warning") warnings.push(event.name ? `${event.name}: ${event.message}` : event.message);
    options.onEvent?.(event);
  };
  checkRoots(steps);
  if (config.rsync_extra_args.length > 0 && config.ef?.transfer?.engine !== "builtin") {
    const message = "what rsync_extra_args leave out or change on the way is reported as missing or different";
    tell({ type: "warning", message });
  }
  const { checksum = false, allNames = false } = options;
  const { bwlimit } = config.ef?.transfer ?? {};
  const pass = throttle(bwlimit === undefined ? undefined : bytesPerSecond(bwlimit));
  const context: Context = { checksum, allNames, signal, config, pass, tell };
  await widenPool();
  const vars = await mapLimit(steps, config.parallel_jobs, async (step): Promise<Verified> => {
    const began = performance.now();
    const { name, source, target: scratch } = step;
    const holder = await holderOf(step.lock).catch(() => undefined); // nothing is decided by it
    if (holder !== undefined) {
      const who = describeHolder(holder === "unknown" ? undefined : holder);
      tell({ type: "warning", name, message: `${who} is syncing it: what differs may be on its way` });
    }
    const outcome = await span(`verify ${name}`, () => attempt(step, context));
    signal?.throwIfAborted();
    const seconds = (performance.now() - began) / 1000;
    const result = { name, source, scratch, ...outcome, ...(holder === undefined ? {} : { holder }), seconds };
    tell({ type: "result", result });
    return result;
  });
  return { scratchBase, vars, warnings, errors: vars.flatMap(errorOf) };
}

interface Context {
  config: Config;
  checksum: boolean;
  allNames: boolean;
  signal: AbortSignal | undefined;
  /** `ef.transfer.bwlimit`, of all variables together. */
  pass: Throttle | undefined;
  tell: (event: VerifyEvent) => void;
}

type Outcome = Pick<Verified, "status" | "files" | "bytes" | "findings" | "error">;

async function attempt(step: Step, context: Context): Promise<Outcome> {
  try {
    const { findings, files, bytes } = await compare(step, context);
    const isSame = differenceKinds.every((kind) => findings[kind].count === 0);
    return { status: isSame ? "same" : "different", files, bytes, findings };
  } catch (error) {
    if (error instanceof EfError) return { status: "failed", error };
    const { source, target } = step;
    const message = `Cannot compare ${source} with ${target}: ${reasonOf(error)}`;
    return { status: "failed", error: new EfError("IO", message, { path: source, cause: error }) };
  }
}

async function compare(step: Step, context: Context): Promise<Differences> {
  const { config, checksum, allNames, signal, pass } = context;
  assertDirectory(step.source, step, "its source");
  assertDirectory(step.target, step, "its copy on scratch");
  const workers = config.ef?.transfer?.workers ?? "auto";
  const sides = { source: new Storage(undefined), target: new Storage(undefined), workers };
  const transfer = transferOf(step, config);
  const comparison = await compareTrees(transfer, sides, { signal }, pass);
  const found = differences(comparison, transfer.past.base, allNames);
  if (checksum) await readAll(step.name, transfer, comparison, found, context);
  return found;
}

/** Read what looks the same. */
async function readAll(
  name: string,
  transfer: Transfer,
  { source, target, sides }: Comparison,
  { alike, note }: Differences,
  { signal, pass, tell }: Context,
): Promise<void> {
  const pairs = { source: source.tree, target: target.tree, alike };
  const total = contentsToRead(pairs);
  const done = { bytes: 0, files: 0 };
  const roots = { from: bytesOf(transfer.source), to: bytesOf(transfer.target) };
  const told = () => tell({ type: "progress", name, ...done, totalBytes: total.bytes, totalFiles: total.files });
  told();
  await compareContents(pairs, roots, sides, {
    signal,
    throttle: pass,
    onProgress(bytes, files) {
      done.bytes += bytes;
      done.files += files;
      told();
    },
    onDifferent: (path) => note("contents", display(path)),
    onProblem: (path, side, error) => note("unreadable", `${display(path)} (${side}: ${reasonOf(error)})`),
  });
}

function assertDirectory(path: string, { name, target }: Step, what: string): void {
  let why = "it is not a directory";
  try {
    if (statSync(path).isDirectory()) return;
  } catch (error) {
    why = errnoOf(error) === "ENOENT" ? "it does not exist" : reasonOf(error);
  }
  const isScratch = path === target;
  throw new EfError("IO", `Cannot compare ${what} ${path}: ${why}`, {
    hint: isScratch
      ? `make it with: ef sync --var ${name}`
      : `is its file system mounted? Otherwise: ef config set vars.${name}.source DIR`,
    path,
  });
}

/** As a sync that looks at everything; nothing of it is carried out. */
const transferOf = (step: Step, config: Config): Transfer => ({
  ...transferFor(step),
  arrivalNs: config.ef?.transfer?.times === "arrival" ? 0n : undefined,
  lockFd: undefined,
});

function errorOf({ name, status, error, findings }: Verified): string[] {
  if (status === "same") return [];
  if (error) return [`${name}: ${error.message}`];
  const counts = differenceKinds.flatMap((kind) => {
    const count = findings?.[kind].count ?? 0;
    return count > 0 ? [`${humanCount(count)} ${labels[kind]}`] : [];
  });
  return [`${name}: scratch is not what the source is: ${counts.join(", ")}`];
}
