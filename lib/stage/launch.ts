/** One agent on each node, started by srun(1), and what they say. */
import { EfError } from "../base/errors.ts";
import { type Started, start } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import { hostNames } from "../drivers/slurm.ts";
import type { Bell } from "./bell.ts";
import type { Order, Word } from "./messages.ts";

export interface LaunchOptions {
  job: string;
  nodes: readonly string[];
  /** What starts ef on every node. */
  program: readonly string[];
  env: Env;
  signal: AbortSignal | undefined;
  onWord: (word: Word) => void;
  /** An agent has ended before it was told to. */
  onDied: (node: string, why: string) => void;
}

/** The name of the command that {@link srunArgv} starts. */
const agentCommand = "__stage-agent";

/**
 * One task on each node, beside whatever the job runs there (`--overlap`), with all processors and memory that the job has.
 *
 * @see https://slurm.schedmd.com/srun.html
 */
function srunArgv({ job, nodes, program }: Pick<LaunchOptions, "job" | "nodes" | "program">): string[] {
  const count = String(nodes.length);
  return [
    ...["srun", `--jobid=${job}`, "--job-name=ef-stage", `--nodelist=${nodes.join(",")}`],
    ...["-N", count, "-n", count, "--ntasks-per-node=1", "--overlap", "--mem=0", "--cpu-bind=none", "--gres=none"],
    ...["--input=all", "--kill-on-bad-exit=0", "--wait=0", "--quit-on-interrupt", "--"],
    ...program,
    agentCommand,
  ];
}

/** What the job's own steps were asked for is nothing for ours: srun would take it from these. */
const notOurs =
  /^SLURM_(?:N?TASKS?|NPROCS|NNODES|JOB_NUM_NODES|STEP|MEM_PER|CPUS_PER|CPU_BIND|MEM_BIND|TRES|GRES|GPUS|DISTRIBUTION|EXACT|EXCLUSIVE|HINT|THREAD|CORE_SPEC|OVERCOMMIT|NODELIST|LABELIO|UNBUFFEREDIO|STD|INPUT|OUTPUT|ERROR|WAIT|KILL_BAD)/;

const srunEnv = (env: Env): Record<string, string | undefined> =>
  Object.fromEntries(Object.entries(env).filter(([name]) => !notOurs.test(name)));

export class Agents {
  readonly #srun: Started;
  #isEnding = false;
  /** When srun has ended: why, where that is no success. */
  readonly ended: Promise<EfError | undefined>;

  constructor(options: LaunchOptions) {
    const { env, onWord, onDied } = options;
    const onStderr = deaths((list, why) => {
      const tell = (nodes: readonly string[]) => {
        if (!this.#isEnding) for (const node of nodes) onDied(node, why);
      };
      void hostNames(list).then(tell, () => {}); // without scontrol: its silence tells, later
    });
    this.#srun = start(srunArgv(options), { stdin: "pipe", stdout: "pipe", env: srunEnv(env), onStderr });
    readLines(this.#srun, onWord);
    this.ended = this.#srun.done.then(
      () => undefined,
      (error) => (error instanceof EfError ? error : new EfError("TOOL_FAILED", String(error?.message ?? error))),
    );
  }

  tell(order: Order): void {
    this.#srun.stdin?.write(`${JSON.stringify(order)}\n`);
  }

  /**
   * Tell all to end, and wait until they have; those that do not are ended. Not by a signal to srun, which kills its tasks then:
   * they could not remove what they had begun.
   */
  async end(): Promise<void> {
    this.#isEnding = true;
    this.tell({ order: "end" });
    this.#srun.stdin?.end();
    const patience = setTimeout(() => this.#srun.stop(), endMs);
    await this.ended;
    clearTimeout(patience);
  }
}

export interface LaunchAllOptions extends LaunchOptions {
  /** What every agent is told first. */
  order: Order;
  /** Is it known of a node what it says to that? Asked each second. */
  isKnown: (node: string) => boolean;
  bell: Bell;
  /** No task can be started there, or it ended too soon. */
  onLost: (node: string, why: string) => void;
}

/**
 * Start agents, if need be again without the nodes on which none can be started, and wait until all have answered.
 *
 * @returns undefined where none could be started
 * @throws the signal's reason
 */
export async function launchAll(options: LaunchAllOptions): Promise<Agents | undefined> {
  const { order, isKnown, bell, signal, onLost } = options;
  for (let left = [...options.nodes]; left.length > 0; ) {
    const agents = new Agents({ ...options, nodes: left });
    agents.tell(order);
    let ended: { error: EfError | undefined } | undefined;
    void agents.ended.then((error) => {
      ended = { error };
      bell.ring();
    });
    try {
      while (!ended && !left.every(isKnown)) await bell.wait(signal);
    } catch (error) {
      await agents.end();
      throw error;
    }
    if (left.every(isKnown)) return agents;
    const why = ended?.error?.message ?? "it ended before it had answered";
    const named = notLaunched(why);
    const bad = left.filter((node) => named.has(node));
    const lost = bad.length > 0 ? bad : left.filter((node) => !isKnown(node));
    for (const node of lost) onLost(node, named.get(node) ?? why);
    left = left.filter((node) => !lost.includes(node));
  }
  return undefined;
}

/** How long agents may take to end, in milliseconds. */
const endMs = 5_000;

function readLines({ stdout }: Started, onWord: (word: Word) => void): void {
  let rest = "";
  stdout?.setEncoding("utf8");
  stdout?.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const word = wordOf(line);
      if (word) onWord(word);
    }
  });
}

/** A site's prolog may print to stdout as well. */
function wordOf(line: string): Word | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    const word = JSON.parse(line) as Word;
    return typeof word.word === "string" && typeof word.node === "string" ? word : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Hears srun's words about tasks that have ended: `srun: error: n[1-2]: tasks 0-1: Exited with exit code 1`. Once it ends a
 * step itself, as it could not start it on all nodes, the tasks that it kills say nothing.
 *
 * @param onDied of a host list
 */
export function deaths(onDied: (list: string, why: string) => void): (chunk: Buffer) => void {
  let rest = "";
  let isAborted = false;
  return (chunk) => {
    const lines = (rest + chunk.toString("latin1")).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      isAborted ||= /failed on node |launch failed|step aborted/.test(line);
      const [, list, why] = /^srun: error: (\S+): tasks? [\d,-]+: (.+)$/.exec(line) ?? [];
      if (list !== undefined && why !== undefined && !isAborted) onDied(list, why);
    }
  };
}

/** The nodes on which srun could not start a task, by its words, and why. */
export function notLaunched(message: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const [, node = "", why = ""] of message.matchAll(/failed on node (\S+): (.+)/g)) found.set(node, why.trim());
  return found;
}
