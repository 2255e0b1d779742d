import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { bytesOf } from "../../lib/base/bytes.ts";
import { haveUv, makeEnv } from "../envs.ts";
import { efArgv, Home, have, haveOtherUser, run, until } from "../helpers.ts";
import { Terminal } from "../terminal.ts";
import { differences, fillTree, lookAt, os, writeRandom } from "../trees.ts";

const MiB = 1 << 20;
const configOf = (at: Home) => JSON.parse(at.read(join(at.home, ".euler-files.json")));
const old = (at: Home) => join(at.home, "hf");
const fresh = (at: Home) => join(at.dir, "project/hf");

/** Numbers from a seed. */
function seeded(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A HOME with a cache of 200 small files. */
function cache(): Home {
  const at = new Home();
  for (let i = 0; i < 200; i++) at.write(`hf/${i % 7}/${i}`, `${i}`.repeat(1 + (i % 50)));
  at.configure({ HF_HOME: "hf" });
  mkdirSync(join(at.dir, "project"));
  return at;
}

/** What ef keeps beside the configuration. */
const journals = (at: Home) => readdirSync(at.home).filter((name) => name.includes(".migrate-"));

/** Everything below a directory, itself too, but for what Bun keeps of the sources it runs. */
const listing = async (dir: string) =>
  (await run(["find", dir, "-name", ".bun", "-prune", "-o", "-printf", "%p %T@ %i\n"], { env: {} })).stdout;

test.each([
  ["inodes", "size=64m,nr_inodes=60", "size=64m,nr_inodes=10000"],
  ["bytes", "size=256k,nr_inodes=10000", "size=64m,nr_inodes=10000"],
])(
  "a target that runs out of %s (peers A2.1): exit 1, all is still there, no change; with more room it completes [needs root]",
  async (_, small, large) => {
    using at = cache();
    const project = join(at.dir, "project");
    if ((await at.sh("sh", `mount -t tmpfs -o ${small} tmpfs '${project}'`)).code !== 0)
      return console.warn("not here: mount (needs root)");
    try {
      writeRandom(at.write("hf/large", ""), 600_000, seeded(1));
      const [before, config] = [lookAt(old(at)), configOf(at)];
      const refused = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--yes"]);
      expect(refused.stderr).toMatch(/Cannot copy HF_HOME to .*: it needs .* left there by the file system/);
      expect(refused.code).toBe(1);
      expect(readdirSync(project)).toEqual([]);

      const { stderr, code } = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--yes", "--no-preflight"]);
      expect(stderr).toMatch(/Cannot write .*no space left/);
      expect(stderr).toContain("nothing was deleted");
      expect(stderr).toContain("goes on where it stopped");
      expect(code).toBe(1);
      expect(differences(before, lookAt(old(at)))).toEqual([]);
      expect(configOf(at)).toEqual(config);

      await at.sh("sh", `mount -o remount,${large} '${project}'`);
      const again = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--yes"]);
      expect(again.stderr).toContain("HF_HOME: moved");
      expect(again.code).toBe(0);
      expect(existsSync(old(at))).toBe(false);
      expect(differences(before, lookAt(fresh(at)))).toEqual([]);
      expect(configOf(at).vars.HF_HOME.source).toBe(fresh(at));
      expect(journals(at)).toEqual([]);
    } finally {
      await at.sh("sh", `umount '${project}'`);
    }
  },
);

test("a move: every kind of name and entry, the configuration, the record, what is printed", async () => {
  using at = new Home();
  const random = seeded(5);
  for (let seed = 0; seed < 4; seed++) {
    const root = join(at.home, `hf/${seed}`);
    mkdirSync(root, { recursive: true });
    fillTree(root, random, { sparse: seed === 1, xattrs: true });
  }
  writeFileSync(os(`${old(at)}/caf\xe9\xff\n`), "not UTF-8");
  writeFileSync(join(old(at), ".ef-tmp-host-999999999-0123456789abcdef-0"), "left by a killed push");
  symlinkSync(old(at), join(old(at), "absolute link into itself"));
  at.configure({ HF_HOME: "hf", TORCH_HOME: "torch" }, { unknown: { kept: 1 }, migrations: [] });
  const before = lookAt(old(at), { xattrs: true });
  const env = { PROJECT: join(at.dir, "pro ject") };
  mkdirSync(env.PROJECT);
  const args = ["migrate", "HF_HOME", "--to", "$PROJECT/deep/h f"];
  const { stdout, stderr, code } = await at.ef([...args, "--yes", "--checksum", "--json"], { env });
  expect(stderr).toBe("");
  expect(code).toBe(0);
  const place = `${env.PROJECT}/deep/h f`;
  const links = [...before.seen.values()].filter(({ text }) => text?.startsWith(bytesOf(old(at))));
  for (const link of links) link.text = bytesOf(place) + link.text?.slice(bytesOf(old(at)).length);
  expect(differences(before, lookAt(place, { xattrs: true }))).toEqual([]);
  expect(existsSync(old(at))).toBe(false);
  const { files, bytes, advice, ...report } = JSON.parse(stdout);
  expect(report).toEqual({
    ...{ ok: true, command: "migrate", what: "HF_HOME", target_type: "var", status: "migrated" },
    ...{ old_path: old(at), new_path: place, dry_run: false, keep_old: false, deleted_old: true },
    ...{ relocated: [], relinked: links.length, warnings: [], errors: [] },
  });
  expect(files).toBe([...before.seen.values()].filter(({ kind }) => kind === "file").length - 1); // not ef's own
  expect(bytes).toBeGreaterThan(0);
  expect(advice[0]).toContain(`export HF_HOME='${place}'`);
  const config = configOf(at);
  expect(config.unknown).toEqual({ kept: 1 });
  expect(config.vars.HF_HOME.source).toBe("$PROJECT/deep/h f");
  expect(config.vars.TORCH_HOME.source).toBe(join(at.home, "torch"));
  const [{ migrated_at, ...record }] = config.migrations;
  expect(record).toEqual({ old_path: old(at), new_path: place, field_name: "source", var_name: "HF_HOME" });
  expect(Math.abs(migrated_at - Date.now() / 1000)).toBeLessThan(100);
  expect(journals(at)).toEqual([]);
  const again = await at.ef([...args, "--yes"], { env });
  expect(again.stderr).toContain("it is there already");
  expect(again.code).toBe(2);
});

test("killed at random moments: each file is whole in one of the two places, and in the end in the new one", async () => {
  using at = new Home();
  const random = seeded(7);
  const want = new Map<string, string>();
  const hash = (path: string) => (existsSync(path) ? String(Bun.hash(readFileSync(path))) : "none");
  let [from, to] = [join(at.home, "one"), join(at.home, "two")];
  for (let i = 0; i < 300; i++) {
    const path = at.write(`one/${i % 11}/${i % 5}/f${i}`, "");
    writeRandom(path, 1 + random(i % 50 === 0 ? 4 * MiB : 20_000), random);
    want.set(path.slice(from.length), hash(path));
  }
  linkSync(join(from, "0/0/f0"), join(from, "linked"));
  const before = lookAt(from);
  at.configure({ HF_HOME: "one" }, { ef: { transfer: { bwlimit: "40M" } } });
  let moves = 0;
  for (let round = 0; round < 15; round++) {
    const after = 60 + random(900);
    const { code } = await at.ef(["migrate", "HF_HOME", "--to", to, "--yes"], {
      onStart: (child) => setTimeout(() => child.kill("SIGKILL"), after),
    });
    expect([0, 137]).toContain(code);
    for (const [path, expected] of want)
      expect([path, [hash(from + path), hash(to + path)].includes(expected)]).toEqual([path, true]);
    const inUse = configOf(at).vars.HF_HOME.source as string;
    for (const [path, expected] of want) if (inUse === to) expect(hash(to + path)).toBe(expected);
    // killed after all was done, but before it could say so, is done too
    if (code === 0 || (inUse === to && !existsSync(from) && journals(at).length === 0)) {
      moves++;
      expect(existsSync(from)).toBe(false);
      [from, to] = [to, from];
    }
  }
  if (inUseOf(at) !== to || existsSync(from) || journals(at).length > 0) {
    const end = await at.ef(["migrate", "HF_HOME", "--to", to, "--yes"]);
    expect(end.stderr).toContain("HF_HOME: moved");
    expect(end.code).toBe(0);
  }
  expect(existsSync(from)).toBe(false);
  expect(differences(before, lookAt(to))).toEqual([]);
  expect(configOf(at).migrations.length).toBe(moves + 1);
  expect(journals(at)).toEqual([]);
}, 60_000);

const inUseOf = (at: Home) => configOf(at).vars.HF_HOME.source as string;

test("SIGTERM in the middle: exit 143, all is still there; run again, it goes on", async () => {
  using at = new Home();
  writeRandom(at.write("hf/a", ""), 3 * MiB, seeded(1));
  writeRandom(at.write("hf/b", ""), 3 * MiB, seeded(2));
  at.configure({ HF_HOME: "hf" });
  const before = lookAt(old(at));
  const args = ["migrate", "HF_HOME", "--to", fresh(at), "--yes"];
  const { code } = await at.ef([...args, "--bwlimit", "2M"], {
    onStart: (child) =>
      void until("the copy", () => existsSync(fresh(at)) && readdirSync(fresh(at)).length > 0).then(() =>
        child.kill("SIGTERM"),
      ),
  });
  expect(code).toBe(143);
  expect(differences(before, lookAt(old(at)))).toEqual([]);
  expect(journals(at).length).toBe(1);
  at.write(
    `.euler-files.json.migrate-HF_HOME.ef-${hostname().slice(0, 30)}-4194305-0123456789abcdef.tmp`,
    "half of it",
  );
  expect((await at.ef(args)).code).toBe(0);
  expect(journals(at)).toEqual([]); // what a killed run was writing is gone too: no process has a number that high
  expect(differences(before, lookAt(fresh(at)))).toEqual([]);
});

test("a dry run and every refusal leave nothing behind", async () => {
  using at = cache();
  mkdirSync(join(at.home, "full"));
  writeFileSync(join(at.home, "full/of"), "something");
  symlinkSync(old(at), join(at.home, "link"));
  symlinkSync(old(at), join(at.dir, "above"));
  mkdirSync(at.cache("HF_HOME"), { recursive: true });
  await at.ef(["version"]);
  const before = await listing(at.dir);
  const dry = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--dry-run"]);
  expect(dry.stderr).toContain(`200 files, would be copied and compared; from ${old(at)}, which would be deleted`);
  expect(dry.code).toBe(0);
  const json = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--dry-run", "--json", "--no-delete"]);
  expect(JSON.parse(json.stdout)).toMatchObject({
    ...{ status: "dry-run", dry_run: true, keep_old: true, deleted_old: false, files: 200 },
  });
  const cases: [to: string, why: string][] = [
    [old(at), "both are the same directory"],
    [join(at.home, "link"), "both are the same directory"],
    [join(old(at), "inside/deep"), "the new place lies inside the old one"],
    [join(at.dir, "above/inside"), "the new place lies inside the old one"],
    [at.home, "the old place lies inside the new one"],
    ["/", "that is the root directory"],
    [join(at.home, "full"), 'that holds something already: "of"'],
    [join(at.home, "full/of"), "something else is there, no directory"],
    [at.cache("HF_HOME"), "scratch is not for keeping"],
    ["$NOT_SET/x", "NOT_SET is not set"],
  ];
  for (const [to, why] of cases) {
    const { stderr, code } = await at.ef(["migrate", "HF_HOME", "--to", to, "--yes"]);
    expect(stderr.split("\n")[0]).toContain(why);
    expect(code).toBe(2);
  }
  const unknown = await at.ef(["migrate", "venv_base", "--to", "/x", "--yes"]);
  expect(unknown.stderr).toContain(
    "Cannot migrate venv_base: it has no value in the configuration\n  there is: HF_HOME",
  );
  expect(unknown.code).toBe(2);
  for (const [args, hint] of [
    [["migrate"], "WHAT is missing"],
    [["migrate", "HF_HOME"], "--to DIR is missing"],
    [["migrate", "HF_HOME", "--to", fresh(at)], "give --yes"],
  ] as const) {
    const { stderr, code } = await at.ef([...args]);
    expect(stderr).toContain(hint);
    expect(code).toBe(2);
  }
  expect(await listing(at.dir)).toBe(before);
});

test("what the configuration has inside the directory, and a file system mounted there, keep it from being moved", async () => {
  using at = cache();
  at.configure({ XDG_CACHE_HOME: "cache", HF_HOME: "cache/hf", OTHER: "other" });
  for (const dir of ["cache/hf/a", "other"]) mkdirSync(join(at.home, dir), { recursive: true });
  const outer = await at.ef(["migrate", "XDG_CACHE_HOME", "--to", join(at.dir, "c"), "--yes"]);
  expect(outer.stderr).toContain(`the directory of HF_HOME (${at.home}/cache/hf) lies in it`);
  expect(outer.code).toBe(2);
  const onto = await at.ef(["migrate", "HF_HOME", "--to", join(at.home, "other"), "--yes"]);
  expect(onto.stderr).toContain("the directory of OTHER is there");
  expect(onto.code).toBe(2);
  const mounted = join(at.home, "cache/hf/a");
  if ((await at.sh("sh", `mount -t tmpfs tmpfs '${mounted}'`)).code !== 0) return console.warn("not here: mount");
  try {
    const { stderr, code } = await at.ef(["migrate", "HF_HOME", "--to", join(at.dir, "c"), "--yes"]);
    expect(stderr).toContain(`${mounted}, a mounted file system (tmpfs), is in it`);
    expect(code).toBe(2);
  } finally {
    await at.sh("sh", `umount '${mounted}'`);
  }
  expect((await at.ef(["migrate", "HF_HOME", "--to", join(at.dir, "c"), "--yes"])).code).toBe(0);
});

test("a FIFO, a file that cannot be read: named, nothing is deleted or changed", async () => {
  using at = cache();
  await at.sh("sh", `mkfifo '${old(at)}/pi pe'`);
  const { stderr, code } = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--yes"]);
  expect(stderr).toContain(`these are no files, directories or links:\n  ${old(at)}/pi pe`);
  expect(code).toBe(1);
  expect(existsSync(fresh(at))).toBe(false);
});

test.skipIf(!haveOtherUser)("files that cannot be read or removed [needs root, to be another user]", async () => {
  using at = cache();
  await at.sh("sh", `chown -R 65534:65534 '${at.dir}'; chmod 755 '${at.dir}'`);
  const asOther = (args: string[]) =>
    run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...efArgv, ...args], { cwd: "/", env: at.env });
  chmodSync(join(old(at), "3/3"), 0);
  const args = ["migrate", "HF_HOME", "--to", fresh(at), "--yes"];
  const unreadable = await asOther(args);
  expect(unreadable.stderr).toContain("3/3: permission denied");
  expect(unreadable.stderr).toContain("nothing was deleted");
  expect(unreadable.code).toBe(1);
  expect(inUseOf(at)).toBe(old(at));
  chmodSync(join(old(at), "3/3"), 0o644);

  // One directory belongs to somebody else by the time it is to be deleted.
  await at.sh("sh", `chown root '${old(at)}/5'`);
  const partly = await asOther([...args, "--json"]);
  const report = JSON.parse(partly.stdout);
  expect(report).toMatchObject({ ok: false, status: "migrated", deleted_old: false });
  expect(report.errors[0]).toContain(`${fresh(at)} is complete and in use, but ${old(at)} is not all gone`);
  expect(report.errors[0]).toMatch(/28 could not be removed: .*permission denied/);
  expect(partly.code).toBe(1);
  expect(inUseOf(at)).toBe(fresh(at));
  expect(readdirSync(old(at))).toEqual(["5"]);
  expect(readdirSync(join(old(at), "5")).length).toBe(28);

  await at.sh("sh", `chown -R 65534 '${old(at)}'`);
  const rest = await asOther(args);
  expect(rest.stderr).toContain("HF_HOME: moved");
  expect(rest.code).toBe(0);
  expect(existsSync(old(at))).toBe(false);
  expect(journals(at)).toEqual([]);
  expect(configOf(at).migrations.length).toBe(1);

  // What is above it belongs to somebody else: it is emptied, and that is all that can be done.
  await at.sh("sh", `chown root '${at.dir}/project'`);
  const emptied = await asOther(["migrate", "HF_HOME", "--to", join(at.home, "back"), "--yes"]);
  expect(emptied.stderr).toContain(`${fresh(at)} is empty, but cannot be removed itself: permission denied`);
  expect(emptied.code).toBe(0);
  expect(readdirSync(fresh(at))).toEqual([]);
  expect(journals(at)).toEqual([]);
});

