/**
 * What `ef run --types` writes, as a module of the binary: the declarations of ef, of what else a script can import, and of the
 * runtime. Compressed, and read by nothing else: it costs no start-up time.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { zstdCompressSync } from "node:zlib";
import type { BunPlugin } from "bun";
import { asAmbient, declarations } from "./declarations.ts";

const root = join(import.meta.dir, "..");
const packages = ["zx", "valibot", "consola", "citty", "@types/node", "undici-types", "bun-types"];

/** Texts by their paths below the directory that is written to. */
async function files(): Promise<Record<string, string>> {
  const found: Record<string, string> = { "ef.d.ts": asAmbient(await declarations()) };
  for (const name of packages) {
    const dir = join(root, "node_modules", name);
    for (const path of [...new Bun.Glob("**/{package.json,*.d.ts,*.d.mts}").scanSync(dir)].sort())
      found[`.ef-types/node_modules/${name}/${path}`] = await readFile(join(dir, path), "utf8");
  }
  return found;
}

/** Gives `import("ef-types")` in lib/run-types.ts its text. */
export const typesAsset: BunPlugin = {
  name: "types for scripts",
  setup(build) {
    build.onResolve({ filter: /^ef-types$/ }, () => ({ path: "ef-types", namespace: "ef-types" }));
    build.onLoad({ filter: /.*/, namespace: "ef-types" }, async () => {
      const packed = zstdCompressSync(Buffer.from(JSON.stringify(await files())), { params: {} });
      return { contents: `export default ${JSON.stringify(packed.toString("base64"))};`, loader: "js" };
    });
  },
};
