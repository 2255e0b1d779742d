/** What is shared by those who carry out a comparison: rows and their states, what fails, and work on many rows at once. */
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import type { Steps } from "../base/steps.ts";
import type { Copying } from "./copy-file.ts";
import { crew } from "./crew.ts";
import type { Diff } from "./diff.ts";
import type { Gauge } from "./gauge.ts";
import type { Tree } from "./tree.ts";

/** How far a row is. */
export const State = { open: 0, done: 1, changed: 2, vanished: 3, taken: 4, failed: 5 } as const;

/** The part of a diff that threads share: rows of files, and what has become of them. */
export interface Job {
  source: Tree;
  target: Tree;
  todo: Uint8Array;
  there: Uint32Array;
  /** By row: {@link State}. */
  state: Uint8Array;
  /** Rows that get the time of arrival. */
  arrival: Uint8Array | undefined;
  /** Rows that had changed, and were looked at once more. */
  anew?: Set<number>;
}

/** Something that could not be brought. */
export interface Failure {
  path: ByteString;
  error: unknown;
}

/** With these there is no sense in going on (open(2), write(2), close(2), fsync(2)). */
export const fatal = new Set(["ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE"]);
/** So many failures are enough to know that there is something wrong with the whole. */
const mostFailures = 1000;

/** What carrying out a diff needs besides the two roots. */
export interface Carrying {
  gauge: Gauge;
  signal: AbortSignal | undefined;
  /** Rows that get the time of arrival. */
  arrival: Uint8Array | undefined;
  /** What the directories of the target take from its root. */
  directories: DirectoryRules;
  /** Bring the files: alone, or with threads. */
  files: (job: Job, failures: Failure[]) => Promise<void>;
  /** Set times and modes of directories, where not as {@link finishDirectories} does. */
  finish?: ((diff: Diff, cx: Copying, carrying: Carrying, failures: Failure[]) => Promise<number>) | undefined;
}

export interface DirectoryRules {
  /** Do new directories carry the set-group-id bit? */
  setgid: boolean;
  /** May the group write to them? */
  groupWritable: boolean;
}

/** Run `work` on each row, many at once; what fails is listed, what ends the whole is thrown. */
export function each(
  rows: Iterable<number>,
  work: (row: number) => Steps<void>,
  pathOf: (row: number) => ByteString,
  { gauge, signal }: Pick<Carrying, "gauge" | "signal">,
  failures: Failure[],
): Promise<void> {
  const all = rows[Symbol.iterator]();
  function* attempt(row: number): Steps<void> {
    try {
      yield* work(row);
    } catch (error) {
      if (fatal.has(errnoOf(error) ?? "")) throw Object.assign(error as Error, { row: pathOf(row) });
      failures.push({ path: pathOf(row), error });
      if (failures.length > mostFailures) throw error;
    }
  }
  return crew(() => all.next().value as number | undefined, attempt, { gauge, signal });
}
