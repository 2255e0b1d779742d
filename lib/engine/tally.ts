/** What a {@link Diff} comes to: counts and names, for a person and for the check of the room. */
import { display } from "../base/bytes.ts";
import { type Diff, Do } from "./diff.ts";
import { namesKept, type TransferPlan } from "./engine.ts";
import { Flag } from "./tree.ts";

/** What file systems hand out at least, in bytes. */
export const blockBytes = 4096;

/** @param allNames keep every name instead of the first few */
export function tally(diff: Diff, allNames = false): TransferPlan {
  const { source, target, todo, there, remove, clear } = diff;
  const plan = emptyPlan();
  plan.purged = diff.purged;
  plan.deleted = remove.length;
  const most = allNames ? Number.POSITIVE_INFINITY : namesKept;
  const note = (name: string) => void (plan.names.length < most && plan.names.push(name));
  let largestReplaced = 0;
  for (const row of rowsInOrder(diff)) {
    const what = todo[row];
    if (what === Do.nothing) continue;
    const name = () => display(source.path(row)) + (source.kind(row) === "dir" ? "/" : "");
    if (what === Do.keep) plan.kept.push(name());
    else if (what === Do.skip) plan.skipped.push(name());
    else if (what === Do.blocked) plan.blocked.push(name());
    else if (what === Do.chmod) plan.attributes++;
    if (what === Do.keep || what === Do.skip || what === Do.blocked) continue;
    note(name());
    const isNew = there[row] === 0 || target.kind((there[row] as number) - 1) === "gone";
    if (isNew && what !== Do.link) plan.newInodes++;
    if (what === Do.link) plan.links++;
    if (what === Do.symlink) plan.symlinks++;
    if (what !== Do.copy && what !== Do.replace) continue;
    const size = source.size[row] as number;
    const held = source.has(row, Flag.sparse) ? (source.allocated.get(row) ?? size) : size;
    const blocks = Math.ceil(held / blockBytes) * blockBytes;
    plan.files++;
    plan.bytes += size;
    if (isNew) plan.needBytes += blocks;
    else {
      const old = target.size[(there[row] as number) - 1] as number;
      plan.needBytes += Math.max(0, blocks - Math.ceil(old / blockBytes) * blockBytes);
      largestReplaced = Math.max(largestReplaced, blocks);
    }
  }
  for (const row of [...clear, ...remove]) note(`delete ${display(target.path(row))}`);
  plan.needBytes += largestReplaced;
  return plan;
}

export const emptyPlan = (): TransferPlan => ({
  files: 0,
  bytes: 0,
  links: 0,
  symlinks: 0,
  attributes: 0,
  newInodes: 0,
  needBytes: 0,
  deleted: 0,
  purged: 0,
  names: [],
  skipped: [],
  kept: [],
  blocked: [],
});

/** Rows of the source as a person would list them: each directory, then what is in it. */
export function* rowsInOrder({ source }: Pick<Diff, "source">): Generator<number> {
  const stack: [number, number][] = [source.children(0)];
  for (let top = stack.at(-1); top; top = stack.at(-1)) {
    if (top[0] >= top[1]) {
      stack.pop();
      continue;
    }
    const row = top[0]++;
    yield row;
    if (source.kind(row) === "dir") stack.push(source.children(row));
  }
}
