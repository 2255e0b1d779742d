/**
 * Questions on a terminal, through consola. Ctrl-C, Ctrl-D, Escape, a hang-up and every signal end them.
 *
 * Bun 1.4.5 gives a `tty.WriteStream` a `write` of its own, so that consola (3.4.2), which swallows the echo of its
 * prompts by overriding `_write`, swallows nothing: what is typed stays on the screen and out of the answer. So such a
 * stream gets the `write` of every stream back when consola hands it to readline; to be removed when
 * `node:tty` respects `_write` (compare https://github.com/oven-sh/bun/pull/33508).
 */
import readline from "node:readline";
import { Writable } from "node:stream";
import { Cancelled, paint, say, stopSignal } from "./process.ts";

export { Cancelled } from "./process.ts";

/** One of several things to choose from. */
export interface Choice {
  value: string;
  /** What its line says. */
  label: string;
  /** Said in brackets while the cursor is on it. */
  hint?: string;
}

/** A question to answer with yes or no. */
export function confirm(question: string, initial: boolean): Promise<boolean> {
  return ask<boolean>(question, { type: "confirm", initial });
}

/**
 * A question to answer with a line of text, asked again until `check` has nothing to say against it.
 *
 * @param options.initial stands there to be edited
 * @param options.check says what is wrong with an answer; undefined if nothing is
 */
export async function text(
  question: string,
  options: { initial?: string; check?: (answer: string) => string | undefined } = {},
): Promise<string> {
  for (let initial = options.initial; ; ) {
    const given = await ask<string | undefined>(question, {
      type: "text",
      placeholder: "", // else consola shows an empty answer as "undefined"
      ...(initial ? { initial } : {}),
    });
    const answer = given?.trim() ?? "";
    const wrong = options.check?.(answer);
    if (wrong === undefined) return answer;
    unmark(question, given ?? "");
    say(`${wrong}\n`);
    initial = answer;
  }
}

/** Put a sign of warning where consola has put a ✔: before a question whose answer has just been refused. */
function unmark(question: string, answer: string): void {
  const width = process.stdout.columns || 80;
  const rows = (length: number) => Math.max(1, Math.ceil(length / width));
  const up = rows(question.length + 2) + rows(answer.length + 1);
  process.stdout.write(`\u001B[${up}A\r${paint("yellow", "▲")}\u001B[${up}B\r`);
}

/** A question to answer by choosing one. */
export function one(question: string, options: readonly Choice[]): Promise<string> {
  return ask<string>(question, { type: "select", options: [...options] });
}

/**
 * A question to answer by choosing any number, none included: space marks, enter ends.
 *
 * @param marked values that are marked to begin with
 */
export function several(question: string, options: readonly Choice[], marked: readonly string[]): Promise<string[]> {
  let isDone = false;
  const onKey = (_: string, key?: Key) => {
    isDone ||= ["return", "escape"].includes(key?.name ?? "") || (key?.ctrl === true && key.name === "c");
  };
  // In the end consola shows the labels of all that is marked, in one line: names will do there.
  const lines = options.map(({ value, label, ...more }) => ({
    ...more,
    value,
    get label() {
      return isDone ? value : label;
    },
  }));
  process.stdin.on("keypress", onKey);
  return ask<string[]>(question, {
    type: "multiselect",
    options: lines,
    initial: [...marked],
    required: false,
  }).finally(() => process.stdin.off("keypress", onKey));
}

interface Key {
  name?: string;
  ctrl?: boolean;
}

type Options =
  | { type: "confirm"; initial: boolean }
  | { type: "text"; placeholder: string; initial?: string }
  | { type: "select"; options: Choice[] }
  | { type: "multiselect"; options: Choice[]; initial: string[]; required: boolean };

async function ask<T>(question: string, options: Options): Promise<T> {
  const signal = stopSignal();
  signal.throwIfAborted();
  const { consola } = await import("consola");
  mendEcho();
  const { stdin } = process;
  const ended = Promise.withResolvers<never>();
  const cancel = () => {
    ended.reject(new Cancelled("cancelled"));
    stdin.off("end", cancel);
    try {
      stdin.emit("keypress", "\u0003", { name: "c", ctrl: true }); // sets the terminal back, and shows the cursor
    } catch {
      // the terminal has gone
    }
  };
  const onKey = (_: string, key?: Key) => {
    if (key?.ctrl && key.name === "d") cancel();
  };
  stdin.on("keypress", onKey).on("end", cancel);
  signal.addEventListener("abort", cancel);
  try {
    const answer = consola.prompt(question, { ...options, cancel: "reject" } as never);
    return (await Promise.race([answer, ended.promise])) as T;
  } catch (error) {
    signal.throwIfAborted();
    if ((error as Error).name === "ConsolaPromptCancelledError") throw new Cancelled("cancelled");
    throw error;
  } finally {
    stdin.off("keypress", onKey).off("end", cancel);
    signal.removeEventListener("abort", cancel);
  }
}

let mended = false;

function mendEcho(): void {
  if (mended) return;
  mended = true;
  const { createInterface } = readline;
  const mending = (options: readline.ReadLineOptions) => {
    const output = options.output as Writable | undefined;
    if (output && Object.hasOwn(output, "_write")) output.write = Writable.prototype.write;
    return createInterface(options);
  };
  readline.createInterface = mending as typeof createInterface;
}