test("--no-delete keeps the old directory as it is; a directory that may not be written to moves too", async () => {
  using at = cache();
  chmodSync(join(old(at), "3"), 0o555);
  const before = lookAt(old(at));
  const kept = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--yes", "--no-delete"]);
  expect(kept.stderr).toContain(`${old(at)} is kept`);
  expect(differences(before, lookAt(old(at)))).toEqual([]);
  expect(differences(before, lookAt(fresh(at)))).toEqual([]);
  expect(journals(at)).toEqual([]);
  const { code } = await at.ef(["migrate", "--input-json", "-"], {
    stdin: JSON.stringify({ what: "HF_HOME", to_path: join(at.dir, "third"), keep_old: false, yes: true }),
  });
  expect(code).toBe(0);
  expect(existsSync(fresh(at))).toBe(false);
  expect(differences(before, lookAt(join(at.dir, "third")))).toEqual([]);
});

test("a directory that is reached through a link: what it points to moves, and the link goes", async () => {
  using at = cache();
  mkdirSync(join(at.dir, "store"));
  await at.sh("sh", `mv '${old(at)}' '${at.dir}/store/real' && ln -s ../store/real '${old(at)}'`);
  const { code } = await at.ef(["migrate", "HF_HOME", "--to", fresh(at), "--yes"]);
  expect(code).toBe(0);
  expect(readdirSync(join(at.dir, "store"))).toEqual([]);
  expect(lstatSync(old(at), { throwIfNoEntry: false })).toBeUndefined();
  expect(configOf(at).migrations[0].old_path).toBe(old(at));
});

