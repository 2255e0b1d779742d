/** The built library: one script, the same in Bun, Node 20, Node 22 and Deno; nothing printed, nothing ended. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { builtinModules } from "node:module";
import { join, relative, resolve } from "node:path";
import { Home, run } from "../helpers.ts";
import { Library, runIn, runtimes, withoutTypes } from "../runtimes.ts";
import { Workspaces } from "../workspaces.ts";

/** Deno has to compile the library before it runs it, in milliseconds. */
setDefaultTimeout(120_000);

const fakes = resolve(import.meta.dir, "../fakes/dt");
const source = withoutTypes(await Bun.file(join(import.meta.dir, "library/script.ts")).text());
let library: Library;
beforeAll(async () => {
  library = await Library.packed();
});
afterAll(() => library[Symbol.dispose]());

/** More rows than one thread looks at and copies alone. */
const manyFiles = 3500;

/** A user with what can go wrong in a tree: links, hard links, holes, modes, times, names that are no text. */
function user(): Home {
  const at = new Home({
    "hf/sub/purged": "p",
    "hf/sub/changed": "c",
    "hf/sub/conflict": "x",
    "hf/-dash 'quote\n": "q",
  });
  const hf = join(at.home, "hf");
  for (let i = 0; i < manyFiles; i++) {
    const dir = join(at.home, `torch/${i % 20}`);
    if (i < 20) mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, `${i}`), `${i}`);
    // Deno takes one that has just been written in the first millisecond of a second for one with a time of whole seconds.
    utimesSync(join(dir, `${i}`), 1_600_000_000, 1_600_000_000.25);
  }
  writeFileSync(join(hf, "large"), Buffer.alloc(9 << 20, "abc"));
  linkSync(join(hf, "large"), join(hf, "hard link"));
  symlinkSync("sub/changed", join(hf, "link"));
  symlinkSync("nowhere", join(hf, "broken"));
  chmodSync(join(hf, "sub/purged"), 0o755);
  utimesSync(join(hf, "sub/changed"), 1_600_000_000, 1_600_000_000.123);
  at.write("env/pyvenv.cfg", "home = /usr/bin\nversion = 3.11.2\n");
  symlinkSync("/usr/bin/python3", join(at.home, "env", "python3"));
  mkdirSync(join(at.home, "env/bin"));
  symlinkSync("/usr/bin/python3", join(at.home, "env/bin/python"));
  writeFileSync(join(at.home, "env/bin/tool"), `#!${at.home}/env/bin/python\nprint("tool")\n`, { mode: 0o755 });
  at.write(
    "code/task.py",
    "import json\nfrom helper import twice\n\ndef main(x=1):\n    return json.dumps(twice(x))\n",
  );
  at.write("code/helper.py", "def twice(x):\n    return 2 * x\n");
  at.configure({ HF_HOME: "hf", TORCH_HOME: "torch" }, { ef: { venv_store: "~/store" } });
  new Workspaces(at, { user: "anna" });
  Object.assign(at.env, { FAKES: fakes, DT_STATE: join(at.dir, "dt"), REPORT: join(at.dir, "report.json") });
  library.installIn(at.home);
  at.write("script.js", source);
  return at;
}

/** All below a directory: what it is, and what is in it; times in milliseconds, as far as every runtime keeps them. */
function treeOf(dir: string): Record<string, unknown> {
  const tree: Record<string, unknown> = {};
  const walk = (at: Buffer) => {
    for (const name of readdirSync(at, { encoding: "buffer" }).sort(Buffer.compare)) {
      const path = Buffer.concat([at, Buffer.from("/"), name]);
      const stat = lstatSync(path);
      const key = relative(dir, path.toString("latin1"));
      if (stat.isDirectory()) walk(path);
      tree[key] = stat.isSymbolicLink()
        ? readlinkSync(path)
        : [stat.mode, stat.isFile() ? [stat.nlink, Bun.hash(readFileSync(path)).toString()] : []];
    }
  };
  walk(Buffer.from(dir));
  return tree;
}

/** Without what differs between two runs of one program. */
function comparable(report: unknown, at: Home): unknown {
  const text = JSON.stringify(report, (key, value) => {
    if (
      /seconds$|^size$|^ms$|_at$|At$|^pid$|^remaining|^created|^since$|^expires|^sha256$|[aA]geS$|^lastSync/.test(key)
    )
      return typeof value;
    return typeof value === "string" ? value.replaceAll(at.dir, "DIR") : value;
  });
  return JSON.parse(text);
}

interface Seen {
  report: Record<string, unknown>;
  scratch: Record<string, unknown>;
  moved: Record<string, unknown>;
  stdout: string;
  stderr: string;
  code: number;
  /** Processes of the script that are left, by their command lines. */
  left: string[];
}

const seen = new Map<string, Promise<Seen>>();

