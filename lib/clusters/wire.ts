/**
 * How a program is started through a login shell that we know nothing of.
 *
 * sshd gives our command to the user's login shell as one string. So it holds only what each of them (POSIX shells, fish, csh) reads as it
 * stands: one line, in which a POSIX script is encoded so that it has neither quotes nor `!` nor newlines, and `printf %b` of /bin/sh turns it
 * back. That script prints a mark before the program starts, on both streams: what came before is noise of the user's rc files, or ssh's.
 *
 * Its stdin stays open as long as ef lives, and a watcher there waits for its end: then the program gets SIGTERM, and SIGKILL after ten seconds.
 * sshd puts each command into a session of its own, so that reaches all that the program has started and nothing else.
 */
import { quote } from "../base/shell.ts";
import { nameBytes } from "./names.ts";

export interface Wired {
  argv: readonly string[];
  /** A line that nothing else prints. */
  mark: string;
  /** How many bytes of input follow on stdin; a newline comes after them. Nothing is given if it is undefined. */
  inputBytes?: number | undefined;
}

export const missingMark = (mark: string): string => `${mark} missing`;
export const endMark = (mark: string): string => `${mark} ended with 255`;

/**
 * The script that runs the program.
 *
 * The watcher hands the input on, which it counts: what ends too early must not look like its end to the program. It tells its number first, as
 * a pipeline does not. The shell prints `Killed` for it, which nobody wants to read: hence stream 4.
 */
function script({ argv, mark, inputBytes }: Wired): string {
  const feed = inputBytes === undefined ? "" : `head -c ${inputBytes} <&3; read -r _ <&3 && `;
  return `cd 2>/dev/null || cd /
printf '%s\\n' ${mark}; printf '%s\\n' ${mark} >&2
set -- ${argv.map((arg) => quote("bash", arg)).join(" ")}
command -v "$1" >/dev/null 2>&1 || { printf '%s\\n' '${missingMark(mark)}' >&2; exit 127; }
exec 4>&2 2>/dev/null
{ sh -c 'echo $PPID'
  ${feed}{ exec >&-; cat <&3 >/dev/null; }
  trap '' TERM; kill -TERM 0; sleep 10; kill -KILL 0
} 3<&0 4>&- | {
  trap : TERM
  read -r watcher
  "$@" 2>&4 4>&-; code=$?
  kill -KILL "$watcher"
  [ "$code" != 255 ] || printf '%s\\n' '${endMark(mark)}' >&4
  exit "$code"
}`;
}

const asIs = /^[A-Za-z0-9_@%+=:,./ -]$/;

/** Text for `printf %b`, in which single quotes of every shell change nothing. */
export function encode(text: string): string {
  let encoded = "";
  for (const byte of nameBytes(text)) {
    const char = String.fromCharCode(byte);
    encoded += asIs.test(char) ? char : `\\0${byte.toString(8).padStart(3, "0")}`;
  }
  return encoded;
}

/** How long a command line may be. Linux takes 128 KiB in one argument (MAX_ARG_STRLEN), other systems for all of them together. */
const longestCommand = 60_000;

/** What sshd is told to run, and what has to come first on its stdin. */
export function wire(wired: Wired): { command: string; header: string } {
  const encoded = encode(script(wired));
  if (encoded.length <= longestCommand) {
    return { command: `exec /bin/sh -c 'eval "$(printf %b "$0")"' '${encoded}'`, header: "" };
  }
  return {
    command: `exec /bin/sh -c 'IFS= read -r text; eval "$(printf %b "$text")"'`,
    header: `${encoded}\n`,
  };
}

/** The argv that runs `argv`, where node cannot pass it on: names that are no UTF-8. */
export const encodedArgv = (argv: readonly string[]): string[] => [
  "/bin/sh",
  "-c",
  'eval "$(printf %b "$0")"',
  encode(`exec ${argv.map((arg) => quote("bash", arg)).join(" ")}`),
];

/** What comes after a mark, of a stream that comes in pieces; and the end of what came before. */
export class AfterMark {
  private held: Buffer = Buffer.alloc(0);
  private readonly line: Buffer;
  /** Has the mark come? */
  seen = false;
  /** How much before the mark is kept, in bytes. */
  private static readonly keepBytes = 16_384;

  constructor(
    mark: string,
    private readonly receive: (piece: Buffer) => void,
  ) {
    this.line = Buffer.from(`${mark}\n`);
  }

  push(piece: Buffer): void {
    if (this.seen) this.receive(piece);
    else this.search(piece);
  }

  private search(piece: Buffer): void {
    this.held = Buffer.concat([this.held, piece]);
    const at = this.held.indexOf(this.line);
    if (at < 0) {
      this.held = this.held.subarray(-Math.max(AfterMark.keepBytes, this.line.length));
      return;
    }
    this.seen = true;
    const rest = this.held.subarray(at + this.line.length);
    this.held = this.held.subarray(0, at);
    if (rest.length > 0) this.receive(rest);
  }

  /** The end of what came before the mark, or of all if it never came. */
  get before(): string {
    return this.held.toString("utf8");
  }
}

/** The end of a stream. */
export class Tail {
  private pieces: Buffer[] = [];
  private bytes = 0;

  constructor(private readonly keepBytes: number) {}

  push(piece: Buffer): void {
    this.pieces.push(piece);
    this.bytes += piece.length;
    if (this.bytes <= 2 * this.keepBytes) return;
    this.pieces = [Buffer.concat(this.pieces).subarray(-this.keepBytes)];
    this.bytes = this.keepBytes;
  }

  text(): string {
    const all = Buffer.concat(this.pieces);
    return all.subarray(Math.max(0, all.length - this.keepBytes)).toString("utf8");
  }
}
