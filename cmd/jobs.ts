/** What the commands about submitted jobs share. */
import { Exit } from "../lib/base/errors.ts";
import { lastLines } from "../lib/base/exec.ts";
import type { JobRecord } from "../lib/jobs/record.ts";
import { type JobResult, tailOf } from "../lib/jobs/results.ts";
import type { Output, PositionalArg } from "./args.ts";
import { paint, say } from "./process.ts";

export const jobArg = {
  type: "positional",
  valueHint: "ID",
  required: true,
  description: "The id that ef submit printed, or its beginning",
  values: "jobs",
} as const satisfies PositionalArg;

/** A job in `--json`. */
export const recordJson = ({ version: _, definition: __, ...record }: JobRecord) => ({
  ...record,
  type: __.type,
  host: __.host ?? null,
});

/** A result in `--json`. */
const resultJson = (result: JobResult) => ({
  ...{ job_id: result.id, status: result.state, exit_code: result.exitCode ?? null, reason: result.reason ?? null },
  value: result.valueText === undefined ? null : exactly(result.valueText),
  pickle: result.pickle ?? null,
  error: result.error ?? null,
  ...{ stdout: result.stdout, stderr: result.stderr },
  errors: result.ok ? [] : [`${result.id}: ${failure(result)}`],
});

/** A value whose whole numbers keep all their digits when it is printed. */
function exactly(text: string): unknown {
  const keep = (_: string, value: unknown, context?: { source?: string }) =>
    typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source
      ? rawJson(context.source)
      : value;
  return JSON.parse(text, keep as (key: string, value: unknown) => unknown);
}

/** (ECMAScript proposal JSON.parse source text access; Bun has it.) */
const rawJson = (source: string): unknown => (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(source);

/** In words, e.g. `ValueError: no data`. */
function failure({ error, state, reason, exitCode }: JobResult): string {
  if (error) return error.message === "" ? error.type : `${error.type}: ${error.message}`;
  const code = exitCode === undefined ? "" : ` with exit code ${exitCode}`;
  return `${state}${code}${reason ? ` (${reason})` : ""}`;
}

/**
 * What a command ends with that gives a result: the value on stdout, an error on stderr, the exit code of the job.
 *
 * @param isShown has what the job printed been shown already?
 */
export function resultOutput(result: JobResult, { json, isShown }: { json: boolean; isShown: boolean }): Output {
  const code = result.ok ? Exit.ok : result.exitCode || Exit.failed;
  if (!result.ok && !json) {
    const { traceback } = result.error ?? {};
    const printed = result.error || isShown ? "" : lastLines(tailOf(result.stderr, 4096));
    say(`${paint("red", "error:")} ${result.id}: ${failure(result)}${printed}\n`);
    if (traceback) say(`${traceback.trimEnd().replaceAll(/^/gm, "    ")}\n`);
  }
  const text = result.pickle
    ? `${result.pickle.path}\n`
    : result.valueText === undefined
      ? ""
      : `${result.valueText}\n`;
  return { json: resultJson(result), text: result.ok ? text : "", code };
}
