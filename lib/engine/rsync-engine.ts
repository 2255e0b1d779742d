import { isUtf8 } from "node:buffer";
import { lstatSync, statSync, utimesSync } from "node:fs";
import { dirname } from "node:path";
import { EfError } from "../base/errors.ts";
import { lastLines } from "../base/exec.ts";
import { childOf } from "../base/stat.ts";
import { plural } from "../base/units.ts";
import {
  parseDeleted,
  parseItem,
  parseProgress,
  parseSkipped,
  type RsyncCopy,
  type RsyncItem,
  type RsyncVersion,
  rsync,
  rsyncVersion,
  unescapeName,
} from "../drivers/rsync.ts";
import { type CopyOptions, type Engine, namesKept, type Transfer, type TransferPlan } from "./engine.ts";

export interface RsyncEngineOptions {
  /** Appended to each call, as the user gave them. */
  extraArgs: readonly string[];
  /** Bytes per second with suffix. */
  bwlimit?: string | undefined;
  /** Compare contents, not only size and time. */
  checksum?: boolean;
}

/** From this size, in bytes, a new file's real allocation is asked for: it may be sparse. */
const sparseFrom = 64 << 20;

/** One rsync process a tree: a dry run for the plan, a run for the copy. */
export function rsyncEngine(options: RsyncEngineOptions): Engine {
  let asked: Promise<RsyncVersion> | undefined;
  const versionNumber = async (signal: AbortSignal | undefined) => {
    asked ??= rsyncVersion(signal);
    return (await asked).number;
  };
  const command = async (transfer: Transfer, signal?: AbortSignal): Promise<RsyncCopy> => ({
    source: transfer.source,
    target: transfer.target,
    exclude: [...transfer.keep, ...transfer.exclude],
    ...(onSameDevice(transfer.tempDir, transfer.target) ? { tempDir: transfer.tempDir } : {}),
    ...groupRules(transfer.target),
    nonRegular: (await versionNumber(signal)) >= 30_204,
    nanoseconds: (await versionNumber(signal)) >= 30_103 && storesNanoseconds(transfer),
    bwlimit: options.bwlimit,
    extraArgs: [...(options.checksum ? ["--checksum"] : []), ...options.extraArgs],
  });
  return {
    name: "rsync",
    async plan(transfer, { signal, allNames = false }) {
      return planOf(
        transfer,
        { ...(await command(transfer, signal)), dryRun: true },
        signal,
        allNames ? Infinity : namesKept,
      );
    },
    async copy(transfer, plan, copyOptions) {
      const warnings = await copyWith(transfer, await command(transfer, copyOptions.signal), copyOptions);
      return { files: plan.files, bytes: plan.bytes, warnings };
    },
  };
}

/** A rename from the temporary directory is atomic only within a file system: `target` may be a link to another one. */
function onSameDevice(tempDir: string, target: string): boolean {
  const [temp, goal] = [tempDir, target].map((path) => statSync(path, { throwIfNoEntry: false })?.dev);
  return temp !== undefined && temp === goal;
}

/** What the directory of the copy says of those below it; one that is a colleague's keeps its own times. */
function groupRules(target: string): Pick<RsyncCopy, "setgid" | "groupWritable" | "omitDirTimes"> {
  const stat = statSync(target, { throwIfNoEntry: false });
  return {
    setgid: stat !== undefined && (stat.mode & 0o2000) !== 0,
    groupWritable: stat !== undefined && (stat.mode & 0o2020) === 0o2020,
    omitDirTimes: stat !== undefined && stat.uid !== process.geteuid?.(),
  };
}

/**
 * Does the file system of the target keep nanoseconds? Comparing them on one that does not (whole seconds, or the 100 ns
 * of CIFS) would copy everything every time. Asked by setting a time on our own directory; in a dry run, which has none,
 * by that of the directory where ef writes its files.
 */
function storesNanoseconds({ tempDir, target }: Transfer): boolean {
  if (tempDir) utimesSync(tempDir, 1000.123456789, 1000.123456789);
  const stat = statSync(tempDir || dirname(target), { bigint: true, throwIfNoEntry: false });
  return stat !== undefined && stat.mtimeNs % 1000n !== 0n && stat.mtimeNs % 100n !== 0n;
}

