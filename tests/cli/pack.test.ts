/** `ef pack`, as it is typed. */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { Home, have, run } from "../helpers.ts";

const homes: Home[] = [];
afterEach(() => {
  for (const home of homes.splice(0)) home[Symbol.dispose]();
});

const files = {
  "main.py":
    "from lib.tool import double\ndef run(*args, **kwargs):\n    print('at work')\n    return [double(args), kwargs]\ndef other(): pass\ndef _own(): pass\n",
  "lib/__init__.py": "",
  "lib/tool.py": "def double(x):\n    return [*x, *x]\ndef late(name):\n    return open(name)\n",
};

function project(more: Record<string, string> = {}): Home {
  const at = new Home({ ...files, ...more });
  homes.push(at);
  return at;
}

const pythonHere = have("python3");

describe("ef pack FILE.py:FUNCTION", () => {
  test.skipIf(!pythonHere)("prints the path of an archive that Python runs; all else is for people", async () => {
    const at = project();
    const { stdout, stderr, code } = await at.ef(["pack", "main.py:run", "--args", '[1, "two"]']);
    expect(stdout).toMatch(/^\/.*\/\.cache\/ef\/packages\/run-[0-9a-f]{16}\.zip\n$/);
    expect(stderr).toMatch(
      /^warning: lib\/tool\.py:4: only running it would tell which file is read here.*\nrun: 3 files of code \(.*\)\n$/,
    );
    expect(code).toBe(0);
    const again = await at.sh("bash", `python3 "$(ef pack main.py:run --args '[1, "two"]' 2>/dev/null)"`);
    expect([again.stdout, again.stderr]).toEqual(['[[1, "two", 1, "two"], {}]\n', "at work\n"]);
  });

  test.skipIf(!pythonHere).each([
    ["--args '[12345678901234567890123, 1.0, 1e2, -0.0]'", "[12345678901234567890123, 1.0, 100.0, -0.0]", "{}"],
    [`--args '{"a": 9007199254740993}'`, "[]", '{"a": 9007199254740993}'],
    [`--args '[null, true]' --kwargs '{"ü": ["\\u00fc \\ud800"]}'`, "[null, true]", '{"\\u00fc": ["\\u00fc \\ud800"]}'],
    [`--args '["{\\"a\\":1,", {"b": {"a": 1}, "a": 2}]'`, '["{\\"a\\":1,", {"b": {"a": 1}, "a": 2}]', "{}"],
  ])("the arguments %s arrive digit for digit", async (flags, args, kwargs) => {
    const at = project({ "echo.py": "def run(*args, **kwargs): return [list(args), kwargs]\n" });
    const { stdout, stderr } = await at.sh("bash", `python3 "$(ef pack echo.py:run ${flags} 2>/dev/null)"`);
    expect([stdout, stderr]).toEqual([`[${args}, ${kwargs}]\n`, ""]);
  });

  test.each([
    [["--args", "[NaN]"], "--args: not JSON"],
    [["--args", "'x'"], "--args: not JSON"],
    [["--args", "3"], "for one argument: --args '[3]'"],
    [["--args", '{"a": [{"x": 1, "x": 2}]}'], 'the key "x" stands in one object twice'],
    [["--args", '{"a": 1, "\\u0061": 2}'], 'the key "a" stands in one object twice'],
    [["--args", '{"a": 1}', "--kwargs", '{"a": 2}'], "a is in --args, too"],
    [["--kwargs", "[]"], "--kwargs: expected a JSON object"],
    [["--env", "EF_NOT_SET"], "EF_NOT_SET: it is not set"],
    [["--env", "a b=1"], "not a name of a variable"],
    [["--data", "none"], "none: no such file"],
    [["-o", "main.py"], "it is there, and no package"],
    [["--clean"], "--clean stands alone"],
    [["--older-than", "3d"], "--older-than is for --clean"],
  ])("%j is refused, and nothing is written", async (flags, why) => {
    const at = project();
    const { stdout, stderr, code } = await at.ef(["pack", "main.py:run", ...flags]);
    expect(stderr).toContain(why);
    expect([stdout, code]).toEqual(["", 2]);
    expect(existsSync(join(at.home, ".cache"))).toBe(false);
    expect(readFileSync(join(at.home, "main.py"), "utf8")).toBe(files["main.py"]);
  });

  test("a file without a function: which there are; a name with a colon", async () => {
    const at = project({ "odd: name.py": "def f(): return 1\n", "none.py": "x = 1\n" });
    const bare = await at.ef(["pack", "main.py"]);
    expect(bare.stderr).toBe(
      "error: Cannot pack main.py without the name of a function\n  write: main.py:FUNCTION; there are: run, other\n",
    );
    expect([bare.stdout, bare.code]).toEqual(["", 2]);
    expect((await at.ef(["pack", "none.py"])).stderr).toContain("it defines none at its top");
    expect((await at.ef(["pack", "odd: name.py"])).stderr).toContain("there are: f");
    expect((await at.ef(["pack", "odd: name.py:f"])).code).toBe(0);
    expect((await at.ef(["pack", "nowhere.py:f"])).stderr).toContain("there is no such file");
    expect((await at.ef(["pack", "x.zip"])).stderr).toContain("it is a package already");
  });

  test("--dry-run tells what would be in it and writes nothing; -o writes elsewhere, 0600", async () => {
    const at = project({ "data/a.csv": "1", "data/b.tmp": "2" });
    const flags = ["--data", "data", "--exclude", "*.tmp", "--env", "HOME", "--env", "A=b=c"];
    const dry = await at.ef(["pack", "main.py:run", "-n", ...flags]);
    expect(dry.code).toBe(0);
    expect(dry.stdout).toContain("files/data/a.csv");
    expect(dry.stdout).not.toContain("b.tmp");
    expect(dry.stderr).toContain("run: 3 files of code, 1 data file (");
    expect(existsSync(join(at.home, ".cache"))).toBe(false);
    const { stdout } = await at.ef(["pack", "main.py:run", "-o", "my package.zip", ...flags]);
    expect(stdout).toBe(`${join(at.home, "my package.zip")}\n`);
    expect(statSync(join(at.home, "my package.zip")).mode & 0o777).toBe(0o600);
    expect(dry.stdout).toContain(
      `id ${JSON.parse((await at.ef(["pack", "--inspect", "my package.zip", "--json"])).stdout).package_id}`,
    );
  });

  test("--json, and its arguments from --input-json", async () => {
    const at = project();
    const input = { target: "main.py:run", args: "[1]", env: ["A=1"], pickle: true };
    const { stdout, stderr, code } = await at.ef(["pack", "--json", "--input-json", "-"], {
      stdin: JSON.stringify(input),
    });
    expect([stderr, code]).toEqual(["", 0]);
    const told = JSON.parse(stdout);
    expect(told).toMatchObject({
      ...{ ok: true, command: "pack", function_name: "run", dry_run: false, errors: [] },
      metadata: { environment: { A: "1" }, arguments: { args: [1], kwargs: {} }, pickle: true, kind: "python" },
      warnings: [{ file: "files/lib/tool.py", lineno: 4 }],
    });
    expect(told.package_path).toEndWith(`/run-${told.package_id.slice(0, 16)}.zip`);
    expect(told.size_bytes).toBe(statSync(told.package_path).size);
    expect(told.created_at).toBeCloseTo(statSync(told.package_path).mtimeMs / 1000, 2);
    expect(told.files.map(({ path }: { path: string }) => path)).toEqual([
      ...["files/lib/__init__.py", "files/lib/tool.py", "files/main.py"],
    ]);
  });
});

