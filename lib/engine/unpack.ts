/**
 * An archive made into a directory: decompressed by another process or thread while this one checks and writes.
 *
 * Each entry is checked before anything of it is written. Directories are made by us and files opened as new ones, so
 * nothing is written through a link: links are made last, when it is known where each of them leads.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { type ByteString, bytesOf, display } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { span } from "../base/trace.ts";
import { decompress, type Format, formatOf } from "../drivers/zstd.ts";
import { FileHash } from "./archive-hash.ts";
import { sidesOf } from "./builtin.ts";
import { blockBytes, decodeHeader, Malformed } from "./tar-format.ts";
import { TarReader } from "./tar-read.ts";
import { TreeWriter } from "./tar-write.ts";

export interface UnpackOptions {
  /** What the sum of the archive must be, in hexadecimal. */
  sha256?: string | undefined;
  /** Symbolic links that leave the root and are wanted all the same. @default none */
  allowLink?: ((path: ByteString, text: ByteString) => boolean) | undefined;
  /** Hears the contents of each regular file of at most 1 MiB, before it is written. */
  onFile?: ((path: ByteString, content: Uint8Array) => void) | undefined;
  /** Byte strings to look for in the contents of all regular files; asked for at each file. */
  find?: (() => readonly Uint8Array[]) | undefined;
  signal?: AbortSignal | undefined;
  /** Bytes of the archive. */
  onProgress?: ((progress: { bytes: number; totalBytes: number }) => void) | undefined;
}

export interface Unpacked {
  /** Regular files, each name of one with several. */
  files: number;
  contentBytes: number;
  /** Of the archive. */
  sha256: string;
  /** Files in which something was found. */
  mentions: ByteString[];
}

/** No path is longer (PATH_MAX). */
const mostShown = 4096;
/** How much comes between two looks at how far the archive is read. */
const tellEveryBytes = 2 << 20;

/**
 * Unpack a tar archive, as it is or compressed by zstd or gzip. Modes are as in the archive but for set-id bits, times
 * exact to the second; owners are ours. What the archive says of the root itself is left out.
 *
 * @param target an existing empty directory that is the caller's, who removes it after an error
 * @throws {EfError} BAD_ARCHIVE, NO_SPACE, IO, TOOL_FAILED; what `onFile` throws; the signal's reason
 */
export async function unpack(file: string, target: string, options: UnpackOptions = {}): Promise<Unpacked> {
  return span("unpack", () => unpackNow(file, target, options), { file, target });
}

async function unpackNow(file: string, target: string, options: UnpackOptions): Promise<Unpacked> {
  const { signal, sha256: expected } = options;
  signal?.throwIfAborted();
  const storage = (await sidesOf("auto")).target;
  const archive = new Archive(file);
  try {
    const writer = new TreeWriter(bytesOf(target), storage, options);
    try {
      await archive.readInto(writer, options);
    } catch (error) {
      await writer.stop();
      signal?.throwIfAborted();
      throw await archive.explain(error, writer, target, expected);
    }
    const sha256 = await archive.sum(signal);
    if (expected !== undefined && sha256 !== expected.toLowerCase()) throw archive.wrongSum(expected, sha256);
    try {
      await writer.finish(signal);
    } catch (error) {
      signal?.throwIfAborted();
      throw await archive.explain(error, writer, target, undefined);
    }
    const { files, contentBytes, mentions } = writer;
    return { files, contentBytes, sha256, mentions };
  } finally {
    archive.close();
  }
}

/** The file of an archive, open. */
class Archive {
  readonly #path: string;
  readonly #fd: number;
  readonly #hash: FileHash;
  readonly #reader = new TarReader();
  readonly #stat: { size: number; mtimeMs: number };

