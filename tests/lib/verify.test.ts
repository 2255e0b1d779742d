/** What verify reads, with both sorts of storage; and how it is followed and stopped. */
import { expect, test } from "bun:test";
import {
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { bytesOf } from "../../lib/base/bytes.ts";
import { checkConfig } from "../../lib/config/store.ts";
import { compareContents, contentsToRead } from "../../lib/engine/contents.ts";
import { Gauge } from "../../lib/engine/gauge.ts";
import { scan } from "../../lib/engine/scan.ts";
import { goneFrom, sideBySide } from "../../lib/engine/side-by-side.ts";
import { Storage } from "../../lib/engine/storage.ts";
import { type VerifyEvent, verify } from "../../lib/verify.ts";
import { Home } from "../helpers.ts";

const mib = 1 << 20;

async function look(root: string, storage = new Storage(undefined)) {
  return (await scan(bytesOf(root), { storage, gauge: new Gauge() })).tree;
}

/** Two directories with the same files, and how their contents compare. */
async function compare(at: Home, isSlow: boolean, stop?: AbortSignal) {
  const [from, to] = [join(at.home, "one"), join(at.home, "two")];
  const sides = { source: new Storage(undefined), target: new Storage(undefined), workers: "auto" as const };
  if (isSlow) for (const side of [sides.source, sides.target]) side.useThreads();
  const [source, target] = [await look(from), await look(to)];
  const alike = new Uint32Array(source.length);
  for (const [row, there] of sideBySide(source, target)) if (source.kind(row) === "file") alike[row] = there + 1;
  const pairs = { source, target, alike };
  const total = contentsToRead(pairs);
  const done = { files: 0, bytes: 0 };
  const different: string[] = [];
  const problems: string[] = [];
  await compareContents(pairs, { from, to }, sides, {
    signal: stop,
    onProgress(bytes, files) {
      done.bytes += bytes;
      done.files += files;
    },
    onDifferent: (path) => void different.push(path),
    onProblem: (path, side, error) => void problems.push(`${path} ${side} ${(error as Error).message}`),
  });
  expect(done).toEqual(total);
  return { total, different: different.sort(), problems };
}

const openFiles = () => readdirSync("/proc/self/fd").length;

test.each([false, true])(
  "contents: each byte counts, in small and large files, through threads: %p",
  async (isSlow) => {
    const sizes = [1, 5, 65_536, 65_537, mib, mib + 1, 3 * mib, 16 * mib, 16 * mib + 1, 40 * mib];
    const name = (i: number, what: string) => `d${i % 3}/${String(i).padStart(2, "0")} ${what}`;
    const files: Record<string, number> = {};
    for (const [i, size] of sizes.entries()) for (const what of ["same", "first", "last"]) files[name(i, what)] = size;
    using at = new Home();
    for (const root of ["one", "two"])
      for (const [path, size] of Object.entries(files)) truncateSync(at.write(`${root}/${path}`, "x"), size);
    at.write("one/empty", "");
    at.write("two/empty", "");
    for (const [i, size] of sizes.entries())
      for (const [what, place] of [
        ["first", 0],
        ["last", size - 1],
      ] as const) {
        const file = join(at.home, "two", name(i, what));
        const { atime, mtime } = statSync(file);
        const fd = openSync(file, "r+");
        writeSync(fd, "z", place);
        closeSync(fd);
        utimesSync(file, atime, mtime);
      }
    const before = openFiles();
    const { total, different, problems } = await compare(at, isSlow);
    expect(different).toEqual(
      Object.keys(files)
        .filter((path) => !path.endsWith("same"))
        .sort(),
    );
    expect(problems).toEqual([]);
    expect(total).toEqual({ files: 30, bytes: 3 * sizes.reduce((sum, size) => sum + size, 0) });
    expect(openFiles()).toBeLessThanOrEqual(before);
  },
);

test("contents: names of one inode are read once", async () => {
  using at = new Home({ "one/a": "12345", "two/a": "12345" });
  for (const root of ["one", "two"])
    for (const name of ["b", "c"]) linkSync(join(at.home, root, "a"), join(at.home, root, name));
  expect((await compare(at, false)).total).toEqual({ files: 1, bytes: 5 });
});

test.each([false, true])(
  "contents: a file that changes or goes meanwhile is told, through threads: %p",
  async (isSlow) => {
    using at = new Home();
    for (const root of ["one", "two"]) for (const name of ["a", "b", "c"]) at.write(`${root}/${name}`, "12345");
    const [source, target] = [await look(join(at.home, "one")), await look(join(at.home, "two"))];
    rmSync(join(at.home, "one/a"));
    truncateSync(join(at.home, "two/b"), 3);
    const sides = { source: new Storage(undefined), target: new Storage(undefined), workers: 3 };
    if (isSlow) for (const side of [sides.source, sides.target]) side.useThreads();
    const problems: string[] = [];
    const alike = Uint32Array.from({ length: source.length }, (_, row) => (row === 0 ? 0 : row + 1));
    await compareContents({ source, target, alike }, { from: join(at.home, "one"), to: join(at.home, "two") }, sides, {
      onProgress() {},
      onDifferent: (path) => void problems.push(`${path} differs`),
      onProblem: (path, side, error) => void problems.push(`${path} ${side}: ${(error as Error).message}`),
    });
    expect(problems.sort()).toEqual([
      expect.stringMatching(/^a source: ENOENT/),
      "b scratch: it changed while it was compared",
    ]);
  },
);

test("verify: the progress has its totals from the first event on, and a signal stops it", async () => {
  using at = new Home();
  const files = 300;
  for (let i = 0; i < files; i++) at.write(`hf/${i % 7}/${i}`, "x".repeat(200_000));
  at.configure({ HF_HOME: "hf" });
  expect((await at.ef(["sync"])).code).toBe(0);
  const config = checkConfig(JSON.parse(at.read(join(at.home, ".euler-files.json"))), "test");
  const env = at.env as never;
  const events: VerifyEvent[] = [];
  const result = await verify(config, { env, checksum: true, onEvent: (event) => events.push(event) });
  expect(result).toMatchObject({ errors: [], vars: [{ name: "HF_HOME", status: "same", files }] });
  const progress = events.filter((event) => event.type === "progress");
  const [totalBytes, totalFiles] = [files * 200_000, files];
  expect(progress[0]).toEqual({ type: "progress", name: "HF_HOME", bytes: 0, files: 0, totalBytes, totalFiles });
  expect(progress.at(-1)).toMatchObject({ bytes: totalBytes, files: totalFiles });
  expect(events.at(-1)).toMatchObject({ type: "result", result: { status: "same" } });

  const before = openFiles();
  const stop = new AbortController();
  const reason = new Error("enough");
  let last = 0;
  const onEvent = (event: VerifyEvent) => {
    if (event.type === "progress") last = event.bytes;
    if (last > totalBytes / 3) stop.abort(reason);
  };
  expect(await verify(config, { env, checksum: true, signal: stop.signal, onEvent }).catch((error) => error)).toBe(
    reason,
  );
  expect(last).toBeLessThan(totalBytes);
  expect(openFiles()).toBeLessThanOrEqual(before);
});

test("side by side: every path of either tree once, in the order of a listing", async () => {
  using at = new Home({ "one/a": "", "one/b/x": "", "one/b/y": "", "two/b/y": "", "two/b/z": "", "two/c/d/e": "" });
  const [one, two] = [await look(join(at.home, "one")), await look(join(at.home, "two"))];
  const paths = [...sideBySide(one, two)].map(([x, y]) => [x < 0 ? "" : one.path(x), y < 0 ? "" : two.path(y)]);
  expect(paths).toEqual([
    ["a", ""],
    ["b", "b"],
    ["b/x", ""],
    ["b/y", "b/y"],
    ["", "b/z"],
    ["", "c"],
    ["", "c/d"],
    ["", "c/d/e"],
  ]);
  mkdirSync(join(at.home, "none"));
  expect(goneFrom(one, two)).toEqual({ gone: 2, of: 3 });
  expect(goneFrom(one, one)).toEqual({ gone: 0, of: 3 });
  expect(goneFrom(one, await look(join(at.home, "none")))).toEqual({ gone: 3, of: 3 });
});
