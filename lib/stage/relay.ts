/** What a node does with the frames that it makes or gets: hand them on to the next nodes, and use them itself. */
import { contentOf, type Frame, frame, type Kind, packedOf } from "./frames.ts";
import { LinkLost } from "./links.ts";

/** Whoever takes the frames on this node. It keeps its failure to itself: the next nodes still need what comes. */
export interface Taker {
  take(frame: Frame): Promise<void>;
}

/** Where frames go. */
export interface Way {
  /** The bytes must stay as they are. @throws {LinkLost} */
  send(bytes: Uint8Array): Promise<void>;
  /** Is more on its way than the other end takes? */
  readonly isBehind: boolean;
  /** That was all. */
  end(): void;
  /** It was not all. */
  close(): void;
}

export interface Outlet {
  node: string;
  link: Way;
}

export interface RelayOptions {
  taker: Taker | undefined;
  outlets: readonly Outlet[];
  /** A next node takes no more. */
  onLost: (node: string, why: string) => void;
}

/** Frames under way on this node: compressed, decompressed or checked in several threads. */
const mostUnderWay = 16;

export class Relay {
  readonly #taker: Taker | undefined;
  readonly #outlets: Outlet[];
  readonly #onLost: RelayOptions["onLost"];
  #last: Promise<void> = Promise.resolve();
  #underWay = 0;
  #failed: unknown;

  constructor({ taker, outlets, onLost }: RelayOptions) {
    this.#taker = taker;
    this.#outlets = [...outlets];
    this.#onLost = onLost;
  }

  /**
   * A frame of our own. Compressed where the way to a next node is what everybody waits for, and that helps.
   *
   * @returns when there is room for another one
   */
  make(kind: Kind, content: Buffer): Promise<void> {
    const isBehind = kind !== "end" && this.#outlets.some(({ link }) => link.isBehind);
    const packed = isBehind ? packedOf(content) : Promise.resolve(undefined);
    const bytes = this.#outlets.length === 0 ? undefined : packed.then((done) => frame(kind, content, done));
    return this.#pass(bytes, Promise.resolve({ kind, content }));
  }

  /** A frame from the node before, as it came. */
  pass(bytes: Buffer): Promise<void> {
    return this.#pass(Promise.resolve(bytes), contentOf(bytes));
  }

  /** All that was given is sent and taken. @throws {BrokenFrame} */
  async settle(): Promise<void> {
    await this.#last;
    this.#check();
  }

  /** Nothing more is sent. */
  end(): void {
    for (const { link } of this.#outlets) link.end();
  }

  /** The next nodes are to see that this is not all. */
  close(): void {
    for (const { link } of this.#outlets) link.close();
  }

  async #pass(bytes: Promise<Buffer> | undefined, content: Promise<Frame>): Promise<void> {
    this.#check();
    content.catch(() => {}); // heard in its turn
    bytes?.catch(() => {});
    this.#underWay++;
    const before = this.#last;
    this.#last = (async () => {
      await before;
      try {
        if (this.#failed === undefined) await this.#both(bytes, content);
      } catch (error) {
        this.#failed ??= error;
      } finally {
        this.#underWay--;
      }
    })();
    if (this.#underWay >= mostUnderWay) await before;
  }

  async #both(bytes: Promise<Buffer> | undefined, content: Promise<Frame>): Promise<void> {
    const taken = content.then((it) => this.#taker?.take(it));
    taken.catch(() => {});
    if (bytes !== undefined) {
      const all = await bytes;
      await Promise.all(this.#outlets.map((outlet) => this.#send(outlet, all)));
    }
    await taken;
  }

  async #send(outlet: Outlet, bytes: Buffer): Promise<void> {
    try {
      await outlet.link.send(bytes);
    } catch (error) {
      if (!(error instanceof LinkLost)) throw error;
      this.#outlets.splice(this.#outlets.indexOf(outlet), 1);
      this.#onLost(outlet.node, error.message);
    }
  }

  #check(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }
}
