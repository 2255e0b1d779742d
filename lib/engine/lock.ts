/**
 * One copy at a time: an exclusive flock(2) on a file that euler-files locks too, so that the two exclude each other.
 *
 * Why it is right:
 * - We open the file, flock(1) locks our open file description (lib/drivers/flock.ts). The kernel frees it when the
 *   last descriptor is closed: however ef ends, and not before a child that inherited `fd` (rsync) has ended.
 * - No stale locks, hence no breaking of locks. The file itself is never removed: whoever waits has it open, and would
 *   lock a file that nobody else sees.
 * - A purge may remove it. So what was locked must still be what the path names, else we begin again.
 * - What the file says about the holder is for people: nothing is decided by it. euler-files empties the file when
 *   it opens it to wait, so it may be empty while the lock is held.
 * - Other users may write to the directory: no link at the end of the path is followed, and only a regular file will
 *   do. The first open is without O_CREAT, which `fs.protected_regular` forbids for files of others in a sticky one.
 * - Where flock does not work (no such system call, a Lustre mount without `flock`, no lock server), a lease does it,
 *   at once (euler-files waits until its time is up there): lib/engine/lease.ts.
 *
 * What remains: mounts that grant every flock (`localflock`, GPFS between nodes), a lock file purged while held, and
 * nodes that disagree on whether flock works. Then two copies run at once. That wastes work and harms nothing, as
 * every file goes through a name of its own and a rename.
 */
import { closeSync, constants, fstatSync, ftruncateSync, lstatSync, openSync, writeSync } from "node:fs";
import * as v from "valibot";
import { sleep } from "../base/async.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { readOwn } from "../base/files.ts";
import { type FlockAnswer, isFlocked, tryFlock } from "../drivers/flock.ts";
import { Holder, thisHost, userName } from "../drivers/host.ts";
import { type Lease, leaseHolder, leaseTaker } from "./lease.ts";

export type { Holder } from "../drivers/host.ts";

/** A lock that is ours until disposed. Disposing never throws: an error of the locked section comes out as it is. */
export interface Held extends AsyncDisposable {
  /** For `inheritFd` of a child that the lock must outlive; undefined for a lease. */
  readonly fd: number | undefined;
  readonly kind: "flock" | "lease";
  /** @throws {EfError} LOCK_FAILED if it is a lease that somebody else took over (never for a flock) */
  assertHeld(): void;
}

export interface LockOptions {
  /** Seconds to wait; 0 tries once. */
  timeoutS: number;
  signal?: AbortSignal | undefined;
  /** Called once, when it has to wait; the holder if its file tells (euler-files says nothing). */
  onWait?: (holder: Holder | undefined) => void;
  /** Called once, when a lease is used, with the reason why flock does not work. */
  onFallback?: (why: string) => void;
}

/** Between two attempts, in milliseconds: the first pause, what the next is longer by, the longest. */
const pause = { firstMs: 25, growth: 1.5, longestMs: 500 };

/** No link is followed, and no FIFO, device or terminal is waited for or taken. */
const wary = constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;

/** How often opening starts again when the file comes and goes under our hands. */
const maxOpens = 100;

/** How often locking starts again as the path names another file: on some FUSE mounts inode numbers do not last. */
const maxRounds = 20;

const removeHint = "somebody put it there; remove it, and ef makes its own lock file";

const HolderFile = v.pipe(v.string(), v.parseJson(), Holder);

const leaseOf = (path: string) => `${path}.lease`;

/**
 * Lock `path`, whose directory exists, exclusively; the file is made if there is none.
 *
 * @throws {EfError} LOCK_TIMEOUT; LOCK_FAILED if the file cannot be used; the signal's reason if that aborts
 * @example
 * await using _ = await lock(`${process.env.SCRATCH}/.HF_HOME.lock`, { timeoutS: 300 });
 */
