import { expiryText } from "../lib/scratch-workspace.ts";
import { Workspace } from "../lib/workspace.ts";
import { command } from "./args.ts";
import { stopSignal, warn } from "./process.ts";
import { filesystemArg, given, warnDays, workspaceJson, workspaceTable } from "./ws.ts";

export default command({
  name: "ws list",
  description: "List workspaces in the order of their ends; warn of what ends soon",
  args: {
    filesystem: { ...filesystemArg.filesystem, description: "Only those on this file system" },
    verbose: { type: "boolean", alias: "v", description: "In --json also the account, reminder and mail address" },
  },
  async run({ args }) {
    const days = await warnDays();
    const { filesystem, verbose } = args;
    const all = await new Workspace({ signal: stopSignal() }).list({ ...given({ filesystem }), verbose });
    const warnings = all.flatMap((each) => expiryText(each, days) ?? []);
    if (!args.json) for (const message of warnings) warn(message);
    return { json: { workspaces: all.map(workspaceJson), warnings }, text: workspaceTable(all) };
  },
});
