/** The resource limits of this process (`ulimit`), as Linux shows them. */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Env } from "../base/paths.ts";

/** A soft limit; Infinity if there is none. */
export interface Limits {
  openFiles: number;
  /** Of the user, threads included. */
  processes: number;
  addressSpaceBytes: number;
}

/**
 * The limits that are in force for a process; undefined where there is no /proc, or it is somebody else's.
 *
 * Bun raises the soft limit of open files to the hard one when it starts, so that is what shows here.
 */
export function limits(pid: number | "self" = "self"): Limits | undefined {
  try {
    return parseLimits(readFileSync(`/proc/${pid}/limits`, "utf8"));
  } catch {
    return undefined;
  }
}

/** Read the text of /proc/self/limits. */
export function parseLimits(text: string): Limits {
  const soft = (name: string) => {
    const value = new RegExp(`^${name}\\s+(\\d+)\\s`, "m").exec(text)?.[1];
    return value === undefined ? Number.POSITIVE_INFINITY : Number(value);
  };
  return {
    openFiles: soft("Max open files"),
    processes: soft("Max processes"),
    addressSpaceBytes: soft("Max address space"),
  };
}

/**
 * The soft limit of open files of a process, if it is below our own: of our parent, what was ours before Bun raised it.
 */
export function openFilesOf(pid: number): number | undefined {
  const theirs = limits(pid)?.openFiles;
  return theirs !== undefined && theirs < (limits()?.openFiles ?? 0) ? theirs : undefined;
}

/**
 * Processors that this process may use: those that its Slurm job has on this node, where its affinity lets it have them.
 *
 * Not every cluster binds jobs to their processors (`TaskPlugin=task/none`): there the affinity is all of the node.
 */
export function processors(env: Env = process.env): number {
  const [given] = [env.SLURM_CPUS_ON_NODE, env.SLURM_CPUS_PER_TASK].map(Number).filter((count) => count >= 1);
  return Math.min(availableParallelism(), Math.floor(given ?? Number.POSITIVE_INFINITY));
}
