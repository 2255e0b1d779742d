/** The part of one node in a round: it reads, or is sent to; it hands on; it keeps a copy. */
import { reasonOf } from "../base/errors.ts";
import { removeIfThere } from "../base/files.ts";
import { realPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { NotWritten } from "../engine/archive-output.ts";
import { builtinOptions, chooseEngine, quotasOnce, Space } from "../engine/copying.ts";
import { excluder } from "../engine/exclude.ts";
import type { Held } from "../engine/lock.ts";
import { readBase } from "../engine/manifest.ts";
import { readMarker } from "../engine/marker.ts";
import type { Step } from "../engine/plan.ts";
import { excludesOf } from "../engine/transfer.ts";
import { broadcast, FileWay, framesIn } from "./bcast.ts";
import { BrokenFrame, FrameReader } from "./frames.ts";
import { connect, type Link, LinkLost } from "./links.ts";
import { type Because, failureOf, type Round, type Say } from "./messages.ts";
import { Abandoned, Receiver } from "./receive.ts";
import { type Outlet, Relay } from "./relay.ts";
import { send } from "./send.ts";

/** A copy that this node needs, and its lock. */
export interface Needed {
  step: Step;
  held: Held;
}

export interface PartOptions {
  node: string;
  order: Round;
  step: Step;
  /** Undefined where this node has the copy, and only hands it to others. */
  needed: Needed | undefined;
  config: Config;
  secret: string;
  /** Of Slurm. */
  job: string;
  preflight: boolean;
  say: Say;
  signal: AbortSignal;
}

/** Between two words of progress, in milliseconds. */
const tellEveryMs = 1000;

export class Part {
  readonly #options: PartOptions;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  #before: Link | undefined;
  #wake: ((link: Link | undefined) => void) | undefined;
  #running: Promise<boolean> | undefined;
  #unpack: (() => void) | undefined;
  readonly #handed = new Promise<void>((resolve) => {
    this.#unpack = resolve;
  });
  #ofBytes = 0;

  constructor(options: PartOptions) {
    this.#options = options;
    this.#signal = AbortSignal.any([options.signal, this.#stop.signal]);
  }

  /** The node before has come. */
  linked(link: Link): void {
    this.#before = link;
    this.#wake?.(link);
  }

  /** Some nodes are out of this round; if it is this one, it waits no longer. */
  drop(nodes: readonly string[], why: string): void {
    if (nodes.includes(this.#options.node)) this.#giveUp(new Abandoned(why));
  }

  async stop(): Promise<void> {
    this.#giveUp(new Abandoned("the staging was stopped"));
    await this.#running;
  }

  #giveUp(why: Error): void {
    this.#stop.abort(why);
    this.#before?.close();
    this.#wake?.(undefined);
    this.#unpack?.();
  }

  /** @returns whether this node has the copy now */
  run(): Promise<boolean> {
    this.#running = this.#run();
    return this.#running;
  }

  async #run(): Promise<boolean> {
    const { order, needed, say } = this.#options;
    const { round, name } = order;
    const began = performance.now();
    let receiver: Receiver | undefined;
    let timer: ReturnType<typeof setInterval> | undefined;
    let ownError: unknown;
    try {
      try {
        receiver = needed && this.#receiver(needed);
      } catch (error) {
        ownError = error; // the nodes after this one need what comes all the same
      }
      const tell = () =>
        say({
          word: "progress",
          round,
          name,
          ofBytes: this.#ofBytes,
          ...(receiver?.progress ?? { files: 0, bytes: 0 }),
        });
      timer = setInterval(tell, tellEveryMs);
      await this.#carry(receiver);
      if (ownError !== undefined) throw ownError;
      const { files, bytes } = (await receiver?.settle()) ?? { files: 0, bytes: 0 };
      say({ word: "done", round, name, files, bytes, seconds: (performance.now() - began) / 1000 });
      return true;
    } catch (error) {
      await receiver?.discard();
      const isLost = error instanceof Abandoned || error instanceof LinkLost || error instanceof BrokenFrame;
      const because: Because = error instanceof ReadFailed ? "source" : isLost ? "upstream" : "node";
      const cause = error instanceof ReadFailed ? error.cause : error;
      say({ word: "failed", round, name, because, error: failureOf(cause) });
      return false;
    } finally {
      clearInterval(timer);
    }
  }

  #receiver({ step, held }: Needed): Receiver {
    const { config, say, preflight } = this.#options;
    const { name } = step;
    return new Receiver(step, {
      held,
      verify: builtinOptions(config).verify,
      engine: chooseEngine({ ...config, rsync_extra_args: [] }),
      space: new Space(),
      quotas: quotasOnce(step.lock, { signal: this.#signal }),
      lockTimeoutS: config.lock_timeout_seconds,
      maxAgeS: config.skip_if_fresh_seconds,
      force: false,
      dryRun: false,
      preflight,
      allNames: false,
      arrival: false,
      signal: this.#signal,
      tell: (event) => event.type === "warning" && say({ word: "warning", name, message: event.message }),
    });
  }

  async #carry(receiver: Receiver | undefined): Promise<void> {
    const { order, node, say } = this.#options;
    if (order.file !== undefined) return this.#byFile(order.file, receiver);
    const outlets = await this.#outlets();
    const onLost = (next: string, why: string) => say({ word: "unreached", round: order.round, next, why });
    const relay = new Relay({ taker: receiver, outlets, onLost });
    try {
      if (order.first === node) await this.#read(relay);
      else await this.#handOn(relay);
      relay.end();
    } catch (error) {
      relay.close();
      throw error;
    }
  }

  async #outlets(): Promise<Outlet[]> {
    const { order, node, secret, say } = this.#options;
    const { round } = order;
    const links = await Promise.all(
      (order.next[node] ?? []).map(async (peer) => {
        try {
          return [{ node: peer.node, link: await connect(secret, peer, round) }];
        } catch (error) {
          if (!(error instanceof LinkLost)) throw error;
          say({ word: "unreached", round, next: peer.node, why: error.message });
          return [];
        }
      }),
    );
    return links.flat();
  }

  async #read(relay: Relay): Promise<void> {
    const { order, step, config } = this.#options;
    const isCopy = order.read === "copy";
    const base = isCopy ? readBase(step.manifest, readMarker(step.marker)?.ef?.manifest) : undefined;
    try {
      await send(
        {
          root: realPath(isCopy ? step.target : step.from),
          exclude: excluder(excludesOf(step)),
          base,
          pass: builtinOptions(config).pass,
          signal: this.#signal,
          onProgress: (_, ofBytes) => {
            this.#ofBytes = ofBytes;
          },
        },
        relay,
      );
    } catch (error) {
      this.#signal.throwIfAborted();
      throw new ReadFailed("", { cause: error instanceof NotWritten ? error.cause : error });
    }
  }

  async #handOn(relay: Relay): Promise<void> {
    const link = this.#before ?? (await new Promise<Link | undefined>((resolve) => (this.#wake = resolve)));
    this.#signal.throwIfAborted();
    if (!link) throw new Abandoned("the node before it did not come");
    const reader = new FrameReader();
    for (let chunk = await link.read(); chunk; chunk = await link.read()) {
      reader.feed(chunk);
      for (let frame = reader.next(); frame; frame = reader.next()) await relay.pass(frame);
    }
    this.#signal.throwIfAborted();
    await relay.settle();
    if (!reader.isEmpty) throw new Abandoned("what came was cut off");
  }

  /** The file of the round is there. */
  unpack(): void {
    this.#unpack?.();
  }

  async #byFile(file: string, receiver: Receiver | undefined): Promise<void> {
    const { order, node, say, job } = this.#options;
    try {
      if (order.first !== node) {
        await this.#handed;
        this.#signal.throwIfAborted();
        const relay = new Relay({ taker: receiver, outlets: [], onLost: () => {} });
        for await (const frame of framesIn(file)) await relay.pass(frame);
        return await relay.settle();
      }
      const own = `${file}.own`;
      try {
        const way = new FileWay(own);
        let lost: string | undefined;
        const onLost = (_: string, why: string) => {
          lost = why;
        };
        const relay = new Relay({ taker: receiver, outlets: [{ node, link: way }], onLost });
        try {
          await this.#read(relay);
        } finally {
          way.end();
        }
        lost ??= await broadcast(job, own, file, this.#signal).catch((error) => {
          this.#signal.throwIfAborted();
          return reasonOf(error);
        });
        if (lost === undefined) say({ word: "handed", round: order.round });
        const others = lost === undefined ? [] : Object.keys(order.next).filter((next) => next !== node);
        for (const next of others) say({ word: "unreached", round: order.round, next, why: lost ?? "" });
      } finally {
        removeIfThere(own);
      }
    } finally {
      removeIfThere(file);
    }
  }
}

/** What is to be copied cannot be read: that concerns all nodes. */
class ReadFailed extends Error {}
