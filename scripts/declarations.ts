/**
 * The types of the library as one file that needs no other: `dist/mod.d.ts`, and as `declare module "ef"` for scripts that
 * `ef run` starts. tsc writes a file for each source; scripts/flatten.ts makes one of them.
 *
 * Types that valibot infers from a schema are written out by tsc, so that who uses the library needs no valibot.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { flatten } from "./flatten.ts";

const root = join(import.meta.dir, "..");

/** The declarations of what mod.ts exports, as text of a module. */
export async function declarations(): Promise<string> {
  const temporary = await mkdtemp(join(tmpdir(), "ef-types-"));
  try {
    const inferred = await inferredTypes();
    const expanded = join(temporary, "expanded.ts");
    await writeFile(expanded, expanding(inferred, temporary));
    const out = join(temporary, "out");
    const ambient = [...new Bun.Glob("lib/**/*.d.ts").scanSync({ cwd: root, absolute: true })];
    await emit(temporary, [join(root, "mod.ts"), expanded, ...ambient], out);

    const files = new Map<string, string>();
    const below = join(out, root);
    for (const path of new Bun.Glob("**/*.d.ts").scanSync(below))
      files.set(path, await readFile(join(below, path), "utf8"));
    const written = expansions(await readFile(join(out, `${expanded.slice(0, -3)}.d.ts`), "utf8"), inferred);
    for (const { path, name, text } of written) replaceType(files, path, name, text);
    const { text, packages } = flatten("mod.d.ts", files);
    if (packages.length > 0)
      throw new Error(
        `Cannot declare the library alone: it needs types of ${packages.join(", ")}. What a schema infers is written out ` +
          "where it stands as: export type Name = v.InferOutput<typeof Schema>",
      );
    return `${moduleDoc(await readFile(join(root, "mod.ts"), "utf8"))}${text}`;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** The same for a script that is compiled without a package: a file that declares the module "ef". */
export function asAmbient(text: string): string {
  const body = text
    .replace(/^(export )?declare /gm, "$1")
    .replace(/^export \{\};$/m, "")
    .replaceAll(/^(?=.)/gm, "  ");
  return `declare module "ef" {\n${body.trimEnd()}\n}\n`;
}

type Inferred = { path: string; name: string };

/** `export type Config = v.InferOutput<typeof Config>`, in any file of the library. */
async function inferredTypes(): Promise<Inferred[]> {
  const found: Inferred[] = [];
  for (const path of [...new Bun.Glob("lib/**/*.ts").scanSync(root)].sort()) {
    const text = await readFile(join(root, path), "utf8");
    for (const [, name = ""] of text.matchAll(/^export type (\w+) = [^;]*?\bv\.Infer(?:Output|Input)</gm))
      found.push({ path, name });
  }
  return found;
}

/** A file whose declarations tsc writes out in full: it knows no shorter name for what a mapped type gives. */
const expanding = (inferred: Inferred[], from: string) =>
  [
    ...inferred.map(
      ({ path, name }, i) => `import type { ${name} as T${i} } from "${relative(from, join(root, path))}";`,
    ),
    "type Expand<T> = T extends object ? { [K in keyof T]: Expand<T[K]> } : T;",
    "declare function expand<T>(): { it: Expand<T> };",
    ...inferred.map((_, i) => `export const t${i} = expand<T${i}>();`),
  ].join("\n");

/** What tsc wrote: `export declare const t0: {\n    it: …;\n};` for each. */
function expansions(text: string, inferred: Inferred[]): (Inferred & { text: string })[] {
  return inferred.map((one, i) => {
    const [, body] = new RegExp(`^export declare const t${i}: \\{\\n {4}it: (.*?);\\n\\};$`, "ms").exec(text) ?? [];
    if (body === undefined || /\bExpand</.test(body))
      throw new Error(`Cannot write out the type ${one.name} of ${one.path}`);
    return { ...one, text: body.replaceAll(/^ {4}/gm, "") };
  });
}

function replaceType(files: Map<string, string>, path: string, name: string, text: string): void {
  const at = path.replace(/\.ts$/, ".d.ts");
  const before = files.get(at);
  if (before === undefined) return; // nothing that mod.ts needs
  files.set(
    at,
    before.replace(new RegExp(`^export type ${name} = [^;]*;$`, "m"), () => `export type ${name} = ${text};`),
  );
}

async function emit(directory: string, files: string[], outDir: string): Promise<void> {
  const config = {
    extends: join(root, "tsconfig.json"),
    compilerOptions: {
      ...{ noEmit: false, declaration: true, emitDeclarationOnly: true, rewriteRelativeImportExtensions: true },
      ...{ outDir, rootDir: "/", types: [join(root, "node_modules/bun-types")], stripInternal: true },
    },
    include: [],
    files,
  };
  const path = join(directory, "tsconfig.json");
  await writeFile(path, JSON.stringify(config));
  const { exitCode, stdout, stderr } = Bun.spawnSync([join(root, "node_modules/.bin/tsc"), "-p", path], { cwd: root });
  if (exitCode !== 0) throw new Error(`Cannot write declarations: tsc said\n${stdout}${stderr}`);
}

/** The doc comment of mod.ts. */
export const moduleDoc = (source: string): string => `${/^\/\*\*[\s\S]*?\*\/\n/.exec(source)?.[0] ?? ""}`;
