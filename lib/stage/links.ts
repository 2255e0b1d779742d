/**
 * Connections between the nodes of a job, over which a copy travels.
 *
 * Everybody on the cluster's network can connect: so both ends prove that they know the secret of this run, which travels
 * through Slurm, before anything else is said. What follows is not encrypted, as NFS and sbcast(1) are not.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer, connect as dial, type Socket } from "node:net";
import { networkInterfaces } from "node:os";

/** Where a node listens. */
export interface Peer {
  node: string;
  /** Names and numbers to be tried, the best first. */
  addresses: readonly string[];
  port: number;
}

/** The other end cannot be reached, or has gone. */
export class LinkLost extends Error {}

/** How long a connection and its greetings may take, in milliseconds. */
const greetMs = 5_000;
/** What may wait to be sent to a node, in bytes: others go on meanwhile. */
const lagBytes = 32 << 20;
/** What may wait to be worked on, in bytes. */
const heldBytes = 8 << 20;
/** A node that takes nothing for so long holds up the others no longer, in milliseconds. */
const stallMs = 60_000;
const longestGreeting = 1024;

/** One end of a connection. */
export class Link {
  readonly #socket: Socket;
  readonly #chunks: Buffer[] = [];
  #held = 0;
  #isOver = false;
  #error: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#held += chunk.length;
      if (this.#held > heldBytes) socket.pause();
      this.#wake?.();
    });
    socket.on("error", (error) => {
      this.#error ??= error;
    });
    const over = () => {
      this.#isOver = true;
      this.#wake?.();
    };
    socket.on("end", over);
    socket.on("close", over);
  }

  /** What has come; undefined when the other end will send no more. @throws {LinkLost} */
  async read(): Promise<Buffer | undefined> {
    while (this.#chunks.length === 0 && !this.#isOver) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    const chunk = this.#chunks.shift();
    if (chunk) {
      this.#held -= chunk.length;
      if (this.#held <= heldBytes / 2) this.#socket.resume();
      return chunk;
    }
    if (this.#error) throw new LinkLost(this.#error.message, { cause: this.#error });
    return undefined;
  }

  /** What was read too much. */
  unread(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.unshift(chunk);
    this.#held += chunk.length;
  }

  /**
   * Send, and wait while too much is on its way already. The bytes must stay as they are.
   *
   * @throws {LinkLost}
   */
  async send(bytes: Uint8Array): Promise<void> {
    const socket = this.#socket;
    if (this.#error || socket.destroyed) throw new LinkLost(this.#error?.message ?? "the connection was closed");
    socket.write(bytes);
    if (socket.writableLength <= lagBytes) return;
    await this.#drained();
  }

  /** Is more on its way than the other end takes? Then the way to it is what everybody waits for. */
  get isBehind(): boolean {
    return this.#socket.writableLength > lagBytes / 8;
  }

  async #drained(): Promise<void> {
    const socket = this.#socket;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => done(new LinkLost(`it took nothing for ${stallMs / 1000} s`)), stallMs);
      const done = (error?: Error) => {
        clearTimeout(timer);
        socket.off("drain", onDrain);
        socket.off("close", onClose);
        if (error) socket.destroy();
        error ? reject(error) : resolve();
      };
      const onDrain = () => done();
      const onClose = () => done(new LinkLost(this.#error?.message ?? "the connection was closed"));
      socket.on("drain", onDrain);
      socket.on("close", onClose);
      if (socket.destroyed) onClose();
      else if (!socket.writableNeedDrain) onDrain();
    });
  }

  /** Nothing more is sent. */
  end(): void {
    this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** What proves that one knows the secret, and that it was asked now. */
const proofOf = (secret: string, ...words: (string | number)[]) =>
  createHmac("sha256", secret).update(JSON.stringify(words)).digest("hex");

function isProof(given: unknown, wanted: string): boolean {
  const [a, b] = [Buffer.from(String(given)), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}

async function readGreeting(link: Link): Promise<Record<string, unknown>> {
  let text: Buffer = Buffer.alloc(0);
  for (;;) {
    const chunk = await link.read();
    if (!chunk) throw new LinkLost("the connection was closed");
    text = Buffer.concat([text, chunk]);
    const end = text.indexOf(10);
    if (end === -1 && text.length <= longestGreeting) continue;
    if (end === -1 || end > longestGreeting) throw new LinkLost("what answers there is not ef");
    link.unread(text.subarray(end + 1));
    const said: unknown = JSON.parse(text.toString("utf8", 0, end));
    if (typeof said !== "object" || said === null) throw new LinkLost("what answers there is not ef");
    return said as Record<string, unknown>;
  }
}

const greet = (link: Link, words: object) => link.send(Buffer.from(`${JSON.stringify(words)}\n`));

async function withinTime<T>(link: Link, work: Promise<T>): Promise<T> {
  const timer = setTimeout(() => link.close(), greetMs);
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}

export interface Listener extends Disposable {
  port: number;
}

/**
 * Wait for the node before this one in a round.
 *
 * @param onLink hears of each that knows the secret
 */
export function listen(secret: string, node: string, onLink: (round: number, link: Link) => void): Promise<Listener> {
  const answer = async (link: Link) => {
    const { round, nonce } = await readGreeting(link);
    if (typeof round !== "number" || typeof nonce !== "string") throw new LinkLost("what asks there is not ef");
    const own = randomBytes(16).toString("hex");
    await greet(link, { nonce: own, proof: proofOf(secret, "listens", node, round, nonce) });
    const { proof } = await readGreeting(link);
    if (!isProof(proof, proofOf(secret, "sends", node, round, own))) throw new LinkLost("it does not know the secret");
    onLink(round, link);
  };
  const server = createServer((socket) => {
    const link = new Link(socket);
    withinTime(link, answer(link)).catch(() => link.close());
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, () => {
      const { port } = server.address() as { port: number };
      resolve({ port, [Symbol.dispose]: () => void server.close() });
    });
  });
}

/**
 * Connect to the next node of a round, by whichever of its addresses it answers.
 *
 * @throws {LinkLost} with what was tried
 */
export async function connect(secret: string, peer: Peer, round: number): Promise<Link> {
  const tried: string[] = [];
  for (const address of peer.addresses) {
    try {
      const link = new Link(await dialled(address, peer.port));
      try {
        await withinTime(link, introduce(link, secret, peer.node, round));
        return link;
      } catch (error) {
        link.close();
        throw error;
      }
    } catch (error) {
      tried.push(`${address} port ${peer.port}: ${(error as Error).message}`);
    }
  }
  throw new LinkLost(tried.join("; "));
}

async function introduce(link: Link, secret: string, node: string, round: number): Promise<void> {
  const own = randomBytes(16).toString("hex");
  await greet(link, { round, nonce: own });
  const { nonce, proof } = await readGreeting(link);
  if (!isProof(proof, proofOf(secret, "listens", node, round, own))) throw new LinkLost("another program answers");
  await greet(link, { proof: proofOf(secret, "sends", node, round, String(nonce)) });
}

function dialled(host: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = dial({ host, port });
    const timer = setTimeout(() => socket.destroy(new Error(`no answer within ${greetMs / 1000} s`)), greetMs);
    const fail = (error: Error) => {
      clearTimeout(timer);
      reject(error);
    };
    socket.once("error", fail);
    socket.once("connect", () => {
      clearTimeout(timer);
      socket.off("error", fail);
      resolve(socket);
    });
  });
}

/** Names of network devices that are fast on clusters: InfiniBand, Slingshot, Omni-Path. */
const fast = /^(?:ib|hsn|opa|hfi)/;

/** Where this node can be reached, the fast networks first; what only it knows comes last. */
export function ownAddresses(): string[] {
  const all = Object.entries(networkInterfaces()).flatMap(([name, list = []]) =>
    list.filter(({ address }) => !address.startsWith("fe80:")).map((each) => ({ ...each, name })),
  );
  const rank = ({ name, internal, family }: (typeof all)[number]) =>
    (internal ? 4 : 0) + (fast.test(name) ? 0 : 2) + (family === "IPv4" ? 0 : 1);
  return [...new Set(all.sort((a, b) => rank(a) - rank(b)).map(({ address }) => address))];
}
