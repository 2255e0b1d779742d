import { EfError, Exit, reasonOf } from "../lib/base/errors.ts";
import { plural } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { sync } from "../lib/sync.ts";
import type { Use } from "../lib/use-local.ts";
import { command, common, type Output, syncing } from "./args.ts";
import { outlive, say, stopSignal, warn } from "./process.ts";
import { syncProgress } from "./progress.ts";
import { type Heard, refuseChanged, runCommand } from "./run-command.ts";
import { transferFlags } from "./transfer.ts";

export default command({
  name: "exec",
  description: "Sync, then run a command with the variables set",
  rest: "CMD [ARGS…]",
  plain: true,
  examples: [
    ["ef exec -- python train.py", "a whole job script"],
    ["exec ef exec --push -- python train.py", "and bring back what it made"],
    ["ef exec --var HF_HOME -- sh -c 'ls \"$HF_HOME\"'", "one variable only"],
  ],
  args: {
    var: syncing.var,
    force: syncing.force,
    "node-local": syncing["node-local"],
    fail: { type: "boolean", default: true, description: "Run the command even if a variable could not be synced" },
    push: { type: "boolean", description: "Push afterwards, also when the command was ended by a signal" },
    "push-before": {
      type: "string",
      valueHint: "SECONDS",
      description: "How long before the job's time is over a first push begins (default: 120; 0: none)",
    },
    "push-within": {
      type: "string",
      valueHint: "SECONDS",
      description: "How long after SIGTERM the push may take (default: 3 less than Slurm's KillWait, or 27)",
    },
    preflight: syncing.preflight,
    workers: syncing.workers,
    bwlimit: syncing.bwlimit,
    "input-json": common["input-json"],
  },
  async run({ args, rest }): Promise<Output> {
    if (!rest[0])
      throw new EfError("USAGE", "ef exec: there is no command after --", { hint: "write: ef exec -- CMD ARGS" });
    refuseChanged(rest, "ef exec");
    const times = {
      withinS: secondsOf(args, "push-within"),
      beforeS: secondsOf(args, "push-before") ?? defaultBeforeS,
    };
    const flags = transferFlags(args);
    if (args.push) outlive("SIGUSR1"); // before the command, and after it
    const config = await loadConfig();
    const local = { only: args.var, ...(args["node-local"] ? { nodeLocal: true } : {}) };
    const isLocal = args["node-local"] || config.ef?.vars !== undefined; // else there is nothing to load
    const { useLocal } = isLocal ? await import("../lib/use-local.ts") : {};
    const use = await useLocal?.(config, { ...local, signal: stopSignal() });
    await using _ = { [Symbol.asyncDispose]: () => removeCopies(use) };
    const { exports, env, errors } = await sync(config, {
      ...local,
      keep: false,
      force: args.force,
      preflight: args.preflight,
      ...flags,
      signal: stopSignal(),
      onEvent: syncProgress({ quiet: false, names: "none", beside: true }),
    });
    stopSignal().throwIfAborted(); // it may have come while nothing was copied
    if (errors.length > 0 && args.fail) {
      say("the command was not run; to run it with what could be synced: --no-fail\n");
      return { json: {}, text: "", code: Exit.failed };
    }
    const names = Object.keys(exports);
    const pushes =
      args.push && names.length > 0
        ? new (await import("./exec-push.ts")).Pushes(config, { ...local, only: names, ...flags }, times)
        : undefined;
    const heard: Heard = { onStart: () => pushes?.begin(), onSignal: (name) => pushes?.hear(name) };
    const code = await runCommand(rest, { ...process.env, ...env, ...exports }, heard);
    const pushed = pushes && heard.ran === true ? await pushes.end() : Exit.ok;
    return { json: {}, text: "", code: code === Exit.ok ? pushed : code };
  },
});

/** A checkpoint to end with, and the push of it, take about that. */
const defaultBeforeS = 120;

/** What goes wrong with it changes nothing of what the command has done, and is for the next run to do better. */
async function removeCopies(use: Use | undefined): Promise<void> {
  try {
    for (const { name, target, left, first } of (await use?.remove()) ?? [])
      if (left > 0)
        warn(`${name}: ${plural(left, "file")} in ${target} not ef's, or changed, and kept: ${first ?? "unreadable"}`);
  } catch (error) {
    warn(`cannot remove the copies on this node: ${reasonOf(error)}`);
  }
}

function secondsOf<K extends string>(args: Record<K, string | undefined>, name: K): number | undefined {
  const text = args[name];
  if (text === undefined) return undefined;
  const seconds = Number(text);
  if (text.trim() !== "" && seconds >= 0 && Number.isFinite(seconds)) return seconds;
  throw new EfError("USAGE", `ef exec --${name} ${text}: not a number of seconds`);
}
