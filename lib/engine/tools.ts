/** Are the outside programs there, and do they start? */
import { EfError } from "../base/errors.ts";
import { run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { onPath } from "../drivers/programs.ts";
import { quotas } from "../drivers/quota.ts";
import { parseVersion } from "../drivers/rsync.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";
import { distinctQuotas, isNearlyUsedUp, isUsedUp, quotaText } from "./quota-text.ts";

/** A program that some commands need. */
interface Tool {
  /** Names it goes by; the first that is found counts. */
  programs: readonly string[];
  /** What makes it say its version; without, being there is enough. */
  versionArg?: string;
  neededFor: string;
  /** Does this configuration make use of it? */
  isUsed: (config: Config) => boolean;
}

const usesImages = ({ apptainer }: Config) => (apptainer ?? undefined) !== undefined;
const usesVenvs = ({ apptainer, ef }: Config) => Boolean(apptainer?.venv_base || ef?.venv_store || ef?.wheelhouse);

/** All but rsync, which has its own rules, and Slurm's. */
export const tools: Record<string, Tool> = {
  flock: {
    programs: ["flock"], // busybox's does not know --version
    neededFor: "locks that other nodes and euler-files respect; without it ef uses lease files",
    isUsed: () => true,
  },
  tar: {
    programs: ["tar"],
    versionArg: "--version",
    neededFor: "ef venv save and load, images",
    isUsed: (config) => usesVenvs(config) || usesImages(config),
  },
  zstd: { programs: ["zstd"], versionArg: "--version", neededFor: "ef venv save and load", isUsed: usesVenvs },
  uv: { programs: ["uv"], versionArg: "--version", neededFor: "ef venv", isUsed: usesVenvs },
  apptainer: {
    programs: ["apptainer", "singularity"],
    versionArg: "--version",
    neededFor: "ef apptainer",
    isUsed: usesImages,
  },
  ssh: {
    programs: ["ssh"],
    versionArg: "-V",
    neededFor: "ef deploy, ef submit",
    isUsed: ({ ef }) => Object.values(ef?.clusters ?? {}).some(({ host }) => host !== undefined),
  },
};

const slurmIsUsed = ({ ef }: Config) => ef?.datamover !== undefined;
const slurmFor = "jobs: ef submit, ef stage, ef dm";
const quotaPrograms = ["quota", "lfs", "lquota"];

interface ToolContext {
  env: Env;
  config: Config | undefined;
  signal: AbortSignal;
}

export async function checkTool(tool: Tool, context: ToolContext): Promise<Finding> {
  const found = (await Promise.all(tool.programs.map((program) => onPath(program, context.env)))).flat();
  const [path] = found;
  if (path === undefined) return absent(tool.programs[0] ?? "", tool.neededFor, tool.isUsed, context);
  if (tool.versionArg === undefined) return ok(path);
  try {
    return ok(`${await versionOf(path, tool.versionArg, context)} (${path})`);
  } catch (error) {
    context.signal.throwIfAborted();
    return warn(`${path} does not start: ${messageOf(error)}`, getIt(tool.programs[0] ?? "", context.env));
  }
}

/** Does the configuration have rsync copy, instead of ef itself? */
const usesRsync = ({ ef, rsync_extra_args }: Config): boolean => {
  const { engine = "auto" } = ef?.transfer ?? {};
  return engine === "rsync" || (engine === "auto" && rsync_extra_args.length > 0);
};
const rsyncFor = "ef.transfer.engine rsync, rsync_extra_args";

/** rsync copies only where the configuration says so: then it has to be one whose options ef knows. */
export async function checkRsync(context: ToolContext): Promise<Finding> {
  const isUsed = context.config !== undefined && usesRsync(context.config);
  const fix = getIt("rsync", context.env);
  const unfit = (found: string) =>
    isUsed ? fail(found, fix) : warn(`${found}; it is not used (only for ${rsyncFor})`, fix);
  const [path] = await onPath("rsync", context.env);
  if (path === undefined)
    return isUsed ? fail("not found: nothing can be copied", fix) : ok(`not found (needed for ${rsyncFor})`);
  let line: string;
  try {
    line = await versionOf(path, "--version", context);
  } catch (error) {
    context.signal.throwIfAborted();
    return unfit(`${path} does not start: ${messageOf(error)}`);
  }
  const version = parseVersion(line);
  if (!version) return unfit(`${path} is another program, "${line}": ef needs rsync of rsync.samba.org, 3.1 or newer`);
  if (version.number < 30_100) return unfit(`${line} (${path}) is too old: ef needs 3.1 or newer`);
  if (version.number < 30_103 && isUsed)
    return warn(`${line} (${path}) misses an edit within the second of the last one: 3.1.3 sees it`, fix);
  return ok(`${line} (${path})`);
}

export async function checkSlurm(context: ToolContext): Promise<Finding> {
  const names = ["sbatch", "sinfo"];
  const paths = (await Promise.all(names.map((name) => onPath(name, context.env)))).map(([first]) => first);
  const there = paths.filter((path) => path !== undefined);
  const job = context.env.SLURM_JOB_ID;
  const inJob = job ? `in job ${job}` : "not in a job";
  if (there.length === 0) {
    if (job) return warn(`${inJob}, but ${names.join(" and ")} are not found`, getIt("slurm", context.env));
    return absent("slurm", slurmFor, slurmIsUsed, context);
  }
  const missing = names.filter((_, i) => paths[i] === undefined).map((name) => `${name} not found`);
  try {
    const versions = await Promise.all(there.map((path) => versionOf(path, "--version", context)));
    return ok([`${[...new Set(versions)].join(" and ")} (${there.join(", ")})`, ...missing, inJob].join(", "));
  } catch (error) {
    context.signal.throwIfAborted();
    return warn(`${there.join(", ")}: ${messageOf(error)}`, getIt("slurm", context.env));
  }
}

/** How long quota tools may take, in seconds: less than a check may, so that it can say which of them hangs. */
const quotaS = 4;

/** What quotas leave at `path`, of all tools that tell. */
export async function checkQuota(path: string, { env, signal }: ToolContext): Promise<Finding> {
  const problems: string[] = [];
  const onProblem = (text: string) => void problems.push(text);
  const found = distinctQuotas(await quotas(path, { env, signal, timeoutS: quotaS, onProblem }));
  const text = [...found.map(quotaText), ...problems].join("; ");
  if (found.some(isUsedUp)) return fail(text, "nothing more can be written there: make room, or ask for more quota");
  if (found.some(isNearlyUsedUp)) return warn(text, "make room, or ask for more quota");
  if (problems.length > 0) return warn(text, "ef works without it, and then checks the free space only");
  if (found.length > 0) return ok(text);
  const programs = (await Promise.all(quotaPrograms.map((program) => onPath(program, env)))).flatMap(
    ([first]) => first ?? [],
  );
  const there =
    programs.length > 0 ? `programs for it: ${programs.join(", ")}` : `no ${quotaPrograms.join(", ")} found`;
  return ok(`no limit known (${there})`);
}

function absent(name: string, neededFor: string, isUsed: Tool["isUsed"], { config, env }: ToolContext): Finding {
  const found = `not found (needed for ${neededFor})`;
  return config && isUsed(config) ? warn(found, getIt(name, env)) : ok(found);
}

/** How a user gets a program: by a module, where the site has modules. */
function getIt(name: string, env: Env): string {
  if (env.LMOD_CMD) return `try: module load ${name} (module spider ${name} shows the versions)`;
  if (env.MODULESHOME) return `try: module load ${name} (module avail ${name} shows the versions)`;
  return `install ${name} and put it on PATH; where there are modules: module load ${name}`;
}

/** The first line that a program says about itself, without ornaments. */
async function versionOf(path: string, arg: string, { env, signal }: ToolContext): Promise<string> {
  const { stdout, stderr } = await run([path, arg], { env: { ...env, LC_ALL: "C" }, signal });
  const line = `${stdout}\n${stderr}`.split("\n").find((each) => /\w/.test(each)) ?? "it does not tell its version";
  return line
    .replace(/^\W+|\s*\*+\s*$/g, "")
    .replace(/\s+/g, " ")
    .slice(0, 100);
}

function messageOf(error: unknown): string {
  return error instanceof EfError ? error.message : String(error);
}
