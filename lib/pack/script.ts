/** A TypeScript or JavaScript file with all that it imports, as one file that `ef run` takes. */
import { statSync } from "node:fs";
import { basename, extname, join, relative, resolve } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";

/** What `ef run` brings: left as imports. */
const provided = ["ef", "zx", "zx/globals", "valibot", "consola", "citty"];

/** Bun's bundler, as far as it is used here: the library has no types of Bun. */
interface Bundler {
  build(options: object): Promise<{ success: boolean; logs: unknown[]; outputs: Output[] }>;
}
interface Output {
  /** `entry-point`, `asset`, … */
  kind: string;
  /** For an asset `./picture-3fa91c.png`, as the script names it. */
  path: string;
  text(): Promise<string>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

export interface Bundled {
  /** The script, in the archive: in its relative place. */
  path: string;
  /** It, and files that it imports as files. */
  files: Record<string, Uint8Array>;
}

/**
 * What a bundler would otherwise put in from here and now: the directory of a source, and the kind of environment. They are asked for
 * when the script runs, as names of our own.
 */
const later = {
  __dirname: ["__ef_dirname", "import.meta.dir"],
  __filename: ["__ef_filename", "import.meta.path"],
} as const;

/**
 * Bundle a script. No path of this machine and no variable of its environment is in what comes out.
 *
 * @param file absolute
 * @param root absolute; holds it
 * @throws {EfError} USAGE if it cannot be read; NOT_PACKABLE with file and line if it does not parse, or imports what is not there;
 *   TOOL_MISSING where there is no Bun
 */
export async function bundleScript(file: string, root: string): Promise<Bundled> {
  assertFile(file);
  const bundler = (globalThis as { Bun?: Bundler }).Bun;
  if (typeof bundler?.build !== "function")
    throw new EfError("TOOL_MISSING", `Cannot bundle ${file}: that needs Bun`, {
      hint: "run it by Bun, or by: ef pack",
    });
  try {
    const { success, logs, outputs } = await bundler.build({
      ...{ entrypoints: [file], root, target: "bun", format: "esm", sourcemap: "none" },
      ...{ external: provided, throw: false, env: "disable", minify: false },
      define: {
        "process.env.NODE_ENV": "process.env.NODE_ENV",
        ...Object.fromEntries(Object.entries(later).map(([name, [ours]]) => [name, ours])),
      },
    });
    const script = outputs.find(({ kind }) => kind === "entry-point");
    if (!success || !script) throw asError(logs, file);
    const dir = join("files", relative(root, join(file, "..")));
    const path = join(dir, `${basename(file, extname(file))}.mjs`);
    const files = { [path]: Buffer.from(defined(withoutPaths(await script.text(), root))) };
    for (const output of outputs.filter((each) => each !== script))
      files[join(dir, basename(output.path))] = Buffer.from(await output.arrayBuffer());
    return { path, files };
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

/** Bun writes before each module where it was, relative to the working directory. */
function withoutPaths(text: string, root: string): string {
  const here = [process.cwd(), "/"];
  return text.replace(/^\/\/ (\S.*)$/gm, (line, path) => {
    const absolute = here
      .map((dir) => resolve(dir, path))
      .find((each) => statSync(each, { throwIfNoEntry: false })?.isFile());
    return absolute === undefined ? line : `// ${relative(root, absolute)}`;
  });
}

/** Give our names their values, after the lines that must be first. */
function defined(text: string): string {
  const used = Object.values(later).filter(([name]) => text.includes(name));
  if (used.length === 0) return text;
  const head = /^(?:#!.*\n)?(?:\/\/ @bun.*\n)?/.exec(text)?.[0] ?? "";
  return `${head}const ${used.map(([name, value]) => `${name} = ${value}`).join(", ")};\n${text.slice(head.length)}`;
}

interface Message {
  message?: string;
  position?: { file: string; line: number; column: number; lineText: string };
}

/** The first message with a place in it. */
function asError(logs: readonly unknown[], file: string): EfError {
  const messages = logs.map((log) => log as Message);
  const first = messages.find(({ position }) => position) ?? messages[0];
  const at = first?.position;
  const where = at ? `${at.file || file}:${at.line}:${at.column}` : file;
  const line = at?.lineText ? `\n    ${at.lineText}\n    ${" ".repeat(Math.max(0, at.column - 1))}^` : "";
  return new EfError("NOT_PACKABLE", `Cannot pack ${where}: ${first?.message ?? "it cannot be bundled"}${line}`, {
    path: file,
  });
}
