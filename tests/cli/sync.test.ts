import { expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Home, have, until } from "../helpers.ts";

/** One cache of two files, synced nowhere yet. */
function hub(more: object = {}): Home {
  const at = new Home({ "hf/model.bin": "weights", "hf/hub/deep/er/config.json": "{}" });
  at.configure({ HF_HOME: "hf" }, more);
  return at;
}

test.each(["bash", "zsh", "dash", "fish", "tcsh"].map((shell) => ({ shell })))(
  "sync: the exports work in $shell",
  async ({ shell }) => {
    if (!have(shell)) return console.warn(`not here: ${shell}`);
    using at = hub();
    const script =
      {
        fish: 'eval (ef sync); cat "$HF_HOME/model.bin"',
        tcsh: 'eval "`ef sync`"; cat "$HF_HOME/model.bin"',
      }[shell] ?? 'eval "$(ef sync)"; cat "$HF_HOME/model.bin"';
    const { stdout, stderr, code } = await at.sh(shell, script);
    expect(stderr).toContain("HF_HOME: complete (2 files");
    expect(stdout).toBe("weights"); // rsync moved it, and nothing else reached stdout
    expect(code).toBe(0); // last: by now the text has told why
  },
);

test("sync: stdout holds exports and nothing else", async () => {
  using at = hub();
  const { stdout } = await at.ef(["sync", "--shell", "bash"]);
  expect(stdout).toBe(`export HF_HOME='${at.cache("HF_HOME")}'\n`);
});

test("sync: a second one is fresh, and says so in one line", async () => {
  using at = hub();
  await at.ef(["sync"]);
  const { stderr, stdout } = await at.ef(["sync", "--shell", "bash"]);
  expect(stderr).toBe("HF_HOME: fresh\n");
  expect(stdout).toContain("export HF_HOME=");
});

test("A2.2: what a purge took is fetched again within the hour, and only that", async () => {
  using at = hub();
  await at.ef(["sync"]);
  rmSync(join(at.cache("HF_HOME"), "hub/deep/er/config.json"));
  const { stderr } = await at.ef(["sync"]);
  expect(stderr).toContain("HF_HOME: complete (1 file, 2");
  expect(at.read(join(at.cache("HF_HOME"), "hub/deep/er/config.json"))).toBe("{}");
});

test("A2.2: a purge of all but the marker", async () => {
  using at = hub();
  await at.ef(["sync"]);
  rmSync(at.cache("HF_HOME"), { recursive: true });
  const { stderr } = await at.ef(["sync"]);
  expect(stderr).toContain("HF_HOME: complete (2 files");
});

test("A2.3: a change at depth 4 is seen within the hour", async () => {
  using at = hub();
  await at.ef(["sync"]);
  at.write("hf/hub/deep/er/new.json", "new");
  await at.ef(["sync"]);
  expect(at.read(join(at.cache("HF_HOME"), "hub/deep/er/new.json"))).toBe("new");
});

test("A2.6: hard links stay one inode, holes stay holes, links stay links", async () => {
  using at = hub();
  linkSync(join(at.home, "hf/model.bin"), join(at.home, "hf/hub/same.bin"));
  symlinkSync("../../model.bin", join(at.home, "hf/hub/link"));
  truncateSync(at.write("hf/sparse", ""), 50_000_000);
  await at.ef(["sync"]);
  const copy = at.cache("HF_HOME");
  expect(statSync(join(copy, "hub/same.bin")).ino).toBe(statSync(join(copy, "model.bin")).ino);
  expect(statSync(join(copy, "sparse")).size).toBe(50_000_000);
  expect(statSync(join(copy, "sparse")).blocks * 512).toBeLessThan(100_000);
  expect((await at.sh("sh", `readlink '${copy}/hub/link'`)).stdout).toBe("../../model.bin\n");
});

test("A2.9: what rsync could not copy is named, the variable is not exported, there is no marker", async () => {
  using at = hub({ rsync_extra_args: ["--no-such-option"] });
  const { stdout, stderr, code } = await at.ef(["sync", "--shell", "bash"]);
  expect(stderr).toContain("--no-such-option");
  expect(stdout).toBe("false\n");
  expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false);
  expect(code).toBe(1);
});

