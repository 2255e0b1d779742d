import { expect, test } from "bun:test";
import { checkSources } from "../../scripts/source-rules.ts";

const check = (path: string, text: string) => checkSources([{ path, text }]).map((v) => `${v.line}: ${v.rule}`);

test.each([
  ["lib/base/a.ts", 'import { b } from "../config/b.ts";', "lib/base must not import from lib/config"],
  ["lib/drivers/a.ts", 'import type { B } from "../engine/b.ts";', "lib/drivers must not import from lib/engine"],
  ["lib/engine/a.ts", 'export { sync } from "../sync.ts";', "lib/engine must not import from lib"],
  ["lib/sync.ts", 'const m = await import("../cmd/main.ts");', "lib must not import from cmd"],
  ["lib/run.ts", 'import * as ef from "ef";', "lib must not import from mod.ts"],
  ["lib/sync.ts", 'import "../scripts/build.ts";', "lib must not import from scripts/build.ts"],
  ["cmd/main.ts", 'import {\n  home,\n} from "../tests/helpers.ts";', "cmd must not import from tests/helpers.ts"],
  ["lib/drivers/a.ts", 'import { $ } from "zx";', "zx is imported in lib/base/exec.ts only"],
])("import direction: %s: %s", (path, text, rule) => {
  expect(check(path, `\n${text}\n`)).toEqual([`${text.split("\n").length + 1}: ${rule}`]);
});

test.each([
  ["lib/engine/a.ts", 'import { b } from "./b.ts"; import { c } from "../base/c.ts"; import { d } from "node:fs";'],
  ["lib/base/exec.ts", 'import { $ } from "zx"; export { $ };'],
  ["mod.ts", 'export { sync } from "./lib/sync.ts";'],
  ["cmd/sync.ts", 'import { sync } from "../mod.ts"; console.log(process.argv);'],
  ["scripts/build.ts", 'import { x } from "../cmd/main.ts"; process.exit(1);'],
  ["lib/base/a.ts", '/** import { x } from "../config/x.ts"; console.log(1) */ // process.exit'],
  [
    "lib/base/a.ts",
    'const s = "console.log"; const r = /console.log("/; const t = `${1} process.exit(`; const d = 4 / 2;',
  ],
])("allowed: %s: %s", (path, text) => {
  expect(check(path, text)).toEqual([]);
});

test("what the library must not touch is named with its line", () => {
  const text = 'const a = 1 / 2;\nprocess.exit(1);\nconsole.log("x");\nprocess.stdout.write(a);\nprocess.env.HOME;\n';
  expect(check("lib/sync.ts", text).map((found) => found.split(":")[0])).toEqual(["2", "3", "4"]);
});

test("a folder of lib that has no place in the order, and a file that is too long", () => {
  expect(check("lib/new/a.ts", "")).toEqual([expect.stringContaining("not in the order")]);
  expect(check("cmd/a.ts", "\n".repeat(400))).toEqual([]);
  expect(check("cmd/a.ts", "\n".repeat(401))).toEqual([expect.stringContaining("401 lines")]);
  expect(check("tests/a.ts", "\n".repeat(401))).toEqual([]);
});
