/** The part of `ef stage` that runs on each node: look what is there, take part in rounds, say what came of it. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { EfError } from "../base/errors.ts";
import type { Env } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { removeCopies } from "../engine/local-use.ts";
import { describeHolder, type Held, type Holder, holderOf, lock } from "../engine/lock.ts";
import { type Stale, whyStale } from "../engine/marker.ts";
import { localRoot, localStep, makeLocalRoot } from "../engine/node-local.ts";
import { pin } from "../engine/pins.ts";
import type { Step } from "../engine/plan.ts";
import { removeFilesOf } from "./bcast.ts";
import { type Link, type Listener, listen, ownAddresses } from "./links.ts";
import { failureOf, type Order, type Say, type Word } from "./messages.ts";
import { type Needed, Part } from "./part.ts";

export interface AgentOptions {
  /** Its name in Slurm. */
  node: string;
  orders: AsyncIterable<Order>;
  say: (word: Word) => void;
  env: Env;
  signal: AbortSignal;
  /**
   * So long it waits for the first order, in milliseconds. srun that is killed (with ef: it ran out of memory) before it has connected
   * leaves a task whose stdin never ends.
   *
   * @default 300_000
   */
  patienceMs?: number;
}

/** Run until it is told to end, or its orders end. @throws the signal's reason */
export async function agent(options: AgentOptions): Promise<void> {
  const { node, say: write, env, signal, patienceMs = 300_000 } = options;
  const orders = unlessAlone(options.orders, patienceMs);
  const say: Say = (word) => write({ node, ...word } as Word);
  const needed = new Map<string, Needed>();
  const parts = new Map<number, Part>();
  const links = new Map<number, Link>();
  const slurmJob = env.SLURM_JOB_ID ?? "";
  const ended = new AbortController();
  const waits: Promise<void>[] = [];
  const alive = setInterval(() => say({ word: "alive" }), aliveEveryMs);
  let listener: Listener | undefined;
  let context: { config: Config; secret: string; steps: Map<string, Step>; preflight: boolean } | undefined;
  try {
    for await (const order of orders) {
      signal.throwIfAborted();
      switch (order.order) {
        case "look": {
          const { config, secret, preflight } = order;
          const root = rootOr(config, env, (error) => {
            for (const { name } of order.steps)
              say({ word: "failed", round: undefined, name, because: "node", error: failureOf(error) });
          });
          if (root === undefined) break;
          listener = await listen(secret, node, (round, link) => {
            const part = parts.get(round);
            if (part) part.linked(link);
            else links.set(round, link);
          });
          say({ word: "hello", addresses: ownAddresses(), port: listener.port, root });
          const steps = order.steps.map((step) => localStep(step, root, step.from));
          context = { config, secret, preflight, steps: new Map(steps.map((step) => [step.name, step])) };
          const until = AbortSignal.any([signal, ended.signal]);
          waits.push(...(await prepare({ root, steps, order, needed, say, signal: until, slurmJob })));
          break;
        }
        case "round": {
          if (!context || !(node in order.next)) break;
          const step = context.steps.get(order.name);
          if (!step) break;
          const part = new Part({
            node,
            order,
            step,
            needed: needed.get(order.name),
            say,
            signal,
            job: slurmJob,
            ...context,
          });
          parts.set(order.round, part);
          const early = links.get(order.round);
          if (early) part.linked(early);
          void part.run().then(async (isDone) => {
            if (isDone) await release(needed, order.name);
          });
          break;
        }
        case "drop":
          parts.get(order.round)?.drop(order.nodes, order.why);
          break;
        case "unpack":
          parts.get(order.round)?.unpack();
          break;
        case "remove":
          await remove(order, env, say);
          break;
        case "end":
          return;
      }
    }
  } finally {
    clearInterval(alive);
    ended.abort();
    listener?.[Symbol.dispose]();
    for (const part of parts.values()) await part.stop();
    await Promise.all(waits);
    for (const name of [...needed.keys()]) await release(needed, name);
  }
}

/** What comes; nothing if the first does not come in that time. */
async function* unlessAlone<T>(all: AsyncIterable<T>, ms: number): AsyncGenerator<T> {
  const rest = all[Symbol.asyncIterator]();
  const alone = Promise.withResolvers<undefined>();
  const timer = setTimeout(alone.resolve, ms, undefined);
  const first = await Promise.race([rest.next(), alone.promise]).finally(() => clearTimeout(timer));
  if (!first || first.done) return;
  yield first.value;
  yield* { [Symbol.asyncIterator]: () => rest };
}

