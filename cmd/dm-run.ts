import { EfError } from "../lib/base/errors.ts";
import { start } from "../lib/base/exec.ts";
import { Datamover } from "../lib/datamover.ts";
import { moveInBackground } from "../lib/datamover-jobs.ts";
import { command, type Output } from "./args.ts";
import { commandLine } from "./dm.ts";
import { optionalConfig } from "./optional-config.ts";
import { say, stopSignal } from "./process.ts";
import { refuseChanged } from "./run-command.ts";

export default command({
  name: "dm run",
  description: "Run cp, mv, rm, ls, rsync, tar … on a data mover: ef dm cp -r A B",
  rest: "TOOL [ARGS…]",
  programs: ["cp", "ls", "mv", "rm", "rsync", "tar", "wget"],
  examples: [
    ["ef dm ls -lh /archive/project", "what this node does not mount"],
    ["ef dm cp -r /archive/project/data /scratch/me/", "all after the tool's name is the tool's"],
    ["ef dm --background rsync -a /scratch/me/out /archive/project/", "prints the number of a job, for: ef dm wait"],
    ["ef dm --partition dtn -v tar -cf /archive/out.tar /scratch/me/out", "ef's own options come before the tool"],
  ],
  args: {
    background: { type: "boolean", description: "Submit a job, print its number and do not wait" },
    partition: {
      type: "string",
      valueHint: "NAME",
      description: "Partition of the data movers, also where there are dt* tools (default: ef.datamover.partition)",
    },
    account: { type: "string", valueHint: "NAME", description: "Account of the job (default: ef.datamover.account)" },
    time: { type: "string", valueHint: "TIME", description: "Time limit of the job (default: ef.datamover.time)" },
    verbose: { type: "boolean", alias: "v", description: "Say on stderr what is run, and where" },
    "dry-run": { type: "boolean", alias: "n", description: "Print the command line, run nothing" },
  },
  async run({ args, rest }): Promise<Output> {
    const [tool, ...toolArgs] = rest;
    if (!tool) throw new EfError("USAGE", "ef dm: there is no tool to run", { hint: "write: ef dm cp -r FROM TO" });
    refuseChanged(rest, "ef dm");
    if (args.json && !args.background && !args["dry-run"]) {
      throw new EfError("USAGE", "ef dm --json: stdout is that of the tool", {
        hint: "give --background or --dry-run; arguments of the tool come after its name",
      });
    }
    const { partition, account, time } = args;
    const dm = Datamover.fromConfig(await optionalConfig(), {
      ...{ partition, account, time },
      ...(partition === undefined ? {} : { form: "srun" }),
      onCommand: args.verbose ? (argv) => say(`ef dm: ${commandLine(argv, "bash")}\n`) : undefined,
    });
    if (args["dry-run"]) {
      const argv = args.background
        ? (await dm.inBackground(tool, toolArgs, stopSignal())).shown
        : (await dm.prepare(tool, toolArgs, stopSignal())).argv;
      return { json: { argv }, text: `${commandLine(argv, "bash")}\n` };
    }
    if (!args.background) return { json: {}, text: "", code: await foreground(dm, tool, toolArgs, args.verbose) };
    const { id, partition: used, output } = await moveInBackground(dm, tool, toolArgs, stopSignal());
    if (args.verbose) say(`ef dm: job ${id}; output: ${output}\n`);
    return { json: { job_id: id, partition: used, output }, text: `${id}\n` };
  },
});

/** @returns the exit code of the tool */
async function foreground(dm: Datamover, tool: string, args: readonly string[], verbose: boolean): Promise<number> {
  const proc = dm.start(tool, args, {
    stdin: readsStdin(args) ? "inherit" : "ignore",
    stdout: "inherit",
    signal: stopSignal(),
  });
  // Byte for byte, whatever names are in it; a program, as our own stderr is for text.
  const out = start(["cat"], { stdin: "pipe", stdout: 2 });
  if (out.stdin) {
    proc.stderr.pipe(out.stdin);
    out.stdin.once("close", () => proc.stderr.resume()); // nobody reads it any more: the tool goes on
  }
  try {
    const code = await proc.wait();
    if (verbose && proc.jobId !== undefined) say(`ef dm: job ${proc.jobId}${proc.node ? ` on ${proc.node}` : ""}\n`);
    return code;
  } finally {
    await out.done.catch(() => {}); // whoever read our stderr has gone
  }
}

/** Is it told to read its stdin? Else it gets none: in a loop over the lines of a file it would eat the others. */
const readsStdin = (args: readonly string[]): boolean =>
  args.some((arg) => /^(?:--[\w-]+=)?(?:-|\/dev\/stdin)$/.test(arg));
