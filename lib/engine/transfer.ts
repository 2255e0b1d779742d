import { realPath } from "../base/paths.ts";
import { presetOf } from "../config/presets.ts";
import type { Transfer } from "./engine.ts";
import { knownOf } from "./marker.ts";
import type { Step } from "./plan.ts";

/** Patterns of what is never copied: what ef knows of such a cache, and what the user adds. */
export const excludesOf = (step: Step): string[] => [...(presetOf(step.name)?.exclude ?? []), ...step.exclude];

/**
 * What a step says of a transfer, and what earlier syncs left.
 *
 * Roots without links: rsync 3.5 refuses a target that is a link of another user, and a link may change meanwhile.
 */
export function transferFor(step: Step): Omit<Transfer, "arrivalNs" | "lockFd"> {
  const { base, intent, workSince } = knownOf(step);
  return {
    source: realPath(step.from),
    target: realPath(step.target),
    exclude: excludesOf(step),
    past: { base, intent },
    mirror: step.mirror,
    workSince,
  };
}
