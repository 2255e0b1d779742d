/** A TypeScript or JavaScript file with all that it imports, as one file that `ef run` takes. */
import { existsSync, statSync } from "node:fs";
import { basename, dirname, extname, relative } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";

/** What `ef run` brings: left as imports. */
const provided = ["ef", "zx", "zx/globals", "valibot", "consola", "citty"] as const;

/** Bun's bundler, as far as it is used here: the library has no types of Bun. */
interface Bundler {
  build(options: object): Promise<{ success: boolean; logs: unknown[]; outputs: { text(): Promise<string> }[] }>;
}

export interface Bundled {
  /** In the archive. */
  path: string;
  content: Uint8Array;
}

/**
 * Bundle a script. No path of this machine is in what comes out.
 *
 * @param file absolute
 * @throws {EfError} USAGE if it cannot be read; NOT_PACKABLE with file and line if it does not parse, or imports what is not there;
 *   TOOL_MISSING where there is no Bun
 */
export async function bundleScript(file: string): Promise<Bundled> {
  assertFile(file);
  const bundler = (globalThis as { Bun?: Bundler }).Bun;
  if (typeof bundler?.build !== "function")
    throw new EfError("TOOL_MISSING", `Cannot bundle ${file}: that needs Bun`, {
      hint: "run it by Bun, or by: ef pack",
    });
  const path = `files/${basename(file, extname(file))}.mjs`;
  try {
    const built = await bundler.build({
      entrypoints: [file],
      root: dirname(file),
      target: "bun",
      format: "esm",
      sourcemap: "none",
      external: [...provided],
      throw: false,
    });
    const [output] = built.outputs;
    if (!built.success || !output) throw asError(built.logs, file);
    return { path, content: Buffer.from(withoutPaths(await output.text(), dirname(file))) };
  } catch (error) {
    if (error instanceof EfError) throw error;
    throw asError((error as AggregateError).errors ?? [error], file);
  }
}

function assertFile(file: string): void {
  try {
    if (statSync(file).isFile()) return;
  } catch (cause) {
    const why = errnoOf(cause) === "ENOENT" ? "there is no such file" : reasonOf(cause);
    throw new EfError("USAGE", `Cannot pack ${file}: ${why}`, { path: file, cause });
  }
  throw new EfError("USAGE", `Cannot pack ${file}: it is no regular file`, { path: file });
}

/** The bundler writes before each module where it was: relative to the working directory. */
function withoutPaths(text: string, root: string): string {
  const named = (path: string) => {
    const absolute = [path, `${process.cwd()}/${path}`].find((each) => each.startsWith("/") && existsSync(each));
    return absolute === undefined ? path : relative(root, absolute);
  };
  return text.replace(/^\/\/ (\S.*)$/gm, (line, path) =>
    /\.[cm]?[jt]sx?$|\.json$/.test(path) ? `// ${named(path)}` : line,
  );
}

/** The first message with a place in it. */
function asError(logs: readonly unknown[], file: string): EfError {
  const messages = logs.map(
    (log) => log as { message?: string; position?: { file: string; line: number; column: number; lineText: string } },
  );
  const first = messages.find(({ position }) => position) ?? messages[0];
  const at = first?.position;
  const where = at ? `${at.file || file}:${at.line}:${at.column}` : file;
  const line = at?.lineText ? `\n    ${at.lineText}\n    ${" ".repeat(Math.max(0, at.column - 1))}^` : "";
  return new EfError("NOT_PACKABLE", `Cannot pack ${where}: ${first?.message ?? "it cannot be bundled"}${line}`, {
    path: file,
  });
}
