#!/usr/bin/env bun
/** argv → one command → stdout and exit code. Modules are loaded when their command is called, not before. */
import { EfError, Exit } from "../lib/base/errors.ts";
import { traceTo } from "../lib/base/trace.ts";
import { allArgs, type Command, defaultOf } from "./args.ts";
import { Cancelled, emit, leave, paint, Stopped, say } from "./process.ts";
import { commands } from "./table.ts";

/** @returns the exit code; undefined if the process goes on */
async function main(argv: readonly string[]): Promise<number | undefined> {
  if (process.env.EF_TRACE || process.env.EF_LOG) traceTo((await import("./trace.ts")).sink());
  const { names, rest, help, version } = find(takeConfig(await withSeparator(argv)));
  if (version) {
    emit((await import("./version.ts")).versionText());
    return Exit.ok;
  }
  const load = Object.hasOwn(commands, names) ? commands[names] : undefined;
  if (!load || help) return (await import("./help.ts")).helpFor(names, rest, help);
  const { default: spec } = await load();
  return runOne(spec, rest);
}

/** With the `--` before what is another program's, which these commands do not ask for. */
async function withSeparator(argv: readonly string[]): Promise<readonly string[]> {
  if (argv.includes("run")) {
    const words = (await import("./run-words.ts")).beforeScript(argv);
    if (words !== argv) return words;
  }
  if (argv.includes("dm")) return (await import("./dm-words.ts")).beforeTool(argv, commands);
  if (argv.includes("--job")) return (await import("./stage-words.ts")).beforeSbatch(argv);
  return argv;
}

/** Take `--config FILE` out of the arguments: for `ef` itself, wherever it stands before a `--`. */
function takeConfig(argv: readonly string[]): string[] {
  const out: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const arg = argv[i] as string;
    if (arg === "--") return [...out, ...argv.slice(i)];
    const value =
      arg === "--config" ? argv[++i] : arg.startsWith("--config=") ? arg.slice("--config=".length) : undefined;
    if (value) process.env.EF_CONFIG = value;
    else out.push(arg);
  }
  return out;
}

/** Which command the arguments name: the longest of one or two words that the table has. */
function find(argv: readonly string[]) {
  const own = argv.includes("--") ? argv.slice(0, argv.indexOf("--")) : argv;
  const help = own.some((arg) => arg === "--help" || arg === "-h") || argv[0] === "help";
  const words = argv[0] === "help" ? argv.slice(1) : argv;
  const two = words.slice(0, 2).join(" ");
  const [first = ""] = words;
  const names = Object.hasOwn(commands, two) ? two : help && first.startsWith("-") ? "" : first;
  const version = words[0] === "--version" || words[0] === "-V" || words[0] === "version";
  return { names, rest: words.slice(names.split(" ").length), help, version };
}

async function runOne(spec: Command, rawArgs: readonly string[]): Promise<number | undefined> {
  const own = rawArgs.includes("--") ? rawArgs.slice(0, rawArgs.indexOf("--")) : rawArgs;
  const json = own.includes("--json") && !spec.plain;
  try {
    const { args, rest, input } =
      rawArgs.length > 0 ? await (await import("./parse.ts")).parse(spec, rawArgs) : bare(spec);
    const output = await spec.run({ args: args as never, rest, input, commands });
    if (output.stays) return undefined;
    const ok = (output.code ?? Exit.ok) === Exit.ok;
    emit(
      json ? document({ ok, command: spec.name.replaceAll(" ", "-"), ...ownKeys(spec), ...output.json }) : output.text,
    );
    return output.code ?? Exit.ok;
  } catch (error) {
    if (error instanceof Stopped || error instanceof Cancelled) {
      say(`ef ${spec.name}: ${error.message}\n`);
      return error.exitCode;
    }
    const known = asEfError(error);
    if (json) emit(document({ ok: false, error: errorJson(known) }));
    else {
      tellError(known);
      emit(spec.onError?.(rawArgs) ?? "");
    }
    return known.exit;
  }
}

/**
 * The values without arguments. There is nothing to parse then, and the parser is not loaded: a fresh `ef sync` would
 * spend a fifth of its time on that.
 */
function bare(spec: Command) {
  const values = Object.entries(allArgs(spec)).map(([name, arg]) => [name, defaultOf(arg)]);
  return { args: Object.fromEntries(values), rest: [], input: undefined };
}

/** Commands whose JSON has the keys of euler-files; the others all have `errors`. */
const asEulerFiles = ["init", "sync", "status", "shell-init", "schema"];
const ownKeys = (spec: Command) => (asEulerFiles.includes(spec.name) ? {} : { errors: [] });

const document = (value: object) => `${JSON.stringify(value, null, 2)}\n`;

function errorJson({ code, message, hint, path, exit }: EfError) {
  return { type: exit === Exit.usage ? "UsageError" : "Error", message, code, hint, path };
}

/** An error that nobody foresaw is a bug of ef: say so in one line, with the stack only for those who asked. */
function asEfError(error: unknown): EfError {
  if (error instanceof EfError) return error;
  const { name, message, stack } = error as Error;
  if (name === "CLIError") return new EfError("USAGE", Bun.stripANSI(message)); // citty colours its words
  if (process.env.EF_LOG === "debug") say(`${stack}\n`);
  return new EfError("IO", message || String(error), { hint: "more with EF_LOG=debug", cause: error });
}

function tellError({ message, hint }: EfError): void {
  say(`${paint("red", "error:")} ${message}\n${hint ? `  ${hint}\n` : ""}`);
}

try {
  const code = await main(process.argv.slice(2));
  if (code !== undefined) leave(code);
} catch (error) {
  const known = asEfError(error);
  tellError(known);
  leave(known.exit);
}
