/** Saving and loading environments when something goes wrong: nothing is lost, nothing is left, the words say what to do. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { haveUv, makeEnv, withUv } from "../envs.ts";
import { Home, have, haveOtherUser, run, until } from "../helpers.ts";

const uid = process.geteuid?.() ?? 0;
const canMount = uid === 0 && spawnSync("unshare", ["-m", "true"]).status === 0;

describe.skipIf(!haveUv)("venv, when things go wrong [needs uv]", () => {
  let from: Home;
  let env: string;
  let store: string;
  beforeAll(async () => {
    from = new Home();
    withUv(from);
    store = join(from.dir, "store");
    from.configure({}, { ef: { venv_store: store } });
    env = await makeEnv(join(from.dir, "env"), ["black", "ruff", "pip"]);
    const { code, stderr } = await from.ef(["venv", "save", "one", "--venv", env]);
    if (code !== 0) throw new Error(stderr);
  });
  afterAll(() => from[Symbol.dispose]());

  /** Another HOME with the same store, or one of its own with a copy. */
  function elsewhere({ own = false } = {}): Home {
    const at = new Home();
    withUv(at);
    const place = own ? join(at.dir, "store") : store;
    at.configure({}, { ef: { venv_store: place } });
    if (own) spawnSync("cp", ["-r", store, place]);
    return at;
  }

  /** What is in the directory of environments on this node, but locks. */
  function live(at: Home): string[] {
    const root = join(at.dir, `ef-venvs-${uid}`);
    return existsSync(root) ? readdirSync(root).filter((name) => !name.endsWith(".lock")) : [];
  }

  test("a damaged archive: refused wherever a byte differs, and where it is cut off", async () => {
    using at = elsewhere({ own: true });
    const file = join(at.dir, "store/one.tar.zst");
    const whole = readFileSync(file);
    const bad: [string, Buffer][] = [
      ["empty", Buffer.alloc(0)],
      ["no archive", Buffer.from("hello")],
      ["cut off", whole.subarray(0, whole.length / 2)],
      ["its last byte missing", whole.subarray(0, -1)],
      ["something behind", Buffer.concat([whole, Buffer.from("x")])],
      ...[0.1, 0.5, 0.9].map((part): [string, Buffer] => {
        const changed = Buffer.from(whole);
        const at = Math.floor(whole.length * part);
        changed[at] = (changed[at] as number) ^ 0x10;
        return [`a bit at ${part}`, changed];
      }),
    ];
    for (const [what, bytes] of bad) {
      writeFileSync(file, bytes);
      const { stdout, stderr, code } = await at.ef(["venv", "load", "one", "--shell", "bash"]);
      expect([what, code, stdout]).toEqual([what, 1, "false\n"]);
      expect(stderr).toContain(file);
      expect(stderr).not.toMatch(/at .*\.ts:\d/);
      expect(live(at)).toEqual([]);
    }
  });

  test("a hostile archive, with the right sum: refused, and nothing outside is touched", async () => {
    using at = elsewhere({ own: true });
    const file = join(at.dir, "store/one.tar.zst");
    const make = `import sys, tarfile, io
kind, out = sys.argv[1:]
with tarfile.open(out, "w") as tar:
    def add(name, type=tarfile.REGTYPE, link="", data=b"x"):
        info = tarfile.TarInfo(name); info.type = type; info.linkname = link; info.size = len(data) if type == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(data))
    add("pyvenv.cfg", data=b"home = /usr/bin\\nversion = 3.11.2\\n")
    if kind == "absolute": add("/tmp/ef-hostile")
    if kind == "up": add("../../ef-hostile")
    if kind == "link out": add("lib/x", tarfile.SYMTYPE, "/etc")
    if kind == "through a link": add("x", tarfile.SYMTYPE, "../.."); add("x/ef-hostile")
    if kind == "hard link out": add("x", tarfile.LNKTYPE, "/etc/passwd")
    if kind == "device": add("x", tarfile.CHRTYPE)
    if kind == "python through a link": add("bin/python", tarfile.SYMTYPE, "/tmp/py"); add("bin/python/ef-hostile")`;
    for (const kind of [
      "absolute",
      "up",
      "link out",
      "through a link",
      "hard link out",
      "device",
      "python through a link",
    ]) {
      const made = await run(["python3", "-c", make, kind, file], { env: at.env });
      expect(made.stderr).toBe("");
      const description = JSON.parse(readFileSync(join(at.dir, "store/one.json"), "utf8"));
      const sha256 = new Bun.CryptoHasher("sha256").update(readFileSync(file)).digest("hex");
      writeFileSync(join(at.dir, "store/one.json"), JSON.stringify({ ...description, sha256 }));
      const { stderr, code } = await at.ef(["venv", "load", "one"]);
      expect([kind, code, stderr.includes("Cannot unpack")]).toEqual([kind, 1, true]);
      expect(live(at)).toEqual([]);
      const found = spawnSync("find", [at.dir, "/tmp/ef-hostile", "-name", "ef-hostile"]).stdout.toString();
      expect(found).toBe("");
    }
  });

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    test(`${signal} at any moment of a load or a save leaves nothing behind`, async () => {
      using at = elsewhere({ own: true });
      const started = async (args: string[], delayMs: number) => {
        const ran = await at.ef(args, {
          onStart: (child) => void setTimeout(() => child.kill(signal), delayMs),
        });
        return ran.code;
      };
      const codes: number[] = [];
      for (let i = 0; i < 8; i++) {
        codes.push(await started(["venv", "load", "one", "--as", `l${i}`], 60 + Math.random() * 500));
        for (const name of live(at)) expect(name).toMatch(/^l\d$/);
        codes.push(await started(["venv", "save", "-f", "one", "--venv", env], 60 + Math.random() * 500));
        const names = readdirSync(join(at.dir, "store")).filter((name) => !name.startsWith(".one.lock"));
        expect(names.sort()).toEqual(["one.json", "one.tar.zst"]);
      }
      const stopped = signal === "SIGTERM" ? 143 : 130;
      for (const code of codes) expect([0, stopped]).toContain(code);
      expect((await at.ef(["venv", "load", "one", "--as", "last"])).code).toBe(0);
    });
  }

  test("what a killed save was writing goes with the next one", async () => {
    using at = elsewhere({ own: true });
    const dead = Bun.spawnSync(["sh", "-c", "echo $$"]).stdout.toString().trim();
    const half = join(at.dir, `store/.one.json.ef-${hostname().slice(0, 30)}-${dead}-0123456789abcdef.tmp`);
    writeFileSync(half, "half");
    expect((await at.ef(["venv", "save", "-f", "one", "--venv", env])).code).toBe(0);
    expect(existsSync(half)).toBe(false);
  });

  test("SIGKILL at any moment: what is saved loads, and the next run cleans up", async () => {
    using at = elsewhere({ own: true });
    const kill = (args: string[]) =>
      at.ef(args, { onStart: (child) => void setTimeout(() => child.kill("SIGKILL"), 60 + Math.random() * 600) });
    for (let i = 0; i < 8; i++) {
      await kill(["venv", "save", "-f", "one", "--venv", env]);
      await kill(["venv", "load", "one", "--as", "two"]);
      const half = live(at).filter((name) => !name.startsWith("."));
      if (half.length > 0) {
        const { stdout } = await at.sh("bash", 'eval "$(ef venv activate two)"; black --version');
        expect(stdout).toContain("black, ");
        rmSync(join(at.dir, `ef-venvs-${uid}`, "two"), { recursive: true });
      }
      expect((await at.ef(["venv", "load", "one", "--as", `good${i}`])).stderr).toContain("loaded");
      rmSync(join(at.dir, `ef-venvs-${uid}`, `good${i}`), { recursive: true });
    }
    expect((await at.ef(["venv", "load", "one", "--as", "two"])).code).toBe(0);
    expect(live(at)).toEqual(["two"]);
    expect((await at.ef(["venv", "save", "-f", "one", "--venv", env])).code).toBe(0);
    expect(readdirSync(join(at.dir, "store")).filter((name) => name.includes("tmp"))).toEqual([]);
    const left = await run(["sh", "-c", `ps -eo args | grep -F '${at.dir}' | grep -v grep`], { env: at.env });
    expect(left.stdout).toBe("");
  }, 120_000);

  test.skipIf(!canMount)(
    "a full disk, by bytes and by inodes: the old archive stays, nothing half is left [needs mount]",
    async () => {
      using at = elsewhere({ own: true });
      const before = readFileSync(join(at.dir, "store/one.tar.zst"));
      const script = `
      set -u
      for options in size=4m nr_inodes=60,size=200m; do
        mount -t tmpfs -o $options none '${at.dir}/small' || exit 99
        cp -r '${at.dir}/store' '${at.dir}/small/store' 2>/dev/null || :
        SLURM_TMPDIR='${at.dir}/small' ef venv load one --as full; echo "load $?"
        find '${at.dir}/small' -path '*ef-venvs*' -mindepth 2 ! -name '.*.lock' | wc -l
        umount '${at.dir}/small'
      done
      mount -t tmpfs -o size=20m none '${at.dir}/small' || exit 99
      mkdir '${at.dir}/small/store'; cp '${at.dir}'/store/one.* '${at.dir}/small/store/'
      ef config set ef.venv_store '${at.dir}/small/store'
      ef venv save -f one --venv '${env}'; echo "save $?"
      ls -A '${at.dir}/small/store'
      cmp '${at.dir}/store/one.tar.zst' '${at.dir}/small/store/one.tar.zst' && echo same`;
      mkdirSync(join(at.dir, "small"));
      const { stdout, stderr } = await run(["unshare", "-m", "bash", "-c", script], { cwd: at.home, env: at.env });
      expect(stdout.replaceAll(/^false\n/gm, "")).toBe(
        "load 1\n0\nload 1\n0\nsave 1\n.one.lock\none.json\none.tar.zst\nsame\n",
      );
      expect(stderr).toMatch(/needs [\d.]+M, /);
      expect(stderr).toMatch(/needs [\d,]+ inodes, /);
      expect(stderr).toMatch(/no space left/i);
      expect(before.length).toBeGreaterThan(11 << 20); // so a second one does not fit into 20 MB
    },
  );

  test("an environment that changes while it is packed is not saved", async () => {
    using at = elsewhere({ own: true });
    const moving = await makeEnv(join(at.dir, "moving"), ["black", "ruff"]);
    const file = join(moving, "lib/growing");
    writeFileSync(file, "x".repeat(100_000));
    const writer = Bun.spawn(["sh", "-c", 'while :; do echo more >> "$1"; done', "sh", file]);
    try {
      const { stderr, code } = await at.ef(["venv", "save", "moving", "--venv", moving]);
      expect(stderr).toContain("lib/growing");
      expect(stderr).toContain("changed");
      expect(code).toBe(1);
    } finally {
      writer.kill();
      await writer.exited;
    }
    expect(readdirSync(join(at.dir, "store")).filter((name) => name.startsWith("moving"))).toEqual([]);
  });

  test("links out of an environment: files are stored, directories named and left out", async () => {
    using at = elsewhere({ own: true });
    const dir = await makeEnv(join(at.dir, "linked"), ["six"]);
    const [site = ""] = readdirSync(join(dir, "lib")).map((name) => join(dir, "lib", name, "site-packages"));
    writeFileSync(join(at.dir, "cached.py"), "VALUE = 7\n");
    mkdirSync(join(at.dir, "data"));
    symlinkSync(join(at.dir, "cached.py"), join(site, "cached.py"));
    symlinkSync(join(at.dir, "data"), join(dir, "data"));
    symlinkSync(join(dir, "bin"), join(dir, "own"));
    mkdirSync(join(dir, "share/deep"), { recursive: true });
    symlinkSync(join(dir, "bin"), join(dir, "share/deep/own"));
    const { stderr } = await at.ef(["venv", "save", "linked", "--venv", dir]);
    expect(stderr).toContain("site-packages/cached.py");
    expect(stderr).toMatch(/left out: data\b/);
    rmSync(join(at.dir, "cached.py"));
    rmSync(dir, { recursive: true });
    const { stdout } = await at.sh(
      "bash",
      'eval "$(ef venv load linked)"; python -c "import cached; print(cached.VALUE)"; readlink "$VIRTUAL_ENV/own" "$VIRTUAL_ENV/share/deep/own"; ls "$VIRTUAL_ENV"',
    );
    expect(stdout).toContain(`7\n${`${join(at.dir, `ef-venvs-${uid}`, "linked/bin")}\n`.repeat(2)}`);
    expect(stdout).not.toContain("data");
  });

  test.skipIf(!haveOtherUser)("somebody else's directory in /tmp is not used [needs another user]", async () => {
    using at = elsewhere();
    const root = join(at.dir, `ef-venvs-${uid}`);
    mkdirSync(join(at.dir, "theirs"));
    symlinkSync(join(at.dir, "theirs"), root);
    const { stderr, code } = await at.ef(["venv", "load", "one"]);
    expect(stderr).toContain("somebody put it there");
    expect(code).toBe(2);
    expect(readdirSync(join(at.dir, "theirs"))).toEqual([]);
    rmSync(root);
    mkdirSync(root);
    spawnSync("chown", ["65534", root]);
    expect((await at.ef(["venv", "load", "one"])).code).toBe(2);
    expect(readdirSync(root)).toEqual([]);
  });

  test("list: one directory and one small file for each archive", async () => {
    if (!have("strace")) return console.warn("not here: strace");
    using at = elsewhere({ own: true });
    const description = JSON.parse(readFileSync(join(at.dir, "store/one.json"), "utf8"));
    for (let i = 0; i < 200; i++) {
      writeFileSync(join(at.dir, `store/many${i}.json`), JSON.stringify({ ...description, name: `many${i}` }));
      writeFileSync(join(at.dir, `store/many${i}.tar.zst`), "");
    }
    const trace = join(at.dir, "trace");
    const { stdout } = await at.sh("sh", `strace -f -o '${trace}' -e trace=file ef venv list`);
    expect(stdout.match(/^many/gm)).toHaveLength(200);
    const inStore = readFileSync(trace, "utf8")
      .split("\n")
      .filter((line) => line.includes(`${at.dir}/store`));
    const opened = inStore.filter((line) => line.includes("open"));
    expect(opened.filter((line) => line.includes(".json"))).toHaveLength(201);
    expect(inStore.filter((line) => line.includes(".tar.zst"))).toEqual([]);
    expect(inStore.length).toBe(202);
  });

  test("an environment whose state file cannot be read is not deleted; what a killed run left is", async () => {
    using at = elsewhere();
    const root = join(at.dir, `ef-venvs-${uid}`);
    mkdirSync(join(root, "one"), { recursive: true, mode: 0o700 });
    writeFileSync(join(root, "one/.ef-venv.json"), '{"of": "a newer version"}');
    const { stdout } = await at.ef(["venv", "load", "one", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, name: "one", venv_path: join(root, "one@2") });
    expect(readdirSync(join(root, "one"))).toEqual([".ef-venv.json"]);
    mkdirSync(join(root, "two/bin"), { recursive: true });
    const second = await at.ef(["venv", "load", "one", "--as", "two", "--json"]);
    expect(JSON.parse(second.stdout)).toMatchObject({ ok: true, venv_path: join(root, "two") });
  });

  test("a lock that somebody holds is waited for", async () => {
    using at = elsewhere({ own: true });
    const lock = join(at.dir, "store/.one.lock");
    const holder = Bun.spawn(["flock", "-F", lock, "sleep", "100"], { env: at.env as never });
    try {
      await until("the lock", () => spawnSync("flock", ["-n", lock, "true"]).status !== 0);
      const { stderr, code } = await at.ef(["venv", "rm", "one", "--yes"], {
        onStart(child) {
          child.stderr?.on("data", (text) => String(text).includes("waiting") && holder.kill());
        },
      });
      expect(stderr).toContain("one: waiting for");
      expect(code).toBe(0);
    } finally {
      holder.kill();
    }
  });
});
