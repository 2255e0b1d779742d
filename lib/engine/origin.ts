/** Where a copy for this node's own disk is read. */
import { statSync } from "node:fs";
import type { Config } from "../config/schema.ts";
import { isPartial, readMarker, whyStale } from "./marker.ts";
import type { Step } from "./plan.ts";

export interface OriginOptions {
  /** Look at both trees, whatever the marker says. */
  force?: boolean;
  /** The copy on this node, if it is read from there. */
  copyOf?: (from: string) => Step;
  signal?: AbortSignal | undefined;
}

/**
 * The copy on scratch where it is whole: what its last sync left, and the source what it was then. Where only the directory
 * times or the marker's age speak against that, both trees are compared; not for its age alone where the copy on this node
 * was made from it and is fresh. Else the source, unless that is not there.
 *
 * @param step of the copy on scratch
 */
export async function originOf(step: Step, config: Config, options: OriginOptions = {}): Promise<string> {
  const { force = false, copyOf, signal } = options;
  // Files that have the time of their arrival would look changed wherever they are copied to.
  if (config.ef?.transfer?.times === "arrival") return step.source;
  const marker = readMarker(step.marker);
  if (!marker || marker.source !== step.source || isPartial(step)) return step.source;
  const maxAgeS = config.skip_if_fresh_seconds;
  const why = (of: Step, ageS: number) => whyStale(of, ageS).catch(() => ({ why: "", isSourceAlone: false }));
  if (!force) {
    if (!(await why(step, maxAgeS))) return step.target;
    const stale = await why(step, Number.POSITIVE_INFINITY);
    if (stale?.isSourceAlone && !isThere(step.source)) return step.target;
    if (!stale && copyOf && !(await why(copyOf(step.target), maxAgeS))) return step.target;
  }
  return (await isSame(step, config, signal)) ? step.target : step.source;
}

function isThere(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return true; // what is wrong with it is said when it is read
  }
}

async function isSame(step: Step, config: Config, signal: AbortSignal | undefined): Promise<boolean> {
  const { chooseEngine, transferFor } = await import("./copying.ts");
  try {
    const transfer = { ...transferFor(step), arrivalNs: undefined, lockFd: undefined };
    const { plan } = await chooseEngine(config).compare(transfer, { signal });
    const { files, newInodes, links, symlinks, attributes, blocked, problem } = plan; // what a job changed may come too
    return files + newInodes + links + symlinks + attributes + blocked.length === 0 && !problem;
  } catch {
    signal?.throwIfAborted();
    return false; // what is wrong with the source is said when it is read
  }
}
