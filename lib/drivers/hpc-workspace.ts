/**
 * hpc-workspace's tools: their command lines, as data, and what they print.
 *
 * Read for 1.2 to 1.5 (`workspace++`, https://github.com/holgerBerger/hpc-workspace, man1/ws_*.1) and the rewrite in C++
 * (https://github.com/holgerBerger/hpc-workspace-v2, documentation/user-guide.md). They differ in capitals (`id:`, `Id:`),
 * commas (`3 days 4 hours`, `3 days, 4 hours`), in names of fields (`expiration date`, `expiration time`) and in which
 * fields there are. Times are those of ctime(3): by the clock of this place, in English.
 */
import { basename } from "node:path";
import { EfError } from "../base/errors.ts";

/** Every tool that users have. */
export const workspaceTools = [
  "ws_allocate",
  "ws_extend",
  "ws_find",
  "ws_list",
  "ws_register",
  "ws_release",
  "ws_restore",
  "ws_send_ical",
  "ws_share",
] as const;
export type WorkspaceTool = (typeof workspaceTools)[number];

/** A workspace, as `ws_list` tells of it. */
export interface WorkspaceInfo {
  /** The name that it was allocated with. */
  id: string;
  path: string;
  /** Seconds until it expires; 0 if it has. */
  remainingS: number;
  created?: Date;
  expires?: Date;
  filesystem?: string;
  /** How often it can still be extended. */
  extensionsLeft?: number;
  /** It has expired: its files are moved away the next time that the site cleans up. */
  expired: boolean;
  /** The account that it was charged to; only with `verbose`. */
  acctcode?: string;
  /** When a reminder is sent, and to whom; only with `verbose`. */
  reminder?: Date;
  mail?: string;
  comment?: string;
  group?: string;
}

/** A workspace that was released or has expired, and is not deleted yet. */
export interface Restorable {
  /** What `ws_restore` takes: USER-NAME-TIMESTAMP. */
  id: string;
  /** The name that it had. */
  name: string;
  since: Date;
  /** Where the tool says it (2.x). */
  until?: Date;
  filesystem?: string;
}

export interface AllocateOptions {
  /** How long it lasts. @default what the site has chosen, often one day */
  days?: number;
  /** One of those that `ws_list -l` names. @default the site's */
  filesystem?: string;
  /** Days before its end at which a mail is sent. */
  reminder?: number;
  /** To whom. */
  mail?: string;
  /** A group that may write there. */
  group?: string;
  comment?: string;
}

export type ExtendOptions = Pick<AllocateOptions, "filesystem" | "reminder" | "mail" | "comment">;

const namePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/;

/** What the tools themselves take; anything else is refused before they are called, as it could be an option to them. */
export function assertWorkspaceName(name: string): void {
  if (namePattern.test(name)) return;
  throw new EfError("USAGE", `Cannot use ${JSON.stringify(name)} as the name of a workspace`, {
    hint: "letters of ASCII, digits, and after the first one also _ . and -",
  });
}

/** The workspace that a path in the configuration begins with: `ws:NAME`, `ws:NAME/DIR`. Undefined for other paths. */
export function workspaceOf(path: string): { name: string; below: string } | undefined {
  const [, name = "", below = ""] = /^ws:([^/]*)(.*)$/s.exec(path) ?? [];
  return namePattern.test(name) ? { name, below } : undefined;
}

const filesystemArgv = (filesystem: string | undefined): string[] => {
  if (filesystem === undefined) return [];
  if (/^\w[\w.-]*$/.test(filesystem)) return ["-F", filesystem];
  throw new EfError("USAGE", `Cannot use ${JSON.stringify(filesystem)} as the name of a file system of workspaces`, {
    hint: "ws_list -l names them",
  });
};

function whole(number: number, what: string, least: number): string {
  if (Number.isSafeInteger(number) && number >= least) return String(number);
  throw new EfError("USAGE", `${what}: expected a whole number from ${least}, found ${number}`);
}

