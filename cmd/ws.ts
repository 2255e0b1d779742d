/** What the commands for workspaces share. */
import { EfError } from "../lib/base/errors.ts";
import { columns } from "../lib/init.ts";
import { defaultWarnDays, leftText } from "../lib/scratch-workspace.ts";
import type { Restorable, WorkspaceInfo } from "../lib/workspace.ts";
import type { Args } from "./args.ts";
import { optionalConfig } from "./optional-config.ts";
import { dateText } from "./venv-table.ts";

export const workspaceArg = {
  name: {
    type: "positional",
    valueHint: "NAME",
    required: true,
    description: "A workspace",
    values: "workspaces",
  },
} as const satisfies Args;

export const filesystemArg = {
  filesystem: {
    type: "string",
    alias: "F",
    valueHint: "FS",
    description: "The file system that it is on (ws_list -l names them)",
  },
} as const satisfies Args;

/** Who is told before it ends. */
export const noticeArgs = {
  reminder: {
    type: "string",
    alias: "r",
    valueHint: "DAYS",
    description: "Have the site send a mail so many days before its end",
  },
  mail: { type: "string", alias: "m", valueHint: "ADDRESS", description: "To whom; needs --reminder" },
  comment: { type: "string", alias: "c", valueHint: "TEXT", description: "What it is for" },
} as const satisfies Args;

/** Options without those that were not given. */
export function given<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}

/** @throws {EfError} USAGE */
export function daysOf(text: string | undefined, what: string): number | undefined {
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new EfError("USAGE", `${what}: expected a number of days from 1, found ${JSON.stringify(text)}`);
}

export const noticeOf = ({ reminder, mail, comment }: Record<"reminder" | "mail" | "comment", string | undefined>) =>
  given({ reminder: daysOf(reminder, "--reminder"), mail, comment });

/** How many days before its end a workspace is warned of; without a configuration as many as by default. */
export const warnDays = async (): Promise<number> =>
  (await optionalConfig())?.ef?.workspace?.warn_days ?? defaultWarnDays;

const unixTime = (date: Date | undefined) => (date ? date.getTime() / 1000 : undefined);

export const workspaceJson = (workspace: WorkspaceInfo) => ({
  ...{ id: workspace.id, path: workspace.path, filesystem: workspace.filesystem },
  ...{ remaining_s: workspace.remainingS, expired: workspace.expired },
  ...{ created_at: unixTime(workspace.created), expires_at: unixTime(workspace.expires) },
  extensions_left: workspace.extensionsLeft,
  ...{ comment: workspace.comment, group: workspace.group, acctcode: workspace.acctcode },
  ...{ reminder_at: unixTime(workspace.reminder), mail: workspace.mail },
});

export function workspaceTable(all: readonly WorkspaceInfo[]): string {
  if (all.length === 0) return "there is no workspace yet: ef ws allocate NAME DAYS\n";
  const rows = all.map((each) => [
    each.id,
    each.expired ? "expired" : leftText(each.remainingS),
    each.expires ? dateText(each.expires.getTime() / 1000) : "?",
    String(each.extensionsLeft ?? "?"),
    each.filesystem ?? "?",
    each.path,
  ]);
  return `${columns([["name", "left", "expires", "extensions", "file system", "directory"], ...rows]).join("\n")}\n`;
}

export const releasedJson = ({ id, name, since, until, filesystem }: Restorable) => ({
  ...{ id, name, filesystem },
  ...{ since: unixTime(since), until: unixTime(until) },
});

export function releasedTable(all: readonly Restorable[]): string {
  if (all.length === 0) return "there is nothing to restore\n";
  const date = (each: Date | undefined) => (each ? dateText(each.getTime() / 1000) : "?");
  const rows = all.map((each) => [each.id, each.name, date(each.since), date(each.until), each.filesystem ?? "?"]);
  return `${columns([["id", "name", "released", "kept until", "file system"], ...rows]).join("\n")}\n`;
}
