import { expect, test } from "bun:test";
import { arrivalRows, type Contents, diff, sameTime } from "../../lib/engine/diff.ts";
import { Flag } from "../../lib/engine/tree.ts";
import {
  baseOf,
  type Decided,
  decide,
  dir,
  type Entries,
  fifo,
  file,
  gone,
  inWords,
  link,
  ns,
  treeOf,
} from "../tables.ts";

/** What is expected of a decision: all that is not said is empty. */
const decided = (what: Partial<Decided> = {}): Decided => ({
  todo: {},
  remove: [],
  clear: [],
  orphans: [],
  leaders: {},
  purged: 0,
  ...what,
});

/** One path `f`: at the source, on scratch, in the base (null: not there; no third: no base at all). */
const same = file(5, 100);
const edited = file(5, 200);
const grown = file(9, 100);

test.each<[string, Entries, Entries, Entries | undefined, string]>([
  ["new", { f: same }, {}, undefined, "copy"],
  ["new, and other things are known", { f: same }, {}, {}, "copy"],
  ["the same, nothing known", { f: same }, { f: same }, undefined, ""],
  ["the same, and nobody knows who put it there", { f: same }, { f: same }, {}, ""],
  ["the same as ever", { f: same }, { f: same }, { f: same }, ""],
  ["edited at home", { f: edited }, { f: same }, { f: same }, "replace"],
  ["grown at home, with its old time", { f: grown }, { f: same }, { f: same }, "replace"],
  ["older at home: an older version was put back", { f: file(5, 50) }, { f: same }, { f: same }, "replace"],
  [
    "edited at home, half a second after the whole one it had",
    { f: file(5, 100.5) },
    { f: same },
    { f: same },
    "replace",
  ],
  ["a job wrote to it", { f: same }, { f: edited }, { f: same }, "keep"],
  ["a job grew it and put its time back", { f: same }, { f: grown }, { f: same }, "keep"],
  ["a job wrote to it, and its time is older", { f: same }, { f: file(5, 50) }, { f: same }, "keep"],
  ["both wrote, home later", { f: file(5, 300) }, { f: edited }, { f: same }, "keep"],
  ["both wrote, the job later", { f: edited }, { f: file(5, 300) }, { f: same }, "keep"],
  ["both wrote the same", { f: edited }, { f: edited }, { f: same }, ""],
  ["both made one of this name", { f: edited }, { f: same }, {}, "keep"],
  ["a purge took it", { f: same }, {}, { f: same }, "copy"],
  ["a purge took it, and it was edited at home", { f: edited }, {}, { f: same }, "copy"],
  ["only the mode", { f: file(5, 100, { mode: 0o755 }) }, { f: same }, { f: same }, "chmod"],
  ["a job changed the mode", { f: same }, { f: file(5, 100, { mode: 0o755 }) }, { f: same }, "chmod"],
  ["scratch stores whole seconds", { f: file(5, 100.9) }, { f: same }, undefined, ""],
  ["scratch stores two seconds", { f: file(5, 101.9) }, { f: same }, undefined, ""],
  ["more than any grain", { f: file(5, 102.1) }, { f: same }, undefined, "replace"],
  ["scratch stores fractions, and they differ", { f: file(5, 100.2) }, { f: file(5, 100.1) }, undefined, "replace"],
  [
    "it was being written to when it was copied",
    { f: same },
    { f: same },
    { f: file(5, 100, { flags: Flag.racy }) },
    "replace",
  ],
  ["such a one, and a job wrote since", { f: same }, { f: edited }, { f: file(5, 100, { flags: Flag.racy }) }, "keep"],
  ["unreadable mode at home is a mode", { f: file(5, 100, { mode: 0 }) }, { f: same }, { f: same }, "chmod"],
  ["a link, new", { f: link("a") }, {}, undefined, "symlink"],
  ["a link, the same", { f: link("a") }, { f: link("a", { time: 7 }) }, { f: link("a") }, ""],
  ["a link, another at home", { f: link("b") }, { f: link("a") }, { f: link("a") }, "symlink"],
  ["a link, a job pointed it elsewhere", { f: link("a") }, { f: link("b") }, { f: link("a") }, "keep"],
  ["a link, both", { f: link("c") }, { f: link("b") }, { f: link("a") }, "keep"],
  ["a link, nothing known", { f: link("a") }, { f: link("b") }, undefined, "symlink"],
  ["a link became a file at home", { f: same }, { f: link("a") }, { f: link("a") }, "replace"],
  ["a file became a link at home", { f: link("a") }, { f: same }, { f: same }, "symlink"],
  ["a job made a link of a file", { f: same }, { f: link("elsewhere") }, { f: same }, "keep"],
  ["a job made a file of a link", { f: link("a") }, { f: same }, { f: link("a") }, "keep"],
  ["a FIFO at home", { f: fifo }, {}, undefined, "skip"],
  ["a FIFO at home, a file on scratch", { f: fifo }, { f: same }, { f: same }, "skip"],
  ["a job's FIFO in the place of a file", { f: same }, { f: fifo }, { f: same }, "keep"],
  ["a directory, new", { f: dir() }, {}, undefined, "mkdir"],
  ["a directory, of other mode and time", { f: dir({ mode: 0o700, time: 9 }) }, { f: dir() }, undefined, ""],
  ["a file became a directory", { f: dir() }, { f: same }, { f: same }, "mkdir"],
  ["a directory, and a job made a file there", { f: dir() }, { f: edited }, { f: dir() }, "blocked"],
  ["a directory, and a file of nobody knows whom", { f: dir() }, { f: same }, {}, "blocked"],
  ["an empty directory became a file", { f: same }, { f: dir() }, { f: dir() }, "copy"],
  ["an empty directory became a link", { f: link("a") }, { f: dir() }, { f: dir() }, "symlink"],
  ["a directory became a file, and nothing is known", { f: same }, { f: dir() }, undefined, "blocked"],
  ["a file, and a job's directory", { f: same }, { f: dir() }, { f: same }, "blocked"],
  ["vanished while it was looked at", { f: gone }, {}, undefined, ""],
])("%s", (_, source, target, base, what) => {
  const known = base && baseOf(base);
  const { todo } = decide(source, target, { base: known });
  expect(todo.f ?? "").toBe(what);
});

