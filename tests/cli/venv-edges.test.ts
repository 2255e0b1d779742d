/** Environments among other things: other activate scripts, odd shells, hostile stores, two at once, directories without w. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { haveUv, makeEnv, withUv } from "../envs.ts";
import { efArgv, Home, have, run, until } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

const uid = process.geteuid?.() ?? 0;
/** What makes root heed modes. */
const heeding = uid === 0 ? ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] : [];

describe.skipIf(!haveUv)("venv, among other things [needs uv]", () => {
  let from: Home;
  let env: string;
  beforeAll(async () => {
    from = new Home();
    withUv(from);
    from.configure({}, { ef: { venv_store: join(from.dir, "store") } });
    env = await makeEnv(join(from.dir, "env"), ["six"]);
    const { code, stderr } = await from.ef(["venv", "save", "one", "--venv", env]);
    if (code !== 0) throw new Error(stderr);
  });
  afterAll(() => from[Symbol.dispose]());

  /** Another HOME with a copy of the store. */
  function elsewhere(): Home {
    const at = new Home();
    withUv(at);
    at.configure({}, { ef: { venv_store: join(at.dir, "store") } });
    spawnSync("cp", ["-r", join(from.dir, "store"), join(at.dir, "store")]);
    return at;
  }
  const rootOf = (at: Home) => join(at.dir, `ef-venvs-${uid}`);
  const live = (at: Home) => readdirSync(rootOf(at)).filter((name) => !name.endsWith(".lock"));

  /** Run ef, which has to wait for a lock, and do something while it waits. */
  async function waiting(at: Home, lock: string, args: string[], meanwhile: () => Promise<unknown>) {
    writeFileSync(lock, "");
    const holder = Bun.spawn(["flock", "-F", lock, "sleep", "100"]);
    try {
      await until("the lock", () => spawnSync("flock", ["-n", lock, "true"]).status !== 0);
      let said = "";
      const ended = at.ef(args, {
        onStart: (child) =>
          child.stderr?.on("data", (text) => {
            said += text;
          }),
      });
      await until("that it waits", () => said.includes("waiting for"));
      await meanwhile();
      holder.kill();
      return await ended;
    } finally {
      holder.kill();
    }
  }

  for (const shell of ["bash", "zsh", "fish", "tcsh"]) {
    test.skipIf(!have(shell))(
      `${shell}: another activate script takes over, and PATH is what it was afterwards`,
      async () => {
        using at = elsewhere();
        const loaded = await at.ef(["venv", "load", "one"]);
        expect(loaded.code).toBe(0);
        const script = {
          bash: `set -u; eval "$(ef venv activate one)"; . '${env}/bin/activate'; deactivate; echo "$PATH"`,
          zsh: `set -u; eval "$(ef venv activate one)"; . '${env}/bin/activate'; deactivate; echo "$PATH"`,
          fish: `ef venv activate one | source; source '${env}/bin/activate.fish'; deactivate; string join : $PATH`,
          tcsh: `eval "\`ef venv activate one --shell csh\`"\nsource '${env}/bin/activate.csh'\ndeactivate\necho "$PATH:q"`,
        }[shell] as string;
        const file = at.write("script", `${script}\n`);
        const flags = { bash: "--norc", zsh: "-f", fish: "--no-config", tcsh: "-f" }[shell] as string;
        const { stdout, stderr } = await run([shell, flags, file], { cwd: at.home, env: at.env });
        expect([stdout, stderr]).toEqual([`${at.env.PATH}\n`, ""]);
      },
    );
  }

  for (const option of ["no_unset", "ksh_arrays", "sh_word_split"])
    test.skipIf(!have("zsh"))(`zsh with ${option}: activate and deactivate, and the hooks of others stay`, async () => {
      using at = elsewhere();
      await at.ef(["venv", "load", "one"]);
      const hooks = option === "no_unset" ? "" : "precmd_functions=(a b); ";
      const script = `setopt ${option} err_exit; ${hooks}set -o interactive_comments
        eval "$(ef venv activate one)"; deactivate; print -r -- "done \${precmd_functions[@]-}"`;
      const { stdout, stderr } = await run(["zsh", "-f", "-c", script], { cwd: at.home, env: at.env });
      expect([stdout.trim(), stderr]).toEqual([option === "no_unset" ? "done" : "done a b", ""]);
    });

  test("a description that somebody else wrote: no place that is none, and nothing of it steers a terminal", async () => {
    using at = elsewhere();
    const store = join(at.dir, "store");
    const read = () => JSON.parse(readFileSync(join(store, "one.json"), "utf8"));
    const put = (name: string, more: object) => {
      spawnSync("cp", [join(store, "one.tar.zst"), join(store, `${name}.tar.zst`)]);
      writeFileSync(join(store, `${name}.json`), JSON.stringify({ ...read(), ...more }));
    };
    put("escapes", { python_version: "3.11\u001b]0;x\u0007", platform: "\u001b[31m", base_python: "/no\u001b[31m" });
    put("no date", {});
    put("late", { saved_at: 1e300, size: -1 });
    put("line\nfeed", {});
    put("\u001b[31mred", {});
    const list = await at.ef(["venv", "list"]);
    expect(list.stdout).toMatch(/^escapes .*\?$/m);
    expect(list.stdout).not.toMatch(/[^\P{Cc}\n]/u);
    expect(list.stdout).not.toMatch(/no date|line|red|NaN/);
    const unknown = await at.ef(["venv", "load", "on"]);
    expect(unknown.stderr).not.toMatch(/[^\P{Cc}\n]|line|red/u);
    const unchecked = await at.ef(["venv", "load", "escapes"]);
    expect(unchecked.stderr).toContain("its sum cannot be checked");

    // an archive with a link out, and a description by which all paths were inside
    const out = await makeEnv(join(at.dir, "out"), []);
    symlinkSync(join(out, "lib"), join(out, "leads"));
    expect((await at.ef(["venv", "save", "out", "--venv", out])).code).toBe(0);
    for (const place of ["", "/", "//", "..", "lib"]) {
      writeFileSync(
        join(store, "out.json"),
        JSON.stringify({ ...JSON.parse(readFileSync(join(store, "out.json"), "utf8")), places: [place] }),
      );
      const { stderr, code } = await at.ef(["venv", "load", "out"]);
      expect([place, code, stderr.includes("leads: is a symbolic link that leaves the archive")]).toEqual([
        place,
        1,
        true,
      ]);
    }
    expect(live(at)).toEqual(["escapes"]);
  });

  test("a directory where the archive would be: told before anything is written", async () => {
    using at = elsewhere();
    for (const name of ["x.tar.zst", "y.tar.gz"]) mkdirSync(join(at.dir, "store", name));
    for (const name of ["x", "y"]) {
      const { stderr, code } = await at.ef(["venv", "save", "-f", name, "--venv", env]);
      expect([code, stderr.includes("is a directory")]).toEqual([2, true]);
    }
    const names = readdirSync(join(at.dir, "store")).filter((name) => !name.startsWith("."));
    expect(names.sort()).toEqual(["one.json", "one.tar.zst", "x.tar.zst", "y.tar.gz"]);
  });

  test("places that cannot be: told with what to do, and nothing is made", async () => {
    using at = elsewhere();
    const hidden = await makeEnv(join(at.dir, ".venv"), []);
    const unnamed = await at.ef(["venv", "save", "--venv", hidden]);
    expect([unnamed.code, unnamed.stderr.includes("ef venv save NAME")]).toEqual([2, true]);
    at.configure({}, { ef: { venv_store: join(hidden, "store") } });
    const inside = await at.ef(["venv", "save", "x", "--venv", hidden]);
    expect([inside.code, inside.stderr.includes("in the environment itself")]).toEqual([2, true]);
    expect(existsSync(join(hidden, "store"))).toBe(false);
    at.configure({}, { ef: { venv_store: join(at.dir, "store") } });
    for (const path of ["/proc/x", "/dev/null/x", "/dev/null/x/y"]) {
      const { stderr, code } = await at.ef(["venv", "export", "one", "--path", path]);
      expect([code, /^error: Cannot /m.test(stderr)]).toEqual([1, true]);
    }
  });

  test.skipIf(!have("flock"))("saved anew while a load waits: the new one is loaded", async () => {
    using at = elsewhere();
    mkdirSync(rootOf(at), { mode: 0o700 });
    const other = await makeEnv(join(at.dir, "other"), ["six", "packaging"]);
    const { stderr, code } = await waiting(at, join(rootOf(at), ".one.lock"), ["venv", "load", "one"], async () => {
      expect((await at.ef(["venv", "save", "-f", "one", "--venv", other])).code).toBe(0);
    });
    expect([code, stderr.includes("one: loaded")]).toEqual([0, true]);
    const { stdout } = await at.ef(["venv", "activate", "--json"]);
    expect(JSON.parse(stdout).live[0]).toMatchObject({
      changed: false,
      packages: expect.arrayContaining([expect.stringMatching(/^packaging==/)]),
    });
  });

  test.skipIf(!have("flock"))("installed while a save waits: what it says is what it holds", async () => {
    using at = elsewhere();
    const other = await makeEnv(join(at.dir, "other"), ["six"]);
    const saved = await waiting(at, join(at.dir, "store/.new.lock"), ["venv", "save", "new", "--venv", other], () =>
      run(["uv", "pip", "uninstall", "-q", "--python", other, "six"], { env: at.env }),
    );
    expect(saved.code).toBe(0);
    expect(JSON.parse(readFileSync(join(at.dir, "store/new.json"), "utf8")).packages).toEqual([]);
  });

  test.skipIf(uid === 0 && !have("setpriv"))(
    "directories without w: what is in them is relocated, and removed after a failure",
    async () => {
      using at = elsewhere();
      const dir = await makeEnv(join(at.dir, "closed"), []);
      const closed = join(dir, "share/closed");
      mkdirSync(join(closed, "below"), { recursive: true });
      writeFileSync(join(closed, "script"), `#!${dir}/bin/python\nprint("ran")\n`, { mode: 0o755 });
      writeFileSync(join(closed, "below/file"), "");
      chmodSync(join(closed, "below"), 0o555);
      chmodSync(closed, 0o555);
      const ef = (...args: string[]) => run([...heeding, ...efArgv, ...args], { cwd: at.home, env: at.env });
      expect((await ef("venv", "save", "closed", "--venv", dir)).stderr).toContain("closed: saved");
      const loaded = await ef("venv", "load", "closed");
      expect([loaded.code, loaded.stderr.includes("closed: loaded")]).toEqual([0, true]);
      const ran = await run([join(rootOf(at), "closed/share/closed/script")], { env: at.env });
      expect(ran.stdout).toBe("ran\n");
      const json = join(at.dir, "store/closed.json");
      writeFileSync(json, JSON.stringify({ ...JSON.parse(readFileSync(json, "utf8")), python_version: "2.0.0" }));
      const failed = await ef("venv", "load", "closed", "--as", "again");
      expect(failed.stderr).toContain("made for Python 2.0.0");
      expect(live(at)).toEqual(["closed"]);
      for (const each of [dir, join(rootOf(at), "closed")]) spawnSync("chmod", ["-R", "u+w", each]);
    },
  );

  test("a name that is free again: another environment's directory is not taken", async () => {
    using at = elsewhere();
    expect((await at.ef(["venv", "load", "one"])).code).toBe(0);
    const renamed = await at.ef(["venv", "save", "two", "--venv", join(rootOf(at), "one")]);
    expect(renamed.code).toBe(0);
    mkdirSync(join(rootOf(at), "one.2")); // as while somebody makes it
    writeFileSync(join(rootOf(at), "one.2/theirs"), "");
    const { stdout } = await at.ef(["venv", "load", "one", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, name: "one" });
    expect(existsSync(join(rootOf(at), "one.2/theirs"))).toBe(true);
    const active = await at.sh(
      "bash",
      'eval "$(ef venv activate two)"; echo $VIRTUAL_ENV_PROMPT; eval "$(ef venv activate one)"; echo $VIRTUAL_ENV_PROMPT',
    );
    expect(active.stdout).toBe("two\none\n");
  });

  test.skipIf(!have("tmux"))("rm: Ctrl-C at the question deletes nothing, and is no error [needs tmux]", async () => {
    using at = elsewhere();
    await using terminal = await Terminal.open(at, "ef venv rm one");
    await terminal.answer("Delete ", "C-c");
    const screen = await terminal.shows("code=130");
    expect(screen).toContain("ef venv rm: cancelled");
    expect(screen).not.toContain("EF_LOG");
    expect(existsSync(join(at.dir, "store/one.tar.zst"))).toBe(true);
  });
});
