/** The last part of a move: the new place is in use, and the old one goes. */
import { existsSync, readlinkSync, statSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { bytesOf } from "../base/bytes.ts";
import { reasonOf } from "../base/errors.ts";
import { writeAtomic } from "../base/files.ts";
import { plural } from "../base/units.ts";
import { sidesOf } from "./builtin.ts";
import { readMarker } from "./marker.ts";
import { isLink, type Move } from "./move-checks.ts";
import { claimOf, type Journal, type JournalFiles, readJournal, Verified } from "./move-journal.ts";
import { type RemoveOptions, removeMoved } from "./move-remove.ts";
import type { Step } from "./plan.ts";

/** @returns what is left, and why */
export async function deleteOld(
  move: Move,
  files: JournalFiles,
  options: Pick<RemoveOptions, "workers" | "signal" | "onProgress"> & { onWarning: (message: string) => void },
): Promise<string[]> {
  const start = `${move.to} is complete and in use, but ${move.from} is not all gone`;
  if (!existsSync(move.fromReal)) return removeLink(move);
  const journal = readJournal(files);
  const verified = journal && Verified.read(files, journal);
  if (!verified || !existsSync(claimOf(journal))) {
    const why = verified
      ? `${move.to} is not the directory that was filled (is its file system mounted?)`
      : "the list of what was verified is gone";
    return [`${start}: ${why}, so nothing is deleted; remove it yourself when you are sure`];
  }
  const { workers, onWarning } = options;
  const { source } = await sidesOf(workers);
  const { kept, failed, rootStays } = await removeMoved(move.fromReal, verified, { ...options, storage: source });
  const errors: string[] = [];
  const list = (names: readonly string[]) => names.slice(0, 5).join(", ") + (names.length > 5 ? ", …" : "");
  if (kept.length > 0)
    errors.push(
      `${start}: ${plural(kept.length, "entry", "entries")} appeared or changed there after the copy was verified, kept: ${list(kept)}`,
    );
  if (failed.length > 0) errors.push(`${start}: ${failed.length} could not be removed: ${list(failed)}`);
  if (errors.length > 0) return errors;
  if (rootStays === undefined) return removeLink(move);
  onWarning(`${move.fromReal} is empty, but cannot be removed itself: ${rootStays}`);
  return [];
}

/** The old place was a link to the directory that is gone now. */
function removeLink({ from }: Move): string[] {
  try {
    if (isLink(from) && !existsSync(from) && readlinkSync(from)) unlinkSync(from);
    return [];
  } catch (error) {
    return [`${from}, a link to the old place, could not be removed: ${reasonOf(error)}`];
  }
}

/**
 * What is on scratch is a copy of the new place now, which is the same: the next sync need not compare, and a push knows
 * what jobs changed since.
 */
export function followMove({ from }: Move, { marker: file, source }: Step): void {
  const marker = readMarker(file);
  if (!marker || marker.source === source || join(marker.source, "/") !== join(from, "/")) return;
  try {
    writeAtomic(file, `${JSON.stringify({ ...marker, source })}\n`, statSync(file).mode & 0o777);
  } catch {
    // the next sync compares, as with any new source
  }
}

/** All is done: nothing in the new directory need say more, and it becomes as open as it is to be. */
export async function removeClaim(journal: Journal): Promise<void> {
  const { target } = await sidesOf("auto");
  const root = bytesOf(journal.new_real);
  const { mode } = journal;
  try {
    const stat = await target.lstat(root);
    await target.unlink(bytesOf(claimOf(journal)));
    await target.setTimes(root, stat.mtimeNs);
    if (mode !== undefined && (Number(stat.mode) & 0o7777) === (mode | 0o700)) await target.chmod(root, mode);
  } catch {
    // gone, as a rule: an earlier run did it
  }
}
