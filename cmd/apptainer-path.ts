import { apptainerPath } from "../lib/apptainer-run.ts";
import { loadConfig } from "../lib/config/store.ts";
import { withWorkspaces } from "../lib/scratch-base.ts";
import { command } from "./args.ts";
import { warn } from "./process.ts";

export default command({
  name: "apptainer path",
  description: "Print where an image is: on scratch if that copy is whole, else in the store",
  examples: [['apptainer shell --nv "$(ef apptainer path train)"', "whichever is the better one"]],
  args: {
    image_name: {
      type: "positional",
      valueHint: "NAME",
      required: true,
      description: "An image that was built",
      values: "images",
    },
  },
  async run({ args }) {
    const config = await withWorkspaces(await loadConfig(), { missing: "leave" });
    const { path, from, warning } = apptainerPath(config, args.image_name);
    if (warning !== undefined && !args.json) warn(warning);
    return {
      json: { image_name: args.image_name, path, from, warnings: warning === undefined ? [] : [warning] },
      text: `${path}\n`,
    };
  },
});
