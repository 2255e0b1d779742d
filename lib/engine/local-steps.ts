/** The steps of a run, some of which go to this node's own disk. */
import type { Env } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { localRoot, localStep, makeLocalRoot } from "./node-local.ts";
import { originOf } from "./origin.ts";
import { pin } from "./pins.ts";
import type { Step } from "./plan.ts";

export interface LocalOptions {
  env: Env;
  /** Keep the copies until the job has ended. */
  keep: boolean;
  /** Look at source and scratch, whatever the markers say. */
  force: boolean;
  dryRun?: boolean | undefined;
  signal?: AbortSignal | undefined;
  onWarning?: ((message: string) => void) | undefined;
}

/**
 * Steps that put copies on this node's own disk; its directory is made, but for a dry run.
 *
 * @param steps of the copies on scratch
 * @throws {EfError} BAD_ROOT, UNSET_VARIABLE
 */
export async function toLocal(steps: readonly Step[], config: Config, options: LocalOptions): Promise<Step[]> {
  const { env, keep, force, dryRun, signal, onWarning } = options;
  const root = localRoot(config, env);
  const warning = dryRun ? undefined : makeLocalRoot(root);
  if (warning !== undefined) onWarning?.(warning);
  const local = await Promise.all(
    steps.map(async (step) => {
      const copyOf = (from: string) => localStep(step, root, from);
      return copyOf(await originOf(step, config, { force, copyOf, signal }));
    }),
  );
  // Before anybody looks whether they are there: from here on nobody removes them.
  if (keep && !dryRun) for (const step of local) pin(step, env.SLURM_JOB_ID);
  return local;
}
