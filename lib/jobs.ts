/** The jobs that `submit` has started: how they stand, what they print and leave, and their end. */
import { setTimeout as sleep } from "node:timers/promises";
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import type { Host } from "./clusters/host.ts";
import { openHost } from "./clusters/open.ts";
import { cancel as scancel } from "./drivers/slurm-jobs.ts";
import type { JobEvent } from "./jobs/events.ts";
import { look, type Seen, type Standing, slurmStanding, standing } from "./jobs/look.ts";
import { isEnd, type JobRecord, readRecord, readRecords, writeRecord } from "./jobs/record.ts";
import { fetchResults, isFetched, type JobResult, readResult } from "./jobs/results.ts";
import { cancelScript } from "./jobs/script.ts";
import { runnerOf } from "./submit.ts";

export interface JobOptions {
  /** @default process.env */
  env?: Env;
  signal?: AbortSignal | undefined;
}

/**
 * The jobs that were submitted from here, the newest first, as they were known last. Asks no cluster.
 *
 * @example
 * for (const { id, state } of jobs()) console.log(id, state);
 */
export const jobs = (env: Env = process.env): JobRecord[] => readRecords(env);

/**
 * How a job stands now. What has ended is not asked for again.
 *
 * @param id of it, or the beginning of that
 * @returns with the state `unreachable` where the cluster does not answer
 * @throws {EfError} UNKNOWN_JOB
 * @example
 * const { state, exit_code } = await jobState("train-3f9a2c1b");
 */
export async function jobState(id: string, { env = process.env, signal }: JobOptions = {}): Promise<JobRecord> {
  const record = readRecord(id, env);
  if (isEnd(record.state)) return record;
  try {
    await using host = await hostOf(record, { env, signal });
    const seen = await look(host, record.dir, { stdout: 0, stderr: 0 }, signal);
    return remember(env, record, await standingOf(host, record, seen, signal));
  } catch (error) {
    if (!(error instanceof EfError) || error.code !== "UNREACHABLE") throw error;
    return { ...record, state: "unreachable", reason: error.message };
  }
}

const hostOf = (record: JobRecord, options: JobOptions): Promise<Host> =>
  openHost(record.definition, { env: options.env ?? process.env, signal: options.signal, name: record.cluster });

const standingOf = (host: Host, record: JobRecord, seen: Seen, signal?: AbortSignal): Promise<Standing> | Standing =>
  record.slurm_id === null ? standing(seen) : slurmStanding(seen, record, runnerOf(host), signal);

function remember(env: Env, record: JobRecord, { state, exitCode, reason }: Standing): JobRecord {
  const now: JobRecord = { ...record, state, exit_code: exitCode ?? null, reason: reason ?? null };
  // "unreachable" is of this moment only.
  if (state !== record.state && state !== "unreachable") writeRecord(env, now);
  return now;
}

/** Between two looks, in milliseconds. */
const pauses = { first: 150, longestHere: 1000, longest: 5000 };
/** How long a file may take to be seen after the job that wrote it has ended, in milliseconds (nfs(5): acregmax). */
const lateMs = 60_000;

export interface WaitOptions extends JobOptions {
  /** For so long, in seconds; the job goes on after that. */
  timeoutS?: number | undefined;
  /** Each new state, and what the job prints from its beginning on. */
  onEvent?: (event: JobEvent) => void;
}

/**
 * Follow a job to its end, and bring back what it left. A cluster that does not answer is asked again.
 *
 * @returns also for one that failed: `ok` and `error` say so
 * @throws {EfError} UNKNOWN_JOB, TIMEOUT; UNREACHABLE if it cannot be reached from the first
 * @example
 * const { ok, value, error } = await jobWait("train-3f9a2c1b");
 */
export async function jobWait(id: string, options: WaitOptions = {}): Promise<JobResult> {
  const { env = process.env, signal } = options;
  const record = readRecord(id, env);
  if (isEnd(record.state) && isFetched(env, record)) return readResult(env, record);
  await using host = await hostOf(record, options);
  const ended = await follow(host, record, options);
  await fetchResults(host, ended, env, signal);
  return readResult(env, ended);
}

async function follow(host: Host, record: JobRecord, options: WaitOptions): Promise<JobRecord> {
  const { env = process.env, signal, onEvent, timeoutS = Number.POSITIVE_INFINITY } = options;
  const limitMs = performance.now() + timeoutS * 1000;
  const longest = host.isLocal ? pauses.longestHere : pauses.longest;
  const known = { stdout: 0, stderr: 0 };
  let last: JobRecord = record;
  let told: string | undefined;
  let endedMs: number | undefined;
  const tell = ({ state, reason }: JobRecord) => {
    if (state !== told) onEvent?.({ type: "state", state, reason: reason ?? undefined });
    told = state;
  };
  for (let pause = pauses.first; ; pause = Math.min(pause * 1.5, longest)) {
    const seen = await lookAgain(host, record, known, last, signal);
    if (seen) {
      const now = await standingOf(host, record, seen, signal);
      // What is known of one that has ended stays true, though its directory, or Slurm's memory of it, is gone.
      last = isEnd(record.state) && now.exitCode === undefined ? record : remember(env, record, now);
      const hasPrinted = handOn(seen, known, (stream, bytes) => onEvent?.({ type: "output", stream, bytes }));
      if (isEnd(last.state)) {
        if (hasPrinted) continue; // there may be more
        endedMs ??= performance.now();
        if (!isLate(last, seen, endedMs)) break;
      }
    }
    if (!isEnd(last.state)) tell(last);
    const leftMs = limitMs - performance.now();
    if (leftMs <= 0) throw tooLong(last, timeoutS);
    await sleep(Math.min(pause, leftMs), undefined, { signal }).catch(() => signal?.throwIfAborted());
  }
  tell(last);
  return last;
}

