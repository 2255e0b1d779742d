/**
 * Compressed streams. Compressed by the program zstd where there is one, which uses all cores, else by the runtime's own;
 * decompressed by the runtime, gzip too, which takes a third of the time of gzip(1). Under Deno, and Node before 22.15, the
 * program zstd does both.
 */

import { read, write, writeSync } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { start } from "../base/exec.ts";
import { isDeno } from "../base/runtimes.ts";
import { processors } from "./limits.ts";
import { onPath } from "./programs.ts";

export type Format = "zstd" | "gzip" | "tar";

/** Of zstd: they take all that one thread of ours can give. */
const mostThreads = 16;
/** At most so much is read and written at once. */
const pieceBytes = 1 << 20;

/**
 * What a file is, by its first 262 bytes or more; undefined if it is nothing of this.
 *
 * @see https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1
 * @see https://www.rfc-editor.org/rfc/rfc1952#section-2.3.1
 */
export function formatOf(head: Buffer): Format | undefined {
  if (head.length >= 4) {
    const magic = head.readUInt32LE(0);
    if (magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50) return "zstd";
  }
  if (head[0] === 0x1f && head[1] === 0x8b) return "gzip";
  if (head.toString("latin1", 257, 262) === "ustar") return "tar";
  return undefined;
}

export interface StreamOptions {
  signal?: AbortSignal | undefined;
  /** Of programs. @default that of the process */
  env?: Record<string, string | undefined>;
}

export interface Compressor {
  /**
   * Compress a piece, which may change when that is done.
   *
   * @throws as {@link Compressor.finish}
   */
  write(piece: Uint8Array): Promise<void>;
  /**
   * All is in the file.
   *
   * @throws an error with the code ENOSPC or EDQUOT; {@link EfError} TOOL_FAILED; the signal's reason
   */
  finish(): Promise<void>;
  /** Stop, whatever is in the file; no error if it has ended. */
  stop(): Promise<void>;
}

/**
 * Compress as zstd.
 *
 * @param fd an open file, empty; stays open
 */
export async function compressTo(
  fd: number,
  { level, signal, env = process.env }: StreamOptions & { level: number },
): Promise<Compressor> {
  const [program] = await onPath("zstd", env);
  return program ? byProgram(program, fd, level, { signal, env }) : byRuntime(fd, level, signal);
}

/**
 * As it is, without a change.
 *
 * @param fd an open file, empty; stays open
 */
export function plainTo(fd: number): Compressor {
  let writing: Promise<void> = Promise.resolve();
  const put = (piece: Uint8Array, at: number) =>
    new Promise<number>((resolve, reject) =>
      write(fd, piece, at, piece.length - at, null, (error, written) => (error ? reject(error) : resolve(written))),
    );
  return {
    write(piece) {
      writing = (async () => {
        for (let at = 0; at < piece.length; ) at += await put(piece, at);
      })();
      return writing;
    },
    async finish() {},
    stop: () => writing.catch(() => {}),
  };
}

function byProgram(program: string, fd: number, level: number, { signal, env }: StreamOptions): Compressor {
  // As many threads as this job may use: zstd would take all cores of a node, and 15 MB for each. The bytes are the same.
  const threads = Math.min(processors(), mostThreads);
  const argv = [program, "-q", "-c", `-T${threads}`, `-${level}`];
  const child = start(argv, { stdin: "pipe", stdout: fd, signal, env: { ...env, LC_ALL: "C" } });
  const stdin = child.stdin as NonNullable<typeof child.stdin>;
  const done = child.done.catch((error) => {
    throw outOfSpace(error) ?? error;
  });
  done.catch(() => {});
  return {
    write: (piece) =>
      new Promise<void>((resolve, reject) => {
        stdin.write(piece, (error) => (error ? reject(error) : resolve()));
      }).catch(async (error) => {
        await done; // it has ended: its own words are better
        throw error;
      }),
    async finish() {
      stdin.end();
      await done;
    },
    stop: child.stop,
  };
}

/** The C library's words for what the program could not write. */
function outOfSpace(error: unknown): Error | undefined {
  const text = error instanceof Error ? error.message : "";
  const code = /No space left on device/.test(text)
    ? "ENOSPC"
    : /Disk quota exceeded/.test(text)
      ? "EDQUOT"
      : undefined;
  return code && Object.assign(new Error(text, { cause: error }), { code });
}

async function byRuntime(fd: number, level: number, signal: AbortSignal | undefined): Promise<Compressor> {
  const zlib = await import("node:zlib");
  if (!zlib.createZstdCompress) throw noZstd();
  const { ZSTD_c_compressionLevel, ZSTD_c_checksumFlag } = zlib.constants;
  const stream = zlib.createZstdCompress({
    params: { [ZSTD_c_compressionLevel]: level, [ZSTD_c_checksumFlag]: 1 },
    chunkSize: pieceBytes,
  });
  const stop = () => void stream.destroy(signal?.reason);
  signal?.addEventListener("abort", stop, { once: true });
  const done = new Promise<void>((resolve, reject) => {
    stream.on("data", (chunk: Buffer) => {
      try {
        for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
      } catch (error) {
        stream.destroy(error as Error);
      }
    });
    stream.once("end", resolve);
    stream.once("error", reject);
    stream.once("close", () => reject(signal?.reason ?? new Error("the stream was closed")));
  }).finally(() => signal?.removeEventListener("abort", stop));
  done.catch(() => {});
  return {
    write: (piece) =>
      Promise.race([
        done,
        new Promise<void>((resolve, reject) => {
          stream.write(piece, (error) => (error ? reject(error) : resolve()));
        }),
      ]),
    async finish() {
      stream.end();
      await done;
    },
    async stop() {
      stream.destroy();
      await done.catch(() => {});
    },
  };
}

