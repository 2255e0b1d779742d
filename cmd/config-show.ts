import type { RawConfig } from "../lib/config/schema.ts";
import { checkConfig, configPath, readRaw } from "../lib/config/store.ts";
import { expandConfig, readText, unsetText } from "../lib/settings.ts";
import { command, type Output } from "./args.ts";
import { warn } from "./process.ts";

export default command({
  name: "config show",
  description: "Print the configuration",
  examples: [
    ["ef config show", "as it is written"],
    ["ef config show --expanded", "with defaults, and $VARS replaced by their values"],
  ],
  args: {
    expanded: { type: "boolean", description: "Fill in defaults, replace $VARS and ~ in paths where they are set" },
  },
  async run({ args }): Promise<Output> {
    const path = configPath();
    if (args.expanded) return expanded(path, args.json);
    if (args.json) return { json: { config: await readRaw(path), path }, text: "" };
    return { json: {}, text: await readText(path) };
  },
});

async function expanded(path: string, json: boolean): Promise<Output> {
  const filled: RawConfig = checkConfig(await readRaw(path), path);
  const { config, unset } = expandConfig(filled, process.env);
  if (!json) for (const one of unset) warn(unsetText(one));
  return { json: { config, path, unset }, text: `${JSON.stringify(config, null, 2)}\n` };
}
