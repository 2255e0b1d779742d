/**
 * The compiled program is killed or stopped at a random moment: by itself, with all that it started, once or twice.
 *
 * After each: every file that a user can see is the old one or the new one, open to nobody else; the source is untouched; what ef
 * had started is gone, and its locks are free; what it was told to stop for leaves no temporary file; nothing is exported that
 * is not whole; and the next run completes, waits for nobody, and gives what an undisturbed first one gives, name for name.
 *
 * `npm test` kills some, `npm run test:faults` some hundred; the seed chooses the moments, which then take the time they take.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { Home, isBinary, until } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { differences, type Look, lookAt } from "../trees.ts";
import {
  type Attack,
  areGone,
  attacks,
  codesAfter,
  heldLocks,
  Kept,
  memory,
  momentOf,
  namesIn,
  processesOf,
  type Struck,
  strangers,
  struck,
} from "./killing.ts";
import { arranged, halves, isTemporary, leftovers, seenIn, withoutGroups } from "./scenarios.ts";
import { isLong, seed } from "./seed.ts";
import { type Victim, victims } from "./victims.ts";

setDefaultTimeout(isLong ? 7_200_000 : 180_000);

/** ef's own notes: they are there or not at some moment, and have times in them. */
const isNote = (path: string) => /(^|\/)\.[^/]*\.(synced|manifest|partial|pushing|pin-[^/]*|lock|lease)$/.test(path);
/** What a run that was stopped may leave for the next one: those, the mark and the journal of a migration. */
const isKept = (path: string) =>
  (isNote(path) && !path.endsWith(".lease")) || /(^|\/)(\.ef-part-[^/]*|\.[^/]*\.migrate-[^/]*)$/.test(path);
/** What one that was killed may leave; the next one knows that its holder is dead. */
const isDead = (path: string) => isTemporary(path) || path.endsWith(".lease");

interface Undisturbed {
  before: Look;
  after: Look;
  /** All names below the HOME, before and after. */
  names: [Set<string>, Set<string>];
  untouched: [string, Look][];
  tookMs: number;
}

function seen(at: Home, victim: Victim): Look {
  return { seen: withoutNotes(seenIn(at, victim)).seen, blocks: new Map() };
}

const withoutNotes = ({ seen, blocks }: Look): Look => ({
  seen: new Map([...seen].filter(([path]) => !isNote(path))),
  blocks,
});

async function undisturbed(at: Home, victim: Victim, args: string[]): Promise<Undisturbed> {
  const before = seen(at, victim);
  const names = namesIn(at.dir);
  const untouched = victim.untouched(at).map((dir): [string, Look] => [dir, lookAt(dir)]);
  const began = performance.now();
  const { code, stderr } = await at.ef(args, { ownGroup: true });
  const tookMs = performance.now() - began;
  expect([code, stderr]).toEqual([0, stderr]);
  const after = seen(at, victim);
  expect((await victim.also?.(at, after, before, after)) ?? []).toEqual([]);
  return { before, after, names: [names, namesIn(at.dir)], untouched, tookMs };
}

