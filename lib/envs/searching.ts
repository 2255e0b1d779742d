/** Which files of an environment name a place: all of them are read, many at a time where the storage is slow. */
import { constants } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { widenPool } from "../base/stat.ts";
import { get, type Steps } from "../base/steps.ts";
import { looks } from "../drivers/statx.ts";
import { crew } from "../engine/crew.ts";
import { Gauge } from "../engine/gauge.ts";
import { scan } from "../engine/scan.ts";
import { Storage } from "../engine/storage.ts";

const chunkBytes = 1 << 20;

/**
 * What a file holds, at the least, that names a place in whatever quotes: the longest part of the path that looks the same
 * in all of them.
 *
 * @param places absolute directories
 */
export function searchTerms(places: readonly ByteString[]): Uint8Array[] {
  return places.map((place) => {
    const parts = place.split(/[^A-Za-z0-9._/-]+/);
    const longest = parts.reduce((a, b) => (b.length > a.length ? b : a));
    return Buffer.from(longest.length < 3 ? place : longest, "latin1");
  });
}

export interface Searched {
  /** Files with one of the terms, in byte order. */
  files: ByteString[];
  /** Symbolic links and what they say. */
  links: [path: ByteString, text: ByteString][];
  problems: { path: ByteString; error: unknown }[];
}

/** @throws the root cannot be read; the signal's reason */
export async function search(
  root: ByteString,
  terms: readonly Uint8Array[],
  signal: AbortSignal | undefined,
): Promise<Searched> {
  await widenPool();
  const storage = new Storage(undefined, await looks());
  const { tree, problems } = await scan(root, { storage, gauge: new Gauge(), signal });
  const files: ByteString[] = [];
  const overlap = Math.max(0, ...terms.map((term) => term.length - 1));
  const buffers: Buffer[] = [];

  /** Piece by piece; each begins with the end of the one before, where a term may have begun. */
  function* hasTerm(fd: number, size: number): Steps<boolean> {
    const buffer = buffers.pop() ?? Buffer.allocUnsafeSlow(chunkBytes + overlap);
    try {
      for (let at = 0, kept = 0; at < size; ) {
        signal?.throwIfAborted();
        const read = yield* get(storage.read(fd, buffer, kept, Math.min(chunkBytes, size - at), at));
        if (read === 0) return false;
        const bytes = buffer.subarray(0, kept + read);
        if (terms.some((term) => bytes.includes(term))) return true;
        at += read;
        kept = Math.min(overlap, bytes.length);
        buffer.copyWithin(0, bytes.length - kept, bytes.length);
      }
      return false;
    } finally {
      buffers.push(buffer);
    }
  }

  function* read(row: number): Steps<void> {
    const path = tree.path(row);
    try {
      const fd = yield* openUntouched(storage, `${root}/${path}`);
      try {
        if (yield* hasTerm(fd, tree.size[row] as number)) files.push(path);
      } finally {
        yield* get(storage.close(fd));
      }
    } catch (error) {
      if (signal?.aborted) throw error;
      problems.push({ path, error });
    }
  }

  let next = 1;
  const rows = () => {
    while (next < tree.length) {
      const row = next++;
      if (tree.kind(row) === "file" && (tree.size[row] as number) > 0) return row;
    }
    return undefined;
  };
  await crew(rows, read, { gauge: new Gauge(), signal });
  const links = [...tree.links].map(([row, text]): [ByteString, ByteString] => [tree.path(row), text]);
  return { files: files.sort(), links, problems };
}

/** Without a new access time, by which some sites purge: only the owner may do so (open(2), O_NOATIME). */
function* openUntouched(storage: Storage, path: ByteString): Steps<number> {
  try {
    return yield* get(storage.open(path, constants.O_RDONLY | (constants.O_NOATIME ?? 0)));
  } catch (error) {
    if (errnoOf(error) !== "EPERM") throw error;
    return yield* get(storage.open(path, constants.O_RDONLY));
  }
}
