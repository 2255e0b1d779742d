import { EfError, Exit } from "../lib/base/errors.ts";
import { humanDuration, plural, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import {
  type MigrateEvent,
  type MigratePhase,
  type MigrateResult,
  type MovePlan,
  migrate,
  movables,
  placeOf,
} from "../lib/migrate.ts";
import { command, type Output, syncing } from "./args.ts";
import { Cancelled, isInteractive, paint, Stopped, say, stderrIsTerminal, stopSignal } from "./process.ts";
import { progress } from "./progress.ts";
import { transferFlags } from "./transfer.ts";

export default command({
  name: "migrate",
  description: "Move a cache or an environment directory to another place",
  examples: [
    ["ef migrate", "choose what and where to"],
    ["ef migrate HF_HOME --to '$PROJECT/huggingface' --dry-run", "what would be moved"],
    ["ef migrate venv_base --to /project/me/venvs --yes", "in a script; the environments name their new place then"],
  ],
  args: {
    what: {
      type: "positional",
      valueHint: "WHAT",
      description: "A variable, or venv_base, sif_store, venv_store, wheelhouse",
      values: "vars",
    },
    to: {
      type: "string",
      valueHint: "DIR",
      description: "The new directory; $VAR and ~ stay so in the configuration",
      inputAliases: ["to_path", "new_path"],
      values: "dir",
    },
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be moved, touch nothing" },
    delete: {
      type: "boolean",
      default: true,
      description: "Keep the old directory",
      input: "keep_old",
      inputAliases: ["no_delete"],
    },
    yes: { type: "boolean", alias: "y", description: "Do not ask" },
    checksum: { type: "boolean", description: "Compare the contents of all files before anything is deleted" },
    preflight: syncing.preflight,
    workers: syncing.workers,
    bwlimit: syncing.bwlimit,
  },
  async run({ args }): Promise<Output> {
    const dryRun = args["dry-run"];
    const canAsk = isInteractive();
    const keepOld = !args.delete;
    try {
      const config = await loadConfig();
      const { what, to } = await chosen(config, args, canAsk);
      if (!args.yes && !dryRun && !canAsk)
        throw new EfError("NOT_INTERACTIVE", `Cannot ask whether to move ${what}: this is not a terminal`, {
          hint: "look with --dry-run, then give --yes",
        });
      const began = performance.now();
      const result = await migrate(config, {
        ...{ what, to, dryRun, keepOld, checksum: args.checksum, preflight: args.preflight },
        ...transferFlags(args),
        ...(args.yes || dryRun ? {} : { confirm }),
        signal: stopSignal(),
        onEvent: moveProgress(args.json, keepOld),
      });
      if (!args.json) tellResult(result, (performance.now() - began) / 1000);
      const failed = result.errors.length > 0 || result.status === "aborted";
      return { json: resultJson(result), text: "", code: failed ? Exit.failed : Exit.ok };
    } catch (error) {
      if (!(error instanceof Cancelled || (error instanceof Stopped && !begun))) throw error;
      say("nothing moved\n");
      const json = { what: args.what, status: "aborted", dry_run: dryRun, keep_old: keepOld, deleted_old: false };
      return { json, text: "", code: error.exitCode };
    }
  },
});

/** Has anything been written? */
let begun = false;

async function chosen(
  config: Awaited<ReturnType<typeof loadConfig>>,
  { what, to }: { what: string | undefined; to: string | undefined },
  canAsk: boolean,
): Promise<{ what: string; to: string }> {
  if (what !== undefined) placeOf(config, what); // says that there is no such thing
  if (what !== undefined && to !== undefined) return { what, to };
  const missing = what === undefined ? "WHAT" : "--to DIR";
  if (canAsk) return (await import("./migrate-wizard.ts")).choose(config, what, to);
  const names = movables(config).map((each) => each.what);
  throw new EfError("NOT_INTERACTIVE", `ef migrate: ${missing} is missing, and this is not a terminal to ask on`, {
    hint: `write: ef migrate WHAT --to DIR --yes; what there is: ${names.join(", ") || "nothing yet"}`,
  });
}

async function confirm(plan: MovePlan): Promise<boolean> {
  const { confirm } = await import("./ask.ts");
  const { oldPath, newPath, linkTo, keepOld, onlyDelete } = plan;
  if (onlyDelete) return confirm(`${newPath} is in use already. Delete what is left of ${oldPath}?`, false);
  const link = linkTo === undefined ? "" : ` (a link to ${linkTo}, which is moved)`;
  const verb = keepOld ? "Copy" : "Move";
  return confirm(`${verb} ${amount(plan)} from ${oldPath}${link} to ${newPath}?`, false);
}

const amount = ({ files, bytes }: Pick<MovePlan, "files" | "bytes">) => `${sizeText(bytes)}, ${plural(files, "file")},`;

const phases: Record<MigratePhase, string> = {
  verifying: "copied; comparing both places",
  relocating: "the same; environments get their new place",
  saving: "the same; saving the configuration",
  deleting: "in use at its new place; deleting the old one",
};

const works = { copy: "to copy", compare: "to read and compare", delete: "to delete" };

/** Progress, with a line for each thing that is done. */
function moveProgress(quiet: boolean, keepOld: boolean): (event: MigrateEvent) => void {
  type Copying = Extract<MigrateEvent, { type: "copying" }>;
  const show = progress<Copying, Extract<MigrateEvent, { type: "phase" }>>(
    { quiet, names: "none" },
    {
      copying: ({ work, plan: { files, bytes } }) => {
        if (files === 0 && work === "copy") return "no file left to copy";
        return `${plural(files, "file")}${work === "delete" ? "" : `, ${sizeText(bytes)}`} ${works[work]}`;
      },
      result: ({ name, phase }) => `${name}: ${phases[phase]}`,
    },
  );
  return (event) => {
    if (event.type === "copying" || event.type === "phase") begun = true;
    if (event.type === "copying" && event.work === "delete" && !stderrIsTerminal()) return; // a log has the phase
    if (event.type !== "phase") show(event);
    else if (!(event.phase === "deleting" && keepOld)) show({ type: "result", result: event });
  };
}

function tellResult(result: MigrateResult, seconds: number): void {
  const { what, status, oldPath, newPath, keepOld, onlyDelete, relocated, relinked, advice, errors } = result;
  if (status === "aborted") say("nothing moved\n");
  if (status === "dry-run") {
    const end = keepOld ? "kept" : "deleted";
    const moved = onlyDelete ? "is moved already" : `${amount(result)} would be copied and compared`;
    say(`${what}: ${moved}; from ${oldPath}, which would be ${end}, to ${newPath}\n`);
  }
  if (status !== "migrated") return;
  for (const { path, changed } of relocated) say(`${path}: ${plural(changed, "file")} made to name the new place\n`);
  if (relinked > 0) say(`${plural(relinked, "symbolic link")} made to lead into the new place\n`);
  const word = errors.length > 0 ? paint("yellow", "moved, but the old place is not gone") : paint("green", "moved");
  const kept = keepOld ? `; ${oldPath} is kept` : "";
  const size = onlyDelete ? "" : `${amount(result)} `;
  say(`${what}: ${word} to ${newPath} (${size}${humanDuration(seconds)})${kept}\n`);
  for (const error of errors) say(`${paint("red", "error:")} ${error}\n`);
  for (const line of advice) say(`${line}\n`);
}

function resultJson(result: MigrateResult) {
  const { what, targetType, oldPath, newPath, status, dryRun, keepOld, deletedOld } = result;
  const { files, bytes, relocated, relinked, advice, warnings, errors } = result;
  return {
    ...{ what, target_type: targetType, old_path: oldPath, new_path: newPath, status },
    ...{ dry_run: dryRun, keep_old: keepOld, deleted_old: deletedOld },
    ...{ files, bytes, relocated, relinked, advice, warnings, errors },
  };
}
