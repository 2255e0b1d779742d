/**
 * Jobs that ef hands to Slurm: submit, ask, wait, cancel; and the partitions that there are.
 *
 * What has become of a job is asked of the controller (scontrol), which forgets it some minutes after its end
 * (slurm.conf(5): MinJobAge), and then of the accounting (sacct), which many sites do not have. Where the exit code must
 * be known for ever, the job itself has to write it down.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { EfError } from "../base/errors.ts";
import { lastLines, type RunOptions, type RunResult, run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import { quote } from "../base/shell.ts";
import { noSlurm } from "./slurm.ts";

export interface Submission {
  /** A command line, or… */
  argv?: readonly string[];
  /** …the text of a script, with its `#!` line. */
  script?: string;
  /** Of sbatch, e.g. `--partition=long`. */
  options?: readonly string[];
  name?: string;
  /** Where stdout and stderr go (sbatch(1): FILENAME PATTERN). */
  output?: string;
  /** Working directory of the job. @default the caller's */
  cwd?: string;
  /** Handed to the job as a whole. @default process.env, without the variables of a job that this process is part of */
  env?: Env;
  signal?: AbortSignal | undefined;
  /** @default here */
  runner?: Runner | undefined;
}

/** Runs one of Slurm's programs, where they are: here, or on a login node. */
export type Runner = (
  argv: readonly string[],
  options: Pick<RunOptions, "accept" | "signal" | "input">,
) => Promise<RunResult>;

/** The command line that submits; the script comes on its stdin. */
export function sbatchArgv({ options = [], name, output, cwd }: Submission): string[] {
  return [
    "sbatch",
    "--parsable",
    ...(name === undefined ? [] : [`--job-name=${name}`]),
    ...(output === undefined ? [] : [`--output=${output}`]),
    ...(cwd === undefined ? [] : [`--chdir=${cwd}`]),
    ...options,
  ];
}

/**
 * A command line for a POSIX shell, after {@link newline}. No line of it is made of an argument alone: sbatch takes each line
 * of a script that begins with `#BSUB` or `#PBS`, in quotes too, for options.
 */
export const shellLine = (argv: readonly string[]): string =>
  argv.map((arg) => quote("bash", arg).replaceAll("\n", `'"$ef_nl"'`)).join(" ");

/** What {@link shellLine} needs to have been said before. */
export const newline = "ef_nl='\n'";

/** A script of one command. */
export const scriptOf = (argv: readonly string[]): string => `#!/bin/sh\n${newline}\nexec ${shellLine(argv)}\n`;

/** `1234`, or `1234;cluster` where there are several (sbatch(1), --parsable). Messages of a site's plugin may come before. */
export function parseJobId(stdout: string): string | undefined {
  return /^(\d+)(?:;.*)?$/m.exec(stdout.trim().split("\n").at(-1) ?? "")?.[1];
}

/**
 * Submit a job.
 *
 * @returns its number
 * @throws {EfError} TOOL_MISSING without Slurm; TOOL_FAILED with sbatch's own words
 */
export async function submit(job: Submission): Promise<string> {
  const script = job.script ?? scriptOf(job.argv ?? []);
  const { stdout, stderr } = await slurm(sbatchArgv(job), {
    env: job.env ?? outsideJob(process.env),
    signal: job.signal,
    input: Buffer.from(script),
    runner: job.runner,
  });
  const id = parseJobId(stdout);
  if (id !== undefined) return id;
  throw new EfError("TOOL_FAILED", `Cannot tell the number of the submitted job${lastLines(stdout + stderr)}`, {
    hint: "it may be queued: squeue --me",
  });
}

/** By these srun writes its tasks' output in another form, or elsewhere (srun(1), INPUT ENVIRONMENT VARIABLES). */
const outputForms = ["SLURM_LABELIO", "SLURM_STDINMODE", "SLURM_STDOUTMODE", "SLURM_STDERRMODE"];

/**
 * The environment without that of the job that it is part of: with it, srun starts a step on the nodes of that job, and
 * no job of its own on others. Without what changes the form of its output, too.
 */
export function outsideJob(env: Env): Env {
  const isInJob = env.SLURM_JOB_ID !== undefined || env.SLURM_JOBID !== undefined;
  const isOfJob = (name: string) => /^(SLURM|SLURMD|SRUN|PMI|PMIX)_/.test(name) && name !== "SLURM_CONF";
  return Object.fromEntries(
    Object.entries(env).filter(([name]) => !outputForms.includes(name) && !(isInJob && isOfJob(name))),
  );
}