export async function lock(path: string, options: LockOptions): Promise<Held> {
  const wait = patience(path, options);
  for (let round = 1; ; round++) {
    const file = openLockFile(path);
    let ours = false;
    try {
      const answer = await flockFile(path, file, wait, options.signal);
      if (answer !== "locked") {
        options.onFallback?.(answer.unsupported);
        return await holdLease(path, wait);
      }
      ours = isAt(path, file.fd) || round === maxRounds;
      if (ours) return heldFile(file.fd);
    } finally {
      if (!ours) closeSync(file.fd);
    }
  }
}

/**
 * Who holds the lock now; "unknown" if its file does not tell, undefined if it is free. Creates and changes nothing.
 *
 * @throws {EfError} LOCK_FAILED if it cannot be told
 */
export async function holderOf(path: string): Promise<Holder | "unknown" | undefined> {
  const fd = openToRead(path);
  if (fd !== undefined) {
    try {
      if (await isFlocked(fd)) return readHolder(path) ?? "unknown";
    } finally {
      closeSync(fd);
    }
  }
  return leaseHolder(leaseOf(path));
}

/** "process 4711 on eu-g1-003 (job 1234, user anna)", or "another process". */
export function describeHolder(holder: Holder | undefined): string {
  if (!holder) return "another process";
  const { job, user } = holder;
  const more = [job && `job ${job}`, user && `user ${user}`].filter(Boolean).join(", ");
  return `process ${holder.pid} on ${holder.node ?? holder.host}${more && ` (${more})`}`;
}

type Wait = (holder: () => Holder | undefined) => Promise<void>;

/** A pause before the next attempt, each longer than the one before; LOCK_TIMEOUT when the time is up. */
function patience(path: string, { timeoutS, signal, onWait }: LockOptions): Wait {
  const untilMs = performance.now() + timeoutS * 1000;
  let pauseMs = pause.firstMs;
  let told = false;
  return async (holder) => {
    const leftMs = untilMs - performance.now();
    if (leftMs <= 0) throw timedOut(path, timeoutS, holder());
    if (!told) onWait?.(holder());
    told = true;
    await sleep(Math.min(leftMs, pauseMs * (0.5 + Math.random() / 2)), signal); // not all who wait at the same moment
    pauseMs = Math.min(pauseMs * pause.growth, pause.longestMs);
  };
}

function timedOut(path: string, timeoutS: number, holder: Holder | undefined): EfError {
  return new EfError("LOCK_TIMEOUT", `Cannot lock ${path} within ${timeoutS} s: ${describeHolder(holder)} holds it`, {
    hint: "raise lock_timeout_seconds, or wait for the other job",
    path,
  });
}

interface LockFile {
  fd: number;
  writable: boolean;
}

/** Wait until `file` is locked, or known not to be lockable. */
async function flockFile(
  path: string,
  file: LockFile,
  wait: Wait,
  signal: AbortSignal | undefined,
): Promise<Exclude<FlockAnswer, "held">> {
  assertRegular(path, file.fd);
  for (;;) {
    const answer = await tryFlock(file.fd, signal).catch((error) => explain(path, file, error));
    if (answer !== "held") return answer;
    await wait(() => readHolder(path));
  }
}

/** NFS locks only what is open for writing (EBADF), which the file of a colleague may forbid. */
async function explain(path: string, { fd, writable }: LockFile, error: unknown): Promise<never> {
  if (!(error instanceof EfError) || error.code !== "LOCK_FAILED") throw error;
  if (writable) throw new EfError("LOCK_FAILED", `Cannot lock ${path}: ${error.message}`, { path, cause: error });
  const owner = await userName(fstatSync(fd).uid);
  throw new EfError("LOCK_FAILED", `Cannot lock ${path}: the file belongs to ${owner} and you may not write to it`, {
    hint: `ask ${owner} for: chmod a+w ${path} (this file system locks only files that are open for writing)`,
    path,
    cause: error,
  });
}

