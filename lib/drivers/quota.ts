/**
 * What quotas leave on the file system of a path: asked of Lustre's `lfs`, the Linux quota tools' `quota`, and ETH's
 * `lquota`, where they are installed.
 *
 * A quota server may hang as any storage does, and its client then does not react to SIGTERM. So these programs are not
 * run through `run`, which waits for their end: after the time limit they are killed and left behind.
 *
 * @see https://doc.lustre.org/lustre_manual.xhtml#lfs.quota
 * @see https://man7.org/linux/man-pages/man1/quota.1.html
 * @see https://scicomp.ethz.ch/wiki/Unified_quota_wrapper
 */
import { spawn } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { reasonOf } from "../base/errors.ts";
import { type Env, isWithin, realPath } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { type Mount, mountOf, mounts } from "./filesystem.ts";
import { onPath } from "./programs.ts";

/** One quota. Undefined: no limit, or not told. */
export interface QuotaLeft {
  /** How its user asks for it: `lfs quota`, `quota`, `lquota`. */
  tool: string;
  scope: "user" | "group" | "project";
  /** What may still be written; 0 if it is used up, or past its soft limit with the grace period over. */
  bytes: number | undefined;
  inodes: number | undefined;
  usedBytes: number | undefined;
  limitBytes: number | undefined;
  usedInodes: number | undefined;
  limitInodes: number | undefined;
}

export interface QuotaOptions {
  signal?: AbortSignal | undefined;
  /** How long all tools together may take, in seconds. @default 5 */
  timeoutS?: number;
  /** Hears why a tool that is there gave no answer, for people; it is called once for each reason. */
  onProblem?: (text: string) => void;
  /** Where `PATH` is taken from, and what the tools see. @default process.env */
  env?: Env;
  /** @default those of this process */
  mounts?: readonly Mount[];
}

/**
 * The quotas that a new file at `path` would count against, as far as the installed tools tell.
 *
 * Empty where there is no tool, no quota, or no answer in time; a quota without any limit is left out.
 *
 * @param path need not exist: the nearest directory above it counts
 * @throws the signal's reason if that aborts; nothing else
 * @example
 * const tightest = Math.min(...(await quotas("/scratch/anna")).map(({ bytes }) => bytes ?? Infinity));
 */
