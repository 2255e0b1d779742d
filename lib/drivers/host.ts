/**
 * Who this process is, who wrote a holder's line into a lock file, and whether that process still runs.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import * as v from "valibot";
import { errnoOf } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import { bootId } from "./boot.ts";
import { jobOf } from "./slurm.ts";

/** Text of another process that people will read: nothing that moves a terminal's cursor or turns the line around. */
const Printable = v.pipe(v.string(), v.regex(/^\P{C}{1,255}$/u));

const identity = {
  host: Printable,
  /** Start of the process in clock ticks since boot: tells it from a later one with its pid. Empty without /proc. */
  started: v.string(),
  /** Differs from boot to boot. Empty without /proc. */
  boot: v.string(),
  /** The pid namespace: a pid in a container means another process outside. */
  pidns: v.string(),
  /** The batch job, as its scheduler and people name it: `1234`, `1234_7`. */
  job: Printable,
  /** The scheduler's name of the host, where that is another one. */
  node: Printable,
  user: Printable,
};

/** What a process writes into a lock or lease file about itself. Files of others may hold less. */
export const Holder = v.object({
  host: identity.host,
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
  started: v.exactOptional(identity.started),
  boot: v.exactOptional(identity.boot),
  pidns: v.exactOptional(identity.pidns),
  job: v.exactOptional(identity.job),
  node: v.exactOptional(identity.node),
  user: v.exactOptional(identity.user),
  /** When it got the lock, in seconds since 1970, by its host's clock. */
  since: v.number(),
});
export type Holder = v.InferOutput<typeof Holder>;

/** A process, as it knows itself. */
export type Identity = Omit<Holder, "since" | "started" | "boot" | "user"> &
  Required<Pick<Holder, "started" | "boot" | "user">>;

/** The variable in which each scheduler tells a job its id: Slurm, PBS and Torque, LSF, Flux. */
export const jobVariables = ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"];

/**
 * Does this process run on a node of a batch job? The shell that `salloc` starts may be on the login node: it has a Slurm job,
 * and no node's name from Slurm. (Grid Engine's JOB_ID alone could be anybody's.)
 */
export const isInJob = (env: Env): boolean =>
  jobVariables.some((name) => env[name] && (name !== "SLURM_JOB_ID" || env.SLURMD_NODENAME)) ||
  Boolean(env.JOB_ID && env.SGE_O_HOST);

/** The job of an environment, as people know it; undefined outside of one. */
function jobName(env: Env): string | undefined {
  const id = jobVariables.map((name) => env[name]).find(Boolean);
  if (env.SLURM_JOB_ID) return jobOf(env)?.arrayTask ?? id;
  return env.LSB_JOBID && id === env.LSB_JOBID && Number(env.LSB_JOBINDEX) > 0 ? `${id}[${env.LSB_JOBINDEX}]` : id;
}

/** This process. Without /proc, `started` and `boot` are empty. */
export function thisHost(): Identity {
  const { env } = process;
  const job = jobName(env);
  const host = hostname();
  const node = jobOf(env)?.node;
  const isOther = node !== undefined && node !== host && node !== host.replace(/\..*/, "");
  const pidns = quietly(() => readlinkSync("/proc/self/ns/pid"));
  return {
    host,
    pid: process.pid,
    started: statOf("self")?.started ?? "",
    boot: bootId(),
    ...(pidns === undefined ? {} : { pidns }),
    ...(job === undefined ? {} : { job }),
    ...(isOther ? { node } : {}),
    user: env.USER || env.LOGNAME || `uid ${process.geteuid?.()}`, // not from the user database: LDAP may be slow
  };
}

/**
 * Does the holder's process still run?
 *
 * "no" is certain (given that no two machines share a host name): gone, a zombie, its pid now another process's, or
 * its host rebooted. "unknown" is every other host and container, and a process that /proc hides (`hidepid`).
 */
export function isAlive(holder: Omit<Holder, "since">): "yes" | "no" | "unknown" {
  const here = thisHost();
  if (holder.host !== here.host || !holder.boot || !here.boot) return "unknown";
  if (holder.boot !== here.boot) return "no";
  if (holder.pidns !== here.pidns) return "unknown";
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    if (errnoOf(error) === "ESRCH") return "no"; // EPERM: there is one, of another user
  }
  const stat = statOf(holder.pid);
  if (!stat || !holder.started || !here.started) return "unknown";
  return stat.started === holder.started && !/^[ZX]/i.test(stat.state) ? "yes" : "no";
}

/** State and start time of a process; undefined where /proc does not tell, or is that of another pid namespace. */
function statOf(pid: number | "self"): { state: string; started: string } | undefined {
  const text = quietly(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  if (text === undefined || Number.parseInt(text, 10) !== (pid === "self" ? process.pid : pid)) return undefined;
  // "pid (comm) state ppid …": comm may hold spaces and parentheses. The state is field 3, the start field 22.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state, started] = [fields[0], fields[19]];
  return state === undefined || started === undefined ? undefined : { state, started };
}

function quietly<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** The name of a user, from the user database; `uid 1234` where that has none. */
export async function userName(uid: number): Promise<string> {
  const asked = await run(["id", "-nu", "--", String(uid)]).catch(() => undefined);
  return asked?.stdout.trim() || `uid ${uid}`;
}
