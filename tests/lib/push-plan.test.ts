/** The planner of a push, without a file system: each cell of the three-way table. Random trees: tests/faults/planner.test.ts. */
import { expect, test } from "bun:test";
import type { Past } from "../../lib/engine/diff.ts";
import type { Base } from "../../lib/engine/manifest.ts";
import { conflictName, stampOf } from "../../lib/engine/push-conflict.ts";
import { Push, type PushRules } from "../../lib/engine/push-decide.ts";
import { finish, isStored, type PushPlan, planPush, settle } from "../../lib/engine/push-plan.ts";
import { isPushWork, summaryOf } from "../../lib/engine/push-summary.ts";
import { Flag, Tree } from "../../lib/engine/tree.ts";

interface Node {
  kind: "file" | "dir" | "link" | "other";
  /** Contents of a file, where a link points. */
  text: string;
  /** In milliseconds. */
  time: number;
  mode?: number;
  /** Names of one inode have the same number. */
  inode?: number;
  flags?: number;
}
/** Paths, each directory among them. */
type Files = Map<string, Node>;

const types = { file: 0o100000, dir: 0o040000, link: 0o120000, other: 0o010000 };

const file = (text: string, time = 1, more: Partial<Node> = {}): Node => ({ kind: "file", text, time, ...more });
const link = (text: string): Node => ({ kind: "link", text, time: 1 });
const dir = (mode = 0o755): Node => ({ kind: "dir", text: "", time: 1, mode });
const fifo: Node = { kind: "other", text: "", time: 1 };

function treeOf(files: Files): Tree {
  const tree = new Tree();
  tree.addRoot({ mode: 0o040755, size: 0, mtimeNs: 0n });
  const fill = (row: number, path: string) => {
    const start = path === "" ? "" : `${path}/`;
    const names = [...files.keys()]
      .filter((each) => each.startsWith(start) && each !== path && !each.slice(start.length).includes("/"))
      .map((each) => each.slice(start.length))
      .sort();
    const first = tree.addChildren(row, names);
    names.forEach((name, i) => {
      const node = files.get(start + name) as Node;
      const mode = types[node.kind] | (node.mode ?? 0o644) | (node.flags ?? 0);
      tree.set(first + i, { mode, size: node.text.length, mtimeNs: BigInt(node.time) * 1_000_000n });
      if (node.kind === "link") tree.links.set(first + i, node.text);
      if (node.inode !== undefined) tree.setInode(first + i, String(node.inode));
    });
    names.forEach((name, i) => {
      if (files.get(start + name)?.kind === "dir") fill(first + i, start + name);
    });
  };
  fill(0, "");
  return tree;
}

/** What a sync of these files has noted. */
function baseFrom(files: Files): Base {
  const tree = treeOf(files);
  return { tree, scratch: tree.mtime.slice(0, tree.length) };
}

const plainRules: PushRules = { onConflict: "both", delete: false, modes: true, groupWritable: false };

interface Case {
  base?: Record<string, Node>;
  source: Record<string, Node>;
  scratch: Record<string, Node>;
  intent?: Record<string, Node>;
  pushing?: Record<string, Node>;
  rules?: Partial<PushRules>;
}

function planOf({ base, source, scratch, intent, pushing, rules }: Case): PushPlan {
  const files = (record: Record<string, Node>) => new Map(Object.entries(record));
  const past: Past = {
    ...(base ? { base: baseFrom(files(base)) } : {}),
    ...(intent ? { intent: baseFrom(files(intent)) } : {}),
  };
  const [there, here] = [files(source), files(scratch)];
  const sides = { scratch: treeOf(here), source: treeOf(there), past };
  const meant = pushing ? { pushing: baseFrom(files(pushing)) } : {};
  const plan = planPush({ ...sides, ...meant }, { ...plainRules, ...rules });
  compareAll(plan, here, there);
  finish(plan);
  return plan;
}

function compareAll(plan: PushPlan, scratch: Files, source: Files): void {
  for (const [row, what] of plan.todo.entries()) {
    if (what !== Push.compare) continue;
    const path = plan.scratch.path(row);
    settle(plan, row, scratch.get(path)?.text === source.get(path)?.text);
  }
}

const wordOf = (what: number) => Object.entries(Push).find(([, number]) => number === what)?.[0];
const wordAt = (plan: PushPlan, path: string) => wordOf(plan.todo[plan.scratch.find(path) ?? -1] as number);