test("a file of nobody knows whom is a job's if it is younger than home's and than the last sync", () => {
  const what = (home: number, scratch: number, since: number, contents?: Contents) => {
    const rules = { workSinceNs: ns(since), contents: contents && new Map([[1, contents]]) };
    return decide({ f: file(1, home) }, { f: file(2, scratch) }, {}, rules).todo.f;
  };
  expect(what(100, 300, 200)).toBe("keep");
  expect(what(100, 150, 200)).toBe("replace"); // before the last sync
  expect(what(400, 300, 200)).toBe("replace"); // younger at home
  expect(what(100, 300, 0)).toBe("keep"); // no sync is known of
  expect(what(400, 300, 0)).toBe("replace");
  expect(what(100, 300, 0, "other")).toBe("keep");
  expect(what(100, 300, 0, "beginning")).toBe("replace");
  expect(what(100, 300, 0, "same")).toBe(undefined);
});

test("what stands in the way and is ef's goes first, what is in a directory before it", () => {
  const tree = { "d/e/x": same, "d/y": same, "d/l": link("y") };
  const base = baseOf(tree);
  expect(decide({ d: same }, tree, { base })).toEqual(
    decided({ todo: { d: "copy" }, clear: ["d/e/x", "d/e", "d/l", "d/y", "d"] }),
  );
  for (const more of [{ "d/e/job": same }, { "d/y": edited }, { "d/l": link("z") }, { "d/e/x": dir() }] as Entries[])
    expect(decide({ d: same }, { ...tree, ...more }, { base })).toEqual(decided({ todo: { d: "blocked" } }));
  expect(decide({ "f/new": same }, { f: same }, { base: baseOf({ f: same }) })).toEqual(
    decided({ todo: { f: "mkdir", "f/new": "copy" }, clear: ["f"] }),
  );
});

