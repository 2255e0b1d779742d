/**
 * The shell function `ef`: a command that changes the shell has its stdout caught and evaluated, any other just runs.
 *
 * Each text stands alone, starts no process when it is read and looks at no file. The names it uses begin with
 * `__ef_`, so that none is ever the name of a variable that the evaluated text exports: a local one would swallow the
 * export.
 */
import { isAbsolute } from "node:path";
import { EfError } from "./base/errors.ts";
import { quote, type ShellDialect } from "./base/shell.ts";

/** The commands whose stdout is for `eval`: a verb, and the second words that make it one (none: any). */
export const evalVerbs: Readonly<Record<string, readonly string[]>> = {
  sync: [],
  venv: ["activate", "load", "create", "deactivate"],
};

/** With one of these before a `--` such a command prints a report instead. */
const reportFlags = ["--json", "--help", "-h", "--version", "--dry-run"];

const oneWord = Object.keys(evalVerbs).filter((verb) => evalVerbs[verb]?.length === 0);
const twoWords = Object.entries(evalVerbs).filter(([, subs]) => subs.length > 0);

export interface ShellInitOptions {
  shell: ShellDialect;
  /** Absolute path of the ef binary; or a list, an absolute path and its first arguments. */
  program: string | readonly string[];
}

/**
 * Text that defines `ef` for `shell`, to be evaluated in its rc file or to be stored in a file and sourced
 * (see {@link shellInitLine}). The fish and csh texts also survive an `eval` that joins their lines by spaces.
 *
 * - `ef` alone is `ef sync`.
 * - {@link evalVerbs} get `--shell` (unless it is given), and what they print is evaluated. A `--shell` that names
 *   another dialect asks for text to look at: it is printed.
 * - The exit code is the program's, or the `eval`'s if the program's was 0. Under `set -e` all that the program printed
 *   is still evaluated; then the function fails.
 *
 * fish must be 3.1 or newer. csh has no functions, so `ef` is an alias there, which asks a short sh script what to do.
 * Its limits: csh expands no alias after `if (…)` on the same line; what is piped into `ef` does not arrive (`ef … <
 * file` does); an empty argument is refused (exit code 2); one that is just `<`, `>` or `>>` is taken for a redirection
 * even in quotes; `__ef_argv` stays set after a command that was passed through; `csh -e` ends with 1 at the `false`
 * that a failed command prints.
 *
 * @throws {EfError} USAGE if `program` is not absolute: a bare `ef` would call the function again
 * @example
 * const text = shellInit({ shell: "bash", program: "/home/anna/bin/ef" });
 */
export function shellInit({ shell, program }: ShellInitOptions): string {
  const words = typeof program === "string" ? [program] : program;
  const [path = ""] = words;
  if (!isAbsolute(path)) {
    throw new EfError("USAGE", `Cannot write a shell function that calls ${path}: it is no absolute path`, {
      hint: "give the full path of the ef binary",
      path,
    });
  }
  return texts[shell](words);
}

/**
 * The line for the rc file of `shell` that reads a stored {@link shellInit} text, if it is there and readable.
 *
 * @param file absolute path
 */
export function shellInitLine({ shell, file }: { shell: ShellDialect; file: string }): string {
  const path = quote(shell, file);
  if (shell === "fish") return `if test -r ${path}; source ${path}; end`;
  if (shell === "csh") return `if ( -r ${path} ) source ${path}`;
  return `if [ -r ${path} ]; then . ${path}; fi`;
}

const texts: Record<ShellDialect, (program: readonly string[]) => string> = {
  bash: (program) => posixText("bash", "~/.bashrc", "ef() {", program),
  // zsh parses all of an eval before it runs the unalias; the backslash keeps an alias out of the name
  zsh: (program) => posixText("zsh", "~/.zshrc", "\\ef() {", program),
  fish: fishText,
  csh: cshText,
};

const quoteAll = (shell: ShellDialect, words: readonly string[]) => words.map((word) => quote(shell, word)).join(" ");

