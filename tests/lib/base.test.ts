import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { mapLimit, sleep } from "../../lib/base/async.ts";
import { readOwn, tempBeside, writeAtomic } from "../../lib/base/files.ts";
import { nearest } from "../../lib/base/nearest.ts";
import { humanAge, humanBytes, humanCount, humanDuration, plural } from "../../lib/base/units.ts";
import { Space } from "../../lib/engine/space.ts";
import { Home } from "../helpers.ts";

test.each([
  [0, "0"],
  [1023, "1023"],
  [1024, "1.0K"],
  [4096, "4.0K"],
  [10_137, "9.9K"],
  [10_138, "10K"],
  [1_048_575, "1.0M"],
  [1_300_000_000, "1.3G"],
  [2 ** 70, "1024E"],
])("%i bytes are %s, as du -h has them", (bytes, text) => {
  expect(humanBytes(bytes)).toBe(text);
});

test("ages, durations, counts", () => {
  expect([12, 300, 10_800, 172_800, -5].map(humanAge)).toEqual(["12s ago", "5m ago", "3h ago", "2d ago", "0s ago"]);
  expect([0.0123, 0.44, 12, 185, 7800].map(humanDuration)).toEqual(["12 ms", "0.4 s", "12 s", "3m 05s", "2h 10m"]);
  expect(humanCount(1_234_567)).toBe("1,234,567");
  expect([plural(1, "file"), plural(2000, "file"), plural(2, "entry", "entries")]).toEqual([
    "1 file",
    "2,000 files",
    "2 entries",
  ]);
});

test("mapLimit: order kept, never more at once, the first error comes out when all have ended", async () => {
  let now = 0;
  let most = 0;
  const work = async (n: number) => {
    most = Math.max(most, ++now);
    await sleep(5 - n);
    now--;
    return n * 2;
  };
  expect(await mapLimit([1, 2, 3, 4], 2, work)).toEqual([2, 4, 6, 8]);
  expect(most).toBe(2);
  const broken = mapLimit([1, 2, 3], 1, async (n) => {
    if (n === 2) throw new Error("two");
    return n;
  });
  expect(broken).rejects.toThrow("two");
  expect(await mapLimit([], 4, work)).toEqual([]);
});

test("writeAtomic: whole content, mode as given, nothing left beside it; not over a directory or a FIFO", async () => {
  using at = new Home();
  const file = join(at.dir, "f");
  writeAtomic(file, "one", 0o600);
  expect(statSync(file).mode & 0o7777).toBe(0o600);
  writeAtomic(file, "two");
  expect(at.read(file)).toBe("two");
  mkdirSync(join(at.dir, "d"));
  await at.sh("sh", `mkfifo '${at.dir}/p'`);
  for (const name of ["d", "p"]) expect(() => writeAtomic(join(at.dir, name), "x")).toThrow("not a regular file");
  expect(readdirSync(at.dir).filter((name) => name.includes("tmp"))).toEqual([]);
});

test("a temporary name fits where the name itself just does", () => {
  using at = new Home();
  const long = join(at.dir, "ü".repeat(127));
  writeFileSync(long, "");
  expect(Buffer.byteLength(basename(tempBeside(long)))).toBeLessThanOrEqual(255);
  writeAtomic(long, "x");
  expect(at.read(long)).toBe("x");
});

test("readOwn: no link, FIFO, directory or huge file", async () => {
  using at = new Home();
  const file = at.write("f", "12345");
  expect(readOwn(file, 5)?.toString()).toBe("12345");
  expect(readOwn(file, 4)).toBeUndefined();
  symlinkSync(file, join(at.dir, "l"));
  await at.sh("sh", `mkfifo '${at.dir}/p'`);
  for (const name of ["l", "p", "home", "none"]) expect(readOwn(join(at.dir, name), 100)).toBeUndefined();
});

test("space: what one transfer was promised, another cannot have; what is written is counted by the file system", () => {
  using at = new Home();
  const half = { bytes: Math.floor(freeBytes(at.dir) * 0.6), inodes: 1 };
  const space = new Space();
  {
    using first = space.reserve("A", at.dir, half);
    expect(() => space.reserve("B", at.dir, half)).toThrow(/Cannot copy B to .*: it needs .*, .* left there/);
    first.used(half.bytes, 1);
    space.reserve("B", at.dir, half)[Symbol.dispose]();
  }
  space.reserve("C", at.dir, half)[Symbol.dispose]();
  expect(() => space.reserve("D", at.dir, { bytes: 0, inodes: 1e15 })).toThrow("inodes");
});

function freeBytes(path: string): number {
  const { stdout } = Bun.spawnSync(["stat", "-f", "-c", "%a %S", path]);
  const [blocks = 0, size = 0] = stdout.toString().split(" ").map(Number);
  return blocks * size;
}

test.each([
  ["snyc", ["sync", "push"], "sync"],
  ["config bogus", ["config get", "config set", "config show"], undefined],
  ["config sohw", ["config get", "config show"], "config show"],
  ["vars.A.sorce", ["vars.A.source"], "vars.A.source"],
  ["ab", ["ac"], undefined],
])("nearest(%p, %j) is %p", (word, known, found) => {
  expect(nearest(word, known)).toBe(found);
});
