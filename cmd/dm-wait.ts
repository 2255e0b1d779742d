import { EfError, Exit } from "../lib/base/errors.ts";
import { type MoverJobState, moverJobEnd } from "../lib/datamover-jobs.ts";
import { command } from "./args.ts";
import { jobJson, jobPlace, whyNoCode } from "./dm.ts";
import { say, stopSignal } from "./process.ts";

export default command({
  name: "dm wait",
  description: "Wait for a job in the background, and end with the exit code of its tool",
  examples: [['ef dm wait "$(ef dm --background cp -r A B)"', "start it, do other things, wait"]],
  args: {
    id: jobPlace,
    timeout: { type: "string", valueHint: "SECONDS", description: "Wait no longer than that; the job goes on" },
  },
  async run({ args }) {
    const timeoutS = args.timeout === undefined ? undefined : secondsOf(args.timeout);
    const end = await moverJobEnd(args.id, {
      timeoutS,
      signal: stopSignal(),
      onState: ({ state, reason }) => {
        if (!args.json) say(`job ${args.id}: ${state}${reason ? ` (${reason})` : ""}\n`);
      },
    });
    if (end.code === undefined) say(`${whyNoCode(end)}\n`);
    return { json: jobJson(end), text: "", code: exitOf(end) };
  },
});

const exitOf = ({ code }: MoverJobState): number => code ?? Exit.failed;

function secondsOf(text: string): number {
  const seconds = Number(text);
  if (text !== "" && seconds >= 0 && Number.isFinite(seconds)) return seconds;
  throw new EfError("USAGE", `ef dm wait --timeout ${text}: not a number of seconds`);
}
