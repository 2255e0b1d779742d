/** `ef run --types`: what an editor needs, and nothing else installed. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { Home, isBinary, run } from "../helpers.ts";

setDefaultTimeout(60_000);

const tsc = resolve(import.meta.dir, "../../node_modules/.bin/tsc");

const right = `
import { EfError, loadConfig, packageFunction, sync } from "ef";
import { $, argv } from "zx";
import "zx/globals";
import * as v from "valibot";
import { consola } from "consola";
import { defineCommand } from "citty";
import { readFile } from "node:fs/promises";

const { exports } = await sync(await loadConfig(), { only: ["HF_HOME"] });
await using x = { async [Symbol.asyncDispose]() {} };
consola.log(exports.HF_HOME, argv._, v.parse(v.string(), "x"), process.pid, import.meta.main, Bun.version, await $\`true\`);
console.log(defineCommand({}), await readFile("x"), EfError, packageFunction, x);
`;

test.skipIf(!isBinary)(
  "a right script is right for tsc, a wrong one is told with file and line [the binary]",
  async () => {
    using at = new Home({ "s/right.ts": right });
    const dir = join(at.home, "s");
    const { code, stdout } = await at.ef(["run", "--types", "s"]);
    expect([code, stdout]).toEqual([
      0,
      ["ef.d.ts", "tsconfig.json", ".ef-types"].map((name) => `${join(dir, name)}\n`).join(""),
    ]);
    const env = { PATH: process.env.PATH ?? "", HOME: at.home };
    expect((await run([tsc, "-p", "."], { cwd: dir, env })).stdout).toBe("");
    at.write("s/wrong.ts", 'import { sync } from "ef";\n\nawait sync(3);\n');
    const wrong = await run([tsc, "-p", "."], { cwd: dir, env });
    expect(wrong.stdout).toStartWith("wrong.ts(3,12): error TS2345");
    // Its own files are replaced, those of somebody else never.
    expect((await at.ef(["run", "--types", "s"])).code).toBe(0);
    for (const [name, text] of [
      ["tsconfig.json", "{}"],
      ["ef.d.ts", "export {};"],
    ] as const) {
      using other = new Home({ [`s/${name}`]: text });
      const refused = await other.ef(["run", "--types", "s"]);
      expect([refused.code, refused.stdout, other.read(join(other.home, "s", name))]).toEqual([2, "", text]);
      expect(refused.stderr).toContain(`/s/${name}: there is one already`);
      expect(readdirSync(join(other.home, "s"))).toEqual([name]);
    }
  },
);

test.skipIf(isBinary)("from the sources it says what to do, and writes nothing", async () => {
  using at = new Home();
  const { code, stderr } = await at.ef(["run", "--types", "s"]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("npm run build")]);
  expect(existsSync(join(at.home, "s"))).toBe(false);
});
