/**
 * A source and its copy on scratch as tables, with pushes and syncs carried out on them.
 *
 * What is decided, and what is noted of it, is decided and noted by lib/: `planPush`, `settle`, `finish`, `pushedBase`,
 * `plannedBase`, `diff`, `mergePast`, `baseOf`, and `earlierVersion` of conflicts. What touches files is done here in the order of
 * lib/engine/push-run.ts, bring-back.ts, bring.ts and carry.ts, and can be killed after any step.
 *
 * Each file and link carries its {@link Version}: who wrote it, over what. By that, and not by what ef has noted, every step is
 * judged when it is taken.
 */
import { baseOf, plannedTimes } from "../../lib/engine/base.ts";
import { State } from "../../lib/engine/carrying.ts";
import { arrivalRows, type Diff, Do, diff, type Past } from "../../lib/engine/diff.ts";
import { hasOtherModes } from "../../lib/engine/directories.ts";
import type { TransferPlan } from "../../lib/engine/engine.ts";
import { type Base, unknownTime } from "../../lib/engine/manifest.ts";
import { mergePast } from "../../lib/engine/merge.ts";
import { isSameBase, plannedBase, pushedBase } from "../../lib/engine/push-base.ts";
import { conflictName, earlierVersion, stampOf } from "../../lib/engine/push-conflict.ts";
import { isSameTime, Push, type PushRules } from "../../lib/engine/push-decide.ts";
import { finish, isStored, type PushPlan, planPush, settle } from "../../lib/engine/push-plan.ts";
import type { Pushed } from "../../lib/engine/push-run.ts";
import { isPushWork, type PushSummary, summaryOf } from "../../lib/engine/push-summary.ts";
import { tally } from "../../lib/engine/tally.ts";
import { Flag, type Tree } from "../../lib/engine/tree.ts";
import { dir, type Entry, ns, seeded, treeOf } from "../tables.ts";

/** What somebody wrote once. */
export interface Version {
  /** What is in the file, or where the link points. */
  content: string;
  /** What it was written over: all of it is meant to be replaced. */
  over: Version[];
  /** Is it, or was it, at the source? Then scratch need not have it. */
  isHome: boolean;
}

export interface Node extends Entry {
  /** Of files and links. */
  version?: Version;
}

/** By path; each directory is among them. */
export type Files = Map<string, Node>;

export interface Sides {
  source: Files;
  scratch: Files;
}

/** How a run of ef ended. */
export type Ending = "whole" | "killed" | "refused" | "nothing";

class Killed extends Error {}

export interface Habits {
  push: PushRules;
  mirror: boolean;
  arrival: boolean;
  /** Which side keeps whole seconds only. */
  coarse: Record<keyof Sides, boolean>;
  /** Orders what is done at the same time. */
  order: number;
}

const stamp = stampOf(new Date(0), "host");

export const parentOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")));
const isWithin = (path: string, top: string) => path === top || path.startsWith(`${top}/`);

export function removeAll(files: Files, top: string): void {
  for (const path of [...files.keys()]) if (isWithin(path, top)) files.delete(path);
}

/** Is `older` among what a version was written over? */
function isOver(version: Version | undefined, older: Version | undefined): boolean {
  if (!version || !older) return false;
  return version.content === older.content || version.over.some((one) => isOver(one, older));
}

/** Is what a person reads there the same? */
export const isAlike = (a: Node | undefined, b: Node | undefined): boolean =>
  a?.kind === b?.kind && a?.version?.content === b?.version?.content;

export class World {
  source: Files;
  scratch: Files;
  past: Past;
  pushing: Base | undefined;
  /** When the last sync ended, as the marker says it, in seconds; 0 without a marker. */
  since: number;
  /** Directories and files that cannot be read. */
  readonly hidden: Record<keyof Sides, ReadonlySet<string>>;
  readonly habits: Habits;
  #clock = 10_000;
  #inodes = 0;
  #steps = Number.POSITIVE_INFINITY;
  /** What each side had at a path: who writes there, writes over all of it. */
  readonly #had: Record<keyof Sides, Map<string, Version[]>> = { source: new Map(), scratch: new Map() };
  readonly #known: (path: string) => Version[];
  readonly #random: (below: number) => number;

