/** ef venv install, with real uv, from wheels. */
import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { haveUv, systemPython, uvEnv, wheels, withUv } from "../envs.ts";
import { eulerFiles, Home, haveEulerFiles, run, until } from "../helpers.ts";

/** A home with uv, which has the wheels and nothing else, and a base for environments whose name has a space. */
function prepared(): Home & { base: string } {
  const at = new Home();
  if (haveUv) withUv(at);
  const base = join(at.dir, "my venvs");
  at.configure({}, { apptainer: { venv_base: base } });
  return Object.assign(at, { base });
}

const install = async (at: Home, args: readonly string[], more: Parameters<Home["ef"]>[1] = {}) => {
  const ran = await at.ef(["venv", "install", ...args, "--json"], more);
  return { ...ran, json: JSON.parse(ran.stdout) };
};

const python = (path: string, code: string) =>
  run([join(path, "bin/python"), "-I", "-c", code], { env: { PATH: "/nonexistent" } });

describe.skipIf(!haveUv)("with uv [needs uv]", () => {
  test("makes an environment and installs; then reuses it; JSON as euler-files prints it", async () => {
    using at = prepared();
    const { json, stderr, code } = await install(at, ["my env", "six", "click>=8", "--python", "3"]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    const path = join(at.base, "my env");
    expect(json).toMatchObject({
      ...{ ok: true, command: "venv-install", env_name: "my env", venv_path: path, venv_base: at.base, created: true },
      ...{ packages: ["six", "click>=8"], python: "3", extra_index_urls: [], dry_run: false, errors: [] },
    });
    expect(json.commands).toHaveLength(2);
    expect((await python(path, "import six, click; print(six.__name__)")).stdout).toBe("six\n");

    const again = await at.ef(["venv", "install", "my env", "wheel"]);
    expect(again.stderr).toContain("+ wheel==");
    expect(again.stderr).toContain(`${path}: updated`);
    expect(again.stdout).toBe("");
    expect(again.code).toBe(0);
    expect((await python(path, "import six, wheel")).code).toBe(0);
  });

  test("the commands do the same when they are pasted", async () => {
    using at = prepared();
    const { json } = await install(at, ["it's", "six<2", "--dry-run"]);
    expect(json).toMatchObject({ created: true, dry_run: true, python: null });
    expect(existsSync(at.base)).toBe(false);
    expect((await at.sh("bash", json.commands.join("\n"))).code).toBe(0);
    expect((await python(join(at.base, "it's"), "import six")).code).toBe(0);
  });

  test("--input-json: the keys of euler-files; a flag wins", async () => {
    using at = prepared();
    const base = join(at.dir, "other");
    const input = { env_name: "a", requirements: ["six"], python: "3", venv_base: "$TMPDIR/other", dry_run: true };
    const given = { stdin: JSON.stringify(input) };
    const dry = await install(at, ["--input-json", "-"], given);
    expect(dry.json).toMatchObject({ venv_path: join(base, "a"), packages: ["six"], dry_run: true });
    const named = await install(at, ["b", "click", "--input-json", "-"], given);
    expect(named.json).toMatchObject({ env_name: "b", packages: ["click"] });
  });

  test("-r, -e and a local directory", async () => {
    using at = prepared();
    at.write("requirements.txt", "six\n# a comment\nclick\n");
    const project = (name: string) => {
      at.write(`${name}/pyproject.toml`, `[project]\nname = "${name}"\nversion = "1"\n`);
      at.write(`${name}/${name}.py`, "word = 'hello'\n");
    };
    project("linked");
    project("copied");
    const args = ["e", "-r", "requirements.txt", "-e", "./linked", "./copied"];
    expect((await install(at, args)).json).toMatchObject({ ok: true, requirements_files: ["requirements.txt"] });
    at.write("linked/linked.py", "word = 'changed'\n");
    rmSync(join(at.home, "copied"), { recursive: true });
    const { stdout } = await python(
      join(at.base, "e"),
      "import six, click, linked, copied; print(linked.word, copied.word)",
    );
    expect(stdout).toBe("changed hello\n");
  });

  test("an environment that cannot be filled is removed again; one that was there stays", async () => {
    using at = prepared();
    const failed = await install(at, ["new", "no-such-package"]);
    expect(failed.json.error).toMatchObject({ code: "TOOL_FAILED", type: "Error" });
    expect(failed.json.error.message).toContain("no-such-package was not found");
    expect(failed.code).toBe(1);
    expect(readdirSync(at.base)).toEqual([".new.lock"]);

    expect((await install(at, ["old", "six"])).code).toBe(0);
    const again = await at.ef(["venv", "install", "old", "no-such-package"]);
    expect(again.stderr.match(/no-such-package was not found/g)).toHaveLength(1); // seen as it came, not told again
    expect(again.code).toBe(1);
    expect((await python(join(at.base, "old"), "import six")).code).toBe(0);
  });

  test("a Python that is not there: nothing is left", async () => {
    using at = prepared();
    const { stderr, code } = await at.ef(["venv", "install", "e", "six", "--python", "3.97"]);
    expect(stderr).toContain("3.97");
    expect(code).toBe(1);
    expect(existsSync(join(at.base, "e"))).toBe(false);
  });

  test("--python beside an environment that is there: the same is fine, another is an error that names both", async () => {
    using at = prepared();
    await install(at, ["e", "six"]);
    const cfg = readFileSync(join(at.base, "e/pyvenv.cfg"), "utf8");
    const version = /^version_info = (\d+\.\d+)/m.exec(cfg)?.[1] ?? "";
    for (const same of [version, `python${version}`, `cpython@${version}`, ">=3", systemPython ?? ""]) {
      expect(await install(at, ["e", "six", "--python", same])).toMatchObject({ code: 0 });
    }
    const { json, code } = await install(at, ["e", "six", "--python", "3.2"]);
    expect(json.error.message).toMatch(new RegExp(`Python 3.2 in .*/e: .* has Python ${version}`));
    expect(code).toBe(2);
    writeFileSync(join(at.base, "e/pyvenv.cfg"), cfg.replace(/^version_info = .*/m, "version_info = 3.2.1"));
    expect((await install(at, ["e", "six", "--python", systemPython ?? ""])).code).toBe(2); // by asking that Python
  });

  test("what is no environment is left alone", async () => {
    using at = prepared();
    mkdirSync(join(at.base, "plain"), { recursive: true });
    writeFileSync(join(at.base, "plain/file"), "mine");
    writeFileSync(join(at.base, "file"), "mine");
    symlinkSync("/nonexistent", join(at.base, "link"));
    for (const name of ["plain", "file", "link"]) {
      const { json, code } = await install(at, [name, "six"]);
      expect(json.error).toMatchObject({ code: "UNKNOWN_ENV", path: join(at.base, name) });
      expect(code).toBe(2);
    }
    expect(readFileSync(join(at.base, "plain/file"), "utf8")).toBe("mine");

    await install(at, ["e", "six"]);
    for (const name of ["python", "python3"]) rmSync(join(at.base, "e/bin", name), { force: true });
    symlinkSync("/nonexistent/python3", join(at.base, "e/bin/python"));
    expect((await install(at, ["e", "six"])).json.error).toMatchObject({ code: "NOT_RUNNABLE" });
  });

  test("two at once for one name: the second waits and reuses", async () => {
    using at = prepared();
    const both = await Promise.all([install(at, ["e", "six"]), install(at, ["e", "click"])]);
    expect(both.map(({ code }) => code)).toEqual([0, 0]);
    expect(both.map(({ json }) => json.created).sort()).toEqual([false, true]);
    expect((await python(join(at.base, "e"), "import six, click")).code).toBe(0);
  });

  test("stopped in the middle: what it made is removed, and the lock is free", async () => {
    using at = prepared();
    // a uv that makes the environment, and then does not come to an end
    const uv = join(at.dir, "bin/uv");
    const real = realpathSync(uv);
    symlinkSync(real, join(at.dir, "bin/uv-real"));
    rmSync(uv);
    writeFileSync(uv, '#!/bin/sh\n[ "$1" = pip ] && exec sleep 60\nexec uv-real "$@"\n', { mode: 0o755 });
    const { stdout, code } = await at.ef(["venv", "install", "e", "six"], {
      onStart: async (child) => {
        await until("the environment", () => existsSync(join(at.base, "e/pyvenv.cfg")));
        child.kill("SIGTERM");
      },
    });
    expect(stdout).toBe("");
    expect(code).toBe(143);
    expect(existsSync(join(at.base, "e"))).toBe(false);
    rmSync(uv);
    symlinkSync(real, uv);
    expect((await install(at, ["e", "six"])).json).toMatchObject({ created: true });
  });

  test("UV_LINK_MODE=symlink does not tie the environment to uv's cache", async () => {
    using at = prepared();
    await install(at, ["e", "six"], { env: { UV_LINK_MODE: "symlink" } });
    const { stdout } = await at.sh("sh", `find '${at.base}/e/lib' -type l`);
    expect(stdout).toBe("");
  });

  describe("offline", () => {
    /** Only ef's own settings keep uv from the network, and what is there is only six. */
    function alone(): Home & { base: string; house: string } {
      const at = prepared();
      const house = join(at.dir, "wheel, house");
      mkdirSync(house);
      for (const name of Object.keys(uvEnv)) delete at.env[name];
      at.env.UV_PYTHON_DOWNLOADS = "never";
      at.configure({}, { apptainer: { venv_base: at.base }, ef: { wheelhouse: house } });
      const [six = ""] = readdirSync(wheels).filter((name) => name.startsWith("six-"));
      symlinkSync(join(wheels, six), join(house, six));
      return Object.assign(at, { house });
    }
    const nowhere = "http://127.0.0.1:9/simple/";

    test("--offline installs from the wheelhouse; what it lacks is an error that says how to get it", async () => {
      using at = alone();
      expect((await install(at, ["e", "six", "--offline"])).json).toMatchObject({ ok: true, offline: true });
      expect((await python(join(at.base, "e"), "import six")).code).toBe(0);
      const { json, code } = await install(at, ["e", "click", "--offline"]);
      expect(json.error.hint).toContain("ef venv wheel");
      expect(json.error.hint).toContain(at.house);
      expect(code).toBe(1);
    });

    test("so does an index that does not answer", async () => {
      using at = alone();
      expect((await install(at, ["e", "six", "--index-url", nowhere])).json).toMatchObject({ ok: true, offline: true });
      at.env.UV_DEFAULT_INDEX = nowhere;
      expect((await install(at, ["f", "six"])).json).toMatchObject({ ok: true, offline: true });
    });

    test("without a wheelhouse: --offline is an error with the way out; else uv says that there is no network", async () => {
      using at = alone();
      at.configure({}, { apptainer: { venv_base: at.base } });
      const asked = await install(at, ["e", "six", "--offline"]);
      expect(asked.json.error.hint).toContain("ef config set ef.wheelhouse DIR");
      expect(asked.code).toBe(2);
      const { json, code } = await install(at, ["e", "six", "--index-url", nowhere], { env: { UV_HTTP_RETRIES: "0" } });
      expect(json.error.hint).toContain("ef venv wheel");
      expect(code).toBe(1);
    });
  });

  test("an index on the command line is used, and one besides it", async () => {
    using at = prepared();
    for (const name of ["UV_NO_INDEX", "UV_OFFLINE", "UV_FIND_LINKS"]) delete at.env[name];
    const asked: string[] = [];
    using server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch(request) {
        const { pathname } = new URL(request.url);
        asked.push(pathname);
        const [, index, name] = /^\/(main|extra)\/([^/]+)\/$/.exec(pathname) ?? [];
        if (pathname.startsWith("/files/")) return new Response(Bun.file(join(wheels, pathname.slice(7))));
        const file = readdirSync(wheels).find((each) => each.startsWith(`${name}-`));
        if (!file || (name === "six") !== (index === "main")) return new Response("", { status: 404 });
        return new Response(`<a href="/files/${file}">${file}</a>`, { headers: { "content-type": "text/html" } });
      },
    });
    const url = (name: string) => `http://127.0.0.1:${server.port}/${name}/`;
    const args = ["e", "six", "click", "--index-url", url("main"), "--extra-index-url", url("extra")];
    const { json, code } = await install(at, args, { env: { UV_CACHE_DIR: join(at.dir, "cache") } });
    expect(json).toMatchObject({ ok: true, extra_index_urls: [url("extra")] });
    expect(asked).toContain("/extra/click/");
    expect(code).toBe(0);
  });
});

