/**
 * rsync, 3.1 to 3.5: its arguments, its output, its exit codes.
 *
 * @see https://download.samba.org/pub/rsync/rsync.1
 */
import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import { EfError } from "../base/errors.ts";
import { lastLines, run } from "../base/exec.ts";

interface Roots {
  /** Its contents are copied; a real directory. */
  source: string;
  target: string;
  /** Bytes per second. */
  bytesPerS?: number | undefined;
  /** Extended attributes and ACLs too. */
  xattrs?: boolean;
  /** As the user gave them. */
  extraArgs?: readonly string[];
  /** Compare contents, not only size and time. */
  checksum?: boolean;
  /** Compare only, and list what would change. */
  dryRun?: boolean;
}

/** What new directories of the target get, and whether times can be set. */
export interface DirectoryArgs {
  /** Do they carry the set-group-id bit? */
  setgid?: boolean;
  /** May the group write to them? */
  groupWritable?: boolean;
  /** Leave the times of directories alone: those of others cannot be set. */
  omitDirTimes?: boolean;
}

/** A whole tree by one process. */
export interface RsyncTree extends Roots, DirectoryArgs {
  exclude?: readonly string[];
  /** Are filter rules given on stdin? They come before `exclude`. */
  filterStdin?: boolean;
  /** Absolute path on the target's file system. rsync renames from there, so no half file is ever in `target`. */
  tempDir?: string | undefined;
  /** Say which FIFOs, sockets and devices are left out: rsync 3.2.4 or newer must be asked, older ones always do. */
  nonRegular?: boolean;
  /** Compare modification times to the nanosecond: an edit in the same second is seen. rsync 3.1.3 or newer. */
  nanoseconds?: boolean;
}

/** The names that come on stdin ({@link nameList}), and nothing below them. */
export interface RsyncList extends Roots {
  /**
   * What is done with them. `new`: copied, where nothing is. `over`: copied, whatever is there. `differing`: copied, or
   * only given their attributes, where size or time differ.
   */
  which: "new" | "over" | "differing";
  /** Keep holes. */
  sparse?: boolean;
  /** Set modification times to the nanosecond in every case. rsync 3.1.3 or newer. */
  nanoseconds?: boolean;
  /** Are the names directories, and what is done to them. Their own times and modes are set, and none of others. */
  directories?: DirectoryArgs;
}

/**
 * The command line for a whole tree.
 *
 * Not `-a`: owner and group follow the target directory (a copied group hits the quota of project directories), devices
 * and FIFOs are left out. `-H` and `-S` keep hard links and holes.
 */
export function treeArgv(copy: RsyncTree): string[] {
  return [
    "rsync",
    "-rlptHS",
    ...directoryArgs(copy),
    ...(copy.tempDir && !copy.dryRun ? [`--temp-dir=${copy.tempDir}`] : []),
    ...(copy.nanoseconds ? ["--modify-window=-1"] : []),
    ...commonArgs(copy),
    ...(copy.filterStdin ? ["--filter=merge -"] : []),
    ...(copy.exclude ?? []).map((pattern) => `--exclude=${pattern}`),
    ...(copy.extraArgs ?? []),
    ...lastArgs(copy, copy.nonRegular ? ",NONREG" : ""),
  ];
}

/** The command line for a list of names. Directories above them must be there: they are none of its business. */
export function listArgv(copy: RsyncList): string[] {
  const { which, directories } = copy;
  return [
    "rsync",
    directories ? "-lptd" : "-lpt",
    "--no-implied-dirs",
    ...(directories ? directoryArgs(directories) : []),
    ...(copy.sparse ? ["--sparse"] : []),
    ...(which === "differing" ? [] : ["--ignore-times"]),
    ...(which === "new" ? ["--ignore-existing"] : []),
    ...(copy.nanoseconds ? ["--modify-window=-1"] : []),
    ...commonArgs(copy),
    ...(copy.extraArgs ?? []),
    "--no-recursive", // `-a` among the user's
    "--from0",
    "--files-from=-",
    ...lastArgs(copy),
  ];
}

function directoryArgs({ setgid, groupWritable, omitDirTimes }: DirectoryArgs): string[] {
  const chmod = `--chmod=${setgid ? "Dg+s" : "Dg-s"}${groupWritable ? ",Dg+w" : ""}`;
  return omitDirTimes ? [chmod, "--omit-dir-times"] : [chmod];
}

