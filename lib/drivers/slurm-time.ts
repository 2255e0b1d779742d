/** How much time Slurm leaves a job. */
import { run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import { jobOf, type SlurmJob } from "./slurm.ts";

export interface AskOptions {
  signal?: AbortSignal | undefined;
  /** @default process.env */
  env?: Env;
  /** The controller of a large cluster may be busy. @default 10 */
  timeoutS?: number;
}

/**
 * Arguments of `squeue` that make it print when a job will end (squeue(1), `%e`). Not how much time is left (`%L`), which is
 * the limit less what was used, whatever else ends the job.
 *
 * A task of an array by its index: the number of its last task is that of the whole array.
 */
export const endArgv = ({ id, arrayTask }: Pick<SlurmJob, "id" | "arrayTask">): string[] => [
  ...["squeue", "--noheader", "--format=%e", `--jobs=${arrayTask ?? id}`],
];

/** squeue prints local time, of which one hour of the year is there twice: it is told to be at Greenwich. */
const utc = { TZ: "UTC0", SLURM_TIME_FORMAT: "standard" };

/** `2026-11-22T01:56:33` at Greenwich, in milliseconds since 1970; undefined for all else (`N/A`, `NONE`). */
export function endMsOf(text: string): number | undefined {
  const [stamp] = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/.exec(text.trim()) ?? [];
  return stamp === undefined ? undefined : Date.parse(`${stamp}Z`);
}

/**
 * When a job's time is over, in milliseconds since 1970; undefined where it has no limit, or nobody knows.
 *
 * From its environment if that tells; with `isAsked` by asking Slurm all the same, as a limit may have been changed since.
 */
export async function jobEnd(
  job: SlurmJob,
  options: AskOptions & { isAsked?: boolean } = {},
): Promise<number | undefined> {
  const { signal, env = process.env, timeoutS = 10, isAsked = false } = options;
  if (job.endMs !== undefined && !isAsked) return job.endMs;
  const timeout = AbortSignal.timeout(timeoutS * 1000);
  try {
    const { stdout } = await run(endArgv(job), {
      env: { ...env, ...utc },
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    return endMsOf(stdout.split("\n")[0] ?? "");
  } catch {
    return job.endMs; // no squeue here (a container), or no answer
  }
}

/** From SIGTERM to SIGKILL, in seconds: what the cluster is configured for (slurm.conf(5), KillWait); undefined without an answer. */
export async function killWaitS(options: AskOptions = {}): Promise<number | undefined> {
  const { signal, env = process.env, timeoutS = 10 } = options;
  if (!jobOf(env)) return undefined;
  const timeout = AbortSignal.timeout(timeoutS * 1000);
  try {
    const argv = ["scontrol", "show", "config"];
    const { stdout } = await run(argv, { env, signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
    const [, seconds] = /^KillWait\s*=\s*(\d+)\s*sec/m.exec(stdout) ?? [];
    return seconds === undefined ? undefined : Number(seconds);
  } catch {
    return undefined;
  }
}
