/**
 * Headers of tar archives, bytes in and bytes out: written as POSIX ustar with pax records where ustar cannot hold
 * something; read as ustar, pax, GNU and v7.
 *
 * @see https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html (ustar Interchange Format, pax Header Block)
 * @see https://www.gnu.org/software/tar/manual/html_node/Standard.html
 */
import type { ByteString } from "../base/bytes.ts";

export const blockBytes = 512;

/** A hard link names an earlier file of the archive. */
export type TarType = "file" | "dir" | "link" | "hardlink";

export interface TarEntry {
  type: TarType;
  path: ByteString;
  /** Permission bits. */
  mode: number;
  /** Bytes of contents that follow; 0 for all but files. */
  size: number;
  /** Seconds since 1970. */
  mtimeS: number;
  /** Where a link points; empty for others. */
  link: ByteString;
}

/** A header as it stands in its block. */
export interface RawHeader {
  /** With the prefix. */
  name: ByteString;
  mode: number;
  size: number;
  mtimeS: number;
  /** The type flag, one character. */
  flag: string;
  link: ByteString;
}

/** What of an archive is not as it must be. */
export class Malformed extends Error {
  /** @param entry which one it is, where that is not the one being read */
  constructor(
    message: string,
    readonly entry?: ByteString,
  ) {
    super(message);
  }
}

const flags: Record<TarType, string> = { file: "0", hardlink: "1", link: "2", dir: "5" };

// Fields of a header: where they begin, and how long they are.
const name = { at: 0, length: 100 } as const;
const mode = { at: 100, length: 8 } as const;
const owner = { at: 108, length: 8 } as const;
const group = { at: 116, length: 8 } as const;
const size = { at: 124, length: 12 } as const;
const mtime = { at: 136, length: 12 } as const;
const checksum = { at: 148, length: 8 } as const;
const flagAt = 156;
const link = { at: 157, length: 100 } as const;
const magicAt = 257;
const prefix = { at: 345, length: 155 } as const;

interface Field {
  at: number;
  length: number;
}

/** The largest number that 11 octal digits hold: 8 GiB less one byte, or the year 2242. */
const mostOctal = 8 ** 11 - 1;

/** How many zero bytes follow contents, up to the next whole block. */
export const paddingOf = (bytes: number): number => (blockBytes - (bytes % blockBytes)) % blockBytes;

/**
 * The blocks that go before the contents of an entry: its header, and a pax header before that where it is needed. Of an
 * entry, nothing else comes in: no owner, no time of day.
 */
export function encodeHeader(entry: TarEntry): Buffer {
  const path = entry.type === "dir" ? `${entry.path}/` : entry.path;
  const records: [key: string, value: ByteString][] = [];
  const place = split(path);
  const isWide = !place || isText(path);
  if (isWide) records.push(["path", path]);
  if (entry.link.length > link.length || isText(entry.link)) records.push(["linkpath", entry.link]);
  if (entry.size > mostOctal) records.push(["size", String(entry.size)]);
  const isLongTime = entry.mtimeS < 0 || entry.mtimeS > mostOctal;
  if (isLongTime) records.push(["mtime", String(entry.mtimeS)]);

  const plain: Plain = {
    flag: flags[entry.type],
    ...(place && !isWide ? place : { name: path.slice(0, name.length), prefix: "" }),
    mode: entry.mode & 0o7777,
    size: entry.size > mostOctal ? 0 : entry.size,
    mtimeS: isLongTime ? 0 : entry.mtimeS,
    link: entry.link.slice(0, link.length),
  };
  if (records.length === 0) return block(plain);
  // By the standard values are UTF-8 unless it is said that they are bytes.
  if (records.some(([, value]) => !isUtf8(value))) records.unshift(["hdrcharset", "BINARY"]);
  const text = Buffer.from(records.map(record).join(""), "latin1");
  const short = `PaxHeaders/${entry.path.slice(entry.path.lastIndexOf("/") + 1)}`.slice(0, name.length);
  const head = block({ ...plain, flag: "x", name: short, prefix: "", mode: 0o644, size: text.length, link: "" });
  return Buffer.concat([head, text, Buffer.alloc(paddingOf(text.length)), block(plain)]);
}

/** How an archive ends: two blocks of zeros, and more up to a whole record of 20 blocks, as other programs write. */
export function encodeEnd(bytesBefore: number): Buffer {
  const record = 20 * blockBytes;
  const most = 2 * blockBytes;
  return Buffer.alloc(most + ((record - ((bytesBefore + most) % record)) % record));
}

/** Does a name need a pax record because of its bytes: UTF-8 that is not ASCII? Other bytes go as they are. */
const isText = (text: ByteString) => /[\x80-\xff]/.test(text) && isUtf8(text);

const decoder = new TextDecoder("utf-8", { fatal: true });
function isUtf8(text: ByteString): boolean {
  try {
    decoder.decode(Buffer.from(text, "latin1"));
    return true;
  } catch {
    return false;
  }
}

/** A path as name and prefix, cut at a slash; undefined where it is too long for that. */
function split(path: ByteString): { name: ByteString; prefix: ByteString } | undefined {
  if (path.length <= name.length) return { name: path, prefix: "" };
  // Not the slash at the end of a directory: a name must be left.
  const at = path.indexOf("/", path.length - name.length - 1);
  if (at < 1 || at > prefix.length || at >= path.length - 1) return undefined;
  return { name: path.slice(at + 1), prefix: path.slice(0, at) };
}

