/**
 * The copy of a whole directory that may replace it: everything in it, checked entry by entry.
 *
 * Unlike a sync nothing is left out: neither by patterns, nor what a sync skips (temporary files of ef that a killed push
 * left at the source are brought by themselves, as a scan hides them; FIFOs, sockets and devices are refused).
 */
import { statSync } from "node:fs";
import { type ByteString, bytesOf, display } from "../base/bytes.ts";
import { EfError, reasonOf } from "../base/errors.ts";
import { walk } from "../base/steps.ts";
import { span } from "../base/trace.ts";
import { humanCount, plural } from "../base/units.ts";
import { type BuiltinOptions, copyingBetween, copyTree } from "./builtin.ts";
import { compareTrees, settled } from "./comparing.ts";
import { compareContents, contentsToRead } from "./contents.ts";
import { copySmall, oneGo } from "./copy-file.ts";
import { copyLarge } from "./copy-large.ts";
import { type DifferenceKind, differenceKinds, differences } from "./differences.ts";
import { directoryMode, rulesOf } from "./directories.ts";
import type { Comparison, Sides, Transfer, TransferPlan } from "./engine.ts";
import { Gauge } from "./gauge.ts";
import type { Move } from "./move-checks.ts";
import { type Facts, Verified } from "./move-journal.ts";
import type { Scan } from "./scan.ts";
import type { Storage } from "./storage.ts";
import type { Tree } from "./tree.ts";

/** How often what changed meanwhile is brought once more. */
const rounds = 4;
/** How many names an error lists. */
const named = 5;

export interface MoveContext {
  sides: Sides;
  options: BuiltinOptions;
  /** Compare contents too. */
  checksum: boolean;
  signal: AbortSignal | undefined;
  onCopy: (plan: TransferPlan) => void;
  onVerify: () => void;
  /** Contents are about to be read: so many. */
  onRead: (files: number, bytes: number) => void;
  onProgress: (bytes: number, files: number) => void;
  onWarning: (message: string) => void;
}

/** Files of a tree, and their sizes; one with several names counts once for bytes. */
export interface Amount {
  files: number;
  bytes: number;
}

/**
 * Look at both places; nothing is written.
 *
 * @param source an earlier look at the old place that still counts
 * @throws {EfError} TRANSFER_PARTIAL for what cannot be moved
 */
export async function lookAtMove(
  move: Move,
  sides: Sides,
  signal: AbortSignal | undefined,
  source?: Scan,
): Promise<Comparison> {
  const comparison = await compareTrees(transferOf(move), sides, { signal, ...(source ? { source } : {}) });
  refuseUnmovable(move, comparison);
  return comparison;
}

export function amountOf({ source: { tree } }: Comparison): Amount {
  const amount = { files: 0, bytes: 0 };
  const seen = new Set<number>();
  for (let row = 1; row < tree.length; row++) {
    if (tree.kind(row) !== "file") continue;
    amount.files++;
    const inode = tree.inode[row] as number;
    if (inode === 0 || !seen.has(inode)) amount.bytes += tree.size[row] as number;
    if (inode !== 0) seen.add(inode);
  }
  return amount;
}

/**
 * Copy, and compare all of it, until the new place is what the old one is.
 *
 * @param first a comparison to begin with
 * @returns what was found to be the same, and the look at the old place by which it was
 * @throws {EfError} TRANSFER_PARTIAL, NO_SPACE, IO; the signal's reason. The next call goes on where this one stopped.
 */
export async function copyAndVerify(
  move: Move,
  first: Comparison,
  context: MoveContext,
): Promise<{ verified: Verified; tree: Tree }> {
  const transfer = transferOf(move);
  let comparison = first;
  for (let isMended = false; ; isMended = true) {
    comparison = await copyAll(move, comparison, context);
    const temps = await bringTemps(transfer, comparison, context);
    const { lines, otherContents } = await wrongsOf(move, comparison, context);
    const { source } = comparison;
    if (lines.length === 0) return { verified: Verified.of(source, temps), tree: source.tree };
    if (otherContents.length === 0 || isMended) throw notTheSame(move, lines);
    // Same size and time, other contents: a run that was interrupted while it mended environments. Brought anew, once.
    for (const path of otherContents) await context.sides.target.unlink(`${bytesOf(move.toReal)}/${path}`);
    comparison = await compareTrees(transfer, context.sides, { signal: context.signal });
  }
}

