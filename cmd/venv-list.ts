import { loadConfig } from "../lib/config/store.ts";
import { venvList } from "../lib/venv-list.ts";
import { command } from "./args.ts";
import { savedJson, savedTable } from "./venv-table.ts";

export default command({
  name: "venv list",
  description: "List saved environments, and whether this node can run them",
  args: {},
  async run() {
    const list = await venvList(await loadConfig());
    return { json: { store: list.store, saved: list.saved.map(savedJson) }, text: savedTable(list) };
  },
});
