/** Names of environments. */
import { EfError } from "../base/errors.ts";

/** What is safe as a file name, in a prompt and in any shell; dots too: `torch2.1` and `torch2.2` are two. */
const pattern = /^[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}$/;

export const isName = (text: string): boolean => pattern.test(text);

/** @throws {EfError} USAGE */
export function checkName(name: string): string {
  if (isName(name)) return name;
  const shown = JSON.stringify(name);
  throw new EfError("USAGE", `Cannot call an environment ${shown.length > 60 ? `${shown.slice(0, 59)}…` : shown}`, {
    hint: "use letters, digits and . _ + -, at most 100, and none of . + - first",
  });
}

/** A Python version as `create` takes it: `3.11`, `3.12.4`, `3.13t`. */
export const isVersion = (text: string): boolean => /^\d+\.\d+(?:\.\d+)?t?$/.test(text);
