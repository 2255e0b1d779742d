/**
 * `ef doctor`: every outside thing that ef needs, checked by using it.
 *
 * Storage may hang, and nobody can end a system call that does. So each check has a time limit; a path is first looked
 * at by an asynchronous call, and the synchronous ones of other modules come only after that has answered; and what
 * hangs is left behind in the thread pool, which is made wide enough for that.
 */
import { constants, promises } from "node:fs";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { errnoOf, reasonOf } from "./base/errors.ts";
import { type Env, tilde, variablesIn } from "./base/paths.ts";
import { widenPool } from "./base/stat.ts";
import { span } from "./base/trace.ts";
import { humanBytes, humanCount, plural } from "./base/units.ts";
import { describeIncongruence, incongruences } from "./config/congruency.ts";
import { type Config, type RawConfig, unknownKeys } from "./config/schema.ts";
import { checkConfig, configPath, readRaw } from "./config/store.ts";
import { checkApptainer, checkBuilds } from "./doctor-apptainer.ts";
import { checkClusters } from "./doctor-clusters.ts";
import { checkDatamover } from "./doctor-datamover.ts";
import { checkWorkspaces } from "./doctor-workspace.ts";
import { describeMount, isInMemory, type Mount, mountOf, mounts, nodeLocalLockOption } from "./drivers/filesystem.ts";
import { type Limits, limits } from "./drivers/limits.ts";
import { type Finding, fail, failure, ok, warn, withinLimit } from "./engine/finding.ts";
import { plan, type Step, scratchRoot } from "./engine/plan.ts";
import { clockSkew, flockTwice, tryWrite } from "./engine/probe.ts";
import { checkRoots } from "./engine/roots.ts";
import { checkIntegration, checkPath } from "./engine/shell-setup.ts";
import { freeSpace } from "./engine/space.ts";
import { checkQuota, checkRsync, checkSlurm, checkTool, tools } from "./engine/tools.ts";
import { withWorkspaces } from "./scratch-base.ts";

export interface DoctorOptions {
  /** @default process.env */
  env?: Env;
  /** The configuration. @default as for every command */
  configPath?: string;
  /** Path of the running ef, to be compared with the one on PATH. */
  program?: string;
  signal?: AbortSignal;
  /** How long one check may take, in seconds. @default 5 */
  limitS?: number;
}

/** One line of the report. */
export interface Check extends Finding {
  group: string;
  name: string;
}

/** What the checks know. What is absent could not be found out: the checks that need it are left out. */
interface Facts {
  readonly env: Env;
  readonly program: string | undefined;
  readonly mounts: readonly Mount[];
  home?: string;
  /** The configuration's path. */
  file?: string;
  raw?: RawConfig;
  config?: Config;
  /** Of the enabled variables. */
  steps?: readonly Step[];
  /** The scratch root, there or not; absent if it did not even answer. */
  scratchBase?: string;
  /** The cache directory on scratch, or the scratch root as long as there is none. */
  scratch?: string;
  /** Can files be written there? */
  isWritable?: boolean;
}

type Work = (facts: Facts, signal: AbortSignal) => Promise<Finding | undefined> | Finding | undefined;

/** Every check, in the order of the report. */
const checks: Record<string, Record<string, Work>> = {
  configuration: { file: configFile, keys, saving, variables },
  storage: {
    $SCRATCH: scratchVariable,
    scratch: scratchDir,
    "scratch type": scratchType,
    "home type": homeType,
    "scratch space": ({ scratch }) => (scratch ? space(scratch, lowScratch) : undefined),
    "home space": ({ home }) => (home ? space(home, lowHome) : undefined),
    locks,
    clock,
    quota: (facts, signal) => (facts.scratch ? checkQuota(facts.scratch, toolContext(facts, signal)) : undefined),
  },
  programs: {
    rsync: (facts, signal) => checkRsync(toolContext(facts, signal)),
    ...Object.fromEntries(
      Object.entries(tools).map(([name, tool]): [string, Work] => [
        name,
        (facts, signal) => checkTool(tool, toolContext(facts, signal)),
      ]),
    ),
    apptainer: (facts, signal) => checkApptainer(toolContext(facts, signal)), // in its place among the tools
    slurm: (facts, signal) => checkSlurm(toolContext(facts, signal)),
    clusters: (facts, signal) => checkClusters(toolContext(facts, signal)),
    workspaces: ({ raw, ...facts }, signal) =>
      checkWorkspaces({ ...toolContext(facts, signal), written: raw?.scratch_base }),
    "data mover": (facts, signal) => checkDatamover(toolContext(facts, signal)),
    "image builds": (facts, signal) => checkBuilds(toolContext(facts, signal)),
  },
  shell: {
    PATH: ({ program, env }) => checkPath(program, env),
    function: ({ home, env }) => (home ? checkIntegration(home, env) : undefined),
    exports: staleExports,
  },
  limits: {
    "open files": () => limited(openFiles),
    processes: () => limited(processes),
    "address space": () => limited(addressSpace),
  },
};

