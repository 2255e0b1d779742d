/**
 * Completion scripts: text from a table of the commands.
 *
 * Everything fixed (commands, flags, choices) stands in the script, so that it costs no process; values that depend
 * on the user's files come from `ef __values KIND`, one a line. A script that is older than the program only misses
 * what is new.
 */
import { quote, type ShellDialect } from "./base/shell.ts";

/** The shells that have a script. */
export const completionShells = ["bash", "zsh", "fish"] as const satisfies readonly ShellDialect[];
export type CompletionShell = (typeof completionShells)[number];

/** Where values come from: these words; files; directories; `ef __values ASK`; or nothing is known of them. */
export type ValueSource = readonly string[] | "file" | "dir" | "any" | { ask: string };

export interface CompletionFlag {
  /** With its dashes, e.g. `--dry-run`. */
  name: string;
  /** One letter, without its dash. */
  short?: string | undefined;
  description: string;
  /** Left out for a switch. */
  value?: { hint: string; from: ValueSource };
  repeatable: boolean;
}

export interface CompletionPlace {
  hint: string;
  description: string;
  from: ValueSource;
}

export interface CompletionCommand {
  /** As it is typed after `ef`, e.g. `config get`; empty for `ef` itself. */
  name: string;
  description: string;
  flags: readonly CompletionFlag[];
  places: readonly CompletionPlace[];
  /** What follows `--`: a command line, files; undefined for nothing. */
  rest: "command" | "files" | undefined;
}

/**
 * The script for a shell, to be evaluated or sourced; the one for zsh is also a file for `$fpath`.
 *
 * It starts no process until the user asks for a value. The fish text survives an `eval` that joins its lines.
 *
 * @param table every command, groups such as `config` (which cannot be run) among them
 */
export function completionScript(shell: CompletionShell, table: readonly CompletionCommand[]): string {
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](table);
}

/** The commands that stand below `parent`; one word is below none. */
function below(table: readonly CompletionCommand[], parent: string): CompletionCommand[] {
  return table.filter(({ name }) => name !== "" && parentOf(name) === parent);
}

const parentOf = (name: string) => name.split(" ").slice(0, -1).join(" ");
const lastWord = (name: string) => name.split(" ").at(-1) ?? "";
const spellings = ({ name, short }: CompletionFlag) => (short ? [name, `-${short}`] : [name]);

/** `sync` and `config get` as the scripts meet them: the command so far, a space, the next word. */
const steps = (table: readonly CompletionCommand[]) =>
  table.flatMap(({ name }) => (name === "" ? [] : [`${parentOf(name)} ${lastWord(name)}`]));

/** Flags that are the same in every command: they stand in a script once. */
const shared = (table: readonly CompletionCommand[]) =>
  (table[0]?.flags ?? []).filter((flag) => table.every(({ flags }) => flags.some((other) => isSame(flag, other))));

const isSame = (one: CompletionFlag, other: CompletionFlag) => JSON.stringify(one) === JSON.stringify(other);

/** Flags that only some commands have. */
const own = (command: CompletionCommand, everywhere: readonly CompletionFlag[]) =>
  command.flags.filter((flag) => !everywhere.some((other) => isSame(flag, other)));

/**
 * Which flags take a value and from where: patterns of `COMMAND FLAG`, grouped by source.
 *
 * A flag that means the same in each command that has it is one pattern, `* FLAG`.
 */
function valuePatterns(table: readonly CompletionCommand[]): { from: ValueSource; every: string[]; only: string[] }[] {
  const uses = new Map<string, { command: string; source: string }[]>();
  const sources = new Map<string, ValueSource>();
  for (const { name: command, flags } of table) {
    for (const flag of flags) {
      const source = flag.value ? JSON.stringify(flag.value.from) : "";
      if (flag.value) sources.set(source, flag.value.from);
      for (const name of spellings(flag)) uses.set(name, [...(uses.get(name) ?? []), { command, source }]);
    }
  }
  return [...sources].map(([source, from]) => {
    const named = [...uses].filter(([, all]) => all.some((use) => use.source === source));
    const isEvery = (all: { source: string }[]) => all.every((use) => use.source === source);
    return {
      from,
      every: named.flatMap(([name, all]) => (isEvery(all) ? [name] : [])),
      only: named.flatMap(([name, all]) =>
        isEvery(all) ? [] : all.flatMap((use) => (use.source === source ? [`${use.command} ${name}`] : [])),
      ),
    };
  });
}