test("A2.9: a part that cannot be copied is a failure: a directory in the way of a file", async () => {
  using at = hub();
  mkdirSync(join(at.cache("HF_HOME"), "model.bin/full"), { recursive: true });
  const { stdout, stderr, code } = await at.ef(["sync", "--shell", "bash"]);
  expect(stderr).toContain(`${at.cache("HF_HOME")}/model.bin: something of another type is there, and not ef's`);
  expect(stdout).toBe("false\n");
  expect(readdirSync(join(at.cache("HF_HOME"), "model.bin"))).toEqual(["full"]);
  expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false);
  expect(code).toBe(1);
});

test("set -euo pipefail: good variables are exported, a bad one ends the script", async () => {
  using at = new Home({ "hf/a": "good", "torch/b": "bad" });
  at.configure({ HF_HOME: "hf", TORCH_HOME: "torch" });
  mkdirSync(join(at.cache("TORCH_HOME"), "b/in the way"), { recursive: true });
  const script = `set -euo pipefail; trap 'echo "ended: $(cat "$HF_HOME/a")"' EXIT; eval "$(ef sync)"; echo not reached`;
  const { stdout, code } = await at.sh("bash", script);
  expect(stdout).toBe("ended: good\n");
  expect(code).toBe(1);
});

test("--no-fail leaves the failing statement out; the exit code still tells", async () => {
  using at = hub();
  mkdirSync(join(at.cache("HF_HOME"), "model.bin/full"), { recursive: true });
  const { stdout, code } = await at.ef(["sync", "--shell", "bash", "--no-fail"]);
  expect(stdout).toBe("");
  expect(code).toBe(1);
});

test.each([
  ["no configuration", undefined],
  ["not JSON", "{"],
  ["another version", '{"version":2}'],
])("eval fails with %s too", async (_, text) => {
  using at = new Home();
  if (text !== undefined) at.write(".euler-files.json", text);
  const { stdout, stderr, code } = await at.sh("bash", 'eval "$(ef sync)" || echo heard');
  expect(stdout).toBe("heard\n");
  expect(stderr).toContain(".euler-files.json");
  expect(code).toBe(0);
});

test("missing source: a warning, an empty directory, exported", async () => {
  using at = new Home();
  at.configure({ HF_HOME: "nowhere" });
  const { stdout, stderr, code } = await at.ef(["sync", "--shell", "bash"]);
  expect(stderr).toContain("does not exist");
  expect(stdout).toContain("export HF_HOME=");
  expect(readdirSync(at.cache("HF_HOME"))).toEqual([]);
  expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false);
  expect(code).toBe(0);
});

test("--dry-run touches nothing, prints no exports, and says what a run then does", async () => {
  using at = hub();
  const dry = await at.ef(["sync", "--dry-run", "--verbose"]);
  expect(dry.stdout).toBe("");
  expect(readdirSync(at.scratch)).toEqual([]);
  expect(dry.stderr).toContain("2 files, 9 B to copy");
  for (const name of ["model.bin", "hub/deep/er/config.json"]) expect(dry.stderr).toContain(name);
  expect(dry.code).toBe(0);
  expect((await at.ef(["sync"])).stderr).toContain("complete (2 files, 9 B,");
});

test("disabled variables are left alone, unless named; an unknown name is an error", async () => {
  using at = new Home({ "hf/a": "1", "pip/b": "2" });
  at.configure({ HF_HOME: "hf", PIP_CACHE_DIR: "pip" });
  const config = JSON.parse(at.read(join(at.home, ".euler-files.json")));
  config.vars.PIP_CACHE_DIR.enabled = false;
  at.write(".euler-files.json", config);
  expect((await at.ef(["sync", "--shell", "bash"])).stdout).not.toContain("PIP_CACHE_DIR");
  const named = await at.ef(["sync", "--shell", "bash", "--var", "PIP_CACHE_DIR"]);
  expect(named.stdout).toBe(`export PIP_CACHE_DIR='${at.cache("PIP_CACHE_DIR")}'\n`);
  const unknown = await at.ef(["sync", "--var", "NOPE"]);
  expect(unknown.stderr).toContain("NOPE");
  expect(unknown.code).toBe(2);
});

test("--json has the shape of euler-files; --input-json its keys and aliases", async () => {
  using at = hub();
  const { stdout, stderr } = await at.ef(["sync", "--input-json", "-", "--json"], {
    stdin: '{"only_vars": ["HF_HOME"], "force": true}',
  });
  expect(stderr).toBe("");
  expect(JSON.parse(stdout)).toMatchObject({
    ok: true,
    command: "sync",
    dry_run: false,
    force: true,
    verbose: false,
    only_vars: ["HF_HOME"],
    scratch_base: at.scratch,
    results: [
      { name: "HF_HOME", status: "synced", source: join(at.home, "hf"), target: at.cache("HF_HOME"), files: 2 },
    ],
    exports: { HF_HOME: at.cache("HF_HOME") },
    errors: [],
  });
  const again = JSON.parse((await at.ef(["sync", "--json"])).stdout);
  expect(again.results[0].status).toBe("skipped");
  const dry = JSON.parse((await at.ef(["sync", "--json", "--dry-run", "--force"])).stdout);
  expect(dry).toMatchObject({ results: [{ status: "dry-run" }], exports: { HF_HOME: at.cache("HF_HOME") } });
});

