import { realpathSync } from "node:fs";
import { isAbsolute, resolve } from "node:path";

/**
 * How a shell starts this program again: its path and, when it runs from the sources, the file that Bun runs.
 *
 * The path as it was typed or found on PATH, where it leads to the running file: a link such as `~/bin/ef` goes on
 * working when it is set to a new version.
 */
export function programArgv(): string[] {
  if (!Bun.main.startsWith("/$bunfs/")) return [process.execPath, Bun.main];
  const typed = process.argv0.includes("/") ? resolve(process.argv0) : Bun.which(process.argv0);
  return [typed && isAbsolute(typed) && isRunning(typed) ? typed : process.execPath];
}

function isRunning(path: string): boolean {
  try {
    return realpathSync(path) === realpathSync(process.execPath);
  } catch {
    return false;
  }
}
