/**
 * The file-system calls of a transfer on one side, source or target: the one door through which they all go.
 *
 * Each answers at once where the storage is quick, and through the thread pool, many at a time, where it is slow
 * ({@link Maybe}). Which of the two is found out by doing: calls are synchronous until most of a few took long. Errors are
 * those of node:fs, with `code` and `path`. Links at the end of a path are never followed.
 */
import * as fs from "node:fs";
import { type ByteString, osPath } from "../base/bytes.ts";
import { asSeconds, futimes, futimesSync, linkEncoding, linkText } from "../base/runtimes.ts";
import { get, type Maybe, type Steps } from "../base/steps.ts";
import type { Libc } from "../drivers/libc.ts";
import type { Look, Looks } from "../drivers/statx.ts";

/** A call that takes longer, in milliseconds, goes over a network or to a disk. */
const slowMs = 0.2;
/** And so much longer for each byte: 1 GB/s. */
const slowMsPerByte = 1e-6;

/** The first calls take long because their code is new. */
const warmUp = 2;

/**
 * Calls of one sort: quick until most of the first eight are slow, later until half of many in a row are: a busy machine
 * has slow moments, slow storage is always slow.
 */
class Pace {
  quick = true;
  #calls = -warmUp;
  #slow = 0;
  #window: number;

  constructor(window = 8) {
    this.#window = window;
  }

  took(ms: number, bytes = 0): void {
    if (this.#calls < 0) return void this.#calls++;
    if (ms > slowMs + bytes * slowMsPerByte) this.#slow++;
    if (++this.#calls < this.#window) return;
    if (this.#slow * 4 >= this.#calls * (this.#window === 8 ? 3 : 2)) this.quick = false;
    this.#calls = 0;
    this.#slow = 0;
    this.#window = 128;
  }
}

/** What node:fs says of a path, as a look. */
export const lookOf = (stat: fs.BigIntStats): Look => ({
  mode: Number(stat.mode),
  size: Number(stat.size),
  mtimeNs: stat.mtimeNs,
  mtimeS: Math.floor(Number(stat.mtimeMs) / 1000),
  mtimeRest: Number(stat.mtimeNs % 1_000_000_000n),
  nlink: Number(stat.nlink),
  blocks: Number(stat.blocks),
  inode: () => `${stat.dev}:${stat.ino}`,
});

const big = { bigint: true } as const;
const absent = { bigint: true, throwIfNoEntry: false } as const;

type Done<T> = (error: NodeJS.ErrnoException | null, value: T) => void;

export class Storage {
  /** Calls with a path. */
  readonly #meta = new Pace();
  /** Calls on an open file that move no data: mostly answered by the client's own memory. */
  readonly #handle = new Pace();
  readonly #data = new Pace();
  /** Setting times, which is exact to the nanosecond only where it is quick: not given up because of a busy moment. */
  readonly #times = new Pace(128);
  readonly #libc: Libc | undefined;
  readonly #looks: Looks | undefined;

  /** @param libc what node:fs lacks; without it times are exact to the microsecond only */
  constructor(libc: Libc | undefined, looks?: Looks) {
    this.#libc = libc;
    this.#looks = looks;
  }

  /** Are calls answered at once? */
  get isQuick(): boolean {
    return this.#meta.quick;
  }

  /** Have a call with a path go to the thread pool from now on. */
  useThreads(): void {
    this.#meta.quick = false;
    this.#data.quick = false;
  }

  lstat(path: ByteString): Maybe<fs.BigIntStats> {
    const at = osPath(path);
    return this.#ask(
      this.#meta,
      () => fs.lstatSync(at, big),
      (done) => fs.lstat(at, big, done),
    );
  }

  /** The same; undefined where nothing is. */
  lookUp(path: ByteString): Maybe<fs.BigIntStats | undefined> {
    const at = osPath(path);
    return this.#ask<fs.BigIntStats | undefined>(
      this.#meta,
      () => fs.lstatSync(at, absent),
      (done) =>
        fs.lstat(at, big, (error, stat) => (error?.code === "ENOENT" ? done(null, undefined) : done(error, stat))),
    );
  }

  /** The same, of less: what a scan keeps. */
  glance(path: ByteString): Maybe<Look | undefined> {
    const at = osPath(path);
    return this.#ask<Look | undefined>(
      this.#meta,
      () => {
        const look = this.#looks?.path(at);
        if (look !== null && this.#looks) return look;
        const stat = fs.lstatSync(at, absent);
        return stat && lookOf(stat);
      },
      (done) =>
        fs.lstat(at, big, (error, stat) =>
          error?.code === "ENOENT" ? done(null, undefined) : done(error, stat && lookOf(stat)),
        ),
    );
  }

  /**
   * Glance at some names of a directory at once, where that is quick; undefined where it is not.
   *
   * @returns for each name its look, undefined where nothing is, null where it has to be asked for alone
   */
  glanceAll(directory: ByteString, names: readonly ByteString[]): (Look | undefined | null)[] | undefined {
    const looks = this.#looks;
    if (!looks || !this.#meta.quick) return undefined;
    const from = performance.now();
    let fd: number;
    try {
      fd = fs.openSync(osPath(directory), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
    } catch {
      return undefined; // each of them will say why
    }
    try {
      return names.map((name) => looks.within(fd, osPath(name)));
    } finally {
      fs.closeSync(fd);
      const each = (performance.now() - from) / names.length;
      for (let i = 0; i < names.length; i++) this.#meta.took(each);
    }
  }

  /** Names in a directory, in no order. */
  list(path: ByteString): Maybe<ByteString[]> {
    const at = osPath(path);
    return this.#ask<ByteString[]>(
      this.#meta,
      () => fs.readdirSync(at, { encoding: "latin1" }),
      (done) => fs.readdir(at, { encoding: "latin1" }, done),
    );
  }

  readlink(path: ByteString): Maybe<ByteString> {
    const at = osPath(path);
    return this.#ask<ByteString>(
      this.#meta,
      () => linkText(fs.readlinkSync(at, linkEncoding)),
      (done) => fs.readlink(at, linkEncoding, (error, text) => done(error, error ? "" : linkText(text))),
    );
  }

  /** @param flags of open(2); O_NOFOLLOW, O_CLOEXEC and (against FIFOs) O_NONBLOCK are added */
  open(path: ByteString, flags: number, mode = 0o600): Maybe<number> {
    const at = osPath(path);
    const all = flags | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK;
    return this.#ask(
      this.#meta,
      () => fs.openSync(at, all, mode),
      (done) => fs.open(at, all, mode, done),
    );
  }

