/** What the commands for environments share. */

import { display } from "../lib/base/bytes.ts";
import { exportText, parentDialect, type ShellDialect } from "../lib/base/shell.ts";
import { plural, sizeText } from "../lib/base/units.ts";
import { activationText } from "../lib/envs/activation.ts";
import type { VenvEvent } from "../lib/envs/events.ts";
import { type Live, promptOf } from "../lib/envs/live.ts";
import { sitePackages } from "../lib/envs/packages.ts";
import type { RelocationReport } from "../lib/envs/relocating.ts";
import type { Args } from "./args.ts";
import { say, stdoutIsTerminal, warn } from "./process.ts";
import { programArgv } from "./program.ts";
import { progress } from "./progress.ts";

const shells = ["bash", "zsh", "fish", "csh"] as const satisfies readonly ShellDialect[];

/** Flags of what changes the shell. */
export const shellArgs = {
  shell: {
    type: "enum",
    options: shells,
    description: "Syntax of what is printed for eval (default: that of the calling shell)",
  },
} as const satisfies Args;

export const pythonArg = {
  python: {
    type: "string",
    alias: "p",
    valueHint: "PYTHON",
    description: "Another base interpreter of the same minor version: path, version or name on PATH",
  },
} as const satisfies Args;

export const dialectOf = (args: { shell: ShellDialect | undefined }): ShellDialect =>
  args.shell ?? parentDialect(process.ppid);

/** The `eval` of a command that failed fails; nobody evaluates what a terminal shows. */
export const failText = (rawArgs: readonly string[]): string => {
  if (stdoutIsTerminal()) return "";
  const at = rawArgs.findIndex((arg) => arg === "--shell" || arg.startsWith("--shell="));
  const named = rawArgs[at]?.startsWith("--shell=") ? rawArgs[at]?.slice("--shell=".length) : rawArgs[at + 1];
  return exportText(shells.find((shell) => at >= 0 && shell === named) ?? parentDialect(process.ppid), {}, true);
};

/** How a shell evaluates what a command prints, in words for people. */
export function evalText(shell: ShellDialect, call: string): string {
  const how = {
    bash: `eval "$(${call})"`,
    zsh: `eval "$(${call})"`,
    fish: `eval (${call})`,
    csh: `eval "\`${call}\`"`,
  };
  return `${how[shell]}, or once for all the function ef (ef shell-init --help)`;
}

/** Statements that activate an environment; on a terminal, where nobody evaluates them, what to do instead. */
export function activate(shell: ShellDialect, live: Live): string {
  if (stdoutIsTerminal()) {
    say(`not active yet: ${evalText(shell, `ef venv activate ${live.name}`)}\n`);
    return "";
  }
  return activationText(shell, {
    dir: live.dir,
    prompt: promptOf(live),
    site: sitePackages(live.dir),
    program: programArgv(),
  });
}

type Packing = Extract<VenvEvent, { type: "copying" }>;

/** Shows what happens, and at the end `result.text`. */
export const venvProgress = (
  quiet: boolean,
  verb: "pack" | "unpack",
): ((event: VenvEvent | { type: "result"; result: { name: string; text: string } }) => void) =>
  progress<Packing, { name: string; text: string }>(
    { quiet, names: "none" },
    { copying: ({ plan }) => toDo(plan, verb), result: ({ text }) => text },
  );

const toDo = ({ files, bytes }: Packing["plan"], verb: string) =>
  `${files > 0 ? `${plural(files, "file")}, ` : ""}${sizeText(bytes)} to ${verb}`;

/** What of an environment still names the place where it was. */
export function tellRelocation(name: string, { left: all, compiled }: RelocationReport): void {
  const left = all.filter(({ isThere }) => !isThere);
  for (const { path, why } of left.slice(0, leftShown)) warn(`${name}: ${display(path)}: ${why}`);
  if (left.length > leftShown) warn(`${name}: and ${plural(left.length - leftShown, "other")} (all: --json)`);
  if (compiled > 0)
    say(
      `${name}: ${plural(compiled, "compiled file")} (.pyc) name the place of their making; Python mends that when it reads them\n`,
    );
}

const leftShown = 10;

export const relocationJson = ({ from, to, changed, left, compiled }: RelocationReport) => ({
  from: from.map(display),
  to: display(to),
  changed: changed.map(({ path, what }) => ({ path: display(path), what })),
  left: left.map(({ path, why }) => ({ path: display(path), why })),
  compiled,
});
