/**
 * How fast a copy can be at best on storage that answers each request after a latency, so many at a time.
 *
 * The requests are those that nobody can do without, counted as the server sees them:
 *
 *     each directory            look it up, open it, list it (names and the end: 2)         4 on the side that is read
 *     each name                 look it up; its attributes come with the answer             1
 *     each file to copy         open it, and read it by 256 KiB                             1 + data
 *     each symlink to copy      read it                                                     1
 *
 *     and on the target, if that is slow too:
 *     each directory            look it up, make it, set its times                          3
 *     each file                 look it up, create it, set its times, write it by 1 MiB     3 + data
 *     each symlink              look it up, make it, set its times                          3
 *     each further hard link    look it up, link it                                         2
 *
 * Hence per side: max((meta × latency + data × latency) / requests at once, bytes / bandwidth), and of both sides the
 * slower one. Neither the disks, nor processors, nor a temporary name with a rename for each file are in it.
 */
import type { Server } from "./slow-fs.ts";
import type { Survey } from "./trees.ts";

export const scenarios = ["cold", "fresh", "unchanged", "changed", "purged"] as const;
export type Scenario = (typeof scenarios)[number];

export interface Load {
  meta: number;
  data: number;
  bytes: number;
}

/** The kernel's readahead of 128 KiB, which is twice as much after posix_fadvise(POSIX_FADV_SEQUENTIAL); without O_DIRECT. */
const readBytes = 256 * 1024;
/** As much as FUSE puts into one write. */
const writeBytes = 1024 * 1024;

const pieces = (sizes: number[], of: number) => sizes.reduce((sum, size) => sum + Math.ceil(size / of), 0);
const total = (sizes: number[]) => sizes.reduce((sum, size) => sum + size, 0);

/** What the source must answer while `files` (their sizes) and `symlinks` are copied. */
function reading(files: number[], symlinks: number): Load {
  return { meta: files.length + symlinks, data: pieces(files, readBytes), bytes: total(files) };
}

/** What it takes to see every name and its attributes. */
function looking({ directories, names, symlinks }: Survey): Load {
  return { meta: 4 * directories + names + symlinks, data: 0, bytes: 0 };
}

function writing({ directories, names, symlinks, sizes }: Survey): Load {
  const meta = 3 * directories + 3 * sizes.length + 3 * symlinks + 2 * (names - sizes.length);
  return { meta, data: pieces(sizes, writeBytes), bytes: total(sizes) };
}

function rewriting(files: number[]): Load {
  return { meta: 2 * files.length, data: pieces(files, writeBytes), bytes: total(files) };
}

const add = (a: Load, b: Load): Load => ({ meta: a.meta + b.meta, data: a.data + b.data, bytes: a.bytes + b.bytes });

/**
 * The requests of one scenario, on either side.
 *
 * @param copied the sizes of the files that differ (changed, purged)
 */
export function leastRequests(tree: Survey, scenario: Scenario, copied: number[] = []): { source: Load; target: Load } {
  const looked = looking(tree);
  switch (scenario) {
    case "cold":
      return { source: add(looked, reading(tree.sizes, tree.symlinks)), target: writing(tree) };
    case "fresh": // that nothing has to be looked at is the point of it
      return { source: { meta: 0, data: 0, bytes: 0 }, target: { meta: 0, data: 0, bytes: 0 } };
    case "unchanged":
      return { source: looked, target: looked };
    case "changed":
    case "purged":
      return { source: add(looked, reading(copied, 0)), target: add(looked, rewriting(copied)) };
  }
}

/** The time that a server needs for a load with all its places busy, in seconds. */
function leastSeconds(load: Load, { metaUs, dataUs, concurrent, mbps }: Server): number {
  const waiting = (load.meta * metaUs + load.data * dataUs) / concurrent / 1e6;
  return Math.max(waiting, mbps > 0 ? load.bytes / (mbps * 1e6) : 0);
}

/** The limit of a scenario in seconds; undefined where no side is slowed, or nothing has to be asked. */
export function limitS(
  tree: Survey,
  scenario: Scenario,
  servers: { source?: Server | undefined; target?: Server | undefined },
  copied: number[] = [],
): number | undefined {
  const { source, target } = leastRequests(tree, scenario, copied);
  const seconds = [
    servers.source ? leastSeconds(source, servers.source) : 0,
    servers.target ? leastSeconds(target, servers.target) : 0,
  ];
  const limit = Math.max(...seconds);
  return limit > 0 ? limit : undefined;
}