const isWords = (from: ValueSource): from is readonly string[] => Array.isArray(from);

// bash

/** A source as one bash word that the script takes apart again. */
function bashSource(from: ValueSource): string {
  if (isWords(from)) return quote("bash", `words ${from.join(" ")}`);
  return typeof from === "string" ? from : quote("bash", `ask ${from.ask}`);
}

function bashScript(table: readonly CompletionCommand[]): string {
  const q = (text: string) => quote("bash", text);
  const alternatives = (patterns: readonly string[]) => patterns.join(" | ");
  const flagCases = valuePatterns(table).map(
    ({ from, every, only }) =>
      `    ${alternatives([...every.map((name) => `*${q(` ${name}`)}`), ...only.map(q)])}) from=${bashSource(from)} ;;`,
  );
  const placeCases = table.flatMap(({ name, places }) =>
    places.map(({ from }, i) => `    ${q(`${name} ${i + 1}`)}) from=${bashSource(from)} ;;`),
  );
  const everywhere = shared(table);
  const commandCases = table.map((command) => {
    const subs = below(table, command.name).map(({ name }) => lastWord(name));
    const flags = own(command, everywhere).flatMap(spellings);
    return `    ${q(command.name)}) subs=${q(subs.join(" "))} flags=${q(flags.join(" "))} ;;`;
  });
  const rests = (kind: CompletionCommand["rest"]) =>
    alternatives(table.flatMap(({ name, rest }) => (rest === kind ? [q(name)] : []))) || '"-"';
  return `\
# ef for bash, made by: ef completions bash

# Where the value of "COMMAND FLAG" or "COMMAND PLACE" comes from, in "from"; fails if it takes none.
__ef_from() {
  case $1 in
${[...flagCases, ...placeCases].join("\n")}
    *) from=""; return 1 ;;
  esac
}

# The sub-commands and flags of $cmd.
__ef_command() {
  case $cmd in
${commandCases.join("\n")}
  esac
}

# Offer a word if it goes on from what was typed, quoted as its beginning is.
__ef_offer() {
  local full="$prefix$1" out=""
  if [[ $full != "$strip$plain"* ]]; then return 0; fi
  out=\${full#"$strip"}
  if [[ -z $open ]]; then printf -v out %q "$out"; fi
  COMPREPLY+=("$out")
}

__ef_values() {
  local value=""
  case $from in
    file) compopt -o default -o bashdefault 2>/dev/null || : ;;
    dir) compopt -o dirnames 2>/dev/null || : ;;
    "words "*) for value in \${from#words }; do __ef_offer "$value"; done ;;
    "ask "*)
      while IFS= read -r value; do
        if [[ -n $value ]]; then __ef_offer "$value"; fi
      done <<< "$(ef __values "\${from#ask }" 2>/dev/null)" ;;
  esac
}

_ef() {
  local IFS=$' \\t\\n' cmd="" flag="" from="" subs="" flags="" word="" broken=""
  local cur="" strip="" typed="" plain="" open="" prefix="" i=0 n=0 place=1
  local -a words
  COMPREPLY=()
  # bash breaks words at "=" and ":" as well: join them again. "strip" is the part that it will not replace.
  for ((i = 0; i <= COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]-}
    if [[ $n -gt 1 && -n $word && $word != *[!=:]* ]]; then
      words[n - 1]+=$word; strip=\${words[n - 1]}; broken=1
    elif [[ -n $broken ]]; then
      strip=\${words[n - 1]}; words[n - 1]+=$word; broken=""
    else
      words[n]=$word; strip=""; n=$((n + 1))
    fi
  done
  cur=\${words[n - 1]}
  for ((i = 1; i < n - 1; i++)); do
    word=\${words[i]}
    if [[ -n $flag ]]; then flag=""; continue; fi
    if [[ $place == -- ]]; then place=---; break; fi
    case "$cmd $word" in
      "$cmd --") place=-- ;;
      "$cmd -"*) if [[ $word != *=* ]] && __ef_from "$cmd $word"; then flag=$word; fi ;;
      ${alternatives(steps(table).map(q))}) cmd="\${cmd:+$cmd }$word" ;;
      *) place=$((place + 1)) ;;
    esac
  done
  typed=\${cur#"$strip"}
  case $typed in
    \\"* | \\'*) open=1; plain=\${typed:1} ;;
    *) plain=\${typed//\\\\/} ;;
  esac
  if [[ $place == --* ]]; then
    case $cmd in
      ${rests("files")}) compopt -o default -o bashdefault 2>/dev/null || : ;;
      ${rests("command")})
        compopt -o default -o bashdefault 2>/dev/null || :
        if [[ $place == -- && $cur != */* ]]; then
          while IFS= read -r word; do __ef_offer "$word"; done <<< "$(compgen -c -- "$cur")"
        fi ;;
    esac
  elif [[ -n $flag ]]; then
    if __ef_from "$cmd $flag"; then __ef_values; fi
  elif [[ $cur == --*=* ]]; then
    prefix="\${cur%%=*}="
    if __ef_from "$cmd \${cur%%=*}"; then __ef_values; fi
  else
    __ef_command
    if [[ $cur == -* ]]; then subs="$flags ${everywhere.flatMap(spellings).join(" ")}"
    elif __ef_from "$cmd $place"; then __ef_values
    fi
    if [[ $cur == -* || $place == 1 ]]; then
      for word in $subs; do __ef_offer "$word"; done
    fi
  fi
}
complete -F _ef ef
`;
}

