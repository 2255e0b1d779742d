/** A source whose names become others between the look and the copy: what tests/faults/races.test.ts found, each at its moment. */
import { expect, test } from "bun:test";
import {
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Copying } from "../../lib/engine/copy-file.ts";
import type { Storage } from "../../lib/engine/storage.ts";
import { Pair } from "../pair.ts";

function write(path: string, content: string, seconds = 1_600_000_000): void {
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, content);
  utimesSync(path, seconds, seconds);
}

test("a file of two names, one of which became another file: the other name keeps its contents", async () => {
  using pair = new Pair();
  write(join(pair.source, "a"), "both");
  linkSync(join(pair.source, "a"), join(pair.source, "b"));
  const comparison = await pair.compare();
  rmSync(join(pair.source, "a"));
  write(join(pair.source, "a"), "another");
  const { failures } = await pair.carry(comparison, () => {});
  expect(failures).toEqual([]);
  const copied = ["a", "b"].map((name) => readFileSync(join(pair.target, name), "utf8"));
  expect(copied).toEqual(["another", "both"]);
  expect((await pair.compare()).plan).toMatchObject({ files: 0, links: 0 });
});

test("a file of two names that was written to: both names have the new contents, and are one file", async () => {
  using pair = new Pair();
  write(join(pair.source, "a"), "both");
  linkSync(join(pair.source, "a"), join(pair.source, "b"));
  const comparison = await pair.compare();
  write(join(pair.source, "b"), "edited", 1_600_000_100);
  const { failures } = await pair.carry(comparison, () => {});
  expect(failures).toEqual([]);
  expect((await pair.compare()).plan).toMatchObject({ files: 0, links: 0 });
});

test("a file of two names, one of which became a directory: the other keeps its mode on scratch", async () => {
  using pair = new Pair();
  write(join(pair.source, "a"), "both");
  linkSync(join(pair.source, "a"), join(pair.source, "b"));
  await pair.sync();
  rmSync(join(pair.source, "a"));
  write(join(pair.source, "a/in"), "in");
  await pair.sync();
  const modeOf = (side: "source" | "target") => pair.look(side).seen.get("b")?.mode;
  expect(modeOf("target")).toBe(modeOf("source"));
});

test("a file of two names whose copy a job replaces before the other is linked to it: that is brought by itself", async () => {
  using pair = new Pair();
  write(join(pair.source, "a"), "both");
  linkSync(join(pair.source, "a"), join(pair.source, "b"));
  const comparison = await pair.compare();
  const { failures } = await pair.carry(comparison, (cx) =>
    before(cx, "target", "link", /\/a$/, () => {
      rmSync(join(pair.target, "a"));
      symlinkSync("elsewhere", join(pair.target, "a"));
    }),
  );
  expect(failures).toEqual([]);
  expect(readlinkSync(join(pair.target, "a"))).toBe("elsewhere");
  expect(readFileSync(join(pair.target, "b"), "utf8")).toBe("both");
});

/** Do something before a call of one side, once. */
function before(cx: Copying, side: "source" | "target", call: keyof Storage, path: RegExp, act: () => void): void {
  const storage = cx[side];
  let isDone = false;
  cx[side] = new Proxy(storage, {
    get(target, name) {
      const value = Reflect.get(target, name, target) as unknown;
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        if (name === call && path.test(String(args[0])) && !isDone) {
          isDone = true;
          act();
        }
        return value.apply(target, args);
      };
    },
  });
}

test.each<[string, keyof Storage, RegExp]>([
  ["before it is opened", "open", /\/d\/f$/],
  ["before it is looked at again", "lookUp", /\/d\/f$/],
  ["after that", "lookUp", /\/d$/],
])(
  "a directory that becomes a link to one with the same names %s: nothing of that is copied",
  async (_, call, path) => {
    using pair = new Pair();
    const other = join(pair.dir, "other");
    write(join(pair.source, "d/f"), "ours");
    write(join(other, "f"), "not ours");
    const comparison = await pair.compare();
    if (call === "lookUp") write(join(pair.source, "d/f"), "changed", 1_600_000_100);
    const { failures } = await pair.carry(comparison, (cx) =>
      before(cx, "source", call, path, () => {
        renameSync(join(pair.source, "d"), join(pair.dir, "moved"));
        symlinkSync(other, join(pair.source, "d"));
      }),
    );
    expect(failures).toEqual([]);
    expect(readdirSync(join(pair.target, "d"))).toEqual([]);
  },
);

test("a directory that became a link to another one between its look and its list: nothing of that is copied", async () => {
  using pair = new Pair();
  const other = join(pair.dir, "other");
  write(join(pair.source, "d/f"), "ours");
  write(join(other, "f"), "not ours");
  const comparison = await pair.compare();
  const { source } = comparison.diff;
  const row = source.find("d/f") as number;
  source.set(row, { mode: 0o100644, size: 8, mtimeNs: 1_600_000_000n * 1_000_000_000n }); // as the list behind the link said
  renameSync(join(pair.source, "d"), join(pair.dir, "moved"));
  symlinkSync(other, join(pair.source, "d"));
  const { failures } = await pair.carry(comparison, () => {});
  expect(failures).toEqual([]);
  expect(readdirSync(join(pair.target, "d"))).toEqual([]);
});
