/**
 * Text for `eval` that makes an environment the current one of a shell, and that ends it.
 *
 * Not by the `activate` scripts of the environment: those of venv, virtualenv and uv differ, know one prompt for ever and not
 * every shell. The function `deactivate` is there afterwards as people know it, `VIRTUAL_ENV` and `VIRTUAL_ENV_PROMPT` are set
 * as the tools expect, and such a script's own `deactivate` is called first.
 *
 * An `activate` script may also come later, in its place. It restores what scripts of its kind have kept, so PATH and the
 * prompt are kept under their names, and our hooks keep still where `VIRTUAL_ENV` is another.
 *
 * The prompt shows the name, and `*` before it when packages changed since the save. That costs no process at a prompt (but
 * in csh, which has neither `test` nor `read`): the shell itself compares the time of the directory of packages with that
 * of ef's state file, asks ef only after a change, and else reads what the file says, as another shell may have asked (see
 * lib/envs/live.ts).
 *
 * The texts for fish and csh also survive an `eval` that joins their lines by spaces. That for bash is POSIX, and works
 * under `set -eu`.
 */
import { join } from "node:path";
import { exportStatement, quote, type ShellDialect } from "../base/shell.ts";
import { stateName } from "./live.ts";

export interface Activation {
  /** The environment: absolute, without `:` and newline, which no entry of PATH can hold. */
  dir: string;
  /** As the prompt shows it. */
  prompt: string;
  /** The directory of packages, relative to `dir`; undefined if it has none. */
  site: string | undefined;
  /** Starts ef: its path, and what comes before the arguments. */
  program: readonly string[];
}

export function activationText(shell: ShellDialect, activation: Activation): string {
  return texts[shell](activation);
}

const texts: Record<ShellDialect, (activation: Activation) => string> = {
  bash: (activation) => posixText("bash", activation),
  zsh: (activation) => posixText("zsh", activation),
  fish: fishText,
  csh: cshText,
};

/** Prints what the prompt shows now. */
const askText = (shell: ShellDialect, program: readonly string[]) =>
  [...program, "__venv-prompt"].map((word) => quote(shell, word)).join(" ");

/** How bash and zsh call a function before each prompt, stop that, and tell whether there is a `deactivate`. */
const hooks = {
  bash: {
    set: `case "\${PROMPT_COMMAND-}" in
    *__ef_venv_prompt*) ;;
    *) PROMPT_COMMAND="__ef_venv_prompt\${PROMPT_COMMAND:+; $PROMPT_COMMAND}" ;;
  esac`,
    unset: `case "\${PROMPT_COMMAND-}" in
    __ef_venv_prompt) PROMPT_COMMAND="" ;;
    "__ef_venv_prompt; "*) PROMPT_COMMAND="\${PROMPT_COMMAND#__ef_venv_prompt; }" ;;
  esac`,
    hasDeactivate: `case "$(LC_ALL=C command -V deactivate 2>/dev/null)" in *function*) : ;; *) false ;; esac`,
  },
  zsh: {
    // `[@]`: under ksh_arrays the name alone is its first element. Without the typeset `set -u` ends a script.
    set: 'typeset -ga precmd_functions; precmd_functions=("${(@)precmd_functions[@]:#__ef_venv_prompt}" __ef_venv_prompt)',
    unset: 'typeset -ga precmd_functions; precmd_functions=("${(@)precmd_functions[@]:#__ef_venv_prompt}")',
    hasDeactivate: "(( ${+functions[deactivate]} ))",
  },
} as const;

/** In zsh an alias of that name would be put into the definition. */
const head = { bash: "deactivate () {", zsh: "\\deactivate () {" } as const;

/** Take the environment that `VIRTUAL_ENV` names out of PATH. */
const takeOutOfPath = `case ":$PATH:" in
    *":\${VIRTUAL_ENV:-/}/bin:"*)
      PATH=":$PATH:"
      PATH="\${PATH%%":$VIRTUAL_ENV/bin:"*}:\${PATH#*":$VIRTUAL_ENV/bin:"}"
      PATH="\${PATH#:}"; PATH="\${PATH%:}"; export PATH ;;
  esac`;

