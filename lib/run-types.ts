/** What an editor needs to know of a script that `ef run` runs: types of what it can import, without anything to install. */
import { lstatSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { EfError, errnoOf, writeError } from "./base/errors.ts";
import { writeAtomic } from "./base/files.ts";

/** Set by the build: the types are in the binary. */
declare const EF_HAS_TYPES: boolean;

/** The first line of each file that is ef's own, and may be replaced by a newer one. */
const mark = "// Written by ef run --types: it is replaced when that is run again.\n";
/** Where the declarations of packages are, below the directory. */
const packagesDir = ".ef-types";

const types = `./${packagesDir}/node_modules`;
const tsconfig = {
  compilerOptions: {
    ...{ target: "esnext", lib: ["esnext"], module: "preserve", moduleResolution: "bundler", moduleDetection: "force" },
    ...{ strict: true, noEmit: true, skipLibCheck: true, allowImportingTsExtensions: true, resolveJsonModule: true },
    typeRoots: [`${types}/@types`, types],
    types: ["node", "bun-types"],
    paths: {
      zx: [`${types}/zx/build/index.d.ts`],
      "zx/globals": [`${types}/zx/build/globals.d.ts`],
      consola: [`${types}/consola/dist/index.d.mts`],
      ...Object.fromEntries(["valibot", "citty"].map((name) => [name, [`${types}/${name}`]])),
    },
  },
  include: ["**/*.ts", "ef.d.ts"],
};

/**
 * Write `ef.d.ts`, `tsconfig.json` and `.ef-types/` into a directory, which is made if it is not there. Then an editor, or `tsc -p DIR`,
 * checks the scripts in it.
 *
 * @returns what was written, without the files of `.ef-types`
 * @throws {EfError} EXISTS if there is a tsconfig.json or ef.d.ts of somebody else: nothing is written then; TOOL_MISSING from the sources; IO, NO_SPACE
 */
export async function writeTypes(dir: string): Promise<{ files: string[] }> {
  if (typeof EF_HAS_TYPES === "undefined")
    throw new EfError("TOOL_MISSING", "Cannot write types from the sources: they are in the binary", {
      hint: "npm run build, then: dist/ef run --types DIR",
    });
  const config = ["tsconfig.json", "ef.d.ts"].map((name) => join(dir, name)).find((path) => !isOurs(path));
  if (config !== undefined)
    throw new EfError("EXISTS", `Cannot write ${config}: there is one already`, {
      hint: 'write them into a directory of their own; a tsconfig.json takes that over by: "extends": "./DIR/tsconfig.json"',
      path: config,
    });
  const { default: packed } = await import("ef-types");
  const files = JSON.parse(zstdDecompressSync(Buffer.from(packed, "base64")).toString("utf8")) as Record<
    string,
    string
  >;
  const own = { "ef.d.ts": mark + files["ef.d.ts"], "tsconfig.json": `${mark}${JSON.stringify(tsconfig, null, 2)}\n` };
  try {
    rmSync(join(dir, packagesDir), { recursive: true, force: true });
    for (const [path, text] of Object.entries({ ...files, ...own })) {
      mkdirSync(dirname(join(dir, path)), { recursive: true });
      writeAtomic(join(dir, path), text, 0o644, false);
    }
  } catch (error) {
    throw writeError(`Cannot write types into ${dir}`, dir, error);
  }
  return { files: [...Object.keys(own), packagesDir].map((name) => join(dir, name)) };
}

/** Not there yet, or made by ef. */
function isOurs(path: string): boolean {
  try {
    return lstatSync(path).isFile() && readFileSync(path, "utf8").startsWith(mark);
  } catch (error) {
    return errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR";
  }
}
