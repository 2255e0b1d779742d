/**
 * Trees that change under ef's hands: between any two of its calls a person, a job or a purge does something.
 *
 * After each: nothing outside is changed, and nothing of it came in; what is read is what it was, and the change; what somebody
 * put there is not overwritten; each file is whole; success is only said of what is whole; no temporary file; and a plain
 * `ef sync` makes all good, so what is not whole is never taken for fresh.
 *
 * `npm test` tries some moments and changes, chosen by a seed that is shown; `npm run test:faults` some thousand.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Home, isBinary, type Ran } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { differences, type Look, lookAt, pick, type Seen, wrongsOf } from "../trees.ts";
import { canFail, efWith, type Faulty } from "./calls.ts";
import { type Mutation, mutationsOf, type Places } from "./mutations.ts";
import { arranged, cache, copy, edit, leftovers, type Scenario, scenarios, source, synced } from "./scenarios.ts";
import { isLong, seed } from "./seed.ts";

setDefaultTimeout(isLong ? 3_600_000 : 120_000);

/** Of each scenario. */
const runs = isLong ? Number(process.env.EF_RACES ?? 600) : 3;

/** To look at some changes alone. */
const only = new RegExp(process.env.EF_MUTATION ?? "");

interface Race extends Scenario {
  reads: (at: Home) => string;
  writes: (at: Home) => string;
  mirror?: boolean;
}

const shared = (name: string): Scenario => scenarios.find((each) => each.name === name) as Scenario;
const saved = (at: Home) => join(at.home, "store");

const races: Race[] = [
  { ...shared("the first sync"), reads: source, writes: copy },
  { ...shared("a sync that updates and mirrors, after a purge"), reads: source, writes: copy, mirror: true },
  { ...shared("a push"), reads: copy, writes: source },
  { ...shared("a migration"), reads: source, writes: (at) => join(at.home, "new") },
  { ...shared("saving an environment over an older one"), reads: (at) => join(at.home, "env"), writes: saved },
  {
    name: "a sync by rsync",
    args: ["sync"],
    async arrange(at) {
      await synced(at, { ef: { transfer: { engine: "rsync" } } });
      edit(source(at));
    },
    untouched: () => [],
    changed: copy,
    reads: source,
    writes: copy,
  },
  {
    name: "a copy to this node",
    args: ["sync", "--node-local"],
    async arrange(at) {
      await synced(at);
      edit(source(at));
    },
    untouched: () => [],
    changed: copy,
    reads: source,
    writes: copy,
  },
  {
    name: "a job with a push",
    args: ["exec", "--push", "--", "sh", "-c", 'echo made >"$HF_HOME/made"'],
    async arrange(at) {
      await synced(at);
      edit(source(at));
    },
    untouched: () => [],
    changed: copy,
    reads: source,
    writes: copy,
  },
];

/** Where races are made, and files that are changed in them. */
function placesOf(race: Race, at: Home): Places {
  return {
    reads: race.reads(at),
    writes: race.writes(at),
    notes: join(at.scratch, ".cache/euler-files"),
    outside: join(at.dir, "outside"),
    config: join(at.home, ".euler-files.json"),
  };
}

const isEnv = (race: Race) => race.args[0] === "venv";
const isMove = (race: Race) => race.args[0] === "migrate";
const isExec = (race: Race) => race.args[0] === "exec";

/** Files and the directories they are in. */
const filesOf = (race: Race): [path: string, dir: string][] =>
  isEnv(race)
    ? [
        ["bin/activate", "bin"],
        ["pyvenv.cfg", "bin"],
        ["added", "lib"],
      ]
    : [
        ["hub/two", "hub"],
        ["one", "hub"],
        ["hub/token", "hub"],
        ["hub/deep/empty", "hub/deep"],
        ["hub/link", "hub"],
        ["three", "hub/deep"],
      ];

/** The look of what may not be there. */
function lookIf(dir: string): Look {
  return existsSync(dir) ? lookAt(dir) : { seen: new Map(), blocks: new Map() };
}

/** The same without what ef may change of a directory that it works in. */
function withoutTimes(look: Look): Look {
  const seen = [...look.seen].map(([path, entry]): [string, Seen] => [
    path,
    entry.kind === "dir" ? { ...entry, mtimeNs: 0n } : entry,
  ]);
  return { ...look, seen: new Map(seen) };
}

