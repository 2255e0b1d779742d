/** What `ef run` is given. The texts of what goes wrong in it: run-error.ts. */
import { closeSync, existsSync, openSync, readFileSync, readSync, realpathSync, statSync } from "node:fs";
import { dirname, extname, join, resolve } from "node:path";
import { EfError, errnoOf, reasonOf } from "./base/errors.ts";

/** A file that `ef run` can run. */
export type Runnable =
  /** `loader`: how its text is read; undefined: as its name says. */
  | { kind: "script"; path: string; loader: "ts" | undefined }
  /** An archive of `ef pack`. */
  | { kind: "package"; path: string };

/** Their text is what they say; any other file is read as TypeScript. */
const endings = [".ts", ".mts", ".cts", ".tsx", ".js", ".mjs", ".cjs", ".jsx"];

/**
 * What kind of file it is, by what is in it.
 *
 * @returns with its real path: what it imports is looked for beside the file itself, not beside a link to it
 * @throws {EfError} USAGE if it cannot be read, or is neither a script nor a package
 */
export function runnable(named: string): Runnable {
  const cannot = (why: string, hint?: string, cause?: unknown) =>
    new EfError("USAGE", `Cannot run ${named}: ${why}`, { hint, path: resolve(named), cause });
  let path: string;
  let start: Buffer;
  try {
    const stat = statSync(named);
    if (stat.isDirectory()) throw cannot("it is a directory", "name the script in it");
    if (!stat.isFile()) throw cannot("it is no regular file", "to read it from stdin: ef run -");
    path = realpathSync(named);
    start = startOf(path);
  } catch (error) {
    if (error instanceof EfError) throw error;
    const isGone = errnoOf(error) === "ENOENT";
    throw cannot(isGone ? "there is no such file" : reasonOf(error), undefined, error);
  }
  if (start.subarray(0, 4).toString("latin1") === "PK\x03\x04") return { kind: "package", path };
  if (start.includes(0)) throw cannot("it is no text", "ef run takes TypeScript, JavaScript and packages of ef pack");
  if (/[?\\]/.test(path))
    throw cannot(`the runtime cannot import ${JSON.stringify(path)}`, "rename it, without ? and \\ in the path");
  return { kind: "script", path, loader: endings.includes(extname(path)) ? undefined : "ts" };
}

function startOf(path: string): Buffer {
  const fd = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(4096);
    return bytes.subarray(0, readSync(fd, bytes));
  } finally {
    closeSync(fd);
  }
}

/**
 * Might `require("zx")` be called, by the script or by a package that it has? That must give the module at once, so they
 * have to be loaded before, which takes longer than the start of the program.
 *
 * @param text of a script that is in no file
 */
export function mayRequire(path: string, text = readFileSync(path, "utf8")): boolean {
  if (/\brequire\b/.test(text)) return true;
  for (let dir = dirname(path); ; dir = dirname(dir)) {
    if (existsSync(join(dir, "node_modules"))) return true;
    if (dir === dirname(dir)) return false;
  }
}
