/** Make a copy on this node's own disk from frames, and show it when all of it is there and as it must be. */
import { appendFileSync, chmodSync, constants, mkdirSync, readdirSync, renameSync, rmdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { type ByteString, bytesOf, display } from "../base/bytes.ts";
import { crc32 } from "../base/crc.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { thisHost } from "../drivers/host.ts";
import { baseOf, timesOf } from "../engine/base.ts";
import { type BringContext, copy } from "../engine/bring.ts";
import { sidesOf } from "../engine/builtin.ts";
import { type Diff, diff } from "../engine/diff.ts";
import { Gauge } from "../engine/gauge.ts";
import type { Held } from "../engine/lock.ts";
import { type Base, readBase } from "../engine/manifest.ts";
import { movedFrom, newestMtime, notesOf, originRun, removeMarker, writeMarker } from "../engine/marker.ts";
import type { Step } from "../engine/plan.ts";
import { scan } from "../engine/scan.ts";
import type { Storage } from "../engine/storage.ts";
import { tally } from "../engine/tally.ts";
import { cleanPath } from "../engine/tar-links.ts";
import { type TarPart, TarReader } from "../engine/tar-read.ts";
import { TreeWriter } from "../engine/tar-write.ts";
import { removeLeftovers, tempDirFor } from "../engine/temp.ts";
import type { Frame } from "./frames.ts";
import type { Taker } from "./relay.ts";
import type { Total } from "./send.ts";

/** The node before had to stop, for this reason. */
export class Abandoned extends Error {}

export interface ReceiveContext extends BringContext {
  /** The lock of the copy. */
  held: Held;
  /** Read every file again when it is written. */
  verify: boolean;
}

/** A copy in the making. When it fails it takes no more, and says so in {@link Receiver.settle}. */
export class Receiver implements Taker {
  readonly #step: Step;
  readonly #context: ReceiveContext;
  readonly #reader = new TarReader();
  /** Checksums of the files' contents as they came, by path, where they are to be verified. */
  readonly #sums = new Map<ByteString, number>();
  readonly #temp: Disposable & { path: string };
  readonly #tree: string;
  /** Of the copy that is read, before it is read: a sync there meanwhile makes this copy a stale one. */
  readonly #run: string | undefined;
  #base: Base | undefined;
  #storage: Storage | undefined;
  #writer: TreeWriter | undefined;
  #total: Total | undefined;
  #error: unknown;

  constructor(step: Step, context: ReceiveContext) {
    this.#step = step;
    this.#context = context;
    this.#run = originRun(step);
    removeLeftovers(step.temp, notesOf(step));
    this.#temp = tempDirFor(dirname(step.target), step.temp);
    this.#tree = join(this.#temp.path, "tree");
  }

  /** So far. */
  get progress(): Total {
    return { files: this.#writer?.files ?? 0, bytes: this.#writer?.contentBytes ?? 0 };
  }

  async take({ kind, content }: Frame): Promise<void> {
    if (this.#error !== undefined) return;
    try {
      this.#context.signal?.throwIfAborted();
      if (kind === "table") appendFileSync(this.#table, content);
      else if (kind === "data") await this.#add(content);
      else if (kind === "end") this.#total = JSON.parse(content.toString()) as Total;
      else throw new Abandoned(content.toString());
    } catch (error) {
      this.fail(error);
    }
  }

  /** It cannot become a copy any more. */
  fail(error: unknown): void {
    this.#error ??= error;
  }

  get #table(): string {
    return join(this.#temp.path, "table");
  }

  async #add(piece: Buffer): Promise<void> {
    const writer = this.#writer ?? (await this.#begin());
    this.#reader.feed(piece);
    for (let part = this.#reader.next(); part; part = this.#reader.next()) {
      if (this.#context.verify && part.entry.type === "file") this.#sum(part);
      const wait = writer.add(part);
      if (wait !== undefined) await wait;
    }
  }

  #sum({ entry, bytes, at }: TarPart): void {
    const path = cleanPath(entry.path, "other");
    this.#sums.set(path, crc32(bytes, at > 0 ? this.#sums.get(path) : undefined));
  }

  async #readBack(): Promise<void> {
    const storage = this.#storage as Storage;
    const piece = Buffer.allocUnsafe(1 << 20);
    for (const [path, sum] of this.#sums) {
      this.#context.signal?.throwIfAborted();
      const fd = await storage.open(`${bytesOf(this.#tree)}/${path}`, constants.O_RDONLY, 0);
      let found = 0;
      let at = 0;
      try {
        for (let got = -1; got !== 0; at += got) {
          got = await storage.read(fd, piece, 0, piece.length, at);
          found = crc32(piece.subarray(0, got), found);
        }
      } finally {
        await storage.close(fd);
      }
      if (found !== sum) throw notSame(this.#step, display(path));
    }
  }

  async #begin(): Promise<TreeWriter> {
    const base = readBase(this.#table);
    if (!base) throw new EfError("BAD_ARCHIVE", "Cannot read the table of the copy: it is damaged");
    this.#base = base;
    const { preflight, space, quotas } = this.#context;
    const { tree } = base;
    if (preflight) {
      let bytes = 0;
      for (let row = 0; row < tree.length; row++) if (tree.kind(row) === "file") bytes += tree.size[row] as number;
      space.reserve(this.#step.name, this.#step.target, { bytes, inodes: tree.length }, await quotas());
    }
    this.#storage = (await sidesOf("auto")).target;
    mkdirSync(this.#tree, { mode: 0o700 });
    const mtimeNs = (path: string) => {
      const row = tree.find(path);
      return row === undefined ? undefined : tree.mtime[row];
    };
    this.#writer = new TreeWriter(bytesOf(this.#tree), this.#storage, { allowLink: () => true, mtimeNs, holes: true });
    return this.#writer;
  }

  /**
   * Check what was made, and put it in its place.
   *
   * @throws {EfError}; {@link Abandoned}; the signal's reason
   */
  async settle(): Promise<Total> {
    try {
      if (this.#error !== undefined) throw this.#error;
      const [writer, base, total] = [this.#writer, this.#base, this.#total];
      if (!writer || !base || !total) throw new Abandoned("what came was cut off");
      this.#reader.finish();
      await writer.settle();
      await writer.finish(this.#context.signal);
      await this.#readBack();
      if (writer.files !== total.files || writer.contentBytes !== total.bytes)
        throw new EfError("BAD_ARCHIVE", "Cannot use what came: it is not all that was sent");
      await this.#show(base);
      return total;
    } catch (error) {
      await this.#writer?.stop();
      this.#context.signal?.throwIfAborted();
      throw this.#explain(error);
    } finally {
      this.#temp[Symbol.dispose]();
    }
  }

  /** Leave nothing behind. */
  async discard(): Promise<void> {
    this.fail(new Abandoned("it was given up"));
    await this.#writer?.stop();
    this.#temp[Symbol.dispose]();
  }

  async #show(base: Base): Promise<void> {
    const { step, tree: root } = { step: this.#step, tree: this.#tree };
    const storage = this.#storage as Storage;
    const mode = (base.tree.mode[0] as number) & 0o777;
    chmodSync(root, mode | 0o700); // one that may not be written to cannot be moved
    await this.#restoreSpecialModes(base, storage);
    await storage.setTimes(bytesOf(root), base.tree.mtime[0] as bigint);
    const { signal, held } = this.#context;
    const made = await scan(bytesOf(root), { storage, gauge: new Gauge(), signal });
    const found = diff(base.tree, made.tree, {}, { mirror: false, arrival: undefined, workSinceNs: 0n });
    assertSame(step, found);
    held.assertHeld();
    if (!isFree(step.target)) return this.#merge();
    removeMarker(
      step,
      baseOf(found, undefined, (row) => base.tree.mtime[row] as bigint),
    );
    renameSync(root, step.target);
    chmodSync(step.target, mode);
    const { host, job } = thisHost();
    const by = {
      host,
      ...(job === undefined ? {} : { job }),
      ...(this.#run === undefined ? {} : { from_manifest: this.#run }),
    };
    writeMarker(step, newestMtime(step.target, base.tree), timesOf(found), baseOf(found, undefined), by);
  }

  /** Set-user-ID and set-group-ID of files, which are not taken from an archive. */
  async #restoreSpecialModes({ tree }: Base, storage: Storage): Promise<void> {
    for (let row = 1; row < tree.length; row++) {
      const mode = tree.permissions(row);
      if (tree.kind(row) === "file" && (mode & 0o6000) !== 0)
        await storage.chmod(`${bytesOf(this.#tree)}/${tree.path(row)}`, mode);
    }
  }

  /** There is a copy already, perhaps with a job's work in it: it gets what is new, as from a sync. */
  async #merge(): Promise<void> {
    const step = { ...this.#step, from: this.#tree };
    await copy(step, { why: "" }, this.#context.held, { ...this.#context, preflight: false });
    movedFrom(step, this.#step.from, this.#run);
  }

  #explain(error: unknown): unknown {
    if (error instanceof EfError || error instanceof Abandoned) return error;
    const { target } = this.#step;
    const errno = errnoOf(error);
    const at = this.#writer?.at;
    const place = at === undefined ? target : `${target}/${display(at)}`;
    const isFull = errno === "ENOSPC" || errno === "EDQUOT";
    return new EfError(isFull ? "NO_SPACE" : "IO", `Cannot write ${place}: ${reasonOf(error)}`, {
      hint: isFull ? "make room on that node's disk, or set ef.node_local_base to another one" : undefined,
      path: place,
      cause: error,
    });
  }
}

/** Is there nothing in the place of the copy? An empty directory is made away. */
function isFree(target: string): boolean {
  try {
    if (readdirSync(target).length > 0) return false;
    rmdirSync(target);
    return true;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return true;
    throw error;
  }
}

/** @throws {EfError} BAD_ARCHIVE with what differs */
function assertSame(step: Step, found: Diff): void {
  const { files, newInodes, links, symlinks, names, blocked, kept } = tally(found, false);
  if (files + newInodes + links + symlinks + blocked.length + kept.length > 0)
    throw notSame(step, names[0] ?? blocked[0] ?? kept[0] ?? "");
}

function notSame({ target }: Step, what: string): EfError {
  const message = `Cannot use the copy for ${target}: ${what} is not what was sent`;
  return new EfError("BAD_ARCHIVE", message, { hint: "run it again", path: target });
}
