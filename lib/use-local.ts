/** Copies on this node's own disk, for as long as something runs with them. */
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { type Use, useCopies } from "./engine/local-use.ts";
import { localRoot, localStep, makeLocalRoot } from "./engine/node-local.ts";
import { isNodeLocal, plan } from "./engine/plan.ts";
import { withWorkspaces } from "./scratch-base.ts";

export type { Use } from "./engine/local-use.ts";
export type { Removed } from "./engine/remove-made.ts";

export interface UseLocalOptions {
  /** Names of variables, disabled ones too. @default all enabled */
  only?: readonly string[];
  /** As for `sync`. @default what the configuration says */
  nodeLocal?: boolean;
  signal?: AbortSignal;
  /** @default process.env */
  env?: Env;
}

/**
 * Keep copies on this node's own disk while this process works with them, and let the last one that does remove them. Call it
 * before `sync` with `nodeLocal` and `keep: false`.
 *
 * @throws {EfError} of the configuration; BAD_ROOT, IO, LOCK_FAILED; the signal's reason
 * @example
 * const config = await loadConfig();
 * const use = await useLocal(config, { nodeLocal: true });
 * const { exports } = await sync(config, { nodeLocal: true, keep: false });
 * // … work with them
 * await use.remove();
 */
export async function useLocal(asked: Config, options: UseLocalOptions = {}): Promise<Use> {
  const { env = process.env, only, nodeLocal, signal } = options;
  if (!nodeLocal && !asked.ef?.vars) return useCopies([]);
  const config = await withWorkspaces(asked, { env, missing: "leave", signal });
  const chosen = plan(config, env, only).steps.filter(({ name }) => isNodeLocal(config, env, name, nodeLocal));
  if (chosen.length === 0) return useCopies([]);
  const root = localRoot(config, env);
  makeLocalRoot(root);
  return useCopies(
    chosen.map((step) => localStep(step, root, step.source)),
    signal,
  );
}
