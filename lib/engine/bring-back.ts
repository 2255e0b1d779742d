/**
 * Push one variable's scratch copy back to its source: lock, look at both, decide, ask, check the room, copy, and note what
 * is the same now.
 */
import { existsSync, statSync } from "node:fs";
import { bytesOf } from "../base/bytes.ts";
import { type EfError, reasonOf } from "../base/errors.ts";
import { removeIfThere } from "../base/files.ts";
import { realPath } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { thisHost } from "../drivers/host.ts";
import type { QuotaLeft } from "../drivers/quota.ts";
import { baseOf, timesOf } from "./base.ts";
import { type BringEvent, sourceIsThere } from "./bring.ts";
import { type BuiltinOptions, copyingBetween, sidesOf } from "./builtin.ts";
import type { Failure } from "./carrying.ts";
import { both, compareTrees, settled, summing } from "./comparing.ts";
import type { Copying } from "./copy-file.ts";
import { hasOtherModes, rulesOf } from "./directories.ts";
import type { TransferProgress } from "./engine.ts";
import { excluder } from "./exclude.ts";
import { Gauge } from "./gauge.ts";
import { describeHolder, type Held, lock } from "./lock.ts";
import {
  endPushing,
  interruptedPush,
  type Known,
  keepBase,
  knownOf,
  newestMtime,
  notePushing,
  notesOf,
  readMarker,
  writeMarker,
} from "./marker.ts";
import type { Step } from "./plan.ts";
import { isSameBase, plannedBase, pushedBase } from "./push-base.ts";
import { stampOf } from "./push-conflict.ts";
import { type OnConflict, Push, type PushRules } from "./push-decide.ts";
import { leaveConflicts, leaveUnsettled } from "./push-later.ts";
import { compareContents } from "./push-look.ts";
import { finish, type PushPlan, planPush } from "./push-plan.ts";
import { makeSource, scratchIsThere } from "./push-roots.ts";
import { type Pushed, pushNothing, runPush } from "./push-run.ts";
import { isPushWork, type PushSummary, summaryOf } from "./push-summary.ts";
import * as words from "./push-words.ts";
import type { Scan } from "./scan.ts";
import type { Reservation, Space } from "./space.ts";
import { refuseStrangers } from "./strangers.ts";
import { removeParts } from "./temp.ts";
import { excludesOf } from "./transfer.ts";
import { Flag, Tree } from "./tree.ts";

/** What happens while a variable is pushed. */
export type PushStepEvent =
  | Extract<BringEvent, { type: "warning" | "waiting" | "comparing" }>
  | { type: "copying"; name: string; plan: PushSummary }
  | { type: "progress"; name: string; plan: PushSummary; bytes: number; files: number };

/** Deletions at the source that somebody has to agree to. */
export interface Deletions {
  name: string;
  source: string;
  count: number;
  /** What the last sync put on scratch: files and links. */
  of: number;
  /** The first few names. */
  names: string[];
}

export interface PushContext {
  options: BuiltinOptions;
  space: Space;
  /** What quotas leave at a path. */
  quotas: (path: string) => Promise<readonly QuotaLeft[]>;
  lockTimeoutS: number;
  onConflict: OnConflict;
  delete: boolean;
  /** Delete without a question, and more than half of a tree. */
  yes: boolean;
  confirm: ((deletions: Deletions) => Promise<boolean>) | undefined;
  /** Does a sync give the permissions of the source? */
  modes: boolean;
  /** Does a sync give the time of arrival? */
  arrival: boolean;
  dryRun: boolean;
  preflight: boolean;
  allNames: boolean;
  /** What changed within so many seconds is left to a later push, and conflicts too; undefined: nothing is. */
  settledS: number | undefined;
  /** Others push their own copies to the same source. */
  isShared?: boolean;
  signal: AbortSignal | undefined;
  tell: (event: PushStepEvent) => void;
}

export interface PushedStep {
  status: "pushed" | "scratch-missing" | "dry-run";
  /** What was pushed, or would be. */
  plan?: PushSummary;
  /** What was left to a later push. */
  later?: number;
  /** Why that is no success: conflicts that nobody decided, files that could not be pushed. */
  error?: EfError;
}

