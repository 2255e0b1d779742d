/**
 * A lock where flock(2) does not work: a file that is there while somebody holds it, and changes while that one lives.
 *
 * Why it is right, as far as it is:
 * - One taker: the whole content is written under a name of our own, then link(2)ed to the lease's name, which fails if
 *   that exists; atomic on NFS too. Where there are no hard links, open(2) with O_EXCL does it; others may then see an
 *   empty lease for a moment, which is one they cannot read, so they wait.
 * - A dead holder is replaced: at once if its process is known to be gone (same host: pid, start time, boot), else when
 *   the content has stood still for {@link leaseTimes}.staleMs while we watched. Only our own clock is used, and only
 *   the time between two looks that came soon after each other counts: if the server hung, it hung for the holder too.
 * - A living holder is not replaced: a stale lease is removed only by who holds the takeover lease beside it, and who
 *   then still finds what was judged stale. Without that, of two takers the slower one removes the faster one's new
 *   lease (it cost one update in about 40 takeovers here). The takeover lease is held for milliseconds; if its holder
 *   is killed in these, it is taken over without a further one.
 * - Nothing is removed unseen: it is renamed to a name of our own, read again, and goes back if it is the wrong one.
 * - A beat is written into the file we created, through its descriptor: it cannot hit the lease of somebody who took
 *   over, and needs no new block on a full disk.
 *
 * What remains: a holder stopped or cut off for staleMs, which then goes on; takers of a takeover lease at the same
 * moment; two machines with one host name. Then two hold the lease. The one that lost it finds out at its next
 * beat, and `assertHeld` throws; until then two copies run at once, which wastes work and harms nothing, as every file
 * goes through a name of its own and a rename. A lease is not inherited by rsync: that ends with ef (`guarded` in
 * exec.ts), not before it.
 */
import { randomUUID } from "node:crypto";
import {
  closeSync,
  constants,
  fchmodSync,
  fsync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  renameSync,
  writeSync,
} from "node:fs";
import * as v from "valibot";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { readOwn, removeIfThere, tempBeside } from "../base/files.ts";
import { Holder, type Identity, isAlive, thisHost } from "../drivers/host.ts";
import { removeParts } from "./temp.ts";

export interface LeaseOptions {
  /** Between two beats of a held lease. @default 5000 */
  beatMs?: number;
  /** A lease that stood still this long while it was watched is stale. @default 60000 */
  staleMs?: number;
  /** Who takes it. @default this process */
  self?: Identity;
}

const leaseTimes = { beatMs: 5_000, staleMs: 60_000 };

/** The most that counts as watched between two looks, in milliseconds. */
const maxGapMs = 2_000;

/** What is in the file; `id` is unique to one taking of the lease, `beat` counts up. */
const LeaseText = v.object({ ...Holder.entries, id: v.string(), beat: v.number() });
type LeaseText = v.InferOutput<typeof LeaseText>;
const LeaseFile = v.pipe(v.string(), v.parseJson(), LeaseText);

interface Seen {
  /** Differs when the file does: the text of a lease (its id is unique), or inode, time and text of anything else. */
  raw: string;
  /** Undefined if it is not the text of a lease. */
  lease: LeaseText | undefined;
}

/**
 * A function that tries once to take the lease at `path`. Call it again and again: it remembers how long it has seen
 * the holder's lease stand still.
 *
 * @throws {EfError} (the function) LOCK_FAILED if files cannot be made there, or a stale lease cannot be removed
 */
export function leaseTaker(path: string, options: LeaseOptions = {}): () => Lease | "held" {
  const takeover = `${path}.takeover`;
  const attempt = taker(path, options, taker(takeover, options));
  return () => {
    try {
      const lease = attempt();
      if (lease !== "held") removeLeft(path, takeover);
      return lease;
    } catch (error) {
      throw cannotTake(path, error);
    }
  };
}

