import { expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildHere } from "../../scripts/build.ts";

async function programs(files: Record<string, string>) {
  const path = await mkdtemp(join(tmpdir(), "ef-build-"));
  for (const [name, text] of Object.entries(files)) await writeFile(join(path, name), text);
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

test("the executable knows its version, commit and target, loads lazily, and is the same each time", async () => {
  await using at = await programs({
    "main.ts": `const { text } = await import("./lazy.ts"); console.log(text, EF_VERSION, EF_COMMIT, EF_TARGET);`,
    "lazy.ts": `export const text = "lazy";`,
  });
  const entry = join(at.path, "main.ts");
  const [one, two] = [join(at.path, "one"), join(at.path, "two")];
  const executable = await buildHere({ entry, outdir: one });
  const { stdout } = Bun.spawnSync([executable], { env: {} });
  expect(stdout.toString()).toMatch(/^lazy \d+\.\d+\.\d+\S* (unknown|[0-9a-f]{12}(-dirty)?) linux-\S+\n$/);

  const again = await buildHere({ entry, outdir: two });
  const sum = async (path: string) => Bun.CryptoHasher.hash("sha256", await Bun.file(path).bytes(), "hex");
  expect(await sum(again)).toBe(await sum(executable));
});

test("a program that fails does not replace the one that is there", async () => {
  await using at = await programs({ "good.ts": `console.log("good");`, "bad.ts": `throw new Error("bad");` });
  const executable = await buildHere({ entry: join(at.path, "good.ts"), outdir: at.path });
  await expect(buildHere({ entry: join(at.path, "bad.ts"), outdir: at.path })).rejects.toThrow("--version");
  expect(Bun.spawnSync([executable]).stdout.toString()).toBe("good\n");
  expect([...new Bun.Glob(".build-*").scanSync({ cwd: at.path, dot: true, onlyFiles: false })]).toEqual([]);
});