/** Both trees, and what is known of earlier syncs. */
interface Looked {
  scratch: Scan;
  source: Scan;
  known: Known;
  /** Real paths. */
  from: string;
  to: string;
  cx: Copying;
  /** Is the source's directory to be made? */
  isNew: boolean;
  warnings: string[];
  /** Gets the progress when there is some. */
  onProgress: { tell?: (progress: TransferProgress) => void };
}

interface Planned {
  plan: PushPlan;
  failures: Failure[];
  later: number;
}

export async function pushStep(step: Step, context: PushContext): Promise<PushedStep> {
  refuseStrangers(step);
  if (!scratchIsThere(step)) return { status: "scratch-missing" };
  const wasThere = existsSync(step.source);
  await using held = context.dryRun ? undefined : await lockStep(step, context);
  if (held) removeParts(notesOf(step));
  if (wasThere && !existsSync(step.source)) throw words.movedAway(step); // else it would be made again
  const looked = await look(step, context);
  if (isEmpty(looked.scratch.tree)) return { status: "scratch-missing" };
  const planned = await planOf(step, looked, context);
  const { plan } = planned;
  if (!held) return wouldPush(step, looked, planned, context);
  if (!(await mayDelete(step, plan, context))) plan.remove = [];
  const summary = summaryOf(plan, context.allNames);
  if (context.onConflict === "fail" && summary.conflicts.length > 0)
    throw words.conflictError(summary.conflicts, "nothing was pushed");
  tellPlan(step, summary, context);
  const pushed = isPushWork(summary)
    ? await carry(step, looked, plan, summary, context)
    : await pushNothing(plan, looked.cx, looked.source.temps);
  held.assertHeld();
  await quietly(step, context, async () => {
    await note(step, looked, planned, pushed, context);
    endPushing(step);
  });
  for (const message of looked.warnings) warn(step, context, message);
  const done = summaryOf(plan, context.allNames, pushed);
  const error = errorOf(step, looked, [...planned.failures, ...pushed.failures], done, context);
  return { status: "pushed", plan: done, later: planned.later, ...(error ? { error } : {}) };
}

async function wouldPush(step: Step, looked: Looked, planned: Planned, context: PushContext): Promise<PushedStep> {
  const { plan, failures } = planned;
  const summary = summaryOf(plan, context.allNames);
  (await room(step, looked, summary, context))?.[Symbol.dispose]();
  const { count, of } = deletionsOf(step, plan);
  if (isMost(count, of) && !context.yes) warn(step, context, words.tooManyDeletions(step, count, of).message);
  tellPlan(step, summary, context);
  const error = errorOf(step, looked, failures, summary, context);
  return { status: "dry-run", plan: summary, ...(error ? { error } : {}) };
}

const warn = (step: Step, { tell }: PushContext, message: string) =>
  tell({ type: "warning", name: step.name, message });

/** Notes are ef's own, on a scratch that a job may just have filled: without them the next push has to read more. */
async function quietly(step: Step, context: PushContext, work: () => void | Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    context.signal?.throwIfAborted();
    warn(step, context, `cannot note on scratch what was pushed: ${reasonOf(error)}`);
  }
}

function tellPlan(step: Step, summary: PushSummary, context: PushContext): void {
  if (summary.skipped.length > 0)
    warn(step, context, `not a file, directory or link, left out: ${words.firstOf(summary.skipped)}`);
  if (context.onConflict === "source" && summary.conflicts.length > 0) {
    const paths = summary.conflicts.map(({ path }) => path);
    warn(step, context, `changed on both sides, and kept as it is at the source: ${words.firstOf(paths)}`);
  }
  context.tell({ type: "copying", name: step.name, plan: summary });
}

