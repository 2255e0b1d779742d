/** Scripts of a user: what they import, what they are given, and how they end. */
import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { efArgv, Home, until } from "../helpers.ts";

const [ef = ""] = efArgv;

test("ef, zx, valibot, consola and citty are there, statically, by import() and by require()", async () => {
  using at = new Home();
  at.write(
    "all.ts",
    `import { sync, EfError } from "ef";
     import { $, argv } from "zx";
     import * as v from "valibot";
     import consola, { createConsola } from "consola";
     import { defineCommand } from "citty";
     const kinds = [sync, EfError, $, v.object, consola.log, createConsola, defineCommand].map((one) => typeof one);
     console.log(new Set(kinds).size, kinds[0], argv.name, argv._);
     const again = await import("ef");
     console.log(again.sync === sync, (await import("zx")).$ === $);
     await import("zx/globals");
     console.log((await globalThis.$\`echo \${"it's a b"}\`).stdout.trim());`,
  );
  const ran = await at.ef(["run", "all.ts", "--name", "x", "y"]);
  expect(ran.stderr).toBe("");
  expect(ran.stdout).toBe('1 function x [ "y" ]\ntrue true\nit\'s a b\n');
  expect(ran.code).toBe(0);
  at.write("req.cjs", `const { sync } = require("ef"); console.log(typeof sync, typeof require("zx").$);`);
  expect((await at.ef(["run", "req.cjs"])).stdout).toBe("function function\n");
  expect((await at.ef(["run", "-"], { stdin: at.read(join(at.home, "req.cjs")) })).stdout).toBe("function function\n");
});

test("a script's own files and packages, also through a link; of the five, the program's own win", async () => {
  using at = new Home();
  const project = "my project's 'dir'";
  at.write(`${project}/lib/a.ts`, `export const a: string = "a";`);
  at.write(`${project}/lib/b.mjs`, `export const b = "b";`);
  at.write(`${project}/lib/c.js`, `module.exports = "c";`);
  at.write(`${project}/d.json`, { d: 1 });
  const modules = `${project}/node_modules`;
  at.write(`${modules}/pkg/package.json`, { name: "pkg", exports: { ".": "./lib/index.js" }, type: "module" });
  at.write(`${modules}/pkg/lib/index.js`, `import { $ } from "zx"; export const pkg = typeof $;`);
  at.write(`${modules}/old/package.json`, { name: "old", main: "./main.cjs" });
  at.write(`${modules}/old/main.cjs`, `module.exports = typeof require("valibot").object;`);
  for (const name of ["ef", "zx"]) at.write(`${modules}/${name}/index.js`, `throw new Error("not this ${name}");`);
  const script = at.write(
    `${project}/main.ts`,
    `import { sync } from "ef";
     import { a } from "./lib/a";
     import { b } from "./lib/b.mjs";
     import c from "./lib/c.js";
     import { d } from "./d.json";
     import { pkg } from "pkg";
     import old from "old";
     console.log(typeof sync, a, b, c, d, pkg, old, (await import(\`./lib/\${a}.ts\`)).a);
     console.log(JSON.stringify([import.meta.main, import.meta.filename, import.meta.dirname, new URL(import.meta.url).pathname, process.argv]));`,
  );
  const link = join(at.home, "link");
  symlinkSync(script, link);
  for (const named of [script, link]) {
    const { stdout, stderr } = await at.ef(["run", named], { cwd: "/" });
    expect(stderr).toBe("");
    const [words, facts = ""] = stdout.split("\n");
    expect(words).toBe("function a b c 1 function function a");
    const [main, file, dir, url, argv] = JSON.parse(facts);
    expect([main, file, dir, decodeURI(url)]).toEqual([true, script, join(at.home, project), script]);
    expect(argv).toEqual([ef, script]);
  }
});

