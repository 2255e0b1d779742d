import { EfError } from "../lib/base/errors.ts";
import { quote } from "../lib/base/shell.ts";
import { humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { venvExport } from "../lib/venv-load.ts";
import { command } from "./args.ts";
import { stopSignal } from "./process.ts";
import { pythonArg, relocationJson, tellRelocation, venvProgress } from "./venv.ts";

export default command({
  name: "venv export",
  description: "Unpack a saved environment into a directory of your choice",
  examples: [["ef venv export torch2.1 --path ~/venvs/torch", "then: source ~/venvs/torch/bin/activate"]],
  args: {
    name: {
      type: "positional",
      valueHint: "NAME",
      required: true,
      description: "A saved environment",
      values: "saved-venvs",
    },
    path: { type: "string", valueHint: "DIR", description: "Where to; does not exist yet", values: "dir" },
    ...pythonArg,
  },
  async run({ args }) {
    if (args.path === undefined)
      throw new EfError("USAGE", "--path is missing: the directory to unpack it into", {
        hint: `ef venv export ${args.name} --path DIR`,
      });
    const startedMs = performance.now();
    const tell = venvProgress(args.json, "unpack");
    const made = await venvExport(await loadConfig(), args.name, args.path, {
      ...(args.python === undefined ? {} : { python: args.python }),
      signal: stopSignal(),
      onEvent: tell,
    });
    const { name, dir, python, files, bytes, relocation } = made;
    const seconds = (performance.now() - startedMs) / 1000;
    const what = `${plural(files, "file")}, ${sizeText(bytes)}, Python ${python}, ${humanDuration(seconds)}`;
    const how = `source ${quote("bash", `${dir}/bin/activate`)}`;
    tell({ type: "result", result: { name, text: `${name}: exported (${what}); activate it with: ${how}` } });
    if (!args.json) tellRelocation(name, relocation);
    return {
      json: { name, venv_path: dir, python, files, bytes, seconds, relocation: relocationJson(relocation) },
      text: "",
    };
  },
});
