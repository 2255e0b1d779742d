/**
 * One file-system call fails, whichever it is: the first, the second, … the last that ef makes; or one program cannot be started, or
 * dies.
 *
 * After each: no file that a user can see is half; nothing of the source has changed that must not; success is only said of what
 * is whole; no stack trace; a second, undisturbed run completes, and gives what an undisturbed first one gives.
 *
 * `npm test` tries some calls and faults, chosen by a seed that is shown; `npm run test:faults` all of them.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isBinary } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { differences, type Look, lookAt, pick } from "../trees.ts";
import { type Counted, canFail, efWith, type Fault, type Faulty, faults, startFaults } from "./calls.ts";
import {
  allLeftovers,
  arranged,
  copy,
  halves,
  leftovers,
  type Scenario,
  scenarios,
  seenIn,
  source,
  withoutGroups,
} from "./scenarios.ts";
import { isLong, seed } from "./seed.ts";

/** Of each scenario in `npm test`. */
const someRuns = 10;

setDefaultTimeout(isLong ? 3_600_000 : 120_000);

/** Of the long form, where there are more. */
const mostRuns = 6000;

interface Oracle {
  before: Look;
  after: Look;
  calls: string[];
}

/** What happens when nothing fails. */
async function oracle(scenario: Scenario, counted: Counted = "calls"): Promise<Oracle> {
  const { at, args } = await arranged(scenario);
  using _ = at;
  const before = seenIn(at, scenario);
  const { code, calls, stderr } = await efWith(at, args, 0, "EIO", counted);
  expect([code, stderr]).toEqual([0, stderr]);
  return { before, after: seenIn(at, scenario), calls };
}

/** Everything that is wrong after the `k`th call got `fault`; nothing if all is well. */
async function wrongs(
  scenario: Scenario,
  { before, after }: Oracle,
  k: number,
  fault: Fault,
  counted: Counted = "calls",
): Promise<string[]> {
  const { at, args } = await arranged(scenario);
  using _ = at;
  const kept = scenario.untouched(at).map((dir) => [dir, lookAt(dir)] as const);
  const ran = await efWith(at, args, k, fault, counted);
  const withCall = (line: string) =>
    `${line}   [${k}: ${ran.calls[k - 1]} ${fault}; exit ${ran.code}: ${ran.stderr.trim()}]`;
  const now = seenIn(at, scenario);
  const contents = (look: Look, path: string) => look.seen.get(path)?.hash;
  /** The version of scratch beside that of the source, where it is denied what tells who changed what. */
  const isOneOfBoth = (path: string) =>
    ["ENOENT", "EACCES"].includes(fault) &&
    /^(openat|statx) .*\/\.HF_HOME\.(manifest|synced)$/.test(ran.calls[k - 1] ?? "") &&
    path.includes(".ef-conflict-") &&
    contents(now, path) === contents(after, path.replace(/\.ef-conflict-.*/, ""));
  const half = halves(now, before, after);
  const found = [
    ...wrongOutput(ran, counted === "starts" ? "EIO" : fault),
    ...half.filter((path) => !isOneOfBoth(path)).map((path) => `half: ${path}`),
  ];
  for (const [dir, look] of kept) found.push(...differences(look, lookAt(dir)).map((line) => `untouched: ${line}`));
  // Storage that says of the whole source, or of a file, that it is not there is believed, with a warning, until the next run.
  const isMissing = fault === "ENOENT" && /does not exist; nothing to copy|vanished at the source/.test(ran.stderr);
  // What is denied of a manifest, or of scratch, is not known as ef's any more: mirror leaves it there.
  const told = (expected: Look, now: Look) =>
    differences(expected, now).filter((line) => fault !== "ENOENT" || !line.endsWith(": only found"));
  if (ran.code === 0 && !isMissing)
    found.push(...told(withoutGroups(after), withoutGroups(now)).map((line) => `said done: ${line}`));
  if (ran.code !== 137) found.push(...leftovers(at.dir).map((path) => `left over at once: ${path}`));
  if (half.some(isOneOfBoth)) return found.map(withCall); // a person has to choose
  const again = await at.ef(args);
  // What had come to its end cannot be asked for again.
  const isOver =
    (args[0] === "migrate" && /already|is there/.test(again.stderr)) ||
    (args[1] === "load" && /: loaded /.test(ran.stderr) && /has an environment of that name/.test(again.stderr));
  if (again.code !== 0 && !isOver) found.push(`the next run: exit ${again.code}: ${again.stderr}`);
  const isKept = scenario.byRsync && again.stderr.includes("kept as it is there");
  const differing = told(after, seenIn(at, scenario)).filter(
    (line) => !(isKept && /: (mode|mtimeNs) \d+ expected/.test(line)),
  );
  found.push(...differing.map((line) => `the next run: ${line}`));
  found.push(...allLeftovers(at, scenario).map((path) => `left over: ${path}`));
  return found.map(withCall);
}

