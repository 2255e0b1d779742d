import { mapLimit } from "../lib/base/async.ts";
import { type MoverJobState, moverJobState, moverJobs } from "../lib/datamover-jobs.ts";
import { command } from "./args.ts";
import { commandLine, jobJson, jobPlace } from "./dm.ts";
import { stopSignal } from "./process.ts";

export default command({
  name: "dm status",
  description: "Show the jobs that were started in the background, the newest first",
  args: { id: { ...jobPlace, required: false, description: "Only this one" } },
  async run({ args }) {
    const ids = args.id === undefined ? moverJobs().map(({ id }) => id) : [args.id];
    const jobs = await mapLimit(ids, 4, (id) => moverJobState(id, { signal: stopSignal() }));
    return { json: { jobs: jobs.map(jobJson) }, text: args.json ? "" : table(jobs) };
  },
});

function table(jobs: readonly MoverJobState[]): string {
  const rows = jobs.map(({ id, state, code, reason, submittedMs, argv }) => [
    id,
    new Date(submittedMs).toISOString().slice(0, 16).replace("T", " "),
    code === undefined ? `${state}${reason && state === "pending" ? ` (${reason})` : ""}` : `exit ${code}`,
    commandLine(argv, "fish"),
  ]);
  const all = [["JOB", "SUBMITTED (UTC)", "STATE", "COMMAND"], ...rows];
  const widths = [0, 1, 2].map((i) => Math.max(...all.map((row) => row[i]?.length ?? 0)));
  return all
    .map((row) => `${row.map((text, i) => (i < 3 ? text.padEnd(widths[i] ?? 0) : text)).join("  ")}\n`)
    .join("");
}
