/** The rsync engine against real trees, by the real program: compared with the source by a checker of its own. */
import { expect, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
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
import { join } from "node:path";
import { shardsOf } from "../../lib/engine/rsync-lists.ts";
import { storesNanoseconds } from "../../lib/engine/rsync-whole.ts";
import { Home, have, haveOtherUser, until } from "../helpers.ts";
import { setTime } from "../trees.ts";

const rsync = have("rsync") ? test : test.skip;
const byRsync = (transfer: object = {}, more: object = {}) => ({
  ef: { transfer: { engine: "rsync", ...transfer } },
  ...more,
});

/** mulberry32: the same numbers for the same seed. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const bytes = (text: string) => Buffer.from(text, "latin1");
const oddNames = [
  "-x",
  "--delete",
  "#hash",
  ";semi",
  " sp ",
  "new\nline",
  "caf\xe9",
  "\xff\xfe",
  "we[ird *?",
  "a\\b",
  "!",
  "- minus",
  "$HOME",
  "ü",
  "..a",
  "." + "dot",
  "r\rn",
  "\\#012",
  "x -> y",
  "z".repeat(250),
];

/** A tree with all that a cache can hold. */
function grow(root: string, seed: number): void {
  const next = random(seed);
  const dirs = [bytes(root)];
  const files: Buffer[] = [];
  const at = (dir: Buffer, name: Buffer) => Buffer.concat([dir, bytes("/"), name]);
  mkdirSync(root, { recursive: true });
  for (let i = 0; i < 120; i++) {
    const dir = dirs[next(dirs.length)] as Buffer;
    const odd = oddNames[next(oddNames.length)] as string;
    const name = bytes(next(3) === 0 ? (odd.length > 200 ? odd : `${odd}${i}`) : `n${i}`);
    const path = at(dir, name);
    if (lstatSync(path, { throwIfNoEntry: false })) continue;
    const what = next(12);
    if (what < 3) {
      mkdirSync(path);
      chmodSync(path, [0o755, 0o700, 0o2775, 0o555, 0o1777][next(5)] as number);
      dirs.push(path);
    } else if (what === 3) symlinkSync(bytes(["n1", "../x", "/nowhere", "caf\xe9"][next(4)] as string), path);
    else if (what === 4 && files.length > 0) linkSync(files[next(files.length)] as Buffer, path);
    else {
      writeFileSync(path, Buffer.alloc(next(4) === 0 ? next(300_000) : next(40), String(i)));
      if (what === 5) truncateSync(path, 3_000_000);
      chmodSync(path, [0o644, 0o600, 0o444, 0o755, 0o4755][next(5)] as number);
      if (next(2) === 0) utimesSync(path, 1_600_000_000 + next(1e8), 1_600_000_000.25 + next(1e8));
      files.push(path);
    }
  }
  for (const [i, dir] of dirs.entries()) if (i % 3 === 0) utimesSync(dir, 1_500_000_000, 1_500_000_000.5 + i);
}

/** All that is to be the same of two trees: a line for each name. */
function facts(root: string): string[] {
  const lines: string[] = [];
  const groups = new Map<bigint, string>();
  const walk = (path: Buffer, name: string) => {
    const stat = lstatSync(path, { bigint: true });
    const what = stat.isDirectory() ? "dir" : stat.isSymbolicLink() ? "link" : stat.isFile() ? "file" : "other";
    const mode = (Number(stat.mode) & (what === "dir" ? 0o5777 : 0o7777)).toString(8);
    if (what === "file" && !groups.has(stat.ino)) groups.set(stat.ino, name);
    const contents =
      what === "file"
        ? `${Bun.hash(readFileSync(path))} ${groups.get(stat.ino)}`
        : what === "link"
          ? readlinkSync(path, "latin1")
          : "";
    const isRoot = name === "";
    lines.push(
      JSON.stringify([
        name,
        what,
        isRoot || what === "link" ? "" : mode,
        what === "link" ? "" : String(stat.mtimeNs),
        contents,
      ]),
    );
    if (what !== "dir") return;
    const children = readdirSync(path, { encoding: "buffer" }).map((child) => child.toString("latin1"));
    for (const child of children.sort()) walk(Buffer.concat([path, bytes(`/${child}`)]), `${name}/${child}`);
  };
  walk(bytes(root), "");
  return lines;
}

/** Times of directories are set through node:fs where the storage is slow: exact to the microsecond. */
function expectSame(at: Home): void {
  const want = facts(join(at.home, "hf"));
  const found = facts(at.cache("HF_HOME")).map((line, i) => {
    const [[name, what, mode, time, contents], [, , , wanted]] = [JSON.parse(line), JSON.parse(want[i] ?? "[]")];
    const apart = what === "dir" && wanted ? BigInt(time) - BigInt(wanted) : 1000n;
    return JSON.stringify([name, what, mode, apart < 1000n && apart > -1000n ? wanted : time, contents]);
  });
  expect(found).toEqual(want);
}

function cacheOf(config: object = byRsync()): Home {
  const at = new Home({ "hf/model.bin": "weights", "hf/hub/deep/er/config.json": "{}", "hf/hub/x": "x" });
  at.configure({ HF_HOME: "hf" }, config);
  return at;
}

/** Put a script in rsync's place; `$RSYNC` is the real one, and `--version` always is. */
function rsyncThat(at: Home, script: string): void {
  const real = Bun.which("rsync");
  const text = `#!/bin/sh\nRSYNC='${real}'\ncase " $* " in *" --version "*) exec "$RSYNC" "$@";; esac\n${script}\n`;
  writeFileSync(join(at.dir, "bin/rsync"), text, { mode: 0o755 });
}

for (const seed of [1, 2, 3, 4, 5, 6]) {
  rsync(`random tree ${seed}: the same, then nothing to do, then only what a purge took`, async () => {
    using at = new Home();
    at.configure({ HF_HOME: "hf" }, byRsync({ workers: seed % 2 === 0 ? 3 : "auto" }));
    grow(join(at.home, "hf"), seed);
    const first = await at.ef(["sync"]);
    expect(first.stderr).toContain("HF_HOME: complete");
    expect(first.stderr).not.toContain("warning");
    expect(first.code).toBe(0);
    expectSame(at);
    const again = await at.ef(["sync", "--force"]);
    expect(again.stderr).toContain("complete (nothing to copy");

    const copy = at.cache("HF_HOME");
    const [taken] = facts(copy).flatMap((line) => {
      const [name, what, , , contents] = JSON.parse(line) as string[];
      return what === "file" && contents?.endsWith(` ${name}`) ? [bytes(name as string)] : [];
    });
    const path = Buffer.concat([bytes(copy), taken as Buffer]);
    const isAlone = lstatSync(path).nlink === 1;
    const parent = lstatSync(path.subarray(0, path.lastIndexOf("/")));
    rmSync(path);
    utimesSync(path.subarray(0, path.lastIndexOf("/")), parent.atime, new Date());
    const purged = await at.ef(["sync"]);
    if (isAlone) expect(purged.stderr).toContain("complete (1 file");
    expect(purged.code).toBe(0);
    expectSame(at);
  });
}

rsync("what changes its type, becomes a link or is linked anew", async () => {
  using at = cacheOf();
  const inHub = (name: string) => join(at.home, "hf/hub", name);
  at.write("hf/hub/dir/inside", "1");
  at.write("hf/hub/file", "2");
  at.write("hf/hub/second", "3");
  symlinkSync("x", inHub("link"));
  await at.ef(["sync"]);
  rmSync(inHub("dir"), { recursive: true });
  rmSync(inHub("file"));
  rmSync(inHub("link"));
  at.write("hf/hub/dir", "now a file");
  at.write("hf/hub/file/now", "a directory");
  at.write("hf/hub/link", "now a file");
  rmSync(inHub("x"));
  symlinkSync("second", inHub("x"));
  linkSync(inHub("second"), inHub("third"));
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("HF_HOME: complete");
  expect(code).toBe(0);
  expectSame(at);
});

rsync("mirror: what the source deleted goes, what a job made stays", async () => {
  using at = cacheOf({ ef: { transfer: { engine: "rsync" }, vars: { HF_HOME: { mirror: true } } } });
  await at.ef(["sync"]);
  writeFileSync(join(at.cache("HF_HOME"), "job.txt"), "work");
  rmSync(join(at.home, "hf/hub/deep"), { recursive: true });
  await at.ef(["sync"]);
  expect(readdirSync(at.cache("HF_HOME")).sort()).toEqual(["hub", "job.txt", "model.bin"]);
  expect(readdirSync(join(at.cache("HF_HOME"), "hub"))).toEqual(["x"]);
});

rsync("a job's work is kept, with arguments that make rsync recursive too", async () => {
  using at = cacheOf(byRsync({}, { rsync_extra_args: ["-a"] }));
  await at.ef(["sync"]);
  writeFileSync(join(at.cache("HF_HOME"), "model.bin"), "a job's work");
  at.write("hf/model.bin", "another");
  at.write("hf/hub/new", "new");
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("kept as it is there: model.bin");
  expect(at.read(join(at.cache("HF_HOME"), "model.bin"))).toBe("a job's work");
  expect(at.read(join(at.cache("HF_HOME"), "hub/new"))).toBe("new");
  expect(code).toBe(0);
});

rsync("arguments that set modes do so for files and directories, new ones and old", async () => {
  using at = cacheOf(byRsync({}, { rsync_extra_args: ["--chmod=D770,F640"] }));
  await at.ef(["sync"]);
  at.write("hf/hub/more/new", "new");
  expect((await at.ef(["sync"])).stderr).toContain("complete (1 file");
  const modes = facts(at.cache("HF_HOME"))
    .slice(1)
    .map((line) => JSON.parse(line) as string[])
    .map(([name, what, mode]) => `${what} ${mode} ${name}`);
  expect(modes).toEqual([
    "dir 770 /hub",
    "dir 770 /hub/deep",
    "dir 770 /hub/deep/er",
    "file 640 /hub/deep/er/config.json",
    "dir 770 /hub/more",
    "file 640 /hub/more/new",
    "file 640 /hub/x",
    "file 640 /model.bin",
  ]);
  expect((await at.ef(["sync", "--force"])).stderr).toContain("nothing to copy");
});

rsync("the directory of the copy hands on its set-group-id bit", async () => {
  using at = cacheOf();
  mkdirSync(at.cache("HF_HOME"), { recursive: true });
  chmodSync(at.cache("HF_HOME"), 0o2775);
  await at.ef(["sync"]);
  expect(statSync(join(at.cache("HF_HOME"), "hub/deep")).mode & 0o7777).toBe(0o2775);
});

rsync("arguments that select: what they leave out does not count as missing", async () => {
  using at = cacheOf(byRsync({}, { rsync_extra_args: ["--max-size=5"] }));
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("complete (2 files, 3 B");
  expect(readdirSync(at.cache("HF_HOME"))).toEqual(["hub"]);
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  expect((await at.ef(["sync", "--force"])).stderr).toContain("nothing to copy");
  rmSync(join(at.cache("HF_HOME"), "hub/x"));
  expect((await at.ef(["sync"])).stderr).toContain("complete (1 file, 1 B");
  expect(code).toBe(0);
});

for (const seed of [11, 12]) {
  rsync(`random tree ${seed} by one process for the whole tree: the same, then nothing to do`, async () => {
    using at = new Home();
    at.configure({ HF_HOME: "hf" }, byRsync({ verify: "checksum" }, { rsync_extra_args: ["--max-size=1T"] }));
    grow(join(at.home, "hf"), seed);
    const { stderr, code } = await at.ef(["sync"]);
    expect(stderr).not.toContain("warning");
    expect(code).toBe(0);
    expectSame(at);
    expect((await at.ef(["sync", "--force"])).stderr).toContain("nothing to copy");
    expect(readdirSync(at.cache(".")).filter((name) => name.includes("tmp"))).toEqual([]);
  });
}

test("nanoseconds are seen where the directory of the copies has a time of whole seconds", () => {
  using at = new Home({ "copies/HF_HOME/f": "" });
  utimesSync(join(at.home, "copies"), 1_700_000_000, 1_700_000_000);
  setTime(join(at.home, "copies/HF_HOME"), 1_700_000_000_123_456_789n);
  expect(storesNanoseconds(join(at.home, "copies/HF_HOME"))).toBe(true);
  expect(storesNanoseconds(join(at.home, "none/HF_HOME"))).toBe(false); // as in a dry run
});

rsync("whole tree: a job's work survives --delete-excluded and --include of all, whatever its name", async () => {
  const names = ["model.bin", "we[ird *", "a\\b", "new\nline", "caf\xe9"];
  using at = cacheOf(byRsync({}, { rsync_extra_args: ["--include=*", "--delete", "--delete-excluded"] }));
  const put = (root: string, name: string, text: string) =>
    writeFileSync(Buffer.concat([bytes(`${root}/`), bytes(name)]), text);
  for (const name of names) put(join(at.home, "hf"), name, "old");
  await at.ef(["sync"]);
  writeFileSync(join(at.cache("HF_HOME"), "stray"), "");
  for (const name of names) {
    put(at.cache("HF_HOME"), name, "a job's work");
    put(join(at.home, "hf"), name, "newer here");
  }
  at.write("hf/hub/x", "new x");
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("and 4 others");
  expect(stderr).toContain("1 to delete");
  expect(at.exists(join(at.cache("HF_HOME"), "stray"))).toBe(false);
  for (const name of names)
    expect(readFileSync(Buffer.concat([bytes(`${at.cache("HF_HOME")}/`), bytes(name)]), "utf8")).toBe("a job's work");
  expect(at.read(join(at.cache("HF_HOME"), "hub/x"))).toBe("new x");
  expect(code).toBe(0);
});

rsync("whole tree: mirror deletes too; --copy-links does not take its own files for a job's", async () => {
  using at = cacheOf({
    ef: { transfer: { engine: "rsync" }, vars: { HF_HOME: { mirror: true } } },
    rsync_extra_args: ["--copy-links"],
  });
  symlinkSync("../model.bin", join(at.home, "hf/hub/link"));
  symlinkSync("hub/deep", join(at.home, "hf/dirlink"));
  await at.ef(["sync"]);
  expect(at.read(join(at.cache("HF_HOME"), "hub/link"))).toBe("weights");
  rmSync(join(at.home, "hf/hub/deep/er/config.json"));
  at.write("hf/model.bin", "changed!");
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).not.toContain("kept");
  expect(at.read(join(at.cache("HF_HOME"), "hub/link"))).toBe("changed!");
  expect(at.exists(join(at.cache("HF_HOME"), "hub/deep/er/config.json"))).toBe(false);
  expect(code).toBe(0);
});