/** What these find out, others need: they are run before the others, one after the other. */
const first: readonly Work[] = [configFile, scratchDir];

/**
 * Check everything, at the same time, and report in a fixed order.
 *
 * Temporary files are made beside the configuration and on scratch, and removed. A check that makes no sense (locks
 * without a scratch directory) is left out.
 *
 * @returns also what is wrong: no finding is thrown
 * @throws the reason of `signal`, if that aborts
 * @example
 * const broken = (await doctor()).filter(({ state }) => state === "fail");
 */
export async function doctor(options: DoctorOptions = {}): Promise<Check[]> {
  const { env = process.env, program, signal, limitS = 5 } = options;
  await widenPool();
  const facts: Facts = { env, program, mounts: mounts() };
  if (env.HOME) facts.home = env.HOME;
  if (options.configPath) facts.file = options.configPath;
  const all = Object.entries(checks).flatMap(([group, works]) =>
    Object.entries(works).map(([name, work]) => ({ group, name, work })),
  );
  const findings = new Map<Work, Finding | undefined>();
  const check = async ({ name, work }: { name: string; work: Work }) => {
    const timed = () => withinLimit(limitS, signal, async (limit) => work(facts, limit));
    findings.set(work, await span(`check ${name}`, timed).catch(failure));
  };
  for (const each of all.filter(({ work }) => first.includes(work))) await check(each);
  await Promise.all(all.filter(({ work }) => !first.includes(work)).map(check));
  signal?.throwIfAborted(); // only now: each check has removed what it made
  return all.flatMap(({ group, name, work }) => {
    const finding = findings.get(work);
    return finding ? [{ group, name, ...finding }] : [];
  });
}

const toolContext = ({ env, config }: Facts, signal: AbortSignal) => ({ env, config, signal });

async function configFile(facts: Facts, signal: AbortSignal): Promise<Finding> {
  const path = facts.file ?? configPath(facts.env);
  facts.file = path;
  await promises.readFile(path).catch(() => {}); // only to see that it answers
  facts.raw = await readRaw(path);
  facts.config = checkConfig(facts.raw, path);
  facts.config = await withWorkspaces(facts.config, { env: facts.env, missing: "leave", signal });
  try {
    facts.steps = plan(facts.config, facts.env).steps;
  } catch {
    // the check of the variables says why
  }
  const names = Object.keys(facts.config.vars);
  const enabled = names.filter((name) => facts.config?.vars[name]?.enabled).length;
  const found = `${tilde(path, facts.env)}: ${plural(names.length, "variable")}, ${enabled} enabled`;
  return enabled > 0
    ? ok(found)
    : warn(found, "choose what to stage with: ef init, or ef config set vars.NAME.source DIR");
}

function keys({ raw }: Facts): Finding | undefined {
  if (!raw) return undefined;
  const unknown = unknownKeys(raw);
  if (unknown.length === 0) return ok("all known");
  return warn(
    `not known to this version: ${unknown.join(", ")}`,
    "typing errors? They have no effect; mend them with: ef config edit",
  );
}

/** A full or read-only home shows only when something is to be saved. */
async function saving({ file }: Facts): Promise<Finding | undefined> {
  if (file === undefined) return undefined;
  const dir = dirname(await promises.realpath(file).catch(() => file));
  try {
    await tryWrite(dir);
    return ok(`files can be written in ${dir}`);
  } catch (error) {
    return warn(
      `nothing can be saved: cannot write in ${dir}: ${reasonOf(error)}`,
      "make room or check the directory's mode, or keep the configuration elsewhere: EF_CONFIG=FILE",
    );
  }
}

