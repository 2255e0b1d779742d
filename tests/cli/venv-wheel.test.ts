/** ef venv wheel, with real uv and pip, from wheels on disk. */
import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { haveUv, wheels, withUv } from "../envs.ts";
import { Home, until } from "../helpers.ts";

/** A home with uv and a wheelhouse to be made; pip and uv have the wheels of the tests and no network. */
function prepared(): Home & { house: string } {
  const at = new Home();
  if (haveUv) withUv(at);
  const house = join(at.dir, "my wheels, all");
  at.configure({}, { ef: { wheelhouse: house } });
  Object.assign(at.env, { PIP_FIND_LINKS: wheels, PIP_NO_INDEX: "1" });
  return Object.assign(at, { house });
}

const wheel = async (at: Home, args: readonly string[]) => {
  const ran = await at.ef(["venv", "wheel", ...args, "--json"]);
  return { ...ran, json: JSON.parse(ran.stdout) };
};
const sizeOf = (name: string) => statSync(join(wheels, name)).size;

describe.skipIf(!haveUv)("with uv [needs uv]", () => {
  test("fills the wheelhouse with packages and what they need; what is there is kept", async () => {
    using at = prepared();
    const first = await wheel(at, ["black"]);
    expect(first.stderr).toBe("");
    expect(first.json).toMatchObject({
      ...{ ok: true, command: "venv-wheel", wheelhouse: at.house, packages: ["black"], dry_run: false, python: null },
    });
    const names = readdirSync(at.house);
    expect(names.length).toBeGreaterThan(4);
    expect(names.sort()).toEqual(first.json.wheels.map(({ name }: { name: string }) => name));
    expect(first.json.wheels).toEqual(names.map((name) => ({ name, status: "new", bytes: sizeOf(name) })));
    const before = names.map((name) => statSync(join(at.house, name)).mtimeMs);

    const { stdout, stderr, code } = await at.ef(["venv", "wheel", "black", "six"]);
    expect(stderr).toContain(`${at.house}: 1 wheel put there`);
    expect(stderr).toContain(`${names.length} there already`);
    expect(stdout).toBe("");
    expect(code).toBe(0);
    expect(names.map((name) => statSync(join(at.house, name)).mtimeMs)).toEqual(before);
    expect(readdirSync(at.house)).toHaveLength(names.length + 1);
  });

  test("others can read the wheels, as the umask says; and ef venv install --offline uses them", async () => {
    using at = prepared();
    expect((await at.sh("sh", "umask 027; ef venv wheel black")).code).toBe(0);
    for (const name of readdirSync(at.house)) expect(statSync(join(at.house, name)).mode & 0o777).toBe(0o640);
    expect(statSync(at.house).mode & 0o777).toBe(0o750);
    for (const name of ["PIP_FIND_LINKS", "PIP_NO_INDEX", "UV_FIND_LINKS", "UV_NO_INDEX", "UV_OFFLINE"])
      delete at.env[name];
    const { stderr, code } = await at.ef(["venv", "install", "e", "black", "--offline", "--venv-base", at.scratch]);
    expect(stderr).toContain("+ black==");
    expect(code).toBe(0);
  });

  test("a source tree is built", async () => {
    using at = prepared();
    at.write("mine/pyproject.toml", '[project]\nname = "mine"\nversion = "1.5"\n');
    at.write("requirements.txt", "./mine\nsix\n");
    const { json } = await wheel(at, ["-r", "requirements.txt"]);
    expect(json.wheels.map(({ name }: { name: string }) => name)).toEqual([
      "mine-1.5-py3-none-any.whl",
      expect.stringMatching(/^six-/),
    ]);
  });

  test("another wheel of the same name is replaced", async () => {
    using at = prepared();
    const [six = ""] = readdirSync(wheels).filter((name) => name.startsWith("six-"));
    at.write("mine/pyproject.toml", '[project]\nname = "mine"\nversion = "1"\n');
    expect((await wheel(at, ["./mine", "six"])).json.wheels).toHaveLength(2);
    at.write("mine/pyproject.toml", '[project]\nname = "mine"\nversion = "1"\ndescription = "other"\n');
    const { json } = await wheel(at, ["./mine", "six"]);
    expect(json.wheels.map(({ status }: { status: string }) => status)).toEqual(["replaced", "present"]);
    expect(json.bytes).toBe(statSync(join(at.house, "mine-1-py3-none-any.whl")).size + sizeOf(six));
  });

  test("a package that is nowhere: exit 1, and nothing of the others is put there", async () => {
    using at = prepared();
    const { json, code } = await wheel(at, ["six", "no-such-package"]);
    expect(json.error).toMatchObject({ code: "TOOL_FAILED", hint: expect.stringContaining("internet") });
    expect(json.error.message).toContain("No matching distribution found for no-such-package");
    expect(code).toBe(1);
    expect(readdirSync(at.house)).toEqual([]);
  });

  test.each(["SIGTERM", "SIGKILL"] as const)(
    "ended by %s in the middle: no half wheel, and the next run cleans up",
    async (signal) => {
      using at = prepared();
      const uv = join(at.dir, "bin/uv");
      const real = realpathSync(uv);
      rmSync(uv);
      // a uv whose pip never ends, after it has written a piece of a wheel
      writeFileSync(
        uv,
        '#!/bin/sh\nwhile [ "$1" != --wheel-dir ]; do shift; done\necho half >"$2/six-1.17.0-py2.py3-none-any.whl"\nexec sleep 60\n',
        { mode: 0o755 },
      );
      const pieces = () => (existsSync(at.house) ? readdirSync(at.house, { recursive: true }).map(String) : []);
      const { code } = await at.ef(["venv", "wheel", "six"], {
        onStart: async (child) => {
          await until("half a wheel", () => pieces().some((name) => name.endsWith(".whl")));
          child.kill(signal);
        },
      });
      expect(code).toBe(signal === "SIGTERM" ? 143 : 137);
      expect(readdirSync(at.house).filter((name) => name.endsWith(".whl"))).toEqual([]);
      if (signal === "SIGTERM") expect(pieces()).toEqual([]);
      rmSync(uv);
      symlinkSync(real, uv);
      expect((await wheel(at, ["six"])).json.wheels).toMatchObject([{ status: "new" }]);
      expect(pieces()).toEqual([expect.stringMatching(/^six-/)]);
    },
  );

  test("a wheelhouse that cannot be made", async () => {
    using at = prepared();
    at.write("file", "");
    const { json, code } = await wheel(at, ["six", "--wheelhouse", "file/wheels"]);
    expect(json.error).toMatchObject({ code: "IO", path: join(at.home, "file/wheels") });
    expect(code).toBe(1);
  });
});

