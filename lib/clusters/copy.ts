/**
 * Files over ssh, by `cat` at both ends: that needs no program there, goes through the same call as all else, and no rc file that prints
 * something can disturb it. A large file that was interrupted is kept under a hidden name and continued, if its beginning has the right sum.
 */
import { createHash, type Hash } from "node:crypto";
import { constants, createReadStream, ftruncateSync, promises, writeSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { EfError, reasonOf, writeError } from "../base/errors.ts";
import type { RunResult } from "../base/exec.ts";
import { removeIfThere, tempBeside } from "../base/files.ts";
import type { CopyOptions } from "./host.ts";
import type { SshHost, Streamed } from "./ssh-host.ts";

/** From how many bytes on it pays to keep what has arrived. */
const worthKeeping = 8 << 20;

/** What an interrupted copy of `path` leaves. */
const partBeside = (path: string): string =>
  join(dirname(path), `.${basename(path).replace(/^\./, "").slice(0, 60)}.ef.part`);

/** A path as programs there take it: never an option. */
const operand = (path: string): string => (path.startsWith("/") ? path : `./${path}`);

/** `hash`: the SHA-256 of stdin, or nothing where no program makes one. `cut` also takes away what is printed of the name. */
const common = `LC_ALL=C; export LC_ALL; umask 077
hash() { { sha256sum || shasum -a 256 || openssl dgst -sha256 -r; } 2>/dev/null | cut -c 1-64; }
`;

/** `$1`: a file that may be there. Prints its size and its sum. */
const partScript = `${common}[ -f "$1" ] && [ ! -L "$1" ] || exit 0
echo "$(wc -c <"$1") $(hash <"$1")"`;

/**
 * `$1`: the file; `$2`: temporary name; `$3`: name of what an interruption leaves, or nothing; `$4`: mode; `$5`: size; `$6`: sum; `$7`: how
 * much of it is there already.
 *
 * SIGPIPE is ignored: a shell says on stderr that SIGTERM ended its `cat`, and where ssh is gone that would end it before it keeps anything.
 */
const receiveScript = `${common}to=$1 temp=$2 part=$3 mode=$4 size=$5 sum=$6 from=$7
drop() { rm -f -- "$temp"; }
keep() { if [ -n "$part" ]; then mv -f -- "$temp" "$part"; else drop; fi; exit 143; }
dir=\${to%/*}
[ -d "$dir" ] || { echo "there is no directory $dir" >&2; exit 1; }
[ -d "$to" ] && { echo "it is a directory" >&2; exit 1; }
[ -e "$to" ] && [ ! -f "$to" ] && { echo "it is no regular file" >&2; exit 1; }
trap '' PIPE; trap keep TERM HUP INT
if [ "$from" = 0 ]; then cat </dev/null >"$temp" || exit 1; else mv -f -- "$part" "$temp" || exit 1; fi
cat >>"$temp" || { drop; exit 1; }
[ "$(($(wc -c <"$temp")))" = "$size" ] || { echo "$(wc -c <"$temp") of $size bytes arrived" >&2; drop; exit 5; }
there=$(hash <"$temp")
[ -z "$there" ] || [ "$there" = "$sum" ] || { echo "its sum differs from that of the file here" >&2; drop; exit 5; }
chmod "$mode" "$temp" && mv -f -- "$temp" "$to" || { drop; exit 1; }
[ -z "$part" ] || rm -f -- "$part"`;

/** `$1`: the file; `$2`, `$3`: size and sum of what is here already. Prints size, sum and from where on it sends, and then that. */
const sendScript = `${common}f=$1
[ -d "$f" ] && { echo "it is a directory" >&2; exit 1; }
[ ! -e "$f" ] || [ -f "$f" ] || { echo "it is no regular file" >&2; exit 1; }
size=$(wc -c <"$f") || exit 1
size=$((size)); from=0
[ "$2" != 0 ] && [ "$2" -le "$size" ] && [ "$(head -c "$2" <"$f" | hash)" = "$3" ] && from=$2
echo "$size $(head -c "$size" <"$f" | hash | grep . || echo -) $from"
tail -c "+$((from + 1))" <"$f" | head -c "$((size - from))"`;

/**
 * Copy a file from here to there.
 *
 * @throws {EfError} UNREACHABLE, NO_SPACE, IO, TRANSFER_PARTIAL
 */
export async function sendFile(host: SshHost, from: string, to: string, options: CopyOptions): Promise<void> {
  const { mode = 0o600, signal } = options;
  const what = `Cannot copy ${from} to ${to} on ${host.name}`;
  await using file = await opened(from, what);
  const { size } = await file.handle.stat();
  const isLarge = size >= worthKeeping;
  const part = isLarge ? operand(partBeside(to)) : "";
  const whole = await sumOf(from, size, signal);
  const there = isLarge ? await partThere(host, part, from, size, signal) : 0;
  const streamed: Streamed = { bytes: size - there, pieces: piecesOf(from, there, size, what) };
  const args = [operand(to), operand(tempBeside(to)), part, mode.toString(8), String(size), whole, String(there)];
  const { code, stderr } = await host.call(
    ["sh", "-c", receiveScript, "ef", ...args],
    { accept: [0, 1, 2, 5], signal, keepBytes: 1 << 16 },
    undefined,
    streamed,
  );
  if (code !== 0) throw refused(what, to, code, stderr);
}

/** How much of it an earlier copy has left there; its sum must be that of the same beginning here. */
async function partThere(host: SshHost, part: string, from: string, size: number, signal: AbortSignal | undefined) {
  const { stdout } = await host.sh(partScript, [part], { signal });
  const [length, sum] = stdout.trim().split(/\s+/);
  const bytes = Number(length);
  if (!sum || !(bytes > 0) || bytes > size) return 0;
  return (await sumOf(from, bytes, signal)) === sum ? bytes : 0;
}

/** Copy a file from there to here. @throws {EfError} as {@link sendFile} */
export async function receiveFile(host: SshHost, from: string, to: string, options: CopyOptions): Promise<void> {
  const { mode = 0o600, signal } = options;
  const what = `Cannot copy ${from} on ${host.name} to ${to}`;
  const temp = tempBeside(to);
  const part = partBeside(to);
  try {
    const there = await promises.lstat(to).catch(() => undefined);
    if (there && !there.isFile() && !there.isSymbolicLink())
      throw new EfError("IO", `${what}: there is something else of that name`, { path: to });
    // By its new name it is ours alone: nobody else continues it at the same time.
    const begun = await promises.rename(part, temp).then(
      () => promises.stat(temp).then(({ size }) => size),
      () => 0,
    );
    const sum = begun > 0 ? await sumOf(temp, begun, signal) : "-";
    await receiveInto(temp, { size: begun, sum }, what, (write) =>
      host.sh(sendScript, [operand(from), String(begun), sum], {
        ...{ accept: [0, 1, 2], signal, keepBytes: 1 << 16 },
        onStdout: write,
      }),
    );
    await promises.chmod(temp, mode);
    await promises.rename(temp, to);
  } catch (error) {
    const isBroken = error instanceof EfError && ["IO", "NO_SPACE", "TRANSFER_PARTIAL"].includes(error.code);
    const size = isBroken
      ? 0
      : await promises.stat(temp).then(
          ({ size }) => size,
          () => 0,
        );
    if (size >= worthKeeping) await promises.rename(temp, part).catch(() => removeIfThere(temp));
    else removeIfThere(temp);
    throw writeError(what, to, error);
  }
}

/**
 * Write what {@link sendScript} sends into a file that has some of it, and compare.
 *
 * Pieces are written as they come, by the synchronous call: what waits in memory would grow without bounds on a slow disk.
 */
async function receiveInto(
  temp: string,
  begun: { size: number; sum: string },
  what: string,
  receive: (write: (piece: Buffer) => void) => Promise<RunResult>,
): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | (begun.size > 0 ? 0 : constants.O_EXCL) | constants.O_NOFOLLOW;
  const handle = await promises.open(temp, flags, 0o600);
  let head = Buffer.alloc(0);
  let expected: { size: number; sum: string } | undefined;
  let at = 0;
  try {
    const { code, stderr } = await receive((piece) => {
      let rest = piece;
      if (!expected) {
        head = Buffer.concat([head, piece]);
        const end = head.indexOf("\n");
        if (end < 0) return;
        const [size, sum = "", from] = head.subarray(0, end).toString().split(" ");
        expected = { size: Number(size), sum };
        at = Number(from);
        if (at !== begun.size) ftruncateSync(handle.fd, 0);
        rest = head.subarray(end + 1);
      }
      for (let done = 0; done < rest.length; ) {
        const written = writeSync(handle.fd, rest, done, rest.length - done, at);
        done += written;
        at += written;
      }
    });
    if (code !== 0 || !expected) throw refused(what, undefined, code, stderr);
    if (at !== expected.size)
      throw new EfError("TRANSFER_PARTIAL", `${what}: ${at} of ${expected.size} bytes arrived`, { hint: changed });
    if (expected.sum !== "-" && (await sumOf(temp, at)) !== expected.sum)
      throw new EfError("TRANSFER_PARTIAL", `${what}: its sum differs from that of the file there`, { hint: changed });
    await handle.sync();
  } finally {
    await handle.close();
  }
}

