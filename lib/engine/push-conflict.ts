/** Conflicts of a push: the scratch version is stored beside the source's, and nothing is written over. */
import { hostname } from "node:os";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Steps } from "../base/steps.ts";
import { assertBelow, lookBelow } from "./below.ts";
import { each, type Failure } from "./carrying.ts";
import { beside, copySmall, type Item, type Outcome, oneGo } from "./copy-file.ts";
import { copyLarge } from "./copy-large.ts";
import { isSameTime } from "./push-decide.ts";
import type { Moving } from "./push-look.ts";
import { isStored, type PushPlan } from "./push-plan.ts";
import { Flag } from "./tree.ts";

/** Bytes of a name (limits.h, NAME_MAX). */
const nameMax = 255;
const mark = ".ef-conflict-";
/** Other names are tried so often where one is taken, and files that change under our hands are read so often. */
const mostNames = 1000;
const mostLooks = 3;

/** How the scratch versions of one push are called. */
export interface Stamp {
  host: ByteString;
  /** `20261121T161000Z` */
  time: string;
}

export function stampOf(at: Date, host = hostname()): Stamp {
  const time = `${at.toISOString().replace(/[-:]/g, "").slice(0, 15)}Z`;
  return { host: host.replace(/[^0-9A-Za-z._-]/g, "_").slice(0, 64), time };
}

/**
 * The name of a scratch version, cut where it would be longer than a name can be.
 *
 * @param number 1 for the first that is tried
 */
export function conflictName(name: ByteString, { host, time }: Stamp, number = 1): ByteString {
  const suffix = `${mark}${host}-${time}${number > 1 ? `-${number}` : ""}`;
  return cut(name, nameMax - suffix.length) + suffix;
}

/** At most so many bytes, and no part of a character of UTF-8 at the end. */
function cut(name: ByteString, bytes: number): ByteString {
  if (name.length <= bytes) return name;
  let end = bytes;
  while (end > bytes - 3 && (name.charCodeAt(end) & 0xc0) === 0x80) end--;
  return name.slice(0, end);
}

/**
 * Store the scratch version of each conflict that is to be stored.
 *
 * @returns by row of scratch: where, relative to the source's root
 */
export async function storeConflicts(
  plan: PushPlan,
  stamp: Stamp,
  moving: Moving,
  failures: Failure[],
): Promise<Map<number, ByteString>> {
  const { scratch } = plan;
  const stored = new Map<number, ByteString>();
  const rows: number[] = [];
  for (let row = 1; row < scratch.length; row++) if (isStored(plan, row)) rows.push(row);
  function* store(row: number): Steps<void> {
    const path = earlierVersion(plan, row) ?? (yield* storeOne(plan, row, stamp, moving));
    if (path !== undefined) stored.set(row, path);
  }
  await each(rows, store, (row) => scratch.path(row), moving, failures);
  return stored;
}

/** Where an earlier push has stored this very version. */
export function earlierVersion(plan: PushPlan, row: number): ByteString | undefined {
  const { scratch, source, there } = plan;
  const dir = (there[scratch.parent[row] as number] as number) - 1;
  if (dir < 0) return undefined;
  const start = cut(scratch.name(row), nameMax - conflictName("", stampOf(new Date())).length) + mark;
  const [from, to] = source.children(dir);
  for (let at = from; at < to; at++)
    if (source.name(at).startsWith(start) && isCopy(plan, row, at)) return source.path(at);
  return undefined;
}

/** Is what the source has there a copy of what scratch has, by types, sizes and times? */
function isCopy(plan: PushPlan, row: number, at: number): boolean {
  const { scratch, source } = plan;
  const kind = scratch.kind(row);
  if (kind !== source.kind(at)) return false;
  if (kind === "link") return scratch.links.get(row) === source.links.get(at);
  if (kind !== "dir") {
    const isSize = scratch.size[row] === source.size[at];
    return isSize && isSameTime(scratch.mtime[row] as bigint, source.mtime[at] as bigint);
  }
  const [from, to] = scratch.children(row);
  for (let child = from; child < to; child++) {
    if (scratch.kind(child) === "gone" || scratch.kind(child) === "other") continue;
    const there = source.child(at, scratch.name(child));
    if (there === undefined || !isCopy(plan, child, there)) return false;
  }
  return true;
}

