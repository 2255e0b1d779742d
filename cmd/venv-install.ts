import { humanDuration } from "../lib/base/units.ts";
import { describeHolder } from "../lib/engine/lock.ts";
import { venvInstall } from "../lib/venv-install.ts";
import { command } from "./args.ts";
import { optionalConfig } from "./optional-config.ts";
import { say, stopSignal } from "./process.ts";

/** What both commands that get packages take. */
export const packageArgs = {
  requirements: {
    type: "string",
    alias: "r",
    multiple: true,
    valueHint: "FILE",
    description: "Also what is listed in this file; repeatable",
    input: "requirements_files",
    values: "file",
  },
  python: {
    type: "string",
    alias: "p",
    valueHint: "PYTHON",
    description: "Version (3.11), name or path of the Python",
  },
  "index-url": { type: "string", valueHint: "URL", description: "Index instead of the default one" },
  "extra-index-url": {
    type: "string",
    multiple: true,
    valueHint: "URL",
    description: "Index besides the default one; repeatable",
    input: "extra_index_urls",
  },
  "dry-run": { type: "boolean", alias: "n", description: "Show the commands that would run" },
} as const;

export default command({
  name: "venv install",
  description: "Make or reuse a named environment and install packages",
  examples: [
    ["ef venv install train numpy transformers", "in the base directory of all environments"],
    ["ef venv install train 'torch==2.4.0+cu121'", "from PyTorch's index for CUDA 12.1"],
    ["ef venv install train -r requirements.txt --offline", "from the wheelhouse"],
  ],
  args: {
    env_name: {
      type: "positional",
      valueHint: "NAME",
      required: true,
      description: "Directory of the environment below the base",
    },
    packages: {
      type: "positional",
      multiple: true,
      valueHint: "PKG…",
      description: "Packages as pip takes them",
      inputAliases: ["requirements"],
    },
    ...packageArgs,
    editable: {
      type: "string",
      alias: "e",
      multiple: true,
      valueHint: "DIR",
      description: "Also this local project, editable; repeatable",
      values: "dir",
    },
    "venv-base": {
      type: "string",
      valueHint: "DIR",
      description: "Base directory (default: apptainer.venv_base, $VENV_DIR)",
      values: "dir",
    },
    offline: { type: "boolean", description: "Only from the wheelhouse (default: where the index does not answer)" },
  },
  async run({ args }) {
    const startedMs = performance.now();
    const { env_name: name, packages } = args;
    const done = await venvInstall(await optionalConfig(), {
      name,
      packages,
      requirements: args.requirements,
      editable: args.editable,
      python: args.python,
      venvBase: args["venv-base"],
      indexUrl: args["index-url"],
      extraIndexUrls: args["extra-index-url"],
      offline: args.offline,
      dryRun: args["dry-run"],
      signal: stopSignal(),
      ...(args.json ? {} : { onOutput: tell, onWait: (holder) => say(`waiting for ${describeHolder(holder)}\n`) }),
    });
    if (!args.json && !args["dry-run"]) {
      const seconds = (performance.now() - startedMs) / 1000;
      say(`${done.path}: ${done.created ? "made" : "updated"} (${humanDuration(seconds)})\n`);
    }
    return {
      json: {
        env_name: name,
        venv_path: done.path,
        venv_base: done.base,
        created: done.created,
        packages,
        requirements_files: args.requirements,
        editable: args.editable,
        python: args.python ?? null,
        extra_index_urls: done.extraIndexUrls,
        offline: done.offline,
        dry_run: args["dry-run"],
        commands: done.commands,
      },
      text: args["dry-run"]
        ? (done.created ? done.commands : done.commands.slice(1)).map((line) => `${line}\n`).join("")
        : "",
    };
  },
});

/** Bytes of another program, as they come: a character that is cut comes whole in the next piece. */
const decoder = new TextDecoder();
export const tell = (chunk: Uint8Array): void => say(decoder.decode(chunk, { stream: true }));