/** Run the script in a runtime, once. */
async function runOf(name: string): Promise<Seen> {
  const known = seen.get(name);
  if (known !== undefined) return known;
  const started = (async () => {
    const runtime = runtimes.find((one) => one.name === name);
    if (!runtime) throw new Error(name);
    using at = user();
    const { stdout, stderr, code } = await runIn(runtime, join(at.home, "script.js"), at);
    const text = at.exists(join(at.dir, "report.json")) ? at.read(join(at.dir, "report.json")) : "{}";
    const scratch = { ...treeOf(at.cache("HF_HOME")), ...treeOf(at.cache("TORCH_HOME")) };
    return {
      ...{ report: comparable(JSON.parse(text), at) as Seen["report"], scratch, stdout, stderr, code },
      moved: treeOf(join(at.home, "project/hf")),
      left: processesIn(at.dir),
    };
  })();
  seen.set(name, started);
  return started;
}

function processesIn(dir: string): string[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .flatMap((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
        return line.includes(dir) ? [line] : [];
      } catch {
        return []; // it has ended
      }
    });
}

test("the package holds what it needs, and nothing else", async () => {
  const top = new Set(library.files.map((file) => file.replace(/\/.*/, "/")));
  expect([...top].sort()).toEqual(["LICENSE", "README.md", "ef.d.ts", "lib/", "mod.d.ts", "mod.js", "package.json"]);
  const manifest = await Bun.file(join(library.path, "package.json")).json();
  expect(manifest.dependencies).toBeUndefined();
  for (const file of library.files.filter((name) => name.endsWith(".js"))) {
    const text = await Bun.file(join(library.path, file)).text();
    const imports = new Bun.Transpiler({ loader: "js" }).scanImports(text);
    const wrong = imports.filter(({ kind, path }) =>
      kind === "require-call" ? !builtinModules.includes(path) : !/^(?:\.\/|node:|bun:ffi$)/.test(path),
    );
    expect([file, wrong]).toEqual([file, []]);
  }
});

test("versions agree; the types stand alone, say what the sources say, and are those of a module and of a script", async () => {
  const read = (file: string) => Bun.file(file).json();
  const root = resolve(import.meta.dir, "../..");
  const { version, exports } = await read(join(root, "package.json"));
  const jsr = await read(join(root, "jsr.json"));
  expect([jsr.version, (await read(join(library.path, "package.json"))).version]).toEqual([version, version]);
  expect([jsr.exports, exports["."].default]).toEqual(["./dist/mod.js", "./dist/mod.js"]);
  using at = new Home();
  library.installIn(at.home);
  // Without any path into this repository but those of the types of Node.
  const config = {
    compilerOptions: {
      ...{ target: "esnext", lib: ["esnext"], module: "nodenext", strict: true, noEmit: true, skipLibCheck: false },
      ...{ typeRoots: [join(root, "node_modules/@types")], types: ["node"], customConditions: [] },
    },
  };
  at.write("module/tsconfig.json", { ...config, files: ["uses.ts"] });
  at.write("script/tsconfig.json", { ...config, files: ["uses.ts", "ef.d.ts"] });
  at.write("script/ef.d.ts", at.read(join(library.path, "ef.d.ts")));
  const names = Object.keys(await import("../../mod.ts"));
  const uses = `import { ${names.join(", ")}, type Config } from "ef";
export const all = [${names.join(", ")}];
declare const config: Config;
export const base: string = config.vars.HF_HOME?.source ?? config.scratch_base;
// @ts-expect-error it is a text
export const wrong: number = config.scratch_base;
`;
  for (const dir of ["module", "script"]) at.write(`${dir}/uses.ts`, uses);
  for (const dir of ["module", "script"]) {
    const { stdout } = await run([join(root, "node_modules/.bin/tsc"), "-p", dir], { cwd: at.home, env: at.env });
    expect([dir, stdout]).toEqual([dir, ""]);
  }
});