test("--dry-run: the command, and nothing is made", async () => {
  using at = prepared();
  at.env.PATH = join(at.dir, "none");
  const url = "https://download.pytorch.org/whl/cpu";
  const { json, code } = await wheel(at, ["torch==2.4.0+cpu", "--python", "3.11", "--dry-run"]);
  expect(json).toMatchObject({ dry_run: true, wheels: [], bytes: 0, extra_index_urls: [url], python: "3.11" });
  expect(json.commands).toEqual([
    "uv run --quiet --no-project --isolated --with pip --python 3.11 -- python -m pip wheel --disable-pip-version-check " +
      `--no-input --progress-bar off --wheel-dir '${at.house}' --extra-index-url ${url} -- torch==2.4.0+cpu`,
  ]);
  expect(code).toBe(0);
  expect(existsSync(at.house)).toBe(false);
});

test("the index that uv's variables name is pip's too, unless that has its own", async () => {
  using at = prepared();
  at.env.UV_DEFAULT_INDEX = "site=https://site/simple/";
  const commands = async () => (await wheel(at, ["six", "--dry-run"])).json.commands[0];
  expect(await commands()).toContain("--wheel-dir");
  expect((await commands()).match(/--index-url https:\/\/site\/simple\/ /g)).toHaveLength(2);
  at.env.PIP_INDEX_URL = "https://other/simple/";
  expect(await commands()).not.toContain("--index-url");
});

test.each([
  [["six"], "no wheelhouse is configured"],
  [[], "no package is given"],
  [["--wheelhouse", "w", "--", "-r"], "begins with -"],
  [["--wheelhouse", "w", "a==1+cpu", "b==1+cu121"], "+cpu and +cu121"],
])("%j is an error of use: %s", async (args, words) => {
  using at = new Home();
  const { stdout, stderr, code } = await at.ef(["venv", "wheel", ...args]);
  expect(stderr).toContain(words);
  expect(stdout).toBe("");
  expect(code).toBe(2);
  mkdirSync(join(at.home, "w")); // it was not made
});
