import { expect, test } from "bun:test";
import { chmodSync, chownSync, lchownSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { refuseStrangers, strangersPart } from "../../lib/engine/strangers.ts";
import { Home } from "../helpers.ts";

const stranger = 65534;

/** A scratch root of some mode, below which a stranger made `made`. */
function place(mode: number, made: string, { owner = 0, link = false, of = stranger } = {}) {
  const at = new Home();
  const target = join(at.scratch, ".cache/ef/X");
  mkdirSync(join(at.scratch, made, ".."), { recursive: true });
  const path = join(at.scratch, made);
  if (link) symlinkSync("/nowhere", path);
  else mkdirSync(path);
  lchownSync(path, of, of);
  chmodSync(at.scratch, mode);
  chownSync(at.scratch, owner, owner);
  const found = strangersPart({ target, base: at.scratch });
  let words = "";
  try {
    refuseStrangers({ target, base: at.scratch });
  } catch (error) {
    words = (error as Error).message;
  }
  at[Symbol.dispose]();
  return { path: found?.path.slice(at.scratch.length), words };
}

test.skipIf(process.geteuid?.() !== 0).each([
  ["a link, whatever the directory", 0o755, ".cache", { link: true }, "/.cache"],
  ["a link in the place of the copy", 0o2775, ".cache/ef/X", { link: true }, "/.cache/ef/X"],
  ["a directory where anybody can make one", 0o1777, ".cache", {}, "/.cache"],
  ["a directory of a group, which is shared", 0o2775, ".cache", {}, undefined],
  ["one of a group in which each keeps his own", 0o3775, ".cache", {}, undefined],
  ["one of whom all of scratch belongs to", 0o1777, ".cache", { owner: stranger }, undefined],
  ["a link of whom all of scratch belongs to", 0o755, ".cache", { owner: stranger, link: true }, "/.cache"],
  ["our own link", 0o1777, ".cache", { link: true, of: 0 }, undefined],
  ["our own directory", 0o1777, ".cache", { of: 0 }, undefined],
] as const)("of a stranger: %s [needs root]", (_, mode, made, options, expected) => {
  const { path, words } = place(mode, made, options);
  expect(path).toBe(expected);
  expect(words).toMatch(
    expected === undefined ? /^$/ : /^Cannot use .* is a (symbolic link|directory) of another user \(uid 65534\)$/,
  );
});

test("a copy that lies elsewhere than below the root, and one that is not there", () => {
  expect(strangersPart({ target: "/nowhere/x", base: "/nowhere/y" })).toBeUndefined();
  expect(strangersPart({ target: "/nowhere/x/y", base: "/nowhere/x" })).toBeUndefined();
});