/**
 * POSIX statements that look at "$@". If nothing is to be evaluated they run `pass`, which has to leave; else "$@" is
 * the full command afterwards. They hold double quotes only and `;` throughout, since csh gets them quoted, on one
 * line.
 */
function choose(shell: ShellDialect, pass: string): string {
  const any = (words: readonly string[]) => words.map((word) => `"${word}"`).join(" | ");
  const orPass = `*) ${pass} ;;`;
  return `\
  [ $# -gt 0 ] || set -- "sync";
  if [ "$1" = "--config" ] && [ $# -gt 2 ]; then
    __ef_arg="$3"; __ef_flag="--config=$2"; shift 3; set -- "$__ef_arg" "$__ef_flag" "$@"; __ef_flag="";
  fi;
  case "$1" in
    ${any(oneWord)}) ;;
    ${twoWords.map(([verb, subs]) => `"${verb}") case "\${2-}" in ${any(subs)}) ;; ${orPass} esac ;;`).join("\n    ")}
    ${orPass}
  esac;
  for __ef_arg in "$@"; do
    case "$__ef_flag$__ef_arg" in
      --) break ;;
      --shell) __ef_flag="--shell="; continue ;;
      --shell=${shell}) __ef_given=1 ;;
      ${[...reportFlags, "--json=*", "--shell=*"].join(" | ")}) ${pass} ;;
    esac;
    __ef_flag="";
  done;
  if [ -z "$__ef_given" ]; then
    __ef_arg="$1"; shift;
    case "$__ef_arg" in
      ${any(oneWord)}) set -- "$__ef_arg" --shell ${shell} "$@" ;;
      *) __ef_flag="$1"; shift; set -- "$__ef_arg" "$__ef_flag" --shell ${shell} "$@" ;;
    esac;
  fi;`;
}

function posixText(shell: "bash" | "zsh", rcFile: string, head: string, program: readonly string[]): string {
  const ef = quoteAll(shell, program);
  return `\
# ef for ${shell}, made by ef shell-init. In ${rcFile}: eval "$(ef shell-init --shell ${shell})"
unalias 'ef' 2>/dev/null || :
${head}
  local __ef_arg="" __ef_flag="" __ef_given="" __ef_out="" __ef_code=0
${choose(shell, `${ef} "$@"; return`)}
  __ef_out=$(${ef} "$@") || __ef_code=$?
  if [ -n "$__ef_out" ]; then
    if eval "$__ef_out"; then :; else
      __ef_arg=$?
      [ "$__ef_code" -ne 0 ] || __ef_code=$__ef_arg
    fi
  fi
  return "$__ef_code"
}
`;
}

/** Each line can be joined to the next by a space, as `eval (…)` does: no comments, `;` after each statement. */
function fishText(program: readonly string[]): string {
  const ef = quoteAll("fish", program);
  const list = (words: readonly string[]) => words.map((word) => `'${word}'`).join(" ");
  const cases = ([verb, subs]: [string, readonly string[]]) =>
    `    case '${verb}';\n      contains -- "$argv[2]" ${list(subs)}; and set __ef_words 2;`;
  return `\
: '# ef for fish, made by ef shell-init. In ~/.config/fish/config.fish: ef shell-init --shell fish | source';
function ef --description 'Put what a job needs on the storage where it runs';
  set -q argv[1]; or set argv sync;
  if test "$argv[1]" = --config; and set -q argv[3];
    set -l __ef_rest $argv;
    set -e __ef_rest[1..3];
    set argv $argv[3] --config=$argv[2] $__ef_rest;
  end;
  set -l __ef_words 0;
  switch "$argv[1]";
    case ${list(oneWord)};
      set __ef_words 1;
${twoWords.map(cases).join("\n")}
  end;
  if test $__ef_words -eq 0;
    ${ef} $argv;
    return $status;
  end;
  set -l __ef_flag '';
  set -l __ef_given;
  for __ef_arg in $argv;
    switch "$__ef_flag$__ef_arg";
      case '--';
        break;
      case '--shell';
        set __ef_flag '--shell=';
        continue;
      case '--shell=fish';
        set __ef_given 1;
      case ${list([...reportFlags, "--json=*", "--shell=*"])};
        ${ef} $argv;
        return $status;
    end;
    set __ef_flag '';
  end;
  if not set -q __ef_given[1];
    set -l __ef_rest $argv;
    set -e __ef_rest[1..$__ef_words];
    set argv $argv[1..$__ef_words] --shell fish $__ef_rest;
  end;
  ${ef} $argv | read -lz __ef_out;
  set -l __ef_code $pipestatus[1];
  if test -n "$__ef_out";
    eval $__ef_out;
    set -l __ef_eval $status;
    test $__ef_code -ne 0; or set __ef_code $__ef_eval;
  end;
  return $__ef_code;
end;
`;
}

