/** All that a copy needs and a fresh sync does not: one module to load when there is work. */
import type { Config } from "../config/schema.ts";
import { checkExtraArgs } from "../drivers/rsync.ts";
import type { Engine } from "./engine.ts";
import { rsyncEngine } from "./rsync-engine.ts";

export { bring } from "./bring.ts";
export { checkRoots, ensureScratch } from "./roots.ts";
export { Space } from "./space.ts";

/**
 * The engine that a configuration asks for.
 *
 * @throws {EfError} CONFIG_INVALID
 */
export function chooseEngine(config: Config): Engine {
  checkExtraArgs(config.rsync_extra_args);
  return rsyncEngine({
    extraArgs: config.rsync_extra_args,
    bwlimit: config.ef?.transfer?.bwlimit,
    checksum: config.ef?.transfer?.verify === "checksum",
  });
}

/** What a configuration asks for and this version does not do yet, by its keys. */
export function notYet(config: Config): string[] {
  const { transfer, purge, vars = {} } = config.ef ?? {};
  const ofVars = Object.entries(vars).flatMap(([name, { mirror, node_local }]) => [
    ...(mirror ? [`ef.vars.${name}.mirror`] : []),
    ...(node_local ? [`ef.vars.${name}.node_local`] : []),
  ]);
  return [
    ...ofVars,
    ...(transfer?.times === "arrival" ? ["ef.transfer.times"] : []),
    ...(transfer?.engine === "builtin" ? ["ef.transfer.engine"] : []),
    ...(transfer?.workers !== undefined && transfer.workers !== "auto" ? ["ef.transfer.workers"] : []),
    ...(purge ? ["ef.purge"] : []),
  ];
}
