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
import {
  chmodSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { systemPython } from "../envs.ts";
import { Home, isBinary, run } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { differences, type Look, lookAt, pick, setTime } from "../trees.ts";
import { type Counted, canFail, efWith, type Fault, type Faulty, faults, startFaults } from "./calls.ts";

const isLong = process.env.EF_FAULTS === "long";
/** The same slice each time in `npm test`; another one each time in the long form. */
const seed = Number(process.env.EF_FAULT_SEED ?? (isLong ? Math.floor(Date.now() / 1000) : 1));
/** Of each scenario in `npm test`. */
const someRuns = 16;

setDefaultTimeout(isLong ? 3_600_000 : 120_000);

interface Scenario {
  name: string;
  args: readonly string[];
  /** Make the directories in which ef then works. */
  arrange: (at: Home) => void | Promise<void>;
  /** Directories that may not change at all. */
  untouched: (at: Home) => string[];
  /** The directory that ef changes. */
  changed: (at: Home) => string;
  /** What is compared of a file, where its contents have a time or a host in them. @default its contents */
  asWritten?: (path: string, content: string) => string;
  /** rsync puts a file in place whose time it could not set: its contents are right, and the next run takes it for a job's. */
  byRsync?: boolean;
}

const old = 1_600_000_000;
/** Of the long form, where there are more. */
const mostRuns = 6000;

function write(path: string, content: string, seconds = old): void {
  writeFileSync(path, content);
  utimesSync(path, seconds, seconds);
}

/** A small cache: files, a hard link, a symbolic link, a directory in another, an empty and a private file. */
function cache(root: string): void {
  mkdirSync(join(root, "hub/deep"), { recursive: true });
  write(join(root, "one"), "one, as it was");
  write(join(root, "hub/two"), "two, as it was".repeat(1000));
  write(join(root, "hub/deep/empty"), "");
  write(join(root, "hub/token"), "secret");
  chmodSync(join(root, "hub/token"), 0o600);
  linkSync(join(root, "one"), join(root, "hub/same"));
  symlinkSync("../one", join(root, "hub/link"));
  setTime(join(root, "hub/link"), BigInt(old) * 1_000_000_000n);
}

/** As a person, later. */
function edit(root: string): void {
  write(join(root, "hub/two"), "two, edited".repeat(900), old + 100);
  write(join(root, "three"), "three is new", old + 100);
  rmSync(join(root, "hub/deep/empty"));
}

const source = (at: Home) => join(at.home, "hf");
const copy = (at: Home) => at.cache("HF_HOME");

async function synced(at: Home, more: object = {}): Promise<void> {
  cache(source(at));
  at.configure({ HF_HOME: "hf" }, { skip_if_fresh_seconds: 0, ...more });
  const { code, stderr } = await at.ef(["sync"]);
  expect([code, stderr]).toEqual([0, stderr]);
}

const scenarios: Scenario[] = [
  {
    name: "the first sync",
    args: ["sync"],
    arrange(at) {
      cache(source(at));
      at.configure({ HF_HOME: "hf" });
    },
    untouched: (at) => [source(at)],
    changed: copy,
  },
  {
    name: "a sync that updates and mirrors, after a purge",
    args: ["sync"],
    async arrange(at) {
      await synced(at, { ef: { vars: { HF_HOME: { mirror: true } } } });
      edit(source(at));
      rmSync(join(copy(at), "one"));
    },
    untouched: (at) => [source(at)],
    changed: copy,
  },
  {
    name: "a push",
    args: ["push"],
    async arrange(at) {
      await synced(at);
      edit(copy(at));
      mkdirSync(join(copy(at), "made"));
      write(join(copy(at), "made/by-job"), "made".repeat(5000), old + 200);
    },
    untouched: (at) => [copy(at)],
    changed: source,
  },
  {
    name: "a migration",
    args: ["migrate", "HF_HOME", "--to", "NEW", "--yes"],
    arrange(at) {
      cache(source(at));
      at.configure({ HF_HOME: "hf" });
    },
    untouched: () => [],
    changed: (at) => join(at.home, "new"),
  },
  {
    name: "saving an environment over an older one",
    args: ["venv", "save", "-f", "env", "--venv", "ENV"],
    async arrange(at) {
      const env = join(at.home, "env");
      const made = await run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env });
      expect([made.code, made.stderr]).toEqual([0, ""]);
      at.configure({}, { ef: { venv_store: join(at.home, "store") } });
      const { code, stderr } = await at.ef(["venv", "save", "env", "--venv", env]);
      expect([code, stderr]).toEqual([0, stderr]);
      write(join(env, "added"), "added");
    },
    untouched: (at) => [join(at.home, "env")],
    changed: (at) => join(at.home, "store"),
    asWritten: (path, content) => (path.endsWith(".json") ? String(JSON.parse(content).name) : content.slice(0, 4)),
  },
  {
    name: "a sync by rsync",
    byRsync: true,
    args: ["sync"],
    async arrange(at) {
      await synced(at, { ef: { transfer: { engine: "rsync" } } });
      edit(source(at));
    },
    untouched: (at) => [source(at)],
    changed: copy,
  },
  {
    name: "loading an environment",
    args: ["venv", "load", "env"],
    async arrange(at) {
      const env = join(at.home, "env");
      at.env.SLURM_TMPDIR = join(at.dir, "disk");
      mkdirSync(at.env.SLURM_TMPDIR);
      const made = await run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env });
      expect([made.code, made.stderr]).toEqual([0, ""]);
      at.configure({}, { ef: { venv_store: join(at.home, "store") } });
      const { code, stderr } = await at.ef(["venv", "save", "env", "--venv", env]);
      expect([code, stderr]).toEqual([0, stderr]);
    },
    untouched: (at) => [join(at.home, "env"), join(at.home, "store")],
    changed: (at) => join(at.dir, "disk"),
    asWritten: (_, content) => content.replaceAll(/ef test \w{6}|"since":\d+/g, ""),
  },
];

