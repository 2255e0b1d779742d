import { configPath } from "../lib/config/store.ts";
import { unsetKey, updateConfig } from "../lib/settings.ts";
import { command } from "./args.ts";

export default command({
  name: "config unset",
  description: "Remove one key of the configuration, with all below it",
  examples: [["ef config unset vars.HF_HOME", "no longer manage a variable; no data is touched"]],
  args: {
    key: {
      type: "positional",
      valueHint: "KEY",
      required: true,
      description: "Dotted, e.g. vars.HF_HOME",
      values: "config-keys",
    },
  },
  async run({ args: { key } }) {
    const path = configPath();
    await updateConfig(path, (raw) => unsetKey(raw, key, path));
    return { json: { key, path }, text: "" };
  },
});
