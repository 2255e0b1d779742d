import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "../../lib/base/crc.ts";
import { type Base, readBase, readTimes, type Times, unknownTime, writeManifest } from "../../lib/engine/manifest.ts";
import { Flag, type Tree } from "../../lib/engine/tree.ts";
import { Home } from "../helpers.ts";
import { baseOf, dir, type Entries, file, link, ns, seeded } from "../tables.ts";

/** All that a table can hold: odd names (every byte but "/" and NUL), links, names of one inode, times of its own. */
const odd = Array.from({ length: 255 }, (_, i) => String.fromCharCode(i + 1))
  .filter((c) => c !== "/")
  .join("");
const entries: Entries = {
  "": dir({ time: 1234.5678, mode: 0o2775 }),
  [odd.slice(0, 250)]: file(1, -5.5),
  [`d/${odd.slice(-250)}`]: file(2 ** 45, 253_402_300_799.25, { mode: 0o4711, scratch: 77.125 }),
  "d/- \n\"'": dir(),
  "d/e/f/g": file(0, 0, { flags: Flag.racy }),
  "d/never": file(7, 100, { scratch: Number.NaN }),
  l: link("../\xff\xfe \n", { time: 3.25 }),
  "d/l2": link(""),
  "d/one": file(4, 9, { inode: "a" }),
  "e/same": file(4, 9, { inode: "a" }),
  "e/other": file(4, 9, { inode: "b" }),
  "e/gone": file(3, 3, { flags: Flag.orphan }),
};
const times: Omit<Times, "run"> = {
  whole: true,
  entries: [
    { path: "", source: ns(1234.5), scratch: ns(7) },
    { path: odd.slice(0, 250), source: -1n, scratch: 2n ** 62n },
    { path: "top", source: 5n, scratch: undefined },
    { path: "racy", source: unknownTime, scratch: 6n },
  ],
};

function childrenOf(tree: Tree, row: number): number[] {
  const [from, to] = tree.children(row);
  return from === to ? [] : [from, to];
}

/** A table as values that can be compared. */
function rowsOf({ tree, scratch }: Base) {
  return Array.from({ length: tree.length }, (_, row) => ({
    path: tree.path(row),
    mode: tree.mode[row],
    size: tree.size[row],
    mtime: tree.mtime[row],
    scratch: scratch[row],
    inode: tree.inode[row],
    text: tree.links.get(row),
    children: childrenOf(tree, row),
  }));
}

/** A manifest in a directory of its own. */
function written(base = baseOf(entries)) {
  const at = new Home();
  const path = join(at.dir, ".X.manifest");
  return { at, path, run: writeManifest(path, times, base), base };
}

test("what was written is read, whatever the names", () => {
  const { at, path, run, base } = written();
  using _ = at;
  expect(readTimes(path)).toEqual({ ...times, run });
  const found = readBase(path, run);
  expect(found?.run).toBe(run);
  expect(rowsOf(found as Base)).toEqual(rowsOf(base));
  expect(readBase(path)?.run).toBe(run);
  expect(readBase(path, "0123456789abcdef")).toBeUndefined();
  const at2 = found?.tree.find(`d/${odd.slice(-250)}`) as number;
  expect(found?.scratch[at2]).toBe(ns(77.125));
});

test("an empty tree, and one of only its root, are tables too", () => {
  const { at, path, run } = written(baseOf({ "": dir() }));
  using _ = at;
  expect(readBase(path, run)?.tree.length).toBe(1);
  writeManifest(path, { whole: false, entries: [] }, baseOf({ "": dir() }));
  expect(readTimes(path)).toMatchObject({ whole: false, entries: [] });
});

test("30 random tables come back as they were", () => {
  using at = new Home();
  const path = join(at.dir, "m");
  for (let seed = 1; seed <= 30; seed++) {
    const random = seeded(seed);
    const all: Entries = {};
    for (let i = random(200); i >= 0; i--) {
      const depth = 1 + random(5);
      const name = () => (random(3) ? `${random(5)}` : String.fromCharCode(128 + random(128), 1 + random(40)));
      const at = Array.from({ length: depth }, (_, level) => `${level < depth - 1 ? "d" : "f"}${name()}`).join("/");
      const more = {
        mode: random(0o10000),
        inode: random(4) ? undefined : `${random(9)}`,
        scratch: random(3) ? undefined : random(1e9),
      };
      all[at] = random(5) ? file(random(1e9), random(2e9) - 5e8, more) : link(at);
    }
    const base = baseOf(all);
    const run = writeManifest(path, times, base);
    expect(rowsOf(readBase(path, run) as Base)).toEqual(rowsOf(base));
  }
});

test("cut off anywhere, it counts as missing", () => {
  const { at, path } = written();
  using _ = at;
  const bytes = readFileSync(path);
  let readable = 0;
  for (let length = 0; length < bytes.length; length++) {
    writeFileSync(path, bytes.subarray(0, length));
    expect(readBase(path)).toBeUndefined();
    if (readTimes(path)) readable++;
  }
  // Of the times, which stand first, what comes after them is no part.
  const { columns } = JSON.parse(bytes.toString("latin1").split("\n")[0] ?? "");
  expect(readable).toBeLessThanOrEqual(bytes.length - bytes.indexOf(10) - 1 - columns.parent[0]);
  expect(readable).toBeGreaterThan(0);
});