/** Is the old place still what was verified? @throws {EfError} TRANSFER_PARTIAL if not */
export async function assertUnchanged(move: Move, verified: Verified, { sides, signal }: MoveContext): Promise<void> {
  const options = { storage: sides.source, gauge: new Gauge(sides.workers), signal };
  const now = await settled(bytesOf(move.fromReal), options);
  const temps = now.temps.map(async (path) => [path, await factsOf(sides.source, move.fromReal, path)] as const);
  if (verified.equals(Verified.of(now, await Promise.all(temps)))) return;
  throw new EfError("TRANSFER_PARTIAL", `Cannot move ${move.what}: ${move.from} was changed while it was moved`, {
    hint: "stop what writes to it, then run it again: it goes on where it stopped",
    path: move.from,
  });
}

/** What is at the new place is all ef's: `checkEmpty` has seen to it, and no time makes it a job's (this one is in 2223). */
const transferOf = ({ fromReal, toReal }: Move): Transfer => ({
  ...{ source: fromReal, target: toReal, exclude: [], past: {}, mirror: false, workSince: 8e9 },
  ...{ arrivalNs: undefined, lockFd: undefined },
});

function refuseUnmovable({ what, from, to }: Move, { plan, source, target }: Comparison): void {
  if (plan.problem) throw plan.problem;
  if (source.tree.length === 1 && target.tree.length > 1) {
    throw new EfError("BAD_ROOT", `Cannot move ${what} from ${from} to ${to}: that is empty now, and was not before`, {
      hint: `is its file system mounted on this node? If it is to be empty: remove ${to}, then run it again`,
      path: from,
    });
  }
  const refuse = (why: string, names: readonly string[], root: string, hint: string) => {
    const more = names.length > named ? `\n  and ${humanCount(names.length - named)} more` : "";
    const list = names.slice(0, named).map((name) => `\n  ${root}/${name}`);
    throw new EfError("TRANSFER_PARTIAL", `Cannot move ${what} from ${from} to ${to}: ${why}:${list.join("")}${more}`, {
      hint,
      path: `${root}/${names[0]}`,
    });
  };
  if (plan.skipped.length > 0)
    refuse("these are no files, directories or links", plan.skipped, from, "remove them, or move them away");
  if (plan.blocked.length > 0) refuse("something of another type is there", plan.blocked, to, "remove that");
}

const isWork = ({ files, newInodes, links, symlinks, attributes }: TransferPlan) =>
  files + newInodes + links + symlinks + attributes > 0;

/** Copy until there is nothing left to copy. */
async function copyAll(move: Move, first: Comparison, context: MoveContext): Promise<Comparison> {
  const { signal, sides } = context;
  const transfer = transferOf(move);
  let comparison = first;
  for (let round = 0; round === 0 || isWork(comparison.plan); round++) {
    refuseUnmovable(move, comparison);
    if (round === rounds) throw stillChanging(move, comparison);
    context.onCopy(comparison.plan);
    const copy = copyTree(transfer, comparison, context.options, {
      signal,
      onProgress: ({ bytes, files }) => context.onProgress(bytes, files),
    });
    for (const message of (await span("copy", () => copy)).warnings) context.onWarning(message);
    context.onVerify();
    comparison = await span("verify", () => compareTrees(transfer, sides, { signal }));
  }
  refuseUnmovable(move, comparison);
  return comparison;
}

/** Files with names of ef's own temporary files. */
async function bringTemps(
  transfer: Transfer,
  { source }: Comparison,
  { options, signal, sides, onWarning }: MoveContext,
): Promise<[ByteString, Facts][]> {
  const brought: [ByteString, Facts][] = [];
  if (source.temps.length === 0) return brought;
  const warnings: string[] = [];
  const cx = await copyingBetween(transfer, options, { signal, progress: { bytes: 0, files: 0 }, warnings, sides });
  for (const path of source.temps) {
    const stat = await cx.source.lstat(`${cx.from}/${path}`);
    const there = await cx.target.lookUp(`${cx.to}/${path}`);
    const item = { path, mode: Number(stat.mode), size: Number(stat.size), mtimeNs: stat.mtimeNs, hasHoles: false };
    const replaces = there && { size: Number(there.size), mtimeNs: there.mtimeNs };
    const isThere = replaces?.size === item.size && replaces.mtimeNs === item.mtimeNs;
    if (!stat.isFile()) throw notCopied(cx.from, path, "its name is one of ef's temporary files, and it is no file");
    const one = { ...item, replaces };
    const outcome = isThere
      ? "copied"
      : await walk(item.size <= oneGo ? copySmall(cx, one) : copyLarge(cx, one, signal));
    if (outcome !== "copied") throw notCopied(cx.from, path, "it changed meanwhile");
    brought.push([path, { kind: "file", size: item.size, mtimeNs: item.mtimeNs }]);
  }
  for (const path of source.temps) {
    const dir = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    await cx.target.setTimes(`${cx.to}/${dir}`, source.tree.mtime[source.tree.find(dir) ?? 0] as bigint);
  }
  warnings.forEach(onWarning);
  return brought;
}

