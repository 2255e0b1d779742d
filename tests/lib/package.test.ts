/** Packages of Python functions, run by a plain Python elsewhere: the same result as here, and nothing of this machine inside. */
import { expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { unzipSync, zipSync } from "fflate";
import {
  cleanPackages,
  inspectPackage,
  packageFunction,
  packageFunctionForExecution,
  unpackPackage,
} from "../../lib/pack.ts";
import { haveUv, makeEnv } from "../envs.ts";
import { type PythonProject, projects } from "../functions.ts";
import { Home, run } from "../helpers.ts";

setDefaultTimeout(60_000);

const python = Bun.which("python3", { PATH: "/usr/local/bin:/usr/bin:/bin" });
const bare = { PATH: "/usr/bin:/bin" };

/** Write the files of a project into a directory. */
function write(dir: string, files: PythonProject["files"]): string {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), content);
  }
  return dir;
}

/** What it gives when it is called where it lies. */
async function here(dir: string, { file, functionName, args = [], kwargs = {} }: PythonProject): Promise<unknown> {
  const script = `
import sys, os, importlib, importlib.util
if __name__ == "__main__":
    path, name, out = sys.argv[1:4]
    top, module = os.path.dirname(os.path.abspath(path)), [os.path.basename(path)[:-3]]
    while os.path.exists(os.path.join(top, "__init__.py")):
        module.insert(0, os.path.basename(top)); top = os.path.dirname(top)
    if module[-1] == "__init__": module.pop()
    sys.path.insert(0, top)
    if ".".join(module).replace(".", "_").isidentifier(): found = importlib.import_module(".".join(module))
    else:
        spec = importlib.util.spec_from_file_location("script", path); found = importlib.util.module_from_spec(spec); spec.loader.exec_module(found)
    for part in name.split("."): found = getattr(found, part)
    args, kwargs = eval(sys.argv[4]), eval(sys.argv[5])
    value = found(*args, **kwargs)
    if type(value).__name__ == "coroutine":
        import asyncio
        value = asyncio.run(value)
    for name in ("json",): sys.modules.pop(name, None)
    sys.path.remove(top)
    import json
    open(out, "w").write(json.dumps(value))
`;
  const literal = (value: unknown) =>
    JSON.stringify(value).replaceAll("null", "None").replaceAll("true", "True").replaceAll("false", "False");
  const main = join(dir, "..", "call here.py");
  writeFileSync(main, script);
  const out = join(dir, "..", "here.json");
  const { code, stderr } = await run(
    [python ?? "", main, join(dir, file), functionName, out, literal(args), literal(kwargs)],
    { cwd: dir, env: bare },
  );
  expect([code, stderr]).toEqual([0, ""]);
  return JSON.parse(readFileSync(out, "utf8"));
}

test.skipIf(!python).each(projects.map((project) => [project.what, project] as const))("%s", async (_, project) => {
  using at = new Home();
  const dir = write(join(at.home, "pro ject"), project.files);
  const expected = await here(dir, project);
  const { file, functionName, args = [], kwargs = {} } = project;
  const info = await packageFunction({ file, functionName, args, kwargs, cwd: dir, env: at.env });
  // Its project is gone, and the package is somewhere else.
  renameSync(dir, join(at.home, "moved"));
  const elsewhere = join(at.dir, "else where");
  mkdirSync(elsewhere);
  const archive = join(elsewhere, "package.zip");
  renameSync(info.packagePath, archive);
  const { code, stdout, stderr } = await run(["env", "-i", python ?? "", archive], { cwd: "/", env: bare });
  expect(stderr).toBe("");
  expect(JSON.parse(stdout)).toEqual(expected);
  expect(code).toBe(0);
  // Nothing of this machine is in it.
  for (const content of Object.values(unzipSync(readFileSync(archive))))
    expect(Buffer.from(content).includes(at.dir)).toBe(false);
});

const small: PythonProject["files"] = {
  "main.py":
    "from pathlib import Path\nimport lib.tool\ndef run(x=1):\n    return [x, (Path(__file__).parent / 'data.txt').read_text()]\n",
  "lib/__init__.py": "",
  "lib/tool.py": "X = 1\n",
  "data.txt": "data",
};

