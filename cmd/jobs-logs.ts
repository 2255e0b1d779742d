import { jobLogs } from "../lib/jobs.ts";
import { command, common } from "./args.ts";
import { jobArg } from "./jobs.ts";
import { emit, passOn, stopSignal } from "./process.ts";

export default command({
  name: "jobs logs",
  description: "Print what a job prints: its stdout and its stderr",
  plain: true,
  args: {
    id: jobArg,
    follow: { type: "boolean", alias: "f", description: "Go on until the job has ended" },
    "input-json": common["input-json"],
  },
  async run({ args }) {
    const gone = new AbortController();
    const signal = AbortSignal.any([stopSignal(), gone.signal]);
    const onOutput = (stream: "stdout" | "stderr", bytes: Buffer) => {
      if (stream === "stderr") passOn(bytes);
      else if (!emit(bytes)) gone.abort(); // nobody reads it any more: no error, as elsewhere
    };
    await jobLogs(args.id, { follow: args.follow, signal, onOutput }).catch((error) => {
      if (!gone.signal.aborted) throw error;
    });
    return { json: {}, text: "" };
  },
});