rsync("an exclude pattern that would clear those of ef is refused by both ways", async () => {
  for (const args of [[], ["--delete"]]) {
    const vars = { HF_HOME: { exclude: ["!"] } };
    using at = cacheOf({ ef: { transfer: { engine: "rsync" }, vars }, rsync_extra_args: args });
    const { stderr, code } = await at.ef(["sync"]);
    expect(stderr).toContain("it clears all patterns before it");
    expect(code).not.toBe(0);
    expect(readdirSync(at.cache("HF_HOME"))).toEqual([]);
  }
});

rsync("excludes hold in both ways", async () => {
  for (const args of [[], ["--delete"]]) {
    const vars = { HF_HOME: { exclude: ["*.json", "+ keep/"] } };
    using at = cacheOf({ ef: { transfer: { engine: "rsync" }, vars }, rsync_extra_args: args });
    at.write("hf/.locks/lock", "");
    const { code } = await at.ef(["sync"]);
    expect(at.exists(join(at.cache("HF_HOME"), "hub/deep/er/config.json"))).toBe(false);
    expect(at.exists(join(at.cache("HF_HOME"), ".locks"))).toBe(false);
    expect(code).toBe(0);
  }
});

for (const args of [[], ["--max-size=1G"]]) {
  test.skipIf(!haveOtherUser || !have("rsync"))(
    `exit 23 (${args[0] ?? "lists"}): what cannot be read is named, the rest comes, no marker [needs root]`,
    async () => {
      using at = cacheOf(byRsync({}, { rsync_extra_args: args }));
      chmodSync(at.write("hf/hub/secret", "for root alone"), 0o600);
      await at.sh(
        "sh",
        `chown -R 65534:65534 '${at.dir}'; chown 0:0 '${at.home}/hf/hub/secret'; chmod 755 '${at.dir}'`,
      );
      const { stdout, stderr, code } = await at.sh(
        "sh",
        "setpriv --reuid=65534 --regid=65534 --clear-groups ef sync --shell bash",
      );
      expect(stderr).toContain("rsync exit 23");
      expect(stderr).toContain("hub/secret");
      expect(stderr).toContain("Permission denied");
      expect(stdout).toBe("false\n");
      expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false);
      expect(at.read(join(at.cache("HF_HOME"), "model.bin"))).toBe("weights");
      expect(code).toBe(1);
    },
  );
}