/** Remove what takers of this lease left beside it when they were killed; we hold it, so nobody takes it over now. */
function removeLeft(path: string, takeover: string): void {
  removeParts([path, takeover]);
  const isDead = (seen: Seen | undefined) => seen?.lease !== undefined && isAlive(seen.lease) === "no";
  try {
    if (isDead(look(takeover))) removeIf(takeover, isDead);
  } catch {
    // the next taker finds it again
  }
}

/** @param takeGuard takes the lease under which alone a stale one may be removed */
function taker(path: string, options: LeaseOptions, takeGuard?: () => Lease | "held"): () => Lease | "held" {
  const isStale = watch(options.staleMs ?? leaseTimes.staleMs);
  return () => {
    const seen = look(path);
    if (!seen) return take(path, options);
    if (!isStale(seen)) return "held";
    const guard = takeGuard?.();
    if (guard === "held") return "held";
    using _ = guard;
    const isSame = (now: Seen | undefined) => now?.raw === seen.raw;
    return isSame(look(path)) && removeIf(path, isSame) ? take(path, options) : "held";
  };
}

/** Who holds the lease at `path`; "unknown" if its file does not tell, undefined if nobody does. Changes nothing. */
export function leaseHolder(path: string): Holder | "unknown" | undefined {
  try {
    const seen = look(path);
    if (!seen || (seen.lease && isAlive(seen.lease) === "no")) return undefined;
    return seen.lease ?? "unknown";
  } catch (error) {
    throw cannotTake(path, error);
  }
}

function cannotTake(path: string, cause: unknown): EfError {
  const mayNot = ["EACCES", "EPERM"].includes(errnoOf(cause) ?? "");
  return new EfError("LOCK_FAILED", `Cannot use lease file ${path}: ${reasonOf(cause)}`, {
    hint: mayNot ? "if it is a leftover of somebody else, ask them to remove it" : undefined,
    path,
    cause,
  });
}

function look(path: string): Seen | undefined {
  const text = readOwn(path, 4096)?.toString("utf8");
  const { success, output } = v.safeParse(LeaseFile, text);
  if (success) return { raw: String(text), lease: output };
  const stat = lstatSync(path, { throwIfNoEntry: false, bigint: true });
  if (stat?.isDirectory()) throw new Error("it is a directory");
  return stat && { raw: `${stat.ino} ${stat.mtimeNs} ${text}`, lease: undefined };
}

/** Judges what a series of looks has seen; see the head of this file. */
function watch(staleMs: number): (seen: Seen) => boolean {
  let last: { raw: string; atMs: number } | undefined;
  let stillMs = 0;
  return ({ raw, lease }) => {
    const atMs = performance.now();
    stillMs = raw === last?.raw ? stillMs + Math.min(atMs - last.atMs, maxGapMs) : 0;
    last = { raw, atMs };
    return stillMs >= staleMs || (lease !== undefined && isAlive(lease) === "no");
  };
}

/** Remove what is at `path`, if it is the right one; else leave it there. */
function removeIf(path: string, isRight: (seen: Seen | undefined) => boolean): boolean {
  const aside = tempBeside(path);
  try {
    renameSync(path, aside);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return false; // somebody else was first
    throw error;
  }
  const right = isRight(look(aside));
  if (!right) putBack(aside, path);
  removeIfThere(aside);
  return right;
}

/** Give `aside` its name back, unless that is taken again. The same inode, so that its holder's beats are seen. */
function putBack(aside: string, path: string): void {
  try {
    linkSync(aside, path);
  } catch (error) {
    if (!hasNoLinks(error)) return;
    if (lstatSync(path, { throwIfNoEntry: false }) === undefined) renameSync(aside, path);
  }
}

/** Is the file system, or `fs.protected_hardlinks` for a file of somebody else, against hard links? */
const hasNoLinks = (error: unknown) => ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(errnoOf(error) ?? "");

/** Create the file at `path` if there is none; returns its descriptor, or undefined if there is one. */
function create(path: string, text: string): number | undefined {
  const temp = tempBeside(path);
  const fd = writeNew(temp, text);
  try {
    linkSync(temp, path);
    return fd;
  } catch (error) {
    // An NFS server that was asked twice says EEXIST to the second request, although the first one made it.
    if (look(path)?.raw === text) return fd;
    closeSync(fd);
    if (hasNoLinks(error)) return writeNewIfNone(path, text);
    if (errnoOf(error) === "EEXIST") return undefined;
    throw error;
  } finally {
    removeIfThere(temp);
  }
}

