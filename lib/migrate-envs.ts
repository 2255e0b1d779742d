/** Python environments of a directory that was moved: each is made to name its new place. */
import { existsSync, lstatSync, readdirSync } from "node:fs";
import { type ByteString, bytesOf, display, osPath } from "./base/bytes.ts";
import { EfError, reasonOf } from "./base/errors.ts";
import type { Move as Moved } from "./engine/move-checks.ts";
import { startPython } from "./envs/interpreter.ts";
import { relocateEnv } from "./envs/relocating.ts";

/** An environment whose files name the new place now. */
export interface Mended {
  name: string;
  path: string;
  /** Files that were changed. */
  changed: number;
  /** What names an old place and could not be changed. */
  left: string[];
}

/**
 * Relocate every environment below the new place, and start each once.
 *
 * Safe to repeat: what names the new place already stays as it is.
 *
 * @throws {EfError} NOT_RUNNABLE if a Python does not start at the new place, and does at the old one
 */
export async function mendEnvironments(
  { what, from, fromReal, to, toReal }: Moved,
  { signal, onWarning }: { signal: AbortSignal | undefined; onWarning: (message: string) => void },
): Promise<Mended[]> {
  const places = [...new Set([from, fromReal])];
  const moves = places.map((place) => ({ from: bytesOf(place), to: bytesOf(to) }));
  const mended: Mended[] = [];
  for (const name of environmentsIn(toReal)) {
    signal?.throwIfAborted();
    const path = `${to}/${name}`;
    try {
      const report = await relocateEnv(`${toReal}/${name}`, { to: path, moves, ...(signal ? { signal } : {}) });
      const left = report.left.map((each) => `${display(each.path)}: ${each.why}`);
      mended.push({ name, path, changed: report.changed.length, left });
      if (left.length > 0)
        onWarning(`${path}: ${left.length} still name another place: ${left.slice(0, 3).join("; ")}`);
    } catch (error) {
      signal?.throwIfAborted();
      const hint = error instanceof EfError ? error.hint : undefined;
      const message = `Cannot move ${what}: the environment ${path} cannot be made to name its new place: ${reasonOf(error)}`;
      throw new EfError("NOT_RUNNABLE", message, { hint, path, cause: error });
    }
    await assertStarts(path, `${from}/${name}`, onWarning);
  }
  return mended;
}

/** @throws {EfError} NOT_RUNNABLE for one whose name is not UTF-8, which no file of it could say */
function environmentsIn(dir: string): string[] {
  const root = bytesOf(dir);
  const names: ByteString[] = readdirSync(osPath(root), { encoding: "latin1" });
  const isThere = (name: ByteString) =>
    lstatSync(osPath(`${root}/${name}`)).isDirectory() && existsSync(osPath(`${root}/${name}/pyvenv.cfg`));
  return names
    .filter(isThere)
    .sort()
    .map((name) => {
      const text = Buffer.from(name, "latin1").toString("utf8");
      if (!text.includes("\uFFFD")) return text;
      const path = display(`${root}/${name}`);
      const message = `Cannot move the environment ${path}: its name is not valid UTF-8`;
      throw new EfError("NOT_RUNNABLE", message, { hint: "give it another name", path });
    });
}

/** One that did not start before either (its Python is on other nodes) is no reason to stop. */
async function assertStarts(path: string, old: string, onWarning: (message: string) => void): Promise<void> {
  const problem = await problemOf(path);
  if (problem === undefined) return;
  if ((await problemOf(old)) === undefined) throw problem;
  onWarning(`${path} does not start here, nor did it before: ${problem.message}`);
}

async function problemOf(path: string): Promise<EfError | undefined> {
  try {
    await startPython(path);
    return undefined;
  } catch (error) {
    return error instanceof EfError ? error : new EfError("NOT_RUNNABLE", reasonOf(error), { path, cause: error });
  }
}
