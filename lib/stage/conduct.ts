/**
 * Have copies made on all nodes of a job: agents look what is there, one node reads what is missing, and they hand it on.
 *
 * A node that fails costs nobody else his copy: those that got theirs through it get it from a node that has it. The storage is
 * read again only where no node has it.
 */
import { randomBytes } from "node:crypto";
import type { Env } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import type { Step } from "../engine/plan.ts";
import { bcastFile } from "./bcast.ts";
import { Bell } from "./bell.ts";
import { type Agents, launchAll } from "./launch.ts";
import type { Peer } from "./links.ts";
import type { Because, Failure, Order, Word } from "./messages.ts";
import { below, spreadOver } from "./tree.ts";

/** How a copy gets from node to node: `tree`, by connections between them; `sbcast`; `auto`, the second where the first fails. */
export const spreads = ["auto", "tree", "sbcast"] as const;
export type Spread = (typeof spreads)[number];

export interface ConductOptions {
  job: string;
  /** The job that the copies are kept for; undefined to keep them until they are removed. */
  pinned: string | undefined;
  nodes: readonly string[];
  steps: readonly Step[];
  config: Config;
  program: readonly string[];
  force: boolean;
  preflight: boolean;
  dryRun: boolean;
  spread: Spread;
  env: Env;
  signal: AbortSignal | undefined;
  onEvent: (event: StageEvent) => void;
}

/** What came of a variable on a node. */
export interface StagedCopy {
  name: string;
  node: string;
  state: "staged" | "fresh" | "dry-run" | "failed";
  /** The directory on that node; undefined where it was not reached. */
  target: string | undefined;
  /** Of what was copied. */
  files: number;
  bytes: number;
  seconds: number;
  error?: Failure;
}

export type StageEvent =
  | { type: "warning"; message: string }
  | { type: "waiting"; name: string; node: string; who: string }
  /** The nodes that need it; the first one reads. */
  | { type: "spreading"; name: string; nodes: readonly string[]; why: string }
  | { type: "progress"; name: string; node: string; files: number; bytes: number; ofBytes: number }
  | { type: "result"; result: StagedCopy };

/** A node that says nothing for so long is taken for lost, in milliseconds: it says something every few seconds. */
const silenceMs = 60_000;
/** How long its first word may take: Slurm may run a prolog before. */
const firstWordMs = 600_000;
/** How often what a lost node kept from others is sent to them again. */
const mostRounds = 3;

type Outcome = { because: Because; error: Failure } | "done";

export async function conduct(options: ConductOptions): Promise<StagedCopy[]> {
  const conductor = new Conductor(options);
  try {
    return await conductor.run();
  } finally {
    await conductor.end();
  }
}

class Conductor {
  readonly #options: ConductOptions;
  readonly #results = new Map<string, StagedCopy>();
  readonly #peers = new Map<string, Peer>();
  readonly #roots = new Map<string, string>();
  /** Nodes to which another one could not connect. */
  readonly #unreached = new Set<string>();
  /** By name: the nodes that need it. */
  readonly #needed = new Map<string, string[]>();
  readonly #targets = new Map<string, string>();
  readonly #heard = new Map<string, number>();
  /** Copies for whose lock their node waits: whoever has it may make them fresh. By {@link keyOf}. */
  readonly #waiting = new Set<string>();
  /** Nodes that take part no longer. */
  readonly #lost = new Set<string>();
  /** Copies that cannot be given to others, as a job changed them. By {@link keyOf}. */
  readonly #unfit = new Set<string>();
  readonly #bell = new Bell();
  #agents: Agents | undefined;
  #round: { order: Extract<Order, { order: "round" }>; outcomes: Map<string, Outcome> } | undefined;
  #rounds = 0;
  #isOver = false;
  /** Why a variable is copied. */
  readonly #why = new Map<string, string>();

  constructor(options: ConductOptions) {
    this.#options = options;
  }

  async run(): Promise<StagedCopy[]> {
    const { nodes, steps, dryRun } = this.#options;
    await this.#launch();
    if (dryRun) for (const { name } of steps) for (const node of this.#ready(name)) this.#finish(node, name, "dry-run");
    // Nobody who has a lock waits for one who waits for it: else two of us that share nodes would wait for each other.
    for (;;) {
      const ready = steps.find(({ name }) => this.#ready(name).length > 0);
      if (ready) await this.#stage(ready.name);
      else if (this.#waiting.size === 0) break;
      else await this.#news();
    }
    return nodes.flatMap((node) => steps.flatMap(({ name }) => this.#results.get(keyOf(node, name)) ?? []));
  }

  async end(): Promise<void> {
    await this.#agents?.end();
  }

  async #launch(): Promise<void> {
    const { steps, config, force, preflight, dryRun, env, pinned } = this.#options;
    const secret = randomBytes(32).toString("hex");
    const plain = { steps: [...steps], config, secret, force, preflight, dryRun };
    const began = Date.now();
    const isKnown = (node: string) => {
      this.#checkSilence(node, began);
      return steps.every(({ name }) => this.#isKnown(node, name));
    };
    this.#agents = await launchAll({
      ...this.#options,
      order: { order: "look", ...plain, job: pinned },
      bell: this.#bell,
      env,
      isKnown,
      onWord: (word) => this.#hear(word),
      onLost: (node, why) => {
        this.#lose(node, `Cannot start a task on ${node}: ${why}`);
        this.#needed.clear(); // the others are asked again
        this.#waiting.clear();
        this.#heard.clear();
      },
      onDied: (node, why) => this.#lose(node, `The task on ${node} has ended: ${why}`),
    });
    void this.#agents?.ended.then(() => {
      this.#isOver = true;
      this.#bell.ring();
    });
  }

  #isKnown(node: string, name: string): boolean {
    const key = keyOf(node, name);
    return this.#results.has(key) || this.#waiting.has(key) || (this.#needed.get(name)?.includes(node) ?? false);
  }