/** `unreachable`: the controller does not answer; `unknown`: neither it nor the accounting has the job any more. */
export type JobPhase =
  | "pending"
  | "running"
  | "completed"
  | "failed"
  | "cancelled"
  | "timeout"
  | "node-fail"
  | "out-of-memory"
  | "preempted"
  | "unreachable"
  | "unknown";

export interface JobState {
  state: JobPhase;
  /** Of the batch script. */
  exitCode?: number;
  /** The number of the signal that ended it. */
  signal?: number;
  /** Slurm's own words, e.g. `Resources`; why there is no answer. */
  reason?: string;
  /** The nodes, as a host list. */
  nodes?: string;
  /** When it ended, or is to end at the latest, in milliseconds since 1970. */
  endMs?: number;
}

const phases: Record<string, JobPhase> = {
  PENDING: "pending",
  CONFIGURING: "pending",
  REQUEUED: "pending",
  REQUEUE_FED: "pending",
  REQUEUE_HOLD: "pending",
  SPECIAL_EXIT: "pending",
  RUNNING: "running",
  COMPLETING: "running",
  SUSPENDED: "running",
  STOPPED: "running",
  RESIZING: "running",
  SIGNALING: "running",
  STAGE_OUT: "running",
  COMPLETED: "completed",
  FAILED: "failed",
  BOOT_FAIL: "node-fail",
  NODE_FAIL: "node-fail",
  CANCELLED: "cancelled",
  REVOKED: "cancelled",
  DEADLINE: "timeout",
  TIMEOUT: "timeout",
  OUT_OF_MEMORY: "out-of-memory",
  PREEMPTED: "preempted",
};

/** Has it ended, as far as anybody will ever know? */
export const isOver = ({ state }: JobState): boolean => !["pending", "running", "unreachable"].includes(state);

/** What `scontrol show job -o ID` says; undefined if that is no job. Of several lines (an array) the first. */
export function parseScontrol(text: string): JobState | undefined {
  const [, word = "", reason] = / JobState=(\w+) Reason=(.*?) Dependency=/.exec(text) ?? [];
  if (word === "") return undefined;
  const field = (name: string) => new RegExp(` ${name}=(\\S+)`).exec(text)?.[1];
  return stateOf({ word, reason, code: field("ExitCode"), nodes: field("NodeList"), end: field("EndTime") });
}

/** What `sacct -X -n -P -o State,ExitCode,NodeList,End` says; undefined if there is no line. */
export function parseSacct(text: string): JobState | undefined {
  const [word, code, nodes, end] = text.split("\n")[0]?.split("|") ?? [];
  return word ? stateOf({ word: word.split(" ")[0] ?? "", reason: word, code, nodes, end }) : undefined;
}

type Fields = Partial<Record<"reason" | "code" | "nodes" | "end", string | undefined>> & { word: string };

function stateOf({ word, reason, code, nodes, end }: Fields): JobState {
  const [, exit, signal] = /^(\d+):(\d+)$/.exec(code ?? "") ?? [];
  const state = phases[word] ?? "unknown";
  const endMs = end === undefined ? Number.NaN : new Date(end).getTime();
  const found: JobState = { state };
  if (exit !== undefined && isOver(found)) found.exitCode = Number(exit);
  if (signal !== undefined && signal !== "0" && isOver(found)) found.signal = Number(signal);
  const known = { reason, nodes };
  for (const key of ["reason", "nodes"] as const) {
    const text = known[key];
    if (text && text !== "None" && text !== "(null)") found[key] = text;
  }
  if (Number.isFinite(endMs)) found.endMs = endMs;
  return found;
}

export interface AskOptions {
  /** Of a runner that is here. */
  env?: Env;
  signal?: AbortSignal | undefined;
  /** @default here */
  runner?: Runner | undefined;
}

/**
 * What has become of a job.
 *
 * @param id its number
 * @throws {EfError} TOOL_MISSING without Slurm
 */
export async function jobState(id: string, options: AskOptions = {}): Promise<JobState> {
  const { code, stdout, stderr } = await slurm(["scontrol", "show", "job", "-o", id], { ...options, accept: "any" });
  const found = code === 0 ? parseScontrol(stdout) : undefined;
  if (found) return found;
  const why = stderr.trim().split("\n").at(-1) ?? "";
  if (!/invalid job id/i.test(why)) return { state: "unreachable", reason: why };
  return (await accounted(id, options)) ?? { state: "unknown", reason: "Slurm knows it no more" };
}