test("without uv: exit 2 with how to get it; --dry-run works", async () => {
  using at = new Home();
  at.env.VENV_DIR = join(at.dir, "venvs");
  at.env.PATH = join(at.dir, "bin");
  const { json, code } = await install(at, ["e", "six"]);
  expect(json.error).toMatchObject({ code: "TOOL_MISSING", hint: expect.stringContaining("module avail uv") });
  expect(code).toBe(2);
  const dry = await at.ef(["venv", "install", "e", "torch==2.4.0+cu121", "--python", "3.11", "--dry-run"]);
  expect(dry.stdout).toBe(
    `uv venv '${at.dir}/venvs/e' --python 3.11\n` +
      `uv pip install --python '${at.dir}/venvs/e' --extra-index-url https://download.pytorch.org/whl/cu121 ` +
      "--index-strategy unsafe-best-match -- torch==2.4.0+cu121\n",
  );
  expect(dry.code).toBe(0);
  expect(readdirSync(at.dir)).not.toContain("venvs");
});

test.each([
  [["e", "six"], "apptainer.venv_base"],
  [[], "NAME is missing"],
  [["e", "--venv-base", "v"], "no package is given"],
  [["e", "--venv-base", "v", "--", "-r"], "begins with -"],
  [["../e", "six", "--venv-base", "v"], "holds a /"],
  [["e", "six", "--venv-base", "$NOPE/v"], "NOPE is not set"],
  [["e", "torch==1+cpu", "torch==1+cu121", "--venv-base", "v"], "+cpu and +cu121"],
])("%j is an error of use: %s", async (args, words) => {
  using at = new Home();
  const { stdout, stderr, code } = await at.ef(["venv", "install", ...args]);
  expect(stderr).toContain(words);
  expect(stdout).toBe("");
  expect(code).toBe(2);
});

test("a broken configuration is an error, none is not", async () => {
  using at = new Home();
  const args = ["venv", "install", "e", "six", "--venv-base", "v", "--dry-run"];
  expect((await at.ef(args)).code).toBe(0);
  at.write(".euler-files.json", "{");
  expect((await at.ef(args)).code).toBe(2);
});

test.skipIf(!haveEulerFiles)("a dry run says what euler-files says [needs euler-files]", async () => {
  using at = new Home();
  at.env.VENV_DIR = join(at.dir, "venvs");
  const args = ["venv", "install", "e", "torch==2.4.0+cu121", "numpy", "--python", "3.11", "--dry-run", "--json"];
  const [ours, theirs] = await Promise.all([at.ef(args), eulerFiles(at, args)]);
  const { commands, ...rest } = JSON.parse(theirs.stdout);
  expect(JSON.parse(ours.stdout)).toMatchObject(rest);
  expect(commands).toHaveLength(2);
});
