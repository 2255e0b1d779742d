import { EfError } from "../lib/base/errors.ts";
import { humanBytes, plural, sizeText } from "../lib/base/units.ts";
import { type Resources, type SubmitOptions, submit, submitPlan } from "../lib/submit.ts";
import { type Args, command, type Output } from "./args.ts";
import { commandLine } from "./dm.ts";
import { followJob } from "./follow.ts";
import { recordJson } from "./jobs.ts";
import { optionalConfig } from "./optional-config.ts";
import { pack, packing } from "./packing.ts";
import { say, stopSignal, warn } from "./process.ts";
import { programArgv } from "./program.ts";
import { given } from "./ws.ts";

/** What a job of Slurm asks for. */
const resources = {
  nodes: { type: "string", valueHint: "N", description: "Nodes of the job" },
  time: { type: "string", valueHint: "TIME", description: "Its time limit, as sbatch --time" },
  gpus: { type: "string", valueHint: "GPUS", description: "Its GPUs, as sbatch --gpus: 2, a100:1" },
  cpus: { type: "string", valueHint: "N", description: "Processors of a task" },
  memory: { type: "string", valueHint: "SIZE", description: "Memory of a node, as sbatch --mem: 16G" },
  partition: { type: "string", valueHint: "NAME", description: "Partition" },
  account: { type: "string", valueHint: "NAME", description: "Account" },
  qos: { type: "string", valueHint: "NAME", description: "Quality of service" },
} as const satisfies Args;

export default command({
  name: "submit",
  description: "Run a function or script on a cluster: send it, follow it, bring back its result",
  rest: "SBATCH OPTIONS",
  examples: [
    ["ef submit analysis.py:main --cluster euler --gpus 1 --time 30", "prints the result as JSON"],
    ["ef submit analysis.py:main --args '[3, 4]' --cluster local", "on this machine"],
    ["ef submit train-3f9a2c1b45d60718.zip --cluster euler --venv torch2.1", "a package, in a saved environment"],
    ["id=$(ef submit train.py:main --cluster euler --detach)", "later: ef jobs wait $id"],
  ],
  args: {
    target: {
      type: "positional",
      valueHint: "PACKAGE|FILE.py:FUNCTION|FILE.ts",
      required: true,
      description: "A package of ef pack, or what is to be packed",
      values: "file",
    },
    cluster: {
      type: "string",
      valueHint: "NAME",
      description: "One of ef.clusters, or local (default: the only one)",
      values: "clusters",
    },
    venv: {
      type: "string",
      valueHint: "NAME",
      description:
        "Run in this saved environment, or in this directory there (default: one made of the package's pins)",
      values: "saved-venvs",
    },
    image: {
      type: "string",
      valueHint: "NAME",
      description: "Run in this image of ef apptainer, or in this file there",
      values: "images",
    },
    detach: { type: "boolean", description: "Print the id of the job and do not wait" },
    quiet: { type: "boolean", alias: "q", description: "Do not show what the job prints" },
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be sent and run, send nothing" },
    ...packing,
    ...resources,
  },
  async run({ args, rest }): Promise<Output> {
    const config = await optionalConfig();
    const { packagePath, sizeBytes, metadata } = await pack(args.target, args);
    for (const { file, lineno, message } of args.json ? [] : metadata.warnings)
      warn(`${file.replace(/^files\//, "")}:${lineno}: ${message}`);
    const { cluster, venv, image } = args;
    const options: SubmitOptions = {
      ...given({ cluster, venv, image }),
      resources: resourcesOf(args),
      sbatchArgs: rest,
      program: programArgv(),
      signal: stopSignal(),
      onEvent: (event) => {
        if (event.type === "warning") warn(event.message);
        else if (event.type === "output") say(event.text);
        else if (event.type === "shipping") say(`sending ${event.what} (${humanBytes(event.bytes)})\n`);
        else say(`making an environment of ${plural(event.packages, "package")} in ${event.dir}\n`);
      },
    };
    if (args["dry-run"]) {
      const plan = await submitPlan(config, packagePath, options);
      const { cluster: name, definition, argv, packages } = plan;
      const words = argv.length > 0 ? `\n${commandLine(argv, "bash")}` : "";
      if (!args.json)
        say(`${packagePath} (${sizeText(sizeBytes)}) to ${name} (${definition.host ?? "this machine"})${words}\n`);
      return { json: { dry_run: true, package_path: packagePath, cluster: name, argv, packages }, text: "" };
    }
    const record = await submit(config, packagePath, options);
    if (args.detach) return { json: { job: recordJson(record) }, text: `${record.id}\n` };
    if (!args.json)
      say(`${record.id}: on ${record.cluster}${record.slurm_id ? `, Slurm job ${record.slurm_id}` : ""}\n`);
    return followJob(record, { json: args.json, quiet: args.quiet });
  },
});

function resourcesOf(args: Record<keyof typeof resources, string | undefined>): Resources {
  const { time, gpus, memory, partition, account, qos } = args;
  return given({
    ...{ time, gpus, memory, partition, account, qos },
    nodes: count(args, "nodes"),
    cpus: count(args, "cpus"),
  });
}

function count(args: Record<string, string | undefined>, name: string): number | undefined {
  const text = args[name];
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new EfError("USAGE", `ef submit --${name} ${text}: not a whole number from 1`);
}
