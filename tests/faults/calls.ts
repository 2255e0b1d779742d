/** The compiled ef with one file-system call that fails: fail-call.c. */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { efArgv, type Home, have, type Ran, run } from "../helpers.ts";

/** What a call can get instead of being done; see fail-call.c. */
export const faults = [
  ...["ENOSPC", "EDQUOT", "EIO", "ESTALE", "EACCES", "ENOENT", "EINTR", "short", "late", "kill", "term", "int"],
] as const;
/** What the start of a program can get. */
export const startFaults = ["ENOENT", "EACCES", "ENOMEM", "kill", "die"] as const;
export type Fault = (typeof faults | typeof startFaults)[number];

const program = compile();

/** Can calls be made to fail here? Needs gcc, and seccomp with user notification (Linux 5.5). */
export const canFail =
  program !== undefined && Bun.spawnSync([program, "/nonexistent", "--", "true"], { stderr: "ignore" }).exitCode === 0;

/** Once for each state of its source. */
function compile(): string | undefined {
  if (!have("gcc")) return undefined;
  const source = resolve(import.meta.dir, "fail-call.c");
  const path = resolve(
    import.meta.dir,
    `../../node_modules/.cache/fail-call-${Bun.hash(readFileSync(source)).toString(16)}`,
  );
  if (existsSync(path)) return path;
  const made = `${path}.${process.pid}`;
  mkdirSync(dirname(path), { recursive: true });
  if (Bun.spawnSync(["gcc", "-O1", "-o", made, source]).exitCode !== 0) return undefined;
  renameSync(made, path);
  return path;
}

export interface Faulty extends Ran {
  /** Each counted call: its name and its path. */
  calls: string[];
  /** The most memory that ef had, in kB. */
  peakKb: number;
}

/** What is counted: file-system calls below the directory of a throw-away HOME, or the starts of other programs. */
export type Counted = "calls" | "starts";

/** More than any of these takes. A program that grows without an end is to fail alone. */
const limits = ["timeout", "-k", "5", "120", "prlimit", "--as=8000000000"];

/**
 * Run ef, with the `k`th call failing; 0: none. Or the first that is named so: the order of calls is not always the same.
 *
 * @param fault what that call gets; or a script that runs, to its end, before that call is made
 */
export async function efWith(
  at: Home,
  args: readonly string[],
  k: number | string = 0,
  fault: Fault | { script: string } = "EIO",
  counted: Counted = "calls",
): Promise<Faulty> {
  const log = `${at.dir}.calls`;
  const what = typeof fault === "string" ? ["-f", fault] : ["-x", fault.script];
  const which = [typeof k === "string" ? "-m" : "-k", String(k)];
  const options = [...(counted === "starts" ? ["-e"] : []), ...which, ...what, "-l", log];
  const argv = [...limits, program ?? "", ...options, at.dir, "--", ...efArgv, ...args];
  const ran = await run(argv, { cwd: "/", env: at.env });
  const lines = existsSync(log) ? readFileSync(log, "utf8").split("\n").slice(0, -1) : [];
  rmSync(log, { force: true });
  const peak = lines.at(-1)?.startsWith("peak ") ? lines.pop() : undefined;
  return { ...ran, calls: lines.map((line) => line.replace(/^\d+ /, "")), peakKb: Number(peak?.slice(5) ?? 0) };
}
