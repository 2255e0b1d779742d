/** The part of `ef stage` that runs on each node: look what is there, take part in rounds, say what came of it. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import type { Env } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { removeCopies } from "../engine/local-use.ts";
import { describeHolder, lock } from "../engine/lock.ts";
import { whyStale } from "../engine/marker.ts";
import { localRoot, localStep, makeLocalRoot } from "../engine/node-local.ts";
import { pin } from "../engine/pins.ts";
import type { Step } from "../engine/plan.ts";
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
}

/** Run until it is told to end, or its orders end. @throws the signal's reason */
export async function agent({ node, orders, say: write, env, signal }: AgentOptions): Promise<void> {
  const say: Say = (word) => write({ node, ...word } as Word);
  const needed = new Map<string, Needed>();
  const parts = new Map<number, Part>();
  const links = new Map<number, Link>();
  let listener: Listener | undefined;
  let context: { config: Config; secret: string; steps: Map<string, Step>; preflight: boolean } | undefined;
  try {
    for await (const order of orders) {
      signal.throwIfAborted();
      switch (order.order) {
        case "look": {
          const { config, secret, preflight } = order;
          const root = localRoot(config, env);
          listener = await listen(secret, node, (round, link) => {
            const part = parts.get(round);
            if (part) part.linked(link);
            else links.set(round, link);
          });
          say({ word: "hello", addresses: ownAddresses(), port: listener.port, root });
          const steps = order.steps.map((step) => localStep(step, root, step.from));
          context = { config, secret, preflight, steps: new Map(steps.map((step) => [step.name, step])) };
          await prepare(root, steps, order, needed, say, signal);
          break;
        }
        case "round": {
          if (!context || !(node in order.next)) break;
          const step = context.steps.get(order.name);
          if (!step) break;
          const part = new Part({ node, order, step, needed: needed.get(order.name), say, signal, ...context });
          parts.set(order.round, part);
          const early = links.get(order.round);
          if (early) part.linked(early);
          void part.run().then(async (isDone) => {
            if (isDone) await release(needed, order.name);
          });
          break;
        }
        case "drop":
          parts.get(order.round)?.drop(order.nodes);
          break;
        case "unpack":
          parts.get(order.round)?.unpack(order.file);
          break;
        case "remove":
          await remove(order, env, say);
          break;
        case "end":
          return;
      }
    }
  } finally {
    listener?.[Symbol.dispose]();
    for (const part of parts.values()) await part.stop();
    for (const name of [...needed.keys()]) await release(needed, name);
  }
}

async function release(needed: Map<string, Needed>, name: string): Promise<void> {
  await needed.get(name)?.held[Symbol.asyncDispose]();
  needed.delete(name);
}

/** Look what is there; what is not gets locked, in the order of the names, as every agent does it. */
async function prepare(
  root: string,
  steps: readonly Step[],
  { config, force, job, dryRun }: Extract<Order, { order: "look" }>,
  needed: Map<string, Needed>,
  say: Say,
  signal: AbortSignal,
): Promise<void> {
  const failed = (name: string, error: unknown) => {
    signal.throwIfAborted();
    say({ word: "failed", round: undefined, name, because: "node", error: failureOf(error) });
  };
  try {
    const warning = dryRun ? undefined : makeLocalRoot(root);
    if (warning) say({ word: "warning", name: "", message: warning });
  } catch (error) {
    for (const { name } of steps) failed(name, error);
    return;
  }
  for (const step of steps) {
    const { name, target } = step;
    try {
      if (!dryRun) pin(step, job); // before the look: nobody takes it away from then on
      const why = async () => (force ? { why: "forced" } : whyStale(step, config.skip_if_fresh_seconds));
      let stale = await why();
      if (stale && !dryRun) {
        const held = await lock(step.lock, {
          timeoutS: config.lock_timeout_seconds,
          signal,
          onWait: (holder) => say({ word: "waiting", name, who: describeHolder(holder) }),
        });
        stale = await why();
        if (stale) needed.set(name, { step, held });
        else await held[Symbol.asyncDispose]();
      }
      say(stale ? { word: "needed", name, target, why: stale.why } : { word: "fresh", name, target });
    } catch (error) {
      failed(name, error);
    }
  }
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
