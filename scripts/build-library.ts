/**
 * `dist/mod.js`, `dist/mod.d.ts`, `dist/ef.d.ts` and `dist/lib/`: the library for Bun, Node 20 and later and Deno, with all
 * that it needs inside. `dist/package.json` makes `dist` a package: `npm install ./dist`, `npm pack ./dist`.
 *
 * Made in a directory beside and moved to its place, so what is there is whole.
 */
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { builtinModules } from "node:module";
import { join } from "node:path";
import type { BunPlugin } from "bun";
import { asAmbient, declarations, moduleDoc } from "./declarations.ts";

const root = join(import.meta.dir, "..");

/** Build the library. Gives the files of the package, relative to `outdir`. */
export async function buildLibrary({ outdir = join(root, "dist") } = {}): Promise<string[]> {
  const started = performance.now();
  await mkdir(outdir, { recursive: true });
  const temporary = await mkdtemp(join(outdir, ".build-"));
  try {
    const types = await declarations();
    const { names } = await bundle(join(temporary, "lib"));
    const source = await readFile(join(root, "mod.ts"), "utf8");
    const packed = await packageJson();
    const files: Record<string, string> = {
      "mod.js": `/* @ts-self-types="./mod.d.ts" */\n${moduleDoc(source)}export {\n${names.map((name) => `  ${name},\n`).join("")}} from "./lib/mod.js";\n`,
      "mod.d.ts": types,
      "ef.d.ts": asAmbient(types),
      "package.json": `${JSON.stringify(packed, null, 2)}\n`,
      "README.md": await readFile(join(root, "README.md"), "utf8"),
      LICENSE: await readFile(join(root, "LICENSE"), "utf8"),
    };
    for (const [name, text] of Object.entries(files)) await writeFile(join(temporary, name), text);
    await rm(join(outdir, "lib"), { recursive: true, force: true });
    for (const name of ["lib", ...Object.keys(files)]) await rename(join(temporary, name), join(outdir, name));
    const size = (types.length / 1024).toFixed(0);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(`mod.js                 ${names.length} names, ${size} KiB of declarations  ${seconds} s`);
    return ["lib", ...Object.keys(files)];
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** The code, as chunks in one directory: a thread finds its file beside whatever chunk starts it. */
async function bundle(outdir: string): Promise<{ names: string[] }> {
  const { version } = await Bun.file(join(root, "package.json")).json();
  await Bun.build({
    entrypoints: [join(root, "mod.ts"), join(root, "lib/engine/thread.ts")],
    outdir,
    target: "node", // `using` becomes try and finally, which Node 20 understands
    format: "esm",
    splitting: true,
    naming: { entry: "[name].js", chunk: "[name]-[hash].js", asset: "[name]-[hash].[ext]" },
    plugins: [withNodePrefix],
    external: ["bun:ffi"], // asked for where the runtime is Bun, and nowhere else
    define: {
      EF_VERSION: JSON.stringify(version),
      "globalThis.Deno": "undefined", // zx would load its own second form from a file there
    },
  });
  const names = Object.keys(await import(join(root, "mod.ts")));
  return { names: names.sort() };
}

/** Deno knows the runtime's modules by no other name. */
const withNodePrefix: BunPlugin = {
  name: "node:",
  setup(build) {
    build.onResolve({ filter: /^[a-z_]+(?:\/promises)?$/ }, ({ path }) =>
      builtinModules.includes(path) ? { path: `node:${path}`, external: true } : undefined,
    );
  },
};

/** Of the package: nothing to install with it, nothing to run at its installation. */
async function packageJson(): Promise<object> {
  const { name, version, description, license, type, engines } = await Bun.file(join(root, "package.json")).json();
  return {
    ...{ name, version, description, license, type },
    engines: { ...engines, node: ">=20.16" }, // process.getBuiltinModule
    exports: { ".": { types: "./mod.d.ts", default: "./mod.js" } },
    bin: { ef: "ef" },
    files: ["ef", "mod.js", "mod.d.ts", "ef.d.ts", "lib"],
    peerDependencies: { "@types/node": ">=20" },
    peerDependenciesMeta: { "@types/node": { optional: true } },
  };
}

if (import.meta.main) await buildLibrary();
