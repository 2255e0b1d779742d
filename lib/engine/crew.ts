import { errnoOf } from "../base/errors.ts";
import type { Steps } from "../base/steps.ts";
import type { Gauge } from "./gauge.ts";

/** How long work may hold the thread, in milliseconds, before timers, signals and progress have their turn. */
const sliceMs = 8;

/**
 * Run tasks, as many at once as the gauge says, until there are none and all that ran have ended.
 *
 * `next` gives a task, or undefined where there is none just now; it is asked again when one has ended. A task that
 * never waits runs to its end at once. The first error stops the giving out of tasks; it is thrown when those that ran
 * have ended, so nothing is left half done behind the caller's back. An abort does the same.
 *
 * @throws what a task throws; the signal's reason
 */
export function crew<T>(
  next: () => T | undefined,
  work: (task: T) => Steps<void>,
  { gauge, signal }: { gauge: Gauge; signal?: AbortSignal | undefined },
): Promise<void> {
  return new Promise((resolve, reject) => {
    let active = 0;
    let failure: { error: unknown } | undefined;
    let later = false;

    const fail = (error: unknown) => {
      failure ??= { error };
    };
    /** Go on with a task until it waits or ends. */
    const advance = (steps: Steps<void>, turn: () => IteratorResult<Promise<unknown>, void>) => {
      try {
        const step = turn();
        if (!step.done) {
          step.value.then(
            (answer) => {
              gauge.answered();
              advance(steps, () => steps.next(answer));
              pump();
            },
            (error) => {
              gauge.failed(errnoOf(error));
              advance(steps, () => steps.throw(error));
              pump();
            },
          );
          return;
        }
      } catch (error) {
        fail(error);
      }
      active--;
    };
    const pump = () => {
      if (later) return;
      const until = performance.now() + sliceMs;
      while (active < gauge.limit && !failure) {
        if (signal?.aborted) {
          fail(signal.reason);
          break;
        }
        const task = next();
        if (task === undefined) break;
        active++;
        const steps = work(task);
        advance(steps, () => steps.next());
        if (performance.now() > until) {
          later = true;
          setImmediate(() => {
            later = false;
            pump();
          });
          return;
        }
      }
      if (active > 0) return;
      if (failure) reject(failure.error);
      else resolve();
    };
    pump();
  });
}
