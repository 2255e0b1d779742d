import { promises } from "node:fs";
import { join } from "node:path";
import { mapLimit } from "./base/async.ts";
import { reasonOf } from "./base/errors.ts";
import { type Env, present } from "./base/paths.ts";
import { widenPool } from "./base/stat.ts";
import { describeIncongruence } from "./config/congruency.ts";
import type { Config } from "./config/schema.ts";
import { type QuotaLeft, quotas } from "./drivers/quota.ts";
import { withinLimit } from "./engine/finding.ts";
import { type Holder, holderOf } from "./engine/lock.ts";
import type { Base } from "./engine/manifest.ts";
import { knownOf, readMarker, whyStale } from "./engine/marker.ts";
import { plan, type Step, scratchRoot } from "./engine/plan.ts";
import { PurgeForecast, type PurgeRule, purgeRule } from "./engine/purge.ts";
import { distinctQuotas } from "./engine/quota-text.ts";
import { goneFrom } from "./engine/side-by-side.ts";
import { strays } from "./engine/strays.ts";
import { Tree } from "./engine/tree.ts";
import { type Survey, survey, type Usage, usage } from "./engine/usage.ts";
import { withWorkspaces } from "./scratch-base.ts";

export interface StatusOptions {
  /** Count both trees, what was purged and when the next files are, and ask for quotas. @default true */
  sizes?: boolean;
  /** How long that may take, in seconds; what is not counted by then is said to be incomplete. @default 20 */
  sizeLimitS?: number;
  signal?: AbortSignal;
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

/** `purged`: files that ef put on scratch are not there any more. */
export type VarState = "fresh" | "stale" | "purged" | "not-synced" | "source-missing" | "syncing" | "disabled";

export interface VarStatus {
  name: string;
  source: string;
  scratch: string;
  enabled: boolean;
  state: VarState;
  /** Why it is stale, in words. */
  why?: string;
  /** Of the files and links that ef put on scratch: how many are gone. With the state `purged`. */
  goneFiles?: number;
  ofFiles?: number;
  /** Who is syncing it now; undefined where the lock does not tell. */
  holder?: Holder;
  /** Unix time of the last sync in seconds; undefined if never, NaN if its marker cannot be read. */
  syncedAt?: number;
  /** Undefined if there is no such directory, or sizes were not asked for. */
  sourceUsage?: Usage;
  scratchUsage?: Usage;
  /** Days until the site purges the first of the files that were counted, 0 or less: it is due. Undefined: not known. */
  purgedInDays?: number;
  /** Files that are due to be purged now. */
  purgeDue?: number;
}

export interface Status {
  scratchBase: string;
  vars: VarStatus[];
  /** When files are purged there; undefined if never, or not known. */
  purge?: PurgeRule;
  /** What counts against new files there, where a tool tells; empty if sizes were not asked for. */
  quotas: QuotaLeft[];
  warnings: string[];
}

/** How many variables are counted at once; each has many requests in flight itself. */
const varsAtOnce = 4;
/** What storage needs longer for than this, in seconds, it does not answer. */
const answerS = 5;

interface Context {
  config: Config;
  sizes: boolean;
  deadlineMs: number;
  purge: PurgeRule | undefined;
  signal: AbortSignal | undefined;
  answers: (path: string) => Promise<boolean>;
}

/**
 * What is on scratch, how large, and is it what the source is. Writes nothing.
 *
 * @throws {EfError} of the configuration; the signal's reason
 * @example
 * const { vars } = await status(await loadConfig(), { sizes: false });
 * for (const { name, state } of vars) console.log(name, state);
 */
export async function status(written: Config, options: StatusOptions = {}): Promise<Status> {
  const { env = process.env, sizes = true, sizeLimitS = 20, signal } = options;
  const warnings: string[] = [];
  const onWarning = (message: string) => void warnings.push(message);
  const config = await withWorkspaces(written, { env, missing: "fail", onWarning, signal });
  const scratchBase = scratchRoot(config, env);
  const steps = Object.keys(config.vars).map((name) => stepOf(config, env, name));
  const known = steps.filter((step): step is Step => !("state" in step));
  warnings.push(...(await strays(known, config, env)).map(describeIncongruence));
  const limitS = Math.min(answerS, sizeLimitS);
  const deadlineMs = Date.now() + sizeLimitS * 1000;
  const answers = async (path: string) => {
    await widenPool(); // what hangs keeps a thread
    // Not by a call that would hang itself: nobody could end that.
    const look = withinLimit(limitS, signal, () => promises.stat(path).catch(() => undefined));
    return look.then(
      () => true,
      () => signal?.throwIfAborted() ?? false,
    );
  };
  const purge = purgeRule(config, env, scratchBase);
  if (!(await answers(scratchBase))) {
    const why = `${scratchBase} does not answer`;
    return { scratchBase, vars: steps.map((step) => unanswered(step, config, why)), quotas: [], warnings };
  }
  const context: Context = { config, sizes, deadlineMs, purge, signal, answers };
  const asked = sizes
    ? quotas(scratchBase, { signal, timeoutS: limitS, env, onProblem: (text) => void warnings.push(text) })
    : [];
  const [vars, found] = await Promise.all([
    mapLimit(steps, varsAtOnce, async (step) => ("state" in step ? step : look(step, context))),
    asked,
  ]);
  return { scratchBase, vars, ...defined({ purge }), quotas: distinctQuotas(found), warnings };
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

async function look(step: Step, context: Context): Promise<VarStatus> {
  const { config, sizes, deadlineMs, signal, purge } = context;
  if (!(await context.answers(step.source))) return unanswered(step, config, `${step.source} does not answer`);
  const found = await stateOf(step, config);
  if (!sizes) return found;
  const forecast = purge && new PurgeForecast(purge);
  const onFile = forecast?.add.bind(forecast);
  const [sourceUsage, scratch] = await Promise.all([
    usage(step.source, { deadlineMs, signal }),
    survey(step.target, { deadlineMs, signal, onFile }),
  ]);
  return {
    ...found,
    ...(found.state === "stale" ? goneOf(step, scratch) : {}),
    ...defined({ sourceUsage, scratchUsage: scratch?.usage }),
    ...defined({ purgedInDays: forecast?.inDays, purgeDue: forecast?.due }),
  };
}

/** What of the last sync is on scratch no more; nothing if it is all there, or nobody knows. */
function goneOf(step: Step, scratch: Survey | undefined): Partial<VarStatus> {
  const tree = scratch ? scratch.tree : new Tree();
  const base = tree && baseOf(step);
  if (!tree || !base) return {};
  const { gone, of } = goneFrom(base.tree, tree);
  return gone > 0 ? { state: "purged", goneFiles: gone, ofFiles: of } : {};
}

function baseOf(step: Step): Base | undefined {
  try {
    return knownOf(step).base;
  } catch {
    return undefined; // the storage fails: a sync says so
  }
}

function unanswered(step: Step | VarStatus, config: Config, why: string): VarStatus {
  if ("state" in step) return step;
  const { name, source, target: scratch } = step;
  const enabled = config.vars[name]?.enabled ?? false;
  return { name, source, scratch, enabled, state: enabled ? "stale" : "disabled", why };
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
  const why = await whyStale(step, config.skip_if_fresh_seconds).then((stale) => stale?.why, reasonOf);
  return why === undefined ? { ...base, state: "fresh" } : { ...base, state: "stale", why };
}

/** Without the keys whose value is undefined. */
function defined<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as never;
}