const others = runtimes.filter(({ isHere, readsTypes }) => isHere && readsTypes);
test.each(others)("a user's TypeScript as it is, in $name", async (runtime) => {
  using at = new Home({ "hf/model": "m" });
  at.configure({ HF_HOME: "hf" });
  library.installIn(at.home);
  const script = await Bun.file(join(import.meta.dir, "examples/pre-stage.ts")).text();
  const file = at.write("pre-stage.ts", script.replace(/^#!.*\n/, ""));
  const { stdout, stderr, code } = await runIn(runtime, file, at);
  expect([code, stderr.replaceAll(/^.*ExperimentalWarning.*\n.*\n/gm, "")]).toEqual([0, ""]);
  expect(stdout).toMatch(/^HF_HOME: synced\nHF_HOME: fresh, \d+ bytes\n$/);
});

describe.each(runtimes)("in $name", ({ name, isHere }) => {
  test.skipIf(!isHere)("the script does in it what it does in Bun", async () => {
    const here = await runOf(name);
    expect(here.stderr).toBe("");
    expect(here.stdout).toBe("");
    expect(here.code).toBe(0);
    expect(here.left).toEqual([]);
    const bun = await runOf("bun");
    for (const step of Object.keys(bun.report).filter((each) => each !== "a bundle"))
      expect([step, here.report[step]]).toEqual([step, bun.report[step]]);
    expect(Object.keys(here.report)).toEqual(Object.keys(bun.report));
    expect(here.scratch).toEqual(bun.scratch);
    expect(here.moved).toEqual(bun.moved);
  });
});

/** Of files, in nanoseconds since 1970: as `touch -d` takes them. */
const oddTimes = ["1600000000.001", "1600000000.123456", "1700000000.123456789", "1600000000", "1795726912.0271149"];
/** How much of a time a runtime keeps, in nanoseconds. */
const keeps: Record<string, bigint> = { bun: 1n, "node-20": 1000n, "node-22": 1000n, deno: 1_000_000n };

test.each(runtimes.filter(({ isHere }) => isHere))("a copy made in $name is right for all others", async (runtime) => {
  using at = new Home(Object.fromEntries(oddTimes.map((time) => [`hf/${time}`, time])));
  at.configure({ HF_HOME: "hf" });
  for (const time of oddTimes) Bun.spawnSync(["touch", "-d", `@${time}`, join(at.home, "hf", time)]);
  at.env.REPORT = join(at.dir, "report.json");
  library.installIn(at.home);
  at.write("odd.js", withoutTypes(await Bun.file(join(import.meta.dir, "library/odd.ts")).text()));
  const ran = await runIn(runtime, join(at.home, "odd.js"), at);
  expect([ran.stderr, ran.stdout, ran.code]).toEqual(["", "", 0]);
  expect(JSON.parse(at.read(at.env.REPORT))).toEqual({ errors: [], files: oddTimes.length, again: 0, verified: [] });
  for (const time of oddTimes) {
    const [source, copy] = [join(at.home, "hf", time), join(at.cache("HF_HOME"), time)].map(
      (path) => lstatSync(path, { bigint: true }).mtimeNs,
    ) as [bigint, bigint];
    const apart = source > copy ? source - copy : copy - source;
    expect([time, apart < (keeps[runtime.name] as bigint)]).toEqual([time, true]);
  }
  for (const other of runtimes.filter(({ isHere }) => isHere)) {
    await runIn(other, join(at.home, "odd.js"), at);
    const { again, files, ...rest } = JSON.parse(at.read(at.env.REPORT));
    expect([other.name, rest, again, files ?? 0]).toEqual([other.name, { errors: [], verified: [] }, 0, 0]);
  }
});

test.each(runtimes.filter(({ isHere }) => isHere))("a name that is not UTF-8, in $name", async (runtime) => {
  using at = new Home({ "hf/file": "1" });
  at.configure({ HF_HOME: "hf" });
  const name = Buffer.concat([Buffer.from("caf"), Buffer.from([0xe9])]);
  writeFileSync(Buffer.concat([Buffer.from(join(at.home, "hf/")), name]), "latin1");
  at.env.REPORT = join(at.dir, "report.json");
  library.installIn(at.home);
  at.write("odd.js", withoutTypes(await Bun.file(join(import.meta.dir, "library/odd.ts")).text()));
  await runIn(runtime, join(at.home, "odd.js"), at);
  const { errors } = JSON.parse(at.read(at.env.REPORT));
  const there = readdirSync(at.cache("HF_HOME"), { encoding: "buffer" }).some((one) => one.equals(name));
  const denoSays = expect.stringContaining("the name is not UTF-8, and Deno can read no other (EILSEQ)");
  expect({ errors, there }).toEqual(
    runtime.name === "deno" ? { errors: [denoSays], there: false } : { errors: [], there: true },
  );
});

test("the script does what it says", async () => {
  const { report, scratch } = await runOf("bun");
  expect(report).toMatchObject({
    sync: { errors: [], types: ["comparing", "copying", "progress", "result"] },
    verify: { vars: [{ status: "same" }, { status: "same" }], errors: [] },
    push: { errors: [], vars: [{ status: "pushed" }] },
    unknown: { error: true, code: "UNKNOWN_VAR", exit: 2 },
    stopped: { error: false, message: "enough" },
    lock: { kind: "flock", second: "LOCK_TIMEOUT", third: "flock" },
    execute: 7,
    executed: "seen\n",
    killed: 137,
    moved: { copied: 0, killed: true },
    migrate: { status: "migrated", deletedOld: true, errors: [] },
    settings: 7,
    submitted: { ok: true, value: "42", listed: [true], state: "completed" },
    "cluster files": [true, false, expect.any(Array), expect.any(Number)],
    "a bundle": "script",
  });
  expect(Object.keys(scratch).length).toBeGreaterThan(manyFiles);
});