/**
 * What the csh alias asks: sh statements that print what csh is to evaluate.
 *
 * They get the program as words of sh, the same as words of csh, how many words csh has in `__ef_argv`, and those
 * words. csh counts redirections among the words of an alias, so they are told apart here: put back for a command that
 * csh is to run, done here for one that is run here.
 */
const cshScript = `\
  __ef="$1"; __ef_pass="$2"; __ef_count="$3"; shift 3;
  if [ $# -ne "$__ef_count" ]; then
    echo "ef: csh cannot hand on an empty argument: run this command in another shell" >&2; echo "( exit 2 );"; exit;
  fi;
  __ef_at=0; __ef_op=""; __ef_in=""; __ef_err=""; __ef_log=""; __ef_dollar="$";
  for __ef_arg do
    shift; __ef_at=$((__ef_at + 1));
    case "$__ef_op $__ef_arg" in
      " <" | " >" | " >>") __ef_op="$__ef_arg"; __ef_pass="$__ef_pass $__ef_arg"; continue ;;
      "> &" | ">> &" | "> !" | ">> !" | ">& !" | ">>& !")
        __ef_op="$__ef_op$__ef_arg"; __ef_pass="$__ef_pass$__ef_arg"; continue ;;
      " "*) set -- "$@" "$__ef_arg" ;;
      "<"*) __ef_in="$__ef_arg" ;;
      ">&"*) __ef_err="$__ef_arg" ;;
      ">>&"*) __ef_log="$__ef_arg" ;;
    esac;
    __ef_op=""; __ef_pass="$__ef_pass $__ef_dollar"__ef_argv["$__ef_at"]:q;
  done;
  __ef_flag=""; __ef_given=""; __ef_code=0;
${choose("csh", 'printf "%s;" "$__ef_pass"; exit')}
  __ef_out=$(
    [ -z "$__ef_in" ] || exec < "$__ef_in";
    [ -z "$__ef_err" ] || exec 2> "$__ef_err";
    [ -z "$__ef_log" ] || exec 2>> "$__ef_log";
    eval "exec $__ef \\"\\$@\\"";
  ) || __ef_code=$?;
  [ "$__ef_code" -eq 0 ] || __ef_out="$__ef_out; ( exit $__ef_code )";
  printf "%s;" "unset __ef_argv; $__ef_out";
`;

/**
 * One line per alias, so that it can be evaluated from a command substitution; quoted once more for each time it is
 * read. csh puts an alias into the line as text: only `&&` keeps `false && ef` from running its second half.
 */
function cshText(program: readonly string[]): string {
  const ef = quote("csh", quoteAll("bash", program));
  const script = quote("csh", cshScript.replace(/\s*\n\s*/g, " ").trim());
  const ask = `/bin/sh -c ${script} ef ${ef} ${quote("csh", quoteAll("csh", program))} $#__ef_argv $__ef_argv:q`;
  return `\
: '# ef for csh, made by ef shell-init. In ~/.cshrc: eval "\`ef shell-init --shell csh\`"';
alias __ef_ask ${quote("csh", ask)};
alias ef ${quote("csh", 'set __ef_argv = ( !* ) && eval "`__ef_ask`"')};
`;
}