const pack = (dir: string, at: Home, more: object = {}) =>
  packageFunction({ file: "main.py", functionName: "run", cwd: dir, env: at.env, ...more });

test("the same input makes the same bytes: in another directory, later, with other modes and in another order", async () => {
  using at = new Home();
  const one = write(join(at.home, "one"), small);
  const first = await pack(one, at, { args: [3] });
  const bytes = readFileSync(first.packagePath);
  const two = join(at.home, "a", "two");
  for (const path of Object.keys(small).reverse()) write(two, { [path]: small[path] as string });
  for (const path of Object.keys(small)) utimesSync(join(two, path), 1000, 1000);
  chmodSync(join(two, "data.txt"), 0o600);
  const second = await pack(two, at, { args: [3], output: join(at.home, "two.zip") });
  expect(second.packageId).toBe(first.packageId);
  expect(readFileSync(second.packagePath).equals(bytes)).toBe(true);
  expect(statSync(first.packagePath).mode & 0o777).toBe(0o600);
  expect(statSync(dirname(first.packagePath)).mode & 0o777).toBe(0o700);
});

test("a byte of a data file, of a module, an argument, a variable: each is another id", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), small);
  const ids = [(await pack(dir, at)).packageId, (await pack(dir, at, { args: [2] })).packageId];
  ids.push((await pack(dir, at, { environment: { A: "b" } })).packageId);
  writeFileSync(join(dir, "data.txt"), "dato");
  ids.push((await pack(dir, at)).packageId);
  writeFileSync(join(dir, "lib/tool.py"), "X = 2\n");
  ids.push((await pack(dir, at)).packageId);
  chmodSync(join(dir, "data.txt"), 0o755);
  ids.push((await pack(dir, at)).packageId);
  expect(new Set(ids).size).toBe(ids.length);
  // The cluster is no part of it.
  const where = { file: "main.py", functionName: "run", cwd: dir, env: at.env };
  const other = await packageFunctionForExecution(where, { type: "slurm", host: "h" } as never);
  expect([other.packageId, other.configHash]).toEqual([ids.at(-1) as string, expect.stringMatching(/^[0-9a-f]{64}$/)]);
  expect(other.configHash).not.toBe((await pack(dir, at)).configHash);
});

test("no variable of the environment is inside, but those that were named", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), small);
  process.env.EF_TEST_TOKEN = "hf_very_secret";
  try {
    const { packagePath } = await pack(dir, at, { environment: { NAMED: "named value" } });
    const texts = Object.values(unzipSync(readFileSync(packagePath))).map((each) =>
      Buffer.from(each).toString("latin1"),
    );
    expect(texts.some((each) => each.includes("hf_very_secret"))).toBe(false);
    expect(texts.some((each) => each.includes("named value"))).toBe(true);
  } finally {
    delete process.env.EF_TEST_TOKEN;
  }
});

test("files of one name do not collide, and are where the code looks for them", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), {
    "main.py":
      "import a.util, b.util\ndef run():\n    return [a.util.X, b.util.X, open('a/data.txt').read(), open('b/data.txt').read()]\n",
    ...{ "a/util.py": "X = 'a'\n", "b/util.py": "X = 'b'\n", "a/data.txt": "in a", "b/data.txt": "in b" },
  });
  const { packagePath } = await pack(dir, at);
  const { stdout } = await run([python ?? "", packagePath], { cwd: "/", env: bare });
  expect(JSON.parse(stdout)).toEqual(["a", "b", "in a", "in b"]);
});

test.each([
  ["not_there", "there is no such function"],
  ["len", "built into Python"],
  ["sqrt", "which is Python's own"],
  ["inner", "defined inside of outer"],
  ["rum", "did you mean run?"],
  ["K.nope", "the class K defines no nope"],
])("the function %s: %s", async (functionName, why) => {
  using at = new Home();
  const code =
    "from math import sqrt\nclass K:\n    def m(self): pass\ndef outer():\n    def inner(): pass\ndef run(): pass\n";
  const dir = write(join(at.home, "p"), { "main.py": code });
  const error = await pack(dir, at, { functionName }).catch((each) => each);
  expect(error).toMatchObject({ code: "NOT_PACKABLE", exit: 2 });
  expect(`${error.message}\n${error.hint}`).toContain(why);
});

