/** A machine on which programs are run and files are kept: this one, or one that ssh reaches. */
import type { RunOptions, RunResult } from "../base/exec.ts";

export interface HostRunOptions extends Pick<RunOptions, "accept" | "signal" | "onStdout" | "onStderr" | "keepBytes"> {
  /** What the program reads from its stdin. @default nothing */
  input?: Uint8Array | undefined;
}

export interface CopyOptions {
  /** Permission bits of the copy. @default 0o600 */
  mode?: number;
  signal?: AbortSignal | undefined;
}

/**
 * One machine. Over ssh all calls share one connection, which is opened with the first one and closed when this is disposed. What runs there
 * ends when its call is aborted, or ef is gone; only what has a session of its own (setsid) goes on.
 *
 * Paths there are absolute, or relative to the home directory. Arguments arrive byte for byte, whatever is in them and whichever
 * login shell the user has there.
 */
export interface Host extends AsyncDisposable {
  /** For messages: `this machine`, `jdoe@login.example.org`. */
  readonly name: string;
  readonly isLocal: boolean;
  /**
   * Run a program to its end, in the home directory.
   *
   * @throws {EfError} TOOL_MISSING, TOOL_FAILED as `run`; UNREACHABLE if there is no connection, or it is lost
   */
  run(argv: readonly string[], options?: HostRunOptions): Promise<RunResult>;
  /**
   * Run a script of the POSIX shell, with `$1`, `$2` …, to its end, in the home directory.
   *
   * @throws {EfError} as {@link Host.run}
   */
  sh(script: string, args: readonly string[], options?: HostRunOptions): Promise<RunResult>;
  /**
   * Copy a file from here to there: under a temporary name beside `to`, compared (size and SHA-256), then renamed. One of 8 MiB or more that
   * was interrupted goes on where it stopped. The directory of `to` exists. Paths here are relative to the current directory.
   *
   * @throws {EfError} UNREACHABLE, TRANSFER_PARTIAL, NO_SPACE, IO
   */
  put(from: string, to: string, options?: CopyOptions): Promise<void>;
  /** Copy a file from there to here, as {@link Host.put}. */
  get(from: string, to: string, options?: CopyOptions): Promise<void>;
}