async function look(step: Step, { options, signal, tell }: PushContext): Promise<Looked> {
  const sides = await sidesOf(options.workers);
  const exclude = excluder(excludesOf(step));
  const [from, to] = [realPath(step.target), realPath(step.source)];
  const onLook = summing((looked) => tell({ type: "comparing", name: step.name, ...looked }));
  const scanned = (root: string, storage: typeof sides.source): Promise<Scan> =>
    span(`scan ${root}`, () => {
      const look = { storage, gauge: new Gauge(options.workers), signal, exclude, onLook };
      return settled(bytesOf(root), look);
    });
  const isNew = !sourceIsThere(step);
  const none: Scan = { tree: new Tree(), problems: [], temps: [] };
  const [scratch, source] = await both(
    scanned(from, sides.target),
    isNew ? Promise.resolve(none) : scanned(to, sides.source),
  );
  const warnings: string[] = [];
  const onProgress: Looked["onProgress"] = {};
  const cx = await copyingBetween(
    { source: from, target: isNew ? from : to, arrivalNs: undefined },
    { ...options, durable: true },
    { signal, warnings, progress: { bytes: 0, files: 0 }, onProgress: (progress) => onProgress.tell?.(progress) },
  );
  const known = knownOf(step);
  return { scratch, source, known, from, to, cx: { ...cx, to: bytesOf(to), exact: true }, isNew, warnings, onProgress };
}

/** Has it nothing but what is left out? */
function isEmpty(tree: Tree): boolean {
  const [from, to] = tree.children(0);
  for (let row = from; row < to; row++) if (tree.kind(row) !== "gone" || tree.has(row, Flag.unreadable)) return false;
  return true;
}

async function planOf(step: Step, looked: Looked, context: PushContext): Promise<Planned> {
  const { scratch, source, known, cx } = looked;
  const wasFull = known.base !== undefined && !isEmpty(known.base.tree);
  // A source that was full and is empty, or gone, is most often not mounted.
  if (wasFull && isEmpty(source.tree)) throw words.sourceGone(step, looked.isNew ? "does not exist" : "is empty");
  const past = { base: known.base, intent: known.intent };
  const plan = planPush(
    { scratch: scratch.tree, source: source.tree, past, pushing: interruptedPush(step) },
    {
      onConflict: context.onConflict,
      delete: context.delete,
      modes: context.modes && keepsModes(step),
      groupWritable: (scratch.tree.permissions(0) & 0o2020) === 0o2020,
      isShared: context.isShared ?? false,
    },
  );
  const failures: Failure[] = [];
  const moving = { cx, gauge: new Gauge(context.options.workers), signal: context.signal };
  const unsettled = leaveUnsettled(plan, context.settledS);
  if (plan.todo.includes(Push.compare)) await span("compare contents", () => compareContents(plan, moving, failures));
  const later = unsettled + (context.settledS === undefined ? 0 : leaveConflicts(plan));
  finish(plan);
  return { plan, failures, later };
}

/** ef gives its manifest such a mode: where it has another one, the file system has its own idea of modes. */
const keepsModes = (step: Step) => ((statSync(step.manifest, { throwIfNoEntry: false })?.mode ?? 0) & 0o733) === 0o600;

async function carry(
  step: Step,
  looked: Looked,
  plan: PushPlan,
  summary: PushSummary,
  context: PushContext,
): Promise<Pushed> {
  const { options, signal, tell } = context;
  using reserved = await room(step, looked, summary, context);
  makeSource(looked);
  await quietly(step, context, () => notePushing(step, plannedBase(plan)));
  const root = statSync(looked.to);
  looked.onProgress.tell = ({ bytes, files }) => {
    reserved?.used(bytes, files);
    tell({ type: "progress", name: step.name, plan: summary, bytes, files });
  };
  return runPush(plan, {
    cx: looked.cx,
    gauge: new Gauge(options.workers),
    signal,
    workers: options.workers,
    directories: rulesOf(root),
    temps: looked.source.temps,
    stamp: stampOf(new Date()),
    deletes: isWholeLook(looked),
  }).catch((error) => {
    throw signal?.aborted ? signal.reason : words.fatalError(step, error);
  });
}

const isWholeLook = ({ scratch, source }: Looked) => scratch.problems.length === 0 && source.problems.length === 0;

/**
 * Keep what is known now: as a whole sync would, if both sides are equal; else as the base of later decisions.
 */
async function note(step: Step, looked: Looked, planned: Planned, pushed: Pushed, context: PushContext): Promise<void> {
  const { plan, failures } = planned;
  const marker = readMarker(step.marker);
  const isOurs = marker?.ef !== undefined && marker.source === step.source;
  const base = pushedBase(plan, pushed);
  // A push that was killed may have left both sides equal, and the base as it was.
  if (isOurs && looked.known.base && isSameBase(base, looked.known.base)) return;
  const isWhole = isWholeLook(looked) && failures.length === 0 && pushed.failures.length === 0;
  const mayBeEqual =
    isWhole && planned.later === 0 && plan.todo.every((what) => what !== Push.left && what !== Push.conflict);
  if (mayBeEqual && (await noteEqual(step, looked, base, plan.rules, context))) return;
  keepBase(step, base);
}

