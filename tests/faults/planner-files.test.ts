/**
 * Pushes and syncs of the library between real directories that are any two trees over any third: the same as in
 * planner.test.ts, judged by the bytes that are there before and after.
 *
 * `npm test` tries a few, `npm run test:faults` thousands; `EF_FAULT_SEED=N` the same again.
 */
import { setDefaultTimeout, test } from "bun:test";
import { linkSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { checkConfig } from "../../lib/config/store.ts";
import { push } from "../../lib/push.ts";
import { sync } from "../../lib/sync.ts";
import { Home } from "../helpers.ts";
import { differences, type Look, lookAt, type Seen, setTime } from "../trees.ts";
import { type Cell, drawn, type Given, given } from "./random-worlds.ts";
import { isLong, seed } from "./seed.ts";

setDefaultTimeout(3_600_000);

const runs = isLong ? 3000 : 40;

/** Make a directory what was drawn; what it has already, and still has, is not touched. */
function make(root: string, tree: Map<string, Cell>, before: Map<string, Cell> = new Map()): void {
  for (const path of [...before.keys()].reverse())
    if (before.get(path) !== tree.get(path)) rmSync(join(root, path), { recursive: true, force: true });
  const inodes = new Map<string, string>();
  for (const [path, cell] of tree) {
    const at = join(root, path);
    const { kind, size, time, whole, mode, inode } = cell;
    const isThere = before.get(path) === cell && !above(path).some((dir) => before.get(dir) !== tree.get(dir));
    const leader = kind === "file" && inode !== undefined ? inodes.get(inode) : undefined;
    if (!isThere && kind === "dir") mkdirSync(at);
    else if (!isThere && leader) linkSync(leader, at);
    else if (!isThere && kind === "file") writeFileSync(at, `${time % 3}`.repeat(size + 1), { mode });
    else if (!isThere) symlinkSync(`${size}`, at);
    if (!isThere && kind === "file")
      setTime(at, BigInt(1_600_000_000 + 10 * time) * 1_000_000_000n + (whole ? 0n : 250_000_000n));
    if (kind === "file" && inode !== undefined) inodes.set(inode, leader ?? at);
  }
}

const above = (path: string): string[] =>
  path
    .split("/")
    .slice(0, -1)
    .map((_, i, parts) => parts.slice(0, i + 1).join("/"));

const isContent = ({ kind }: Seen) => kind === "file" || kind === "link";
const isAlike = (a: Seen | undefined, b: Seen | undefined) =>
  a?.kind === b?.kind && a?.hash === b?.hash && a?.text === b?.text;

/** Is it there under its name, or under that of a conflict? */
const isIn = ({ seen }: Look, path: string, one: Seen) =>
  [...seen].some(([at, other]) => at.replace(/\.ef-conflict-[^/]*/g, "") === path && isAlike(one, other));

class Pair implements Disposable {
  readonly at = new Home();
  readonly source = join(this.at.home, "hf");
  readonly scratch = this.at.cache("HF_HOME");
  readonly wrongs: string[] = [];
  readonly #config;

  constructor(readonly habits: Given["habits"]) {
    mkdirSync(this.source);
    const vars = { HF_HOME: { source: this.source, enabled: true } };
    const ef = {
      vars: { HF_HOME: { mirror: habits.mirror } },
      transfer: { times: habits.arrival ? "arrival" : "source" },
    };
    this.#config = checkConfig(
      { version: 1, scratch_base: this.at.scratch, skip_if_fresh_seconds: 0, vars, ef },
      "test",
    );
  }

  async sync(): Promise<{ isIdle: boolean; isDone: boolean }> {
    const before = lookAt(this.source);
    const [step] = (await sync(this.#config, { env: this.at.env, workers: 2 })).steps;
    this.#mustBe("a sync changed the source", before, lookAt(this.source));
    const plan = step?.plan;
    const work = plan && plan.files + plan.links + plan.symlinks + plan.newInodes;
    return { isIdle: work === 0, isDone: step?.status === "synced" };
  }

  async push(): Promise<{ isIdle: boolean; isDone: boolean }> {
    const { onConflict, delete: deletes } = this.habits.push;
    const before = { source: lookAt(this.source), scratch: lookAt(this.scratch) };
    const options = { env: this.at.env, workers: 2, onConflict, delete: deletes, confirm: async () => true };
    const [pushed] = (await push(this.#config, options)).vars;
    this.#mustBe("a push changed scratch", before.scratch, lookAt(this.scratch));
    const isDone = pushed?.status === "pushed";
    if (!isDone) this.#mustBe("a push that was refused changed the source", before.source, lookAt(this.source));
    return { isIdle: pushed?.plan?.names.length === 0 && pushed.plan.conflicts.length === 0, isDone };
  }

  #mustBe(what: string, before: Look, after: Look): void {
    this.wrongs.push(...differences(before, after).map((line) => `${what}: ${line}`));
  }

  [Symbol.dispose](): void {
    this.at[Symbol.dispose]();
  }
}

/** Neither side's work is lost by a push. */
function lost(
  noted: Look,
  before: { source: Look; scratch: Look },
  after: Look,
  { push: how }: Given["habits"],
): string[] {
  const lines: string[] = [];
  let deleted = 0;
  for (const [path, one] of before.source.seen) {
    if (!isContent(one) || isAlike(one, after.seen.get(path)) || how.onConflict === "scratch") continue;
    const was = noted.seen.get(path);
    const isAsNoted = isAlike(one, was) && (one.kind === "link" || one.mtimeNs === was?.mtimeNs);
    const young = before.scratch.seen.get(path);
    if (!young && how.delete && isAsNoted) deleted++;
    else if (!young || !isAsNoted) lines.push(`${path}: lost at the source`);
  }
  const cap = [...noted.seen.values()].filter(isContent).length / 2;
  if (deleted > cap) lines.push(`${deleted} deleted, more than ${cap}`);
  for (const [path, one] of before.scratch.seen)
    if (isContent(one) && !isAlike(one, noted.seen.get(path)) && how.onConflict !== "source" && !isIn(after, path, one))
      lines.push(`${path}: not brought home`);
  return lines;
}

const mostRounds = 2;

/** @returns everything that is wrong */
async function live(drawing: Given, first: "push" | "sync"): Promise<string[]> {
  using pair = new Pair(drawing.habits);
  const { source, scratch, wrongs } = pair;
  const base = drawn(drawing, "base");
  make(source, base);
  if (!(await pair.sync()).isDone) return [...wrongs, "the first sync"];
  const noted = lookAt(source);
  make(source, drawn(drawing, "source"), base);
  make(scratch, drawn(drawing, "scratch"), base);
  const before = { source: lookAt(source), scratch: lookAt(scratch) };
  if (first === "sync") await pair.sync();
  for (const [path, one] of before.scratch.seen)
    if (first === "sync" && isContent(one) && !isAlike(one, noted.seen.get(path)))
      if (!isAlike(one, lookAt(scratch).seen.get(path)) && !isIn(before.source, path, one))
        wrongs.push(`${path}: lost on scratch`);
  const pushed = await pair.push();
  if (!pushed.isDone) return wrongs; // refused: too many deletions, an empty side, a conflict that nobody has decided
  wrongs.push(...lost(noted, before, lookAt(source), drawing.habits));
  const after = lookAt(source);
  const again = await pair.push();
  wrongs.push(...differences(after, lookAt(source)).map((line) => `a second push: ${line}`));
  const { onConflict } = drawing.habits.push;
  if (!again.isDone || onConflict === "source" || onConflict === "fail") return wrongs;
  if (!again.isIdle) wrongs.push("a second push has something to do");
  for (let round = 0; ; round++) {
    const [one, two] = [await pair.sync(), await pair.push()];
    if (one.isIdle && two.isIdle) break;
    if (round === mostRounds) return [...wrongs, "no rest"];
  }
  const [there, here] = [lookAt(source), lookAt(scratch)];
  for (const [path, one] of there.seen)
    if (!isAlike(one, here.seen.get(path))) wrongs.push(`${path}: not the same at rest`);
  return wrongs;
}

test("three random trees as files: nothing is lost, a second push has nothing to do, both sides come to rest", async () => {
  const stories = fc.record({ drawing: given(false), first: fc.constantFrom("push" as const, "sync" as const) });
  const plain = (cell: Cell): Cell => (cell.kind === "other" ? { ...cell, kind: "link" } : cell);
  const property = fc.asyncProperty(stories, async ({ drawing, first }) => {
    const places = drawing.places.map((place) => ({
      ...place,
      base: place.base && { ...place.base, ...plain(place.base) },
      source: typeof place.source === "string" ? place.source : plain(place.source),
      scratch: typeof place.scratch === "string" ? place.scratch : plain(place.scratch),
    }));
    const wrongs = await live({ ...drawing, places }, first);
    if (wrongs.length > 0) throw new Error(wrongs.join("\n"));
  });
  const { failed, counterexample, errorInstance, numRuns } = await fc.check(property, { seed, numRuns: runs });
  if (!failed) return;
  const drawing = counterexample?.[0].drawing as Given;
  const trees = (["base", "source", "scratch"] as const).map(
    (side) => `${side}: ${JSON.stringify([...drawn(drawing, side)])}`,
  );
  const how = JSON.stringify([counterexample?.[0].first, drawing.habits]);
  throw new Error(`EF_FAULT_SEED=${seed}, after ${numRuns} worlds: ${errorInstance}\n${trees.join("\n")}\n${how}`);
});