function* storeOne(plan: PushPlan, row: number, stamp: Stamp, moving: Moving): Steps<ByteString | undefined> {
  const path = plan.scratch.path(row);
  const name = plan.scratch.name(row);
  for (let number = 1; number <= mostNames; number++) {
    const goal = beside(path, conflictName(name, stamp, number));
    const outcome = yield* storeAt(plan, row, goal, moving);
    if (outcome === "copied") return goal;
    if (outcome === "vanished") return undefined;
  }
  throw new Error("all names for its scratch version are taken");
}

/** @returns "taken" if something has that name */
function* storeAt(plan: PushPlan, row: number, goal: ByteString, moving: Moving): Steps<Outcome> {
  const { scratch } = plan;
  const { cx } = moving;
  const kind = scratch.kind(row);
  if (kind === "file") return yield* storeFile(plan, row, goal, moving);
  if (kind !== "dir" && kind !== "link") return "vanished";
  try {
    const at = `${cx.to}/${goal}`;
    yield* get(kind === "link" ? cx.target.symlink(scratch.links.get(row) ?? "", at) : cx.target.mkdir(at, 0o700));
    yield* assertBelow(cx, undefined, goal);
  } catch (error) {
    if (errnoOf(error) !== "EEXIST") throw error;
    return "taken";
  }
  if (kind === "dir") yield* fillDirectory(plan, row, goal, moving);
  return "copied";
}

function* storeFile(plan: PushPlan, row: number, goal: ByteString, { cx, signal }: Moving): Steps<Outcome> {
  const { scratch } = plan;
  const path = scratch.path(row);
  for (let looks = 0; looks < mostLooks; looks++) {
    const item: Item = {
      path: goal,
      from: path,
      mode: scratch.mode[row] as number,
      size: scratch.size[row] as number,
      mtimeNs: scratch.mtime[row] as bigint,
      hasHoles: scratch.has(row, Flag.sparse),
      replaces: undefined,
    };
    const outcome = yield* item.size <= oneGo && !item.hasHoles ? copySmall(cx, item) : copyLarge(cx, item, signal);
    if (outcome === "copied") cx.moved(0, 1);
    if (outcome !== "changed") return outcome;
    const stat = yield* lookBelow(cx.source, cx.from, `${cx.from}/${path}`);
    if (!stat?.isFile()) return "vanished";
    scratch.set(row, { mode: Number(stat.mode) & ~0o6000, size: Number(stat.size), mtimeNs: stat.mtimeNs });
    if (Number(stat.blocks) * 512 < Number(stat.size)) scratch.flag(row, Flag.sparse);
  }
  throw new Error("it keeps changing while it is pushed");
}

function* fillDirectory(plan: PushPlan, dir: number, goal: ByteString, moving: Moving): Steps<void> {
  const { scratch } = plan;
  const { cx } = moving;
  if (scratch.has(dir, Flag.unreadable))
    throw Object.assign(new Error("it cannot be read"), { code: "EACCES", path: scratch.path(dir) });
  const [from, to] = scratch.children(dir);
  for (let row = from; row < to; row++) {
    const outcome = yield* storeAt(plan, row, `${goal}/${scratch.name(row)}`, moving);
    if (outcome === "taken") throw new Error(`somebody else writes to its copy ${scratch.name(row)}`);
  }
  yield* get(cx.target.setTimes(`${cx.to}/${goal}`, scratch.mtime[dir] as bigint));
  yield* get(cx.target.chmod(`${cx.to}/${goal}`, scratch.permissions(dir) & 0o777));
}
