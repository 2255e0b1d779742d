/** ef verify: is scratch what the source is? */
import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { efArgv, Home, haveOtherUser, isBinary, type RunOptions, run, until } from "../helpers.ts";

interface Listing {
  count: number;
  names: string[];
}
interface Result {
  name: string;
  status: string;
  files: number;
  bytes: number;
  differences: Record<string, Listing>;
  information: Record<string, Listing>;
  error?: { code: string; message: string; hint: string };
  holder?: unknown;
}

const kinds = ["missing", "type", "changed", "size", "time", "mode", "target", "hard_links", "contents", "unreadable"];

/** A synced variable with a bit of everything. */
async function synced(more: object = {}): Promise<Home & { copy: string; hf: string }> {
  const at = new Home({ "hf/a": "alpha", "hf/dir/b": "beta", "hf/dir/deep/c": "gamma", "hf/empty file": "" });
  const [hf, copy] = [join(at.home, "hf"), at.cache("HF_HOME")];
  linkSync(join(hf, "a"), join(hf, "a again"));
  symlinkSync("dir/b", join(hf, "link"));
  mkdirSync(join(hf, "empty"));
  writeFileSync(join(hf, "large"), Buffer.alloc(2_500_000, "x"));
  const old = new Date("2024-05-06T07:08:09.123Z");
  for (const name of ["a", "dir/b", "dir/deep/c", "large"]) utimesSync(join(hf, name), old, old);
  at.configure({ HF_HOME: "hf" }, more);
  const { code, stderr } = await at.ef(["sync"]);
  expect(stderr).toContain("complete");
  expect(code).toBe(0);
  return Object.assign(at, { copy, hf });
}

/** Run it with `--json`; only what is not empty of its lists. */
async function verify(at: Home, args: readonly string[] = [], options: RunOptions = {}) {
  const { stdout, stderr, code } = await at.ef(["verify", "--json", ...args], options);
  expect(stderr).toBe("");
  const json = JSON.parse(stdout) as { ok: boolean; errors: string[]; warnings: string[]; results: Result[] };
  expect(json).toMatchObject({ ok: code === 0, command: "verify" });
  expect(json.errors.length > 0).toBe(code === 1);
  const full = (lists: Record<string, Listing> = {}) =>
    Object.fromEntries(Object.entries(lists).flatMap(([kind, { names }]) => (names.length > 0 ? [[kind, names]] : [])));
  const [result] = json.results as [Result];
  return { ...json, code, result, found: full(result?.differences), notes: full(result?.information) };
}

/** Write over bytes in the middle of a file, and leave its size and times. */
function flip(file: string | Buffer, at: number, text: string): void {
  const { atime, mtime } = statSync(file);
  const fd = openSync(file, "r+");
  writeSync(fd, text, at);
  closeSync(fd);
  utimesSync(file, atime, mtime);
}

