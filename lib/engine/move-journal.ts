/**
 * How far a move has come: a small file beside the configuration, so that the same command goes on after any
 * interruption, and a list of what was verified, which is all that may be deleted.
 *
 * The configuration itself says whether the new place is in use. Before that, going on means to compare and copy again:
 * what is at the new place is ours, as it was empty when the journal was made. After that, only deleting is left.
 */
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as v from "valibot";
import type { ByteString } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { randomId, readOwn, removeIfThere, writeAtomic } from "../base/files.ts";
import type { Move } from "./move-checks.ts";
import { partName } from "./names.ts";
import type { Scan } from "./scan.ts";
import type { Kind } from "./tree.ts";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const Journal = v.object({
  version: v.literal(1),
  /** As the configuration said it, and without links. */
  old_path: v.string(),
  old_real: v.string(),
  new_path: v.string(),
  new_real: v.string(),
  /** Names the file in the new directory that says that it is ours: another directory of that name is not. */
  claim: v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/)),
  /** As the configuration says it, or will. */
  to: v.string(),
  /** Permissions that the new directory is to have in the end, where we made it. */
  mode: v.optional(count),
  /** Entries in the list of what was verified; absent before. */
  verified: v.optional(count),
});
export type Journal = v.InferOutput<typeof Journal>;

/** The files of one move. */
export interface JournalFiles {
  journal: string;
  /** What was verified. */
  list: string;
  lock: string;
}

/** @param configFile without links */
export function journalFiles(configFile: string, what: string): JournalFiles {
  const start = `${configFile}.migrate-${what}`;
  return { journal: start, list: `${start}.list`, lock: `${start}.lock` };
}

/** @returns undefined where there is none that can be read */
export function readJournal({ journal }: JournalFiles): Journal | undefined {
  const text = readOwn(journal, 1 << 20)?.toString("utf8");
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), Journal), text);
  return parsed.success ? parsed.output : undefined;
}

export function writeJournal({ journal }: JournalFiles, content: Journal): void {
  write(journal, `${JSON.stringify(content, null, 2)}\n`);
}

/** @throws {EfError} NO_SPACE, IO: it lies beside the configuration, and that place may be full too */
function write(path: string, content: string | Uint8Array): void {
  try {
    writeAtomic(path, content, 0o600);
  } catch (error) {
    const isFull = ["ENOSPC", "EDQUOT"].includes(errnoOf(error) ?? "");
    throw new EfError(isFull ? "NO_SPACE" : "IO", `Cannot write ${path}: ${reasonOf(error)}`, { path, cause: error });
  }
}

export function removeJournal({ journal, list }: JournalFiles): void {
  removeIfThere(list);
  removeIfThere(journal);
}

/**
 * Where a file in the new directory says that it is the one that we fill, until the move has come to its end: a directory
 * of the same name where a file system is not mounted has none. Its name is one that a scan passes over.
 */
export const claimOf = ({ new_real, claim }: Pick<Journal, "new_real" | "claim">): string =>
  join(new_real, partName(claim));

/** Is the new directory still the one that we filled? @throws {EfError} IO if not */
export function assertOurs(journal: Journal): void {
  if (existsSync(claimOf(journal))) return;
  const path = journal.new_path;
  const hint = "is its file system still mounted? look there, then run it again";
  throw new EfError("IO", `Cannot move to ${path}: it is not the directory any more that was filled`, { hint, path });
}

/** What says that an entry is what was verified: contents of the same size and time. Directories only have a name. */
export interface Facts {
  kind: Kind;
  size: number;
  mtimeNs: bigint;
  /** Of a symbolic link. */
  text?: ByteString | undefined;
}

/** 64 bits of a hash for each entry that was verified, in order: small enough to be kept beside the configuration. */
export class Verified {
  private constructor(private readonly numbers: BigUint64Array) {}

  /** @param temps what of the tree is in no row, with its facts */
  static of({ tree }: Scan, temps: readonly (readonly [ByteString, Facts])[]): Verified {
    const numbers: bigint[] = [];
    for (let row = 1; row < tree.length; row++) {
      const kind = tree.kind(row);
      if (kind === "gone") continue;
      const facts = { kind, size: tree.size[row] as number, mtimeNs: tree.mtime[row] as bigint };
      numbers.push(numberOf(tree.path(row), { ...facts, text: tree.links.get(row) }));
    }
    for (const [path, facts] of temps) numbers.push(numberOf(path, facts));
    return new Verified(BigUint64Array.from(numbers).sort());
  }

  /** @returns undefined if it is not the list that the journal speaks of */
  static read({ list }: JournalFiles, { verified }: Journal): Verified | undefined {
    if (verified === undefined) return undefined;
    const bytes = readOwn(list, 8 * verified);
    if (bytes?.length !== 8 * verified) return undefined;
    return new Verified(new BigUint64Array(Uint8Array.from(bytes).buffer));
  }

  write({ list }: JournalFiles): void {
    const { buffer, byteOffset, byteLength } = this.numbers;
    write(list, new Uint8Array(buffer, byteOffset, byteLength));
  }

  get count(): number {
    return this.numbers.length;
  }

  has(path: ByteString, facts: Facts): boolean {
    const wanted = numberOf(path, facts);
    let [from, to] = [0, this.numbers.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if ((this.numbers[middle] as bigint) < wanted) from = middle + 1;
      else to = middle;
    }
    return this.numbers[from] === wanted;
  }

  /** Does another look at the tree find the same entries? */
  equals(other: Verified): boolean {
    return this.count === other.count && this.numbers.every((each, i) => each === other.numbers[i]);
  }
}

function numberOf(path: ByteString, { kind, size, mtimeNs, text = "" }: Facts): bigint {
  const what = kind === "file" ? `${size} ${mtimeNs}` : kind === "link" ? text : "";
  const hash = createHash("sha256").update(`${kind}\0${path}\0${what}`, "latin1");
  return hash.digest().readBigUInt64LE(0);
}

/**
 * Make the new directory, as open as the old one, and say in it and in the journal that it is ours.
 *
 * @param before the journal of an earlier run of this move
 */
export function beginMove(
  files: JournalFiles,
  { from, fromReal, to: newPath, toReal }: Pick<Move, "from" | "fromReal" | "to" | "toReal">,
  to: string,
  before?: Journal,
): Journal {
  const claim = before?.claim ?? randomId();
  const journal: Journal = {
    ...{ version: 1, old_path: from, old_real: fromReal, new_path: newPath, new_real: toReal, to, claim },
    ...(before?.mode === undefined ? {} : { mode: before.mode }),
  };
  try {
    if (!existsSync(toReal)) {
      mkdirSync(dirname(toReal), { recursive: true });
      mkdirSync(toReal, { mode: 0o700 });
      const setgid = statSync(toReal).mode & 0o2000;
      journal.mode = (statSync(fromReal).mode & 0o7777) | setgid;
      chmodSync(toReal, journal.mode | 0o700); // until the end there is something to write
    }
    writeJournal(files, journal); // first: an empty directory needs no claim
    writeFileSync(claimOf(journal), `ef migrate brings here what is in ${from}; see ${files.journal}\n`);
  } catch (error) {
    if (error instanceof EfError) throw error;
    const message = `Cannot begin to move to ${newPath}: ${reasonOf(error)}`;
    throw new EfError("IO", message, { path: newPath, cause: error });
  }
  return journal;
}
