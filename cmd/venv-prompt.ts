import { venvPrompt } from "../lib/venv-list.ts";
import { command } from "./args.ts";

export default command({
  name: "__venv-prompt",
  description: "What a prompt shows for the active environment, after a change",
  plain: true,
  args: {},
  async run() {
    const prompt = venvPrompt();
    return { json: {}, text: prompt === undefined ? "" : `${prompt}\n` };
  },
});
