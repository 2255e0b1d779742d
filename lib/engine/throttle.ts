import { sleep } from "../base/async.ts";
import type { Maybe } from "../base/steps.ts";

/** A rate as rsync writes it, in bytes per second: a number, K, M, G or T of 1024; without a letter, bytes. */
export function bytesPerSecond(rate: string): number {
  const [, number = "", unit = ""] = /^(\d+(?:\.\d+)?)([KMGT]?)$/i.exec(rate) ?? [];
  const power = ["", "K", "M", "G", "T"].indexOf(unit.toUpperCase());
  return Number(number) * 1024 ** power;
}

/** What may move at once after a pause, in seconds of the rate. */
const burstS = 0.1;

/** Waits until so many bytes may pass. */
export type Throttle = (bytes: number, signal?: AbortSignal) => Maybe<void>;

/** Lets bytes of all who share it pass at a rate, in the order in which they ask; undefined for no limit. */
export function throttle(bytesPerS: number | undefined): Throttle | undefined {
  if (bytesPerS === undefined) return undefined;
  let free = performance.now();
  return (bytes, signal) => {
    const now = performance.now();
    free = Math.max(free, now - burstS * 1000) + (bytes / bytesPerS) * 1000;
    const waitMs = free - now;
    return waitMs > 1 ? sleep(waitMs, signal) : undefined;
  };
}
