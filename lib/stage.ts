/** Copies on the own disks of all nodes of a job, for which the slow storage is read once. */
import { existsSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { mapLimit } from "./base/async.ts";
import { EfError } from "./base/errors.ts";
import { removeIfThere } from "./base/files.ts";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { hostNames, jobOf, type SlurmJob } from "./drivers/slurm.ts";
import { sourceIsThere } from "./engine/bring.ts";
import { withFlags } from "./engine/copying.ts";
import { describeHolder, lock } from "./engine/lock.ts";
import { originOf } from "./engine/origin.ts";
import { plan, type Step } from "./engine/plan.ts";
import { withWorkspaces } from "./scratch-base.ts";
import { conduct, type Spread, type StagedCopy, type StageEvent } from "./stage/conduct.ts";

export { type Spread, type StagedCopy, type StageEvent, spreads } from "./stage/conduct.ts";

export interface StageOptions {
  /** Names of variables, disabled ones too. @default those with `ef.vars.NAME.node_local`; without any, all enabled */
  only?: readonly string[];
  /** Copy even where a node's copy is fresh. @default false */
  force?: boolean;
  /** Find out which nodes need what, and write nothing. @default false */
  dryRun?: boolean;
  /** Keep the copies until {@link unstage} takes them away. @default false: as long as the job runs */
  keep?: boolean;
  /** Check on each node that there is room before the first byte. @default true */
  preflight?: boolean;
  /** Bytes per second that are read, e.g. "200M". @default `ef.transfer.bwlimit` */
  bwlimit?: string;
  /**
   * How copies get from node to node: `tree`, by connections between them, each handing on while it gets; `sbcast`, by
   * sbcast(1), for nodes that cannot connect to each other and have their disks at the same path; `auto`, the second where the
   * first fails. A tree was faster at every size that was measured.
   *
   * @default "auto"
   */
  spread?: Spread;
  /** What starts ef on the nodes, which all see it there. @default ["ef"] */
  program?: readonly string[];
  /** Ends the agents on all nodes; what they had begun is removed. */
  signal?: AbortSignal;
  onEvent?: (event: StageEvent) => void;
  /** Describes the job, and has values of `$VARS` in paths. @default process.env */
  env?: Env;
}

export interface StageResult {
  job: string;
  nodes: string[];
  /** By node, and for each of them by variable. */
  copies: StagedCopy[];
  warnings: string[];
  errors: string[];
}

/**
 * Within a Slurm job: make copies of variables on every node's own disk, where `sync` with `nodeLocal` finds them.
 *
 * One node reads (the copy on scratch where that is whole, else the source) and hands on what it reads, so that each node
 * writes while the next one gets it. A node that fails is in `errors`; the copies of the others can be used.
 *
 * @throws {EfError} USAGE outside of a job; of the configuration; TOOL_MISSING; the signal's reason
 * @example
 * const { errors } = await stage(await loadConfig(), { only: ["HF_HOME"] });
 */
export async function stage(asked: Config, options: StageOptions = {}): Promise<StageResult> {
  const { env = process.env, signal, bwlimit } = options;
  const warnings: string[] = [];
  const onEvent = (event: StageEvent) => {
    if (event.type === "warning") warnings.push(event.message);
    options.onEvent?.(event);
  };
  const job = allocation(env);
  const onWarning = (message: string) => onEvent({ type: "warning", message });
  const known = await withWorkspaces(asked, { env, missing: options.dryRun ? "leave" : "allocate", onWarning, signal });
  const config = bwlimit === undefined ? known : withFlags(known, { bwlimit });
  for (const message of unheeded(config)) onWarning(message);
  const nodes = await hostNames(job.nodeList ?? "", signal);
  const planned = plan(config, env, options.only ?? chosen(config)).steps;
  const there = planned.filter((step) => {
    const isThere = sourceIsThere(step);
    const message = `${step.name}: source ${step.source} does not exist; nothing to copy`;
    if (!isThere) onEvent({ type: "warning", message });
    return isThere;
  });
  await using _ = await alone(options.dryRun ? [] : there, job, onEvent, signal);
  const steps = await mapLimit(there, config.parallel_jobs, async (step) => ({
    ...step,
    from: await originOf(step, config, { force: options.force ?? false, signal }),
  }));
  const copies = await conduct({
    job: job.id,
    pinned: options.keep ? undefined : job.id,
    nodes,
    steps,
    config,
    env,
    signal,
    onEvent,
    program: options.program ?? ["ef"],
    force: options.force ?? false,
    dryRun: options.dryRun ?? false,
    preflight: options.preflight ?? true,
    spread: options.spread ?? "auto",
  });
  const errors = copies.flatMap(({ node, name, error }) => (error ? [`${node}: ${name}: ${error.message}`] : []));
  return { job: job.id, nodes, copies, warnings, errors };
}

function allocation(env: Env): SlurmJob {
  const job = jobOf(env);
  if (job?.nodeList) return job;
  throw new EfError("USAGE", "Cannot stage: this is not within a Slurm job, so there are no nodes to stage to", {
    hint: "call it in a job script or within salloc; or submit it as a job of its own: ef stage --job",
  });
}

/** Wishes for copies that this way of copying does not fulfil. */
const unheeded = ({ rsync_extra_args: args, ef }: Config): string[] => [
  ...(args.length > 0 ? ["ef stage copies without rsync: rsync_extra_args have no effect on what it copies"] : []),
  ...(ef?.transfer?.xattrs ? ["ef stage copies no extended attributes and no ACLs"] : []),
];

/** Names of the variables that are for nodes' own disks; undefined where the configuration names none. */
function chosen({ vars, ef }: Config): string[] | undefined {
  const names = Object.keys(vars).filter((name) => vars[name]?.enabled && ef?.vars?.[name]?.node_local);
  return names.length > 0 ? names : undefined;
}

/** The directory of the copies on scratch, `.cache/euler-files` below its base: nobody may have made a copy there yet. */
function isDirectoryMade(dir: string): boolean {
  try {
    if (existsSync(dirname(dirname(dir)))) mkdirSync(dir, { recursive: true });
    return existsSync(dir);
  } catch {
    return false; // it can only be read here
  }
}

/**
 * Of several that stage for one job at once, one works, and the others then find all of it there. Where scratch is not to
 * be had, they work at once: the locks on the nodes keep that right.
 */
async function alone(
  [step]: readonly Step[],
  { id }: SlurmJob,
  onEvent: (event: StageEvent) => void,
  signal: AbortSignal | undefined,
): Promise<AsyncDisposable> {
  const nobody = { [Symbol.asyncDispose]: async () => {} };
  if (!step) return nobody;
  const dir = dirname(step.lock);
  if (!isDirectoryMade(dir)) return nobody;
  const path = join(dir, `.stage-${id}.lock`);
  const held = await lock(path, {
    timeoutS: Number.POSITIVE_INFINITY,
    signal,
    onWait: (holder) => onEvent({ type: "waiting", name: "stage", node: "", who: describeHolder(holder) }),
  }).catch((error) => {
    if (error instanceof EfError && error.code === "LOCK_FAILED") return undefined;
    throw error;
  });
  if (!held) return nobody;
  return {
    async [Symbol.asyncDispose]() {
      removeIfThere(path); // whoever waits for it sees that, and makes another
      await held[Symbol.asyncDispose]();
    },
  };
}