/** One path `a`: what it is in the base, at the source, on scratch; what a push does. */
const cells: [name: string, base: Node | undefined, source: Node | undefined, scratch: Node, expected: string][] = [
  ["nothing changed", file("1"), file("1"), file("1"), "nothing"],
  ["changed on scratch only", file("1"), file("1"), file("22", 2), "replace"],
  ["changed on scratch only, same size", file("1"), file("1"), file("2", 2), "replace"],
  ["changed at the source only", file("1"), file("22", 2), file("1"), "left"],
  ["gone at the source only", file("1"), undefined, file("1"), "left"],
  ["changed on both sides", file("1"), file("22", 2), file("333", 3), "conflict"],
  ["changed on both sides, same size", file("1"), file("2", 2), file("3", 3), "conflict"],
  ["changed on both sides, to the same", file("1"), file("22", 2), file("22", 3), "nothing"],
  ["changed on both sides, same time", file("1"), file("22", 2), file("22", 2), "nothing"],
  ["changed on scratch, gone at the source", file("1"), undefined, file("22", 2), "conflict"],
  ["touched on scratch", file("1"), file("1"), file("1", 2), "replace"],
  ["new on scratch", undefined, undefined, file("1"), "copy"],
  ["new on both sides", undefined, file("22", 2), file("1"), "conflict"],
  ["new on both sides, the same", undefined, file("1", 2), file("1"), "nothing"],
  ["new link", undefined, undefined, link("x"), "symlink"],
  ["new directory", undefined, undefined, dir(), "mkdir"],
  ["directory gone at the source", dir(), undefined, dir(), "left"],
  ["link changed on scratch", link("x"), link("x"), link("y"), "symlink"],
  ["link changed at the source", link("x"), link("y"), link("x"), "left"],
  ["link changed on both sides", link("x"), link("y"), link("z"), "conflict"],
  ["link changed on both sides, to the same", link("x"), link("y"), link("y"), "nothing"],
  ["file became a link on scratch", file("1"), file("1"), link("x"), "symlink"],
  ["link became a file on scratch", link("x"), link("x"), file("1"), "replace"],
  ["file became a link on scratch, and changed at the source", file("1"), file("22", 2), link("x"), "conflict"],
  ["file became a directory on scratch", file("1"), file("1"), dir(), "conflict"],
  ["directory became a file on scratch", dir(), dir(), file("1"), "conflict"],
  ["directory became a file at the source", dir(), file("1"), dir(), "left"],
  ["file became a directory at the source", file("1"), dir(), file("1"), "left"],
  ["file became a directory at the source, changed on scratch", file("1"), dir(), file("22", 2), "conflict"],
  ["chmod on scratch only", file("1"), file("1"), file("1", 1, { mode: 0o755 }), "chmod"],
  ["chmod at the source only", file("1"), file("1", 1, { mode: 0o755 }), file("1"), "nothing"],
  ["chmod on both sides", file("1"), file("1", 1, { mode: 0o600 }), file("1", 1, { mode: 0o755 }), "nothing"],
  ["chmod of a directory", dir(), dir(), dir(0o700), "chmod"],
  ["a FIFO", undefined, undefined, fifo, "skip"],
  ["a FIFO in place of a file", file("1"), file("1"), fifo, "skip"],
  ["a FIFO at the source", undefined, fifo, file("1"), "conflict"],
  ["copied while it was written to", file("1", 1, { flags: Flag.racy }), file("1"), file("1"), "left"],
  ["the same, changed on scratch", file("1", 1, { flags: Flag.racy }), file("1"), file("2", 2), "conflict"],
  ["kept without its source", file("1", 1, { flags: Flag.orphan }), undefined, file("1"), "left"],
  ["kept without its source, changed", file("1", 1, { flags: Flag.orphan }), undefined, file("2", 2), "conflict"],
  ["kept, and its source is there again", file("1", 1, { flags: Flag.orphan }), file("1"), file("2", 2), "conflict"],
];

test.each(cells)("with a base: %s", (_, base, source, scratch, expected) => {
  const one = (node: Node | undefined): Record<string, Node> => ({ keep: file("k"), ...(node ? { a: node } : {}) });
  expect(wordAt(planOf({ base: one(base), source: one(source), scratch: one(scratch) }), "a")).toBe(expected);
});

test.each([
  ["the same by size and time", file("1"), file("1"), "nothing"],
  ["the same contents", file("1", 5), file("1"), "nothing"],
  ["another size", file("22"), file("1"), "conflict"],
  ["other contents", file("2", 5), file("1"), "conflict"],
  ["new", undefined, file("1"), "copy"],
  ["the same link", link("x"), link("x"), "nothing"],
  ["another link", link("y"), link("x"), "conflict"],
] as const)("without a base: %s", (_, source, scratch, expected) => {
  expect(wordAt(planOf({ source: source ? { a: source } : {}, scratch: { a: scratch } }), "a")).toBe(expected);
});

