/** Run a program and measure it: seconds, and the memory of all its processes together. */
import { readdirSync, readFileSync } from "node:fs";

export interface Measured {
  seconds: number;
  /** The most that all its processes were seen to hold at once, in bytes; 0 if they had ended before anybody looked. */
  memoryBytes: number;
  code: number;
  /** What it said last, if it failed. */
  reason: string | undefined;
}

/**
 * How often the memory is looked at, in ms: a look takes about 0.1 ms for each process. (The kernel's own maximum, which
 * wait4(2) gives, is of no use: it starts with what this process held when it made the child.)
 */
const everyMs = 20;

/** How long a program may take to end after SIGTERM. */
const graceS = 3;

/**
 * @param signal ends the program and what it started, and rejects
 */
export async function measure(
  argv: string[],
  options: { env: Record<string, string>; cwd: string; signal: AbortSignal },
): Promise<Measured> {
  const { env, cwd, signal } = options;
  signal.throwIfAborted();
  const started = performance.now();
  const child = Bun.spawn(argv, { env, cwd, stdin: "ignore", stdout: "ignore", stderr: "pipe", detached: true });
  let sampled = 0;
  const timer = setInterval(() => {
    sampled = Math.max(
      sampled,
      processTree(child.pid).reduce((sum, pid) => sum + memoryOf(pid), 0),
    );
  }, everyMs);
  let killing: ReturnType<typeof setInterval> | undefined;
  const kill = () => {
    let tries = 0;
    const killAll = () => {
      for (const pid of processTree(child.pid)) send(pid, tries < graceS ? "SIGTERM" : "SIGKILL");
      tries++;
    };
    killAll();
    killing = setInterval(killAll, 1000);
  };
  signal.addEventListener("abort", kill, { once: true });
  try {
    const said = child.stderr.text();
    const code = await child.exited;
    const seconds = (performance.now() - started) / 1000;
    signal.throwIfAborted();
    const reason = code === 0 ? undefined : lastLine(await said) || `exit ${child.signalCode ?? code}`;
    return { seconds, memoryBytes: sampled, code, reason };
  } finally {
    clearInterval(timer);
    clearInterval(killing);
    signal.removeEventListener("abort", kill);
  }
}

/** A process and all below it. */
function processTree(pid: number): number[] {
  const found = [pid];
  for (let i = 0; i < found.length; i++) {
    try {
      for (const thread of readdirSync(`/proc/${found[i]}/task`)) {
        const children = readFileSync(`/proc/${found[i]}/task/${thread}/children`, "utf8");
        found.push(...children.split(" ").filter(Boolean).map(Number));
      }
    } catch {
      // it has ended meanwhile
    }
  }
  return found;
}

/** What a process holds, with its share of what it has in common with others. */
function memoryOf(pid: number): number {
  try {
    const kib = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1];
    return Number(kib ?? 0) * 1024;
  } catch {
    return 0;
  }
}

function send(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // it has ended meanwhile
  }
}

const lastLine = (text: string) => text.trim().split("\n").at(-1)?.trim() ?? "";
