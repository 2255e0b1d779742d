/** What functions do while they run in a package: print, fork, exit, fill their stack; and what is left of it. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { packageFunction } from "../../lib/pack.ts";
import { Home, type Ran, run, until } from "../helpers.ts";

setDefaultTimeout(60_000);

const python = Bun.which("python3", { PATH: "/usr/local/bin:/usr/bin:/bin" }) ?? "";
const bare = { PATH: "/usr/bin:/bin" };

const code = `
import atexit, os, sys, threading, time
def prints(n): print("line\\n" * n); os.system("echo from a program"); return n
def forks():
    codes = []
    for way in ("exit", "back", "raises"):
        pid = os.fork()
        if pid == 0:
            if way == "exit": sys.exit(7)
            if way == "back": return "the child's"
            raise ValueError("the child's")
        codes.append(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
    return codes
def goes(n): os._exit(n)
def dies(): os.kill(os.getpid(), 9)
def interrupts(): raise KeyboardInterrupt
def mode():
    open("made.txt", "w").close()
    return "%o" % (os.stat("made.txt").st_mode & 0o777)
def late():
    atexit.register(lambda: print("at the end"))
    threading.Thread(target=lambda: (time.sleep(0.05), print("a thread"))).start()
    return 1
def deep(n):
    x = []
    for _ in range(n): x = [x]
    return x
def recurses(): return recurses()
def memory(): raise MemoryError
def unsaid():
    class Unsaid(Exception):
        def __str__(self): raise ValueError("no")
    raise Unsaid()
def library():
    import json
    json.loads("{")
def paths():
    import pathlib
    sys.path.insert(0, pathlib.Path("x")); sys.path.append(None)
    return 1
def no_stdout(): sys.stdout = None; return 2
def variables(): return [os.environ.get("NAMED"), os.environ.get("SECRET"), sys.flags.hash_randomization]
def waits(where):
    open(where, "w").close()
    time.sleep(60)
def many(n): return {"rows": [[i, str(i), i / 2, None, True] for i in range(n)]}
`;

async function packed(at: Home, functionName: string, more: object = {}): Promise<string> {
  at.write("p/main.py", code);
  const cwd = join(at.home, "p");
  return (await packageFunction({ file: "main.py", functionName, cwd, env: at.env, ...more })).packagePath;
}

const ran = async (at: Home, name: string, more: object = {}): Promise<Ran> =>
  run([python, await packed(at, name, more)], { cwd: "/", env: { ...bare, TMPDIR: at.dir } });

const left = (at: Home) => readdirSync(at.dir).filter((name) => name.startsWith("ef-package-"));

describe.skipIf(python === "")("a function in a package", () => {
  test("what it prints, and what programs do that it starts, is on stderr: stdout is the value", async () => {
    using at = new Home();
    const { stdout, stderr, code } = await ran(at, "prints", { args: [20_000] });
    expect([stdout, code]).toEqual(["20000\n", 0]);
    expect(stderr.length).toBe(5 * 20_000 + 1 + "from a program\n".length);
    expect(left(at)).toEqual([]);
  });

  test("with --result its stdout stays its own", async () => {
    using at = new Home();
    const archive = await packed(at, "prints", { args: [1] });
    const result = join(at.home, "r");
    const { stdout, stderr } = await run([python, archive, "--result", result], { cwd: "/", env: bare });
    expect([stdout, stderr]).toEqual(["line\n\nfrom a program\n", ""]);
    expect(readFileSync(result, "utf8")).toBe('{"ok": true, "value": 1}\n');
  });

  test("processes that it forks end as they would: only the function's own writes a result", async () => {
    using at = new Home();
    const { stdout, stderr, code } = await ran(at, "forks");
    expect([stdout, code]).toEqual(["[7, 0, 1]\n", 0]);
    expect(stderr).toContain("ValueError: the child's");
  });

  test.each([0, 1, 5])("os._exit(%d): said, and no success", async (n) => {
    using at = new Home();
    const { stdout, stderr, code } = await ran(at, "goes", { args: [n] });
    expect(stderr).toBe(
      `error: the process ended with exit code ${n} before the function returned: there is no result\n`,
    );
    expect([stdout, code]).toEqual(["", n || 1]);
    expect(left(at)).toEqual([]);
  });

  test.each([
    ["dies", 137, "the process was ended by signal 9"],
    ["interrupts", 130, "KeyboardInterrupt"],
    ["memory", 1, 'File "files/main.py", line'],
    ["unsaid", 1, "main.unsaid.<locals>.Unsaid"],
    ["library", 1, "json.decoder.JSONDecodeError"],
  ])("%s: exit %d", async (name, exit, words) => {
    using at = new Home();
    const { stdout, stderr, code } = await ran(at, name);
    expect(stderr).toContain(words);
    expect(stderr).not.toContain("run.py");
    expect([stdout, code]).toEqual(["", exit]);
  });

  test("recursion without an end, in the code and in the result", async () => {
    using at = new Home();
    const { stderr, code } = await ran(at, "recurses");
    expect(stderr).toMatch(/File "files\/main\.py"[\s\S]*more times[\s\S]*RecursionError/);
    expect(code).toBe(1);
    expect((await ran(at, "deep", { args: [100_000] })).stderr).toContain(
      "ResultError: the result is too deep for JSON",
    );
    expect((await ran(at, "deep", { args: [50] })).stdout).toBe(`${"[".repeat(51)}${"]".repeat(51)}\n`);
  });

  test("files that it makes have the modes that they would have anywhere", async () => {
    using at = new Home();
    const archive = await packed(at, "mode");
    const script = `umask 022; "$1" "$2"`;
    expect((await run(["sh", "-c", script, "sh", python, archive], { cwd: "/", env: bare })).stdout).toBe('"644"\n');
  });

  test("threads and what is registered for the end run to their ends", async () => {
    using at = new Home();
    const { stdout, stderr } = await ran(at, "late");
    expect(stdout).toBe("1\n");
    expect(stderr).toBe("a thread\nat the end\n");
  });

  test("odd paths in sys.path, no stdout, a large result", async () => {
    using at = new Home();
    expect((await ran(at, "paths")).stdout).toBe("1\n");
    expect((await ran(at, "no_stdout")).stdout).toBe("2\n");
    const { rows } = JSON.parse((await ran(at, "many", { args: [50_000] })).stdout);
    expect([rows.length, rows[49_999]]).toEqual([50_000, [49_999, "49999", 24_999.5, null, true]]);
  });

  test("variables are there from the start of its Python", async () => {
    using at = new Home();
    const environment = { NAMED: "it's\n1", PYTHONHASHSEED: "0" };
    expect(JSON.parse((await ran(at, "variables", { environment })).stdout)).toEqual(["it's\n1", null, 0]);
  });

  test("SIGTERM ends it, and its directory is gone", async () => {
    using at = new Home();
    const began = join(at.dir, "began");
    const archive = await packed(at, "waits", { args: [began] });
    const { code } = await run([python, archive], {
      ...{ cwd: "/", env: { ...bare, TMPDIR: at.dir } },
      onStart: (child) => void until("the function", () => existsSync(began)).then(() => child.kill("SIGTERM")),
    });
    expect(code).toBe(143);
    expect(left(at)).toEqual([]);
  });

  test("a result that could not be written is known before the function runs; one of an earlier run is gone", async () => {
    using at = new Home();
    const archive = await packed(at, "goes", { args: [0] });
    const to = (path: string) => run([python, archive, "--result", path], { cwd: "/", env: bare });
    const nowhere = join(at.home, "none/r.json");
    const why = `error: cannot write ${nowhere}: there is no such directory\n`;
    expect(await to(nowhere)).toEqual({ stdout: "", stderr: why, code: 2 });
    expect((await to(at.home)).stderr).toContain("it is a directory");
    const result = join(at.home, "r.json");
    for (const name of ["r.json", "r.pickle"]) writeFileSync(join(at.home, name), "of before");
    expect((await to(result)).code).toBe(1);
    expect([existsSync(result), existsSync(join(at.home, "r.pickle"))]).toEqual([false, false]);
  });

  test("--into: an empty directory or a new one, 0700; --unpack-only runs nothing", async () => {
    using at = new Home();
    const archive = await packed(at, "mode");
    const into = join(at.dir, "in to");
    const unpack = (...more: string[]) => run([python, archive, "--into", into, ...more], { cwd: "/", env: bare });
    expect(await unpack("--unpack-only")).toEqual({ stdout: "", stderr: "", code: 0 });
    expect(readdirSync(into).sort()).toEqual([".ef", "__main__.py", "files", "metadata.json"]);
    expect([statSync(into).mode & 0o777, statSync(join(into, "files/main.py")).mode & 0o777]).toEqual([0o700, 0o600]);
    expect(await unpack()).toMatchObject({
      code: 2,
      stderr: `error: cannot unpack into ${into}: it is not an empty directory\n`,
    });
    rmSync(into, { recursive: true });
    mkdirSync(into);
    expect((await unpack()).stdout).toMatch(/^"6/);
  });
});

/** As pyenv has them, and whatever else is on PATH. */
const others = [
  ...new Bun.Glob(".pyenv/versions/*/bin/python").scanSync({
    cwd: homedir(),
    absolute: true,
    dot: true,
    followSymlinks: true,
  }),
  ...["python2", "python3.6", "python3.8", "python3.13"].flatMap((name) => Bun.which(name) ?? []),
].filter((path) => Bun.spawnSync([path, "-c", ""]).exitCode === 0);

