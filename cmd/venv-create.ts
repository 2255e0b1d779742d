import { EfError } from "../lib/base/errors.ts";
import { isVersion } from "../lib/envs/names.ts";
import { venvCreate } from "../lib/venv-create.ts";
import { venvFind } from "../lib/venv-list.ts";
import { command } from "./args.ts";
import { optionalConfig } from "./optional-config.ts";
import { stopSignal } from "./process.ts";
import { activate, dialectOf, failText, shellArgs, venvProgress } from "./venv.ts";

export default command({
  name: "venv create",
  description: "Make an environment on this node's disk and activate it",
  examples: [['eval "$(ef venv create torch2.1 3.11)"', "with the shell function: ef venv create torch2.1 3.11"]],
  args: {
    names: {
      type: "positional",
      multiple: true,
      valueHint: "[NAME] [3.x]",
      description: "Its name (default: venv, venv1, …), and the version of Python; in any order",
      input: "names",
    },
    python: {
      type: "string",
      alias: "p",
      valueHint: "PYTHON",
      description: "Version (3.11), name or path of the Python",
    },
    offline: { type: "boolean", description: "No network (default: where the index does not answer)" },
    ...shellArgs,
  },
  onError: failText,
  async run({ args }) {
    const name = args.names.find((word) => !isVersion(word));
    const version = args.names.find(isVersion);
    const others = args.names.filter((word) => word !== name && word !== version);
    if (others.length > 0 || (version !== undefined && args.python !== undefined)) {
      const extra = others[0] ?? `${version} and --python ${args.python}`;
      throw new EfError("USAGE", `Cannot make sense of ${extra}: one name and one version of Python are enough`, {
        hint: "ef venv create NAME 3.11",
      });
    }
    const python = args.python ?? version;
    const tell = venvProgress(args.json, "unpack");
    const config = await optionalConfig();
    const made = await venvCreate(config, {
      ...(name === undefined ? {} : { name }),
      ...(python === undefined ? {} : { python }),
      offline: args.offline,
      signal: stopSignal(),
      onEvent: tell,
    });
    tell({
      type: "result",
      result: { name: made.name, text: `${made.name}: made, Python ${made.python}, ${made.dir}` },
    });
    const { name: called, dir, warnings } = made;
    return {
      json: { name: called, venv_path: dir, python: made.python, warnings },
      text: args.json ? "" : activate(dialectOf(args), venvFind(config, made.name)),
    };
  },
});
