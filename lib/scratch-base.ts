/** `ws:NAME` in the configuration: a place on scratch that is a workspace. */
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";

export interface ScratchBaseOptions {
  /** @default process.env */
  env?: Env | undefined;
  /**
   * What to do if there is no such workspace: make it, throw UNKNOWN_WORKSPACE, or leave `ws:NAME` as it is (nothing is
   * thrown then, whatever is wrong with workspaces here).
   */
  missing: "allocate" | "fail" | "leave";
  /** Hears what one should know, e.g. that it expires soon. */
  onWarning?: ((message: string) => void) | undefined;
  signal?: AbortSignal | (() => AbortSignal) | undefined;
}

const startsWithWorkspace = (path: string | undefined) => path?.startsWith("ws:") ?? false;

/**
 * The configuration with the directories of workspaces in place of `ws:NAME`: to work with, not to be saved.
 *
 * Where there is none, the same object, at no cost; elsewhere it takes a run of `ws_list`.
 *
 * @throws {EfError} UNKNOWN_WORKSPACE, TOOL_MISSING, TOOL_FAILED
 */
export async function withWorkspaces(config: Config, options: ScratchBaseOptions): Promise<Config> {
  if (!startsWithWorkspace(config.scratch_base) && !startsWithWorkspace(config.apptainer?.scratch_sif_dir))
    return config;
  return (await import("./scratch-workspace.ts")).resolveWorkspaces(config, options);
}