function notCopied(root: ByteString, path: ByteString, why: string): EfError {
  const name = display(`${root}/${path}`);
  return new EfError("TRANSFER_PARTIAL", `Cannot copy ${name}: ${why}`, {
    hint: "is an ef push writing there? Else remove it, then run it again",
    path: name,
  });
}

async function factsOf(storage: Storage, root: string, path: ByteString): Promise<Facts> {
  const stat = await storage.lookUp(`${bytesOf(root)}/${path}`);
  const kind = stat?.isFile() ? "file" : "other";
  return { kind, size: Number(stat?.size ?? 0), mtimeNs: stat?.mtimeNs ?? 0n };
}

const labels: Partial<Record<DifferenceKind, string>> = {
  missing: "missing at the new place",
  changed: "another file at the new place",
  type: "of another type",
  size: "of another size",
  time: "of another time",
  mode: "of another mode",
  target: "a link that points elsewhere",
  hardLinks: "hard-linked otherwise",
  contents: "of other contents",
  unreadable: "not comparable",
};

/** In what the new place is not what the old one is: a line for each kind. */
async function wrongsOf(
  move: Move,
  comparison: Comparison,
  context: MoveContext,
): Promise<{ lines: string[]; otherContents: ByteString[] }> {
  const { source, target, sides, diff } = comparison;
  const found = differences(comparison, undefined, false);
  const otherContents: ByteString[] = [];
  const rules = rulesOf(statSync(move.toReal));
  for (let row = 1; row < source.tree.length; row++) {
    const there = (diff.there[row] as number) - 1;
    if (source.tree.kind(row) !== "dir" || there < 0) continue;
    if (directoryMode(source.tree.permissions(row), rules) !== target.tree.permissions(there))
      found.note("mode", `${display(source.tree.path(row))}/`);
  }
  if (context.checksum) {
    const pairs = { source: source.tree, target: target.tree, alike: found.alike };
    const total = contentsToRead(pairs);
    const done = { bytes: 0, files: 0 };
    context.onRead(total.files, total.bytes);
    await compareContents(pairs, { from: bytesOf(move.fromReal), to: bytesOf(move.toReal) }, sides, {
      signal: context.signal,
      throttle: context.options.pass,
      onProgress(bytes, files) {
        done.bytes += bytes;
        done.files += files;
        context.onProgress(done.bytes, done.files);
      },
      onDifferent(path) {
        otherContents.push(path);
        found.note("contents", display(path));
      },
      onProblem: (path, side, error) =>
        found.note("unreadable", `${display(path)} (${side === "source" ? "old" : "new"} place: ${reasonOf(error)})`),
    });
  }
  const { extra } = found.findings;
  if (extra.count > 0)
    context.onWarning(`${plural(extra.count, "entry", "entries")} at the new place only, kept: ${extra.names[0]}`);
  const lines = differenceKinds.flatMap((kind) => {
    const { count, names } = found.findings[kind];
    if (count === 0) return [];
    const more = count > named ? ", …" : "";
    return [`${humanCount(count)} ${labels[kind]}: ${names.slice(0, named).join(", ")}${more}`];
  });
  return { lines, otherContents };
}

function notTheSame({ what, from, to }: Move, lines: readonly string[]): EfError {
  const list = lines.map((line) => `\n  ${line}`).join("");
  return new EfError("TRANSFER_PARTIAL", `Cannot move ${what}: ${to} is not what ${from} is:${list}`, {
    hint: "mend what it names, then run it again: it goes on where it stopped",
    path: to,
  });
}

function stillChanging({ what, from }: Move, { plan }: Comparison): EfError {
  const names = plan.names.slice(0, named).join(", ");
  return new EfError("TRANSFER_PARTIAL", `Cannot move ${what}: ${from} keeps changing while it is copied: ${names}`, {
    hint: "stop what writes to it, then run it again: it goes on where it stopped",
    path: from,
  });
}
