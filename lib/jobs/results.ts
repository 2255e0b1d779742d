/** What a job left behind: brought here once, and read from here. */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { writeAtomic } from "../base/files.ts";
import { type Env, present } from "../base/paths.ts";
import type { Host } from "../clusters/host.ts";
import type { PackageResult } from "../pack/package.ts";
import { type JobPhase, type JobRecord, jobDir } from "./record.ts";

/** An exception of the code that was run. */
export interface RemoteError {
  /** With its module, e.g. `ValueError`, `analysis.NoData`. */
  type: string;
  message: string;
  /** Python's, with the paths within the package. */
  traceback: string;
}

/** How a job ended. */
export interface JobResult {
  id: string;
  state: JobPhase;
  /** Of its Python; undefined where it did not come to its end. */
  exitCode: number | undefined;
  /** Slurm's words, or why there is no result. */
  reason: string | undefined;
  /** The function gave a value. */
  ok: boolean;
  /** What JSON says of it. Whole numbers above 2^53 lose digits: `valueText` has them. */
  value?: unknown;
  valueText?: string;
  /** A value that is no JSON: the file with its pickle, here, and its type. */
  pickle?: { path: string; type: string };
  error?: RemoteError;
  /** What it printed, here. */
  stdout: string;
  stderr: string;
}

/** More of what a job printed stays there, in bytes. */
const logLimit = 64 << 20;

/**
 * Bring what a job left here: files 0600.
 *
 * @throws {EfError} UNREACHABLE, TRANSFER_PARTIAL, IO
 */
export async function fetchResults(host: Host, record: JobRecord, env: Env, signal?: AbortSignal): Promise<void> {
  const { stdout } = await host.sh(sizesScript, [record.dir], { signal });
  const sizes = new Map(stdout.split("\n").map((line) => line.split(" ") as [string, string]));
  const here = jobDir(env, record.id);
  for (const name of ["result.pickle", "result.json", "stderr", "stdout"]) {
    const size = Number(sizes.get(name) ?? Number.NaN);
    const [from, to] = [`${record.dir}/${name}`, join(here, name)];
    if (name.startsWith("std") && !(size <= logLimit)) writeAtomic(to, await endOf(host, from, signal), 0o600);
    else if (Number.isFinite(size)) await host.get(from, to, { signal });
  }
}

/** The end of a file that is too large to be brought whole; empty if there is none. */
async function endOf(host: Host, path: string, signal: AbortSignal | undefined): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const onStdout = (piece: Buffer) => void pieces.push(piece);
  await host.sh('tail -c "$2" "$1" 2>/dev/null; exit 0', [path, String(logLimit)], { signal, onStdout });
  return Buffer.concat(pieces);
}

const sizesScript = `cd -- "$1" 2>/dev/null || exit 0
for name in stdout stderr result.pickle result.json; do [ -f $name ] && echo $name $(wc -c <$name); done
exit 0`;

/** Is what it left here? The last file that {@link fetchResults} makes. */
export const isFetched = (env: Env, { id }: JobRecord): boolean => present(join(jobDir(env, id), "stdout"));

/** As {@link fetchResults} left it. @throws {EfError} IO for a result that is damaged */
export function readResult(env: Env, record: JobRecord): JobResult {
  const { id, state, exit_code: code, reason } = record;
  const dir = jobDir(env, id);
  const base = {
    ...{ id, state, exitCode: code ?? undefined, reason: reason ?? undefined },
    ...{ stdout: join(dir, "stdout"), stderr: join(dir, "stderr") },
  };
  const path = join(dir, "result.json");
  const text = textOf(path);
  if (text === undefined) {
    const ok = record.kind === "script" && code === 0;
    return ok ? { ...base, ok } : { ...base, ok: false, ...(code === 0 ? { reason: "it left no result" } : {}) };
  }
  try {
    const result = JSON.parse(text) as PackageResult;
    if (result.ok !== true) return { ...base, ok: false, error: errorOf(result.error) };
    if ("pickle" in result) {
      return { ...base, ok: true, pickle: { path: join(dir, "result.pickle"), type: String(result.type) } };
    }
    return { ...base, ok: true, value: result.value, valueText: valueTextOf(text, result.value) };
  } catch (cause) {
    throw new EfError("IO", `Cannot read the result of ${id}: ${path} is damaged (${(cause as Error).message})`, {
      hint: `the job wrote it to ${record.dir}`,
      path,
      cause,
    });
  }
}

const errorOf = (error: Partial<RemoteError> | undefined): RemoteError => ({
  type: String(error?.type ?? "Error"),
  message: String(error?.message ?? ""),
  traceback: String(error?.traceback ?? ""),
});

/** The value as the job wrote it: `{"ok": true, "value": …}`. */
function valueTextOf(text: string, value: unknown): string {
  const [, inner] = /^\{"ok": ?true, ?"value": ?(.*)\}\s*$/s.exec(text) ?? [];
  return inner ?? JSON.stringify(value);
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return undefined;
    throw new EfError("IO", `Cannot read ${path}: ${reasonOf(cause)}`, { path, cause });
  }
}

/** The end of a file, for messages; empty if it cannot be read. */
export function tailOf(path: string, bytes: number): string {
  try {
    const fd = openSync(path, "r");
    try {
      const { size } = fstatSync(fd);
      const buffer = Buffer.alloc(Math.min(size, bytes));
      readSync(fd, buffer, 0, buffer.length, size - buffer.length);
      return buffer.toString("utf8");
    } finally {
      closeSync(fd);
    }
  } catch {
    return "";
  }
}