/** Compare the trees by a dry run. What it cannot read is a problem for the copy, which meets the same files again. */
async function planOf(
  transfer: Transfer,
  dryRun: RsyncCopy,
  signal: AbortSignal | undefined,
  keep: number,
): Promise<TransferPlan> {
  const plan: TransferPlan = {
    files: 0,
    bytes: 0,
    newInodes: 0,
    needBytes: 0,
    deleted: 0,
    names: [],
    skipped: [],
    kept: [],
  };
  let largestReplaced = 0;
  const read = (line: string) => {
    const skipped = parseSkipped(line);
    if (skipped !== undefined) return void plan.skipped.push(display(skipped));
    const deleted = parseDeleted(line);
    const item = parseItem(line);
    if (deleted === undefined && (!item || (item.kind === "dir" && item.action === "touch"))) return;
    if (deleted !== undefined) plan.deleted++;
    if (item && isJobsWork(transfer, item))
      return void plan.kept.push({ name: display(item.name), pattern: patternOf(item.name) });
    if (plan.names.length < keep) plan.names.push(item ? display(item.name) : `delete ${display(deleted ?? "")}`);
    if (!item) return;
    if (item.isNew && !(item.kind === "file" && item.action === "create")) plan.newInodes++;
    if (item.kind !== "file" || item.action !== "copy") return;
    plan.files++;
    plan.bytes += item.sizeBytes;
    if (item.isNew) plan.needBytes += newSize(transfer, item);
    else {
      const size = newSize(transfer, item);
      plan.needBytes += Math.max(0, size - allocated(transfer.target, item));
      largestReplaced = Math.max(largestReplaced, size);
    }
  };
  const lines = lineReader(read);
  const { code, stderr } = await rsync(dryRun, { signal, onText: lines.push });
  lines.end();
  if (code === 23) plan.problem = partial(transfer, stderr);
  plan.needBytes += largestReplaced;
  return plan;
}

/** What a new file will take: its allocation at the source where it has holes, else its size in whole 4 KiB blocks. */
function newSize({ source }: Transfer, item: RsyncItem): number {
  const whole = Math.ceil(item.sizeBytes / 4096) * 4096;
  if (item.sizeBytes < sparseFrom) return whole;
  const stat = lstatSync(childOf(source, unescapeName(item.name)), { throwIfNoEntry: false });
  return stat ? Math.min(whole, stat.blocks * 512) : whole;
}

function allocated(root: string, item: RsyncItem): number {
  return (lstatSync(childOf(root, unescapeName(item.name)), { throwIfNoEntry: false })?.blocks ?? 0) * 512;
}

/**
 * Did a job change this file on scratch after the last sync? It is then younger than that sync and than the source's, and
 * the copy would destroy the only one there is.
 */
function isJobsWork({ source, target, workSince }: Transfer, item: RsyncItem): boolean {
  if (item.isNew || item.kind !== "file" || item.action !== "copy" || workSince === 0) return false;
  const name = unescapeName(item.name);
  const here = lstatSync(childOf(target, name), { throwIfNoEntry: false });
  if (!here || here.mtimeMs <= workSince * 1000) return false;
  const there = lstatSync(childOf(source, name), { throwIfNoEntry: false });
  return there !== undefined && here.mtimeMs > there.mtimeMs;
}

/**
 * An exclude pattern for this name alone, anchored at the top (rsync(1), PATTERN MATCHING RULES): a backslash escapes only
 * where there is a wildcard. Bytes that are not UTF-8 cannot be passed as an argument here; `?` stands for each.
 */
function patternOf(name: string): string {
  const bytes = unescapeName(name);
  const text = isUtf8(bytes) ? bytes.toString("utf8") : undefined;
  const plain = text ?? bytes.toString("latin1");
  const escaped = text === undefined || /[*?[]/.test(plain) ? plain.replace(/[\\*?[]/g, "\\$&") : plain;
  return `/${text === undefined ? escaped.replace(/[\x80-\xff]/g, "?") : escaped}`;
}

/** A name as a person reads it: rsync's bytes as UTF-8, its escapes of control characters as they are. */
const display = (name: string) => Buffer.from(name, "latin1").toString("utf8");

/** Cuts pieces of output into lines. */
function lineReader(read: (line: string) => void) {
  let rest = "";
  return {
    push(text: string) {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) read(line);
    },
    end() {
      if (rest) read(rest);
    },
  };
}

/**
 * Copy; files that vanish at the source meanwhile (exit 24) get one more try, as a tree that is being worked on is
 * mostly whole a moment later. What could not be copied (23) is a failure.
 *
 * @returns warnings
 */
async function copyWith(
  transfer: Transfer,
  command: RsyncCopy,
  { signal, onProgress }: CopyOptions,
): Promise<string[]> {
  const once = () => {
    let before = "";
    return rsync(command, {
      signal,
      inheritFd: transfer.lockFd,
      onText(text) {
        before = (before + text).slice(-200);
        const progress = parseProgress(before);
        if (progress) onProgress?.({ bytes: progress.bytes, files: progress.files ?? 0 });
      },
    });
  };
  let { code, stderr } = await once();
  if (code === 24) ({ code, stderr } = await once());
  if (code === 0) return stderr.trim() === "" ? [] : [`rsync says:${lastLines(stderr)}`];
  if (code === 24) {
    const vanished = stderr.split("\n").filter((line) => line.startsWith("file has vanished"));
    return [
      `${plural(vanished.length, "file")} vanished at the source while it was copied${lastLines(vanished.join("\n"))}`,
    ];
  }
  throw partial(transfer, stderr);
}

function partial({ source, target }: Transfer, stderr: string): EfError {
  return new EfError(
    "TRANSFER_PARTIAL",
    `Cannot copy all of ${source} to ${target}: rsync exit 23${lastLines(stderr)}`,
    {
      hint: "mend what it names (permissions? quota?), then run it again: it goes on where it stopped",
      path: source,
    },
  );
}
