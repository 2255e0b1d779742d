/** ef's own engine: see scan, diff and carry for how it looks, decides and copies. */
import { realpathSync, statSync } from "node:fs";
import { bytesOf, display } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { widenPool } from "../base/stat.ts";
import { span } from "../base/trace.ts";
import { plural } from "../base/units.ts";
import { libc } from "../drivers/libc.ts";
import { looks } from "../drivers/statx.ts";
import { trustAfter } from "./after.ts";
import { type Carried, carryOut, rowsIn } from "./carry.ts";
import { type Carrying, type Failure, type Job, State } from "./carrying.ts";
import { compareTrees } from "./comparing.ts";
import type { Copying } from "./copy-file.ts";
import { rulesOf } from "./directories.ts";
import type { Comparison, CopyOptions, Engine, Sides, Transfer, TransferProgress, TransferReport } from "./engine.ts";
import { bringFiles } from "./files.ts";
import { Gauge } from "./gauge.ts";
import { removeTemps } from "./leftovers.ts";
import { Storage } from "./storage.ts";
import type { Throttle } from "./throttle.ts";
import { Flag } from "./tree.ts";

export interface BuiltinOptions {
  workers: number | "auto";
  /** Bytes per second of all that is copied at once; undefined for no limit. */
  bytesPerS?: number | undefined;
  /** Keeps that rate; to be shared by all that it is for. */
  pass?: Throttle | undefined;
  /** Read back what was written. */
  verify: boolean;
  xattrs: boolean;
  /** fsync(2) each file. */
  durable?: boolean;
}

export function builtinEngine(options: BuiltinOptions): Engine {
  return {
    name: "builtin",
    async compare(transfer, compareOptions) {
      const sides = compareOptions.sides ?? (await sidesOf(options.workers));
      return compareTrees(transfer, sides, compareOptions, options.pass);
    },
    copy: (transfer, comparison, copyOptions) => copyTree(transfer, comparison, options, copyOptions),
  };
}

/** Both storages, before the first call that could go to the thread pool. */
export async function sidesOf(workers: number | "auto"): Promise<Sides> {
  await widenPool();
  const calls = await libc();
  const quick = await looks();
  return { source: new Storage(calls, quick), target: new Storage(calls, quick), workers };
}

/** Milliseconds between two reports of progress. */
const tellEveryMs = 50;

/** What another engine does in its own way. */
export interface Otherwise {
  files: (job: Job, failures: Failure[], cx: Copying) => Promise<void>;
  finish: Carrying["finish"];
}

export async function copyTree(
  transfer: Transfer,
  { diff, target: there, sides }: Comparison,
  options: BuiltinOptions,
  { signal, onProgress }: CopyOptions,
  otherwise?: Otherwise,
): Promise<TransferReport> {
  const warnings: string[] = [];
  const progress = { bytes: 0, files: 0 };
  const root = statSync(transfer.target);
  const cx = await copyingBetween(transfer, options, { signal, onProgress, progress, warnings, sides });
  await removeTemps(cx, there.temps, diff);
  const gauge = new Gauge(options.workers);
  const carried = await span("carry", () =>
    carryOut(diff, cx, {
      gauge,
      signal,
      arrival: transfer.arrivalNs === undefined ? undefined : diff.arrival,
      directories: rulesOf(root),
      files: (job, failures) =>
        otherwise
          ? otherwise.files(job, failures, cx)
          : bringFiles(job, failures, cx, { gauge, signal, workers: options.workers }),
      finish: otherwise?.finish,
    }),
  ).catch((error) => {
    throw signal?.aborted ? signal.reason : fatalError(transfer, error);
  });
  onProgress?.({ ...progress });
  if (carried.failures.length > 0) throw partialError(transfer, carried.failures);
  return {
    warnings: [...warnings, ...storiesOf(diff, carried)],
    trust: trustAfter(diff, carried, transfer.arrivalNs),
    isAsIs: carried.isAsIs,
  };
}

