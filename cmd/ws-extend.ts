import { EfError } from "../lib/base/errors.ts";
import { leftText } from "../lib/scratch-workspace.ts";
import { Workspace } from "../lib/workspace.ts";
import { command } from "./args.ts";
import { say, stopSignal, warn } from "./process.ts";
import { daysOf, filesystemArg, given, noticeArgs, noticeOf, workspaceArg, workspaceJson } from "./ws.ts";

export default command({
  name: "ws extend",
  description: "Let a workspace last for so many days from now; uses up an extension",
  args: {
    ...workspaceArg,
    days: { type: "positional", valueHint: "DAYS", required: true, description: "From now on" },
    ...filesystemArg,
    ...noticeArgs,
  },
  async run({ args }) {
    const workspace = new Workspace({ signal: stopSignal() });
    const { name } = args;
    const place = given({ filesystem: args.filesystem });
    const days = daysOf(args.days, "DAYS");
    if (days === undefined) throw new EfError("USAGE", "DAYS is missing: how long it is to last from now on");
    const { path, warnings } = await workspace.extend(name, days, { ...place, ...noticeOf(args) });
    const info = (await workspace.list({ name, ...place }).catch(() => [])).find((each) => each.path === path);
    if (!args.json) {
      for (const message of warnings) warn(message);
      const left = info
        ? `${leftText(info.remainingS)} left, extensions left: ${info.extensionsLeft ?? "?"}`
        : "extended";
      say(`${name}: ${left}\n`);
    }
    return { json: { ...(info ? workspaceJson(info) : { id: name, path }), warnings }, text: "" };
  },
});