/** How ef may end after a fault. Done all the same is always right, if it is: a read that fails may be tried again. */
const codesAfter = (fault: Fault): number[] =>
  fault === "kill" ? [0, 137] : fault === "term" ? [0, 143] : fault === "int" ? [0, 130] : [0, 1, 2];

function wrongOutput({ code, stdout, stderr }: Faulty, fault: Fault): string[] {
  const wrong: string[] = [];
  if (!codesAfter(fault).includes(code)) wrong.push(`exit ${code}`);
  if (/^\s+at .*:\d+|\bTypeError\b|panic|\/\$bunfs\//m.test(stderr)) wrong.push("a stack trace");
  if ([1, 2].includes(code) && !/error|failed|cannot|conflict/i.test(stderr)) wrong.push("no reason");
  if (code !== 0 && /^export /m.test(stdout)) wrong.push(`exported: ${stdout}`);
  return wrong;
}

let cases = 0;

/** Try all, or so many as this form does. @returns the first thing that was wrong of each */
async function tryThem(
  every: (readonly [number, Fault])[],
  tried: (k: number, fault: Fault) => Promise<string[]>,
): Promise<string[]> {
  const random = seeded(seed);
  const runs = isLong ? mostRuns : someRuns;
  const chosen = every.length <= runs ? every : Array.from({ length: runs }, () => pick(random, every));
  const found: string[] = [];
  for (const [k, fault] of chosen) {
    found.push(...(await tried(k, fault)).slice(0, 1));
    cases++;
  }
  if (found.length > 0) console.error(`EF_FAULT_SEED=${seed}`);
  return found;
}

test.skipIf(!isBinary || !canFail).each(scenarios)("$name [needs seccomp and gcc]", async (scenario) => {
  const expected = await oracle(scenario);
  const every = expected.calls.flatMap((_, i) => faults.map((fault) => [i + 1, fault] as const));
  expect(await tryThem(every, (k, fault) => wrongs(scenario, expected, k, fault))).toEqual([]);
});

test.skipIf(!isBinary || !canFail).each(scenarios)(
  "$name, and a program that cannot be started, or dies [needs seccomp and gcc]",
  async (scenario) => {
    const expected = await oracle(scenario, "starts");
    const every = expected.calls.flatMap((_, i) => startFaults.map((fault) => [i + 1, fault] as const));
    expect(await tryThem(every, (k, fault) => wrongs(scenario, expected, k, fault, "starts"))).toEqual([]);
  },
);

test.skipIf(!isBinary || !canFail).each([
  ["loading an environment", "EIO", /^(openat|read|statx) .*\/bin\/activate$/],
  ["a sync that updates and mirrors, after a purge", "EIO", /^(openat|statx|pread64) .*\/\.HF_HOME\.manifest$/],
  ["a push", "ENOENT", /^openat .*\/hf\/(made\/|hub\/)?\.ef-tmp-/],
  ["a push", "ENOENT", /^(openat|getdents64) .*\/euler-files\/HF_HOME$/],
  ["a push", "EACCES", /^(fstat|statx|read|pread64) .*\/\.HF_HOME\.manifest$/],
] as const)(
  "%s: what storage hides for a moment is not taken for done (%s) [needs seccomp and gcc]",
  async (name, fault, hidden) => {
    const scenario = scenarios.find((each) => each.name === name) as Scenario;
    const expected = await oracle(scenario);
    const calls = [...expected.calls.entries()].filter(([, call]) => hidden.test(call));
    expect(calls.length).toBeGreaterThan(2);
    const found: string[] = [];
    for (const [i] of calls) found.push(...(await wrongs(scenario, expected, i + 1, fault)));
    expect(found).toEqual([]);
  },
);

test.skipIf(!isBinary || !canFail)(
  "a source file that storage denies once is copied by the next run, though the copy is young [needs seccomp and gcc]",
  async () => {
    const [first] = scenarios as [Scenario];
    const { at } = await arranged(first);
    using _ = at;
    const ran = await efWith(at, ["sync"], `openat ${join(source(at), "hub/two")}`, "ENOENT");
    expect([ran.code, ran.stderr]).toEqual([0, expect.stringContaining("vanished at the source")]);
    expect((await at.ef(["sync"])).code).toBe(0);
    expect(readFileSync(join(copy(at), "hub/two"), "utf8")).toBe("two, as it was".repeat(1000));
  },
);

afterAll(() => {
  if (isLong) console.log(`${cases} calls failed, one at a time`);
  for (const name of readdirSync("/tmp"))
    if (name.endsWith(".calls") && name.startsWith("ef test ")) rmSync(join("/tmp", name), { force: true });
});
