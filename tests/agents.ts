/** Agents of several nodes in this process, each with a disk of its own, and one who tells them what to do. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as v from "valibot";
import { Config } from "../lib/config/schema.ts";
import { plan, type Step } from "../lib/engine/plan.ts";
import { agent } from "../lib/stage/agent.ts";
import type { Peer } from "../lib/stage/links.ts";
import type { Order, Round, Word } from "../lib/stage/messages.ts";
import { spreadOver } from "../lib/stage/tree.ts";
import { until } from "./helpers.ts";
import { differences, lookAt } from "./trees.ts";

const undo: (() => void | Promise<void>)[] = [];
/** End all agents, and remove what they made. */
export async function endAll(): Promise<void> {
  for (const each of undo.splice(0).reverse()) await each();
}

/** Orders for an agent, as they come. */
class Orders implements AsyncIterable<Order> {
  readonly #all: Order[] = [];
  #wake: (() => void) | undefined;
  push(order: Order): void {
    this.#all.push(structuredClone(order));
    this.#wake?.();
  }
  async *[Symbol.asyncIterator](): AsyncGenerator<Order> {
    for (;;) {
      const order = this.#all.shift();
      if (order) yield order;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

export type Found<W extends Word["word"]> = Extract<Word, { word: W }>;

interface Told {
  force?: boolean;
  dryRun?: boolean;
  job?: string;
}

/** Some nodes, and a source, until {@link endAll}. */
export class Nodes {
  readonly dir = mkdtempSync(join(tmpdir(), "ef agents "));
  readonly source = join(this.dir, "source");
  readonly words: Word[] = [];
  readonly names: string[];
  readonly config: Config;
  readonly step: Step;
  readonly #orders = new Map<string, Orders>();
  readonly #stops = new Map<string, AbortController>();
  readonly #ended: Promise<unknown>[] = [];
  #rounds = 0;

  constructor(count: number, ef: object = {}) {
    this.names = Array.from({ length: count }, (_, i) => `n${i + 1}`);
    mkdirSync(this.source);
    mkdirSync(join(this.dir, "scratch"));
    for (const node of this.names) mkdirSync(join(this.dir, node));
    this.config = v.parse(Config, {
      version: 1,
      scratch_base: join(this.dir, "scratch"),
      vars: { HF_HOME: { source: this.source, enabled: true } },
      ef: { node_local_base: join(this.dir, "$NODE"), ...ef },
    });
    this.step = plan(this.config, {}, undefined).steps[0] as Step;
    undo.push(() => this.end());
  }

  async start(told: Told = {}): Promise<this> {
    for (const node of this.names) this.startOne(node, told);
    await until("all agents", () => this.names.every((node) => this.find("needed", node) ?? this.find("fresh", node)));
    return this;
  }

  startOne(node: string, { force = false, dryRun = false, job }: Told = {}): void {
    const orders = new Orders();
    const stop = new AbortController();
    this.#orders.set(node, orders);
    this.#stops.set(node, stop);
    const say = (word: Word) => void this.words.push(word);
    const ran = agent({ node, orders, say, env: { NODE: node, SLURM_JOB_ID: "7" }, signal: stop.signal });
    this.#ended.push(ran.catch(() => {}));
    const { config, step } = this;
    orders.push({ order: "look", steps: [step], config, secret: "s", force, preflight: true, dryRun, job });
  }

  find<W extends Word["word"]>(word: W, node: string): Found<W> | undefined {
    return this.words.find((each): each is Found<W> => each.word === word && each.node === node);
  }

  tell(order: Order): void {
    for (const orders of this.#orders.values()) orders.push(order);
  }

  peer = (node: string): Peer => {
    const { port } = this.find("hello", node)!;
    return { node, addresses: ["127.0.0.1"], port };
  };

  /** One round to its end: what each of its nodes has to say. */
  async round(
    members = this.names,
    more: Partial<Round> = {},
  ): Promise<Record<string, Found<"done"> | Found<"failed">>> {
    const round = this.begin(members, more);
    return until("the end of the round", () => this.outcomes(round, members));
  }

  begin(members: string[] = this.names, more: Partial<Round> = {}): number {
    const round = ++this.#rounds;
    const [first = ""] = members;
    const next = spreadOver(members, this.peer);
    this.tell({ order: "round", round, name: "HF_HOME", first, read: "origin", next, ...more });
    return round;
  }

  outcomes(round: number, members: readonly string[]) {
    const is = (word: Word): word is Found<"done"> | Found<"failed"> =>
      (word.word === "done" || word.word === "failed") && word.round === round;
    const found = Object.fromEntries(this.words.filter(is).map((word) => [word.node, word]));
    return members.every((node) => found[node]) && found;
  }

  root(node: string): string {
    return join(this.dir, node, `ef-cache-${process.geteuid?.()}`);
  }

  copy(node: string): string {
    return join(this.root(node), "HF_HOME");
  }

  /** What is temporary. */
  temps(node: string): string[] {
    return readdirSync(this.root(node)).filter((name) => /tmp|partial/.test(name));
  }

  differences(node: string): string[] {
    return differences(lookAt(this.source), lookAt(this.copy(node)));
  }

  async end(): Promise<void> {
    this.tell({ order: "end" });
    await Promise.all(this.#ended);
    Bun.spawnSync(["chmod", "-R", "u+rwX", this.dir]);
    rmSync(this.dir, { recursive: true, force: true });
  }

  stop(node: string): void {
    this.#stops.get(node)?.abort(new Error("stopped"));
    this.#orders.get(node)?.push({ order: "end" }); // its stdin ends
  }
}

export const words = (outcomes: Record<string, Word>) =>
  Object.fromEntries(Object.entries(outcomes).map(([node, { word }]) => [node, word]));

/** Numbers from a seed (mulberry32). */
export function seeded(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
