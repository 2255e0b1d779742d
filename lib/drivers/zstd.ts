/**
 * Compressed streams: zstd by its program where there is one, which uses all cores, else by the runtime's own zstd; gzip
 * by the runtime's own zlib, which takes a third of the time of gzip(1).
 */
import { read, writeSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Transform } from "node:stream";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { start } from "../base/exec.ts";
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

function byProgram(program: string, fd: number, level: number, { signal, env }: StreamOptions): Compressor {
  // As many threads as this job may use: zstd would take all cores of a node, and 15 MB for each. The bytes are the same.
  const threads = Math.min(availableParallelism(), mostThreads);
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
 * What an open file holds, decompressed, in pieces that stay as they are. It is read from where it stands, and stands
 * where reading has come to.
 *
 * Whoever leaves off early ends the program, too. The runtime's zstd says nothing where a file is cut off, or goes on with
 * something else: whoever reads must know the end, as tar has one.
 *
 * @param path for messages
 * @throws {EfError} BAD_ARCHIVE, TOOL_FAILED, IO; the signal's reason
 */
export async function* decompress(
  fd: number,
  format: Format,
  path: string,
  { signal, env = process.env }: StreamOptions = {},
): AsyncGenerator<Uint8Array, void> {
  const [program] = format === "zstd" ? await onPath("zstd", env) : [];
  if (program) {
    const child = start([program, "-q", "-d", "-c"], {
      stdin: fd,
      stdout: "pipe",
      signal,
      env: { ...env, LC_ALL: "C" },
    });
    try {
      yield* child.stdout as AsyncIterable<Uint8Array>;
      await child.done;
    } catch (error) {
      throw signal?.aborted ? signal.reason : toolError(error, path);
    } finally {
      await child.stop();
    }
    return;
  }
  const { Readable } = await import("node:stream");
  const input = Readable.from(piecesOf(fd), { objectMode: false, highWaterMark: pieceBytes });
  let stream: Transform | undefined;
  const stop = () => (stream ?? input).destroy(signal?.reason);
  try {
    stream = await decoder(format);
    signal?.throwIfAborted();
    signal?.addEventListener("abort", stop, { once: true });
    const output = stream;
    if (output) {
      input.once("error", (error) => output.destroy(error));
      input.pipe(output);
    }
    yield* (output ?? input) as AsyncIterable<Uint8Array>;
    signal?.throwIfAborted();
  } catch (error) {
    throw signal?.aborted ? signal.reason : streamError(error, path);
  } finally {
    signal?.removeEventListener("abort", stop);
    stream?.destroy();
    input.destroy();
  }
}

/**
 * Not a stream of node:fs: with Bun 1.4.5 that closes the descriptor at its end, whatever `autoClose` says, and the number
 * is soon another file's.
 */
async function* piecesOf(fd: number): AsyncGenerator<Uint8Array, void> {
  for (;;) {
    const piece = Buffer.allocUnsafe(pieceBytes);
    const length = await new Promise<number>((resolve, reject) =>
      read(fd, piece, 0, pieceBytes, null, (error, count) => (error ? reject(error) : resolve(count))),
    );
    if (length === 0) return;
    yield piece.subarray(0, length);
  }
}

async function decoder(format: Format): Promise<Transform | undefined> {
  if (format === "tar") return undefined;
  const zlib = await import("node:zlib");
  if (format === "gzip") return zlib.createGunzip({ chunkSize: pieceBytes });
  if (!zlib.createZstdDecompress) throw noZstd();
  return zlib.createZstdDecompress({ chunkSize: pieceBytes });
}

/** The program says 1 for what it cannot decompress; what ended it otherwise is not the archive's fault. */
function toolError(error: unknown, path: string): unknown {
  if (!(error instanceof EfError) || !/failed with exit code 1\b/.test(error.message)) return error;
  return damaged(path, error.message, error);
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
