import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { bytesOf, display } from "../../lib/base/bytes.ts";
import { startPython } from "../../lib/envs/interpreter.ts";
import { oldPlaces, relocateEnv } from "../../lib/envs/relocating.ts";
import { haveUv, makeEnv, pypiBin, systemPython, uvEnv } from "../envs.ts";
import { have, run } from "../helpers.ts";

const env = { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: "/nonexistent", LANG: "C.UTF-8", ...uvEnv };
const uv = join(pypiBin, "uv");

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-relocating-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Run a program that has to succeed. */
async function ok(argv: readonly string[], cwd = "/"): Promise<string> {
  const { code, stdout, stderr } = await run(argv, { env, cwd });
  expect({ argv, code, stderr: code === 0 ? "" : stderr }).toEqual({ argv, code: 0, stderr: "" });
  return stdout;
}

/** Write files below a directory. */
function files(root: string, contents: Record<string, string>): string {
  for (const [path, text] of Object.entries(contents)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

/** Files below `root` that hold a text, without what Python compiled. */
async function mentions(root: string, text: string): Promise<string[]> {
  const { stdout } = await run(["grep", "-rlaF", "--exclude=*.pyc", "-e", text, "."], { env, cwd: root });
  return stdout.split("\n").filter(Boolean).sort();
}

const packages = (root: string) => {
  const [library = ""] = readdirSync(join(root, "lib"));
  return join(root, "lib", library, "site-packages");
};

/** Whatever a user does with an environment. */
async function expectWorks(root: string, modules: readonly string[]): Promise<void> {
  const python = join(root, "bin/python");
  expect((await startPython(root)).prefix).toBe(root);
  await ok([python, "-c", modules.map((name) => `import ${name}`).join("\n")]);
  expect(await ok([join(root, "bin/pip"), "--version"])).toContain(packages(root));
  expect(await ok([uv, "pip", "list", "--python", python])).toContain("pip");
  for (const name of readdirSync(join(root, "bin"))) {
    const path = join(root, "bin", name);
    if (/^(?:python|activate|deactivate|Activate|pydoc|pip)/.test(name) || (statSync(path).mode & 0o111) === 0)
      continue;
    if (name !== "blackd") await ok([path, "--help"]); // blackd wants aiohttp
  }
  const sources = { bash: "activate", zsh: "activate", fish: "activate.fish", tcsh: "activate.csh" };
  for (const [shell, file] of Object.entries(sources).filter(([name]) => have(name))) {
    const script = `source ./${file}; printenv VIRTUAL_ENV; python -c 'import sys; print(sys.prefix)'`;
    const argv = [shell, shell === "fish" ? "--no-config" : shell === "bash" ? "--norc" : "-f", "-c", script];
    expect(await ok(argv, join(root, "bin"))).toBe(`${root}\n${root}\n`);
  }
}

/** What RECORD says of the programs in `bin` is true: pip has a look at it. */
async function expectRecords(root: string): Promise<void> {
  const code = `import base64, csv, hashlib, pathlib, sys
site = pathlib.Path(sys.argv[1]); bad = []; seen = 0
for record in site.glob('*.dist-info/RECORD'):
    for name, sum, size in csv.reader(record.open(newline='')):
        if not sum: continue
        data = (site / name).read_bytes(); seen += name.startswith('..')
        now = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()
        if (sum, int(size)) != ('sha256=' + now, len(data)): bad.append(name)
assert seen and not bad, (seen, bad)`;
  await ok([join(root, "bin/python"), "-c", code, packages(root)]);
}

const hostile = 'it\'s "my" $HOME `id` \\x%41 雪';

describe.skipIf(!haveUv)("real environments [needs uv]", () => {
  test("of uv, with editables, to a hostile name and back", async () => {
    const old = join(dir, "uv old", "env");
    await makeEnv(old, ["pip", "six", "black", "ruff", "ipython"]);
    const project = (root: string, name: string, at: string) =>
      files(root, {
        "pyproject.toml": `[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[project]\nname = "${name}"\nversion = "1"\n[project.scripts]\n${name}-run = "${name}:main"\n`,
        [`${at}${name}/__init__.py`]: "def main(): pass\n",
      });
    const inside = [project(join(old, "src/one"), "one", "src/"), project(join(old, "src/two"), "two", "")];
    const outside = project(join(dir, "outside"), "three", "");
    const editables = [...inside, outside].flatMap((path) => ["-e", path]);
    await ok([uv, "pip", "install", "--quiet", "--python", old, ...editables]);
    await ok([join(old, "bin/python"), "-c", "import one, two, three"]);
    expect(oldPlaces(old)).toEqual([bytesOf(old)]);

    const to = join(dir, hostile);
    renameSync(old, to);
    const dry = await relocateEnv(to, { dryRun: true });
    expect(await mentions(to, old)).not.toEqual([]);
    const report = await relocateEnv(to);
    expect(report).toEqual(dry);
    expect(report).toMatchObject({ from: [bytesOf(old)], to: bytesOf(to) });
    const why = `editable three points to ${outside}, outside of the environment`;
    expect(report.left.map((left) => left.why)).toEqual([why]);
    expect(await mentions(to, old)).toEqual([]);
    await expectWorks(to, ["one", "two", "three", "black", "IPython"]);
    await expectRecords(to);
    const where = "import one, two; print(one.__file__, two.__file__, sep='\\n')";
    const found = (await ok([join(to, "bin/python"), "-c", where])).split("\n");
    for (const path of found.slice(0, 2)) expect(path).toStartWith(`${to}/src/`);
    expect((await relocateEnv(to)).changed).toEqual([]);

    const back = join(dir, "uv-back");
    renameSync(to, back);
    renameSync(outside, `${outside}.gone`);
    const second = await relocateEnv(back);
    renameSync(`${outside}.gone`, outside);
    expect(second.left.map((left) => left.why)).toEqual([`editable three points to ${outside}, which is not here`]);
    expect(await mentions(back, join(dir, "it"))).toEqual([]);
    expect(readFileSync(join(back, "bin/black"), "latin1")).toStartWith(`#!${back}/bin/python\n`);
    await expectWorks(back, ["one", "two", "black"]);
    await expectRecords(back);
  }, 60_000);

  test.each([
    ["venv", (path: string) => [systemPython ?? "", "-m", "venv", path]],
    ["virtualenv", (path: string) => [join(pypiBin, "virtualenv"), "--quiet", "--python", systemPython ?? "", path]],
  ])(
    "of %s, to a path too long for a #! line",
    async (tool, make) => {
      const old = join(dir, tool);
      await ok(make(old));
      const to = join(dir, `${tool} ${"long".repeat(40)}`);
      renameSync(old, to);
      const report = await relocateEnv(to);
      expect(report.left).toEqual([]);
      expect(await mentions(to, `${old}/`)).toEqual([]);
      expect(report.changed).toContainEqual({ path: "bin/pip", what: "launcher" });
      expect(report.changed).toContainEqual({ path: "bin/activate", what: "VIRTUAL_ENV" });
      expect(report.changed).toContainEqual({ path: "pyvenv.cfg", what: "pyvenv.cfg" });
      await expectWorks(to, ["pip"]);
      if (tool === "venv") await expectRecords(to);
    },
    30_000,
  );

  test("only files that mention it are read, where those are known", async () => {
    const old = await makeEnv(join(dir, "known"), ["six", "pip"]);
    files(old, { "share/notes.txt": `see ${old}\n`, "share/other.txt": `see ${old}\n` });
    const to = join(dir, "known-moved");
    renameSync(old, to);
    await relocateEnv(to, { from: [bytesOf(old)], mentions: ["share/notes.txt"] });
    expect(readFileSync(join(to, "share/notes.txt"), "utf8")).toBe(`see ${to}\n`);
    expect(readFileSync(join(to, "share/other.txt"), "utf8")).toBe(`see ${old}\n`);
    await expectWorks(to, ["six"]);
  }, 30_000);
});

/** A small environment without any tool. */
function small(name: string, more: Record<string, string> = {}): string {
  const root = files(join(dir, name), {
    "pyvenv.cfg": "home = /usr/bin\nversion = 3.11.2\n",
    "bin/activate": "VIRTUAL_ENV='/old/env'\nexport VIRTUAL_ENV\n",
    "bin/tool": "#!/old/env/bin/python\nimport sys\n",
    "lib/python3.11/site-packages/x.py": "x = 1\n",
    ...more,
  });
  return root;
}

describe("files", () => {
  test("keep mode and time, and do not change what they are linked with", async () => {
    const root = small("linked");
    const tool = join(root, "bin/tool");
    const cache = join(dir, "cache-tool");
    linkSync(tool, cache);
    await ok(["chmod", "2750", tool]);
    utimesSync(tool, 1_600_000_000, 1_600_000_000.123456);
    const before = statSync(tool, { bigint: true });
    await relocateEnv(root);
    const after = statSync(tool, { bigint: true });
    expect([after.mode, after.mtimeNs, after.nlink]).toEqual([before.mode, before.mtimeNs, 1n]);
    expect(readFileSync(cache, "utf8")).toStartWith("#!/old/env/");
    expect(readFileSync(tool, "utf8")).toStartWith(`#!${root}/bin/python\n`);
    expect(readdirSync(join(root, "bin")).sort()).toEqual(["activate", "tool"]);
  });

  test("links that point inside lead to the new place, and are not followed out of it", async () => {
    const root = small("links");
    const outside = files(join(dir, "links-outside"), { "x.txt": "/old/env\n" });
    symlinkSync("/old/env/lib/python3.11", join(root, "python"));
    symlinkSync("/old/env2", join(root, "other"));
    symlinkSync(outside, join(root, "out"));
    symlinkSync("/nowhere/bin/python3.11", join(root, "bin/python"));
    const report = await relocateEnv(root, { mentions: ["out/x.txt"] });
    expect(readlinkSync(join(root, "python"))).toBe(`${root}/lib/python3.11`);
    expect(readlinkSync(join(root, "other"))).toBe("/old/env2");
    expect(readFileSync(join(outside, "x.txt"), "utf8")).toBe("/old/env\n");
    expect(report.changed).toContainEqual({ path: "python", what: "link" });
    expect(report.left).toEqual([
      { path: "bin/python", why: "it leads to /nowhere/bin/python3.11, which is not here" },
    ]);
  });

  test("nothing is changed behind a directory that is a link out of it", async () => {
    const root = small("leaving");
    const site = "lib/python3.11/site-packages";
    const outside = files(join(dir, "leaving-outside"), {
      "a.pth": "/old/env/src\n",
      "__pycache__/x.cpython-311.pyc": "",
      "a-1.dist-info/RECORD": "../../../bin/tool,sha256=0,0\n/old/env,,\n",
      "bin/tool": "#!/old/env/bin/python\n",
    });
    for (const [name, target] of [
      [site, outside],
      ["bin", join(outside, "bin")],
    ] as const) {
      rmSync(join(root, name), { recursive: true });
      symlinkSync(target, join(root, name));
    }
    symlinkSync("/old/env/bin/python3", join(outside, "bin/python"));
    for (const options of [{}, { mentions: [`${site}/a.pth`, "bin/tool"] }]) {
      const { changed } = await relocateEnv(root, { from: ["/old/env"], ...options });
      expect(changed).toEqual([]);
      expect(await mentions(outside, "/old/env")).toEqual(["./a-1.dist-info/RECORD", "./a.pth", "./bin/tool"]);
      expect(readlinkSync(join(outside, "bin/python"))).toBe("/old/env/bin/python3");
    }
  });

  test("what Python compiled is counted; that of a source which changes is removed", async () => {
    const site = "lib/python3.11/site-packages";
    const root = small("compiled", {
      [`${site}/y.py`]: "place = '/old/env'\n",
      [`${site}/__pycache__/x.cpython-311.pyc`]: "\0/old/env/x.py",
      [`${site}/__pycache__/y.cpython-311.pyc`]: "\0/old/env/y.py",
    });
    const { compiled, changed } = await relocateEnv(root);
    expect(compiled).toBe(1);
    expect(changed).toContainEqual({ path: `${site}/__pycache__/y.cpython-311.pyc`, what: "compiled, removed" });
    expect(readdirSync(join(root, site, "__pycache__"))).toEqual(["x.cpython-311.pyc"]);
  });

  test("a large file is searched in pieces, and where two meet", async () => {
    const root = small("large");
    const at = (1 << 20) - 4;
    writeFileSync(join(root, "large.bin"), `${"\0".repeat(at)}/old/env/x${"\0".repeat(100)}`);
    writeFileSync(join(root, "large.txt"), `${"-\n".repeat(at / 2)}/old/env/x\n`);
    const { left } = await relocateEnv(root);
    expect(left).toEqual([{ path: "large.bin", why: "a binary file names /old/env" }]);
    expect(readFileSync(join(root, "large.txt"), "utf8").slice(at)).toBe(`${root}/x\n`);
  });

  test("it can be prepared for another place than where it is", async () => {
    const root = small("prepared");
    const report = await relocateEnv(root, { to: "/final/place" });
    expect(report.to).toBe("/final/place");
    expect(readFileSync(join(root, "bin/tool"), "utf8")).toStartWith("#!/final/place/bin/python\n");
  });

  test("a place whose file cannot be replaced is named, with what to do", async () => {
    const root = small("stuck");
    rmSync(join(root, "bin/tool"));
    const stuck = join(root, "a".repeat(60));
    symlinkSync(`/old/env/${"x".repeat(200)}`, stuck);
    const to = `/${"y/".repeat(2020)}z`; // with the rest longer than PATH_MAX: no link can say that
    const error = await relocateEnv(root, { to }).catch((thrown) => thrown);
    expect(error).toMatchObject({ code: "IO", path: stuck });
    expect(error.message).toBe(`Cannot change ${stuck}: the name is too long (ENAMETOOLONG)`);
    expect(readFileSync(join(root, "bin/activate"), "utf8")).toStartWith("VIRTUAL_ENV='/old/env'");
    expect(readdirSync(root).sort()).toEqual(["a".repeat(60), "bin", "lib", "pyvenv.cfg"]);
  });

  test("an abort ends it before anything is written", async () => {
    const root = small("aborted");
    const abort = new AbortController();
    abort.abort(new Error("enough"));
    await expect(relocateEnv(root, { signal: abort.signal })).rejects.toThrow("enough");
    expect(readFileSync(join(root, "bin/tool"), "utf8")).toStartWith("#!/old/env/bin/python");
  });
});

describe("old places", () => {
  test("are told by scripts that disagree, and never the base Python", () => {
    const root = small("places", {
      "pyvenv.cfg":
        "home = /opt/python/bin\nexecutable = /opt/python/bin/python3.11\ncommand = /opt/python/bin/python3 -m venv /made/env\n",
      "bin/activate": "VIRTUAL_ENV='/first/it'\"'\"'s'\n",
      "bin/activate.csh": 'setenv VIRTUAL_ENV "/second/$HOME"\n',
      "bin/activate.fish": "set -gx VIRTUAL_ENV '/third/it\\'s'\n",
      "bin/activate.nu": "let virtual_env = r#'/fourth/it's'#\n",
      "bin/tool": "#!/fifth/env/bin/python3.11 -I\n",
      "bin/b": `#!/bin/sh\n'''exec' "/sixth env/bin/python" "$0" "$@"\n' '''\n`,
      "bin/c": "#!/usr/bin/python3\n",
      "bin/d": "#!/opt/python/bin/python3\n",
      "bin/e": "#!/usr/bin/env python\n",
    });
    symlinkSync("/seventh/bin/python", join(root, "bin/python3"));
    symlinkSync("/opt/python/bin/python3.11", join(root, "bin/python"));
    expect(oldPlaces(root).map(display).sort()).toEqual([
      "/fifth/env",
      "/first/it's",
      "/fourth/it's",
      "/made/env",
      "/second/$HOME",
      "/seventh",
      "/sixth env",
      "/third/it's",
    ]);
  });

  test("the bracket behind a bare path, as CPython 3.13.1 writes it, is no part of it", async () => {
    const root = small("bracket", {
      "bin/activate": "VIRTUAL_ENV=$(cygpath /old/env)\nVIRTUAL_ENV=/old/env\n",
    });
    expect(oldPlaces(root)).toEqual(["/old/env"]);
    await relocateEnv(root);
    expect(readFileSync(join(root, "bin/activate"), "utf8")).toBe(
      `VIRTUAL_ENV=$(cygpath ${root})\nVIRTUAL_ENV=${root}\n`,
    );
  });

  test("a directory that is no environment has none", () => {
    expect(oldPlaces(join(dir, "nothing here"))).toEqual([]);
  });

  test("all of them are replaced", async () => {
    const root = small("several", { "bin/b": "#!/older/env/bin/python\n", "share/x.txt": "/old/env /older/env\n" });
    const { left, from } = await relocateEnv(root);
    expect({ left, from: [...from].sort() }).toEqual({ left: [], from: ["/old/env", "/older/env"] });
    expect(readFileSync(join(root, "share/x.txt"), "utf8")).toBe(`${root} ${root}\n`);
  });
});