export async function quotas(path: string, options: QuotaOptions = {}): Promise<QuotaLeft[]> {
  const { signal, timeoutS = 5, onProblem = () => {}, env = process.env } = options;
  signal?.throwIfAborted();
  const place = placeOf(path, options.mounts ?? mounts());
  if (!place) return [];
  const stop = new AbortController();
  const onAbort = () => stop.abort();
  const timer = setTimeout(onAbort, timeoutS * 1000);
  signal?.addEventListener("abort", onAbort, { once: true });
  const told = new Set<string>();
  const asking: Asking = {
    ...place,
    env,
    stop: stop.signal,
    late: `no answer within ${timeoutS} s`,
    problem: (text) => {
      if (signal?.aborted || told.has(text)) return;
      told.add(text);
      onProblem(text);
    },
  };
  try {
    const found = await Promise.all(askers(place.mount).map((ask) => ask(asking).catch(() => [])));
    signal?.throwIfAborted();
    return found.flat().filter(({ bytes, inodes }) => bytes !== undefined || inodes !== undefined);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

/** A real directory that exists, and its file system. */
interface Place {
  dir: string;
  mount: Mount;
}

interface Asking extends Place {
  env: Env;
  /** Aborts when the time is over. */
  stop: AbortSignal;
  late: string;
  problem: (text: string) => void;
}

type Asker = (asking: Asking) => Promise<QuotaLeft[]>;

function placeOf(path: string, all: readonly Mount[]): Place | undefined {
  try {
    let dir = realPath(path);
    while (!existsSync(dir) && dirname(dir) !== dir) dir = dirname(dir);
    const mount = mountOf(dir, all);
    return mount && { dir, mount };
  } catch {
    return undefined; // a loop of links, a part that may not be read: the copy will say so
  }
}

/** Who can tell something about this kind of file system. */
function askers({ type }: Mount): Asker[] {
  const own = type === "lustre" ? [askLfs] : quotaTypes.includes(type) ? [askQuota] : [];
  return [...own, askLquota];
}

/** What the kernel's quota calls, or an NFS server's rquotad, answer for. */
const quotaTypes = ["ext2", "ext3", "ext4", "f2fs", "gfs2", "jfs", "nfs", "nfs4", "ocfs2", "xfs"];

/** Lustre: the user's quota, that of the group and of the project that new files get. */
async function askLfs(asking: Asking): Promise<QuotaLeft[]> {
  const lfs = await programOf("lfs", asking);
  if (!lfs) return [];
  const owner = ownerOf(asking.dir);
  const ask = async (scope: QuotaLeft["scope"], id: number) => {
    const argv = [lfs, "quota", "-q", `-${scope[0]}`, String(id), asking.mount.point];
    const answer = await answerOf(argv, "lfs quota", asking);
    if (!answer || notSet.test(answer.stderr)) return [];
    const quota = parseLfsQuota(answer.stdout, scope);
    if (!quota) asking.problem(unclear("lfs quota", answer));
    if (answer.stdout.includes("["))
      asking.problem("lfs quota: some of Lustre's servers did not tell, so it is not exact");
    return quota ? [quota] : [];
  };
  const project = async () => {
    const answer = await answerOf([lfs, "project", "-d", asking.dir], "lfs project", asking);
    const id = answer && parseLfsProject(answer.stdout); // servers before 2.10 know no projects: no problem
    return id === undefined ? [] : ask("project", id);
  };
  const found = await Promise.all([ask("user", owner.uid), ask("group", owner.gid), project()]);
  return found.flat();
}

/** What tools say where no quota is set up, or is not ours to see: that is no problem. */
const notSet = /not enabled|no quota enabled|not using quota|Permission denied|No correct mountpoint/i;

/** Files in a set-group-id directory get its group. */
function ownerOf(dir: string): { uid: number; gid: number } {
  const { mode, gid } = statSync(dir);
  return { uid: process.geteuid?.() ?? 0, gid: mode & 0o2000 ? gid : (process.getegid?.() ?? 0) };
}

/** The Linux quota tools: only the one mount is named, so no other file system is waited for. */
async function askQuota(asking: Asking): Promise<QuotaLeft[]> {
  const quota = await programOf("quota", asking);
  if (!quota) return [];
  const options = ["-u", "-g", "-v", "-w", "-p", "-Q", "--show-mntpoint", "--hide-device", "-f"];
  const answer = await answerOf([quota, ...options, "--", asking.mount.point], "quota", asking);
  if (!answer) return [];
  const found = parseQuota(answer.stdout, asking.mount.point);
  // Exit code 1 is also "over quota"; other programs of that name exist, and fail on these options.
  if (found.length === 0 && answer.code !== 0 && !notSet.test(answer.stderr)) asking.problem(unclear("quota", answer));
  return found;
}

/** ETH's wrapper. It takes the directory that has the quota: `/cluster/scratch/NAME`, `/cluster/work/GROUP`. */
async function askLquota(asking: Asking): Promise<QuotaLeft[]> {
  const lquota = await programOf("lquota", asking);
  if (!lquota) return [];
  const share = /^\/cluster\/[^/]+\/[^/]+/.exec(asking.dir)?.[0] ?? asking.mount.point;
  const answer = await answerOf([lquota, "-b", share], "lquota", asking);
  if (!answer) return [];
  const found = parseLquota(answer.stdout).filter(({ location }) => isWithin(asking.dir, location));
  if (found.length === 0 && answer.code !== 0) asking.problem(unclear("lquota", answer));
  return found.map(({ location: _, ...quota }) => quota);
}

interface Answer {
  code: number | null;
  stdout: string;
  stderr: string;
}

const unclear = (tool: string, { code, stderr, stdout }: Answer) => {
  const said = `${stderr}\n${stdout}`.split("\n").find((line) => line.trim() !== "");
  return `${tool} gave no answer that ef understands (exit code ${code})${said ? `: ${said.trim().slice(0, 200)}` : ""}`;
};

/** The program's path; looking for it ends with the time too, as a directory of PATH may hang. */
function programOf(name: string, { env, stop }: Asking): Promise<string | undefined> {
  return Promise.race([
    onPath(name, env).then(([first]) => first),
    new Promise<undefined>((done) => stop.addEventListener("abort", () => done(undefined), { once: true })),
  ]);
}

/** Run a tool; undefined, and a problem, if it cannot be started or has not ended in time. */
function answerOf(argv: readonly string[], tool: string, asking: Asking): Promise<Answer | undefined> {
  return span(`exec ${argv[0]}`, () => answerNow(argv, tool, asking), { argv });
}

/** A process group of its own, so that a wrapper script's children are killed with it. */
function start([program = "", ...args]: readonly string[], env: Env) {
  return spawn(program, args, {
    env: { ...env, LC_ALL: "C" } as NodeJS.ProcessEnv,
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
}

/** A table is small: what is longer is none. */
const maxAnswer = 1 << 20;

function answerNow(argv: readonly string[], tool: string, { env, stop, late, problem }: Asking) {
  return new Promise<Answer | undefined>((done) => {
    if (stop.aborted) return done(undefined);
    const fail = (error: unknown) => {
      problem(`${tool} cannot be started: ${reasonOf(error)}`);
      done(undefined);
    };
    let child: ReturnType<typeof start>;
    try {
      child = start(argv, env);
    } catch (error) {
      return fail(error); // Bun throws, Node has an event for it
    }
    const text = { stdout: "", stderr: "" };
    const end = (answer: Answer | undefined) => {
      stop.removeEventListener("abort", giveUp);
      done(answer);
    };
    const giveUp = () => {
      problem(`${tool}: ${late}`);
      try {
        if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      } catch {} // it has just ended
      // One that waits for a dead server cannot be killed: nothing of it may keep this process.
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
      end(undefined);
    };
    stop.addEventListener("abort", giveUp, { once: true });
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8");
      child[name].on("data", (chunk: string) => {
        if (text[name].length < maxAnswer) text[name] += chunk;
      });
      child[name].on("error", () => {});
    }
    child.on("error", (error) => {
      stop.removeEventListener("abort", giveUp);
      fail(error);
    });
    child.on("close", (code) => end({ code, ...text }));
  });
}

/** One half of a quota: used, soft and hard limit (0 is none), and is the grace period of the soft one over? */
interface Half {
  used: number;
  soft: number;
  hard: number;
  graceOver: boolean;
}

/** The hard limit counts, without one the soft; past the soft limit nothing is left once the grace period is over. */
function quotaOf(tool: string, scope: QuotaLeft["scope"], space: Half | undefined, files: Half | undefined): QuotaLeft {
  const limit = (half: Half | undefined) => half?.hard || half?.soft || undefined;
  const left = (half: Half | undefined) => {
    const most = limit(half);
    if (!half || most === undefined) return undefined;
    return half.soft > 0 && half.used > half.soft && half.graceOver ? 0 : Math.max(0, most - half.used);
  };
  return {
    tool,
    scope,
    bytes: left(space),
    inodes: left(files),
    usedBytes: space?.used,
    limitBytes: limit(space),
    usedInodes: files?.used,
    limitInodes: limit(files),
  };
}

/**
 * Read `lfs quota -q`: used, soft limit, hard limit and grace, of space and of files. Without `-h` space is in KiB; the
 * suffixes of `-h` are understood too. A name of more than 15 characters has a line of its own. A number in `[]` was not
 * told by all servers.
 *
 * @returns undefined if there is no such line
 * @example
 * parseLfsQuota("/scratch 1840* 1000 2000 6d23h 23 0 0 -", "user")?.bytes; // 160 * 1024
 */
export function parseLfsQuota(text: string, scope: QuotaLeft["scope"]): QuotaLeft | undefined {
  const value = String.raw`(\[?[\d.]+[kMGTPE]?\]?)`;
  const half = String.raw`${value}\*?\s+${value}\s+${value}\s+(\S+)`;
  const found = new RegExp(String.raw`\s${half}\s+${half}\s*$`, "m").exec(text);
  if (!found) return undefined;
  const halfAt = (from: number, unit: number): Half => {
    const [used = 0, soft = 0, hard = 0] = found.slice(from, from + 3).map((each) => lfsNumber(each) * unit);
    return { used, soft, hard, graceOver: /^(?:none|expired)$/.test(found[from + 3] ?? "") };
  };
  return quotaOf("lfs quota", scope, halfAt(1, 1024), halfAt(5, 1));
}

function lfsNumber(text: string): number {
  const [, number = "0", suffix = ""] = /([\d.]+)([kMGTPE]?)/.exec(text) ?? [];
  return Number(number) * 1024 ** Math.max(0, "kMGTPE".indexOf(suffix || "k"));
}

/**
 * Read `lfs project -d DIR` (`110255 P /projects/x`): the project that new files in that directory get. Without `P` they
 * do not get it, and 0 is none.
 */
export function parseLfsProject(text: string): number | undefined {
  const [, id = "0", flag] = /^\s*(\d+)\s+(\S)\s+\S/m.exec(text) ?? [];
  return flag === "P" && Number(id) > 0 ? Number(id) : undefined;
}

/**
 * Read `quota -w -p`, in blocks of 1 KiB; the grace time is when it ends, in seconds since 1970.
 *
 * @param mount the rows of this file system only; names come with spaces
 * @param nowS the time to compare with. @default now
 */
export function parseQuota(text: string, mount: string, nowS: number = Date.now() / 1000): QuotaLeft[] {
  const found: QuotaLeft[] = [];
  let scope: QuotaLeft["scope"] = "user";
  for (const line of text.split("\n")) {
    const title = /^Disk quotas for (user|group|project) /.exec(line);
    if (title) scope = title[1] as QuotaLeft["scope"];
    const row = /^\s*(.*?)\s+(\d+)\*?\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\*?\s+(\d+)\s+(\d+)\s+(\d+)\s*$/.exec(line);
    if (!row || row[1] !== mount) continue;
    const [blocks = 0, soft = 0, hard = 0, grace = 0, files = 0, softFiles = 0, hardFiles = 0, graceFiles = 0] = row
      .slice(2)
      .map(Number);
    const over = (endS: number) => endS > 0 && endS <= nowS;
    found.push(
      quotaOf(
        "quota",
        scope,
        { used: blocks * 1024, soft: soft * 1024, hard: hard * 1024, graceOver: over(grace) },
        { used: files, soft: softFiles, hard: hardFiles, graceOver: over(graceFiles) },
      ),
    );
  }
  return found;
}

/** Units of lquota: `kB` and so on are powers of 1000, `KiB` of 1024. */
const units = new Map<string, number>([
  ...["", "k", "m", "g", "t", "p", "e"].map((prefix, i) => [`${prefix}b`, 1000 ** i] as const),
  ...["", "k", "m", "g", "t", "p", "e"].map((prefix, i) => [`${prefix}ib`, 1024 ** i] as const),
  ["", 1],
]);

/**
 * Read lquota's table: `| location | space or files | used | soft | hard |`, two rows for each location. Numbers with or
 * without a unit; it does not tell the grace period, so only the hard limit counts.
 */
export function parseLquota(text: string): (QuotaLeft & { location: string })[] {
  const halves = new Map<string, Partial<Record<"space" | "files", Half>>>();
  for (const line of text.split("\n")) {
    const [before, location = "", kind = "", used = "", soft = "", hard = "", after] = line
      .split("|")
      .map((cell) => cell.trim());
    if (before !== "" || after === undefined || (kind !== "space" && kind !== "files")) continue;
    const usedNumber = lquotaNumber(used);
    if (usedNumber === undefined) continue;
    const half = { used: usedNumber, soft: lquotaNumber(soft) ?? 0, hard: lquotaNumber(hard) ?? 0, graceOver: false };
    halves.set(location, { ...halves.get(location), [kind]: half });
  }
  return [...halves].map(([location, { space, files }]) => {
    const scope = /^\/cluster\/(?:project|work)\//.test(location) ? "group" : "user";
    return { location, ...quotaOf("lquota", scope, space, files) };
  });
}

function lquotaNumber(text: string): number | undefined {
  const [, number, unit = ""] = /^([\d.]+)\s*([A-Za-z]*)$/.exec(text) ?? [];
  const factor = units.get(unit.toLowerCase());
  return number === undefined || factor === undefined ? undefined : Math.round(Number(number) * factor);
}