const tooLong = ({ id, state }: JobRecord, timeoutS: number) =>
  new EfError("TIMEOUT", `Cannot wait longer than ${timeoutS} s for job ${id}: it is ${state}`, {
    hint: `it goes on; wait again with: ef jobs wait ${id}`,
  });

type OnOutput = (stream: "stdout" | "stderr", bytes: Buffer) => void;

/** @param known grows by it @returns whether there was something */
function handOn(seen: Seen, known: { stdout: number; stderr: number }, onOutput: OnOutput): boolean {
  for (const stream of ["stdout", "stderr"] as const) {
    known[stream] += seen[stream].length;
    if (seen[stream].length > 0) onOutput(stream, seen[stream]);
  }
  return seen.stdout.length + seen.stderr.length > 0;
}

/** Slurm says that a job ended by itself, and what it wrote is not seen yet: it will be. */
const isLate = ({ slurm_id: id, state }: JobRecord, { status, gone }: Seen, sinceMs: number): boolean =>
  id !== null &&
  status === undefined &&
  !gone &&
  ["completed", "failed"].includes(state) &&
  performance.now() - sinceMs < lateMs;

/** Undefined where the cluster does not answer now, and did before. */
async function lookAgain(
  host: Host,
  record: JobRecord,
  known: { stdout: number; stderr: number },
  last: JobRecord,
  signal: AbortSignal | undefined,
): Promise<Seen | undefined> {
  try {
    return await look(host, record.dir, known, signal);
  } catch (error) {
    const isFirst = last === record;
    if (isFirst || !(error instanceof EfError) || error.code !== "UNREACHABLE") throw error;
    return undefined;
  }
}

/**
 * What a job left, once it has ended.
 *
 * @throws {EfError} UNKNOWN_JOB; USAGE if it has not ended; UNREACHABLE
 * @example
 * const { value } = await jobResult("train-3f9a2c1b");
 */
export async function jobResult(id: string, options: JobOptions = {}): Promise<JobResult> {
  const { env = process.env, signal } = options;
  const record = await jobState(id, options);
  if (!isEnd(record.state))
    throw new EfError("USAGE", `Cannot give the result of ${record.id}: it is ${record.state}`, {
      hint: `wait for it: ef jobs wait ${record.id}`,
    });
  // Waiting is also what a result needs that the node has written, and that is not seen here yet.
  return jobWait(record.id, { env, signal });
}

/**
 * What a job prints, from its beginning on, as bytes.
 *
 * @param options.follow until it has ended
 * @throws {EfError} UNKNOWN_JOB, UNREACHABLE
 * @example
 * await jobLogs("train-3f9a2c1b", { onOutput: (_stream, bytes) => process.stderr.write(bytes) });
 */
export async function jobLogs(
  id: string,
  options: JobOptions & { follow?: boolean; onOutput: OnOutput },
): Promise<void> {
  const { env = process.env, signal, onOutput } = options;
  const record = readRecord(id, env);
  await using host = await hostOf(record, options);
  if (options.follow) {
    const onEvent = (event: JobEvent) => event.type === "output" && onOutput(event.stream, event.bytes);
    await follow(host, record, { env, signal, onEvent });
    return;
  }
  const known = { stdout: 0, stderr: 0 };
  while (handOn(await look(host, record.dir, known, signal), known, onOutput));
}

/**
 * End a job, and all that it started.
 *
 * @returns what it was then: one that has ended stays as it is
 * @throws {EfError} UNKNOWN_JOB, UNREACHABLE, TOOL_FAILED
 * @example
 * const { state } = await jobCancel("train-3f9a2c1b");
 */
export async function jobCancel(id: string, options: JobOptions = {}): Promise<JobRecord> {
  const { env = process.env, signal } = options;
  const before = await jobState(id, options);
  if (isEnd(before.state)) return before;
  await using host = await hostOf(before, options);
  if (before.slurm_id !== null) await scancel(before.slurm_id, { signal, runner: runnerOf(host) });
  else await cancelThere(host, before, signal);
  const seen = await look(host, before.dir, { stdout: 0, stderr: 0 }, signal);
  if (seen.status !== undefined) return remember(env, before, standing(seen));
  return remember(env, before, { state: "cancelled", exitCode: undefined, reason: undefined });
}

async function cancelThere(host: Host, { id, dir }: JobRecord, signal: AbortSignal | undefined): Promise<void> {
  const { code, stderr } = await host.sh(cancelScript, [dir], { accept: [0, 1, 3], signal });
  if (code === 0) return;
  throw new EfError("TOOL_FAILED", `Cannot cancel ${id}: ${stderr.trim() || "its directory is gone"}`, {
    hint: code === 3 ? "log in to that host and end it there" : undefined,
    path: dir,
  });
}
