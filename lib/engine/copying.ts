/** All that a copy needs and a fresh sync does not: one module to load when there is work. */
import type { Config } from "../config/schema.ts";
import { type QuotaLeft, quotas } from "../drivers/quota.ts";
import { checkExtraArgs } from "../drivers/rsync.ts";
import { type BuiltinOptions, builtinEngine } from "./builtin.ts";
import type { Engine } from "./engine.ts";
import { rsyncEngine } from "./rsync-engine.ts";
import { bytesPerSecond, throttle } from "./throttle.ts";

export { bring } from "./bring.ts";
export { checkRoots, ensureScratch } from "./roots.ts";
export { Space } from "./space.ts";
export { transferFor } from "./transfer.ts";

/** {@link quotas} of a path, asked for when first needed, and once: all variables count against the same ones. */
export function quotasOnce(path: string, options: Parameters<typeof quotas>[1]): () => Promise<readonly QuotaLeft[]> {
  let asked: Promise<readonly QuotaLeft[]> | undefined;
  return () => {
    asked ??= quotas(path, options);
    return asked;
  };
}

/**
 * The engine that a configuration asks for.
 *
 * @throws {EfError} CONFIG_INVALID; TOOL_MISSING where that is rsync, and there is none
 */
export function chooseEngine(asked: Config, flags: TransferFlags = {}): Engine {
  const config = withFlags(asked, flags);
  checkExtraArgs(config.rsync_extra_args);
  const { engine = "auto" } = config.ef?.transfer ?? {};
  const extraArgs = config.rsync_extra_args;
  // Never the better one in what was measured (scripts/bench): its processes are for what only they can do.
  if (engine === "rsync" || (engine === "auto" && extraArgs.length > 0))
    return rsyncEngine({ ...builtinOptions(config), extraArgs });
  return builtinEngine(builtinOptions(config));
}

/** What a command line may say instead of the configuration. */
export type TransferFlags = Pick<NonNullable<NonNullable<Config["ef"]>["transfer"]>, "workers" | "bwlimit">;

/** The configuration with what a command line says instead. */
export const withFlags = (config: Config, flags: TransferFlags): Config => ({
  ...config,
  ef: { ...config.ef, transfer: { ...config.ef?.transfer, ...flags } },
});

/** How ef's own engine copies. */
export function builtinOptions({ ef }: Config): BuiltinOptions {
  const { workers = "auto", bwlimit, verify, xattrs = false } = ef?.transfer ?? {};
  const bytesPerS = bwlimit === undefined ? undefined : bytesPerSecond(bwlimit);
  return { workers, bytesPerS, pass: throttle(bytesPerS), verify: verify === "checksum", xattrs };
}
