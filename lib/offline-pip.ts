/**
 * For `ef shell-init --offline-pip`: on compute nodes, pip and uv install from the wheelhouse and ask no index.
 *
 * By variables, so that it holds in scripts too. The node is told from variables of the job and from the names that
 * `sinfo` gave when the text was made: a shell that reads it starts no process. As the other texts of shell-init, those
 * for fish and csh can be joined by spaces to one line.
 *
 * What sets what (uv 0.13, pip 26): pip reads PIP_NO_INDEX and PIP_FIND_LINKS, split at white space. uv splits
 * UV_FIND_LINKS at commas; it has no variable for --no-index so far (UV_NO_INDEX is for one that will, and for ef), so
 * UV_OFFLINE keeps it from the network. A UV_DEFAULT_INDEX that leads nowhere would too, but make `uv sync` write it into
 * a project's uv.lock.
 */

import { readFileSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import type { Env } from "./base/paths.ts";
import { quote, type ShellDialect } from "./base/shell.ts";
import { jobVariables } from "./drivers/host.ts";
import { linksTo } from "./drivers/uv.ts";

export { computeNodes } from "./drivers/login-node.ts";

const switches = ["PIP_NO_INDEX", "UV_NO_INDEX", "UV_OFFLINE"];
/** Lists that a user may have entries of their own in, and what separates those. */
type List = readonly [name: string, separator: string, links: readonly string[]];

/**
 * What `find-links` in pip's configuration files says: a cluster that has wheels of its own names them there, and
 * PIP_FIND_LINKS would hide that.
 *
 * @see https://pip.pypa.io/en/stable/topics/configuration/ (where they are, which wins)
 */
export function configuredLinks(env: Env): string[] {
  if (env.PIP_FIND_LINKS) return [];
  const own = env.PIP_CONFIG_FILE ? readQuietly(env.PIP_CONFIG_FILE) : undefined;
  const { HOME: home = "", XDG_CONFIG_HOME: config = "" } = env;
  const site = (env.XDG_CONFIG_DIRS || "/etc/xdg").split(":").map((dir) => join(dir, "pip/pip.conf"));
  const user = [join(home, ".pip/pip.conf"), join(config || join(home, ".config"), "pip/pip.conf")];
  const files = [...site, "/etc/pip.conf", ...(own === undefined ? user : [])].filter(isAbsolute);
  const found = [...files.map(readQuietly), own].map((text) => findLinksIn(text ?? ""));
  const [value = ""] = ["install", "global"].flatMap(
    (section) => found.findLast((each) => each.get(section))?.get(section) ?? [],
  );
  return value.split(/\s+/).filter((link) => /^[\w./:%+~=&@,-]+$/.test(link)); // others could not be told apart in csh
}

/** `find-links` by section; a value goes on in lines that are indented. */
function findLinksIn(text: string): Map<string, string> {
  const found = new Map<string, string>();
  let section = "";
  let inside = false;
  for (const line of text.split(/\r?\n/).filter((each) => !/^\s*(?:[#;]|$)/.test(each))) {
    if (/^\s/.test(line)) {
      if (inside) found.set(section, `${found.get(section)} ${line}`);
      continue;
    }
    const [, head] = /^\[(.*)\]/.exec(line) ?? [];
    const [, value] = /^find[-_]links\s*[:=](.*)$/i.exec(line) ?? [];
    inside = value !== undefined;
    if (value !== undefined) found.set(section, value);
    section = head ?? section;
  }
  return found;
}

function readQuietly(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

export interface OfflinePipOptions {
  shell: ShellDialect;
  /** Absolute path of the wheelhouse. */
  wheelhouse: string;
  /** Short names of compute nodes, as {@link computeNodes} gives them. */
  nodes: readonly string[];
  /** Other places of wheels for pip, as {@link configuredLinks} gives them. */
  links?: readonly string[];
}

/** Text to go behind that of `shellInit`. It changes nothing where it is read again, and keeps entries of the user. */
export function offlinePip({ shell, wheelhouse, nodes, links = [] }: OfflinePipOptions): string {
  const link = linksTo(wheelhouse);
  const lists: List[] = [
    ["PIP_FIND_LINKS", " ", [...new Set([...links, link])]],
    ["UV_FIND_LINKS", ",", [link]],
  ];
  return texts[shell](lists, nodes);
}

const texts: Record<ShellDialect, (lists: readonly List[], nodes: readonly string[]) => string> = {
  bash: posixText,
  zsh: posixText,
  fish: fishText,
  csh: cshText,
};

const forEach = <T>(lists: readonly List[], add: (name: string, separator: string, link: string) => T): T[] =>
  lists.flatMap(([name, separator, links]) => links.map((link) => add(name, separator, link)));

/** The name by `read` from /proc: `HOSTNAME` may have come with the environment from another node, and dash has none. */
function posixText(lists: readonly List[], nodes: readonly string[]): string {
  const job = jobVariables.map((name) => `\${${name}-}`).join("");
  const own = `\
  { IFS= read -r __ef_node </proc/sys/kernel/hostname; } 2>/dev/null || __ef_node=\${HOSTNAME-}
  case "\${__ef_node%%.*}" in
    ${nodes.join(" | ")}) __ef_node=1 ;;
    *) __ef_node="" ;;
  esac
`;
  const add = (name: string, separator: string, link: string) => `\
  case "${separator}\${${name}-}${separator}" in
    *${quote("bash", separator + link + separator)}*) ;;
    *) ${name}="\${${name}:+$${name}${separator}}"${quote("bash", link)} ;;
  esac
`;
  return `\
# pip and uv on compute nodes: from the wheelhouse
__ef_node="${job}"
${nodes.length > 0 ? `if [ -z "$__ef_node" ]; then\n${own}fi\n` : ""}\
if [ -n "$__ef_node" ]; then
${forEach(lists, add).join("")}\
  ${switches.map((name) => `${name}=1`).join(" ")}
  export ${[...lists.map(([name]) => name), ...switches].join(" ")}
fi
unset __ef_node
`;
}

function fishText(lists: readonly List[], nodes: readonly string[]): string {
  const job = `test -n "${jobVariables.map((name) => `$${name}`).join("")}"`;
  const listed = `or contains -- (string replace -r '\\..*' '' -- "$hostname") ${nodes.join(" ")}`;
  const add = (name: string, separator: string, word: string) => `\
  if test -z "$${name}";
    set -gx ${name} ${word};
  else if not contains -- ${word} (string split '${separator}' -- "$${name}");
    set -gx ${name} "$${name}${separator}"${word};
  end;
`;
  return `\
: 'pip and uv on compute nodes: from the wheelhouse';
if ${job}${nodes.length > 0 ? `; ${listed}` : ""};
${forEach(lists, (name, separator, link) => add(name, separator, quote("fish", link))).join("")}\
${switches.map((name) => `  set -gx ${name} 1;\n`).join("")}\
end;
`;
}

/** csh replaces variables before it looks whether a command is to run: what may be unset stands in an `eval` of its own. */
function cshText(lists: readonly List[], nodes: readonly string[]): string {
  const when = (test: string, command: string) => `if ( ${test} ) eval ${quote("csh", command)};`;
  const own = [
    "set __ef_name = ( $HOST:as/./ / );",
    `if ( ' ${nodes.join(" ")} ' =~ "* $__ef_name[1] *" ) set __ef_node = 1; unset __ef_name;`,
  ].join(" ");
  const add = (name: string, separator: string, link: string) => [
    `if ( ! $?${name} ) setenv ${name} '';`,
    `if ( "$${name}" == '' ) setenv ${name} ${quote("csh", link)};`,
    `if ( "${separator}$${name}${separator}" !~ ${quote("csh", `*${separator}${link}${separator}*`)} )`,
    `setenv ${name} "$${name}${separator}"${quote("csh", link)};`,
  ];
  const all = [...forEach(lists, add).flat(), ...switches.map((name) => `setenv ${name} 1;`)].join(" ");
  return `\
: 'pip and uv on compute nodes: from the wheelhouse';
set __ef_node = 0;
${jobVariables.map((name) => `${when(`$?${name}`, `if ( "$${name}" != '' ) set __ef_node = 1`)}\n`).join("")}\
${nodes.length > 0 ? `${when("! $__ef_node && $?HOST", own)}\n` : ""}\
${when("$__ef_node", all)}
unset __ef_node;
`;
}
