/** The check of `--input-json`, made from a command's flags; loaded only when there is such input. */
import * as v from "valibot";
import { EfError } from "../lib/base/errors.ts";
import { describeIssue } from "../lib/config/store.ts";
import { type Arg, type Command, flagName, inputKey, isList } from "./args.ts";

/**
 * Check the object against the flags.
 *
 * @returns values by flag name
 * @throws {EfError} USAGE, naming each key that is unknown or of the wrong form
 */
export function checkInput(spec: Command, input: Record<string, unknown>): Record<string, unknown> {
  const result = v.safeParse(inputValidator(spec), input);
  if (!result.success) {
    const unknown = result.issues.filter((issue) => issue.type === "strict_object").map((issue) => v.getDotPath(issue));
    const why = unknown.length > 0 ? `unknown key ${unknown.join(", ")}` : result.issues.map(describeIssue).join("; ");
    throw new EfError("USAGE", `ef ${spec.name}: --input-json: ${why}`, {
      hint: `see: ef schema --kind input --command ${spec.name.replaceAll(" ", ".")}`,
    });
  }
  return Object.fromEntries(
    Object.entries(spec.args).flatMap(([name, arg]) => {
      const keys = [inputKey(name, arg), ...(arg.inputAliases ?? [])].filter((key) => key !== undefined);
      const key = keys.find((each) => each in input);
      if (key === undefined) return [];
      return [[name, arg.type === "boolean" && arg.default ? !input[key] : input[key]]];
    }),
  );
}

/** The valibot schema of a command's `--input-json`: strict, so that a wrong key is heard. */
export function inputValidator(spec: Command) {
  const entries = Object.entries(spec.args).flatMap(([name, arg]) => {
    const key = inputKey(name, arg);
    if (key === undefined) return [];
    const about = (text: string) => v.optional(v.pipe(valueType(arg), v.description(text)));
    const flag = arg.type === "positional" ? arg.valueHint : flagName(name, arg);
    const text = `${flag}: ${arg.description}`;
    const aliases = (arg.inputAliases ?? []).map((alias) => [alias, about(`Another name of ${key}`)] as const);
    return [[key, about(text)] as const, ...aliases];
  });
  return v.strictObject(Object.fromEntries(entries));
}

function valueType(arg: Arg): v.GenericSchema {
  if (arg.type === "boolean") return v.boolean();
  if ("options" in arg && arg.options) return v.picklist(arg.options);
  return isList(arg) ? v.array(v.string()) : v.string();
}
