/** What goes wrong in a script is told by its own lines, and never by ef's. */
import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Home, isBinary, type Ran } from "../helpers.ts";

/** Nothing of the program's inside. */
function expectOwn({ stdout, stderr }: Ran): void {
  expect(stdout).toBe("");
  expect(stderr).not.toMatch(/\$bunfs|chunk-|\/lib\/|\/cmd\/|Bun v/);
}

/** The script, what is said of it (FILE is its path), and the exit code. */
const cases: [name: string, script: string, said: string[], code: number][] = [
  [
    "a syntax error",
    "const a = 1;\nconst b = = 2;\n",
    ["error: Unexpected =\n    const b = = 2;\n              ^\n    at FILE:2:11\n"],
    2,
  ],
  ["a syntax error in a file it imports", 'import "./broken";\n', ["    let c = ;\n", "/broken.ts:1:9\n"], 2],
  ["a syntax error in a file it imports later", 'await import("./broken");\n', ["/broken.ts:1:9\n"], 1],
  [
    "a name that ef does not export",
    'import { join } from "node:path";\nimport {\n  sync,\n  nothing,\n} from "ef";\nconsole.log(join, sync, nothing);\n',
    ['error: ef has no export "nothing"\n      nothing,\n      ^\n    at FILE:4:3\n'],
    2,
  ],
  [
    "a name that its own file does not export, in a file that it imports",
    'import "./asks";\n',
    ['/own.ts has no export "$none"\n', "/asks.ts:2:15\n"],
    2,
  ],
  ["no default export", 'import d from "zx";\nd();\n', ["error: zx has no default export\n", "at FILE:1:"], 2],
  [
    "a package that is nowhere",
    'import { sync } from "ef";\nimport pad from "left-pad";\npad(sync);\n',
    ['error: Cannot import "left-pad"\n', "at FILE:2:17\n", "ef brings ef, zx,", "node_modules"],
    2,
  ],
  [
    "a file that is nowhere",
    'export { a } from "./nope.ts";\n',
    ['error: Cannot import "./nope.ts"\n', "at FILE:1:19\n", "relative to the file"],
    2,
  ],
  [
    "a file that is nowhere, asked for later",
    'process.stdin;\nawait import("./nope.ts");\n',
    ['error: Cannot import "./nope.ts"\n', "at FILE:2:14\n"],
    1,
  ],
  [
    "a TypeError",
    "interface A {\n  b: number;\n}\nfunction f(x: A) {\n  return (x as any).y.z;\n}\nf({ b: 1 });\n",
    ["TypeError: ", "      return (x as any).y.z;\n", "at FILE:5:", "    at FILE:7:1\n"],
    1,
  ],
  [
    "an error later",
    'setTimeout(() => {\n  throw new RangeError("late");\n}, 1);\n',
    ["RangeError: late\n", "FILE:2:"],
    1,
  ],
  [
    "a rejection",
    'void Promise.reject(new Error("lost"));\nsetTimeout(() => console.log("on"), 50);\n',
    ["Error: lost\n", "FILE:1:"],
    1,
  ],
  [
    "an error of ef",
    'import { loadConfig } from "ef";\nasync function go() {\n  return await loadConfig("/nonexistent/file");\n}\nawait go();\n',
    ["error: Cannot find the configuration /nonexistent/file\n  make one with: ef init\n", "FILE:3:", "FILE:5:"],
    1,
  ],
  [
    "a command that fails",
    'import { $ } from "zx";\n$.quiet = true;\nasync function go() {\n  await $`echo problem >&2; exit 3`;\n}\nawait go();\n',
    ["error: a command failed with exit code 3\n    problem\n", "FILE:4:", "FILE:6:"],
    1,
  ],
  [
    "causes, and several errors",
    'throw new AggregateError([new Error("one"), new TypeError("two")], "many", { cause: "why" });\n',
    ["many\n", "Error: one\n", "TypeError: two\n", "caused by: error: the script threw why\n"],
    1,
  ],
  ["what is no error", 'throw { a: 1, b: ["x"] };\n', ["error: the script threw {"], 1],
];

test.each(cases)("%s", async (_, script, said, code) => {
  using at = new Home();
  at.write("it's here/broken.ts", "let c = ;\n");
  at.write("it's here/own.ts", "export const own = 1;\n");
  at.write(
    "it's here/asks.ts",
    'import "node:path";\nimport { own, $none as n } from "./own.js";\nconsole.log(own, n);\n',
  );
  // Bun itself installs what is missing, unless there is such a directory; the program never does.
  if (!isBinary) mkdirSync(join(at.home, "node_modules"));
  const file = at.write("it's here/main.ts", script);
  const ran = await at.ef(["run", "it's here/main.ts"]);
  for (const text of said) expect(ran.stderr).toContain(text.replaceAll("FILE", file));
  expectOwn(ran);
  expect(ran.code).toBe(code);
});

test("an error in ef itself says so, and shows its stack for those who ask", async () => {
  using at = new Home();
  at.write("s.ts", 'import { sync } from "ef";\nvoid sync({} as never);\n');
  const ran = await at.ef(["run", "s.ts"]);
  expect(ran.stderr).toMatch(/^TypeError: .*\n {2}it was thrown inside ef: more with EF_LOG=debug\n$/);
  expect((await at.ef(["run", "s.ts"], { env: { EF_LOG: "debug" } })).stderr).toMatch(/ at .*(\$bunfs|lib\/sync)/);
  expect(ran.code).toBe(1);
});

test("a script hears what nobody catches, if it listens", async () => {
  using at = new Home();
  at.write(
    "own.ts",
    `const next = [() => { throw new Error("thrown"); },
                   () => { void Promise.reject(new Error("rejected")); },
                   () => { clearInterval(alive); console.log("end"); }];
     const alive = setInterval(() => {}, 1000);
     const go = () => setTimeout(next.shift(), 1);
     process.on("uncaughtException", (error, origin) => { console.log(error.message, origin); go(); });
     go();`,
  );
  const { stdout, stderr, code } = await at.ef(["run", "own.ts"]);
  expect(stdout).toBe("thrown uncaughtException\nrejected unhandledRejection\nend\n");
  expect([stderr, code]).toEqual(["", 0]);
});

test("what is no script: exit code 2 and the next step", async () => {
  using at = new Home();
  mkdirSync(join(at.home, "dir"));
  at.write("elf", "\x7fELF\0\0\0");
  for (const name of ["what?.ts", "own.ts"]) at.write(name, "1");
  for (const [args, said] of [
    [[], "there is no script to run"],
    [["--types"], "--types"],
    [["none.ts"], "Cannot run none.ts: there is no such file"],
    [["dir"], "it is a directory"],
    [["elf"], "it is no text"],
    [["what?.ts"], "rename it"],
    [["-x.ts"], "Unknown option"],
    [["/dev/null"], "ef run -"],
    [["own.ts", "\uFFFD"], "not valid UTF-8"],
  ] as const) {
    const { stdout, stderr, code } = await at.ef(["run", ...args]);
    expect(stderr).toContain(said);
    expect([stdout, code]).toEqual(["", 2]);
  }
});
