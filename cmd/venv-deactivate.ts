import { deactivationText } from "../lib/envs/activation.ts";
import { command } from "./args.ts";
import { say, stdoutIsTerminal } from "./process.ts";
import { dialectOf, evalText, failText, shellArgs } from "./venv.ts";

export default command({
  name: "venv deactivate",
  description: "End the active environment",
  examples: [['eval "$(ef venv deactivate)"', "with the shell function: ef venv deactivate"]],
  args: shellArgs,
  onError: failText,
  async run({ args }) {
    const { VIRTUAL_ENV: dir, PATH = "" } = process.env;
    const json = { venv_path: dir || null };
    const shell = dialectOf(args);
    const tell = (text: string) => args.json || say(`${text}\n`);
    if (!dir) tell("no environment is active");
    else if (stdoutIsTerminal()) tell(`still active: ${evalText(shell, "ef venv deactivate")}`);
    if (!dir || stdoutIsTerminal()) return { json, text: "" };
    const path = PATH.split(":").filter((entry) => entry !== `${dir}/bin`);
    return { json, text: deactivationText(shell, path.join(":")) };
  },
});
