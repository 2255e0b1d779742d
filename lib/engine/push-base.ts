/**
 * The base of the next three-way decision after a push: what is now known to be the same on both sides, and of the rest what
 * was known before.
 *
 * A conflict whose scratch version is stored at the source is settled: scratch's file counts as one that ef put there, so
 * that the next sync replaces it by the source's, and the next push does not find it again.
 */
import type { ByteString } from "../base/bytes.ts";
import { State } from "./carrying.ts";
import { type Base, unknownTime } from "./manifest.ts";
import { isGone, type PathRows, Push } from "./push-decide.ts";
import { isWhole, missingFrom, type PushPlan, rowsOf } from "./push-plan.ts";
import type { Pushed } from "./push-run.ts";
import { Flag, Tree } from "./tree.ts";

/** Where a row of the new base comes from. */
type From = "source" | "arrived" | "settled" | "base";

interface Entry extends PathRows {
  from: From;
  /** Nothing was found out about what is below: it stays as it was. */
  keepsAll: boolean;
}

export function pushedBase(plan: PushPlan, pushed: Pushed): Base {
  return new Builder(plan, pushed).build();
}

/** The base that there will be if all goes well: an interrupted push is known by it. */
export function plannedBase(plan: PushPlan): Base {
  const { scratch, todo } = plan;
  const arrived = new Map<number, bigint>();
  const comes: number[] = [Push.copy, Push.replace, Push.symlink, Push.link];
  for (let row = 1; row < scratch.length; row++)
    if (comes.includes(todo[row] as number)) arrived.set(row, scratch.mtime[row] as bigint);
  const state = new Uint8Array(scratch.length).fill(State.done);
  return pushedBase(plan, { state, failures: [], arrived, stored: new Map(), removed: new Set() });
}

class Builder {
  readonly #tree = new Tree();
  readonly #times: bigint[] = [];
  /** Rows of the old base that a purge took: what is pushed into their directory later does not tell that they were deleted. */
  readonly #purged = new Set<number>();

  constructor(
    readonly plan: PushPlan,
    readonly pushed: Pushed,
  ) {}

  build(): Base {
    const { scratch, source } = this.plan;
    const root = source.length > 0 ? source : scratch;
    this.#tree.addRoot({ mode: root.mode[0] as number, size: 0, mtimeNs: root.mtime[0] as bigint });
    this.#times.push(scratch.mtime[0] as bigint);
    const top: Entry = { ...rowsOf(this.plan, 0), from: "source", keepsAll: this.plan.todo[0] === Push.unknown };
    const dirs = [{ row: 0, entry: top }];
    for (let next = dirs.pop(); next; next = dirs.pop()) {
      const children = [...this.#childrenOf(next.entry)].sort(([a], [b]) => (a < b ? -1 : 1));
      const first = this.#tree.addChildren(
        next.row,
        children.map(([name]) => name),
      );
      children.forEach(([, entry], i) => {
        this.#put(first + i, entry);
        if (this.#tree.kind(first + i) === "dir") dirs.push({ row: first + i, entry });
      });
    }
    return { tree: this.#tree, scratch: BigInt64Array.from(this.#times) };
  }

  #put(row: number, { from, scratch: at, source: here, base: was }: Entry): void {
    const { scratch, source, past } = this.plan;
    const tree = this.#tree;
    if (from === "base" && past.base) {
      past.base.tree.copyRow(was, tree, row, "b");
      this.#times[row] = this.#purged.has(was) ? unknownTime : (past.base.scratch[was] as bigint);
      // One stays one when the source has the path again: whoever made that did not know what scratch has.
      if (at >= 0 && !isGone(scratch, at) && (here < 0 || isGone(source, here))) tree.flag(row, Flag.orphan);
      return;
    }
    this.#times[row] = scratch.mtime[at] as bigint;
    if (from === "source") source.copyRow(here, tree, row, "h");
    else scratch.copyRow(at, tree, row, "s");
    // Those of scratch, where the source has others: else the next push would take them for changed on scratch.
    const permissions = this.plan.ownModes.get(at) ?? scratch.permissions(at);
    tree.mode[row] = ((tree.mode[row] as number) & ~0o7777) | permissions;
    if (from === "source") return;
    if (from === "arrived") tree.mtime[row] = this.pushed.arrived.get(at) ?? (scratch.mtime[at] as bigint);
    // Where the source's has the same size and time, it is another file all the same.
    else tree.flag(row, here < 0 || isGone(source, here) ? Flag.orphan : Flag.racy);
  }

  #childrenOf(dir: Entry): Map<ByteString, Entry> {
    const { scratch, source, past } = this.plan;
    const children = new Map<ByteString, Entry>();
    if (dir.from === "settled") {
      for (const row of rows(scratch, dir.scratch))
        if (!isGone(scratch, row) && scratch.kind(row) !== "other")
          children.set(scratch.name(row), {
            scratch: row,
            source: -1,
            base: -1,
            intent: -1,
            from: "settled",
            keepsAll: false,
          });
      return children;
    }
    const seen = new Set<ByteString>();
    for (const row of dir.keepsAll ? [] : rows(scratch, dir.scratch)) {
      const entry = this.#entry(row);
      if (entry) children.set(scratch.name(row), entry);
      seen.add(scratch.name(row));
    }
    if (!past.base || dir.base < 0) return children;
    if (!dir.keepsAll)
      for (const was of missingFrom(scratch, dir.scratch, past.base, dir.base).purged) this.#purged.add(was);
    for (const was of rows(past.base.tree, dir.base)) {
      const name = past.base.tree.name(was);
      if (seen.has(name)) continue;
      const here = dir.source < 0 || source.length === 0 ? -1 : (source.child(dir.source, name) ?? -1);
      const isThere = here >= 0 && !isGone(source, here) && !this.pushed.removed.has(here);
      const entry: Entry = { scratch: -1, source: here, base: was, intent: -1, from: "base", keepsAll: dir.keepsAll };
      // What neither side has any more is forgotten.
      if (isThere || dir.keepsAll) children.set(name, entry);
    }
    return children;
  }

