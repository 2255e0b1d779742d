/** What `ef doctor` says of workspaces: are hpc-workspace's tools there, and does something end soon? */
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import { plural } from "./base/units.ts";
import type { Config } from "./config/schema.ts";
import { workspaceOf } from "./drivers/hpc-workspace.ts";
import { onPath } from "./drivers/programs.ts";
import { type Finding, fail, ok, warn } from "./engine/finding.ts";
import { defaultWarnDays, expiryText } from "./scratch-workspace.ts";
import { Workspace } from "./workspace.ts";

interface Context {
  env: Env;
  /** The configuration, and `scratch_base` as it is written there. */
  config: Config | undefined;
  written: unknown;
  signal: AbortSignal;
}

/** @returns undefined where there are no workspaces and none are used */
export async function checkWorkspaces({ env, config, written, signal }: Context): Promise<Finding | undefined> {
  const used = typeof written === "string" ? workspaceOf(written) : undefined;
  if ((await onPath("ws_list", env)).length === 0) {
    if (!used) return undefined;
    return fail(
      `scratch_base is ${written}, and ws_list is not on PATH`,
      "does this node have workspaces? Try: module avail; or: ef config set scratch_base DIR",
    );
  }
  let all: Awaited<ReturnType<Workspace["list"]>>;
  try {
    all = await new Workspace({ env, signal }).list();
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    return used ? fail(error.message, error.hint) : warn(error.message, error.hint);
  }
  const warnDays = config?.ef?.workspace?.warn_days ?? defaultWarnDays;
  const soon = all.flatMap((each) => expiryText(each, warnDays) ?? []);
  if (used && !all.some(({ id }) => id === used.name))
    return warn(`there is no workspace ${used.name} yet`, "nothing to do: the first ef sync makes it");
  if (soon.length > 0) return warn(soon.join("; "), "copy elsewhere what is to stay; see: ef ws list");
  return ok(plural(all.length, "workspace"));
}
