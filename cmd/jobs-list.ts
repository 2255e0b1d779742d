import { mapLimit } from "../lib/base/async.ts";
import { columns } from "../lib/init.ts";
import type { JobRecord } from "../lib/jobs/record.ts";
import { jobState, jobs } from "../lib/jobs.ts";
import { command } from "./args.ts";
import { recordJson } from "./jobs.ts";
import { stopSignal } from "./process.ts";
import { dateText } from "./venv-table.ts";

export default command({
  name: "jobs list",
  description: "List the jobs that ef submit started from here, the newest first, and how they stand",
  args: { fast: { type: "boolean", description: "As it was known last: ask no cluster" } },
  async run({ args }) {
    const known = jobs();
    const now = args.fast ? known : await mapLimit(known, 4, ({ id }) => jobState(id, { signal: stopSignal() }));
    return { json: { jobs: now.map(recordJson) }, text: args.json ? "" : table(now) };
  },
});

function table(all: readonly JobRecord[]): string {
  if (all.length === 0) return "there is no job yet: ef submit FILE.py:FUNCTION --cluster NAME\n";
  const rows = all.map(({ id, cluster, slurm_id, state, exit_code, reason, submitted_at }) => [
    ...[id, cluster, slurm_id ?? "", dateText(submitted_at)],
    state === "failed" && exit_code !== null ? `exit ${exit_code}` : `${state}${reason ? ` (${reason})` : ""}`,
  ]);
  return `${columns([["id", "cluster", "slurm", "submitted", "state"], ...rows]).join("\n")}\n`;
}
