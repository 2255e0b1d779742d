import { EfError } from "./base/errors.ts";
import { randomId } from "./base/files.ts";
import type { Env } from "./base/paths.ts";
import { expandPath } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { MoverProcess, type Prepared, type StartOptions } from "./datamover-process.ts";
import {
  dtArgv,
  endMark,
  findTools,
  jobOptions,
  type Move,
  type MoverSettings,
  type SlurmMover,
  srunArgv,
} from "./drivers/dt.ts";
import type { ProcessHandle } from "./drivers/handle.ts";
import { moverPartition, outsideJob, partitions } from "./drivers/slurm-jobs.ts";

export interface DatamoverOptions extends MoverSettings {
  /** Directory of the site's `dt*` tools. @default that of the first `dtcp` or `dtls` on PATH */
  dir?: string | undefined;
  /** Partition of the data movers, for sites without such tools. @default the one of `sinfo` with a usual name */
  partition?: string | undefined;
  /** More options of srun and sbatch. */
  srunArgs?: readonly string[] | undefined;
  /** "srun": not by the `dt*` tools, even where they exist. @default "auto" */
  form?: "auto" | "srun";
  /**
   * Let `dt*` tools end when the job has ended, with its exit code. With false they only submit it (all but dtls): their exit
   * code then is that of the submission, and their output is in files that they name.
   * @default true
   */
  blocking?: boolean | undefined;
  /** Hears each command line before it is run. */
  onCommand?: ((argv: readonly string[]) => void) | undefined;
  /** @default process.env */
  env?: Env;
  /** What relative paths are relative to, on the mover. @default the working directory */
  cwd?: string;
}

/** How a job would be submitted. */
export interface Background {
  mover: SlurmMover;
  argv: string[];
  shown: string[];
}

/** Starts a tool with the arguments of the Linux tool of that name. */
export type DtTool = (...args: string[]) => MoverProcess;

/**
 * The data mover of this site: nodes that mount, and may write to, what others do not.
 *
 * Each `dt*` tool is a method that gives a process at once: the site's tool where there is one, else the Linux tool of that name
 * on the partition of the movers. Arguments are handed on untouched, and no path is looked at on this node. Relative paths are
 * relative to the working directory here; a mover that does not have it refuses them. Within a job a job of its own is made.
 *
 * @example
 * const dm = new Datamover();
 * const { stdout } = await dm.dtls("-lh", "/grp/g_biapol").communicate();
 * const code = await dm.dtcp("-r", "/grp/g_biapol/data", "/projects/p_bioimage/").wait();
 */
export class Datamover {
  declare readonly dtcp: DtTool;
  declare readonly dtls: DtTool;
  declare readonly dtmv: DtTool;
  declare readonly dtrm: DtTool;
  declare readonly dtrsync: DtTool;
  declare readonly dttar: DtTool;
  declare readonly dtwget: DtTool;
  /** Of the site's tools only. */
  declare readonly dtinfo: DtTool;
  declare readonly dtqueue: DtTool;
  declare readonly dtcancel: DtTool;
  readonly [tool: `dt${string}`]: DtTool;

  /** The settings that it was made with. */
  readonly options: DatamoverOptions;

  constructor(options: DatamoverOptions = {}) {
    this.options = options;
    // biome-ignore lint/correctness/noConstructorReturn: which tools a site has is not known before
    return new Proxy(this, {
      get(target, name, proxy) {
        if (typeof name === "string" && /^dt[a-z]/.test(name)) return (...args: string[]) => target.run(name, ...args);
        return Reflect.get(target, name, proxy);
      },
    });
  }

  /**
   * With the settings of `ef.datamover`, of which `options` wins.
   *
   * @throws {EfError} UNSET_VARIABLE
   */
  static fromConfig(config: Config | undefined, options: DatamoverOptions = {}): Datamover {
    const { dir, partition, account, time, srun_args } = config?.ef?.datamover ?? {};
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    const env = options.env ?? process.env;
    return new Datamover({
      ...(dir === undefined ? {} : { dir: expandPath(dir, env, "ef.datamover.dir") }),
      ...{ partition, account, time, srunArgs: srun_args },
      ...given,
    });
  }

  /** The names of the site's `dt*` tools; none where Slurm's partition takes their place. */
  async tools(): Promise<string[]> {
    return [...(await findTools(envOf(this), this.options.dir)).keys()];
  }

  /**
   * Start a tool.
   *
   * @param tool `cp` or `dtcp`: both mean the same
   */
  run(tool: string, ...args: string[]): MoverProcess {
    return this.start(tool, args);
  }

  /** {@link Datamover.run}, with a say in where stdin and stdout go. */
  start(tool: string, args: readonly string[], options: StartOptions = {}): MoverProcess {
    const prepare = async (signal: AbortSignal) => {
      const prepared = await this.prepare(tool, args, signal);
      this.options.onCommand?.(prepared.shown);
      return prepared;
    };
    return new MoverProcess([tool, ...args], prepare, options);
  }