test("--json: failures are in errors, exit 1; what fails before any result is one error object, exit 2", async () => {
  using at = hub();
  mkdirSync(join(at.cache("HF_HOME"), "model.bin/full"), { recursive: true });
  const partly = await at.ef(["sync", "--json"]);
  expect(JSON.parse(partly.stdout)).toMatchObject({
    ok: false,
    exports: {},
    failures: [{ name: "HF_HOME", code: "TRANSFER_PARTIAL" }],
  });
  expect(partly.code).toBe(1);
  const wrong = await at.ef(["sync", "--json", "--input-json", "-"], { stdin: '{"vars": ["HF_HOME"], "colour": 1}' });
  expect(JSON.parse(wrong.stdout)).toMatchObject({ ok: false, error: { code: "USAGE" } });
  expect(JSON.parse(wrong.stdout).error.message).toContain("colour");
  expect(wrong.code).toBe(2);
});

test.each([{ args: ["--colour"] }, { args: ["--var"] }, { args: ["extra"] }, { args: ["--shell", "powershell"] }])(
  "a wrong argument is heard: $args",
  async ({ args }) => {
    using at = hub();
    const { stdout, stderr, code } = await at.ef(["sync", ...args]);
    expect(stdout).toBe("false\n");
    expect(stderr).toContain(args[0] ?? "");
    expect(stderr).not.toContain(".ts:");
    expect(code).toBe(2);
  },
);

test("SCRATCH unset, empty, /, missing, a file: an error that names it, and nothing is written", async () => {
  using at = hub();
  const file = at.write("file", "");
  for (const [value, word] of [
    [undefined, "SCRATCH"],
    ["", "SCRATCH"],
    ["/", "root directory"],
    [join(at.dir, "no/where"), "does not exist"],
    [file, "not a directory"],
    ["relative", "absolute"],
  ] as const) {
    const { stderr, code } = await at.ef(["sync"], { env: { SCRATCH: value } });
    expect(stderr).toContain(word);
    expect(code).toBe(2);
  }
});

test("roots that contain each other are refused, also through links; nested sources are a warning", async () => {
  using at = new Home({ "cache/hf/a": "1" });
  symlinkSync(at.home, join(at.dir, "link"));
  at.configure({ HF_HOME: "cache/hf" }, { scratch_base: join(at.dir, "link/cache/hf") });
  const inside = await at.ef(["sync"]);
  expect(inside.stderr).toContain("inside its source");
  expect(inside.code).toBe(2);
  expect(readdirSync(join(at.home, "cache/hf"))).toEqual(["a"]);

  at.configure({ HF_HOME: "cache/hf" });
  mkdirSync(at.cache("."), { recursive: true });
  symlinkSync(join(at.home, "cache/hf"), at.cache("HF_HOME"));
  const same = await at.ef(["sync"]);
  expect(same.stderr).toContain("same directory");
  expect(same.code).toBe(2);
  rmSync(at.cache("HF_HOME"));

  at.configure({ HF_HOME: "cache/hf", XDG_CACHE_HOME: "cache" });
  const nested = await at.ef(["sync"]);
  expect(nested.stderr).toContain("XDG_CACHE_HOME");
  expect(nested.stderr).toContain("copied twice");
  expect(nested.code).toBe(0);
});

test("an export of something else is warned of; the source and the copy are fine", async () => {
  using at = hub();
  const { stderr } = await at.ef(["sync"], { env: { HF_HOME: "/old/place" } });
  expect(stderr).toContain("HF_HOME is set to /old/place");
  for (const HF_HOME of [join(at.home, "hf"), at.cache("HF_HOME")]) {
    expect((await at.ef(["sync"], { env: { HF_HOME } })).stderr).toBe("HF_HOME: fresh\n");
  }
});

