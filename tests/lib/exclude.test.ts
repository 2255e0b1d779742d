import { expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unescapeName } from "../../lib/drivers/rsync.ts";
import { excluder } from "../../lib/engine/exclude.ts";
import { Home, have } from "../helpers.ts";

/** A path as the excluder takes it: one character a byte. */
const bytes = (text: string) => Buffer.from(text).toString("latin1");

test.each([
  // pattern(s), left out, kept; a trailing slash marks a directory
  [["*.lock"], ["a.lock", "x/y/.lock", "d.lock/"], ["a.lock2", "lock"]],
  [["tmp*"], ["tmp", "x/tmp1", "tmp/"], ["atmp", "tmp1/x"]],
  [["*part*"], ["part", "x/apartb"], ["par", "part/x"]],
  [["cache"], ["cache", "x/cache", "cache/"], ["cache2", "xcache", "cache/x"]],
  [["cache/"], ["cache/", "x/cache/"], ["cache", "x/cache"]],
  [["/cache"], ["cache", "cache/"], ["x/cache"]],
  [["a/b"], ["a/b", "x/a/b"], ["b", "xa/b", "a/b/c"]],
  [["/a/b/"], ["a/b/"], ["x/a/b/", "a/b"]],
  [["a/*"], ["a/b", "x/a/b"], ["a/", "a/b/c"]],
  [["/a/*/c"], ["a/b/c"], ["a/c", "a/b/b/c", "x/a/b/c"]],
  [["a/**"], ["a/b", "a/b/c", "x/a/b"], ["a/", "xa/b"]],
  [["**/b"], ["b", "a/b", "x/a/b"], ["ab"]],
  [["a**z"], ["az", "a/y/z", "x/ab/z", "abz"], ["z", "xaz"]],
  [["dir/***"], ["dir/", "dir/a", "x/dir/a/b"], ["dir", "xdir/"]],
  [["?"], ["a", "x/a"], ["ab", bytes("é")]],
  [["??"], [bytes("é"), "ab"], ["a"]],
  [["caf*"], ["caf\xe9", bytes("café")], ["ca"]],
  [["café"], [bytes("café")], ["caf\xe9"]],
  [["[a-c]x"], ["ax", "cx"], ["dx", "x", "-x"]],
  [
    ["[!a-c]x", "[^y]z"],
    ["dx", "az"],
    ["ax", "yz"],
  ],
  [["[]x]"], ["]", "x"], ["[]x]"]],
  [["[[:digit:]_]"], ["7", "_"], ["a", ":"]],
  [["[a-]"], ["a", "-"], ["b"]],
  [["a[/]b", "a?b/c"], ["axb/c"], ["a/b"]],
  [["[ab", "[[:nope:]]"], [], ["[ab", "a", "n"]],
  [["a\\*b"], ["a*b"], ["axb", "a\\*b"]],
  [["a\\b"], ["a\\b"], ["ab"]], // no wildcard, so the backslash is itself
  [["a\\b*"], ["ab", "abc"], ["a\\b"]],
  [["*\\"], [], ["a\\", "a"]],
  [["/"], [], ["a", "a/"]],
  [["- odd"], ["odd"], ["- odd"]],
  [["-odd", "+odd"], ["-odd", "+odd"], ["odd"]],
  [["+ keep.tmp", "*.tmp"], ["a.tmp"], ["keep.tmp"]],
  [["*.tmp", "+ keep.tmp"], ["keep.tmp"], ["a"]], // the first that matches decides
  [
    ["+ a", "+ b/", "*"],
    ["b", "c"],
    ["a", "b/"],
  ],
  [["!x"], ["!x"], ["x"]],
  [["", "a"], ["a"], [""]],
  [["constructor"], ["constructor"], ["toString"]],
])("exclude: %j leaves out %j, keeps %j", (patterns, out, kept) => {
  const excluded = excluder(patterns);
  const decide = (path: string) => excluded?.(path.replace(/\/$/, ""), path.endsWith("/")) ?? false;
  expect(out.filter((path) => !decide(path))).toEqual([]);
  expect(kept.filter(decide)).toEqual([]);
});

test("exclude: nothing to leave out", () => {
  expect(excluder([])).toBeUndefined();
  expect(excluder([""])).toBeUndefined();
  expect(excluder(["+ a"])).toBeUndefined();
});

