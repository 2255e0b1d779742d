import type { ByteString } from "../base/bytes.ts";
import { type Diff, Do, isAsWas, type Past } from "./diff.ts";
import { type Base, unknownTime } from "./manifest.ts";
import { Tree } from "./tree.ts";

/**
 * What is known to be ef's on scratch before a copy begins: what the last whole sync put there; of what an interrupted one
 * meant to bring, the rows that are there; and where nothing is known of a path, what the comparison took for a copy.
 *
 * Kept before a new intent takes the place of an old one, and before a first copy: else nobody would know any more who
 * wrote what, and what ef brought would be taken for a job's work, or the other way round.
 *
 * @returns `past.base` itself where that says it all
 */
export function mergePast(diff: Diff, { base, intent }: Past): Base {
  if (base && !intent) return base;
  const { target } = diff;
  const there: Base = { tree: target, scratch: target.mtime };
  const ours = takenForOurs(diff);
  const tree = new Tree();
  const scratch: bigint[] = [];
  type From = { of: Base; row: number };
  const copy = (row: number, { of, row: from }: From) => {
    of.tree.copyRow(from, tree, row, of === base ? "b" : of === intent ? "i" : "t");
    scratch[row] = of.scratch[from] ?? unknownTime;
  };
  /** What of a directory is known: by the rows that it has in the base, in the intent and on scratch. */
  const childrenOf = (was: number | undefined, meant: number | undefined, here: number | undefined) => {
    const found = new Map<ByteString, From>();
    if (here !== undefined)
      for (const row of rowsOf(target, here)) if (ours.has(row)) found.set(target.name(row), { of: there, row });
    if (base && was !== undefined)
      for (const row of rowsOf(base.tree, was)) found.set(base.tree.name(row), { of: base, row });
    if (intent && meant !== undefined && here !== undefined) {
      for (const row of rowsOf(intent.tree, meant)) {
        const name = intent.tree.name(row);
        const present = target.child(here, name);
        if (present !== undefined && isAsWas(target, present, intent, row)) found.set(name, { of: intent, row });
      }
    }
    return found;
  };
  tree.addRoot({ mode: diff.source.mode[0] as number, size: 0, mtimeNs: diff.source.mtime[0] as bigint });
  scratch[0] = unknownTime;
  const dirs: { row: number; path: ByteString }[] = [{ row: 0, path: "" }];
  for (let dir = dirs.pop(); dir; dir = dirs.pop()) {
    const { row, path } = dir;
    const known = childrenOf(
      base?.tree.find(path),
      intent?.tree.find(path),
      target.length ? target.find(path) : undefined,
    );
    const names = [...known.keys()].sort((a, b) => (a < b ? -1 : 1));
    const first = tree.addChildren(row, names);
    names.forEach((name, i) => {
      copy(first + i, known.get(name) as From);
      if (tree.kind(first + i) === "dir") dirs.push({ row: first + i, path: path === "" ? name : `${path}/${name}` });
    });
  }
  return { tree, scratch: BigInt64Array.from(scratch) };
}

/** Rows of the target that a comparison found to be copies, of this source or of what it was. */
function takenForOurs({ source, target, todo, there }: Diff): Set<number> {
  const ours = new Set<number>();
  for (let row = 1; row < source.length; row++) {
    const here = (there[row] as number) - 1;
    const what = todo[row];
    if (here < 0 || what === Do.keep || what === Do.blocked || what === Do.skip) continue;
    if (target.kind(here) !== "gone") ours.add(here);
  }
  return ours;
}

function* rowsOf(tree: Tree, dir: number): Generator<number> {
  const [from, to] = tree.children(dir);
  for (let row = from; row < to; row++) yield row;
}