test("two at once: one moves, the other is told so; a sync waits", async () => {
  using at = cache();
  writeRandom(at.write("hf/large", ""), 3 * MiB, seeded(1));
  await at.ef(["sync"]);
  const args = ["migrate", "HF_HOME", "--to", fresh(at), "--yes"];
  const first = at.ef([...args, "--bwlimit", "2M"]);
  await until("the copy", () => existsSync(fresh(at)) && readdirSync(fresh(at)).length > 0);
  const second = await at.ef(["migrate", "HF_HOME", "--to", join(at.dir, "elsewhere"), "--yes"]);
  expect(second.stderr).toMatch(/Cannot move HF_HOME: process \d+ on .* is moving it/);
  expect(second.code).toBe(1);
  expect(existsSync(join(at.dir, "elsewhere"))).toBe(false);
  const push = await at.ef(["push"], {
    onStart(child) {
      let said = "";
      child.stderr?.on("data", (chunk) => {
        said += chunk;
        if (said.includes("waiting for")) child.kill("SIGTERM");
      });
    },
  });
  expect(push.code).toBe(143);
  expect((await first).code).toBe(0);
  const sync = await at.ef(["sync"]);
  expect(sync.stderr).toBe("HF_HOME: fresh\n");
  expect(sync.code).toBe(0);
  expect(journals(at)).toEqual([]);
});

