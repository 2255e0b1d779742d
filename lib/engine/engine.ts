import type { ByteString } from "../base/bytes.ts";
import type { EfError } from "../base/errors.ts";
import type { Diff, Past } from "./diff.ts";
import type { Scan, Trust } from "./scan.ts";
import type { Storage } from "./storage.ts";

/** A copy to be made: the contents of `source` into `target`. Both are real paths (no link left) and exist. */
export interface Transfer {
  source: string;
  target: string;
  /** rsync patterns of what is left out. */
  exclude: readonly string[];
  /** What is known of earlier syncs. */
  past: Past;
  /** Delete on scratch what the source deleted and ef had put there. */
  mirror: boolean;
  /** Without a base: a file on scratch that changed after this, in seconds since 1970, is a job's work. 0 if unknown. */
  workSince: number;
  /** The time that files get which take the time of their arrival, in nanoseconds since 1970; undefined for the source's. */
  arrivalNs: bigint | undefined;
  /** Directories that changed since the last sync, where all others are known to be as they were. */
  changed?: ReadonlySet<ByteString> | undefined;
  /** The held lock, to be inherited by whatever writes: it is free when the last writer is gone, not before. */
  lockFd: number | undefined;
  /** {@link tempDirFor}'s prefix, beside the target, for an engine that needs such a directory. */
  tempPrefix?: string;
}

/** What a transfer will move: found by comparing both trees, nothing written. */
export interface TransferPlan {
  /** Regular files to be copied, and their sizes in bytes. */
  files: number;
  bytes: number;
  /** Names that become hard links to other files of the tree. */
  links: number;
  /** Symbolic links that are made, or made anew. */
  symlinks: number;
  /** Files of which only the permissions change. */
  attributes: number;
  /** Directories, links and files that the target will have more. */
  newInodes: number;
  /** Most bytes that the target needs at any moment on top of what it holds (old and new whole file stand side by side). */
  needBytes: number;
  /** What is removed from the target: by `mirror`, or by the user's own rsync arguments (`--delete`). */
  deleted: number;
  /** Files that ef had put there and that are gone from scratch; they are among those to be copied. */
  purged: number;
  /** Names of what changes, relative to the target: the first {@link namesKept}. */
  names: string[];
  /** FIFOs, sockets and devices, which are left out. */
  skipped: string[];
  /** Files that a job changed on scratch since the last sync: kept as they are, and not in the counts. */
  kept: string[];
  /** What of another type stands in the way on scratch, and is not ef's. */
  blocked: string[];
  /** What could not be compared (an unreadable directory): a copy would fail with it. */
  problem?: EfError;
}

/** How many names a plan keeps unless it is asked for all. */
export const namesKept = 20;

export interface Sides {
  source: Storage;
  target: Storage;
  /** Requests in flight on each side, and threads. */
  workers: number | "auto";
}

/** Both trees side by side. */
export interface Comparison {
  plan: TransferPlan;
  diff: Diff;
  source: Scan;
  target: Scan;
  /** Was all of both trees looked at, not only what changed? */
  isWhole: boolean;
  /** What was learnt of both storages. */
  sides: Sides;
}

export interface TransferProgress {
  bytes: number;
  files: number;
}

export interface TransferReport {
  /** What is known of the target, as it was just written. */
  trust?: Trust;
  /** Nothing had to be done, not even to a time: the comparison still holds. */
  isAsIs?: boolean;
  /** Nothing failed, but a person should know. */
  warnings: string[];
}

/** How far a comparison is. */
export interface Looked {
  /** Entries of both trees that were looked at, as far as this thread does it. */
  entries: number;
  /** Bytes whose contents were compared. */
  bytes: number;
}

export interface CompareOptions {
  signal?: AbortSignal | undefined;
  allNames?: boolean;
  /** What an earlier comparison learnt of both storages. */
  sides?: Sides | undefined;
  /** An earlier look at the source that still counts. */
  source?: Scan;
  /** What of the target need not be looked at, if it is there. */
  trust?: Trust | undefined;
  /** Hears how far it is. */
  onLook?: ((looked: Looked) => void) | undefined;
}

export interface CopyOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: TransferProgress) => void) | undefined;
}

/**
 * What compares and copies trees.
 *
 * `copy` resolves when all that the comparison found is done. When it throws or the process dies, each file that a user
 * can see is its old or its new whole self, and the next `copy` goes on from there.
 */
export interface Engine {
  readonly name: "rsync" | "builtin";
  compare(transfer: Transfer, options: CompareOptions): Promise<Comparison>;
  copy(transfer: Transfer, comparison: Comparison, options: CopyOptions): Promise<TransferReport>;
}
