import { readSync } from "node:fs";

/** At most so much is read at once. */
const pieceBytes = 1 << 18;

/** By the runtime: Bun's own, or that of node:crypto, which takes longer to load under Bun than all the rest of a sync. */
const sha256 = (): { update(piece: Uint8Array): unknown; digest(encoding: "hex"): string } =>
  typeof Bun !== "undefined"
    ? new Bun.CryptoHasher("sha256")
    : process.getBuiltinModule("node:crypto").createHash("sha256");

/**
 * SHA-256 of an open file, taken of what another program has just read from it or written to it, while that is in memory.
 * The file's own position stays.
 */
export class FileHash {
  bytes = 0;
  readonly #fd: number;
  readonly #hash = sha256();
  readonly #buffer = Buffer.allocUnsafe(pieceBytes);

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Go on with a piece that was just read from where the sum has come to. */
  add(piece: Uint8Array): void {
    this.#hash.update(piece);
    this.bytes += piece.length;
  }

  /** Go on, at most up to a position. */
  upTo(end: number): void {
    while (this.bytes < end) {
      const read = readSync(this.#fd, this.#buffer, 0, Math.min(pieceBytes, end - this.bytes), this.bytes);
      if (read === 0) return;
      this.#hash.update(this.#buffer.subarray(0, read));
      this.bytes += read;
    }
  }

  /** Go on to the end of the file, with turns for signals; gives the sum in hexadecimal. */
  async finish(signal: AbortSignal | undefined): Promise<string> {
    for (let before = -1; before < this.bytes; ) {
      signal?.throwIfAborted();
      before = this.bytes;
      this.upTo(before + 16 * pieceBytes);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return this.#hash.digest("hex");
  }
}
