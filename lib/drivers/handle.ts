/** A program that runs beside the caller, held like a `subprocess.Popen`: asked, waited for, read and ended. */
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { constants } from "node:os";
import type { Readable } from "node:stream";
import { EfError, errnoOf } from "../base/errors.ts";
import type { Env } from "../base/paths.ts";
import { mark } from "../base/trace.ts";
import { Output } from "./output.ts";

/** What a program printed, and how it ended. */
export interface Communicated {
  stdout: string;
  stderr: string;
  code: number;
  /** How much of both was dropped, as nobody had read it, in bytes. */
  lostBytes: number;
}

export interface ProcessHandle {
  /** Undefined if it could not be started. */
  readonly pid: number | undefined;
  /** The program and its arguments. */
  readonly argv: readonly string[];
  /**
   * As it comes. Who asks for the stream must read it: the program stops when some 100 KiB wait. Of what nobody reads the
   * last 16 MiB are kept, from the first `poll`, `wait` or `communicate` on.
   */
  readonly stdout: Readable;
  readonly stderr: Readable;
  /**
   * Its exit code, 128+n where signal n ended it; null while it runs.
   *
   * @throws {EfError} as `wait`, once it could not be started
   */
  poll(): number | null;
  /**
   * Wait until it has ended.
   *
   * @param options.timeoutS for so long, in seconds; it goes on to run after that
   * @returns its exit code, whatever it is
   * @throws {EfError} TOOL_MISSING, TOOL_FAILED, USAGE (an argument that no program can get) if it could not be started; TIMEOUT
   */
  wait(options?: { timeoutS?: number }): Promise<number>;
  /**
   * Wait until it has ended, and give all that it printed and nobody has read, as UTF-8: however much that is, if this is
   * called before `poll` and `wait`.
   *
   * @throws {EfError} as `wait`
   */
  communicate(): Promise<Communicated>;
  /** Send a signal to it and all that it started; nothing happens if it has ended. @default "SIGTERM" */
  kill(signal?: NodeJS.Signals): void;
}

export interface LaunchOptions {
  /** The whole environment. @default the caller's */
  env?: Env;
  /** Ends it with SIGTERM. */
  signal?: AbortSignal | undefined;
}

/**
 * Start a program and come back at once. Its stdin is empty.
 *
 * @example
 * const { stdout } = await launch(["ws_list"]).communicate();
 */
export function launch(argv: readonly string[], { env, signal }: LaunchOptions = {}): ProcessHandle {
  signal?.throwIfAborted();
  let code: number | null = null;
  let failed: { error: unknown } | undefined;
  const { child, ended } = startGroup(argv, { stdio: ["ignore", "pipe", "pipe"], env: env as NodeJS.ProcessEnv });
  child?.once("exit", (status, endedBy) => {
    code = codeOf(status, endedBy);
  });
  const kill = (name: NodeJS.Signals = "SIGTERM") => {
    if (code === null) signalGroup(child?.pid, name);
  };
  const onAbort = () => kill();
  signal?.addEventListener("abort", onAbort, { once: true });
  ended
    .catch((error) => {
      failed = { error };
    })
    .finally(() => signal?.removeEventListener("abort", onAbort));
  const [out, err] = [new Output(), new Output()];
  out.from(child?.stdout ?? null);
  err.from(child?.stderr ?? null);
  const keep = (limit?: number) => [out, err].forEach((each) => void each.keep(limit));
  return {
    pid: child?.pid,
    argv,
    get stdout() {
      return out.take();
    },
    get stderr() {
      return err.take();
    },
    poll() {
      keep();
      if (failed) throw failed.error;
      return code;
    },
    wait: ({ timeoutS } = {}) => {
      keep();
      return within(ended, timeoutS, () => `${argv[0]}: it is still running`);
    },
    communicate() {
      keep(Number.POSITIVE_INFINITY);
      return communicated(ended, out, err);
    },
    kill,
  };
}

/** What {@link ProcessHandle.communicate} gives. */
export async function communicated(ended: Promise<number>, out: Output, err: Output): Promise<Communicated> {
  const code = await ended;
  const [stdout, stderr] = await Promise.all([out.text(), err.text()]);
  return { stdout, stderr, code, lostBytes: out.lostBytes + err.lostBytes };
}

/** In a process group of its own: it is ended as a whole, and the terminal's Ctrl-C reaches ef alone. */
export function startGroup(
  argv: readonly string[],
  options: SpawnOptions,
): { child: ChildProcess | undefined; ended: Promise<number> } {
  const [program = "", ...rest] = argv;
  mark(`start ${program}`, { argv });
  try {
    const child = spawn(program, rest, { ...options, detached: true });
    const ended = new Promise<number>((resolve, reject) => {
      child.once("error", (error) => reject(cannotStart(program, error)));
      child.once("close", (status, endedBy) => resolve(codeOf(status, endedBy)));
    });
    ended.catch(() => {}); // whoever waits for it hears it
    return { child, ended };
  } catch (error) {
    const ended = Promise.reject(cannotStart(program, error));
    ended.catch(() => {});
    return { child: undefined, ended };
  }
}

const codeOf = (status: number | null, endedBy: NodeJS.Signals | null): number =>
  status ?? 128 + (endedBy ? constants.signals[endedBy] : 0);

export function signalGroup(pid: number | undefined, name: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, name);
  } catch {
    // it has just ended
  }
}

/** The longest that a timer can wait, in seconds: more would be over at once. */
const longestS = (2 ** 31 - 1) / 1000;

/** @param what "cp: it is still running", when the time is over @throws {EfError} TIMEOUT */
export async function within(
  ended: Promise<number>,
  timeoutS: number | undefined,
  what: () => string,
): Promise<number> {
  if (timeoutS === undefined || timeoutS > longestS) return ended;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = () => new EfError("TIMEOUT", `Cannot wait longer than ${timeoutS} s for ${what()}`);
    timer = setTimeout(() => reject(error()), timeoutS * 1000);
  });
  return Promise.race([ended, late]).finally(() => clearTimeout(timer));
}

function cannotStart(program: string, cause: unknown): EfError {
  const errno = errnoOf(cause);
  if (errno === "E2BIG") {
    return new EfError("USAGE", `Cannot run ${program}: the arguments are too long for one command`, {
      hint: "name a directory instead of its files, or give a list: rsync --files-from=FILE",
      cause,
    });
  }
  if ((cause as { code?: unknown }).code === "ERR_INVALID_ARG_VALUE")
    return new EfError("USAGE", `Cannot run ${program}: an argument has a NUL byte in it`, { cause });
  const why = errno === "ENOENT" ? "it is not installed, or not on PATH" : `${errno ?? cause}`;
  return new EfError(errno === "ENOENT" ? "TOOL_MISSING" : "TOOL_FAILED", `Cannot run ${program}: ${why}`, { cause });
}