test("damaged anywhere (2000 times a byte), it counts as missing, or is what it was", () => {
  const { at, path, run, base } = written();
  using _ = at;
  const random = seeded(7);
  const bytes = readFileSync(path);
  const [rows, whole] = [JSON.stringify(rowsOf(base), text), JSON.stringify({ run, ...times }, text)];
  let missing = 0;
  const line = bytes.indexOf(10);
  for (let i = 0; i < 2000; i++) {
    const damaged = Buffer.from(bytes);
    // Half of them in the line, which says what the rest is.
    const at = i % 2 ? random(bytes.length) : random(line + 2);
    damaged[at] = i % 3 ? (damaged[at] as number) ^ (1 << random(8)) : random(256);
    writeFileSync(path, damaged);
    const [found, seen] = [readBase(path), readTimes(path)];
    if (found) expect(JSON.stringify(rowsOf(found), text)).toBe(rows);
    else missing++;
    if (found && found.run !== run) throw new Error(`another run, by byte ${at}`);
    if (seen) expect(JSON.stringify(seen, text)).toBe(whole);
  }
  expect(missing).toBeGreaterThan(1700);
});

const text = (_: string, value: unknown) => (typeof value === "bigint" ? `${value}n` : value);

/** The line changed, its checksums made right again. */
function withLine(
  path: string,
  change: (header: Record<string, never> & { columns: Record<string, [number, number]> }) => void,
  more = Buffer.alloc(0),
) {
  const bytes = readFileSync(path);
  const end = bytes.indexOf(10);
  const header = JSON.parse(bytes.toString("utf8", 0, end));
  const body = Buffer.concat([bytes.subarray(end + 1), more]);
  change(header);
  const { run, whole, rows, columns } = header;
  const said = crc32(Buffer.from(JSON.stringify([run, whole, rows, columns])));
  header.timesCrc = crc32(body.subarray(0, columns.parent[0]), said);
  header.restCrc = crc32(body.subarray(columns.parent[0]), said);
  writeFileSync(path, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), body]));
}

test("columns that this version does not know are left alone; a later version number counts as missing", () => {
  const { at, path, run, base } = written();
  using _ = at;
  const end = readFileSync(path).length - readFileSync(path).indexOf(10) - 1;
  withLine(path, ({ columns }) => Object.assign(columns, { checksums: [end, 16] }), Buffer.alloc(16, 7));
  expect(rowsOf(readBase(path, run) as Base)).toEqual(rowsOf(base));
  expect(readTimes(path)).toEqual({ ...times, run });
  withLine(path, (header) => Object.assign(header, { version: 2 }));
  expect(readBase(path)).toBeUndefined();
  expect(readTimes(path)).toBeUndefined();
});

test.each<[string, object]>([
  ["more rows than there are", { rows: 1e9 }],
  ["fewer rows", { rows: 3 }],
  ["no rows", { rows: 0 }],
  ["rows that are no number", { rows: "5" }],
  ["no columns", { columns: { parent: [0, 0] } }],
  ["run that is no text", { run: 5 }],
  ["another file's magic", { magic: "x" }],
])("a line that lies, with checksums that are right, counts as missing: %s", (_, lie) => {
  const { at, path } = written();
  using __ = at;
  withLine(path, (header) => Object.assign(header, lie));
  expect(readBase(path)).toBeUndefined();
});

test("no file, a directory, a link, a FIFO, another file: missing", async () => {
  const { at, path } = written();
  using _ = at;
  const none = () => expect([readBase(path), readTimes(path)]).toEqual([undefined, undefined]);
  for (const content of ["", "x", "{}\n", "\n", "null\n", `${"x".repeat(5000)}\n`]) {
    writeFileSync(path, content);
    none();
  }
  rmSync(path);
  none();
  mkdirSync(path);
  none();
  rmSync(path, { recursive: true });
  const good = written();
  using __ = good.at;
  symlinkSync(good.path, path);
  none();
  rmSync(path);
  await at.sh("sh", `mkfifo '${path}'`);
  none();
});

test("what is no tree is told: names with slashes, out of order, children apart, a parent after its child", () => {
  const build = (change: (tree: Tree) => void) => {
    const { tree } = baseOf({ "a/b": file(1, 1), "a/c": file(1, 1), d: file(1, 1) });
    change(tree);
    return tree.isSound();
  };
  expect(build(() => {})).toBe(true);
  const set = (name: string) => (tree: Tree) => void tree.names.set(Buffer.from(name, "latin1"), 0);
  expect(build(set("/"))).toBe(false);
  expect(build(set("\0"))).toBe(false);
  expect(build(set("."))).toBe(false);
  expect(build(set("e"))).toBe(false); // after d
  expect(
    build((tree) => {
      tree.parent[3] = 3;
    }),
  ).toBe(false);
  expect(
    build((tree) => {
      tree.parent[3] = 2;
    }),
  ).toBe(false); // d is a file
  expect(
    build((tree) => {
      tree.size[0] = 3;
    }),
  ).toBe(false);
  expect(
    build((tree) => {
      tree.mode[0] = 0o100644;
    }),
  ).toBe(false);
  expect(
    build((tree) => {
      tree.nameEnd[2] = 1;
    }),
  ).toBe(false);
  expect(
    build((tree) => {
      tree.length = 0;
    }),
  ).toBe(false);
});