/** Text that is put into the site's database line by line, and behind a `=` cannot be taken for an option. */
function line(text: string, what: string): string {
  if (text !== "" && !/\p{Cc}/u.test(text)) return text;
  throw new EfError("USAGE", `${what}: expected one line of text, found ${JSON.stringify(text)}`);
}

function noticeArgv({ reminder, mail, comment }: ExtendOptions): string[] {
  if (mail !== undefined && reminder === undefined)
    throw new EfError(
      "USAGE",
      `A mail to ${mail} needs the number of days before the end at which it is sent (reminder)`,
    );
  return [
    ...(reminder === undefined ? [] : ["-r", whole(reminder, "reminder", 1)]),
    ...(mail === undefined ? [] : [`--mailaddress=${line(mail, "mail")}`]),
    ...(comment === undefined ? [] : [`--comment=${line(comment, "comment")}`]),
  ];
}

export function allocateArgv(name: string, options: AllocateOptions = {}): string[] {
  assertWorkspaceName(name);
  const { days, filesystem, group } = options;
  // In one word: since 2.0 the value of -G may be left out, and a word behind it is the workspace.
  const groupArgv = group === undefined ? [] : [`-G${line(group, "group")}`];
  const duration = days === undefined ? [] : [whole(days, "days", 1)];
  return ["ws_allocate", ...filesystemArgv(filesystem), ...noticeArgv(options), ...groupArgv, name, ...duration];
}

/** Not `ws_extend`: until 2.0 that is a script which knows no option (bin/ws_extend). */
export function extendArgv(name: string, days: number, options: ExtendOptions = {}): string[] {
  const [tool = "", ...rest] = allocateArgv(name, { ...options, days });
  return [tool, "-x", ...rest];
}

export function listArgv({
  name,
  filesystem,
  verbose,
}: {
  name?: string;
  filesystem?: string;
  verbose?: boolean;
} = {}) {
  if (name !== undefined) assertWorkspaceName(name);
  return ["ws_list", ...filesystemArgv(filesystem), ...(verbose ? ["-v"] : []), ...(name === undefined ? [] : [name])];
}

export function findArgv(name: string, filesystem?: string): string[] {
  assertWorkspaceName(name);
  return ["ws_find", ...filesystemArgv(filesystem), name];
}

export function releaseArgv(name: string, options: { filesystem?: string; deleteData?: boolean } = {}): string[] {
  assertWorkspaceName(name);
  return ["ws_release", ...filesystemArgv(options.filesystem), ...(options.deleteData ? ["--delete-data"] : []), name];
}

export const restorableArgv = (): string[] => ["ws_restore", "-l"];

/** @param id as {@link Restorable} has it @param target an existing workspace, which gets the files in a directory of their own */
export function restoreArgv(id: string, target: string, filesystem?: string): string[] {
  assertWorkspaceName(id);
  assertWorkspaceName(target);
  return ["ws_restore", ...filesystemArgv(filesystem), id, target];
}

function cannotRead(tool: WorkspaceTool, text: string, why: string): EfError {
  return new EfError(
    "TOOL_FAILED",
    `Cannot read the output of ${tool}: ${why}: ${JSON.stringify(text.slice(0, 200))}`,
    {
      hint: `see what it prints: ${tool}; a version that ef does not know?`,
    },
  );
}

const linesOf = (text: string) => text.split(/\r?\n/);

/** `     remaining time       : 3 days 4 hours` */
const fieldPattern = /^\s+([a-z][a-z ]*?)\s*:(?:\s(.*)|)$/i;
const idPattern = /^id:\s?(.*)$/i;

/**
 * What `ws_list` prints, with `-v`, `-t` or without.
 *
 * What stands before the first workspace (a site's greeting) is left out, and so is a field that is not known. A comment
 * may have several lines.
 *
 * @param nowMs that `remainingS` counts from, as the tool itself counts in hours only
 * @throws {EfError} TOOL_FAILED naming the line that cannot be read
 */