interface CopyingOptions extends CopyOptions {
  /** Is kept up to date. */
  progress: TransferProgress;
  /** Gets what is no failure, and to be known. */
  warnings: string[];
  /** What is known of both storages. */
  sides?: Sides | undefined;
}

/** How files go from one root to the other. */
export async function copyingBetween(
  { source, target, arrivalNs }: Pick<Transfer, "source" | "target" | "arrivalNs">,
  options: BuiltinOptions,
  { signal, onProgress, progress, warnings, sides: known }: CopyingOptions,
): Promise<Copying> {
  const calls = await libc();
  const sides = known ?? (await sidesOf(options.workers));
  const { pass } = options;
  let turn = performance.now();
  let told = turn;
  return {
    source: sides.source,
    target: sides.target,
    from: bytesOf(source),
    to: bytesOf(target),
    libc: calls,
    verify: options.verify,
    xattrs: options.xattrs,
    durable: options.durable ?? false,
    place: bytesOf(realpathSync(target)),
    arrivalNs,
    direct: new Set(),
    umask: process.umask(),
    kernel: statSync(target).dev === statSync(source).dev,
    throttle: pass ? (bytes) => pass(bytes, signal) : undefined,
    moved(bytes, files = 0) {
      progress.bytes += bytes;
      progress.files += files;
      const now = performance.now();
      if (now - told < tellEveryMs) return;
      told = now;
      onProgress?.({ ...progress });
    },
    breathe() {
      signal?.throwIfAborted();
      if (performance.now() - turn < 8) return undefined;
      return new Promise((resolve) =>
        setImmediate(() => {
          turn = performance.now();
          resolve();
        }),
      );
    },
    warn: (path, message) => void warnings.push(`${display(path)}: ${message}`),
  };
}

/** What a person should know of rows that did not go the plain way. */
function storiesOf({ source }: Comparison["diff"], { state }: Carried): string[] {
  const named = (what: number, story: (count: string, first: string) => string) => {
    const rows = rowsIn(state, what);
    return rows.length > 0 ? [story(plural(rows.length, "file"), display(source.path(rows[0] as number)))] : [];
  };
  const vanished = named(State.vanished, (n, first) => `${n} vanished at the source while it was copied: ${first}`);
  const taken = named(State.taken, (n, first) => `${n} changed on scratch while it was copied, and kept: ${first}`);
  for (const row of rowsIn(state, State.vanished)) {
    source.set(row, { mode: 0, size: 0, mtimeNs: 0n });
    // Storage may say so of a file that is there: the next run looks at its directory again.
    source.flag(source.parent[row] as number, Flag.racy);
  }
  return [...vanished, ...taken];
}

function fatalError({ target }: Transfer, error: unknown): EfError {
  if (error instanceof EfError) return error;
  const code = errnoOf(error);
  const row = (error as { row?: string }).row;
  const path = row === undefined ? target : `${target}/${display(row)}`;
  if (code === "ENOSPC" || code === "EDQUOT")
    return new EfError("NO_SPACE", `Cannot write ${path}: ${reasonOf(error)}`, {
      hint: "make room (ef status shows what is on scratch), then run it again: it goes on where it stopped",
      path,
      cause: error,
    });
  return new EfError("IO", `Cannot copy to ${path}: ${reasonOf(error)}`, {
    hint: "run it again: it goes on where it stopped",
    path,
    cause: error,
  });
}

/** How many failures a message names. */
const named = 5;

function partialError({ source, target }: Transfer, failures: Failure[]): EfError {
  const lines = failures.slice(0, named).map(({ path, error }) => `\n  ${display(path)}: ${reasonOf(error)}`);
  const more = failures.length > named ? `\n  and ${plural(failures.length - named, "other")}` : "";
  const [first] = failures;
  return new EfError("TRANSFER_PARTIAL", `Cannot copy all of ${source} to ${target}:${lines.join("")}${more}`, {
    hint: "mend what it names (permissions? quota?), then run it again: it goes on where it stopped",
    path: `${source}/${display(first?.path ?? "")}`,
    cause: first?.error,
  });
}
