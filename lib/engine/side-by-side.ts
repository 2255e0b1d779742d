/** Two trees path by path. */
import { Flag, type Tree } from "./tree.ts";

/**
 * The rows of each path that one of two trees has, -1 where the other has none; each directory before what is in it, names
 * in byte order. Of what is below a directory that one side could not read, nothing is known: it is passed over.
 */
export function* sideBySide(a: Tree, b: Tree): Generator<[a: number, b: number], void> {
  const stack: { a: number; aEnd: number; b: number; bEnd: number }[] = [];
  const enter = (x: number, y: number) => {
    if ((x >= 0 && a.has(x, Flag.unreadable)) || (y >= 0 && b.has(y, Flag.unreadable))) return;
    const [aAt, aEnd] = x < 0 ? [0, 0] : a.children(x);
    const [bAt, bEnd] = y < 0 ? [0, 0] : b.children(y);
    if (aAt < aEnd || bAt < bEnd) stack.push({ a: aAt, aEnd, b: bAt, bEnd });
  };
  enter(a.length > 0 ? 0 : -1, b.length > 0 ? 0 : -1);
  for (let top = stack.at(-1); top; top = stack.at(-1)) {
    if (top.a >= top.aEnd && top.b >= top.bEnd) {
      stack.pop();
      continue;
    }
    const order = top.a >= top.aEnd ? 1 : top.b >= top.bEnd ? -1 : a.compareNames(top.a, b, top.b);
    const x = order <= 0 ? there(a, top.a++) : -1;
    const y = order >= 0 ? there(b, top.b++) : -1;
    if (x < 0 && y < 0) continue;
    yield [x, y];
    enter(x, y);
  }
}

/** What vanished while the tree was read is not there. */
const there = (tree: Tree, row: number) => (tree.kind(row) === "gone" && !tree.has(row, Flag.unreadable) ? -1 : row);

/**
 * How many of the files and links that a sync put on scratch are there no more: purged, or deleted by a job.
 *
 * @param base what it put there; what the source has deleted since does not count
 * @param scratch what is there now; of a directory that cannot be read, all counts as being there
 */
export function goneFrom(base: Tree, scratch: Tree): { gone: number; of: number } {
  const counts = (row: number) => base.kind(row) !== "dir" && !base.has(row, Flag.orphan);
  let of = 0;
  for (let row = 1; row < base.length; row++) if (counts(row)) of++;
  let gone = 0;
  for (const [was, is] of sideBySide(base, scratch)) if (was >= 0 && is < 0 && counts(was)) gone++;
  return { gone, of };
}
