/** All that a copy needs and a fresh sync does not: one module to load when there is work. */
import type { Config } from "../config/schema.ts";
import type { Engine } from "./engine.ts";
import { rsyncEngine } from "./rsync-engine.ts";

export { bring } from "./bring.ts";
export { checkRoots, ensureScratch } from "./roots.ts";
export { Space } from "./space.ts";

/** The engine that a configuration asks for. */
export function chooseEngine(config: Config): Engine {
  return rsyncEngine({
    extraArgs: config.rsync_extra_args,
    bwlimit: config.ef?.transfer?.bwlimit,
    checksum: config.ef?.transfer?.verify === "checksum",
  });
}
