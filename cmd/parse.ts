/** Arguments by citty, and what citty lets pass: unknown flags, a flag without its value, repeated flags. */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { type ArgsDef, parseArgs as cittyParse } from "citty";
import { EfError, reasonOf } from "../lib/base/errors.ts";
import { type Arg, type Args, allArgs, type Command, defaultOf, isList, type PositionalArg } from "./args.ts";

/** @throws {EfError} USAGE */
export async function parse(spec: Command, rawArgs: readonly string[]) {
  const args = allArgs(spec);
  const given = tokens(spec, args, rawArgs);
  const parsed = cittyParse([...given.own], cittyArgs(args)) as Record<string, unknown>;
  const file = parsed["input-json"] as string | undefined;
  const input = file === undefined ? undefined : readInput(file);
  const json = input && !spec.inputSchema ? (await import("./input.ts")).checkInput(spec, input) : {};
  const values = Object.entries(args).map(([name, arg]) => [name, merge(name, arg, parsed, given, json)]);
  return { args: Object.fromEntries(values), rest: given.rest, input };
}

type Given = {
  repeated: Map<string, string[]>;
  own: readonly string[];
  rest: string[];
  /** Of a positional that takes several. */
  places: string[];
};

/** The flags as they stand there, each checked against the table. */
function tokens(spec: Command, args: Args, rawArgs: readonly string[]): Given {
  const end = spec.rest ? rawArgs.indexOf("--") : -1; // elsewhere `--` says that what follows is no flag
  const own = end < 0 ? rawArgs : rawArgs.slice(0, end);
  const rest = end < 0 ? [] : rawArgs.slice(end + 1);
  const options = Object.fromEntries(
    Object.entries(args)
      .filter(([, arg]) => arg.type !== "positional")
      .map(([name, arg]) => {
        const flag = arg as Exclude<Arg, PositionalArg>;
        const key = arg.type === "boolean" && arg.default ? `no-${name}` : name;
        return [
          key,
          {
            type: arg.type === "boolean" ? "boolean" : "string",
            multiple: true,
            ...(flag.alias ? { short: flag.alias } : {}),
          },
        ];
      }),
  ) as Record<string, { type: "boolean" | "string"; multiple: true }>;
  const usage = (why: string, hint = `see: ef ${spec.name} --help`) =>
    new EfError("USAGE", `ef ${spec.name}: ${why}`, { hint });
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({ args: [...own], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw usage((error as Error).message.split(/\. To specify|\. Did you/)[0] ?? "");
  }
  const places = Object.values(args).filter((arg) => arg.type === "positional");
  const extra = places.some(isList) ? undefined : parsed.positionals[places.length];
  if (extra !== undefined) {
    const words = [...parsed.positionals.slice(0, places.length), "--", ...parsed.positionals.slice(places.length)];
    const hint = spec.rest ? `write: ef ${spec.name} ${words.join(" ")}` : undefined;
    throw usage(`unexpected argument ${JSON.stringify(extra)}`, hint);
  }
  const repeated = new Map(Object.entries(parsed.values).map(([name, value]) => [name, [value].flat().map(String)]));
  const list = places.findIndex(isList);
  return { repeated, own, rest, places: list < 0 ? [] : parsed.positionals.slice(list) };
}

function cittyArgs(args: Args): ArgsDef {
  return Object.fromEntries(
    Object.entries(args).map(([name, arg]) => {
      const { input: _, inputAliases: __, values: ___, default: ____, ...rest } = arg as Arg & { default?: unknown };
      return [name, { ...rest, required: false } as never];
    }),
  );
}

/** The flag on the command line, else the key of the JSON, else the default. */
function merge(
  name: string,
  arg: Arg,
  parsed: Record<string, unknown>,
  given: Given,
  json: Record<string, unknown>,
): unknown {
  if (arg.type === "boolean") {
    const key = arg.default ? `no-${name}` : name;
    if (given.repeated.has(key)) return !arg.default;
    return json[name] ?? defaultOf(arg);
  }
  if (isList(arg)) {
    const values = arg.type === "positional" ? given.places : given.repeated.get(name);
    return values?.length ? values : (json[name] ?? defaultOf(arg));
  }
  const value = parsed[name] ?? json[name] ?? defaultOf(arg);
  if (value !== undefined && arg.type === "positional" && arg.options && !arg.options.includes(String(value))) {
    const expected = arg.options.join(", ");
    throw new EfError("USAGE", `${arg.valueHint}: expected ${expected}, found ${JSON.stringify(value)}`);
  }
  return value;
}

/** Read the file, or stdin for `-`. */
function readInput(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file === "-" ? 0 : file, "utf8");
  } catch (error) {
    throw new EfError("USAGE", `Cannot read --input-json ${file}: ${reasonOf(error)}`, { path: file, cause: error });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new EfError("USAGE", `Cannot read --input-json ${file}: not JSON (${(error as Error).message})`, {
      path: file,
    });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new EfError("USAGE", `Cannot use --input-json ${file}: expected a JSON object`, { path: file });
}
