import { EfError } from "../lib/base/errors.ts";
import { Workspace } from "../lib/workspace.ts";
import { command } from "./args.ts";
import { isInteractive, say, stopSignal } from "./process.ts";
import { filesystemArg, given, workspaceArg } from "./ws.ts";

export default command({
  name: "ws release",
  description: "Give a workspace back: it is gone from sight at once; asks first",
  args: {
    ...workspaceArg,
    ...filesystemArg,
    "delete-data": { type: "boolean", description: "Delete its files now, for good (since hpc-workspace 1.6)" },
    yes: { type: "boolean", alias: "y", description: "Release without a question" },
  },
  async run({ args }) {
    const workspace = new Workspace({ signal: stopSignal() });
    const { name } = args;
    const { path, filesystem } = await workspace.one(name, args.filesystem);
    const json = { id: name, path, filesystem, delete_data: args["delete-data"] };
    if (!args.yes) {
      if (args.json || !isInteractive())
        throw new EfError("NOT_INTERACTIVE", `ef ws release ${name}: there is nobody to ask before it is released`, {
          hint: "give --yes",
        });
      const { confirm } = await import("./ask.ts");
      const what = args["delete-data"] ? "and delete all its files now" : "(its files are deleted later, by the site)";
      if (!(await confirm(`Release ${path} ${what}?`, false)))
        return { json: { ...json, status: "aborted" }, text: "" };
    }
    await workspace.release(name, { ...given({ filesystem }), deleteData: args["delete-data"] });
    if (!args.json) {
      const back = args["delete-data"] ? "its files are deleted" : "as long as the site keeps its files: ef ws restore";
      say(`${name}: released; ${back}\n`);
    }
    return { json: { ...json, status: "released" }, text: "" };
  },
});
