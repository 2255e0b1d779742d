/** What a {@link PushPlan} comes to: counts and names, for a person and for the check of the room. */
import { display } from "../base/bytes.ts";
import { State } from "./carrying.ts";
import { namesKept } from "./engine.ts";
import { Push } from "./push-decide.ts";
import { isPushed, isStored, type PushPlan } from "./push-plan.ts";
import type { Pushed } from "./push-run.ts";
import { blockBytes, rowsInOrder } from "./tally.ts";
import { Flag } from "./tree.ts";

/** A path that changed on both sides. */
export interface PushConflict {
  /** Relative to both roots, as a person reads it. */
  path: string;
  why: string;
  /** The scratch version at the source, relative to its root; absent where it is not stored. */
  stored?: string;
}

/** What a push moves, or would. */
export interface PushSummary {
  /** Regular files to be copied, scratch versions of conflicts among them, and their sizes in bytes. */
  files: number;
  bytes: number;
  /** Names that become hard links. */
  links: number;
  /** Symbolic links that are made, or made anew. */
  symlinks: number;
  /** Files and directories of which only the permissions change. */
  attributes: number;
  /** Directories, links and files that the source will have more. */
  newInodes: number;
  /** Most bytes that the source needs on top of what it holds. */
  needBytes: number;
  deleted: number;
  /** Names of what changes at the source: the first {@link namesKept}. */
  names: string[];
  /** FIFOs, sockets and devices, which are left out. */
  skipped: string[];
  conflicts: PushConflict[];
}

/**
 * @param allNames keep every name instead of the first few
 * @param pushed count what was done, instead of what is to be done
 */
export function summaryOf(plan: PushPlan, allNames = false, pushed?: Pushed): PushSummary {
  const { scratch, source, todo, there } = plan;
  const summary = emptySummary();
  const most = allNames ? Number.POSITIVE_INFINITY : namesKept;
  const note = (name: string) => void (summary.names.length < most && summary.names.push(name));
  const nameOf = (row: number) => display(scratch.path(row)) + (scratch.kind(row) === "dir" ? "/" : "");
  let largestReplaced = 0;
  for (const row of rowsInOrder({ source: scratch })) {
    const what = todo[row];
    if (what === Push.skip) summary.skipped.push(nameOf(row));
    if (what === Push.conflict) {
      const stored = pushed?.stored.get(row);
      const at = stored === undefined ? {} : { stored: display(stored) };
      summary.conflicts.push({ path: nameOf(row), why: whyConflict(plan, row), ...at });
    }
    if (pushed && !isDone(pushed, row)) continue;
    if (isStored(plan, row)) addStored(plan, row, summary);
    else if (isPushed(plan, row)) {
      note(nameOf(row));
      const here = (there[row] as number) - 1;
      const isNew = here < 0 || source.kind(here) === "gone";
      if (what === Push.symlink) summary.symlinks++;
      if (what === Push.chmod) summary.attributes++;
      else if (what === Push.link) summary.links++;
      else if (isNew) summary.newInodes++;
      if (what !== Push.copy && what !== Push.replace) continue;
      const blocks = addFile(plan, row, summary);
      if (isNew) continue;
      summary.needBytes -= Math.min(blocks, Math.ceil((source.size[here] as number) / blockBytes) * blockBytes);
      largestReplaced = Math.max(largestReplaced, blocks);
    }
  }
  summary.needBytes += largestReplaced;
  const removed = pushed ? [...pushed.removed] : plan.remove;
  summary.deleted = removed.length;
  for (const row of removed) note(`delete ${display(source.path(row))}`);
  return summary;
}

const isDone = ({ state, arrived, stored }: Pushed, row: number) =>
  state[row] === State.done || arrived.has(row) || stored.has(row);

/** The scratch version of a conflict, which comes to lie beside the source's. */
function addStored(plan: PushPlan, row: number, summary: PushSummary): void {
  const { scratch } = plan;
  summary.newInodes++;
  if (scratch.kind(row) === "file") addFile(plan, row, summary);
  const [from, to] = scratch.children(row);
  for (let child = from; child < to; child++) addStored(plan, child, summary);
}

/** @returns the bytes that it takes */
function addFile({ scratch }: PushPlan, row: number, summary: PushSummary): number {
  const size = scratch.size[row] as number;
  const held = scratch.has(row, Flag.sparse) ? (scratch.allocated.get(row) ?? size) : size;
  const blocks = Math.ceil(held / blockBytes) * blockBytes;
  summary.files++;
  summary.bytes += size;
  summary.needBytes += blocks;
  return blocks;
}

function whyConflict({ scratch, source, there }: PushPlan, row: number): string {
  const here = (there[row] as number) - 1;
  const kind = here < 0 ? "gone" : source.kind(here);
  if (kind === "gone") return "changed on scratch, deleted at the source";
  return kind === scratch.kind(row) ? "changed on both sides" : `not the same: ${kindText(kind)} at the source`;
}

const kindText = (kind: string) =>
  ({ dir: "a directory", file: "a file", link: "a symbolic link" })[kind] ?? "no file, directory or link";

const emptySummary = (): PushSummary => ({
  files: 0,
  bytes: 0,
  links: 0,
  symlinks: 0,
  attributes: 0,
  newInodes: 0,
  needBytes: 0,
  deleted: 0,
  names: [],
  skipped: [],
  conflicts: [],
});

/** Is there anything to do at the source? */
export const isPushWork = ({ files, links, symlinks, attributes, newInodes, deleted }: PushSummary): boolean =>
  files + links + symlinks + attributes + newInodes + deleted > 0;