test("a directory became a file, and an interrupted sync had renewed what is in it: all of it is ef's", () => {
  const tree = { d: dir(), "d/a": edited, "d/b": same };
  const past = { base: baseOf({ d: dir(), "d/a": same, "d/b": same }), intent: baseOf(tree) };
  expect(decide({ d: same }, tree, past)).toMatchObject({ todo: { d: "copy" }, clear: ["d/a", "d/b", "d"] });
  const work = { ...tree, "d/a": grown };
  expect(decide({ d: same }, work, past)).toMatchObject({ todo: { d: "blocked" }, clear: [] });
});

test("below what is blocked nothing is done", () => {
  expect(decide({ "d/x": same }, { d: same }, { base: baseOf({}) }).todo).toEqual({ d: "blocked" });
});

const home = { keep: same };
const before: Entries = { keep: same, a: same, "d/b": same, "d/l": link("b"), "d/e/c": same };

test("deleted at home: stays without mirror, and is remembered", () => {
  const { remove, orphans, todo } = decide(home, before, { base: baseOf(before) });
  expect(remove).toEqual([]);
  expect(orphans).toEqual(["a", "d", "d/b", "d/e", "d/e/c", "d/l"]);
  expect(todo).toEqual({});
});

test("mirror: what ef put there goes, what is in a directory before it", () => {
  const found = decide(home, before, { base: baseOf(before) }, { mirror: true });
  expect(found).toEqual(decided({ remove: ["a", "d/b", "d/e/c", "d/e", "d/l", "d"] }));
});

test.each<[string, Entries, string[]]>([
  ["a job's file", { "d/e/job": same }, ["a", "d/b", "d/e/c", "d/l"]],
  ["a job's directory", { "d/new/x": same }, ["a", "d/b", "d/e/c", "d/e", "d/l"]],
  ["what a job wrote to", { "d/b": edited }, ["a", "d/e/c", "d/e", "d/l"]],
  ["a link that a job pointed elsewhere", { "d/l": link("z") }, ["a", "d/b", "d/e/c", "d/e"]],
  ["a job's file in the place of a directory", { "d/e": edited }, ["a", "d/b", "d/l"]],
  ["a job's directory in the place of a file", { a: dir() }, ["d/b", "d/e/c", "d/e", "d/l", "d"]],
])("mirror never takes %s, nor what it is in", (_, more, remove) => {
  const there: Entries = { ...before, ...more };
  if ("d/e" in more) delete there["d/e/c"];
  expect(decide(home, there, { base: baseOf(before) }, { mirror: true }).remove).toEqual(remove);
});

test("mirror: nothing is known, nothing goes; an emptied or unreadable source deletes nothing", () => {
  const base = baseOf(before);
  expect(decide(home, before, {}, { mirror: true }).remove).toEqual([]);
  expect(decide({ "": dir() }, before, { base }, { mirror: true })).toEqual(
    decided({ orphans: ["a", "d", "d/b", "d/e", "d/e/c", "d/l", "keep"] }),
  );
  const unreadable = dir({ flags: Flag.unreadable });
  const found = decide({ ...home, a: same, d: unreadable }, before, { base }, { mirror: true });
  expect(found).toEqual(decided());
  // It cannot be looked at: nobody knows whether it is still there.
  const hidden = decide(
    { ...home, a: { ...gone, flags: Flag.unreadable } },
    { ...home, a: same },
    { base },
    { mirror: true },
  );
  expect(hidden.remove).toEqual([]);
});