const noZstd = () =>
  new EfError("TOOL_MISSING", "Cannot run zstd: it is not installed, or not on PATH", {
    hint: "on a cluster try: module avail zstd",
  });

/**
 * What an open file holds, decompressed, in pieces that stay as they are. Its own position stays.
 *
 * By the runtime: a thread of its pool does the work, and nothing goes through a pipe. An environment of 500 MB took as long as
 * through the program on idle cores (which has one thread for it as well), and 0.75 times as long on busy ones. That a
 * zstd stream is cut off, or goes on behind its end, only the program would tell: whoever must know has a sum.
 *
 * @param path for messages
 * @throws {EfError} BAD_ARCHIVE, TOOL_MISSING, IO; the signal's reason
 */
export async function* decompress(
  fd: number,
  format: Format,
  path: string,
  options: DecompressOptions = {},
): AsyncGenerator<Uint8Array, void> {
  const { signal } = options;
  const zlib = format === "tar" ? undefined : await import("node:zlib");
  const isUsable = zlib?.createZstdDecompress && !isDeno; // on some damage Deno 2.9 throws where nobody can catch it
  const program = format === "zstd" && !isUsable ? await zstdProgram() : undefined;
  const { Readable } = await import("node:stream");
  const file = new Pieces(fd, options.onRead);
  const input = Readable.from(file.all(), { objectMode: false, highWaterMark: pieceBytes });
  const output =
    format === "gzip" ? zlib?.createGunzip(chunks) : program ? undefined : zlib?.createZstdDecompress(chunks);
  const stop = () => (output ?? input).destroy(signal?.reason);
  try {
    signal?.throwIfAborted();
    signal?.addEventListener("abort", stop, { once: true });
    if (output) {
      input.once("error", (error) => output.destroy(error));
      input.pipe(output);
    }
    yield* program ? byProgramFrom(program, input, path, signal) : ((output ?? input) as AsyncIterable<Uint8Array>);
    signal?.throwIfAborted();
  } catch (error) {
    throw signal?.aborted ? signal.reason : streamError(error, path);
  } finally {
    signal?.removeEventListener("abort", stop);
    output?.destroy();
    input.destroy();
    await file.settled();
  }
}

async function zstdProgram(): Promise<string> {
  const [program] = await onPath("zstd", process.env);
  if (program === undefined) throw noZstd();
  return program;
}

async function* byProgramFrom(program: string, input: Readable, path: string, signal: AbortSignal | undefined) {
  const child = start([program, "-q", "-d", "-c"], { stdin: "pipe", stdout: "pipe", signal });
  const [stdin, stdout] = [child.stdin as Writable, child.stdout as Readable];
  input.once("error", (error) => stdout.destroy(error));
  input.pipe(stdin);
  try {
    yield* stdout as AsyncIterable<Uint8Array>;
    await child.done.catch((error) => {
      throw error instanceof EfError && error.code === "TOOL_FAILED" ? damaged(path, error.message, error) : error;
    });
  } finally {
    await child.stop();
  }
}

export interface DecompressOptions {
  signal?: AbortSignal | undefined;
  /** Gets what is read, before it is decompressed. */
  onRead?: ((piece: Uint8Array) => void) | undefined;
}

const chunks = { chunkSize: pieceBytes, readableHighWaterMark: 8 * pieceBytes } as const;

/**
 * A file in pieces. Not a stream of node:fs: with Bun 1.4.5 that closes the descriptor at its end, whatever `autoClose`
 * says, and the number is soon another file's.
 */
class Pieces {
  readonly #fd: number;
  readonly #onRead: ((piece: Uint8Array) => void) | undefined;
  #reading: Promise<number> | undefined;

  constructor(fd: number, onRead: ((piece: Uint8Array) => void) | undefined) {
    this.#fd = fd;
    this.#onRead = onRead;
  }

  async *all(): AsyncGenerator<Uint8Array, void> {
    for (let at = 0; ; ) {
      const buffer = Buffer.allocUnsafe(pieceBytes);
      this.#reading = new Promise<number>((resolve, reject) =>
        read(this.#fd, buffer, 0, pieceBytes, at, (error, count) => (error ? reject(error) : resolve(count))),
      );
      const length = await this.#reading;
      if (length === 0) return;
      at += length;
      const piece = buffer.subarray(0, length);
      this.#onRead?.(piece);
      yield piece;
    }
  }

  /** No read is under way any more: one that came later, when the descriptor is closed, would read another file. */
  async settled(): Promise<void> {
    await this.#reading?.catch(() => {});
  }
}

function streamError(error: unknown, path: string): unknown {
  if (error instanceof EfError) return error;
  const code = String((error as { code?: unknown }).code);
  if (/^(Z_|ZSTD_)/.test(code)) return damaged(path, `it is damaged or cut off (${code})`, error);
  if (errnoOf(error)) return new EfError("IO", `Cannot read ${path}: ${reasonOf(error)}`, { path, cause: error });
  return error;
}

const damaged = (path: string, why: string, cause: unknown) =>
  new EfError("BAD_ARCHIVE", `Cannot decompress ${path}: ${why}`, {
    hint: "the file is damaged or not whole: take another copy of it",
    path,
    cause,
  });