// zsh

/** In a spec of _arguments. */
const zshPlain = (text: string) => text.replace(/[\\[\]:]/g, "\\$&");

function zshAction(from: ValueSource): string {
  if (isWords(from)) return `(${from.join(" ")})`;
  if (from === "file") return "_files";
  if (from === "dir") return "_files -/";
  return typeof from === "string" ? " " : `__ef_values ${from.ask}`;
}

function zshFlag(flag: CompletionFlag): string[] {
  const names = spellings(flag);
  const others = flag.repeatable ? "*" : names.length > 1 ? `(${names.join(" ")})` : "";
  return names.map((name) => {
    const joint = flag.value ? (name.startsWith("--") ? "=" : "+") : "";
    const value = flag.value ? `:${zshPlain(flag.value.hint)}:${zshAction(flag.value.from)}` : "";
    return quote("zsh", `${others}${name}${joint}[${zshPlain(flag.description)}]${value}`);
  });
}

const zshPlace = ({ hint, description, from }: CompletionPlace, i: number) =>
  quote("zsh", `${i + 1}:${zshPlain(`${hint}: ${description}`)}:${zshAction(from)}`);

function zshScript(table: readonly CompletionCommand[]): string {
  const everywhere = shared(table);
  const cases = table.map((command) => {
    const specs = [...own(command, everywhere).flatMap(zshFlag), ...command.places.map(zshPlace)];
    const subs = below(table, command.name);
    const list = subs.map(({ name, description }) => quote("zsh", `${lastWord(name)}:${description}`));
    const more = subs.length > 0 ? ["'(-): :->command'", "'(-)*:: :->rest'"] : [];
    return `    ${quote("zsh", command.name)})
${subs.length > 0 ? `      subs=(${list.join(" ")})\n` : ""}${command.rest ? zshRest(command.rest) : ""}\
      _arguments -C -s -S "$shared[@]" ${[...specs, ...more].join(" ")} && ret=0 ;;`;
  });
  return `\
#compdef ef
# ef for zsh, made by: ef completions zsh

__ef_values() {
  local -a values
  values=(\${(f)"$(ef __values $argv[-1] 2>/dev/null)"})
  compadd "\${(@)argv[1,-2]}" -a values
}

__ef_command() {
  local curcontext=$curcontext context="" state="" ret=1
  local -a line state_descr subs shared
  local -A opt_args
  shared=(${everywhere.flatMap(zshFlag).join(" ")})
  case $1 in
${cases.join("\n")}
  esac
  case $state in
    command) _describe -t commands 'ef command' subs && ret=0 ;;
    rest) __ef_command "\${1:+$1 }$words[1]" && ret=0 ;;
  esac
  return ret
}

_ef() {
  setopt local_options unset
  __ef_command ''
}

if [[ \${funcstack[1]-} == _ef ]]; then
  _ef
elif (( $+functions[compdef] )); then
  compdef _ef ef
else
  # compinit comes later in ~/.zshrc: wait for the first prompt.
  __ef_compdef() {
    precmd_functions=(\${precmd_functions:#__ef_compdef})
    if (( $+functions[compdef] )); then compdef _ef ef; fi
  }
  typeset -ga precmd_functions
  precmd_functions+=(__ef_compdef)
fi
`;
}

