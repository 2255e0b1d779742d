import { EfError, Exit } from "../lib/base/errors.ts";
import { loadConfig } from "../lib/config/store.ts";
import { sync } from "../lib/sync.ts";
import { command, common, type Output, syncing } from "./args.ts";
import { say, stopSignal } from "./process.ts";
import { syncProgress } from "./progress.ts";
import { type Heard, refuseChanged, runCommand } from "./run-command.ts";

export default command({
  name: "exec",
  description: "Sync, then run a command with the variables set",
  rest: "CMD [ARGS…]",
  plain: true,
  examples: [
    ["ef exec -- python train.py", "a whole job script"],
    ["ef exec --push -- python train.py", "and bring back what it made"],
    ["ef exec --var HF_HOME -- sh -c 'ls \"$HF_HOME\"'", "one variable only"],
  ],
  args: {
    var: syncing.var,
    force: syncing.force,
    fail: { type: "boolean", default: true, description: "Run the command even if a variable could not be synced" },
    push: { type: "boolean", description: "Push afterwards, also when the command was ended by a signal" },
    "push-within": {
      type: "string",
      valueHint: "SECONDS",
      description: "How long after SIGTERM the push may take (default: 27, as Slurm kills after 30)",
    },
    preflight: syncing.preflight,
    "input-json": common["input-json"],
  },
  async run({ args, rest }): Promise<Output> {
    if (!rest[0])
      throw new EfError("USAGE", "ef exec: there is no command after --", { hint: "write: ef exec -- CMD ARGS" });
    refuseChanged(rest, "ef exec");
    const withinS = secondsOf(args["push-within"]);
    const config = await loadConfig();
    const { exports, env, errors } = await sync(config, {
      only: args.var,
      force: args.force,
      preflight: args.preflight,
      signal: stopSignal(),
      onEvent: syncProgress({ quiet: false, names: "none" }),
    });
    stopSignal().throwIfAborted(); // it may have come while nothing was copied
    if (errors.length > 0 && args.fail) {
      say("the command was not run; to run it with what could be synced: --no-fail\n");
      return { json: {}, text: "", code: Exit.failed };
    }
    const heard: Heard = {};
    const code = await runCommand(rest, { ...process.env, ...env, ...exports }, heard);
    const names = Object.keys(exports);
    if (!args.push || heard.ran !== true || names.length === 0) return { json: {}, text: "", code };
    const { pushAfter } = await import("./exec-push.ts");
    const pushed = await pushAfter(config, names, withinS, heard.termAtMs);
    return { json: {}, text: "", code: code === Exit.ok ? pushed : code };
  },
});

/** Slurm sends SIGKILL 30 s after SIGTERM (KillWait, slurm.conf(5)); to stop in order takes a moment. */
const defaultWithinS = 27;

function secondsOf(text: string | undefined): number {
  const seconds = text === undefined ? defaultWithinS : Number(text);
  if (text !== "" && seconds >= 0 && Number.isFinite(seconds)) return seconds;
  throw new EfError("USAGE", `ef exec --push-within ${text}: not a number of seconds`);
}
