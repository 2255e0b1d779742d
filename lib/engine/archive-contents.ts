/**
 * Contents of files in a given order: at once from quick storage; from a slow one many files ahead, as requests in flight
 * are all that helps there.
 */
import { constants, read as readFile } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Steps } from "../base/steps.ts";
import { Flight } from "./archive-flight.ts";
import type { Storage } from "./storage.ts";

/** A regular file as it was when it was looked at. */
export interface Seen {
  /** Absolute. */
  path: ByteString;
  size: number;
  mtimeNs: bigint;
}

/** A file is not any more what it was when it was looked at. */
export class Changed extends Error {}

/** How far to read ahead: files, and their bytes. */
const aheadFiles = 256;
const aheadBytes = 64 << 20;
/** Most files are smaller. */
const pooledBytes = 64 << 10;
/** A larger file is not read ahead. */
const mostBytes = 16 << 20;
/** From so many bytes on, a file is read in pieces, some of which are under way at once. */
export const largeBytes = 4 << 20;
const pieceBytes = 1 << 20;
const piecesAhead = 4;

export class Contents {
  readonly #storage: Storage;
  readonly #files: readonly Seen[];
  readonly #flight = new Flight();
  /** Read ahead, by place in the list. */
  readonly #ready = new Map<number, Promise<Buffer> | Buffer>();
  /** Of files that were taken, each of {@link pooledBytes}. */
  readonly #spare: ArrayBuffer[] = [];
  #next = 0;
  #held = 0;
  #isOver = false;

  /** @param files in the order in which they will be asked for; empty ones are not to be */
  constructor(storage: Storage, files: readonly Seen[]) {
    this.#storage = storage;
    this.#files = files;
  }

  /**
   * Contents that were read ahead of file `i`; undefined where they were not: then {@link Contents.open} it. Each file
   * once, in order.
   *
   * @throws {Changed}; what the storage says
   */
  take(i: number): Promise<Buffer> | Buffer | undefined {
    this.#next = Math.max(this.#next, i);
    this.#readOn(i);
    const found = this.#ready.get(i);
    if (found === undefined) this.#next = Math.max(this.#next, i + 1);
    else {
      this.#ready.delete(i);
      this.#held -= (this.#files[i] as Seen).size;
    }
    return found;
  }

  #readOn(from: number): void {
    if (this.#storage.isQuick || this.#isOver) return;
    while (this.#next < this.#files.length && this.#next < from + aheadFiles && !this.#flight.isFull) {
      const file = this.#files[this.#next] as Seen;
      if (file.size <= mostBytes) {
        if (this.#held + file.size > aheadBytes) return;
        this.#held += file.size;
        const reading = this.#flight.start(this.#whole(file));
        if (reading instanceof Promise) {
          reading.catch(() => {}); // whoever takes it hears it
          reading.then(
            () => this.#readOn(from),
            () => {},
          );
        }
        this.#ready.set(this.#next, reading);
      }
      this.#next++;
    }
  }

  /** What {@link Contents.take} gave is not needed any more: filling it again costs less than new memory. */
  free(whole: Buffer): void {
    if (whole.byteLength <= pooledBytes) this.#spare.push(whole.buffer as ArrayBuffer);
  }

  #memory(bytes: number): Buffer {
    if (bytes > pooledBytes) return Buffer.allocUnsafeSlow(bytes);
    const memory = this.#spare.pop() ?? Buffer.allocUnsafeSlow(pooledBytes).buffer;
    return Buffer.from(memory, 0, bytes);
  }

  *#whole(file: Seen): Steps<Buffer> {
    const into = this.#memory(file.size);
    const open = yield* this.open(file);
    try {
      for (let at = 0; at < into.length; ) at += yield* open.read(into, at, into.length - at);
      yield* open.check();
    } finally {
      yield* open.close();
    }
    return into;
  }

  *open(file: Seen): Steps<OpenFile> {
    try {
      return new OpenFile(this.#storage, file, yield* get(this.#storage.open(file.path, constants.O_RDONLY)));
    } catch (error) {
      throw gone.has(errnoOf(error) ?? "") ? new Changed() : error;
    }
  }

  /** Read no further, and wait until nothing is read any more. */
  landed(): Promise<void> {
    this.#isOver = true;
    return this.#flight.landed();
  }
}

/** There is nothing any more, or a link or socket. */
const gone = new Set(["ENOENT", "ENOTDIR", "ELOOP", "ENXIO"]);
/** It is a directory or FIFO. */
const isOther = new Set(["EISDIR", "ESPIPE"]);

export class OpenFile {
  #at = 0;
  constructor(
    private readonly storage: Storage,
    private readonly file: Seen,
    private readonly fd: number,
  ) {}

  /** Read on, no further than it was long; gives how much. */
  *read(into: Uint8Array, at: number, most: number): Steps<number> {
    const length = Math.min(most, this.file.size - this.#at);
    let read: number;
    try {
      read = yield* get(this.storage.read(this.fd, into, at, length, this.#at));
    } catch (error) {
      throw isOther.has(errnoOf(error) ?? "") ? new Changed() : error;
    }
    if (read === 0) throw new Changed();
    this.#at += read;
    return read;
  }

  /**
   * All of a large file in pieces, a few of which are being read at any time: while one is worked on, the storage is not to
   * wait. A piece is filled anew when the next but some is asked for.
   *
   * @throws {Changed}; what the storage says
   */
  async *pieces(): AsyncGenerator<Buffer, void> {
    const { size } = this.file;
    const spare = Array.from({ length: piecesAhead }, () => Buffer.allocUnsafeSlow(Math.min(pieceBytes, size)));
    const underWay: Promise<Buffer>[] = [];
    let next = 0;
    const readOn = () => {
      while (next < size && spare.length > 0) {
        const into = (spare.pop() as Buffer).subarray(0, Math.min(pieceBytes, size - next));
        const reading = this.#fill(into, next);
        reading.catch(() => {}); // heard in its turn
        underWay.push(reading);
        next += into.length;
      }
    };
    try {
      for (readOn(); underWay.length > 0; readOn()) {
        const piece = await (underWay.shift() as Promise<Buffer>);
        yield piece;
        spare.push(Buffer.from(piece.buffer as ArrayBuffer));
      }
    } finally {
      await Promise.allSettled(underWay); // the file is closed after this
    }
  }

  async #fill(into: Buffer, from: number): Promise<Buffer> {
    for (let at = 0; at < into.length; ) {
      const read = await new Promise<number>((resolve, reject) =>
        readFile(this.fd, into, at, into.length - at, from + at, (error, count) =>
          error ? reject(isOther.has(errnoOf(error) ?? "") ? new Changed() : error) : resolve(count),
        ),
      );
      if (read === 0) throw new Changed();
      at += read;
    }
    return into;
  }

  /** @throws {Changed} where it is not any more what it was when it was looked at */
  *check(): Steps<void> {
    const { size, mtimeNs } = yield* get(this.storage.known(this.fd));
    if (size !== this.file.size || mtimeNs !== this.file.mtimeNs) throw new Changed();
  }

  *close(): Steps<void> {
    yield* get(this.storage.close(this.fd));
  }
}
