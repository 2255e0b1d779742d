/** Look at both trees of a transfer, and compare them. */

import { sleep } from "../base/async.ts";
import { bytesOf, display } from "../base/bytes.ts";
import { EfError, reasonOf } from "../base/errors.ts";
import { present } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { plural } from "../base/units.ts";
import { canRecall, recall } from "./base.ts";
import { arrivalRows, diff, type Rules } from "./diff.ts";
import type { CompareOptions, Comparison, Looked, Sides, Transfer } from "./engine.ts";
import { excluder } from "./exclude.ts";
import { Gauge } from "./gauge.ts";
import { largeRows, type Scan, type ScanOptions, scan } from "./scan.ts";
import { tally } from "./tally.ts";
import { inThread, threadCount, warm } from "./threads.ts";
import type { Throttle } from "./throttle.ts";
import { Flag, Tree } from "./tree.ts";
import { contentsOf } from "./unsure.ts";

/** Until a change no longer leaves the time that was seen, in milliseconds: two ticks of the kernel. */
const settleMs = 40;

/** @param throttle for contents, where they have to be read */
export async function compareTrees(
  transfer: Transfer,
  sides: Sides,
  { signal, allNames, source: seen, trust, onLook }: CompareOptions,
  throttle?: Throttle,
): Promise<Comparison> {
  const { past, changed } = transfer;
  const exclude = excluder(transfer.exclude);
  const known = changed && past.base && canRecall(past.base, changed) ? past.base : undefined;
  const threads = threadCount(sides.workers);
  const heard = onLook && summing(onLook);
  const isLarge = !known && (past.base?.tree.length ?? 0) > largeRows;
  const look = async (side: "source" | "target"): Promise<Scan> => {
    const at = side === "source" ? "source" : "scratch";
    if (side === "target" && isLarge && threads > 1 && !trust && !seen)
      return span(`scan ${at}`, () => scanInThread(transfer, sides.workers, signal));
    const options = {
      storage: sides[side],
      gauge: new Gauge(sides.workers),
      signal,
      exclude,
      trust: side === "target" ? trust : undefined,
      recall: known && changed ? recall(known, at, changed) : undefined,
      onLarge: () => warm(sides.workers),
      onLook: heard,
    };
    // A dry run makes no directory: what is not there is compared as empty.
    if (side === "target" && !present(transfer.target)) return { tree: new Tree(), problems: [], temps: [] };
    return span(`scan ${at}`, () => (side === "source" ? settled : scan)(bytesOf(transfer[side]), options));
  };
  const [source, target] = await both(seen ?? look("source"), look("target"));
  if (known && hasNewHardLinks(source.tree)) {
    const { changed: _, ...whole } = transfer;
    return compareTrees(whole, sides, { signal, allNames: allNames ?? false, onLook }, throttle);
  }
  const rules: Rules = {
    mirror: transfer.mirror,
    arrival: transfer.arrivalNs === undefined ? undefined : arrivalRows(source.tree),
    workSinceNs: BigInt(Math.floor(transfer.workSince * 1e6)) * 1000n,
  };
  let found = diff(source.tree, target.tree, past, rules);
  if (found.unsure.length > 0) {
    const contents = await span("compare contents", () =>
      contentsOf(found, transfer, { seen: { source, target }, sides, signal, throttle, heard }),
    );
    found = diff(source.tree, target.tree, past, { ...rules, contents });
  }
  const plan = tally(found, allNames);
  const problem = problemOf(transfer, source, target);
  return { plan: problem ? { ...plan, problem } : plan, diff: found, source, target, sides, isWhole: !known };
}

/** Adds up what several looks hear: entries, and bytes of contents. */
export function summing(tell: (looked: Looked) => void): (entries: number, bytes?: number) => void {
  const looked: Looked = { entries: 0, bytes: 0 };
  return (entries, bytes = 0) => {
    looked.entries += entries;
    looked.bytes += bytes;
    tell({ ...looked });
  };
}

/** Look at the target in another thread, while this one looks at the source. */
async function scanInThread(
  { target, exclude }: Transfer,
  workers: number | "auto",
  signal: AbortSignal | undefined,
): Promise<Scan> {
  const output = await inThread({ kind: "scan", input: { root: bytesOf(target), exclude, workers } });
  signal?.throwIfAborted();
  const asError = ({ message, ...rest }: { message: string }) => Object.assign(new Error(message), rest);
  if (output.error) throw asError(output.error);
  return {
    tree: Tree.over(output.columns, output.inodes),
    problems: output.problems.map(({ path, ...error }) => ({ path, error: asError(error) })),
    temps: output.temps,
  };
}

/** Both, and the first failure only when both have ended. */
export async function both<A, B>(a: Promise<A> | A, b: Promise<B>): Promise<[A, B]> {
  const [first, second] = await Promise.allSettled([a, b]);
  if (first.status === "rejected") throw first.reason;
  if (second.status === "rejected") throw second.reason;
  return [first.value, second.value];
}

/** Directories in which something changed this very moment are looked at again when that has settled. */
export async function settled(root: string, options: ScanOptions): Promise<Scan> {
  const first = await scan(root, options);
  const { tree } = first;
  const restless = new Set<number>();
  for (let row = 0; row < tree.length; row++) {
    if (!tree.has(row, Flag.racy)) continue;
    restless.add(tree.kind(row) === "dir" ? row : (tree.parent[row] as number));
    restless.add(tree.parent[row] as number); // whose look at the row is to be new
  }
  if (restless.size === 0) return first;
  await sleep(settleMs, options.signal);
  // Names of one inode must all be looked at in one go to be seen as one.
  const known = tree.hasInodes(/./) ? undefined : (path: string) => remember(tree, path, restless);
  const again = await scan(root, { ...options, recall: known ?? options.recall });
  return { ...again, problems: [...first.problems, ...again.problems], temps: [...first.temps, ...again.temps] };
}

function remember(tree: Tree, path: string, restless: ReadonlySet<number>) {
  const dir = tree.find(path);
  if (dir === undefined || restless.has(dir) || tree.has(dir, Flag.unreadable)) return undefined;
  const [from, to] = tree.children(dir);
  const names = Array.from({ length: to - from }, (_, i) => tree.name(from + i));
  return {
    names,
    fill(into: Tree, row: number, i: number) {
      tree.copyRow(from + i, into, row, "");
    },
  };
}

/** Names that a look at a few directories found to have others, which may be anywhere. */
const hasNewHardLinks = (tree: Tree) => tree.hasInodes(/^\d+:/);

function problemOf({ source, target }: Transfer, at: Scan, there: Scan): EfError | undefined {
  const all = [
    ...at.problems.map((problem) => ({ ...problem, root: source })),
    ...there.problems.map((problem) => ({ ...problem, root: target })),
  ];
  const [first] = all;
  if (!first) return undefined;
  const path = `${first.root}/${display(first.path)}`;
  const more = all.length > 1 ? ` (and ${plural(all.length - 1, "other")})` : "";
  return new EfError("TRANSFER_PARTIAL", `Cannot read ${path}: ${reasonOf(first.error)}${more}`, {
    hint: "mend its permissions, or leave it out: ef config set ef.vars.NAME.exclude '[\"PATTERN\"]'",
    path,
    cause: first.error,
  });
}