/** Everything that is wrong after that; nothing if all is well. */
async function wrongs(
  at: Home,
  victim: Victim,
  args: string[],
  expected: Undisturbed,
  attack: Attack,
  ms: number,
): Promise<{ found: string[]; code: number; tookMs: number; isMidway: boolean }> {
  const { before, after, names } = expected;
  const others = processesOf(at);
  const began = performance.now();
  const ran = await struck(at, args, attack, ms);
  const tookMs = performance.now() - began;
  // What ef waits for may be killed before ef hears of it.
  const wasKilled = ran.code === 137 || (attack.to === "all" && codesAfter(attack).includes(137));
  const found = wrongEnd(ran, attack);
  if (!wasKilled) found.push(...ran.left.map((line) => `outlived it: ${line}`));
  await until("the end of all that it started", () => areGone(at, attack, others)).catch(() =>
    found.push(...processesOf(at, others).map((line) => `still there: ${line}`)),
  );
  const now = seen(at, victim);
  const there = namesIn(at.dir);
  found.push(...halves(now, before, after).map((path) => `half: ${path}`), ...strangers(now, before, after));
  const touched = () =>
    expected.untouched.flatMap(([dir, look]) =>
      differences(withoutNotes(look), withoutNotes(lookAt(dir))).map((line) => `touched: ${line}`),
    );
  found.push(...touched());
  if (ran.stdout !== "" || ran.code === 0)
    found.push(...differences(withoutGroups(after), withoutGroups(now)).map((line) => `said done: ${line}`));
  const isKnown = (path: string) => names.some((all) => all.has(path)) || isKept(path) || (wasKilled && isDead(path));
  found.push(...[...there].filter((path) => !isKnown(path)).map((path) => `left: ${path}`));
  found.push(...heldLocks(at.dir, there).map((path) => `held: ${path}`));
  if (readFileSync("/proc/mounts", "utf8").includes(at.dir.replaceAll(" ", "\\040")))
    found.push("something is mounted");
  found.push(...((await victim.also?.(at, now, before, after)) ?? []));
  const again = await at.ef(args);
  if (again.code !== 0 && !victim.isOver?.(again)) found.push(`the next run: exit ${again.code}: ${again.stderr}`);
  if (again.stderr.includes("waiting for")) found.push(`the next run waits: ${again.stderr}`);
  const end = seen(at, victim);
  found.push(...differences(after, end).map((line) => `the next run: ${line}`), ...touched());
  found.push(...leftovers(at.dir).map((path) => `left over: ${path}`));
  for (const path of names[1].symmetricDifference(namesIn(at.dir)))
    found.push(`the next run: ${names[1].has(path) ? "no" : "also"} ${path}`);
  const isMidway = ran.code !== 0 && [before, after].every((look) => differences(look, now).length > 0);
  return {
    found: found.map(
      (line) =>
        `${line}   [${attack.name} after ${ms} of ${Math.round(expected.tookMs)} ms; exit ${ran.code}: ${ran.stderr.trim()}]`,
    ),
    code: ran.code,
    tookMs,
    isMidway,
  };
}

function wrongEnd({ code, stderr }: Struck, attack: Attack): string[] {
  const found: string[] = [];
  if (!codesAfter(attack).includes(code)) found.push(`exit ${code}`);
  if (/^\s+at .*:\d+|\bTypeError\b|panic|\/\$bunfs\//m.test(stderr)) found.push("a stack trace");
  return found;
}

const makeHome = (under: string) => new Home({}, "ef test ", under);

const counts: string[] = [];

/** Kill it so often. @returns what was wrong */
async function killed(victim: Victim, rounds: number): Promise<string[]> {
  const { at, args } = await arranged(victim, () => (victim.make ?? makeHome)(memory));
  using _ = at;
  await using _during = await victim.during?.(at);
  using kept = new Kept(at);
  const expected = await undisturbed(at, victim, args);
  const random = seeded(seed + victims.indexOf(victim));
  const first = random(attacks.length);
  const found: string[] = [];
  let [stopped, midway] = [0, 0];
  for (let round = 0; round < rounds; round++) {
    kept.restore();
    const attack = attacks[(first + round) % attacks.length] as Attack;
    const tried = await wrongs(at, victim, args, expected, attack, momentOf(random, expected.tookMs));
    found.push(...tried.found.slice(0, 3));
    if (tried.code !== 0) stopped++;
    else expected.tookMs = Math.min(expected.tookMs, tried.tookMs); // the machine may have had more to do
    if (tried.isMidway) midway++;
  }
  counts.push(`${victim.name}: ${rounds} rounds, ${stopped} stopped, ${midway} in the middle of what is seen`);
  return found;
}

for (const victim of victims) {
  const rounds = victim.rounds[isLong ? 1 : 0];
  const needs = victim.needs || (rounds === 0 && "the long form");
  test.skipIf(!isBinary || Boolean(needs))(needs ? `${victim.name} [needs ${needs}]` : victim.name, async () => {
    const found = await killed(victim, rounds);
    if (found.length > 0) console.error(`EF_FAULT_SEED=${seed}`);
    expect(found).toEqual([]);
  });
}

afterAll(() => {
  if (isLong) console.log(counts.join("\n"));
});
