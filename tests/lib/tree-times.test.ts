import { expect, test } from "bun:test";
import { mkdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  firstChange,
  joinScratchTimes,
  maxDirs,
  readSourceTimes,
  readTimes,
  type TimeEntry,
  writeTimes,
} from "../../lib/engine/tree-times.ts";
import { Home } from "../helpers.ts";

const long = new Date("2020-01-02T03:04:05.678Z");

/** Two equal trees whose times are long settled. */
function trees() {
  const at = new Home();
  const [source, target] = [join(at.dir, "src"), join(at.dir, "dst")];
  const odd = Buffer.concat([Buffer.from("/caf\\xe9 ".replace("\\xe9", "")), Buffer.from([0xe9, 0x0a])]);
  for (const root of [source, target]) {
    for (const dir of ["", "/a", "/a/b c", "/a/b c/d", "/e"]) mkdirSync(root + dir);
    mkdirSync(Buffer.concat([Buffer.from(root), odd]));
    writeFileSync(`${root}/top.json`, "{}");
    writeFileSync(`${root}/a/b c/file`, "x");
    symlinkSync("a", `${root}/link`);
    for (const path of ["/a/b c/d", "/a/b c", "/a", "/e", "/top.json", ""]) utimesSync(root + path, long, long);
    utimesSync(Buffer.concat([Buffer.from(root), odd]), long, long);
  }
  return { at, source, target, file: join(at.dir, ".X.times"), odd };
}

async function record({ source, target, file }: ReturnType<typeof trees>): Promise<TimeEntry[]> {
  writeTimes(file, 1, await joinScratchTimes(await readSourceTimes(source), target));
  const state = readTimes(file);
  if (!state) throw new Error("what was written cannot be read");
  return state.entries;
}

test("times: untouched trees are as they were; every directory is known, also one whose name is not UTF-8", async () => {
  const t = trees();
  using _ = t.at;
  const entries = await record(t);
  const names = entries.map(({ path }) => (typeof path === "string" ? path : path.toString("latin1"))).sort();
  expect(names).toEqual(["", "a", "a/b c", "a/b c/d", "caf \xe9\n", "e", "link", "top.json"]);
  expect(await firstChange(entries, t.source, t.target)).toBeUndefined();
});

const touched: [string, string, (root: string, t: ReturnType<typeof trees>) => void][] = [
  ["a file added at depth 3", "a/b c/d", (root) => writeFileSync(`${root}/a/b c/d/new`, "")],
  ["a file removed", "a/b c", (root) => rmSync(`${root}/a/b c/file`)],
  ["a directory added", "e", (root) => mkdirSync(`${root}/e/f`)],
  [
    "a file in a directory with an odd name",
    "caf \xe9\n",
    (root, t) => writeFileSync(Buffer.concat([Buffer.from(root), t.odd, Buffer.from("/n")]), ""),
  ],
  ["the whole tree removed", "", (root) => rmSync(root, { recursive: true })],
];
for (const side of ["source", "scratch"] as const) {
  test.each(touched)(`times: %s is seen on the ${side} side`, async (_, where, change) => {
    const t = trees();
    using __ = t.at;
    const entries = await record(t);
    change(side === "source" ? t.source : t.target, t);
    const found = await firstChange(entries, t.source, t.target);
    expect(found?.side).toBe(side);
    expect(typeof found?.path === "string" ? found.path : found?.path.toString("latin1")).toBe(where);
  });
}

test("times: a file at the top of the source that is rewritten in place is seen; on scratch it is a job's own business", async () => {
  const t = trees();
  using _ = t.at;
  const entries = await record(t);
  writeFileSync(`${t.target}/top.json`, "changed by a job");
  expect(await firstChange(entries, t.source, t.target)).toBeUndefined();
  writeFileSync(`${t.source}/top.json`, "changed at home");
  expect(await firstChange(entries, t.source, t.target)).toEqual({ path: "top.json", side: "source" });
});

test("times: a directory that the copy leaves out does not count, nor what is in it", async () => {
  const t = trees();
  using _ = t.at;
  rmSync(`${t.target}/a/b c`, { recursive: true });
  utimesSync(`${t.target}/a`, long, long);
  const entries = await record(t);
  writeFileSync(`${t.source}/a/b c/d/new`, "");
  expect(await firstChange(entries, t.source, t.target)).toBeUndefined();
});

test("times: a time of whole seconds that is younger than two seconds is not trusted", async () => {
  const t = trees();
  using _ = t.at;
  const second = new Date(Math.floor(Date.now() / 1000) * 1000);
  utimesSync(`${t.source}/e`, second, second);
  const entries = await record(t);
  expect(statSync(`${t.source}/e`).mtimeMs).toBe(second.getTime());
  expect(await firstChange(entries, t.source, t.target)).toEqual({ path: "e", side: "source" });
});

test("times: a damaged file, another version, a link, a truncated one: no state, no error", async () => {
  const t = trees();
  using _ = t.at;
  await record(t);
  const whole = await Bun.file(t.file).bytes();
  for (const bytes of [
    whole.subarray(0, 20),
    whole.subarray(0, -5),
    Buffer.from("{}\n"),
    Buffer.from(""),
    Buffer.from("x"),
  ]) {
    writeFileSync(t.file, bytes);
    expect(readTimes(t.file)).toBeUndefined();
  }
  rmSync(t.file);
  expect(readTimes(t.file)).toBeUndefined();
  symlinkSync("/etc/hostname", t.file);
  expect(readTimes(t.file)).toBeUndefined();
});

test("times: past the limit only the top two levels are kept", async () => {
  using at = new Home();
  const root = join(at.dir, "big");
  mkdirSync(`${root}/a`, { recursive: true });
  for (let i = 0; i < maxDirs + 1; i++) mkdirSync(`${root}/a/${i}`);
  const { dirs } = await readSourceTimes(root);
  expect(dirs.map(({ path }) => path)).toEqual(["", "a"]);
});
