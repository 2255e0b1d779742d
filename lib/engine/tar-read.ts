/**
 * The entries of a tar archive that comes in pieces. What is no plain tree of files, directories and links, or not as
 * it must be, throws {@link Malformed}: nothing is guessed, as another program might guess otherwise.
 */
import type { ByteString } from "../base/bytes.ts";
import {
  blockBytes,
  decodeHeader,
  decodePax,
  isZero,
  Malformed,
  paddingOf,
  type RawHeader,
  type TarEntry,
  type TarType,
} from "./tar-format.ts";

/** An entry, or a part of it: contents of more than {@link wholeBytes} come in several parts. */
export interface TarPart {
  entry: TarEntry;
  /** Contents from `at` on; they stay as they are. */
  bytes: Uint8Array;
  at: number;
}

/** Contents up to this size come whole. */
const wholeBytes = 1 << 20;
/** A pax header or a long name of more than this is no name. */
const mostHeaderBytes = 1 << 20;
/** Times of a file that are none: some ten thousand years. */
const mostSeconds = 2 ** 38;

/** By type flag; NUL is that of version 7. */
const types: Record<string, TarType> = {
  "\0": "file",
  "0": "file",
  "1": "hardlink",
  "2": "link",
  "5": "dir",
};

const refused: Record<string, string> = {
  "3": "is a character device",
  "4": "is a block device",
  "6": "is a FIFO",
  "7": "is a contiguous file, which is not supported",
  D: "is a directory of an incremental archive, which is not supported",
  M: "goes on from another volume, which is not supported",
  N: "has a name in an old form, which is not supported",
  S: "is a sparse file in an old form, which is not supported",
  V: "is a volume label, which is not supported",
};

/** Give it pieces with {@link TarReader.feed}, and after each take what {@link TarReader.next} has. */
export class TarReader {
  #piece: Buffer = Buffer.alloc(0);
  #at = 0;
  #isOver = false;
  readonly #parts = this.#read();
  /** The entry that is being read, for messages. */
  path: ByteString | undefined;

  /** @param piece must stay as it is */
  feed(piece: Uint8Array): void {
    this.#piece = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
    this.#at = 0;
  }