/** After `--` the words are another command line, or files. */
const zshRest = (kind: "command" | "files") => `\
      if (( \${words[(i)--]} < CURRENT )); then
        CURRENT=$(( CURRENT - \${words[(i)--]} ))
        shift "\${words[(i)--]}" words
        ${kind === "command" ? "_normal" : "_files"}
        return
      fi
`;

// fish

/** The options of fish's complete for the value of a flag or a place. */
function fishValue(from: ValueSource): string {
  const q = (text: string) => quote("fish", text);
  if (isWords(from)) return `-x -a ${q(from.join(" "))}`;
  if (from === "file") return "-r -F";
  if (from === "dir")
    return `-x -a ${q("(__fish_complete_directories (string replace -r '^--[^=]*=' '' -- (commandline -ct)))")}`;
  return typeof from === "string" ? "-x" : `-x -a ${q(`(ef __values ${from.ask} 2>/dev/null)`)}`;
}

function fishScript(table: readonly CompletionCommand[]): string {
  const q = (text: string) => quote("fish", text);
  const at = (name: string, place?: string) => `complete -c ef -n ${q(`__ef_at ${q(name)} ${place ?? ""}`.trim())}`;
  const patterns = valuePatterns(table).flatMap(({ every, only }) => [...every.map((name) => `* ${name}`), ...only]);
  const flagText = (flag: CompletionFlag) => {
    const short = flag.short ? ` -s ${flag.short}` : "";
    const value = flag.value ? ` ${fishValue(flag.value.from)}` : "";
    return `-l ${flag.name.slice(2)}${short}${value} -d ${q(flag.description)};`;
  };
  const everywhere = shared(table);
  const lines = table.flatMap((command) => [
    ...below(table, command.name).map(
      ({ name, description }) => `${at(command.name, "1")} -a ${q(lastWord(name))} -d ${q(description)};`,
    ),
    ...own(command, everywhere).map((flag) => `${at(command.name)} ${flagText(flag)}`),
    ...command.places.map(({ from }, i) => `${at(command.name, String(i + 1))} ${fishValue(from)};`),
    ...(command.rest ? [`${at(command.name, "--")} ${command.rest === "files" ? "-F" : "-x -a '(__ef_rest)'"};`] : []),
  ]);
  return `\
: '# ef for fish, made by: ef completions fish';
function __ef_at --description 'Is the cursor in this command of ef, and at this place of it?';
  set -l found '';
  set -l place 1;
  set -l flag '';
  set -l words (commandline -opc);
  for word in $words[2..-1];
    if test -n "$flag";
      set flag '';
      continue;
    end;
    switch "$found $word";
      case "$found --";
        set place --;
        break;
      case ${patterns.map(q).join(" ")};
        set flag 1;
      case "$found -*";
      case ${steps(table).map(q).join(" ")};
        set found (string trim -- "$found $word");
      case '*';
        set place (math $place + 1);
    end;
  end;
  test "$found" = "$argv[1]"; and begin; not set -q argv[2]; or test "$place" = "$argv[2]"; end;
end;
function __ef_rest --description 'Complete the command line that follows --';
  set -l words (commandline -opc);
  set -l at (contains -i -- -- $words);
  set -l words $words[(math $at + 1)..-1];
  complete -C (string join ' ' -- (string escape -- $words) (commandline -ct));
end;
complete -c ef -e;
complete -c ef -f;
${everywhere.map((flag) => `complete -c ef ${flagText(flag)}`).join("\n")}
${lines.join("\n")}
`;
}
