/** `ws:NAME` in the configuration: a place on scratch that is a workspace. */
import type { Config } from "./config/schema.ts";
import type { ScratchBaseOptions } from "./scratch-workspace.ts";

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
