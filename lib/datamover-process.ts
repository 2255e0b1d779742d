/** A tool that runs on a data mover, held like a process of our own. */
import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";
import { PassThrough, type Readable, Transform } from "node:stream";
import { EfError, errnoOf } from "./base/errors.ts";
import { lastLines, run } from "./base/exec.ts";
import type { Env } from "./base/paths.ts";
import { mark } from "./base/trace.ts";
import { endMark, parseStart } from "./drivers/dt.ts";
import type { Communicated } from "./drivers/handle.ts";

/** How to start it, once that is known. */
export interface Prepared {
  argv: readonly string[];
  /** The same for people: without the script that srun runs. */
  shown: readonly string[];
  env: Env;
  /** Does it say by {@link parseStart} that the tool starts? Then what fails before is no failure of the tool. */
  saysStart: boolean;
  /** Cancels a job, by its number, besides the signal. */
  cancelArgv?: ((jobId: string) => string[]) | undefined;
}

export interface StartOptions {
  /** @default "ignore" */
  stdin?: "ignore" | "inherit";
  /** "inherit": byte for byte to where ours goes, without passing through here. @default "pipe" */
  stdout?: "pipe" | "inherit";
  /** Cancels the job. */
  signal?: AbortSignal | undefined;
}

/** How much of what nobody reads is kept of each stream, from its end, in bytes. */
const keptBytes = 16 * 2 ** 20;
const killedCode = 128 + constants.signals.SIGTERM;
/** How long it may take to end after SIGTERM, in seconds: srun itself waits twelve for the tasks. */
const graceS = 20;
/** SIGTERM is sent again after so long. */
const againS = 5;

export class MoverProcess implements AsyncDisposable {
  /** The tool and its arguments. */
  readonly argv: readonly string[];
  #child: ChildProcess | undefined;
  #code: number | null = null;
  #failed: { error: unknown } | undefined;
  #killing = false;
  readonly #preparing = new AbortController();
  #jobId: string | undefined;
  #node: string | undefined;
  #hasStarted = false;
  /** What the tool's shell said at its end. */
  #told: number | undefined;
  #cancel: ((jobId: string) => Promise<unknown>) | undefined;
  #cancelled: Promise<unknown> | undefined;
  readonly #out = new Output();
  readonly #err = new Output();
  readonly #ended: Promise<number>;