export function parseList(text: string, nowMs: number): WorkspaceInfo[] {
  const lines = linesOf(text);
  const found: Record<string, string>[] = [];
  let last = "";
  lines.forEach((each, i) => {
    const id = idPattern.exec(each)?.[1];
    const field = fieldPattern.exec(each);
    const entry = found.at(-1);
    // A line of a comment can look like the beginning of a workspace; the directory follows only there.
    const isDirectoryNext = fieldPattern.exec(lines[i + 1] ?? "")?.[1]?.toLowerCase() === "workspace directory";
    if (id !== undefined && (isDirectoryNext || last !== "comment")) {
      found.push({ id: id.trim() });
      last = "id";
    } else if (field && entry) {
      last = field[1]?.toLowerCase() ?? "";
      entry[last] ??= field[2] ?? "";
    } else if (last === "comment" && entry && each !== "") entry.comment += `\n${each}`;
  });
  const first = lines.find((each) => each.trim() !== "");
  if (found.length === 0 && first !== undefined) throw cannotRead("ws_list", first, "it names no workspace");
  return found.map((entry) => workspace(entry, nowMs));
}

function workspace(entry: Record<string, string>, nowMs: number): WorkspaceInfo {
  const { id = "", "workspace directory": path = "", "remaining time": remaining } = entry;
  if (id === "") throw cannotRead("ws_list", "id:", "a workspace without a name");
  if (!path.startsWith("/")) throw cannotRead("ws_list", path || `id: ${id}`, `no directory of ${id}`);
  const date = (...names: string[]) => {
    const written = names.map((name) => entry[name]).find((each) => each !== undefined);
    return written === undefined ? undefined : cDate(written, "ws_list");
  };
  const expires = date("expiration date", "expiration time");
  const said = remaining === undefined ? undefined : seconds(remaining);
  const left = expires ? (expires.getTime() - nowMs) / 1000 : said;
  if (left === undefined) throw cannotRead("ws_list", `id: ${id}`, "no time at which it expires");
  const isOver = left <= 0 || /^(?:expired|released)/.test(remaining ?? "");
  return {
    id,
    path,
    remainingS: isOver ? 0 : Math.floor(left),
    expired: isOver,
    ...given({
      created: date("creation time"),
      expires,
      filesystem: entry["filesystem name"],
      extensionsLeft: countOf(entry["available extensions"]),
      acctcode: entry.acctcode,
      reminder: date("reminder"),
      mail: entry.mailaddress || undefined,
      comment: entry.comment,
      group: entry.group,
    }),
  };
}

/**
 * The name that a workspace was allocated with. Until 2.0 `ws_list` prints what follows the first dash of USER-NAME, which
 * is not that where the user's name has a dash; and for administrators all of it.
 */
export function nameOf({ id, path }: Pick<WorkspaceInfo, "id" | "path">, user: string): string {
  const dir = basename(path);
  const isCut = user !== "" && dir.startsWith(`${user}-`) && (dir === id || dir.endsWith(`-${id}`));
  return isCut ? dir.slice(user.length + 1) : id;
}

function countOf(text: string | undefined): number | undefined {
  if (text === undefined || /^\d+$/.test(text.trim())) return text === undefined ? undefined : Number(text);
  throw cannotRead("ws_list", text, "no number of extensions");
}

const unitS = { day: 86_400, hour: 3600, minute: 60, second: 1 } as const;

/** `3 days 4 hours`, `3 days, 4 hours`; negative after the end. */
function seconds(text: string): number {
  if (/^(?:expired|released)/.test(text)) return 0;
  const parts = [...text.matchAll(/(-?\d+)\s*(day|hour|minute|second)s?/g)];
  if (parts.length === 0) throw cannotRead("ws_list", text, "no remaining time");
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * unitS[unit as keyof typeof unitS], 0);
}

