/**
 * Who uses the copies on this node's own disk, so that the last one can remove them.
 *
 * A command that runs with them holds `.NAME.use` shared (flock(2)): whoever gets it exclusively is alone. Where no process
 * stands for the use (`eval "$(ef sync --node-local)"`, `ef stage`), a pin does, until its job has ended: it is made before the
 * look whether the copy is there, and looked for after the marker was taken away, so one of the two sees the other.
 */
import { closeSync, constants, openSync } from "node:fs";
import { sleep } from "../base/async.ts";
import { EfError, reasonOf } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import { tryFlock, trySharedFlock } from "../drivers/flock.ts";
import { lock } from "./lock.ts";
import { noJob, pins, unpin } from "./pins.ts";
import type { Step } from "./plan.ts";
import { type Removed, removeMade } from "./remove-made.ts";

/** Milliseconds between two attempts. */
const againMs = 50;

const useFile = ({ lock }: Step) => lock.replace(/lock$/, "use");

/** The use of copies by this process. */
export interface Use {
  /** End it; the copies stay. */
  end(): void;
  /**
   * End it, and remove what ef made and nobody else uses.
   *
   * @returns what is left of each copy that was removed
   */
  remove(): Promise<Removed[]>;
}

/**
 * Say that this process uses these copies, before it looks whether they are there.
 *
 * @throws {EfError} IO, LOCK_FAILED; the signal's reason
 */
export async function useCopies(steps: readonly Step[], signal?: AbortSignal): Promise<Use> {
  const held: { step: Step; fd: number }[] = [];
  const end = () => {
    for (const { fd } of held.splice(0)) closeSync(fd);
  };
  try {
    for (const step of steps) {
      const fd = openUse(step);
      held.push({ step, fd });
      // Whoever has it exclusively is removing the copy.
      while ((await trySharedFlock(fd, signal)) === "held") await sleep(againMs, signal);
    }
  } catch (error) {
    end();
    throw error;
  }
  return {
    end,
    async remove() {
      const removed: Removed[] = [];
      try {
        for (const { step, fd } of held) {
          if (pins(step).length > 0 || (await tryFlock(fd)) !== "locked") continue;
          const done = await removeLocked(step);
          if (done) removed.push(done);
        }
      } finally {
        end();
      }
      return removed;
    },
  };
}

/** Remove the copies that no process uses; pins do not keep them. @returns those that are in use */
export async function removeCopies(steps: readonly Step[]): Promise<{ removed: Removed[]; used: Step[] }> {
  const removed: Removed[] = [];
  const used: Step[] = [];
  for (const step of steps) {
    const fd = openUse(step);
    try {
      if ((await tryFlock(fd)) === "held") {
        used.push(step);
        continue;
      }
      for (const job of pins(step)) unpin(step, job);
      const done = await removeLocked(step);
      if (done) removed.push(done);
    } finally {
      closeSync(fd);
    }
  }
  return { removed, used };
}

/** No process uses it, and nobody may change it meanwhile; undefined where somebody has pinned it. */
async function removeLocked(step: Step): Promise<Removed | undefined> {
  await using _ = await lock(step.lock, { timeoutS: 60 });
  return await removeMade(step, () => pins(step).length > 0);
}

/** Remove copies that only jobs which have ended kept. What Slurm does not tell stays. */
export async function removeAbandoned(steps: readonly Step[], signal?: AbortSignal): Promise<Removed[]> {
  const pinned = steps.map((step) => ({ step, jobs: pins(step) })).filter(({ jobs }) => jobs.length > 0);
  if (!pinned.some(({ jobs }) => jobs.some((job) => job !== noJob))) return [];
  const alive = await liveJobs(signal);
  if (!alive) return [];
  const removed: Removed[] = [];
  for (const { step, jobs } of pinned) {
    const live = jobs.filter((job) => job === noJob || alive.has(job));
    for (const job of jobs) if (!live.includes(job)) unpin(step, job);
    if (live.length > 0) continue;
    const use = await useCopies([step], signal);
    removed.push(...(await use.remove()));
  }
  return removed;
}

/** Numbers of this user's jobs that have not ended; undefined where Slurm does not answer. */
async function liveJobs(signal: AbortSignal | undefined): Promise<Set<string> | undefined> {
  const user = String(process.geteuid?.() ?? 0);
  try {
    const limit = AbortSignal.any([AbortSignal.timeout(10_000), ...(signal ? [signal] : [])]);
    const { stdout } = await run(["squeue", "-h", "-u", user, "-o", "%A"], { signal: limit });
    return new Set(stdout.split("\n").filter(Boolean));
  } catch {
    signal?.throwIfAborted();
    return undefined;
  }
}

function openUse(step: Step): number {
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants;
  const path = useFile(step);
  try {
    return openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
  } catch (cause) {
    throw new EfError("IO", `Cannot write ${path}: ${reasonOf(cause)}`, { path, cause });
  }
}
