/** Is this a login node: one that many people share, from which jobs are submitted? */
import { hostname } from "node:os";
import { EfError } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import { isInJob } from "./host.ts";
import { onPath } from "./programs.ts";

/** How long `sinfo` may take, in milliseconds: the controller of a large cluster may be busy, and nobody is to wait. */
const sinfoMs = 3000;

/**
 * Short names of the nodes that Slurm runs jobs on; undefined where there is no Slurm, or its answer is an error.
 *
 * @returns "no answer" where it takes too long
 * @see https://slurm.schedmd.com/sinfo.html (-a: of hidden partitions too, -N: one a line, -h: no header)
 */
async function slurmNodes(env: Env): Promise<string[] | "no answer" | undefined> {
  const signal = AbortSignal.timeout(sinfoMs);
  try {
    const { stdout } = await run(["sinfo", "-a", "-N", "-h", "-o", "%N"], { env, signal, keepBytes: 16 * 2 ** 20 });
    const names = stdout.split("\n").map((line) => line.trim().replace(/\..*/, ""));
    return [...new Set(names.filter((name) => /^[A-Za-z0-9][\w-]*$/.test(name)))].sort();
  } catch {
    return signal.aborted ? "no answer" : undefined;
  }
}

/** Short names of the nodes that Slurm runs jobs on; none where there is no Slurm, or it does not answer. */
export async function computeNodes(env: Env): Promise<string[]> {
  const nodes = await slurmNodes(env);
  return Array.isArray(nodes) ? nodes : [];
}

/**
 * Not inside a job, with the programs that submit one (Slurm, PBS, LSF), and no node of a Slurm cluster. `EF_LOGIN_NODE` set
 * to 0 or 1 says it instead.
 *
 * Slurm is asked only where its `sbatch` is there, and it has a moment to answer. Where it answers with an error, its programs
 * are installed and there is no cluster.
 *
 * @throws {EfError} USAGE for another value of `EF_LOGIN_NODE`
 */
export async function isLoginNode(env: Env, name = hostname()): Promise<boolean> {
  const said = env.EF_LOGIN_NODE;
  if (said === "0" || said === "1") return said === "1";
  if (said) throw new EfError("USAGE", `EF_LOGIN_NODE=${said}: expected 0 or 1`);
  if (isInJob(env)) return false;
  const [sbatch, ...others] = await Promise.all(["sbatch", "qsub", "bsub"].map((program) => onPath(program, env)));
  if (sbatch?.length === 0) return others.some((found) => found.length > 0);
  const nodes = await slurmNodes(env);
  if (nodes === undefined) return false;
  return nodes === "no answer" || !nodes.includes(name.replace(/\..*/, ""));
}