/** @returns false if they are not */
async function noteEqual(
  step: Step,
  looked: Looked,
  base: NonNullable<Known["base"]>,
  { modes, groupWritable }: PushRules,
  context: PushContext,
) {
  const { options, signal, arrival } = context;
  const { known, from, to } = looked;
  const comparison = await compareTrees(
    {
      source: to,
      target: from,
      exclude: excludesOf(step),
      past: { base, intent: known.intent },
      mirror: step.mirror,
      workSince: known.workSince,
      arrivalNs: arrival ? BigInt(Date.now()) * 1_000_000n : undefined,
      lockFd: undefined,
    },
    await sidesOf(options.workers),
    { signal },
  );
  const { plan, diff } = comparison;
  const newest = newestMtime(step.source, comparison.source.tree);
  const { files, newInodes, links, symlinks, attributes, kept, blocked, skipped, problem } = plan;
  const work = files + newInodes + links + symlinks + attributes + kept.length + blocked.length;
  if (work > 0 || problem || skipped.length > 0 || diff.orphans.length > 0) return false;
  if (modes && hasOtherModes(diff, groupWritable)) return false;
  const { host, job } = thisHost();
  removeIfThere(step.marker); // a crash before the new one leaves the manifest alone, which is a base too
  writeMarker(step, newest, timesOf(diff), baseOf(diff, base), job === undefined ? { host } : { host, job });
  return true;
}

function errorOf(step: Step, looked: Looked, failures: Failure[], summary: PushSummary, context: PushContext) {
  const partial = words.partialError(step, looked, failures);
  const conflicts = words.openConflicts(summary.conflicts, context.onConflict);
  if (conflicts.length === 0) return partial;
  const ending = context.dryRun ? "nothing was written" : "both versions are kept";
  const error = words.conflictError(conflicts, ending);
  if (!partial) return error;
  warn(step, context, error.message);
  return partial;
}

/** Have the room promised that a push needs. @throws {EfError} NO_SPACE */
async function room(
  step: Step,
  { to }: Looked,
  { needBytes, newInodes }: PushSummary,
  { preflight, space, quotas }: PushContext,
): Promise<Reservation | undefined> {
  if (!preflight || (needBytes <= 0 && newInodes === 0)) return undefined;
  return space.reserve(step.name, to, { bytes: Math.max(0, needBytes), inodes: newInodes }, await quotas(to));
}

/** More than so much of a tree is not deleted without being told to. */
const isMost = (count: number, of: number) => count > of / 2;

function deletionsOf(step: Step, { past, source, remove }: PushPlan): Deletions {
  let of = 0;
  const tree = past.base?.tree;
  for (let row = 1; tree && row < tree.length; row++) if (tree.kind(row) !== "dir" && !tree.has(row, Flag.orphan)) of++;
  const names = remove.slice(0, 10).map((row) => words.nameOf(source, row));
  return { name: step.name, source: step.source, count: remove.length, of, names };
}

/** @throws {EfError} where that needs a yes that nobody has given */
async function mayDelete(step: Step, plan: PushPlan, { yes, confirm }: PushContext): Promise<boolean> {
  const deletions = deletionsOf(step, plan);
  const { count, of } = deletions;
  if (count === 0 || yes) return true;
  if (isMost(count, of)) throw words.tooManyDeletions(step, count, of);
  if (!confirm) throw words.nobodyToAsk(step.name, count);
  return confirm(deletions);
}

export function lockStep(step: Step, context: PushContext): Promise<Held> {
  const { lockTimeoutS: timeoutS, tell } = context;
  return lock(step.lock, {
    timeoutS,
    ...(context.signal ? { signal: context.signal } : {}),
    onWait: (holder) => tell({ type: "waiting", name: step.name, holder, who: describeHolder(holder) }),
    onFallback: (reason) => warn(step, context, `flock does not work there (${reason}); a lease file is used`),
  });
}
