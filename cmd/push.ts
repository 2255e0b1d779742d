import { EfError, Exit } from "../lib/base/errors.ts";
import { humanCount, humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import type { Deletions } from "../lib/engine/bring-back.ts";
import type { PushSummary } from "../lib/engine/push-summary.ts";
import { onConflicts, type PushEvent, type PushResult, type PushVar, push } from "../lib/push.ts";
import { command, syncing } from "./args.ts";
import { isInteractive, paint, say, stopSignal } from "./process.ts";
import { type Copying, type ProgressOptions, progress } from "./progress.ts";
import { transferFlags } from "./transfer.ts";

export default command({
  name: "push",
  description: "Bring back what jobs changed on scratch",
  examples: [
    ["ef push", "at the end of a job script"],
    ["ef push --dry-run --verbose", "what would be pushed"],
    ["ef push --var HF_HOME --delete", "deletions too"],
  ],
  args: {
    var: syncing.var,
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be pushed, touch nothing" },
    "on-conflict": {
      type: "enum",
      options: onConflicts,
      description: "A file that changed on both sides: keep both (default), the one of source or scratch, or fail",
    },
    delete: { type: "boolean", description: "Delete at the source what was deleted on scratch; asks first" },
    yes: { type: "boolean", alias: "y", description: "Delete without a question, also more than half of a tree" },
    verbose: { type: "boolean", alias: "v", description: "Name every file that changes" },
    "node-local": { ...syncing["node-local"], description: "Push the copies on this node's own disk" },
    preflight: syncing.preflight,
    workers: syncing.workers,
    bwlimit: syncing.bwlimit,
  },
  async run({ args }) {
    const dryRun = args["dry-run"];
    if (args.delete && !args.yes && !dryRun && (args.json || !isInteractive()))
      throw new EfError("NOT_INTERACTIVE", "ef push --delete: there is nobody to ask before files are deleted", {
        hint: "look with --dry-run --verbose, then give --yes",
      });
    const onConflict = args["on-conflict"];
    const result = await push(await loadConfig(), {
      only: args.var,
      dryRun,
      ...(args["node-local"] ? { nodeLocal: true } : {}),
      delete: args.delete,
      yes: args.yes,
      ...(isInteractive() ? { confirm: askToDelete } : {}),
      ...(onConflict === undefined ? {} : { onConflict }),
      allNames: args.verbose,
      preflight: args.preflight,
      ...transferFlags(args),
      signal: stopSignal(),
      onEvent: pushProgress({ quiet: args.json, names: args.verbose ? "all" : dryRun ? "first" : "none" }),
    });
    if (result.vars.length === 0 && !args.json)
      say("no variables to push: add one with ef init, or ef config set vars.NAME.source DIR\n");
    return {
      json: pushJson(result, dryRun, args.var),
      text: "",
      code: result.errors.length > 0 ? Exit.failed : Exit.ok,
    };
  },
});

async function askToDelete({ name, source, count, names }: Deletions): Promise<boolean> {
  const more = count > names.length ? `\n    and ${plural(count - names.length, "other")}` : "";
  say(`${name}: deleted on scratch:${names.map((each) => `\n    ${each}`).join("")}${more}\n`);
  const { confirm } = await import("./ask.ts");
  return confirm(`Delete ${plural(count, "file")} in ${source}?`, false);
}

export const pushProgress = (options: ProgressOptions): ((event: PushEvent) => void) =>
  progress<Copying<PushEvent>, PushVar>(options, {
    copying: ({ plan }) => changes(plan),
    result: resultLine,
    inJob: "sbatch --wrap 'ef push'",
  });

/** `3 files, 12M to push`. */
function changes(plan: PushSummary): string {
  const { files, bytes, links, symlinks, attributes, newInodes, deleted, conflicts } = plan;
  const made = files === 0 && newInodes > 0;
  const parts = [
    ...(files > 0 ? [`${plural(files, "file")}, ${sizeText(bytes)} to push`] : []),
    ...(made ? [`${plural(newInodes, "directory or link", "directories or links")} to make`] : []),
    ...(files === 0 && newInodes === 0 && symlinks > 0 ? [`${plural(symlinks, "symbolic link")} to make`] : []),
    ...(files === 0 && links > 0 ? [`${plural(links, "hard link")} to make`] : []),
    ...(attributes > 0 ? [`permissions of ${plural(attributes, "file")} to set`] : []),
    ...(deleted > 0 ? [`${humanCount(deleted)} to delete`] : []),
    ...(conflicts.length > 0 ? [plural(conflicts.length, "conflict")] : []),
  ];
  return parts.join(", ") || "nothing to push";
}

function resultLine({ name, source, status, plan, later, error, seconds }: PushVar): string {
  const why = error ? `\n${name}: ${paint("red", error.message)}${error.hint ? `\n  ${error.hint}` : ""}` : "";
  switch (status) {
    case "pushed": {
      const what = plan && plan.files > 0 ? `${plural(plan.files, "file")}, ${sizeText(plan.bytes)}` : "no file";
      const deleted = plan?.deleted ? `, ${humanCount(plan.deleted)} deleted` : "";
      const rest = later ? `; ${humanCount(later)} for later: being written, or changed on both sides` : "";
      const word = error ? paint("yellow", "pushed in part") : paint("green", "pushed");
      return `${name}: ${word} (${what}${deleted}, ${humanDuration(seconds)})${rest}${why}`;
    }
    case "scratch-missing":
      return `${name}: nothing on scratch`;
    case "dry-run":
      return `${name}: would be pushed to ${source}${why}`;
    case "failed":
      return `${name}: ${paint("red", "failed")}: ${error?.message}${error?.hint ? `\n  ${error.hint}` : ""}`;
  }
}

const planJson = ({ files, bytes, conflicts, deleted, names, skipped }: PushSummary) => ({
  ...{ files, bytes, conflicts, deleted, names, skipped },
});

/** The shape of euler-files, and what ef adds. */
function pushJson({ vars, warnings, errors }: PushResult, dryRun: boolean, only: readonly string[]) {
  return {
    dry_run: dryRun,
    only_vars: only,
    results: vars
      .filter(({ status }) => status !== "failed")
      .map(({ name, status, source, scratch, plan, seconds }) => ({
        ...{ name, status, source, scratch, seconds },
        ...(plan ? planJson(plan) : {}),
      })),
    warnings,
    errors,
    failures: vars.flatMap(({ name, error }) =>
      error ? [{ name, code: error.code, message: error.message, hint: error.hint, path: error.path }] : [],
    ),
  };
}
