/** What a sync shows while it runs: live bars on a terminal, at most one line every ten seconds in a batch log. */
import { humanCount, humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { namesKept, type TransferPlan } from "../lib/engine/engine.ts";
import type { SyncEvent, SyncStep } from "../lib/sync.ts";
import { paint, say, stderrIsTerminal, warn } from "./process.ts";

/** Seconds between two lines of progress in a log. */
const logEveryS = 10;
/** Milliseconds between two frames on a terminal. */
const frameMs = 100;
/** Seconds over which the rate is averaged. */
const windowS = 5;

interface Bar {
  name: string;
  bytes: number;
  total: number;
  /** Recent readings, oldest first. */
  seen: { at: number; bytes: number }[];
}

/**
 * @param quiet says nothing at all (`--json`)
 * @param names which of the names in a plan to show
 */
export function syncProgress({
  quiet,
  names,
}: {
  quiet: boolean;
  names: "none" | "first" | "all";
}): (event: SyncEvent) => void {
  if (quiet) return () => {};
  const live = stderrIsTerminal() && !process.env.CI && process.env.TERM !== "dumb";
  const bars = new Map<string, Bar>();
  let drawn = 0;
  let lastAt = performance.now();

  const clear = () => {
    if (drawn > 0) say(`\u001B[${drawn}A\u001B[J`);
    drawn = 0;
  };
  const draw = () => {
    clear();
    const width = process.stderr.columns || 80;
    for (const bar of bars.values()) say(`${drawBar(bar, width - 1)}\n`);
    drawn = bars.size;
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
    if (live) draw();
    else for (const bar of bars.values()) say(`${bar.name}: ${figures(bar)}\n`);
  };

  return (event) => {
    switch (event.type) {
      case "warning":
        clear();
        warn("name" in event ? `${event.name}: ${event.message}` : event.message);
        return;
      case "waiting":
        return print(`${event.name}: waiting for ${event.who}`);
      case "copying": {
        const { plan } = event;
        const list = names !== "none" ? plan.names.map((name) => `\n    ${name}`).join("") : "";
        const more = names === "first" && plan.names.length === namesKept ? "\n    … (all names: --verbose)" : "";
        print(`${event.name}: ${event.why}; ${changes(plan)}${list}${more}`);
        if (plan.bytes > 0) bars.set(event.name, { name: event.name, bytes: 0, total: plan.bytes, seen: [] });
        return;
      }
      case "progress": {
        const bar = bars.get(event.name);
        if (!bar) return;
        bar.bytes = Math.min(event.bytes, bar.total);
        const at = performance.now() / 1000;
        bar.seen.push({ at, bytes: bar.bytes });
        while (bar.seen.length > 2 && at - (bar.seen[0]?.at ?? at) > windowS) bar.seen.shift();
        return tick();
      }
      case "result":
        bars.delete(event.result.name);
        return print(resultLine(event.result));
    }
  };
}

/** `63 files, 575M to copy`. */
function changes({ files, bytes, newInodes, deleted }: TransferPlan): string {
  const parts = [
    ...(files > 0 ? [`${plural(files, "file")}, ${sizeText(bytes)} to copy`] : []),
    ...(files === 0 && newInodes > 0
      ? [`${plural(newInodes, "directory or link", "directories or links")} to make`]
      : []),
    ...(deleted > 0 ? [`${humanCount(deleted)} to delete`] : []),
  ];
  return parts.join(", ") || "contents are the same";
}

function rateOf(bar: Bar): number {
  const first = bar.seen[0];
  const last = bar.seen.at(-1);
  return first && last && last.at > first.at ? (last.bytes - first.bytes) / (last.at - first.at) : 0;
}

/** `58%  334M of 575M  120M/s  2 s left`; below 100 % until the copy is known to be whole. */
function figures(bar: Bar): string {
  const percent = Math.min(99, Math.floor((100 * bar.bytes) / bar.total));
  const rate = rateOf(bar);
  const left = rate > 0 ? `  ${humanDuration((bar.total - bar.bytes) / rate)} left` : "";
  return `${String(percent).padStart(2)}%  ${sizeText(bar.bytes)} of ${sizeText(bar.total)}  ${sizeText(rate)}/s${left}`;
}

function drawBar(bar: Bar, width: number): string {
  const text = figures(bar);
  const room = Math.min(40, width - bar.name.length - text.length - 4);
  if (room < 8) return `${bar.name} ${text}`.slice(0, width);
  const full = Math.floor((room * bar.bytes) / bar.total);
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
      return `${name}: empty, at ${target}`;
    case "dry-run":
      return `${name}: would be synced to ${target}`;
    case "failed":
      return `${name}: ${paint("red", "failed")}: ${error?.message}${error?.hint ? `\n  ${error.hint}` : ""}`;
  }
}
