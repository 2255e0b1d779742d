/** What `ef doctor` says of Apptainer: is it there, and can this user build images here? */
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { findApptainer } from "./drivers/apptainer.ts";
import { type Finding, warn } from "./engine/finding.ts";
import { checkTool, tools } from "./engine/tools.ts";
import { isFakeroot } from "./images/build-args.ts";
import { buildsFinding, privileges } from "./images/privileges.ts";

interface Context {
  env: Env;
  config: Config | undefined;
  signal: AbortSignal;
}

/** Its version and place; where the configuration needs it and it is missing: the module to load. */
export async function checkApptainer(context: Context): Promise<Finding> {
  const { config, env, signal } = context;
  const found = await checkTool(tools.apptainer as (typeof tools)[string], context);
  if (found.state === "ok" || !config?.apptainer) return found;
  try {
    await findApptainer(env, signal);
    return found; // it is there, and does not start
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    return warn(found.found, error.hint);
  }
}

/** Can images be built here without being root? @returns undefined if the configuration has no images */
export async function checkBuilds({ config, signal }: Context): Promise<Finding | undefined> {
  if (!config?.apptainer) return undefined;
  const facts = await privileges();
  signal.throwIfAborted();
  return buildsFinding(facts, config.apptainer.build_args.some(isFakeroot));
}
