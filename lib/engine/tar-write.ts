import { constants } from "node:fs";
import { type ByteString, display } from "../base/bytes.ts";
import { oneMore } from "../base/memory.ts";
import { get, type Steps } from "../base/steps.ts";
import { Flight } from "./archive-flight.ts";
import { holds, Search } from "./archive-search.ts";
import { crew } from "./crew.ts";
import { Gauge } from "./gauge.ts";
import type { Storage } from "./storage.ts";
import { Malformed, type TarEntry } from "./tar-format.ts";
import { cleanPath, staysInside } from "./tar-links.ts";
import type { TarPart } from "./tar-read.ts";

export interface WriteOptions {
  allowLink?: ((path: ByteString, text: ByteString) => boolean) | undefined;
  onFile?: ((path: ByteString, content: Uint8Array) => void) | undefined;
  find?: (() => readonly Uint8Array[]) | undefined;
  /** Modification times to the nanosecond, which an archive has to the second; undefined for the archive's. */
  mtimeNs?: ((path: ByteString) => bigint | undefined) | undefined;
  /** Leave holes where there are zeros: an archive has all of them. @default false */
  holes?: boolean;
}

class Dir {
  /** It is being made; whatever goes into it waits. */
  ready: Promise<void> | undefined;
  mode: number | undefined;
  mtimeS: number | undefined;
  constructor(readonly path: ByteString) {}
}

class Link {
  /** It leaves the root and is wanted all the same. */
  isWanted = false;
  constructor(
    readonly path: ByteString,
    readonly text: ByteString,
    readonly mtimeS: number,
  ) {}
}

/** A file whose contents come in parts. */
interface Large {
  fd: number;
  path: ByteString;
  entry: TarEntry;
  search: Search | undefined;
}

/** Set-user-ID and set-group-ID are never taken from an archive. */
const keptMode = 0o1777;

const nsOf = (seconds: number): bigint => BigInt(seconds) * 1_000_000_000n;

/** What file systems hand out at least, in bytes. */
const blockBytes = 4096;
const zeros = Buffer.alloc(blockBytes);

/** The parts of a piece that are not zero, in whole blocks: where each begins and ends. */
function* runsOf(bytes: Uint8Array): Generator<readonly [from: number, to: number]> {
  let from = 0;
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const to = Math.min(at + blockBytes, bytes.length);
    if (zeros.compare(bytes, at, to, 0, to - at) !== 0) continue;
    if (from < at) yield [from, at];
    from = to;
  }
  if (from < bytes.length) yield [from, bytes.length];
}

/** Makes the tree of an archive: {@link TreeWriter.add} each part, then {@link TreeWriter.finish}; or stop. */
export class TreeWriter {
  files = 0;
  contentBytes = 0;
  readonly mentions: ByteString[] = [];
  /** What could not be written. */
  at: ByteString | undefined;

  readonly #root: ByteString;
  readonly #storage: Storage;
  readonly #options: WriteOptions;
  readonly #flight = new Flight();
  readonly #umask = process.umask();
  /** All there is by its path; a regular file as the path under which it was made. */
  readonly #nodes = new Map<ByteString, Dir | Link | ByteString>();
  readonly #dirs: Dir[] = [];
  readonly #links: Link[] = [];
  readonly #hardLinks: { path: ByteString; origin: ByteString }[] = [];
  readonly #top = new Dir("");
  /** The directory of the entry before. */
  #last = this.#top;
  #large: Large | undefined;

  /** @param root absolute, empty */
  constructor(root: ByteString, storage: Storage, options: WriteOptions) {
    this.#root = root;
    this.#storage = storage;
    this.#options = options;
  }

  /**
   * Write a part, in the order of the archive. If it gives a promise, wait for that before the next one.
   *
   * @throws {Malformed} before anything of it is written; what the storage says of this or an earlier part
   */
  add(part: TarPart): Promise<void> | undefined {
    const { entry, bytes, at } = part;
    this.#flight.check();
    if (at > 0) return this.#more(bytes, at);
    oneMore();
    const path = cleanPath(entry.path, entry.type === "dir" ? "dir" : "other");
    switch (entry.type) {
      case "dir":
        this.#addDir(path, entry);
        break;
      case "file":
        if (bytes.length < entry.size) return this.#begin(path, part);
        this.#addFile(path, part);
        break;
      case "link":
        this.#addLink(path, entry);
        break;
      case "hardlink":
        this.#addHardLink(path, entry);
        break;
    }
    return this.#flight.isFull ? this.#flight.room() : undefined;
  }

  /** Wait until all that was added is written. */
  async settle(): Promise<void> {
    await this.#flight.landed();
    this.#flight.check();
  }

