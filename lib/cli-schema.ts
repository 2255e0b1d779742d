import { toJsonSchema } from "@valibot/to-json-schema";
import type { GenericSchema, LazySchema } from "valibot";

/** The dialect of every JSON Schema that ef prints. */
export const schemaDialect = "https://json-schema.org/draft/2020-12/schema";

/**
 * What a valibot schema accepts, as JSON Schema.
 *
 * What JSON Schema cannot say (a check in code, a regular expression with flags) is left out: it never accepts less.
 */
export function jsonSchema(schema: GenericSchema): Record<string, unknown> {
  const {
    $schema: _,
    $defs: __,
    ...converted
  } = toJsonSchema(schema, {
    target: "draft-2020-12",
    typeMode: "input",
    // Ours are lazy to start quickly, never to hold themselves; in place they are right wherever the whole is put.
    overrideSchema: ({ valibotSchema }) =>
      valibotSchema.type === "lazy"
        ? jsonSchema((valibotSchema as LazySchema<GenericSchema>).getter(undefined))
        : undefined,
    overrideAction({ valibotAction, jsonSchema: { pattern, ...others }, errors }) {
      if (!errors) return undefined;
      return valibotAction.type === "regex" || pattern === undefined ? others : { ...others, pattern };
    },
  });
  return converted;
}
