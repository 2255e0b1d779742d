/** What programs this node can run: its processor, and its C library. */
import { readFileSync } from "node:fs";
import { isDeno } from "../base/runtimes.ts";

export interface Node {
  /** As Python and wheels name it: `linux-x86_64`, `linux-aarch64`. */
  platform: string;
  /** Version of glibc, e.g. `2.36`; undefined with another C library (musl). */
  glibc: string | undefined;
  /** `x86-64-v1` to `x86-64-v4`; undefined on other processors, and where /proc does not tell. */
  cpu: string | undefined;
}

const machines: Record<string, string> = { x64: "x86_64", arm64: "aarch64" };

export async function thisNode(): Promise<Node> {
  const platform = `${process.platform}-${machines[process.arch] ?? process.arch}`;
  return { platform, glibc: await glibcVersion(), cpu: cpuLevel(readQuietly("/proc/cpuinfo")) };
}

/** @see https://man7.org/linux/man-pages/man3/gnu_get_libc_version.3.html */
async function glibcVersion(): Promise<string | undefined> {
  if (isDeno) return glibcByProgram(); // its report names the one that it was built with
  if (!process.versions.bun) {
    const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
    return report?.header?.glibcVersionRuntime;
  }
  const { dlopen } = await import("bun:ffi");
  try {
    const { symbols } = dlopen("libc.so.6", { gnu_get_libc_version: { args: [], returns: "cstring" } });
    return String(symbols.gnu_get_libc_version());
  } catch {
    return undefined;
  }
}

function glibcByProgram(): string | undefined {
  const { spawnSync } = process.getBuiltinModule("node:child_process");
  const { stdout } = spawnSync("getconf", ["GNU_LIBC_VERSION"], { encoding: "utf8" });
  return /^glibc (\S+)/.exec(stdout ?? "")?.[1];
}

/**
 * What each level has that the one below lacks, as /proc/cpuinfo names it.
 *
 * @see https://gitlab.com/x86-psABIs/x86-64-ABI (micro-architecture levels); kernel: arch/x86/include/asm/cpufeatures.h
 */
const levels = [
  ["lm", "sse2"],
  ["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
  ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
  ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
];

/** The highest level of which the processor has everything, by the text of /proc/cpuinfo. */
export function cpuLevel(cpuinfo: string): string | undefined {
  const flags = new Set(/^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.split(" "));
  const first = levels.findIndex((needed) => !needed.every((flag) => flags.has(flag)));
  const level = first === -1 ? levels.length : first;
  return level === 0 ? undefined : `x86-64-v${level}`;
}

function readQuietly(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}

/** Is version `a` (`2.9`) older than `b` (`2.17`)? By numbers, part for part. */
export function isOlder(a: string, b: string): boolean {
  const [x, y] = [a, b].map((text) => text.split(".").map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(x.length, y.length); i++) {
    const [m, n] = [x[i] ?? 0, y[i] ?? 0];
    if (m !== n) return m < n;
  }
  return false;
}