test.each([
  ["def run(:\n    pass\n", "main.py:1:"],
  ["def run():\n    x = 1\n     y = 2\n", "main.py:3:"],
  ["print 'x'\ndef run(): pass\n", "Python 2"],
  ["def run(): pass\nx = 'caf\xe9'\n", "main.py:2: it is not utf-8"],
  ["def run(): pass\0\n", "NUL"],
])("code that is no Python: %j", async (code, why) => {
  using at = new Home();
  const dir = write(join(at.home, "p"), { "main.py": latin1(code) });
  const error = await pack(dir, at).catch((each) => each);
  expect(error).toMatchObject({ code: "NOT_PACKABLE" });
  expect(error.message).toContain(why);
});

const latin1 = (text: string) => Buffer.from(text, "latin1");

test("arguments that a plain function cannot take are refused before anything is sent", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), { "main.py": "def run(a, b=1, *, c): pass\n" });
  for (const [args, kwargs, why] of [
    [[1, 2, 3], { c: 1 }, "3 by their place, and it takes 2"],
    [[1], { c: 1, d: 1 }, "it takes no d"],
    [[], { c: 1 }, "a is missing"],
    [[1], {}, "c is missing"],
    [[1], { a: 1, c: 1 }, "a is given twice"],
  ] as const)
    expect(await pack(dir, at, { args, kwargs }).catch((each) => each.message)).toContain(why);
});

test.each([
  [".env", "KEY=1"],
  ["id_ed25519", "x"],
  ["server.pem", "x"],
  [".netrc", "x"],
  ["token", "hf_x"],
  ["service.json", '{"private_key": "-----BEGIN PRIVATE KEY-----\\n"}'],
  ["notes.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\nx"],
  [".aws/config", "x"],
])("the secret %s goes only if it is named itself", async (name, content) => {
  using at = new Home();
  const dir = write(join(at.home, "p"), { ...small, [`conf/${name}`]: content });
  const error = await pack(dir, at, { data: ["conf"] }).catch((each) => each);
  expect(error).toMatchObject({ code: "NOT_PACKABLE" });
  expect(error.message).toContain(`conf/${name}`);
  const { metadata } = await pack(dir, at, { data: [`conf/${name}`] });
  expect(metadata.files.map(({ path }) => path)).toContain(`files/conf/${name}`);
  const without = await pack(dir, at, { data: ["conf"], exclude: [`/conf/${name}`] });
  expect(without.metadata.files.map(({ path }) => path)).not.toContain(`files/conf/${name}`);
});

test("a secret that the code itself reads is refused too; histories and environments are left out", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), { "main.py": "def run():\n    return open('.env').read()\n", ".env": "X=1" });
  expect(await pack(dir, at).catch((error) => error.message)).toContain(".env");
  write(dir, {
    "main.py": "def run(): pass\n",
    "d/.git/config": "x",
    "d/__pycache__/a.pyc": "x",
    "d/.venv/x": "x",
    "d/kept": "x",
  });
  const { metadata } = await pack(dir, at, { data: ["d"] });
  expect(metadata.files.map(({ path }) => path)).toEqual(["files/d/kept", "files/main.py"]);
});

test("what only running would tell is warned of, with its line", async () => {
  using at = new Home();
  const code = [
    ...[
      "import importlib, sys, os",
      "def run(name):",
      "    importlib.import_module('p.' + name)",
      "    sys.path.append(name)",
    ],
    ...[
      "    open(name)",
      "    open('/etc/hosts')",
      "    open('missing.txt')",
      "    open('out.txt', 'w')",
      "    from ..up import x",
      "    import nowhere",
    ],
  ].join("\n");
  const dir = write(join(at.home, "p"), { "main.py": `${code}\n` });
  const { metadata } = await pack(dir, at, { args: ["x"] });
  const lines = metadata.warnings.map(({ lineno, message }) => [lineno, message.split(/[:,]/)[0]]);
  expect(lines).toEqual([
    [1, "not pinned"],
    [3, "only running it would tell what is imported here"],
    [4, "it changes sys.path"],
    [5, "only running it would tell which file is read here"],
    [6, "/etc/hosts is outside of the project and not packed"],
    [7, "there is no missing.txt"],
    [9, "the relative import ..up leaves its package"],
  ]);
});