test("all after the script is the script's: --help, --json, --config, --", async () => {
  using at = new Home();
  at.write("args", `console.log(JSON.stringify(process.argv.slice(2)), process.env.EF_CONFIG);`);
  const words = ["--help", "--json", "-V", "--", "--config", "x", "", "a b", "--types", "run", "dm"];
  const { stdout, code } = await at.ef(["run", "args", ...words]);
  expect(stdout).toBe(`${JSON.stringify(words)} undefined\n`);
  expect(code).toBe(0);
  expect((await at.ef(["--config", "mine", "run", "--", "args", "-x"])).stdout).toBe('["-x"] mine\n');
});

const names = [
  "plain",
  "v1.2",
  "with space.ts",
  'it\'s "quoted".ts',
  "new\nline.ts",
  "-dash.ts",
  "100%41#.ts",
  "ü`$x`",
];

test("#! starts a script of any name, with or without .ts; found on PATH too", async () => {
  using at = new Home();
  const text = `#!/usr/bin/env -S ef run\nconst n = <T,>(x: T): T => x;\nconst m = <number>n(3 as unknown);\nimport { sync } from "ef";\nconsole.log(typeof sync, m, process.argv.slice(2).join());\n`;
  for (const name of names) {
    const file = at.write(name, text.replace(" = <T,>", name.endsWith(".ts") ? " = <T,>" : " = <T>"));
    chmodSync(file, 0o755);
    const ran = await at.sh("bash", './"$NAME" "$@"; cd / && "$HOME/$NAME" --json', { env: { NAME: name } });
    expect([name, ran.stderr]).toEqual([name, ""]);
    expect(ran.stdout).toBe("function 3 \nfunction 3 --json\n");
  }
  symlinkSync(join(at.home, "plain"), join(at.dir, "bin/my-tool"));
  expect((await at.sh("sh", "my-tool a -- b")).stdout).toBe("function 3 a,--,b\n");
});

test("stdin is the script's, or the script", async () => {
  using at = new Home();
  at.write("in.ts", `console.log("got", await Bun.stdin.text());`);
  expect((await at.ef(["run", "in.ts"], { stdin: "a\nb\n" })).stdout).toBe("got a\nb\n\n");
  at.write("part.ts", `export const part = 1;`);
  const script = `import { part } from "./part.ts";\nimport { sync } from "ef";\nconsole.log(typeof sync, part, process.argv.slice(1).join(), import.meta.main);\nthrow new TypeError("here");`;
  const ran = await at.ef(["run", "-", "--json", "x"], { stdin: script });
  expect(ran.stdout).toBe("function 1 -,--json,x true\n");
  expect(ran.stderr).toContain(`throw new TypeError("here");\n`);
  expect(ran.stderr).toContain("[stdin].ts:4:");
  expect(ran.code).toBe(1);
});

test("the exit code: exit, exitCode, an end without; what is written is whole", async () => {
  using at = new Home();
  for (const [text, code] of [
    ["process.exit(3)", 3],
    ["process.exitCode = 4", 4],
    ["process.exitCode = 4; setTimeout(() => { process.exitCode = 5 }, 1)", 5],
    ["process.on('exit', () => { process.exitCode = 6 })", 6],
    ["process.once('beforeExit', () => setTimeout(() => { process.exitCode = 7 }, 1))", 7],
    ["", 0],
  ] as const) {
    at.write("end.ts", text);
    expect([text, (await at.ef(["run", "end.ts"])).code]).toEqual([text, code]);
  }
  at.write("much.ts", `process.stdout.write("x".repeat(1_000_000)); console.log("end");`);
  expect((await at.ef(["run", "much.ts"])).stdout).toHaveLength(1_000_004);
});

test("timers, servers and top-level await keep it alive; `await using` is disposed of", async () => {
  using at = new Home();
  at.write(
    "alive.ts",
    `await using _ = { async [Symbol.asyncDispose]() { console.log("disposed"); } };
     const server = Bun.serve({ port: 0, fetch: () => new Response("served") });
     setTimeout(async () => {
       console.log(await (await fetch(server.url)).text());
       await server.stop();
     }, 1);
     await new Promise((done) => setTimeout(done, 1));
     console.log("top");`,
  );
  const { stdout, stderr, code } = await at.ef(["run", "alive.ts"]);
  expect(stderr).toBe("");
  expect(stdout.trim().split("\n").sort()).toEqual(["disposed", "served", "top"]);
  expect(code).toBe(0);
});

