/**
 * The few system calls that node:fs lacks, from the C library of this process through bun:ffi: times to the nanosecond,
 * holes, extended attributes, copies that the file system makes itself.
 *
 * Why errno is right: it belongs to the thread, as this module does (each worker has its own), so its address is asked
 * for once. A call gives back a small integer (`i64_fast`: a bigint would have to be allocated), and the next thing that
 * happens is a load from that address; nothing in between calls into the C library.
 *
 * Each call blocks the thread that makes it. All are safe in several workers at once (Bun before 1.4 compiled wrappers
 * with TinyCC and crashed when two workers did so at the same moment: https://github.com/oven-sh/bun/issues/40972).
 *
 * @see https://bun.com/docs/runtime/ffi
 * @see https://man7.org/linux/man-pages/man3/errno.3.html
 */
import { constants } from "node:os";
import type { Path } from "../base/stat.ts";
import { isAcl, isCopied, NFS4_ACL } from "./xattrs.ts";

/** A path, whose last part is not followed if it is a link, or the descriptor of an open file. */
export type PathOrFd = Path | number;

/** An extended attribute that could not be copied, and why, e.g. ENOTSUP, EPERM. */
export interface RefusedXattr {
  name: string;
  code: string;
}

/**
 * System calls. They throw as node:fs does: an Error with `code`, `errno` (negative), `syscall`, and `path` where one was
 * given; EOPNOTSUPP is called ENOTSUP, which has the same number.
 */
export interface Libc {
  /**
   * Set the modification time of a path to the nanosecond, and leave the access time; a link's own time.
   *
   * A time that the file system cannot hold is changed without an error, e.g. ext4: 1901 to 2446.
   *
   * @param mtimeNs since 1970; negative before
   * @see https://man7.org/linux/man-pages/man2/utimensat.2.html
   */
  setMtime(path: Path, mtimeNs: bigint): void;
  /** As {@link Libc.setMtime}, of an open file. */
  setMtimeFd(fd: number, mtimeNs: bigint): void;

  /**
   * Where the first data at or after `offset` begins; undefined if there is none. Moves the position of `fd`.
   *
   * File systems that know no holes say that all is data.
   *
   * @see https://man7.org/linux/man-pages/man2/lseek.2.html
   */
  nextData(fd: number, offset: number): number | undefined;
  /** Where the first hole at or after `offset` begins, at the latest the end of the file; undefined from there on. */
  nextHole(fd: number, offset: number): number | undefined;

  /**
   * The names of the extended attributes, ACLs among them (`system.posix_acl_access`, `system.posix_acl_default`); none
   * where the file system has no attributes. A name that is not UTF-8 comes damaged.
   *
   * @see https://man7.org/linux/man-pages/man7/xattr.7.html
   */
  listXattrs(at: PathOrFd): string[];
  /** The value of an extended attribute; undefined where there is none, or the file system has no such attributes. */
  getXattr(at: PathOrFd, name: string): Uint8Array | undefined;
  setXattr(at: PathOrFd, name: string, value: Uint8Array): void;
  /** Remove an extended attribute; no error where there is none. */
  removeXattr(at: PathOrFd, name: string): void;
  /**
   * Make `to` carry the extended attributes and ACLs of `from`, as far as they are the user's (see {@link isCopied});
   * what is equal is not written. Gives the ones that could not be copied.
   *
   * Where the file system of `from` has no attributes, `to` keeps its own.
   *
   * Call it when the data is written and the owner set (both drop `security.capability`), and set the mode after it:
   * attributes cannot be set on a file that its owner may not write, and an ACL changes the mode.
   *
   * @throws for errors that are not about one attribute (ENOENT, EIO, EDQUOT, EROFS, …)
   */
  copyXattrs(from: PathOrFd, to: PathOrFd): RefusedXattr[];

  /**
   * Let the target share all blocks of the source. False where that cannot be: another file system, or one without it.
   *
   * @see https://man7.org/linux/man-pages/man2/ioctl_ficlone.2.html
   */
  reflink(sourceFd: number, targetFd: number): boolean;
  /**
   * Copy inside the kernel, or on the server; gives the number of bytes, maybe fewer than asked for, 0 at the end.
   * Positions of the files stay.
   *
   * Copy by reading and writing after EXDEV, EINVAL, ENOSYS, ENOTSUP, EPERM, and if the first call gives 0: some file
   * systems have no size for what they make up (/proc).
   *
   * @see https://man7.org/linux/man-pages/man2/copy_file_range.2.html
   */
  copyRange(inFd: number, inOffset: number, outFd: number, outOffset: number, length: number): number;
  /**
   * Rename, but never over something: true if done, false if something is at `to`, undefined where that cannot be had
   * (NFS, older kernels and libraries).
   *
   * @see https://man7.org/linux/man-pages/man2/rename.2.html (RENAME_NOREPLACE)
   */
  renameNew(from: Path, to: Path): boolean | undefined;
  /**
   * Write all that is not on disk yet of the file system that holds `fd`.
   *
   * @see https://man7.org/linux/man-pages/man2/syncfs.2.html
   */
  syncFs(fd: number): void;
}

