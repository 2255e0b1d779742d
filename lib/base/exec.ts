/**
 * Outside programs, through zx.
 *
 * Arguments travel as a list to execve(2), never through a shell string: zx would quote them into one, so `run` hands
 * it a `spawn` that ignores the string. What a program prints is streamed to the caller and only its tail is kept, as
 * zx alone would hold all of it in memory.
 */
import { spawn as nodeSpawn, type SpawnOptions } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { type Readable, Writable } from "node:stream";
import { $ as zx } from "zx";
import { sleep } from "./async.ts";
import { EfError, errnoOf } from "./errors.ts";
import { mark, span } from "./trace.ts";

export interface RunOptions {
  /** Working directory. @default the caller's */
  cwd?: string;
  /** The whole environment of the program. @default the caller's */
  env?: Record<string, string | undefined>;
  /** Exit codes that are no failure. @default [0] */
  accept?: readonly number[];
  /** Ends the program and all that it started: SIGTERM, and SIGKILL after ten seconds. */
  signal?: AbortSignal | undefined;
  /** Each piece of stdout as it comes. Without it the last {@link RunOptions.keepBytes} are in the result. */
  onStdout?: (chunk: Buffer) => void;
  /** Each piece of stderr as it comes (it is kept in the result too). */
  onStderr?: (chunk: Buffer) => void;
  /** How much of each stream's end the result keeps, in bytes. @default 1 MiB */
  keepBytes?: number;
  /** What the program reads from its stdin. @default nothing */
  input?: Uint8Array | undefined;
  /** The same, piece by piece, and then stdin stays open until the program ends: for one that takes its end for ours. */
  inputPieces?: AsyncIterable<Uint8Array> | undefined;
  /** An open file descriptor that the program inherits, so that what it stands for (a lock) lives as long as the program. */
  inheritFd?: number | undefined;
  /**
   * For programs that run long: end them when this process ends, however it ends, SIGKILL included.
   * @default false
   */
  guarded?: boolean;
}

export interface RunResult {
  /** The exit code; 128+n where signal n ended the program. */
  code: number;
  /** The end of what it printed, as UTF-8 (other bytes become U+FFFD). */
  stdout: string;
  stderr: string;
}

/**
 * Runs "$@" in the background and holds a pipe whose other end only ef has: when ef is gone, however it went, the read
 * returns and the whole process group gets SIGTERM. rsync then removes its temporary file. A signal that comes before
 * the program is there is kept for it, and sent again until it has ended: between fork and exec one can be lost.
 */
const guard = (stdin: string) => `exec 3<&0 </dev/null
stop=
trap 'stop=1' INT TERM HUP
"$@" ${stdin} 3<&- 5<&- &
job=$!
(trap '' INT TERM HUP; read -r _ <&3; while kill -0 $job; do kill -TERM 0; sleep 0.2 || sleep 1; done) >/dev/null 2>&1 4<&- 5<&- &
watch=$!
exec 3<&- 5<&-
[ -z "$stop" ] || kill -TERM $job
wait $job; code=$?
while kill -0 $job 2>/dev/null; do wait $job; code=$?; done
kill -KILL $watch 2>/dev/null
exit $code`;

/** The number that {@link RunOptions.inheritFd} has inside the program: above the guard's own. */
export const inheritedAt = 4;
/** The number that the program's stdin has inside the guard, whose own stdin is the pipe that ties it to ef. */
const inputAt = 5;

/** What a script may have set for all commands of zx, `$.timeout = "1m"`, is for its own. */
const unset = {
  ...({ shell: true, sync: false, halt: false, preferLocal: false, verbose: false, prefix: "", postfix: "" } as const),
  ...({ timeout: undefined, input: undefined, signal: undefined, ac: undefined } as object),
};

/** How long a program may take to end after SIGTERM, in seconds. */
const graceS = 10;

/**
 * Keeps the last `limit` bytes that are pushed: what zx takes as its store.
 *
 * @param fail hears what `receive` throws: zx would lose it, and never see the end of the program
 */
function tail(limit: number, receive: ((chunk: Buffer) => void) | undefined, fail: (error: unknown) => void) {
  let chunks: Buffer[] = [];
  let bytes = 0;
  return {
    push(chunk: Buffer | string) {
      const buffer = Buffer.from(chunk);
      try {
        receive?.(buffer);
      } catch (error) {
        fail(error);
      }
      if (limit === 0) return;
      chunks.push(buffer);
      bytes += buffer.length;
      if (bytes > 2 * limit) {
        chunks = [Buffer.concat(chunks).subarray(-limit)];
        bytes = limit;
      }
    },
    text: () =>
      Buffer.concat(chunks)
        .subarray(-limit || undefined)
        .toString("utf8"),
  };
}

