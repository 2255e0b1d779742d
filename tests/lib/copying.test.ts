import { expect, mock, test } from "bun:test";
import {
  appendFileSync,
  constants,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { State } from "../../lib/engine/carrying.ts";
import type { Copying } from "../../lib/engine/copy-file.ts";
import type { Storage } from "../../lib/engine/storage.ts";
import * as threads from "../../lib/engine/threads.ts";
import { Pair } from "../pair.ts";
import { seeded } from "../tables.ts";
import { differences, fillTree, writeRandom, writeSparse } from "../trees.ts";

const real = { ...threads };

/** ef's own names below a directory. */
const temps = (dir: string) => Bun.spawnSync(["find", dir, "-name", ".ef-*"]).stdout.toString();

/** Small, large, sparse and empty files, links, and names of one inode. */
function fill(pair: Pair, seed = 3): void {
  fillTree(pair.source, seeded(seed), { sparse: true });
  writeRandom(`${pair.source}/large`, 5_000_001, seeded(1));
  writeRandom(`${pair.source}/larger`, 40_000_001, seeded(2));
  writeSparse(`${pair.source}/sparse`, 50_000_000, seeded(3));
}

const isRoot = process.geteuid?.() === 0;

test.skipIf(!isRoot).each<[string, (cx: Copying) => unknown]>([
  ["by the kernel", () => {}],
  ["by reading and writing", (cx) => Object.assign(cx, { kernel: false })],
  ["without the C library", (cx) => Object.assign(cx, { libc: undefined, kernel: false })],
  ["with everything read back", (cx) => Object.assign(cx, { verify: true })],
  ["to storage that is slow", ({ source, target }) => [source, target].map((side) => side.useThreads())],
  ["to the disk", (cx) => Object.assign(cx, { durable: true })],
])("the same copy %s [needs root]", async (how, change) => {
  using pair = new Pair();
  fill(pair);
  const { failures } = await pair.carry(await pair.compare(), change);
  expect(failures).toEqual([]);
  const wrong = differences(pair.look("source"), pair.look("target"));
  // Without it times are exact to the microsecond, and holes are found by the megabyte.
  const known = how === "without the C library" ? /: mtimeNs|: takes (1048576|3145728) bytes/ : /^$/;
  expect(wrong.filter((line) => !known.test(line))).toEqual([]);
  expect(temps(pair.target)).toBe("");
  const again = await pair.compare();
  expect(again.plan).toMatchObject({ files: 0, newInodes: 0, links: 0, attributes: 0 });
});

/** A storage whose reads are not what was written, from a byte on. */
function liar(storage: Storage, from: number): Storage {
  return new Proxy(storage, {
    get(target, name) {
      if (name !== "read") {
        const value = Reflect.get(target, name, target) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      }
      return (fd: number, into: Uint8Array, at: number, length: number, position: number) => {
        const got = target.read(fd, into, at, length, position) as number;
        if (position + got > from && got > 0) into[at + Math.max(0, from - position)]! ^= 1;
        return got;
      };
    },
  });
}

test.each([
  ["a small file", 1000, 999],
  ["a large file", 3_000_000, 2_999_999],
  ["one whose beginning is kept", 34_000_000, 33_999_999],
])("verify: a target that gives back other bytes is noticed: %s", async (_, size, from) => {
  using pair = new Pair();
  writeRandom(`${pair.source}/f`, size, seeded(1));
  const { failures } = await pair.carry(await pair.compare(), (cx) => {
    cx.verify = true;
    cx.target = liar(cx.target, from);
  });
  expect(failures.map(({ path }) => path)).toEqual(["f"]);
  expect(String(failures[0]?.error)).toContain("what was written is not what is read back");
  expect(readdirSync(pair.target).filter((name) => !name.startsWith(".ef-part-"))).toEqual([]);
});

const inSecond = new Date("2024-01-01T00:00:00.250Z");

test.each<[string, (file: string) => void]>([
  ["written to", (file) => writeFileSync(file, "new")],
  ["grown", (file) => appendFileSync(file, "more")],
  ["cut off", (file) => truncateSync(file, 1)],
  [
    "replaced by a rename",
    (file) => {
      writeFileSync(`${file}2`, "other");
      renameSync(`${file}2`, file);
    },
  ],
  [
    "edited in the same second, to the same size",
    (file) => {
      writeFileSync(file, "O".repeat(lstatSync(file).size));
      utimesSync(file, inSecond, new Date(inSecond.getTime() + 1));
    },
  ],
])("a source that is %s between the look and the copy: copied as it is now", async (_, change) => {
  for (const size of [10, 2_000_000]) {
    using pair = new Pair();
    const file = join(pair.source, "f");
    writeFileSync(file, "o".repeat(size));
    utimesSync(file, inSecond, inSecond);
    const comparison = await pair.compare();
    change(file);
    const { failures, state } = await pair.carry(comparison, () => {});
    expect(failures).toEqual([]);
    expect([...state]).toContain(State.done);
    rmSync(`${file}2`, { force: true });
    expect(differences(pair.look("source"), pair.look("target")).filter((line) => !line.startsWith('""'))).toEqual([]);
  }
});

test.each<[string, (file: string) => void, number]>([
  [
    "a link",
    (file) => {
      unlinkSync(file);
      symlinkSync("elsewhere", file);
    },
    State.changed,
  ],
  ["gone", (file) => unlinkSync(file), State.vanished],
])("a source that is %s when its turn comes is not brought", async (_, change, state) => {
  using pair = new Pair();
  writeFileSync(join(pair.source, "f"), "x");
  const comparison = await pair.compare();
  change(join(pair.source, "f"));
  const carried = await pair.carry(comparison, () => {});
  expect(carried.failures).toEqual([]);
  expect([...carried.state]).toContain(state);
  expect(readdirSync(pair.target)).toEqual([]);
});

test("a source that changes each time it is read: reported as changed, nothing of it is visible", async () => {
  for (const size of [100, 2_000_000, 34_000_000]) {
    using pair = new Pair();
    const file = join(pair.source, "f");
    writeRandom(file, size, seeded(1));
    const { state, failures } = await pair.carry(await pair.compare(), (cx) => {
      cx.kernel = false;
      const { source } = cx;
      cx.source = new Proxy(source, {
        get(target, name) {
          const value = Reflect.get(target, name, target) as unknown;
          if (typeof value !== "function") return value;
          if (name === "read") appendFileSync(file, "x");
          return value.bind(target);
        },
      });
    });
    expect(failures).toEqual([]);
    expect([...state]).toContain(State.changed);
    expect(readdirSync(pair.target)).toEqual([]);
  }
});

test("a source that changed and then vanished is a file that vanished, not a failure", async () => {
  using pair = new Pair();
  const file = join(pair.source, "f");
  writeFileSync(file, "x");
  writeFileSync(join(pair.source, "g"), "y");
  const comparison = await pair.compare();
  appendFileSync(file, "more");
  const { failures } = await pair.carry(comparison, (cx) => {
    const { source } = cx;
    cx.source = new Proxy(source, {
      get(target, name) {
        const value = Reflect.get(target, name, target) as unknown;
        if (typeof value !== "function") return value;
        if (name === "lstat") rmSync(file, { force: true });
        return value.bind(target);
      },
    });
  });
  expect(failures).toEqual([]);
});

/** More than 5,000 small files in 300 directories, and a large one. */
function many(pair: Pair): void {
  for (let dir = 0; dir < 300; dir++) {
    const path = join(pair.source, `${dir % 17}/${dir}`);
    mkdirSync(path, { recursive: true });
    for (let i = 0; i < 17; i++) writeFileSync(`${path}/${i}`, `${dir}.${i}`);
  }
  writeRandom(`${pair.source}/1/large`, 3_000_000, seeded(1));
}

test("5,100 files by threads, and where threads cannot start or die: all there, a second look finds nothing to do", async () => {
  using pair = new Pair();
  many(pair);
  const path = require.resolve("../../lib/engine/threads.ts");
  let asked = 0;
  const inThread = () => {
    asked++;
    return Promise.reject(new Error("a thread ended early"));
  };
  for (const [workers, isAlive] of [
    [2, true],
    [3, false],
  ] as const) {
    if (!isAlive) mock.module(path, () => ({ ...real, inThread }));
    try {
      const { failures, state } = await pair.carry(await pair.compare(), () => {}, workers);
      expect(failures).toEqual([]);
      expect(state.filter((one) => one === State.done).length).toBeGreaterThan(5100);
    } finally {
      mock.module(path, () => real);
    }
    expect(differences(pair.look("source"), pair.look("target"))).toEqual([]);
    expect((await pair.compare()).plan).toMatchObject({ files: 0, newInodes: 0 });
    renameSync(pair.target, `${pair.target}-${workers}`);
    mkdirSync(pair.target);
  }
  expect(asked).toBe(2);
});

test("a name that somebody takes on the target meanwhile is not overwritten, whatever was there before", async () => {
  for (const before of ["nothing", "ours"]) {
    using pair = new Pair();
    const theirs = join(pair.target, "f");
    writeFileSync(join(pair.source, "f"), "new");
    if (before === "ours") {
      writeFileSync(theirs, "older");
      utimesSync(theirs, 1e9, 1e9);
    }
    const comparison = await pair.compare();
    writeFileSync(theirs, "theirs");
    const { state } = await pair.carry(comparison, () => {});
    expect([...state]).toContain(State.taken);
    expect(await Bun.file(theirs).text()).toBe("theirs");
    expect(temps(pair.target)).toBe("");
  }
});

/** Each call of a storage, by its number, fails once with an error. */
function failing(storage: Storage, calls: { left: number }, code: string): Storage {
  const names = new Set([
    "open",
    "write",
    "close",
    "fchmod",
    "setTimesOf",
    "setTimes",
    "mkdir",
    "rename",
    "renameNew",
    "symlink",
    "link",
    "truncate",
    "chmod",
  ]);
  return new Proxy(storage, {
    get(target, name) {
      const value = Reflect.get(target, name, target) as unknown;
      if (typeof value !== "function") return value;
      if (!names.has(String(name))) return value.bind(target);
      return (...args: unknown[]) => {
        if (--calls.left !== 0) return (value as (...all: unknown[]) => unknown).apply(target, args);
        if (name === "close") (value as (...all: unknown[]) => unknown).apply(target, args); // the kernel closes it all the same
        throw Object.assign(new Error(`${code}: injected in ${String(name)}`), { code });
      };
    },
  });
}

test.skipIf(!isRoot).each(["EIO", "ENOSPC", "EDQUOT", "EACCES"])(
  "%s at each call in turn: it is heard, nothing half is visible, the next run completes [needs root]",
  async (code) => {
    let calls = 0;
    for (let at = 1; ; at++) {
      using pair = new Pair();
      writeFileSync(join(pair.source, "a"), "aaaa");
      Bun.spawnSync(
        [
          "sh",
          "-c",
          "mkdir d && echo b >d/b && ln d/b d/c && ln -s b d/l && truncate -s 2M d/s && mkdir -m 500 e && echo >e/f",
        ],
        { cwd: pair.source },
      );
      writeRandom(`${pair.source}/large`, 1_500_000, seeded(1));
      const counter = { left: at };
      const heard = await pair
        .carry(await pair.compare(), (cx) => {
          cx.target = failing(cx.target, counter, code);
        })
        .then(
          ({ failures }) => failures.length > 0,
          () => true,
        );
      if (counter.left > 0) {
        calls = at - 1;
        break;
      }
      const source = pair.look("source").seen;
      for (const [path, { kind, hash }] of pair.look("target").seen)
        if (kind === "file" && !path.includes(".ef-"))
          expect([at, path, hash]).toEqual([at, path, source.get(path)?.hash]);
      if (!heard)
        expect(
          differences(pair.look("source"), pair.look("target")).filter((line) => !line.includes(": mtimeNs")),
        ).toEqual([]);
      expect(temps(pair.target)).toBe("");
      await pair.sync();
      const after = differences(pair.look("source"), pair.look("target"));
      expect(after.filter((line) => !line.startsWith('"d/l": mtimeNs'))).toEqual([]); // of a link: for the eye only
    }
    expect(calls).toBeGreaterThan(30);
  },
);

test("nothing of the source is ever opened to be written to", async () => {
  using pair = new Pair();
  fill(pair);
  const before = pair.look("source");
  await pair.carry(await pair.compare(), (cx) => {
    const { source } = cx;
    cx.kernel = false;
    cx.source = new Proxy(source, {
      get(target, name) {
        const value = Reflect.get(target, name, target) as unknown;
        if (typeof value !== "function") return value;
        if (!["open", "fstat", "read", "close", "lstat", "lookUp", "glance", "list", "readlink"].includes(String(name)))
          throw new Error(`${String(name)} of the source`);
        return (...args: unknown[]) => {
          if (name === "open" && args[1] !== constants.O_RDONLY) throw new Error(`opened with ${String(args[1])}`);
          return (value as (...all: unknown[]) => unknown).apply(target, args);
        };
      },
    });
  });
  expect(differences(before, pair.look("source"))).toEqual([]);
  expect(differences(before, pair.look("target"))).toEqual([]);
});