test.each([
  ["nothing after -", "- ", /exclude\[1\] "- ": there is no pattern after "-"/],
  ["nothing after +", "+ ", /no pattern after "\+"/],
  ["clear", "!", /it clears all patterns before it/],
  ["NUL", "a\0b", /NUL/],
  ["too long", "x".repeat(4096), /4096 bytes long, rsync takes 4095/],
])("exclude: %s is refused with its place", (_, pattern, message) => {
  expect(() => excluder(["ok", pattern], "ef.vars.HF_HOME.exclude")).toThrow(message);
  expect(() => excluder([pattern], "ef.vars.HF_HOME.exclude")).toThrow("ef.vars.HF_HOME.exclude[0]");
});

test("exclude: hostile patterns end", () => {
  const name = `${"a".repeat(250)}/`.repeat(15) + "a".repeat(250);
  const started = performance.now();
  for (const unit of ["*a", "**a", "a*", "[ab]*", "?*", "a**/*", "*a**", "**/*a/"]) {
    for (const end of ["b", "[b]", "", "/b"]) {
      const pattern = unit.repeat(Math.floor(4000 / unit.length)) + end;
      excluder([pattern, `/${pattern}`])?.(name, true);
    }
  }
  excluder([`a${"*a".repeat(100)}**b`])?.(`${"a/".repeat(2000)}a`, false);
  expect(performance.now() - started).toBeLessThan(3000); // without care, 2^250 steps
});

test("exclude: 20,000 names and 10 patterns take few milliseconds", () => {
  const patterns = [
    "*.lock",
    ".locks/",
    "*.incomplete",
    "/tmp/",
    "__pycache__/",
    "a/**/b",
    "*.[oa]",
    "x?z",
    "logs/*.txt",
  ];
  const excluded = excluder([...patterns, "**/xet/logs"]);
  const names = Array.from({ length: 20_000 }, (_, i) => `models--org--name-${i % 97}/snapshots/${i}/weights-${i}.bin`);
  const round = () => {
    const started = performance.now();
    for (const name of names) excluded?.(name, false);
    return performance.now() - started;
  };
  const times = Array.from({ length: 7 }, round).sort((a, b) => a - b);
  expect(times[0]).toBeLessThan(20);
});

test("exclude: thousands of plain names cost no more than a few", () => {
  const many = Array.from({ length: 20_000 }, (_, i) => `/snapshots/file ${i}`);
  const excluded = excluder(many);
  const started = performance.now();
  expect(many.every((name) => excluded?.(name.slice(1), false))).toBe(true);
  expect(performance.now() - started).toBeLessThan(500);
});

/** mulberry32: small, and the same everywhere. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Entry {
  /** One character a byte. */
  path: string;
  isDirectory: boolean;
}

/** Few letters, so that patterns match; and all that patterns are made of. */
const letters = [
  "a",
  "a",
  "b",
  "b",
  "c",
  ".",
  "-",
  "!",
  "*",
  "?",
  "[",
  "]",
  "\\",
  "\n",
  " ",
  "é",
  "\xe9",
  "+",
  ":",
  "z",
];

/** A tree of odd names below `root`, on disk and as a list. */
function makeTree(root: string, next: () => number): Entry[] {
  const pick = <T>(from: readonly T[]) => from[Math.floor(next() * from.length)] as T;
  const entries: Entry[] = [];
  const fill = (dir: string, depth: number) => {
    const used = new Set<string>();
    for (let n = 2 + Math.floor(next() * 6); n > 0; n--) {
      const length = 1 + Math.floor(next() * 3);
      const raw = Array.from({ length }, () => pick(letters)).join("");
      const name = raw === "." || raw === ".." ? "dot" : raw.includes("\xe9") ? raw.replaceAll("é", "e") : bytes(raw);
      if (used.has(name)) continue;
      used.add(name);
      const path = dir === "" ? name : `${dir}/${name}`;
      const full = Buffer.concat([Buffer.from(`${root}/`), Buffer.from(path, "latin1")]);
      const isDirectory = depth < 4 && entries.length < 150 && next() < 0.5;
      entries.push({ path, isDirectory });
      if (isDirectory) {
        mkdirSync(full);
        fill(path, depth + 1);
      } else if (next() < 0.1) symlinkSync(".", full);
      else writeFileSync(full, "");
    }
  };
  fill("", 0);
  return entries;
}

const pieces = [
  ...["*", "**", "***", "?", "/", "/", "a", "b", "c", ".", "-", "!", "é", "z", " ", ":", "]", "[", "\\", "\\*", "\\["],
  ...["[ab]", "[!a]", "[^ab]", "[a-c]", "[]a]", "[!]]", "[[:alpha:]]", "[^[:punct:]]", "[a-", "[\\]]", "[[:x:]]"],
  ...["[**]", "[--b]", "[\\!-b]", "[a-c-z]", "[[:]", "[[:a]", "[+--]", "a*", "*b", "*/", "/*", "/**/", "b**"],
];