let opened: Promise<Libc | undefined> | undefined;

/** The calls of this thread; undefined under Node and Deno, and where there is neither glibc nor musl. */
export function libc(): Promise<Libc | undefined> {
  opened ??= open();
  return opened;
}

type Ffi = typeof import("bun:ffi");

async function open(): Promise<Libc | undefined> {
  if (!process.versions.bun || process.platform !== "linux") return undefined;
  const ffi = await import("bun:ffi");
  for (const name of ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`]) {
    const symbols = quietly(() => load(ffi, name));
    if (!symbols) continue;
    const copyFileRange = quietly(() => loadCopyFileRange(ffi, name));
    const rename = quietly(() => loadRename(ffi, name));
    return calls(ffi, symbols, copyFileRange, rename);
  }
  return undefined;
}

function quietly<T>(ask: () => T): T | undefined {
  try {
    return ask();
  } catch {
    return undefined;
  }
}

// Sizes and lengths are 64 bits on both architectures that Bun runs on. Never closed: the library is the process's own.
const load = ({ dlopen, FFIType }: Ffi, name: string) =>
  dlopen(name, {
    __errno_location: { args: [], returns: "ptr" },
    strerror: { args: ["i32"], returns: "cstring" },
    utimensat: { args: ["i32", "cstring", "ptr", "i32"], returns: "i32" },
    futimens: { args: ["i32", "ptr"], returns: "i32" },
    lseek: { args: ["i32", "i64", "i32"], returns: FFIType.i64_fast },
    llistxattr: { args: ["cstring", "ptr", "u64"], returns: FFIType.i64_fast },
    flistxattr: { args: ["i32", "ptr", "u64"], returns: FFIType.i64_fast },
    lgetxattr: { args: ["cstring", "cstring", "ptr", "u64"], returns: FFIType.i64_fast },
    fgetxattr: { args: ["i32", "cstring", "ptr", "u64"], returns: FFIType.i64_fast },
    lsetxattr: { args: ["cstring", "cstring", "ptr", "u64", "i32"], returns: "i32" },
    fsetxattr: { args: ["i32", "cstring", "ptr", "u64", "i32"], returns: "i32" },
    lremovexattr: { args: ["cstring", "cstring"], returns: "i32" },
    fremovexattr: { args: ["i32", "cstring"], returns: "i32" },
    ioctl: { args: ["i32", "u64", "u64"], returns: "i32" },
    syncfs: { args: ["i32"], returns: "i32" },
  }).symbols;

/** glibc has it since 2.27, musl since 1.1.24. */
const loadCopyFileRange = ({ dlopen, FFIType }: Ffi, name: string) =>
  dlopen(name, { copy_file_range: { args: ["i32", "ptr", "i32", "ptr", "u64", "u32"], returns: FFIType.i64_fast } })
    .symbols.copy_file_range;

/** glibc has it since 2.28. */
const loadRename = ({ dlopen }: Ffi, name: string) =>
  dlopen(name, { renameat2: { args: ["i32", "cstring", "i32", "cstring", "u32"], returns: "i32" } }).symbols.renameat2;

// The same on x86-64 and AArch64: fcntl.h, unistd.h, linux/fs.h, linux/limits.h.
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const UTIME_OMIT = (1n << 30n) - 2n;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const RENAME_NOREPLACE = 1;
const FICLONE = 0x40049409;
/** Both of a value and of a list of names. */
const XATTR_SIZE_MAX = 65536;

const { E2BIG, EACCES, EEXIST, EINTR, EINVAL, ENODATA, ENOSPC, ENOSYS, ENOTSUP, ENOTTY, ENXIO, EPERM, ERANGE, EXDEV } =
  constants.errno;
/** Not for programs, but NFS lets it out. */
const ENOTSUPP = 524;

const cannotClone = [ENOTSUP, ENOTSUPP, EXDEV, EINVAL, ENOTTY, ENOSYS];
/** Errors about one attribute; ENOSPC is also how ext4 says that a value is larger than it can hold. */
const cannotCarry = [ENOTSUP, ENOTSUPP, EPERM, EACCES, EINVAL, E2BIG, ERANGE, ENOSPC];

function calls(
  { read }: Ffi,
  c: ReturnType<typeof load>,
  copyFileRange: ReturnType<typeof loadCopyFileRange> | undefined,
  rename: ReturnType<typeof loadRename> | undefined,
): Libc {
  const errno = c.__errno_location() as Parameters<typeof read.i32>[0];

  /** What a call gives, or the negative error number, as in the kernel. */
  function ask(run: () => number | bigint): number {
    for (;;) {
      const result = run();
      if (result !== -1) return Number(result);
      const number = read.i32(errno);
      if (number !== EINTR) return -number; // FUSE may answer a signal with it, even one whose handler restarts calls
    }
  }

  function must(result: number, syscall: string, at?: PathOrFd): number {
    if (result < 0) throw systemError(-result, syscall, at);
    return result;
  }

  const call = (syscall: string, at: PathOrFd, run: () => number | bigint) => must(ask(run), syscall, at);

  function systemError(number: number, syscall: string, at?: PathOrFd): Error {
    const code = codeOf(number);
    const where = at === undefined || typeof at === "number" ? {} : { path: String(at) };
    const message = `${code}: ${c.strerror(number)}, ${syscall}${where.path === undefined ? "" : ` '${where.path}'`}`;
    return Object.assign(new Error(message), { code, errno: -number, syscall, ...where });
  }

  /** struct timespec[2]: access time, modification time. */
  const times = new BigInt64Array([0n, UTIME_OMIT, 0n, 0n]);
  function timesOf(ns: bigint): BigInt64Array {
    let seconds = ns / 1_000_000_000n;
    let rest = ns % 1_000_000_000n;
    if (rest < 0n) {
      seconds -= 1n; // nanoseconds count upwards from the second, before 1970 too
      rest += 1_000_000_000n;
    }
    times[2] = seconds;
    times[3] = rest;
    return times;
  }

  function seek(fd: number, offset: number, whence: number): number | undefined {
    const found = ask(() => c.lseek(fd, offset, whence));
    return found === -ENXIO ? undefined : must(found, "lseek");
  }

  /** The calls for a path or an open file; names as for {@link forC}. */
  function xattrCalls(at: PathOrFd) {
    if (typeof at === "number") {
      return {
        list: (into: Buffer) => c.flistxattr(at, into, into.length),
        get: (name: CString, into: Buffer) => c.fgetxattr(at, name, into, into.length),
        set: (name: CString, value: Uint8Array) => c.fsetxattr(at, name, value, value.length, 0),
        remove: (name: CString) => c.fremovexattr(at, name),
      };
    }
    const path = forC(at);
    return {
      list: (into: Buffer) => c.llistxattr(path, into, into.length),
      get: (name: CString, into: Buffer) => c.lgetxattr(path, name, into, into.length),
      set: (name: CString, value: Uint8Array) => c.lsetxattr(path, name, value, value.length, 0),
      remove: (name: CString) => c.lremovexattr(path, name),
    };
  }

  // The kernel allocates as much as it is offered, so the small buffer is tried first. No value is larger than the large
  // one: none can outgrow it between two calls.
  const small: Buffer = Buffer.allocUnsafeSlow(1024);
  let large: Buffer | undefined;
  /** What a call writes, in a buffer that the next one uses again; or a negative error number. */
  function filled(run: (into: Buffer) => number | bigint): Buffer | number {
    let into = small;
    let length = ask(() => run(into));
    if (length === -ERANGE) {
      large ??= Buffer.allocUnsafeSlow(XATTR_SIZE_MAX);
      into = large;
      length = ask(() => run(into));
    }
    return length < 0 ? length : into.subarray(0, length);
  }

  /** The names, one character per byte; undefined where the file system has none. */
  function rawNames(at: PathOrFd): string[] | undefined {
    const names = filled(xattrCalls(at).list);
    if (typeof names !== "number") return names.toString("latin1").split("\0").slice(0, -1);
    if (!isUnsupported(names)) must(names, "listxattr", at);
    return undefined;
  }

  function copyXattrs(from: PathOrFd, to: PathOrFd): RefusedXattr[] {
    const names = rawNames(from);
    if (!names) return [];
    const there = rawNames(to) ?? [];
    if (names.length === 0 && there.length === 0) return [];
    const [source, target] = [xattrCalls(from), xattrCalls(to)];
    const refused: RefusedXattr[] = [];
    const note = (name: string, result: number, syscall: string, at: PathOrFd) => {
      if (result >= 0 || result === -ENODATA) return; // ENODATA: somebody removed it meanwhile
      if (!cannotCarry.includes(-result)) must(result, syscall, at);
      if (name !== NFS4_ACL) refused.push({ name: nameOf(name), code: codeOf(-result) });
    };

    for (const name of there) {
      if (names.includes(name) || !isCopied(name) || name === NFS4_ACL) continue;
      const removed = ask(() => target.remove(rawForC(name)));
      note(name, removed, "removexattr", to);
    }
    // ACLs last: after one that forbids writing no attribute could be set.
    for (const name of names.filter(isCopied).sort((a, b) => Number(isAcl(a)) - Number(isAcl(b)))) {
      if (name === NFS4_ACL && !there.includes(name)) continue;
      const key = rawForC(name);
      const found = filled((into) => source.get(key, into));
      if (typeof found === "number") {
        note(name, found, "getxattr", from);
        continue;
      }
      const value = Buffer.from(found);
      const old = there.includes(name) ? filled((into) => target.get(key, into)) : undefined;
      if (typeof old === "object" && old.equals(value)) continue;
      const done = ask(() => target.set(key, value));
      note(name, done, "setxattr", to);
    }
    return refused;
  }

  const [inAt, outAt] = [new BigInt64Array(1), new BigInt64Array(1)];

  return {
    setMtime(path, mtimeNs) {
      const [name, both] = [forC(path), timesOf(mtimeNs)];
      call("utimensat", path, () => c.utimensat(AT_FDCWD, name, both, AT_SYMLINK_NOFOLLOW));
    },
    setMtimeFd(fd, mtimeNs) {
      const both = timesOf(mtimeNs);
      call("futimens", fd, () => c.futimens(fd, both));
    },
    nextData: (fd, offset) => seek(fd, offset, SEEK_DATA),
    nextHole: (fd, offset) => seek(fd, offset, SEEK_HOLE),
    listXattrs: (at) => (rawNames(at) ?? []).map(nameOf),
    getXattr(at, name) {
      const [{ get }, key] = [xattrCalls(at), forC(name)];
      const value = filled((into) => get(key, into));
      if (typeof value === "object") return new Uint8Array(value);
      if (value !== -ENODATA && !isUnsupported(value)) must(value, "getxattr", at);
      return undefined;
    },
    setXattr(at, name, value) {
      const [{ set }, key] = [xattrCalls(at), forC(name)];
      call("setxattr", at, () => set(key, value));
    },
    removeXattr(at, name) {
      const [{ remove }, key] = [xattrCalls(at), forC(name)];
      const removed = ask(() => remove(key));
      if (removed !== -ENODATA) must(removed, "removexattr", at);
    },
    copyXattrs,
    reflink(sourceFd, targetFd) {
      const cloned = ask(() => c.ioctl(targetFd, FICLONE, sourceFd));
      if (cannotClone.includes(-cloned)) return false;
      return must(cloned, "ioctl") === 0;
    },
    copyRange(inFd, inOffset, outFd, outOffset, length) {
      if (!copyFileRange) throw systemError(ENOSYS, "copy_file_range");
      inAt[0] = BigInt(inOffset);
      outAt[0] = BigInt(outOffset);
      return call("copy_file_range", outFd, () => copyFileRange(inFd, inAt, outFd, outAt, length, 0));
    },
    renameNew(from, to) {
      if (!rename) return undefined;
      const [a, b] = [forC(from), forC(to)];
      const done = ask(() => rename(AT_FDCWD, a, AT_FDCWD, b, RENAME_NOREPLACE));
      if (done === -EEXIST) return false;
      if (done === -EINVAL || done === -ENOSYS || isUnsupported(done)) return undefined;
      return must(done, "renameat2", to) === 0;
    },
    syncFs: (fd) => void call("syncfs", fd, () => c.syncfs(fd)),
  };
}

/** A string for C: text, or bytes with the zero at their end. */
type CString = string | Buffer;

/** @throws where it holds a zero byte: C would see the part before it, maybe another file's name */
function forC(text: Path): CString {
  if (!text.includes("\0")) return typeof text === "string" ? text : Buffer.concat([text, Buffer.alloc(1)]);
  throw Object.assign(new Error(`Cannot use a name with a zero byte: ${JSON.stringify(String(text))}`), {
    code: "ERR_INVALID_ARG_VALUE",
  });
}

const rawForC = (name: string) => (/^[\x01-\x7f]*$/.test(name) ? name : forC(Buffer.from(name, "latin1")));
const nameOf = (raw: string) => Buffer.from(raw, "latin1").toString();

const isUnsupported = (result: number) => result === -ENOTSUP || result === -ENOTSUPP;

/** Of storage, and not in node:os: asm-generic/errno.h. */
const moreCodes: Record<number, string> = { 108: "ESHUTDOWN", 117: "EUCLEAN", 121: "EREMOTEIO", 127: "EKEYEXPIRED" };

/** ENOSPC for 28; `E524` for what has no name here. */
function codeOf(number: number): string {
  if (number === ENOTSUP) return "ENOTSUP";
  const named = Object.entries(constants.errno).find(([, value]) => value === number);
  return named?.[0] ?? moreCodes[number] ?? `E${number}`;
}
