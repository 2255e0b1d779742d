/** Step back behind others: for the whole process, which cannot take it back, so it is for programs and not for functions. */
import { readdirSync } from "node:fs";
import { setPriority } from "node:os";
import { run } from "../base/exec.ts";

/** A shell's own share is 10 times that of a process with this (nice(1) has it as its default). */
const niceness = 10;

/**
 * Give this process, its threads and the programs that it starts from now on a low priority for processor and disk. What
 * does not work is left as it is.
 */
export async function lowerPriority(): Promise<void> {
  const threads = threadIds();
  for (const id of threads) {
    try {
      setPriority(Number(id), niceness); // Linux has it for each thread
    } catch {
      // it ended meanwhile, or its niceness is higher already
    }
  }
  // Best effort, the last of its eight levels (ionice(1)); it exits with an error if one of the threads has ended.
  await run(["ionice", "-c", "2", "-n", "7", "-p", ...threads]).catch(() => {});
}

/** Of a Linux process; elsewhere the process is all there is. */
function threadIds(): string[] {
  try {
    return readdirSync("/proc/self/task");
  } catch {
    return [String(process.pid)];
  }
}