/** Temporary files of ef, which only one that was killed leaves behind, and only until the next run. */
const isTemporary = (path: string) => /(^|\/)\.(ef-tmp-[^/]*|[^/]*\.ef-[^/]*\.tmp|[^/]*\.tmp-[^/]*)(\/|$)/.test(path);
/** ef's own hidden files: those, locks, and the mark of a migration that has not come to its end. */
const isOwn = (path: string) => isTemporary(path) || /(^|\/)\.(ef-part-[^/]*|[^/]*\.lock)$/.test(path);

/** What a directory holds for users: without ef's temporary files, and without the times of directories, which those change. */
function seenIn(at: Home, { changed, asWritten }: Scenario): Look {
  const dir = changed(at);
  let look: Look;
  try {
    look = lookAt(dir);
  } catch {
    return { seen: new Map(), blocks: new Map() }; // not made yet
  }
  for (const [path, seen] of look.seen) {
    if (isOwn(path)) look.seen.delete(path);
    else if (seen.kind === "dir") Object.assign(seen, { mtimeNs: 0n, mode: 0 });
    else if (asWritten && seen.kind === "link") seen.mtimeNs = 0n;
    else if (asWritten && seen.kind === "file") {
      const hash = asWritten(path, readFileSync(join(dir, path), "latin1"));
      look.seen.set(path, { kind: "file", mode: seen.mode, mtimeNs: 0n, hash });
    }
  }
  if (asWritten) look.blocks.clear();
  return look;
}

/** In a file that has a temporary name beside it, or lost one of its names, the group of names may be another meanwhile. */
const withoutGroups = ({ seen, blocks }: Look): Look => ({
  seen: new Map([...seen].map(([path, { group: _, ...entry }]) => [path, entry])),
  blocks,
});

/** Paths whose contents are neither what they were nor what they will be. */
function halves(now: Look, before: Look, after: Look): string[] {
  return [...now.seen].flatMap(([path, { kind, size, hash, text }]) => {
    const is = (look: Look) => {
      const other = look.seen.get(path);
      return other?.kind === kind && other.size === size && other.hash === hash && other.text === text;
    };
    return kind === "dir" || is(before) || is(after) ? [] : [path];
  });
}

const leftovers = (dir: string): string[] => (readdirSync(dir, { recursive: true }) as string[]).filter(isTemporary);

/** Give a new HOME in that state. */
async function arranged({ arrange, args }: Scenario): Promise<{ at: Home; args: string[] }> {
  const at = new Home();
  await arrange(at);
  return { at, args: args.map((arg) => (arg === "NEW" || arg === "ENV" ? join(at.home, arg.toLowerCase()) : arg)) };
}

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
  const found = [
    ...wrongOutput(ran, counted === "starts" ? "EIO" : fault),
    ...halves(seenIn(at, scenario), before, after).map((path) => `half: ${path}`),
  ];
  for (const [dir, look] of kept) found.push(...differences(look, lookAt(dir)).map((line) => `untouched: ${line}`));
  // Storage that says of the whole source, or of a file, that it is not there is believed, with a warning, until the next run.
  const isMissing = fault === "ENOENT" && /does not exist; nothing to copy|vanished at the source/.test(ran.stderr);
  // What is denied of a manifest, or of scratch, is not known as ef's any more: mirror leaves it there.
  const told = (expected: Look, now: Look) =>
    differences(expected, now).filter((line) => fault !== "ENOENT" || !line.endsWith(": only found"));
  if (ran.code === 0 && !isMissing)
    found.push(...told(withoutGroups(after), withoutGroups(seenIn(at, scenario))).map((line) => `said done: ${line}`));
  if (ran.code !== 137) found.push(...leftovers(at.dir).map((path) => `left over at once: ${path}`));
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
  found.push(...leftovers(at.dir).map((path) => `left over: ${path}`));
  return found.map((line) => `${line}   [${k}: ${ran.calls[k - 1]} ${fault}; exit ${ran.code}: ${ran.stderr.trim()}]`);
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
  ["loading an environment", /^(openat|read|statx) .*\/bin\/activate$/],
  ["a sync that updates and mirrors, after a purge", /^(openat|statx|pread64) .*\/\.HF_HOME\.manifest$/],
])("%s: what storage hides for a moment is not taken for missing [needs seccomp and gcc]", async (name, hidden) => {
  const scenario = scenarios.find((each) => each.name === name) as Scenario;
  const expected = await oracle(scenario);
  const reads = [...expected.calls.entries()].filter(([, call]) => hidden.test(call));
  expect(reads.length).toBeGreaterThan(2);
  const found: string[] = [];
  for (const [i] of reads) found.push(...(await wrongs(scenario, expected, i + 1, "EIO")));
  expect(found).toEqual([]);
});

test.skipIf(!isBinary || !canFail)(
  "a source file that storage denies once is copied by the next run, though the copy is young [needs seccomp and gcc]",
  async () => {
    const [first] = scenarios as [Scenario];
    const { calls } = await oracle(first);
    const k = calls.findIndex((call) => /^openat .*\/hf\/hub\/two$/.test(call)) + 1;
    expect(k).toBeGreaterThan(0);
    const { at } = await arranged(first);
    using _ = at;
    const ran = await efWith(at, ["sync"], k, "ENOENT");
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
