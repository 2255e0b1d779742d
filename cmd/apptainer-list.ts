import { apptainerList, type ListedImage } from "../lib/apptainer-list.ts";
import { bytesOf, display } from "../lib/base/bytes.ts";
import { humanBytes } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { columns } from "../lib/init.ts";
import { withWorkspaces } from "../lib/scratch-base.ts";
import { command } from "./args.ts";
import { dateText } from "./venv-table.ts";

export default command({
  name: "apptainer list",
  description: "List built images, and what is on scratch of them",
  args: {},
  async run() {
    const config = await withWorkspaces(await loadConfig(), { missing: "leave" });
    const images = apptainerList(config);
    return { json: { images: images.map(imageJson) }, text: tableText(images) };
  },
});

const scratchTexts: Record<ListedImage["scratch"]["status"], string> = {
  synced: "synced",
  stale: "stale",
  "not-synced": "not synced",
  "source-missing": "only copy",
  unset: "unset here",
};

function tableText(images: readonly ListedImage[]): string {
  if (images.length === 0) return "no image is built yet: ef apptainer build NAME\n";
  const rows = images.map(({ name, enabled, pythonVersion, builtAt, stored, scratch, environment }) => [
    `${display(bytesOf(name))}${enabled ? "" : " (disabled)"}`,
    pythonVersion || "?",
    builtAt > 0 ? dateText(builtAt) : "?",
    stored.bytes === undefined ? "missing" : humanBytes(stored.bytes),
    scratchTexts[scratch.status],
    environmentText(environment),
  ]);
  return `${columns([["name", "python", "built", "size", "scratch", "environment"], ...rows]).join("\n")}\n`;
}

function environmentText({ path, isThere, hasChanged }: ListedImage["environment"]): string {
  if (!isThere) return path === undefined ? "unset here" : "missing";
  return hasChanged ? "changed since" : "there";
}

const imageJson = ({ name, enabled, pythonVersion, builtAt, stored, scratch, environment }: ListedImage) => ({
  ...{ name, enabled, python_version: pythonVersion, built_at: builtAt },
  sif_path: stored.path,
  bytes: stored.bytes ?? null,
  scratch_path: scratch.path ?? null,
  scratch_bytes: scratch.bytes ?? null,
  status: scratch.status,
  venv_name: environment.name,
  venv_path: environment.path ?? null,
  venv_exists: environment.isThere,
  venv_changed: environment.hasChanged ?? null,
});
