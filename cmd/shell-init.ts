import { mkdirSync, readlinkSync } from "node:fs";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { EfError, reasonOf } from "../lib/base/errors.ts";
import { writeAtomic } from "../lib/base/files.ts";
import { parentDialect, quote, type ShellDialect } from "../lib/base/shell.ts";
import { completionScript } from "../lib/completions.ts";
import { requireWheelhouse, wheelhouseOf } from "../lib/envs/wheelhouse.ts";
import { computeNodes, configuredLinks, offlinePip } from "../lib/offline-pip.ts";
import { shellInit, shellInitLine } from "../lib/shell-init.ts";
import { type Commands, command } from "./args.ts";
import { completionTable } from "./completions.ts";
import { optionalConfig } from "./optional-config.ts";
import { say } from "./process.ts";
import { programArgv } from "./program.ts";

const shells = ["bash", "zsh", "fish", "csh"] as const satisfies readonly ShellDialect[];

export default command({
  name: "shell-init",
  description: "Print the shell function ef, and its completions",
  examples: [
    ['eval "$(ef shell-init --shell bash)"', "in ~/.bashrc; then just: ef"],
    ["ef shell-init --shell fish | source", "in ~/.config/fish/config.fish"],
    ["ef shell-init --cache", "write it to a file; prints the line that reads it"],
  ],
  args: {
    shell: { type: "enum", options: shells, description: "For which shell (default: the calling one, else $SHELL)" },
    cache: {
      type: "boolean",
      description: "Write it to ~/.cache/ef, and print the line for the rc file: no process at login",
    },
    "offline-pip": {
      type: "boolean",
      description: "On compute nodes, let pip and uv install from the wheelhouse only (ef.wheelhouse)",
    },
  },
  async run({ args, commands }) {
    const shell = args.shell ?? callingShell();
    const ef = shellInit({ shell, program: programArgv() }) + (await completions(shell, commands));
    const script = ef + (args["offline-pip"] ? await offline(shell) : "");
    if (!args.cache) return { json: { shell, script }, text: script };
    const file = cacheFile(shell);
    store(file, script);
    if (!args.json) say(`${file} is written; again after an upgrade of ef: ef shell-init --cache. In the rc file:\n`);
    const line = shellInitLine({ shell, file });
    return { json: { shell, script, file, line }, text: `${line}\n` };
  },
});

async function offline(shell: ShellDialect): Promise<string> {
  const wheelhouse = requireWheelhouse(
    wheelhouseOf(await optionalConfig(), process.env),
    "Cannot set up --offline-pip",
  );
  const { env } = process;
  return offlinePip({ shell, wheelhouse, nodes: await computeNodes(env), links: configuredLinks(env) });
}

/** Text for `sh` must not hold what only bash can parse: there, the completions stand in quotes until bash is sure. */
async function completions(shell: ShellDialect, commands: Commands): Promise<string> {
  if (shell === "csh") return "";
  const script = completionScript(shell, await completionTable(commands));
  return shell === "bash" ? `[ -z "\${BASH_VERSION-}" ] || eval ${quote("bash", script)}\n` : script;
}

/** The shell that called; if something else did (`env`, ssh), the login shell. */
function callingShell(): ShellDialect {
  const parent = parentDialect(process.ppid);
  if (parent !== "bash" || isPosixShell(process.ppid)) return parent;
  const login = basename(process.env.SHELL ?? "");
  return login === "tcsh" ? "csh" : (shells.find((shell) => shell === login) ?? "bash");
}

function isPosixShell(pid: number): boolean {
  try {
    return /^(?:ba|da|k|mk|y)?sh(?![a-z])/.test(basename(readlinkSync(`/proc/${pid}/exe`)));
  } catch {
    return false;
  }
}

/** `$XDG_CACHE_HOME/ef/init.bash`; a relative path there does not count (XDG Base Directory Specification). */
function cacheFile(shell: ShellDialect): string {
  const { XDG_CACHE_HOME: cache = "", HOME: home } = process.env;
  if (isAbsolute(cache)) return join(cache, "ef", `init.${shell}`);
  if (home) return join(resolve(home), ".cache/ef", `init.${shell}`);
  throw new EfError("USAGE", "Cannot say where to write the text: neither HOME nor XDG_CACHE_HOME is set", {
    hint: "set XDG_CACHE_HOME to a directory",
  });
}

function store(file: string, script: string): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeAtomic(file, script);
  } catch (error) {
    throw new EfError("IO", `Cannot write ${file}: ${reasonOf(error)}`, {
      hint: "set XDG_CACHE_HOME to a directory where you can write, or leave out --cache",
      path: file,
      cause: error,
    });
  }
}
