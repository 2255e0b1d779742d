/** `ef stage` as a job of its own, that others can wait for (`sbatch --dependency=afterok:ID`). */
import { type Submission, sbatchArgv, scriptOf, submit } from "./drivers/slurm-jobs.ts";

export interface StageJobOptions {
  /** Names of variables. @default as for `stage` */
  only?: readonly string[];
  force?: boolean;
  preflight?: boolean;
  bwlimit?: string;
  /** Of sbatch, e.g. `["--nodelist=n[1-3]", "--time=30"]`. */
  options?: readonly string[];
  /** What starts ef on the nodes. @default ["ef"] */
  program?: readonly string[];
  signal?: AbortSignal;
}

function submissionOf({ only = [], force, preflight, bwlimit, options = [], program, signal }: StageJobOptions) {
  const flags = [
    ...only.flatMap((name) => ["--var", name]),
    ...(force ? ["--force"] : []),
    ...(preflight === false ? ["--no-preflight"] : []),
    ...(bwlimit === undefined ? [] : ["--bwlimit", bwlimit]),
  ];
  const argv = [...(program ?? ["ef"]), "stage", "--keep", ...flags];
  return { argv, name: "ef-stage", options: ["--ntasks-per-node=1", ...options], signal } satisfies Submission;
}

/**
 * Submit a job that stages to its nodes, and keeps the copies there for the jobs that come after it.
 *
 * @returns its number
 * @throws {EfError} TOOL_MISSING without Slurm; TOOL_FAILED with sbatch's own words
 * @example
 * const id = await stageJob({ only: ["HF_HOME"], options: ["--nodelist=n[1-3]"] });
 */
export const stageJob = (options: StageJobOptions = {}): Promise<string> => submit(submissionOf(options));

/** What {@link stageJob} would run, and the script that it would hand to that. */
export function stageJobPlan(options: StageJobOptions = {}): { argv: string[]; script: string } {
  const submission = submissionOf(options);
  return { argv: sbatchArgv(submission), script: scriptOf(submission.argv) };
}
