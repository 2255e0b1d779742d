/** A machine that ssh reaches. */
import { EfError } from "../base/errors.ts";
import { howEnded, lastLines, type RunResult, run } from "../base/exec.ts";
import { randomId } from "../base/files.ts";
import { anyCode, type SshConnection, sshArgv, targetName, unreachable } from "../drivers/ssh.ts";
import { receiveFile, sendFile } from "./copy.ts";
import type { CopyOptions, Host, HostRunOptions } from "./host.ts";
import { AfterMark, endMark, missingMark, Tail, wire } from "./wire.ts";

/** What a program there reads: so many bytes, in pieces. */
export interface Streamed {
  bytes: number;
  pieces: AsyncIterable<Uint8Array>;
}

/** How many calls use the connection at a time: sshd's MaxSessions is 10 where nobody changed it. */
const mostCalls = 8;

export class SshHost implements Host {
  readonly isLocal = false;
  readonly name: string;
  private calls = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(
    private readonly connection: SshConnection,
    private readonly options: {
      env: Readonly<Record<string, string | undefined>>;
      signal?: AbortSignal | undefined;
      where: string;
    },
  ) {
    this.name = targetName(connection.target);
  }

  run(argv: readonly string[], options: HostRunOptions = {}): Promise<RunResult> {
    return this.call(argv, options, `it was called as: ${argv.join(" ")}`);
  }

  sh(script: string, args: readonly string[], options: HostRunOptions = {}): Promise<RunResult> {
    return this.call(["sh", "-c", script, "ef", ...args], options);
  }

  /** @param streamed in place of `options.input` */
  async call(
    argv: readonly string[],
    options: HostRunOptions,
    hint?: string,
    streamed: Streamed | undefined = options.input && { bytes: options.input.length, pieces: inPieces(options.input) },
  ): Promise<RunResult> {
    const signals = [options.signal, this.options.signal].filter((each) => each !== undefined);
    const signal = AbortSignal.any(signals);
    signal.throwIfAborted();
    await using _ = await this.turn(signal);
    const control = await unlessAborted(this.connection.socket(), signal);
    return this.callNow(argv, { ...options, signal }, { control, hint, streamed });
  }

  private async callNow(
    argv: readonly string[],
    { accept = [0], keepBytes = 1 << 20, onStdout, onStderr, signal }: HostRunOptions,
    {
      control,
      hint,
      streamed,
    }: { control: string | undefined; hint: string | undefined; streamed: Streamed | undefined },
  ): Promise<RunResult> {
    const mark = `ef-${randomId()}`;
    const { command, header } = wire({ argv, mark, inputBytes: streamed?.bytes });
    const stdout = new Tail(keepBytes);
    const stderr = new Tail(keepBytes);
    const out = new AfterMark(mark, onStdout ?? ((piece) => stdout.push(piece)));
    const ownMarks = [missingMark(mark), endMark(mark)].map((each) => `${each}\n`);
    const err = new AfterMark(mark, (piece) => {
      stderr.push(piece);
      const text = ownMarks.reduce((rest, each) => rest.replaceAll(each, ""), piece.toString("latin1"));
      if (text !== "") onStderr?.(text.length === piece.length ? piece : Buffer.from(text, "latin1"));
    });
    const { code } = await run(sshArgv(this.connection.target, { control, command }), {
      env: this.options.env,
      accept: anyCode,
      keepBytes: 0,
      onStdout: (piece) => out.push(piece),
      onStderr: (piece) => err.push(piece),
      inputPieces: withHeader(header, streamed),
      ...(signal ? { signal } : {}),
    });
    const said = stderr.text();
    if (!out.seen && !err.seen) throw this.notStarted(code, out.before, err.before);
    if (said.includes(missingMark(mark))) throw this.missing(argv[0] ?? "");
    if (code === 255 && !said.includes(endMark(mark)))
      throw new EfError(
        "UNREACHABLE",
        `Lost the connection to ${this.name} while ${argv[0]} ran there${lastLines(said)}`,
        {
          hint: "it was ended there, unless it had ended; run it again",
        },
      );
    const result = { code, stdout: stdout.text(), stderr: said.replaceAll(`${endMark(mark)}\n`, "") };
    if (!accept.includes(code))
      throw new EfError("TOOL_FAILED", `${argv[0]} on ${this.name} ${howEnded(code)}${lastLines(result.stderr)}`, {
        hint,
      });
    return result;
  }

  /** Wait until fewer calls run than the connection takes. */
  private async turn(signal: AbortSignal): Promise<AsyncDisposable> {
    while (this.calls >= mostCalls) {
      const free = new Promise<void>((resolve) => void this.waiting.push(resolve));
      await unlessAborted(free, signal).catch((error) => {
        this.waiting.shift()?.(); // ours may have been the one that was woken
        throw error;
      });
    }
    this.calls++;
    return {
      [Symbol.asyncDispose]: async () => {
        this.calls--;
        this.waiting.shift()?.();
      },
    };
  }

  /** ssh failed, or the login shell there did not come to our command. */
  private notStarted(code: number, stdout: string, stderr: string): EfError {
    if (code === 255) return unreachable(this.connection.target, stderr, this.options.where);
    return new EfError(
      "UNREACHABLE",
      `Cannot run anything on ${this.name}: the login shell there ${howEnded(code)} before it came to ef's command${lastLines(`${stdout}\n${stderr}`)}`,
      { hint: "does its rc file (~/.bashrc, ~/.config/fish/config.fish) end it, or start another program?" },
    );
  }

  private missing(program: string): EfError {
    return new EfError("TOOL_MISSING", `Cannot run ${program} on ${this.name}: it is not on PATH there`, {
      hint: `PATH is that of commands by ssh, which may be less than that of a login: set it in ~/.bashrc there; or try: module avail ${program}`,
    });
  }

  put(from: string, to: string, options: CopyOptions = {}): Promise<void> {
    return sendFile(this, from, to, options);
  }

  get(from: string, to: string, options: CopyOptions = {}): Promise<void> {
    return receiveFile(this, from, to, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection[Symbol.asyncDispose]();
  }
}

/** Input, the newline after it that tells the watcher there that it is whole, and what must come before. */
async function* withHeader(header: string, streamed: Streamed | undefined): AsyncGenerator<Uint8Array> {
  if (header !== "") yield Buffer.from(header);
  if (streamed === undefined) return;
  yield* streamed.pieces;
  yield Buffer.from("\n");
}

async function* inPieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** Wait for `work`, but not longer than until the signal aborts. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
