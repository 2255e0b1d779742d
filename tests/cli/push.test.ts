/** `ef push` and `ef exec --push`: the real program on real trees. */
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { efArgv, Home, have, haveOtherUser, isBinary, run, until } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

const firstFiles = { "hf/model.bin": "weights", "hf/hub/deep/config.json": "{}", "hf/hub/b": "b" };

/** A cache of a few files, synced. */
async function hub(more: object = {}, files: Record<string, string> = firstFiles): Promise<Home> {
  const at = new Home(files);
  at.configure({ HF_HOME: "hf" }, more);
  for (const path of Object.keys(files)) utimesSync(join(at.home, path), 1_700_000_000, 1_700_000_000);
  const { code, stderr } = await at.ef(["sync"]);
  if (code !== 0) throw new Error(stderr);
  return at;
}

const here = (at: Home, path = "") => join(at.home, "hf", path);
const there = (at: Home, path = "") => join(at.cache("HF_HOME"), path);

/** Write a file on scratch, as a job does. */
function job(at: Home, path: string, text: string): void {
  mkdirSync(join(there(at, path), ".."), { recursive: true });
  writeFileSync(there(at, path), text);
}

/** Write a file at the source, as somebody at home does. */
const edit = (at: Home, path: string, text: string) => at.write(`hf/${path}`, text);

/** Every path below a directory, and its contents. */
function contents(dir: string): Record<string, string> {
  const paths = readdirSync(dir, { recursive: true, encoding: "utf8" }).sort();
  return Object.fromEntries(
    paths.flatMap((path) => {
      const stat = lstatSync(join(dir, path));
      if (stat.isDirectory()) return [[`${path}/`, ""]];
      return [
        [path, stat.isSymbolicLink() ? `-> ${readlinkSync(join(dir, path))}` : readFileSync(join(dir, path), "utf8")],
      ];
    }),
  );
}

const conflictsIn = (dir: string) =>
  Object.keys(contents(dir)).filter((path) => /\.ef-conflict-[^/]*-\d{8}T\d{6}Z(-\d+)?\/?$/.test(path));

async function push(at: Home, ...args: string[]) {
  const { stdout, stderr, code } = await at.ef(["push", "--json", ...args]);
  const json = JSON.parse(stdout);
  return { json, result: json.results?.[0], stderr, code };
}

test("A2.5: a file edited at home after the sync is not overwritten by the older copy", async () => {
  using at = await hub();
  edit(at, "model.bin", "new weights");
  job(at, "out/result", "42");
  const { stderr, code } = await at.ef(["push"]);
  expect(stderr).toContain("HF_HOME: 1 file, 2 B to push");
  expect(stderr).toMatch(/HF_HOME: pushed \(1 file, 2 B, \S+ m?s\)/);
  expect(at.read(here(at, "model.bin"))).toBe("new weights");
  expect(at.read(here(at, "out/result"))).toBe("42");
  expect(code).toBe(0);
});

test("what changed on scratch only comes back; after that push and sync have nothing to do", async () => {
  using at = await hub();
  job(at, "model.bin", "trained");
  job(at, "new/dir/file", "n");
  mkdirSync(there(at, "empty"));
  const { json, result, code } = await push(at);
  expect(json).toMatchObject({ ok: true, command: "push", dry_run: false, only_vars: [], errors: [] });
  expect(result).toMatchObject({
    name: "HF_HOME",
    status: "pushed",
    source: here(at).replace(/\/$/, ""),
    scratch: at.cache("HF_HOME"),
    files: 2,
    bytes: 8,
    conflicts: [],
    deleted: 0,
    names: ["empty/", "model.bin", "new/", "new/dir/", "new/dir/file"],
  });
  expect(code).toBe(0);
  expect(contents(here(at))).toEqual(contents(there(at)));
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  expect((await push(at)).result).toMatchObject({ files: 0, names: [] });
  expect((await at.ef(["sync", "--force"])).stderr).toContain("contents are the same");
  expect(at.read(here(at, "model.bin"))).toBe("trained");
});

