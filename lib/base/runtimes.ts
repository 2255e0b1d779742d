/**
 * Where node:fs of Node and of Deno differs from Bun's, as seen in Node 20 and 22 and Deno 2.9:
 *
 * - Node cuts times to whole microseconds, so what should be 1 µs may become 0; and takes a negative number for "now".
 * - Deno reads and sets whole milliseconds, of an open file by a number that is a little less; "now" for times before 1970.
 * - Deno gives the text of a link as bytes or as UTF-8 only.
 */
import * as fs from "node:fs";
import type { ByteString } from "./bytes.ts";

const isBun = process.versions.bun !== undefined;
export const isDeno = process.versions.deno !== undefined;

/** A time as node:fs takes it: a double is exact to a quarter of a microsecond in our century. */
export function asSeconds(ns: bigint): number | string {
  const rounded = isBun ? ns : ns + 500n; // to be cut off
  const seconds = Number(rounded / 1_000_000_000n) + Number(rounded % 1_000_000_000n) / 1e9;
  return seconds < 0 && !isBun ? String(seconds) : seconds;
}

const ofFd = (fd: number) => `/proc/self/fd/${fd}`;
export const futimesSync: typeof fs.futimesSync = isDeno
  ? (fd, ...times) => fs.utimesSync(ofFd(fd), ...times)
  : fs.futimesSync;
export const futimes = (isDeno ? (fd, ...rest) => fs.utimes(ofFd(fd), ...rest) : fs.futimes) as typeof fs.futimes;

/** For readlink: as byte string at once where that can be had. */
export const linkEncoding = { encoding: isDeno ? "buffer" : "latin1" } as { encoding: "latin1" };

export const linkText = (text: string | Uint8Array): ByteString =>
  typeof text === "string" ? text : Buffer.from(text).toString("latin1");
