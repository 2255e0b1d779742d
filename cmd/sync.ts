import { Exit } from "../lib/base/errors.ts";
import { dialects, exportText, parentDialect } from "../lib/base/shell.ts";
import { loadConfig } from "../lib/config/store.ts";
import type { TransferPlan } from "../lib/engine/engine.ts";
import { type SyncResult, sync } from "../lib/sync.ts";
import { command, syncing } from "./args.ts";
import { say, stopSignal } from "./process.ts";
import { syncProgress } from "./progress.ts";
import { transferFlags } from "./transfer.ts";

export default command({
  name: "sync",
  description: "Copy caches to scratch and print the exports to eval",
  examples: [
    ['eval "$(ef sync)"', "in a job script"],
    ["ef sync --dry-run", "what would be copied"],
    ["ef sync --var HF_HOME --force", "compare one variable now, fresh or not"],
  ],
  args: {
    var: syncing.var,
    "dry-run": {
      type: "boolean",
      alias: "n",
      description: "Say what would be copied, touch nothing, print no exports",
    },
    force: syncing.force,
    "node-local": syncing["node-local"],
    verbose: { type: "boolean", alias: "v", description: "Name every file that changes" },
    shell: {
      type: "enum",
      options: dialects,
      description: "Syntax of the exports (default: that of the calling shell)",
    },
    fail: {
      type: "boolean",
      default: true,
      description: "Leave out the last statement that makes the eval fail after an error",
    },
    preflight: syncing.preflight,
    workers: syncing.workers,
    bwlimit: syncing.bwlimit,
  },
  onError: (rawArgs) =>
    rawArgs.some((arg) => arg === "--no-fail" || arg === "--dry-run" || arg === "-n")
      ? ""
      : exportText(dialectIn(rawArgs), {}, true),
  async run({ args }) {
    const tell = syncProgress({ quiet: args.json, names: args.verbose ? "all" : args["dry-run"] ? "first" : "none" });
    const result = await sync(await loadConfig(), {
      only: args.var,
      force: args.force,
      dryRun: args["dry-run"],
      allNames: args.verbose,
      ...(args["node-local"] ? { nodeLocal: true } : {}),
      preflight: args.preflight,
      ...transferFlags(args),
      signal: stopSignal, // a function: the handlers take a millisecond, and a fresh sync needs none
      onEvent: tell,
    });
    if (result.steps.length === 0 && !args.json)
      say("no variables to sync: add one with ef init, or ef config set vars.NAME.source DIR\n");
    const failed = result.errors.length > 0;
    return {
      json: syncJson(result, args),
      text: args["dry-run"]
        ? ""
        : exportText(
            args.shell ?? parentDialect(process.ppid),
            { ...result.env, ...result.exports },
            failed && args.fail,
          ),
      code: failed ? Exit.failed : Exit.ok,
    };
  },
});

/** The dialect to fail in when the arguments may not even be valid. */
function dialectIn(rawArgs: readonly string[]) {
  const at = rawArgs.findIndex((arg) => arg === "--shell" || arg.startsWith("--shell="));
  const named = rawArgs[at]?.startsWith("--shell=") ? rawArgs[at]?.slice("--shell=".length) : rawArgs[at + 1];
  return dialects.find((dialect) => at >= 0 && dialect === named) ?? parentDialect(process.ppid);
}

const planJson = ({ files, bytes, purged, deleted, names, skipped, kept }: TransferPlan) => ({
  ...{ files, bytes, purged, deleted, names, skipped, kept },
});

/** The shape of euler-files, and what ef adds. */
function syncJson(result: SyncResult, args: { "dry-run": boolean; force: boolean; verbose: boolean; var: string[] }) {
  return {
    dry_run: args["dry-run"],
    force: args.force,
    verbose: args.verbose,
    only_vars: args.var,
    scratch_base: result.scratchBase,
    results: result.steps
      .filter(({ status }) => status !== "failed")
      .map(({ name, status, source, target, plan, seconds }) => ({
        name,
        status,
        source,
        target,
        seconds,
        ...(plan ? planJson(plan) : {}),
      })),
    exports: result.exports,
    env: result.env,
    warnings: result.warnings,
    errors: result.errors,
    failures: result.steps.flatMap(({ name, error }) =>
      error ? [{ name, code: error.code, message: error.message, hint: error.hint, path: error.path }] : [],
    ),
  };
}
