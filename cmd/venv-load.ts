import { EfError } from "../lib/base/errors.ts";
import { humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { venvFind, venvList } from "../lib/venv-list.ts";
import { venvLoad } from "../lib/venv-load.ts";
import { command } from "./args.ts";
import { say, stopSignal } from "./process.ts";
import {
  activate,
  dialectOf,
  failText,
  pythonArg,
  relocationJson,
  shellArgs,
  tellRelocation,
  venvProgress,
} from "./venv.ts";
import { savedJson, savedTable } from "./venv-table.ts";

export default command({
  name: "venv load",
  description: "Unpack a saved environment on this node's disk and activate it",
  examples: [
    ['eval "$(ef venv load torch2.1)"', "in a job script"],
    ["ef venv load", "list what there is"],
  ],
  args: {
    name: {
      type: "positional",
      valueHint: "NAME",
      description: "A saved environment (default: list them)",
      values: "saved-venvs",
    },
    as: { type: "string", valueHint: "NEW", description: "Another name for it on this node" },
    ...pythonArg,
    ...shellArgs,
  },
  onError: failText,
  async run({ args }) {
    const config = await loadConfig();
    if (args.name === undefined) {
      if (args.as !== undefined) throw new EfError("USAGE", "NAME is missing: what is to be loaded --as another name");
      const list = await venvList(config);
      if (!args.json) say(savedTable(list)); // stdout is for eval
      return { json: { store: list.store, saved: list.saved.map(savedJson) }, text: "" };
    }
    const startedMs = performance.now();
    const tell = venvProgress(args.json, "unpack");
    const loaded = await venvLoad(config, args.name, {
      ...(args.as === undefined ? {} : { as: args.as }),
      ...(args.python === undefined ? {} : { python: args.python }),
      signal: stopSignal(),
      onEvent: tell,
    });
    const { name, dir, python, files, bytes, relocation } = loaded;
    const seconds = (performance.now() - startedMs) / 1000;
    const what = `${plural(files, "file")}, ${sizeText(bytes)}, Python ${python}, ${humanDuration(seconds)}`;
    tell({ type: "result", result: { name, text: `${name}: loaded (${what}), ${dir}` } });
    if (!args.json) tellRelocation(name, relocation);
    return {
      json: {
        name,
        saved_as: args.name,
        venv_path: dir,
        python,
        files,
        bytes,
        seconds,
        relocation: relocationJson(relocation),
      },
      text: args.json ? "" : activate(dialectOf(args), venvFind(config, name)),
    };
  },
});
