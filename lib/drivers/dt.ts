/**
 * Data movers: a site's `dt*` tools, or the partition whose nodes mount what others do not.
 *
 * The `dt*` tools are those of ZIH Dresden (doc.zih.tu-dresden.de, data_transfer/datamover): each takes the arguments of the
 * Linux tool in its name, and `--account=`, `--time=`, `--blocking`. Without `--blocking` all but dtls only submit a job.
 */
import { constants, promises } from "node:fs";
import { basename, isAbsolute, join } from "node:path";
import type { Env } from "../base/paths.ts";
import { onPath } from "./programs.ts";
import { newline, shellLine } from "./slurm-jobs.ts";

/** By these a directory of such tools is known: other programs begin with "dt" too (`dtrace`). */
const surest = ["dtcp", "dtls"];

/** They ask about jobs, and start none that could be waited for. */
const asking = ["dtinfo", "dtqueue", "dtq", "dtcancel"];

/**
 * The `dt*` tools of this site, by name: those of `dir`, else those beside the first `dtcp` or `dtls` on `PATH`.
 *
 * @returns name → path, sorted; empty where there are none
 */
export async function findTools(env: Env, dir?: string): Promise<Map<string, string>> {
  const beside = dir === undefined ? await dirOnPath(env) : dir;
  if (beside === undefined) return new Map();
  const names = (await promises.readdir(beside).catch(() => [])).filter((name) => /^dt[a-z][\w-]*$/.test(name)).sort();
  const paths = await Promise.all(names.map((name) => executable(join(beside, name))));
  return new Map(names.flatMap((name, i) => (paths[i] === undefined ? [] : [[name, paths[i]] as const])));
}

async function dirOnPath(env: Env): Promise<string | undefined> {
  for (const name of surest) {
    const [path] = await onPath(name, env);
    if (path !== undefined) return join(path, "..");
  }
  return undefined;
}

async function executable(path: string): Promise<string | undefined> {
  try {
    await promises.access(path, constants.X_OK);
    return (await promises.stat(path)).isFile() ? path : undefined;
  } catch {
    return undefined;
  }
}

/** What both kinds of mover take. */
export interface MoverSettings {
  account?: string | undefined;
  /** Time limit of the job, as of sbatch(1), --time. */
  time?: string | undefined;
}

/** The command line of a `dt*` tool. Its own options come first: a `--` of the user's may follow. */
export function dtArgv(
  path: string,
  args: readonly string[],
  { blocking, account, time }: MoverSettings & { blocking: boolean },
): string[] {
  const isAsking = asking.includes(basename(path)) || (args.length === 1 && /^--(?:help|version)$/.test(args[0] ?? ""));
  if (isAsking) return [path, ...args];
  return [path, ...(blocking ? ["--blocking"] : []), ...slurmOptions({ account, time }), ...args];
}

const slurmOptions = ({ account, time }: MoverSettings): string[] => [
  ...(account === undefined ? [] : [`--account=${account}`]),
  ...(time === undefined ? [] : [`--time=${time}`]),
];

export interface SlurmMover extends MoverSettings {
  partition: string;
  /** More options of srun and sbatch; they win. */
  srunArgs?: readonly string[] | undefined;
}

/** What a tool is run with on the mover. */
export interface Move {
  /** A Linux tool, e.g. `cp`. */
  tool: string;
  args: readonly string[];
  /** What relative paths are relative to; empty if this node has no working directory. */
  cwd: string;
}

/** Options of srun and sbatch for one move. The working directory is entered by the script: srun would fall back to /tmp. */
export const jobOptions = (mover: SlurmMover, { tool }: Move): string[] => [
  ...[`--partition=${mover.partition}`, "--nodes=1", "--ntasks=1", `--job-name=ef-dm-${basename(tool)}`, "--chdir=/"],
  ...slurmOptions(mover),
  ...(mover.srunArgs ?? []),
];

/**
 * Enter the directory, or `/` where no path depends on it; look for the tool; say that it starts; become it.
 * What goes wrong before the line of {@link parseStart} is no failure of the tool.
 */
const enter = `if [ -n "$1" ] && cd -- "$1" 2>/dev/null; then :
elif [ "$2" = anywhere ]; then cd /
else printf 'ef: the data mover has no directory %s: use absolute paths\\n' "$1" >&2; exit 1; fi
shift 2
command -v -- "$1" >/dev/null || { printf 'ef: the data mover has no program %s\\n' "$1" >&2; exit 1; }
`;
const sayStart = `printf 'ef-dm: job %s on %s\\n' "\${SLURM_JOB_ID-}" "\${SLURMD_NODENAME-}" >&2\n`;

/**
 * The shell outlives the signals that end the tool: it gets the time to clean up, and its code is told. By exec, as a shell has
 * an echo and a test of its own.
 */
const runIt = `ef_stopped=
trap ef_stopped=1 TERM INT HUP
(exec "$@")
code=$?
`;

/** The number and the node in the line with which the tool starts, as it comes on stderr; undefined for other lines. */
export function parseStart(line: string): { jobId: string; node: string } | undefined {
  const [, jobId, node] = /^ef-dm: job (\d*) on (\S*)$/.exec(line) ?? [];
  return jobId === undefined || node === undefined ? undefined : { jobId, node };
}

const moveArgs = ({ tool, args, cwd }: Move): string[] => [cwd, needsCwd(args) ? "here" : "anywhere", tool, ...args];

/** How the line begins with which the tool's end is told, on stderr: its exit code follows. No tool prints the same by chance. */
export const endMark = (token: string): string => `ef-dm ${token}: exit `;

/**
 * The command line that runs a tool on the mover, with our stdin, stdout and stderr. srun ends with 0 when the node fails (22.05):
 * only what is told at the end is the tool's exit code.
 *
 * @param token of this run alone
 */
export function srunArgv(mover: SlurmMover, move: Move, token: string): string[] {
  const script = `${enter}${sayStart}${runIt}printf '${endMark(token)}%s\\n' $code >&2; exit $code`;
  return ["srun", ...jobOptions(mover, move), "--", "/bin/sh", "-c", script, "ef-dm", ...moveArgs(move)];
}

/**
 * The script of a job that nobody waits for: output and exit code go into files. The tool's exit code is there when it has
 * ended by itself; a job that was cancelled, or whose node failed, leaves none.
 */
export const moveScript = (move: Move, output: string, code: string): string => `#!/bin/sh
${newline}
umask 077
exec >${shellLine([output])} 2>&1 </dev/null
set -- ${shellLine(moveArgs(move))}
${enter}${runIt}[ -z "$ef_stopped" ] || [ $code = 0 ] || exit $code
printf '%s\\n' $code >${shellLine([`${code}.tmp`])} && mv -f -- ${shellLine([`${code}.tmp`])} ${shellLine([code])}
exit $code
`;

/**
 * Does what the arguments mean depend on the working directory? Not if there is an absolute path and all else are absolute
 * paths or options without a value. When in doubt it does: `rm -r data` must never run in another directory.
 */
export function needsCwd(args: readonly string[]): boolean {
  const isFree = (arg: string) =>
    isAbsolute(arg) || /^-(?![A-Za-z]*[tTCf][A-Za-z0-9])[A-Za-z0-9]*$/.test(arg) || isLong(arg);
  return !args.some((arg) => isAbsolute(arg)) || !args.every(isFree);
}

const isLong = (arg: string): boolean => /^--[a-z][a-z0-9-]*(?:=\/.*)?$/s.test(arg);
