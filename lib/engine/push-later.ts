/**
 * What a push leaves to a later one, while a job still writes: of these nothing is known, as of what cannot be read, so
 * the base stays as it was and the next push decides.
 */
import { Push } from "./push-decide.ts";
import { isPushed, type PushPlan } from "./push-plan.ts";

/**
 * Files that changed within so many seconds: they may be half written, and the whole ones at the source are better. Times
 * that lie ahead of our clock count too.
 *
 * @param settledS undefined: nothing is left
 * @returns how many
 */
export function leaveUnsettled(plan: PushPlan, settledS: number | undefined, nowMs = Date.now()): number {
  if (settledS === undefined) return 0;
  const { scratch, todo } = plan;
  const sinceNs = BigInt(Math.floor((nowMs - settledS * 1000) * 1000)) * 1000n;
  const isWork = (row: number) => isPushed(plan, row) || todo[row] === Push.compare || todo[row] === Push.conflict;
  const isFresh = (row: number) => scratch.kind(row) === "file" && (scratch.mtime[row] as bigint) > sinceNs;
  return leave(plan, (row) => isFresh(row) && isWork(row));
}

/** Conflicts: the job may settle them yet, and who is asked is asked once. Before {@link PushPlan} is finished. */
export const leaveConflicts = (plan: PushPlan): number => leave(plan, (row) => plan.todo[row] === Push.conflict);

function leave(plan: PushPlan, isLeft: (row: number) => boolean): number {
  const { scratch, todo } = plan;
  let count = 0;
  for (let row = 1; row < scratch.length; row++) {
    if (!isLeft(row)) continue;
    todo[row] = Push.unknown;
    count++;
  }
  return count;
}
