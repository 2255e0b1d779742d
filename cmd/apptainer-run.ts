import { apptainerRun } from "../lib/apptainer-run.ts";
import { quote } from "../lib/base/shell.ts";
import { loadConfig } from "../lib/config/store.ts";
import { command, common, type Output } from "./args.ts";
import { warn } from "./process.ts";
import { refuseChanged, runCommand } from "./run-command.ts";

export default command({
  name: "apptainer run",
  description: "Run an image, from scratch if its copy there is whole, with the GPUs of this node",
  rest: "[ARGS…]",
  plain: true,
  examples: [
    ["ef apptainer run train -- train.py --model large", "the image's Python runs train.py"],
    ["ef apptainer run train -- -m pip list", "what is in it"],
    ["ef apptainer run train --dry-run -- train.py", "only print the command line"],
  ],
  args: {
    image_name: {
      type: "positional",
      valueHint: "NAME",
      required: true,
      description: "An image that was built",
      values: "images",
    },
    "dry-run": { type: "boolean", alias: "n", description: "Print the command line, run nothing" },
    "input-json": common["input-json"],
  },
  async run({ args, rest }): Promise<Output> {
    refuseChanged(rest, "ef apptainer run");
    const { argv, warning } = await apptainerRun(await loadConfig(), args.image_name, rest);
    if (warning !== undefined) warn(warning);
    if (args["dry-run"]) return { json: {}, text: `${argv.map((arg) => quote("bash", arg)).join(" ")}\n` };
    return { json: {}, text: "", code: await runCommand(argv, process.env, {}) };
  },
});
