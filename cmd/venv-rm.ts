import { EfError } from "../lib/base/errors.ts";
import { sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { venvRemove, venvSaved } from "../lib/venv-list.ts";
import { command } from "./args.ts";
import { isInteractive, say, stopSignal } from "./process.ts";
import { venvProgress } from "./venv.ts";

export default command({
  name: "venv rm",
  description: "Delete a saved environment; asks first",
  args: {
    name: {
      type: "positional",
      valueHint: "NAME",
      required: true,
      description: "A saved environment",
      values: "saved-venvs",
    },
    yes: { type: "boolean", alias: "y", description: "Delete without a question" },
  },
  async run({ args }) {
    const config = await loadConfig();
    const { name, archive, size } = venvSaved(config, args.name);
    if (!args.yes) {
      if (args.json || !isInteractive())
        throw new EfError("NOT_INTERACTIVE", `ef venv rm ${name}: there is nobody to ask before it is deleted`, {
          hint: "give --yes",
        });
      const { confirm } = await import("./ask.ts");
      if (!(await confirm(`Delete ${archive} (${sizeText(size)})?`, false)))
        return { json: { name, archive, size, status: "aborted" }, text: "" };
    }
    await venvRemove(config, name, { signal: stopSignal(), onEvent: venvProgress(args.json, "unpack") });
    if (!args.json) say(`${name}: deleted (${sizeText(size)})\n`);
    return { json: { name, archive, size, status: "deleted" }, text: "" };
  },
});