  /**
   * The next part; undefined when another piece is needed for it.
   *
   * @throws {Malformed}
   */
  next(): TarPart | undefined {
    const part = this.#isOver ? undefined : this.#parts.next().value;
    if (!this.#isOver) return part ?? undefined;
    if (!isZero(this.#piece.subarray(this.#at))) throw new Malformed("something follows after its end");
    this.#at = this.#piece.length;
    return undefined;
  }

  /**
   * To be called when there are no more pieces.
   *
   * @throws {Malformed} where the archive has no end
   */
  finish(): void {
    if (!this.#isOver) throw new Malformed("it is cut off");
  }

  *#read(): Generator<TarPart | undefined, undefined> {
    const global = new Map<string, ByteString>();
    let pax: Map<string, ByteString> | undefined;
    let longName: ByteString | undefined;
    let longLink: ByteString | undefined;
    for (;;) {
      this.path = undefined;
      const raw = decodeHeader(yield* this.#take(blockBytes));
      if (!raw) {
        if (pax || longName !== undefined || longLink !== undefined) throw new Malformed("a header stands alone");
        if (!isZero(yield* this.#take(blockBytes))) throw new Malformed("a block of zeros stands alone");
        this.#isOver = true;
        return undefined;
      }
      this.path = raw.name;
      switch (raw.flag) {
        case "x":
        case "X": // Solaris, before the standard
          pax ??= new Map(global);
          decodePax(yield* this.#text(raw), pax);
          continue;
        case "g":
          decodePax(yield* this.#text(raw), global);
          continue;
        case "L":
          longName = cString(yield* this.#text(raw));
          continue;
        case "K":
          longLink = cString(yield* this.#text(raw));
          continue;
      }
      if (longName !== undefined) raw.name = longName;
      if (longLink !== undefined) raw.link = longLink;
      const records = pax ?? (global.size > 0 ? global : undefined);
      if (records) override(raw, records);
      this.path = raw.name;
      const entry = entryOf(raw);
      yield* this.#contents(entry);
      yield* this.#skip(paddingOf(entry.size));
      pax = longName = longLink = undefined;
    }
  }

  *#contents(entry: TarEntry): Generator<TarPart | undefined, void> {
    if (entry.size <= wholeBytes) {
      yield { entry, bytes: yield* this.#take(entry.size), at: 0 };
      return;
    }
    for (let at = 0; at < entry.size; ) {
      while (this.#at === this.#piece.length) yield undefined;
      const to = Math.min(this.#piece.length, this.#at + entry.size - at);
      const bytes = this.#piece.subarray(this.#at, to);
      this.#at = to;
      yield { entry, bytes, at };
      at += bytes.length;
    }
  }

  *#text(raw: RawHeader): Generator<TarPart | undefined, Buffer> {
    if (raw.size > mostHeaderBytes) throw new Malformed("a header is too long");
    const bytes = yield* this.#take(raw.size);
    yield* this.#skip(paddingOf(raw.size));
    return bytes;
  }

  *#skip(length: number): Generator<TarPart | undefined, void> {
    for (let left = length; left > 0; ) {
      while (this.#at === this.#piece.length) yield undefined;
      const here = Math.min(left, this.#piece.length - this.#at);
      this.#at += here;
      left -= here;
    }
  }

  /** The next bytes, in one; they are copied only where they come in several pieces. */
  *#take(length: number): Generator<TarPart | undefined, Buffer> {
    if (this.#at + length <= this.#piece.length) {
      this.#at += length;
      return this.#piece.subarray(this.#at - length, this.#at);
    }
    const bytes = Buffer.allocUnsafe(length);
    for (let have = 0; have < length; ) {
      while (this.#at === this.#piece.length) yield undefined;
      const copied = this.#piece.copy(bytes, have, this.#at);
      this.#at += copied;
      have += copied;
    }
    return bytes;
  }
}

/** A name with a zero byte at its end. */
const cString = (bytes: Buffer): ByteString => bytes.toString("latin1").replace(/\0+$/, "");

/** What pax records say instead of a header. */
function override(raw: RawHeader, records: Map<string, ByteString>): void {
  for (const key of records.keys())
    if (key.startsWith("GNU.sparse.")) throw new Malformed("is a sparse file of GNU tar, which is not supported");
  raw.name = records.get("path") ?? raw.name;
  raw.link = records.get("linkpath") ?? raw.link;
  const bytes = records.get("size");
  if (bytes !== undefined) {
    raw.size = Number(bytes);
    if (!/^\d+$/.test(bytes) || !Number.isSafeInteger(raw.size)) throw new Malformed("a pax record has no good size");
  }
  const seconds = records.get("mtime");
  if (seconds !== undefined) {
    raw.mtimeS = wholeSeconds(seconds);
  }
}

/** Rounded down; Python writes exponents for times near 1970. */
function wholeSeconds(text: string): number {
  const [, sign, whole, fraction = "", exponent] = /^(-?)(\d+)(?:\.(\d*))?(e[-+]\d+)?$/.exec(text) ?? [];
  if (whole === undefined) throw new Malformed("a pax record has no good time");
  if (exponent !== undefined) return Math.floor(Number(text));
  const seconds = Number(whole); // not of all of it: .999999999 would be rounded up
  return sign === "" ? seconds : -seconds - (/[1-9]/.test(fraction) ? 1 : 0);
}

function entryOf({ name, mode, size, mtimeS, flag, link }: RawHeader): TarEntry {
  let type = types[flag];
  if (!type) throw new Malformed(refused[flag] ?? `has the unknown type ${JSON.stringify(flag)}`);
  // The archives of Unix version 7 had no type for directories.
  if (type === "file" && size === 0 && name.endsWith("/")) type = "dir";
  if (type !== "file" && size !== 0) throw new Malformed("has a size, and is no file");
  if (!(Math.abs(mtimeS) <= mostSeconds)) throw new Malformed("has no good time");
  return { type, path: name, mode, size, mtimeS, link };
}