describe("what is packed", () => {
  test("--inspect shows and checks it; what is none is refused", async () => {
    const at = project();
    const archive = (await at.ef(["pack", "main.py:run"])).stdout.trim();
    const { stdout, code } = await at.ef(["pack", "--inspect", archive]);
    expect(stdout).toMatch(
      /^run {2}files\/main\.py:2\nid [0-9a-f]{64}\n[\s\S]*files\/lib\/tool\.py\n.*files\/main\.py\n$/,
    );
    expect(code).toBe(0);
    writeFileSync(archive, readFileSync(archive).fill(65, 60, 70));
    const damaged = await at.ef(["pack", "--inspect", archive]);
    expect([damaged.stdout, damaged.code]).toEqual(["", 1]);
    expect(damaged.stderr).toContain(`Cannot use the package ${archive}`);
    const json = await at.ef(["pack", "--inspect", "main.py", "--json"]);
    expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, error: { code: "BAD_ARCHIVE" } });
  });

  test("a terminal gets no control characters of names", async () => {
    const at = project({ "d/new\nline\u001B[31m ü": "x", "o\u001Bdd.py": "def f(n): return open(n)\n" });
    const { stdout, stderr } = await at.ef(["pack", "o\u001Bdd.py:f", "--args", '["n"]', "--data", "d", "-n"]);
    expect(stdout).toContain("files/d/new\\nline\\u{1b}[31m ü\n");
    expect(stderr).toContain("warning: o\\u{1b}dd.py:1: ");
    expect(`${stdout}${stderr}`).not.toContain("\u001B");
  });

  test("--clean takes away old ones", async () => {
    const at = project();
    const archive = (await at.ef(["pack", "main.py:run"])).stdout.trim();
    expect((await at.ef(["pack", "--clean", "--older-than", "1h"])).stderr).toBe("");
    expect((await at.ef(["pack", "--clean", "--older-than", "soon"])).code).toBe(2);
    const dry = await at.ef(["pack", "--clean", "--older-than", "0s", "-n"]);
    expect([dry.stdout, dry.stderr]).toEqual(["", `would remove ${archive}\n`]);
    expect(existsSync(archive)).toBe(true);
    const { stdout } = await at.ef(["pack", "--clean", "--older-than", "0s", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, removed: [archive] });
    expect(existsSync(archive)).toBe(false);
  });
});

