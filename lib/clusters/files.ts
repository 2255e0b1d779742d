/** What is asked of file systems over there: scripts, and what their answers mean. They need a POSIX shell, `find` with `-print0`, and `stat -c`. */
import { EfError } from "../base/errors.ts";

/** Programs' words are read: they must be English. */
const head = "LC_ALL=C; export LC_ALL\n";

/** Is `$1` there? Ends with 3 and the words of stat if not, as for a link that leads nowhere. */
const mustBe = `stat -L -c %f -- "$1" >/dev/null || exit 3\n`;

/** Set `at` to a name of the directory `$1` that is short in each line; one that cannot be entered may still be listed. */
const enter = `if [ -d "$1" ] && cd -- "$1" 2>/dev/null; then at=.; else at=$1; fi\n`;

/** Names of `$1`: first that of itself, each with a NUL. */
export const listScript = `${head}${mustBe}[ -d "$1" ] || { echo "stat: it is: Not a directory" >&2; exit 3; }
${enter}find -H "$at" -maxdepth 1 -print0`;

/** Regular files and links to such, called `$2`. Not in brackets: there the find of busybox forgets the last call of `-exec … +`. */
const named = `-name "$2" -type f -print0 -o \\
  -name "$2" -type l -exec sh -c 'for f do [ -f "$f" ] && printf "%s\\0" "$f"; done' sh {} +`;

/** Files below `$1` whose names match `$2`: first the directory as it is named in the others. */
export const findScript = `${head}${mustBe}${enter}printf '%s\\0' "$at"
find -H "$at" ${named}`;

/** How many that are. */
export const countScript = `${head}${mustBe}${enter}find -H "$at" ${named} | tr -dc '\\000' | wc -c`;

/** Bytes, allocated bytes and number of the regular files below `$1`; a file with several names has bytes once. */
export const usageScript = `${head}${mustBe}${enter}find -H "$at" -type f -exec stat -L -c '%d:%i %h %s %b %B' -- {} + | awk '
{ n++; if ($2 == 1 || !($1 in seen)) { if ($2 != 1) seen[$1] = 1; size += $3; blocks += $4 * $5 } }
END { printf "%.0f %.0f %.0f\\n", size, blocks, n }'`;

/** `$1`: what it leads to, and on a second line what it is itself. */
export const lookScript = `${head}stat -L -c '%f %s %b %B %Y %u %g %h %i %y' -- "$1"
stat -c %f -- "$1"`;

export interface Looked {
  /** As st_mode. */
  mode: number;
  sizeBytes: number;
  allocatedBytes: number;
  modifiedMs: number;
  uid: number;
  gid: number;
  isLink: boolean;
}

const formats = { directory: 0o040000, file: 0o100000, link: 0o120000 } as const;

/** Is it of that kind, by st_mode? */
export const isKind = (mode: number, kind: keyof typeof formats): boolean => (mode & 0o170000) === formats[kind];

/** @returns undefined if there is nothing of that name, or a link that leads nowhere */
export function parseLook(stdout: string): Looked | undefined {
  const [target, own] = stdout.split("\n");
  const [mode = "", size, blocks, blockSize, seconds, uid, gid, , , ...time] = (target ?? "").split(" ");
  if (own === undefined || uid === undefined) return undefined;
  const fraction = /\.(\d+)/.exec(time.join(" "))?.[1] ?? "0";
  return {
    mode: Number.parseInt(mode, 16),
    sizeBytes: Number(size),
    allocatedBytes: Number(blocks) * Number(blockSize),
    modifiedMs: Number(seconds) * 1000 + Math.floor(Number(`0.${fraction}`) * 1000),
    ...{ uid: Number(uid), gid: Number(gid), isLink: isKind(Number.parseInt(own, 16), "link") },
  };
}

/** Not there, or as good as that: what `os.path.exists` of Python says no to. */
const absent =
  /: (?:No such file or directory|Not a directory|Too many levels of symbolic links|Symbolic link loop|File name too long)$/;

/** What programs said that is more than that something is not there. */
export const complaints = (stderr: string): string[] =>
  stderr.split("\n").filter((line) => line.trim() !== "" && !absent.test(line));

/** The words of a failed call: the last part of a line such as `find: 'a: b': Permission denied`. */
export const reasonIn = (line: string): string => {
  const words = line.slice(line.lastIndexOf(": ") + 2).trim();
  return words.charAt(0).toLowerCase() + words.slice(1);
};

/** @param stderr of a script that ended with 3 */
export function notThere(what: string, path: string, stderr: string, isLink = false): EfError {
  const line = stderr.trim().split("\n").at(-1) ?? "";
  const why = isLink && /No such file/.test(line) ? "it is a symbolic link that leads nowhere" : reasonIn(line);
  return new EfError("IO", `${what}: ${why}`, { path });
}
