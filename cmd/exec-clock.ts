import { Stopped, say, stopSignal } from "./process.ts";

/** What is known of the end that is near, by all pushes of one `ef exec`. */
export interface Ending {
  /** How long after SIGTERM a push may take, in seconds. */
  withinS: number;
  /** When SIGTERM came, on the clock of `performance.now()`. */
  termAtMs?: number | undefined;
}

/** Stops a push at SIGINT and SIGHUP, and some time after SIGTERM, whether that came before it or comes now. */
export class PushClock implements Disposable {
  readonly #stop = new AbortController();
  readonly #ending: Ending;
  readonly #heard = stopSignal();
  #timer: Timer | undefined;
  isOver = false;

  constructor(ending: Ending) {
    this.#ending = ending;
    if (ending.termAtMs !== undefined) this.start();
    if (this.#heard.aborted) this.#onStop();
    else this.#heard.addEventListener("abort", this.#onStop, { once: true });
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  readonly #onStop = () => {
    const { reason } = this.#heard;
    if (reason instanceof Stopped && reason.signalName === "SIGTERM") this.start();
    else this.#stop.abort(reason);
  };

  /** SIGTERM has come: the time runs. */
  start(): void {
    if (this.#timer !== undefined) return;
    this.#ending.termAtMs ??= performance.now();
    const { termAtMs, withinS } = this.#ending;
    const leftMs = Math.max(0, termAtMs + withinS * 1000 - performance.now());
    say(`SIGTERM: what can be pushed within ${Math.round(leftMs / 1000)} s is pushed\n`);
    this.#timer = setTimeout(() => {
      this.isOver = true;
      this.#stop.abort(new Error("the time for the push is over"));
    }, leftMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#heard.removeEventListener("abort", this.#onStop);
  }
}
