import { expect, test } from "bun:test";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { mayRequire, runnable } from "../../lib/run.ts";
import { describeScriptError } from "../../lib/run-error.ts";
import { importsOf } from "../../lib/run-imports.ts";
import { Home } from "../helpers.ts";

test("what a file is: by what is in it; links lead to the file itself", () => {
  using at = new Home();
  for (const [name, text, expected] of [
    ["a.ts", "1", { kind: "script", loader: undefined }],
    ["a.mjs", "", { kind: "script", loader: undefined }],
    ["a", "1", { kind: "script", loader: "ts" }],
    ["v1.2", "1", { kind: "script", loader: "ts" }],
    ["a.zip", "PK\x03\x04\0\0", { kind: "package" }],
    ["named.ts", "PK\x03\x04\0\0", { kind: "package" }],
  ] as const) {
    const path = at.write(name, text);
    expect(runnable(path) as object).toEqual({ ...expected, path });
  }
  symlinkSync(join(at.home, "a.ts"), join(at.home, "link"));
  expect(runnable(join(at.home, "link"))).toEqual({ kind: "script", path: join(at.home, "a.ts"), loader: undefined });
  expect(() => runnable(at.write("elf", "\x7fELF\0"))).toThrow("it is no text");
  expect(() => runnable(at.home)).toThrow("it is a directory");
});

test("modules are loaded at once only where require may ask for them", () => {
  using at = new Home();
  const plain = at.write("a/plain.ts", `import "zx";`);
  expect(mayRequire(plain)).toBe(false);
  expect(mayRequire(at.write("a/req.ts", `const zx = require("zx");`))).toBe(true);
  mkdirSync(join(at.home, "node_modules"));
  expect(mayRequire(plain)).toBe(true);
});

test("imports of a script and its files, with their places", () => {
  using at = new Home();
  const script = at.write(
    "s.ts",
    `#!/usr/bin/env -S ef run
import a, { b as c } from "zx"; import * as d from './dir';
export * from "./own.js";
export type { T } from "./types";
import "./missing";
import(\`./own\`);
const text = "import x from 'no'";
export const e = 1;
import {
  f,
} from "./s";
`,
  );
  const own = at.write("own.ts", `import { g } from "../home/own";\n`);
  const index = at.write("dir/index.ts", `import h from "valibot";\n`);
  const found = importsOf(script).map(({ specifier, target, place }) => [
    specifier,
    target,
    `${place.file === script ? "" : place.file}:${place.line}:${place.column}`,
  ]);
  expect(found).toEqual([
    ["zx", undefined, ":2:27"],
    ["./dir", index, ":2:52"],
    ["./own.js", own, ":3:15"],
    ["./types", undefined, ":4:24"],
    ["./missing", undefined, ":5:8"],
    ["./s", script, ":11:8"],
    ["valibot", undefined, `${index}:1:15`],
    ["../home/own", own, `${own}:1:19`],
  ]);
  const last = importsOf(script).find(({ specifier }) => specifier === "./s");
  expect(last?.placeOf("f")).toEqual({ file: script, line: 10, column: 3 });
  expect(last?.placeOf("g")).toBeUndefined();
});

test("frames: paths with blanks, parentheses and newlines; the message is no frame; a long line is not shown", () => {
  using at = new Home();
  const odd = at.write("a (b)\nc/d:1.ts", `first\nsecond\n`);
  const long = at.write("long.ts", `${"x".repeat(400)}\n`);
  const error = new Error("at /in/message.ts:1:2\n    at /in/message.ts:3:4");
  error.stack = `Error: ${error.message}\n    at f (${odd}:2:3)\n    at async ${long}:1:9\n    at g (native)\n    at unknown\n    at <anonymous> (/$bunfs/root/chunk-1.js:1:1)\n    at new K (file://${odd}:1:1)`;
  const { text, isBroken } = describeScriptError(error, { path: odd, provided: [] });
  expect(text).toBe(
    `Error: ${error.message}\n    second\n      ^\n    at ${odd}:2:3\n    at ${long}:1:9\n    at ${odd}:1:1\n`,
  );
  expect(isBroken).toBe(false);
  const only = new Error("m");
  only.stack = `Error: m\n    at ${long}:1:9`;
  expect(describeScriptError(only, { path: long, provided: [] }).text).toBe(`Error: m\n    at ${long}:1:9\n`);
});
