/**
 * The whole tree by one rsync process, for arguments that say which files are copied or deleted: only rsync knows what it
 * will do, so its dry run is the plan, and what that leaves out does not count as missing.
 *
 * The comparison of both trees is still made: it knows what a job changed on scratch, which rsync is told to leave alone,
 * and what is there becomes the base of the next sync. Files get the source's times: by others rsync would take them for
 * changed.
 */
import { lstatSync, readdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { type ByteString, bytesOf, display, osPath } from "../base/bytes.ts";
import { EfError, errnoOf } from "../base/errors.ts";
import { lastLines } from "../base/exec.ts";
import { plural } from "../base/units.ts";
import {
  parseDeleted,
  parseItem,
  parseProgress,
  parseSkipped,
  type RsyncItem,
  type RsyncTree,
  rsync,
  treeArgv,
  unescapeName,
} from "../drivers/rsync.ts";
import { sidesOf } from "./builtin.ts";
import { compareTrees } from "./comparing.ts";
import { type Diff, Do } from "./diff.ts";
import { type CopyOptions, type Engine, namesKept, type Transfer, type TransferPlan } from "./engine.ts";
import { lineReader, type RsyncOptions } from "./rsync-lists.ts";
import type { Storage } from "./storage.ts";
import { blockBytes, emptyPlan } from "./tally.ts";
import { tempDirFor } from "./temp.ts";

/** Arguments by which rsync copies what a link points to. */
const following = /^(-[a-zA-Z0-9]*[Lk][a-zA-Z0-9]*|--copy-(links|unsafe-links|dirlinks))$/;

export function wholeTreeEngine(
  options: RsyncOptions,
  version: (signal: AbortSignal | undefined) => Promise<number>,
): Engine {
  const followsLinks = options.extraArgs.some((arg) => following.test(arg));
  const prepare = async (transfer: Transfer, diff: Diff, signal: AbortSignal | undefined): Promise<Call> => {
    const number = await version(signal);
    return {
      command: {
        ...{ source: transfer.source, target: transfer.target, exclude: transfer.exclude, filterStdin: true },
        ...directoryArgs(transfer.target),
        nonRegular: number >= 30_204,
        nanoseconds: number >= 30_103 && storesNanoseconds(transfer.target),
        bytesPerS: options.bytesPerS,
        xattrs: options.xattrs,
        extraArgs: options.extraArgs,
      },
      kept: keptRows(transfer, diff, followsLinks),
    };
  };
  return {
    name: "rsync",
    async compare(transfer, compareOptions) {
      const { source: _, ...look } = compareOptions; // by then it may be another: the dry run reads it again too
      const sides = look.sides ?? (await sidesOf(options.workers));
      const comparison = await compareTrees({ ...transfer, arrivalNs: undefined }, sides, look, options.pass);
      const { signal, allNames = false } = compareOptions;
      const call = await prepare(transfer, comparison.diff, signal);
      const plan = await planOf(
        transfer,
        comparison.diff,
        call,
        signal,
        allNames ? Number.POSITIVE_INFINITY : namesKept,
      );
      return { ...comparison, plan };
    },
    async copy(transfer, { diff, sides }, copyOptions) {
      const call = await prepare(transfer, diff, copyOptions.signal);
      const warnings = await copyWith(transfer, call, diff, copyOptions);
      if (options.verify) await verify(transfer, call, diff, copyOptions.signal);
      await removeOrphans(transfer, diff, sides.target);
      if (transfer.arrivalNs !== undefined)
        warnings.push("files have the source's times: ef.transfer.times has no effect with these rsync_extra_args");
      return { warnings };
    },
  };
}

/** One call of rsync, and the rows of the source that it is told to leave alone. */
interface Call {
  command: RsyncTree;
  kept: ReadonlySet<number>;
}

/** What the directory of the copy says of those below it; one that is a colleague's keeps its own times. */
function directoryArgs(target: string): Pick<RsyncTree, "setgid" | "groupWritable" | "omitDirTimes"> {
  const stat = statSync(target, { throwIfNoEntry: false });
  return {
    setgid: stat !== undefined && (stat.mode & 0o2000) !== 0,
    groupWritable: stat !== undefined && (stat.mode & 0o2020) === 0o2020,
    omitDirTimes: stat !== undefined && stat.uid !== process.geteuid?.(),
  };
}

/**
 * Does the file system of the target keep nanoseconds? Comparing them on one that does not (whole seconds, or the 100 ns
 * of CIFS) would copy everything every time. Told by the directory where ef writes its files, and what is in it: a single time is
 * a multiple of 100 ns by chance once in a hundred.
 */
export function storesNanoseconds(target: string): boolean {
  const dir = dirname(target);
  let names: Buffer[] = [];
  try {
    names = readdirSync(dir, { encoding: "buffer" });
  } catch {
    // Not there (a dry run makes none), or not ours to list: then its own time has to do.
  }
  const paths = [dir, ...names.map((name) => Buffer.concat([Buffer.from(`${dir}/`), name]))];
  return paths.some((path) => {
    const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    return stat !== undefined && [stat.mtimeNs, stat.ctimeNs].some((time) => time % 100n !== 0n);
  });
}

/** A job's work on scratch. Where links are followed, a file there is no sign of one: then times have to tell. */
function keptRows({ source, target, workSince }: Transfer, diff: Diff, followsLinks: boolean): Set<number> {
  const kept = new Set<number>();
  for (const [row, what] of diff.todo.entries()) {
    if (what !== Do.keep) continue;
    if (followsLinks && diff.source.kind(row) === "link") {
      const path = diff.source.path(row);
      const [there, here] = [source, target].map((root) =>
        statSync(osPath(`${bytesOf(root)}/${path}`), { throwIfNoEntry: false }),
      );
      const isWork = here && there && here.mtimeMs > workSince * 1000 && here.mtimeMs > there.mtimeMs;
      if (!isWork) continue;
    }
    kept.add(row);
  }
  return kept;
}

/** Temporary files of ef's own, as {@link isTemp} knows them. */
const temporary = [".ef-tmp-*-*-????????????????-*", ".ef-part-????????????????"];

/**
 * Filter rules for stdin: what is left alone is neither copied nor, with `--delete-excluded`, deleted.
 *
 * A backslash escapes only where there is a wildcard (rsync(1), PATTERN MATCHING RULES); a line cannot hold a line break,
 * so `?` stands for it.
 */
function rulesFor({ source }: Diff, kept: ReadonlySet<number>): Buffer {
  const patterns = [...temporary];
  for (const row of kept) {
    const path = source.path(row);
    const escaped = /[*?[\n\r]/.test(path) ? path.replace(/[\\*?[]/g, "\\$&").replace(/[\n\r]/g, "?") : path;
    patterns.push(`/${escaped}`);
  }
  return Buffer.from(patterns.map((pattern) => `- ${pattern}\nP ${pattern}\n`).join(""), "latin1");
}

/** Compare the trees by a dry run. What it cannot read is a problem for the copy, which meets the same files again. */
async function planOf(
  transfer: Transfer,
  diff: Diff,
  { command, kept }: Call,
  signal: AbortSignal | undefined,
  keep: number,
): Promise<TransferPlan> {
  const { source, target, todo, remove } = diff;
  const plan: TransferPlan = { ...emptyPlan(), purged: diff.purged };
  const note = (name: string) => void (plan.names.length < keep && plan.names.push(name));
  const special = new Map([...kept, ...rowsThat(diff, Do.blocked)].map((row) => [source.path(row), row]));
  const deleted = new Set<ByteString>();
  let largestReplaced = 0;
  const take = (item: RsyncItem) => {
    if (item.kind === "dir" && item.action === "touch") return;
    const name = unescapeName(item.name).toString("latin1");
    const path = name.replace(/\/$/, "");
    const known = special.get(path);
    if (known !== undefined) return void (todo[known] === Do.keep ? plan.kept : plan.blocked).push(display(path));
    note(display(name));
    if (item.kind === "file" && item.action === "create") plan.links++;
    else if (item.isNew) plan.newInodes++;
    if (item.kind !== "file") return;
    if (item.action === "touch") plan.attributes++;
    if (item.action !== "copy") return;
    plan.files++;
    plan.bytes += item.sizeBytes;
    const row = source.allocated.size > 0 ? source.find(path) : undefined;
    const size = blocksOf(source.allocated.get(row ?? -1) ?? item.sizeBytes);
    const here = item.isNew ? undefined : target.find(path);
    plan.needBytes += Math.max(0, size - (here === undefined ? 0 : blocksOf(target.size[here] as number)));
    if (!item.isNew) largestReplaced = Math.max(largestReplaced, size);
  };
  const lines = lineReader((line) => {
    const skipped = parseSkipped(line);
    const gone = parseDeleted(line);
    const item = parseItem(line);
    if (skipped !== undefined) plan.skipped.push(display(unescapeName(skipped).toString("latin1")));
    else if (gone !== undefined) deleted.add(unescapeName(gone).toString("latin1"));
    else if (item) take(item);
  });
  // Without those rules: to be named as kept, a job's work must be in rsync's way.
  const { code, stderr } = await rsync(treeArgv({ ...command, dryRun: true }), {
    path: transfer.target,
    signal,
    input: rulesFor(diff, new Set()),
    onText: lines.push,
  });
  lines.end();
  for (const row of remove) deleted.add(target.path(row) + (target.kind(row) === "dir" ? "/" : ""));
  for (const name of deleted) note(`delete ${display(name)}`);
  plan.deleted = deleted.size;
  plan.needBytes += largestReplaced;
  return code === 23 ? { ...plan, problem: partialError(transfer, stderr) } : plan;
}

const blocksOf = (bytes: number) => Math.ceil(bytes / blockBytes) * blockBytes;

function* rowsThat({ todo }: Diff, what: Do): Generator<number> {
  for (const [row, one] of todo.entries()) if (one === what) yield row;
}

/**
 * Copy; files that vanish at the source meanwhile (exit 24) get one more try, as a tree that is being worked on is
 * mostly whole a moment later. What could not be copied (23) is a failure.
 *
 * @returns warnings
 */
async function copyWith(
  transfer: Transfer,
  { command, kept }: Call,
  diff: Diff,
  { signal, onProgress }: CopyOptions,
): Promise<string[]> {
  const { source, target, tempPrefix, lockFd } = transfer;
  using temp = tempPrefix === undefined ? undefined : tempDirFor(target, tempPrefix);
  // A rename is atomic only within a file system: `target` may be a link to another one.
  const isNear = temp !== undefined && statSync(temp.path).dev === statSync(target).dev;
  const once = () => {
    let before = "";
    return rsync(treeArgv({ ...command, tempDir: isNear ? temp.path : undefined }), {
      path: target,
      signal,
      inheritFd: lockFd,
      input: rulesFor(diff, kept),
      onText(text) {
        before = (before + text).slice(-200);
        const progress = parseProgress(before);
        if (progress) onProgress?.({ bytes: progress.bytes, files: progress.files ?? 0 });
      },
    });
  };
  let { code, stderr } = await once();
  if (code === 24) ({ code, stderr } = await once());
  if (code === 23) throw partialError({ source, target }, stderr);
  if (code === 0) return stderr.trim() === "" ? [] : [`rsync says:${lastLines(stderr)}`];
  const vanished = stderr.split("\n").filter((line) => line.startsWith("file has vanished"));
  return [
    `${plural(vanished.length, "file")} vanished at the source while it was copied${lastLines(vanished.join("\n"))}`,
  ];
}

/** Have rsync compare contents: it may find no file to be copied. */
async function verify(
  { source, target }: Transfer,
  { command, kept }: Call,
  diff: Diff,
  signal: AbortSignal | undefined,
): Promise<void> {
  const differing: string[] = [];
  const lines = lineReader((line) => {
    const item = parseItem(line);
    if (item?.kind === "file" && item.action === "copy")
      differing.push(display(unescapeName(item.name).toString("latin1")));
  });
  await rsync(treeArgv({ ...command, checksum: true, dryRun: true }), {
    path: target,
    signal,
    input: rulesFor(diff, kept),
    onText: lines.push,
  });
  lines.end();
  const [first, ...more] = differing;
  if (first === undefined) return;
  const others = more.length > 0 ? ` (and ${plural(more.length, "other")})` : "";
  throw new EfError(
    "TRANSFER_PARTIAL",
    `Cannot verify ${target}/${first}${others}: its contents are not the source's`,
    {
      hint: `is something writing to ${source} or to the copy? Run it again`,
      path: `${target}/${first}`,
    },
  );
}

/** Delete what `mirror` deletes, and give the directories that it was in the source's times again. */
async function removeOrphans({ target }: Transfer, diff: Diff, storage: Storage): Promise<void> {
  const to = bytesOf(target);
  const touched = new Set<number>();
  for (const row of diff.remove) {
    const at = `${to}/${diff.target.path(row)}`;
    try {
      await (diff.target.kind(row) === "dir" ? storage.rmdir(at) : storage.unlink(at));
    } catch (error) {
      const code = errnoOf(error);
      if (code !== "ENOENT" && code !== "ENOTEMPTY" && code !== "EEXIST") throw error;
    }
    const dir = diff.source.find(diff.target.path(diff.target.parent[row] as number));
    if (dir !== undefined) touched.add(dir);
  }
  for (const dir of touched) {
    const path = diff.source.path(dir);
    try {
      await storage.setTimes(path === "" ? to : `${to}/${path}`, diff.source.mtime[dir] as bigint);
    } catch {
      // a colleague's directory, which keeps its own times
    }
  }
}

/** What rsync could not copy, in its own words. */
function partialError({ source, target }: Pick<Transfer, "source" | "target">, stderr: string): EfError {
  const message = `Cannot copy all of ${source} to ${target}: rsync exit 23${lastLines(stderr)}`;
  return new EfError("TRANSFER_PARTIAL", message, {
    hint: "mend what it names (permissions? quota?), then run it again: it goes on where it stopped",
    path: source,
  });
}
