import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { basePython, readPyvenvCfg, startPython, useBasePython } from "../../lib/envs/interpreter.ts";
import { haveUv, makeEnv, systemPython } from "../envs.ts";
import { run } from "../helpers.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(realpathSync(tmpdir()), "ef interpreter "));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A directory with a pyvenv.cfg. */
function made(name: string, config: string): string {
  const path = join(dir, name);
  mkdirSync(join(path, "bin"), { recursive: true });
  writeFileSync(join(path, "pyvenv.cfg"), config);
  return path;
}

/** A program that says it is a Python of that version. */
function fakePython(name: string, version: string): string {
  const path = join(dir, "fakes", name);
  mkdirSync(dirname(path), { recursive: true });
  const answer = JSON.stringify({ executable: path, prefix: join(dir, "fakes"), version });
  writeFileSync(path, `#!/bin/sh\ncase "$*" in *json*) echo '${answer}' ;; *) echo ${version} ;; esac\n`);
  chmodSync(path, 0o755);
  return path;
}

describe("pyvenv.cfg", () => {
  test.each([
    ["venv", "home = /usr/bin\r\nversion = 3.11.2\r\nprompt = 'my env'\r\n", "3.11.2", "my env"],
    ["uv", "home = /usr/bin\nimplementation = CPython\nversion_info = 3.11.2\nprompt = my env\n", "3.11.2", "my env"],
    ["virtualenv", "HOME=/usr/bin\nversion_info = 3.11.2.final.0\nversion = 3.11.2\n", "3.11.2", undefined],
    ["uv with a minor version", "home = /usr/bin\nversion_info = 3.11\n", "3.11", undefined],
  ])("of %s", (name, text, version, prompt) => {
    const config = readPyvenvCfg(made(`cfg ${name}`, text));
    expect([config.home, config.version, config.prompt]).toEqual(["/usr/bin", version, prompt]);
  });

  test("without a version its library tells it", () => {
    const path = made("cfg library", "home = /usr/bin\n");
    mkdirSync(join(path, "lib/python3.9/site-packages"), { recursive: true });
    expect(readPyvenvCfg(path).version).toBe("3.9");
  });

  test("what is no environment is told", () => {
    expect(() => readPyvenvCfg(join(dir, "none"))).toThrow(
      `${dir}/none is no Python environment: it has no pyvenv.cfg`,
    );
    const path = made("cfg homeless", "version = 3.11.2\n");
    expect(() => readPyvenvCfg(path)).toThrow("its pyvenv.cfg names no base Python (home)");
  });
});

describe("base Python", () => {
  const config = (home: string) => `home = ${home}\nversion = 3.11.2\n`;

  test("links are followed to where they leave the environment", async () => {
    const python = fakePython("python3.11", "3.11.2");
    const path = made("linked", config(dirname(python)));
    symlinkSync(python, join(path, "bin/python3.11"));
    symlinkSync("python3.11", join(path, "bin/python3"));
    symlinkSync("python3", join(path, "bin/python"));
    expect(await basePython(path)).toEqual({ status: "present", path: python, version: "3.11.2" });
  });

  test("one that is not here", async () => {
    const path = made("missing", config("/nowhere/bin"));
    symlinkSync("/nowhere/bin/python3.11", join(path, "bin/python"));
    const missing = { status: "missing" as const, path: "/nowhere/bin/python3.11", version: "3.11.2" };
    expect(await basePython(path)).toEqual(missing);
    unlinkSync(join(path, "bin/python"));
    expect(await basePython(path)).toEqual({ ...missing, path: "/nowhere/bin" });
    symlinkSync("python", join(path, "bin/python"));
    expect(await basePython(path)).toEqual({ ...missing, path: "/nowhere/bin" });
  });

  test("a copied program needs the library of its home", async () => {
    const path = made("inside", config("/usr/bin"));
    copyFileSync("/bin/sh", join(path, "bin/python"));
    expect(await basePython(path)).toEqual({ status: "inside", path: "/usr/bin", version: "3.11.2" });
    writeFileSync(join(path, "pyvenv.cfg"), config("/nowhere/bin"));
    expect(await basePython(path)).toMatchObject({ status: "missing", path: "/nowhere/bin" });
  });

  test("a program whose name does not tell its version is asked", async () => {
    const python = fakePython("python3", "3.12.1");
    const path = made("other", config(dirname(python)));
    symlinkSync(python, join(path, "bin/python"));
    expect(await basePython(path)).toEqual({
      status: "other-version",
      path: python,
      version: "3.11.2",
      found: "3.12.1",
    });
    fakePython("python3", "3.11.9");
    expect(await basePython(path)).toEqual({ status: "present", path: python, version: "3.11.2" });
  });

  test("of another minor version is refused", async () => {
    const path = made("refused", config("/nowhere/bin"));
    const python = fakePython("python3.12", "3.12.1");
    const wrong = `Cannot use ${python} for ${path}: it is Python 3.12.1, and the environment needs 3.11`;
    await expect(useBasePython(path, python)).rejects.toMatchObject({ code: "USAGE", message: wrong });
    const none = `Cannot use /nowhere/python for ${path}: it does not start as a Python`;
    await expect(useBasePython(path, "/nowhere/python")).rejects.toThrow(none);
  });
});

