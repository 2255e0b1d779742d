import { errnoOf } from "../base/errors.ts";
import type { Maybe, Steps } from "../base/steps.ts";
import { Gauge } from "./gauge.ts";

/**
 * Work in flight on slow storage, as much as a gauge allows, for whoever produces or consumes it in an order of its own
 * (where that does not matter, crew is simpler).
 */
export class Flight {
  readonly #gauge = new Gauge();
  readonly #running = new Set<Promise<unknown>>();
  #failure: { error: unknown } | undefined;

  get isFull(): boolean {
    return this.#running.size >= this.#gauge.limit;
  }

  /** Run work until it waits; the result at once if it never does. An error that comes later is for the caller, too. */
  start<T>(steps: Steps<T>): Maybe<T> {
    const turn = steps.next();
    if (turn.done) return turn.value;
    const running = this.#goOn(steps, turn).finally(() => this.#running.delete(running));
    this.#running.add(running);
    running.catch((error) => {
      this.#failure ??= { error };
    });
    return running;
  }

  async #goOn<T>(steps: Steps<T>, first: IteratorResult<Promise<unknown>, T>): Promise<T> {
    let turn = first;
    while (!turn.done) {
      let answer: unknown;
      try {
        answer = await turn.value;
        this.#gauge.answered();
      } catch (error) {
        this.#gauge.failed(errnoOf(error));
        turn = steps.throw(error);
        continue;
      }
      turn = steps.next(answer);
    }
    return turn.value;
  }

  /**
   * Wait until there is room for more.
   *
   * @throws the first error of what ran
   */
  async room(): Promise<void> {
    while (this.isFull && !this.#failure) await Promise.race(this.#running).catch(() => {});
    this.check();
  }

  /** @throws the first error of what ran */
  check(): void {
    if (this.#failure) throw this.#failure.error;
  }

  /** Wait until nothing runs; its errors are left to {@link Flight.check}. */
  async landed(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running);
  }
}
