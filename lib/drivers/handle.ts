/** A program that runs beside the caller, held like a `subprocess.Popen`: asked, waited for, read and ended. */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { PassThrough, type Readable } from "node:stream";
import { EfError, errnoOf } from "../base/errors.ts";
import type { Env } from "../base/paths.ts";
import { mark } from "../base/trace.ts";

/** What a program printed, and how it ended. */
export interface Communicated {
  stdout: string;
  stderr: string;
  code: number;
}

export interface ProcessHandle {
  /** Undefined if it could not be started. */
  readonly pid: number | undefined;
  /** The program and its arguments. */
  readonly argv: readonly string[];
  /**
   * As it comes. Without a reader a program stops once some 100 KiB wait; from the first `poll`, `wait` or `communicate` on,
   * the last 16 MiB of what nobody reads are kept.
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
   * @param options.timeoutS for so long; it goes on to run after that
   * @returns its exit code, whatever it is
   * @throws {EfError} TOOL_MISSING, TOOL_FAILED if it could not be started; TIMEOUT
   */
  wait(options?: { timeoutS?: number }): Promise<number>;
  /**
   * Wait until it has ended, and give what it printed, as UTF-8.
   *
   * @throws {EfError} as `wait`
   */
  communicate(): Promise<Communicated>;
  /** Send a signal to it and all that it started; nothing happens if it has ended. @default "SIGTERM" */
  kill(signal?: NodeJS.Signals): void;
}

export interface LaunchOptions {
  cwd?: string;
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
export function launch(argv: readonly string[], { cwd, env, signal }: LaunchOptions = {}): ProcessHandle {
  signal?.throwIfAborted();
  mark(`launch ${argv[0]}`, { argv });
  const [program = "", ...rest] = argv;
  let code: number | null = null;
  let failed: EfError | undefined;
  const child = spawn(program, rest, {
    stdio: ["ignore", "pipe", "pipe"],
    detached: true, // a process group of its own: ended as a whole
    ...(cwd === undefined ? {} : { cwd }),
    env: (env ?? process.env) as NodeJS.ProcessEnv,
  });
  const kill = (name: NodeJS.Signals = "SIGTERM") => {
    if (code !== null || child.pid === undefined) return;
    try {
      process.kill(-child.pid, name);
    } catch {
      // it has just ended
    }
  };
  const onAbort = () => kill();
  signal?.addEventListener("abort", onAbort, { once: true });
  const ended = new Promise<number>((resolve, reject) => {
    child.once("error", (error) => {
      failed = cannotStart(program, error);
      reject(failed);
    });
    child.once("exit", (status, endedBy) => {
      code ??= status ?? 128 + (endedBy ? constants.signals[endedBy] : 0);
    });
    child.once("close", () => resolve(code ?? 0));
  }).finally(() => signal?.removeEventListener("abort", onAbort));
  ended.catch(() => {}); // whoever waits for it hears it
  const [stdout, stderr] = [kept(child.stdout), kept(child.stderr)];
  const drain = () => [stdout, stderr].forEach(({ drain }) => void drain());
  return {
    pid: child.pid,
    argv,
    stdout: stdout.stream,
    stderr: stderr.stream,
    poll() {
      drain();
      if (failed) throw failed;
      return code;
    },
    wait: ({ timeoutS } = {}) => {
      drain();
      return timeoutS === undefined ? ended : within(ended, timeoutS, program);
    },
    async communicate() {
      drain();
      const status = await ended;
      return { stdout: await stdout.text(), stderr: await stderr.text(), code: status };
    },
    kill,
  };
}

/** How much of what nobody reads is kept of each stream, from its end, in bytes. */
const keptBytes = 16 * 2 ** 20;

/** A stream that keeps what nobody reads, once it is drained, so that its writer can go on. */
function kept(source: Readable | null) {
  const stream = new PassThrough();
  const chunks: Buffer[] = [];
  let bytes = 0;
  let draining = false;
  source?.on("error", () => {}).pipe(stream);
  if (!source) stream.end();
  stream.on("error", () => {});
  const isOver = new Promise<void>((resolve) => stream.once("end", resolve).once("close", resolve));
  return {
    stream,
    drain() {
      if (draining) return;
      draining = true;
      stream.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        bytes += chunk.length;
        while (bytes > keptBytes) bytes -= chunks.shift()?.length ?? bytes;
      });
    },
    async text() {
      await isOver;
      return Buffer.concat(chunks).toString("utf8");
    },
  };
}

async function within(ended: Promise<number>, timeoutS: number, program: string): Promise<number> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = () => new EfError("TIMEOUT", `${program} has not ended within ${timeoutS} s; it is still running`);
    timer = setTimeout(() => reject(error()), timeoutS * 1000);
  });
  return Promise.race([ended, late]).finally(() => clearTimeout(timer));
}

function cannotStart(program: string, cause: unknown): EfError {
  const why = errnoOf(cause) === "ENOENT" ? "it is not installed, or not on PATH" : `${errnoOf(cause) ?? cause}`;
  const code = errnoOf(cause) === "ENOENT" ? "TOOL_MISSING" : "TOOL_FAILED";
  return new EfError(code, `Cannot run ${program}: ${why}`, { cause });
}
