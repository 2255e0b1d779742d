import { readFileSync } from "node:fs";

let boot: string | undefined;

/** Differs from start to start of this node (proc(5), /proc/sys/kernel/random/boot_id); empty without /proc. */
export function bootId(): string {
  if (boot !== undefined) return boot;
  try {
    boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    boot = "";
  }
  return boot;
}
