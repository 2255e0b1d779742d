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
import { Bell } from "./bell.ts";
import { type Agents, launchAll } from "./launch.ts";
import type { Peer } from "./links.ts";
import type { Because, Failure, Order, Word } from "./messages.ts";
import { below, spreadOver } from "./tree.ts";

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

/** A node that says nothing for so long is taken for lost, in milliseconds: it says something each second. */
const silenceMs = 60_000;
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
  /** By name: the nodes that need it. */
  readonly #needed = new Map<string, string[]>();
  readonly #targets = new Map<string, string>();
  readonly #heard = new Map<string, number>();
  readonly #bell = new Bell();
  #agents: Agents | undefined;
  #round: { order: Extract<Order, { order: "round" }>; outcomes: Map<string, Outcome> } | undefined;
  #rounds = 0;
  #why = "";

  constructor(options: ConductOptions) {
    this.#options = options;
  }

  async run(): Promise<StagedCopy[]> {
    const { nodes, steps, dryRun } = this.#options;
    await this.#launch();
    for (const { name } of steps) {
      if (!dryRun) await this.#stage(name);
      else for (const node of this.#needed.get(name) ?? []) this.#finish(node, name, "dry-run");
    }
    return nodes.flatMap((node) => steps.flatMap(({ name }) => this.#results.get(keyOf(node, name)) ?? []));
  }

  async end(): Promise<void> {
    if (this.#options.signal?.aborted) await this.#agents?.stop();
    else await this.#agents?.end();
  }

  async #launch(): Promise<void> {
    const { steps, config, force, preflight, dryRun, env, pinned } = this.#options;
    const secret = randomBytes(32).toString("hex");
    const plain = { steps: [...steps], config, secret, force, preflight, dryRun };
    const isKnown = (node: string) => steps.every(({ name }) => this.#isKnown(node, name));
    this.#agents = await launchAll({
      ...this.#options,
      order: { order: "look", ...plain, job: pinned },
      bell: this.#bell,
      env,
      isKnown,
      onWord: (word) => this.#hear(word),
      onLost: (node, why) => {
        const message = `Cannot start a task on ${node}: ${why}`;
        for (const { name } of steps) this.#finish(node, name, { code: "TOOL_FAILED", message });
        this.#needed.clear(); // the others are asked again
      },
    });
  }

  #isKnown(node: string, name: string): boolean {
    return this.#results.has(keyOf(node, name)) || (this.#needed.get(name)?.includes(node) ?? false);
  }

  #hear(word: Word): void {
    const { node } = word;
    const { onEvent } = this.#options;
    this.#heard.set(node, Date.now());
    switch (word.word) {
      case "hello":
        this.#peers.set(node, { node, addresses: word.addresses, port: word.port });
        break;
      case "fresh":
        this.#targets.set(keyOf(node, word.name), word.target);
        this.#finish(node, word.name, "fresh");
        break;
      case "needed":
        this.#targets.set(keyOf(node, word.name), word.target);
        this.#needed.set(word.name, [...(this.#needed.get(word.name) ?? []), node]);
        this.#why = word.why;
        break;
      case "waiting":
        onEvent({ type: "waiting", name: word.name, node, who: word.who });
        break;
      case "warning":
        onEvent({ type: "warning", message: `${node}: ${word.name && `${word.name}: `}${word.message}` });
        break;
      case "progress":
        onEvent(progressOf(word));
        break;
      case "unreached":
        this.#drop(word.next);
        break;
      case "done":
        if (this.#settle(node, word.round, "done")) this.#finish(node, word.name, word);
        break;
      case "failed":
        if (word.round === undefined) this.#finish(node, word.name, word.error);
        else this.#settle(node, word.round, { because: word.because, error: word.error });
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
  #drop(node: string): void {
    const { order } = this.#round ?? {};
    if (order) this.#agents?.tell({ order: "drop", round: order.round, nodes: below(order.next, node) });
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

  /** Bring one variable to all nodes that need it. */
  async #stage(name: string): Promise<void> {
    const wanted = this.#needed.get(name) ?? [];
    const { nodes, onEvent } = this.#options;
    let left = nodes.filter((node) => wanted.includes(node) && !this.#results.has(keyOf(node, name)));
    const last = new Map<string, Failure>();
    for (let attempt = 1; left.length > 0 && attempt <= mostRounds; attempt++) {
      const whole = attempt === 1 ? undefined : this.#wholeCopy(name);
      const members = whole === undefined ? left : [whole, ...left];
      const why = attempt === 1 ? this.#why : "the node before them was lost";
      onEvent({ type: "spreading", name, nodes: members, why });
      const outcomes = await this.#spread(name, members, whole === undefined ? "origin" : "copy");
      const again: string[] = [];
      const source = [...outcomes.values()].find((outcome) => outcome !== "done" && outcome.because === "source");
      for (const node of left) {
        const outcome = outcomes.get(node);
        if (outcome === undefined || outcome === "done") continue;
        const isOwn = outcome.because === "node";
        const error = !isOwn && source !== undefined && source !== "done" ? source.error : outcome.error;
        if (isOwn || (source && whole === undefined)) this.#finish(node, name, error);
        else again.push(node);
        last.set(node, error);
      }
      left = again;
    }
    for (const node of left) this.#finish(node, name, last.get(node) as Failure);
  }

  /** A node that has it, and answers. */
  #wholeCopy(name: string): string | undefined {
    return this.#options.nodes.find((node) => {
      const { state } = this.#results.get(keyOf(node, name)) ?? {};
      return this.#peers.has(node) && (state === "staged" || state === "fresh");
    });
  }

  async #spread(name: string, members: readonly string[], read: "origin" | "copy"): Promise<Map<string, Outcome>> {
    const [first = ""] = members;
    const next = spreadOver(members, (node) => this.#peers.get(node) as Peer);
    const order = { order: "round" as const, round: ++this.#rounds, name, first, read, next };
    const outcomes = new Map<string, Outcome>();
    this.#round = { order, outcomes };
    const began = Date.now();
    const receivers = read === "origin" ? members : members.slice(1);
    let isOver = false;
    void this.#agents?.ended.then(() => {
      isOver = true;
      this.#bell.ring();
    });
    this.#agents?.tell(order);
    while (receivers.some((node) => !outcomes.has(node))) {
      await this.#bell.wait(this.#options.signal);
      for (const node of receivers) {
        if (outcomes.has(node)) continue;
        const silent = Date.now() - Math.max(began, this.#heard.get(node) ?? 0) > silenceMs;
        if (!silent && !isOver) continue;
        const message = isOver
          ? `${node} has gone: srun has ended`
          : `${node} has said nothing for ${silenceMs / 1000} s`;
        outcomes.set(node, { because: "node", error: { code: "TOOL_FAILED", message } });
        this.#peers.delete(node);
        this.#drop(node);
      }
    }
    this.#round = undefined;
    return outcomes;
  }
}

const keyOf = (node: string, name: string) => `${node}\0${name}`;

function progressOf({ name, node, files, bytes, ofBytes }: Extract<Word, { word: "progress" }>): StageEvent {
  return { type: "progress", name, node, files, bytes, ofBytes };
}
