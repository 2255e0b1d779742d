import { expect, test } from "bun:test";
import { lstatSync, mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { bytesOf } from "../../lib/base/bytes.ts";
import { bootId } from "../../lib/drivers/boot.ts";
import { baseOf, timesOf } from "../../lib/engine/base.ts";
import { builtinEngine } from "../../lib/engine/builtin.ts";
import { diff } from "../../lib/engine/diff.ts";
import type { Transfer } from "../../lib/engine/engine.ts";
import {
  isPartial,
  knownOf,
  type Marker,
  newestMtime,
  readMarker,
  removeMarker,
  type Stale,
  whyStale,
  writeMarker,
} from "../../lib/engine/marker.ts";
import type { Step } from "../../lib/engine/plan.ts";
import { Flag } from "../../lib/engine/tree.ts";
import { Home } from "../helpers.ts";
import { dir, type Entries, file, plainRules, treeOf } from "../tables.ts";

const long = new Date("2020-01-02T03:04:05.678Z");
/** A name that is no UTF-8, as a byte string. */
const odd = "caf\xe9 \n";
const bytes = (root: string, path: string) => Buffer.from(`${bytesOf(root)}/${path}`, "latin1");

/** Two equal trees whose times are long settled, and the step that one is the copy of the other by. */
class Trees implements Disposable {
  readonly at = new Home();
  readonly step: Step;

  constructor() {
    const beside = (suffix: string) => join(this.at.dir, `.X.${suffix}`);
    this.step = {
      name: "X",
      source: join(this.at.dir, "src"),
      from: join(this.at.dir, "src"),
      base: this.at.dir,
      target: join(this.at.dir, "dst"),
      marker: beside("synced"),
      lock: beside("lock"),
      manifest: beside("manifest"),
      partial: beside("partial"),
      temp: beside("tmp-"),
      exclude: [],
      mirror: false,
      rules: "[[],[]]",
      env: {},
    };
    for (const root of [this.step.source, this.step.target]) {
      for (const path of ["", "/a", "/a/b c", "/a/b c/d", "/e"]) mkdirSync(root + path);
      mkdirSync(bytes(root, odd));
      writeFileSync(`${root}/top.json`, "{}");
      writeFileSync(`${root}/a/b c/file`, "x");
      symlinkSync("a", `${root}/link`);
      for (const path of ["/a/b c/file", "/a/b c/d", "/a/b c", "/a", "/e", "/top.json"])
        utimesSync(root + path, long, long);
      utimesSync(bytes(root, odd), long, long);
      utimesSync(root, long, long);
    }
  }

  async compare() {
    const { source, target } = this.step;
    const transfer: Transfer = {
      source,
      target,
      exclude: [],
      past: {},
      mirror: false,
      workSince: 0,
      arrivalNs: undefined,
      lockFd: undefined,
    };
    return builtinEngine({ workers: "auto", verify: false, xattrs: false }).compare(transfer, {});
  }

  /** Say that the copy is whole, as a sync does. */
  async sayWhole(): Promise<void> {
    const { diff: found } = await this.compare();
    const newest = newestMtime(this.step.source, found.source);
    writeMarker(this.step, newest, timesOf(found), baseOf(found, undefined), { host: hostname() });
  }

  /** Change the marker's own words. */
  spoil(change: (marker: Marker & { ef: NonNullable<Marker["ef"]> }) => void): void {
    const marker = JSON.parse(this.at.read(this.step.marker));
    change(marker);
    writeFileSync(this.step.marker, JSON.stringify(marker));
  }

  why(maxAgeS = 3600, now?: number): Promise<Stale | undefined> {
    return whyStale(this.step, maxAgeS, now);
  }

  [Symbol.dispose](): void {
    this.at[Symbol.dispose]();
  }
}

async function whole(): Promise<Trees> {
  const trees = new Trees();
  await trees.sayWhole();
  return trees;
}

test("untouched trees are as they were", async () => {
  using t = await whole();
  expect(await t.why()).toBeUndefined();
});

const changes: [string, string, string[], (root: string) => void][] = [
  ["a file added at depth 3", "a/b c/d", ["a/b c/d", "a/b c"], (root) => writeFileSync(`${root}/a/b c/d/new`, "")],
  ["a file removed", "a/b c", ["a/b c", "a"], (root) => rmSync(`${root}/a/b c/file`)],
  ["a file renamed", "a/b c", ["a/b c", "a"], (root) => renameSync(`${root}/a/b c/file`, `${root}/a/b c/other`)],
  [
    "a file replaced by a rename",
    "a/b c",
    ["a/b c", "a"],
    (root) => {
      writeFileSync(`${root}/a/b c/new`, "y");
      renameSync(`${root}/a/b c/new`, `${root}/a/b c/file`);
    },
  ],
  ["a directory added", "e", ["e", ""], (root) => mkdirSync(`${root}/e/f`)],
  [
    "an empty directory removed",
    "a/b c",
    ["a/b c", "a", "a/b c/d"],
    (root) => rmSync(`${root}/a/b c/d`, { recursive: true }),
  ],
  [
    "a link replaced",
    "its top directory",
    [""],
    (root) => {
      rmSync(`${root}/link`);
      symlinkSync("e", `${root}/link`);
    },
  ],
  [
    "a file in a directory whose name is no UTF-8",
    "caf\\xe9 \\n",
    [odd, ""],
    (root) => writeFileSync(bytes(root, `${odd}/n`), ""),
  ],
];
for (const side of ["source", "scratch"] as const) {
  test.each(changes)(`%s is seen and named on the ${side} side`, async (_, where, changed, change) => {
    using t = await whole();
    change(side === "source" ? t.step.source : t.step.target);
    const stale = await t.why();
    expect(stale?.why).toBe(side === "source" ? `the source changed: ${where}` : `scratch changed: ${where}`);
    expect([...(stale?.changed ?? [])].sort()).toEqual([...changed].sort());
  });
}

test("changes on both sides: all of them are in the set", async () => {
  using t = await whole();
  writeFileSync(`${t.step.source}/a/b c/d/new`, "");
  writeFileSync(`${t.step.target}/e/new`, "");
  const stale = await t.why();
  expect(stale?.why).toBe("scratch changed: e");
  expect([...(stale?.changed ?? [])].sort()).toEqual(["", "a/b c", "a/b c/d", "e"]);
});

test("a whole side is gone: seen", async () => {
  for (const side of ["source", "target"] as const) {
    using t = await whole();
    rmSync(t.step[side], { recursive: true });
    expect((await t.why())?.why).toContain("changed: its top directory");
  }
});

test("a file at the top that is written in place: the source's counts, scratch's is a job's own business", async () => {
  using t = await whole();
  writeFileSync(`${t.step.target}/top.json`, "changed by a job");
  expect(await t.why()).toBeUndefined();
  writeFileSync(`${t.step.source}/top.json`, "changed at home");
  const stale = await t.why();
  expect(stale).toMatchObject({ why: "the source changed: top.json", changed: new Set([""]) });
});

test("what is on one side only does not count, nor what is in it", async () => {
  using t = new Trees();
  rmSync(`${t.step.target}/a/b c`, { recursive: true });
  utimesSync(`${t.step.target}/a`, long, long);
  await t.sayWhole();
  writeFileSync(`${t.step.source}/a/b c/d/new`, "");
  expect(await t.why()).toBeUndefined();
});

test("a time of whole seconds that is younger than two seconds is not trusted", async () => {
  using t = new Trees();
  const second = new Date(Math.floor(Date.now() / 1000) * 1000);
  utimesSync(`${t.step.source}/e`, second, second);
  await t.sayWhole();
  expect(lstatSync(`${t.step.source}/e`).mtimeMs).toBe(second.getTime());
  expect((await t.why())?.why).toBe("the source changed: e");
});

test("a directory that changes while it is looked at is looked at again: the copy is fresh afterwards", async () => {
  using t = new Trees();
  writeFileSync(`${t.step.source}/e/young`, "");
  writeFileSync(`${t.step.target}/e/young`, "");
  await t.sayWhole();
  expect(await t.why()).toBeUndefined();
});

test("the marker: age, the future, another source, other rules, euler-files, damage", async () => {
  using t = await whole();
  const now = Date.now() / 1000;
  expect(await t.why(3600, now + 3000)).toBeUndefined();
  expect((await t.why(3600, now + 3601))?.why).toBe("its marker has aged");
  expect((await t.why(0))?.why).toBe("its marker has aged");
  expect((await t.why(3600, now - 10))?.why).toBe("its marker is from the future");
  const cases: [string, (marker: Marker & { ef: NonNullable<Marker["ef"]> }) => void][] = [
    ["another source, /else", (marker) => (marker.source = "/else")],
    ["excludes, mirror or", (marker) => (marker.ef.rules = "[]")],
    ["its manifest is missing, damaged or of another run", (marker) => (marker.ef.manifest = "0123456789abcdef")],
    ["synced by euler-files", (marker) => Reflect.deleteProperty(marker, "ef")],
  ];
  for (const [word, change] of cases) {
    await t.sayWhole();
    t.spoil(change);
    expect((await t.why())?.why).toContain(word);
  }
  for (const text of ["", "{", "null", "[]", '"x"', '{"synced_at":"1","source":"x"}']) {
    writeFileSync(t.step.marker, text);
    expect(readMarker(t.step.marker)).toBeUndefined();
    expect((await t.why())?.why).toBe("not synced yet");
  }
});

test("this node was restarted since: not fresh, as its last writes may be lost; another node's restart is not known", async () => {
  using t = await whole();
  expect(readMarker(t.step.marker)?.ef).toMatchObject({ host: hostname(), boot: bootId() });
  t.spoil(({ ef }) => (ef.boot = "00000000-0000-0000-0000-000000000000"));
  const stale = await t.why();
  expect(stale).toEqual({ why: "this node was restarted since" }); // all is compared: no set of what changed
  t.spoil(({ ef }) => (ef.host = "another"));
  expect(await t.why()).toBeUndefined();
  t.spoil(({ ef }) => Object.assign(ef, { host: hostname(), boot: "" })); // a node without /proc
  expect(await t.why()).toBeUndefined();
});

/** The times of a tree that is on both sides. */
function timesOfTree(entries: Entries) {
  const rows = treeOf(entries);
  return timesOf(diff(rows, treeOf(entries), {}, plainRules));
}

test("past 20,000 directories only the top two levels are kept; then the marker's age decides", () => {
  const many = (count: number) =>
    Object.fromEntries(Array.from({ length: count }, (_, i): [string, Entries[string]] => [`a/${i % 10}/${i}`, dir()]));
  const below = timesOfTree(many(19_988)); // and "", a, a/0 to a/9
  expect([below.whole, below.entries.length]).toEqual([true, 20_000]);
  const above = timesOfTree(many(19_989));
  expect(above.whole).toBe(false);
  expect(above.entries.map(({ path }) => path)).toEqual(["", "a"]);
  const flat = timesOfTree(Object.fromEntries(Array.from({ length: 30_000 }, (_, i) => [`${i}`, dir()])));
  expect([flat.whole, flat.entries.length]).toEqual([false, 20_000]);
});

test("of the files at the top 256 are kept; one that was too young has no time that counts", () => {
  const files = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`f${i}`, file(1, 5)]));
  expect(timesOfTree(files).entries).toHaveLength(257);
  const { entries } = timesOfTree({ young: file(1, 5, { flags: Flag.racy }), "d/e": dir({ flags: Flag.racy }) });
  const unknown = entries.filter(({ source }) => source < 0n).map(({ path }) => path);
  expect(unknown.sort()).toEqual(["d/e", "young"]);
});

