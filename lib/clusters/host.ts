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
 * One machine. Over ssh all calls share one connection, which is opened with the first one and closed when this is disposed.
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
   * @throws {EfError} TOOL_MISSING, TOOL_FAILED as `run`; UNREACHABLE if there is no connection (ssh ended with 255)
   */
  run(argv: readonly string[], options?: HostRunOptions): Promise<RunResult>;
  /**
   * Run a script of the POSIX shell, with `$1`, `$2` …, to its end, in the home directory.
   *
   * @throws {EfError} as {@link Host.run}
   */
  sh(script: string, args: readonly string[], options?: HostRunOptions): Promise<RunResult>;
  /**
   * Copy a file from here to there: under a temporary name beside `to`, compared, then renamed. Resumed if it is large and was
   * interrupted, where both sides have rsync. The directory of `to` exists.
   *
   * @throws {EfError} UNREACHABLE, TRANSFER_PARTIAL, IO
   */
  put(from: string, to: string, options?: CopyOptions): Promise<void>;
  /** Copy a file from there to here, as {@link Host.put}. */
  get(from: string, to: string, options?: CopyOptions): Promise<void>;
}