async function holdLease(path: string, wait: Wait): Promise<Held> {
  const leasePath = leaseOf(path);
  const tryToTake = leaseTaker(leasePath);
  for (;;) {
    const lease = tryToTake();
    if (lease !== "held") return heldLease(lease);
    await wait(() => {
      const holder = leaseHolder(leasePath);
      return holder === "unknown" ? undefined : holder;
    });
  }
}

function heldLease(lease: Lease): Held {
  return {
    fd: undefined,
    kind: "lease",
    assertHeld: () => lease.assertHeld(),
    [Symbol.asyncDispose]: async () => lease[Symbol.dispose](),
  };
}

function heldFile(fd: number): Held {
  let open = true;
  writeHolder(fd, { ...thisHost(), since: Math.floor(Date.now() / 1000) });
  return {
    fd,
    kind: "flock",
    assertHeld() {},
    async [Symbol.asyncDispose]() {
      if (!open) return;
      open = false;
      writeHolder(fd, undefined);
      try {
        closeSync(fd);
      } catch {
        // EIO, EDQUOT of a network file system; the descriptor is closed all the same
      }
    },
  };
}

/** Say in the file who holds it, or that nobody does. For people: a full disk or a read-only descriptor is no error. */
function writeHolder(fd: number, holder: Holder | undefined): void {
  try {
    ftruncateSync(fd, 0);
    if (holder) writeSync(fd, `${JSON.stringify(holder)}\n`, 0);
  } catch {}
}

function readHolder(path: string): Holder | undefined {
  const { success, output } = v.safeParse(HolderFile, readOwn(path, 4096)?.toString("utf8"));
  return success ? output : undefined;
}

/** Open the file that is there, to write if we may (NFS locks no other), or else make it. */
function openLockFile(path: string): LockFile {
  const { O_RDWR, O_RDONLY, O_CREAT, O_EXCL } = constants;
  const make = O_RDWR | O_CREAT | O_EXCL;
  let flags = O_RDWR;
  for (let tries = 1; ; tries++) {
    try {
      // 0666 less the umask: in a group's directory colleagues lock it too.
      return { fd: openSync(path, flags | wary, 0o666), writable: flags !== O_RDONLY };
    } catch (error) {
      const errno = errnoOf(error) ?? "";
      if (tries === maxOpens) throw cannotOpen(path, error);
      if (errno === "ENOENT" && flags !== make) flags = make;
      else if (errno === "EEXIST") flags = O_RDWR;
      else if (["EACCES", "EPERM", "EROFS"].includes(errno) && flags === O_RDWR) flags = O_RDONLY;
      else throw cannotOpen(path, error);
    }
  }
}

/** Open it for a look; undefined if there is none. */
function openToRead(path: string): number | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | wary);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw cannotOpen(path, error);
  }
  try {
    assertRegular(path, fd);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function cannotOpen(path: string, cause: unknown): EfError {
  const planted = ["ELOOP", "EISDIR", "ENXIO"].includes(errnoOf(cause) ?? "");
  return new EfError("LOCK_FAILED", `Cannot lock ${path}: ${reasonOf(cause)}`, {
    hint: planted ? removeHint : undefined,
    path,
    cause,
  });
}

/** What we lock is emptied and written to: it must be ours alone, and no link that somebody planted. */
function assertRegular(path: string, fd: number): void {
  const stat = fstatSync(fd);
  if (stat.isFile() && stat.nlink > 1) {
    throw new EfError("LOCK_FAILED", `Cannot lock ${path}: it is a hard link to another file`, {
      hint: removeHint,
      path,
    });
  }
  if (stat.isFile()) return;
  throw new EfError("LOCK_FAILED", `Cannot lock ${path}: it is not a regular file`, { hint: removeHint, path });
}

/** Does `path` still name the open file? Inode numbers as bigint: Lustre's do not fit into a double. */
function isAt(path: string, fd: number): boolean {
  try {
    const named = lstatSync(path, { bigint: true });
    const open = fstatSync(fd, { bigint: true });
    return named.dev === open.dev && named.ino === open.ino;
  } catch {
    return false;
  }
}
