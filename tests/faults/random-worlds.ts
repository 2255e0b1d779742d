/**
 * Any three trees, by fast-check: a base, a source and a scratch that need not have come from one another, and what happens next.
 *
 * Few names, sizes and times, so that they meet. What is in a file follows from its size and time, as ef takes it, but for times
 * far apart that have equal contents (touched files), and but for files that changed while they were copied (racy).
 */
import fc from "fast-check";
import type { Base } from "../../lib/engine/manifest.ts";
import { onConflicts } from "../../lib/engine/push-decide.ts";
import { Flag } from "../../lib/engine/tree.ts";
import { baseOf, type Entry } from "../tables.ts";
import { type Files, type Habits, isAlike, type Node, parentOf, type Sides, type Version, World } from "./worlds.ts";

/** Each after its directory. The last is what an earlier push may have stored. */
const paths = [
  ...["a", "b", "c", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "b/a/b"],
  "a.ef-conflict-host-19700101T000000Z",
  "b/a.ef-conflict-host-19700101T000000Z",
];
const isStored = (path: string) => path.includes("conflict");

/** What a random tree has at a path. */
export interface Cell {
  kind: "file" | "dir" | "link" | "other";
  size: number;
  /** Times of one number differ by less than a second; some that are far apart stand for the same contents. */
  time: number;
  /** A whole second, without a fraction. */
  whole: boolean;
  mode: number;
  /** Names of one inode have the same one. */
  inode: string | undefined;
}

/** What is noted of a path, besides. */
interface Noted extends Cell {
  scratch: "same" | "whole" | "touched" | "arrival" | "unknown";
  flags: number;
}

type Choice<C> = "none" | "noted" | "meant" | C;

interface Place {
  base: Noted | undefined;
  intent: Noted | undefined;
  source: Choice<Cell>;
  scratch: Choice<Cell>;
}

export interface Edit {
  path: number;
  side: keyof Sides;
  cell: Cell | undefined;
}

export type Event = { what: "push" | "sync"; killedAfter: number | undefined } | { what: "edits"; edits: Edit[] };

export interface Given {
  /** May files that changed while they were copied have gone on changing? */
  twists: boolean;
  places: Place[];
  /** Is there a base, an intent? */
  noted: { base: boolean; intent: boolean };
  since: number;
  habits: Habits;
  hidden: readonly { side: keyof Sides; path: number }[];
}

const cells = (isInside: boolean): fc.Arbitrary<Cell> =>
  fc.record({
    kind: fc.oneof(
      { weight: 12, arbitrary: fc.constant("file" as const) },
      { weight: isInside ? 2 : 9, arbitrary: fc.constant("dir" as const) },
      { weight: 4, arbitrary: fc.constant("link" as const) },
      { weight: 1, arbitrary: fc.constant("other" as const) },
    ),
    size: fc.nat(2),
    time: fc.nat(4),
    whole: fc.boolean(),
    mode: fc.constantFrom(0o644, 0o600, 0o755),
    inode: fc.oneof(
      { weight: 5, arbitrary: fc.constant(undefined) },
      { weight: 2, arbitrary: fc.constantFrom("x", "y") },
    ),
  });

const noted = (cell: fc.Arbitrary<Cell>): fc.Arbitrary<Noted> =>
  fc
    .tuple(
      cell,
      fc.constantFrom<Noted["scratch"][]>("same", "same", "same", "whole", "touched", "arrival", "unknown"),
      fc.constantFrom(0, 0, 0, 0, 0, 0, Flag.orphan, Flag.racy),
    )
    .map(([one, scratch, flags]) => ({ ...one, scratch, flags }));

function places(path: string): fc.Arbitrary<Place> {
  const cell = cells(path.length > 3);
  const choice = (as: "noted" | "meant"): fc.Arbitrary<Choice<Cell>> =>
    fc.oneof(
      { weight: 2, arbitrary: fc.constant("none" as const) },
      { weight: 4, arbitrary: fc.constant("noted" as const) },
      { weight: 1, arbitrary: fc.constant(as) },
      { weight: 3, arbitrary: cell },
    );
  const stored = fc.oneof({ weight: 6, arbitrary: fc.constant("none" as const) }, { weight: 1, arbitrary: cell });
  const maybe = fc.option(noted(cell), { nil: undefined, freq: isStored(path) ? 1 : 3 });
  return fc.record({
    base: maybe,
    intent: maybe,
    source: isStored(path) ? stored : choice("noted"),
    scratch: isStored(path) ? fc.constant<Choice<Cell>>("none") : choice("meant"),
  });
}