for (const args of [[], ["--max-size=1G"]]) {
  rsync(`no rsync (${args[0] ?? "lists"}): exit 2, and how to do without`, async () => {
    using at = cacheOf(byRsync({}, { rsync_extra_args: args }));
    const node = join(at.dir, "bin");
    const { stderr, stdout, code } = await at.ef(["sync", "--shell", "bash"], { env: { PATH: node } });
    expect(stderr).toContain("Cannot run rsync");
    expect(stderr).toContain("ef config set ef.transfer.engine builtin");
    expect(stdout).toBe("false\n");
    expect(readdirSync(at.scratch)).toEqual([]);
    expect(code).toBe(2);
    at.configure({ HF_HOME: "hf" });
    expect((await at.ef(["sync"], { env: { PATH: node } })).code).toBe(0);
  });
}

rsync("an rsync that copies nothing and says all is well is not believed", async () => {
  using at = cacheOf();
  rsyncThat(at, "exit 0");
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("rsync ended well, and the files are not there");
  expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false);
  expect(code).toBe(1);
});

rsync("verify: checksum finds what is not the source's, though size and time are", async () => {
  const damage = `c='HOME/model.bin'; touch -r "$c" "$c.time"; printf WEIGHTS >"$c"; touch -r "$c.time" "$c"; rm "$c.time"`;
  for (const args of [[], ["--max-size=1G"]]) {
    using at = cacheOf(byRsync({ verify: "checksum" }, { rsync_extra_args: args }));
    const now = damage.replace("HOME", at.cache("HF_HOME"));
    rsyncThat(at, `"$RSYNC" "$@" || exit; case " $* " in *" --dry-run "*) ;; *) ${now};; esac`);
    const { stderr, code } = await at.ef(["sync"]);
    expect(stderr).toContain("model.bin");
    expect(stderr).toMatch(/its contents .*are not .*the source's|are not those of the source/);
    expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(false);
    expect(code).toBe(1);
  }
});

rsync("verify: checksum is content with a good copy", async () => {
  using at = cacheOf(byRsync({ verify: "checksum" }));
  grow(join(at.home, "hf"), 21);
  expect((await at.ef(["sync"])).stderr).toContain("HF_HOME: complete");
  expectSame(at);
});

rsync("a source that changes while rsync reads it is copied once more", async () => {
  using at = cacheOf();
  rsyncThat(
    at,
    `"$RSYNC" "$@" || exit; [ -e '${at.dir}/once' ] || { touch '${at.dir}/once'; echo more >>'${at.home}/hf/hub/x'; }`,
  );
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("HF_HOME: complete");
  expect(stderr).not.toContain("still changing");
  expect(at.read(join(at.cache("HF_HOME"), "hub/x"))).toBe("xmore\n");
  expect(at.exists(at.cache(".HF_HOME.synced"))).toBe(true);
  expect(code).toBe(0);
});

rsync("what vanishes meanwhile is a warning, and the rest comes", async () => {
  using at = cacheOf();
  rsyncThat(at, `rm -f '${at.home}/hf/hub/x'; exec "$RSYNC" "$@"`);
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("1 file vanished at the source while it was copied: hub/x");
  expect(at.read(join(at.cache("HF_HOME"), "model.bin"))).toBe("weights");
  expect(code).toBe(0);
});

rsync("no space: by its name, whatever code rsync gives it", async () => {
  using at = cacheOf(byRsync());
  rsyncThat(at, `echo 'rsync: [receiver] write failed on "x": No space left on device (28)' >&2; exit 11`);
  const { stdout, code } = await at.ef(["sync", "--json"]);
  expect(JSON.parse(stdout).failures).toMatchObject([{ code: "NO_SPACE" }]);
  expect(stdout).toContain("No space left on device");
  expect(code).toBe(1);
});

rsync("times of arrival: now for files, the source's for Python environments", async () => {
  using at = cacheOf(byRsync({ times: "arrival" }));
  at.write("hf/env/pyvenv.cfg", "");
  for (const name of ["model.bin", "env/pyvenv.cfg"]) utimesSync(join(at.home, "hf", name), 1e9, 1e9);
  await at.ef(["sync"]);
  const copy = at.cache("HF_HOME");
  expect(statSync(join(copy, "model.bin")).mtimeMs).toBeGreaterThan(Date.now() - 60_000);
  expect(statSync(join(copy, "env/pyvenv.cfg")).mtimeMs).toBe(1e12);
  const before = statSync(join(copy, "model.bin")).mtimeMs;
  expect((await at.ef(["sync", "--force"])).stderr).toContain("nothing to copy");
  expect(statSync(join(copy, "model.bin")).mtimeMs).toBe(before);
});

rsync("several processes share the work and the limit; the user's own limit has one", async () => {
  using at = new Home();
  for (let i = 0; i < 1100; i++) at.write(`hf/${i % 7}/${i}`, "");
  const log = join(at.dir, "log");
  const calls = () => at.read(log).trim().split("\n");
  const start = (transfer: object, args: string[] = []) => {
    at.configure({ HF_HOME: "hf" }, byRsync(transfer, { rsync_extra_args: args }));
    rsyncThat(at, `echo "$*" >>'${log}'; exec "$RSYNC" "$@"`);
    rmSync(log, { force: true });
    rmSync(at.cache("HF_HOME"), { recursive: true, force: true });
    return at.ef(["sync", "--force"]);
  };
  await start({ workers: 3, bwlimit: "300M" });
  expect(calls()).toHaveLength(3);
  for (const call of calls()) expect(call).toContain("--bwlimit=102400 ");
  expectSame(at);
  await start({ workers: 3 }, ["--bwlimit=1000000"]);
  expect(calls()).toHaveLength(1);
  expectSame(at);
});

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  rsync(
    `${signal} in the middle: no rsync left, nothing half done, the next run goes on`,
    async () => {
      using at = cacheOf(byRsync({ bwlimit: "200K" }));
      for (let i = 0; i < 20; i++) at.write(`hf/many/${i}`, String(i).repeat(50_000));
      const ran = await at.ef(["sync", "--shell", "bash"], {
        async onStart(child) {
          const many = join(at.cache("HF_HOME"), "many");
          await until("the copy", () => statSync(many, { throwIfNoEntry: false }) && readdirSync(many).length > 1);
          child.kill(signal);
        },
      });
      expect(ran.stdout).toBe("");
      expect(ran.code).toBe(signal === "SIGTERM" ? 143 : 137);
      await until(
        "no child left",
        async () => !(await at.sh("sh", "ps -eo args")).stdout.includes(at.cache("HF_HOME")),
      );
      const left = facts(at.cache("HF_HOME")).map((line) => (JSON.parse(line) as string[])[0] as string);
      expect(left.filter((name) => /\/\./.test(name))).toEqual([]); // rsync removed its temporary files
      at.configure({ HF_HOME: "hf" }, byRsync());
      expect((await at.ef(["sync"])).stderr).toContain("HF_HOME: complete");
      expectSame(at);
    },
    60_000,
  );
}