describe("ef pack FILE.ts", () => {
  const script = {
    "jobs/job.ts": `import { $ } from "zx";
import { EfError } from "ef";
import { shout } from "./lib/shout.ts";
import { readFileSync } from "node:fs";
const { stdout } = await $\`echo from zx\`;
console.log(shout(stdout.trim()), process.argv.slice(2), typeof EfError, readFileSync("in.csv", "utf8").trim());
process.exitCode = 3;`,
    "jobs/lib/shout.ts": "export const shout = (text: string): string => text.toUpperCase();",
    "in.csv": "1,2\n",
  };

  test("bundled, and run by ef run where its sources are not", async () => {
    const at = project(script);
    const packed = await at.ef(["pack", "jobs/job.ts", "--data", "in.csv", "--args", '["a b"]', "-o", "job.zip"]);
    expect([packed.stdout, packed.code]).toEqual([`${join(at.home, "job.zip")}\n`, 0]);
    expect(packed.stderr).toMatch(/^job: a script \(.*\)\n$/);
    const elsewhere = new Home();
    homes.push(elsewhere);
    const archive = join(elsewhere.home, basename("job.zip"));
    writeFileSync(archive, readFileSync(join(at.home, "job.zip")));
    const { stdout, stderr, code } = await elsewhere.ef(["run", archive]);
    expect([stderr, stdout]).toEqual(["", 'FROM ZX [ "a b" ] function 1,2\n']);
    expect(code).toBe(3);
    expect((await elsewhere.ef(["run", archive, "--", "x"])).stdout).toContain('"x"');
  });

  test("what Python alone has is refused; a mistake has its file and line", async () => {
    const at = project({ ...script, "bad.ts": "const a = 1;\nlet b = = 2;\n" });
    for (const flag of [["--kwargs", "{}"], ["--pickle"], ["--path", "."], ["--pins", "."]])
      expect((await at.ef(["pack", "jobs/job.ts", ...flag])).stderr).toContain(`${flag[0]} is not for a script`);
    expect((await at.ef(["pack", "jobs/job.ts", "--args", "[1]"])).stderr).toContain("a JSON list of texts");
    const { stdout, stderr, code } = await at.ef(["pack", "bad.ts"]);
    expect(stderr).toContain(`${join(at.home, "bad.ts")}:2:9: Unexpected =\n    let b = = 2;\n            ^`);
    expect([stdout, code]).toEqual(["", 2]);
  });

  test("the sources and the binary make the same bytes", async () => {
    const at = project(script);
    const { stdout } = await at.ef(["pack", "jobs/job.ts"]);
    const main = join(import.meta.dir, "../../cmd/main.ts");
    const env = { ...at.env, EF_PACKAGE_DIR: join(at.home, "other") };
    const other = await run([process.execPath, main, "pack", "job.ts"], { cwd: join(at.home, "jobs"), env });
    expect(other.code).toBe(0);
    expect(dirname(other.stdout.trim())).toBe(join(at.home, "other"));
    expect(readFileSync(other.stdout.trim()).equals(readFileSync(stdout.trim()))).toBe(true);
    for (const target of ["main.py:run"]) {
      const [one, two] = [
        await at.ef(["pack", target]),
        await run([process.execPath, main, "pack", target], { cwd: at.home, env }),
      ];
      expect(readFileSync(one.stdout.trim()).equals(readFileSync(two.stdout.trim()))).toBe(true);
    }
  });
});
