/** What the commands about background jobs of data movers share. */
import { quote } from "../lib/base/shell.ts";
import type { MoverJobState } from "../lib/datamover-jobs.ts";
import type { PositionalArg } from "./args.ts";

export const jobPlace = {
  type: "positional",
  valueHint: "ID",
  required: true,
  description: "The number that ef dm --background printed",
  values: "mover-jobs",
} as const satisfies PositionalArg;

/** A job in `--json`. */
export const jobJson = ({ id, argv, cwd, partition, submittedMs, output, state, code, reason }: MoverJobState) => ({
  ...{ job_id: id, state, exit_code: code ?? null, reason: reason ?? null },
  ...{ argv, cwd, partition, submitted_at: submittedMs / 1000, output },
});

/** A job that ended without its tool having come to an end. */
export function whyNoCode({ id, state, reason, output }: MoverJobState): string {
  const slurm = reason ? ` (Slurm: ${reason})` : "";
  const isOwnEnd = state === "failed" || state === "completed" || state === "unknown";
  const hint = isOwnEnd ? `; can the data mover write ${output}?` : "";
  return `error: job ${id} left no exit code: ${state}${slurm}\n  what it printed: ef dm log ${id}${hint}`;
}

/** A command line as it is typed in a shell; that of fish is one line always. */
export const commandLine = (argv: readonly string[], shell: "bash" | "fish"): string =>
  argv.map((arg) => (/^[\w@%+=:,./-]+$/.test(arg) ? arg : quote(shell, arg))).join(" ");
