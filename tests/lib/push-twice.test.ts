/** What a push has noted is what the next push and sync go by: worlds of a few files, which random ones have found. */
import { expect, test } from "bun:test";
import type { PushRules } from "../../lib/engine/push-decide.ts";
import { Flag } from "../../lib/engine/tree.ts";
import { type Habits, type Node, World } from "../faults/worlds.ts";
import { baseOf, dir, type Entries, type Entry, file } from "../tables.ts";

interface Given {
  base: Entries;
  source: Entries;
  scratch: Entries;
  rules?: Partial<PushRules>;
  arrival?: boolean;
}

const contentOf = ({ kind, size, time, text }: Entry) => (kind === "link" ? `${text}` : `${size} ${time}`);

function worldOf({ base, source, scratch, rules, arrival = false }: Given): World {
  const nodes = (entries: Entries, isHome: boolean) =>
    new Map(
      Object.entries(entries).map(([path, entry]): [string, Node] => {
        const isDir = entry.kind === "dir";
        const mode = entry.mode ?? (isDir ? 0o755 : 0o644);
        return [
          path,
          isDir ? { ...entry, mode } : { ...entry, mode, version: { content: contentOf(entry), over: [], isHome } },
        ];
      }),
    );
  const push = { onConflict: "both", delete: false, modes: true, groupWritable: false, ...rules } as const;
  const habits: Habits = { push, mirror: false, arrival, coarse: { source: false, scratch: false }, order: 0 };
  const sides = { source: nodes(source, true), scratch: nodes(scratch, false) };
  // What these worlds are about is not who wrote what: all that was noted counts as seen by both.
  const known = (path: string) =>
    [sides.source.get(path)?.version, sides.scratch.get(path)?.version].filter((each) => each !== undefined);
  for (const [path, { version }] of sides.scratch)
    version?.over.push(...known(path).filter((each) => each !== version));
  return new World(sides, { base: baseOf(base) }, 0, habits, { source: new Set(), scratch: new Set() }, known);
}

const modes = (world: World) =>
  Object.fromEntries([...world.source].map(([path, { mode }]) => [path, (mode ?? 0).toString(8)]));

/** Pushes after the first one, which have nothing to do. */
function pushTwice(world: World): void {
  expect(world.push().ending).toBe("whole");
  const before = structuredClone([...world.source]);
  const { planned } = world.push();
  expect(planned?.names).toEqual([]);
  expect([...world.source]).toEqual(before);
}

test("permissions: of the source alone, of both sides, and beside new contents on scratch", () => {
  const old = (mode: number, size = 1, time = 1) => file(size, time, { mode });
  const world = worldOf({
    base: { a: old(0o644), b: old(0o644), c: old(0o644) },
    source: { a: old(0o600), b: old(0o600), c: old(0o600) },
    scratch: { a: old(0o644), b: old(0o640), c: old(0o644, 2, 20) },
  });
  pushTwice(world);
  expect(modes(world)).toEqual({ a: "600", b: "600", c: "600" });
  expect(world.source.get("c")?.size).toBe(2);
});

test("permissions of a directory that nobody knows of stay at the source, and scratch gets them", () => {
  const world = worldOf({ base: {}, source: { d: dir({ mode: 0o700 }) }, scratch: { d: dir({ mode: 0o755 }) } });
  pushTwice(world);
  expect(modes(world)).toEqual({ d: "700" });
  world.sync();
  expect(world.scratch.get("d")?.mode).toBe(0o700);
});

test("--delete: what is pushed into a directory after a purge is no sign that somebody deleted the rest", () => {
  const old = { a: file(1, 1), b: file(1, 2), "d/a": file(1, 3), "d/b": file(1, 4), "e/a": file(1, 5) };
  const dirs = { d: dir(), e: dir() };
  const world = worldOf({
    base: { ...dirs, ...old },
    source: { ...dirs, ...old },
    scratch: { new: file(1, 9), d: dir(), "d/new": file(1, 9), e: dir(), "e/a": old["e/a"] },
    rules: { delete: true },
  });
  pushTwice(world);
  expect([...world.source.keys()]).toEqual(expect.arrayContaining(Object.keys(old)));
});

test("--delete: a directory that has the name of a purged file is no such sign either", () => {
  const kept = { d: dir(), "d/a": file(1, 4), "d/b": file(1, 5) };
  const old = { a: file(1, 1), b: file(1, 2), c: file(1, 3), ...kept };
  const scratch = { a: dir(), "a/new": file(1, 9), ...kept };
  const world = worldOf({ base: old, source: old, scratch, rules: { delete: true } });
  pushTwice(world);
  expect([...world.source.keys()]).toEqual(expect.arrayContaining(["b", "c"]));
});

test("--on-conflict source: a file that is at the source again is no less a conflict in the second push", () => {
  const orphan = { a: file(1, 1, { flags: Flag.orphan }) };
  const given = { base: orphan, source: { a: file(1, 1) }, scratch: { a: file(2, 2) } };
  const world = worldOf({ ...given, rules: { onConflict: "source" } });
  for (let i = 0; i < 2; i++) {
    expect(world.push().planned?.conflicts).toHaveLength(1);
    expect(world.source.get("a")).toMatchObject({ size: 1 });
  }
});

test("a conflict of files with the same size and time is settled: the next sync brings the source's", () => {
  const racy = { a: file(1, 1, { flags: Flag.racy, scratch: Number.NaN }) };
  const world = worldOf({ base: racy, source: { a: file(1, 1) }, scratch: { a: file(1, 1) } });
  (world.source.get("a") as Node).version = { content: "went on changing", over: [], isHome: true };
  expect(world.push().planned?.conflicts).toHaveLength(1);
  expect(world.push().planned?.conflicts).toHaveLength(0);
  world.sync();
  expect(world.scratch.get("a")?.version?.content).toBe("went on changing");
});

test("hard links with times of arrival: the new name has the time of the file, and there is nothing to push", () => {
  const one = file(1, 1, { inode: "x" });
  const world = worldOf({
    base: { a: file(1, 1, { scratch: 5 }) },
    source: { a: one, b: one },
    scratch: { a: file(1, 5) },
    arrival: true,
  });
  (world.scratch.get("a") as Node).version = { content: contentOf(one), over: [], isHome: true };
  expect(world.sync().ending).toBe("whole");
  expect(world.sync().planned).toMatchObject({ names: [], kept: [] });
  expect(world.push().planned).toMatchObject({ names: [], conflicts: [] });
});