const sameContents = (a: Seen | undefined, b: Seen | undefined) =>
  a?.kind === b?.kind && a?.size === b?.size && a?.hash === b?.hash && a?.text === b?.text;

const isOwnName = (path: string) => /(^|\/)\.(ef-part-[^/]*|[^/]*\.lock)$/.test(path);

/** Files that are, at their place, nothing that anybody wrote whole. */
function strangers(now: Look, looks: Look[]): string[] {
  return [...now.seen].flatMap(([path, seen]) => {
    const name = path.replace(/\.ef-conflict-[^/]*/, "");
    return seen.kind === "dir" || isOwnName(path) || looks.some((look) => sameContents(look.seen.get(name), seen))
      ? []
      : [path];
  });
}

/** Files below a directory that begin with what is in no file but those outside. */
function secretsIn(dir: string): string[] {
  const { seen } = lookIf(dir);
  const isSecret = (path: string) => readFileSync(Buffer.from(join(dir, path), "latin1")).includes("SECRET");
  return [...seen].flatMap(([path, { kind }]) => (kind === "file" && isSecret(path) ? [path] : []));
}

/** The same names as in the trees, with other contents. */
function makeOutside(dir: string): void {
  cache(dir);
  edit(dir);
  mkdirSync(join(dir, "empty"), { mode: 0o700 });
  chmodSync(join(dir, "hub"), 0o700);
  for (const name of ["one", "two", "three", "hub/two", "hub/token", "hub/deep/empty", "bin/activate", "lib/x"]) {
    mkdirSync(join(dir, name, ".."), { recursive: true });
    rmSync(join(dir, name), { force: true });
    Bun.spawnSync(["sh", "-c", 'printf "SECRET of %s" "$1" >"$1"; touch -d @1500000000 "$1"', "sh", join(dir, name)]);
  }
}

interface Moment {
  race: Race;
  /** The number of the call that waited meanwhile. */
  k: number;
  at: Home;
  places: Places;
  mutation: Mutation;
  ran: Faulty;
  /** Before ef ran. */
  before: { reads: Look; writes: Look };
  /** Just after the mutation. */
  then: { reads: Look; writes: Look };
}

/** Everything that is wrong after a mutation before the `k`th call; nothing if all is well. */
async function wrongs(race: Race, k: number, choose: (mutations: Mutation[]) => Mutation, most: number) {
  const { at, args } = await arranged(race);
  using _ = at;
  const snapshots = `${at.dir}.then`;
  const places = placesOf(race, at);
  makeOutside(places.outside);
  const mutation = choose(mutationsOf(places, ...pick(seeded(seed + k), filesOf(race))));
  const outside = lookAt(places.outside);
  const config = readFileSync(places.config, "utf8");
  const before = { reads: lookIf(places.reads), writes: lookIf(places.writes) };
  const keep = `mkdir '${snapshots}'; cp -a '${places.reads}' '${snapshots}/reads'; cp -a '${places.writes}' '${snapshots}/writes'`;
  const ran = await efWith(at, args, k, { script: `${mutation.script}; ${keep}` });
  try {
    if (!existsSync(snapshots)) return []; // it ended before
    const then = { reads: lookIf(`${snapshots}/reads`), writes: lookIf(`${snapshots}/writes`) };
    const moment: Moment = { race, k, at, places, mutation, ran, before, then };
    const found = [
      ...wrongOutput(moment, most),
      ...differences(withoutTimes(outside), withoutTimes(lookAt(places.outside))).map((line) => `outside: ${line}`),
      ...wrongContents(moment),
      ...leftovers(at.dir).map((path) => `left over: ${path}`),
    ];
    if (found.length === 0) found.push(...(await wrongsLater(moment, config)));
    const after = differences(withoutTimes(outside), withoutTimes(lookAt(places.outside)));
    found.push(...after.map((line) => `outside, later: ${line}`));
    const [first = "", ...more] = found;
    if (first === "") return [];
    return [...more, first].map((line, i) =>
      i < more.length
        ? line
        : `${line}   [${race.name}: before ${k}: ${ran.calls[k - 1]}: ${mutation.name}; exit ${ran.code}: ${ran.stderr.trim()}]`,
    );
  } finally {
    rmSync(snapshots, { recursive: true, force: true });
  }
}

