import { jobResult } from "../lib/jobs.ts";
import { command } from "./args.ts";
import { jobArg, resultOutput } from "./jobs.ts";
import { stopSignal } from "./process.ts";

export default command({
  name: "jobs result",
  description: "Print the result of a job that has ended, and end with its exit code",
  examples: [["ef jobs result train-3f9a2c1b | jq .loss", "JSON on stdout"]],
  args: { id: jobArg },
  run: async ({ args }) =>
    resultOutput(await jobResult(args.id, { signal: stopSignal() }), { json: args.json, isShown: false }),
});
