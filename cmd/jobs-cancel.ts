import { isEnd } from "../lib/jobs/record.ts";
import { jobCancel } from "../lib/jobs.ts";
import { command } from "./args.ts";
import { jobArg } from "./jobs.ts";
import { say, stopSignal } from "./process.ts";

export default command({
  name: "jobs cancel",
  description: "End a job and all that it started",
  args: { id: jobArg },
  async run({ args }) {
    const { id, state } = await jobCancel(args.id, { signal: stopSignal() });
    if (!args.json) say(`${id}: ${state === "cancelled" ? "cancelled" : `it had ended already: ${state}`}\n`);
    return { json: { job_id: id, status: state, cancelled: !isEnd(state) || state === "cancelled" }, text: "" };
  },
});
