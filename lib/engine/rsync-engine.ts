import { lstatSync, statSync } from "node:fs";
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
  const command = async ({ source, target, exclude, tempDir }: Transfer, signal?: AbortSignal): Promise<RsyncCopy> => ({
    source,
    target,
    exclude,
    ...(onSameDevice(tempDir, target) ? { tempDir } : {}),
    setgid: isSetgid(target),
    nonRegular: (await versionNumber(signal)) >= 30_204,
    nanoseconds: (await versionNumber(signal)) >= 30_103 && storesNanoseconds(target),
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

const isSetgid = (dir: string) => ((statSync(dir, { throwIfNoEntry: false })?.mode ?? 0) & 0o2000) !== 0;

/**
 * Does the file system of `target` keep more than whole seconds? The directory above, where ef writes its own files, has
 * a time of this file system's making. On one that does not, comparing nanoseconds would copy everything every time.
 */
function storesNanoseconds(target: string): boolean {
  const stat = statSync(dirname(target), { bigint: true, throwIfNoEntry: false });
  return stat !== undefined && stat.mtimeNs % 1_000_000_000n !== 0n;
}

/** Compare the trees by a dry run. Its 23 and 24 are left to the copy, which meets the same files again. */
async function planOf(
  transfer: Transfer,
  dryRun: RsyncCopy,
  signal: AbortSignal | undefined,
  keep: number,
): Promise<TransferPlan> {
  const plan: TransferPlan = { files: 0, bytes: 0, newInodes: 0, needBytes: 0, names: [], skipped: [] };
  let largestReplaced = 0;
  const read = (line: string) => {
    const skipped = parseSkipped(line);
    if (skipped !== undefined) return void plan.skipped.push(display(skipped));
    const deleted = parseDeleted(line);
    const item = parseItem(line);
    if (deleted === undefined && (!item || (item.kind === "dir" && item.action === "touch"))) return;
    if (plan.names.length < keep) plan.names.push(item ? display(item.name) : `delete ${display(deleted ?? "")}`);
    if (!item) return;
    if (item.isNew && !(item.kind === "file" && item.action === "create")) plan.newInodes++;
    if (item.kind !== "file" || item.action !== "copy") return;
    plan.files++;
    plan.bytes += item.sizeBytes;
    if (item.isNew) plan.needBytes += newSize(transfer, item);
    else {
      plan.needBytes += Math.max(0, item.sizeBytes - sizeOf(transfer.target, item));
      largestReplaced = Math.max(largestReplaced, item.sizeBytes);
    }
  };
  const lines = lineReader(read);
  await rsync(dryRun, { signal, onText: lines.push });
  lines.end();
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

function sizeOf(root: string, item: RsyncItem): number {
  return lstatSync(childOf(root, unescapeName(item.name)), { throwIfNoEntry: false })?.size ?? 0;
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
  throw new EfError(
    "TRANSFER_PARTIAL",
    `Cannot copy all of ${transfer.source} to ${transfer.target}: rsync exit 23${lastLines(stderr)}`,
    {
      hint: "mend what it names (permissions? quota?), then run it again: it goes on where it stopped",
      path: transfer.source,
    },
  );
}