describe("the same", () => {
  test("text on stderr, nothing on stdout, exit 0; with --checksum too", async () => {
    using at = await synced();
    const plain = await at.ef(["verify"]);
    expect(plain.stderr).toMatch(/^HF_HOME: same \(6 files, 2\.4M, [^)]+\)\n$/);
    expect(plain.stdout).toBe("");
    expect(plain.code).toBe(0);
    const read = await at.ef(["verify", "HF_HOME", "--checksum"]);
    expect(read.stderr).toContain("HF_HOME: same");
    expect(read.code).toBe(0);
  });

  test("the JSON has every kind", async () => {
    using at = await synced();
    const { result, code } = await verify(at, ["--checksum"]);
    expect(result).toMatchObject({ name: "HF_HOME", status: "same", files: 6, bytes: 2_500_019 });
    expect(Object.keys(result.differences)).toEqual(kinds);
    expect(Object.keys(result.information)).toEqual(["extra", "deleted_at_source", "skipped"]);
    for (const kind of kinds) expect(result.differences[kind]).toEqual({ count: 0, names: [] });
    expect(code).toBe(0);
  });

  test("nothing is written, on either side", async () => {
    using at = await synced();
    const look = () => run(["find", at.hf, at.scratch, "!", "-type", "d", "-printf", "%p %T@ %A@ %C@\\n"], at);
    const accessed = new Date("2024-06-01T00:00:00Z");
    for (const root of [at.hf, at.copy]) utimesSync(join(root, "large"), accessed, statSync(join(root, "large")).mtime);
    await at.ef(["verify"]); // links are read, and the manifest: their access times are new now
    const before = await look();
    expect((await at.ef(["verify", "--checksum"])).code).toBe(0);
    expect((await look()).stdout).toBe(before.stdout); // access times too: a purge by them is not put off
  });

  test("what a job made, what the source deleted, and what is never copied is no difference", async () => {
    using at = await synced();
    mkdirSync(join(at.copy, "job/out"), { recursive: true });
    writeFileSync(join(at.copy, "job/out/result"), "42");
    rmSync(join(at.hf, "dir/deep"), { recursive: true });
    Bun.spawnSync(["mkfifo", join(at.hf, "fifo")]);
    const { found, notes, code } = await verify(at);
    expect(found).toEqual({});
    expect(notes).toEqual({ extra: ["job/out/result"], deleted_at_source: ["dir/deep/c"], skipped: ["fifo"] });
    expect(code).toBe(0);
    const { stderr } = await at.ef(["verify"]);
    expect(stderr).toContain("1 on scratch only (no difference):\n    job/out/result\n");
  });

  test("excluded names are not compared: the user's and the preset's", async () => {
    using at = await synced({ ef: { vars: { HF_HOME: { exclude: ["*.tmp"] } } } });
    mkdirSync(join(at.hf, "hub/.locks"), { recursive: true });
    for (const name of ["dir/x.tmp", "hub/.locks/y"]) writeFileSync(join(at.hf, name), "new");
    writeFileSync(join(at.copy, "dir/y.tmp"), "new");
    const { found, notes } = await verify(at);
    expect({ ...found, ...notes }).toEqual({});
  });

  test("a file system that keeps whole seconds only, as the sync found it", async () => {
    using at = await synced();
    const seconds = new Date("2024-05-06T07:08:09Z");
    utimesSync(join(at.copy, "dir/b"), seconds, seconds);
    expect((await verify(at)).found).toEqual({});
  });

  test("times of arrival: those of files are not compared, but what changed at the source since is seen", async () => {
    using at = await synced({ ef: { transfer: { times: "arrival" } } });
    expect(statSync(join(at.copy, "dir/b")).mtimeMs).toBeGreaterThan(Date.now() - 60_000);
    expect((await verify(at, ["--checksum"])).found).toEqual({});
    flip(join(at.hf, "dir/b"), 0, "BETA");
    utimesSync(join(at.hf, "dir/b"), new Date(), new Date());
    expect((await verify(at)).found).toEqual({ time: ["dir/b"] });
  });
});

