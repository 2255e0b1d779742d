/** What a sync shows while it runs: live bars on a terminal, at most one line every ten seconds in a batch log. */
import { bytesOf, display } from "../lib/base/bytes.ts";
import { humanCount, humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { type Looked, namesKept, type TransferPlan } from "../lib/engine/engine.ts";
import type { SyncEvent, SyncStep } from "../lib/sync.ts";
import { lineTag } from "./line-tag.ts";
import { paint, say, stderrIsTerminal, tagLines, warn } from "./process.ts";

/** Seconds between two lines of progress in a log. */
const logEveryS = 10;
/** Milliseconds between two frames on a terminal. */
const frameMs = 100;
/** Seconds over which the rate is averaged. */
const windowS = 5;

/** From so much on a transfer belongs into a job: that is minutes of a login node. */
const muchBytes = 10 * 2 ** 30;
const muchFiles = 100_000;

/** What a file costs besides its bytes, in bytes: a request or three on slow storage. */
const fileCost = 256 << 10;

interface Bar {
  name: string;
  bytes: number;
  files: number;
  ofBytes: number;
  ofFiles: number;
  /** Recent readings, oldest first: seconds, and what was done by then. */
  seen: { at: number; bytes: number; work: number }[];
}

/** Bytes, with files counted as the bytes that they cost. */
const workOf = (bytes: number, files: number) => bytes + files * fileCost;

export interface ProgressOptions {
  /** Says nothing at all (`--json`). */
  quiet: boolean;
  /** Which of the names in a plan to show. */
  names: "none" | "first" | "all";
  /** A command of the user runs, or will: no bars on its terminal, and it would inherit a low priority. */
  beside?: boolean;
}

/** What is known of a transfer before it begins. */
type Plan = Pick<TransferPlan, "files" | "bytes" | "names">;

type Shown<C extends { name: string; plan: Plan }, R extends { name: string }> =
  | { type: "warning"; name?: string; message: string }
  | { type: "login-node" }
  | { type: "waiting"; name: string; who: string }
  | ({ type: "comparing"; name: string } & Looked)
  | ({ type: "copying" } & C)
  | { type: "progress"; name: string; bytes: number; files: number }
  | { type: "result"; result: R };

export type Copying<E> = Extract<E, { type: "copying" }>;

/** How a transfer is worded. */
interface Words<C, R> {
  copying(event: C): string;
  result(result: R): string;
  /** How to have it done in a job. */
  inJob?: string;
}

export const syncProgress = (options: ProgressOptions): ((event: SyncEvent) => void) =>
  progress<Copying<SyncEvent>, SyncStep>(options, {
    copying: ({ why, plan }) => `${why}; ${changes(plan)}`,
    result: resultLine,
    inJob: "ef stage --job, or sbatch --wrap 'ef sync'",
  });

export function progress<C extends { name: string; plan: Plan }, R extends { name: string }>(
  { quiet, names, beside = false }: ProgressOptions,
  words: Words<C, R>,
): (event: Shown<C, R>) => void {
  const onLogin = () =>
    void (beside || import("../lib/drivers/priority.ts").then((priority) => priority.lowerPriority()));
  if (quiet) return ({ type }) => (type === "login-node" ? onLogin() : undefined);
  const tag = lineTag(process.env);
  tagLines(tag?.text ?? "");
  const live = !beside && !tag?.isShared && stderrIsTerminal() && !process.env.CI && process.env.TERM !== "dumb";
  let advises = false;
  const bars = new Map<string, Bar>();
  /** What is being looked at, before there is a bar. */
  const looking = new Map<string, Looked>();
  let drawn = 0;
  let lastAt = performance.now();

  const clear = () => {
    if (drawn > 0) say(`\u001B[${drawn}A\u001B[J`);
    drawn = 0;
  };
  const draw = () => {
    clear();
    const width = process.stderr.columns || 80;
    for (const line of lookingLines(looking)) say(`${line.slice(0, width - 1)}\n`);
    const lines = bars.size > 1 ? [...bars.values(), sumOf([...bars.values()])] : [...bars.values()];
    for (const bar of lines) say(`${drawBar(bar, width - 1)}\n`);
    drawn = looking.size + lines.length;
  };
  const print = (line: string) => {
    clear();
    say(`${line}\n`);
    if (live) draw();
  };
  const tick = () => {
    const now = performance.now();
    if (now - lastAt < (live ? frameMs : logEveryS * 1000)) return;
    lastAt = now;
    if (live) return draw();
    for (const line of lookingLines(looking)) say(`${line}\n`);
    for (const bar of bars.values()) say(`${bar.name}: ${figures(bar)}\n`);
  };

  return (event) => {
    switch (event.type) {
      case "warning":
        clear();
        warn(event.name === undefined ? event.message : `${shown(event.name)}: ${event.message}`);
        return;
      case "login-node":
        advises = true;
        return onLogin();
      case "waiting":
        return print(`${shown(event.name)}: waiting for ${event.who}`);
      case "comparing":
        looking.set(event.name, event);
        return tick();
      case "copying": {
        looking.delete(event.name);
        const { plan } = event;
        const list = names !== "none" ? plan.names.map((name) => `\n    ${name}`).join("") : "";
        const more = names === "first" && plan.names.length === namesKept ? "\n    … (all names: --verbose)" : "";
        print(`${shown(event.name)}: ${words.copying(event)}${list}${more}`);
        if (advises && words.inJob && (plan.bytes >= muchBytes || plan.files >= muchFiles)) {
          advises = false;
          print(`${shown(event.name)}: much for a login node; in a job it is faster and slows nobody: ${words.inJob}`);
        }
        const { name } = event;
        const whole = { ofBytes: plan.bytes, ofFiles: plan.files };
        if (plan.files > 0) bars.set(name, { name: shown(name), bytes: 0, files: 0, ...whole, seen: [] });
        return;
      }
      case "progress": {
        const bar = bars.get(event.name);
        if (!bar) return;
        bar.bytes = Math.min(event.bytes, bar.ofBytes);
        bar.files = Math.min(event.files, bar.ofFiles);
        const at = performance.now() / 1000;
        bar.seen.push({ at, bytes: bar.bytes, work: workOf(bar.bytes, bar.files) });
        while (bar.seen.length > 2 && at - (bar.seen[0]?.at ?? at) > windowS) bar.seen.shift();
        return tick();
      }
      case "result":
        looking.delete(event.result.name);
        bars.delete(event.result.name);
        return print(words.result(event.result));
    }
  };
}

/** `HF_HOME: comparing: 340,000 entries, 1.2G read`. */
const lookingLines = (looking: ReadonlyMap<string, Looked>): string[] =>
  [...looking].map(([name, { entries, bytes }]) => {
    const read = bytes > 0 ? `, ${sizeText(bytes)} read` : "";
    return `${shown(name)}: comparing: ${plural(entries, "entry", "entries")}${read}`;
  });

/** A name that may hold anything, as that of an environment or an image. */
const shown = (name: string) => display(bytesOf(name));

/** `63 files, 575M to copy`. */
function changes({ files, bytes, links, attributes, newInodes, deleted, purged }: TransferPlan): string {
  const gone = purged > 0 ? ` (${humanCount(purged)} gone from scratch)` : "";
  const made = newInodes > 0 ? [`${plural(newInodes, "directory or link", "directories or links")} to make`] : [];
  const parts = [
    ...(files > 0 ? [`${plural(files, "file")}, ${sizeText(bytes)} to copy${gone}`] : made),
    ...(files === 0 && links > 0 ? [`${plural(links, "hard link")} to make`] : []),
    ...(files === 0 && attributes > 0 ? [`permissions of ${plural(attributes, "file")} to set`] : []),
    ...(deleted > 0 ? [`${humanCount(deleted)} to delete`] : []),
  ];
  return parts.join(", ") || "contents are the same";
}

/** All of them as one. */
function sumOf(bars: readonly Bar[]): Bar {
  const sum: Bar = { name: "all", bytes: 0, files: 0, ofBytes: 0, ofFiles: 0, seen: [] };
  const at = Math.max(...bars.map((bar) => bar.seen.at(-1)?.at ?? 0));
  const rates = { bytes: 0, work: 0 };
  for (const bar of bars) {
    for (const key of ["bytes", "files", "ofBytes", "ofFiles"] as const) sum[key] += bar[key];
    for (const key of ["bytes", "work"] as const) rates[key] += rateOf(bar, key);
  }
  sum.seen.push({ at, bytes: 0, work: 0 }, { at: at + 1, ...rates });
  return sum;
}

function rateOf(bar: Bar, of: "bytes" | "work"): number {
  const first = bar.seen[0];
  const last = bar.seen.at(-1);
  return first && last && last.at > first.at ? (last[of] - first[of]) / (last.at - first.at) : 0;
}

/** `58%  334M of 575M  36 of 63 files  120M/s  2 s left`; below 100 % until the copy is known to be whole. */
function figures(bar: Bar): string {
  const whole = workOf(bar.ofBytes, bar.ofFiles);
  const done = workOf(bar.bytes, bar.files);
  const percent = Math.min(99, Math.floor((100 * done) / whole));
  const rate = rateOf(bar, "work");
  const left = rate > 0 ? `  ${humanDuration((whole - done) / rate)} left` : "";
  const bytes = `${sizeText(bar.bytes)} of ${sizeText(bar.ofBytes)}`;
  const files = `${humanCount(bar.files)} of ${humanCount(bar.ofFiles)} files`;
  return `${String(percent).padStart(2)}%  ${bytes}  ${files}  ${sizeText(rateOf(bar, "bytes"))}/s${left}`;
}

function drawBar(bar: Bar, width: number): string {
  const text = figures(bar);
  const room = Math.min(40, width - bar.name.length - text.length - 4);
  if (room < 8) return `${bar.name} ${text}`.slice(0, width);
  const full = Math.floor((room * workOf(bar.bytes, bar.files)) / workOf(bar.ofBytes, bar.ofFiles));
  return `${bar.name}  ${paint("cyan", "━".repeat(full))}${paint("dim", "─".repeat(room - full))}  ${text}`;
}

function resultLine({ name, target, status, plan, error, seconds }: SyncStep): string {
  const took = humanDuration(seconds);
  switch (status) {
    case "skipped":
      return `${name}: fresh`;
    case "synced": {
      const what =
        plan && plan.files > 0 ? `${plural(plan.files, "file")}, ${sizeText(plan.bytes)}` : "nothing to copy";
      return `${name}: ${paint("green", "complete")} (${what}, ${took})`;
    }
    case "source-missing":
      return `${name}: left as it is, at ${target}`;
    case "dry-run":
      return `${name}: would be synced to ${target}`;
    case "failed":
      return `${name}: ${paint("red", "failed")}: ${error?.message}${error?.hint ? `\n  ${error.hint}` : ""}`;
  }
}