describe.skipIf(!haveUv)("environments [needs uv]", () => {
  const works = async (env: string) => {
    const python = await run([join(env, "bin/python"), "-c", "import sys; print(sys.prefix)"], { env: {} });
    expect(python.stdout.trim()).toBe(env);
    const black = await run([join(env, "bin/black"), "--version"], { env: { PATH: "/usr/bin:/bin" } });
    expect(black.stderr).toBe("");
    expect(black.stdout).toContain("black");
  };

  test("venv_base: they run from the new place, and no text of them names the old one", async () => {
    using at = new Home();
    const base = join(at.home, "venvs");
    mkdirSync(base);
    for (const name of ["one", "two"]) await makeEnv(join(base, name), ["black"]);
    at.write("venvs/notes.txt", "no environment");
    at.configure({}, { apptainer: { venv_base: "~/venvs", images: {} } });
    const place = join(at.dir, "project/new venvs");
    const args = ["migrate", "venv_base", "--to", place, "--yes", "--checksum"];
    const { stderr, code } = await at.ef(args);
    expect(stderr).toContain("change it: export VENV_DIR=");
    expect(code).toBe(0);
    expect(existsSync(base)).toBe(false);
    for (const name of ["one", "two"]) await works(join(place, name));
    const named = await run(["grep", "-rIl", "--", base, place], { env: { PATH: "/usr/bin:/bin" } });
    expect(named.stdout).toBe("");
    expect(configOf(at).apptainer.venv_base).toBe(place);
    expect(configOf(at).migrations[0]).toMatchObject({ field_name: "venv_base", var_name: "" });
  }, 60_000);
});

