import { existsSync } from "node:fs";
import { configPath } from "../lib/config/store.ts";
import { command } from "./args.ts";

export default command({
  name: "config path",
  description: "Print where the configuration is",
  args: {},
  async run() {
    const path = configPath();
    return { json: { path, exists: existsSync(path) }, text: `${path}\n` };
  },
});
