import { describe, expect, test } from "bun:test";
import {
  constants,
  copyFileSync,
  cpSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compareTrees } from "../../scripts/bench/compare.ts";
import { leastRequests, limitS } from "../../scripts/bench/model.ts";
import { type Panel, plot } from "../../scripts/bench/plot.ts";
import { median, panels, type Reported, tables } from "../../scripts/bench/report.ts";
import { buildSlowFs, isMounted, SlowMount, whyNoSlowFs } from "../../scripts/bench/slow-fs.ts";
import { changeFiles, makeTree, onePercent, survey, type TreeName, walk } from "../../scripts/bench/trees.ts";
import { have, run } from "../helpers.ts";

const root = join(import.meta.dir, "../..");

async function temporary() {
  const path = await mkdtemp(join(tmpdir(), "ef-bench-test-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

describe("trees", () => {
  // What the full trees hold is in the same proportion: names, directories, symlinks, files.
  test.each<[TreeName, number, { names: number; directories: number; symlinks: number; files: number }]>([
    ["pip", 0.1, { names: 2000, directories: 1 + 2 + 26, symlinks: 0, files: 2000 }],
    ["hf", 0.001, { names: 63, directories: 16, symlinks: 59, files: 63 }],
    ["conda", 0.1, { names: 1440, directories: 154, symlinks: 62, files: 960 }],
    ["million", 0.001, { names: 1000, directories: 1 + 1 + 1 + 4, symlinks: 0, files: 1000 }],
  ])("%s, × %d", async (name, scale, counts) => {
    await using at = await temporary();
    const [one, two, other] = ["one", "two", "other"].map((dir) => join(at.path, dir)) as [string, string, string];
    makeTree(name, one, { scale });
    const { sizes, ...rest } = survey(one);
    expect({ ...rest, files: sizes.length }).toEqual(counts);

    makeTree(name, two, { scale });
    expect(compareTrees(one, two)).toEqual({});
    makeTree(name, other, { scale, seed: 2 });
    expect(compareTrees(one, other)).not.toEqual({});
  });

  test("what is changed is about 1 %, keeps its size, and is other files each time", async () => {
    await using at = await temporary();
    const [tree, copy] = [join(at.path, "tree"), join(at.path, "copy")];
    makeTree("pip", tree, { scale: 0.05 });
    makeTree("pip", copy, { scale: 0.05 });
    const paths = onePercent(tree, 0);
    expect(paths).toHaveLength(10);
    expect(onePercent(tree, 1)).not.toEqual(paths);
    changeFiles(tree, paths, 0);
    expect(compareTrees(tree, copy)).toEqual({ times: 10, content: 10 });
  });
});

test("compare: names what a copy lacks", async () => {
  await using at = await temporary();
  const [tree, copy] = [join(at.path, "tree"), join(at.path, "copy")];
  for (const dir of [tree, copy]) {
    mkdirSync(join(dir, "d"), { recursive: true });
    for (const name of ["same", "size", "content", "type"]) writeFileSync(join(dir, name), name);
    symlinkSync("same", join(dir, "link"));
    linkSync(join(dir, "same"), join(dir, "twin"));
  }
  writeFileSync(join(tree, "missing"), "");
  writeFileSync(join(copy, "extra"), "");
  writeFileSync(join(copy, "size"), "another");
  writeFileSync(join(copy, "content"), "tnetnoc");
  for (const name of ["type", "twin", "link"]) unlinkSync(join(copy, name));
  mkdirSync(join(copy, "type"));
  copyFileSync(join(tree, "twin"), join(copy, "twin"));
  symlinkSync("else", join(copy, "link"));
  utimesSync(join(copy, "d"), 1, 1);
  for (const dir of [tree, copy]) {
    for (const { path, stat } of walk(dir)) if (stat.isFile()) utimesSync(join(dir, path), 2, path === "same" ? 2 : 3);
  }
  expect(compareTrees(tree, copy)).toEqual({
    ...{ missing: 1, extra: 1, type: 1, size: 1, content: 1 },
    ...{ "link target": 1, "hard links": 1, times: 1, "directory times": 1 },
  });
});

describe("limit", () => {
  // Two files of 1 byte and 256 KiB + 1, one of them under two names, one symlink, in three directories.
  const tree = { directories: 3, names: 3, symlinks: 1, sizes: [1, 256 * 1024 + 1] };
  const server = { metaUs: 1000, dataUs: 500, concurrent: 2, mbps: 0, cacheS: 0 };

  test("requests", () => {
    const bytes = 256 * 1024 + 2;
    expect(leastRequests(tree, "cold")).toEqual({
      source: { meta: 12 + 3 + 1 + (2 + 1), data: 3, bytes },
      target: { meta: 9 + 6 + 3 + 2, data: 2, bytes },
    });
    expect(leastRequests(tree, "unchanged").source).toEqual({ meta: 16, data: 0, bytes: 0 });
    expect(leastRequests(tree, "changed", [1]).source).toEqual({ meta: 17, data: 1, bytes: 1 });
    expect(leastRequests(tree, "purged", [1]).target).toEqual({ meta: 18, data: 1, bytes: 1 });
  });

  test.each([
    ["cold", { source: server }, (19 * 1000 + 3 * 500) / 2 / 1e6],
    ["cold", { source: server, target: { ...server, metaUs: 10_000 } }, (20 * 10_000 + 2 * 500) / 2 / 1e6],
    ["cold", { source: { ...server, mbps: 1 } }, (256 * 1024 + 2) / 1e6],
    ["unchanged", { source: { ...server, mbps: 1 } }, (16 * 1000) / 2 / 1e6],
    ["fresh", { source: server }, undefined],
    ["cold", {}, undefined],
  ] as const)("seconds: %s, %j", (scenario, servers, seconds) => {
    const limit = limitS(tree, scenario, servers);
    if (seconds === undefined) expect(limit).toBeUndefined();
    else expect(limit).toBeCloseTo(seconds, 9);
  });
});

describe("report", () => {
  const requests = { meta: 1234, data: 1, bytesRead: 0, bytesWritten: 0 };
  const base = { setup: "slow", tree: "pip", memoryBytes: 2 ** 20, source: requests, limitS: 1 };
  const runs: Reported[] = [
    { ...base, peer: "ef", scenario: "cold", seconds: 2 },
    { ...base, peer: "ef", scenario: "cold", seconds: 4 },
    { ...base, peer: "ef", scenario: "cold", seconds: 2.5 },
    { ...base, peer: "ef", scenario: "fresh", seconds: 0.01, limitS: undefined },
    { ...base, peer: "rsync", scenario: "cold", seconds: 50, differences: { "hard links": 7 } },
    { ...base, peer: "rsync", scenario: "unchanged", seconds: 20 },
    { ...base, peer: "cp", scenario: "cold", seconds: 1, reason: "no | space" },
  ];

  test("a table: medians, factors, requests, what the copies lack, why one failed", () => {
    const text = tables(runs, { setups: { slow: { about: "S" } }, trees: { pip: { about: "T" } }, scale: 1 });
    expect(text).toContain("### slow, pip\n\nS; T\n");
    expect(text).toContain("| ef | 2.50 (20×, 2.5 of limit) | 0.01 (2000×) |  | 1,235 |  | 1 MiB | exact copy |");
    expect(text).toContain("| rsync | 50.0 (1.0×, 50 of limit) |");
    expect(text).toContain("differs: hard links: 7 paths |");
    expect(text).toContain("failed: no \\| space |");
    expect(text).toContain("| *limit* | 1.00 |");
  });

  test("panels: a fresh sync beside the full comparisons, none for a failed run", () => {
    expect(panels(runs)).toEqual([
      {
        title: "slow, pip: cold",
        bars: [
          { label: "ef", seconds: 2.5, own: true },
          { label: "rsync", seconds: 50, own: false },
        ],
        limitS: 1,
      },
      {
        title: "slow, pip: unchanged",
        bars: [
          { label: "ef, fresh", seconds: 0.01, own: true },
          { label: "rsync", seconds: 20, own: false },
        ],
        limitS: 1,
      },
    ]);
  });

  test.each([
    [[3], 3],
    [[9, 1, 5], 5],
    [[4, 1, 2, 9], 3],
  ])("median of %j", (values, expected) => expect(median(values)).toBe(expected));
});

describe("plot", () => {
  const drawn: Panel[] = [
    { title: "a < b & c", bars: [{ label: "ef", seconds: 0.012, own: true }], limitS: 0.01 },
    { title: "second", bars: [{ label: "slow one", seconds: 142, own: false }] },
  ];

  test("all labels, values and titles are in it, and both themes", () => {
    const svg = plot(drawn);
    for (const part of [">a &lt; b &amp; c<", ">second<", ">ef<", ">slow one<", ">0.012<", ">142<", ">100 s<"]) {
      expect(svg).toContain(part);
    }
    expect(svg.match(/<line class="limit"/g)).toHaveLength(1);
    expect(svg).toContain("@media (prefers-color-scheme: dark)");
    expect(plot([])).toStartWith("<svg ");
  });

  test.skipIf(!have("python3"))("an XML parser takes it [needs python3]", async () => {
    const parse =
      "import sys, xml.dom.minidom as d; print(d.parseString(sys.stdin.buffer.read()).documentElement.tagName)";
    const ran = await run(["python3", "-c", parse], { env: process.env, stdin: plot(drawn) });
    expect(ran.stderr).toBe("");
    expect(ran.stdout).toBe("svg\n");
  });
});

test("arguments that are wrong are named", async () => {
  const bench = (...args: string[]) =>
    run([process.execPath, join(root, "scripts/bench/main.ts"), ...args], { env: process.env });
  for (const [args, said] of [
    [["--trees", "pip,oak"], "--trees oak: not one of pip, hf, conda, million"],
    [["--rounds", "0"], "--rounds 0: not a number from 1"],
    [["--colour"], "--colour"],
  ] as const) {
    const { stdout, stderr, code } = await bench(...args);
    expect(stderr).toContain(said);
    expect(stderr).toContain("Usage: npm run bench");
    expect(stdout).toBe("");
    expect(code).toBe(2);
  }
  expect((await bench("--help")).stdout).toStartWith("Usage: npm run bench");
});

const noSlowFs = whyNoSlowFs();
const slowFsNeeds = noSlowFs?.replace(/^needs /, "") ?? "/dev/fuse";

describe.skipIf(noSlowFs !== undefined)(`slow-fs [needs ${slowFsNeeds}]`, () => {
  /** A mount of a new directory; both are gone at the end. */
  async function mounted(server: Parameters<typeof SlowMount.start>[3] = {}, mounts = 1) {
    const stack = new AsyncDisposableStack();
    const { path } = stack.use(await temporary());
    const real = join(path, "real");
    mkdirSync(real);
    const executable = buildSlowFs(path);
    const all: SlowMount[] = [];
    for (let i = 0; i < mounts; i++) {
      all.push(stack.use(await SlowMount.start(executable, real, join(path, `seen-${i}`), server)));
    }
    return { real, seen: all[0]!.path, mount: all[0]!, all, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  }

  test("a tree that is made through it, and one that is copied from it, are exact", async () => {
    await using at = await mounted();
    makeTree("conda", join(at.seen, "made"), { scale: 0.02 });
    makeTree("conda", join(at.real, "direct"), { scale: 0.02 });
    expect(compareTrees(join(at.real, "direct"), join(at.real, "made"))).toEqual({});
    cpSync(join(at.seen, "made"), join(at.seen, "copy"), { recursive: true, verbatimSymlinks: true });
    expect(compareTrees(join(at.real, "made"), join(at.real, "copy")).content).toBeUndefined();
  });

  test.skipIf(!have("rsync"))("rsync through it is exact, there and back [needs rsync]", async () => {
    await using at = await mounted({ concurrent: 8 });
    makeTree("hf", join(at.real, "tree"), { scale: 0.01 });
    for (const argv of [
      ["rsync", "-aH", `${at.seen}/tree/`, `${at.seen}/copy/`],
      ["rsync", "-aHcni", "--delete", `${at.real}/tree/`, `${at.real}/copy/`],
    ]) {
      const { stdout, stderr, code } = await run(argv, { env: process.env });
      expect(stdout + stderr).toBe("");
      expect(code).toBe(0);
    }
  });

  test("what a copy tool asks for: rename, truncate, modes, times, links, deleted files, holes", async () => {
    await using at = await mounted();
    const path = (name: string) => join(at.seen, name);
    writeFileSync(path("a"), "first");
    writeFileSync(path("b"), "second");
    renameSync(path("a"), path("b"));
    expect(readFileSync(path("b"), "utf8")).toBe("first");
    expect(readdirSync(at.seen)).toEqual(["b"]);
    truncateSync(path("b"), 2);
    utimesSync(path("b"), 5, 1234.5678);
    expect(lstatSync(join(at.real, "b"))).toMatchObject({ size: 2, mtimeMs: 1234567.8, atimeMs: 5000 });
    linkSync(path("b"), path("c"));
    expect(lstatSync(path("c"))).toMatchObject({ nlink: 2, ino: lstatSync(path("b")).ino });
    expect(() => linkSync(path("b"), path("c"))).toThrow("EEXIST");
    expect(() => mkdirSync(path("no/dir"))).toThrow("ENOENT");

    // A file that is deleted while it is open can be read, written and asked for.
    const fd = openSync(path("open"), constants.O_RDWR | constants.O_CREAT, 0o600);
    unlinkSync(path("open"));
    expect(writeSync(fd, "still here")).toBe(10);
    const read = Buffer.alloc(20);
    expect(readSync(fd, read, 0, 20, 0)).toBe(10);
    expect(lstatSync(`/proc/self/fd/${fd}`).isSymbolicLink()).toBe(true);

    const { stdout, stderr } = await run(["sh", "-ec", "mkfifo fifo; cp --sparse=always b e; ls -l fifo; df . >df"], {
      env: process.env,
      cwd: at.seen,
    });
    expect(stderr).toBe("");
    expect(stdout).toStartWith("prw");
    rmSync(path("fifo"));
  });

  test("counts requests, from zero after a reset, and slows them", async () => {
    await using at = await mounted({ metaUs: 2000, dataUs: 3000, concurrent: 4 });
    writeFileSync(join(at.real, "file"), Buffer.alloc(300_000));
    at.mount.reset();
    const started = performance.now();
    expect(readFileSync(join(at.seen, "file"))).toHaveLength(300_000);
    const ms = performance.now() - started;
    const requests = at.mount.requests();
    expect(requests).toMatchObject({ lookup: 1, open: 1, read: 3, bytesRead: 300_000, data: 3, write: 0 });
    expect(requests.meta).toBeGreaterThanOrEqual(3);
    expect(ms).toBeGreaterThan(2 * 2 + 3);
    at.mount.reset();
    expect(at.mount.requests()).toMatchObject({ read: 0, open: 0, bytesRead: 0 });
  });

  test("not more requests at once than places", async () => {
    await using at = await mounted({ metaUs: 5000, concurrent: 3 });
    for (let i = 0; i < 30; i++) writeFileSync(join(at.real, `f${i}`), "");
    const each = "ls -U | xargs -P 10 -n 3 stat >/dev/null";
    const { stderr } = await run(["sh", "-c", each], { env: process.env, cwd: at.seen });
    expect(stderr).toBe("");
    expect(at.mount.requests().peak).toBe(3);
  });

  test("bandwidth: bytes wait for the wire", async () => {
    await using at = await mounted({ mbps: 10 });
    writeFileSync(join(at.real, "file"), Buffer.alloc(1_000_000));
    const started = performance.now();
    readFileSync(join(at.seen, "file"));
    expect(performance.now() - started).toBeGreaterThan(95);
  });

  test.skipIf(!have("flock"))("flock excludes between two mounts, like two hosts [needs flock]", async () => {
    await using at = await mounted({}, 2);
    const [one, two] = at.all.map((mount) => join(mount.path, "lock")) as [string, string];
    const other = (how: string) => `flock ${how} "$2" true && echo free || echo held`;
    // FUSE hears of the end of a file that was open some time after its close.
    const script = `flock "$1" sh -c '${other("-n")}' sh "$1" "$2"; ${other("-w 30")}`;
    const { stdout } = await run(["sh", "-c", script, "sh", one, two], {
      env: process.env,
    });
    expect(stdout).toBe("held\nfree\n");
  });

  test("it is unmounted with the process that started it, even by SIGKILL", async () => {
    await using at = await temporary();
    mkdirSync(join(at.path, "real"));
    const executable = buildSlowFs(at.path);
    const mountpoint = join(at.path, "seen");
    const script = `import { SlowMount } from "${root}/scripts/bench/slow-fs.ts";
      const mount = await SlowMount.start(...process.argv.slice(1));
      console.log("mounted"); process.kill(process.pid, "SIGKILL");`;
    const argv = [process.execPath, "-e", script, executable, join(at.path, "real"), mountpoint];
    const { stdout, code } = await run(argv, { env: process.env });
    expect(stdout).toBe("mounted\n");
    expect(code).toBe(137);
    const limit = Date.now() + 10_000;
    while (isMounted(mountpoint) && Date.now() < limit) await Bun.sleep(10);
    expect(isMounted(mountpoint)).toBe(false);
  });

  test.skipIf(!have("rsync"))("the whole bench, small; nothing is left [needs rsync]", async () => {
    await using at = await temporary();
    const small = ["--trees", "pip", "--scale", "0.002", "--setup", "slow,local", "--rounds", "1"];
    const argv = [process.execPath, join(root, "scripts/bench/main.ts"), ...small, "--only", "rsync,cp"];
    const out = join(at.path, "out");
    const { stdout, stderr, code } = await run([...argv, "--dir", at.path, "--out", out], { env: process.env });
    expect(stderr).not.toContain("failed");
    expect(stdout).toContain("### slow, pip");
    expect(stdout).toContain("### local, pip");
    expect(stdout).toMatch(/\| rsync \| .* exact copy \|/);
    const { runs } = await Bun.file(join(out, "results.json")).json();
    expect(runs).toHaveLength(2 * 2 * 4);
    expect(await Bun.file(join(out, "bench.svg")).text()).toContain("slow, pip: cold");
    expect(readdirSync(at.path)).toEqual(["out"]);
    expect(code).toBe(0);
  });

  test.skipIf(!have("rsync"))("SIGINT: it stops, and nothing is left [needs rsync]", async () => {
    await using at = await temporary();
    const slow = ["--trees", "pip", "--scale", "0.02", "--setup", "slow", "--meta-us", "50000", "--only", "rsync"];
    const argv = [process.execPath, join(root, "scripts/bench/main.ts"), ...slow, "--dir", at.path, "--out", at.path];
    const { stderr, code } = await run(argv, {
      env: process.env,
      onStart: async (child) => {
        const limit = Date.now() + 20_000;
        const isSlow = () => readdirSync(at.path).some((name) => isMounted(join(at.path, name, "memory/slow-source")));
        while (!isSlow() && Date.now() < limit) await Bun.sleep(20);
        child.kill("SIGINT");
      },
    });
    expect(stderr).toContain("Stopped");
    expect(readdirSync(at.path)).toEqual([]);
    expect(code).toBe(130);
  });
});