rsync(
  "what an rsync left that was killed goes with the next copy; what is a job's by the same names stays",
  async () => {
    using at = cacheOf(byRsync({ bwlimit: "200K" }));
    at.write("hf/hub/.large.bin", "0123456789".repeat(100_000));
    const hub = join(at.cache("HF_HOME"), "hub");
    const temps = () => (existsSync(hub) ? readdirSync(hub).filter((name) => /^\.large\.bin\.\w{6}$/.test(name)) : []);
    await at.ef(["sync"], {
      async onStart(child) {
        await until("the copy", () => temps().some((name) => statSync(join(hub, name)).size > 0));
        const ran = await at.sh("sh", "ps -eo pid,args");
        const lines = ran.stdout.split("\n").filter((line) => line.includes(at.home) && /rsync/.test(line));
        const pids = lines.map((line) => Number(line.trim().split(" ")[0]));
        // All at once: one that sees another end ends well.
        for (const signal of ["SIGSTOP", "SIGKILL"] as const)
          for (const pid of [...pids, child.pid as number]) process.kill(pid, signal);
      },
    });
    const [left = ""] = temps();
    expect(left).not.toBe("");
    cpSync(join(hub, left), join(hub, ".large.bin.killed")); // an earlier one
    const jobs = { ".large.bin.backup": "0123456780", ".large.bin.locked": "", ".y.abcdef": "0123" };
    for (const [name, content] of Object.entries(jobs)) writeFileSync(join(hub, name), content);
    chmodSync(join(hub, ".large.bin.backup"), 0o600);
    at.configure({ HF_HOME: "hf" }, byRsync());
    expect((await at.ef(["sync"])).stderr).toContain("HF_HOME: complete");
    expect(readFileSync(join(hub, ".large.bin"), "utf8")).toHaveLength(1_000_000);
    expect(readdirSync(hub).sort()).toEqual([...Object.keys(jobs), ".large.bin", "deep", "x"].sort());
  },
);

