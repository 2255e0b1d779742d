import type { Env } from "../base/paths.ts";

/** A managed variable that is already set, and to something that ef did not expect. */
export interface Incongruence {
  name: string;
  /** What the environment has. */
  value: string;
  /** What the configuration calls its source. */
  source: string;
}

const bare = (path: string) => path.replace(/\/+$/, "") || "/";

/**
 * Find stale exports: a variable set neither to its source nor to its scratch copy (a line in `.bashrc`, usually).
 *
 * @param vars name, expanded source and target of each managed variable
 */
export function incongruences(
  vars: readonly { name: string; source: string; target: string }[],
  env: Env,
): Incongruence[] {
  return vars.flatMap(({ name, source, target }) => {
    const value = env[name];
    if (!value || [source, target].some((path) => bare(path) === bare(value))) return [];
    return [{ name, value, source }];
  });
}

/** The warning, as euler-files words it. */
export function describeIncongruence({ name, value, source }: Incongruence): string {
  return `${name} is set to ${value} but config source is ${source}`;
}
