import { venvFind, venvLive } from "../lib/venv-list.ts";
import { command } from "./args.ts";
import { optionalConfig } from "./optional-config.ts";
import { say } from "./process.ts";
import { activate, dialectOf, failText, shellArgs } from "./venv.ts";
import { liveJson, liveTable } from "./venv-table.ts";

export default command({
  name: "venv activate",
  description: "Activate an environment that was made or loaded on this node",
  examples: [
    ['eval "$(ef venv activate torch2.1)"', "with the shell function: ef venv activate torch2.1"],
    ["ef venv activate", "list what there is"],
  ],
  args: {
    name: {
      type: "positional",
      valueHint: "NAME",
      description: "An environment on this node (default: list them)",
      values: "live-venvs",
    },
    ...shellArgs,
  },
  onError: failText,
  async run({ args }) {
    if (args.name === undefined) {
      const live = await venvLive();
      if (!args.json) say(liveTable(live)); // stdout is for eval
      return { json: { live: live.map(liveJson) }, text: "" };
    }
    const live = venvFind(await optionalConfig(), args.name);
    return {
      json: { name: live.name, venv_path: live.dir, changed: live.changed },
      text: args.json ? "" : activate(dialectOf(args), live),
    };
  },
});
