import { nearest } from "../lib/base/nearest.ts";
import { tilde } from "../lib/base/paths.ts";
import { plural } from "../lib/base/units.ts";
import { type RawConfig, unknownKeys } from "../lib/config/schema.ts";
import { checkConfig, configPath, readRaw } from "../lib/config/store.ts";
import { badPaths, expandConfig, knownKeys, unsetText } from "../lib/settings.ts";
import { command } from "./args.ts";
import { warn } from "./process.ts";

export default command({
  name: "config validate",
  description: "Check the configuration",
  args: {},
  async run({ args }) {
    const path = configPath();
    const raw = await readRaw(path);
    const config = checkConfig(raw, path);
    const warnings = [
      ...unknownKeys(raw).map((key) => unknownText(key, raw)),
      ...badPaths(raw),
      ...expandConfig(config, process.env).unset.map(unsetText),
    ];
    if (!args.json) for (const warning of warnings) warn(warning);
    const count = Object.keys(config.vars).length;
    return { json: { path, warnings }, text: `${tilde(path, process.env)}: ok (${plural(count, "variable")})\n` };
  },
});

function unknownText(key: string, raw: RawConfig): string {
  const near = nearest(key, knownKeys(raw));
  return `unknown key ${key}${near ? ` (did you mean ${near}?)` : ""}: it is kept, and has no effect`;
}