  /** @param known what the base and the intent have of each path */
  constructor(
    sides: Sides,
    past: Past,
    since: number,
    habits: Habits,
    hidden: World["hidden"],
    known: (path: string) => Version[],
  ) {
    this.source = sides.source;
    this.scratch = sides.scratch;
    this.past = past;
    this.since = since;
    this.habits = habits;
    this.hidden = hidden;
    this.#known = known;
    this.#random = seeded(habits.order);
    for (const side of ["source", "scratch"] as const)
      for (const [path, { version }] of this[side]) this.#saw(side, path, version?.over.concat(version) ?? []);
  }

  #saw(side: keyof Sides, path: string, versions: readonly Version[]): void {
    this.#had[side].set(path, [...new Set([...this.had(side, path), ...versions])]);
  }

  had(side: keyof Sides, path: string): Version[] {
    return this.#had[side].get(path) ?? this.#known(path);
  }

  /** As a person at home, or a job on scratch. */
  write(side: keyof Sides, path: string, node: Node): void {
    this[side].set(path, node);
    if (node.version) this.#saw(side, path, [node.version]);
  }

  /** What a look at one side finds. */
  tree(side: keyof Sides): Tree {
    const files = this[side];
    const hidden = this.hidden[side];
    const names = new Map<string, number>();
    for (const { inode } of files.values()) if (inode) names.set(inode, (names.get(inode) ?? 0) + 1);
    const entries: Record<string, Entry> = { "": dir() };
    for (const [path, node] of files) {
      if ([...hidden].some((top) => path !== top && isWithin(path, top))) continue;
      const isShut = hidden.has(path);
      if (isShut && node.kind !== "dir") entries[path] = { kind: "gone", time: 0, flags: Flag.unreadable };
      else {
        const inode = (names.get(node.inode ?? "") ?? 0) > 1 ? node.inode : undefined;
        entries[path] = { ...node, inode, flags: isShut ? Flag.unreadable : 0 };
      }
    }
    return treeOf(entries);
  }

  /** A run that is killed after so many steps. */
  #until(steps: number | undefined, work: () => Ending): Ending {
    this.#steps = steps ?? Number.POSITIVE_INFINITY;
    try {
      return work();
    } catch (error) {
      if (error instanceof Killed) return "killed";
      throw error;
    }
  }

  #step(): void {
    if (this.#steps-- <= 0) throw new Killed();
  }

  #shuffled(rows: number[]): number[] {
    for (let i = rows.length - 1; i > 0; i--) {
      const j = this.#random(i + 1);
      [rows[i], rows[j]] = [rows[j] as number, rows[i] as number];
    }
    return rows;
  }

  /** Give a name to a file or link, over what has it. */
  #place(side: keyof Sides, path: string, node: Node): void {
    const files = this[side];
    const up = parentOf(path);
    if (up !== "" && files.get(up)?.kind !== "dir") throw new Error(`${side}: ${path} goes into what is no directory`);
    if (files.get(path)?.kind === "dir") throw new Error(`${side}: ${path} is a directory, and written over`);
    this.write(side, path, node);
    if (side === "source" && node.version) node.version.isHome = true;
  }

  #copied(side: keyof Sides, { kind, size, time = 0, mode, text, version }: Node, arrival?: number): Node {
    const at = arrival ?? time;
    const kept = this.habits.coarse[side] ? Math.floor(at) : at;
    return { kind, size, time: kept, mode, text, version } as Node;
  }

  #link(side: keyof Sides, leader: string, path: string): void {
    const there = this[side].get(leader);
    if (there?.kind !== "file") throw new Error(`${side}: ${path} is to be a name of ${leader}, which is no file`);
    there.inode ??= `made${this.#inodes++}`;
    this.#place(side, path, { ...there });
  }

  #chmod(side: keyof Sides, path: string, mode: number): void {
    const node = this[side].get(path);
    if (!node) throw new Error(`${side}: ${path} is not there, and gets a mode`);
    for (const [other, each] of this[side])
      if (other === path || (node.inode && each.inode === node.inode)) each.mode = mode;
  }

  /** What is equal on both sides counts as seen by both: what is written there then is written over both. */
  #meet(): void {
    for (const [path, node] of this.scratch) {
      const other = this.source.get(path);
      if (!node.version || !other?.version || !isAlike(node, other)) continue;
      node.version.isHome = true;
      this.#saw("scratch", path, [other.version]);
      this.#saw("source", path, [node.version]);
    }
  }

  /** Is it at the source, under its own name or under that of a conflict? */
  isAtHome(path: string, node: Node): boolean {
    const original = (at: string) => at.replace(/\.ef-conflict-[^/]*/g, "");
    return [...this.source].some(([at, other]) => original(at) === path && isAlike(node, other));
  }

  // --- push

  plan(): PushPlan {
    this.#meet();
    const sides = { scratch: this.tree("scratch"), source: this.tree("source"), past: this.past };
    const plan = planPush({ ...sides, pushing: this.pushing }, this.habits.push);
    for (let row = 1; row < plan.scratch.length; row++) {
      const path = plan.scratch.path(row);
      if (plan.todo[row] === Push.compare) settle(plan, row, isAlike(this.scratch.get(path), this.source.get(path)));
    }
    finish(plan);
    return plan;
  }

  /** What `pushStep` does. */
  push(steps?: number): { ending: Ending; planned: PushSummary | undefined } {
    let planned: PushSummary | undefined;
    const ending = this.#until(steps, () => {
      if (this.scratch.size === 0) return "nothing";
      const wasFull = (this.past.base?.tree.length ?? 0) > 1;
      if (wasFull && this.source.size === 0) return "refused";
      const plan = this.plan();
      planned = summaryOf(plan, true);
      this.#judgeDeletions(plan);
      if (plan.remove.length > this.#deletable() / 2) return "refused";
      if (this.habits.push.onConflict === "fail" && planned.conflicts.length > 0) return "refused";
      let done = nothingDone(plan);
      if (isPushWork(planned)) {
        this.pushing = plannedBase(plan);
        done = this.#carryBack(plan);
      }
      this.#note(plan, done);
      this.pushing = undefined;
      return "whole";
    });
    return { ending, planned };
  }

  #carryBack(plan: PushPlan): Pushed {
    const { scratch, source, todo, there, leaders } = plan;
    const done = nothingDone(plan);
    const rows = (is: (row: number) => boolean) =>
      Array.from({ length: scratch.length - 1 }, (_, i) => i + 1).filter(is);
    const at = (row: number) => scratch.path(row);
    for (const row of rows((row) => todo[row] === Push.mkdir)) {
      this.#step();
      const present = this.source.get(at(row));
      if (present && present.kind !== "dir") throw new Error(`source: ${at(row)} is in the way of a directory`);
      this.source.set(at(row), present ?? dir({ mode: 0o700 }));
      done.state[row] = State.done;
    }
    const isFile = (row: number) => todo[row] === Push.copy || todo[row] === Push.replace || todo[row] === Push.symlink;
    for (const row of this.#shuffled(rows(isFile))) {
      this.#step();
      this.#bringBack(at(row), scratch, row);
      done.state[row] = State.done;
    }
    for (const row of this.#shuffled(rows((row) => todo[row] === Push.chmod && scratch.kind(row) === "file"))) {
      this.#step();
      this.#chmod("source", at(row), scratch.permissions(row));
      done.state[row] = State.done;
    }
    for (const [row, leader] of leaders) {
      this.#step();
      const stands = todo[leader] === Push.nothing || done.state[leader] === State.done;
      const before = this.source.get(at(row));
      if (stands && before?.inode !== undefined && before.inode === this.source.get(at(leader))?.inode) {
        done.state[row] = State.done;
        continue;
      }
      this.#judgeOverwriting(at(row));
      if (stands) this.#link("source", at(leader), at(row));
      else this.#bringBack(at(row), scratch, row);
      done.state[row] = State.done;
    }
    for (const row of rows((row) => done.state[row] === State.done && scratch.kind(row) !== "dir")) {
      const node = this.source.get(at(row));
      const time = ns(node?.time ?? 0);
      const isSame = node?.kind === "file" && node.size === scratch.size[row];
      if (node?.kind === "link" || (isSame && isSameTime(time, scratch.mtime[row] as bigint)))
        done.arrived.set(row, time);
    }
    for (const row of this.#shuffled(rows((row) => isStored(plan, row)))) {
      this.#step();
      done.stored.set(row, earlierVersion(plan, row) ?? this.#store(at(row)));
    }
    for (const row of scratch.length > 0 && this.#isReadable ? plan.remove : []) {
      this.#step();
      this.source.delete(source.path(row));
      done.removed.add(row);
    }
    for (const row of rows((row) => scratch.kind(row) === "dir").reverse()) {
      if (todo[row] !== Push.mkdir && todo[row] !== Push.chmod) continue;
      this.#step();
      if (todo[row] === Push.chmod && there[row] === 0) throw new Error(`source: ${at(row)} is not there`);
      this.#chmod("source", at(row), scratch.permissions(row));
      done.state[row] = State.done;
    }
    return done;
  }

  #bringBack(path: string, scratch: Tree, row: number): void {
    this.#judgeOverwriting(path);
    const node = this.#copied("source", this.scratch.get(path) as Node);
    this.#place("source", path, { ...node, mode: scratch.permissions(row) });
  }

  /** Store the scratch version of a conflict. */
  #store(path: string): string {
    const up = parentOf(path);
    const name = path.slice(up === "" ? 0 : up.length + 1);
    let goal = "";
    for (let number = 1; goal === "" || this.source.has(goal); number++)
      goal = (up === "" ? "" : `${up}/`) + conflictName(name, stamp, number);
    const inside = [...this.scratch].filter(([each]) => isWithin(each, path)).sort(([a], [b]) => (a < b ? -1 : 1));
    for (const [each, node] of inside) {
      if (node.kind === "other") continue;
      const to = goal + each.slice(path.length);
      if (each !== path) this.#step();
      if (node.kind === "dir") this.source.set(to, dir({ mode: node.mode ?? 0o755 }));
      else this.#place("source", to, this.#copied("source", node));
    }
    return goal;
  }

  get #isReadable(): boolean {
    return this.hidden.source.size === 0 && this.hidden.scratch.size === 0;
  }

  #note(plan: PushPlan, done: Pushed): void {
    const base = pushedBase(plan, done);
    if (this.since > 0 && this.past.base && isSameBase(base, this.past.base)) return;
    const isOpen = plan.todo.some((what) => what === Push.left || what === Push.conflict);
    if (this.#isReadable && !isOpen) {
      const found = this.compare({ base, intent: this.past.intent });
      const { kept, blocked, skipped, attributes, ...plan } = tally(found, true);
      const { modes, groupWritable } = this.habits.push;
      const hasOther = modes && hasOtherModes(found, groupWritable);
      const work = attributes + kept.length + blocked.length + skipped.length;
      if (
        !isWork({ ...plan, kept, blocked, skipped, attributes }) &&
        work === 0 &&
        found.orphans.length === 0 &&
        !hasOther
      ) {
        this.#isWhole(baseOf(found, base));
        return;
      }
    }
    this.past = { ...this.past, base };
  }

  #isWhole(base: Base): void {
    this.past = { base };
    this.pushing = undefined; // older than the manifest
    this.since = this.#clock++;
  }

  /** Files and links that the last sync put on scratch. */
  #deletable(): number {
    const tree = this.past.base?.tree;
    let count = 0;
    for (let row = 1; tree && row < tree.length; row++)
      if (tree.kind(row) !== "dir" && !tree.has(row, Flag.orphan)) count++;
    return count;
  }

  // --- sync

  compare(past: Past = this.past): Diff {
    const source = this.tree("source");
    const scratch = this.tree("scratch");
    const { mirror, arrival } = this.habits;
    const rules = { mirror, arrival: arrival ? arrivalRows(source) : undefined, workSinceNs: ns(this.since) };
    const found = diff(source, scratch, past, rules);
    const compared = (row: number) => {
      const path = source.path(row);
      return isAlike(this.source.get(path), this.scratch.get(path)) ? "same" : "other";
    };
    const contents = new Map(found.unsure.map((row) => [row, compared(row)] as const));
    return contents.size === 0 ? found : diff(source, scratch, past, { ...rules, contents });
  }

  /** What `copy` of bring.ts does. */
  sync(steps?: number): { ending: Ending; planned: TransferPlan | undefined } {
    let planned: TransferPlan | undefined;
    const before = new Map([...this.source].map(([path, node]) => [path, { ...node }]));
    if (!this.past.base) this.#takeOlder();
    this.#meet();
    const ending = this.#until(steps, () => {
      if (!this.#isReadable) return "refused";
      const first = this.compare();
      planned = tally(first, true);
      if (planned.blocked.length > 0) return "refused"; // a person has to look
      this.#clock += 10;
      const now = this.#clock;
      const base = mergePast(first, this.past);
      if (isWork(planned) || planned.deleted > 0) {
        const intent = baseOf(first, this.past.base, plannedTimes(first, this.habits.arrival ? ns(now) : undefined));
        if (base !== this.past.base) this.pushing = undefined;
        this.past = { base, intent };
        this.since = 0;
      }
      let after = this.#copyOnce(first, now);
      if (isWork(tally(after))) after = this.#copyOnce(after, now);
      if (isWork(tally(after))) return "refused";
      this.#isWhole(baseOf(after, this.past.base));
      return "whole";
    });
    if (!Bun.deepEquals(before, this.source)) throw new Error("a sync changed the source");
    return { ending, planned };
  }

  /** Where no base tells, files count as ef's that are not younger than the source's, or than the last sync; and all links. */
  #takeOlder(): void {
    for (const [path, { kind, time = 0, version }] of this.scratch) {
      const isOlder = time <= this.since || time <= (this.source.get(path)?.time ?? 0);
      if (version && (kind !== "file" || isOlder)) version.isHome = true;
    }
  }

  #copyOnce(found: Diff, now: number): Diff {
    this.#carry(found, now);
    for (const [path, { kind, mode }] of this.source) {
      const there = this.scratch.get(path);
      if (kind !== "dir" || there?.kind !== "dir" || there.mode === mode) continue;
      this.#step();
      there.mode = mode as number;
    }
    return this.compare();
  }

  #carry({ source, target, todo, clear, remove, leaders, arrival }: Diff, now: number): void {
    const isDone = new Set<number>();
    const rows = (...what: number[]) =>
      Array.from({ length: source.length - 1 }, (_, i) => i + 1).filter((row) => what.includes(todo[row] as number));
    this.#unlinkAll(clear, target);
    for (const row of rows(Do.mkdir)) {
      this.#step();
      const path = source.path(row);
      const present = this.scratch.get(path);
      if (present && present.kind !== "dir") throw new Error(`scratch: ${path} is in the way of a directory`);
      this.scratch.set(path, present ?? dir({ mode: source.permissions(row) }));
    }
    const bring = (row: number) => {
      const path = source.path(row);
      this.#judgeDropping(path);
      this.#place(
        "scratch",
        path,
        this.#copied("scratch", this.source.get(path) as Node, arrival?.[row] ? now : undefined),
      );
    };
    for (const row of this.#shuffled(rows(Do.copy, Do.replace, Do.symlink, Do.chmod))) {
      this.#step();
      if (todo[row] === Do.chmod) this.#chmod("scratch", source.path(row), source.permissions(row));
      else bring(row);
      isDone.add(row);
    }
    for (const [row, leader] of leaders) {
      this.#step();
      if (todo[leader] !== Do.nothing && !isDone.has(leader)) {
        bring(row);
        continue;
      }
      const [one, other] = [this.scratch.get(source.path(row)), this.scratch.get(source.path(leader))];
      if (one?.inode !== undefined && one.inode === other?.inode) continue;
      this.#judgeDropping(source.path(row));
      this.#link("scratch", source.path(leader), source.path(row));
    }
    this.#unlinkAll(remove, target);
  }

  #unlinkAll(rows: readonly number[], target: Tree): void {
    const paths = rows.map((row) => target.path(row));
    const isDir = (path: string) => this.scratch.get(path)?.kind === "dir";
    for (const path of paths.filter((each) => !isDir(each))) {
      this.#step();
      this.#judgeDropping(path);
      this.scratch.delete(path);
    }
    for (const path of paths.filter(isDir)) {
      this.#step();
      const isFull = [...this.scratch.keys()].some((other) => parentOf(other) === path);
      if (!isFull) this.scratch.delete(path);
    }
  }

  // --- judges

  /** The source's file is replaced by scratch's: only where that was written over it. */
  #judgeOverwriting(path: string): void {
    const [old, young] = [this.source.get(path), this.scratch.get(path)];
    if (!old || isAlike(old, young) || this.habits.push.onConflict === "scratch") return;
    if (!isOver(young?.version, old.version)) throw new Error(`lost at the source: ${path} is written over`);
  }

  /** Scratch's file is replaced or removed: only where it is or was at the source. */
  #judgeDropping(path: string): void {
    const old = this.scratch.get(path);
    if (!old?.version || old.version.isHome) return;
    if (this.isAtHome(path, old)) return;
    throw new Error(`lost on scratch: ${path} is written over or removed`);
  }

  /** What `--delete` removes: what ef had put on scratch, in a directory that was not purged, and is as it was at the source. */
  #judgeDeletions({ source, remove }: PushPlan): void {
    const { base } = this.past;
    const isKept = (path: string) => {
      const row = base?.tree.find(path);
      return row !== undefined && base?.tree.kind(row) !== "dir" && base?.scratch[row] !== unknownTime;
    };
    for (const row of remove) {
      const path = source.path(row);
      const was = base?.tree.find(path);
      const wrong = (why: string) => new Error(`deleted at the source: ${path}, ${why}`);
      if (!this.habits.push.delete) throw wrong("and nobody asked for it");
      if (this.scratch.has(path)) throw wrong("which scratch has");
      if (!base || was === undefined || !isKept(path)) throw wrong("which was not on scratch");
      const { kind, time = 0, text, size } = this.source.get(path) as Node;
      const isSame =
        kind === base.tree.kind(was) &&
        (kind === "link"
          ? text === base.tree.links.get(was)
          : size === base.tree.size[was] && ns(time) === base.tree.mtime[was]);
      if (!isSame) throw wrong("which changed since");
      const up = parentOf(path);
      const stay = [...this.scratch.keys()].some((other) => parentOf(other) === up && isKept(other));
      if (!stay || (up !== "" && this.scratch.get(up)?.kind !== "dir")) throw wrong("whose directory was purged");
    }
  }
}

function nothingDone({ scratch }: PushPlan): Pushed {
  const state = new Uint8Array(scratch.length);
  return { state, failures: [], arrived: new Map(), stored: new Map(), removed: new Set() };
}

export const isWork = (plan: TransferPlan): boolean =>
  plan.files > 0 || plan.newInodes > 0 || plan.links > 0 || plan.symlinks > 0;
