/**
 * How a copy travels from node to node: a sequence of frames, each with its own checksum, that a node hands on as they come.
 *
 * First the table of the tree (a manifest), then the tree as tar, then the end. Each frame is compressed or not: whoever made
 * it decides, by what the way to the next node can take.
 */
import { crc32 } from "../base/crc.ts";

export const kinds = { table: 1, data: 2, end: 3, broken: 4 } as const;
export type Kind = keyof typeof kinds;
const names = Object.keys(kinds) as Kind[];

export interface Frame {
  kind: Kind;
  /** As it was given to {@link frame}. */
  content: Buffer;
}

/** Kind, is it compressed, two bytes of zero; bytes of content and on the way; checksum of kind and content; little-endian. */
const headerBytes = 16;
/** Longer contents are nothing that {@link frame} made. */
export const mostBytes = 1 << 22;

/** What was received is not what was sent. */
export class BrokenFrame extends Error {}

/** @param packed the same content compressed by zstd, where that is shorter */
export function frame(kind: Kind, content: Uint8Array, packed?: Uint8Array): Buffer {
  const body = packed ?? content;
  const bytes = Buffer.allocUnsafe(headerBytes + body.length);
  bytes.writeUInt8(kinds[kind], 0);
  bytes.writeUInt8(packed ? 1 : 0, 1);
  bytes.writeUInt16LE(0, 2);
  bytes.writeUInt32LE(content.length, 4);
  bytes.writeUInt32LE(body.length, 8);
  bytes.writeUInt32LE(checksum(kind, content), 12);
  bytes.set(body, headerBytes);
  return bytes;
}

const checksum = (kind: Kind, content: Uint8Array): number => (crc32(content) ^ kinds[kind]) >>> 0;

/** Finds frames in what comes in pieces, as they were sent. */
export class FrameReader {
  #parts: Buffer[] = [];
  #bytes = 0;

  feed(piece: Buffer): void {
    this.#parts.push(piece);
    this.#bytes += piece.length;
  }

  /**
   * The next whole frame with its header; undefined when more is needed for it.
   *
   * @throws {BrokenFrame}
   */
  next(): Buffer | undefined {
    if (this.#bytes < headerBytes) return undefined;
    const [head] = this.#parts as [Buffer];
    if (head.length < headerBytes) this.#parts = [Buffer.concat(this.#parts)];
    const length = headerBytes + bodyOf(this.#parts[0] as Buffer);
    if (this.#bytes < length) return undefined;
    const [first] = this.#parts as [Buffer];
    const all = first.length >= length ? first : Buffer.concat(this.#parts);
    const rest = all === first ? this.#parts.slice(1) : [];
    this.#parts = all.length > length ? [all.subarray(length), ...rest] : rest;
    this.#bytes -= length;
    return all.subarray(0, length);
  }

  /** Has it come to an end between two frames? */
  get isEmpty(): boolean {
    return this.#bytes === 0;
  }
}

function bodyOf(header: Buffer): number {
  const [length, body] = [header.readUInt32LE(4), header.readUInt32LE(8)];
  const isOurs = names.some((name) => kinds[name] === header[0]) && (header[1] as number) <= 1 && length <= mostBytes;
  if (!isOurs || body > length + 1024) throw new BrokenFrame("what came is no frame of a copy");
  return body;
}

/**
 * What is in a frame.
 *
 * @throws {BrokenFrame} where it is not what was sent
 */
export async function contentOf(bytes: Buffer): Promise<Frame> {
  const kind = names.find((name) => kinds[name] === bytes[0]) as Kind;
  const body = bytes.subarray(headerBytes);
  const length = bytes.readUInt32LE(4);
  const content = bytes[1] === 1 ? await decompressed(body, length) : body;
  if (content.length !== length || checksum(kind, content) !== bytes.readUInt32LE(12))
    throw new BrokenFrame("the checksum of a frame is wrong");
  return { kind, content };
}

async function decompressed(body: Buffer, length: number): Promise<Buffer> {
  const { zstdDecompress } = await import("node:zlib");
  return new Promise((resolve, reject) =>
    zstdDecompress(body, { maxOutputLength: Math.max(length, 1) }, (error, content) =>
      error ? reject(new BrokenFrame("a frame cannot be decompressed", { cause: error })) : resolve(content),
    ),
  );
}

/** Compressed by zstd at its quickest; undefined where that saves less than an eighth. */
export async function packedOf(content: Buffer): Promise<Buffer | undefined> {
  const { zstdCompress, constants } = await import("node:zlib");
  const packed = await new Promise<Buffer>((resolve, reject) =>
    zstdCompress(content, { params: { [constants.ZSTD_c_compressionLevel]: 1 } }, (error, done) =>
      error ? reject(error) : resolve(done),
    ),
  );
  return packed.length < content.length * (7 / 8) ? packed : undefined;
}
