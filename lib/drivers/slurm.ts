/** The Slurm job that this process is part of, and names of nodes. */
import { EfError } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";

/** A job, as its own environment describes it (srun(1), sbatch(1): OUTPUT ENVIRONMENT VARIABLES). */
export interface SlurmJob {
  /** Its number; of an array's task, that of the task. */
  id: string;
  /** The nodes, as a host list (`n[1-3]`); undefined where Slurm does not say. */
  nodeList: string | undefined;
  /** When its time is over, in milliseconds since 1970; undefined without a limit, and before Slurm 23.02. */
  endMs: number | undefined;
  /** Processors of the job on this node. */
  cpus: number | undefined;
  /** This node's name in Slurm. */
  node: string | undefined;
  /** How often it was requeued. */
  restarts: number;
  /** `1234_7` for a task of an array. */
  arrayTask: string | undefined;
  /** Are we within a step that srun started, not in the batch script? */
  step: string | undefined;
}

/** The job of an environment; undefined outside of one. Asks nobody. */
export function jobOf(env: Env): SlurmJob | undefined {
  const id = env.SLURM_JOB_ID;
  if (id === undefined || !/^\d+$/.test(id)) return undefined;
  const endS = numberOf(env.SLURM_JOB_END_TIME);
  const { SLURM_ARRAY_JOB_ID: array, SLURM_ARRAY_TASK_ID: task } = env;
  return {
    id,
    nodeList: env.SLURM_JOB_NODELIST || undefined,
    endMs: endS && endS * 1000,
    cpus: numberOf(env.SLURM_CPUS_ON_NODE),
    node: env.SLURMD_NODENAME || undefined,
    restarts: numberOf(env.SLURM_RESTART_COUNT) ?? 0,
    arrayTask: array && task ? `${array}_${task}` : undefined,
    step: env.SLURM_STEP_ID || undefined,
  };
}

const numberOf = (text: string | undefined): number | undefined =>
  text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;

/**
 * The names in a host list: `n[1-3,7]` → n1 n2 n3 n7 (scontrol(1): show hostnames).
 *
 * @throws {EfError} TOOL_MISSING, TOOL_FAILED
 */
export async function hostNames(list: string, signal?: AbortSignal): Promise<string[]> {
  const { stdout } = await run(["scontrol", "show", "hostnames", "--", list], { signal }).catch((cause) => {
    if (cause instanceof EfError && cause.code === "TOOL_MISSING") throw noSlurm(cause);
    throw cause;
  });
  return stdout.split("\n").filter(Boolean);
}

/** Slurm's programs are not there. */
export const noSlurm = (cause: unknown): EfError =>
  new EfError("TOOL_MISSING", "Cannot ask Slurm: its programs are not on PATH", {
    hint: "on a cluster with Slurm: module load slurm, or ask where sinfo and srun are",
    cause,
  });