  /**
   * Make a small file with its contents, permissions and time, in one go: where that is quick. A file that could not be
   * written whole is left behind.
   *
   * @param mode less the umask
   * @returns false where it is not quick; nothing was done then
   */
  putNew(path: ByteString, mode: number, bytes: Uint8Array, mtimeNs: bigint): boolean {
    const libc = this.#libc;
    if (!libc || !this.#meta.quick || !this.#data.quick) return false;
    const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = fs.constants;
    const from = performance.now();
    const fd = fs.openSync(osPath(path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
    try {
      for (let at = 0; at < bytes.length; ) at += fs.writeSync(fd, bytes, at, bytes.length - at);
      libc.setMtimeFd(fd, mtimeNs);
    } finally {
      fs.closeSync(fd);
    }
    this.#meta.took((performance.now() - from) / 4, bytes.length / 4); // four calls
    return true;
  }

  fstat(fd: number): Maybe<fs.BigIntStats> {
    return this.#ask(
      this.#handle,
      () => fs.fstatSync(fd, { bigint: true }),
      (done) => fs.fstat(fd, { bigint: true }, done),
    );
  }

  /** What is known of an open file that was just read: see {@link Looks.known}. */
  known(fd: number): Maybe<Pick<Look, "size" | "mtimeNs">> {
    const look = this.#looks?.known(fd);
    if (look) return look;
    const asked = this.fstat(fd);
    return asked instanceof Promise ? asked.then(lookOf) : lookOf(asked);
  }

  close(fd: number): Maybe<void> {
    return this.#ask<void>(
      this.#handle,
      () => fs.closeSync(fd),
      (done) => fs.close(fd, done as fs.NoParamCallback),
    );
  }

  /** As pread(2); may read less than asked. */
  read(fd: number, into: Uint8Array, at: number, length: number, position: number): Maybe<number> {
    return this.#ask(
      this.#data,
      () => fs.readSync(fd, into, at, length, position),
      (done) => fs.read(fd, into, at, length, position, done),
      length,
    );
  }