const waits = `import { writeFileSync } from "node:fs"; setInterval(() => {}, 1000); writeFileSync("ready", "");`;

test.each([
  ["SIGTERM", 143],
  ["SIGINT", 130],
  ["SIGHUP", 129],
] as const)("%s ends a script, which may hear it instead", async (name, code) => {
  for (const [more, expected, said] of [
    ["", code, ""],
    [`process.on("${name}", () => { console.log("heard"); process.exit(9); });`, 9, "heard\n"],
  ] as const) {
    using at = new Home();
    at.write("wait.ts", more + waits);
    const ran = await at.ef(["run", "wait.ts"], {
      onStart: (child) =>
        void until("the script", () => existsSync(join(at.home, "ready"))).then(() => child.kill(name)),
    });
    expect([ran.stdout, ran.code]).toEqual([said, expected]);
  }
});

test("jobs of the library stop by the script's own signal", async () => {
  using at = new Home({ "hf/model": "m" });
  at.configure({ HF_HOME: "hf" });
  at.write(
    "stop.ts",
    `import { loadConfig, sync } from "ef";
     const stop = new AbortController();
     const config = await loadConfig();
     await sync(config, { signal: stop.signal, onEvent: () => stop.abort(new Error("enough")) }).catch((e) => console.log("caught", e.message));`,
  );
  const { stdout, code } = await at.ef(["run", "stop.ts"]);
  expect([stdout, code]).toEqual(["caught enough\n", 0]);
});

test("nothing in the current directory changes a script", async () => {
  using at = new Home();
  const evil = `require("node:fs").writeFileSync(${JSON.stringify(join(at.dir, "evil"))}, "ran");`;
  at.write("evil.ts", evil);
  at.write("bunfig.toml", 'preload = ["./evil.ts"]\n[run]\npreload = ["./evil.ts"]\n[install]\nauto = "force"\n');
  at.write(".env", "FROM_DOTENV=1\n");
  at.write(
    "package.json",
    '{ "name": "ef", "imports": { "zx": "./evil.ts" }, "exports": "./evil.ts", "browser": { "./own": "./evil.ts"',
  );
  at.write("tsconfig.json", '{ "compilerOptions": { "paths": { "*": ["./evil.ts"], "./own": ["./evil.ts"] } } }');
  at.write("own.ts", `export const own = 1;`);
  at.write(
    "s.ts",
    `import { $ } from "zx"; import { own } from "./own"; console.log(typeof $, own, process.env.FROM_DOTENV);`,
  );
  // From the sources, the Bun that runs them reads these before ef begins.
  const { stdout, stderr } = await at.ef(["run", join(at.home, "s.ts")], process.env.EF_BIN ? {} : { cwd: at.dir });
  expect([stdout, stderr]).toEqual(["function 1 undefined\n", ""]);
  expect(existsSync(join(at.dir, "evil"))).toBe(false);
});

test("without bash, commands run by sh; without both, the error says so", async () => {
  using at = new Home();
  const bin = join(at.dir, "few");
  mkdirSync(bin);
  at.write(
    "sh.ts",
    `import { $ } from "zx";
     const words = ["a b", "it's", "$HOME", "x\\ny", "-n", "~", "*", "", "\\\\"];
     process.stdout.write((await $\`for w in \${words}; do printf '<%s>' "$w"; done\`).stdout);
     await $\`exit 3\`;`,
  );
  const none = await at.ef(["run", "sh.ts"], { env: { PATH: bin } });
  expect(none.stderr).toContain("neither bash nor sh on PATH");
  expect(none.stderr).toContain("Bun.spawn");
  expect(none.stderr).toContain("sh.ts:3:");
  expect(none.code).toBe(1);
  symlinkSync("/bin/sh", join(bin, "sh"));
  const some = await at.ef(["run", "sh.ts"], { env: { PATH: bin } });
  expect(some.stdout).toBe("<a b><it's><$HOME><x\ny><-n><~><*><><\\>");
  expect(some.stderr).toContain("exit code 3");
  expect(some.stderr).toContain("sh.ts:4:");
});

