import { PassThrough, type Readable } from "node:stream";

/** How much of what nobody reads is kept of a stream, from its end, in bytes. */
const keptBytes = 16 * 2 ** 20;

/** One stream of a program: read by the caller, or kept up to a limit, or left to wait, and its writer with it. */
export class Output {
  readonly #source = new PassThrough();
  #taken: Readable | undefined;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #limit: number | undefined;
  /** What was dropped, in bytes. */
  lostBytes = 0;
  readonly #isOver: Promise<void>;

  constructor() {
    this.#source.on("error", () => {});
    this.#isOver = new Promise((resolve) => this.#source.once("end", resolve).once("close", resolve));
  }

  /** Where it comes from; null: there is nothing. */
  from(stream: Readable | null): void {
    if (stream) stream.on("error", () => this.end()).pipe(this.#source);
    else this.end();
  }

  end(): void {
    this.#source.end();
  }

  get isTaken(): boolean {
    return this.#taken !== undefined;
  }

  /** The stream, beginning with what was kept. */
  take(): Readable {
    if (this.#taken) return this.#taken;
    if (this.#limit === undefined) {
      this.#taken = this.#source;
      return this.#source;
    }
    const stream = new PassThrough();
    this.#taken = stream;
    this.#source.off("data", this.#push);
    stream.write(Buffer.concat(this.#chunks));
    this.#chunks = [];
    if (this.#source.readableEnded) stream.end();
    else this.#source.pipe(stream);
    return stream;
  }

  /** From now on keep so much of what nobody reads; what was promised before is kept too. */
  keep(limit = keptBytes): void {
    if (this.#taken) return;
    if (this.#limit === undefined) this.#source.on("data", this.#push);
    this.#limit = Math.max(limit, this.#limit ?? 0);
  }

  readonly #push = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    while (this.#bytes - (this.#chunks[0]?.length ?? 0) >= (this.#limit ?? 0)) {
      const lost = this.#chunks.shift()?.length ?? 0;
      this.#bytes -= lost;
      this.lostBytes += lost;
    }
  };

  /** All that was kept, when the program has closed it, as UTF-8; nothing if somebody else reads it. */
  async text(): Promise<string> {
    if (this.#taken) return "";
    await this.#isOver;
    return Buffer.concat(this.#chunks).toString("utf8");
  }
}