test.skipIf(others.length === 0)("other versions of Python that are here run it, or say which they need", async () => {
  using at = new Home();
  const archive = await packed(at, "many", { args: [2] });
  for (const each of others) {
    const version = Bun.spawnSync([each, "-c", "import sys; print('%d %d' % sys.version_info[:2])"]).stdout.toString();
    const [major, minor] = version.split(" ").map(Number) as [number, number];
    const { stdout, stderr, code } = await run([each, archive], { cwd: "/", env: { ...process.env } });
    if (major > 2 && minor >= 6)
      expect([stdout, code]).toEqual(['{"rows": [[0, "0", 0.0, null, true], [1, "1", 0.5, null, true]]}\n', 0]);
    else
      expect([stderr, code]).toEqual([
        `error: this package needs Python 3.6 or newer, and this is ${major}.${minor}\n`,
        2,
      ]);
  }
});

test.skipIf(python === "").each([
  ["__main__.py", "run", "a file of the name of a package's start"],
  ["stat.py", "run", "a file of a module that Python has loaded before"],
  ["code.py", "run", "a module of Python's of that name"],
])("the function's own file is %s", async (file, functionName, what) => {
  using at = new Home();
  at.write(`p/${file}`, `def run(): return ${JSON.stringify(what)}\n`);
  const { packagePath } = await packageFunction({ file, functionName, cwd: join(at.home, "p"), env: at.env });
  const { stdout, stderr } = await run([python, packagePath], { cwd: "/", env: bare });
  expect([stdout, stderr]).toEqual([`${JSON.stringify(what)}\n`, ""]);
});

test.skipIf(python === "")(
  "a pickle is made while the function's modules are there, also one named like Python's",
  async () => {
    using at = new Home();
    at.write(
      "p/main.py",
      "import pickle, copyreg\nfrom json import Own\ndef run():\n    return [Own(), {1}, pickle.NAME]\n",
    );
    at.write("p/json.py", "class Own: pass\n");
    at.write("p/pickle.py", "NAME = 'own pickle'\n");
    const where = { cwd: join(at.home, "p"), env: at.env };
    const { packagePath } = await packageFunction({ file: "main.py", functionName: "run", pickle: true, ...where });
    const result = join(at.home, "r.json");
    const { stderr, code } = await run([python, packagePath, "--result", result], { cwd: "/", env: bare });
    expect([stderr, code]).toEqual(["", 0]);
    expect(JSON.parse(readFileSync(result, "utf8"))).toEqual({ ok: true, pickle: "r.pickle", type: "list" });
    expect(statSync(join(at.home, "r.pickle")).mode & 0o777).toBe(0o600);
    expect(readFileSync(join(at.home, "r.pickle")).includes("Own")).toBe(true);
  },
);
