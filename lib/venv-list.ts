import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { thisNode } from "./drivers/node.ts";
import { describeHolder } from "./engine/lock.ts";
import { type Usage, usage } from "./engine/usage.ts";
import { factsOf, judge, type Verdict } from "./envs/describe.ts";
import type { OnVenvEvent } from "./envs/events.ts";
import { findLive, type Live, listLive, promptOf, readState, writeState } from "./envs/live.ts";
import { findSaved, listSaved, lockSaved, removeSaved, type Saved, storeOf } from "./envs/store.ts";

/** A saved environment, and whether this node can run it. */
export interface SavedVenv extends Saved, Partial<Verdict> {}

export interface VenvListOptions {
  /** @default process.env */
  env?: Env;
}

/**
 * What is saved in `ef.venv_store`, by name. Of archives of kpy only name, size and date are known.
 *
 * @throws {EfError} CONFIG_INVALID if no store is configured
 * @example
 * for (const { name, runs } of (await venvList(await loadConfig())).saved) console.log(name, runs);
 */
export async function venvList(
  config: Config,
  { env = process.env }: VenvListOptions = {},
): Promise<{ store: string; saved: SavedVenv[] }> {
  const store = storeOf(config, env);
  const node = await thisNode();
  const saved = listSaved(store).map((each) => ({
    ...each,
    ...(each.description ? judge(each.description, node) : {}),
  }));
  return { store, saved };
}

/** An environment on this node. */
export interface LiveVenv extends Live, Verdict {
  /** `3.11.2`; undefined if that cannot be read. */
  python: string | undefined;
  packages: readonly string[];
  /** What it takes on disk, as far as it could be counted in time. */
  size: Usage | undefined;
}

/** How long sizes may be counted, in milliseconds. */
const countingMs = 3000;

/**
 * The environments on this node, made or loaded, by name.
 *
 * @example
 * for (const { name, dir } of await venvLive()) console.log(name, dir);
 */
export async function venvLive({ env = process.env }: VenvListOptions = {}): Promise<LiveVenv[]> {
  const node = await thisNode();
  const deadlineMs = Date.now() + countingMs;
  return Promise.all(
    listLive(env).map(async (live): Promise<LiveVenv> => {
      const size = await usage(live.dir, { deadlineMs });
      try {
        const facts = await factsOf(live.dir, live.name);
        return { ...live, ...judge(facts, node), python: facts.python_version, packages: facts.packages, size };
      } catch (error) {
        if (!(error instanceof EfError)) throw error;
        return { ...live, runs: "no", why: error.message, python: undefined, packages: [], size };
      }
    }),
  );
}

/**
 * An environment on this node, to be activated.
 *
 * @throws {EfError} UNKNOWN_ENV
 * @example
 * await venvLoad(await loadConfig(), "torch2.1");
 * console.log(venvFind(await loadConfig(), "torch2.1").dir);
 */
export function venvFind(config: Config | undefined, name: string, { env = process.env }: VenvListOptions = {}): Live {
  return findLive(env, name, () =>
    config?.ef?.venv_store === undefined ? [] : listSaved(storeOf(config, env)).map((each) => each.name),
  );
}

/**
 * What is to be removed.
 *
 * @throws {EfError} UNKNOWN_ENV
 */
export const venvSaved = (config: Config, name: string, { env = process.env }: VenvListOptions = {}): Saved =>
  findSaved(storeOf(config, env), name);

export interface VenvRemoveOptions extends VenvListOptions {
  signal?: AbortSignal;
  onEvent?: OnVenvEvent;
}

/**
 * Delete a saved environment. Where it was loaded it stays.
 *
 * @throws {EfError} UNKNOWN_ENV, LOCK_TIMEOUT
 * @example
 * await venvRemove(await loadConfig(), "torch2.1");
 */
export async function venvRemove(config: Config, name: string, options: VenvRemoveOptions = {}): Promise<Saved> {
  const { env = process.env, signal, onEvent } = options;
  const store = storeOf(config, env);
  findSaved(store, name);
  await using _ = await lockSaved(store, name, {
    signal,
    onWait: (holder) => onEvent?.({ type: "waiting", name, who: describeHolder(holder) }),
  });
  const saved = findSaved(store, name);
  removeSaved(store, saved);
  return saved;
}

/**
 * Look again at the active environment, if it is one of ours, and give what a prompt shows.
 *
 * @returns undefined if it is none of ours
 */
export function venvPrompt(env: Env = process.env): string | undefined {
  const dir = env.VIRTUAL_ENV;
  const state = dir ? readState(dir) : undefined;
  if (!dir || !state) return undefined;
  return promptOf(writeState(dir, state.name, state.saved));
}