async function accounted(id: string, options: AskOptions): Promise<JobState | undefined> {
  const argv = ["sacct", "-X", "-n", "-P", "-o", "State,ExitCode,NodeList,End", "-j", id];
  try {
    const { code, stdout } = await slurm(argv, { ...options, accept: "any" });
    return code === 0 ? parseSacct(stdout) : undefined;
  } catch (error) {
    if (error instanceof EfError && error.code === "TOOL_MISSING") return undefined;
    throw error;
  }
}

/** Between two questions, in milliseconds: the controller answers all users, and its guide asks for patience. */
const firstPollMs = 250;
const lastPollMs = 15_000;

export interface WaitForJobOptions extends AskOptions {
  /** The longest pause between two questions; the first ones are shorter. @default 15 s */
  pollMs?: number;
  /** Each new state. */
  onState?: (state: JobState) => void;
}

/**
 * Wait until a job is over. A controller that does not answer is asked again.
 *
 * @returns its last state, perhaps `unknown`
 */
export async function waitForJob(id: string, options: WaitForJobOptions = {}): Promise<JobState> {
  const { pollMs = lastPollMs, onState, signal } = options;
  let last: string | undefined;
  for (let pause = firstPollMs; ; pause = Math.min(pause * 1.5, pollMs)) {
    const state = await jobState(id, options);
    if (state.state !== last) onState?.(state);
    last = state.state;
    if (isOver(state)) return state;
    await sleep(Math.min(pause, pollMs), undefined, { signal }).catch(() => signal?.throwIfAborted());
  }
}

/**
 * Cancel a job; no error if it is over already.
 *
 * @throws {EfError} TOOL_MISSING, TOOL_FAILED (it is somebody else's)
 */
export async function cancel(id: string, options: AskOptions = {}): Promise<void> {
  await slurm(["scancel", "--quiet", "--", id], options);
}

export interface Partition {
  name: string;
  isDefault: boolean;
  isUp: boolean;
}

/** What `sinfo -h -a -o '%P|%a'` says; a partition with nodes in several states stands there once for each. */
export function parsePartitions(text: string): Partition[] {
  const rows = text.split("\n").flatMap((line) => {
    const [, name, star, up] = /^(.+?)(\*?)\|(\w+)/.exec(line) ?? [];
    return name === undefined ? [] : [{ name, isDefault: star === "*", isUp: up === "up" }];
  });
  return rows.filter(({ name }, i) => rows.findIndex((row) => row.name === name) === i);
}

/** @throws {EfError} TOOL_MISSING, TOOL_FAILED */
export async function partitions(options: AskOptions = {}): Promise<Partition[]> {
  const { stdout } = await slurm(["sinfo", "-h", "-o", "%P|%a"], options);
  return parsePartitions(stdout);
}

/**
 * Names that sites give to a partition whose nodes move data, the surest first: `datamover` (EMBL-EBI), `dtn` (OLCF, Utah), `xfer`
 * (CSCS), `data-transfer`, `filetransfer` (Copenhagen), `dtq` (Sydney), `copy`, `data`, `archive`.
 */
const moverNames = [
  ...["datamover", "data-mover", "datamove", "dtn", "xfer", "data-transfer", "datatransfer", "filetransfer"],
  ...["transfer", "dtq", "copyq", "copy", "staging", "data", "io", "archive", "service"],
];

/**
 * The partition that moves data, by its name: one of the usual ones, or one that has a sure one as a part
 * (`notchpeak-dtn`). The site's default partition is none.
 */
export function moverPartition(all: readonly Partition[]): string | undefined {
  const others = all.filter(({ isDefault }) => !isDefault);
  const plain = others.map(({ name }) => [name, name.toLowerCase().replaceAll("_", "-")] as const);
  for (const mover of moverNames) {
    const found = plain.find(([, name]) => name === mover);
    if (found) return found[0];
  }
  const parts = ["datamover", "dtn", "xfer", "transfer"];
  return plain.find(([, name]) => name.split("-").some((part) => parts.includes(part)))?.[0];
}

/** Run one of Slurm's programs. */
async function slurm(
  argv: readonly string[],
  { env, signal, input, accept, runner }: AskOptions & { input?: Uint8Array; accept?: "any" },
) {
  const any = Array.from({ length: 256 }, (_, code) => code);
  try {
    const options = { signal, input, ...(accept && { accept: any }) };
    return await (runner ? runner(argv, options) : run(argv, { ...options, ...(env && { env }) }));
  } catch (error) {
    if (error instanceof EfError && error.code === "TOOL_MISSING") throw noSlurm(error);
    throw error;
  }
}
