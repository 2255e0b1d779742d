/**
 * Files on scratch of which nothing tells who wrote them: what ef knew of its copy is gone (a site purges its marker and its
 * manifest as it does other files), or there was none, and they are younger than the source's.
 */
import { type ByteString, bytesOf } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { compareContents } from "./contents.ts";
import type { Contents, Diff } from "./diff.ts";
import type { Sides, Transfer } from "./engine.ts";
import type { Scan } from "./scan.ts";
import type { Throttle } from "./throttle.ts";

interface Reading {
  /** Their problems get what cannot be read. */
  seen: Record<"source" | "target", Scan>;
  sides: Sides;
  signal: AbortSignal | undefined;
  throttle: Throttle | undefined;
  /** Hears how many bytes more have been compared. */
  heard: ((entries: number, bytes: number) => void) | undefined;
}

/** Why a file on scratch cannot be read that is a job's: it changes or goes this very moment (no code), or is not for us to read. */
const ofJobs: ReadonlySet<string | undefined> = new Set([undefined, "ENOENT", "EACCES", "EPERM"]);

/**
 * Read as much of them as tells what they are.
 *
 * The beginning of the source's file is what a copy by another program leaves that was interrupted. Where a sync has been, or has
 * begun, it is none: then a job has made the file shorter.
 *
 * @returns by row of the source
 */
export async function contentsOf(
  { source, target, there, unsure }: Diff,
  { source: from, target: to, workSince, past }: Transfer,
  { seen, sides, signal, throttle, heard }: Reading,
): Promise<Map<number, Contents>> {
  const isKnown = workSince > 0 || past.intent !== undefined;
  const found = new Map<number, Contents>();
  const alike = new Uint32Array(source.length);
  /** What is read once for all names of one file: under the first of them, by rows. */
  const firsts = new Map<string, number>();
  const sameFile = new Map<number, number>();
  for (const row of unsure.toSorted((a, b) => a - b)) {
    const here = (there[row] as number) - 1;
    const [home, scratch] = [source.size[row] as number, target.size[here] as number];
    const isOther = scratch > home || (scratch < home && isKnown);
    found.set(row, isOther ? "other" : scratch < home ? "beginning" : "same");
    if (isOther || scratch === 0) continue;
    alike[row] = here + 1;
    const inodes = `${source.inode[row]} ${target.inode[here]}`;
    if (source.inode[row] === 0 || target.inode[here] === 0) continue;
    const first = firsts.get(inodes) ?? row;
    firsts.set(inodes, first);
    if (first !== row) sameFile.set(row, first);
  }
  const differs = (path: ByteString) => void found.set(source.find(path) as number, "other");
  await compareContents({ source, target, alike }, { from: bytesOf(from), to: bytesOf(to) }, sides, {
    ...{ signal, throttle, onDifferent: differs },
    onProgress: (bytes) => heard?.(0, bytes),
    onProblem(path, side, error) {
      differs(path);
      if (side === "source") seen.source.problems.push({ path, error });
      else if (!ofJobs.has(errnoOf(error))) seen.target.problems.push({ path, error });
    },
  });
  for (const [row, first] of sameFile) found.set(row, found.get(first) as Contents);
  return found;
}
