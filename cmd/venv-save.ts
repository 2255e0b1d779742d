import { humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { venvSave } from "../lib/venv-save.ts";
import { command } from "./args.ts";
import { stopSignal } from "./process.ts";
import { venvProgress } from "./venv.ts";

export default command({
  name: "venv save",
  description: "Save an environment as one archive in ef.venv_store",
  examples: [
    ["ef venv save torch2.1", "the active one"],
    ["ef venv save -f torch2.1 --venv ~/venvs/torch", "another one, over what is saved of that name"],
  ],
  args: {
    name: {
      type: "positional",
      valueHint: "NAME",
      description: "Its name there (default: the one it has)",
      values: "saved-venvs",
    },
    force: { type: "boolean", alias: "f", description: "Replace what is saved of that name" },
    venv: {
      type: "string",
      valueHint: "DIR",
      description: "The environment (default: the active one, $VIRTUAL_ENV)",
      values: "dir",
    },
  },
  async run({ args }) {
    const startedMs = performance.now();
    const tell = venvProgress(args.json, "pack");
    const saved = await venvSave(await loadConfig(), args.name, {
      force: args.force,
      ...(args.venv === undefined ? {} : { dir: args.venv }),
      signal: stopSignal(),
      onEvent: tell,
    });
    const { name, dir, archive, description, warnings } = saved;
    const seconds = (performance.now() - startedMs) / 1000;
    const what = `${plural(description.packages.length, "package")}, ${sizeText(description.content_bytes)} in ${sizeText(description.size)}`;
    tell({ type: "result", result: { name, text: `${name}: saved (${what}, ${humanDuration(seconds)}), ${archive}` } });
    return { json: { ...description, venv_path: dir, archive, seconds, warnings }, text: "" };
  },
});
