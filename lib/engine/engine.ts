import type { EfError } from "../base/errors.ts";

/** A copy to be made: the contents of `source` into `target`. Both are real paths (no link left) and exist. */
export interface Transfer {
  source: string;
  target: string;
  /** rsync patterns of what is left out. */
  exclude: readonly string[];
  /** An empty directory of our own on the target's file system, for files that are not whole yet. */
  tempDir: string;
  /** A file on scratch that changed after this, in seconds since 1970, is a job's work. 0 if unknown. */
  workSince: number;
  /** Patterns of files that a plan found to be kept. */
  keep: readonly string[];
  /** The held lock, to be inherited by whatever writes: it is free when the last writer is gone, not before. */
  lockFd: number | undefined;
}

/** What a transfer will move: found by comparing both trees, nothing written. */
export interface TransferPlan {
  /** Regular files to be copied, and their sizes in bytes. */
  files: number;
  bytes: number;
  /** Directories, links and files that the target will have more. */
  newInodes: number;
  /** Most bytes that the target needs at any moment on top of what it holds (old and new whole file stand side by side). */
  needBytes: number;
  /** What the user's own rsync arguments (`--delete`) remove from the target. */
  deleted: number;
  /** Names of what changes, relative to the target, as the engine writes them: the first {@link namesKept}. */
  names: string[];
  /** FIFOs, sockets and devices, which are left out. */
  skipped: string[];
  /**
   * Files that a job changed on scratch since the last sync, and the patterns that exclude them from a copy: kept as they
   * are, and not in the counts.
   */
  kept: { name: string; pattern: string }[];
  /** What could not be compared (an unreadable directory): a copy would fail with it. */
  problem?: EfError;
}

/** How many names a plan keeps unless it is asked for all. */
export const namesKept = 20;

export interface TransferProgress {
  bytes: number;
  files: number;
}

export interface TransferReport {
  /** What was copied. */
  files: number;
  bytes: number;
  /** Nothing failed, but a person should know. */
  warnings: string[];
}

export interface CopyOptions {
  signal?: AbortSignal | undefined;
  onProgress?: (progress: TransferProgress) => void;
}

/**
 * What compares and copies trees.
 *
 * `copy` resolves only when the target is whole. When it throws or the process dies, each file that a user can see is its
 * old or its new whole self, and the next `copy` goes on from there.
 */
export interface Engine {
  readonly name: "rsync" | "builtin";
  plan(transfer: Transfer, options: { signal?: AbortSignal | undefined; allNames?: boolean }): Promise<TransferPlan>;
  copy(transfer: Transfer, plan: TransferPlan, options: CopyOptions): Promise<TransferReport>;
}