  /** Give up: nothing is written any more when this is done. */
  async stop(): Promise<void> {
    await this.#flight.landed();
    if (this.#large) await this.#storage.close(this.#large.fd);
    this.#large = undefined;
  }

  #addDir(path: ByteString, { mode, mtimeS }: TarEntry): void {
    if (path === "") return;
    const known = this.#nodes.get(path);
    if (known !== undefined && !(known instanceof Dir)) throw new Malformed("is there twice");
    const dir = known ?? this.#makeDir(path);
    dir.mode = mode & keptMode;
    dir.mtimeS = mtimeS;
  }

  #makeDir(path: ByteString): Dir {
    const parent = this.#parentOf(path);
    const dir = new Dir(path);
    this.#nodes.set(path, dir);
    this.#dirs.push(dir);
    const making = this.#flight.start(this.#told(path, this.#mkdir(dir, parent)));
    if (making instanceof Promise) {
      dir.ready = making.then(() => {
        dir.ready = undefined;
      });
      dir.ready.catch(() => {}); // the flight knows
    }
    return dir;
  }

  *#mkdir({ path }: Dir, parent: Dir): Steps<void> {
    if (parent.ready !== undefined) yield parent.ready;
    yield* get(this.#storage.mkdir(this.#below(path), 0o700));
  }

  /** The directory that a path lies in, made where the archive has not named it before. */
  #parentOf(path: ByteString): Dir {
    const slash = path.lastIndexOf("/");
    if (slash === -1) return this.#top;
    if (this.#last.path.length === slash && path.startsWith(this.#last.path)) return this.#last;
    const above = path.slice(0, slash);
    const known = this.#nodes.get(above);
    if (known !== undefined && !(known instanceof Dir))
      throw new Malformed(`lies below a ${known instanceof Link ? "symbolic link" : "file"} of the archive`);
    this.#last = known ?? this.#makeDir(above);
    return this.#last;
  }

  /** The directory of a new entry that is none itself. */
  #place(path: ByteString): Dir {
    if (this.#nodes.has(path)) throw new Malformed("is there twice");
    return this.#parentOf(path);
  }

  #addFile(path: ByteString, { entry, bytes }: TarPart): void {
    const dir = this.#place(path);
    this.#nodes.set(path, path);
    this.#options.onFile?.(path, bytes);
    const needles = this.#needles();
    if (needles && holds(bytes, needles)) this.mentions.push(path);
    if (dir.ready === undefined && this.#writeNow(path, entry, bytes)) return;
    const writing = this.#flight.start(this.#told(path, this.#write(path, dir, entry, bytes)));
    if (!(writing instanceof Promise)) return;
    writing.catch(() => {}); // the flight knows
  }

  /** On quick storage, where the permissions need no call of their own; false elsewhere. */
  #writeNow(path: ByteString, entry: TarEntry, bytes: Uint8Array): boolean {
    const { mode, size } = entry;
    const kept = mode & keptMode;
    if ((kept & this.#umask) !== 0 || (this.#options.holes && bytes.length >= 4 * blockBytes)) return false;
    try {
      if (!this.#storage.putNew(this.#below(path), kept, bytes, this.#timeOf(path, entry.mtimeS))) return false;
    } catch (error) {
      this.at ??= path;
      throw error;
    }
    this.files++;
    this.contentBytes += size;
    return true;
  }

  *#write(path: ByteString, dir: Dir, entry: TarEntry, bytes: Uint8Array): Steps<void> {
    const fd = yield* this.#open(path, dir);
    try {
      yield* this.#put(fd, bytes, 0);
      yield* this.#dress(fd, path, entry);
    } catch (error) {
      yield* get(this.#storage.close(fd));
      throw error;
    }
    yield* get(this.#storage.close(fd));
    this.files++;
    this.contentBytes += entry.size;
  }

  *#open(path: ByteString, dir: Dir): Steps<number> {
    if (dir.ready !== undefined) yield dir.ready;
    const { O_WRONLY, O_CREAT, O_EXCL } = constants;
    return yield* get(this.#storage.open(this.#below(path), O_WRONLY | O_CREAT | O_EXCL, 0o600));
  }

  *#put(fd: number, bytes: Uint8Array, position: number): Steps<void> {
    const runs = this.#options.holes ? runsOf(bytes) : [[0, bytes.length] as const];
    for (const [from, to] of runs)
      for (let at = from; at < to; ) at += yield* get(this.#storage.write(fd, bytes, at, to - at, position + at));
  }

  *#dress(fd: number, path: ByteString, { mode, mtimeS, size }: TarEntry): Steps<void> {
    if (this.#options.holes) yield* get(this.#storage.truncate(fd, size));
    yield* get(this.#storage.fchmod(fd, mode & keptMode));
    yield* get(this.#storage.setTimesOf(fd, this.#timeOf(path, mtimeS)));
  }

  async #begin(path: ByteString, { entry, bytes }: TarPart): Promise<void> {
    const dir = this.#place(path);
    this.#nodes.set(path, path);
    const needles = this.#needles();
    const fd = await this.#flight.start(this.#told(path, this.#open(path, dir)));
    this.#large = { fd, path, entry, search: needles && new Search(needles) };
    await this.#more(bytes, 0);
  }

  async #more(bytes: Uint8Array, at: number): Promise<void> {
    const { fd, path, entry, search } = this.#large as Large;
    search?.in(bytes);
    await this.#flight.start(this.#told(path, this.#put(fd, bytes, at)));
    if (at + bytes.length < entry.size) return;
    await this.#flight.start(this.#told(path, this.#dress(fd, path, entry)));
    this.#large = undefined;
    await this.#storage.close(fd);
    if (search?.found) this.mentions.push(path);
    this.files++;
    this.contentBytes += entry.size;
  }

  #timeOf(path: ByteString, mtimeS: number): bigint {
    return this.#options.mtimeNs?.(path) ?? nsOf(mtimeS);
  }

  #needles(): Uint8Array[] | undefined {
    const needles = this.#options.find?.().filter(({ length }) => length > 0);
    return needles?.length ? needles : undefined;
  }

  #addLink(path: ByteString, { link: text, mtimeS }: TarEntry): void {
    this.#place(path);
    if (text === "" || text.includes("\0")) throw new Malformed("is a symbolic link to no name");
    const link = new Link(path, text, mtimeS);
    this.#checkLink(link, () => undefined);
    this.#nodes.set(path, link);
    this.#links.push(link);
  }

  #checkLink(link: Link, linkAt: Parameters<typeof staysInside>[2]): void {
    const { path, text } = link;
    if (link.isWanted || staysInside(path, text, linkAt)) return;
    link.isWanted = this.#options.allowLink?.(path, text) ?? false;
    if (!link.isWanted) throw new Malformed(`is a symbolic link that leaves the archive, to ${display(text)}`, path);
  }

  #addHardLink(path: ByteString, { link }: TarEntry): void {
    this.#place(path);
    const origin = this.#nodes.get(cleanPath(link, "other"));
    if (typeof origin !== "string") throw new Malformed("is a hard link to what is no file before it");
    this.#nodes.set(path, origin);
    this.#hardLinks.push({ path, origin });
    if (this.mentions.includes(origin)) this.mentions.push(path);
  }

  /**
   * Make links, and give directories their modes and times.
   *
   * @throws {Malformed} before any symbolic link is made
   */
  async finish(signal: AbortSignal | undefined): Promise<void> {
    const gauge = new Gauge();
    const storage = this.#storage;
    const each = async <T extends { path: ByteString }>(
      items: T[],
      work: (item: T, path: ByteString) => Steps<void>,
    ) => {
      let next = 0;
      const told = (item: T) => this.#told(item.path, work(item, this.#below(item.path)));
      await crew(() => items[next++], told, { gauge, signal });
    };
    const linkAt = (path: ByteString) => {
      const node = this.#nodes.get(path);
      return node instanceof Link ? (node.isWanted ? null : node.text) : undefined;
    };
    for (const link of this.#links) this.#checkLink(link, linkAt);

    await each(
      this.#hardLinks,
      function* (this: TreeWriter, { origin }: { origin: ByteString }, path: ByteString) {
        yield* get(storage.link(this.#below(origin), path));
      }.bind(this),
    );
    this.files += this.#hardLinks.length;
    const timeOf = (path: ByteString, mtimeS: number) => this.#timeOf(path, mtimeS);
    await each(this.#links, function* ({ path: own, text, mtimeS }, path) {
      yield* get(storage.symlink(text, path));
      yield* get(storage.setTimes(path, timeOf(own, mtimeS)));
    });
    const unnamed = 0o777 & ~process.umask();
    await each(this.#dirs, function* ({ path: own, mode = unnamed, mtimeS }, path) {
      if (mtimeS !== undefined) yield* get(storage.setTimes(path, timeOf(own, mtimeS)));
      if (isOpen(mode)) yield* get(storage.chmod(path, mode));
    });
    // What is below one that cannot be entered any more cannot be changed: they come last, from below.
    for (const { path, mode } of this.#dirs.reverse())
      if (mode !== undefined && !isOpen(mode)) await storage.chmod(this.#below(path), mode);
  }

  /** Keeps what could not be written. */
  *#told<T>(path: ByteString, steps: Steps<T>): Steps<T> {
    try {
      return yield* steps;
    } catch (error) {
      this.at ??= path;
      throw error;
    }
  }

  #below(path: ByteString): ByteString {
    return `${this.#root}/${path}`;
  }
}

/** Can its owner do all with it? */
const isOpen = (mode: number) => (mode & 0o700) === 0o700;