  /** As pwrite(2); may write less than asked. */
  write(fd: number, from: Uint8Array, at: number, length: number, position: number): Maybe<number> {
    return this.#ask(
      this.#data,
      () => fs.writeSync(fd, from, at, length, position),
      (done) => fs.write(fd, from, at, length, position, done),
      length,
    );
  }

  truncate(fd: number, length: number): Maybe<void> {
    return this.#ask<void>(
      this.#data,
      () => fs.ftruncateSync(fd, length),
      (done) => fs.ftruncate(fd, length, done as fs.NoParamCallback),
    );
  }

  /** To the disk (fdatasync(2)): never quick. */
  sync(fd: number): Promise<void> {
    return viaPool<void>((done) => fs.fdatasync(fd, done as fs.NoParamCallback));
  }

  fchmod(fd: number, mode: number): Maybe<void> {
    return this.#ask<void>(
      this.#meta,
      () => fs.fchmodSync(fd, mode),
      (done) => fs.fchmod(fd, mode, done as fs.NoParamCallback),
    );
  }

  chmod(path: ByteString, mode: number): Maybe<void> {
    const at = osPath(path);
    return this.#ask<void>(
      this.#meta,
      () => fs.chmodSync(at, mode),
      (done) => fs.chmod(at, mode, done as fs.NoParamCallback),
    );
  }

  /** Set the modification time of an open file; the access time becomes now, which is true. */
  setTimesOf(fd: number, mtimeNs: bigint): Maybe<void> {
    const libc = this.#libc;
    return this.#ask<void>(
      this.#times,
      () => (libc ? libc.setMtimeFd(fd, mtimeNs) : futimesSync(fd, Date.now() / 1000, asSeconds(mtimeNs))),
      (done) => futimes(fd, Date.now() / 1000, asSeconds(mtimeNs), done as fs.NoParamCallback),
    );
  }

  /** The same by path, of a link itself. */
  setTimes(path: ByteString, mtimeNs: bigint): Maybe<void> {
    const at = osPath(path);
    const libc = this.#libc;
    return this.#ask<void>(
      this.#times,
      () => (libc ? libc.setMtime(at, mtimeNs) : fs.lutimesSync(at, Date.now() / 1000, asSeconds(mtimeNs))),
      (done) => fs.lutimes(at, Date.now() / 1000, asSeconds(mtimeNs), done as fs.NoParamCallback),
    );
  }

  mkdir(path: ByteString, mode: number): Maybe<void> {
    const at = osPath(path);
    return this.#ask<void>(
      this.#meta,
      () => void fs.mkdirSync(at, mode),
      (done) => fs.mkdir(at, mode, done as fs.NoParamCallback),
    );
  }

  rename(from: ByteString, to: ByteString): Maybe<void> {
    const [a, b] = [osPath(from), osPath(to)];
    return this.#ask<void>(
      this.#meta,
      () => fs.renameSync(a, b),
      (done) => fs.rename(a, b, done as fs.NoParamCallback),
    );
  }

  /**
   * Rename, but never over something; in one step where that can be had, else after a look.
   *
   * @returns false if something is there
   */
  *renameNew(from: ByteString, to: ByteString): Steps<boolean> {
    if (this.#meta.quick && this.#libc) {
      const began = performance.now();
      const done = this.#libc.renameNew(osPath(from), osPath(to));
      this.#meta.took(performance.now() - began);
      if (done !== undefined) return done;
    }
    if (yield* get(this.lookUp(to))) return false;
    yield* get(this.rename(from, to));
    return true;
  }

  link(existing: ByteString, name: ByteString): Maybe<void> {
    const [a, b] = [osPath(existing), osPath(name)];
    return this.#ask<void>(
      this.#meta,
      () => fs.linkSync(a, b),
      (done) => fs.link(a, b, done as fs.NoParamCallback),
    );
  }

  symlink(text: ByteString, path: ByteString): Maybe<void> {
    const [a, b] = [osPath(text), osPath(path)];
    return this.#ask<void>(
      this.#meta,
      () => fs.symlinkSync(a, b),
      (done) => fs.symlink(a, b, null, done as fs.NoParamCallback),
    );
  }

  unlink(path: ByteString): Maybe<void> {
    const at = osPath(path);
    return this.#ask<void>(
      this.#meta,
      () => fs.unlinkSync(at),
      (done) => fs.unlink(at, done as fs.NoParamCallback),
    );
  }

  rmdir(path: ByteString): Maybe<void> {
    const at = osPath(path);
    return this.#ask<void>(
      this.#meta,
      () => fs.rmdirSync(at),
      (done) => fs.rmdir(at, done as fs.NoParamCallback),
    );
  }

  /** Ask here and now while that is quick, else through the pool. */
  #ask<T>(pace: Pace, now: () => T, pool: (done: Done<T>) => void, bytes = 0): Maybe<T> {
    if (!pace.quick) return viaPool(pool);
    const from = performance.now();
    try {
      return now();
    } finally {
      pace.took(performance.now() - from, bytes);
      // Reading from storage whose names take long takes long as well: no need to find that out again.
      if (!this.#meta.quick) this.#data.quick = false;
    }
  }
}

function viaPool<T>(ask: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => ask((error, value) => (error ? reject(error) : resolve(value))));
}