test("mirror: what vanished while it was looked at is deleted at home", () => {
  const found = decide(
    { ...home, a: gone },
    { ...home, a: same },
    { base: baseOf({ ...home, a: same }) },
    { mirror: true },
  );
  expect(found).toEqual(decided({ remove: ["a"] }));
});

test("an interrupted run: what it brought is ef's, whatever came after", () => {
  const base = baseOf({ f: same });
  const intent = baseOf({ f: edited });
  const latest = file(7, 300);
  expect(decide({ f: latest }, { f: edited }, { base, intent }).todo).toEqual({ f: "replace" });
  expect(decide({ f: latest }, { f: same }, { base, intent }).todo).toEqual({ f: "replace" }); // not brought yet
  expect(decide({ f: latest }, { f: file(5, 250) }, { base, intent }).todo).toEqual({ f: "keep" }); // a job's
  expect(decide({ f: latest }, { f: edited }, { intent }, { workSinceNs: ns(1) }).todo).toEqual({ f: "replace" });
  expect(decide({ f: edited }, { f: edited }, { base, intent }).todo).toEqual({});
  expect(
    decide({ f: link("b") }, { f: link("a") }, { base: baseOf({}), intent: baseOf({ f: link("a") }) }).todo,
  ).toEqual({
    f: "symlink",
  });
  expect(decide({ f: dir() }, { f: edited }, { base, intent })).toEqual(
    decided({ todo: { f: "mkdir" }, clear: ["f"] }),
  );
});

test("purged files are counted: those that ef had put there", () => {
  const base = baseOf({ a: same, b: same, l: link("a"), gone: same });
  expect(decide({ a: same, b: edited, l: link("a"), new: same }, {}, { base }).purged).toBe(3);
  expect(decide({ a: same }, { a: same }, { base }).purged).toBe(0);
  expect(decide({ a: same }, {}, {}).purged).toBe(0);
});

test("times of arrival: the base says what is the same, never the times; environments keep their own", () => {
  const source: Entries = {
    f: same,
    "env/pyvenv.cfg": same,
    "env/lib/a.py": same,
    "conda/conda-meta/x": same,
    "d/g": same,
  };
  const tree = treeOf(source);
  const arrival = arrivalRows(tree);
  const named = (path: string) => arrival[tree.find(path) as number];
  expect(["f", "d", "d/g", "env"].map(named)).toEqual([1, 1, 1, 0]);
  expect(["env/lib/a.py", "env/pyvenv.cfg", "conda/conda-meta/x"].map(named)).toEqual([0, 0, 0]);

  const what = (target: Entries, past: Parameters<typeof diff>[2], from: Entries = { f: same }) => {
    const rows = treeOf(from);
    const rules = { mirror: false, workSinceNs: ns(500), arrival: arrivalRows(rows) };
    return inWords(diff(rows, treeOf(target), past, rules)).todo.f ?? "";
  };
  const arrived = file(5, 900);
  const base = baseOf({ f: file(5, 100, { scratch: 900 }) });
  expect(what({ f: arrived }, { base })).toBe("");
  expect(what({ f: arrived }, { base }, { f: edited })).toBe("replace");
  expect(what({ f: file(5, 950) }, { base })).toBe("keep");
  expect(what({ f: same }, { base })).toBe("keep"); // the source's own time is not what ef gave it
  expect(what({ f: arrived }, { intent: base })).toBe("");
  expect(what({ f: arrived }, { intent: base }, { f: edited })).toBe("replace");
  expect(what({ f: arrived }, {})).toBe("keep");
});

/** Names of one inode. */
const one = (inode: string, time = 100) => file(5, time, { inode });