const changed = "does something write to it? Run it again when that has ended";

function refused(what: string, path: string | undefined, code: number, stderr: string): EfError {
  const words = stderr.trim().split("\n").at(-1) ?? "";
  const why = words.replace(/^(?:\S*sh|ef): (?:(?:line )?\d+: )?/, "").replace(/^(?:cat|mv|chmod): /, "");
  if (code === 5) return new EfError("TRANSFER_PARTIAL", `${what}: ${why}`, { hint: changed, path });
  const isFull = /no space left|quota exceeded/i.test(stderr);
  return new EfError(isFull ? "NO_SPACE" : "IO", `${what}: ${why || "no reason was given"}`, {
    hint: isFull ? "make room there, then run it again" : undefined,
    path,
  });
}

async function opened(path: string, what: string) {
  try {
    const handle = await promises.open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const isFile = (await handle.stat()).isFile();
    if (!isFile) await handle.close();
    if (!isFile) throw new EfError("IO", `${what}: it is no regular file`, { path });
    return { handle, [Symbol.asyncDispose]: () => handle.close() };
  } catch (error) {
    if (error instanceof EfError) throw error;
    throw new EfError("IO", `${what}: ${reasonOf(error)}`, { path, cause: error });
  }
}

/** The SHA-256 of the first bytes of a file. */
export async function sumOf(path: string, bytes: number, signal?: AbortSignal): Promise<string> {
  const hash: Hash = createHash("sha256");
  if (bytes === 0) return hash.digest("hex");
  for await (const piece of createReadStream(path, { end: bytes - 1, highWaterMark: 1 << 20 })) {
    signal?.throwIfAborted();
    hash.update(piece as Buffer);
  }
  return hash.digest("hex");
}

/** A file from `from` to `to`, in bytes; what has become shorter meanwhile is an error. */
async function* piecesOf(path: string, from: number, to: number, what: string): AsyncGenerator<Uint8Array> {
  let left = to - from;
  if (left === 0) return;
  for await (const piece of createReadStream(path, { start: from, end: to - 1, highWaterMark: 1 << 18 })) {
    left -= (piece as Buffer).length;
    yield piece as Buffer;
  }
  if (left > 0) throw new EfError("TRANSFER_PARTIAL", `${what}: it became shorter meanwhile`, { hint: changed, path });
}
