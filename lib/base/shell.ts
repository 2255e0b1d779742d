/**
 * Text for `eval`: variables that a shell sets and exports.
 *
 * Nothing in a value may be seen by the shell, so everything stands in single quotes, and what is special even there
 * is taken out of them, one character at a time. That needs no list of dangerous characters, only of what ends or
 * bends a single-quoted string in that one shell: `'` in all; `\` in fish, and in tcsh with `backslash_quote`; `!` in
 * csh, which looks into its history in scripts too; a newline in fish and csh, which split what a command prints there.
 */
import { readlinkSync } from "node:fs";
import { basename } from "node:path";
import { EfError } from "./errors.ts";

/** The forms in which ef writes variables. That for bash and zsh is plain POSIX: dash and ksh read it too. */
export const dialects = ["bash", "zsh", "fish", "csh", "json"] as const;
export type Dialect = (typeof dialects)[number];

/** The dialects that a shell can `eval`. */
export type ShellDialect = Exclude<Dialect, "json">;

const quotePosix = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
const quoteFish = (text: string) => `'${text.replace(/['\\]/g, "\\$&").replaceAll("\n", "'\\n'")}'`;
const quoteCsh = (text: string) => `'${text.replace(/['\\!\n]/g, (c) => (c === "\n" ? "'$'\\n''" : `'\\${c}'`))}'`;

const quoters: Record<ShellDialect, (text: string) => string> = {
  bash: quotePosix,
  zsh: quotePosix,
  fish: quoteFish,
  csh: quoteCsh,
};

/**
 * `text` as one word of a shell, which reads it back byte for byte.
 *
 * In fish and csh the word holds no newline. A newline in `text` needs tcsh 6.20 there; older ones and BSD csh refuse
 * the whole `eval` with "Illegal variable name". In csh the history character must be `!` (variable `histchars`).
 *
 * @param text without NUL
 */
export function quote(dialect: ShellDialect, text: string): string {
  return quoters[dialect](text);
}

/**
 * One statement that sets and exports `name`. In fish and csh it is one line that ends with `;`, so that lines joined
 * by spaces, as `eval (…)` and ``eval "`…`"`` do, mean the same. In JSON it is an object with one key.
 *
 * @param value any text without NUL
 * @throws {EfError} USAGE if `name` is no name that a shell can export, or `value` holds a NUL
 * @example
 * exportStatement("fish", "HF_HOME", "/scratch/it's"); // set -gx HF_HOME '/scratch/it\'s';
 */
export function exportStatement(dialect: Dialect, name: string, value: string): string {
  check(name, value);
  switch (dialect) {
    case "bash":
    case "zsh":
      return `export ${name}=${quote(dialect, value)}`;
    case "fish":
      return `set -gx ${name} ${quote(dialect, value)};`;
    case "csh":
      return `setenv ${name} ${quote(dialect, value)};`;
    case "json":
      return JSON.stringify({ [name]: value });
  }
}

/**
 * All that a command prints for `eval`: the variables in their order and, if `fail`, a `false` at the end, which
 * makes the `eval` fail after it has set them. Write it in one piece: then no shell ever sees half a statement.
 *
 * @param fail has no effect on JSON, whose readers have the exit code
 * @returns lines, each with its newline; empty if there is nothing to say. In JSON one object, also when it is empty.
 * @throws {EfError} USAGE as {@link exportStatement}
 * @example
 * exportText("fish", { HF_HOME: "/scratch/it's" }, false); // "set -gx HF_HOME …"
 */
export function exportText(dialect: Dialect, exports: Readonly<Record<string, string>>, fail: boolean): string {
  const entries = Object.entries(exports);
  if (dialect === "json") {
    for (const [name, value] of entries) check(name, value);
    return `${JSON.stringify(exports, null, 2)}\n`;
  }
  const lines = entries.map(([name, value]) => exportStatement(dialect, name, value));
  if (fail) lines.push(dialect === "fish" || dialect === "csh" ? "false;" : "false");
  return lines.map((line) => `${line}\n`).join("");
}

/** The last guard before an `eval`: whatever the callers checked, a name that is none would be run as code. */
function check(name: string, value: string): void {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
    throw new EfError("USAGE", `Cannot export ${JSON.stringify(name)}: a shell cannot have a variable of that name`, {
      hint: "use letters, digits and _, and no digit first",
    });
  }
  if (value.includes("\0")) {
    throw new EfError("USAGE", `Cannot export ${name}: its value ${JSON.stringify(value)} holds a NUL`, {
      hint: "no environment variable and no path can hold one: correct the configuration",
    });
  }
}

/**
 * The dialect of the shell that started us.
 *
 * Told by the executable of the parent process: `$SHELL` is the login shell, whatever runs now, and the process name
 * of a `#!` script is the script's.
 *
 * @param ppid process id of the parent
 * @returns "bash", which any POSIX shell reads, if the parent is no shell (`srun`, `env`), cannot be looked at, or
 *   there
 *   is no /proc
 */
export function parentDialect(ppid: number): ShellDialect {
  let program: string;
  try {
    program = basename(readlinkSync(`/proc/${ppid}/exe`)); // `zsh-5.9`, `fish (deleted)` after an update
  } catch {
    return "bash";
  }
  const shell = /^(?:bsd-)?(zsh|fish|t?csh)(?![a-z])/.exec(program)?.[1];
  if (shell === "zsh" || shell === "fish") return shell;
  return shell ? "csh" : "bash";
}