async function variables({ config, env, scratchBase }: Facts): Promise<Finding | undefined> {
  if (!config || scratchBase === undefined) return undefined;
  const { steps } = plan(config, env);
  const isThere = await Promise.all(steps.map(({ source }) => promises.stat(source).catch(() => undefined)));
  const missing = steps.filter((_, i) => isThere[i] === undefined);
  const overlaps = checkRoots(steps);
  if (missing.length === 0 && overlaps.length === 0) return ok(`${plural(steps.length, "source")} found`);
  const absent = missing.map(({ name, source }) => `the source of ${name} does not exist: ${source}`);
  return warn(
    [...absent, ...overlaps].join("; "),
    "change it with: ef config set vars.NAME.source DIR, or vars.NAME.enabled false",
  );
}

function scratchVariable({ config, env }: Facts): Finding {
  if (env.SCRATCH) return ok(env.SCRATCH);
  if (config && !variablesIn(config.scratch_base).includes("SCRATCH")) return ok("not set, and not used");
  return fail(
    env.SCRATCH === "" ? "empty" : "not set",
    "set it (many clusters do so on compute nodes only: try it there), or: ef config set scratch_base DIR",
  );
}

async function scratchDir(facts: Facts): Promise<Finding | undefined> {
  const { config, env } = facts;
  if (scratchVariable(facts).state === "fail") return undefined;
  if (config?.scratch_base.startsWith("ws:")) return undefined; // there is none, which the line of workspaces says
  const base = config ? scratchRoot(config, env) : (env.SCRATCH as string);
  const [stat] = await Promise.allSettled([promises.stat(base)]);
  facts.scratchBase = base;
  if (stat.status === "rejected") {
    if (errnoOf(stat.reason) === "ENOENT") return missingScratch(base);
    return fail(`cannot look at ${base}: ${reasonOf(stat.reason)}`, otherScratch);
  }
  if (!stat.value.isDirectory()) return fail(`${base} is not a directory`, otherScratch);
  const cache = join(base, config?.cache_root ?? "");
  facts.scratch = (await promises.stat(cache).catch(() => undefined))?.isDirectory() ? cache : base;
  try {
    await tryWrite(facts.scratch);
  } catch (error) {
    return fail(
      `cannot write in ${facts.scratch}: ${reasonOf(error)}`,
      `check its owner, its mode and your quota, or ${otherScratch}`,
    );
  }
  facts.isWritable = true;
  return ok(`files can be written in ${facts.scratch}`);
}

const otherScratch = "choose another directory: ef config set scratch_base DIR";

/** Its last part is made by the first sync; a missing parent is more likely not mounted. */
async function missingScratch(base: string): Promise<Finding> {
  try {
    await promises.access(dirname(base), constants.W_OK | constants.X_OK);
  } catch (error) {
    const why = errnoOf(error) === "ENOENT" ? "nor does its parent" : `and cannot be made: ${reasonOf(error)}`;
    return fail(`${base} does not exist, ${why}`, `is the file system mounted on this node? Otherwise ${otherScratch}`);
  }
  return warn(`${base} does not exist yet`, "nothing to do: the first ef sync makes it");
}

async function scratchType({ scratch, steps, home, mounts }: Facts): Promise<Finding | undefined> {
  if (scratch === undefined) return undefined;
  const { what, mount } = await typeOf(scratch, mounts);
  if (mount && isInMemory(mount)) {
    return warn(
      `${what}: what is copied there fills the memory of this node, and is gone when it restarts`,
      otherScratch,
    );
  }
  const { dev } = await promises.stat(scratch);
  const isHere = async (dir: string) => (await promises.stat(dir).catch(() => undefined))?.dev === dev;
  const near = await Promise.all((steps ?? []).map(async ({ name, source }) => ((await isHere(source)) ? [name] : [])));
  const names = near.flat();
  const same = names.length > 0 ? `the source of ${names.join(", ")}` : "home";
  const isSame = steps?.length ? names.length > 0 : home !== undefined && (await isHere(home));
  return isSame ? warn(`${what}, the same file system as ${same}: a copy there gains nothing`, otherScratch) : ok(what);
}

async function homeType({ home, mounts }: Facts): Promise<Finding | undefined> {
  return home === undefined ? undefined : ok((await typeOf(home, mounts)).what);
}