function makePattern(next: () => number, entries: readonly Entry[]): string {
  const pick = <T>(from: readonly T[]) => from[Math.floor(next() * from.length)] as T;
  const some = () => Array.from({ length: 1 + Math.floor(next() * 5) }, () => pick(pieces)).join("");
  // A part of a real name, and something in the place of a part of it: else most patterns match nothing.
  const real = () => {
    const path = Buffer.from(pick(entries)?.path ?? "a", "latin1")
      .toString("utf8")
      .replaceAll("\uFFFD", "?");
    const from = Math.floor(next() * path.length);
    const to = from + Math.floor(next() * 4);
    const changed = next() < 0.7 ? path.slice(0, from) + pick(pieces) + path.slice(to) : path;
    return changed.slice(next() < 0.3 ? Math.floor(next() * changed.length) : 0);
  };
  const body = next() < 0.6 ? real() : some();
  const before = next() < 0.15 ? pick(["/", "+ ", "- ", "**/", "!", "+ /"]) : "";
  const pattern = before + body + (next() < 0.15 ? pick(["/", "/***", "/**", "*"]) : "");
  return pattern === "!" || pattern === "+ " || pattern === "- " ? "a" : pattern;
}

/** What rsync would copy, directories with a slash. */
async function rsyncKeeps(root: string, patterns: readonly string[]): Promise<string[]> {
  const rules = patterns.map((pattern) => `--exclude=${pattern}`);
  const argv = ["rsync", "-rln", "--out-format=%n", "--8-bit-output", ...rules, "--", `${root}/`, `${root}-none/`];
  const child = Bun.spawn(argv, { env: { PATH: process.env.PATH, LC_ALL: "C" }, stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([child.stdout.bytes(), child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`rsync failed with ${code}: ${stderr}\n${JSON.stringify(patterns)}`);
  const lines = Buffer.from(stdout).toString("latin1").split("\n").slice(0, -1);
  return lines
    .map((line) => unescapeName(line).toString("latin1"))
    .filter((name) => name !== "./")
    .sort();
}

function efKeeps(entries: readonly Entry[], patterns: readonly string[]): string[] {
  const excluded = excluder(patterns);
  const out: string[] = []; // directories that are left out: nobody goes into them
  const kept: string[] = [];
  for (const { path, isDirectory } of entries) {
    if (out.some((dir) => path.startsWith(`${dir}/`))) continue;
    if (excluded?.(path, isDirectory)) out.push(path);
    else kept.push(isDirectory ? `${path}/` : path);
  }
  return kept.sort();
}

const rounds = Number(process.env.EF_EXCLUDE_ROUNDS ?? 15);
const firstSeed = Number(process.env.EF_EXCLUDE_SEED ?? 1);

test.skipIf(!have("rsync"))("exclude: the same as rsync, on random trees and patterns [needs rsync]", async () => {
  using at = new Home();
  const seen = { kept: 0, out: 0 };
  for (let seed = firstSeed; seed < firstSeed + rounds; seed++) {
    const next = random(seed);
    const root = join(at.dir, `tree ${seed}`);
    mkdirSync(root);
    mkdirSync(`${root}-none`);
    const entries = makeTree(root, next);
    const lists = Array.from({ length: 10 }, () =>
      Array.from({ length: 1 + Math.floor(next() * 3) }, () => makePattern(next, entries)),
    );
    const kept = await Promise.all(lists.map((patterns) => rsyncKeeps(root, patterns))); // rsync mostly waits
    for (const [i, patterns] of lists.entries()) {
      const where = `EF_EXCLUDE_SEED=${seed}, patterns ${JSON.stringify(patterns)}`;
      const [theirs, ours] = [new Set(kept[i]), new Set(efKeeps(entries, patterns))];
      const [onlyTheirs, onlyOurs] = [[...theirs.difference(ours)], [...ours.difference(theirs)]];
      expect({ where, onlyOurs, onlyTheirs }).toEqual({ where, onlyOurs: [], onlyTheirs: [] });
      seen.kept += ours.size;
      seen.out += entries.length - ours.size;
    }
  }
  expect(seen.out).toBeGreaterThan(seen.kept / 20); // patterns that match nothing would prove nothing
});
