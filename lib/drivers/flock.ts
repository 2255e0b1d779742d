/**
 * flock(1), of util-linux or busybox: the system call that neither Bun nor Node has.
 *
 * A flock(2) lock belongs to the open file description, which a child shares with us: after flock(1) has locked the
 * descriptor that it inherited and has ended, the lock is ours until our descriptor, and every one inherited from it,
 * is closed. The kernel closes them however a process ends.
 *
 * @see https://man7.org/linux/man-pages/man2/flock.2.html
 * @see https://man7.org/linux/man-pages/man1/flock.1.html
 */
import { EfError } from "../base/errors.ts";
import { inheritedAt, lastLines, type RunResult, run } from "../base/exec.ts";

/** `unsupported` says why no lock can be had on that file system or machine, in words. */
export type FlockAnswer = "locked" | "held" | { unsupported: string };

const anyCode = Array.from({ length: 256 }, (_, code) => code);

/** ENOSYS, EOPNOTSUPP, ENOLCK as glibc and musl word them. */
const unsupported = /Function not implemented|not supported|No locks available/i;

/**
 * Lock the open file `fd` exclusively, without waiting.
 *
 * @throws {EfError} LOCK_FAILED with flock's words for any error that is no answer (EBADF, EIO, …)
 */
export function tryFlock(fd: number, signal?: AbortSignal): Promise<FlockAnswer> {
  return flock("-x", fd, signal);
}

/**
 * Lock the open file `fd` together with others who do, without waiting: "held" where somebody has it exclusively.
 *
 * @throws {EfError} as {@link tryFlock}
 */
export function trySharedFlock(fd: number, signal?: AbortSignal): Promise<FlockAnswer> {
  return flock("-s", fd, signal);
}

/**
 * Is the file behind `fd` locked exclusively by somebody? False also where flock is not supported.
 *
 * If not, `fd` has a shared lock now: close it at once. Somebody who tries to lock in that moment has to try again.
 *
 * @throws {EfError} LOCK_FAILED as {@link tryFlock}
 */
export async function isFlocked(fd: number, signal?: AbortSignal): Promise<boolean> {
  return (await flock("-s", fd, signal)) === "held";
}

async function flock(mode: "-x" | "-s", fd: number, signal: AbortSignal | undefined): Promise<FlockAnswer> {
  let result: RunResult;
  try {
    result = await run(["flock", "-n", mode, String(inheritedAt)], {
      env: { ...process.env, LC_ALL: "C" },
      inheritFd: fd,
      accept: anyCode,
      signal,
    });
  } catch (error) {
    if (error instanceof EfError && error.code === "TOOL_MISSING") return { unsupported: "flock is not installed" };
    throw error;
  }
  return answerOf(result);
}

function answerOf({ code, stderr }: RunResult): FlockAnswer {
  if (code === 0) return "locked";
  // Lines of flock itself: a site's LD_PRELOAD may make the loader complain too.
  const said = /^flock: (?:\d+: )?(.+)$/m.exec(stderr)?.[1];
  if (code === 1 && said === undefined) return "held"; // busybox ends with 1 on errors as well, but names them
  if (said !== undefined && unsupported.test(said)) return { unsupported: said };
  throw new EfError("LOCK_FAILED", `flock failed with exit code ${code}${said ? `: ${said}` : lastLines(stderr)}`);
}