async function typeOf(dir: string, mounts: readonly Mount[]) {
  const mount = mountOf(await promises.realpath(dir), mounts);
  return { mount, what: mount ? describeMount(mount) : "unknown: the mounts of this node cannot be read" };
}

/** Free bytes and inodes below which there is a warning. */
const lowScratch = { bytes: 10 * 2 ** 30, inodes: 50_000 };
const lowHome = { bytes: 100 * 2 ** 20, inodes: 1000 };

async function space(dir: string, low: { bytes: number; inodes: number }): Promise<Finding> {
  await promises.statfs(dir); // only to see that it answers
  const { bytes, inodes } = freeSpace(dir);
  const inodesText = inodes === undefined ? "it counts no inodes" : `${humanCount(inodes)} inodes`;
  const found = `${bytes === undefined ? "it counts no bytes" : humanBytes(bytes)} and ${inodesText} free`;
  const isLow = (bytes ?? Infinity) < low.bytes || (inodes ?? Infinity) < low.inodes;
  return isLow ? warn(found, "make room, or ask for more quota") : ok(found);
}

async function locks({ scratch, isWritable, mounts }: Facts, signal: AbortSignal): Promise<Finding | undefined> {
  if (!isWritable || scratch === undefined) return undefined;
  const answer = await flockTwice(scratch, signal);
  const twice = "nothing breaks, but jobs that start together may copy the same files";
  if (answer === "locked")
    return warn("flock gives one lock to two processes at once", `${twice}: ask your site for a mount with flock`);
  if (answer !== "held") {
    return warn(
      `flock does not work there (${answer.unsupported}): ef uses lease files`,
      "do not sync with euler-files at the same time: it knows flock only",
    );
  }
  const { mount } = await typeOf(scratch, mounts);
  const option = mount && nodeLocalLockOption(mount);
  if (!option) return ok("flock keeps a second process out");
  return warn(
    `flock keeps a second process of this node out, but not those of other nodes (mount option ${option})`,
    `${twice}: ask your site for a mount with flock`,
  );
}

/** Seconds from which clocks disagree too much: as for markers, and as coarse as some file systems' times are. */
const maxSkewS = 2;

async function clock({ scratch, isWritable }: Facts): Promise<Finding | undefined> {
  if (!isWritable || scratch === undefined) return undefined;
  const skew = await clockSkew(scratch);
  const size = `${Math.abs(skew).toFixed(1)} s`;
  if (Math.abs(skew) <= maxSkewS) return ok(`scratch and this node agree (${size})`);
  return warn(
    `scratch is ${size} ${skew > 0 ? "ahead of" : "behind"} this node`,
    `tell your site that the clock of ${hostname()} or of the file server is wrong; till then: ef sync --force`,
  );
}

function staleExports({ steps, env }: Facts): Finding | undefined {
  if (!steps) return undefined;
  const stale = incongruences(steps, env);
  if (stale.length === 0) return ok("none is stale");
  const names = stale.map(({ name }) => name).join(" ");
  return warn(
    stale.map(describeIncongruence).join("; "),
    `remove it from your shell's rc file, and here: unset ${names}`,
  );
}

function limited(judge: (limits: Limits) => Finding): Finding | undefined {
  const found = limits();
  return found && judge(found);
}

/** A sync keeps some tens of directories open, a library that is loaded some hundreds of files. */
const fewFiles = 1024;
/** Threads count too: ef has up to 64 for slow storage and 8 that copy, beside those of Bun. */
const fewProcesses = 256;

const countText = (count: number) => (Number.isFinite(count) ? humanCount(count) : "unlimited");

function openFiles({ openFiles: count }: Limits): Finding {
  return count < fewFiles
    ? warn(`at most ${count}`, "ask your site for a higher hard limit (ulimit -Hn)")
    : ok(countText(count));
}

function processes({ processes: count }: Limits): Finding {
  if (count >= fewProcesses) return ok(countText(count));
  return warn(`at most ${count}, threads included`, "raise it with ulimit -u, or work on a compute node");
}

function addressSpace({ addressSpaceBytes: bytes }: Limits): Finding {
  if (!Number.isFinite(bytes)) return ok("unlimited");
  return warn(
    `limited to ${humanBytes(bytes)}: the runtime of ef reserves much more than it uses, and may end at once`,
    "ulimit -v unlimited, or work on a compute node",
  );
}