describe("different", () => {
  const cases: [string, (at: { hf: string; copy: string }) => void, Record<string, string[]>][] = [
    ["a file is missing", ({ copy }) => unlinkSync(join(copy, "dir/b")), { missing: ["dir/b"] }],
    [
      "directories are missing: the files in them are named, and empty ones",
      ({ copy }) => {
        rmSync(join(copy, "dir"), { recursive: true });
        rmSync(join(copy, "empty"), { recursive: true });
      },
      { missing: ["dir/b", "dir/deep/c", "empty/"] },
    ],
    ["a link is missing", ({ copy }) => unlinkSync(join(copy, "link")), { missing: ["link"] }],
    ["a new file at the source", ({ hf }) => writeFileSync(join(hf, "dir/new"), "new"), { missing: ["dir/new"] }],
    ["another size", ({ hf }) => appendFileSync(join(hf, "dir/b"), "more"), { size: ["dir/b"] }],
    [
      "another time",
      ({ hf }) => utimesSync(join(hf, "dir/b"), new Date(), new Date("2025-01-01")),
      { time: ["dir/b"] },
    ],
    ["another mode", ({ copy }) => chmodSync(join(copy, "dir/b"), 0o600), { mode: ["dir/b"] }],
    [
      "another type: a link at the source now",
      ({ hf }) => {
        unlinkSync(join(hf, "dir/b"));
        symlinkSync("x", join(hf, "dir/b"));
      },
      { type: ["dir/b"] },
    ],
    [
      "another type: a directory on scratch",
      ({ copy }) => {
        unlinkSync(join(copy, "dir/b"));
        mkdirSync(join(copy, "dir/b"));
      },
      { type: ["dir/b"] },
    ],
    [
      "a link that points elsewhere",
      ({ hf }) => {
        unlinkSync(join(hf, "link"));
        symlinkSync("a", join(hf, "link"));
      },
      { target: ["link"] },
    ],
    [
      "hard links broken apart",
      ({ copy }) => {
        const [one, other] = [join(copy, "a"), join(copy, "a again")];
        copyFileSync(one, `${other}.new`);
        utimesSync(`${other}.new`, statSync(one).atime, statSync(one).mtime);
        chmodSync(`${other}.new`, statSync(one).mode);
        renameSync(`${other}.new`, other);
      },
      { hard_links: ["a again"] },
    ],
    [
      "hard-linked on scratch only",
      ({ hf, copy }) => {
        for (const root of [hf, copy]) writeFileSync(join(root, "one"), "1");
        writeFileSync(join(hf, "two"), "1");
        linkSync(join(copy, "one"), join(copy, "two"));
        for (const file of [join(hf, "one"), join(hf, "two"), join(copy, "one")]) utimesSync(file, 1e9, 1e9);
      },
      { hard_links: ["two"] },
    ],
    [
      "a job's work that the syncs keep",
      ({ copy }) => writeFileSync(join(copy, "dir/b"), "job's"),
      { changed: ["dir/b"] },
    ],
    [
      "a job's link that the syncs keep",
      ({ copy }) => {
        unlinkSync(join(copy, "link"));
        symlinkSync("dir", join(copy, "link"));
        lutimesSync(join(copy, "link"), 1, 1);
      },
      { changed: ["link"] },
    ],
  ];
  test.each(cases)("%s", async (_, change, expected) => {
    using at = await synced();
    change(at);
    const { found, notes, result, code } = await verify(at, ["--checksum"]);
    expect(found).toEqual(expected);
    expect(notes).toEqual({});
    expect(result.status).toBe("different");
    expect(code).toBe(1);
  });

  test.each([0, 1_048_575, 1_048_576, 2_499_999])("--checksum finds a flipped byte at %p", async (place) => {
    using at = await synced();
    flip(join(at.copy, "large"), place, "y");
    expect((await verify(at)).found).toEqual({});
    const { found, errors, code } = await verify(at, ["--checksum"]);
    expect(found).toEqual({ contents: ["large"] });
    expect(errors).toEqual(["HF_HOME: scratch is not what the source is: 1 of other contents"]);
    expect(code).toBe(1);
  });

  test("a person reads counts, the first names, and all with --verbose", async () => {
    using at = await synced();
    for (let i = 0; i < 25; i++) at.write(`hf/many/${String(i).padStart(2, "0")}`, "");
    const { stderr, stdout, code } = await at.ef(["verify"]);
    expect(stderr).toStartWith("HF_HOME: different (31 files, ");
    expect(stderr).toContain("\n  25 missing on scratch:\n    many/00\n    many/01\n");
    expect(stderr).toEndWith("    many/19\n    and 5 more (all names: --verbose)\n");
    expect(stdout).toBe("");
    expect(code).toBe(1);
    const all = await at.ef(["verify", "--verbose"]);
    expect(all.stderr).toEndWith("    many/24\n");
    const { result } = await verify(at);
    expect(result.differences.missing).toMatchObject({ count: 25 });
    expect(result.differences.missing?.names).toHaveLength(20);
  });

  test("odd names: a terminal is not misled, bytes are told apart", async () => {
    using at = await synced();
    const bytes = Buffer.concat([Buffer.from(`${at.hf}/`), Buffer.from([0xff, 0x41])]);
    writeFileSync(bytes, "1");
    utimesSync(bytes, 1e9, 1e9);
    for (const name of ["new\nline", "\u001b[31mred", "ü – 漢字"]) writeFileSync(join(at.hf, name), "1");
    const { found } = await verify(at);
    expect(found.missing?.sort()).toEqual(["\\u{1b}[31mred", "\\xffA", "new\\nline", "ü – 漢字"].sort());
    expect((await at.ef(["sync", "--force"])).code).toBe(0);
    expect((await verify(at, ["--checksum"])).found).toEqual({});
    flip(Buffer.concat([Buffer.from(`${at.copy}/`), Buffer.from([0xff, 0x41])]), 0, "2");
    expect((await verify(at, ["--checksum"])).found).toEqual({ contents: ["\\xffA"] });
  });

  test.skipIf(!haveOtherUser || isBinary)(
    "what cannot be read is not the same, and nothing is said of what is in it [needs root and setpriv]",
    async () => {
      using at = await synced();
      await at.sh("sh", `chown -R 65534:65534 '${at.dir}'`);
      chmodSync(at.dir, 0o755);
      for (const dir of [join(at.hf, "dir/deep"), join(at.copy, "empty")]) {
        chownSync(dir, 0, 0);
        chmodSync(dir, 0o700);
      }
      chownSync(join(at.copy, "large"), 0, 0);
      chmodSync(join(at.copy, "large"), 0o600);
      chmodSync(join(at.hf, "large"), 0o600);
      const user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
      const { stdout, code } = await run([...user, ...efArgv, "verify", "--json", "--checksum"], {
        cwd: at.home,
        env: at.env,
      });
      const [result] = JSON.parse(stdout).results;
      expect(result.differences.unreadable.names).toEqual([
        "dir/deep (source: permission denied (EACCES))",
        "empty (scratch: permission denied (EACCES))",
        "large (scratch: permission denied (EACCES))",
      ]);
      expect(result.differences.missing.count).toBe(0);
      expect(result.information).toMatchObject({ extra: { count: 0 }, deleted_at_source: { count: 0 } });
      expect(code).toBe(1);
    },
  );
});

