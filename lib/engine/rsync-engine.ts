/**
 * rsync as the engine: for arguments that only it knows, and where a site wants it.
 *
 * It looks and decides as ef's own engine does, and hands the files to several rsync processes ({@link bringByRsync}).
 * Arguments of the user's that say which files are copied or deleted cannot be split so: then one process walks the whole
 * tree, and says itself what it will do ({@link wholeTreeEngine}).
 */
import { lstatSync } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { lastLines } from "../base/exec.ts";
import {
  effectOf,
  listArgv,
  nameList,
  type RsyncVersion,
  requireRsync,
  rsync,
  rsyncVersion,
} from "../drivers/rsync.ts";
import { copyTree, sidesOf } from "./builtin.ts";
import type { Failure } from "./carrying.ts";
import { compareTrees } from "./comparing.ts";
import type { Copying } from "./copy-file.ts";
import { type Diff, Do } from "./diff.ts";
import type { Engine } from "./engine.ts";
import { bringByRsync, type Lists, type RsyncOptions, saysOnly } from "./rsync-lists.ts";
import { removeRsyncTemps } from "./rsync-temps.ts";
import { wholeTreeEngine } from "./rsync-whole.ts";

/** @throws {EfError} TOOL_MISSING */
export function rsyncEngine(options: RsyncOptions): Engine {
  requireRsync();
  let asked: Promise<RsyncVersion> | undefined;
  const version = async (signal: AbortSignal | undefined) => {
    asked ??= rsyncVersion(signal);
    return (await asked).number;
  };
  if (effectOf(options.extraArgs) === "selection") return wholeTreeEngine(options, version);
  return listEngine(options, version);
}

function listEngine(options: RsyncOptions, version: (signal: AbortSignal | undefined) => Promise<number>): Engine {
  const setsAttributes = effectOf(options.extraArgs) === "attributes";
  return {
    name: "rsync",
    async compare(transfer, compareOptions) {
      const sides = compareOptions.sides ?? (await sidesOf(options.workers));
      return compareTrees(transfer, sides, compareOptions, options.pass);
    },
    async copy(transfer, comparison, copyOptions) {
      const { signal } = copyOptions;
      const lists: Lists = {
        ...options,
        ...{ transfer, signal, setsAttributes, said: [] },
        nanoseconds: (await version(signal)) >= 30_103,
      };
      // rsync is not taken at its word: what is there is looked at after the copy.
      const { trust: _, ...report } = await copyTree(transfer, comparison, options, copyOptions, {
        async files(job, failures, cx) {
          await removeRsyncTemps(comparison, transfer.past.base, cx, signal);
          await bringByRsync(job, failures, cx, lists);
        },
        finish: setsAttributes
          ? (diff, cx, { directories }, failures) => finishDirectories(diff, cx, directories, lists, failures)
          : undefined,
      });
      return { ...report, warnings: [...report.warnings, ...lists.said] };
    },
  };
}

/**
 * Times and modes of directories, where the user's arguments have a say in them.
 *
 * @returns that something may have changed: it does not say
 */
async function finishDirectories(
  diff: Diff,
  cx: Copying,
  directories: { setgid: boolean; groupWritable: boolean },
  { transfer, signal, xattrs, extraArgs }: Lists,
  failures: Failure[],
): Promise<number> {
  const { source, target, arrivalNs, lockFd } = transfer;
  const isOwn = lstatSync(target).uid === process.geteuid?.();
  const argv = listArgv({
    ...{ source, target, xattrs, extraArgs, which: "differing" },
    directories: { ...directories, omitDirTimes: arrivalNs !== undefined || !isOwn },
  });
  const input = nameList(directoriesOf(diff));
  const { code, stderr } = await rsync(argv, { path: target, signal, inheritFd: lockFd, input });
  // A colleague's keeps its own modes and times.
  if (code === 23 && !saysOnly(stderr, /Operation not permitted \(1\)$/))
    failures.push({ path: ".", error: new Error(`rsync exit 23${lastLines(stderr)}`) });
  if (arrivalNs === undefined && isOwn) await cx.target.setTimes(cx.to, diff.source.mtime[0] as bigint);
  return 1;
}

/** The directories of the source that are on the target too; but the root, with which rsync would copy what is in it. */
function* directoriesOf({ source, target, todo, there }: Diff): Generator<ByteString> {
  for (let row = 1; row < source.length; row++) {
    if (source.kind(row) !== "dir" || todo[row] === Do.blocked) continue;
    const here = (there[row] as number) - 1;
    if (todo[row] === Do.mkdir || (here >= 0 && target.kind(here) === "dir")) yield source.path(row);
  }
}
