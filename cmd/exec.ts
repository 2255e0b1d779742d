import { EfError, Exit } from "../lib/base/errors.ts";
import { loadConfig } from "../lib/config/store.ts";
import { openFilesOf } from "../lib/drivers/limits.ts";
import { CannotStart, execute } from "../lib/exec.ts";
import { sync } from "../lib/sync.ts";
import { command, common, type Output, syncing } from "./args.ts";
import { forwardSignals, ignoredSignals, say, stopSignal, warn } from "./process.ts";
import { syncProgress } from "./progress.ts";

export default command({
  name: "exec",
  description: "Sync, then run a command with the variables set",
  rest: "CMD [ARGS…]",
  plain: true,
  examples: [
    ["ef exec -- python train.py", "a whole job script"],
    ["ef exec --var HF_HOME -- sh -c 'ls \"$HF_HOME\"'", "one variable only"],
  ],
  args: {
    var: syncing.var,
    force: syncing.force,
    fail: { type: "boolean", default: true, description: "Run the command even if a variable could not be synced" },
    preflight: syncing.preflight,
    "input-json": common["input-json"],
  },
  async run({ args, rest }): Promise<Output> {
    if (!rest[0])
      throw new EfError("USAGE", "ef exec: there is no command after --", { hint: "write: ef exec -- CMD ARGS" });
    if (rest.some((arg) => arg.includes("\uFFFD"))) {
      throw new EfError("USAGE", "ef exec: an argument of the command is not valid UTF-8, and would arrive changed", {
        hint: "put the command line into a script, and run that",
      });
    }
    const { exports, env, errors } = await sync(await loadConfig(), {
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
    return { json: {}, text: "", code: await runCommand(rest, { ...process.env, ...env, ...exports }) };
  },
});

async function runCommand(argv: readonly string[], env: Record<string, string | undefined>): Promise<number> {
  const changed = Object.keys(env).filter((name) => env[name]?.includes("\uFFFD"));
  if (changed.length > 0) warn(`not valid UTF-8, and changed for the command: ${changed.join(", ")}`);
  try {
    return await execute(argv, {
      env,
      forward: forwardSignals,
      ignore: ignoredSignals(),
      openFiles: openFilesOf(process.ppid),
    });
  } catch (error) {
    if (!(error instanceof CannotStart)) throw error;
    say(`error: ${error.message}\n  ${error.hint}\n`);
    return error.exitCode;
  }
}
