/** Python environments of a directory that was moved: each is made to name its new place. */
import { type ByteString, bytesOf, display } from "./base/bytes.ts";
import { EfError, reasonOf } from "./base/errors.ts";
import type { Move as Moved } from "./engine/move-checks.ts";
import type { Tree } from "./engine/tree.ts";
import { nameOf } from "./envs/base.ts";
import { startPython } from "./envs/interpreter.ts";
import { changedFiles, relocateEnv } from "./envs/relocating.ts";

/** An environment whose files name the new place now. */
export interface Mended {
  /** Relative to the directory that was moved. */
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
 * @param tree what is there
 * @throws {EfError} NOT_RUNNABLE if a Python does not start at the new place, and does at the old one, or if the name of
 *   one is not UTF-8
 */
export async function mendEnvironments(
  { what, from, fromReal, to, toReal }: Moved,
  tree: Tree,
  { signal, onWarning }: { signal: AbortSignal | undefined; onWarning: (message: string) => void },
): Promise<Mended[]> {
  const places = [...new Set([from, fromReal])];
  const moves = places.map((place) => ({ from: bytesOf(place), to: bytesOf(to) }));
  const mended: Mended[] = [];
  const names = environmentsOf(tree).map((name) => nameOf(toReal, name));
  for (const name of names) {
    signal?.throwIfAborted();
    const path = `${to}/${name}`;
    try {
      const report = await relocateEnv(`${toReal}/${name}`, { to: path, moves, ...(signal ? { signal } : {}) });
      const left = report.left.filter(({ isThere }) => !isThere).map((each) => `${display(each.path)}: ${each.why}`);
      mended.push({ name, path, changed: changedFiles(report), left });
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

/** Directories with a pyvenv.cfg, at any depth; those inside of an environment are mended with it. */
function environmentsOf(tree: Tree): ByteString[] {
  const found = new Set<ByteString>();
  for (let row = 1; row < tree.length; row++) {
    const dir = tree.parent[row] as number;
    if (dir !== 0 && tree.name(row) === "pyvenv.cfg" && tree.kind(row) !== "dir") found.add(tree.path(dir));
  }
  const isOutermost = (path: ByteString): boolean => {
    const above = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    return above === "" || (!found.has(above) && isOutermost(above));
  };
  return [...found].filter(isOutermost).sort();
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
