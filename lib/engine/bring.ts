/**
 * Make one variable's scratch copy whole: lock, compare, check the room, copy, say so.
 *
 * Loaded only when there is something to do, so that a fresh `ef sync` pays for none of it.
 */
import { mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { sleep } from "../base/async.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { span } from "../base/trace.ts";
import { plural } from "../base/units.ts";
import { thisHost } from "../drivers/host.ts";
import type { QuotaLeft } from "../drivers/quota.ts";
import { baseOf, plannedTimes, timesOf } from "./base.ts";
import type { Comparison, Engine, Looked, Transfer, TransferPlan } from "./engine.ts";
import { describeHolder, type Held, type Holder, lock } from "./lock.ts";
import {
  isPartial,
  newestMtime,
  notesOf,
  originRun,
  readMarker,
  removeMarker,
  type Stale,
  whyStale,
  writeMarker,
} from "./marker.ts";
import { mergePast } from "./merge.ts";
import type { Step } from "./plan.ts";
import type { Reservation, Space } from "./space.ts";
import { refuseStrangers } from "./strangers.ts";
import { removeLeftovers } from "./temp.ts";
import { transferFor } from "./transfer.ts";

/** What happens while a step is worked on. */
export type BringEvent =
  | { type: "warning"; name: string; message: string }
  | { type: "waiting"; name: string; holder: Holder | undefined /** The holder in words. */; who: string }
  | ({ type: "comparing"; name: string } & Looked)
  | { type: "copying"; name: string; plan: TransferPlan; why: string }
  | { type: "progress"; name: string; plan: TransferPlan; bytes: number; files: number };

export interface BringContext {
  engine: Engine;
  space: Space;
  /** What quotas leave on scratch: asked for once, when it is first needed. */
  quotas: () => Promise<readonly QuotaLeft[]>;
  lockTimeoutS: number;
  maxAgeS: number;
  force: boolean;
  dryRun: boolean;
  /** Check the room before the first byte. */
  preflight: boolean;
  allNames: boolean;
  /** Files get the time of their arrival. */
  arrival: boolean;
  signal: AbortSignal | undefined;
  tell: (event: BringEvent) => void;
}

/** How a step ended well. */
export interface Brought {
  status: "synced" | "skipped" | "source-missing" | "dry-run";
  /** What was copied, or would be. */
  plan?: TransferPlan;
}

/** @param stale why it is not fresh, as the first look found it */
export async function bring(step: Step, stale: Stale, context: BringContext): Promise<Brought> {
  const { tell, dryRun } = context;
  refuseStrangers(step);
  if (!sourceIsThere(step)) {
    if (isPartial(step)) throw sourceGone(step);
    tell({ type: "warning", name: step.name, message: `source ${step.source} does not exist; nothing to copy` });
    if (!dryRun) makeTarget(step);
    return { status: "source-missing" };
  }
  if (dryRun) {
    const { plan } = await compare(step, transferOf(step, stale, undefined, context), context);
    if (plan.problem) throw plan.problem;
    (await room(step, plan, context))?.[Symbol.dispose]();
    tell({ type: "copying", name: step.name, plan, why: stale.why });
    return { status: "dry-run", plan };
  }
  makeTarget(step);
  const held = await lockOrFresh(step, context);
  if (!held) return { status: "skipped" };
  await using _ = held;
  const still = context.force ? stale : await whyStale(step, context.maxAgeS);
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

/** As {@link bring}, where that is known to be needed, and the lock held. */
export async function copy(step: Step, stale: Stale, held: Held, context: BringContext): Promise<TransferPlan> {
  const { engine, tell } = context;
  removeLeftovers(step.temp, notesOf(step));
  const run = originRun(step); // before the first look: a sync there meanwhile makes this copy a stale one
  const transfer = transferOf(step, stale, held.fd, context);
  const first = await compare(step, transfer, context);
  const { plan } = first;
  if (plan.problem) throw plan.problem;
  if (plan.blocked.length > 0) throw blockedError(step, plan);
  if (plan.kept.length > 0)
    tell({ type: "warning", name: step.name, message: keptText(plan.kept, transfer.past.base !== undefined) });
  using reserved = await room(step, plan, context);
  tell({ type: "copying", name: step.name, plan, why: stale.why });
  const earlier = readMarker(step.marker);
  if (earlier !== undefined && earlier.source !== step.source) {
    const message = `scratch still holds files of its earlier source ${earlier.source}: remove ${step.target} to be rid of them`;
    tell({ type: "warning", name: step.name, message });
  }
  const base = mergePast(first.diff, transfer.past);
  if (isWork(plan) || plan.deleted > 0) {
    const intent = baseOf(first.diff, transfer.past.base, plannedTimes(first.diff, transfer.arrivalNs));
    removeMarker(step, intent, base === transfer.past.base ? undefined : base);
    transfer.past = { base, intent };
  } else if (!transfer.past.base) {
    // What was read to be known need not be read again by the look after the copy.
    transfer.past = { intent: baseOf(first.diff, undefined, plannedTimes(first.diff, transfer.arrivalNs)) };
  }
  let after = await copyOnce(step, transfer, first, reserved, context);
  if (isWork(after.plan)) after = await copyOnce(step, transfer, after, undefined, context);
  held.assertHeld();
  if (after.plan.problem) throw after.plan.problem;
  if (after.plan.blocked.length > 0) throw blockedError(step, after.plan);
  if (isWork(after.plan)) {
    if (plan.newInodes > 0 && after.plan.newInodes >= plan.newInodes) throw nothingCopied(step, engine.name);
    // No marker: the next sync compares again. Each file is whole as it was at some moment of the copy.
    tell({ type: "warning", name: step.name, message: changingText(after.plan) });
    return plan;
  }
  const { host, job } = thisHost();
  const comparedAt = first.isWhole ? undefined : earlier?.ef?.compared_at;
  const by = {
    host,
    ...(job === undefined ? {} : { job }),
    ...(comparedAt ? { compared_at: comparedAt } : {}),
    ...(run === undefined ? {} : { from_manifest: run }),
  };
  writeMarker(
    step,
    newestMtime(step.from, first.source.tree),
    timesOf(after.diff),
    baseOf(after.diff, transfer.past.base),
    by,
  );
  return plan;
}

/** Have the room promised that a plan needs, by file system and quotas. @throws {EfError} NO_SPACE */
async function room(step: Step, plan: TransferPlan, context: BringContext): Promise<Reservation | undefined> {
  const need = { bytes: plan.needBytes, inodes: plan.newInodes };
  if (!context.preflight || (need.bytes === 0 && need.inodes === 0)) return undefined;
  return context.space.reserve(step.name, step.target, need, await context.quotas());
}

const isWork = (plan: TransferPlan) => plan.files > 0 || plan.newInodes > 0 || plan.links > 0 || plan.symlinks > 0;

/** Copy, and look again at what is on scratch: a purge that ran meanwhile, a source that changed under our hands. */
async function copyOnce(
  step: Step,
  transfer: Transfer,
  comparison: Comparison,
  room: Reservation | undefined,
  { engine, signal, tell }: BringContext,
): Promise<Comparison> {
  const { plan } = comparison;
  const report = await span(`copy ${step.name}`, () =>
    engine.copy(transfer, comparison, {
      signal,
      onProgress({ bytes, files }) {
        room?.used(bytes, files);
        tell({ type: "progress", name: step.name, plan, bytes, files });
      },
    }),
  );
  for (const message of report.warnings) tell({ type: "warning", name: step.name, message });
  if (report.isAsIs) return comparison;
  return span(`verify ${step.name}`, () =>
    // What vanished meanwhile is not to be deleted because of this look, and stays known as ef's.
    engine.compare(
      { ...transfer, mirror: false },
      {
        ...{ signal, source: comparison.source, sides: comparison.sides },
        trust: report.trust,
      },
    ),
  );
}

function firstOf(names: readonly string[]): string {
  const [first = "", ...more] = names;
  return more.length > 0 ? `${first} and ${plural(more.length, "other")}` : first;
}

const keptText = (names: readonly string[], isKnown: boolean) => {
  const why = isKnown ? "changed on scratch since the last sync" : "younger on scratch than at the source";
  return `${why}, and kept as it is there: ${firstOf(names)}`;
};

const changingText = ({ names }: TransferPlan) =>
  `still changing while it was copied (the next sync compares again): ${firstOf(names)}`;

function nothingCopied({ source, target }: Step, engine: string): EfError {
  const why = engine === "rsync" ? "rsync ended well, and the files are not there" : "the files are not there";
  return new EfError("TRANSFER_PARTIAL", `Cannot copy ${source} to ${target}: ${why}`, {
    hint: "does rsync_extra_args keep it from copying, or does something delete on scratch?",
    path: target,
  });
}

function blockedError({ target }: Step, { blocked }: TransferPlan): EfError {
  const path = `${target}/${blocked[0]}`;
  return new EfError("TRANSFER_PARTIAL", `Cannot copy to ${path}: something of another type is there, and not ef's`, {
    hint: "move it away, or remove it",
    path,
  });
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

async function compare(step: Step, transfer: Transfer, context: BringContext): Promise<Comparison> {
  const { engine, signal, allNames, tell } = context;
  const onLook = (looked: Looked) => tell({ type: "comparing", name: step.name, ...looked });
  const comparison = await span(`compare ${step.name}`, () => engine.compare(transfer, { signal, allNames, onLook }));
  if (comparison.plan.skipped.length > 0) {
    const message = `not a file, directory or link, left out: ${firstOf(comparison.plan.skipped)}`;
    tell({ type: "warning", name: step.name, message });
  }
  return comparison;
}

function transferOf(step: Step, stale: Stale, lockFd: number | undefined, context: BringContext): Transfer {
  const transfer = transferFor(step);
  return {
    ...transfer,
    arrivalNs: context.arrival ? BigInt(Date.now()) * 1_000_000n : undefined,
    changed: context.force || transfer.past.intent ? undefined : stale.changed,
    lockFd,
    tempPrefix: step.temp,
  };
}

export function sourceIsThere(step: Step): boolean {
  try {
    if (statSync(step.from).isDirectory()) return true;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return false;
    throw new EfError("IO", `Cannot read source ${step.from}: ${reasonOf(error)}`, {
      path: step.from,
      cause: error,
    });
  }
  throw new EfError("BAD_ROOT", `Cannot copy source ${step.source}: it is not a directory`, {
    hint: `change it with: ef config set vars.${step.name}.source DIR`,
    path: step.source,
  });
}

/** The directory of the copy, and those above it; never more open than the source. */
function makeTarget(step: Step): void {
  const mode = statSync(step.from, { throwIfNoEntry: false })?.mode ?? 0o755;
  try {
    mkdirSync(dirname(step.target), { recursive: true, mode: 0o775 }); // whoever may write there can exchange copies
    mkdirSync(step.target, { mode: mode & 0o777 });
  } catch (error) {
    if (errnoOf(error) === "EEXIST" && statSync(step.target, { throwIfNoEntry: false })?.isDirectory()) return;
    const why = errnoOf(error) === "EEXIST" ? "something else is there" : reasonOf(error);
    throw new EfError("IO", `Cannot make the directory ${step.target}: ${why}`, { path: step.target, cause: error });
  }
}
