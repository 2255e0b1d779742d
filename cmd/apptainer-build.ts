import { statSync } from "node:fs";
import {
  type ApptainerBuildOptions,
  apptainerBuild,
  type ImageBuildEvent,
  type ImageBuilt,
} from "../lib/apptainer-build.ts";
import { bytesOf, display } from "../lib/base/bytes.ts";
import { EfError } from "../lib/base/errors.ts";
import { humanBytes, humanDuration, plural } from "../lib/base/units.ts";
import { type Config, compressors } from "../lib/config/schema.ts";
import { loadConfig } from "../lib/config/store.ts";
import { shellLine } from "../lib/venv-install.ts";
import { command, type Output } from "./args.ts";
import { Cancelled, isInteractive, paint, say, stopSignal } from "./process.ts";
import { venvProgress } from "./venv.ts";
import { tell } from "./venv-install.ts";

export default command({
  name: "apptainer build",
  description: "Freeze an environment into an image",
  examples: [
    ["ef apptainer build train", "from the environment train in apptainer.venv_base"],
    ["ef apptainer build train --force", "again, after its packages have changed"],
    ["ef apptainer build train --dry-run", "the definition file and the command"],
  ],
  args: {
    venv_name: {
      type: "positional",
      valueHint: "NAME",
      description: "An environment in apptainer.venv_base (default: choose one on the terminal)",
      values: "base-venvs",
    },
    force: { type: "boolean", description: "Build again though the image is there" },
    "dry-run": { type: "boolean", alias: "n", description: "Show the definition file and the command, build nothing" },
    tmpdir: {
      type: "string",
      valueHint: "DIR",
      description: "Put it together in this directory (default: this node's own disk)",
      values: "dir",
    },
    cachedir: {
      type: "string",
      valueHint: "DIR",
      description: "Keep base images of registries in this directory (APPTAINER_CACHEDIR)",
      values: "dir",
    },
    compressor: { type: "enum", options: compressors, description: "Of the image (default: Apptainer's own, gzip)" },
    processors: { type: "string", valueHint: "N", description: "Use so many (default: what the job has)" },
    compile: {
      type: "boolean",
      default: true,
      description: "Put no byte code into the image: built sooner, each start is slower",
    },
  },
  async run({ args }): Promise<Output> {
    const { force, json, "dry-run": dryRun } = args;
    const config = await loadConfig();
    const name = args.venv_name ?? (await chosen(config, json));
    if (name instanceof Cancelled) return aborted(name, force, dryRun);
    const startedMs = performance.now();
    const built = await apptainerBuild(config, name, {
      ...{ force, dryRun, tmpdir: args.tmpdir, cachedir: args.cachedir, processors: processorsOf(args.processors) },
      compressor: args.compressor as ApptainerBuildOptions["compressor"],
      ...(args.compile ? {} : { compile: false }),
      signal: stopSignal(),
      onEvent: eventTeller(json),
      ...(json ? {} : { onOutput: tell }),
    });
    if (!json) say(endText(built, (performance.now() - startedMs) / 1000));
    return { json: resultJson(built, force, dryRun), text: dryRun ? dryRunText(built) : "" };
  },
});

async function chosen(config: Config, json: boolean): Promise<string | Cancelled> {
  if (json || !isInteractive())
    throw new EfError("USAGE", "ef apptainer build: there is no environment given", {
      hint: "write: ef apptainer build NAME",
    });
  const { pickEnvironment } = await import("./apptainer-pick.ts");
  try {
    return await pickEnvironment(config, "Which environment is to be frozen into an image?");
  } catch (error) {
    if (error instanceof Cancelled) return error;
    throw error;
  }
}

function aborted({ exitCode }: Cancelled, force: boolean, dryRun: boolean): Output {
  say("nothing built\n");
  return { json: { venv_name: null, status: "aborted", force, dry_run: dryRun }, text: "", code: exitCode };
}

function processorsOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw new EfError("USAGE", `ef apptainer build: --processors ${JSON.stringify(text)} is not a number of processors`, {
    hint: "give a whole number from 1 on",
  });
}

/** How many warnings are shown, of which there can be one for each file. */
const mostShown = 10;

function eventTeller(quiet: boolean): (event: ImageBuildEvent) => void {
  const packing = venvProgress(quiet, "pack");
  let warnings = 0;
  return (event) => {
    if (event.type === "warning" && ++warnings > mostShown) return;
    if (event.type !== "building") return packing(event);
    const others = warnings - mostShown;
    if (others > 0)
      packing({ type: "warning", name: event.name, message: `and ${plural(others, "other warning")} (all: --json)` });
    packing({
      type: "result",
      result: { name: event.name, text: `${shown(event.name)}: packed; building in ${shown(event.workDir)}` },
    });
  };
}

const shown = (text: string) => display(bytesOf(text));

function endText({ status, name, sif, isOutdated }: ImageBuilt, seconds: number): string {
  if (status === "dry-run") return "";
  if (status === "built")
    return `${shown(name)}: ${paint("green", "built")}: ${shown(sif)} (${humanBytes(sizeOf(sif))}, ${humanDuration(seconds)})\n`;
  const why = isOutdated
    ? "the packages of the environment have changed since; build it again with --force"
    : "--force builds it again";
  return `${shown(name)}: ${shown(sif)} is there already: ${why}\n`;
}

const resultJson = (built: ImageBuilt, force: boolean, dryRun: boolean) => ({
  venv_name: built.name,
  venv_path: built.venvPath,
  python_version: built.pythonVersion,
  sif_path: built.sif,
  definition_path: built.definitionPath,
  tar_path: built.tarPath,
  status: built.status,
  ...{ force, dry_run: dryRun },
  ...(built.status === "built" ? { build_args: built.buildArgs, bytes: sizeOf(built.sif) } : {}),
  ...(built.status === "dry-run" ? { build_command: built.command, definition: built.definition } : {}),
  ...(built.status === "skipped" ? { outdated: built.isOutdated } : {}),
  warnings: built.warnings,
});

const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

const dryRunText = ({ command, definition }: ImageBuilt): string => `${definition}\n# ${shellLine(command)}\n`;