  /** Use {@link Datamover.run}. */
  constructor(
    argv: readonly string[],
    prepare: (signal: AbortSignal) => Promise<Prepared>,
    options: StartOptions = {},
  ) {
    this.argv = argv;
    const { signal } = options;
    const onAbort = () => void this.kill();
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#ended = prepare(this.#preparing.signal)
      .catch((error) => {
        if (this.#killing) return undefined;
        throw error;
      })
      .then((prepared) => (prepared && !this.#killing ? this.#start(prepared, options) : killedCode))
      .then((code) => {
        if (signal?.aborted) throw signal.reason;
        this.#code = code;
        return code;
      })
      .catch((error) => {
        this.#failed = { error };
        this.#out.end();
        this.#err.end();
        throw error;
      })
      .finally(() => signal?.removeEventListener("abort", onAbort));
    this.#ended.catch(() => {}); // whoever waits for it hears it
    if (signal?.aborted) onAbort();
  }

  /** Of the srun or `dt*` process here; undefined until that has been started, which takes some milliseconds. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Of its Slurm job; undefined until Slurm or the tool has said it. */
  get jobId(): string | undefined {
    return this.#jobId;
  }

  /** Where it runs; undefined until it does, and with `dt*` tools. */
  get node(): string | undefined {
    return this.#node;
  }

  /**
   * Its stdout as it comes. Who asks for the stream must read it: the tool stops when some 100 KiB wait. Of what nobody reads
   * the last 16 MiB are kept, from the first `poll`, `wait` or `communicate` on.
   */
  get stdout(): Readable {
    return this.#out.take();
  }

  /** Its stderr, and what Slurm says there; as {@link MoverProcess.stdout}. */
  get stderr(): Readable {
    return this.#err.take();
  }

  /**
   * Its exit code, 128+n where signal n ended it; null while it runs.
   *
   * @throws {EfError} as {@link MoverProcess.wait}, once it could not be started
   */
  poll(): number | null {
    this.#drain(keptBytes);
    if (this.#failed) throw this.#failed.error;
    return this.#code;
  }

  /**
   * Wait until it has ended.
   *
   * @param options.timeoutS for so long, in seconds; it runs on after that
   * @returns its exit code, whatever it is; 128+n where signal n ended it
   * @throws {EfError} if it was never run: TOOL_MISSING, USAGE (no partition), TOOL_FAILED with Slurm's own words; TIMEOUT
   */
  async wait({ timeoutS }: { timeoutS?: number | undefined } = {}): Promise<number> {
    this.#drain(keptBytes);
    if (timeoutS === undefined) return this.#ended;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      const job = this.#jobId === undefined ? "" : ` (job ${this.#jobId})`;
      const error = () =>
        new EfError("TIMEOUT", `Cannot wait longer than ${timeoutS} s for ${this.argv[0]}${job}: it is still running`);
      timer = setTimeout(() => reject(error()), timeoutS * 1000);
    });
    return Promise.race([this.#ended, late]).finally(() => clearTimeout(timer));
  }

  /**
   * Wait until it has ended, and give all that it printed and nobody has read, as UTF-8: however much that is, if this is
   * called before `poll` and `wait`; `lostBytes` says what was dropped else.
   *
   * @throws {EfError} as {@link MoverProcess.wait}
   */
  async communicate(): Promise<Communicated & { lostBytes: number }> {
    this.#drain(Number.POSITIVE_INFINITY);
    const code = await this.#ended;
    const [stdout, stderr] = await Promise.all([this.#out.text(), this.#err.text()]);
    return { stdout, stderr, code, lostBytes: this.#out.lostBytes + this.#err.lostBytes };
  }

  /** End it, and cancel its job. Its exit code is then 143, unless it ended by itself before. */
  async kill(): Promise<void> {
    if (this.#killing || this.#code !== null || this.#failed) return void (await this.#ended.catch(() => {}));
    this.#killing = true;
    this.#preparing.abort();
    this.#drain(keptBytes);
    this.#terminate();
    let seconds = 0;
    const again = () => {
      seconds += againS;
      this.#terminate(seconds < graceS ? "SIGTERM" : "SIGKILL");
    };
    const timer = setInterval(again, againS * 1000);
    await this.#ended.catch(() => {});
    clearInterval(timer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }

  #terminate(name: NodeJS.Signals = "SIGTERM"): void {
    const pid = this.#child?.pid;
    if (pid === undefined) return;
    try {
      process.kill(-pid, name);
    } catch {
      // it has just ended
    }
    if (this.#jobId !== undefined) this.#cancelled ??= this.#cancel?.(this.#jobId).catch(() => {}); // its job has ended
  }

  #drain(limit: number): void {
    this.#out.keep(limit);
    this.#err.keep(limit);
  }

  async #start({ argv, shown, env, saysStart, cancelArgv }: Prepared, options: StartOptions): Promise<number> {
    const { stdin = "ignore", stdout = "pipe" } = options;
    mark(`start ${argv[0]}`, { argv });
    const [program = "", ...rest] = argv;
    if (cancelArgv) this.#cancel = (jobId) => run(cancelArgv(jobId), { env });
    // A process group of its own: the terminal's Ctrl-C, of which srun wants two, reaches ef alone.
    const child = spawn(program, rest, {
      stdio: [stdin, stdout, "pipe"],
      detached: true,
      env: env as NodeJS.ProcessEnv,
    });
    this.#child = child;
    let said = "";
    const listen = this.#listener(saysStart, (line) => {
      said = `${said}${line}\n`.slice(-(1 << 16));
    });
    if (child.stdout) this.#out.from(child.stdout);
    else this.#out.end();
    if (child.stderr) this.#err.from(child.stderr.pipe(listen));
    if (this.#killing) this.#terminate();
    const code = await new Promise<number>((resolve, reject) => {
      child.once("error", (error) => reject(cannotStart(program, error)));
      child.once("close", (status, endedBy) => resolve(status ?? 128 + (endedBy ? constants.signals[endedBy] : 0)));
    });
    await this.#cancelled;
    if (this.#killing && code !== 0) return killedCode;
    if (!saysStart) return code;
    if (this.#told !== undefined) return this.#told;
    if (this.#hasStarted && code !== 0) return code; // the shell too was ended, by SIGKILL
    const why = this.#err.isTaken ? "" : lastLines(said); // who reads stderr has it already
    throw this.#hasStarted
      ? new EfError(
          "TOOL_FAILED",
          `Cannot tell the end of ${this.argv[0]}: its job on the data mover ended first${why}`,
          {
            hint: "look how far it came, then run it again",
          },
        )
      : new EfError("TOOL_FAILED", `Cannot run ${this.argv[0]} on the data mover${why}`, {
          hint: `it was called as: ${shown.join(" ")}`,
        });
  }

  /** Passes stderr on, without the lines that tell the tool's start and end; hears the number of the job. */
  #listener(saysStart: boolean, onLine: (line: string) => void): Transform {
    let rest: Buffer = Buffer.alloc(0);
    const hear = (line: string): boolean => {
      this.#jobId = /^(?:srun: job|Submitted batch job) (\d+)/.exec(line)?.[1] ?? this.#jobId;
      const start = saysStart ? parseStart(line) : undefined;
      if (!start) {
        onLine(line);
        return true;
      }
      this.#jobId = start.jobId || this.#jobId;
      this.#node = start.node || undefined;
      this.#hasStarted = true;
      return false;
    };
    const transform = (push: (bytes: Buffer) => void) => {
      for (let at = rest.indexOf(10); at >= 0 && !this.#hasStarted; at = rest.indexOf(10)) {
        const line = rest.subarray(0, at + 1);
        if (hear(line.subarray(0, -1).toString())) push(line);
        rest = rest.subarray(at + 1);
      }
      // What a `dt*` tool writes without an end of line is no message of Slurm's: it is not held back.
      const held = this.#hasStarted ? this.#heldBack(rest, push, onLine) : saysStart ? rest : Buffer.alloc(0);
      if (!this.#hasStarted && held.length === 0) push(rest);
      rest = held;
    };
    return new Transform({
      transform(chunk: Buffer, _, done) {
        rest = Buffer.concat([rest, chunk]);
        transform((bytes) => bytes.length > 0 && this.push(bytes));
        done();
      },
      flush(done) {
        if (rest.length > 0) this.push(rest);
        done();
      },
    });
  }

  /** Pass all on but the telling of the end, and what may be its beginning. It follows what the tool wrote last, on its line. */
  #heldBack(bytes: Buffer, push: (bytes: Buffer) => void, onLine: (line: string) => void): Buffer {
    const text = bytes.toString("latin1");
    const at = text.lastIndexOf(endMark);
    const [told = "", code] = at < 0 ? [] : (/^[^\n]{12}(\d+)\n/.exec(text.slice(at)) ?? []);
    if (code !== undefined) {
      this.#told = Number(code);
      push(bytes.subarray(0, at));
      return this.#heldBack(bytes.subarray(at + told.length), push, onLine);
    }
    let length = at < 0 ? 0 : text.length - at;
    for (let n = Math.min(endMark.length, text.length); n > 0 && length === 0; n--) {
      if (text.endsWith(endMark.slice(0, n))) length = n;
    }
    if (length > endMark.length + 4) length = 0; // it went on otherwise
    const rest = bytes.subarray(bytes.length - length);
    const passed = bytes.subarray(0, bytes.length - length);
    onLine(passed.toString().trimEnd());
    push(passed);
    return rest;
  }
}

/** One stream of the tool: read by the caller, or kept up to a limit, or left to wait. */
class Output {
  readonly #source = new PassThrough();
  #taken: Readable | undefined;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #limit: number | undefined;
  lostBytes = 0;
  readonly #isOver: Promise<void>;

  constructor() {
    this.#source.on("error", () => {});
    this.#isOver = new Promise((resolve) => this.#source.once("end", resolve).once("close", resolve));
  }

  from(stream: Readable): void {
    stream.on("error", () => this.end()).pipe(this.#source);
  }

  end(): void {
    this.#source.end();
  }

  get isTaken(): boolean {
    return this.#taken !== undefined;
  }

  /** The stream, beginning with what was kept. */
  take(): Readable {
    if (this.#taken) return this.#taken;
    if (this.#limit === undefined) {
      this.#taken = this.#source;
      return this.#source;
    }
    const stream = new PassThrough();
    this.#taken = stream;
    this.#source.off("data", this.#push);
    stream.write(Buffer.concat(this.#chunks));
    this.#chunks = [];
    if (this.#source.readableEnded) stream.end();
    else this.#source.pipe(stream);
    return stream;
  }

  keep(limit: number): void {
    if (this.#taken) return;
    if (this.#limit === undefined) this.#source.on("data", this.#push);
    this.#limit = Math.max(limit, this.#limit ?? 0);
  }

  readonly #push = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    while (this.#bytes - (this.#chunks[0]?.length ?? 0) >= (this.#limit ?? 0)) {
      const lost = this.#chunks.shift()?.length ?? 0;
      this.#bytes -= lost;
      this.lostBytes += lost;
    }
  };

  async text(): Promise<string> {
    if (this.#taken) return "";
    await this.#isOver;
    return Buffer.concat(this.#chunks).toString("utf8");
  }
}

function cannotStart(program: string, cause: unknown): EfError {
  const errno = errnoOf(cause);
  if (errno === "E2BIG") {
    return new EfError("USAGE", `Cannot run ${program}: the arguments are too long for one command`, {
      hint: "name a directory instead of its files, or give a list: rsync --files-from=FILE",
      cause,
    });
  }
  const why = errno === "ENOENT" ? "it is not installed, or not on PATH" : (errno ?? String(cause));
  return new EfError(errno === "ENOENT" ? "TOOL_MISSING" : "TOOL_FAILED", `Cannot run ${program}: ${why}`, { cause });
}
