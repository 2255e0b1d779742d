/**
 * Attributes of many paths, fast on a local disk and on slow network storage alike.
 *
 * A synchronous lstat(2) costs 1.5 µs on a local disk where one through the thread pool costs 20; on storage that
 * answers in a millisecond, only requests in flight help. So calls are synchronous while they are quick, and go to the
 * pool, many at a time, from the first slow batch on.
 */
import { lstatSync } from "node:fs";
import { mapLimit } from "./async.ts";

/** A path as bytes where its name is not valid UTF-8, else as text. */
export type Path = string | Buffer;

/** Requests in flight on slow storage; more than 64 gained nothing on a server that works on 32 at once. */
const inFlight = 64;
/** Calls between two looks at the clock. */
const batch = 16;
/** Mean time of a call, in milliseconds, from which the storage counts as slow. */
const slowMs = 0.1;

/** Run `quick` on each item while that is fast, `parallel` on the rest; results in order. */
async function adaptive<T, R>(
  items: readonly T[],
  quick: (item: T) => R,
  parallel: (item: T, pool: typeof import("node:fs/promises")) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  while (results.length < items.length) {
    const from = performance.now();
    const until = Math.min(results.length + batch, items.length);
    const count = until - results.length;
    while (results.length < until) results.push(quick(items[results.length] as T));
    if ((performance.now() - from) / count > slowMs) break;
  }
  if (results.length === items.length) return results;
  await widenPool();
  const pool = await import("node:fs/promises"); // not at the top: loading it takes longer than a fresh sync's own work
  return [...results, ...(await mapLimit(items.slice(results.length), inFlight, (item) => parallel(item, pool)))];
}

/**
 * The modification time of each path, of a link itself, in nanoseconds since 1970; undefined where there is none, or none
 * that can be seen.
 */
export async function mtimesAll(paths: readonly Path[]): Promise<(bigint | undefined)[]> {
  const quick = (path: Path) => {
    try {
      return lstatSync(path, { bigint: true, throwIfNoEntry: false })?.mtimeNs;
    } catch {
      return undefined;
    }
  };
  return adaptive(paths, quick, async (path, pool) => {
    const stat = await pool.lstat(path, { bigint: true }).catch(() => undefined);
    return stat?.mtimeNs;
  });
}

let widened = false;

/**
 * Give the file-system thread pool {@link inFlight} threads.
 *
 * Bun and Node start it as wide as the machine has cores (Bun) or four (Node), which is that many requests in flight.
 * Both read UV_THREADPOOL_SIZE when the pool is first used; Bun reads it with getenv(3), which `process.env` does not
 * reach, so libc's setenv is called. Where that fails, or the pool is in use already, work is slower, not wrong.
 */
export async function widenPool(): Promise<void> {
  if (widened || process.env.UV_THREADPOOL_SIZE) return;
  widened = true;
  if (!process.versions.bun) {
    process.env.UV_THREADPOOL_SIZE = String(inFlight);
    return;
  }
  const { dlopen } = await import("bun:ffi");
  for (const libc of ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`]) {
    try {
      const { symbols, close } = dlopen(libc, { setenv: { args: ["cstring", "cstring", "i32"], returns: "i32" } });
      symbols.setenv(Buffer.from("UV_THREADPOOL_SIZE\0"), Buffer.from(`${inFlight}\0`), 1);
      close();
      return;
    } catch {
      // not this libc
    }
  }
}
