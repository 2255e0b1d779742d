import { leftText } from "../lib/scratch-workspace.ts";
import { Workspace } from "../lib/workspace.ts";
import { command } from "./args.ts";
import { say, stopSignal, warn } from "./process.ts";
import { daysOf, filesystemArg, given, noticeArgs, noticeOf, workspaceJson } from "./ws.ts";

export default command({
  name: "ws allocate",
  description: "Make a workspace, or find the one of that name; print its directory",
  examples: [['cd "$(ef ws allocate data 30)"', "for 30 days; the one that is there, if there is one"]],
  args: {
    name: { type: "positional", valueHint: "NAME", required: true, description: "Its name" },
    days: { type: "positional", valueHint: "DAYS", description: "How long it lasts (default: the site's, often 1)" },
    ...filesystemArg,
    ...noticeArgs,
    group: { type: "string", alias: "G", valueHint: "GROUP", description: "A group that may write there" },
  },
  async run({ args }) {
    const workspace = new Workspace({ signal: stopSignal() });
    const { name, filesystem, group } = args;
    const options = { ...given({ days: daysOf(args.days, "DAYS"), filesystem, group }), ...noticeOf(args) };
    const { path, created, warnings } = await workspace.allocate(name, options);
    // Only for what is said of it: it is there.
    const all = await workspace.list({ name, ...given({ filesystem }) }).catch(() => []);
    const info = all.find((each) => each.path === path);
    if (!args.json) {
      for (const message of warnings) warn(message);
      const left = info ? `, ${leftText(info.remainingS)} left` : "";
      say(`${name}: ${created ? "made" : "it was there, and is as it was"}${left}\n`);
    }
    return { json: { ...(info ? workspaceJson(info) : { id: name, path }), created, warnings }, text: `${path}\n` };
  },
});
