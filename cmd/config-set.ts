import { configPath } from "../lib/config/store.ts";
import { expandConfig, getKey, setKey, unsetText, updateConfig } from "../lib/settings.ts";
import { command } from "./args.ts";
import { warn } from "./process.ts";

export default command({
  name: "config set",
  description: "Set one value of the configuration",
  examples: [
    ["ef config set vars.HF_HOME.source ~/.cache/huggingface", "manage one more variable"],
    ["ef config set scratch_base '$SCRATCH'", "in quotes: it is expanded when it is used"],
    ["ef config set vars.HF_HOME.enabled false", "JSON where that fits, else text"],
  ],
  args: {
    key: {
      type: "positional",
      valueHint: "KEY",
      required: true,
      description: "Dotted, e.g. vars.HF_HOME.source",
      values: "config-keys",
    },
    value: { type: "positional", valueHint: "VALUE", required: true, description: "JSON where that fits, else text" },
  },
  async run({ args: { key, value: text } }) {
    const path = configPath();
    let value: unknown;
    const change = (raw: Record<string, unknown>) => {
      const next = setKey(raw, key, text, path);
      value = getKey(next, key);
      return next;
    };
    const config = await updateConfig(path, change, { create: key === "scratch_base" });
    const unset = expandConfig(config, process.env).unset.filter((one) => one.key === key);
    for (const one of unset) warn(unsetText(one));
    return { json: { key, value, path }, text: "" };
  },
});