/**
 * Run a program to its end.
 *
 * @param argv the program and its arguments, as a list
 * @throws {EfError} TOOL_MISSING if it is not installed, TOOL_FAILED (with the end of its stderr) if its exit code is
 *   not accepted; the signal's reason if that aborted
 * @example
 * const { stdout } = await run(["rsync", "--version"]);
 */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return span(`exec ${argv[0]}`, () => runNow(argv, options), { argv });
}

async function runNow(argv: readonly string[], options: RunOptions): Promise<RunResult> {
  const { accept = [0], keepBytes = 1 << 20, guarded = false } = options;
  options.signal?.throwIfAborted();
  const broken = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, broken.signal]) : broken.signal;
  const fail = (error: unknown) => broken.abort(error);
  const hasInput = options.input !== undefined || options.inputPieces !== undefined;
  const [program = "", ...rest] = guarded
    ? ["/bin/sh", "-c", guard(hasInput ? `<&${inputAt}` : ""), "ef-guard", ...argv]
    : argv;
  const stdout = tail(options.onStdout ? 0 : keepBytes, options.onStdout, fail);
  const stderr = tail(keepBytes, options.onStderr, fail);
  const stdio: (number | "ignore" | "pipe")[] = [guarded || hasInput ? "pipe" : "ignore", "pipe", "pipe"];
  if (options.inheritFd !== undefined) {
    while (stdio.length < inheritedAt) stdio.push("ignore");
    stdio.push(options.inheritFd);
  }
  if (hasInput && guarded) {
    while (stdio.length < inputAt) stdio.push("ignore");
    stdio.push("pipe");
  }
  const child = zx({
    ...unset,
    spawn: ((_: string, __: string[], opts: SpawnOptions) => {
      const started = nodeSpawn(program, rest, { ...opts, shell: false });
      if (hasInput) feed(started.stdio.at(guarded ? inputAt : 0), options, fail);
      return started;
    }) as unknown as typeof nodeSpawn,
    quote: (text) => text, // for zx's own display; nothing is run from it
    store: { stdout, stderr, stdall: { push() {} } } as never,
    detached: true, // a process group of its own: ended as a whole, and the terminal's Ctrl-C reaches ef alone
    nothrow: true,
    quiet: true,
    stdio,
    cwd: options.cwd ?? process.cwd(),
    env: (options.env ?? process.env) as NodeJS.ProcessEnv,
  })`${argv}`;
  const allEnded = killOnAbort(child.pid, signal);
  const { exitCode, signal: endedBy, cause } = await child.finally(allEnded);
  signal.throwIfAborted();
  if (cause) throw cannotStart(argv[0] ?? "", cause);

  const code = exitCode ?? 128 + (endedBy ? constants.signals[endedBy] : 0);
  const result = { code, stdout: stdout.text(), stderr: stderr.text() };
  if (guarded && code === 127 && saysMissing(result.stderr, argv[0] ?? "")) throw missing(argv[0] ?? "");
  if (!accept.includes(code)) throw failed(argv, result);
  return result;
}

export interface Started {
  /** Its stdin and stdout, where they are pipes. */
  stdin: Writable | null;
  stdout: Readable | null;
  /**
   * When it has ended.
   *
   * @throws {EfError} TOOL_MISSING, TOOL_FAILED as {@link run}; the signal's reason if that aborted
   */
  done: Promise<void>;
  /** End it, if it has not ended yet, and wait until it has. */
  stop(): Promise<void>;
}

export interface StartOptions extends Pick<RunOptions, "env" | "signal" | "onStderr"> {
  /** An open file, or a pipe from here. */
  stdin: number | "pipe";
  /** An open file, or a pipe to here. */
  stdout: number | "pipe";
}

/**
 * Start a program that data streams through. Without a pipe to or from ef it would outlive an ef that is killed.
 *
 * @param argv the program and its arguments, as a list
 */
export function start(argv: readonly string[], { stdin, stdout, signal, env, onStderr }: StartOptions): Started {
  mark(`start ${argv[0]}`, { argv });
  const [program = "", ...rest] = argv;
  const child = nodeSpawn(program, rest, {
    stdio: [stdin, stdout, "pipe"],
    detached: true, // as in run
    env: (env ?? process.env) as NodeJS.ProcessEnv,
  });
  const stopped = new AbortController();
  const allEnded = killOnAbort(child.pid, signal ? AbortSignal.any([signal, stopped.signal]) : stopped.signal);
  const stderr = tail(1 << 16, onStderr, (error) => stopped.abort(error));
  child.stderr?.on("data", (chunk) => stderr.push(chunk));
  child.stdin?.on("error", () => {}); // told by whoever writes, and by `done`
  const ended = new Promise<number>((resolve, reject) => {
    child.once("error", (error) => reject(cannotStart(program, error)));
    child.once("close", (code, endedBy) => resolve(code ?? 128 + (endedBy ? constants.signals[endedBy] : 0)));
  }).finally(allEnded);
  const done = ended.then((code) => {
    signal?.throwIfAborted();
    if (code !== 0) throw failed(argv, { code, stdout: "", stderr: stderr.text() });
  });
  done.catch(() => {}); // whoever waits for it hears it
  return {
    stdin: child.stdin,
    stdout: child.stdout,
    done,
    async stop() {
      stopped.abort();
      child.stdin?.destroy();
      child.stdout?.destroy();
      await ended.catch(() => {});
    },
  };
}