test("not fresh: no marker, another source, the future, garbage, a link, euler-files' own, lost manifest, aged", async () => {
  using at = hub();
  await at.ef(["sync"]);
  const marker = at.cache(".HF_HOME.synced");
  const good = JSON.parse(at.read(marker));
  const { ef: _, ...plain } = good;
  const cases: [string, () => void][] = [
    ["not synced yet", () => rmSync(marker)],
    ["another source", () => writeFileSync(marker, JSON.stringify({ ...good, source: "/else" }))],
    ["future", () => writeFileSync(marker, JSON.stringify({ ...good, synced_at: Date.now() / 1000 + 3600 }))],
    ["aged", () => writeFileSync(marker, JSON.stringify({ ...good, synced_at: Date.now() / 1000 - 3601 }))],
    ["not synced yet", () => writeFileSync(marker, '{"synced_at": ')],
    ["euler-files", () => writeFileSync(marker, JSON.stringify(plain))],
    ["its manifest is missing, damaged or of another run", () => rmSync(at.cache(".HF_HOME.manifest"))],
    [
      "not synced yet",
      () => {
        renameSync(marker, `${marker}.real`);
        symlinkSync(`${marker}.real`, marker);
      },
    ],
  ];
  for (const [word, spoil] of cases) {
    spoil();
    expect((await at.ef(["sync"])).stderr).toContain(word);
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  }
  expect((await at.ef(["sync", "--force"])).stderr).toContain("forced");
});

test("skip_if_fresh_seconds 0 always compares", async () => {
  using at = hub({ skip_if_fresh_seconds: 0 });
  await at.ef(["sync"]);
  expect((await at.ef(["sync"])).stderr).toContain("complete (nothing to copy");
});

test("an edit of the same size in the same second is copied", async () => {
  using at = hub();
  const file = join(at.home, "hf/model.bin");
  utimesSync(file, 1_700_000_000.25, 1_700_000_000.25);
  await at.ef(["sync"]);
  writeFileSync(file, "WEIGHTS");
  utimesSync(file, 1_700_000_000.75, 1_700_000_000.75);
  await at.ef(["sync"]);
  expect(at.read(join(at.cache("HF_HOME"), "model.bin"))).toBe("WEIGHTS");
});

test("modes: a token stays 0600, directories follow the set-group-id bit of the target", async () => {
  using at = hub();
  chmodSync(at.write("hf/token", "secret"), 0o600);
  mkdirSync(at.cache("HF_HOME"), { recursive: true });
  chmodSync(at.cache("HF_HOME"), 0o2775);
  await at.ef(["sync"]);
  expect(statSync(join(at.cache("HF_HOME"), "token")).mode & 0o7777).toBe(0o600);
  expect(statSync(join(at.cache("HF_HOME"), "hub")).mode & 0o2000).toBe(0o2000);
});

