import { bytesOf, display } from "../lib/base/bytes.ts";
import { type EfError, Exit } from "../lib/base/errors.ts";
import { plural } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { type Fixed, type FixupEvent, fixup } from "../lib/fixup.ts";
import { command } from "./args.ts";
import { paint, say, stopSignal } from "./process.ts";
import { relocationJson, tellRelocation } from "./venv.ts";

export default command({
  name: "apptainer fixup",
  description: "Make environments that were moved by hand name their new place",
  examples: [
    ["ef config set apptainer.venv_base /project/me/venvs", "where the directory of all environments was moved to"],
    ["ef apptainer fixup --dry-run", "what would be changed"],
    ["ef apptainer fixup train", "only this one"],
  ],
  args: {
    venv_name: {
      type: "positional",
      valueHint: "VENV_NAME",
      description: "An environment in apptainer.venv_base (default: all)",
      values: "base-venvs",
    },
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be changed, touch nothing" },
  },
  async run({ args }) {
    const { venv_name: name, "dry-run": dryRun } = args;
    const { base, results, errors } = await fixup(await loadConfig(), {
      name,
      dryRun,
      signal: stopSignal(),
      ...(args.json ? {} : { onEvent: (event) => tell(event, dryRun) }),
    });
    if (!args.json && results.length + errors.length === 0) say(`there is no environment in ${base}\n`);
    return {
      json: { venv_name: name ?? null, venv_base: base, dry_run: dryRun, results: results.map(fixedJson), errors },
      text: "",
      code: errors.length > 0 ? Exit.failed : Exit.ok,
    };
  },
});

const fixedJson = ({ name, status, fixedFiles, relocation }: Fixed) => ({
  name,
  fixed_files: fixedFiles,
  status,
  ...relocationJson(relocation),
});

function tell(event: FixupEvent, dryRun: boolean): void {
  const name = display(bytesOf(event.type === "result" ? event.result.name : event.name));
  if (event.type === "waiting") say(`${name}: waiting for ${event.who}\n`);
  else if (event.type === "failed") tellFailure(name, event.error);
  else tellFixed(name, event.result, dryRun);
}

const tellFailure = (name: string, { message, hint }: EfError) =>
  say(`${name}: ${paint("red", "failed")}: ${message}\n${hint ? `  ${hint}\n` : ""}`);

function tellFixed(name: string, { status, fixedFiles, relocation }: Fixed, dryRun: boolean): void {
  const count = plural(fixedFiles, "file");
  const place = display(relocation.to);
  const done = dryRun ? `${count} would be changed to name ${place}` : `fixed: ${count} changed to name ${place}`;
  say(`${name}: ${status === "fixed" ? done : "already correct"}\n`);
  tellRelocation(name, relocation);
}
