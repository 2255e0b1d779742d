import { deactivationText } from "../lib/envs/activation.ts";
import { command } from "./args.ts";
import { say } from "./process.ts";
import { dialectOf, failText, shellArgs } from "./venv.ts";

export default command({
  name: "venv deactivate",
  description: "End the active environment",
  examples: [['eval "$(ef venv deactivate)"', "with the shell function: ef venv deactivate"]],
  args: shellArgs,
  onError: failText,
  async run({ args }) {
    const { VIRTUAL_ENV: dir, PATH = "" } = process.env;
    if (!dir && !args.json) say("no environment is active\n");
    const path = PATH.split(":").filter((entry) => entry !== `${dir}/bin`);
    return { json: { venv_path: dir ?? null }, text: dir ? deactivationText(dialectOf(args), path.join(":")) : "" };
  },
});
