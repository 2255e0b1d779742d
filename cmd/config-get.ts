import { checkConfig, configPath, readRaw } from "../lib/config/store.ts";
import { getKey, noSuchKey, presentKeys } from "../lib/settings.ts";
import { command } from "./args.ts";

export default command({
  name: "config get",
  description: "Print one value of the configuration",
  examples: [
    ["ef config get vars.HF_HOME.source", "a text, as it is written"],
    ["ef config get vars", "anything else, as JSON"],
  ],
  args: {
    key: {
      type: "positional",
      valueHint: "KEY",
      required: true,
      description: "Dotted, e.g. vars.HF_HOME.source; one that the file leaves out has its default",
      values: "config-keys",
    },
  },
  async run({ args: { key } }) {
    const path = configPath();
    const raw = await readRaw(path);
    const written = getKey(raw, key);
    const filled = written === undefined ? checkConfig(raw, path) : raw;
    const value = getKey(filled, key);
    if (value === undefined) throw noSuchKey("get", key, presentKeys(filled));
    const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
    return { json: { key, value, is_default: written === undefined, path }, text: `${text}\n` };
  },
});