test.each<[string, Entries, Entries, Entries | undefined, Partial<Decided>]>([
  ["new", { a: one("i"), b: one("i") }, {}, undefined, { todo: { a: "copy", b: "link" }, leaders: { b: "a" } }],
  ["as they are", { a: one("i"), b: one("i") }, { a: one("j"), b: one("j") }, undefined, {}],
  [
    "two files on scratch, not one",
    { a: one("i"), b: one("i") },
    { a: same, b: same },
    undefined,
    { todo: { b: "link" }, leaders: { b: "a" } },
  ],
  [
    "the later name is there: it leads, nothing moves",
    { a: one("i"), b: one("i") },
    { b: one("j") },
    undefined,
    { todo: { a: "link" }, leaders: { a: "b" } },
  ],
  [
    "a third name",
    { a: one("i"), b: one("i"), c: one("i") },
    { a: one("j"), b: one("j") },
    { a: one("i"), b: one("i") },
    { todo: { c: "link" }, leaders: { c: "a" } },
  ],
  [
    "edited at home: all follow",
    { a: one("i", 200), b: one("i", 200) },
    { a: one("j"), b: one("j") },
    { a: one("i"), b: one("i") },
    { todo: { a: "replace", b: "link" }, leaders: { b: "a" } },
  ],
  [
    "a job wrote to it: all names are its work",
    { a: one("i"), b: one("i") },
    { a: one("j", 300), b: one("j", 300) },
    { a: one("i"), b: one("i") },
    { todo: { a: "keep", b: "keep" } },
  ],
  [
    "a job replaced one name: that is kept, the others stay one",
    { a: one("i"), b: one("i"), c: one("i") },
    { a: edited, b: one("j"), c: one("j") },
    { a: one("i"), b: one("i"), c: one("i") },
    { todo: { a: "keep" } },
  ],
  ["one name only, the other is outside", { a: one("i") }, { a: same }, undefined, {}],
  ["two groups do not mix", { a: one("i"), b: one("k") }, { a: one("j"), b: one("j") }, undefined, {}],
  [
    "no longer one at home",
    { a: same, b: edited },
    { a: one("j"), b: one("j") },
    { a: one("i"), b: one("i") },
    { todo: { b: "replace" } },
  ],
  [
    "the name in the way of which something stands does not lead",
    { a: one("i"), b: one("i"), c: one("i") },
    { a: dir() },
    {},
    { todo: { a: "blocked", b: "copy", c: "link" }, leaders: { c: "b" } },
  ],
])("hard links: %s", (_, source, target, base, what) => {
  expect(decide(source, target, { base: base && baseOf(base) })).toEqual(decided(what));
});

test("times: exact where the storage is, else its grain", () => {
  expect(sameTime(1_000_000_000_123n, 1_000_000_000_999n)).toBe(true); // node:fs sets doubles
  expect(sameTime(1_000_000_005_000n, 1_000_000_001_000n)).toBe(false);
  expect(sameTime(1_999_999_999n, 1_000_000_000n)).toBe(true);
  expect(sameTime(-1_500_000_000n, -2_000_000_000n)).toBe(true);
  expect(sameTime(3_000_000_000n, 1_000_000_000n)).toBe(false);
});

test("a directory that an interrupted sync made gives way to the file that the source has now", () => {
  const made = { a: dir(), "a/b": link("x") };
  const past = { base: baseOf({}), intent: baseOf(made) };
  expect(decide({ a: file(1, 1) }, made, past)).toMatchObject({ todo: { a: "copy" }, clear: ["a/b", "a"] });
  expect(decide({ a: file(1, 1) }, { ...made, "a/job": file(1, 2) }, past).todo).toEqual({ a: "blocked" });
});

test("one file on scratch that is two at the source: one that gets other permissions becomes a file of its own", () => {
  const one = file(1, 1, { inode: "x", mode: 0o600 });
  const apart = { a: file(1, 1, { mode: 0o644 }), b: file(1, 1, { mode: 0o600 }) };
  expect(decide(apart, { a: one, b: one }).todo).toEqual({ a: "replace" });
  const together = file(1, 1, { inode: "y", mode: 0o644 });
  expect(decide({ a: together, b: together }, { a: one, b: one }).todo).toEqual({ a: "chmod", b: "chmod" });
});