function wrongOutput({ ran: { code, stdout, stderr, calls, peakKb } }: Moment, most: number): string[] {
  const wrong: string[] = [];
  if (![0, 1, 2].includes(code)) wrong.push(`exit ${code}`);
  if (/^\s+at .*:\d+|\b(Type|Range|Reference)Error\b|panic|\/\$bunfs\//m.test(stderr)) wrong.push("a stack trace");
  if (code !== 0 && !/error|failed|cannot|conflict/i.test(stderr)) wrong.push("no reason");
  if (code === 2 && /^export /m.test(stdout)) wrong.push(`exported: ${stdout}`);
  if (calls.length > most) wrong.push(`${calls.length} calls, and never more than ${most} without a change`);
  if (peakKb > 400_000) wrong.push(`${peakKb} kB of memory`);
  return wrong;
}

/** Without notes of an earlier sync nobody knows whose a file is that the first look finds: the source's is taken. */
const isKnown = ({ k, ran, before }: Moment) =>
  before.writes.seen.size > 0 || ran.calls.slice(0, k - 1).some((call) => call.includes(".HF_HOME.partial.ef-"));

/** Between the last look at a name and the call that takes it, nothing can be done about a change. */
const isAtOnce = ({ k, ran }: Moment, path: string) =>
  [`unlink ${path}`, `rename ${path}`].includes(ran.calls[k - 1] ?? "");

function wrongContents(moment: Moment): string[] {
  const { race, at, places, mutation, ran, before, then } = moment;
  const found: string[] = [];
  const now = { reads: lookIf(places.reads), writes: lookIf(places.writes) };
  if (!isMove(race) && !isExec(race))
    found.push(...differences(then.reads, now.reads).map((line) => `what was read: ${line}`));
  for (const dir of [at.scratch, places.reads, places.writes])
    found.push(...secretsIn(dir).map((path) => `a secret: ${path} in ${dir}`));
  const looks = [before.reads, before.writes, then.reads, then.writes];
  if (isExec(race)) looks.push({ seen: new Map([["made", lookOfText("made\n")]]), blocks: new Map() });
  if (!isEnv(race)) {
    found.push(...strangers(now.writes, looks).map((path) => `half: ${path}`));
    if (isMove(race) || isExec(race)) found.push(...strangers(now.reads, looks).map((path) => `half: ${path}`));
  }
  const { work } = mutation;
  const isWork = (look: Look) => look.seen.get(work?.path ?? "")?.hash === String(Bun.hash(work?.content ?? ""));
  if (
    work &&
    isWork(then.writes) &&
    !isWork(now.writes) &&
    isKnown(moment) &&
    !isAtOnce(moment, join(places.writes, work.path))
  )
    found.push(`overwritten: ${work.path}`);
  // Who takes something away from the new place after it was verified has taken it from both.
  const isTaken = (path: string) =>
    mutation.where === "writes" && !sameContents(before.reads.seen.get(path), then.writes.seen.get(path));
  if (isMove(race)) {
    const lost = lostByMove(then.reads, now).filter(
      (path) => !isTaken(path) && !isAtOnce(moment, join(places.reads, path)),
    );
    found.push(...lost.map((path) => `lost: ${path}`));
  }
  const isSync = race.args[0] === "sync" && !race.args.includes("--node-local");
  if (isSync && ran.code === 0 && !/warning/i.test(ran.stderr) && mutation.where === "reads")
    found.push(...neither(before.reads, then.reads, now.writes));
  return found;
}

const lookOfText = (text: string): Seen => ({
  kind: "file",
  mode: 0,
  mtimeNs: 0n,
  size: text.length,
  hash: String(Bun.hash(text)),
});

/** What was there at the moment of the change is at the old place or at the new one. */
function lostByMove(then: Look, now: { reads: Look; writes: Look }): string[] {
  return [...then.seen].flatMap(([path, seen]) => {
    const isThere = [now.reads, now.writes].some((look) => sameContents(look.seen.get(path), seen));
    return isThere || seen.kind === "dir" || seen.kind === "other" ? [] : [path];
  });
}

/** Paths of a copy that was said to be whole, and are not what the source had before the change, nor after it. */
function neither(before: Look, then: Look, copied: Look): string[] {
  const paths = [...before.seen.keys()].filter((path) => then.seen.has(path));
  return paths.flatMap((path) => {
    const [a, b, c] = [before.seen.get(path), then.seen.get(path), copied.seen.get(path)];
    return sameContents(a, c) || sameContents(b, c) || b?.kind === "other" ? [] : [`said done: ${path}`];
  });
}

/** A plain sync, later, with nobody about. */
async function wrongsLater(moment: Moment, config: string): Promise<string[]> {
  const { race, at, places, mutation } = moment;
  const found: string[] = [];
  const fails = (what: string, { code, stderr }: Ran) => [`${what}: exit ${code}: ${stderr.trim()}`];
  if (mutation.where === "config") await Bun.write(places.config, config);
  if (isEnv(race)) {
    if (!existsSync(join(places.reads, "pyvenv.cfg")) || /bin|pyvenv/.test(mutation.name)) return [];
    const again = await at.ef(race.args.map((arg) => (arg === "ENV" ? places.reads : arg)));
    return again.code === 0 ? [] : fails("saved again", again);
  }
  if (isMove(race)) {
    const again = await at.ef(["migrate", "HF_HOME", "--to", places.writes, "--yes"]);
    if (
      again.code !== 0 &&
      !/already|is there|does not exist|there is nothing|nothing is deleted|empty now|these are no files|changed|not a directory|no directory/.test(
        again.stderr,
      )
    )
      found.push(...fails("moved again", again));
  }
  // Contents that are rewritten in place show in no directory: the marker's age bounds that.
  const written = JSON.parse(readFileSync(places.config, "utf8"));
  const skip = mutation.isQuiet ? { skip_if_fresh_seconds: 0 } : { skip_if_fresh_seconds: 86_400 };
  await Bun.write(places.config, JSON.stringify({ ...written, ...skip }));
  const from = written.vars.HF_HOME.source as string;
  const synced = await at.ef(["sync"]);
  if (!existsSync(from)) return found;
  const isBar = mutation.isBar || (race.reads(at) === copy(at) && /something of another type/.test(synced.stderr));
  if (synced.code !== 0 && !isBar) found.push(...fails("synced later", synced));
  if (synced.code !== 0) return found;
  const [now, there] = [lookAt(from), lookIf(copy(at))];
  for (const path of new Set([...now.seen.keys(), ...there.seen.keys()])) {
    const isWork = isWorkAt(path, there.seen.get(path), moment);
    const isLeftOut = now.seen.get(path)?.kind === "other"; // what the copy has there from before stays
    if (isLeftOut || isOwnName(path) || isWork) now.seen.delete(path);
    if (isLeftOut || isWork) there.seen.delete(path);
  }
  // Nothing is deleted because of a source that is most often not mounted, and nothing that is not known to be ef's.
  const isEmptied = now.seen.size <= 1;
  found.push(
    ...wrongsOf(now, there, new Map(), { mirror: race.mirror === true && !isEmptied && mutation.where !== "notes" }),
  );
  return found.map((line) => `later: ${line} (${synced.stderr.trim()})`);
}

/** Is it what a job put on scratch, which is kept? */
function isWorkAt(path: string, now: Seen | undefined, { race, at, mutation, then }: Moment): boolean {
  if (race.reads(at) === copy(at))
    return mutation.where === "reads" && now !== undefined && sameContents(then.reads.seen.get(path), now);
  const { put } = mutation;
  if (put === undefined || mutation.where !== "writes" || race.writes(at) !== copy(at)) return false;
  return (path === put || path.startsWith(`${put}/`)) && sameContents(then.writes.seen.get(path), now);
}

let cases = 0;

test.skipIf(!isBinary || !canFail).each(races)("$name [needs seccomp and gcc]", async (race) => {
  const { at, args } = await arranged(race);
  const plain = await efWith(at, args);
  at[Symbol.dispose]();
  expect([plain.code, plain.stderr]).toEqual([0, plain.stderr]);
  const count = plain.calls.length;
  const random = seeded(seed);
  const found: string[] = [];
  for (let i = 0; i < runs; i++) {
    const k = 1 + random(count);
    const lines = await wrongs(
      race,
      k,
      (mutations) =>
        pick(
          random,
          mutations.filter(({ name }) => only.test(name)),
        ),
      3 * count + 500,
    );
    if (isLong && lines.length > 0) console.log(`WRONG ${lines.join("\n  ")}`);
    found.push(...lines.slice(-1));
    cases++;
  }
  if (found.length > 0) console.error(`EF_FAULT_SEED=${seed}`);
  expect(found).toEqual([]);
});

afterAll(() => {
  if (isLong) console.log(`${cases} races`);
});
