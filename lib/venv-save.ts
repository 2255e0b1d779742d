import { chmodSync, realpathSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { bytesOf } from "./base/bytes.ts";
import { EfError, reasonOf } from "./base/errors.ts";
import { type Env, isWithin, realPath } from "./base/paths.ts";
import { widenPool } from "./base/stat.ts";
import { span } from "./base/trace.ts";
import type { Config } from "./config/schema.ts";
import { describeHolder } from "./engine/lock.ts";
import { pack } from "./engine/pack.ts";
import { removeAllLeftovers, removeParts } from "./engine/temp.ts";
import { describe, factsOf } from "./envs/describe.ts";
import { editablesOutside } from "./envs/editables.ts";
import type { OnVenvEvent } from "./envs/events.ts";
import { readPyvenvCfg } from "./envs/interpreter.ts";
import { belongs } from "./envs/links.ts";
import { listLive, readState, stateName, writeState } from "./envs/live.ts";
import { checkName, isName } from "./envs/names.ts";
import { packedWarnings } from "./envs/packed.ts";
import {
  assertReplaceable,
  type Description,
  descriptionOf,
  isSaved,
  lockSaved,
  publish,
  storeOf,
  tempOf,
} from "./envs/store.ts";
import { tempDirIn } from "./envs/temp-dir.ts";

export interface VenvSaveOptions {
  /** The environment. @default the active one, `VIRTUAL_ENV` */
  dir?: string;
  /** Replace a saved environment of that name. @default false */
  force?: boolean;
  signal?: AbortSignal;
  onEvent?: OnVenvEvent;
  /** @default process.env */
  env?: Env;
}

export interface VenvSaved {
  name: string;
  dir: string;
  archive: string;
  description: Description;
  warnings: string[];
}

/**
 * Save an environment in `ef.venv_store`, as one archive.
 *
 * What is there of that name stays, whole, until the new archive is.
 *
 * @param name default: the name that the environment has
 * @throws {EfError} EXISTS, NOT_RUNNABLE (no environment), CONFIG_INVALID (no store), NO_SPACE, TRANSFER_PARTIAL
 * @example
 * await venvSave(await loadConfig(), "torch2.1", { force: true });
 */
export async function venvSave(
  config: Config,
  name: string | undefined,
  options: VenvSaveOptions = {},
): Promise<VenvSaved> {
  const { env = process.env, signal, force = false, onEvent } = options;
  await widenPool();
  const store = storeOf(config, env);
  const dir = environmentOf(options.dir, env);
  const own = readState(dir)?.name;
  const called = checkName(name ?? own ?? nameOf(dir));
  if (isWithin(realPath(store), dir))
    throw new EfError("BAD_ROOT", `Cannot save ${called} in ${store}: that lies in the environment itself`, {
      hint: "choose another directory: ef config set ef.venv_store DIR",
      path: store,
    });
  const warnings: string[] = [];
  const warn = (message: string) => {
    warnings.push(message);
    onEvent?.({ type: "warning", name: called, message });
  };
  const assertFree = () => {
    assertReplaceable(store, called);
    if (force || !isSaved(store, called)) return;
    throw new EfError("EXISTS", `Cannot save ${called}: ${store} has an environment of that name`, {
      hint: `replace it with: ef venv save -f ${called}`,
      path: store,
    });
  };
  assertFree();
  readPyvenvCfg(dir); // before a store is made for it
  await using _ = await lockSaved(store, called, {
    signal,
    onWait: (holder) => onEvent?.({ type: "waiting", name: called, who: describeHolder(holder) }),
  });
  assertFree();
  const facts = await span("facts", () => factsOf(dir, called));
  removeAllLeftovers(store);
  removeParts([descriptionOf(store, called)]);
  using temp = tempDirIn(store, tempOf(store, called));
  const file = join(temp.path, "archive");
  for (const { why } of editablesOutside(bytesOf(dir), bytesOf(dir), [])) warn(`${why}: the archive does not hold it`);
  const isOwn = belongs(facts.places.map(bytesOf));
  let told = false;
  const packed = await span("pack", () =>
    pack(dir, file, {
      ...(signal ? { signal } : {}),
      exclude: (path) => path === stateName,
      onOutsideLink: (path, text) => (isOwn(path, text) ? "keep" : "follow"),
      onProgress({ bytes, files, totalBytes, totalFiles }) {
        if (!told)
          onEvent?.({ type: "copying", name: called, plan: { files: totalFiles, bytes: totalBytes, names: [] } });
        told = true;
        onEvent?.({ type: "progress", name: called, bytes, files });
      },
    }),
  );
  for (const message of packedWarnings(packed)) warn(message);
  chmodSync(file, 0o666 & ~process.umask() & (statSync(dir).mode | 0o600)); // as open as what it holds
  signal?.throwIfAborted();
  const description = describe(facts, packed);
  const { archive } = publish(store, description, file);
  rename(dir, called, facts.packages, env, warn);
  return { name: called, dir, archive, description, warnings };
}

/** @throws {EfError} USAGE if it cannot be called as its directory is: `.venv` */
function nameOf(dir: string): string {
  const name = basename(dir);
  if (isName(name)) return name;
  throw new EfError("USAGE", `Cannot call an environment as its directory ${dir} is`, {
    hint: "give it a name: ef venv save NAME",
  });
}

/** The prompt shows the name under which it is saved, if it is one of ours and no other has that name. */
function rename(dir: string, name: string, packages: readonly string[], env: Env, warn: (message: string) => void) {
  const state = readState(dir);
  if (!state) return;
  const isTaken = listLive(env).some((each) => each.name === name && realpathSync(each.dir) !== dir);
  if (isTaken) warn(`here it is still called ${state.name}: this node has another environment ${name}`);
  try {
    writeState(dir, isTaken ? state.name : name, packages);
  } catch (error) {
    warn(`it is saved, but the prompt will not tell: ${reasonOf(error)}`);
  }
}

/** @throws {EfError} USAGE, NOT_RUNNABLE */
function environmentOf(given: string | undefined, env: Env): string {
  const dir = given ?? env.VIRTUAL_ENV;
  if (!dir)
    throw new EfError("USAGE", "Cannot tell which environment to save: none is active (VIRTUAL_ENV is not set)", {
      hint: "activate one, or give --venv DIR",
    });
  try {
    return realpathSync(dir);
  } catch (error) {
    throw new EfError("NOT_RUNNABLE", `Cannot save ${dir}: ${reasonOf(error)}`, {
      hint: given === undefined ? "VIRTUAL_ENV names it" : "--venv names it",
      path: dir,
      cause: error,
    });
  }
}
