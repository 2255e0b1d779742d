import { join } from "node:path";
import { mapLimit } from "./base/async.ts";
import { reasonOf } from "./base/errors.ts";
import { type Env, present } from "./base/paths.ts";
import { describeIncongruence, incongruences } from "./config/congruency.ts";
import type { Config } from "./config/schema.ts";
import { type Holder, holderOf } from "./engine/lock.ts";
import { readMarker, whyStale } from "./engine/marker.ts";
import { plan, type Step, scratchRoot } from "./engine/plan.ts";
import { type Usage, usage } from "./engine/usage.ts";

export interface StatusOptions {
  /** Count sizes of both trees. @default true */
  sizes?: boolean;
  /** How long counting may take, in seconds; what is not counted by then is said to be incomplete. @default 20 */
  sizeLimitS?: number;
  signal?: AbortSignal;
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

export type VarState = "fresh" | "stale" | "not-synced" | "source-missing" | "syncing" | "disabled";

export interface VarStatus {
  name: string;
  source: string;
  scratch: string;
  enabled: boolean;
  state: VarState;
  /** Why it is stale, in words. */
  why?: string;
  /** Who is syncing it now; undefined where the lock does not tell. */
  holder?: Holder;
  /** Unix time of the last sync in seconds; undefined if never, NaN if its marker cannot be read. */
  syncedAt?: number;
  /** Undefined if there is no such directory, or sizes were not asked for. */
  sourceUsage?: Usage;
  scratchUsage?: Usage;
}

export interface Status {
  scratchBase: string;
  vars: VarStatus[];
  warnings: string[];
}

/** How many trees are counted at once; each has many requests in flight itself. */
const treesAtOnce = 4;

/**
 * What is on scratch, how large, and is it what the source is. Writes nothing.
 *
 * @throws {EfError} of the configuration only
 */
export async function status(config: Config, options: StatusOptions = {}): Promise<Status> {
  const env = options.env ?? process.env;
  const scratchBase = scratchRoot(config, env);
  const steps = Object.keys(config.vars).map((name) => stepOf(config, env, name));
  const deadlineMs = Date.now() + (options.sizeLimitS ?? 20) * 1000;
  const count = (dir: string) =>
    options.sizes === false
      ? undefined
      : usage(dir, { deadlineMs, ...(options.signal ? { signal: options.signal } : {}) });
  const vars = await mapLimit(steps, treesAtOnce, async (step) => {
    if ("state" in step) return step;
    const usages = { sourceUsage: await count(step.source), scratchUsage: await count(step.target) };
    return { ...(await stateOf(step, config)), ...defined(usages) };
  });
  const known = steps.filter((step): step is Step => !("state" in step));
  return { scratchBase, vars, warnings: incongruences(known, env).map(describeIncongruence) };
}

/** The step of a variable; what can be said of it where its source cannot be told on this node (an unset `$VAR`). */
function stepOf(config: Config, env: Env, name: string): Step | VarStatus {
  try {
    return plan(config, env, [name]).steps[0] as Step;
  } catch (error) {
    const { source = "", enabled = false } = config.vars[name] ?? {};
    const base = { name, source, scratch: join(scratchRoot(config, env), config.cache_root, name), enabled };
    return { ...base, state: enabled ? "not-synced" : "disabled", why: reasonOf(error) };
  }
}

async function stateOf(step: Step, config: Config): Promise<VarStatus> {
  const { name, source, target: scratch } = step;
  const enabled = config.vars[name]?.enabled ?? false;
  const marker = readMarker(step.marker);
  const syncedAt = marker?.synced_at ?? (present(step.marker) ? Number.NaN : undefined);
  const base = { name, source, scratch, enabled, ...defined({ syncedAt }) };
  const holder = await holderOf(step.lock).catch((error) => new Error(reasonOf(error)));
  if (holder instanceof Error) return { ...base, state: "stale", why: holder.message };
  if (holder !== undefined) return { ...base, state: "syncing", ...(holder === "unknown" ? {} : { holder }) };
  if (!enabled) return { ...base, state: "disabled" };
  if (!present(source)) return { ...base, state: "source-missing" };
  if (!marker) return { ...base, state: "not-synced" };
  const why = await whyStale(step, config.skip_if_fresh_seconds).catch(reasonOf);
  return why === undefined ? { ...base, state: "fresh" } : { ...base, state: "stale", why };
}

/** Without the keys whose value is undefined. */
function defined<T extends object>(object: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as never;
}
