import { apptainerInit, apptainerInput } from "../lib/apptainer-init.ts";
import { EfError } from "../lib/base/errors.ts";
import { tilde } from "../lib/base/paths.ts";
import { configPath } from "../lib/config/store.ts";
import { command, type Output } from "./args.ts";
import { isInteractive, say, warn } from "./process.ts";

export default command({
  name: "apptainer init",
  description: "Say where environments and images are, and how images are built",
  examples: [
    ["ef apptainer init", "questions on a terminal; what the configuration has is the starting point"],
    ["ef apptainer init --input-json FILE", "without questions: the file is the section apptainer"],
  ],
  args: {},
  inputSchema,
  async run({ args, input }): Promise<Output> {
    if (input) return save(input, args.json);
    if (!isInteractive()) {
      throw new EfError("NOT_INTERACTIVE", "Cannot ask where images are to be kept: this is not a terminal", {
        hint: "give the section with: ef apptainer init --input-json FILE (or - for stdin)",
      });
    }
    return (await import("./apptainer-wizard.ts")).apptainerWizard();
  },
});

async function save(input: Record<string, unknown>, json: boolean): Promise<Output> {
  const path = configPath();
  const { apptainer, warnings } = await apptainerInit(apptainerInput(input), path);
  if (!json) for (const warning of warnings) warn(warning);
  say(`saved ${tilde(path, process.env)}\n`);
  return { json: { status: "saved", config_path: path, apptainer, warnings }, text: "" };
}

/** The section itself, or an object that has it as `apptainer`; unknown keys are refused. */
async function inputSchema(): Promise<Record<string, unknown>> {
  const v = await import("valibot");
  const { jsonSchema } = await import("../lib/cli-schema.ts");
  const { Config, bareSchema } = await import("../lib/config/schema.ts");
  const section = bareSchema(Config.entries.apptainer) as never;
  return closed(jsonSchema(v.union([v.strictObject({ apptainer: section }), section])));
}

/** A JSON Schema that refuses keys it does not name. */
function closed<T>(schema: T): T {
  if (typeof schema !== "object" || schema === null) return schema;
  if (Array.isArray(schema)) return schema.map(closed) as T;
  const inner = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, closed(value)]));
  return (inner.type === "object" && inner.properties ? { ...inner, additionalProperties: false } : inner) as T;
}