describe.skipIf(!have("tmux"))("the questions on a terminal [needs tmux]", () => {
  test("what, where to, and whether: moved; a wrong place is asked for again", async () => {
    using at = cache();
    at.configure({ TORCH_HOME: "torch", HF_HOME: "hf" }, { ef: { wheelhouse: "~/wheels" } });
    await using terminal = await Terminal.open(at, "ef migrate");
    const list = await terminal.shows(/wheelhouse/);
    expect(list).toMatch(/HF_HOME +\d+K +~\/hf/);
    expect(list).toMatch(/TORCH_HOME +- +~\/torch/);
    await terminal.press("Down", "Enter");
    await terminal.answer("New directory of HF_HOME, now ~/hf", "/", "Enter");
    await terminal.answer("that is the root directory", "C-u", fresh(at), "Enter");
    const question = await terminal.shows(/200 files, from/);
    expect(question.replaceAll("\n", "")).toContain(`from ${old(at)} to ${fresh(at)}?`);
    expect(existsSync(fresh(at))).toBe(false);
    await terminal.press("y");
    await terminal.shows("code=0");
    expect(statSync(join(fresh(at), "3/3")).isFile()).toBe(true);
    expect(existsSync(old(at))).toBe(false);
  });

  test("no, and Ctrl-C: nothing is moved", async () => {
    using at = cache();
    const before = lookAt(dirname(fresh(at)));
    for (const [key, code] of [
      ["n", 1],
      ["C-c", 130],
    ] as const) {
      await using terminal = await Terminal.open(at, `ef migrate HF_HOME --to '${fresh(at)}'`);
      await terminal.answer(/200 files, from/, key);
      expect(await terminal.shows(`code=${code}`)).toContain("nothing moved");
    }
    expect(differences(before, lookAt(dirname(fresh(at))))).toEqual([]);
    expect(journals(at)).toEqual([]);
  });
});