rsync("what was copied is not taken for an rsync's, whatever its name is or becomes", async () => {
  using at = cacheOf();
  const names = [".x.source", ".x.former"];
  for (const name of names) writeFileSync(join(at.home, "hf/hub", name), "x", { mode: 0o600 });
  await at.ef(["sync"]);
  const inodes = () => names.map((name) => statSync(join(at.cache("HF_HOME"), "hub", name)).ino);
  const before = inodes();
  rmSync(join(at.home, "hf/hub/.x.former"));
  at.write("hf/hub/x", "x, and more");
  const backup = join(at.cache("HF_HOME"), ".model.bin.backup");
  renameSync(join(at.cache("HF_HOME"), "model.bin"), backup); // as a job does
  chmodSync(backup, 0o600);
  expect((await at.ef(["sync"])).stderr).toContain("HF_HOME: complete");
  expect(at.read(join(at.cache("HF_HOME"), "hub/x"))).toBe("x, and more");
  expect(at.read(backup)).toBe("weights");
  expect(inodes()).toEqual(before);
});

test("shards: of about the same weight, the large ones apart, neighbours together", () => {
  const mib = 1 << 20;
  const sizes = [1, 500 * mib, 1, 1, 400 * mib, 1, 1, 100 * mib];
  const weights = sizes.map((size) => size + 256 * 1024);
  const rows = sizes.map((_, i) => i);
  const shards = shardsOf(rows, (row) => weights[row] as number, 2);
  expect(shards.flat().sort()).toEqual(rows);
  expect(shards.map((shard) => shard.filter((row) => (sizes[row] as number) > 1))).toEqual([[1], [4, 7]]);
  const many = Array.from({ length: 1000 }, (_, i) => i);
  const four = shardsOf(many, () => 256 * 1024, 4);
  expect(four.map((shard) => shard.length)).toEqual([250, 250, 250, 250]);
  expect(four[0]).toEqual(many.slice(0, 250));
  expect(shardsOf([1], () => 1, 5)).toEqual([[1]]);
});
