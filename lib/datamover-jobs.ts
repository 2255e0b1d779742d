/**
 * Data movers in the background: jobs that nobody waits for.
 *
 * A job writes its output and, at its end, the exit code of the tool into files of a directory that ef keeps below home, so the
 * code is true after Slurm has forgotten the job, and where there is no accounting. The movers must mount that directory.
 */
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EfError, reasonOf } from "./base/errors.ts";
import { randomId, readOwn, writeAtomic } from "./base/files.ts";
import type { Env } from "./base/paths.ts";
import type { Datamover } from "./datamover.ts";
import { moveScript } from "./drivers/dt.ts";
import { type AskOptions, cancel, isOver, type JobState, jobState, outsideJob, submit } from "./drivers/slurm-jobs.ts";

/** A tool that was started in the background. */
export interface MoverJob {
  id: string;
  /** The tool and its arguments. */
  argv: readonly string[];
  cwd: string;
  partition: string;
  /** In milliseconds since 1970. */
  submittedMs: number;
  /** The file with its stdout and stderr. */
  output: string;
}

export interface MoverJobState extends MoverJob {
  state: JobState["state"];
  /** Of the tool; absent while it runs, and where it did not come to its end. */
  code?: number;
  /** The signal that ended its script, which could write down no code then. */
  signal?: number;
  /** Slurm's own words. */
  reason?: string;
}

/** Records are kept for so long, in milliseconds. */
const keptMs = 30 * 24 * 3600 * 1000;
/** A record is small, in bytes; its arguments are at most as long as a command line. */
const recordLimit = 16 * 2 ** 20;

/**
 * Where the files of background jobs are: `$XDG_STATE_HOME/ef/dm`, else `~/.local/state/ef/dm`.
 *
 * @throws {EfError} UNSET_VARIABLE without HOME
 */
export function moverJobsDir(env: Env): string {
  const { XDG_STATE_HOME: state, HOME: home } = env;
  if (state && isAbsolute(state)) return join(state, "ef/dm");
  if (home) return join(home, ".local/state/ef/dm");
  throw new EfError("UNSET_VARIABLE", "Cannot keep the output of background jobs: HOME is not set", {
    hint: "set HOME, or XDG_STATE_HOME",
  });
}

/**
 * Start a tool by sbatch, on the partition of the movers, and come back at once. The job is not requeued when its node fails: a
 * `cp -r` that is done twice does something else the second time.
 *
 * @param tool `cp` or `dtcp`
 * @throws {EfError} as {@link Datamover.mover}; TOOL_FAILED with sbatch's own words; IO if its files cannot be kept
 * @example
 * const { id } = await moveInBackground(new Datamover(), "cp", ["-r", "/grp/data", "/projects/p/"]);
 * const { code } = await moverJobEnd(id);
 */
export async function moveInBackground(
  dm: Datamover,
  tool: string,
  args: readonly string[],
  signal?: AbortSignal,
): Promise<MoverJob> {
  const env = dm.options.env ?? process.env;
  const { mover, argv, shown } = await dm.inBackground(tool, args, signal);
  const move = dm.move(tool, args);
  const dir = made(moverJobsDir(env));
  prune(dir);
  const key = randomId();
  const output = join(dir, `${key}.out`);
  dm.options.onCommand?.(shown);
  const id = await submit({
    script: moveScript(move, output, join(dir, `${key}.code`)),
    options: argv.slice(1),
    env: outsideJob(env),
    signal,
  });
  const job: MoverJob = {
    ...{ id, argv: [move.tool, ...args], cwd: move.cwd, partition: mover.partition },
    ...{ submittedMs: Date.now(), output },
  };
  write(join(dir, `${id}.json`), job);
  return job;
}

function made(dir: string): string {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    return dir;
  } catch (cause) {
    throw new EfError("IO", `Cannot make ${dir}, for the output of the job: ${reasonOf(cause)}`, {
      hint: "set XDG_STATE_HOME to a directory that can be written, here and on the data mover",
      path: dir,
      cause,
    });
  }
}

function write(path: string, job: MoverJob): void {
  try {
    writeAtomic(path, `${JSON.stringify(job)}\n`, 0o600);
  } catch (cause) {
    throw new EfError("IO", `Cannot write ${path}: ${reasonOf(cause)}; job ${job.id} was submitted all the same`, {
      hint: `its output: ${job.output}`,
      path,
      cause,
    });
  }
}

/** Remove what is older than {@link keptMs}. Best effort: it only takes room. */
function prune(dir: string): void {
  for (const name of readdirSync(dir)) {
    try {
      if (Date.now() - statSync(join(dir, name)).mtimeMs > keptMs) rmSync(join(dir, name));
    } catch {
      // somebody else removed it, or may not
    }
  }
}

/**
 * The jobs that were started in the background, the newest first. Asks nobody.
 *
 * @example
 * for (const { id, argv } of moverJobs()) console.log(id, argv.join(" "));
 */
export function moverJobs(env: Env = process.env): MoverJob[] {
  const dir = moverJobsDir(env);
  const ids = names(dir).flatMap((name) => /^(\d+)\.json$/.exec(name)?.[1] ?? []);
  const jobs = ids.flatMap((id) => read(dir, id) ?? []);
  return jobs.sort((a, b) => b.submittedMs - a.submittedMs);
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return []; // none was ever started
  }
}