/** The words of the guard's shell; a program may end with 127 too, when it could not start another. */
const saysMissing = (stderr: string, program: string): boolean =>
  [": not found", ": command not found", ": No such file or directory"].some((end) => stderr.includes(program + end));

/**
 * Write all to a stream; a program that ends without having read it is no error of ours.
 *
 * @param fail hears why `inputPieces` ended early
 */
function feed(stream: unknown, { input, inputPieces = [] as never }: RunOptions, fail: (error: unknown) => void): void {
  if (!(stream instanceof Writable)) return; // not started: that is told elsewhere
  stream.on("error", () => {});
  if (input) return void stream.end(input);
  const write = async () => {
    for await (const bytes of inputPieces) {
      if (stream.destroyed) return;
      if (!stream.write(bytes)) await drained(stream);
    }
  };
  write().catch(fail);
}

/** When a stream takes more, or will never do so again. */
const drained = (stream: Writable) =>
  new Promise<void>((resolve) => {
    const done = () => {
      for (const event of ["drain", "close", "error"]) stream.off(event, done);
      resolve();
    };
    for (const event of ["drain", "close", "error"]) stream.once(event, done);
  });

/**
 * Send SIGTERM to the process group, each second, when the signal aborts; SIGKILL if that does not help.
 *
 * @returns to be called when the program has ended: waits, after an abort, until all of its group have (apptainer ends before what
 *   it has started)
 */
function killOnAbort(pid: number | undefined, signal: AbortSignal): () => Promise<void> {
  if (pid === undefined) return async () => {};
  let timer: ReturnType<typeof setInterval> | undefined;
  let seconds = 0;
  const kill = (name: NodeJS.Signals) => {
    try {
      process.kill(-pid, name);
    } catch {
      clearInterval(timer); // it has ended meanwhile: the number may soon be somebody else's
    }
  };
  const stop = () => {
    kill("SIGTERM");
    timer = setInterval(() => kill(++seconds < graceS ? "SIGTERM" : "SIGKILL"), 1000);
  };
  signal.addEventListener("abort", stop, { once: true });
  return async () => {
    signal.removeEventListener("abort", stop);
    while (signal.aborted && seconds <= graceS && isGroupAlive(pid)) await sleep(20);
    clearInterval(timer);
  };
}

/** Is there a process of a group that is more than a zombie, which nobody may ever wait for? */
function isGroupAlive(group: number): boolean {
  const isOfIt = (pid: string) => {
    const [state, , ofGroup] = statOf(pid).split(" ");
    return ofGroup === `${group}` && state !== "Z" && state !== "X";
  };
  try {
    process.kill(-group, 0);
    return readdirSync("/proc").some((pid) => /^\d+$/.test(pid) && isOfIt(pid));
  } catch {
    return false; // there is none, or nobody can tell
  }
}

/** What proc_pid_stat(5) says after the name of the program, which may hold anything: state, parent, group; empty if it is gone. */
function statOf(pid: string): string {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    return text.slice(text.lastIndexOf(")") + 2);
  } catch {
    return "";
  }
}

function cannotStart(program: string, cause: unknown): EfError {
  const errno = errnoOf(cause);
  if (errno === "ENOENT") return missing(program);
  return new EfError("TOOL_FAILED", `Cannot start ${program}: ${errno ?? cause}`, { cause });
}

function missing(program: string): EfError {
  return new EfError("TOOL_MISSING", `Cannot run ${program}: it is not installed, or not on PATH`, {
    hint: `on a cluster try: module avail ${program}`,
  });
}

function failed(argv: readonly string[], { code, stderr }: RunResult): EfError {
  return new EfError("TOOL_FAILED", `${argv[0]} ${howEnded(code)}${lastLines(stderr)}`, {
    hint: `it was called as: ${argv.join(" ")}`,
  });
}

/** "failed with exit code 3", "was ended by signal 9". No signal has a number above 64 (signal(7)): 255 is an exit code. */
export const howEnded = (code: number): string =>
  code > 128 && code <= 192 ? `was ended by signal ${code - 128}` : `failed with exit code ${code}`;

/** The last lines of a program's stderr, indented to go under a message; empty if it said nothing. */
export function lastLines(text: string, count = 8): string {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const cut = lines.length > count ? [`… (${lines.length - count} lines before)`] : [];
  return [...cut, ...lines.slice(-count)].map((line) => `\n    ${line}`).join("");
}
