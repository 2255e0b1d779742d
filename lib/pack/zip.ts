/**
 * Zip archives of which every byte follows from what is in them: one fixed time, no owner, no extra fields.
 *
 * The compressor is JavaScript of a pinned version, so no runtime's zlib has a say. What is compressed is let go before the next file
 * is read, so there is one copy of it all in memory, the packed one.
 *
 * @see https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
 */
import { deflateSync } from "fflate";
import { crc32 } from "../base/crc.ts";

/** Without zip64: 2^32 bytes and 2^16 - 1 entries; Python of 32 bits reads half of it. */
export const mostBytes = 2 ** 31 - 2 ** 20;
export const mostEntries = 65_000;

/** Larger files are weights, images, archives: compressing them takes long and gains nothing. In bytes. */
const storedFromBytes = 16 << 20;

/** A file as it will be in the archive. */
export interface ZipEntry {
  path: string;
  executable: boolean;
  packed: Uint8Array;
  isDeflated: boolean;
  sizeBytes: number;
  crc: number;
}

/** Compress a file, where that makes it smaller. */
export function zipEntry(path: string, content: Uint8Array, executable: boolean): ZipEntry {
  const deflated = content.length < storedFromBytes ? deflateSync(content, { level: 6 }) : content;
  const isDeflated = deflated.length < content.length;
  const packed = isDeflated ? deflated : content;
  return { path, executable, packed, isDeflated, sizeBytes: content.length, crc: crc32(content) };
}

/** The whole archive, in pieces. @param entries in the order in which they will be there */
export function zipArchive(entries: readonly ZipEntry[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let at = 0;
  for (const entry of entries) {
    const name = Buffer.from(entry.path);
    const facts = factsOf(entry, name);
    pieces.push(Buffer.concat([uint32(0x04034b50), facts, name]), entry.packed);
    directory.push(Buffer.concat([uint32(0x02014b50), uint16(madeByUnix), facts, attributes(entry, at), name]));
    at += 30 + name.length + entry.packed.length;
  }
  const listing = Buffer.concat(directory);
  const count = uint16(entries.length);
  const end = [uint32(0x06054b50), uint32(0), count, count, uint32(listing.length), uint32(at), uint16(0)];
  return [...pieces, listing, Buffer.concat(end)];
}

const madeByUnix = (3 << 8) | 20;
/** 1980-01-01, the first day that zip knows, at midnight. */
const [date, time] = [(1 << 5) | 1, 0];
const namesAreUtf8 = 1 << 11;

/** What stands before the data and in the listing alike. */
function factsOf({ packed, isDeflated, sizeBytes, crc }: ZipEntry, name: Uint8Array): Buffer {
  return Buffer.concat([
    ...[uint16(20), uint16(namesAreUtf8), uint16(isDeflated ? 8 : 0), uint16(time), uint16(date)],
    ...[uint32(crc), uint32(packed.length), uint32(sizeBytes), uint16(name.length), uint16(0)],
  ]);
}

/** A regular file with its mode, and where it begins. */
function attributes({ executable }: ZipEntry, at: number): Buffer {
  const mode = 0o100000 | (executable ? 0o755 : 0o644);
  return Buffer.concat([uint16(0), uint16(0), uint16(0), uint32(mode * 2 ** 16), uint32(at)]);
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}