  /** Of a row of scratch; undefined where nothing is known of it. */
  #entry(row: number): Entry | undefined {
    const { plan, pushed } = this;
    const { scratch, source, todo } = plan;
    const at = rowsOf(plan, row);
    const isDir = scratch.kind(row) === "dir";
    const as = (from: From, keepsAll = false): Entry => ({ ...at, from, keepsAll });
    const isBoth = at.source >= 0 && source.kind(at.source) === scratch.kind(row);
    if (todo[row] === Push.nothing && isBoth) return as("source");
    if (todo[row] === Push.chmod && isBoth) return pushed.state[row] ? as("source") : this.#before(at);
    if (todo[row] === Push.mkdir && pushed.state[row]) return as("arrived");
    if (pushed.arrived.has(row)) return as("arrived");
    if (pushed.stored.has(row)) return as("settled");
    return this.#before(at, isDir && (isWhole(plan, row) || todo[row] === Push.conflict));
  }

  #before(at: PathRows, keepsAll = false): Entry | undefined {
    return at.base < 0 ? undefined : { ...at, from: "base", keepsAll };
  }
}

function* rows(tree: Tree, dir: number): Generator<number, void> {
  const [from, to] = dir < 0 ? [0, 0] : tree.children(dir);
  for (let row = from; row < to; row++) yield row;
}

/** Do two bases say the same of files and links? */
export function isSameBase(a: Base, b: Base): boolean {
  const [one, two] = [a.tree, b.tree];
  if (one.length !== two.length || one.nameEnd[one.length - 1] !== two.nameEnd[two.length - 1]) return false;
  for (let row = 1; row < one.length; row++) {
    if (one.parent[row] !== two.parent[row] || one.mode[row] !== two.mode[row]) return false;
    if (one.size[row] !== two.size[row] || one.compareNames(row, two, row) !== 0) return false;
    if (one.links.get(row) !== two.links.get(row)) return false;
    const isDir = one.kind(row) === "dir";
    if (!isDir && (one.mtime[row] !== two.mtime[row] || a.scratch[row] !== b.scratch[row])) return false;
  }
  return true;
}
