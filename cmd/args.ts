/**
 * A command as a table: from it come the parser (citty), the check of `--input-json`, the help, the completions and the
 * output of `ef schema`.
 */

import { EfError } from "../lib/base/errors.ts";

/** What values a flag takes, for completions. */
export type ValueKind =
  | "vars"
  | "file"
  | "dir"
  | "config-keys"
  | "commands"
  | "saved-venvs"
  | "live-venvs"
  | "base-venvs"
  | "images"
  | "workspaces"
  | "released-workspaces"
  | "prunable"
  | "mover-jobs"
  | "jobs"
  | "clusters";

interface Base {
  description: string;
  /** The key in `--input-json`; false for none. @default the name with underscores */
  input?: string | false;
  inputAliases?: readonly string[];
  values?: ValueKind;
}
export interface BooleanArg extends Base {
  type: "boolean";
  alias?: string;
  /** With true, the flag is `--no-NAME`, and `description` says what that does. */
  default?: boolean;
}
export interface StringArg extends Base {
  type: "string";
  alias?: string;
  valueHint: string;
  /** May be given several times. */
  multiple?: boolean;
}
export interface EnumArg extends Base {
  type: "enum";
  alias?: string;
  options: readonly string[];
}
export interface PositionalArg extends Base {
  type: "positional";
  valueHint: string;
  required?: boolean;
  /** The last one only: takes all that follow. */
  multiple?: boolean;
  /** The only values that it takes. */
  options?: readonly string[];
}
export type Arg = BooleanArg | StringArg | EnumArg | PositionalArg;
export type Args = Record<string, Arg>;

type ValueOf<A extends Arg> = A extends BooleanArg
  ? boolean
  : A extends { multiple: true }
    ? string[]
    : (A extends { options: readonly (infer O)[] } ? O : string) | (A extends { required: true } ? never : undefined);

export interface Context<A extends Args> {
  args: { -readonly [K in keyof A]: ValueOf<A[K]> } & { json: boolean };
  /** What stands after `--`. */
  rest: string[];
  /** The whole `--input-json` object, for commands that take more than flags there. */
  input: Record<string, unknown> | undefined;
  /** Every command, for those that describe them. */
  commands: Commands;
}

/** What a command gives back: `json` with `--json`, else `text`; `code` is the exit code (0 if left out). */
export interface Output {
  json: Record<string, unknown>;
  text: string;
  code?: number;
  /** The process goes on: what runs in it now ends it. */
  stays?: true;
}

export interface CommandSpec<A extends Args = Args> {
  /** As it is typed, e.g. `config get`. */
  name: string;
  description: string;
  args: A;
  /** What follows `--`, for the usage line: `CMD …` is a command line, others are arguments, files among them. */
  rest?: string;
  /** Programs whose names call it in place of its last word; they are completed so. */
  programs?: readonly string[];
  /** Command lines and what they do. */
  examples?: readonly (readonly [string, string])[];
  /** JSON Schema of `--input-json` where it is not made of the flags. */
  inputSchema?: () => Promise<Record<string, unknown>>;
  /** No `--json` and `--input-json`: the output is text by nature. */
  plain?: boolean;
  /** What stdout gets when the command throws: for `eval`. */
  onError?: (rawArgs: readonly string[]) => string;
  run(context: Context<A>): Promise<Output>;
}

/** Flags that every operational command has. */
export const common = {
  json: { type: "boolean", description: "Print one JSON document on stdout", input: false },
  "input-json": {
    type: "string",
    valueHint: "FILE",
    description: "Read arguments from a JSON file, or - for stdin",
    input: false,
    values: "file",
  },
} as const satisfies Args;

/** Flags that `ef` itself takes, before or after the command. */
export const globals = {
  config: {
    type: "string",
    valueHint: "FILE",
    description: "The configuration (default: $EF_CONFIG, ~/.euler-files.json)",
    input: false,
    values: "file",
  },
  help: { type: "boolean", alias: "h", description: "Show this help", input: false },
} as const satisfies Args;

/** What `ef` without a command takes. */
export const rootArgs = {
  ...globals,
  version: { type: "boolean", alias: "V", description: "Show the version", input: false },
} as const satisfies Args;

/** Flags of the commands that sync. */
export const syncing = {
  var: {
    type: "string",
    multiple: true,
    valueHint: "NAME",
    description: "Only this variable, also a disabled one; repeatable",
    input: "vars",
    inputAliases: ["only_vars"],
    values: "vars",
  },
  force: { type: "boolean", description: "Compare and copy even if the last sync is fresh" },
  "node-local": {
    type: "boolean",
    description: "Copy to this node's own disk, once for all its tasks",
  },
  preflight: { type: "boolean", default: true, description: "Do not check first that there is room" },
  workers: {
    type: "string",
    valueHint: "N",
    description: "Requests in flight, and threads: a number, or auto (default: ef.transfer.workers, auto)",
  },
  bwlimit: {
    type: "string",
    valueHint: "RATE",
    description: "Bytes per second in all, e.g. 200M (default: ef.transfer.bwlimit, none)",
  },
} as const satisfies Args;

export type Command = CommandSpec;

/** Commands by the words that call them, in the order of the help. Loaded on demand: start-up time counts. */
export type Commands = Readonly<Record<string, () => Promise<{ default: Command }>>>;

/** The names of the commands for people; those that begin with `__` are for the completion scripts. */
export const namesOf = (commands: Commands): string[] => Object.keys(commands).filter((name) => !name.startsWith("__"));

/** The second words of a group: `path`, `show`, … of `config`. */
export const subcommands = (commands: Commands, group: string): string[] =>
  namesOf(commands).flatMap((name) => (name.startsWith(`${group} `) ? [name.slice(group.length + 1)] : []));

/** Load all commands for people. */
export async function loadAll(commands: Commands): Promise<Command[]> {
  const modules = namesOf(commands).flatMap((name) => commands[name]?.() ?? []);
  return (await Promise.all(modules)).map((module) => module.default);
}

/** Declare a command; keeps the types of its flags for `run`. */
export function command<const A extends Args>(spec: CommandSpec<A>): Command {
  return spec as unknown as Command;
}

/** Every flag of a command, the common ones included. */
export function allArgs(spec: Command): Args {
  return { ...spec.args, ...(spec.plain ? {} : common), ...globals };
}

/** A flag as it is typed. */
export const flagName = (name: string, arg: Arg): string =>
  arg.type === "boolean" && arg.default ? `--no-${name}` : `--${name}`;

/** The `--input-json` key of a flag. */
export const inputKey = (name: string, arg: Arg): string | undefined =>
  arg.input === false ? undefined : (arg.input ?? flagName(name, arg).slice(2).replaceAll("-", "_"));

/** Does it take several values? */
export const isList = (arg: Arg): boolean =>
  (arg.type === "string" || arg.type === "positional") && arg.multiple === true;

/**
 * The value of an argument that was not given.
 *
 * @throws {EfError} USAGE if it must be
 */
export function defaultOf(arg: Arg): boolean | string[] | undefined {
  if (arg.type === "boolean") return arg.default ?? false;
  if (arg.type === "positional" && arg.required)
    throw new EfError("USAGE", `${arg.valueHint} is missing: ${arg.description}`);
  return isList(arg) ? [] : undefined;
}
