/**
 * Times of a copy that was made from another copy: scratch may keep whole seconds only (Lustre), or the time of arrival. What
 * is noted is the source's own time, or a push would take every file for one that changed there.
 */
import { type Base, unknownTime } from "./manifest.ts";
import { Tree } from "./tree.ts";

/** A base whose files were read from a copy, with the times that they have at the source. */
export function atSource(base: Base, origin: Base | undefined): Base {
  if (!origin || !isOtherwise(origin)) return base;
  const mtime = base.tree.mtime.slice(0, base.tree.length);
  translate(base.tree, mtime, origin.scratch, origin.tree.mtime, origin.tree);
  return { tree: Tree.over({ ...base.tree.columns(), mtime }), scratch: base.scratch };
}

/** The other way round, in place: with the times that they have in the copy. */
export function atCopy({ tree }: Base, origin: Base | undefined): void {
  if (origin && isOtherwise(origin)) translate(tree, tree.mtime, origin.tree.mtime, origin.scratch, origin.tree);
}

/** Has any file of a copy another time than at the source? */
function isOtherwise({ tree, scratch }: Base): boolean {
  for (let row = 1; row < tree.length; row++)
    if (tree.kind(row) === "file" && scratch[row] !== tree.mtime[row] && scratch[row] !== unknownTime) return true;
  return false;
}

function translate(tree: Tree, mtime: BigInt64Array, from: BigInt64Array, to: BigInt64Array, known: Tree): void {
  for (let row = 1; row < tree.length; row++) {
    if (tree.kind(row) !== "file") continue;
    const was = known.find(tree.path(row));
    if (was === undefined || known.kind(was) !== "file" || known.size[was] !== tree.size[row]) continue;
    if (from[was] === mtime[row] && to[was] !== unknownTime) mtime[row] = to[was] as bigint;
  }
}
