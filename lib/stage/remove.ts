/** Take away the copies of all nodes of a job. */
import type { Env } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import type { Step } from "../engine/plan.ts";
import { Bell } from "./bell.ts";
import { launchAll } from "./launch.ts";
import type { Failure, Word } from "./messages.ts";

export interface RemoveOptions {
  job: string;
  nodes: readonly string[];
  steps: readonly Step[];
  config: Config;
  program: readonly string[];
  env: Env;
  signal: AbortSignal | undefined;
}

/** What became of a copy. */
export interface RemovedCopy {
  name: string;
  node: string;
  /** `in-use`: processes run with it; `kept`: what a job made or changed in it is still there. */
  state: "removed" | "kept" | "in-use" | "failed";
  target: string | undefined;
  /** Files that are not as ef put them there, and the first of them. */
  left: number;
  first: string | undefined;
  error?: Failure;
}

export async function removeOnAll(options: RemoveOptions): Promise<RemovedCopy[]> {
  const { nodes, steps, config } = options;
  const found = new Map<string, RemovedCopy>();
  const bell = new Bell();
  const keyOf = (node: string, name: string) => `${node}\0${name}`;
  const put = (copy: Pick<RemovedCopy, "node" | "name" | "state"> & Partial<RemovedCopy>) =>
    found.set(keyOf(copy.node, copy.name), { target: undefined, left: 0, first: undefined, ...copy });
  const hear = (word: Word) => {
    const { node } = word;
    if (word.word === "removed") {
      const { name, target, left, first } = word;
      put({ node, name, target, left, first, state: left > 0 ? "kept" : "removed" });
    } else if (word.word === "used") put({ node, name: word.name, target: word.target, state: "in-use" });
    else if (word.word === "failed") put({ node, name: word.name, state: "failed", error: word.error });
    bell.ring();
  };
  const lose = (node: string, message: string) => {
    for (const { name } of steps)
      if (!found.has(keyOf(node, name))) put({ node, name, state: "failed", error: { code: "TOOL_FAILED", message } });
    bell.ring();
  };
  const agents = await launchAll({
    ...options,
    order: { order: "remove", steps: [...steps], config },
    bell,
    isKnown: (node) => steps.every(({ name }) => found.has(keyOf(node, name))),
    onWord: hear,
    onLost: (node, why) => lose(node, `Cannot start a task on ${node}: ${why}`),
    onDied: (node, why) => lose(node, `The task on ${node} has ended: ${why}`),
  });
  await agents?.end();
  return nodes.flatMap((node) => steps.flatMap(({ name }) => found.get(keyOf(node, name)) ?? []));
}
