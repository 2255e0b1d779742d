/** `ef apptainer fixup`: environments whose directory was moved by hand are made to name the place where they are. */
import { lstatSync, readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { basename, dirname } from "node:path/posix";
import { type ByteString, bytesOf, display, osPath } from "./base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { describeHolder, lock } from "./engine/lock.ts";
import { environments, findEnvironment, lockFileOf, nameOf, venvBase } from "./envs/base.ts";
import { readPyvenvCfg } from "./envs/interpreter.ts";
import { changedFiles, type Move, oldPlaces, type RelocationReport, relocateEnv } from "./envs/relocating.ts";

export interface FixupOptions {
  /** One environment, also a link to one. @default all directories with a `pyvenv.cfg` below `apptainer.venv_base` */
  name?: string | undefined;
  /** Tell the same, and write nothing. */
  dryRun?: boolean;
  /** @default process.env */
  env?: Env;
  signal?: AbortSignal | undefined;
  onEvent?: (event: FixupEvent) => void;
}

export type FixupEvent =
  /** Somebody installs into it. */
  | { type: "waiting"; name: string; who: string }
  | { type: "result"; result: Fixed }
  | { type: "failed"; name: string; error: EfError };

/** An environment that names its place now, as far as `relocation.left` is empty. */
export interface Fixed {
  name: string;
  status: "fixed" | "already-correct";
  /** Files and links that were changed. */
  fixedFiles: number;
  relocation: RelocationReport;
}

export interface FixupResult {
  /** Where they are. */
  base: string;
  results: Fixed[];
  /** `NAME: why`, for each that failed. */
  errors: string[];
}

/**
 * Make the environments below `apptainer.venv_base` name their place, as the configuration writes it. Safe to repeat. One
 * that fails does not stop the others.
 *
 * @throws {EfError} what concerns all: CONFIG_INVALID if there is no base, UNSET_VARIABLE, BAD_ROOT, USAGE, UNKNOWN_ENV;
 *   the signal's reason
 * @example
 * const { errors } = await fixup(await loadConfig(), { dryRun: true });
 */
export async function fixup(config: Config, options: FixupOptions = {}): Promise<FixupResult> {
  const { signal, onEvent, env = process.env } = options;
  const base = configuredBase(config, env);
  const chosen = options.name === undefined ? environments(base) : [findEnvironment(base, options.name)];
  const results: Fixed[] = [];
  const errors: string[] = [];
  for (const bytes of chosen) {
    signal?.throwIfAborted();
    const name = display(bytes);
    try {
      const result = await fixOne(base, nameOf(base, bytes), config, options);
      results.push(result);
      onEvent?.({ type: "result", result });
    } catch (cause) {
      signal?.throwIfAborted();
      const error =
        cause instanceof EfError ? cause : new EfError("IO", `Cannot relocate it: ${reasonOf(cause)}`, { cause });
      errors.push(`${name}: ${error.message}`);
      onEvent?.({ type: "failed", name, error });
    }
  }
  return { base, results, errors };
}

/** $VENV_DIR does not count: what this command changes is what the configuration names. */
function configuredBase(config: Config, env: Env): string {
  if (config.apptainer?.venv_base) return venvBase(undefined, config, env);
  throw new EfError("CONFIG_INVALID", "Cannot tell where environments are kept: apptainer.venv_base is not set", {
    hint: "say where they are now: ef config set apptainer.venv_base DIR",
  });
}

async function fixOne(base: string, name: string, config: Config, options: FixupOptions): Promise<Fixed> {
  const { dryRun = false, signal, onEvent } = options;
  const dir = join(base, name);
  assertReadable(dir);
  const isLink = lstatSync(dir).isSymbolicLink();
  const to = isLink ? realpathSync(osPath(bytesOf(dir)), { encoding: "latin1" }) : bytesOf(dir);
  const isRight = oldPlaces(dir).every((place) => place === to);
  // Nothing is written then, and the base may be somebody else's.
  await using _ =
    isRight || dryRun
      ? undefined
      : await lock(lockFileOf(base, name), {
          timeoutS: config.lock_timeout_seconds,
          signal,
          onWait: (holder) => onEvent?.({ type: "waiting", name, who: describeHolder(holder) }),
        });
  const from = isRight ? [] : oldPlaces(dir);
  const relocation = await relocateEnv(dir, {
    from,
    ...(isLink ? {} : { to: dir, moves: movesOfBase(base, name, from) }),
    ...(signal ? { signal } : {}),
    dryRun,
  });
  const fixedFiles = changedFiles(relocation);
  return { name, status: fixedFiles > 0 ? "fixed" : "already-correct", fixedFiles, relocation };
}

/**
 * An environment that tells nothing would look as if it were right.
 *
 * @throws {EfError} NOT_RUNNABLE, IO
 */
function assertReadable(dir: string): void {
  readPyvenvCfg(dir);
  const path = join(dir, "bin");
  try {
    readdirSync(path);
  } catch (error) {
    throw new EfError("IO", `Cannot read ${path}: ${reasonOf(error)}`, { path, cause: error });
  }
}

/**
 * The base moved with all that lies in it: editable projects, a Python. That is known where the old one is gone, or leads
 * to the new one; else the environment alone may have been copied from there.
 */
function movesOfBase(base: string, name: string, places: readonly ByteString[]): Move[] {
  const to = bytesOf(base);
  const olds = places.filter((place) => basename(place) === bytesOf(name)).map((place) => dirname(place));
  return [...new Set(olds)].filter((old) => old !== to && isGoneOrSame(old, to)).map((from) => ({ from, to }));
}

function isGoneOrSame(old: ByteString, now: ByteString): boolean {
  const real = (path: ByteString) => realpathSync(osPath(path), { encoding: "latin1" });
  try {
    return real(old) === real(now);
  } catch (error) {
    return ["ENOENT", "ENOTDIR"].includes(errnoOf(error) ?? "");
  }
}
