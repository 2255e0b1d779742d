/** Environments that travel, in real shells: made, saved, removed, loaded under another name, activated, ended. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { haveUv, makeEnv, pypiBin, systemPython, withUv } from "../envs.ts";
import { Home, have, run } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

/** A launcher that is no Python, console scripts, compiled modules. */
const packages = ["ruff", "black", "pip"];

const uid = process.geteuid?.() ?? 0;
const pythonVersion = (at: Home) =>
  run([systemPython as string, "-c", "import platform; print(platform.python_version())"], at);

function prepared(): Home {
  const at = new Home();
  withUv(at);
  at.configure({}, { ef: { venv_store: join(at.dir, "my store") } });
  return at;
}

describe.skipIf(!haveUv)("venv [needs uv]", () => {
  let from: Home;
  let env: string;
  /** One environment, saved as `one` in the store of `from`. */
  beforeAll(async () => {
    from = prepared();
    env = await makeEnv(join(from.dir, "first place"), packages);
    const { code, stderr } = await from.ef(["venv", "save", "one", "--venv", env]);
    if (code !== 0) throw new Error(stderr);
  });
  afterAll(() => from[Symbol.dispose]());

  /** Another HOME with the same store. */
  function elsewhere(): Home {
    const at = new Home();
    withUv(at);
    at.configure({}, { ef: { venv_store: join(from.dir, "my store") } });
    return at;
  }

  const shells = [
    { name: "bash", argv: ["bash", "--norc"], load: 'eval "$(ef shell-init --shell bash)"' },
    { name: "zsh", argv: ["zsh", "-f"], load: 'eval "$(ef shell-init --shell zsh)"' },
    { name: "fish", argv: ["fish", "--no-config"], load: "ef shell-init --shell fish | source" },
    { name: "tcsh", argv: ["tcsh", "-f"], load: 'eval "`ef shell-init --shell csh`"' },
  ];
  for (const shell of shells) {
    test.skipIf(!have(shell.name))(`${shell.name}: create, load, activate, deactivate by the function ef`, async () => {
      using at = elsewhere();
      const unset =
        shell.name === "tcsh"
          ? "echo $?VIRTUAL_ENV"
          : 'test -z "$VIRTUAL_ENV"; and echo 0 || echo 1'.replace("; and", " &&");
      const lines = [
        shell.load,
        "ef venv create new",
        "echo made $VIRTUAL_ENV",
        "pip --version",
        "ef venv load one --as two",
        'python -c "import black, sys; print(black.__name__, sys.prefix)"',
        "ruff --version",
        "black --version",
        "which python",
        "ef venv activate new",
        "which python",
        "ef venv deactivate",
        unset,
        "ef venv activate two",
        "deactivate",
        unset,
        "echo $PATH",
      ];
      const file = at.write("script", `${lines.join("\n")}\n`);
      const { stdout, stderr, code } = await run([...shell.argv, file], { cwd: at.home, env: at.env });
      const root = join(at.dir, `ef-venvs-${uid}`);
      expect(stderr).toContain("two: loaded");
      expect(stdout).toContain(`made ${root}/new`);
      expect(stdout).toContain(`pip`);
      expect(stdout).toContain(`black ${root}/two`);
      expect(stdout).toContain("ruff 0.");
      expect(stdout.match(/ef-venvs-\d+\/(?:two|new)\/bin\/python\n/g)).toHaveLength(2);
      expect(stdout.match(/^0$/gm)).toHaveLength(2);
      expect(stdout.trimEnd().split("\n").at(-1)?.replaceAll(" ", ":")).toBe(at.env.PATH?.replaceAll(" ", ":"));
      expect(code).toBe(0);
    });
  }

  test("a job script under set -eu: an environment that is not there ends it", async () => {
    using at = elsewhere();
    const { stdout, stderr, code } = await at.sh(
      "bash",
      `set -euo pipefail; eval "$(ef venv load onne)"; echo went on`,
    );
    expect(stderr).toContain("Cannot find a saved environment onne");
    expect(stderr).toContain("did you mean one?");
    expect(stdout).toBe("");
    expect(code).toBe(1);
    const good = await at.sh(
      "bash",
      `set -euo pipefail; eval "$(ef venv load one)"; deactivate; echo "went on \${VIRTUAL_ENV-}"`,
    );
    expect(good.stderr).toContain("one: loaded");
    expect(good.stdout).toBe("went on \n");
  });

  test("what is loaded runs, and names its old place only where the report says so", async () => {
    using at = prepared();
    const full = await makeEnv(join(at.dir, "a full one"), ["numpy", "ruff", "black", "ipython", "pip"]);
    expect((await at.ef(["venv", "save", "one", "--venv", full])).code).toBe(0);
    rmSync(full, { recursive: true });
    const { stdout, code } = await at.ef(["venv", "load", "one", "--json"]);
    expect(code).toBe(0);
    const report = JSON.parse(stdout);
    const dir = report.venv_path;
    expect(dir).toBe(join(at.dir, `ef-venvs-${uid}`, "one"));
    expect(report).toMatchObject({ ok: true, command: "venv-load", name: "one", errors: [] });
    const { stdout: named } = await run(["grep", "-rlF", full, dir], { env: at.env });
    const excused = new Set(report.relocation.left.map(({ path }: { path: string }) => join(dir, path)));
    const unexplained = named.split("\n").filter((path) => path !== "" && !path.endsWith(".pyc") && !excused.has(path));
    expect(unexplained).toEqual([]);
    for (const script of [
      "black",
      "ipython",
      "ipython3",
      "pip",
      "pip3",
      "ruff",
      "f2py",
      "numpy-config",
      "pygmentize",
    ]) {
      const ran = await run([join(dir, "bin", script), script === "f2py" ? "-h" : "--help"], { env: at.env });
      expect([script, ran.code, ran.stderr]).toEqual([script, 0, ran.stderr]);
    }
    const list = await run(["uv", "pip", "list", "--python", dir], { env: at.env });
    expect(list.stdout).toContain("numpy");
    expect(list.code).toBe(0);
    const version = await pythonVersion(at);
    expect(report.python).toBe(version.stdout.trim());
  });

  test("save: not over another one without -f; with it the old one loads until the new one is whole", async () => {
    using at = prepared();
    const small = await makeEnv(join(at.dir, "small"), ["six"]);
    const store = join(at.dir, "my store");
    expect((await at.ef(["venv", "save", "torch2.1", "--venv", small])).code).toBe(0);
    const again = await at.ef(["venv", "save", "torch2.1", "--venv", small]);
    expect(again.stderr).toContain("ef venv save -f torch2.1");
    expect(again.code).toBe(2);
    expect((await at.ef(["venv", "save", "torch2.2", "--venv", small])).code).toBe(0);
    const before = readFileSync(join(store, "torch2.1.tar.zst"));
    expect((await at.ef(["venv", "save", "-f", "torch2.1", "--venv", small])).code).toBe(0);
    expect(readFileSync(join(store, "torch2.1.tar.zst")).equals(before)).toBe(true); // the same, whenever it is made
    expect(
      readdirSync(store)
        .filter((name) => !name.startsWith("."))
        .sort(),
    ).toEqual([...["torch2.1.json", "torch2.1.tar.zst", "torch2.2.json", "torch2.2.tar.zst"].sort()]);
    expect(readdirSync(store).filter((name) => name.includes("tmp"))).toEqual([]);
  });

  test("save: in the moment in which an archive is replaced, both fit their description", async () => {
    using at = prepared();
    const store = join(at.dir, "my store");
    const one = await makeEnv(join(at.dir, "one"), ["six"]);
    await at.ef(["venv", "save", "x", "--venv", one]);
    const read = () => JSON.parse(readFileSync(join(store, "x.json"), "utf8"));
    const old = { archive: readFileSync(join(store, "x.tar.zst")), json: read() };
    await makeEnv(join(at.dir, "two"), ["packaging"]);
    await at.ef(["venv", "save", "-f", "x", "--venv", join(at.dir, "two")]);
    const now = read();
    // as a kill between the two renames leaves it
    writeFileSync(join(store, "x.tar.zst"), old.archive);
    writeFileSync(join(store, "x.json"), JSON.stringify({ ...now, previous: old.json }));
    const loaded = await at.ef(["venv", "load", "x", "--json"]);
    expect(JSON.parse(loaded.stdout)).toMatchObject({ ok: true });
    expect(existsSync(join(JSON.parse(loaded.stdout).venv_path, "lib/python3.11/site-packages/six.py"))).toBe(true);
    // an archive that fits neither is refused
    writeFileSync(join(store, "x.json"), JSON.stringify(now));
    const refused = await at.ef(["venv", "load", "x", "--as", "y"]);
    expect(refused.stderr).toContain("sha256");
    expect(refused.code).toBe(1);
    expect(readdirSync(join(at.dir, `ef-venvs-${uid}`)).filter((name) => /^[^.]|tmp/.test(name))).toEqual(["x"]);
  });

  test("load: a name can be used once; --as gives another one", async () => {
    using at = elsewhere();
    expect((await at.ef(["venv", "load", "one"])).code).toBe(0);
    const twice = await at.ef(["venv", "load", "one"]);
    expect(twice.stderr).toContain("ef venv activate one");
    expect(twice.stderr).toContain("--as");
    expect(twice.code).toBe(2);
    const both = await Promise.all([1, 2].map(() => at.ef(["venv", "load", "one", "--as", "three"])));
    expect(both.map(({ code }) => code).sort()).toEqual([0, 2]);
    const { stdout } = await at.ef(["venv", "activate", "--json"]);
    expect(JSON.parse(stdout).live.map(({ name }: { name: string }) => name)).toEqual(["one", "three"]);
  });

  test("list: what there is, and what this node cannot run", async () => {
    using at = prepared();
    const store = join(at.dir, "my store");
    expect((await at.ef(["venv", "list"])).stdout).toContain("nothing is saved");
    const small = await makeEnv(join(at.dir, "small"), ["six"]);
    for (const name of ["a", "b", "c", "d"]) await at.ef(["venv", "save", name, "--venv", small]);
    const change = (name: string, more: object) => {
      const file = join(store, `${name}.json`);
      writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...more }));
    };
    change("b", { needs_glibc: "99.1" });
    change("c", { base_python: "/not/here/python3.11" });
    change("d", { platform: "linux-riscv64" });
    writeFileSync(join(store, "old.tar.gz"), "an archive of kpy");
    const { stdout } = await at.ef(["venv", "list"]);
    expect(stdout).toMatch(/^a .* 1 package .* yes$/m);
    expect(stdout).toMatch(/^b .* no: needs glibc 99\.1, here is /m);
    expect(stdout).toMatch(/^c .* no: its Python \/not\/here\/python3\.11 is not here/m);
    expect(stdout).toMatch(/^d .* no: made for linux-riscv64$/m);
    expect(stdout).toMatch(/^old .*\?$/m);
    for (const name of ["b", "c", "d"]) {
      const refused = await at.ef(["venv", "load", name]);
      expect([name, refused.code]).toEqual([name, 1]);
      expect(refused.stdout).toContain("false");
    }
    const loaded = await at.ef(["venv", "load", "c", "--python", systemPython as string]);
    expect(loaded.stderr).toContain("c: loaded");
    expect(loaded.code).toBe(0);
    expect(existsSync(join(at.dir, `ef-venvs-${uid}`, "b"))).toBe(false);
    const listed = await at.ef(["venv", "load"]);
    expect(listed.stdout).toBe(""); // it is for eval
    expect(listed.stderr).toContain("runs here");
  });

  test("rm: asks, and in a script wants --yes", async () => {
    using at = prepared();
    const store = join(at.dir, "my store");
    await at.ef(["venv", "save", "x", "--venv", await makeEnv(join(at.dir, "small"), [])]);
    const unasked = await at.ef(["venv", "rm", "x"]);
    expect(unasked.stderr).toContain("--yes");
    expect(unasked.code).toBe(2);
    expect((await at.ef(["venv", "rm", "x", "--yes"])).code).toBe(0);
    expect(readdirSync(store).filter((name) => !name.startsWith("."))).toEqual([]);
    expect((await at.ef(["venv", "rm", "x", "--yes"])).code).toBe(2);
  });

  test("export: into a directory of one's choice; its own activate works", async () => {
    using at = elsewhere();
    const { stderr, code } = await at.ef(["venv", "export", "one", "--path", "../it's here"]);
    expect(stderr).toContain("activate it with: source");
    expect(code).toBe(0);
    const { stdout } = await at.sh(
      "bash",
      `source "../it's here/bin/activate"; which black; black --version; pip --version`,
    );
    expect(stdout).toContain(`${join(at.dir, "it's here")}/bin/black\n`);
    expect(stdout).toContain("it's here/lib/");
    const again = await at.ef(["venv", "export", "one", "--path", "../it's here"]);
    expect(again.code).toBe(2);
    expect(readdirSync(at.dir).filter((name) => name.startsWith(".ef-export"))).toEqual([]);
  });

  test("the compute node's own disk: SLURM_TMPDIR", async () => {
    using at = elsewhere();
    const job = join(at.dir, "job 7");
    mkdirSync(job);
    const { stdout } = await at.ef(["venv", "load", "one", "--json"], { env: { SLURM_TMPDIR: job } });
    expect(JSON.parse(stdout).venv_path).toBe(join(job, `ef-venvs-${uid}`, "one"));
    const here = await at.ef(["venv", "activate", "one"]);
    expect(here.stderr).toContain("it is saved: ef venv load one");
    expect(here.code).toBe(2);
    const gone = await at.ef(["venv", "load", "one"], { env: { SLURM_TMPDIR: join(at.dir, "not there") } });
    expect(gone.stderr).toContain("Cannot make");
    expect(gone.code).toBe(2);
  });

  test("names that cannot be: exit 2", async () => {
    using at = elsewhere();
    for (const name of ["../x", "a b", "-x", ".hidden", "", "a\nb", "x".repeat(101), "$(id)"]) {
      const { code, stderr } = await at.ef(["venv", "save", "--venv", env, "--", name]);
      expect([name, code, stderr.includes("Cannot call an environment")]).toEqual([name, 2, true]);
    }
  });

  test("no store, no environment: exit 2 and what to do", async () => {
    using at = new Home();
    at.configure({});
    const { stderr, code } = await at.ef(["venv", "list"]);
    expect(stderr).toContain("ef config set ef.venv_store DIR");
    expect(code).toBe(2);
    using other = prepared();
    const none = await other.ef(["venv", "save", "x"]);
    expect(none.stderr).toContain("none is active");
    expect(none.code).toBe(2);
    mkdirSync(join(other.dir, "plain"));
    const plain = await other.ef(["venv", "save", "x", "--venv", join(other.dir, "plain")]);
    expect(plain.stderr).toContain("pyvenv.cfg");
    expect(plain.code).toBe(1);
  });

  const interactive = [
    { name: "bash", command: "bash --norc -i", load: 'eval "$(ef shell-init --shell bash)"', prompt: "PS1='> '" },
    { name: "zsh", command: "zsh -f -i", load: 'eval "$(ef shell-init --shell zsh)"', prompt: "PS1='> '" },
    {
      name: "fish",
      command: "fish --no-config",
      load: "ef shell-init --shell fish | source",
      prompt: "function fish_prompt; echo '> '; end",
    },
    { name: "tcsh", command: "tcsh -f", load: 'eval "`ef shell-init --shell csh`"', prompt: "set prompt = '> '" },
  ];
  for (const { name, command, load, prompt } of interactive) {
    test.skipIf(!have(name) || !have("tmux"))(
      `${name}: the prompt shows the name, * after a change, a new name after a save`,
      async () => {
        using at = elsewhere();
        at.configure({}, { ef: { venv_store: join(at.dir, "store") } });
        await using terminal = await Terminal.open(at, command, { width: 200 });
        const type = (text: string) => terminal.press(text, "Enter");
        await type(prompt);
        await terminal.shows(/^> ?$/m);
        await type(load);
        await type("ef venv create work");
        await terminal.shows(/^\(work\) > ?$/m);
        await type("ef venv save");
        await terminal.shows("work: saved");
        await type("clear");
        await type("uv pip install -q six; ef __venv-prompt"); // as if the prompt of another shell had asked before
        await terminal.shows(/^\(\*work\) > ?$/m);
        await type("uv pip uninstall -q six");
        await type("clear");
        await terminal.shows(/^\(work\) > ?$/m);
        await type("ef venv save other");
        await terminal.shows(/^\(other\) > ?$/m);
        await type("clear");
        await type("deactivate");
        await terminal.shows(/^> ?$/m);
      },
    );
  }

  test("archives of kpy load, those too that kpy itself cannot load", async () => {
    using at = prepared();
    const dir = await makeEnv(join(at.dir, "by hand"), ["black", "ruff", "pip"]);
    const kslurm = (program: string, ...args: string[]) =>
      run([join(pypiBin, program), ...args], { cwd: at.home, env: { ...at.env, VIRTUAL_ENV: dir } });
    const pipdir = join(at.dir, "pip dir");
    mkdirSync(pipdir);
    await kslurm("kslurm", "config", "pipdir", pipdir);
    const saved = await kslurm("kpy", "save", "k1");
    expect([saved.code, saved.stderr]).toEqual([0, ""]);
    rmSync(dir, { recursive: true });
    const own = await kslurm("kpy", "load", "k1", "--script", join(at.dir, "script"));
    expect(own.stderr).toContain("UnicodeDecodeError"); // ruff is no text
    at.configure({}, { ef: { venv_store: join(pipdir, "venv_archives") } });
    expect((await at.ef(["venv", "list"])).stdout).toMatch(/^k1 /m);
    const { stdout, stderr } = await at.sh(
      "bash",
      'eval "$(ef venv load k1 --as k2)"; black --version; ruff --version; pip --version; which black; ef venv save',
    );
    expect(stderr).toContain("k2: loaded");
    expect(stderr).toContain("k2: saved");
    expect(stdout).toMatch(/^black, .*\n(?:.*\n)?ruff .*\npip .*\/k2\/lib.*\n.*\/k2\/bin\/black$/m);
  });

  test("an environment that was moved by hand after the save loads all the same", async () => {
    using at = prepared();
    const dir = await makeEnv(join(at.dir, "before"), ["black"]);
    renameSync(dir, join(at.dir, "after"));
    expect((await at.ef(["venv", "save", "m", "--venv", join(at.dir, "after")])).code).toBe(0);
    rmSync(join(at.dir, "after"), { recursive: true });
    const { stdout } = await at.sh("bash", 'eval "$(ef venv load m)"; black --version; which black');
    expect(stdout).toContain("black, ");
    expect(stdout).toContain("/m/bin/black");
  });
});