const habits: fc.Arbitrary<Habits> = fc.record({
  push: fc.record({
    onConflict: fc.constantFrom("both" as const, "both" as const, "both" as const, ...onConflicts),
    delete: fc.boolean(),
    modes: fc.boolean(),
    groupWritable: fc.boolean(),
    isShared: fc.boolean(),
  }),
  mirror: fc.boolean(),
  arrival: fc.constantFrom(false, false, true),
  coarse: fc.record({ source: fc.constantFrom(false, false, true), scratch: fc.constantFrom(false, false, true) }),
  order: fc.nat(1000),
});

/** @param twists {@link Given.twists} */
export const given = (twists: boolean): fc.Arbitrary<Given> =>
  fc.record({
    twists: fc.constant(twists),
    places: fc.tuple(...paths.map(places)),
    noted: fc.record({ base: fc.constantFrom(true, true, true, false), intent: fc.constantFrom(false, false, true) }),
    since: fc.constantFrom(0, 1015, 1035),
    habits,
    hidden: fc.oneof(
      { weight: 6, arbitrary: fc.constant<Given["hidden"]>([]) },
      {
        weight: 1,
        arbitrary: fc.array(
          fc.record({ side: fc.constantFrom<(keyof Sides)[]>("source", "scratch"), path: fc.nat(paths.length - 1) }),
          { maxLength: 2 },
        ),
      },
    ),
  });

/** After how many steps a run is killed. */
export const kills: fc.Arbitrary<number> = fc.nat(12);

export const edits: fc.Arbitrary<Edit[]> = fc.array(
  fc.record({
    path: fc.nat(paths.findIndex(isStored) - 1),
    side: fc.constantFrom<(keyof Sides)[]>("source", "scratch"),
    cell: fc.option(cells(false), { nil: undefined, freq: 3 }),
  }),
  { maxLength: 5 },
);

const runs: fc.Arbitrary<Event> = fc.record({
  what: fc.constantFrom("push" as const, "sync" as const),
  killedAfter: fc.option(kills, { nil: undefined, freq: 1 }),
});

export const events: fc.Arbitrary<Event[]> = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: runs },
    { weight: 1, arbitrary: edits.map((some): Event => ({ what: "edits", edits: some })) },
  ),
  { maxLength: 6 },
);

// --- what was drawn, as a world

const secondsOf = ({ time, whole }: Pick<Cell, "time" | "whole">) => 1000 + 10 * time + (whole ? 0 : 0.25);

const contentOf = ({ kind, size, time }: Cell) => (kind === "link" ? `to ${size}` : `${size} bytes of ${time % 3}`);

function entryOf(cell: Cell, isCoarse: boolean): Entry {
  const { kind, size, mode, inode } = cell;
  const time = secondsOf({ ...cell, whole: cell.whole || isCoarse });
  if (kind === "dir") return { kind, time, mode: mode === 0o644 ? 0o755 : 0o700 };
  if (kind === "link") return { kind, time, text: `${size}` };
  return kind === "other" ? { kind, time } : { kind, size, time, mode, inode };
}

/** Times of arrival, which no source has. */
const arrivals = { base: 2000.25, intent: 3000.25 };

function timeOnScratch(cell: Noted, arrival: number, isCoarse: boolean): number {
  if (cell.scratch === "unknown") return Number.NaN;
  // Of other times with these contents.
  const { time, whole } = cell.scratch === "touched" ? { ...cell, time: (cell.time + 3) % 6 } : cell;
  const at = cell.scratch === "arrival" ? arrival : secondsOf({ time, whole });
  return isCoarse || cell.scratch === "whole" ? Math.floor(at) : at;
}

/** The cells of a tree, by path: what lies in no directory is left out, and names of one inode are equal. */
function sound<C extends Cell>(all: (C | undefined)[]): Map<string, C> {
  const tree = new Map<string, C>();
  const inodes = new Map<string, C>();
  for (const [i, path] of paths.entries()) {
    const cell = all[i];
    const up = parentOf(path);
    if (!cell || (up !== "" && tree.get(up)?.kind !== "dir")) continue;
    const first = cell.kind === "file" && cell.inode !== undefined ? (inodes.get(cell.inode) ?? cell) : cell;
    if (first.inode !== undefined) inodes.set(first.inode, first);
    tree.set(path, first);
  }
  return tree;
}

interface Memory {
  cells: Map<string, Noted>;
  versions: Map<string, Version>;
  entries: Record<string, Entry>;
}