describe.skipIf(!haveUv || systemPython === null)("real environments [needs uv]", () => {
  test("whose base is gone are told so, and take another one", async () => {
    const tools: [string, (path: string) => Promise<unknown>][] = [
      ["uv", (path) => makeEnv(path, [])],
      [
        "venv",
        (path) => run([systemPython ?? "", "-m", "venv", "--without-pip", path], { env: { PATH: "/usr/bin:/bin" } }),
      ],
    ];
    for (const [tool, make] of tools) {
      const path = join(dir, `real ${tool}`);
      await make(path);
      const { version } = readPyvenvCfg(path);
      const { version: started, prefix } = await startPython(path);
      expect([started, prefix]).toEqual([version, path]);
      const [library = ""] = readdirSync(join(path, "lib"));
      writeFileSync(join(path, "lib", library, "site-packages/loud.pth"), "import sys; print('hello')\n");
      expect(await startPython(path)).toEqual({ version, prefix: path });
      expect(await basePython(path)).toMatchObject({ status: "present", version });

      const config = readFileSync(join(path, "pyvenv.cfg"), "utf8");
      writeFileSync(join(path, "pyvenv.cfg"), config.replaceAll("/usr/bin", "/nowhere/bin"));
      const link = ["python", "python3"].find((name) => readlinkSync(join(path, "bin", name)).startsWith("/")) ?? "";
      unlinkSync(join(path, "bin", link));
      symlinkSync("/nowhere/bin/python3.11", join(path, "bin", link));
      expect(await basePython(path)).toMatchObject({ status: "missing", path: "/nowhere/bin/python3.11" });
      const error = await startPython(path).catch((thrown) => thrown);
      expect(error).toMatchObject({ code: "NOT_RUNNABLE", path: join(path, "bin/python") });
      expect(error.hint).toStartWith(
        `its base, Python ${version}, is not on this node (/nowhere/bin/python3.11): give one`,
      );

      const changes = await useBasePython(path, systemPython ?? "");
      expect(changes).toContainEqual({ path: "pyvenv.cfg", what: "pyvenv.cfg" });
      expect(await startPython(path)).toEqual({ version, prefix: path });
      expect(readPyvenvCfg(path).home).toBe(dirname(realpathSync(systemPython ?? "")));
      expect(basename(readlinkSync(join(path, "bin/python")))).toBe(`python${/^\d+\.\d+/.exec(version)?.[0]}`);
      expect(readFileSync(join(path, "pyvenv.cfg"), "utf8")).not.toMatch(/^(?!command).*nowhere/m);
      // An environment's own Python stands for its base.
      for (const same of [systemPython ?? "", join(path, "bin/python")])
        expect(await useBasePython(path, same)).toEqual([]);
    }
  }, 30_000);

  test("one that starts and fails says why", async () => {
    const path = made("failing", "home = /usr/bin\nversion = 3.11.2\n");
    writeFileSync(join(path, "bin/python"), "#!/bin/sh\necho 'no library' >&2\nexit 3\n");
    chmodSync(join(path, "bin/python"), 0o755);
    const error = await startPython(path).catch((thrown) => thrown);
    expect(error.message).toBe(`Cannot start the Python of ${path}: exit code 3\n    no library`);
    expect(error.code).toBe("NOT_RUNNABLE");
  });
});
