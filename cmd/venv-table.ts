/** Tables of environments. */
import { humanBytes, plural } from "../lib/base/units.ts";
import { promptOf } from "../lib/envs/live.ts";
import { columns, sizeText } from "../lib/init.ts";
import type { LiveVenv, SavedVenv } from "../lib/venv-list.ts";

/** `2026-11-21 18:40`, by the clock of this place. */
export function dateText(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (part: number) => String(part).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

const runsText = ({ runs, why }: { runs?: "yes" | "no" | "maybe"; why?: string }): string =>
  runs === undefined ? "?" : why === undefined ? runs : `${runs}: ${why}`;

export function savedTable({ store, saved }: { store: string; saved: readonly SavedVenv[] }): string {
  if (saved.length === 0) return `nothing is saved in ${store} yet: ef venv save NAME\n`;
  const rows = saved.map((each) => [
    each.name,
    humanBytes(each.size),
    each.description?.python_version ?? "?",
    each.description ? plural(each.description.packages.length, "package") : "?",
    dateText(each.savedAt),
    runsText(each),
  ]);
  return `${columns([["name", "size", "python", "packages", "saved", "runs here"], ...rows]).join("\n")}\n`;
}

export function liveTable(live: readonly LiveVenv[]): string {
  if (live.length === 0) return "there is no environment on this node yet: ef venv create, ef venv load\n";
  const rows = live.map((each) => [
    promptOf(each),
    sizeText(each.size),
    each.python ?? "?",
    plural(each.packages.length, "package"),
    dateText(each.since),
    runsText(each),
    each.dir,
  ]);
  return `${columns([["name", "size", "python", "packages", "since", "runs here", "directory"], ...rows]).join("\n")}\n`;
}

export const savedJson = ({ name, archive, size, savedAt, description, runs, why }: SavedVenv) => ({
  ...description,
  ...{ name, archive, size, saved_at: savedAt },
  runs_here: runs ?? null,
  why,
});

export const liveJson = ({ name, dir, changed, python, packages, runs, why, size, since }: LiveVenv) => ({
  ...{ name, venv_path: dir, changed, since },
  python: python ?? null,
  packages,
  bytes: size?.bytes,
  files: size?.files,
  runs_here: runs,
  why,
});
