/**
 * Who uses the copies on this node's own disk, so that the last one can remove them.
 *
 * A command that runs with them holds `.NAME.use` shared (flock(2)): whoever gets it exclusively is alone. Where no process
 * stands for the use (`eval "$(ef sync --node-local)"`, `ef stage`), a pin does, until its job has ended: it is made before the
 * look whether the copy is there, and looked for after the marker was taken away, so one of the two sees the other.
 */
import { closeSync, constants, fstatSync, lstatSync, openSync, utimesSync } from "node:fs";
import { sleep } from "../base/async.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
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
    for (const step of steps) held.push({ step, fd: await shareUse(step, signal) });
  } catch (error) {
    end();
    throw error;
  }
  return {
    end,
    async remove() {
      const removed: Removed[] = [];
      try {
        await unpinEnded(held.map(({ step }) => step));
        for (const { step, fd } of held) {
          if (pins(step).length > 0 || (await tryFlock(fd)) !== "locked") continue;
          if (!isAt(useFile(step), fd)) continue; // whoever came since has another one
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

/** Have the file of those who use a copy, together with them. What cleans /tmp may have removed it meanwhile. */
async function shareUse(step: Step, signal: AbortSignal | undefined): Promise<number> {
  for (;;) {
    const fd = openUse(step);
    try {
      // Whoever has it exclusively is removing the copy.
      while ((await trySharedFlock(fd, signal)) === "held") await sleep(againMs, signal);
      utimesSync(useFile(step), new Date(), new Date()); // in use: not to be cleaned away
      if (isAt(useFile(step), fd)) return fd;
    } catch (error) {
      closeSync(fd);
      if (errnoOf(error) !== "ENOENT") throw error;
      continue;
    }
    closeSync(fd);
  }
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
  const removed: Removed[] = [];
  for (const step of await unpinEnded(steps, signal)) {
    const use = await useCopies([step], signal);
    removed.push(...(await use.remove()));
  }
  return removed;
}

/** Take away the pins of jobs that have ended. @returns the copies that had such pins, and have no others */
async function unpinEnded(steps: readonly Step[], signal?: AbortSignal): Promise<Step[]> {
  const pinned = steps.map((step) => ({ step, jobs: pins(step) })).filter(({ jobs }) => jobs.length > 0);
  if (!pinned.some(({ jobs }) => jobs.some((job) => job !== noJob))) return [];
  const alive = await liveJobs(signal);
  if (!alive) return [];
  return pinned.flatMap(({ step, jobs }) => {
    const ended = jobs.filter((job) => job !== noJob && !alive.has(job));
    for (const job of ended) unpin(step, job);
    return ended.length > 0 && ended.length === jobs.length ? [step] : [];
  });
}

/** Numbers of this user's jobs that have not ended; undefined where Slurm does not answer. */
async function liveJobs(signal: AbortSignal | undefined): Promise<Set<string> | undefined> {
  const user = String(process.geteuid?.() ?? 0);
  try {
    const limit = AbortSignal.any([AbortSignal.timeout(10_000), ...(signal ? [signal] : [])]);
    // --all: else jobs of hidden partitions would seem to have ended.
    const argv = ["squeue", "--noheader", "--all", `--user=${user}`, "--format=%A"];
    const { stdout } = await run(argv, { signal: limit });
    return new Set(stdout.split("\n").filter(Boolean));
  } catch {
    signal?.throwIfAborted();
    return undefined;
  }
}

function isAt(path: string, fd: number): boolean {
  const [named, open] = [lstatSync(path, { bigint: true, throwIfNoEntry: false }), fstatSync(fd, { bigint: true })];
  return named?.dev === open.dev && named.ino === open.ino;
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
