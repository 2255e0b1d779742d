/** What is known of a target right after it was written, so that only its names need to be read again. */
import { plannedTimes } from "./base.ts";
import type { Carried } from "./carry.ts";
import { State } from "./carrying.ts";
import { type Diff, Do } from "./diff.ts";
import type { Trust } from "./scan.ts";
import { Flag, type Tree } from "./tree.ts";

/**
 * The length of each file that came was counted as it was written, close(2) and rename(2) said that it is there, and what
 * was there before was looked at a moment ago: what is left to be found out is whether the names are still there.
 */
export function trustAfter(diff: Diff, { state }: Carried, arrivalNs: bigint | undefined): Trust {
  const { source, target, todo, there } = diff;
  const asWritten = plannedTimes(diff, arrivalNs);
  const fill = (row: number, into: Tree, at: number): boolean => {
    const kind = source.kind(row);
    if (kind !== "file" && kind !== "link") return false;
    const here = (there[row] as number) - 1;
    const what = todo[row];
    if (state[row] !== State.done && (what !== Do.nothing || here < 0)) return false;
    const isNew = what !== Do.nothing && what !== Do.chmod;
    const mtimeNs = isNew ? asWritten(row) : (target.mtime[here] as bigint);
    into.set(at, { mode: (source.mode[row] as number) & 0o177777, size: source.size[row] as number, mtimeNs });
    if (source.inode[row] !== 0) into.setInode(at, `s${source.inode[row]}`);
    const text = source.links.get(row);
    if (text !== undefined) into.links.set(at, text);
    return true;
  };
  return (path) => {
    const dir = source.find(path);
    if (dir === undefined || source.has(dir, Flag.unreadable)) return undefined;
    let [row, to] = source.children(dir);
    return (name, tree, at) => {
      while (row < to && source.name(row) < name) row++;
      return row < to && source.name(row) === name && fill(row, tree, at);
    };
  };
}