const runner = `
import multiprocessing, numpy_like, sys, os
class Own(Exception): pass
def value(kind):
    print("printed")
    if kind == "set": return {"a": [1, {2}]}
    if kind == "keys": return {1: 2}
    if kind == "nan": return [0.5, float("nan")]
    if kind == "self":
        x = []; x.append(x); return x
    if kind == "own": raise Own("broken\\nin two lines")
    if kind == "exit": sys.exit(3)
    if kind == "chain":
        try: 1 / 0
        except ZeroDivisionError as e: raise Own("outer") from e
    if kind == "array": return numpy_like.Array()
    if kind == "close": os.close(1); return 5
    if kind == "big": return 2 ** 70
    return kind
`;

test.skipIf(!python)(
  "results that are no JSON are told by their place and type; errors by type, message and the user's own lines",
  async () => {
    using at = new Home();
    const dir = write(join(at.home, "p"), {
      "main.py": runner,
      "numpy_like.py": "class Array:\n    def tolist(self): return []\n",
    });
    const ran = async (kind: unknown, more: object = {}) => {
      const { packagePath } = await pack(dir, at, { functionName: "value", args: [kind], ...more });
      const result = join(at.home, "out/result.json");
      mkdirSync(dirname(result), { recursive: true });
      const { code } = await run([python ?? "", packagePath, "--result", result], { cwd: "/", env: bare });
      expect(statSync(result).mode & 0o777).toBe(0o600);
      return { code, ...JSON.parse(readFileSync(result, "utf8")) };
    };
    expect(await ran("x")).toEqual({ code: 0, ok: true, value: "x" });
    for (const [kind, message] of [
      ["set", 'result["a"][1] is a set, which is no JSON'],
      ["keys", "result has a key of type int, 1"],
      ["nan", "result[1] is nan"],
      ["self", "result[0] contains itself"],
      ["array", "result is a numpy_like.Array, which is no JSON (there is tolist())"],
    ] as const) {
      const { code, error } = await ran(kind);
      expect([code, error.type]).toEqual([1, "ResultError"]);
      expect(error.message).toContain(message);
    }
    const own = await ran("own");
    expect(own.error).toMatchObject({ type: "main.Own", message: "broken\nin two lines" });
    expect(own.error.traceback).toContain('File "files/main.py", line 11, in value');
    expect(own.error.traceback).not.toMatch(/run\.py|importlib/);
    expect((await ran("exit")).error).toMatchObject({ type: "SystemExit", message: "3" });
    expect((await ran("chain")).error.traceback).toMatch(/ZeroDivisionError[\s\S]*direct cause[\s\S]*main\.Own: outer/);
    expect(await ran("close")).toMatchObject({ ok: true, value: 5 });
    const pickled = await ran("array", { pickle: true });
    expect(pickled).toEqual({ code: 0, ok: true, pickle: "result.pickle", type: "numpy_like.Array" });
    expect(existsSync(join(at.home, "out/result.pickle"))).toBe(true);
  },
);