const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** `Wed Aug 10 13:16:25 2022`, by the clock of this place. */
function cDate(text: string, tool: WorkspaceTool): Date {
  const match = /^\s*[A-Z][a-z]{2}\s+([A-Z][a-z]{2})\s+(\d{1,2})\s+(\d\d):(\d\d):(\d\d)\s+(\d{4})\b/.exec(text);
  const [day = 0, hour = 0, minute = 0, second = 0, year = 0] = match?.slice(2).map(Number) ?? [];
  const month = months.indexOf(match?.[1] ?? "");
  if (match && month >= 0) return new Date(year, month, day, hour, minute, second);
  throw cannotRead(tool, text, "no date");
}

/**
 * What `ws_restore -l` prints: until 2.0 below the name of each file system, since then each with its own.
 *
 * @param user whose name the ids begin with
 */
export function parseRestorable(text: string, user: string): Restorable[] {
  const found: Restorable[] = [];
  let filesystem: string | undefined;
  for (const each of linesOf(text)) {
    const [, timestamp] = /^[\w.-]+-(\d{9,11})\s*$/.exec(each) ?? [];
    const heading = /^([\w.-]+):\s*$/.exec(each)?.[1];
    const [, field = "", value = ""] =
      /^\s+(unavailable since|restorable until|in filesystem)\s*:?\s*(.*)$/.exec(each) ?? [];
    const entry = found.at(-1);
    if (timestamp !== undefined) {
      const id = each.trim();
      const own = id.startsWith(`${user}-`) ? id.slice(user.length + 1) : id.slice(id.indexOf("-") + 1);
      const name = own.slice(0, own.lastIndexOf("-"));
      found.push({ id, name, since: new Date(Number(timestamp) * 1000), ...given({ filesystem }) });
    } else if (heading !== undefined) filesystem = heading;
    else if (entry && field === "in filesystem") entry.filesystem = value.trim();
    else if (entry && field === "restorable until") entry.until = cDate(value, "ws_restore");
    else if (!field && each.trim() !== "") throw cannotRead("ws_restore", each, "no released workspace");
  }
  return found;
}

/** What `ws_list -l` prints. */
export function parseFilesystems(text: string): { name: string; isDefault: boolean }[] {
  return linesOf(text).flatMap((each) => {
    const [, name, star] = /^\s*([\w.-]+)(\s+\(default\))?\s*$/.exec(each) ?? [];
    return name === undefined ? [] : [{ name, isDefault: star !== undefined }];
  });
}

/** What `ws_allocate` and `ws_find` print: the directory, on a line of its own. Undefined if there is none. */
export const pathIn = (stdout: string): string | undefined => linesOf(stdout).find((each) => each.startsWith("/"));

/** Did `ws_allocate` make it, or was it there? Undefined where the tool does not say (on stderr). */
export function wasCreated(stderr: string): boolean | undefined {
  if (/\breusing workspace|workspace.*(?:exists|reused)/i.test(stderr)) return false;
  return /\bcreating workspace|workspace created/i.test(stderr) ? true : undefined;
}

/** What a tool says besides, that a person should hear: `Error:` with exit code 0 (a duration that was cut), `Warning:`. */
export function remarks(stderr: string): string[] {
  return linesOf(stderr)
    .filter((each) => /^\s*(?:error|warn(?:ing)?)\b|allowed maximum/i.test(each))
    .map((each) => each.trim().replace(/^(?:error|warning)\s*:\s*/i, ""));
}

/** Does a tool that ended with 0 say that it failed? (`ws_list` of 2.0: "invalid filesystem given.") */
export const saysError = (stderr: string): boolean => /^\s*error\b/im.test(stderr);

/** Does a tool that failed say that there is no such workspace? Its exit code is the same for everything. */
export const saysUnknown = (stderr: string): boolean =>
  /no such workspace|workspace not found|workspace does not exist|non-?existent workspace/i.test(stderr);

/** Without the keys whose value is undefined. */
function given<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as never;
}
