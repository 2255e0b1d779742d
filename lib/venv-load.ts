import { mkdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { EfError, reasonOf } from "./base/errors.ts";
import { type Env, expandPath, present, realPath } from "./base/paths.ts";
import { widenPool } from "./base/stat.ts";
import type { Config } from "./config/schema.ts";
import { describeHolder } from "./engine/lock.ts";
import { removeLeftovers } from "./engine/temp.ts";
import type { OnVenvEvent } from "./envs/events.ts";
import { findPython } from "./envs/find-python.ts";
import { claim, writeState } from "./envs/live.ts";
import { checkName } from "./envs/names.ts";
import { type Packages, packagesOf } from "./envs/packages.ts";
import type { RelocationReport } from "./envs/relocating.ts";
import { type Restored, restore } from "./envs/restore.ts";
import { findSaved, storeOf } from "./envs/store.ts";

export interface VenvLoadOptions {
  /** Its name on this node. @default its name in the store */
  as?: string;
  /** Another base interpreter of the same minor version: a path, a version, a name on PATH. @default the one it had */
  python?: string;
  signal?: AbortSignal;
  onEvent?: OnVenvEvent;
  /** @default process.env */
  env?: Env;
}

/** An environment that was unpacked. */
export interface VenvLoaded {
  name: string;
  dir: string;
  /** `3.11.2` */
  python: string;
  files: number;
  bytes: number;
  relocation: RelocationReport;
}

/**
 * Bring a saved environment to this node's own disk: below `$SLURM_TMPDIR`, else `$TMPDIR`, ready to be activated.
 *
 * @throws {EfError} UNKNOWN_ENV, EXISTS, NOT_RUNNABLE, BAD_ARCHIVE, NO_SPACE; nothing is left behind then
 * @example
 * const { dir } = await venvLoad(await loadConfig(), "torch2.1");
 * console.log(`${dir}/bin/python`); // starts with all that was saved
 */
export async function venvLoad(config: Config, name: string, options: VenvLoadOptions = {}): Promise<VenvLoaded> {
  const { env = process.env, signal, onEvent } = options;
  await widenPool();
  const find = () => findSaved(storeOf(config, env), name);
  find();
  const called = checkName(options.as ?? name);
  const python = options.python === undefined ? undefined : await findPython(options.python, env);
  await using claimed = await claim(env, called, {
    signal,
    onWait: (holder) => onEvent?.({ type: "waiting", name: called, who: describeHolder(holder) }),
  });
  const { dir, tempPrefix } = claimed;
  const finish = (path: string, packages: Packages = packagesOf(path)) => void writeState(path, called, packages);
  const restored = await restore(find, { target: dir, tempPrefix, python, finish, signal, onEvent });
  return loaded(called, dir, restored);
}

/**
 * Unpack a saved environment into a directory of its own, relocated.
 *
 * @param target does not exist; `$VAR` and `~` are expanded
 * @throws {EfError} as {@link venvLoad}
 * @example
 * const { python } = await venvExport(await loadConfig(), "torch2.1", "$HOME/exported");
 */
export async function venvExport(
  config: Config,
  name: string,
  target: string,
  options: Omit<VenvLoadOptions, "as"> = {},
): Promise<VenvLoaded> {
  const { env = process.env, signal, onEvent } = options;
  await widenPool();
  const find = () => findSaved(storeOf(config, env), name);
  find();
  const dir = realPath(resolve(expandPath(target, env, "--path")));
  if (/[\n:]/.test(dir))
    throw new EfError("USAGE", `Cannot export to ${JSON.stringify(dir)}: its name cannot be part of PATH`, {
      path: dir,
    });
  if (isThere(dir))
    throw new EfError("EXISTS", `Cannot export to ${dir}: there is something`, { hint: "give a new path", path: dir });
  const python = options.python === undefined ? undefined : await findPython(options.python, env);
  try {
    mkdirSync(dirname(dir), { recursive: true });
  } catch (error) {
    throw new EfError("IO", `Cannot make ${dirname(dir)}: ${reasonOf(error)}`, { path: dir, cause: error });
  }
  const tempPrefix = join(dirname(dir), ".ef-export-");
  removeLeftovers(tempPrefix);
  return loaded(name, dir, await restore(find, { target: dir, tempPrefix, python, signal, onEvent }));
}

/** @throws {EfError} IO if that cannot be told */
function isThere(path: string): boolean {
  try {
    return present(path);
  } catch (error) {
    throw new EfError("IO", `Cannot export to ${path}: ${reasonOf(error)}`, { path, cause: error });
  }
}

const loaded = (
  name: string,
  dir: string,
  { python, files, contentBytes: bytes, relocation }: Restored,
): VenvLoaded => ({
  ...{ name, dir, python, files, bytes, relocation },
});