test("a package that was changed, cut off, or is none: refused by Python and by ef, and nothing is written", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), small);
  const { packagePath } = await pack(dir, at);
  const good = unzipSync(readFileSync(packagePath));
  const bad: Record<string, Uint8Array> = {
    changed: zipSync({ ...good, "files/data.txt": Buffer.from("evil") }),
    missing: zipSync(Object.fromEntries(Object.entries(good).filter(([name]) => name !== "files/data.txt"))),
    leaving: zipSync({ ...good, "../evil": Buffer.from("x") }),
    cut: readFileSync(packagePath).subarray(0, 300),
    none: Buffer.from("no zip"),
    other: zipSync({ "a.txt": Buffer.from("a") }),
    json: zipSync({ ...good, "metadata.json": Buffer.from("{}") }),
  };
  for (const [name, bytes] of Object.entries(bad)) {
    const file = join(at.home, `${name}.zip`);
    writeFileSync(file, bytes);
    expect(await inspectPackage(file).catch((error) => error.code)).toBe("BAD_ARCHIVE");
    expect(await unpackPackage(file, join(at.home, "out")).catch((error) => error.code)).toBe("BAD_ARCHIVE");
    if (python && ["changed", "missing", "leaving"].includes(name)) {
      const { code, stderr } = await run([python, file, "--into", join(at.home, `by python ${name}`)], {
        cwd: "/",
        env: bare,
      });
      expect([code, stderr]).toEqual([2, expect.stringContaining("damaged")]);
    }
    expect(existsSync(join(at.dir, "evil")) || existsSync(join(at.home, "evil"))).toBe(false);
  }
});

test("old packages are removed, and nothing else", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), small);
  const { packagePath } = await pack(dir, at);
  const store = dirname(packagePath);
  const alike = join(store, "notes-0123456789abcdef.zip");
  writeFileSync(alike, "mine");
  for (const path of [packagePath, alike]) utimesSync(path, 1000, 1000);
  const young = (await pack(dir, at, { args: [9] })).packagePath;
  expect(cleanPackages({ olderThanS: 3600, env: at.env })).toEqual([packagePath]);
  expect([existsSync(alike), existsSync(young)]).toEqual([true, true]);
  chmodSync(store, 0o777);
  expect(await pack(dir, at, { args: [10] }).catch((error) => error.message)).toContain("others may write to it");
});

test.skipIf(!haveUv)(
  "packages of an environment are pinned with what they need; an editable project is code [needs uv]",
  async () => {
    using at = new Home();
    const venv = await makeEnv(join(at.home, "venv"), ["numpy", "black", "six"]);
    const other = write(join(at.home, "other project"), {
      "src/mine/__init__.py": "from .x import Y\n",
      "src/mine/x.py": "Y = 1\n",
    });
    writeFileSync(
      join(
        venv,
        "lib",
        Bun.spawnSync(["ls", join(venv, "lib")])
          .stdout.toString()
          .trim(),
        "site-packages/mine.pth",
      ),
      join(other, "src"),
    );
    const code =
      "import numpy.linalg as la\nfrom black import format_str\nimport six.moves, mine\nimport scipy\ndef run(): return mine.Y\n";
    const dir = write(join(at.home, "p"), { "main.py": code });
    const { metadata, packagePath } = await pack(dir, at, { venv });
    const names = metadata.dependencies.packages.map(({ name }) => name);
    expect(names).toEqual([
      "black",
      "click",
      "mypy-extensions",
      "numpy",
      "packaging",
      "pathspec",
      "platformdirs",
      "pytokens",
      "six",
    ]);
    for (const { version } of metadata.dependencies.packages) expect(version).toMatch(/^\d/);
    expect(metadata.import_paths).toEqual(["files", "paths/1"]);
    expect(metadata.files.map(({ path }) => path)).toEqual([
      "files/main.py",
      "paths/1/mine/__init__.py",
      "paths/1/mine/x.py",
    ]);
    expect(metadata.warnings.map(({ message }) => message)).toEqual([
      "scipy is neither in the project nor installed in the environment",
    ]);
    expect(Buffer.from(unzipSync(readFileSync(packagePath))["requirements.txt"] ?? []).toString()).toContain(
      "\nnumpy==",
    );
  },
);

test("links: into the project they are followed, in a circle they end", async () => {
  using at = new Home();
  const dir = write(join(at.home, "p"), { ...small, "real/x.csv": "x" });
  cpSync(join(dir, "lib"), join(dir, "lib2"), { recursive: true });
  symlinkSync("real", join(dir, "linked"));
  symlinkSync("..", join(dir, "real/loop"));
  const { metadata } = await pack(dir, at, { data: ["linked"] });
  expect(metadata.files.map(({ path }) => path)).toContain("files/linked/x.csv");
});
