/**
 * What ef remembers of the jobs that `ef submit` started: a directory each, `$XDG_STATE_HOME/ef/jobs/ID` (else
 * `~/.local/state/ef/jobs/ID`), with `job.json` and, when it has ended, what it left: `result.json`, `stdout`, `stderr`.
 *
 * Directories are 0700 and files 0600: arguments and results are nobody else's.
 */
import { lstatSync, mkdirSync, readdirSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import * as v from "valibot";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { randomId, readOwn, writeAtomic } from "../base/files.ts";
import { nearest } from "../base/nearest.ts";
import type { Env } from "../base/paths.ts";
import { type ClusterConfig, clusterTypes } from "../config/schema.ts";

/** How a job stands. `lost`: it ended and left nothing that says how; `unreachable`: the cluster does not answer. */
export const jobPhases = [
  ...["submitted", "pending", "running", "completed", "failed", "cancelled", "timeout", "node-fail"],
  ...["out-of-memory", "preempted", "lost", "unreachable"],
] as const;
export type JobPhase = (typeof jobPhases)[number];

/** Has it come to its end? */
export const isEnd = (state: JobPhase): boolean => !["submitted", "pending", "running", "unreachable"].includes(state);

const text = v.pipe(v.string(), v.maxLength(1 << 16));
const Record = v.object({
  version: v.literal(1),
  id: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/)),
  /** Of the configuration, and its definition as it was then. */
  cluster: text,
  definition: v.looseObject({ type: v.picklist(clusterTypes) }),
  package_id: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  function_name: text,
  kind: v.picklist(["python", "script"]),
  /** On the cluster, absolute: all that is the job's. */
  dir: v.pipe(text, v.regex(/^\//)),
  /** Number of the Slurm job. */
  slurm_id: v.nullable(v.pipe(v.string(), v.regex(/^\d+$/))),
  submitted_at: v.pipe(v.number(), v.minValue(0)),
  state: v.picklist(jobPhases),
  /** Slurm's words. */
  reason: v.nullable(text),
  exit_code: v.nullable(v.pipe(v.number(), v.integer())),
});

export type StoredJob = v.InferOutput<typeof Record>;

/** A job, as far as it was known when somebody looked last. */
export interface JobRecord extends Omit<StoredJob, "definition"> {
  definition: ClusterConfig;
}

const recordLimit = 1 << 22;

/** @throws {EfError} UNSET_VARIABLE without HOME */
export function jobsDir(env: Env): string {
  const { XDG_STATE_HOME: state, HOME: home } = env;
  if (state && isAbsolute(state)) return join(state, "ef/jobs");
  if (home) return join(home, ".local/state/ef/jobs");
  throw new EfError("UNSET_VARIABLE", "Cannot keep records of jobs: HOME is not set", {
    hint: "set HOME, or XDG_STATE_HOME",
  });
}

/** Where what a job left is kept here. */
export const jobDir = (env: Env, id: string): string => join(jobsDir(env), id);

/** An id that says what it is, and that nobody else has: `train-3f9a2c1b`. */
export function newId(name: string): string {
  const words = name.split(/[^A-Za-z0-9_]+/).filter((word) => word !== "");
  return `${words.join("-").slice(0, 40) || "job"}-${randomId().slice(0, 8)}`;
}

/** @throws {EfError} IO */
export function writeRecord(env: Env, record: JobRecord): void {
  const dir = jobDir(env, record.id);
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    writeAtomic(join(dir, "job.json"), `${JSON.stringify(record, null, 2)}\n`, 0o600);
  } catch (cause) {
    throw new EfError("IO", `Cannot remember job ${record.id} in ${dir}: ${reasonOf(cause)}`, {
      hint: `on the cluster it is in ${record.dir}; set XDG_STATE_HOME to a directory that can be written`,
      path: dir,
      cause,
    });
  }
}

/** All jobs that are remembered, the newest first. Asks nobody. */
export function readRecords(env: Env = process.env): JobRecord[] {
  const records = namesIn(jobsDir(env)).flatMap((id) => read(env, id) ?? []);
  return records.sort((a, b) => b.submitted_at - a.submitted_at);
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return []; // none was ever started
    throw new EfError("IO", `Cannot read ${dir}: ${reasonOf(cause)}`, { path: dir, cause });
  }
}

function read(env: Env, id: string): JobRecord | undefined {
  const dir = jobDir(env, id);
  if (!lstatSync(dir, { throwIfNoEntry: false })?.isDirectory()) return undefined;
  const bytes = readOwn(join(dir, "job.json"), recordLimit)?.toString("utf8");
  const { success, output } = v.safeParse(v.pipe(v.string(), v.parseJson(), Record), bytes);
  return success && output.id === id ? (output as JobRecord) : undefined;
}

/**
 * One job, by its id or the beginning of one that no other has.
 *
 * @throws {EfError} UNKNOWN_JOB
 */
export function readRecord(id: string, env: Env = process.env): JobRecord {
  const exact = /^[\w.-]+$/.test(id) && !/^\.+$/.test(id) ? read(env, id) : undefined;
  if (exact) return exact;
  const all = readRecords(env);
  const begun = all.filter((record) => id !== "" && record.id.startsWith(id));
  const [only] = begun;
  if (only && begun.length === 1) return only;
  const like = nearest(
    id,
    all.map((record) => record.id),
  );
  const hint =
    begun.length > 1
      ? `it may be: ${begun
          .map((record) => record.id)
          .slice(0, 10)
          .join(", ")}`
      : like === undefined
        ? "those it knows: ef jobs list"
        : `did you mean ${like}? all: ef jobs list`;
  const why = begun.length > 1 ? "several begin so" : "ef submit started none of that id from here";
  throw new EfError("UNKNOWN_JOB", `Cannot find job ${JSON.stringify(id)}: ${why}`, { hint });
}