/** Its own unit of a rate, in bytes per second; less cannot be said. */
export const leastBytesPerS = 1024;

function commonArgs({ bytesPerS, xattrs, checksum }: Roots): string[] {
  return [
    ...(bytesPerS === undefined ? [] : [`--bwlimit=${Math.max(1, Math.floor(bytesPerS / leastBytesPerS))}`]),
    ...(xattrs ? ["-AX"] : []),
    ...(checksum ? ["--checksum"] : []),
  ];
}

/** Ours come last: what rsync prints is read. */
function lastArgs({ source, target, dryRun }: Roots, info = ""): string[] {
  return [
    "--8-bit-output",
    ...(dryRun
      ? ["--dry-run", `--info=NONE${info}`, "--out-format=%i %l %n"]
      : ["--info=NONE,PROGRESS2", "--no-human-readable", "--outbuf=Line"]),
    "--",
    `${source.replace(/\/*$/, "")}/`,
    `${target.replace(/\/*$/, "")}/`,
  ];
}

/**
 * Names as `--files-from=- --from0` reads them. Each begins with `./`: rsync takes one that begins with `#` or `;` for a
 * comment, also where names end in NUL.
 *
 * @param paths byte strings, relative to the source; never "" for itself: with it comes what is in it
 */
export function nameList(paths: Iterable<string>): Buffer {
  const names: string[] = [];
  for (const path of paths) names.push(`./${path}\0`);
  return Buffer.from(names.join(""), "latin1");
}

/** Arguments with which rsync copies nothing, or does not say what it copies. */
const harmful =
  /^(-[a-zA-Z]*[nqhV][a-zA-Z]*|--dry-run|--list-only|--help|--version|--quiet|--daemon|--server|--out-format.*)$/;
/** Arguments that clear the patterns given so far: those that keep a job's files from being overwritten too. */
const clearing = /^(--(include|exclude|filter)=|-f)(!|clear)$/;
const takesPattern = /^(--(include|exclude|filter)|-f)$/;

/**
 * Refuse extra arguments with which a copy would not be one.
 *
 * @throws {EfError} CONFIG_INVALID
 */
export function checkExtraArgs(args: readonly string[]): void {
  const cleared = args.find((arg, i) => clearing.test(takesPattern.test(args[i - 1] ?? "") ? `-f${arg}` : arg));
  if (cleared !== undefined) {
    const why = "clears ef's own patterns too, which keep a job's files from being overwritten";
    throw new EfError("CONFIG_INVALID", `Cannot use rsync_extra_args: ${cleared} ${why}`, {
      hint: "take it out with: ef config edit",
    });
  }
  const bad = args.find((arg) => harmful.test(arg));
  if (bad === undefined) return;
  throw new EfError(
    "CONFIG_INVALID",
    `Cannot use rsync_extra_args: with ${bad} rsync copies nothing, or does not tell what`,
    {
      hint: "take it out with: ef config edit",
    },
  );
}

const words = (text: string) => new Set(text.split(" "));
/** Options that say neither which files are copied nor what attributes they get. */
const plain = words(
  "z compress no-compress no-z compress-choice zc compress-level zl skip-compress W whole-file no-whole-file no-W " +
    "inplace no-inplace P partial no-partial progress no-progress stats v verbose no-verbose no-v human-readable " +
    "no-human-readable no-h info debug i itemize-changes msgs2stderr stderr outbuf 8 8-bit-output bwlimit block-size " +
    "fsync preallocate y fuzzy no-fuzzy S sparse no-sparse no-S H hard-links l links t times r recursive T temp-dir " +
    "timeout checksum-choice cc checksum-seed blocking-io s protect-args secluded-args open-noatime max-alloc",
);
/** Options that say what attributes files and directories get. */
const attributes = words(
  "a archive p perms no-perms no-p E executability chmod o owner no-owner no-o g group no-group no-g chown usermap " +
    "groupmap numeric-ids A acls no-acls no-A X xattrs no-xattrs no-X O omit-dir-times no-omit-dir-times no-O J " +
    "omit-link-times no-omit-link-times no-J U atimes no-atimes N crtimes super fake-super D no-D devices no-devices " +
    "specials no-specials",
);
/** Those of both whose value may be the next argument. */
const valued = words(
  "compress-choice zc compress-level zl skip-compress info debug stderr outbuf bwlimit block-size T temp-dir timeout " +
    "checksum-choice cc checksum-seed max-alloc chmod chown usermap groupmap",
);

