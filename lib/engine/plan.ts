import { existsSync } from "node:fs";
import { basename, dirname, isAbsolute, join } from "node:path";
import { EfError } from "../base/errors.ts";
import { type Env, expandPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";

/** One variable to be staged, with every path that this will touch. All paths are absolute and expanded. */
export interface Step {
  /** The environment variable. */
  name: string;
  /** The persistent directory. */
  source: string;
  /** Where a copy is read: the source, or another whole copy of it. */
  from: string;
  /** The directory, of the user's choice, below which ef makes directories for copies. */
  base: string;
  /** Its copy on scratch, or on this node's own disk, which the variable will name. */
  target: string;
  /** Says when and from where `target` was last made whole (shared with euler-files). */
  marker: string;
  /** `flock(2)`ed while the copy changes (shared with euler-files). */
  lock: string;
  /** What the last sync put on scratch, and the directory times of both trees then; only ef's. */
  manifest: string;
  /** There while a copy is being made, and holds what is meant to come: what is at `target` may be half of it. */
  partial: string;
  /** Prefix of temporary directories beside `target`, for an engine that needs one: each run adds its own suffix. */
  temp: string;
  /** rsync patterns of what the user does not want copied; those of the preset are added when it is. */
  exclude: readonly string[];
  /** Is what the source deleted, and ef had put there, deleted on scratch too? */
  mirror: boolean;
  /** What the configuration says of which files are copied: a copy made under other rules is not fresh. */
  rules: string;
  /** Variables exported beside it. */
  env: Readonly<Record<string, string>>;
}

/**
 * What a configuration asks for in this environment: the steps and where they go. Pure, but for {@link isLiteral}.
 *
 * @param only names of variables, disabled ones too; default: all enabled
 * @throws {EfError} UNKNOWN_VAR, UNSET_VARIABLE, BAD_ROOT
 */
export function plan(config: Config, env: Env, only?: readonly string[]): { scratchBase: string; steps: Step[] } {
  const scratchBase = scratchRoot(config, env);
  const names = only?.length
    ? [...new Set(only)]
    : Object.keys(config.vars).filter((name) => config.vars[name]?.enabled);
  const unknown = names.filter((name) => !Object.hasOwn(config.vars, name));
  if (unknown.length > 0) {
    const known = Object.keys(config.vars).join(", ") || "none yet";
    throw new EfError("UNKNOWN_VAR", `Cannot find ${unknown.join(", ")} in the configuration`, {
      hint: `variables there: ${known}; add one with: ef config set vars.${unknown[0]}.source DIR`,
    });
  }
  return { scratchBase, steps: names.map((name) => step(config, env, scratchBase, name)) };
}

/**
 * The expanded scratch root.
 *
 * @throws {EfError} UNSET_VARIABLE, or BAD_ROOT if it is relative or the root directory
 */
export function scratchRoot(config: Config, env: Env): string {
  const path = expandPath(config.scratch_base, env, "scratch_base");
  return absolute(path, "scratch_base", config.scratch_base);
}

function step(config: Config, env: Env, scratchBase: string, name: string): Step {
  const root = join(scratchBase, config.cache_root);
  const written = config.vars[name]?.source ?? "";
  const where = `vars.${name}.source`;
  const own = config.ef?.vars?.[name];
  const source = absolute(isLiteral(written) ? written : expandPath(written, env, where), where, written);
  return {
    name,
    source,
    from: source,
    base: scratchBase,
    ...placesIn(root, name),
    exclude: own?.exclude ?? [],
    mirror: own?.mirror ?? false,
    rules: JSON.stringify([own?.exclude ?? [], config.rsync_extra_args, ...(own?.mirror ? ["mirror"] : [])]),
    env: own?.env ?? {},
  };
}

/**
 * Does a variable go to this node's own disk? As it is asked for, else what the configuration says of it, which holds in a
 * Slurm job only, and on its nodes, which have a name from Slurm: the shell that `salloc` starts may be on a login node, whose
 * disk is for all.
 */
export const isNodeLocal = (config: Config, env: Env, name: string, asked: boolean | undefined): boolean =>
  asked ?? (config.ef?.vars?.[name]?.node_local === true && Boolean(env.SLURM_JOB_ID && env.SLURMD_NODENAME));

/** A copy and ef's own files beside it, in a directory. */
export const placesIn = (root: string, name: string) => ({
  target: join(root, name),
  marker: join(root, `.${name}.synced`),
  lock: join(root, `.${name}.lock`),
  manifest: join(root, `.${name}.manifest`),
  partial: join(root, `.${name}.partial`),
  temp: join(root, `.${name}.tmp-`),
});

/** The copy that a step reads in place of its source, as a step of its own; undefined where it reads the source. */
export const originStep = (step: Step): Step | undefined =>
  step.from === step.source
    ? undefined
    : { ...step, from: step.source, ...placesIn(dirname(step.from), basename(step.from)) };

/**
 * Is a source with a `$` in it the very name of a directory? euler-files takes every source so, and a directory can be
 * called `a$b`; as a variable that would most often be an error.
 */
const isLiteral = (written: string) => isAbsolute(written) && written.includes("$") && existsSync(written);

function absolute(path: string, where: string, written: string): string {
  const bad = !isAbsolute(path)
    ? "it is not an absolute path"
    : join(path, "/") === "/"
      ? "it is the root directory"
      : "";
  if (!bad) return join(path, ".");
  throw new EfError("BAD_ROOT", `Cannot use ${where} "${written}" (${path}): ${bad}`, {
    hint: `change it with: ef config set ${where} DIR`,
    path,
  });
}