test("workers and forks run the script's own files, with the same imports; a worker that fails is heard", async () => {
  using at = new Home();
  at.write(
    "w.ts",
    `import { sync } from "ef"; self.onmessage = (e: MessageEvent) => postMessage(typeof sync + e.data);`,
  );
  at.write("f.ts", `import { $ } from "zx"; process.send?.(typeof $ + process.argv[2]);`);
  at.write("broken.ts", `import { none } from "./nowhere.ts"; none();`);
  at.write(
    "s.ts",
    `import { fork } from "node:child_process";
     const w = new Worker(new URL("./w.ts", import.meta.url));
     w.addEventListener("message", (e) => { console.log(e.data); w.terminate(); });
     w.postMessage(1);
     fork("./f.ts", ["2"]).on("message", (text) => console.log(text));
     new Worker(new URL("./broken.ts", import.meta.url));
     new Worker(new URL("./broken.ts", import.meta.url)).onerror = () => console.log("heard");`,
  );
  const { stdout, stderr, code } = await at.ef(["run", "s.ts"]);
  expect(stdout.trim().split("\n").sort()).toEqual(["function1", "function2", "heard"]);
  expect(stderr.match(/error: a worker failed: .*nowhere/g)).toHaveLength(1);
  expect(code).toBe(0);
});

test("what a script sets for its own commands is not for those of ef", async () => {
  using at = new Home({ "hf/model": "m" });
  at.configure({ HF_HOME: "hf" }, { rsync_extra_args: ["--times"] });
  at.write(
    "set.ts",
    `import { loadConfig, sync } from "ef";
     import { $ } from "zx";
     Object.assign($, JSON.parse(process.argv[2]));
     const { errors } = await sync(await loadConfig(), { force: true });
     console.log(errors.join() || "synced");`,
  );
  const settings = [{ cwd: "/nonexistent/dir" }, { shell: false }, { sync: true }, { halt: true }, { input: "x" }];
  for (const set of [...settings, { timeout: "1ms" }]) {
    const { stdout, code } = await at.ef(["run", "set.ts", JSON.stringify(set)]);
    expect([set, stdout, code]).toEqual([set, "synced\n", 0]);
  }
  for (const env of [{ ZX_TIMEOUT: "1ms" }, { ZX_CWD: "/nonexistent/dir" }])
    expect((await at.ef(["sync", "--force"], { env })).code).toBe(0);
});

const packaged = `import { readFileSync } from "node:fs";
import { sync } from "ef";
console.log(typeof sync, readFileSync("data.txt", "utf8"), import.meta.main, process.argv.slice(2).join(), process.cwd());
if (process.argv.includes("wait")) setInterval(() => {}, 1000);
`;

test("a package of ef pack: run among its data, which is gone afterwards, also after a signal", async () => {
  using at = new Home({ "data.txt": "data", "s.ts": packaged });
  const packed = await at.ef(["pack", "s.ts", "--data", "data.txt"]);
  const archive = packed.stdout.trim();
  const there = () => readdirSync(at.dir).filter((name) => name.startsWith("ef-package-"));
  const ran = await at.ef(["run", archive, "--json", "x"]);
  expect(ran.stderr).toBe("");
  expect(ran.stdout).toMatch(/^function data true --json,x .*\/ef-package-/);
  expect([ran.code, there()]).toEqual([0, []]);
  const ended = await at.ef(["run", archive, "wait"], {
    onStart: (child) => child.stdout?.once("data", () => child.kill("SIGTERM")),
  });
  expect([ended.code, there()]).toEqual([143, []]);
});
