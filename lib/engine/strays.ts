/** Managed variables that are set to something else than ef would set them to. */
import type { Env } from "../base/paths.ts";
import { type Incongruence, incongruences } from "../config/congruency.ts";
import type { Config } from "../config/schema.ts";
import type { Step } from "./plan.ts";

/** As {@link incongruences}; a copy on this node's own disk is none, which is looked for only where there seems to be one. */
export async function strays(steps: readonly Step[], config: Config, env: Env): Promise<Incongruence[]> {
  const found = incongruences(steps, env);
  if (found.length === 0) return found;
  const { localRoot } = await import("./node-local.ts");
  try {
    const root = localRoot(config, env);
    return found.filter(({ name, value }) => value.replace(/\/+$/, "") !== `${root}/${name}`);
  } catch {
    return found; // no place for copies on this node
  }
}
