/** What a tree takes on its storage, and what it consists of. */
import { type BigIntStats, type Stats, statSync } from "node:fs";
import { bytesOf } from "../base/bytes.ts";
import { reasonOf } from "../base/errors.ts";
import { widenPool } from "../base/stat.ts";
import { mark } from "../base/trace.ts";
import { withinLimit } from "./finding.ts";
import { Gauge } from "./gauge.ts";
import type { Stamps } from "./purge.ts";
import { scan } from "./scan.ts";
import { Storage } from "./storage.ts";
import type { Tree } from "./tree.ts";

export interface Usage {
  /** Allocated, as `du` counts: holes cost nothing, directories cost their own blocks. */
  bytes: number;
  /** Everything that is not a directory; one with several hard links counts once. */
  files: number;
  /** False if the deadline came first, or a directory could not be read: then there is at least this much. */
  complete: boolean;
}

export interface UsageOptions {
  /** When to stop, on the clock of `Date.now()`. @default never */
  deadlineMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface SurveyOptions extends UsageOptions {
  /** Hears the times of each file. */
  onFile?: ((stamps: Stamps) => void) | undefined;
}

export interface Survey {
  usage: Usage;
  /** Its names; undefined if the deadline came first, or it is no directory. */
  tree?: Tree;
}

/** Unit of `st_blocks`, whatever the file system's own block size is (stat(2)). */
const blockBytes = 512;

/**
 * Count a tree, with as many requests in flight as its storage answers.
 *
 * Gives what `du -s --block-size=1 ROOT/` prints: links inside are not followed, `root` itself may be one.
 *
 * @returns undefined if there is nothing at `root`
 * @throws the signal's reason if that aborts
 * @example
 * const { bytes, files } = (await usage("/home/anna/.cache/huggingface")) ?? { bytes: 0, files: 0 };
 */
export async function usage(root: string, options: UsageOptions = {}): Promise<Usage | undefined> {
  return (await survey(root, options))?.usage;
}

/** {@link usage}, and what was seen on the way. Storage that hangs is left behind at the deadline. */
export async function survey(root: string, options: SurveyOptions): Promise<Survey | undefined> {
  const top = statOf(root);
  if (!top) return undefined;
  const total = new Total(options);
  if (!top.isDirectory()) return { usage: total.of(top) };
  const leftMs = (options.deadlineMs ?? Number.POSITIVE_INFINITY) - Date.now();
  if (leftMs <= 0) return { usage: { ...total.of(top), complete: false } };
  const work = async (signal: AbortSignal | undefined) => {
    await widenPool();
    const storage = new Storage(undefined);
    const onEntry = (stat: BigIntStats) => total.add(stat);
    const found = await scan(bytesOf(root), { storage, gauge: new Gauge(), signal, onEntry });
    for (const path of found.temps) {
      signal?.throwIfAborted();
      const stat = await storage.lookUp(`${bytesOf(root)}/${path}`);
      if (stat) total.add(stat);
    }
    return found;
  };
  const { signal } = options;
  try {
    const limited = leftMs < 2 ** 31;
    const { tree, problems } = limited ? await withinLimit(leftMs / 1000, signal, work) : await work(signal);
    return { usage: { ...total.now(), complete: problems.length === 0 }, tree };
  } catch (error) {
    signal?.throwIfAborted();
    mark("usage", { path: root, why: reasonOf(error) });
    return { usage: { ...total.now(), complete: false } };
  }
}

function statOf(root: string): Stats | undefined {
  try {
    return statSync(root, { throwIfNoEntry: false });
  } catch (error) {
    mark("usage", { path: root, why: reasonOf(error) });
    return undefined;
  }
}

class Total {
  readonly #usage: Usage = { bytes: 0, files: 0, complete: true };
  readonly #onFile: SurveyOptions["onFile"];
  /** Files with several names that were counted. */
  readonly #seen = new Set<string>();

  constructor({ onFile }: SurveyOptions) {
    this.#onFile = onFile;
  }

  add(stat: BigIntStats | Stats): void {
    const isDirectory = stat.isDirectory();
    if (!isDirectory && stat.nlink > 1) {
      const inode = `${stat.dev}:${stat.ino}`;
      if (this.#seen.has(inode)) return;
      this.#seen.add(inode);
    }
    this.#usage.bytes += Number(stat.blocks) * blockBytes;
    if (isDirectory) return;
    this.#usage.files++;
    if (!this.#onFile || !stat.isFile()) return;
    const { mtimeMs, atimeMs, ctimeMs } = stat;
    this.#onFile({ mtimeMs: Number(mtimeMs), atimeMs: Number(atimeMs), ctimeMs: Number(ctimeMs) });
  }

  /** With one more. */
  of(stat: Stats): Usage {
    this.add(stat);
    return this.now();
  }

  /** So far: what is still being counted does not change it. */
  now(): Usage {
    return { ...this.#usage };
  }
}
