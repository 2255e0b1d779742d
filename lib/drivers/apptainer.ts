/**
 * Apptainer, and Singularity, as it was called before: what it is called with.
 *
 * @see https://apptainer.org/docs/user/1.4/cli/apptainer_build.html
 */
import { existsSync } from "node:fs";
import { EfError } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import { onPath } from "./programs.ts";

/** In this order: a cluster that has both keeps the older name for old scripts. */
const names = ["apptainer", "singularity"] as const;

export interface Apptainer {
  /** Its path. */
  program: string;
  name: (typeof names)[number];
}

/**
 * The first `apptainer` on `PATH`, else the first `singularity`.
 *
 * @throws {EfError} TOOL_MISSING, with the module to load where the cluster's modules have one
 */
export async function findApptainer(env: Env, signal?: AbortSignal): Promise<Apptainer> {
  for (const name of names) {
    const [program] = await onPath(name, env);
    if (program) return { program, name };
  }
  const modules = await modulesOf(env, signal);
  signal?.throwIfAborted();
  throw new EfError("TOOL_MISSING", "Cannot run apptainer: it is not installed, or not on PATH", {
    hint:
      modules.length > 0
        ? `load it first: module load ${modules[0]}${modules.length > 1 ? ` (there is also: ${modules.slice(1, 6).join(", ")})` : ""}`
        : "on a cluster try: module load apptainer (or: module avail apptainer; module spider apptainer)",
  });
}

/** How long the modules may take to answer, in milliseconds. */
const answerMs = 10_000;

/** Both module systems shall say on stderr what there is, plainly, whatever the user has set; and look below prefixes. */
const plainly = {
  ...{ LMOD_PAGER: "none", LMOD_REDIRECT: "no", LMOD_COLORIZE: "no" },
  ...{ MODULES_PAGER: "", MODULES_COLOR: "never", MODULES_SEARCH_MATCH: "contains" },
  LC_ALL: "C",
};

/**
 * Modules of apptainer that can be loaded as they are named here, the best first; none where there are no modules.
 *
 * Lmod and Environment Modules both tell their program in a variable; `module` itself is a function of the shell.
 *
 * @see https://lmod.readthedocs.io/en/latest/010_user.html and https://modules.readthedocs.io/en/latest/module.html
 */
async function modulesOf(env: Env, signal: AbortSignal | undefined): Promise<string[]> {
  const command = env.LMOD_CMD || env.MODULES_CMD;
  if (!command) return [];
  const limit = AbortSignal.timeout(answerMs);
  const avail = async (...flags: string[]) => {
    const { stderr } = await run([command, "bash", "-t", ...flags, "avail", ...names], {
      env: { ...env, ...plainly },
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    return stderr.split("\n");
  };
  // A hint is not worth an error: who does not answer has none.
  const [all, defaults] = await Promise.all([avail().catch(() => []), avail("-d").catch(() => [])]);
  return moduleNames(all, defaults);
}

/**
 * Of the lines of `module -t avail`: apptainer before singularity, then forks (`singularity-ce`); of each those without a
 * prefix first, the default before the newest.
 *
 * Headings are directories and end in a colon, names without a version in a slash. Environment Modules marks defaults;
 * Lmod only lists them, with `-d`.
 *
 * @param defaults the lines that `-d` adds
 */
export function moduleNames(lines: readonly string[], defaults: readonly string[] = []): string[] {
  const nameOf = (line: string) => line.trim().replace(/[\s(<{].*$/, "");
  const isMarked = (line: string) => /[(<:]d(?:efault)?\b/i.test(line);
  const preferred = new Set([...lines.filter(isMarked), ...defaults].map(nameOf));
  const listed = lines.filter((line) => !/^\s*\/|[:/]\s*$/.test(line)).map(nameOf);
  const found = new Set(listed.filter((name) => rank(name) < Infinity));
  const { compare } = new Intl.Collator("en", { numeric: true });
  const depth = (name: string) => name.split("/").length;
  const later = (name: string) => (preferred.has(name) ? 0 : 1);
  return [...found].sort((a, b) => rank(a) - rank(b) || depth(a) - depth(b) || later(a) - later(b) || compare(b, a));
}

/** How well a module fits its name; infinite if it only works with apptainer (`nextflow/24-apptainer`). */
function rank(module: string): number {
  const parts = module.toLowerCase().split("/");
  const exact = names.findIndex((name) => parts.includes(name));
  if (exact >= 0) return exact;
  const isFork = parts
    .slice(0, Math.max(1, parts.length - 1))
    .some((part) => names.some((name) => part.startsWith(name)));
  return isFork ? names.length : Infinity;
}

/** What makes the GPUs of this node usable inside: flags of `exec` and `run`. */
function gpuFlags(): string[] {
  if (existsSync("/dev/nvidiactl")) return ["--nv"];
  return existsSync("/dev/kfd") ? ["--rocm"] : [];
}

/** Run what the image was made to run. @param args reach the program as they are */
export const runArgv = ({ program }: Apptainer, image: string, args: readonly string[]): string[] => [
  ...[program, "run", ...gpuFlags(), image],
  ...args,
];

/**
 * Build an image.
 *
 * @param definition relative to the directory it is started in, as are the files that it names
 */
export const buildArgv = (
  { program }: Pick<Apptainer, "program">,
  args: readonly string[],
  image: string,
  definition: string,
): string[] => [program, "build", ...args, image, definition];

/** Run a program in an image, with nothing of the user's environment and home directory. */
export const probeArgv = ({ program }: Apptainer, image: string, argv: readonly string[]): string[] => [
  ...[program, "exec", "--cleanenv", "--no-home", image],
  ...argv,
];

/** Does `build` take `--mksquashfs-args`? Apptainer does since 1.2. */
export async function takesSquashArgs({ program }: Apptainer, signal?: AbortSignal): Promise<boolean> {
  const { stdout } = await run([program, "build", "--help"], { signal });
  return stdout.includes("--mksquashfs-args");
}
