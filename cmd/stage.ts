import { EfError, Exit } from "../lib/base/errors.ts";
import { humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { type StagedCopy, type StageEvent, type StageResult, spreads, stage } from "../lib/stage.ts";
import { type StageJobOptions, stageJob, stageJobPlan } from "../lib/stage-job.ts";
import { type UnstageResult, unstage } from "../lib/unstage.ts";
import { command, type Output, syncing } from "./args.ts";
import { paint, say, stopSignal, warn } from "./process.ts";
import { programArgv } from "./program.ts";

export default command({
  name: "stage",
  description: "In a Slurm job: copy caches to every node's own disk, reading them once",
  examples: [
    ["ef stage", "in a job script; then: srun ef exec --node-local -- CMD"],
    ["ef stage --var HF_HOME --json", "which node has what"],
    ["ef stage --remove", "at the end of a job script"],
    ["ef stage --job --nodelist=n[1-3] --time=30", "as a job of its own; prints its number"],
  ],
  rest: "SBATCH OPTIONS",
  args: {
    var: { ...syncing.var, description: "Only this variable; repeatable (default: those with node_local, else all)" },
    "dry-run": { type: "boolean", alias: "n", description: "Say which nodes need what, touch nothing" },
    force: syncing.force,
    keep: { type: "boolean", description: "Keep the copies when the job has ended, until ef stage --remove" },
    remove: {
      type: "boolean",
      description: "Take away what ef put on the nodes' own disks (in a job: on all its nodes)",
    },
    job: {
      type: "boolean",
      description: "Submit it as a job: what follows and is not ef's, or follows --, is sbatch's; implies --keep",
    },
    spread: {
      type: "enum",
      options: spreads,
      description:
        "From node to node: by connections (tree), by sbcast, or auto (default): sbcast where they cannot connect",
    },
    preflight: syncing.preflight,
    bwlimit: syncing.bwlimit,
  },
  async run({ args, rest }) {
    const what = {
      ...(args.var.length > 0 ? { only: args.var } : {}),
      program: programArgv(),
      signal: stopSignal(),
    };
    const how = {
      ...(args.bwlimit === undefined ? {} : { bwlimit: args.bwlimit }),
      force: args.force,
      preflight: args.preflight,
    };
    if (rest.length > 0 && !args.job)
      throw new EfError("USAGE", `ef stage: ${rest[0]}: options of sbatch are for --job`);
    const config = await loadConfig();
    if (args.job) return submitted({ ...what, ...how, options: rest }, args["dry-run"]);
    if (args.remove) return removed(await unstage(config, what), args);
    const result = await stage(config, {
      ...(args.spread === undefined ? {} : { spread: args.spread }),
      ...{ ...what, ...how, keep: args.keep, dryRun: args["dry-run"] },
      onEvent: args.json ? () => {} : tell(),
    });
    return { json: stageJson(result), text: "", code: result.errors.length > 0 ? Exit.failed : Exit.ok };
  },
});

async function submitted(options: StageJobOptions, dryRun: boolean): Promise<Output> {
  if (dryRun) {
    const { argv, script } = stageJobPlan(options);
    say(`${argv.join(" ")}\n${script}`);
    return { json: { dry_run: true, command_line: argv, script }, text: "" };
  }
  const job = await stageJob(options);
  return { json: { job }, text: `${job}\n` };
}

function removed({ copies, errors }: UnstageResult, { json }: { json: boolean }): Output {
  for (const { node, name, state, target, left, first, error } of json ? [] : copies) {
    const how = {
      removed: "removed",
      kept: `${plural(left, "file")} in ${target} not ef's, or changed, and kept: ${first}`,
      "in-use": `kept, as processes use it: ${target}`,
      failed: `${paint("red", "failed")}: ${error?.message}`,
    };
    say(`${node} ${name}: ${how[state]}\n`);
  }
  const results = copies.map(({ state, ...rest }) => ({ ...rest, status: state }));
  return { json: { results, errors }, text: "", code: errors.length > 0 ? Exit.failed : Exit.ok };
}

/** Seconds between two lines of progress. */
const logEveryS = 10;

function tell(): (event: StageEvent) => void {
  let lastAt = performance.now();
  return (event) => {
    switch (event.type) {
      case "warning":
        return warn(event.message);
      case "waiting":
        return say(`${[event.node, event.name].filter(Boolean).join(" ")}: waiting for ${event.who}\n`);
      case "spreading":
        return say(
          `${event.name}: ${event.why}; ${event.nodes[0]} reads it for ${plural(event.nodes.length, "node")}\n`,
        );
      case "progress": {
        if (performance.now() - lastAt < logEveryS * 1000) return;
        lastAt = performance.now();
        return say(`${event.node} ${event.name}: ${plural(event.files, "file")}, ${sizeText(event.bytes)}\n`);
      }
      case "result":
        return say(`${resultLine(event.result)}\n`);
    }
  };
}

function resultLine({ node, name, state, files, bytes, seconds, error }: StagedCopy): string {
  const of = `${node} ${name}`;
  if (state === "fresh") return `${of}: fresh`;
  if (state === "dry-run") return `${of}: would be copied`;
  if (state === "failed")
    return `${of}: ${paint("red", "failed")}: ${error?.message}${error?.hint ? `\n  ${error.hint}` : ""}`;
  const what = `${plural(files, "file")}, ${sizeText(bytes)}, ${humanDuration(seconds)}`;
  return `${of}: ${paint("green", "complete")} (${what})`;
}

const stageJson = ({ job, nodes, copies, warnings, errors }: StageResult) => ({
  job,
  nodes,
  results: copies.map(({ name, node, state, target, files, bytes, seconds, error }) => ({
    ...{ name, node, status: state, target, files, bytes, seconds },
    ...(error ? { error } : {}),
  })),
  warnings,
  errors,
});
