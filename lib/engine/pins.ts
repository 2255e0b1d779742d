/** `.NAME.pin-JOB`: a copy on this node's own disk that a job uses, which no process stands for. */
import { readdirSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { EfError, reasonOf } from "../base/errors.ts";
import { removeIfThere } from "../base/files.ts";
import type { Step } from "./plan.ts";

const pinFile = ({ lock }: Step, job: string) => `${lock.replace(/lock$/, "pin")}-${job}`;

/** The job of a pin that was made outside of one: it stays until somebody removes the copy. */
export const noJob = "0";

/** Keep a copy until this job has ended. */
export function pin(step: Step, job: string | undefined): void {
  const path = pinFile(step, job ?? noJob);
  try {
    writeFileSync(path, "", { mode: 0o600 });
  } catch (cause) {
    throw new EfError("IO", `Cannot write ${path}: ${reasonOf(cause)}`, { path, cause });
  }
}

export const unpin = (step: Step, job: string): void => removeIfThere(pinFile(step, job));

/** The jobs that keep a copy. */
export function pins(step: Step): string[] {
  const start = basename(pinFile(step, ""));
  return readdirSync(dirname(step.lock)).flatMap((name) => (name.startsWith(start) ? [name.slice(start.length)] : []));
}
