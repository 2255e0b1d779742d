/** Where a copy for this node's own disk is read. */
import type { Config } from "../config/schema.ts";
import { isPartial, readMarker, whyStale } from "./marker.ts";
import type { Step } from "./plan.ts";

/**
 * The copy on scratch where it is whole: what its last sync left, and the source what it was then. Where only the directory
 * times or the marker's age speak against that, both trees are compared. Else the source.
 *
 * @param step of the copy on scratch
 */
export async function originOf(step: Step, config: Config, signal?: AbortSignal): Promise<string> {
  // Files that have the time of their arrival would look changed wherever they are copied to.
  if (config.ef?.transfer?.times === "arrival") return step.source;
  const marker = readMarker(step.marker);
  if (!marker || marker.source !== step.source || isPartial(step)) return step.source;
  const stale = await whyStale(step, config.skip_if_fresh_seconds).catch(() => ({ why: "" }));
  if (!stale) return step.target;
  return (await isSame(step, config, signal)) ? step.target : step.source;
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
