/** Run a package on a cluster: send what is not there yet, start it, and remember it. */
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import type { Host } from "./clusters/host.ts";
import { openHost } from "./clusters/open.ts";
import type { ClusterConfig, Config } from "./config/schema.ts";
import { type Runner, submit as sbatch, sbatchArgv } from "./drivers/slurm-jobs.ts";
import { makeJobDirectory, pythonFor, type Surroundings, ship, writeThere } from "./jobs/environment.ts";
import type { SubmitEvent } from "./jobs/events.ts";
import { clusterOf, prepare } from "./jobs/place.ts";
import { type JobRecord, newId, writeRecord } from "./jobs/record.ts";
import { jobScript, startScript } from "./jobs/script.ts";
import { inspectPackage } from "./pack.ts";

/** What a job of Slurm asks for; what is not given is as in the definition of the cluster. */
export interface Resources {
  nodes?: number;
  /** As sbatch --time. */
  time?: string;
  /** As sbatch --gpus: `2`, `a100:1`. */
  gpus?: string;
  cpus?: number;
  /** As sbatch --mem: `16G`. */
  memory?: string;
  partition?: string;
  account?: string;
  qos?: string;
}

export interface SubmitOptions {
  /** A name in `ef.clusters`, or `local`. @default the only one */
  cluster?: string;
  /** A saved environment, or a directory there, told by a slash. @default one made of the package's pins */
  venv?: string;
  /** An image of `ef apptainer`, or a file there, told by a slash. */
  image?: string;
  resources?: Resources;
  /** More options of sbatch, after those of the definition. */
  sbatchArgs?: readonly string[];
  /** What starts ef here, for jobs on this machine. @default ["ef"] */
  program?: readonly string[];
  /** @default process.env */
  env?: Env;
  signal?: AbortSignal | undefined;
  onEvent?: (event: SubmitEvent) => void;
}

/**
 * Start a package as a job, and come back when it is queued or runs.
 *
 * What the cluster has already is not sent again: packages and environments are told by their sums. The job has a directory of its
 * own there, 0700, in which the package is unpacked and its result is written.
 *
 * @param archive made by `packageFunction` or `packageScript`
 * @throws {EfError} UNKNOWN_CLUSTER; UNREACHABLE; TOOL_MISSING without Python, ef or Slurm there; UNKNOWN_ENV, UNKNOWN_IMAGE; TOOL_FAILED
 *   with sbatch's own words; BAD_ARCHIVE
 * @example
 * const { packagePath } = await packageFunction({ file: "analysis.py", functionName: "main" });
 * const { id } = await submit(await loadConfig(), packagePath, { cluster: "local" });
 * const { ok, value } = await jobWait(id);
 */
export async function submit(
  config: Config | undefined,
  archive: string,
  options: SubmitOptions = {},
): Promise<JobRecord> {
  const { env = process.env, signal, onEvent = () => {} } = options;
  const { metadata, packageId, functionName } = await inspectPackage(archive);
  if (metadata.kind === "script" && (options.venv ?? options.image) !== undefined)
    throw new EfError("USAGE", "Cannot run a script in a Python environment: --venv and --image are for functions");
  const { name, definition } = clusterOf(config, options.cluster);
  const where = `ef.clusters.${name}`;
  await using host = await openHost(definition, { env, signal, name });
  await using files = definition.shared ? await openHost({ type: "local" }, { env, signal }) : undefined;
  const place = await prepare(host, definition, where, signal);
  if (
    definition.type === "slurm" &&
    !host.isLocal &&
    place.programs.sbatch === undefined &&
    !definition.modules?.length
  )
    throw new EfError("TOOL_MISSING", `Cannot submit a job on ${host.name}: there is no sbatch`, {
      hint: `without Slurm: ef config set ${where}.type ssh`,
    });
  const at: Surroundings = {
    ...{ config, definition, where, host, files: files ?? host, place },
    ...{ program: options.program ?? ["ef"], env, signal, onEvent },
  };
  // By its sum: another package of that name, as `ef pack -o` makes it again and again, is another file.
  const there = `${place.work}/packages/${packageId}.zip`;
  await ship(archive, there, at);
  const python = await pythonFor(metadata, { venv: options.venv, image: options.image }, at);
  const id = newId(functionName);
  const record: JobRecord = {
    ...{ version: 1, id, cluster: name, definition, package_id: packageId, function_name: functionName },
    ...{ kind: metadata.kind, dir: `${place.work}/jobs/${id}`, slurm_id: null, submitted_at: Date.now() / 1000 },
    ...{ state: "submitted", reason: null, exit_code: null },
  };
  const script = jobScript({
    ...{ dir: record.dir, package: there, python },
    ...{ modules: definition.modules ?? [], env: definition.env ?? {} },
  });
  await makeJobDirectory(at, record.dir);
  await writeThere(at, `${record.dir}/job.sh`, script);
  writeRecord(env, record); // before it starts: whatever happens then, it is known
  const started = await start(record, script, options, host).catch((error) => {
    // What was interrupted, or lost its cluster, may have started all the same.
    if (error instanceof EfError && error.code !== "UNREACHABLE")
      writeRecord(env, { ...record, state: "failed", reason: error.message });
    throw error;
  });
  writeRecord(env, started);
  return started;
}

async function start(record: JobRecord, script: string, options: SubmitOptions, host: Host): Promise<JobRecord> {
  if (record.definition.type === "slurm")
    return { ...record, slurm_id: await submitToSlurm(record, script, options, host), state: "pending" };
  await host.sh(startScript, [record.dir], { signal: options.signal });
  return { ...record, state: "running" };
}

/** Slurm's programs are called on the host; here with this process's environment, as sbatch is from a shell. */
export const runnerOf = (host: Host): Runner | undefined =>
  host.isLocal ? undefined : (argv, options) => host.run(argv, options);

function submitToSlurm(record: JobRecord, script: string, options: SubmitOptions, host: Host): Promise<string> {
  const { dir, definition } = record;
  const pattern = (name: string) => `${dir}/${name}`.replaceAll("%", "%%"); // sbatch(1), FILENAME PATTERN
  return sbatch({
    script,
    name: record.id,
    output: pattern("stdout"),
    cwd: dir,
    options: [`--error=${pattern("stderr")}`, ...slurmOptions(definition, options)],
    runner: runnerOf(host),
    signal: options.signal,
  });
}

/** The options of sbatch that a definition and a call ask for; the call wins. */
export function slurmOptions(
  definition: ClusterConfig,
  { resources = {}, sbatchArgs = [] }: Pick<SubmitOptions, "resources" | "sbatchArgs">,
): string[] {
  const { nodes, time, gpus, cpus, memory, partition, account, qos } = { ...definition, ...resources };
  const given = { nodes, time, gpus, "cpus-per-task": cpus, mem: memory, partition, account, qos };
  const options = Object.entries(given).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}=${value}`]));
  return [...options, ...(definition.sbatch_args ?? []), ...sbatchArgs];
}

/** What {@link submit} would run and send, as far as that can be told without asking the cluster. */
export async function submitPlan(config: Config | undefined, archive: string, options: SubmitOptions = {}) {
  const { metadata, functionName, sizeBytes } = await inspectPackage(archive);
  const { name, definition } = clusterOf(config, options.cluster);
  const argv =
    definition.type === "slurm" ? sbatchArgv({ options: slurmOptions(definition, options), name: functionName }) : [];
  return { cluster: name, definition, argv, packages: metadata.dependencies.packages, sizeBytes };
}
