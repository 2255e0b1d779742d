import { EfError } from "../lib/base/errors.ts";
import {
  type Arg,
  type Args,
  allArgs,
  type Command,
  command,
  flagName,
  globals,
  isList,
  loadAll,
  rootArgs,
} from "./args.ts";

const kinds = ["all", "cli", "input", "config"] as const;

type Json = Record<string, unknown>;

export default command({
  name: "schema",
  description: "Describe commands, JSON input and the configuration, as JSON",
  examples: [
    ["ef schema --command sync", "flags and --input-json of one command"],
    ["ef schema --kind config", "JSON Schema of the configuration"],
  ],
  args: {
    kind: { type: "enum", options: kinds, description: "What to describe (default: all)" },
    command: {
      type: "string",
      valueHint: "NAME",
      values: "commands",
      description: "Only this command or group; words are joined by a dot, e.g. config.get",
    },
  },
  async run({ args, commands }) {
    const kind = args.kind ?? "all";
    const found = await describe(kind, args.command, await loadAll(commands));
    const json = { kind, ...(args.command === undefined ? {} : { target_command: args.command }), ...found };
    return { json, text: `${JSON.stringify({ ok: true, command: "schema", ...json }, null, 2)}\n` };
  },
});

async function describe(
  kind: (typeof kinds)[number],
  target: string | undefined,
  all: readonly Command[],
): Promise<Json> {
  const name = target?.replaceAll(".", " ");
  const specs = name === undefined ? all : all.filter((spec) => spec.name === name || spec.name.startsWith(`${name} `));
  if (specs.length === 0) {
    throw new EfError("USAGE", `Cannot describe ${target}: there is no such command`, {
      hint: "give its words joined by a dot, e.g. config.get; all of them: ef schema --kind cli",
    });
  }
  return {
    ...(kind === "all" || kind === "cli" ? { cli: cliOf(name ?? "", specs) } : {}),
    ...(kind === "all" || kind === "input" ? await inputOf(kind, name, specs) : {}),
    ...(kind === "config" || (kind === "all" && target === undefined) ? { config: await configSchema() } : {}),
  };
}

// Commands in the shape of Click's to_info_dict(), which euler-files prints.

/** The names that Click knows some options by in euler-files. */
const clickNames: Readonly<Record<string, string>> = {
  ...{ json: "json_output", command: "command_path", to: "to_path", python: "python_version" },
};

/** What Click says of every parameter, and ef has no use for. */
const param = { default: null, envvar: null, multiple: false, nargs: 1, required: false, secondary_opts: [] };

function cliOf(name: string, specs: readonly Command[]): Json {
  const [own] = specs.filter((spec) => spec.name === name);
  if (own) return { ...about(own.name, own.description), params: paramsOf(own) };
  const depth = name === "" ? 0 : name.split(" ").length;
  const children = [
    ...new Set(
      specs.map((spec) =>
        spec.name
          .split(" ")
          .slice(0, depth + 1)
          .join(" "),
      ),
    ),
  ];
  const below = (child: string) => specs.filter((spec) => spec.name === child || spec.name.startsWith(`${child} `));
  return {
    ...(name === ""
      ? about("ef", "Put what a job needs on the storage where it runs")
      : about(name, `Sub-commands: ${children.map(lastWord).join(", ")}`)),
    params: optionsOf(name === "" ? rootArgs : globals),
    chain: false,
    commands: Object.fromEntries(children.map((child) => [lastWord(child), cliOf(child, below(child))])),
  };
}

const lastWord = (name: string) => name.split(" ").at(-1) ?? "";
const about = (name: string, help: string) => ({
  ...{ name: lastWord(name), help, short_help: null, epilog: null },
  ...{ deprecated: false, hidden: false },
});

function paramsOf(spec: Command): Json[] {
  const args = allArgs(spec);
  const places = Object.entries(args).flatMap(([name, arg]) =>
    arg.type === "positional" ? [[name, arg] as const] : [],
  );
  const argument = (name: string, more: Json) => ({
    ...param,
    ...{ name: snake(name), opts: [snake(name)], param_type_name: "argument" },
    ...more,
  });
  return [
    ...places.map(([name, arg]) =>
      argument(name, {
        ...{ help: arg.description, required: arg.required ?? false, type: typeOf(arg) },
        ...(isList(arg) ? { nargs: -1 } : {}),
      }),
    ),
    ...(spec.rest ? [argument("rest", { help: `After --: ${spec.rest}`, required: true, nargs: -1, type: text })] : []),
    ...optionsOf(args),
  ];
}

function optionsOf(args: Args): Json[] {
  return Object.entries(args).flatMap(([name, arg]) => {
    if (arg.type === "positional") return [];
    const flag = flagName(name, arg);
    const isFlag = arg.type === "boolean";
    return {
      ...param,
      ...{ name: clickNames[name] ?? snake(flag.slice(2)), opts: [flag, ...(arg.alias ? [`-${arg.alias}`] : [])] },
      ...{ param_type_name: "option", help: arg.description, type: typeOf(arg), hidden: false, prompt: null },
      ...{ is_flag: isFlag, flag_value: isFlag || null, default: isFlag ? false : null, count: false },
      multiple: isList(arg),
    };
  });
}

const text = { name: "text", param_type: "String" };

function typeOf(arg: Arg): Json {
  if (arg.type === "boolean") return { name: "boolean", param_type: "Bool" };
  if (!("options" in arg) || !arg.options) return text;
  return { name: "choice", param_type: "Choice", choices: arg.options, case_sensitive: true };
}

const snake = (name: string) => name.replaceAll("-", "_");

// JSON Schemas

/** `input_json` of one command, or of several by their dotted names. */
async function inputOf(kind: string, name: string | undefined, specs: readonly Command[]): Promise<Json> {
  const schemas = await Promise.all(
    specs.map(async (spec) => [spec.name.replaceAll(" ", "."), await inputSchema(spec)] as const),
  );
  const [first] = schemas;
  if (specs.length > 1 || specs[0]?.name !== name) {
    return { input_json: Object.fromEntries(schemas.filter(([, schema]) => schema !== undefined)) };
  }
  if (first?.[1]) return { input_json: first[1] };
  if (kind === "all") return {};
  throw new EfError("USAGE", `Cannot describe the JSON input of ef ${name}: it takes none`, {
    hint: `its flags: ef schema --kind cli --command ${first?.[0]}`,
  });
}

async function inputSchema(spec: Command): Promise<Json | undefined> {
  if (spec.plain && !spec.args["input-json"]) return undefined;
  const { jsonSchema, schemaDialect } = await import("../lib/cli-schema.ts");
  return {
    $schema: schemaDialect,
    title: `ef ${spec.name}: --input-json`,
    description: spec.description,
    ...(spec.inputSchema ? await spec.inputSchema() : jsonSchema((await import("./input.ts")).inputValidator(spec))),
  };
}

async function configSchema(): Promise<Json> {
  const [{ jsonSchema, schemaDialect }, { Config }] = await Promise.all([
    import("../lib/cli-schema.ts"),
    import("../lib/config/schema.ts"),
  ]);
  return { $schema: schemaDialect, title: "Configuration of ef and euler-files, version 1", ...jsonSchema(Config) };
}
