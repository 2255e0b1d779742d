import { Workspace } from "../lib/workspace.ts";
import { command } from "./args.ts";
import { stopSignal } from "./process.ts";
import { filesystemArg, given, workspaceArg } from "./ws.ts";

export default command({
  name: "ws find",
  description: "Print the directory of a workspace",
  examples: [['cd "$(ef ws find data)"', "there"]],
  args: { ...workspaceArg, ...filesystemArg },
  async run({ args }) {
    const workspace = new Workspace({ signal: stopSignal() });
    const path = await workspace.find(args.name, given({ filesystem: args.filesystem }));
    if (path === undefined) throw await workspace.unknown(args.name);
    return { json: { id: args.name, path }, text: `${path}\n` };
  },
});