/**
 * What extra arguments change: which files are copied (or deleted), what attributes they get, or neither. Whatever is not
 * known is taken for the first.
 */
export function effectOf(args: readonly string[]): "selection" | "attributes" | "neither" {
  let result: "attributes" | "neither" = "neither";
  for (let i = 0; i < args.length; i++) {
    const [, name, value] = /^--([^=]+)(=.*)?$/s.exec(args[i] as string) ?? [];
    const options = name === undefined ? [...(/^-([A-Za-z0-9]+)$/.exec(args[i] as string)?.[1] ?? "?")] : [name];
    for (const option of options) {
      if (attributes.has(option)) result = "attributes";
      else if (!plain.has(option)) return "selection";
    }
    if (value === undefined && valued.has(options.at(-1) ?? "")) i++;
  }
  return result;
}

/** Messages in English and names as they are, whatever the user's locale. */
const env = () => ({ ...process.env, LC_ALL: "C" });

const instead = "ef needs no rsync: ef config set ef.transfer.engine builtin";

/**
 * Find out that there is one, before anything is done.
 *
 * @throws {EfError} TOOL_MISSING
 */
export function requireRsync(path = process.env.PATH ?? ""): void {
  const isThere = (dir: string) => {
    try {
      accessSync(join(dir, "rsync"), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  };
  if (path.split(":").some(isThere)) return;
  throw new EfError("TOOL_MISSING", "Cannot run rsync: it is not installed, or not on PATH", { hint: instead });
}

/** Version of the installed rsync as one number (3.2.7 is 30207), and its first line. */
export interface RsyncVersion {
  number: number;
  line: string;
}

/** Read the first line of `rsync --version`; undefined for another program of that name (openrsync). */
export function parseVersion(text: string): RsyncVersion | undefined {
  const line = text.split("\n", 1)[0] ?? "";
  const found = /^rsync\s+version\s+v?(\d+)\.(\d+)(?:\.(\d+))?/.exec(line);
  if (!found) return undefined;
  const [major = 0, minor = 0, patch = 0] = found.slice(1).map((part) => Number(part ?? 0));
  return { number: major * 10_000 + minor * 100 + patch, line: line.replace(/\s+/g, " ") };
}

/**
 * Ask for rsync's version.
 *
 * @throws {EfError} TOOL_MISSING if there is none, or one that ef cannot use
 */
export async function rsyncVersion(signal?: AbortSignal): Promise<RsyncVersion> {
  const { stdout } = await run(["rsync", "--version"], { env: env(), signal });
  const version = parseVersion(stdout);
  if (version && version.number >= 30_100) return version;
  throw new EfError(
    "TOOL_MISSING",
    `Cannot use this rsync: ${stdout.split("\n", 1)[0] || "it does not tell its version"}`,
    {
      hint: `3.1 or newer will do (on a cluster try: module avail rsync), but ${instead}`,
    },
  );
}

/** One line of `--out-format='%i %l %n%L'`. */
export interface RsyncItem {
  /** `file`, `dir`, `link`, `other`. */
  kind: "file" | "dir" | "link" | "other";
  /** `copy`: contents move. `create`: an inode without contents (or a hard link). `touch`: only attributes change. */
  action: "copy" | "create" | "touch";
  /** Is it new on the target? */
  isNew: boolean;
  sizeBytes: number;
  /** Relative to the target; as rsync escapes it (`\#012` is a newline). */
  name: string;
}

/** Read one line of a dry run; undefined for any other line. */
export function parseItem(line: string): RsyncItem | undefined {
  const found = /^([<>ch.*])([fdLDS])(\S{9,10}) (\d+) (.*)$/s.exec(line);
  if (!found) return undefined;
  const [, update, type, attributes = "", size, name = ""] = found;
  return {
    kind: type === "f" ? "file" : type === "d" ? "dir" : type === "L" ? "link" : "other",
    action: update === ">" || update === "<" ? "copy" : update === "c" || update === "h" ? "create" : "touch",
    isNew: attributes.startsWith("+"),
    sizeBytes: Number(size),
    name,
  };
}

/** The name in `*deleting   x`, if the line says so (only with `--delete` in rsync_extra_args). */
export function parseDeleted(line: string): string | undefined {
  return /^\*deleting\s+(.*)$/s.exec(line)?.[1];
}

/** The name in `skipping non-regular file "x"`, if the line says so. */
export function parseSkipped(line: string): string | undefined {
  return /^skipping non-regular file "(.*)"$/s.exec(line)?.[1];
}

/** The bytes of a name that came as latin1 text with rsync's escapes: `\#ooo` is the byte with that octal number. */
export function unescapeName(name: string): Buffer {
  const plain = name.replace(/\\#([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
  return Buffer.from(plain, "latin1");
}

/**
 * Bytes and files so far from one piece of `--info=progress2` output (lines end in CR); undefined if it holds none.
 * The percentage is of what rsync has found so far, and of no use.
 */
export function parseProgress(text: string): { bytes: number; files: number | undefined } | undefined {
  const found = [...text.matchAll(/(?:^|[\r\n])\s*([\d,.]+)\s+\d+%\s+\S+\/s\s+[\d:]+(?:\s+\(xfr#(\d+))?/g)].at(-1);
  if (!found) return undefined;
  return {
    bytes: Number(found[1]?.replace(/[,.]/g, "")),
    files: found[2] === undefined ? undefined : Number(found[2]),
  };
}

/** What rsync's exit codes mean (its manual, EXIT VALUES); 128+n where a signal ended it. */
function describeExit(code: number): string {
  const known: Record<number, string> = {
    1: "it did not understand its arguments (rsync_extra_args?)",
    2: "protocol incompatibility",
    3: "it could not select its input or output files",
    4: "this action is not supported",
    5: "the connection could not be started",
    10: "socket error",
    11: "a file could not be written or read; is the disk or the quota full?",
    12: "error in its data stream: the writing side ended",
    13: "error in its own diagnostics",
    14: "error between its processes",
    20: "it was stopped by a signal",
    22: "out of memory",
    23: "some files could not be copied",
    24: "some files vanished at the source before they could be copied",
    25: "its limit of deletions was reached",
    30: "time-out while sending or receiving",
    35: "time-out while connecting",
  };
  return known[code] ?? (code > 128 ? `it was ended by signal ${code - 128}` : "unknown error");
}

export interface RsyncRunOptions {
  /** Its target, for the error. */
  path: string;
  signal?: AbortSignal | undefined;
  inheritFd?: number | undefined;
  /** What it reads from stdin. */
  input?: Uint8Array | undefined;
  /** Each piece of its output, as latin1 text: one character a byte, so that any name survives. */
  onText?: (text: string) => void;
}

/**
 * Run rsync.
 *
 * @returns its exit code, 0, 23 or 24 (the caller decides what those mean), and its stderr
 * @throws {EfError} TOOL_MISSING; NO_SPACE; TOOL_FAILED for any other code
 */
export async function rsync(
  argv: readonly string[],
  { path, onText, ...options }: RsyncRunOptions,
): Promise<{ code: number; stderr: string }> {
  const { code, stderr } = await run(argv, {
    env: env(),
    accept: Array.from({ length: 256 }, (_, i) => i),
    guarded: true,
    ...options,
    onStdout: (chunk) => onText?.(chunk.toString("latin1")),
  });
  if (code !== 0 && /No space left on device|Disk quota exceeded/.test(stderr)) {
    throw new EfError("NO_SPACE", `Cannot write to ${path}: rsync exit ${code}${lastLines(stderr)}`, {
      hint: "make room (ef status shows what is on scratch), then run it again: it goes on where it stopped",
      path,
    });
  }
  if (code === 0 || code === 23 || code === 24) return { code, stderr };
  throw new EfError("TOOL_FAILED", `rsync failed with exit code ${code}: ${describeExit(code)}${lastLines(stderr)}`, {
    hint: code === 11 ? "is the disk or the quota full? Then make room, and run it again: it goes on" : undefined,
    path,
  });
}
