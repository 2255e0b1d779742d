/** What a check found, and the time limit that makes a check end. */
import { sleep } from "../base/async.ts";
import { EfError, reasonOf } from "../base/errors.ts";

export interface Finding {
  /** `warn`: works, but not as well as it could, or not everywhere. `fail`: a command of ef will fail. */
  state: "ok" | "warn" | "fail";
  found: string;
  /** What the user can do about it. */
  fix?: string;
}

export const ok = (found: string): Finding => ({ state: "ok", found });
export const warn = (found: string, fix?: string): Finding => ({ state: "warn", found, ...(fix ? { fix } : {}) });
export const fail = (found: string, fix?: string): Finding => ({ state: "fail", found, ...(fix ? { fix } : {}) });

/** An error as a finding. */
export function failure(error: unknown): Finding {
  return error instanceof EfError ? fail(error.message, error.hint) : fail(reasonOf(error));
}

/**
 * Wait for `work`, but no longer than the limit; what hangs then is left alone, with its signal aborted.
 *
 * @throws {EfError} IO after the limit; the reason of `signal`
 */
export async function withinLimit<T>(
  limitS: number,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const late = new AbortController();
  const either = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
  const aborted = new Promise<never>((_, reject) => {
    either.addEventListener("abort", () => reject(either.reason), { once: true });
  });
  const error = new EfError("IO", `no answer within ${limitS} s`, {
    hint: "the storage or the program hangs: try it on another node, and tell your site's support",
  });
  const timer = setTimeout(() => late.abort(error), limitS * 1000);
  try {
    const working = work(either);
    return await Promise.race([working, aborted.catch((reason) => cleanedUp(working, reason))]);
  } finally {
    clearTimeout(timer);
  }
}

/** Milliseconds that aborted work gets to remove what it made. */
const cleanUpMs = 200;

/** Let aborted work end, unless it hangs; then fail with the reason. */
async function cleanedUp(working: Promise<unknown>, reason: unknown): Promise<never> {
  await Promise.race([working.catch(() => {}), sleep(cleanUpMs)]);
  throw reason;
}