/** Between two words of one that has nothing to say, in milliseconds. */
const aliveEveryMs = 10_000;

/** Where the copies of this node go; undefined where that cannot be told, which is said. */
function rootOr(config: Config, env: Env, failed: (error: unknown) => void): string | undefined {
  try {
    return localRoot(config, env);
  } catch (error) {
    failed(error);
    return undefined;
  }
}

async function release(needed: Map<string, Needed>, name: string): Promise<void> {
  await needed.get(name)?.held[Symbol.asyncDispose]();
  needed.delete(name);
}

interface Preparing {
  root: string;
  steps: readonly Step[];
  order: Extract<Order, { order: "look" }>;
  /** Gets what is not there. */
  needed: Map<string, Needed>;
  say: Say;
  signal: AbortSignal;
  slurmJob: string;
}

/**
 * Look what is there; what is not gets locked.
 *
 * @returns waits for the locks that others have: when they end, it is said what is there then. Nothing here may wait for them:
 *   whoever has one may wait for us on another node
 */
async function prepare({ root, steps, order, needed, say, signal, slurmJob }: Preparing): Promise<Promise<void>[]> {
  const { config, force, job, dryRun } = order;
  const waits: Promise<void>[] = [];
  const failed = (name: string, error: unknown) => {
    if (!signal.aborted) say({ word: "failed", round: undefined, name, because: "node", error: failureOf(error) });
  };
  try {
    const warning = dryRun ? undefined : makeLocalRoot(root);
    if (warning) say({ word: "warning", name: "", message: warning });
    if (!dryRun) removeFilesOf(root, slurmJob);
  } catch (error) {
    for (const { name } of steps) failed(name, error);
    return waits;
  }
  for (const step of steps) {
    const { name, target } = step;
    const look = async () => (force ? { why: "forced" } : whyStale(step, config.skip_if_fresh_seconds));
    const tell = (stale: Stale | undefined) =>
      say(stale ? { word: "needed", name, target, why: stale.why } : { word: "fresh", name, target });
    const lookLocked = async (held: Held) => {
      const stale = await look();
      if (stale) needed.set(name, { step, held });
      else await held[Symbol.asyncDispose]();
      tell(stale);
    };
    const onWait = (holder: Holder | undefined) => say({ word: "waiting", name, who: describeHolder(holder) });
    try {
      if (!dryRun) pin(step, job); // before the look: nobody takes it away from then on
      const stale = await look();
      const held = stale && !dryRun ? await lockNow(step, signal) : undefined;
      if (!stale || dryRun) tell(stale);
      else if (held) await lookLocked(held);
      else {
        onWait(await holderNow(step));
        const wait = lock(step.lock, { timeoutS: config.lock_timeout_seconds, signal });
        waits.push(wait.then(lookLocked).catch((error) => failed(name, error)));
      }
    } catch (error) {
      failed(name, error);
    }
  }
  return waits;
}

/** @returns undefined where somebody else has it */
async function lockNow({ lock: path }: Step, signal: AbortSignal): Promise<Held | undefined> {
  try {
    return await lock(path, { timeoutS: 0, signal });
  } catch (error) {
    if (error instanceof EfError && error.code === "LOCK_TIMEOUT") return undefined;
    throw error;
  }
}

async function holderNow({ lock: path }: Step): Promise<Holder | undefined> {
  const holder = await holderOf(path);
  return holder === "unknown" ? undefined : holder;
}

async function remove({ steps, config }: Extract<Order, { order: "remove" }>, env: Env, say: Say): Promise<void> {
  for (const each of steps) {
    const { name } = each;
    try {
      const step = localStep(each, localRoot(config, env), each.source);
      const { removed, used } = existsSync(dirname(step.lock)) ? await removeCopies([step]) : { removed: [], used: [] };
      const { target } = step;
      const { left, first } = removed[0] ?? { left: 0, first: undefined };
      say(used.length > 0 ? { word: "used", name, target } : { word: "removed", name, target, left, first });
    } catch (error) {
      say({ word: "failed", round: undefined, name, because: "node", error: failureOf(error) });
    }
  }
}