  /**
   * The command line that would be run, and its environment.
   *
   * @throws {EfError} USAGE, TOOL_MISSING if there is no mover
   */
  async prepare(tool: string, args: readonly string[], signal?: AbortSignal): Promise<Prepared> {
    const { form = "auto", blocking = true, dir, account, time } = this.options;
    const env = outsideJob(envOf(this));
    const tools = form === "auto" ? await findTools(env, dir) : new Map<string, string>();
    const path = tools.get(`dt${plain(tool)}`);
    if (path !== undefined) {
      const cancel = tools.get("dtcancel");
      const cancelArgv = cancel === undefined ? undefined : (id: string) => [cancel, id];
      const argv = dtArgv(path, args, { blocking, account, time });
      return { argv, shown: argv, env, cancelArgv };
    }
    const mover = await this.mover(signal);
    const move = this.move(tool, args);
    const shown = ["srun", ...jobOptions(mover, move), "--", move.tool, ...args];
    const cancelArgv = (id: string) => ["scancel", "--quiet", id];
    const token = randomId();
    return { argv: srunArgv(mover, move, token), shown, env, endMark: endMark(token), cancelArgv };
  }

  /** The command line that would submit it as a job; `shown` is for people. @throws {EfError} as {@link Datamover.mover} */
  async inBackground(tool: string, args: readonly string[], signal?: AbortSignal): Promise<Background> {
    const mover = await this.mover(signal);
    const move = this.move(tool, args);
    // Its output goes where the script says: a path may hold what sbatch takes for a pattern.
    const argv = ["sbatch", "--output=/dev/null", "--no-requeue", ...jobOptions(mover, move)];
    return { mover, argv, shown: [...argv, "--", move.tool, ...args] };
  }

  /**
   * The partition that is used, and its settings.
   *
   * @throws {EfError} USAGE if none is set, and none has a usual name; TOOL_MISSING without Slurm
   */
  async mover(signal?: AbortSignal): Promise<SlurmMover> {
    const { partition, account, time, srunArgs } = this.options;
    return { partition: partition ?? (await detect(outsideJob(envOf(this)), signal)), account, time, srunArgs };
  }

  /** What is run there. */
  move(tool: string, args: readonly string[]): Move {
    return { tool: plain(tool), args, cwd: this.options.cwd ?? workingDir() };
  }
}

const envOf = ({ options }: Datamover): Env => options.env ?? process.env;

/** `dtcp` and `cp` → `cp`. */
const plain = (tool: string): string => (/^dt[a-z]/.test(tool) ? tool.slice(2) : tool);

function workingDir(): string {
  try {
    return process.cwd();
  } catch {
    return ""; // it was removed
  }
}

async function detect(env: Env, signal: AbortSignal | undefined): Promise<string> {
  const hint = "set it with: ef config set ef.datamover.partition NAME; or give --partition NAME";
  const all = await partitions({ env, signal }).catch((cause) => {
    if (!(cause instanceof EfError) || cause.code !== "TOOL_MISSING") throw cause;
    throw new EfError("TOOL_MISSING", "Cannot find a data mover: neither dt* tools nor Slurm's programs are on PATH", {
      hint: "on a cluster try: module load slurm; or say where the dt* tools are: ef config set ef.datamover.dir DIR",
      cause,
    });
  });
  const found = moverPartition(all);
  if (found !== undefined) return found;
  const which = all.map(({ name }) => name).join(", ") || "there is none";
  throw new EfError("USAGE", `Cannot tell which partition has the data movers: none has a usual name (${which})`, {
    hint,
  });
}

export interface WaitforOptions {
  /** Kill it after so many seconds. */
  timeoutS?: number | undefined;
  /**
   * Gets what there is to show: dots, and each line of the program's stderr on a line of its own, as it comes. Without it nothing
   * is shown. For a script: `(text) => process.stderr.write(text)`.
   */
  write?: (text: string) => void;
  /** Dots? For a terminal; a log gets the lines only: `process.stderr.isTTY`, which is undefined there. @default false */
  dots?: boolean | undefined;
}

/** Between two dots, in milliseconds. */
const dotMs = 500;

/**
 * Wait for a program, and show that.
 *
 * @returns its exit code
 * @throws {EfError} TIMEOUT, after it was killed; what its `wait` throws
 * @example
 * const write = (text: string) => process.stderr.write(text);
 * await waitfor(new Datamover().dtls("-lh", "/grp"), { write, dots: process.stderr.isTTY });
 */
export async function waitfor(
  proc: Pick<ProcessHandle, "wait" | "stderr"> & { kill(): unknown },
  { timeoutS, write, dots = false }: WaitforOptions = {},
): Promise<number> {
  if (write === undefined) return waiting(proc, timeoutS);
  let isLineOpen = dots;
  const dot = () => {
    write(".");
    isLineOpen = true;
  };
  const line = (text: string) => {
    write(`${isLineOpen ? "\n" : ""}${text}\n`);
    isLineOpen = false;
  };
  if (dots) write("Waiting .");
  const timer = dots ? setInterval(dot, dotMs) : undefined;
  const lines = passLines(proc.stderr, line);
  try {
    return await waiting(proc, timeoutS);
  } finally {
    clearInterval(timer);
    await lines;
    if (isLineOpen) write("\n");
  }
}

async function waiting(proc: Pick<ProcessHandle, "wait"> & { kill(): unknown }, timeoutS: number | undefined) {
  try {
    return await proc.wait(timeoutS === undefined ? {} : { timeoutS });
  } catch (error) {
    if (error instanceof EfError && error.code === "TIMEOUT") await proc.kill();
    throw error;
  }
}

async function passLines(stream: AsyncIterable<Buffer>, line: (text: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const each of lines) line(each.replace(/\r$/, ""));
  }
  if (rest !== "") line(rest);
}
