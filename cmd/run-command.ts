/** Run what a user wants run, with our own terminal: for the commands that end with its exit code. */
import { EfError } from "../lib/base/errors.ts";
import { openFilesOf } from "../lib/drivers/limits.ts";
import { CannotStart, execute } from "../lib/exec.ts";
import { forwardSignals, ignoredSignals, say, warn } from "./process.ts";

/** What became of the command. */
export interface Heard {
  ran?: true;
  /** It runs. */
  onStart?: () => void;
  /** It was sent a signal. */
  onSignal?: (name: NodeJS.Signals) => void;
}

/** The runtime reads arguments as UTF-8, and would hand on others changed. @throws {EfError} USAGE */
export function refuseChanged(argv: readonly string[], command: string): void {
  if (!argv.some((arg) => arg.includes("\uFFFD"))) return;
  throw new EfError("USAGE", `${command}: an argument of the command is not valid UTF-8, and would arrive changed`, {
    hint: "put the command line into a script, and run that",
  });
}

/** @returns its exit code; that of a shell where it cannot be started, which is said */
export async function runCommand(
  argv: readonly string[],
  env: Record<string, string | undefined>,
  heard: Heard,
): Promise<number> {
  const changed = Object.keys(env).filter((name) => env[name]?.includes("\uFFFD"));
  if (changed.length > 0) warn(`not valid UTF-8, and changed for the command: ${changed.join(", ")}`);
  try {
    return await execute(argv, {
      env,
      forward(send) {
        heard.ran = true;
        heard.onStart?.();
        return forwardSignals((name) => {
          send(name);
          heard.onSignal?.(name);
        });
      },
      ignore: ignoredSignals(),
      openFiles: openFilesOf(process.ppid),
    });
  } catch (error) {
    if (!(error instanceof CannotStart)) throw error;
    delete heard.ran;
    say(`error: ${error.message}\n  ${error.hint}\n`);
    return error.exitCode;
  }
}
