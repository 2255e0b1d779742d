import { EfError } from "../lib/base/errors.ts";
import { Workspace } from "../lib/workspace.ts";
import { command } from "./args.ts";
import { forwardSignals, isInteractive, say, stopSignal } from "./process.ts";
import { filesystemArg, given, releasedJson, releasedTable } from "./ws.ts";

export default command({
  name: "ws restore",
  description: "List what was released or has expired and can be restored, or restore it",
  examples: [
    ["ef ws restore", "what there is"],
    ["ef ws restore anna-data-1660130185 data2", "move its files into the workspace data2, which is there"],
  ],
  args: {
    id: {
      type: "positional",
      valueHint: "ID",
      description: "As the list has it, or its name if only one had it",
      values: "released-workspaces",
    },
    target: {
      type: "positional",
      valueHint: "TARGET",
      description: "A workspace, which gets the files in a directory of their own",
      values: "workspaces",
    },
    ...filesystemArg,
  },
  async run({ args }) {
    const workspace = new Workspace({ signal: stopSignal() });
    const { id, target, filesystem } = args;
    if (id === undefined) {
      const all = await workspace.listExpired();
      return { json: { released: all.map(releasedJson) }, text: releasedTable(all) };
    }
    if (target === undefined)
      throw new EfError("USAGE", "TARGET is missing: the workspace that is to get the files", {
        hint: `make one: ef ws allocate NAME; then: ef ws restore ${id} NAME`,
      });
    if (!isInteractive())
      throw new EfError("NOT_INTERACTIVE", "ef ws restore: ws_restore wants a word typed by a person, on a terminal", {
        hint: "run it on a terminal",
      });
    const forward = forwardSignals;
    const restored = await workspace.restore(id, target, { ...given({ filesystem }), forward });
    if (!args.json) say(`${restored.id}: restored to ${restored.path}\n`);
    return { json: { ...restored, status: "restored" }, text: "" };
  },
});