function posixText(shell: "bash" | "zsh", { dir, prompt, site, program }: Activation): string {
  const q = (text: string) => quote(shell, text);
  const { set, unset, hasDeactivate } = hooks[shell];
  return `\
if ${hasDeactivate}; then deactivate >/dev/null 2>&1 || :; fi
unalias 'deactivate' 2>/dev/null || :
${head[shell]}
  ${takeOutOfPath}
  unset _OLD_VIRTUAL_PATH
  if [ -n "\${_OLD_VIRTUAL_PYTHONHOME+x}" ]; then
    PYTHONHOME="$_OLD_VIRTUAL_PYTHONHOME"; export PYTHONHOME; unset _OLD_VIRTUAL_PYTHONHOME
  fi
  if [ -n "\${_OLD_VIRTUAL_PS1+x}" ]; then PS1="$_OLD_VIRTUAL_PS1"; unset _OLD_VIRTUAL_PS1; fi
  ${unset}
  __ef_venv_prompt () { return "$?"; }
  unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT
  hash -r 2>/dev/null || :
  if [ "\${1-}" != nondestructive ]; then unset -f deactivate; fi
}
if [ -n "\${VIRTUAL_ENV-}" ]; then deactivate nondestructive; fi
export VIRTUAL_ENV=${q(dir)} VIRTUAL_ENV_PROMPT=${q(prompt)}
_OLD_VIRTUAL_PATH="$PATH"
export PATH="$VIRTUAL_ENV/bin:$PATH"
if [ -n "\${PYTHONHOME+x}" ]; then _OLD_VIRTUAL_PYTHONHOME="$PYTHONHOME"; unset PYTHONHOME; fi
hash -r 2>/dev/null || :
case "$-\${VIRTUAL_ENV_DISABLE_PROMPT:+-no}" in
*-no) ;;
*i*)
  _OLD_VIRTUAL_PS1="\${PS1-}"
  PS1="($VIRTUAL_ENV_PROMPT) \${PS1-}"
  __ef_venv_prompt () {
    local __ef_code=$? __ef_name="" __ef_x
    if [ "\${VIRTUAL_ENV-}" != ${q(dir)} ]; then :
    elif [ ${q(join(dir, site ?? ""))} -nt ${q(join(dir, stateName))} ]; then
      __ef_name=$(${askText(shell, program)} 2>/dev/null) || __ef_name=""
    elif [ -r ${q(join(dir, stateName))} ]; then
      IFS='"' read -r __ef_x __ef_x __ef_x __ef_name __ef_x <${q(join(dir, stateName))} || :
    fi
    if [ -n "$__ef_name" ] && [ "$__ef_name" != "\${VIRTUAL_ENV_PROMPT-}" ]; then
      VIRTUAL_ENV_PROMPT="$__ef_name"
      PS1="($__ef_name) \${_OLD_VIRTUAL_PS1-}"
    fi
    return "$__ef_code"
  }
  ${set} ;;
esac
`;
}

function fishText({ dir, prompt, site, program }: Activation): string {
  const q = (text: string) => quote("fish", text);
  return `\
functions -q deactivate; and deactivate;
function deactivate --description 'End the environment that ef activated';
  if set -l __ef_at (contains -i -- "$VIRTUAL_ENV/bin" $PATH);
    set -e PATH[$__ef_at];
  end;
  set -e _OLD_VIRTUAL_PATH;
  if set -q _OLD_VIRTUAL_PYTHONHOME;
    set -gx PYTHONHOME $_OLD_VIRTUAL_PYTHONHOME;
    set -e _OLD_VIRTUAL_PYTHONHOME;
  end;
  if set -q _OLD_FISH_PROMPT_OVERRIDE; and functions -q _old_fish_prompt;
    set -l fish_function_path;
    functions -e fish_prompt;
    functions -c _old_fish_prompt fish_prompt;
    functions -e _old_fish_prompt;
  end;
  set -e _OLD_FISH_PROMPT_OVERRIDE;
  set -e VIRTUAL_ENV;
  set -e VIRTUAL_ENV_PROMPT;
  if test "$argv[1]" != nondestructive;
    functions -e deactivate;
  end;
end;
set -q VIRTUAL_ENV; and deactivate nondestructive;
set -gx VIRTUAL_ENV ${q(dir)};
set -gx VIRTUAL_ENV_PROMPT ${q(prompt)};
set -g _OLD_VIRTUAL_PATH $PATH;
set -gx PATH ${q(join(dir, "bin"))} $PATH;
if set -q PYTHONHOME;
  set -g _OLD_VIRTUAL_PYTHONHOME $PYTHONHOME;
  set -e PYTHONHOME;
end;
if status is-interactive; and test -z "$VIRTUAL_ENV_DISABLE_PROMPT";
  functions -c fish_prompt _old_fish_prompt;
  function fish_prompt;
    set -l __ef_prompt (_old_fish_prompt);
    set -l __ef_name;
    set -l __ef_x;
    if test "$VIRTUAL_ENV" != ${q(dir)};
    else if test ${q(join(dir, site ?? ""))} -nt ${q(join(dir, stateName))} 2>/dev/null;
      set __ef_name (${askText("fish", program)} 2>/dev/null);
    else if test -r ${q(join(dir, stateName))};
      read -d '"' __ef_x __ef_x __ef_x __ef_name __ef_x <${q(join(dir, stateName))};
    end;
    test -n "$__ef_name"; and set -gx VIRTUAL_ENV_PROMPT $__ef_name;
    printf '(%s) ' $VIRTUAL_ENV_PROMPT;
    string join -- \\n $__ef_prompt;
  end;
  set -g _OLD_FISH_PROMPT_OVERRIDE $VIRTUAL_ENV;
end;
`;
}