test.each([
  ["brought by a sync that was killed", file("22", 2), file("22", 2), "left"],
  ["brought, and gone at the source", undefined, file("22", 2), "left"],
  ["brought, and changed on scratch", file("22", 2), file("333", 3), "conflict"],
  ["not brought yet", file("22", 2), file("1"), "left"],
  ["not brought, and changed on scratch", file("22", 2), file("333", 3), "conflict"],
] as const)("with an intent: %s", (_, source, scratch, expected) => {
  const base = { a: file("1") };
  const intent = { a: file("22", 2) };
  expect(wordAt(planOf({ base, intent, source: source ? { a: source } : {}, scratch: { a: scratch } }), "a")).toBe(
    expected,
  );
});

test.each([
  ["pushed, and scratch changed since", file("22", 2), file("333", 3), "replace"],
  ["pushed, and changed at the source since", file("4444", 4), file("333", 3), "conflict"],
  ["pushed, and nothing since", file("22", 2), file("22", 2), "nothing"],
  ["not pushed yet", file("1"), file("333", 3), "replace"],
] as const)("after an interrupted push: %s", (_, source, scratch, expected) => {
  const pushing = { a: file("22", 2) };
  expect(wordAt(planOf({ base: { a: file("1") }, pushing, source: { a: source }, scratch: { a: scratch } }), "a")).toBe(
    expected,
  );
});

test.each([
  ["both", "conflict", true],
  ["source", "conflict", false],
  ["scratch", "replace", false],
  ["fail", "conflict", false],
] as const)("--on-conflict %s", (onConflict, expected, stored) => {
  const plan = planOf({
    base: { a: file("1") },
    source: { a: file("22", 2) },
    scratch: { a: file("333", 3) },
    rules: { onConflict },
  });
  expect(wordAt(plan, "a")).toBe(expected);
  expect(isStored(plan, plan.scratch.find("a") ?? 0)).toBe(stored);
});

test("--on-conflict scratch: a directory is never written over", () => {
  const scratch = { a: file("22", 2) };
  const plan = planOf({
    base: { a: file("1") },
    source: { a: dir(), "a/x": file("x") },
    scratch,
    rules: { onConflict: "scratch" },
  });
  expect(wordAt(plan, "a")).toBe("conflict");
  expect(isStored(plan, plan.scratch.find("a") ?? 0)).toBe(true);
});

test("a directory that the source deleted is made again for a new file, not for old ones", () => {
  const base = { d: dir(), "d/old": file("o"), e: dir(), "e/old": file("o") };
  const plan = planOf({ base, source: {}, scratch: { ...base, "d/new": file("n", 2) } });
  expect(["d", "d/new", "d/old", "e", "e/old"].map((path) => wordAt(plan, path))).toEqual([
    "mkdir",
    "copy",
    "left",
    "left",
    "left",
  ]);
});

test("a directory in place of a file is one conflict, with all that is in it", () => {
  const plan = planOf({
    base: { a: file("1") },
    source: { a: file("1") },
    scratch: { a: dir(), "a/b": dir(), "a/b/c": file("c", 2) },
  });
  expect(["a", "a/b", "a/b/c"].map((path) => wordAt(plan, path))).toEqual(["conflict", "under", "under"]);
  expect(summaryOf(plan)).toMatchObject({ files: 1, newInodes: 3, conflicts: [{ path: "a/" }] });
});

test("what could not be read is left alone, with all that is below it", () => {
  const source = { d: { ...dir(), flags: Flag.unreadable } };
  const plan = planOf({ source, scratch: { d: dir(), "d/a": file("1") } });
  expect(["d", "d/a"].map((path) => wordAt(plan, path))).toEqual(["unknown", "under"]);
  const other = planOf({ source: {}, scratch: { d: { ...dir(), flags: Flag.unreadable } } });
  expect(wordAt(other, "d")).toBe("unknown");
  expect(isPushWork(summaryOf(other))).toBe(false);
});

test("names of one inode stay one", () => {
  const scratch = {
    a: file("new", 2, { inode: 1 }),
    b: file("new", 2, { inode: 1 }),
    c: file("old", 1, { inode: 2 }),
    d: file("old", 1, { inode: 2 }),
  };
  const plan = planOf({ base: { c: file("old") }, source: { c: file("old") }, scratch });
  expect(["a", "b", "c", "d"].map((path) => wordAt(plan, path))).toEqual(["copy", "link", "nothing", "link"]);
  const leader = (path: string) => plan.scratch.path(plan.leaders.get(plan.scratch.find(path) ?? 0) ?? 0);
  expect([leader("b"), leader("d")]).toEqual(["a", "c"]);
});