describe("which variables", () => {
  test("a missing source or copy fails in words; the others are compared", async () => {
    using at = await synced();
    at.write("torch/x", "1");
    at.configure({ HF_HOME: "hf", TORCH_HOME: "torch", PIP_CACHE_DIR: "nowhere" });
    const { results, errors, code } = await verify(at);
    expect(results.map(({ name, status }) => [name, status])).toEqual([
      ["HF_HOME", "same"],
      ["TORCH_HOME", "failed"],
      ["PIP_CACHE_DIR", "failed"],
    ]);
    expect(results[1]?.error).toMatchObject({
      code: "IO",
      message: `Cannot compare its copy on scratch ${at.cache("TORCH_HOME")}: it does not exist`,
      hint: "make it with: ef sync --var TORCH_HOME",
    });
    expect(results[2]?.error?.message).toContain("its source");
    expect(errors).toHaveLength(2);
    expect(code).toBe(1);
    expect(existsSync(at.cache("TORCH_HOME"))).toBe(false);
  });

  test("disabled ones only if named, as arguments, by --var or in JSON", async () => {
    using at = await synced();
    const file = join(at.home, ".euler-files.json");
    const config = JSON.parse(at.read(file));
    config.vars.HF_HOME.enabled = false;
    writeFileSync(file, JSON.stringify(config));
    expect((await verify(at)).results).toEqual([]);
    for (const args of [["HF_HOME"], ["--var", "HF_HOME"], ["HF_HOME", "HF_HOME", "--checksum"]])
      expect((await verify(at, args)).results).toHaveLength(1);
    const stdin = JSON.stringify({ vars: ["HF_HOME"], checksum: true });
    const named = await verify(at, ["--input-json", "-"], { stdin });
    expect(named).toMatchObject({ only_vars: ["HF_HOME"], checksum: true } as object);
    expect(named.results).toHaveLength(1);
  });

  test("an unknown name is an error of usage", async () => {
    using at = await synced();
    const { stderr, stdout, code } = await at.ef(["verify", "HF_HOME", "NOPE"]);
    expect(stderr).toContain("Cannot find NOPE in the configuration");
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });

  test("a running sync is named, and not waited for", async () => {
    using at = await synced();
    const lock = at.cache(".HF_HOME.lock");
    const open = join(at.dir, "open");
    expect((await verify(at)).warnings).toEqual([]);
    const held = at.sh("sh", `flock '${lock}' sh -c ': > "${open}"; while [ -e "${open}" ]; do sleep 0.01; done'`);
    await until("the lock", () => existsSync(open));
    const { warnings, result } = await verify(at);
    unlinkSync(open);
    await held;
    expect(warnings).toEqual([expect.stringMatching(/^HF_HOME: .* is syncing it: what differs may be on its way$/)]);
    expect(result).toMatchObject({ status: "same" });
    expect(result.holder).toBeDefined();
  });

  test("no leftovers of ef are taken for anything", async () => {
    using at = await synced();
    writeFileSync(join(at.copy, `.ef-tmp-node1-1-${"0".repeat(16)}-0`), "half");
    const { found, notes } = await verify(at);
    expect({ ...found, ...notes }).toEqual({});
    expect(readdirSync(dirname(at.copy)).filter((name) => name.includes("partial"))).toEqual([]);
  });
});
