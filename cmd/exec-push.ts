/** The push after a command of `ef exec --push`. */
import { EfError, Exit } from "../lib/base/errors.ts";
import { plural, sizeText } from "../lib/base/units.ts";
import type { Config } from "../lib/config/schema.ts";
import { type PushEvent, push } from "../lib/push.ts";
import { Stopped, say, stopSignal } from "./process.ts";
import { pushProgress } from "./push.ts";

/**
 * Push, and say what was pushed; within the time that is left where SIGTERM has come: what is not pushed by then is still on
 * scratch, and each file at the source its old or its new whole self.
 *
 * @param termAtMs when SIGTERM came, on the clock of `performance.now()`
 * @returns the exit code of the push
 */
export async function pushAfter(
  config: Config,
  only: readonly string[],
  withinS: number,
  termAtMs: number | undefined,
): Promise<number> {
  const tell = pushProgress({ quiet: false, names: "none" });
  const far = new Map<string, { files: number; bytes: number }>();
  const onEvent = (event: PushEvent) => {
    if (event.type === "progress") far.set(event.name, event);
    if (event.type === "result") far.delete(event.result.name);
    tell(event);
  };
  const clock = new Deadline(withinS, termAtMs);
  try {
    const { signal } = clock;
    const { errors } = await push(config, { only, signal, onEvent });
    return errors.length > 0 ? Exit.failed : Exit.ok;
  } catch (error) {
    for (const [name, { files, bytes }] of far)
      say(`${name}: ${plural(files, "file")}, ${sizeText(bytes)} pushed, the rest is still on scratch: ef push\n`);
    if (error instanceof Stopped) {
      say(`ef exec: the push was ${error.message}\n`);
      return error.exitCode;
    }
    if (clock.isOver) {
      say("ef exec: the push was stopped before SIGKILL comes; what it did not reach is still on scratch: ef push\n");
      return Exit.failed;
    }
    const { message, hint } = error as EfError;
    say(`error: ${message}\n${hint ? `  ${hint}\n` : ""}`);
    return error instanceof EfError ? error.exit : Exit.failed;
  } finally {
    clock[Symbol.dispose]();
  }
}

/** Stops the push at SIGINT and SIGHUP, and some time after SIGTERM, whether that came before it or comes now. */
class Deadline implements Disposable {
  readonly #stop = new AbortController();
  readonly #withinS: number;
  #timer: Timer | undefined;
  isOver = false;

  constructor(withinS: number, termAtMs: number | undefined) {
    this.#withinS = withinS;
    if (termAtMs !== undefined) this.#start(termAtMs);
    const heard = stopSignal();
    const onStop = () => {
      const isTerm = heard.reason instanceof Stopped && heard.reason.signalName === "SIGTERM";
      if (isTerm) this.#start(performance.now());
      else this.#stop.abort(heard.reason);
    };
    if (heard.aborted) onStop();
    else heard.addEventListener("abort", onStop, { once: true });
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  #start(termAtMs: number): void {
    if (this.#timer !== undefined) return;
    const leftMs = Math.max(0, termAtMs + this.#withinS * 1000 - performance.now());
    say(`SIGTERM: what can be pushed within ${Math.round(leftMs / 1000)} s is pushed\n`);
    this.#timer = setTimeout(() => {
      this.isOver = true;
      this.#stop.abort(new Error("the time for the push is over"));
    }, leftMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
