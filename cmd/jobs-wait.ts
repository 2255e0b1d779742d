import { EfError } from "../lib/base/errors.ts";
import { readRecord } from "../lib/jobs/record.ts";
import { command } from "./args.ts";
import { followJob } from "./follow.ts";
import { jobArg } from "./jobs.ts";

export default command({
  name: "jobs wait",
  description: "Follow a job to its end, print its result and end with its exit code",
  args: {
    id: jobArg,
    timeout: { type: "string", valueHint: "SECONDS", description: "Wait no longer than that; the job goes on" },
    quiet: { type: "boolean", alias: "q", description: "Do not show what the job prints" },
  },
  async run({ args }) {
    const timeoutS = args.timeout === undefined ? undefined : secondsOf(args.timeout);
    return followJob(readRecord(args.id), { json: args.json, quiet: args.quiet, timeoutS });
  },
});

function secondsOf(text: string): number {
  const seconds = Number(text);
  if (text.trim() !== "" && seconds >= 0 && Number.isFinite(seconds)) return seconds;
  throw new EfError("USAGE", `ef jobs wait --timeout ${text}: not a number of seconds`);
}