function memoryOf(all: (Noted | undefined)[], arrival: number, coarse: Habits["coarse"]): Memory {
  const tree = sound(all);
  const versions = new Map<string, Version>();
  const entries: Record<string, Entry> = {};
  for (const [path, cell] of tree) {
    const { flags } = cell;
    const scratch = timeOnScratch(cell, arrival, coarse.scratch);
    entries[path] = {
      ...entryOf(cell, coarse.source),
      scratch,
      flags: cell.kind === "file" ? flags : flags & Flag.orphan,
    };
    if (cell.kind === "file" || cell.kind === "link")
      versions.set(path, { content: contentOf(cell), over: [], isHome: true });
  }
  return { cells: tree, versions, entries };
}

const nothing: Memory = { cells: new Map(), versions: new Map(), entries: {} };

export function worldOf({ twists, places: all, noted: has, since, habits: how, hidden }: Given): World {
  const { coarse } = how;
  const base = has.base
    ? memoryOf(
        all.map((each) => each.base),
        arrivals.base,
        coarse,
      )
    : nothing;
  const intent = has.intent
    ? memoryOf(
        all.map((each) => each.intent),
        arrivals.intent,
        coarse,
      )
    : nothing;
  for (const [path, version] of intent.versions) {
    const before = base.versions.get(path);
    if (before) version.over.push(before);
  }
  const known = (path: string) =>
    [base.versions.get(path), intent.versions.get(path)].filter((each) => each !== undefined);
  const sides: Sides = { source: new Map(), scratch: new Map() };
  for (const side of ["source", "scratch"] as const) {
    const chosen = all.map(({ [side]: choice }, i): Cell | undefined => {
      if (choice === "none") return undefined;
      if (choice !== "noted" && choice !== "meant") return choice;
      return (choice === "noted" ? base : intent).cells.get(paths[i] as string);
    });
    for (const [path, cell] of sound(chosen)) {
      const node: Node = entryOf(cell, coarse[side]);
      sides[side].set(path, node);
      if (cell.kind !== "file" && cell.kind !== "link") continue;
      const put = [base, intent].find(({ cells: its }) => its.get(path) === cell);
      const memo = put?.entries[path];
      // ef put it there, at the time that it has noted.
      if (side === "scratch" && memo?.scratch !== undefined && !Number.isNaN(memo.scratch)) node.time = memo.scratch;
      let content = contentOf(cell);
      // It went on changing while it was copied.
      if (twists && !has.intent && side === "source" && cell.kind === "file" && put && (memo?.flags ?? 0) & Flag.racy)
        content = `${content}, and more`;
      node.version = versionOf(content, known(path), side === "source");
    }
    shareInodes(sides[side]);
  }
  const seen = (side: keyof Sides) =>
    new Set(hidden.filter((each) => each.side === side).map(({ path }) => paths[path] as string));
  const past = {
    ...(has.base ? { base: baseOf(base.entries) as Base } : {}),
    ...(has.intent ? { intent: baseOf(intent.entries) as Base } : {}),
  };
  return new World(sides, past, since, how, { source: seen("source"), scratch: seen("scratch") }, known);
}

function versionOf(content: string, known: Version[], isHome: boolean): Version {
  return known.find((each) => each.content === content) ?? { content, over: known, isHome };
}

/** Names of one inode are one file, whoever wrote it; where what was noted has made their times differ, they are not. */
function shareInodes(files: Files): void {
  const first = new Map<string, Node>();
  for (const node of files.values()) {
    if (node.inode === undefined) continue;
    const other = first.get(node.inode) ?? node;
    first.set(node.inode, other);
    if (other.time === node.time && isAlike(other, node)) continue;
    node.inode = undefined;
  }
}

/** Over all that was there; what ef has seen at home is no work of a job's. */
function written(content: string, over: Version[], side: keyof Sides): Version {
  return { content, over, isHome: side === "source" || over.some((each) => each.isHome && each.content === content) };
}

/** What is at each path of a tree; a place that says "noted" has what the base has. */
export function drawn({ places: all }: Pick<Given, "places">, which: "base" | keyof Sides): Map<string, Cell> {
  const noted = sound(all.map(({ base }) => base));
  return sound(
    all.map(({ [which]: choice }, i) => {
      if (choice === "none" || choice === "meant") return undefined;
      return choice === "noted" ? noted.get(paths[i] as string) : choice;
    }),
  );
}

/** As a person at home, or a job on scratch. */
export function edit(world: World, { path: at, side, cell }: Edit): void {
  const path = paths[at] as string;
  const files = world[side];
  const up = parentOf(path);
  if (up !== "" && files.get(up)?.kind !== "dir") return;
  for (const other of [...files.keys()]) if (other === path || other.startsWith(`${path}/`)) files.delete(other);
  if (!cell) return;
  const node: Node = { ...entryOf(cell, world.habits.coarse[side]), inode: undefined };
  if (cell.kind === "file" || cell.kind === "link")
    node.version = written(contentOf(cell), world.had(side, path), side);
  world.write(side, path, node);
}