test("past the bound, what is kept is seen, and the rest is not known to be as it was", async () => {
  using t = new Trees();
  const { diff: found } = await t.compare();
  writeMarker(t.step, 0, { ...timesOf(found), whole: false }, baseOf(found, undefined), { host: hostname() });
  expect(await t.why()).toBeUndefined();
  writeFileSync(`${t.step.source}/e/new`, "");
  expect(await t.why()).toEqual({ why: "the source changed: e", isSourceAlone: true });
});

test("a copy that is about to change has no marker; what is meant to come is known to the next run", async () => {
  using t = await whole();
  const { base } = knownOf(t.step);
  expect(base?.tree.find("a/b c/file")).toBeDefined();
  expect(isPartial(t.step)).toBe(false);
  removeMarker(t.step, base as NonNullable<typeof base>);
  expect((await t.why())?.why).toBe("not synced yet");
  expect(isPartial(t.step)).toBe(true);
  const known = knownOf(t.step);
  expect(known.intent?.tree.find("a/b c/file")).toBeDefined();
  expect(known.base?.tree.find("a/b c/file")).toBeDefined(); // what the last whole sync left is still known
  expect(known.workSince).toBe(0);
  await t.sayWhole();
  expect(isPartial(t.step)).toBe(false);
});

test("what another source, or euler-files, left is no base; nor after an interrupted copy since", async () => {
  const cases: ((marker: Marker) => void)[] = [
    (marker) => (marker.source = "/else"),
    (marker) => Reflect.deleteProperty(marker, "ef"),
  ];
  for (const change of cases) {
    using t = await whole();
    const { base } = knownOf(t.step);
    t.spoil(change);
    expect(knownOf(t.step)).toMatchObject({ base: undefined, intent: undefined });
    removeMarker(t.step, base as NonNullable<typeof base>);
    expect(knownOf(t.step).base).toBeUndefined();
  }
});
