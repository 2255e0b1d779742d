import { appendFileSync } from "node:fs";
import { reasonOf } from "../lib/base/errors.ts";
import type { TraceEvent } from "../lib/base/trace.ts";
import { paint, say, warn } from "./process.ts";

/** Where trace events go: `EF_TRACE=FILE` gets JSON lines, `EF_LOG=debug` gets text on stderr. */
export function sink(): (event: TraceEvent) => void {
  const { EF_TRACE: file, EF_LOG: level } = process.env;
  let broken = false;
  return (event) => {
    if (level === "debug") say(`${paint("dim", `[${event.atMs.toFixed(1)} ms] ${detail(event)}`)}\n`);
    if (!file || broken) return;
    try {
      appendFileSync(file, `${JSON.stringify(event)}\n`);
    } catch (error) {
      broken = true; // a trace that cannot be written must not stop a sync
      warn(`cannot write EF_TRACE ${file}: ${reasonOf(error)}`);
    }
  };
}

function detail({ step, atMs: _, tookMs, argv, ...more }: TraceEvent): string {
  const took = tookMs === undefined ? "" : ` took ${tookMs.toFixed(1)} ms`;
  const called = Array.isArray(argv) ? ` ${JSON.stringify(argv)}` : "";
  return `${step}${took}${called}${Object.keys(more).length > 0 ? ` ${JSON.stringify(more)}` : ""}`;
}
