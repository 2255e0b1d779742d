/** Take away copies from nodes' own disks. */
import { existsSync } from "node:fs";
import { hostname } from "node:os";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { hostNames, jobOf } from "./drivers/slurm.ts";
import { removeCopies } from "./engine/local-use.ts";
import { localRoot, localStep } from "./engine/node-local.ts";
import { plan } from "./engine/plan.ts";
import { withWorkspaces } from "./scratch-base.ts";
import { type RemovedCopy, removeOnAll } from "./stage/remove.ts";

export type { RemovedCopy } from "./stage/remove.ts";

export interface UnstageOptions {
  /** Names of variables. @default all */
  only?: readonly string[];
  /** What starts ef on the nodes. @default ["ef"] */
  program?: readonly string[];
  signal?: AbortSignal;
  /** @default process.env */
  env?: Env;
}

export interface UnstageResult {
  copies: RemovedCopy[];
  errors: string[];
}

/**
 * Remove what ef put on the nodes' own disks: within a Slurm job on all of its nodes, else on this one. What a job made or
 * changed there stays, and a copy that a process uses (`ef exec --node-local`).
 *
 * @throws {EfError} of the configuration; TOOL_MISSING; the signal's reason
 * @example
 * const { copies } = await unstage(await loadConfig());
 */
export async function unstage(asked: Config, options: UnstageOptions = {}): Promise<UnstageResult> {
  const { env = process.env, signal } = options;
  const config = await withWorkspaces(asked, { env, missing: "leave", signal });
  const { steps } = plan(config, env, options.only ?? Object.keys(config.vars));
  const job = jobOf(env);
  const copies = job?.nodeList
    ? await removeOnAll({
        ...{ job: job.id, nodes: await hostNames(job.nodeList, signal), steps, config, env, signal },
        program: options.program ?? ["ef"],
      })
    : await removeHere(config, env, steps);
  const errors = copies.flatMap(({ node, name, error }) => (error ? [`${node}: ${name}: ${error.message}`] : []));
  return { copies, errors };
}

async function removeHere(config: Config, env: Env, steps: ReturnType<typeof plan>["steps"]): Promise<RemovedCopy[]> {
  const root = localRoot(config, env);
  if (!existsSync(root)) return [];
  const { removed, used } = await removeCopies(steps.map((step) => localStep(step, root, step.source)));
  const node = hostname();
  return [
    ...removed.map((each) => ({ node, ...each, state: each.left > 0 ? ("kept" as const) : ("removed" as const) })),
    ...used.map(({ name, target }) => ({ node, name, target, state: "in-use" as const, left: 0, first: undefined })),
  ];
}
