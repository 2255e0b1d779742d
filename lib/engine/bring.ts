/**
 * Make one variable's scratch copy whole: lock, compare, check the room, copy, say so.
 *
 * Loaded only when there is something to do, so that a fresh `ef sync` pays for none of it.
 */
import { mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { realPath } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { plural } from "../base/units.ts";
import { presetOf } from "../config/presets.ts";
import { thisHost } from "../drivers/host.ts";
import type { Engine, Transfer, TransferPlan } from "./engine.ts";
import { describeHolder, type Held, type Holder, lock } from "./lock.ts";
import { lookAtSource, removeMarker, whyStale, writeMarker } from "./marker.ts";
import type { Step } from "./plan.ts";
import type { Space } from "./space.ts";
import { removeLeftovers, tempDirFor } from "./temp.ts";

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
    tell({ type: "warning", name: step.name, message: `source ${step.source} does not exist; nothing to copy` });
    if (!dryRun) makeTarget(step);
    return { status: "source-missing" };
  }
  if (dryRun) {
    const plan = await planFor(step, { ...transferOf(step), tempDir: "", lockFd: undefined }, context);
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

/**
 * Wait for the lock, and meanwhile look whether whoever has it has made the copy whole: then there is nothing to wait for.
 *
 * @returns undefined where the wait was ended by a fresh copy
 */
async function lockOrFresh(step: Step, context: BringContext): Promise<Held | undefined> {
  const { signal, tell, force } = context;
  const done = new AbortController();
  let timer: ReturnType<typeof setInterval> | undefined;
  try {
    return await lock(step.lock, {
      timeoutS: context.lockTimeoutS,
      signal: signal ? AbortSignal.any([signal, done.signal]) : done.signal,
      onWait(holder) {
        tell({ type: "waiting", name: step.name, holder, who: describeHolder(holder) });
        if (force) return;
        timer = setInterval(async () => {
          if ((await whyStale(step, context.maxAgeS)) === undefined) done.abort();
        }, 250);
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
    clearInterval(timer);
  }
}

async function copy(step: Step, why: string, held: Held, context: BringContext): Promise<TransferPlan> {
  const { engine, space, tell, signal } = context;
  removeLeftovers(step.temp);
  const before = await span(`look ${step.name}`, () => lookAtSource(step));
  using temp = tempDirFor(step.target, step.temp);
  const transfer: Transfer = { ...transferOf(step), tempDir: temp.path, lockFd: held.fd };
  const plan = await planFor(step, transfer, context);
  const need = { bytes: plan.needBytes, inodes: plan.newInodes };
  using room = context.preflight ? space.reserve(step.name, step.target, need) : undefined;
  tell({ type: "copying", name: step.name, plan, why });
  removeMarker(step);
  const report = await span(`copy ${step.name}`, () =>
    engine.copy(transfer, plan, {
      signal,
      onProgress({ bytes, files }) {
        room?.used(bytes, files);
        tell({ type: "progress", name: step.name, plan, bytes, files });
      },
    }),
  );
  for (const message of report.warnings) tell({ type: "warning", name: step.name, message });
  held.assertHeld();
  const { host, job } = thisHost();
  await writeMarker(step, before, job === undefined ? { host } : { host, job });
  return plan;
}

async function planFor(step: Step, transfer: Transfer, context: BringContext): Promise<TransferPlan> {
  const { engine, signal, allNames, tell } = context;
  const plan = await span(`plan ${step.name}`, () => engine.plan(transfer, { signal, allNames }));
  if (plan.skipped.length > 0) {
    const [first = "", ...more] = plan.skipped;
    const names = more.length > 0 ? `${first} and ${plural(more.length, "other")}` : first;
    tell({ type: "warning", name: step.name, message: `not a file, directory or link, left out: ${names}` });
  }
  return plan;
}

/** Roots without links: rsync 3.5 refuses a target that is a link of another user, and a link may change meanwhile. */
function transferOf(step: Step): Omit<Transfer, "tempDir" | "lockFd"> {
  const exclude = [...(presetOf(step.name)?.exclude ?? []), ...step.exclude];
  return { source: realPath(step.source), target: realPath(step.target), exclude };
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

/** The directory of the copy, and those above it; never more open than the source. */
function makeTarget(step: Step): void {
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