/** A one-line `if` of csh would expand variables that are not set, `test … &&` does not. */
function cshText({ dir, prompt, site, program }: Activation): string {
  const q = (text: string) => quote("csh", text);
  const restore = (variable: string, set: string) =>
    `test $?_OLD_VIRTUAL_${variable} != 0 && ${set} "$_OLD_VIRTUAL_${variable}:q" && unset _OLD_VIRTUAL_${variable}`;
  const leave = [
    restore("PATH", "setenv PATH"),
    restore("PYTHONHOME", "setenv PYTHONHOME"),
    restore("PROMPT", "set prompt ="),
    "test $?__ef_precmd != 0 && unalias precmd && unset __ef_precmd",
    ...["unsetenv VIRTUAL_ENV", "unsetenv VIRTUAL_ENV_PROMPT", "rehash", "unalias deactivate"],
  ].join("; ");
  // What stands in the state file between the third and the fourth `"`, without one that would end this. Between
  // backquotes in an alias a path can be quoted in no way that always works.
  const shown = !/^[\w./@+,=-]+$/.test(dir)
    ? askText("csh", program)
    : `sed -n '1s/^........//;1s/[^*A-Za-z0-9._+-]//gp' ${join(dir, stateName)}`;
  // By variables: an alias takes an `!` in a path for history.
  const state = `"$__ef_precmd:q/${stateName}"`;
  const refresh = [
    "test $?VIRTUAL_ENV$?_OLD_VIRTUAL_PROMPT = 11",
    `test "$VIRTUAL_ENV:q" = "$__ef_precmd:q" -a -r ${state}`,
    `( test "$__ef_precmd:q/${site ?? ""}" -nt ${state} && ${askText("csh", program)} || : ) >& /dev/null`,
    `setenv VIRTUAL_ENV_PROMPT "\`${shown}\`"`,
    'set prompt = "($VIRTUAL_ENV_PROMPT) $_OLD_VIRTUAL_PROMPT:q"',
  ].join(" && ");
  const hasPrompt = "test $?prompt$?VIRTUAL_ENV_DISABLE_PROMPT = 10";
  return `\
test "x\`alias deactivate\`" != x && deactivate;
test $?__ef_precmd != 0 && unalias precmd && unset __ef_precmd;
set _OLD_VIRTUAL_PATH = "$PATH:q";
test $?PYTHONHOME != 0 && set _OLD_VIRTUAL_PYTHONHOME = "$PYTHONHOME:q" && unsetenv PYTHONHOME;
${exportStatement("csh", "VIRTUAL_ENV", dir)}
${exportStatement("csh", "VIRTUAL_ENV_PROMPT", prompt)}
setenv PATH ${q(join(dir, "bin"))}:"$PATH:q";
${hasPrompt} && set _OLD_VIRTUAL_PROMPT = "$prompt:q" && set prompt = ${q(`(${prompt}) `)}"$_OLD_VIRTUAL_PROMPT:q";
${hasPrompt} && test "x\`alias precmd\`" = x && set __ef_precmd = ${q(dir)} && alias precmd ${q(refresh)};
alias deactivate ${q(leave)};
rehash;
:;
`;
}

/**
 * Text that ends the current environment, whoever activated it. Where the shell has no `deactivate` (a sub-shell), the
 * variables are set right.
 *
 * @param path the value of PATH without the environment
 */
export function deactivationText(shell: ShellDialect, path: string): string {
  const put = exportStatement(shell, "PATH", path);
  if (shell === "fish") {
    const unset = "set -e VIRTUAL_ENV; set -e VIRTUAL_ENV_PROMPT;";
    return `if functions -q deactivate; deactivate; else; ${put} ${unset} end;\n`;
  }
  if (shell === "csh") {
    const unset = "unsetenv VIRTUAL_ENV && unsetenv VIRTUAL_ENV_PROMPT && rehash";
    return `\
test "x\`alias deactivate\`" != x && deactivate;
test $?VIRTUAL_ENV != 0 && ${put.slice(0, -1)} && ${unset};
:;
`;
  }
  return `\
if ${hooks[shell].hasDeactivate}; then deactivate || :; fi
if [ -n "\${VIRTUAL_ENV-}" ]; then ${put}; unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT; hash -r 2>/dev/null || :; fi
`;
}
