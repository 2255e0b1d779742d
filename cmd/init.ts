import { EfError } from "../lib/base/errors.ts";
import { configPath } from "../lib/config/store.ts";
import { filledIn, initInput, savedText, withSchema } from "../lib/init.ts";
import { replaceConfig } from "../lib/settings.ts";
import { command, type Output } from "./args.ts";
import { isInteractive, say, warn } from "./process.ts";

export default command({
  name: "init",
  description: "Make the configuration: choose what to stage",
  examples: [
    ["ef init", "questions on a terminal; an existing configuration is the starting point"],
    ["ef init --input-json FILE", "without questions: the file is the configuration"],
  ],
  args: {
    schema: {
      type: "string",
      valueHint: "URL",
      description: "Write this as $schema, for editors (a file: ef schema --kind config)",
      input: false,
    },
  },
  inputSchema,
  async run({ args, input }): Promise<Output> {
    if (input) return save(input, args.schema, args.json);
    if (!isInteractive()) {
      throw new EfError("NOT_INTERACTIVE", "Cannot ask what to stage: this is not a terminal", {
        hint: "give the configuration with: ef init --input-json FILE (or - for stdin)",
      });
    }
    return (await import("./wizard.ts")).wizard({ schema: args.schema });
  },
});

async function save(input: Record<string, unknown>, schema: string | undefined, json: boolean): Promise<Output> {
  const { raw, warnings } = initInput(input);
  const path = configPath();
  const saved = withSchema(filledIn(raw), schema);
  const { backup } = await replaceConfig(path, () => saved);
  if (!json) for (const warning of warnings) warn(warning);
  say(savedText(path, backup, process.env));
  return { json: { status: "saved", config_path: path, config: saved, warnings }, text: "" };
}

/** The configuration itself, its version left out or not, or an object that has it as `config`. */
async function inputSchema(): Promise<Record<string, unknown>> {
  const v = await import("valibot");
  const { jsonSchema } = await import("../lib/cli-schema.ts");
  const { Config } = await import("../lib/config/schema.ts");
  const config = v.looseObject({ ...Config.entries, version: v.optional(Config.entries.version) });
  return closed(jsonSchema(v.union([config, v.object({ config })])));
}

/** A JSON Schema that refuses keys it does not name, as {@link initInput} does, but for `$schema`. */
function closed<T>(schema: T): T {
  if (typeof schema !== "object" || schema === null) return schema;
  if (Array.isArray(schema)) return schema.map(closed) as T;
  const inner = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, closed(value)]));
  const { properties } = inner;
  if (inner.type !== "object" || !properties || Object.keys(properties).length === 0) return inner as T;
  const known = "scratch_base" in properties ? { $schema: {}, ...properties } : properties;
  return { ...inner, properties: known, additionalProperties: false } as T;
}
