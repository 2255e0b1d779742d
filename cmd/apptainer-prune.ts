import {
  apptainerPrune,
  type PruneEvent,
  type PruneMode,
  type PrunePlan,
  type PruneResult,
  type PruneTarget,
  prunable,
  pruneModes,
} from "../lib/apptainer-prune.ts";
import { bytesOf, display } from "../lib/base/bytes.ts";
import { EfError, Exit } from "../lib/base/errors.ts";
import { humanBytes, humanCount, sizeText } from "../lib/base/units.ts";
import type { Config } from "../lib/config/schema.ts";
import { loadConfig } from "../lib/config/store.ts";
import { columns } from "../lib/init.ts";
import { command, type Output } from "./args.ts";
import { Cancelled, isInteractive, paint, say, stopSignal, warn } from "./process.ts";

export default command({
  name: "apptainer prune",
  description: "Delete an environment, its image, or both; asks first",
  examples: [
    ["ef apptainer prune", "choose what"],
    ["ef apptainer prune train --dry-run", "what would be deleted, and how large it is"],
    [
      "ef apptainer prune train --mode sif --yes",
      "in a script: the image and its copy on scratch; the environment stays",
    ],
  ],
  args: {
    image_name: {
      type: "positional",
      valueHint: "NAME",
      description: "An image, or an environment in apptainer.venv_base",
      inputAliases: ["venv_name"],
      values: "prunable",
    },
    mode: {
      type: "enum",
      options: pruneModes,
      description: "What of it: the environment (venv), the image (sif), or both (default)",
    },
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be deleted, touch nothing" },
    yes: { type: "boolean", alias: "y", description: "Delete without a question" },
  },
  async run({ args }): Promise<Output> {
    const { "dry-run": dryRun, yes, json } = args;
    const canAsk = isInteractive() && !json;
    const about = { dry_run: dryRun, yes };
    let name = args.image_name;
    let mode = args.mode as PruneMode | undefined;
    try {
      const config = await loadConfig();
      if (name === undefined) {
        ({ name, mode } = await chosen(config, mode, canAsk));
      }
      const result = await apptainerPrune(config, {
        name,
        ...(mode ? { mode } : {}),
        dryRun,
        ...(yes || dryRun ? {} : { confirm: (plan) => ask(plan, canAsk) }),
        signal: stopSignal(),
        ...(json ? {} : { onEvent: (event) => tell(event, dryRun) }),
      });
      if (!json) tellResult(result);
      const failed = result.errors.length > 0 || result.status === "aborted";
      return { json: { ...resultJson(result), ...about }, text: "", code: failed ? Exit.failed : Exit.ok };
    } catch (error) {
      if (!(error instanceof Cancelled)) throw error;
      say("nothing deleted\n");
      const json = { image_name: name ?? null, mode: mode ?? "both", status: "aborted", ...about, targets: [] };
      return { json, text: "", code: error.exitCode };
    }
  },
});

async function chosen(
  config: Config,
  mode: PruneMode | undefined,
  canAsk: boolean,
): Promise<{ name: string; mode: PruneMode }> {
  if (!canAsk) {
    const names = prunable(config).map((name) => display(bytesOf(name)));
    throw new EfError("NOT_INTERACTIVE", "ef apptainer prune: NAME is missing, and this is not a terminal to ask on", {
      hint: `write: ef apptainer prune NAME --yes; what there is: ${names.join(", ") || "nothing yet"}`,
    });
  }
  const { pickMode, pickPrunable } = await import("./apptainer-pick.ts");
  const name = await pickPrunable(config, "What is to go?");
  return { name, mode: mode ?? (await pickMode(`What of ${display(bytesOf(name))}?`)) };
}

async function ask({ name, mode, targets }: PrunePlan, canAsk: boolean): Promise<boolean> {
  if (!canAsk) {
    throw new EfError(
      "NOT_INTERACTIVE",
      `Cannot ask whether to delete ${display(bytesOf(name))}: nobody is there to answer`,
      {
        hint: "look with --dry-run, then give --yes",
      },
    );
  }
  const { confirm } = await import("./ask.ts");
  const total = sizeText(targets.reduce((sum, { size }) => sum + size.bytes, 0));
  return confirm(`Delete ${mode === "both" ? "all of this" : "this"} (${total})?`, false);
}

function tell(event: PruneEvent, dryRun: boolean): void {
  if (event.type === "deleted")
    say(`deleted ${display(bytesOf(event.target.path))} (${sizeText(event.target.size.bytes)})\n`);
  else tellPlan(event.plan, dryRun);
}

function tellPlan({ name, targets, hasRecord, warnings }: PrunePlan, dryRun: boolean): void {
  const rows = targets.map((target) => [
    `  ${target.kind}`,
    measure(target).padStart(6),
    `${display(bytesOf(target.path))}${note(target)}`,
  ]);
  const record = hasRecord ? [["  record", "", `apptainer.images.${display(bytesOf(name))}`]] : [];
  const head = dryRun ? "would be deleted" : "to be deleted";
  say(`${display(bytesOf(name))}: ${head}\n${lines(columns([...rows, ...record]))}`);
  for (const message of warnings) warn(message);
}

const lines = (all: readonly string[]) => all.map((line) => `${line}\n`).join("");

const measure = ({ size }: PruneTarget) => `${size.complete ? "" : ">"}${humanBytes(size.bytes)}`;

function note({ kind, linkTo, isRest, size }: PruneTarget): string {
  if (linkTo !== undefined) return ` (a link to ${display(bytesOf(linkTo))}, which stays)`;
  if (isRest) return kind === "venv" ? " (left by an interrupted prune)" : " (left by an interrupted copy)";
  return kind === "venv" ? ` (${humanCount(size.files)} files)` : "";
}

function tellResult({ name, mode, status, warnings, errors, near }: PruneResult): void {
  const shown = display(bytesOf(name));
  if (status === "aborted") say("nothing deleted\n");
  if (status === "pruned" && errors.length === 0) say(`${shown}: ${paint("green", "pruned")}\n`);
  if (status === "nothing-to-prune") {
    const what = { both: "environment or image", venv: "environment", sif: "image" }[mode];
    const meant = near === undefined ? "" : `; did you mean ${display(bytesOf(near))}?`;
    say(`nothing to prune: there is no ${what} ${shown}${meant}\n`);
    for (const message of warnings) warn(message);
  }
  for (const error of errors) say(`${paint("red", "error:")} ${error}\n`);
}

function resultJson({ name, mode, status, targets, deleted, hasRecord, warnings, errors, near }: PruneResult) {
  return {
    ...{ image_name: name, mode, status, targets: targets.map(targetJson) },
    ...(status === "pruned" ? { deleted: deleted.map(targetJson) } : {}),
    ...{ record: hasRecord, warnings, errors },
    ...(near === undefined ? {} : { near }),
  };
}

const targetJson = (target: PruneTarget) => ({
  ...{ kind: target.kind, path: target.path, size: measure(target), bytes: target.size.bytes },
  ...(target.kind === "venv" ? { files: target.size.files } : {}),
  ...(target.linkTo === undefined ? {} : { link_to: target.linkTo }),
});
