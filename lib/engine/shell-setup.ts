/** How the user's shell is set up for ef: its rc file, and the programs of that name on PATH. */
import { promises } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Env, tilde } from "../base/paths.ts";
import { onPath } from "../drivers/programs.ts";
import { type Finding, ok, warn } from "./finding.ts";

/** A shell's rc files, and the line for the first of them. */
interface Rc {
  files: (home: string, env: Env) => string[];
  line: string;
}

const below =
  (...names: string[]) =>
  (home: string) =>
    names.map((name) => join(home, name));

const shells: Record<string, Rc> = {
  bash: {
    files: below(".bashrc", ".bash_profile", ".bash_login", ".profile"),
    line: 'eval "$(ef shell-init --shell bash)"',
  },
  zsh: {
    files: (home, env) => below(".zshrc", ".zprofile", ".zshenv")(env.ZDOTDIR || home),
    line: 'eval "$(ef shell-init --shell zsh)"',
  },
  fish: {
    files: (home, env) => below("fish/config.fish")(env.XDG_CONFIG_HOME || join(home, ".config")),
    line: "ef shell-init --shell fish | source",
  },
  csh: { files: below(".cshrc", ".login"), line: 'eval "`ef shell-init --shell csh`"' },
  tcsh: { files: below(".tcshrc", ".cshrc", ".login"), line: 'eval "`ef shell-init --shell csh`"' },
};

/** A line that is no comment and has `ef shell-init`, or reads the file that `ef shell-init --cache` writes. */
const definesIt = /^[^#]*(?:\bshell-init\b|\/ef\/init\.\w)/;

/**
 * Does an rc file of the login shell define the function `ef`?
 *
 * A function of the parent shell cannot be seen from a child, so this looks for the line that makes it.
 */
export async function checkIntegration(home: string, env: Env): Promise<Finding> {
  const shell = basename(env.SHELL ?? "");
  const rc = Object.hasOwn(shells, shell) ? shells[shell] : undefined;
  if (!rc) return ok(`no function for ${shell ? `the shell ${shell}` : "an unknown shell: SHELL is not set"}`);
  const files = rc.files(home, env);
  for (const file of files) {
    const text = await promises.readFile(file, "utf8").catch(() => "");
    if (text.split("\n").some((line) => definesIt.test(line))) return ok(`${tilde(file, env)} defines it`);
  }
  const first = tilde(files[0] ?? "", env);
  return warn(`${shell} has no function ef: no ef shell-init in ${first}`, `add this line to ${first}: ${rc.line}`);
}

/**
 * Which `ef` does a shell start, and is it this one?
 *
 * @param program the running one
 */
export async function checkPath(program: string | undefined, env: Env): Promise<Finding> {
  const [[first, ...others], [older]] = await Promise.all([onPath("ef", env), onPath("euler-files", env)]);
  const beside = [...others.map((path) => `also ${path}`), ...(older ? [`euler-files is ${older}`] : [])];
  if (first === undefined) {
    const fix = program ? `put its directory on PATH: ${dirname(program)}` : "put the directory of ef on PATH";
    return warn(["ef is not on PATH", ...(program ? [`this is ${program}`] : []), ...beside].join("; "), fix);
  }
  if (program === undefined || (await isSame(first, program))) return ok([first, ...beside].join("; "));
  return warn(
    [`ef is ${first}, and this is ${program}`, ...beside].join("; "),
    "remove the one that is out of date, or change the order of PATH",
  );
}

async function isSame(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map((path) => promises.realpath(path).catch(() => path)));
  return a === b;
}