test("what a preset knows and what the user excludes is not copied; the extra variables are exported", async () => {
  using at = hub({ ef: { vars: { HF_HOME: { exclude: ["*.tmp"], env: { HF_HUB_OFFLINE: "1" } } } } });
  at.write("hf/.locks/x", "");
  at.write("hf/hub/y.tmp", "");
  const { stdout } = await at.ef(["sync", "--shell", "bash"]);
  expect(existsSync(join(at.cache("HF_HOME"), ".locks"))).toBe(false);
  expect(existsSync(join(at.cache("HF_HOME"), "hub/y.tmp"))).toBe(false);
  expect(stdout).toContain("export HF_HUB_OFFLINE='1'\n");
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("a FIFO is left out and named", async () => {
  using at = hub();
  await at.sh("sh", "mkfifo hf/pipe");
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("left out: pipe");
  expect(code).toBe(0);
});

test("hostile names: in the configuration, in the trees, in the environment", async () => {
  const name = "-a 'b\" $HOME `id`\\ \n ü";
  using at = new Home({ [`${name}/${name}/f`]: "deep" });
  at.configure({ HF_HOME: name }, { cache_root: name });
  await at.sh("bash", `cd './'*'ü'; touch $'caf\\xe9' $'new\\nline'`);
  const { stdout, stderr } = await at.sh("bash", `eval "$(ef sync)"; cat "$HF_HOME"/*/f; ls -b "$HF_HOME"`);
  expect(stderr).toContain("complete (3 files");
  expect(stdout).toContain("deep");
  expect(stdout).toContain("caf\\351");
  expect(stdout).toContain("new\\nline");
});

test("SIGTERM while it waits for the lock: exit 143, nothing on stdout", async () => {
  using at = hub();
  mkdirSync(at.cache("."), { recursive: true });
  writeFileSync(at.cache(".HF_HOME.lock"), "");
  const holder = Bun.spawn(["flock", at.cache(".HF_HOME.lock"), "sleep", "60"]);
  try {
    await until("the lock", async () => (await at.sh("sh", `flock -n '${at.cache(".HF_HOME.lock")}' true`)).code !== 0);
    let said = "";
    const { stdout, code } = await at.ef(["sync"], {
      onStart(child) {
        child.stderr?.on("data", (chunk) => {
          said += chunk;
          if (said.includes("waiting for")) child.kill("SIGTERM");
        });
      },
    });
    expect(stdout).toBe("");
    expect(code).toBe(143);
  } finally {
    holder.kill();
  }
});

test("no room: refused before the first byte, with both numbers; --no-preflight tries", async () => {
  using at = hub();
  const mount = await at.sh("sh", `mount -t tmpfs -o size=64k,nr_inodes=50 tmpfs '${at.scratch}'`);
  if (mount.code !== 0) return console.warn("not here: mount (needs root)");
  try {
    at.write("hf/large", "x".repeat(200_000));
    const { stderr, code, stdout } = await at.ef(["sync", "--shell", "bash"]);
    expect(stderr).toMatch(/needs 2\d\dK, \d+K left/);
    expect(stdout).toBe("false\n");
    expect(code).toBe(1);
    expect(readdirSync(at.cache("HF_HOME"))).toEqual([]);
    const tried = await at.ef(["sync", "--no-preflight"]);
    expect(tried.stderr).toContain(`Cannot write ${at.cache("HF_HOME")}/large: no space left`);
    expect(tried.code).toBe(1);
    expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false);
    expect(readdirSync(at.cache("HF_HOME")).filter((name) => name.startsWith(".ef-"))).toEqual([]);

    rmSync(join(at.home, "hf/large"));
    for (let i = 0; i < 60; i++) at.write(`hf/many/${i}`, "");
    expect((await at.ef(["sync"])).stderr).toMatch(/needs 6\d inodes, \d+ left/);
  } finally {
    await at.sh("sh", `umount '${at.scratch}'`);
  }
});

test("leftovers of a killed run are removed; those of a running one are not", async () => {
  using at = hub();
  await at.ef(["sync"]);
  const { stdout: host } = await at.sh("sh", "hostname");
  const dead = at.cache(`.HF_HOME.tmp-${host.trim()}-999999999-0123456789abcdef`);
  const live = at.cache(`.HF_HOME.tmp-${host.trim()}-${process.pid}-0123456789abcdef`);
  for (const dir of [dead, live]) mkdirSync(dir);
  await at.ef(["sync", "--force"]);
  expect(at.exists(dead)).toBe(false);
  expect(at.exists(live)).toBe(true);
});

test("a job's file on scratch is kept and named, also one that changed at home as well: a push resolves that", async () => {
  using at = hub();
  at.write("hf/we[ird *", "old");
  await at.ef(["sync"]);
  const later = (seconds: number) => new Date(Date.now() + seconds * 1000);
  for (const name of ["model.bin", "we[ird *"]) {
    writeFileSync(join(at.cache("HF_HOME"), name), "a job's work");
    utimesSync(join(at.cache("HF_HOME"), name), later(60), later(60));
  }
  at.write("hf/new", "new");
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("changed on scratch since the last sync");
  expect(code).toBe(0);
  for (const name of ["model.bin", "we[ird *"]) expect(at.read(join(at.cache("HF_HOME"), name))).toBe("a job's work");
  expect(at.read(join(at.cache("HF_HOME"), "new"))).toBe("new");
  // Also by the syncs after the one that kept it first, which ended later than the job's work.
  utimesSync(join(at.cache("HF_HOME"), "model.bin"), later(0), later(0));
  for (const name of ["again", "and again"]) {
    at.write(`hf/${name}`, "");
    await Bun.sleep(20);
    expect((await at.ef(["sync"])).stderr).toContain("changed on scratch since the last sync");
    expect(at.read(join(at.cache("HF_HOME"), "model.bin"))).toBe("a job's work");
  }
  // Changed at home as well, and later: no clock decides which of the two is lost.
  at.write("hf/model.bin", "newer");
  utimesSync(join(at.home, "hf/model.bin"), later(120), later(120));
  for (const args of [["sync"], ["sync", "--force"], ["sync", "--force"]]) {
    const both = await at.ef([...args, "--shell", "bash"]);
    expect(both.stderr).toContain("changed on scratch since the last sync, and kept as it is there: model.bin");
    expect(both.stdout).toContain("export HF_HOME=");
    expect(at.read(join(at.cache("HF_HOME"), "model.bin"))).toBe("a job's work");
    expect(at.read(join(at.home, "hf/model.bin"))).toBe("newer");
  }
  // Without the job's file there is nothing to keep.
  rmSync(join(at.cache("HF_HOME"), "model.bin"));
  await at.ef(["sync"]);
  expect(at.read(join(at.cache("HF_HOME"), "model.bin"))).toBe("newer");
});

test("other excludes or rsync arguments: not fresh", async () => {
  using at = hub({ ef: { vars: { HF_HOME: { exclude: ["*.json"] } } } });
  await at.ef(["sync"]);
  expect(at.exists(join(at.cache("HF_HOME"), "hub/deep/er/config.json"))).toBe(false);
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  expect(at.exists(join(at.cache("HF_HOME"), "hub/deep/er/config.json"))).toBe(true);
});

test("a marker whose own part is damaged or of a later version: not fresh, no crash", async () => {
  using at = hub();
  await at.ef(["sync"]);
  const marker = at.cache(".HF_HOME.synced");
  const good = JSON.parse(at.read(marker));
  for (const ef of [{}, { rules: good.ef.rules }, { ...good.ef, manifest: 7 }, "x", 1, []]) {
    writeFileSync(marker, JSON.stringify({ ...good, ef }));
    rmSync(at.cache(".HF_HOME.manifest"), { force: true });
    const { stderr, code } = await at.ef(["sync"]);
    expect(stderr).toContain("HF_HOME: complete (nothing to copy");
    expect(code).toBe(0);
  }
});

test("an interrupted copy whose source is gone is not exported", async () => {
  using at = hub();
  mkdirSync(at.cache("HF_HOME"), { recursive: true });
  writeFileSync(at.cache(".HF_HOME.partial"), "");
  renameSync(join(at.home, "hf"), join(at.home, "away"));
  const { stdout, stderr, code } = await at.ef(["sync", "--shell", "bash"]);
  expect(stderr).toContain("a copy was interrupted");
  expect(stdout).toBe("false\n");
  expect(code).toBe(1);
  renameSync(join(at.home, "away"), join(at.home, "hf"));
  expect((await at.ef(["sync"])).code).toBe(0);
  expect(at.exists(at.cache(".HF_HOME.partial"))).toBe(false);
});

test("a source that cannot be reached fails alone: the others are exported", async () => {
  using at = new Home({ "hf/a": "1" });
  symlinkSync("loop", join(at.home, "loop"));
  at.configure({ HF_HOME: "hf", TORCH_HOME: "loop" });
  const { stdout, stderr, code } = await at.ef(["sync", "--shell", "bash"]);
  expect(stdout).toBe(`export HF_HOME='${at.cache("HF_HOME")}'\nfalse\n`);
  expect(stderr).toContain("TORCH_HOME: failed: Cannot read source");
  expect(code).toBe(1);
});

test("--json has the warnings of the copy too", async () => {
  using at = hub();
  await at.sh("sh", "mkfifo hf/pipe");
  const { warnings } = JSON.parse((await at.ef(["sync", "--json"])).stdout);
  expect(warnings).toEqual(["HF_HOME: not a file, directory or link, left out: pipe"]);
});

test("--dry-run fails where the run would: no scratch, no room", async () => {
  using at = hub();
  const nowhere = await at.ef(["sync", "--dry-run"], { env: { SCRATCH: join(at.dir, "no/where") } });
  expect(nowhere.stderr).toContain("does not exist");
  expect(nowhere.code).toBe(2);
  await at.sh("sh", "truncate -s 1P hf/huge");
  const sparse = await at.ef(["sync", "--dry-run"]);
  expect(sparse.stderr).toContain("would be synced");
});

test("a directory that cannot be removed is no error of the sync", async () => {
  using at = hub();
  await at.ef(["sync"]);
  const { stdout: host } = await at.sh("sh", "hostname");
  const left = at.cache(`.HF_HOME.tmp-${host.trim()}-999999999-0123456789abcdef`);
  mkdirSync(left);
  if ((await at.sh("sh", `mount -t tmpfs tmpfs '${left}'`)).code !== 0)
    return console.warn("not here: mount (needs root)");
  try {
    expect((await at.ef(["sync", "--force"])).stderr).toContain("HF_HOME: complete");
  } finally {
    await at.sh("sh", `umount '${left}'`);
  }
});

test("nohup: SIGHUP is no reason to stop, neither for ef nor for its command", async () => {
  using at = hub();
  const { stdout, code } = await at.sh(
    "bash",
    "trap '' HUP; ef exec -- sh -c 'kill -HUP $$; kill -HUP $PPID; echo alive'",
  );
  expect(stdout).toBe("alive\n");
  expect(code).toBe(0);
});

test.each([["--dry-run"], ["-n"], ["-vn"], ["--list-only"], ["--help"], ["-q"], ["--out-format=x"]])(
  "rsync_extra_args %s, with which rsync copies nothing or is silent, is refused",
  async (arg) => {
    using at = hub({ rsync_extra_args: ["-z", arg] });
    const { stderr, code } = await at.ef(["sync"]);
    expect(stderr).toContain(`with ${arg} rsync`);
    expect(code).toBe(2);
    expect(readdirSync(at.scratch)).toEqual([]);
  },
);

test("an rsync that copies nothing and says all is well is not believed", async () => {
  using at = hub({ rsync_extra_args: ["--max-size=0", "--files-from=/dev/null"] });
  const { stdout, code } = await at.ef(["sync", "--shell", "bash"]);
  const nothing = { stdout, code };
  expect(nothing).toEqual({ stdout: `export HF_HOME='${at.cache("HF_HOME")}'\n`, code: 0 }); // the user asked for no files
  const fake = join(at.dir, "bin/rsync");
  writeFileSync(
    fake,
    `#!/bin/sh\ncase " $* " in *" --version "*|*" --dry-run "*) exec '${Bun.which("rsync")}' "$@";; esac\n`,
    { mode: 0o755 },
  );
  at.configure({ HF_HOME: "hf" }, { ef: { transfer: { engine: "rsync" } } });
  const { stderr, code: failed } = await at.ef(["sync"]);
  expect(stderr).toContain("the files are not there");
  expect(failed).toBe(1);
});

test("--delete of the user's own is said before and after", async () => {
  using at = hub({ rsync_extra_args: ["--delete"] });
  await at.ef(["sync"]);
  writeFileSync(join(at.cache("HF_HOME"), "job.txt"), "");
  expect((await at.ef(["sync", "--dry-run"])).stderr).toContain("1 to delete");
  expect((await at.ef(["sync"])).stderr).toContain("1 to delete");
});

test("mirror: what was deleted at home goes from scratch too; what a job made or changed stays", async () => {
  using at = hub({ ef: { vars: { HF_HOME: { mirror: true } } } });
  for (const name of ["gone/a", "gone/b", "mixed/a", "mixed/changed"]) at.write(`hf/${name}`, name);
  await at.ef(["sync"]);
  const copy = at.cache("HF_HOME");
  writeFileSync(join(copy, "mixed/job"), "a job's");
  writeFileSync(join(copy, "mixed/changed"), "changed by a job");
  for (const dir of ["gone", "mixed"]) rmSync(join(at.home, "hf", dir), { recursive: true });
  expect((await at.ef(["sync", "--dry-run"])).stderr).toContain("4 to delete"); // gone/a, gone/b, gone, mixed/a
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("4 to delete");
  expect(code).toBe(0);
  expect(readdirSync(copy).sort()).toEqual(["hub", "mixed", "model.bin"]);
  expect(readdirSync(join(copy, "mixed")).sort()).toEqual(["changed", "job"]);
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  // A home that is not mounted: nothing is deleted because of it.
  rmSync(join(at.home, "hf"), { recursive: true });
  mkdirSync(join(at.home, "hf"));
  await at.ef(["sync"]);
  expect(readdirSync(copy).sort()).toEqual(["hub", "mixed", "model.bin"]);
});

test("A2.4: without mirror, what was deleted at home stays on scratch", async () => {
  using at = hub();
  at.write("hf/gone", "1");
  await at.ef(["sync"]);
  rmSync(join(at.home, "hf/gone"));
  await at.ef(["sync"]);
  expect(at.read(join(at.cache("HF_HOME"), "gone"))).toBe("1");
});

test("times: arrival: files get the time they came, an environment keeps its own; fresh, and changes are still seen", async () => {
  using at = hub({ ef: { transfer: { times: "arrival" } } });
  at.write("hf/env/pyvenv.cfg", "");
  at.write("hf/env/lib/a.py", "");
  const old = new Date("2020-02-02T02:02:02Z");
  for (const name of ["model.bin", "env/lib/a.py"]) utimesSync(join(at.home, "hf", name), old, old);
  const began = Date.now();
  expect((await at.ef(["sync"])).stderr).not.toContain("changing");
  const copy = at.cache("HF_HOME");
  expect(statSync(join(copy, "model.bin")).mtimeMs).toBeGreaterThanOrEqual(began - 1);
  expect(statSync(join(copy, "env/lib/a.py")).mtimeMs).toBe(old.getTime());
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  expect((await at.ef(["sync", "--force"])).stderr).toContain("nothing to copy");
  at.write("hf/model.bin", "WEIGHTS");
  expect((await at.ef(["sync"])).stderr).toContain("complete (1 file, 7 B");
  expect(at.read(join(copy, "model.bin"))).toBe("WEIGHTS");
});

test("another source: said that the files of the earlier one are still there", async () => {
  using at = hub();
  at.write("other/x", "1");
  await at.ef(["sync"]);
  at.configure({ HF_HOME: "other" });
  expect((await at.ef(["sync"])).stderr).toContain(`earlier source ${join(at.home, "hf")}`);
});

test("what is exported beside a variable is not, where there is no cache yet; and never instead of its path", async () => {
  using at = new Home();
  at.configure({ HF_HOME: "none" }, { ef: { vars: { HF_HOME: { env: { HF_HUB_OFFLINE: "1" } } } } });
  expect((await at.ef(["sync", "--shell", "bash"])).stdout).toBe(`export HF_HOME='${at.cache("HF_HOME")}'\n`);
  at.write("none/x", "1");
  at.configure({ HF_HOME: "none" }, { ef: { vars: { HF_HOME: { env: { HF_HOME: "bad" } } } } });
  expect((await at.ef(["sync", "--shell", "bash"])).stdout).toBe(`export HF_HOME='${at.cache("HF_HOME")}'\n`);
});

test("stderr that takes nothing (a full disk, a terminal that hung up) keeps nothing from being done", async () => {
  using at = hub();
  const { stdout, code } = await at.sh(
    "bash",
    `set -euo pipefail; eval "$(ef sync 2>/dev/full)"; cat "$HF_HOME/model.bin"`,
  );
  expect(stdout).toBe("weights");
  expect(code).toBe(0);
});

test.skipIf(process.geteuid?.() !== 0)(
  "a link of another user in the place of the copy is refused [needs root]",
  async () => {
    using at = hub();
    mkdirSync(join(at.dir, "trap"));
    mkdirSync(at.cache("."), { recursive: true });
    await at.sh("sh", `ln -s '${at.dir}/trap' '${at.cache("HF_HOME")}'; chown -h 65534 '${at.cache("HF_HOME")}'`);
    const { stderr, code } = await at.ef(["sync"]);
    expect(stderr).toContain("symbolic link of another user");
    expect(code).toBe(1);
    expect(readdirSync(join(at.dir, "trap"))).toEqual([]);
  },
);

test("--dry-run names the first changes, --verbose all of them", async () => {
  using at = hub();
  for (let i = 10; i < 40; i++) at.write(`hf/many/${i}`, "");
  const few = (await at.ef(["sync", "-n"])).stderr;
  expect(few.match(/^ {4}many\/\d+$/gm)?.length).toBeLessThan(30);
  expect(few).toContain("all names: --verbose");
  const all = (await at.ef(["sync", "-n", "-v"])).stderr;
  expect(all.match(/^ {4}many\/\d+$/gm)).toHaveLength(30);
  expect(all).not.toContain("all names");
});

test("times of arrival: a new name of a file that is there is not taken for a job's work", async () => {
  using at = new Home({ "hf/model.bin": "weights", "hf/b": "b" });
  at.configure({ HF_HOME: "hf" }, { ef: { transfer: { times: "arrival" } } });
  expect((await at.ef(["sync"])).code).toBe(0);
  const here = (name: string) => join(at.home, "hf", name);
  rmSync(here("b"));
  linkSync(here("model.bin"), here("b"));
  for (let i = 0; i < 2; i++) {
    const { code, stderr } = await at.ef(["sync", "--force"]);
    expect([code, stderr]).toEqual([0, expect.not.stringContaining("kept as it is")]);
  }
  expect(statSync(join(at.cache("HF_HOME"), "b")).ino).toBe(statSync(join(at.cache("HF_HOME"), "model.bin")).ino);
});

test("a source that is gone: its copy is not called empty", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  rmSync(join(at.home, "hf"), { recursive: true });
  const { stderr, code } = await at.ef(["sync"]);
  expect([code, at.read(join(at.cache("HF_HOME"), "a"))]).toEqual([0, "1"]);
  expect(stderr).toContain(`HF_HOME: left as it is, at ${at.cache("HF_HOME")}\n`);
});