function writeNewIfNone(path: string, text: string): number | undefined {
  try {
    return writeNew(path, text);
  } catch (error) {
    if (errnoOf(error) === "EEXIST") return undefined;
    throw error;
  }
}

/** Readable for everybody, whatever the umask: others must see it beat. */
function writeNew(path: string, text: string): number {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o644);
  try {
    fchmodSync(fd, 0o644);
    overwrite(fd, text);
    fsyncSync(fd); // other nodes see it only then
    return fd;
  } catch (error) {
    closeSync(fd);
    removeIfThere(path);
    throw error;
  }
}

/** Put `text`, never shorter than what was there, at the start of the file. */
function overwrite(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  if (writeSync(fd, bytes, 0, bytes.length, 0) < bytes.length) throw new Error("it could be written only in part");
}

function take(path: string, { self = thisHost(), beatMs = leaseTimes.beatMs }: LeaseOptions): Lease | "held" {
  const about = { id: randomUUID(), ...self, since: Math.floor(Date.now() / 1000) };
  const fd = create(path, textOf(about, 0));
  return fd === undefined ? "held" : new Lease(path, about, fd, beatMs);
}

type About = Omit<LeaseText, "beat">;
const textOf = (about: About, beat: number) => `${JSON.stringify({ ...about, beat })}\n`;

/** A lease that is ours until disposed. */
export class Lease implements Disposable {
  readonly #path: string;
  readonly #about: About;
  readonly #timer: ReturnType<typeof setInterval>;
  /** Of the file we made. */
  #fd: number;
  #held = true;
  #beat = 0;
  #lostTo: Holder | undefined;

  constructor(path: string, about: About, fd: number, beatMs: number) {
    this.#path = path;
    this.#about = about;
    this.#fd = fd;
    this.#timer = setInterval(() => this.#renew(), beatMs);
    this.#timer.unref();
  }

  /** Look whether it is still ours. @throws {EfError} LOCK_FAILED if somebody took it over */
  assertHeld(): void {
    this.#renew();
    if (this.#lostTo) throw lost(this.#path, this.#lostTo);
  }

  /** Never throws. */
  [Symbol.dispose](): void {
    if (!this.#held) return;
    this.#held = false;
    clearInterval(this.#timer);
    try {
      closeSync(this.#fd);
      if (this.#isOurs(look(this.#path))) removeIf(this.#path, (seen) => this.#isOurs(seen));
    } catch {
      // It stands still from now on, so others take it over; and an error of the locked section must not be hidden.
    }
  }

  #isOurs(seen: Seen | undefined): boolean {
    return seen?.lease?.id === this.#about.id;
  }

  /** Show that we live, or note that somebody took over. An attempt that fails is no loss yet. */
  #renew(): void {
    if (!this.#held || this.#lostTo) return;
    try {
      const text = textOf(this.#about, ++this.#beat);
      if (!look(this.#path)) this.#makeAgain(text);
      const seen = look(this.#path);
      if (seen?.lease && !this.#isOurs(seen)) this.#lostTo = seen.lease;
      else if (seen?.raw !== text) overwrite(this.#fd, text);
      fsync(this.#fd, () => {}); // so that NFS sends it; not waited for, as a busy disk may take seconds
    } catch {}
  }

  /** A purge removed the file. */
  #makeAgain(text: string): void {
    const fd = create(this.#path, text);
    if (fd === undefined) return;
    closeSync(this.#fd);
    this.#fd = fd;
  }
}

function lost(path: string, { host, pid }: Holder): EfError {
  return new EfError("LOCK_FAILED", `Lost lease ${path}: process ${pid} on ${host} took it over meanwhile`, {
    hint: "this process was stopped or cut off from the storage for a minute; run it again",
    path,
  });
}