/** `LENGTH KEY=VALUE\n`, where the length counts its own digits. */
function record([key, value]: [string, ByteString]): ByteString {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}

interface Plain extends RawHeader {
  prefix: ByteString;
}

function block(header: Plain): Buffer {
  const bytes = Buffer.alloc(blockBytes);
  const octal = (value: number, { at, length }: Field) =>
    void bytes.write(value.toString(8).padStart(length - 1, "0"), at, length - 1, "latin1");
  bytes.write(header.name, name.at, name.length, "latin1");
  octal(header.mode, mode);
  octal(0, owner);
  octal(0, group);
  octal(header.size, size);
  octal(header.mtimeS, mtime);
  bytes.write(header.flag, flagAt, 1, "latin1");
  bytes.write(header.link, link.at, link.length, "latin1");
  bytes.write("ustar\x0000", magicAt, 8, "latin1");
  bytes.write(header.prefix, prefix.at, prefix.length, "latin1");
  bytes.write(`${sums(bytes).unsigned.toString(8).padStart(6, "0")}\0 `, checksum.at, checksum.length, "latin1");
  return bytes;
}

/** Sums of all bytes of a header, with its checksum field as spaces; some old programs took bytes as signed. */
function sums(bytes: Buffer): { unsigned: number; signed: number } {
  let unsigned = 0;
  let high = 0;
  for (let i = 0; i < blockBytes; i++) {
    const byte = bytes[i] as number;
    unsigned += byte;
    if (byte > 127) high++;
  }
  for (let i = checksum.at; i < checksum.at + checksum.length; i++) {
    const byte = bytes[i] as number;
    unsigned += 32 - byte;
    if (byte > 127) high--;
  }
  return { unsigned, signed: unsigned - 256 * high };
}

/**
 * Read the header in a block.
 *
 * @returns undefined for a block of zeros
 * @throws {Malformed}
 */
export function decodeHeader(bytes: Buffer): RawHeader | undefined {
  if (bytes[0] === 0 && isZero(bytes)) return undefined;
  const sum = numberIn(bytes, checksum, "checksum");
  const { unsigned, signed } = sums(bytes);
  if (sum !== unsigned && sum !== signed) throw new Malformed("a header's checksum does not match");
  const isPosix = bytes[magicAt + 5] === 0 && bytes.toString("latin1", magicAt, magicAt + 5) === "ustar";
  const before = isPosix && bytes[prefix.at] !== 0 ? `${textIn(bytes, prefix)}/` : "";
  const found = {
    name: before + textIn(bytes, name),
    mode: numberIn(bytes, mode, "mode"),
    size: numberIn(bytes, size, "size"),
    mtimeS: numberIn(bytes, mtime, "time"),
    flag: String.fromCharCode(bytes[flagAt] as number),
    link: textIn(bytes, link),
  };
  if (found.size < 0) throw new Malformed("a size is negative");
  return found;
}

const zeros = Buffer.alloc(1 << 16);

export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const length = Math.min(zeros.length, bytes.length - at);
    if (zeros.compare(bytes, at, at + length, 0, length) !== 0) return false;
  }
  return true;
}

/** Up to the first zero byte. */
function textIn(bytes: Buffer, { at, length }: Field): ByteString {
  if (bytes[at] === 0) return "";
  const end = bytes.indexOf(0, at);
  return bytes.toString("latin1", at, end === -1 || end > at + length ? at + length : end);
}

/** Octal digits, or base 256 with its first bit set (GNU); empty for zero. */
function numberIn(bytes: Buffer, { at, length }: Field, what: string): number {
  const first = bytes[at] as number;
  if (first & 0x80) return base256(bytes, at, length, what);
  let value = 0;
  let i = at;
  while (i < at + length && bytes[i] === 0x20) i++;
  for (; i < at + length; i++) {
    const digit = (bytes[i] as number) - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit;
  }
  for (; i < at + length; i++)
    if (bytes[i] !== 0 && bytes[i] !== 0x20) throw new Malformed(`a ${what} in a header is no number`);
  return value;
}

function base256(bytes: Buffer, at: number, length: number, what: string): number {
  const first = bytes[at] as number;
  let value = first & 0x40 ? (first & 0x7f) - 0x80 : first & 0x7f;
  for (let i = at + 1; i < at + length; i++) value = value * 256 + (bytes[i] as number);
  if (!Number.isSafeInteger(value)) throw new Malformed(`a ${what} in a header is too large`);
  return value;
}

/**
 * Read the records of a pax header, over those that are there; one without a value takes it away.
 *
 * @throws {Malformed}
 */
export function decodePax(bytes: Buffer, into: Map<string, ByteString>): void {
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at);
    const digits = space === -1 || space - at > 10 ? "" : bytes.toString("latin1", at, space);
    const end = at + Number(digits);
    if (!/^[1-9]\d*$/.test(digits) || end > bytes.length || end <= space + 1 || bytes[end - 1] !== 0x0a)
      throw new Malformed("a pax record has a wrong length");
    const equals = bytes.indexOf(0x3d, space);
    if (equals <= space + 1 || equals >= end) throw new Malformed("a pax record has no key");
    const key = bytes.toString("latin1", space + 1, equals);
    if (equals === end - 2) into.delete(key);
    else into.set(key, bytes.toString("latin1", equals + 1, end - 1));
    at = end;
  }
}
