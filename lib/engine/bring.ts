/**
 * Make one variable's scratch copy whole: lock, compare, check the room, copy, say so.
 *
 * Loaded only when there is something to do, so that a fresh `ef sync` pays for none of it.
 */
import { lstatSync, mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { sleep } from "../base/async.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import { realPath } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { plural } from "../base/units.ts";
import { presetOf } from "../config/presets.ts";
import { thisHost } from "../drivers/host.ts";
import type { Engine, Transfer, TransferPlan } from "./engine.ts";
import { describeHolder, type Held, type Holder, lock } from "./lock.ts";
import {
  type Before,
  isPartial,
  jobsWorkSince,
  lookAtSource,
  readMarker,
  removeMarker,
  whyStale,
  writeMarker,
} from "./marker.ts";
import type { Step } from "./plan.ts";
import type { Reservation, Space } from "./space.ts";
import { removeLeftovers, tempDirFor } from "./temp.ts";
import { joinScratchTimes } from "./tree-times.ts";

/** What happens while a step is worked on. */
export type BringEvent =
  | { type: "warning"; name: string; message: string }
  | { type: "waiting"; name: string; holder: Holder | undefined /** The holder in words. */; who: string }
  | { type: "copying"; name: string; plan: TransferPlan; why: string }
  | { type: "progress"; name: string; plan: TransferPlan; bytes: number; files: number };

export interface BringContext {
  engine: Engine;
  space: Space;
  lockTimeoutS: number;
  maxAgeS: number;
  force: boolean;
  dryRun: boolean;
  /** Check the room before the first byte. */
  preflight: boolean;
  allNames: boolean;
  signal: AbortSignal | undefined;
  tell: (event: BringEvent) => void;
}

/** How a step ended well. */
export interface Brought {
  status: "synced" | "skipped" | "source-missing" | "dry-run";
  /** What was copied, or would be. */
  plan?: TransferPlan;
}

/** @param why why it is not fresh, in words, as the first look found it */
export async function bring(step: Step, why: string, context: BringContext): Promise<Brought> {
  const { tell, dryRun } = context;
  if (!sourceIsThere(step)) {
    if (isPartial(step)) throw sourceGone(step);
    tell({ type: "warning", name: step.name, message: `source ${step.source} does not exist; nothing to copy` });
    if (!dryRun) makeTarget(step);
    return { status: "source-missing" };
  }
  if (dryRun) {
    const plan = await planFor(step, { ...transferOf(step), tempDir: "", lockFd: undefined }, context);
    if (plan.problem) throw plan.problem;
    if (context.preflight) context.space.reserve(step.name, step.target, needOf(plan));
    tell({ type: "copying", name: step.name, plan, why });
    return { status: "dry-run", plan };
  }
  makeTarget(step);
  const held = await lockOrFresh(step, context);
  if (!held) return { status: "skipped" };
  await using _ = held;
  const still = context.force ? why : await whyStale(step, context.maxAgeS);
  if (still === undefined) return { status: "skipped" };
  return { status: "synced", plan: await copy(step, still, held, context) };
}

/** Milliseconds between two looks at a copy that somebody else is making. */
const lookEveryMs = 250;

/**
 * Wait for the lock, and meanwhile look whether whoever has it has made the copy whole: then there is nothing to wait for.
 *
 * @returns undefined where the wait was ended by a fresh copy
 */
async function lockOrFresh(step: Step, context: BringContext): Promise<Held | undefined> {
  const { signal, tell, force } = context;
  const done = new AbortController();
  const look = async () => {
    while (!done.signal.aborted) {
      await sleep(lookEveryMs, done.signal);
      if ((await whyStale(step, context.maxAgeS)) === undefined) done.abort();
    }
  };
  try {
    return await lock(step.lock, {
      timeoutS: context.lockTimeoutS,
      signal: signal ? AbortSignal.any([signal, done.signal]) : done.signal,
      onWait(holder) {
        tell({ type: "waiting", name: step.name, holder, who: describeHolder(holder) });
        if (!force) look().catch(() => {}); // ended by the abort below, or not able to look: then the lock decides
      },
      onFallback: (reason) =>
        tell({
          type: "warning",
          name: step.name,
          message: `flock does not work there (${reason}); a lease file is used`,
        }),
    });
  } catch (error) {
    if (done.signal.aborted && !signal?.aborted) return undefined;
    throw error;
  } finally {
    done.abort();
  }
}

async function copy(step: Step, why: string, held: Held, context: BringContext): Promise<TransferPlan> {
  const { space, tell } = context;
  removeLeftovers(step.temp);
  const before = await span(`look ${step.name}`, () => lookAtSource(step));
  using temp = tempDirFor(step.target, step.temp);
  const transfer: Transfer = { ...transferOf(step), tempDir: temp.path, lockFd: held.fd };
  const plan = await planFor(step, transfer, context);
  if (plan.kept.length > 0)
    tell({ type: "warning", name: step.name, message: keptText(plan.kept.map(({ name }) => name)) });
  using room = context.preflight ? space.reserve(step.name, step.target, needOf(plan)) : undefined;
  tell({ type: "copying", name: step.name, plan, why });
  const earlier = readMarker(step.marker)?.source;
  if (earlier !== undefined && earlier !== step.source) {
    const message = `scratch still holds files of its earlier source ${earlier}: remove ${step.target} to be rid of them`;
    tell({ type: "warning", name: step.name, message });
  }
  removeMarker(step);
  let after = await copyOnce(step, transfer, plan, before, room, context);
  if (isWork(after.left)) after = await copyOnce(step, transfer, after.left, before, undefined, context);
  held.assertHeld();
  if (plan.newInodes > 0 && after.left.newInodes >= plan.newInodes) throw nothingCopied(step);
  if (isWork(after.left)) {
    // No marker: the next sync compares again. Each file is whole as it was at some moment of the copy.
    tell({ type: "warning", name: step.name, message: changingText(after.left) });
    return plan;
  }
  const { host, job } = thisHost();
  const keptSome = plan.kept.length + after.left.kept.length > 0;
  const workSince = keptSome ? transfer.workSince : undefined;
  writeMarker(step, before, after.times, job === undefined ? { host } : { host, job }, workSince);
  return plan;
}

const needOf = (plan: TransferPlan) => ({ bytes: plan.needBytes, inodes: plan.newInodes });
const isWork = (plan: TransferPlan) => plan.files > 0 || plan.newInodes > 0;

/**
 * Copy, and look what is still missing: a purge that ran meanwhile, a source that changed under our hands. The directory
 * times are read before that look, so that whatever is lost after it changes them.
 */
async function copyOnce(
  step: Step,
  transfer: Transfer,
  plan: TransferPlan,
  before: Before,
  room: Reservation | undefined,
  { engine, signal, tell }: BringContext,
) {
  const keep = [...transfer.keep, ...plan.kept.map(({ pattern }) => pattern)];
  const report = await span(`copy ${step.name}`, () =>
    engine.copy({ ...transfer, keep }, plan, {
      signal,
      onProgress({ bytes, files }) {
        room?.used(bytes, files);
        tell({ type: "progress", name: step.name, plan, bytes, files });
      },
    }),
  );
  for (const message of report.warnings) tell({ type: "warning", name: step.name, message });
  if (isWork(plan)) await flush(step.target, signal);
  const times = await joinScratchTimes(before.times, step.target);
  const left = isWork(plan) ? await engine.plan({ ...transfer, keep }, { signal }) : plan;
  return { times, left };
}

/** Seconds that {@link flush} may take: on a node that writes much else, all of that goes to the disk as well. */
const flushLimitS = 60;

/**
 * Have the copy on the disk before the marker says so (`syncfs(2)`, by sync(1) of coreutils 8.24): after a crash of the
 * node, a marker without its files would be taken for a whole copy. Where that does not work, the marker's age has to do.
 */
async function flush(target: string, signal: AbortSignal | undefined): Promise<void> {
  const limit = AbortSignal.timeout(flushLimitS * 1000);
  try {
    await run(["sync", "-f", target], { signal: signal ? AbortSignal.any([signal, limit]) : limit });
  } catch {
    signal?.throwIfAborted();
  }
}

function firstOf(names: readonly string[]): string {
  const [first = "", ...more] = names;
  return more.length > 0 ? `${first} and ${plural(more.length, "other")}` : first;
}

const keptText = (names: readonly string[]) =>
  `changed on scratch since the last sync, and kept as it is there: ${firstOf(names)}`;

const changingText = ({ names }: TransferPlan) =>
  `still changing while it was copied (the next sync compares again): ${firstOf(names)}`;

function nothingCopied({ source, target }: Step): EfError {
  return new EfError(
    "TRANSFER_PARTIAL",
    `Cannot copy ${source} to ${target}: rsync ended well, and the files are not there`,
    {
      hint: "does rsync_extra_args keep it from copying, or does something delete on scratch?",
      path: target,
    },
  );
}

function sourceGone(step: Step): EfError {
  return new EfError(
    "IO",
    `Cannot complete ${step.target}: a copy was interrupted, and its source ${step.source} is gone`,
    {
      hint: "is the source's file system mounted? If it is gone for good, empty the directory on scratch",
      path: step.source,
    },
  );
}

async function planFor(step: Step, transfer: Transfer, context: BringContext): Promise<TransferPlan> {
  const { engine, signal, allNames, tell } = context;
  const plan = await span(`plan ${step.name}`, () => engine.plan(transfer, { signal, allNames }));
  if (plan.skipped.length > 0) {
    const message = `not a file, directory or link, left out: ${firstOf(plan.skipped)}`;
    tell({ type: "warning", name: step.name, message });
  }
  return plan;
}

/** Roots without links: rsync 3.5 refuses a target that is a link of another user, and a link may change meanwhile. */
function transferOf(step: Step): Omit<Transfer, "tempDir" | "lockFd"> {
  const exclude = [...(presetOf(step.name)?.exclude ?? []), ...step.exclude];
  return {
    source: realPath(step.source),
    target: realPath(step.target),
    exclude,
    workSince: jobsWorkSince(step),
    keep: [],
  };
}

function sourceIsThere(step: Step): boolean {
  try {
    if (statSync(step.source).isDirectory()) return true;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return false;
    throw new EfError("IO", `Cannot read source ${step.source}: ${reasonOf(error)}`, {
      path: step.source,
      cause: error,
    });
  }
  throw new EfError("BAD_ROOT", `Cannot copy source ${step.source}: it is not a directory`, {
    hint: `change it with: ef config set vars.${step.name}.source DIR`,
    path: step.source,
  });
}

/** A link that somebody else put where our copy goes would have us write into a directory of his choice. */
function refuseForeignLink({ target }: Step): void {
  const stat = lstatSync(target, { throwIfNoEntry: false });
  if (!stat?.isSymbolicLink() || stat.uid === process.geteuid?.() || stat.uid === 0) return;
  throw new EfError("BAD_ROOT", `Cannot copy to ${target}: it is a symbolic link of another user (uid ${stat.uid})`, {
    hint: "remove it, or make a link of your own",
    path: target,
  });
}

/** The directory of the copy, and those above it; never more open than the source. */
function makeTarget(step: Step): void {
  refuseForeignLink(step);
  const mode = statSync(step.source, { throwIfNoEntry: false })?.mode ?? 0o755;
  try {
    mkdirSync(dirname(step.target), { recursive: true });
    mkdirSync(step.target, { mode: mode & 0o777 });
  } catch (error) {
    if (errnoOf(error) === "EEXIST" && statSync(step.target, { throwIfNoEntry: false })?.isDirectory()) return;
    const why = errnoOf(error) === "EEXIST" ? "something else is there" : reasonOf(error);
    throw new EfError("IO", `Cannot make the directory ${step.target}: ${why}`, { path: step.target, cause: error });
  }
}
