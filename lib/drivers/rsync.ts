/**
 * rsync, 3.1 to 3.5: its arguments, its output, its exit codes.
 *
 * @see https://download.samba.org/pub/rsync/rsync.1
 */
import { EfError } from "../base/errors.ts";
import { lastLines, run } from "../base/exec.ts";

export interface RsyncCopy {
  /** Its contents are copied; a real directory. */
  source: string;
  target: string;
  exclude?: readonly string[];
  /** Absolute path on the target's file system. rsync renames from there, so no half file is ever in `target`. */
  tempDir?: string;
  /** Do new directories of the target carry the set-group-id bit? */
  setgid?: boolean;
  /** May the group write to new directories of the target? */
  groupWritable?: boolean;
  /** Leave the times of directories alone: those of others cannot be set. */
  omitDirTimes?: boolean;
  /** Say which FIFOs, sockets and devices are left out: rsync 3.2.4 or newer must be asked, older ones always do. */
  nonRegular?: boolean;
  /** Compare modification times to the nanosecond: an edit in the same second is seen. rsync 3.1.3 or newer. */
  nanoseconds?: boolean;
  /** Bytes per second with suffix, e.g. `200M`. */
  bwlimit?: string | undefined;
  extraArgs?: readonly string[];
  /** Compare only, and list what would change. */
  dryRun?: boolean;
}

/**
 * The command line.
 *
 * Not `-a`: owner and group follow the target directory (a copied group hits the quota of project directories), devices
 * and FIFOs are left out. `-H` and `-S` keep hard links and holes.
 */
export function rsyncArgv(copy: RsyncCopy): string[] {
  const output = copy.dryRun
    ? ["--dry-run", `--info=NONE${copy.nonRegular ? ",NONREG" : ""}`, "--out-format=%i %l %n%L"]
    : ["--info=NONE,PROGRESS2", "--no-human-readable", "--outbuf=Line"];
  return [
    "rsync",
    "-rlptHS",
    `--chmod=${copy.setgid ? "Dg+s" : "Dg-s"}${copy.groupWritable ? ",Dg+w" : ""}`,
    ...(copy.omitDirTimes ? ["--omit-dir-times"] : []),
    ...(copy.tempDir && !copy.dryRun ? [`--temp-dir=${copy.tempDir}`] : []),
    ...(copy.nanoseconds ? ["--modify-window=-1"] : []),
    ...(copy.bwlimit ? [`--bwlimit=${copy.bwlimit}`] : []),
    ...(copy.exclude ?? []).map((pattern) => `--exclude=${pattern}`),
    ...(copy.extraArgs ?? []),
    "--8-bit-output", // ours come last: what rsync prints is read
    ...output,
    "--",
    `${copy.source.replace(/\/*$/, "")}/`,
    `${copy.target.replace(/\/*$/, "")}/`,
  ];
}

/** Arguments with which rsync copies nothing, or does not say what it copies. */
const harmful =
  /^(-[a-zA-Z]*[nqhV][a-zA-Z]*|--dry-run|--list-only|--help|--version|--quiet|--daemon|--server|--out-format.*)$/;

/**
 * Refuse extra arguments with which a copy would not be one.
 *
 * @throws {EfError} CONFIG_INVALID
 */
export function checkExtraArgs(args: readonly string[]): void {
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

/** Messages in English and names as they are, whatever the user's locale. */
const env = () => ({ ...process.env, LC_ALL: "C" });

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
      hint: "ef needs rsync 3.1 or newer; on a cluster try: module avail rsync",
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
  signal?: AbortSignal | undefined;
  inheritFd?: number | undefined;
  /** Each piece of its output, as latin1 text: one character a byte, so that any name survives. */
  onText?: (text: string) => void;
}

/**
 * Run rsync.
 *
 * @returns its exit code, 0, 23 or 24 (the caller decides what those mean), and its stderr
 * @throws {EfError} TOOL_MISSING, TOOL_FAILED for any other code
 */
export async function rsync(copy: RsyncCopy, options: RsyncRunOptions = {}): Promise<{ code: number; stderr: string }> {
  const { code, stderr } = await run(rsyncArgv(copy), {
    env: env(),
    accept: Array.from({ length: 256 }, (_, i) => i),
    guarded: true,
    signal: options.signal,
    inheritFd: options.inheritFd,
    onStdout: (chunk) => options.onText?.(chunk.toString("latin1")),
  });
  if (code === 0 || code === 23 || code === 24) return { code, stderr };
  throw new EfError("TOOL_FAILED", `rsync failed with exit code ${code}: ${describeExit(code)}${lastLines(stderr)}`, {
    hint:
      code === 11 ? "make room on scratch (ef status shows what is there), then run it again: it goes on" : undefined,
    path: copy.target,
  });
}
