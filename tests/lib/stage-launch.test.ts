import { expect, test } from "bun:test";
import { deaths, notLaunched } from "../../lib/stage/launch.ts";
import { below, spreadOver } from "../../lib/stage/tree.ts";

function heard(text: string, step = text.length): [string, string][] {
  const found: [string, string][] = [];
  const hear = deaths((list, why) => found.push([list, why]));
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += step) hear(bytes.subarray(at, at + step));
  return found;
}

test("srun's words about tasks that have ended, as Slurm 22.05 and 23.11 print them", () => {
  const text = `srun: error: n2: task 1: Killed
slurmstepd-n1: error: something else: task 3: Killed by us
srun: error: n[1,3-4]: tasks 0,2-3: Exited with exit code 127
srun: error: gpu-a-07: task 12: Segmentation fault (core dumped)
srun: error: n9: task 9: Out Of Memory
srun: warning: can't run 1 processes on 3 nodes, setting nnodes to 1
`;
  const all = [
    ["n2", "Killed"],
    ["n[1,3-4]", "Exited with exit code 127"],
    ["gpu-a-07", "Segmentation fault (core dumped)"],
    ["n9", "Out Of Memory"],
  ] as [string, string][];
  for (const step of [1, 10, 1000]) expect(heard(text, step)).toEqual(all);
});

test("what srun kills itself, as it could not start all tasks, has not ended by itself", () => {
  const text = `srun: error: Task launch for StepId=7.0 failed on node n3: Communication connection failure
srun: error: Application launch failed: Communication connection failure
srun: Job step aborted: Waiting up to 12 seconds for job step to finish.
srun: error: n[1-2]: tasks 0-1: Killed
srun: error: Timed out waiting for job step to complete
`;
  expect(heard(text)).toEqual([]);
  expect([...notLaunched(text)]).toEqual([["n3", "Communication connection failure"]]);
});

test("who hands on to whom", () => {
  const nodes = ["a", "b", "c", "d", "e", "f"];
  const next = spreadOver(nodes, (node) => ({ node, addresses: [], port: 1 }));
  const names = Object.fromEntries(nodes.map((node) => [node, next[node]!.map((peer) => peer.node)]));
  expect(names).toEqual({ a: ["b", "c"], b: ["d", "e"], c: ["f"], d: [], e: [], f: [] });
  expect(below(next, "b")).toEqual(["b", "d", "e"]);
  expect(below(next, "a").sort()).toEqual(nodes);
  expect(spreadOver(["a"], () => ({ node: "", addresses: [], port: 1 }))).toEqual({ a: [] });
  // Everybody gets it once, ten steps away at most.
  const many = Array.from({ length: 1000 }, (_, i) => `n${i}`);
  const all = spreadOver(many, (node) => ({ node, addresses: [], port: 1 }));
  expect(new Set(below(all, "n0")).size).toBe(1000);
  const depth = (node: string): number => 1 + Math.max(0, ...all[node]!.map((peer) => depth(peer.node)));
  expect(depth("n0")).toBeLessThanOrEqual(10);
});