  constructor(path: string) {
    this.#path = path;
    try {
      this.#fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      throw this.#unreadable(error);
    }
    const stat = fstatSync(this.#fd);
    this.#stat = stat;
    this.#hash = new FileHash(this.#fd);
    if (stat.isFile()) return;
    this.close();
    throw new EfError("BAD_ARCHIVE", `Cannot unpack ${path}: it is no regular file`, { path });
  }

  close(): void {
    closeSync(this.#fd);
  }

  #unreadable(error: unknown): EfError {
    const [path, cause] = [this.#path, error];
    return new EfError("IO", `Cannot read ${path}: ${reasonOf(error)}`, { path, cause });
  }

  #format(): Format {
    const head = Buffer.alloc(blockBytes);
    let length: number;
    try {
      length = readSync(this.#fd, head, 0, head.length, 0);
    } catch (error) {
      throw this.#unreadable(error);
    }
    const known = formatOf(head.subarray(0, length));
    if (known) return known;
    try {
      if (length === blockBytes) decodeHeader(head);
      else throw new Malformed("it is too short");
    } catch (cause) {
      const why = length === 0 ? "it is empty" : "it is no tar archive, nor one compressed by zstd or gzip";
      throw new EfError("BAD_ARCHIVE", `Cannot unpack ${this.#path}: ${why}`, { path: this.#path, cause });
    }
    return "tar"; // of Unix version 7, without a name for its format
  }

  async readInto(writer: TreeWriter, { signal, onProgress }: UnpackOptions): Promise<void> {
    const reader = this.#reader;
    let quiet = 0;
    const onRead = (piece: Uint8Array) => this.#hash.add(piece);
    for await (const piece of decompress(this.#fd, this.#format(), this.#path, { signal, onRead })) {
      signal?.throwIfAborted();
      reader.feed(piece);
      for (let part = reader.next(); part; part = reader.next()) {
        const wait = writer.add(part);
        if (wait !== undefined) await wait;
      }
      quiet += piece.length;
      if (quiet < tellEveryBytes) continue;
      quiet = 0;
      onProgress?.({ bytes: this.#hash.bytes, totalBytes: this.#stat.size });
    }
    reader.finish();
    await writer.settle();
    onProgress?.({ bytes: this.#stat.size, totalBytes: this.#stat.size });
  }

  async sum(signal: AbortSignal | undefined): Promise<string> {
    const sum = await this.#hash.finish(signal).catch((error) => {
      throw signal?.aborted ? signal.reason : this.#unreadable(error);
    });
    const { size, mtimeMs } = fstatSync(this.#fd);
    if (size === this.#stat.size && mtimeMs === this.#stat.mtimeMs) return sum;
    const path = this.#path;
    throw new EfError("BAD_ARCHIVE", `Cannot unpack ${path}: it changed while it was read`, {
      hint: "run it again when nobody writes to it",
      path,
    });
  }

  wrongSum(expected: string, found: string, cause?: unknown): EfError {
    const path = this.#path;
    const why = `its sha256 is ${found}, and was ${expected.toLowerCase()} when it was made`;
    return new EfError("BAD_ARCHIVE", `Cannot unpack ${path}: it is damaged, or was changed: ${why}`, {
      hint: "take another copy of it, or make it anew",
      path,
      cause,
    });
  }

  /** What an error is for the user. A wrong sum, if that can be known, says more than what came of it. */
  async explain(error: unknown, writer: TreeWriter, target: string, expected: string | undefined): Promise<unknown> {
    const path = this.#path;
    const isBad = error instanceof Malformed || (error instanceof EfError && error.code === "BAD_ARCHIVE");
    if (isBad && expected !== undefined) {
      const sum = await this.#hash.finish(undefined).catch(() => undefined);
      if (sum !== undefined && sum !== expected.toLowerCase()) return this.wrongSum(expected, sum, error);
    }
    if (error instanceof EfError) return error;
    if (error instanceof Malformed) {
      const at = error.entry ?? this.#reader.path;
      const where = at === undefined ? "" : `${display(at.slice(0, mostShown)) || '""'}: `;
      return new EfError("BAD_ARCHIVE", `Cannot unpack ${path}: ${where}${error.message}`, {
        hint: "nothing of it is used; unpack only archives that you trust",
        path,
        cause: error,
      });
    }
    const errno = errnoOf(error);
    if (errno === undefined) return error;
    const place = writer.at === undefined ? target : `${target}/${display(writer.at)}`;
    const full = errno === "ENOSPC" || errno === "EDQUOT";
    return new EfError(full ? "NO_SPACE" : "IO", `Cannot write ${place}: ${reasonOf(error)}`, {
      hint: full ? "make room there, or unpack it elsewhere" : undefined,
      path: place,
      cause: error,
    });
  }
}
