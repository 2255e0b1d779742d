/** Help, made from the command tables: on stdout when it was asked for, on stderr after a mistake. */
import { Exit } from "../lib/base/errors.ts";
import { nearest } from "../lib/base/nearest.ts";
import { type Arg, allArgs, type Command, flagName, namesOf, subcommands } from "./args.ts";
import { emit, paint, say, stderrIsTerminal, stdoutIsTerminal } from "./process.ts";
import { commands, groups } from "./table.ts";

/**
 * Print the help that fits, and give the exit code.
 *
 * @param names the command as typed, perhaps unknown
 * @param asked did the user ask for help (`--help`), or is this the answer to a mistake?
 */
export async function helpFor(names: string, rest: readonly string[], asked: boolean): Promise<number> {
  const load = Object.hasOwn(commands, names) ? commands[names] : undefined;
  if (load && asked) {
    emit(commandHelp((await load()).default, stdoutIsTerminal()));
    return Exit.ok;
  }
  const under = subcommands(commands, names).map((sub) => `${names} ${sub}`);
  const isTerminal = asked ? stdoutIsTerminal() : stderrIsTerminal();
  const text = under.length > 0 ? await groupHelp(names, under, isTerminal) : await mainHelp(isTerminal);
  if (asked && (names === "" || under.length > 0)) {
    emit(text);
    return Exit.ok;
  }
  const wrong = under.length > 0 ? [names, rest[0]].filter(Boolean).join(" ") : names;
  const isGroup = under.length > 0 && rest[0] === undefined;
  if (wrong && !isGroup) {
    const near = nearest(wrong, namesOf(commands));
    const hint = near ? `did you mean: ef ${near}` : "all commands: ef --help";
    const message = `there is no command "ef ${wrong}"`;
    if (rest.includes("--json"))
      emit(`${JSON.stringify({ ok: false, error: { type: "UsageError", message, hint } })}\n`);
    else say(`${paint("red", "error:")} ${message}\n  ${hint}\n`);
  } else say(text);
  return Exit.usage;
}

async function mainHelp(isTerminal: boolean): Promise<string> {
  const head = (text: string) => paint("bold", text, isTerminal);
  const sections = await Promise.all(
    Object.entries(groups).map(async ([group, names]) => `${head(group)}\n${await rows(names)}`),
  );
  return `ef brings caches, environments and images to fast scratch before a job, and results back.

${head("Usage")}
  ef COMMAND [OPTIONS]

${sections.join("\n\n")}

${head("Options")}
  --config FILE  The configuration (default: $EF_CONFIG, ~/.euler-files.json)
  -h, --help     Help, also of a command: ef sync --help
  -V, --version  Version, commit, target, Bun version

${head("Examples")}
  ef init                                  choose what to stage
  eval "$(ef sync)"                        in a job script: stage it and set the variables
  ef exec -- python train.py               both in one
  eval "$(ef shell-init --shell bash)"     in ~/.bashrc: then just: ef
`;
}

async function groupHelp(names: string, under: readonly string[], isTerminal: boolean): Promise<string> {
  return `${paint("bold", `ef ${names}`, isTerminal)}\n${await rows(under)}\n`;
}

/** A command with its description, a group with its sub-commands. */
async function rows(listed: readonly string[]): Promise<string> {
  const lines = await Promise.all(
    listed.map(async (name) => [
      name,
      (await commands[name]?.())?.default.description ?? subcommands(commands, name).join(", "),
    ]),
  );
  return columns(lines.filter(([, text]) => text));
}

/** Help of one command. */
export function commandHelp(spec: Command, isTerminal: boolean): string {
  const head = (text: string) => paint("bold", text, isTerminal);
  const args = Object.entries(allArgs(spec));
  const places = args.filter(([, arg]) => arg.type === "positional");
  const flags = args.filter(([, arg]) => arg.type !== "positional");
  const usage = [
    "ef",
    spec.name,
    ...places.map(([, arg]) => place(arg)),
    "[OPTIONS]",
    ...(spec.rest ? ["--", spec.rest] : []),
  ];
  const parts = [
    `${spec.description}.`,
    `${head("Usage")}\n  ${usage.join(" ")}`,
    ...(places.length > 0
      ? [`${head("Arguments")}\n${columns(places.map(([, arg]) => [hintOf(arg), arg.description]))}`]
      : []),
    `${head("Options")}\n${columns(flags.map(([name, arg]) => [flagText(name, arg), arg.description]))}`,
    ...(spec.examples ? [`${head("Examples")}\n${columns(spec.examples.map(([line, what]) => [line, what]))}`] : []),
  ];
  return `${parts.join("\n\n")}\n`;
}

const hintOf = (arg: Arg) => ("valueHint" in arg ? arg.valueHint : "");
const place = (arg: Arg) => (arg.type === "positional" && arg.required ? hintOf(arg) : `[${hintOf(arg)}]`);

function flagText(name: string, arg: Arg): string {
  const short = "alias" in arg && arg.alias ? `-${arg.alias}, ` : "";
  const value = arg.type === "enum" ? ` ${arg.options.join("|")}` : arg.type === "boolean" ? "" : ` ${hintOf(arg)}`;
  return `${short}${flagName(name, arg)}${value}`;
}

function columns(lines: readonly (readonly string[])[]): string {
  const width = Math.max(...lines.map(([left = ""]) => left.length));
  return lines.map(([left = "", right = ""]) => `  ${left.padEnd(width)}  ${right}`).join("\n");
}