/** The record of a job; undefined if there is none, or it is damaged. */
function read(dir: string, id: string): MoverJob | undefined {
  try {
    const job = JSON.parse(readOwn(join(dir, `${id}.json`), recordLimit)?.toString() ?? "null");
    const { argv, cwd, partition, submittedMs, output } = job;
    const isText = (value: unknown) => typeof value === "string";
    const isWhole = [cwd, partition, output].every(isText) && argv.length > 0 && argv.every(isText);
    const isTime = typeof submittedMs === "number" && Math.abs(submittedMs) <= 8.64e15;
    return job.id === id && isWhole && isTime ? job : undefined;
  } catch {
    return undefined;
  }
}

/** @throws {EfError} USAGE if there is no such job */
export function moverJob(id: string, env: Env = process.env): MoverJob {
  const job = /^\d+$/.test(id) ? read(moverJobsDir(env), id) : undefined;
  if (job) return job;
  throw new EfError(
    "USAGE",
    `Cannot find job ${id}: ef dm did not start it in the background, or more than 30 days ago`,
    {
      hint: "those it knows: ef dm status",
    },
  );
}

/** The exit code that the job has written down; undefined as long as there is none. */
function codeOf(job: MoverJob): number | undefined {
  const text = readOwn(job.output.replace(/\.out$/, ".code"), 16)?.toString() ?? "";
  return /^\d{1,3}\n$/.test(text) && Number(text) <= 255 ? Number(text) : undefined;
}

/**
 * What has become of a job.
 *
 * @throws {EfError} USAGE if there is no such job; TOOL_MISSING without Slurm, unless it left its exit code
 * @example
 * for (const { id } of moverJobs()) console.log((await moverJobState(id)).state);
 */
export async function moverJobState(
  id: string,
  { env = process.env, signal }: AskOptions = {},
): Promise<MoverJobState> {
  const job = moverJob(id, env);
  const before = codeOf(job);
  if (before !== undefined) return ended(job, before);
  const { state, reason, signal: endedBy } = await jobState(id, { env, signal });
  const code = codeOf(job); // it may have ended in between
  if (code !== undefined) return ended(job, code);
  return {
    ...job,
    state,
    ...(endedBy === undefined ? {} : { signal: endedBy }),
    ...(reason === undefined ? {} : { reason }),
  };
}

const ended = (job: MoverJob, code: number): MoverJobState => ({
  ...job,
  state: code === 0 ? "completed" : "failed",
  code,
});

/** Between two questions to Slurm, in milliseconds; and between two looks at the file, which cost less. */
const pauses = { first: 250, longest: 15_000, look: 1000 };
/** How long a file may take to be seen here after the job that wrote it has ended, in milliseconds (nfs(5): acregmax). */
const lateMs = 60_000;

/**
 * Wait for the end of a job.
 *
 * @param options.timeoutS for so long, in seconds; the job runs on after that
 * @returns its last state; `code` is that of the tool. Without a code the tool did not come to its end: `state` says why
 * @throws {EfError} USAGE if there is no such job; TIMEOUT
 * @example
 * const { id } = await moveInBackground(new Datamover(), "cp", ["-r", "data", "copy"]);
 * const { code } = await moverJobEnd(id, { timeoutS: 3600 });
 */
export async function moverJobEnd(
  id: string,
  options: AskOptions & { timeoutS?: number | undefined; onState?: (state: MoverJobState) => void } = {},
): Promise<MoverJobState> {
  const { timeoutS = Number.POSITIVE_INFINITY, onState, signal } = options;
  const limitMs = performance.now() + timeoutS * 1000;
  let last: string | undefined;
  let overMs: number | undefined;
  for (let pause = pauses.first; ; pause = Math.min(pause * 1.5, pauses.longest)) {
    const state = await moverJobState(id, options);
    if (state.code !== undefined) return state;
    if (isOver(state)) {
      // A job that ended by itself has written its code: where that is not seen yet, it will be.
      const wrote = state.state === "completed" || (state.state === "failed" && state.signal === undefined);
      overMs ??= performance.now();
      if (!wrote || performance.now() - overMs > lateMs || hasFailedToStart(state)) return state;
      pause = pauses.first;
    } else if (state.state !== last) onState?.(state);
    last = state.state;
    const leftMs = limitMs - performance.now();
    if (leftMs <= 0) {
      throw new EfError("TIMEOUT", `Cannot wait longer than ${timeoutS} s for job ${id}: it is ${state.state}`, {
        hint: `it goes on; wait again with: ef dm wait ${id}`,
      });
    }
    const until = performance.now() + Math.min(pause, leftMs);
    for (let ms = until - performance.now(); ms > 0 && codeOf(state) === undefined; ms = until - performance.now()) {
      await sleep(Math.min(ms, pauses.look), undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}

/** Its script has said why it did not even begin: there will be no code. */
function hasFailedToStart({ output }: MoverJob): boolean {
  return /^ef: the data mover has no /m.test(readOwn(output, 4096)?.toString() ?? "");
}

/**
 * Cancel a job.
 *
 * @returns what it was then: one that is over already stays as it is
 * @throws {EfError} USAGE if there is no such job; TOOL_MISSING, TOOL_FAILED
 * @example
 * for (const { id } of moverJobs()) await cancelMoverJob(id);
 */
export async function cancelMoverJob(id: string, options: AskOptions = {}): Promise<MoverJobState> {
  const state = await moverJobState(id, options);
  if (!isOver(state)) await cancel(id, options);
  return state;
}
