/** Follow a job on a terminal or in a script, and what a signal means while that goes on. */

import type { JobEvent } from "../lib/jobs/events.ts";
import type { JobRecord } from "../lib/jobs/record.ts";
import type { JobResult } from "../lib/jobs/results.ts";
import { jobCancel, jobWait } from "../lib/jobs.ts";
import type { Output } from "./args.ts";
import { resultOutput } from "./jobs.ts";
import { Cancelled, emit, isInteractive, onInterrupt, passOn, Stopped, say, stopSignal } from "./process.ts";

interface FollowOptions {
  json: boolean;
  quiet?: boolean;
  timeoutS?: number | undefined;
}

/** To the end of the job. What it prints goes to stderr, of a script its stdout to stdout; the value to stdout. */
export async function followJob(record: JobRecord, options: FollowOptions): Promise<Output> {
  for (;;) {
    const ended = await followOnce(record, options);
    if (ended !== "interrupted")
      return resultOutput(ended, { json: options.json, isShown: !options.json && !options.quiet });
    if (await isToEnd(record)) throw new Cancelled(await cancelled(record));
  }
}

async function followOnce(record: JobRecord, options: FollowOptions): Promise<JobResult | "interrupted"> {
  const { json, quiet = false, timeoutS } = options;
  const asked = new AbortController();
  const restore = isInteractive() ? onInterrupt(() => asked.abort()) : () => {};
  const show = (event: JobEvent) => {
    if (event.type === "state") return say(`${record.id}: ${event.state}${event.reason ? ` (${event.reason})` : ""}\n`);
    if (!quiet) (record.kind === "script" && event.stream === "stdout" ? emit : passOn)(event.bytes);
  };
  try {
    const signal = AbortSignal.any([stopSignal(), asked.signal]);
    return await jobWait(record.id, { signal, timeoutS, ...(json ? {} : { onEvent: show }) });
  } catch (error) {
    if (asked.signal.aborted && !stopSignal().aborted) return "interrupted";
    if (error instanceof Stopped) await stopped(record);
    throw error;
  } finally {
    restore();
  }
}

/** Somebody pressed Ctrl-C: is the job meant, or only the looking on? */
async function isToEnd({ id, cluster }: JobRecord): Promise<boolean> {
  const { one } = await import("./ask.ts");
  const answer = await one(`${id} runs on ${cluster}.`, [
    { value: "follow", label: "go on following it" },
    { value: "leave", label: "leave it running, and come back with: ef jobs wait" },
    { value: "cancel", label: "cancel it" },
  ]);
  if (answer === "leave") throw new Cancelled(`${id} goes on: ef jobs wait ${id}`);
  return answer === "cancel";
}

async function cancelled({ id }: JobRecord): Promise<string> {
  const { state } = await jobCancel(id);
  return state === "cancelled" ? `${id} is cancelled` : `${id} had ended: ${state}`;
}

/** A signal where there is nobody to ask: what runs on this machine ends with us, what a cluster runs goes on. */
async function stopped(record: JobRecord): Promise<void> {
  if (record.definition.type === "local") say(`${await cancelled(record)}\n`);
  else say(`${record.id} goes on: ef jobs wait ${record.id}\n`);
}
