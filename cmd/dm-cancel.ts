import { cancelMoverJob } from "../lib/datamover-jobs.ts";
import { command } from "./args.ts";
import { jobPlace } from "./dm.ts";
import { say, stopSignal } from "./process.ts";

export default command({
  name: "dm cancel",
  description: "Cancel a job in the background",
  args: { id: jobPlace },
  async run({ args }) {
    await cancelMoverJob(args.id, { signal: stopSignal() });
    if (!args.json) say(`job ${args.id}: cancelled\n`);
    return { json: { job_id: args.id }, text: "" };
  },
});
