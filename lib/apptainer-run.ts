import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { findApptainer, runArgv } from "./drivers/apptainer.ts";
import { builtImage } from "./images/store.ts";
import { type BestCopy, bestCopy } from "./images/whole.ts";
import { withWorkspaces } from "./scratch-base.ts";

export interface ApptainerPathOptions {
  /** Values of `$VARS` in paths, and `PATH`. @default process.env */
  env?: Env;
  signal?: AbortSignal | undefined;
}

/**
 * The file of an image that a job is to use: the copy on scratch if it is whole, else the stored one. Where `$SCRATCH` is not
 * set, that is the stored one.
 *
 * @throws {EfError} UNKNOWN_IMAGE; IO if there is neither; CONFIG_INVALID, UNSET_VARIABLE
 * @example
 * const { path } = apptainerPath(await loadConfig(), "train");
 */
export function apptainerPath(
  config: Config,
  name: string,
  { env = process.env }: Pick<ApptainerPathOptions, "env"> = {},
): BestCopy {
  return bestCopy(config, env, builtImage(config, env, name));
}

/**
 * The command line that runs an image, with the GPUs of this node: for `execute`.
 *
 * @param args of what the image runs
 * @throws {EfError} as {@link apptainerPath}; TOOL_MISSING without apptainer
 * @example
 * const { argv } = await apptainerRun(await loadConfig(), "train", ["-c", "print(1)"]);
 * const code = await execute(argv, { env: process.env });
 */
export async function apptainerRun(
  written: Config,
  name: string,
  args: readonly string[] = [],
  { env = process.env, signal }: ApptainerPathOptions = {},
): Promise<BestCopy & { argv: string[] }> {
  const config = await withWorkspaces(written, { env, missing: "leave", signal });
  const copy = apptainerPath(config, name, { env });
  return { ...copy, argv: runArgv(await findApptainer(env, signal), copy.path, args) };
}
