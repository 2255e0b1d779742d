/** How a job stands, and what it has printed: one question to its cluster. */
import type { Host } from "../clusters/host.ts";
import { type JobState, jobState, type Runner } from "../drivers/slurm-jobs.ts";
import type { JobPhase, JobRecord } from "./record.ts";
import { lookScript } from "./script.ts";

/** What a look at the directory of a job tells. */
export interface Seen {
  /** The directory is not there any more. */
  gone: boolean;
  /** The exit code that the job wrote down at its end. */
  status: number | undefined;
  /** What it is doing: `modules`, `environment`, `running`. */
  phase: string;
  alive: "yes" | "no" | "elsewhere";
  cancelled: boolean;
  /** What came since. */
  stdout: Buffer;
  stderr: Buffer;
}

/** How much of each stream one look brings, in bytes. */
const mostBytes = 1 << 20;

/** @param from how much of stdout and stderr is known already, in bytes */
export async function look(
  host: Host,
  dir: string,
  from: { stdout: number; stderr: number },
  signal?: AbortSignal,
): Promise<Seen> {
  const pieces: Buffer[] = [];
  await host.sh(lookScript, [dir, String(from.stdout), String(from.stderr), String(mostBytes)], {
    signal,
    onStdout: (piece) => void pieces.push(piece),
  });
  return parseLook(Buffer.concat(pieces));
}

/** What {@link lookScript} prints. */
export function parseLook(bytes: Buffer): Seen {
  const end = bytes.indexOf("\n\n");
  const head = bytes.subarray(0, Math.max(end, 0)).toString("utf8");
  const value = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(head)?.[1] ?? "";
  const count = Number(value("stdout")) || 0;
  const body = bytes.subarray(end + 2);
  const alive = value("alive");
  return {
    gone: value("gone") === "yes",
    status: /^\d{1,3}$/.test(value("status")) ? Number(value("status")) : undefined,
    phase: value("phase"),
    alive: alive === "yes" || alive === "elsewhere" ? alive : "no",
    cancelled: value("cancelled") === "yes",
    stdout: body.subarray(0, count),
    stderr: body.subarray(count),
  };
}

/** A job's state. */
export interface Standing {
  state: JobPhase;
  exitCode: number | undefined;
  reason: string | undefined;
}

/** What a look means for a job that is no Slurm job. Whoever is on another host of the cluster cannot see its process. */
export function standing(seen: Seen): Standing {
  if (seen.status !== undefined)
    return { state: seen.status === 0 ? "completed" : "failed", exitCode: seen.status, reason: undefined };
  if (seen.gone) return { state: "lost", exitCode: undefined, reason: "its directory is gone" };
  if (seen.alive !== "no") return { state: "running", exitCode: undefined, reason: undefined };
  if (seen.cancelled) return { state: "cancelled", exitCode: undefined, reason: undefined };
  const reason = `it was ended from outside${seen.phase ? ` (${seen.phase})` : ""}`;
  return { state: "lost", exitCode: undefined, reason };
}

/** What a look and Slurm together mean: the code that the job wrote is true, whatever Slurm has forgotten. */
export async function slurmStanding(
  seen: Seen,
  { slurm_id: id }: JobRecord,
  runner: Runner | undefined,
  signal?: AbortSignal,
): Promise<Standing> {
  const own = standing(seen);
  if (own.exitCode !== undefined || id === null) return own;
  const state = await jobState(id, { runner, signal });
  return ofSlurm(state, seen);
}

function ofSlurm({ state, reason, exitCode }: JobState, seen: Seen): Standing {
  if (state === "unknown") {
    const lost = seen.cancelled ? "cancelled" : "lost";
    return { state: lost, exitCode: undefined, reason };
  }
  return { state, exitCode, reason };
}
