/** What `ef doctor` says of data movers: by what does `ef dm` reach them? */
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { Datamover } from "./datamover.ts";
import { moverPartition, type Partition, partitions } from "./drivers/slurm-jobs.ts";
import { type Finding, ok, warn } from "./engine/finding.ts";

interface Context {
  env: Env;
  config: Config | undefined;
  signal: AbortSignal;
}

/** @returns undefined where nothing speaks of them: no `dt*` tools, no such partition, and none is configured */
export async function checkDatamover({ env, config, signal }: Context): Promise<Finding | undefined> {
  const dm = Datamover.fromConfig(config, { env });
  const { dir, partition } = dm.options;
  const tools = await dm.tools();
  if (tools.length > 0) return ok(`${tools.length} dt* tools (${dir ?? "on PATH"})`);
  const setTo = "correct it: ef config set ef.datamover.";
  if (dir !== undefined) return warn(`there are no dt* tools in ${dir}`, `${setTo}dir DIR`);
  const all = await partitions({ env, signal }).catch((error): Partition[] => {
    if (partition === undefined && error instanceof EfError) return []; // the line on Slurm tells of that
    throw error;
  });
  if (partition === undefined) {
    const found = moverPartition(all);
    return found === undefined ? undefined : ok(`partition ${found}, by its name`);
  }
  const found = all.find(({ name }) => name === partition);
  if (!found) return warn(`there is no partition ${partition}`, `${setTo}partition NAME; those there are: sinfo -s`);
  return found.isUp
    ? ok(`partition ${partition}`)
    : warn(`partition ${partition} is down`, "ask your site when it is back");
}
