import { cancelMoverJob } from "../lib/datamover-jobs.ts";
import { isOver } from "../lib/drivers/slurm-jobs.ts";
import { command } from "./args.ts";
import { jobPlace } from "./dm.ts";
import { say, stopSignal } from "./process.ts";

export default command({
  name: "dm cancel",
  description: "Cancel a job in the background",
  args: { id: jobPlace },
  async run({ args }) {
    const before = await cancelMoverJob(args.id, { signal: stopSignal() });
    const { state, code } = before;
    const was = isOver(before) ? `it was over already: ${code === undefined ? state : `exit ${code}`}` : "cancelled";
    if (!args.json) say(`job ${args.id}: ${was}\n`);
    return { json: { job_id: args.id, was: state }, text: "" };
  },
});