test("links, hard links, holes, modes and times come back as they are; a chmod alone too", async () => {
  using at = await hub();
  symlinkSync("../model.bin", there(at, "hub/link"));
  job(at, "a", "same inode");
  linkSync(there(at, "a"), there(at, "hub/a2"));
  linkSync(there(at, "model.bin"), there(at, "linked"));
  job(at, "sparse", "");
  truncateSync(there(at, "sparse"), 20_000_000);
  job(at, "run.sh", "#!/bin/sh\n");
  chmodSync(there(at, "run.sh"), 0o750);
  chmodSync(there(at, "hub/b"), 0o600);
  job(at, "secret", "s");
  chmodSync(there(at, "secret"), 0o400);
  utimesSync(there(at, "run.sh"), 1_600_000_000, 1_600_000_000);
  expect((await push(at)).code).toBe(0);
  expect(readlinkSync(here(at, "hub/link"))).toBe("../model.bin");
  expect(statSync(here(at, "a")).ino).toBe(statSync(here(at, "hub/a2")).ino);
  expect(statSync(here(at, "linked")).ino).toBe(statSync(here(at, "model.bin")).ino);
  expect(statSync(here(at, "sparse"))).toMatchObject({ size: 20_000_000 });
  expect(statSync(here(at, "sparse")).blocks * 512).toBeLessThan(100_000);
  expect(statSync(here(at, "run.sh"))).toMatchObject({ mode: 0o100750, mtimeMs: 1_600_000_000_000 });
  expect(statSync(here(at, "hub/b")).mode & 0o777).toBe(0o600);
  expect(statSync(here(at, "secret")).mode & 0o777).toBe(0o400);
  expect((await push(at)).result.names).toEqual([]);
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("a link that points elsewhere since is all that is to be pushed", async () => {
  using at = await hub();
  symlinkSync("model.bin", here(at, "latest"));
  symlinkSync("config.json", here(at, "hub/deep/old"));
  expect((await at.ef(["sync"])).code).toBe(0);
  rmSync(there(at, "latest"));
  symlinkSync("hub/b", there(at, "latest"));
  rmSync(there(at, "hub/b"));
  symlinkSync("deep/config.json", there(at, "hub/b")); // was a file
  const { code, stderr } = await at.ef(["push"]);
  expect(stderr).toContain("2 symbolic links to make");
  expect(code).toBe(0);
  expect([readlinkSync(here(at, "latest")), readlinkSync(here(at, "hub/b"))]).toEqual(["hub/b", "deep/config.json"]);
  expect((await at.ef(["push"])).stderr).not.toContain("to make");
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("permissions that changed at the source only stay, however often it is pushed", async () => {
  using at = await hub();
  chmodSync(here(at, "model.bin"), 0o600);
  chmodSync(here(at, "hub"), 0o700);
  chmodSync(there(at, "hub/b"), 0o640); // on both sides
  chmodSync(here(at, "hub/b"), 0o600);
  for (let i = 0; i < 3; i++) {
    expect((await push(at)).code).toBe(0);
    const modes = ["model.bin", "hub", "hub/b"].map((path) => (statSync(here(at, path)).mode & 0o777).toString(8));
    expect(modes).toEqual(["600", "700", "600"]);
  }
  expect((await at.ef(["sync"])).code).toBe(0);
  expect(statSync(there(at, "model.bin")).mode & 0o777).toBe(0o600);
});

test.skipIf(!have("rsync"))("where scratch has its own permissions, a file keeps those of the source", async () => {
  using at = await hub({ rsync_extra_args: ["--chmod=F755"] });
  edit(at, "token", "secret");
  chmodSync(here(at, "token"), 0o600);
  await at.ef(["sync"]);
  expect(statSync(there(at, "token")).mode & 0o777).toBe(0o755);
  job(at, "token", "another secret");
  expect((await push(at)).code).toBe(0);
  expect(readFileSync(here(at, "token"), "utf8")).toBe("another secret");
  expect(statSync(here(at, "token")).mode & 0o777).toBe(0o600);
  expect((await push(at)).stderr).not.toContain("to push");
});

test("a directory that is new on both sides keeps its permissions at the source, and scratch gets them", async () => {
  using at = await hub();
  mkdirSync(here(at, "new"), { mode: 0o700 });
  mkdirSync(there(at, "new"), { mode: 0o755 });
  for (let i = 0; i < 3; i++) {
    expect((await push(at)).code).toBe(0);
    expect(statSync(here(at, "new")).mode & 0o777).toBe(0o700);
  }
  expect((await at.ef(["sync"])).code).toBe(0);
  expect(statSync(there(at, "new")).mode & 0o777).toBe(0o700);
});

test("names with newlines, other bytes, leading dashes, and of 255 bytes", async () => {
  using at = await hub();
  const names = ["new\nline", "-rf", "a b", "ü", "$HOME", "n".repeat(255)];
  for (const name of names) job(at, name, name);
  const raw = Buffer.concat([Buffer.from(`${there(at)}/`), Buffer.from([0xff, 0xfe])]);
  writeFileSync(raw, "raw");
  const { result, code } = await push(at, "--verbose");
  expect(code).toBe(0);
  expect(result.names).toContain("new\\nline");
  expect(result.names).toContain("\\xff\\xfe");
  for (const name of names) expect(at.read(here(at, name))).toBe(name);
  expect(readFileSync(Buffer.concat([Buffer.from(`${here(at)}/`), Buffer.from([0xff, 0xfe])]), "utf8")).toBe("raw");
  expect((await push(at)).result.names).toEqual([]);
});

describe("conflicts", () => {
  test("both: the scratch version is stored beside the source's, exit 1; then sync and push come to rest", async () => {
    using at = await hub();
    edit(at, "model.bin", "at home");
    job(at, "model.bin", "on scratch");
    const { result, json, code } = await push(at);
    const [stored = ""] = conflictsIn(here(at));
    expect(stored).toMatch(/^model\.bin\.ef-conflict-/);
    expect(result.conflicts).toEqual([{ path: "model.bin", why: "changed on both sides", stored }]);
    expect(json.ok).toBe(false);
    expect(json.errors[0]).toContain("model.bin: changed on both sides");
    expect(code).toBe(1);
    expect(at.read(here(at, "model.bin"))).toBe("at home");
    expect(at.read(here(at, stored))).toBe("on scratch");

    const again = await push(at);
    expect(again.result.conflicts).toEqual([]);
    expect(again.code).toBe(0);
    expect((await at.ef(["sync"])).code).toBe(0);
    expect(contents(there(at))).toEqual(contents(here(at)));
    expect(at.read(there(at, "model.bin"))).toBe("at home");
    expect((await push(at)).result.names).toEqual([]);
    expect(conflictsIn(here(at))).toEqual([stored]);
  });

  test("equal contents are none, whatever their times", async () => {
    using at = await hub();
    edit(at, "model.bin", "the same");
    job(at, "model.bin", "the same");
    utimesSync(there(at, "model.bin"), 1_650_000_000, 1_650_000_000);
    const { result, code } = await push(at);
    expect(result).toMatchObject({ conflicts: [], files: 0 });
    expect(code).toBe(0);
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  });

  test.each([
    ["source", "at home", 0],
    ["scratch", "on scratch", 0],
    ["fail", "at home", 1],
  ] as const)("--on-conflict %s", async (how, text, expected) => {
    using at = await hub();
    edit(at, "model.bin", "at home");
    job(at, "model.bin", "on scratch");
    job(at, "new", "n");
    const { code } = await push(at, "--on-conflict", how);
    expect(at.read(here(at, "model.bin"))).toBe(text);
    expect(at.read(there(at, "model.bin"))).toBe("on scratch");
    expect(conflictsIn(here(at))).toEqual([]);
    expect(at.exists(here(at, "new"))).toBe(how !== "fail");
    expect(code).toBe(expected);
  });

  test("an earlier one is not written over", async () => {
    using at = await hub();
    for (const text of ["first", "second", "third"]) {
      edit(at, "model.bin", `home ${text}`);
      job(at, "model.bin", text);
      expect((await push(at)).code).toBe(1);
    }
    const texts = conflictsIn(here(at)).map((path) => at.read(here(at, path)));
    expect(texts.sort()).toEqual(["first", "second", "third"]);
  });

  test("changed on scratch and deleted at home: stored, and not made again under its name", async () => {
    using at = await hub();
    rmSync(here(at, "model.bin"));
    job(at, "model.bin", "on scratch");
    const { result, code } = await push(at);
    expect(result.conflicts[0].why).toBe("changed on scratch, deleted at the source");
    expect(at.exists(here(at, "model.bin"))).toBe(false);
    expect(at.read(here(at, conflictsIn(here(at))[0] ?? ""))).toBe("on scratch");
    expect(code).toBe(1);
    expect((await push(at)).code).toBe(0);
  });

  test("deleted at home only: it stays deleted", async () => {
    using at = await hub();
    rmSync(here(at, "hub"), { recursive: true });
    expect((await push(at)).result).toMatchObject({ files: 0, conflicts: [] });
    expect(at.exists(here(at, "hub"))).toBe(false);
  });

  test("other types: a directory in place of a file, and the other way round", async () => {
    using at = await hub();
    rmSync(there(at, "model.bin"));
    job(at, "model.bin/part/0", "0");
    symlinkSync("0", there(at, "model.bin/part/link"));
    rmSync(there(at, "hub"), { recursive: true });
    job(at, "hub", "now a file");
    const { code } = await push(at);
    expect(code).toBe(1);
    expect(at.read(here(at, "model.bin"))).toBe("weights");
    expect(at.read(here(at, "hub/b"))).toBe("b");
    const all = contents(here(at));
    const [dir = ""] = conflictsIn(here(at)).filter((path) => path.startsWith("model.bin"));
    expect(all[`${dir}part/0`]).toBe("0");
    expect(all[`${dir}part/link`]).toBe("-> 0");
    expect((await push(at)).code).toBe(0);
    expect((await at.ef(["sync"])).code).toBe(0);
    expect(contents(there(at))).toEqual(contents(here(at)));
  });

  test("a name of 255 bytes is cut", async () => {
    const name = `${"ü".repeat(127)}x`;
    using at = await hub({}, { [`hf/${name}`]: "1", "hf/b": "b" });
    edit(at, name, "at home");
    job(at, name, "on scratch");
    expect((await push(at)).code).toBe(1);
    const [stored = ""] = conflictsIn(here(at));
    expect(stored).toStartWith("üüü");
    expect(Buffer.byteLength(stored)).toBeLessThanOrEqual(255);
    expect(at.read(here(at, stored))).toBe("on scratch");
  });
});

describe("purged and deleted", () => {
  test("what is gone from scratch stays at the source", async () => {
    using at = await hub();
    rmSync(there(at, "model.bin"));
    rmSync(there(at, "hub"), { recursive: true });
    expect((await push(at)).code).toBe(0);
    expect(Object.keys(contents(here(at)))).toEqual([
      "hub/",
      "hub/b",
      "hub/deep/",
      "hub/deep/config.json",
      "model.bin",
    ]);
    expect((await at.ef(["sync"])).stderr).toContain("3 files");
  });

  test("--delete: a deletion is pushed, a purged directory is not", async () => {
    const many = Object.fromEntries(["a", "b", "c", "d"].map((name) => [`hf/${name}`, name]));
    using at = await hub({}, { ...many, "hf/old/1": "1", "hf/gone/2": "2" });
    rmSync(there(at, "a"));
    rmSync(there(at, "old/1"));
    rmSync(there(at, "gone"), { recursive: true });
    const asked = await push(at, "--delete");
    expect(asked.json.error).toMatchObject({ type: "UsageError", code: "NOT_INTERACTIVE" });
    expect(asked.json.error.hint).toContain("--yes");
    expect(asked.code).toBe(2);
    const dry = await push(at, "--delete", "--dry-run");
    expect(dry.result).toMatchObject({ deleted: 1, names: ["delete a"] });
    expect(at.exists(here(at, "a"))).toBe(true);
    const { result, code } = await push(at, "--delete", "--yes");
    expect(result).toMatchObject({ deleted: 1, names: ["delete a"] });
    expect(Object.keys(contents(here(at)))).toEqual(["b", "c", "d", "gone/", "gone/2", "old/", "old/1"]);
    expect(code).toBe(0);
    await at.ef(["sync"]);
    expect(at.exists(there(at, "a"))).toBe(false);
    expect(contents(there(at))).toEqual(contents(here(at)));
  });

  test("--delete: what changed at the source since is kept", async () => {
    using at = await hub({}, { "hf/a": "a", "hf/b": "b", "hf/c": "c" });
    rmSync(there(at, "a"));
    edit(at, "a", "edited");
    expect((await push(at, "--delete", "--yes")).result.deleted).toBe(0);
    expect(at.read(here(at, "a"))).toBe("edited");
  });

  test.skipIf(!have("tmux"))("--delete asks on a terminal, and refuses more than half", async () => {
    using at = await hub({}, { "hf/a": "a", "hf/b": "b", "hf/c": "c" });
    rmSync(there(at, "a"));
    {
      await using terminal = await Terminal.open(at, "ef push --delete");
      await terminal.answer("Delete 1 file in", "n", "Enter");
      await terminal.shows("code=0");
      expect(at.exists(here(at, "a"))).toBe(true);
    }
    {
      await using terminal = await Terminal.open(at, "ef push --delete");
      await terminal.answer("Delete 1 file in", "y", "Enter");
      await terminal.shows("code=0");
      expect(at.exists(here(at, "a"))).toBe(false);
    }
    await at.ef(["sync"]);
    for (const name of ["d", "e"]) edit(at, name, name);
    await at.ef(["sync"]);
    for (const name of ["b", "d", "e"]) rmSync(there(at, name));
    await using terminal = await Terminal.open(at, "ef push --delete", { width: 300 });
    await terminal.shows("more than half");
    await terminal.shows("code=1");
    expect(Object.keys(contents(here(at)))).toEqual(["b", "c", "d", "e"]);
    expect((await push(at, "--delete", "--yes")).result.deleted).toBe(3);
  });
});

describe("what is not there", () => {
  test("no scratch directory, an empty one, one of excluded files only: skipped", async () => {
    using at = await hub({ ef: { vars: { HF_HOME: { exclude: ["*.log"] } } } });
    const before = contents(here(at));
    rmSync(there(at), { recursive: true });
    expect((await push(at, "--delete", "--yes")).result.status).toBe("scratch-missing");
    mkdirSync(there(at));
    expect((await push(at, "--delete", "--yes")).result.status).toBe("scratch-missing");
    job(at, "x.log", "x");
    const { result, code } = await push(at, "--delete", "--yes");
    expect(result.status).toBe("scratch-missing");
    expect(code).toBe(0);
    expect(contents(here(at))).toEqual(before);
  });

  test("no source directory: made, never more open than scratch", async () => {
    using at = new Home();
    at.configure({ HF_HOME: "cache/hf" });
    await at.ef(["sync"]);
    job(at, "made/by/job", "j");
    chmodSync(there(at), 0o700);
    const { code } = await push(at);
    expect(at.read(join(at.home, "cache/hf/made/by/job"))).toBe("j");
    expect(statSync(join(at.home, "cache/hf")).mode & 0o777).toBe(0o700);
    expect(code).toBe(0);
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  });

  test.each(["gone", "empty"])("a source that was full and is %s: refused, it may not be mounted", async (how) => {
    using at = await hub();
    job(at, "new", "n");
    rmSync(here(at), { recursive: true });
    if (how === "empty") mkdirSync(here(at));
    const { json, code } = await push(at);
    expect(json.failures[0].code).toBe("BAD_ROOT");
    expect(json.errors[0]).toContain("was full when it was synced");
    expect(code).toBe(1);
    expect(at.exists(here(at, "new"))).toBe(false);
  });

  test("no manifest: differences are conflicts, equal contents and new files are not", async () => {
    using at = await hub();
    rmSync(at.cache(".HF_HOME.manifest"));
    rmSync(at.cache(".HF_HOME.synced"));
    job(at, "hub/b", "another");
    job(at, "new", "n");
    utimesSync(there(at, "model.bin"), 1_650_000_000, 1_650_000_000);
    const { result, code } = await push(at);
    expect(result.conflicts.map(({ path }: { path: string }) => path)).toEqual(["hub/b"]);
    expect(at.read(here(at, "hub/b"))).toBe("b");
    expect(at.read(here(at, "new"))).toBe("n");
    expect(code).toBe(1);
    expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false); // they are not equal
    expect((await push(at)).result.conflicts).toEqual([]);
  });

  test("a marker of euler-files stays, unless both sides are equal now", async () => {
    using at = await hub();
    const marker = at.cache(".HF_HOME.synced");
    const { ef: _, ...theirs } = JSON.parse(at.read(marker));
    writeFileSync(marker, JSON.stringify(theirs));
    rmSync(at.cache(".HF_HOME.manifest"));
    rmSync(there(at, "hub/b"));
    job(at, "new", "n");
    expect((await push(at)).code).toBe(0);
    expect(JSON.parse(at.read(marker))).toEqual(theirs);
    job(at, "hub/b", "b");
    expect((await push(at)).code).toBe(0);
    expect(JSON.parse(at.read(marker)).ef.manifest).toHaveLength(16);
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  });
});

test("excluded names, ef's temporary files and FIFOs are not pushed; the last are named", async () => {
  using at = await hub({ ef: { vars: { HF_HOME: { exclude: ["*.log"] } } } });
  job(at, "x.log", "x");
  job(at, "hub/.locks/models--a/1.lock", "");
  job(at, "hub/.ef-tmp-otherhost-1-0123456789abcdef-0", "t");
  await at.sh("sh", `mkfifo '${there(at, "pipe")}'`);
  const { result, code } = await push(at);
  expect(result).toMatchObject({ names: [], skipped: ["pipe"] });
  expect(Object.keys(contents(here(at)))).toEqual(["hub/", "hub/b", "hub/deep/", "hub/deep/config.json", "model.bin"]);
  expect(code).toBe(0);
});

test("what a killed push left at the source goes, also where nothing is to be pushed; not in a dry run", async () => {
  using at = await hub();
  const name = `hub/.ef-tmp-${hostname()}-999999999-0123456789abcdef-0`;
  edit(at, name, "half");
  for (const [args, isLeft] of [[["--dry-run"], true] as const, [[], false] as const]) {
    const { result, code } = await push(at, ...args);
    expect([result.names, code, existsSync(here(at, name))]).toEqual([[], 0, isLeft]);
  }
});

test("--dry-run touches nothing, and says what the run then does", async () => {
  using at = await hub();
  edit(at, "hub/b", "home");
  job(at, "hub/b", "scratch");
  job(at, "model.bin", "trained");
  job(at, "new/file", "n");
  const snapshot = () =>
    at.sh(
      "sh",
      `find '${here(at)}' '${at.scratch}' -printf '%p %s %T@ %m\\n' | sort; cat '${at.cache(".HF_HOME.synced")}'`,
    );
  const before = await snapshot();
  const dry = await push(at, "--dry-run", "--verbose");
  expect((await snapshot()).stdout).toBe(before.stdout);
  expect(dry.json.dry_run).toBe(true);
  expect(dry.result.status).toBe("dry-run");
  expect(dry.code).toBe(1); // as the run
  const wet = await push(at, "--verbose");
  const { names, files, bytes, deleted } = wet.result;
  expect(dry.result).toMatchObject({ names, files, bytes, deleted });
  expect(dry.result.conflicts.map(({ path }: { path: string }) => path)).toEqual(["hub/b"]);
  const { stderr } = await at.ef(["push", "-n"]);
  expect(stderr).toBe(`HF_HOME: nothing to push\nHF_HOME: would be pushed to ${here(at)}\n`);
});

test("JSON input; an unknown variable; nothing to push at all", async () => {
  using at = await hub();
  job(at, "new", "n");
  const { stdout } = await at.ef(["push", "--input-json", "-", "--json"], {
    stdin: '{"vars": ["HF_HOME"], "dry_run": true, "on_conflict": "fail"}',
  });
  expect(JSON.parse(stdout)).toMatchObject({ dry_run: true, only_vars: ["HF_HOME"], results: [{ status: "dry-run" }] });
  expect((await push(at, "--var", "NOPE")).code).toBe(2);
  expect((await at.ef(["push", "--on-conflict", "maybe"])).code).toBe(2);
});

test("arrival times: a push back, and all is fresh", async () => {
  using at = await hub({ ef: { transfer: { times: "arrival" } } });
  job(at, "model.bin", "trained");
  job(at, "new", "n");
  expect((await push(at)).result).toMatchObject({ files: 2, conflicts: [] });
  expect(at.read(here(at, "model.bin"))).toBe("trained");
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  expect((await at.ef(["sync", "--force"])).stderr).toContain("contents are the same");
});

test("a source-only change is still brought by the sync after a push", async () => {
  using at = await hub();
  edit(at, "model.bin", "edited at home");
  job(at, "new", "n");
  await push(at);
  expect((await at.ef(["sync"])).stderr).toContain("1 file");
  expect(at.read(there(at, "model.bin"))).toBe("edited at home");
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("a large file, and many small ones", async () => {
  using at = await hub();
  const large = Buffer.alloc(40 << 20, "0123456789abcdef");
  writeFileSync(there(at, "large"), large);
  for (let i = 0; i < 900; i++) job(at, `many/${i % 30}/${i}`, `file ${i}`);
  expect((await push(at)).result).toMatchObject({ files: 901 });
  expect(readFileSync(here(at, "large")).equals(large)).toBe(true);
  expect(contents(here(at, "many"))).toEqual(contents(there(at, "many")));
  expect((await push(at)).result.files).toBe(0);
}, 60_000);

test("it waits for the lock of a sync", async () => {
  using at = await hub({ lock_timeout_seconds: 0 });
  job(at, "new", "n");
  const holder = Bun.spawn(["flock", at.cache(".HF_HOME.lock"), "sleep", "100"], { env: at.env as never });
  try {
    await until("the lock", async () => (await at.sh("sh", `flock -n '${at.cache(".HF_HOME.lock")}' true`)).code !== 0);
    const { json, code } = await push(at);
    expect(json.failures[0].code).toBe("LOCK_TIMEOUT");
    expect(code).toBe(1);
    expect(at.exists(here(at, "new"))).toBe(false);
  } finally {
    holder.kill();
  }
});

test("a source that is moved away while it waits is not made again", async () => {
  using at = await hub();
  job(at, "new", "n");
  const source = here(at, "");
  const lockFile = at.cache(".HF_HOME.lock");
  const holder = Bun.spawn(["flock", "-F", lockFile, "sleep", "100"], { env: at.env as never });
  try {
    await until("the lock", async () => (await at.sh("sh", `flock -n '${lockFile}' true`)).code !== 0);
    const pushed = at.ef(["push"], {
      onStart(child) {
        child.stderr?.on("data", (text) => {
          if (!String(text).includes("waiting for")) return;
          renameSync(source, `${source.replace(/\/$/, "")} moved`);
          holder.kill();
        });
      },
    });
    const { stderr, code } = await pushed;
    expect(stderr).toContain("was moved or deleted meanwhile");
    expect(code).toBe(1);
    expect(at.exists(source)).toBe(false);
  } finally {
    holder.kill();
  }
});

describe("killed and stopped", () => {
  test("SIGKILL at any moment: old or new whole files; the next push completes and cleans up", async () => {
    using at = await hub();
    const size = 3 << 20;
    const text = (round: number, i: number) => `${round} ${i} `.padEnd(i % 10 === 0 ? size : 5000, "x");
    const count = 60;
    for (let i = 0; i < count; i++) job(at, `f/${i}`, text(0, i));
    expect((await push(at)).code).toBe(0);
    let halfway = 0;
    for (let round = 1; round <= 20; round++) {
      for (let i = 0; i < count; i++) job(at, `f/${i}`, text(round, i));
      job(at, `new/${round}`, text(round, 0));
      await at.ef(["push"], {
        async onStart(child) {
          const isWriting = () => readdirSync(here(at, "f")).some((name) => name.startsWith(".ef-"));
          await until("the first file", () => isWriting() || child.exitCode !== null);
          await Bun.sleep(Math.random() * 150);
          child.kill("SIGKILL");
        },
      });
      const isNew = (i: number) => at.read(here(at, `f/${i}`)) === text(round, i);
      const done = Array.from({ length: count }, (_, i) => i).filter(isNew).length;
      if (done > 0 && done < count) halfway++;
      for (let i = 0; i < count; i++)
        expect([text(round - 1, i), text(round, i)]).toContain(at.read(here(at, `f/${i}`)));
      if (existsSync(here(at, `new/${round}`))) expect(at.read(here(at, `new/${round}`))).toBe(text(round, 0));
      const { code, json } = await push(at);
      expect(json.errors).toEqual([]);
      expect(code).toBe(0);
      expect(contents(here(at))).toEqual(contents(there(at)));
    }
    expect(halfway).toBeGreaterThan(0);
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  }, 120_000);

  test("killed after the last file, before it was noted: what changes then is no conflict", async () => {
    using at = await hub();
    job(at, "model.bin", "trained");
    const { mtimeMs } = statSync(there(at, "model.bin"));
    edit(at, "model.bin", "trained");
    utimesSync(here(at, "model.bin"), mtimeMs / 1000, mtimeMs / 1000);
    expect((await push(at)).result).toMatchObject({ files: 0, conflicts: [] });
    job(at, "model.bin", "trained more");
    expect((await push(at)).result).toMatchObject({ files: 1, conflicts: [] });
    for (const root of [here, there]) rmSync(root(at, "model.bin"));
    await push(at);
    job(at, "model.bin", "made anew");
    expect((await push(at)).result).toMatchObject({ files: 1, conflicts: [] });
  });

  test("killed halfway, then changed on scratch before the next push: no conflict", async () => {
    using at = await hub();
    const text = (round: number, i: number) => `${round} ${i} `.padEnd(i % 5 === 0 ? 2 << 20 : 4000, "x");
    const count = 40;
    let halfway = 0;
    for (let i = 0; i < count; i++) job(at, `f/${i}`, text(0, i));
    await push(at);
    for (let round = 1; round <= 10 && halfway < 3; round++) {
      for (let i = 0; i < count; i++) job(at, `f/${i}`, text(2 * round, i));
      await at.ef(["push"], {
        async onStart(child) {
          const hasBegun = () =>
            Array.from({ length: count }, (_, i) => i).some((i) => at.read(here(at, `f/${i}`)) === text(2 * round, i));
          await until("the first file", () => hasBegun() || child.exitCode !== null);
          child.kill("SIGKILL");
        },
      });
      if (existsSync(at.cache(".HF_HOME.pushing"))) halfway++;
      for (let i = 0; i < count; i++) job(at, `f/${i}`, text(2 * round + 1, i));
      const { json, result } = await push(at);
      expect(json.errors).toEqual([]);
      expect(result.conflicts).toEqual([]);
      expect(contents(here(at))).toEqual(contents(there(at)));
      expect(existsSync(at.cache(".HF_HOME.pushing"))).toBe(false);
    }
    expect(halfway).toBeGreaterThan(0);
  }, 60_000);

  test("SIGTERM: exit 143, no temporary file, the lock is free", async () => {
    using at = await hub({ ef: { transfer: { bwlimit: "1M" } } });
    for (let i = 0; i < 20; i++) job(at, `f/${i}`, "x".repeat(1 << 20));
    const { code, stdout } = await at.ef(["push"], {
      async onStart(child) {
        await until("the first file", () => existsSync(here(at, "f/0")) || existsSync(here(at, "f")));
        child.kill("SIGTERM");
      },
    });
    expect(code).toBe(143);
    expect(stdout).toBe("");
    const names = existsSync(here(at, "f")) ? readdirSync(here(at, "f")) : [];
    expect(names.filter((name) => name.startsWith(".ef-"))).toEqual([]);
    expect((await at.sh("sh", `flock -n '${at.cache(".HF_HOME.lock")}' true`)).code).toBe(0);
    at.configure({ HF_HOME: "hf" });
    expect((await push(at)).code).toBe(0);
    expect(contents(here(at))).toEqual(contents(there(at)));
  });
});

describe("what goes wrong at the source", () => {
  test("no room: refused before the first byte; --no-preflight fails in words, and nothing is half [needs root]", async () => {
    using at = new Home();
    mkdirSync(here(at));
    const mount = await at.sh("sh", `mount -t tmpfs -o size=256k tmpfs '${here(at)}'`);
    if (mount.code !== 0) return console.warn("not here: mount (needs root)");
    try {
      edit(at, "a", "old");
      at.configure({ HF_HOME: "hf" });
      await at.ef(["sync"]);
      job(at, "a", "new");
      job(at, "large", "x".repeat(500_000));
      const { json, code } = await push(at);
      expect(json.failures[0]).toMatchObject({ code: "NO_SPACE" });
      expect(json.errors[0]).toMatch(/needs \d+K, \d+K left/);
      expect(code).toBe(1);
      expect(contents(here(at))).toEqual({ a: "old" });
      const tried = await push(at, "--no-preflight");
      expect(tried.json.failures[0]).toMatchObject({ code: "NO_SPACE" });
      expect(tried.json.errors[0]).toContain(`Cannot write ${here(at, "large")}: no space left`);
      expect(tried.code).toBe(1);
      expect(readdirSync(here(at)).filter((name) => name !== "a")).toEqual([]);
      expect(["old", "new"]).toContain(at.read(here(at, "a")));
      rmSync(there(at, "large"));
      expect((await push(at)).code).toBe(0);
      expect(at.read(here(at, "a"))).toBe("new");
    } finally {
      await at.sh("sh", `umount '${here(at)}'`);
    }
  });

  test("a full scratch keeps nothing from coming home [needs root]", async () => {
    using at = new Home({ "hf/a": "old" });
    at.configure({ HF_HOME: "hf" });
    const mount = await at.sh("sh", `mount -t tmpfs -o size=256k tmpfs '${at.scratch}'`);
    if (mount.code !== 0) return console.warn("not here: mount (needs root)");
    try {
      await at.ef(["sync"]);
      job(at, "a", "new");
      await at.sh("sh", `cat /dev/zero >'${there(at, "filler")}' 2>/dev/null; rm -f '${there(at, "x")}'; true`);
      const { json, code } = await push(at);
      expect(json.errors).toEqual([]);
      expect(json.warnings.join()).toContain("cannot note on scratch");
      expect(at.read(here(at, "a"))).toBe("new");
      expect(statSync(here(at, "filler")).size).toBeGreaterThan(0);
      expect(code).toBe(0);
      rmSync(there(at, "filler"));
      job(at, "a", "newer");
      expect((await push(at)).json).toMatchObject({ errors: [], warnings: [] });
      expect(at.read(here(at, "a"))).toBe("newer");
    } finally {
      await at.sh("sh", `umount '${at.scratch}'`);
    }
  });

  test.skipIf(!haveOtherUser || isBinary)(
    "a directory that may not be written to: named, the rest is pushed, exit 1 [needs root and setpriv]",
    async () => {
      using at = await hub();
      job(at, "hub/deep/new", "n");
      job(at, "other", "o");
      await at.sh("sh", `chown -R 65534:65534 '${at.dir}'`);
      chmodSync(at.dir, 0o755);
      chmodSync(here(at, "hub/deep"), 0o555);
      const user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
      const { stderr, code } = await run([...user, ...efArgv, "push"], { cwd: at.home, env: at.env });
      expect(stderr).toContain(`${here(at, "hub/deep")}`);
      expect(stderr).toContain("permission denied (EACCES)");
      expect(code).toBe(1);
      expect(at.read(here(at, "other"))).toBe("o");
      expect(statSync(here(at, "hub/deep")).mode & 0o777).toBe(0o555);
      chmodSync(here(at, "hub/deep"), 0o755);
      expect((await run([...user, ...efArgv, "push"], { cwd: at.home, env: at.env })).code).toBe(0);
      expect(at.read(here(at, "hub/deep/new"))).toBe("n");
    },
  );
});

describe("exec --push", () => {
  const script = 'echo made >"$HF_HOME/made"; exit "$1"';

  test.each([0, 7])("pushes after the command, and exits with its code %i", async (expected) => {
    using at = await hub();
    const { stderr, code } = await at.ef(["exec", "--push", "--", "sh", "-c", script, "sh", String(expected)]);
    expect(stderr).toContain("HF_HOME: pushed (1 file, 5 B");
    expect(at.read(here(at, "made"))).toBe("made\n");
    expect(code).toBe(expected);
  });

  test("without --push nothing comes back", async () => {
    using at = await hub();
    await at.ef(["exec", "--", "sh", "-c", script, "sh", "0"]);
    expect(at.exists(here(at, "made"))).toBe(false);
  });

  test.each([
    [0, 1],
    [7, 7],
  ])("a failed push: its message; the command's code %i becomes %i", async (own, expected) => {
    using at = await hub();
    const change = `echo home >'${here(at, "model.bin")}'; echo scratch >"$HF_HOME/model.bin"; exit "$1"`;
    const { stderr, code } = await at.ef(["exec", "--push", "--", "sh", "-c", change, "sh", String(own)]);
    expect(stderr).toContain("model.bin: changed on both sides");
    expect(code).toBe(expected);
  });

  test("a command that cannot be started: no push", async () => {
    using at = await hub();
    job(at, "made", "m");
    const { stderr, code } = await at.ef(["exec", "--push", "--", "no-such-program"]);
    expect(stderr).not.toContain("pushed");
    expect(code).toBe(127);
    expect(at.exists(here(at, "made"))).toBe(false);
  });

  const patient = 'trap "echo made >\\"$HF_HOME/made\\"; exit 33" TERM; echo >"$1"; while :; do sleep 0.05; done';
  const terminate = (at: Home, ...flags: string[]) =>
    at.ef(["exec", "--push", ...flags, "--", "sh", "-c", patient, "sh", join(at.dir, "ready")], {
      async onStart(child) {
        await until("the command", () => existsSync(join(at.dir, "ready")));
        child.kill("SIGTERM");
      },
    });

  test("SIGTERM ends the command in its own way, then it pushes", async () => {
    using at = await hub();
    const { stderr, code } = await terminate(at);
    expect(stderr).toMatch(/SIGTERM: what can be pushed within 2\d s is pushed/);
    expect(stderr).toContain("HF_HOME: pushed (1 file");
    expect(at.read(here(at, "made"))).toBe("made\n");
    expect(code).toBe(33);
  });

  test("--push-within: what is not pushed by then stays on scratch, and is said", async () => {
    using at = await hub({ ef: { transfer: { bwlimit: "1M" } } });
    for (let i = 0; i < 8; i++) job(at, `out/${i}`, "x".repeat(1 << 20));
    const { stderr, code } = await terminate(at, "--push-within", "1");
    expect(stderr).toContain("still on scratch");
    expect(code).toBe(33);
    at.configure({ HF_HOME: "hf" });
    expect((await push(at)).code).toBe(0);
    expect(contents(here(at))).toEqual(contents(there(at)));
  });

  test("--push-within takes seconds", async () => {
    using at = await hub();
    expect((await at.ef(["exec", "--push", "--push-within", "soon", "--", "true"])).code).toBe(2);
  });
});

test("a file renamed and one replaced on scratch", async () => {
  using at = await hub();
  renameSync(there(at, "model.bin"), there(at, "renamed.bin"));
  rmSync(there(at, "hub/b"));
  symlinkSync("deep", there(at, "hub/b"));
  expect((await push(at)).code).toBe(0);
  expect(at.read(here(at, "renamed.bin"))).toBe("weights");
  expect(at.read(here(at, "model.bin"))).toBe("weights"); // no deletion without --delete
  expect(readlinkSync(here(at, "hub/b"))).toBe("deep");
});

test.skipIf(!have("setfacl"))(
  "attributes and ACLs of new directories come home with transfer.xattrs [needs setfacl]",
  async () => {
    using at = await hub({ ef: { transfer: { xattrs: true } } });
    const acl = (dir: string) => Bun.spawnSync(["getfacl", "-n", "made"], { cwd: dir }).stdout.toString();
    job(at, "made/f", "1");
    expect(Bun.spawnSync(["setfacl", "-m", "u:12345:r-x,d:g:54321:rwx", there(at, "made")]).exitCode).toBe(0);
    expect((await push(at)).code).toBe(0);
    expect(acl(here(at))).toContain("default:group:54321:rwx");
    expect(acl(here(at))).toBe(acl(there(at)));
  },
);

test.skipIf(process.geteuid?.() !== 0)(
  "a link of another user in the place of the copy: nothing of what it leads to is pushed [needs root]",
  async () => {
    using at = new Home({ "hf/a": "1", "trap/b": "theirs" });
    at.configure({ HF_HOME: "hf" });
    mkdirSync(at.cache("."), { recursive: true });
    symlinkSync(join(at.home, "trap"), at.cache("HF_HOME"));
    lchownSync(at.cache("HF_HOME"), 65534, 65534);
    const { stderr, code } = await at.ef(["push"]);
    expect(stderr).toContain("symbolic link of another user");
    expect(code).toBe(1);
    expect(readdirSync(join(at.home, "hf"))).toEqual(["a"]);
  },
);
