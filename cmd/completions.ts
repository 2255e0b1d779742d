import {
  type CompletionCommand,
  type CompletionFlag,
  completionScript,
  completionShells,
  type ValueSource,
} from "../lib/completions.ts";
import {
  type Arg,
  type Args,
  allArgs,
  type Command,
  type Commands,
  command,
  flagName,
  globals,
  isList,
  loadAll,
  rootArgs,
  subcommands,
} from "./args.ts";

export default command({
  name: "completions",
  description: "Print the script that completes ef in a shell",
  plain: true,
  examples: [
    ["ef completions bash > ~/.local/share/bash-completion/completions/ef", "where bash-completion looks"],
    ["ef completions zsh > ~/.zfunc/_ef", "in a directory of $fpath"],
    ["ef completions fish > ~/.config/fish/completions/ef.fish", "where fish looks"],
  ],
  args: {
    shell: {
      type: "positional",
      valueHint: "SHELL",
      required: true,
      options: completionShells,
      description: "bash, zsh or fish; ef shell-init has it in its text already",
    },
  },
  async run({ args, commands }) {
    return { json: {}, text: completionScript(args.shell, await completionTable(commands)) };
  },
});

/** All commands and groups as the completion scripts see them. */
export async function completionTable(commands: Commands): Promise<CompletionCommand[]> {
  const specs = await loadAll(commands);
  const info = (spec: Command): CompletionCommand => ({
    name: spec.name,
    description: spec.description,
    flags: flagsOf(allArgs(spec)),
    places: Object.values(spec.args).flatMap((arg) =>
      arg.type === "positional" ? [{ hint: arg.valueHint, description: arg.description, from: sourceOf(arg) }] : [],
    ),
    rest: spec.rest?.startsWith("CMD") ? "command" : spec.rest ? "files" : undefined,
  });
  const group = (name: string): CompletionCommand => {
    const description = subcommands(commands, name).join(", ");
    return { name, description, flags: flagsOf(globals), places: [], rest: undefined };
  };
  const root = { name: "", description: "", flags: flagsOf(rootArgs), places: [], rest: undefined };
  const table = new Map<string, CompletionCommand>([["", root]]);
  for (const spec of specs) {
    const [first = ""] = spec.name.split(" ");
    if (first !== spec.name && !table.has(first)) table.set(first, group(first));
    table.set(spec.name, info(spec));
    for (const program of spec.programs ?? []) table.set(`${first} ${program}`, programInfo(`${first} ${program}`));
  }
  return [...table.values()];
}

/** A program that is called like a sub-command: its flags are its own, its arguments are likely files. */
function programInfo(name: string): CompletionCommand {
  const file = { hint: "FILE", description: "", from: "file" } as const;
  return {
    name,
    description: "on a data mover",
    flags: flagsOf(globals),
    places: Array(9).fill(file),
    rest: undefined,
  };
}

function flagsOf(args: Args): CompletionFlag[] {
  return Object.entries(args).flatMap(([name, arg]): CompletionFlag[] => {
    if (arg.type === "positional") return [];
    const flag = { name: flagName(name, arg), short: arg.alias, description: arg.description };
    if (arg.type === "boolean") return [{ ...flag, repeatable: false }];
    const hint = arg.type === "enum" ? name.toUpperCase() : arg.valueHint;
    return [{ ...flag, value: { hint, from: sourceOf(arg) }, repeatable: isList(arg) }];
  });
}

function sourceOf(arg: Arg): ValueSource {
  if ("options" in arg && arg.options) return arg.options;
  if (arg.values === undefined) return "any";
  return arg.values === "file" || arg.values === "dir" ? arg.values : { ask: arg.values };
}
