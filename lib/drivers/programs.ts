/** Which programs `PATH` names. */
import { constants, promises } from "node:fs";
import { isAbsolute, join } from "node:path";
import type { Env } from "../base/paths.ts";

/**
 * Every executable file called `name`, in the order of `PATH`; the first is the one that runs.
 *
 * Asynchronous, since a directory of `PATH` may be on storage that hangs. Relative entries are left out: what they name
 * depends on the working directory.
 */
export async function onPath(name: string, env: Env): Promise<string[]> {
  const dirs = [...new Set((env.PATH ?? "").split(":").filter(isAbsolute))];
  const paths = dirs.map((dir) => join(dir, name));
  const usable = await Promise.all(paths.map(isExecutable));
  return paths.filter((_, i) => usable[i]);
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await promises.access(path, constants.X_OK);
    return (await promises.stat(path)).isFile();
  } catch {
    return false;
  }
}
