/** The questions of `ef migrate`: what, and where to. */
import { EfError } from "../lib/base/errors.ts";
import { tilde } from "../lib/base/paths.ts";
import type { Config } from "../lib/config/schema.ts";
import { columns, measure, shortPath, sizeText } from "../lib/init.ts";
import { checkPlace, movables, placeOf } from "../lib/migrate.ts";
import { one, text } from "./ask.ts";
import { stopSignal } from "./process.ts";

/** How long sizes may take to count, in milliseconds. */
const countingMs = 3000;

/** Ask for what is missing. @throws {Cancelled} */
export async function choose(
  config: Config,
  what: string | undefined,
  to: string | undefined,
): Promise<{ what: string; to: string }> {
  const { env } = process;
  const name = what ?? (await ask(config));
  if (to !== undefined) return { what: name, to };
  const check = (answer: string) => {
    try {
      checkPlace(config, name, answer, env);
      return undefined;
    } catch (error) {
      if (!(error instanceof EfError)) throw error;
      return error.message;
    }
  };
  const now = placeOf(config, name, env);
  return { what: name, to: await text(`New directory of ${name}, now ${tilde(now, env)}`, { check }) };
}

async function ask(config: Config): Promise<string> {
  const { env } = process;
  const list = movables(config).map(({ what, written }) => {
    try {
      return { what, path: placeOf(config, what, env), found: true };
    } catch {
      return { what, path: written, found: false };
    }
  });
  if (list.length === 0)
    throw new EfError("UNKNOWN_VAR", "Cannot migrate: the configuration names no directory yet", {
      hint: "make one with: ef init",
    });
  const sizes = await measure(list, { deadlineMs: Date.now() + countingMs, signal: stopSignal() });
  const rows = list.map(({ what, path }) => [what, sizeText(sizes.get(path)).padStart(6)]);
  const lines = columns(rows);
  const width = (process.stdout.columns || 80) - 8;
  const options = list.map(({ what, path }, i) => {
    const start = lines[i] ?? what;
    return { value: what, label: `${start}  ${shortPath(tilde(path, env), Math.max(width - start.length - 2, 8))}` };
  });
  return one("What is to move?", options);
}
