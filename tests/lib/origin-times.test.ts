import { expect, test } from "bun:test";
import type { Base } from "../../lib/engine/manifest.ts";
import { unknownTime } from "../../lib/engine/manifest.ts";
import { atCopy, atSource } from "../../lib/engine/origin-times.ts";
import { Tree } from "../../lib/engine/tree.ts";

/** Files by name: their time at the source, on the copy, and their size. */
function base(files: Record<string, [source: bigint, copy: bigint, size?: number]>): Base {
  const tree = new Tree();
  tree.addRoot({ mode: 0o040755, size: 0, mtimeNs: 5n });
  const names = Object.keys(files).sort();
  const first = tree.addChildren(0, names);
  const scratch = [5n];
  names.forEach((name, i) => {
    const [mtimeNs, copy, size = 1] = files[name] ?? [0n, 0n];
    tree.set(first + i, { mode: 0o100644, size, mtimeNs });
    scratch.push(copy);
  });
  return { tree, scratch: BigInt64Array.from(scratch) };
}

const times = ({ tree }: Base) => Array.from(tree.mtime.subarray(1, tree.length), Number);

test("files read from a copy have the source's times again, where the copy is what was put there", () => {
  const origin = base({ changed: [11n, 10n], other: [21n, 20n], same: [30n, 30n], size: [41n, 40n, 7] });
  const local = base({ changed: [12n, 12n], new: [9n, 9n], other: [20n, 20n], same: [30n, 30n], size: [40n, 40n] });
  const noted = atSource(local, origin);
  expect(times(noted)).toEqual([12, 9, 21, 30, 40]);
  expect([times(local), noted.scratch]).toEqual([[12, 9, 20, 30, 40], local.scratch]);
  atCopy(noted, origin);
  expect(times(noted)).toEqual(times(local));
});

test("where all times are the same nothing is made anew; what was never put there says nothing", () => {
  const local = base({ a: [1n, 1n] });
  expect(atSource(local, base({ a: [1n, 1n] }))).toBe(local);
  expect(atSource(local, undefined)).toBe(local);
  const origin = base({ a: [1n, unknownTime], b: [3n, 2n] });
  atCopy(local, origin);
  expect(times(local)).toEqual([1]);
});