  /** The nodes that have the lock of their copy, and wait for it. */
  #ready(name: string): string[] {
    const wanted = this.#needed.get(name) ?? [];
    return this.#options.nodes.filter((node) => wanted.includes(node) && !this.#results.has(keyOf(node, name)));
  }

  /** What has no answer from this node yet gets none. */
  #lose(node: string, message: string): void {
    if (this.#lost.has(node)) return;
    this.#lost.add(node);
    const error = { code: "TOOL_FAILED", message };
    for (const { name } of this.#options.steps) {
      const key = keyOf(node, name);
      this.#waiting.delete(key);
      if (!this.#results.has(key)) this.#finish(node, name, error);
    }
    const { order } = this.#round ?? {};
    if (order && node in order.next) {
      this.#settle(node, order.round, { because: "node", error });
      this.#drop(node, message);
    }
    this.#bell.ring();
  }

  #checkSilence(node: string, began: number): void {
    const heard = this.#heard.get(node);
    const limit = heard === undefined ? firstWordMs : silenceMs;
    if (this.#isOver) this.#lose(node, `The task on ${node} has ended: srun has`);
    else if (Date.now() - Math.max(began, heard ?? 0) > limit)
      this.#lose(node, `The task on ${node} has said nothing for ${limit / 1000} s`);
  }

  /** Wait until something is heard, or has not been heard for too long. */
  async #news(): Promise<void> {
    const { nodes, signal } = this.#options;
    await this.#bell.wait(signal);
    for (const node of nodes) this.#checkSilence(node, 0);
  }

  #hear(word: Word): void {
    const { node } = word;
    const { onEvent } = this.#options;
    if (this.#lost.has(node)) return; // that is reported already
    this.#heard.set(node, Date.now());
    if (["fresh", "needed", "failed"].includes(word.word) && "name" in word)
      this.#waiting.delete(keyOf(node, word.name));
    switch (word.word) {
      case "hello":
        this.#peers.set(node, { node, addresses: word.addresses, port: word.port });
        this.#roots.set(node, word.root);
        break;
      case "fresh":
        this.#targets.set(keyOf(node, word.name), word.target);
        if (!this.#results.has(keyOf(node, word.name))) this.#finish(node, word.name, "fresh");
        break;
      case "needed":
        this.#targets.set(keyOf(node, word.name), word.target);
        this.#needed.set(word.name, [...(this.#needed.get(word.name) ?? []), node]);
        this.#why.set(word.name, word.why);
        break;
      case "waiting":
        this.#waiting.add(keyOf(node, word.name));
        onEvent({ type: "waiting", name: word.name, node, who: word.who });
        break;
      case "warning":
        onEvent({ type: "warning", message: `${node}: ${word.name && `${word.name}: `}${word.message}` });
        break;
      case "progress":
        onEvent(progressOf(word));
        break;
      case "unreached":
        this.#unreached.add(word.next);
        this.#drop(word.next, `${node} cannot reach ${word.next}: ${word.why}`);
        break;
      case "handed":
        this.#agents?.tell({ order: "unpack", round: word.round });
        break;
      case "done":
        // One that had the copy already, and handed it on, says so as well.
        if (this.#settle(node, word.round, "done") && !this.#results.has(keyOf(node, word.name)))
          this.#finish(node, word.name, word);
        break;
      case "failed":
        if (word.round === undefined) this.#finish(node, word.name, word.error);
        else {
          this.#settle(node, word.round, { because: word.because, error: word.error });
          if (this.#round?.order.file !== undefined && this.#round.order.first === node)
            this.#drop(node, word.error.message);
        }
        break;
    }
    this.#bell.ring();
  }

  /** @returns false if nobody waits for it */
  #settle(node: string, round: number, outcome: Outcome): boolean {
    if (this.#round?.order.round !== round || this.#round.outcomes.has(node)) return false;
    this.#round.outcomes.set(node, outcome);
    return true;
  }

  /** What was to go to this node does not; those below it do not wait for it. */
  #drop(node: string, why: string): void {
    const { order } = this.#round ?? {};
    if (!order) return;
    const nodes = order.file !== undefined && order.first === node ? Object.keys(order.next) : below(order.next, node);
    this.#agents?.tell({ order: "drop", round: order.round, nodes, why });
  }

  #finish(
    node: string,
    name: string,
    how: Failure | "fresh" | "dry-run" | { files: number; bytes: number; seconds: number },
  ): void {
    const target = this.#targets.get(keyOf(node, name));
    const plain = { name, node, target, files: 0, bytes: 0, seconds: 0 };
    const result: StagedCopy =
      typeof how === "string"
        ? { ...plain, state: how }
        : "message" in how
          ? { ...plain, state: "failed", error: how }
          : { ...plain, state: "staged", files: how.files, bytes: how.bytes, seconds: how.seconds };
    this.#results.set(keyOf(node, name), result);
    this.#options.onEvent({ type: "result", result });
  }

  /** Bring one variable to all nodes that are ready for it. */
  async #stage(name: string): Promise<void> {
    const last = new Map<string, Failure>();
    let left = this.#ready(name);
    for (let attempt = 1; left.length > 0 && attempt <= mostRounds; attempt++) {
      // What was fresh may be older than the source is, in ways that cost too much to look for.
      const whole = this.#wholeCopy(name, attempt === 1 ? ["staged"] : ["staged", "fresh"]);
      const members = whole === undefined ? left : [whole, ...left];
      const isCut = left.some((node) => this.#unreached.has(node));
      const how = this.#fileFor(members, 0) ? "again, by sbcast" : "again";
      const again = isCut ? `nodes that could not be reached: ${how}` : "the node before them was lost: again";
      this.#options.onEvent({
        type: "spreading",
        name,
        nodes: members,
        why: attempt === 1 ? (this.#why.get(name) ?? "") : again,
      });
      const outcomes = await this.#spread(name, members, whole === undefined ? "origin" : "copy");
      const source = [...outcomes.values()].find((outcome) => outcome !== "done" && outcome.because === "source");
      if (whole !== undefined && source) this.#unfit.add(keyOf(whole, name));
      const failed: string[] = [];
      for (const node of left) {
        const outcome = outcomes.get(node);
        if (outcome === undefined || outcome === "done" || this.#results.has(keyOf(node, name))) continue;
        const isOwn = outcome.because === "node";
        const error = !isOwn && source !== undefined && source !== "done" ? source.error : outcome.error;
        if (isOwn || (source && whole === undefined)) this.#finish(node, name, error);
        else failed.push(node);
        last.set(node, error);
      }
      left = [false, true].flatMap((isLast) => failed.filter((node) => this.#unreached.has(node) === isLast));
    }
    const isAlone = this.#options.spread !== "tree" && left.some((node) => this.#unreached.has(node));
    for (const node of left) {
      const error = isAlone ? await this.#alone(name, node) : last.get(node);
      if (error) this.#finish(node, name, error);
    }
  }

  /** A node that no other one can hand anything to reads for itself. @returns why that failed */
  async #alone(name: string, node: string): Promise<Failure | undefined> {
    const why = "no other node can reach it: it reads for itself";
    this.#options.onEvent({ type: "spreading", name, nodes: [node], why });
    const outcome = (await this.#spread(name, [node], "origin")).get(node);
    return outcome === "done" ? undefined : outcome?.error;
  }

  /** A node that has it, and answers. */
  #wholeCopy(name: string, states: readonly string[]): string | undefined {
    return this.#options.nodes.find((node) => {
      const key = keyOf(node, name);
      const { state = "" } = this.#results.get(key) ?? {};
      return this.#peers.has(node) && !this.#lost.has(node) && !this.#unfit.has(key) && states.includes(state);
    });
  }

  /** The file for sbcast(1): where that is asked for, or a node could not be reached by another. */
  #fileFor(members: readonly string[], round: number): string | undefined {
    const { spread, job } = this.#options;
    const [root = "", ...others] = new Set(members.map((node) => this.#roots.get(node) ?? ""));
    const isWanted = spread === "sbcast" || (spread === "auto" && members.some((node) => this.#unreached.has(node)));
    if (!isWanted || members.length < 2 || others.length > 0) return undefined; // it has one path for all
    return bcastFile(root, job, round, randomBytes(8).toString("hex"));
  }

  async #spread(name: string, members: readonly string[], read: "origin" | "copy"): Promise<Map<string, Outcome>> {
    const [first = ""] = members;
    const round = ++this.#rounds;
    const file = this.#fileFor(members, round);
    const next =
      file === undefined
        ? spreadOver(members, (node) => this.#peers.get(node) as Peer)
        : Object.fromEntries(members.map((node) => [node, []]));
    const order = { order: "round" as const, round, name, first, read, next, ...(file === undefined ? {} : { file }) };
    const outcomes = new Map<string, Outcome>();
    this.#round = { order, outcomes };
    this.#agents?.tell(order);
    while (members.some((node) => !outcomes.has(node))) await this.#news();
    this.#round = undefined;
    return outcomes;
  }
}

const keyOf = (node: string, name: string) => `${node}\0${name}`;

function progressOf({ name, node, files, bytes, ofBytes }: Extract<Word, { word: "progress" }>): StageEvent {
  return { type: "progress", name, node, files, bytes, ofBytes };
}
