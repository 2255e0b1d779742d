import type { Compressor } from "../drivers/zstd.ts";
import { encodeEnd } from "./tar-format.ts";

/** The archive could not be written, for the reason in `cause`. */
export class NotWritten extends Error {}

const pieceBytes = 1 << 20;

/** The tar stream on its way to the compressor: while that takes one piece, the next is filled. */
export class Output {
  /** Fill it from {@link Output.at} on, then say {@link Output.wrote}. */
  memory: Buffer = Buffer.allocUnsafeSlow(pieceBytes);
  at = 0;
  #other: Buffer = Buffer.allocUnsafeSlow(pieceBytes);
  #bytes = 0;
  #writing: Promise<void> = Promise.resolve();
  readonly #compressor: Compressor;
  readonly #onPiece: () => void;

  /** @param onPiece called after each piece; may throw */
  constructor(compressor: Compressor, onPiece: () => void) {
    this.#compressor = compressor;
    this.#onPiece = onPiece;
  }

  /** There is always some. */
  get room(): number {
    return pieceBytes - this.at;
  }

  /**
   * So many bytes more are in the memory. If it gives a promise, wait for that before anything else.
   *
   * @throws {NotWritten}
   */
  wrote(bytes: number): Promise<void> | undefined {
    this.at += bytes;
    return this.at === pieceBytes ? this.#turn() : undefined;
  }

  /** @throws {NotWritten} */
  add(bytes: Buffer): Promise<void> | undefined {
    if (bytes.length >= this.room) return this.#addLong(bytes);
    bytes.copy(this.memory, this.at);
    this.at += bytes.length;
    return undefined;
  }

  async #addLong(bytes: Buffer): Promise<void> {
    for (let from = 0; from < bytes.length; ) {
      const copied = bytes.copy(this.memory, this.at, from);
      from += copied;
      await this.wrote(copied);
    }
  }

  async #turn(): Promise<void> {
    try {
      await this.#writing;
      this.#onPiece();
      this.#bytes += this.at;
      this.#writing = this.#compressor.write(this.memory.subarray(0, this.at));
      this.#writing.catch(() => {}); // heard at the next turn
    } catch (error) {
      throw new NotWritten("", { cause: error });
    }
    [this.memory, this.#other] = [this.#other, this.memory];
    this.at = 0;
  }

  /**
   * Write the end of the archive, and wait until all is in its file.
   *
   * @throws {NotWritten}
   */
  async finish(): Promise<void> {
    await this.add(encodeEnd(this.#bytes + this.at));
    if (this.at > 0) await this.#turn();
    try {
      await this.#writing;
      await this.#compressor.finish();
    } catch (error) {
      throw new NotWritten("", { cause: error });
    }
  }
}
