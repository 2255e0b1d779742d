/** JSON of which nothing gets lost: digits stay, and a key that stands there twice is an error. */
import { EfError } from "../lib/base/errors.ts";

type Keep = (key: string, value: unknown, context?: { source?: string }) => unknown;

/** Numbers keep their digits: Python's whole numbers have no end. (ECMAScript proposal JSON.parse source text access.) */
const keepDigits: Keep = (_, value, context) =>
  typeof value === "number" && context?.source !== undefined && context.source !== String(value)
    ? (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(context.source)
    : value;

/**
 * @param flag where it stands, for errors
 * @throws {EfError} USAGE
 */
export function exactJson(text: string, flag: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text, keepDigits as (key: string, value: unknown) => unknown);
  } catch (error) {
    throw new EfError("USAGE", `${flag}: not JSON (${(error as Error).message})`, {
      hint: `e.g. --args '[1, "two"]' --kwargs '{"x": 3}'`,
    });
  }
  const twice = repeatedKey(text);
  if (twice !== undefined) throw new EfError("USAGE", `${flag}: the key ${twice} stands in one object twice`);
  return value;
}

/** Of text that is JSON: one pass over its texts and brackets. */
function repeatedKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = []; // the keys of each object around; nothing for a list
  for (const [token, quoted] of text.matchAll(/"((?:[^"\\]|\\.)*)"\s*:?|[[\]{}]/g)) {
    if (token === "{") open.push(new Set());
    else if (token === "[") open.push(undefined);
    else if (token === "}" || token === "]") open.pop();
    else if (token.endsWith(":")) {
      const key = JSON.parse(`"${quoted}"`) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) return JSON.stringify(key);
      keys?.add(key);
    }
  }
  return undefined;
}
