import { spawn } from "node:child_process";
import { constants as fs } from "node:fs";
import { access } from "node:fs/promises";
import { constants } from "node:os";
import { EfError, errnoOf } from "./base/errors.ts";
import { onPath } from "./drivers/programs.ts";

export interface ExecuteOptions {
  /** The whole environment of the command. */
  env: Record<string, string | undefined>;
  /**
   * Called once it runs, with a function that sends it a signal; gives back what ends the forwarding.
   * The library itself listens to no signal.
   */
  forward?: (send: (signal: NodeJS.Signals) => void) => () => void;
  /** Signals that the command is to ignore from its start on, as `nohup` arranges it. */
  ignore?: readonly NodeJS.Signals[];
  /** Its soft limit of open files, where the runtime has raised our own. */
  openFiles?: number | undefined;
}

/** Exit codes of a shell for a command that it cannot start. */
const notFound = 127;
const notExecutable = 126;

/**
 * Run a command with our own stdin, stdout, stderr and terminal, to its end.
 *
 * @returns its exit code; 128+n where signal n ended it
 * @throws {EfError} TOOL_MISSING, with `exitCode` 127 or 126 as a shell has them, if it cannot be started
 * @example
 * const code = await execute(["python3", "-V"], { env: process.env });
 */
export async function execute(argv: readonly string[], options: ExecuteOptions): Promise<number> {
  const [program = ""] = argv;
  try {
    await assertRunnable(program, options.env);
    return await start(asWeWereStarted(argv, options), options);
  } catch (error) {
    // A script without `#!`: execvp(3) and every shell give it to sh.
    if (errnoOf(error) === "ENOEXEC" && program.includes("/")) return execute(["/bin/sh", ...argv], options);
    throw new CannotStart(program, error);
  }
}

/** @throws ENOENT or EACCES, as execve(2) would have it */
async function assertRunnable(program: string, env: ExecuteOptions["env"]): Promise<void> {
  if (program.includes("/")) await access(program, fs.X_OK);
  else if ((await onPath(program, env)).length === 0) throw Object.assign(new Error("not on PATH"), { code: "ENOENT" });
}

/**
 * Bun gives each program the default handling of every signal, and raises the limit of open files to the hard one (which
 * programs with select(2) do not survive). A shell puts both back.
 */
function asWeWereStarted(argv: readonly string[], { ignore = [], openFiles }: ExecuteOptions): readonly string[] {
  const names = ignore.map((name) => name.replace(/^SIG/, "")).join(" ");
  const trap = names === "" ? "" : `trap '' ${names}; `;
  const limit = openFiles === undefined ? "" : `ulimit -Sn ${openFiles} 2>/dev/null; `;
  return trap + limit === "" ? argv : ["/bin/sh", "-c", `${trap}${limit}exec "$@"`, "sh", ...argv];
}

function start(argv: readonly string[], { env, forward }: ExecuteOptions): Promise<number> {
  const [program = "", ...args] = argv;
  return new Promise((resolve, cannotStart) => {
    let child: ReturnType<typeof spawn>;
    try {
      child = spawn(program, args, { stdio: "inherit", env: env as NodeJS.ProcessEnv });
    } catch (error) {
      return cannotStart(error);
    }
    const stop = forward?.((signal) => child.kill(signal));
    child.on("error", (error) => {
      stop?.();
      cannotStart(error);
    });
    child.on("exit", (code, signal) => {
      stop?.();
      resolve(code ?? 128 + (signal ? constants.signals[signal] : 0));
    });
  });
}

/** A command that could not be started, with the exit code that a shell would give. */
export class CannotStart extends EfError {
  readonly exitCode: number;

  constructor(program: string, cause: unknown) {
    const missing = errnoOf(cause) === "ENOENT";
    const why = missing
      ? program.includes("/")
        ? "there is no such file"
        : "there is no such program on PATH"
      : errnoOf(cause) === "EACCES"
        ? "it is not executable"
        : String(cause);
    super("TOOL_MISSING", `Cannot run ${program}: ${why}`, {
      hint: missing ? "a shell's function or alias needs that shell: ef exec -- bash -c '…'" : "check it with: ls -l",
      path: program,
      cause,
    });
    this.exitCode = missing ? notFound : notExecutable;
  }
}
