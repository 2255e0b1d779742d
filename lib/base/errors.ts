/** Exit codes of every command (spec: 128+n for "ended by signal n" is added by `cmd/`). */
export const Exit = { ok: 0, failed: 1, usage: 2 } as const;

/**
 * What went wrong, for scripts. The table says which exit code a code means, so that no throw site has to.
 */
const exits = {
  /** A flag, argument or `--input-json` key that does not exist or has the wrong form. */
  USAGE: Exit.usage,
  /** A question that only a person could answer, and nobody to ask. */
  NOT_INTERACTIVE: Exit.usage,
  CONFIG_NOT_FOUND: Exit.usage,
  CONFIG_UNREADABLE: Exit.usage,
  CONFIG_INVALID: Exit.usage,
  CONFIG_NOT_SAVED: Exit.failed,
  /** A `$VAR` in a path that has no value. */
  UNSET_VARIABLE: Exit.usage,
  /** Source and scratch are the same, lie in each other, or are no place to write to. */
  BAD_ROOT: Exit.usage,
  UNKNOWN_VAR: Exit.usage,
  /** There is no environment of that name. */
  UNKNOWN_ENV: Exit.usage,
  /** No image of that name was built. */
  UNKNOWN_IMAGE: Exit.usage,
  /** There is no workspace of that name. */
  UNKNOWN_WORKSPACE: Exit.usage,
  /** `ef.clusters` has none of that name. */
  UNKNOWN_CLUSTER: Exit.usage,
  /** Code that cannot be packed: it does not parse, is no function, or names collide. */
  NOT_PACKABLE: Exit.usage,
  /** ef submit and ef jobs know no job of that id. */
  UNKNOWN_JOB: Exit.usage,
  /** There is something of that name, which is not to be replaced. */
  EXISTS: Exit.usage,
  /** An outside program is not installed. */
  TOOL_MISSING: Exit.usage,
  TOOL_FAILED: Exit.failed,
  TRANSFER_PARTIAL: Exit.failed,
  /** A file changed on both sides. */
  CONFLICT: Exit.failed,
  /** An archive that is damaged, or would write where it must not. */
  BAD_ARCHIVE: Exit.failed,
  /** An environment whose Python does not start here. */
  NOT_RUNNABLE: Exit.failed,
  /** A host that ssh does not reach, or does not let in. */
  UNREACHABLE: Exit.failed,
  /** A function that was run for us threw, or gave what JSON cannot hold. */
  RUN_FAILED: Exit.failed,
  LOCK_TIMEOUT: Exit.failed,
  /** A program that runs for longer than one wanted to wait. */
  TIMEOUT: Exit.failed,
  LOCK_FAILED: Exit.failed,
  NO_SPACE: Exit.failed,
  IO: Exit.failed,
  ABORTED: Exit.failed,
} as const;

export type ErrorCode = keyof typeof exits;

export interface ErrorDetails {
  /** What the user can do next. */
  hint?: string | undefined;
  /** The path that it is about. */
  path?: string | undefined;
  cause?: unknown;
}

/** The one error class of ef: `code` for scripts, the message for people (what, where, why), `hint` for the next step. */
export class EfError extends Error {
  override name = "EfError";
  readonly hint: string | undefined;
  readonly path: string | undefined;

  constructor(
    readonly code: ErrorCode,
    message: string,
    { hint, path, cause }: ErrorDetails = {},
  ) {
    super(message, { cause });
    this.hint = hint;
    this.path = path;
  }

  /** The process exit code this error stands for. */
  get exit(): number {
    return exits[this.code];
  }
}

/** The `errno` name (`ENOSPC`) of an error from node:fs, if it has one. */
export function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

/** Nothing there, something else, or not ours to see. */
const findings = new Set(["ENOENT", "ENOTDIR", "EACCES", "EPERM", "ELOOP", "EINVAL", "EISDIR", "ENAMETOOLONG"]);

/** Did a look fail by the storage? Then what was looked for may be there all the same. */
export function isStorageFault(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno !== undefined && !findings.has(errno);
}

const errnoTexts: Record<string, string> = {
  EACCES: "permission denied",
  EDQUOT: "disk quota exceeded",
  EEXIST: "it exists already",
  EFBIG: "larger than the limit of file sizes (ulimit -f)",
  EILSEQ: "the name is not UTF-8, and Deno can read no other",
  EIO: "input/output error of the storage",
  EISDIR: "it is a directory",
  ELOOP: "it is a symbolic link, or a loop of them",
  EMFILE: "too many open files (ulimit -n)",
  ENAMETOOLONG: "the name is too long",
  ENOENT: "no such file or directory",
  ENOLCK: "no locks available",
  ENOSPC: "no space left (bytes or inodes)",
  ENOTDIR: "a part of the path is not a directory",
  EPERM: "operation not permitted",
  EROFS: "the file system is read-only",
  ESTALE: "stale file handle (the server changed it)",
  ETIMEDOUT: "the storage did not answer in time",
};

/** Why a system call failed, in words, without the path and the stack that node puts there. */
export function reasonOf(error: unknown): string {
  const errno = errnoOf(error);
  if (errno) return `${errnoTexts[errno] ?? "system error"} (${errno})`;
  return error instanceof Error ? error.message : String(error);
}

/**
 * What a write that failed is for the user; an error that is none of a system call stays as it is.
 *
 * @param what "Cannot write …"
 */
export function writeError(what: string, path: string, error: unknown): unknown {
  const errno = errnoOf(error);
  if (errno === undefined || error instanceof EfError) return error;
  const isFull = errno === "ENOSPC" || errno === "EDQUOT";
  return new EfError(isFull ? "NO_SPACE" : "IO", `${what}: ${reasonOf(error)}`, {
    hint: isFull ? "make room there, then run it again" : undefined,
    path,
    cause: error,
  });
}
