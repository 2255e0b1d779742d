/**
 * Planners of pushes and syncs, under any three trees (base, source, scratch): nothing is lost, a second run finds nothing to do,
 * what changed on both sides is kept twice, deletions stay under their cap, both sides come to rest.
 *
 * `npm test` tries 400 worlds of each kind, `npm run test:faults` a hundred thousand, others each time. A failure prints the
 * smallest world that was found, with a seed: `EF_FAULT_SEED=N` tries the same worlds again, and ends at the same one.
 */
import { setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { type Base, unknownTime } from "../../lib/engine/manifest.ts";
import { isPushWork } from "../../lib/engine/push-summary.ts";
import { type Event, edit, edits, events, type Given, given, kills, worldOf } from "./random-worlds.ts";
import { isLong, seed } from "./seed.ts";
import { type Files, isAlike, isWork, type World } from "./worlds.ts";

setDefaultTimeout(3_600_000);

const runs = isLong ? 20_000 : 400;

interface Story {
  at: Given;
  happens: Event[];
}

/** Rounds of a push and a sync after which there is nothing to do. */
const mostRounds = 2;

function tell(world: World, happens: readonly Event[]): void {
  for (const event of happens) {
    if (event.what === "edits") for (const one of event.edits) edit(world, one);
    else if (event.what === "push") push(world, event.killedAfter);
    else sync(world, event.killedAfter);
  }
}

/** A push; where it has come to its end, another one has nothing to do. */
function push(world: World, killedAfter?: number): boolean {
  const { ending, planned } = world.push(killedAfter);
  if (ending !== "whole") return false;
  const before = JSON.stringify([...world.source]);
  const again = world.push();
  // A FIFO in a directory of a conflict cannot be stored: there is one as long as it is there.
  const isIdle =
    again.planned !== undefined &&
    (!isPushWork(again.planned) || (hasOthers(world) && again.planned.conflicts.length > 0));
  // What cannot be read is tried again, and nothing is deleted meanwhile.
  if (again.ending === "refused" && world.source.size === 0) return false; // all that was there is deleted now
  if (again.ending !== "nothing" && !isIdle && isReadable(world))
    throw new Error(`a second push: ${JSON.stringify(again.planned)}`);
  if (isReadable(world) && JSON.stringify([...world.source]) !== before)
    throw new Error("a second push changed the source");
  if (again.planned && again.planned.conflicts.length > 0 && isReadable(world) && isPlain(world))
    throw new Error(`conflicts of a second push: ${JSON.stringify(again.planned.conflicts)}`);
  return planned !== undefined && !isPushWork(planned);
}

/** A sync; where it has come to its end, another one has nothing to do. */
function sync(world: World, killedAfter?: number): boolean {
  const { ending, planned } = world.sync(killedAfter);
  if (ending !== "whole") return false;
  const again = world.sync();
  if (again.ending !== "whole" || !again.planned || isWork(again.planned) || again.planned.attributes > 0)
    throw new Error(`a second sync: ${again.ending} ${JSON.stringify(again.planned)}`);
  return planned !== undefined && !isWork(planned);
}

const isReadable = ({ hidden }: World) => hidden.source.size === 0 && hidden.scratch.size === 0;

/** Are there FIFOs, which are never copied? */
const hasOthers = ({ source, scratch }: World) =>
  [...source.values(), ...scratch.values()].some(({ kind }) => kind === "other");

/** Nobody has to look: all can be read, and conflicts are settled. */
function isPlain(world: World): boolean {
  const { onConflict } = world.habits.push;
  return !hasOthers(world) && (onConflict === "both" || onConflict === "scratch");
}

/** Push and sync until neither finds anything, and compare what there is then. */
function rest(world: World): void {
  if (!isReadable(world) || !isPlain(world)) return;
  if (world.source.size === 0 || world.scratch.size === 0) return;
  for (let round = 0; ; round++) {
    const isPushIdle = push(world);
    if (world.source.size === 0) return; // each side has deleted what the other had: taken for not mounted from now on
    const isSyncIdle = sync(world);
    if (isPushIdle && isSyncIdle) break;
    if (round === mostRounds) throw new Error("no rest");
  }
  const lines = apart(world);
  if (lines.length > 0)
    throw new Error(
      `${lines.join("; ")}\nat rest: source ${JSON.stringify([...world.source])}, scratch ${JSON.stringify([...world.scratch])}`,
    );
}

/** In what scratch is not the source, when all has come to rest. */
function apart(world: World): string[] {
  const { source, scratch } = world;
  const lines: string[] = [];
  for (const [path, node] of source)
    if (!isAlike(node, scratch.get(path))) lines.push(`${path}: not the same on scratch`);
  const names = [...source].filter(([, { inode }]) => inode !== undefined);
  for (const [path, { inode }] of names) {
    const [first = ""] = names.find(([, other]) => other.inode === inode) ?? [];
    if (first !== path && scratch.get(first)?.inode !== scratch.get(path)?.inode) lines.push(`${path}: not ${first}`);
  }
  for (const [path, node] of scratch)
    if (node.version && !node.version.isHome && !world.isAtHome(path, node)) lines.push(`${path}: not brought home`);
  return lines;
}

function check(name: string, story: fc.Arbitrary<Story>): void {
  test(name, () => {
    const property = fc.property(story, ({ at, happens }) => {
      const world = worldOf(at);
      tell(world, happens);
      rest(world);
    });
    const { failed, counterexample, counterexamplePath, errorInstance, numRuns } = fc.check(property, {
      seed,
      numRuns: runs,
    });
    if (!failed) return;
    const [given] = counterexample ?? [];
    const where = `EF_FAULT_SEED=${seed}, after ${numRuns} worlds, path ${counterexamplePath}`;
    throw new Error(`${where}: ${errorInstance}\n${given ? inWords(given) : ""}`, { cause: errorInstance });
  });
}

/** The smallest world that fails, and what happens in it. */
function inWords({ at, happens }: Story): string {
  const { source, scratch, past, hidden } = worldOf(at);
  const noted = ({ tree, scratch: times }: Base) =>
    Array.from({ length: tree.length - 1 }, (_, i) => {
      const row = i + 1;
      const put = times[row] === unknownTime ? "?" : times[row];
      return `  ${tree.path(row)}: ${tree.kind(row)} ${tree.links.get(row) ?? tree.size[row]} ${tree.mtime[row]} there ${put} mode ${(tree.mode[row] ?? 0).toString(8)} inode ${tree.inode[row]}`;
    });
  const listed = (files: Files) =>
    [...files].map(([path, { version, ...node }]) => `  ${path}: ${JSON.stringify(node)} "${version?.content ?? ""}"`);
  const lines = [
    ["base:", ...(past.base ? noted(past.base) : ["  none"])],
    ["intent:", ...(past.intent ? noted(past.intent) : ["  none"])],
  ];
  lines.push(["source:", ...listed(source)], ["scratch:", ...listed(scratch)]);
  lines.push([
    JSON.stringify({ habits: at.habits, since: at.since, happens, hidden: [...hidden.source, "|", ...hidden.scratch] }),
  ]);
  return lines.flat().join("\n");
}

const story = (twists: boolean, ...happens: fc.Arbitrary<Event>[]) =>
  fc.record({ at: given(twists), happens: fc.tuple(...happens) as fc.Arbitrary<Event[]> });
const whole = (what: "push" | "sync") => fc.constant<Event>({ what, killedAfter: undefined });
const killed = (what: "push" | "sync") => kills.map((killedAfter): Event => ({ what, killedAfter }));
const edited = edits.map((some): Event => ({ what: "edits", edits: some }));

check("a push", story(true, whole("push")));
check("a push that is killed, changes on both sides, a push", story(true, killed("push"), edited, whole("push")));
check("a sync", story(true, whole("sync")));
check("a sync that is killed, changes on both sides, a sync", story(false, killed("sync"), edited, whole("sync")));
check(
  "pushes and syncs, some of them killed, and changes between them",
  fc.record({ at: given(false), happens: events }),
);
