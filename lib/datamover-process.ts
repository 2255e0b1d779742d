/** A tool that runs on a data mover, held like a process of our own. */
import { constants } from "node:os";
import { type Readable, Transform } from "node:stream";
import { EfError } from "./base/errors.ts";
import { lastLines, run } from "./base/exec.ts";
import type { Env } from "./base/paths.ts";
import { parseStart } from "./drivers/dt.ts";
import { type Communicated, communicated, signalGroup, startGroup, within } from "./drivers/handle.ts";
import { Output } from "./drivers/output.ts";

/** How to start it, once that is known. */
export interface Prepared {
  argv: readonly string[];
  /** The same for people: without the script that srun runs. */
  shown: readonly string[];
  env: Env;
  /**
   * How the line begins that tells the tool's end, where it is told; then its start is told too (`parseStart`), and what fails
   * before is no failure of the tool.
   */
  endMark?: string;
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

const killedCode = 128 + constants.signals.SIGTERM;
/** How long it may take to end after SIGTERM, in seconds: srun itself waits twelve for the tasks. */
const graceS = 20;
/** SIGTERM is sent again after so long. */
const againS = 5;

export class MoverProcess implements AsyncDisposable {
  /** The tool and its arguments. */
  readonly argv: readonly string[];
  #pid: number | undefined;
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
    return this.#pid;
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
    this.#drain();
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
    this.#drain();
    const job = () => (this.#jobId === undefined ? "" : ` (job ${this.#jobId})`);
    return within(this.#ended, timeoutS, () => `${this.argv[0]}${job()}: it is still running`);
  }

  /**
   * Wait until it has ended, and give all that it printed and nobody has read, as UTF-8: however much that is, if this is
   * called before `poll` and `wait`; `lostBytes` says what was dropped else.
   *
   * @throws {EfError} as {@link MoverProcess.wait}
   */
  communicate(): Promise<Communicated> {
    this.#drain(Number.POSITIVE_INFINITY);
    return communicated(this.#ended, this.#out, this.#err);
  }

  /** End it, and cancel its job. Its exit code is then 143, unless it ended by itself before. */
  async kill(): Promise<void> {
    if (this.#killing || this.#code !== null || this.#failed) return void (await this.#ended.catch(() => {}));
    this.#killing = true;
    this.#preparing.abort();
    this.#drain();
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
    if (this.#pid === undefined) return;
    signalGroup(this.#pid, name);
    if (this.#jobId !== undefined) this.#cancelled ??= this.#cancel?.(this.#jobId).catch(() => {}); // its job has ended
  }

  #drain(limit?: number): void {
    this.#out.keep(limit);
    this.#err.keep(limit);
  }

  async #start({ argv, shown, env, endMark, cancelArgv }: Prepared, options: StartOptions): Promise<number> {
    const { stdin = "ignore", stdout = "pipe" } = options;
    if (cancelArgv) this.#cancel = (jobId) => run(cancelArgv(jobId), { env });
    const { child, ended } = startGroup(argv, { stdio: [stdin, stdout, "pipe"], env: env as NodeJS.ProcessEnv });
    this.#pid = child?.pid;
    let said = "";
    const listen = this.#listener(endMark, (line) => {
      said = `${said}${line}\n`.slice(-(1 << 16));
    });
    this.#out.from(child?.stdout ?? null);
    this.#err.from(child?.stderr?.pipe(listen) ?? null);
    if (this.#killing) this.#terminate();
    const code = await ended;
    await this.#cancelled;
    if (this.#killing && code !== 0) return killedCode;
    if (endMark === undefined) return code;
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
  #listener(endMark: string | undefined, onLine: (line: string) => void): Transform {
    let rest: Buffer = Buffer.alloc(0);
    const hear = (line: string): boolean => {
      this.#jobId = /^(?:srun: job|Submitted batch job) (\d+)/.exec(line)?.[1] ?? this.#jobId;
      const start = endMark === undefined ? undefined : parseStart(line);
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
      if (endMark === undefined) {
        push(rest);
        rest = Buffer.alloc(0);
      } else if (this.#hasStarted) rest = this.#heldBack(rest, endMark, push, onLine);
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
  #heldBack(bytes: Buffer, endMark: string, push: (bytes: Buffer) => void, onLine: (line: string) => void): Buffer {
    const pass = (piece: Buffer) => {
      onLine(piece.toString().trimEnd());
      push(piece);
    };
    const at = bytes.indexOf(endMark);
    if (at >= 0) {
      const end = bytes.indexOf(10, at);
      if (end < 0) {
        pass(bytes.subarray(0, at));
        return bytes.subarray(at);
      }
      this.#told = Number(bytes.subarray(at + endMark.length, end).toString());
      pass(Buffer.concat([bytes.subarray(0, at), bytes.subarray(end + 1)]));
      return Buffer.alloc(0);
    }
    const text = bytes.subarray(-endMark.length).toString("latin1");
    let length = text.length;
    while (length > 0 && !text.endsWith(endMark.slice(0, length))) length--;
    pass(bytes.subarray(0, bytes.length - length));
    return bytes.subarray(bytes.length - length);
  }
}