test("a name of one inode whose source changed leads nobody", () => {
  const c = file("old", 1, { inode: 2 });
  const plan = planOf({ base: { c: file("old") }, source: { c: file("newer", 9) }, scratch: { c, d: c } });
  expect(["c", "d"].map((path) => wordAt(plan, path))).toEqual(["left", "copy"]);
});

test("permissions: scratch's go with its contents, unless it was the source's that changed; set-id bits never", () => {
  const modeOf = (base: number, source: number, scratch: number) => {
    const plan = planOf({
      base: { a: file("1", 1, { mode: base }) },
      source: { a: file("1", 1, { mode: source }) },
      scratch: { a: file("22", 2, { mode: scratch }) },
    });
    return plan.scratch.permissions(plan.scratch.find("a") ?? 0);
  };
  expect(modeOf(0o644, 0o644, 0o755)).toBe(0o755);
  expect(modeOf(0o644, 0o600, 0o644)).toBe(0o600);
  expect(modeOf(0o644, 0o600, 0o755)).toBe(0o755);
  expect(modeOf(0o644, 0o644, 0o4755)).toBe(0o755);
});

test("permissions are not pushed where scratch does not keep them", () => {
  const plan = planOf({
    base: { a: file("1") },
    source: { a: file("1") },
    scratch: { a: file("1", 1, { mode: 0o777 }) },
    rules: { modes: false },
  });
  expect(wordAt(plan, "a")).toBe("nothing");
  const edited = planOf({
    base: { a: file("1", 1, { mode: 0o600 }) },
    source: { a: file("1", 1, { mode: 0o600 }) },
    scratch: { a: file("22", 2, { mode: 0o777 }) },
    rules: { modes: false },
  });
  expect(wordAt(edited, "a")).toBe("replace");
  expect(edited.scratch.permissions(edited.scratch.find("a") ?? 0)).toBe(0o600);
});

const deleted = (given: Omit<Case, "rules">) => {
  const plan = planOf({ ...given, rules: { delete: true } });
  return plan.remove.map((row) => plan.source.path(row));
};
const two = { d: dir(), "d/a": file("a"), "d/b": file("b") };

test.each<[string, Omit<Case, "rules">, string[]]>([
  ["deleted beside one that is there", { base: two, source: two, scratch: { d: dir(), "d/a": file("a") } }, ["d/b"]],
  ["the directory is gone", { base: two, source: two, scratch: { x: file("x") } }, []],
  ["the directory is empty: a purge", { base: two, source: two, scratch: { d: dir() } }, []],
  ["only new files are there", { base: two, source: two, scratch: { d: dir(), "d/new": file("n") } }, []],
  [
    "only its directories are there",
    {
      base: { ...two, "d/e": dir(), "d/e/c": file("c") },
      source: { ...two, "d/e": dir(), "d/e/c": file("c") },
      scratch: { d: dir(), "d/e": dir(), "d/e/c": file("c") },
    },
    [],
  ],
  [
    "the purge left the links",
    {
      base: { ...two, "d/l": link("a") },
      source: { ...two, "d/l": link("a") },
      scratch: { d: dir(), "d/l": link("a") },
    },
    [],
  ],
  [
    "changed at the source since",
    { base: two, source: { ...two, "d/b": file("bb", 2) }, scratch: { d: dir(), "d/a": file("a") } },
    [],
  ],
  ["no base", { source: two, scratch: { d: dir(), "d/a": file("a") } }, []],
  [
    "not known to have been on scratch",
    {
      base: { d: dir(), "d/a": file("a") },
      source: two,
      scratch: { d: dir(), "d/a": file("a") },
    },
    [],
  ],
])("--delete: %s", (_, given, expected) => {
  expect(deleted(given)).toEqual(expected);
});

test("without --delete nothing is deleted", () => {
  expect(planOf({ base: two, source: two, scratch: { d: dir(), "d/a": file("a") } }).remove).toEqual([]);
});

test("names of conflicts: cut to what a name can be, never within a character", () => {
  const stamp = stampOf(new Date("2026-11-21T16:10:00Z"), "eu-g3-012");
  expect(conflictName("model.bin", stamp)).toBe("model.bin.ef-conflict-eu-g3-012-20261121T161000Z");
  expect(conflictName("model.bin", stamp, 2)).toBe("model.bin.ef-conflict-eu-g3-012-20261121T161000Z-2");
  const long = Buffer.from("ü".repeat(127)).toString("latin1");
  const name = conflictName(`${long}x`, stamp);
  expect(name.length).toBeLessThanOrEqual(255);
  expect(Buffer.from(name, "latin1").toString()).not.toContain("\uFFFD");
  expect(conflictName("\xff".repeat(255), stamp).length).toBe(255);
});
