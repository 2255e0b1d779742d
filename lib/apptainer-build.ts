/** `ef apptainer build`: an environment frozen into an image. */

import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { EfError, reasonOf, writeError } from "./base/errors.ts";
import { tempBeside, writeAtomic } from "./base/files.ts";
import { type Env, expandPath, present } from "./base/paths.ts";
import { version } from "./base/version.ts";
import type { Config } from "./config/schema.ts";
import { configPath } from "./config/store.ts";
import { buildArgv, findApptainer, takesSquashArgs } from "./drivers/apptainer.ts";
import { processors } from "./drivers/limits.ts";
import { describeHolder, lock } from "./engine/lock.ts";
import { removeParts, removeTree } from "./engine/temp.ts";
import { findEnvironment, lockFileOf, nameOf, venvBase } from "./envs/base.ts";
import type { OnVenvEvent } from "./envs/events.ts";
import { readPyvenvCfg } from "./envs/interpreter.ts";
import { needsOf, packagesOf } from "./envs/packages.ts";
import { type BaseImage, baseImage } from "./images/base-image.ts";
import { assertUsable, type Compressor, isFakeroot, squashArgs, usableArgs } from "./images/build-args.ts";
import { assertContainerPath } from "./images/container-path.ts";
import { definition, packagesSumIn } from "./images/definition.ts";
import { buildEnv, type Making, make, named, names, pythonsOf, tryImage } from "./images/making.ts";
import { packEnvironment } from "./images/packing.ts";
import { fakerootProblem } from "./images/privileges.ts";
import { withRecord } from "./images/records.ts";
import { assertAlone, type BuiltRecord, existingImage, type Image, imageOf, packagesSum } from "./images/store.ts";
import { assertRoom, workDirs, workIn } from "./images/workspace.ts";
import { updateConfig } from "./settings.ts";

export interface ApptainerBuildOptions {
  /** Build even if the image is there already. @default false */
  force?: boolean;
  /** Say what would be built, and write nothing; needs no apptainer. @default false */
  dryRun?: boolean;
  /** Where the image is put together. @default `ef.apptainer.tmpdir`, else this node's own disk, else beside the image */
  tmpdir?: string | undefined;
  /** Of base images from registries. @default `ef.apptainer.cachedir`, else Apptainer's own choice */
  cachedir?: string | undefined;
  /** @default `ef.apptainer.compressor`, else Apptainer's own choice */
  compressor?: Compressor | undefined;
  /** @default `ef.apptainer.processors`, else as many as this process may use */
  processors?: number | undefined;
  /** Put byte code of all modules into the image. @default `ef.apptainer.compile`, else true */
  compile?: boolean | undefined;
  signal?: AbortSignal | undefined;
  onEvent?: (event: ImageBuildEvent) => void;
  /** What apptainer prints, as it comes. */
  onOutput?: (chunk: Buffer) => void;
  /** @default process.env */
  env?: Env;
}

export type ImageBuildEvent = Parameters<OnVenvEvent>[0] | { type: "building"; name: string; workDir: string };

export interface ImageBuilt {
  status: "built" | "skipped" | "dry-run";
  name: string;
  venvPath: string;
  pythonVersion: string;
  sif: string;
  definitionPath: string;
  /** Of the packed environment, which is gone in the end. */
  tarPath: string;
  buildArgs: string[];
  command: string[];
  definition: string;
  /** Skipped, but the packages are not those any more that the image was built of. */
  isOutdated: boolean;
  warnings: string[];
}

/**
 * Build the image of an environment. The one that is there stays in use until the new one is whole and has been tried; it
 * is what it was after any failure.
 *
 * @param name a directory below `apptainer.venv_base`
 * @throws {EfError} UNKNOWN_ENV, NOT_RUNNABLE, CONFIG_INVALID, TOOL_MISSING before anything is written; TRANSFER_PARTIAL where
 *   the environment changed meanwhile; NO_SPACE, TOOL_FAILED, LOCK_TIMEOUT, IO; the signal's reason
 * @example
 * await apptainerBuild(await loadConfig(), "train", { force: true });
 */
export async function apptainerBuild(
  config: Config,
  name: string,
  options: ApptainerBuildOptions = {},
): Promise<ImageBuilt> {
  const { env = process.env, signal, force = false, onEvent } = options;
  const job = jobOf(config, name, options, env);
  const { image } = job;
  const isThere = () => existingImage(image.sif) && !force;
  if (isThere() && !options.dryRun) return skipped(job);
  await warnBefore(job);
  if (options.dryRun) return resultOf(job, "dry-run");
  const apptainer = await findApptainer(env, signal);
  makeStore(dirname(image.sif));
  await using _ = await lock(image.lock, {
    timeoutS: config.lock_timeout_seconds,
    signal,
    onWait: (holder) => onEvent?.({ type: "waiting", name, who: describeHolder(holder) }),
  });
  if (isThere()) return skipped(job);
  removeParts([image.sif, image.definition]);
  const making: Making = { apptainer, env, signal, onOutput: options.onOutput };
  await assertPython(making, job);
  return await build(making, job); // with the lock held to its end
}

/** All that is known before anything is done. */
interface Job {
  config: Config;
  options: ApptainerBuildOptions;
  env: Env;
  image: Image;
  venvBase: string;
  venvPath: string;
  pythonVersion: string;
  packages: string[];
  needsGlibc: string | undefined;
  /** Does its Python see the packages of the base Python? */
  sharesPackages: boolean;
  base: BaseImage;
  containerPath: string;
  buildArgs: string[];
  compressor: Compressor | undefined;
  processors: number;
  /** Directories to build in, the best first. */
  workDirs: string[];
  cacheDir: string | undefined;
  warnings: string[];
}

function jobOf(config: Config, name: string, options: ApptainerBuildOptions, env: Env): Job {
  const settings = config.apptainer;
  const own = config.ef?.apptainer;
  const image = imageOf(config, env, name);
  assertAlone(config, image);
  const base = venvBase(undefined, config, env);
  const venvPath = join(base, nameOf(base, findEnvironment(base, image.venvName)));
  const { version: pythonVersion, entries } = readPyvenvCfg(venvPath);
  if (pythonVersion === "")
    throw new EfError(
      "NOT_RUNNABLE",
      `Cannot tell for which Python ${venvPath} was made: its pyvenv.cfg has no version`,
    );
  const containerPath = settings?.container_venv_path ?? "/opt/venv";
  assertContainerPath(containerPath, "apptainer.container_venv_path");
  const from = baseImage(settings?.base_image ?? "", pythonVersion, env, existsSync);
  if (from.path !== undefined && !existsSync(from.path))
    throw new EfError("CONFIG_INVALID", `Cannot build on apptainer.base_image ${from.path}: there is nothing`, {
      hint: "give another: ef config set apptainer.base_image IMAGE",
      path: from.path,
    });
  const asked = settings?.build_args ?? [];
  assertUsable(asked);
  const { args } = usableArgs(asked, userId());
  const cacheDir = options.cachedir ?? own?.cachedir;
  const job: Job = {
    ...{ config, options, env, image, venvBase: base, venvPath, pythonVersion, containerPath, base: from },
    packages: packagesOf(venvPath),
    needsGlibc: needsOf(venvPath).glibc,
    sharesPackages: entries.get("include-system-site-packages")?.toLowerCase() === "true",
    buildArgs: args,
    compressor: options.compressor ?? own?.compressor,
    processors: options.processors ?? own?.processors ?? processors(),
    workDirs: workDirs(options.tmpdir ?? own?.tmpdir, env, dirname(image.sif)),
    cacheDir: cacheDir && resolve(expandPath(cacheDir, env, "ef.apptainer.cachedir")),
    warnings: [],
  };
  return job;
}

const userId = () => process.geteuid?.() ?? 0;

/** What may not be as expected: on this node, or in the image. */
async function warnBefore(job: Job): Promise<void> {
  const asked = job.config.apptainer?.build_args ?? [];
  const warn = warner(job);
  if (job.sharesPackages)
    warn("it was made with --system-site-packages: packages of the Python of this machine are not in the image");
  const { note } = usableArgs(asked, userId());
  if (note !== undefined) warn(note);
  const problem = asked.some(isFakeroot) ? await fakerootProblem(job.base.bootstrap === "localimage") : undefined;
  if (problem !== undefined) warn(`the build may fail: ${problem}`);
}

const warner =
  ({ warnings, options, image }: Job) =>
  (message: string): void => {
    warnings.push(message);
    options.onEvent?.({ type: "warning", name: image.name, message });
  };

function makeStore(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true });
  } catch (error) {
    throw writeError(`Cannot make apptainer.sif_store ${dir}`, dir, error);
  }
}

/** The image is there, and stays. One that was built and not recorded is recorded now. */
async function skipped(job: Job): Promise<ImageBuilt> {
  const { image, packages } = job;
  const { at, packagesSha256: sum } = image.built ?? asBuilt(image);
  if (!image.built) await record(job, at, sum);
  return { ...resultOf(job, "skipped"), isOutdated: sum !== undefined && sum !== packagesSum(packages) };
}

/** What the files tell of a build that nobody recorded: its environment may have changed since. */
function asBuilt({ sif, definition }: Image): Pick<BuiltRecord, "at" | "packagesSha256"> {
  const text = present(definition) ? readFileSync(definition, "utf8") : "";
  return { at: statSync(sif).mtimeMs / 1000, packagesSha256: packagesSumIn(text) };
}

function resultOf(job: Job, status: ImageBuilt["status"]): ImageBuilt {
  const { image, venvPath, pythonVersion, buildArgs, workDirs: dirs, warnings } = job;
  return {
    ...{ status, name: image.name, venvPath, pythonVersion, sif: image.sif, definitionPath: image.definition },
    tarPath: join(dirs[0] as string, names.archive),
    buildArgs,
    command: buildArgv({ program: "apptainer" }, buildArgs, image.sif, names.definition),
    definition: textOf(job, named(job.base, undefined)),
    isOutdated: false,
    warnings,
  };
}

const textOf = ({ image, ...job }: Job, base: Pick<BaseImage, "bootstrap" | "from">): string =>
  definition({
    name: image.name,
    base,
    archive: names.archive,
    containerPath: job.containerPath,
    pythonVersion: job.pythonVersion,
    needsGlibc: job.needsGlibc,
    packages: { count: job.packages.length, sha256: packagesSum(job.packages) },
    compile: job.options.compile ?? job.config.ef?.apptainer?.compile ?? true,
    processors: job.processors,
    efVersion: version,
  });

/** @throws {EfError} NOT_RUNNABLE where it is known already that the base image has no such Python */
async function assertPython(making: Making, { base, pythonVersion, image }: Job): Promise<void> {
  const minor = minorOf(pythonVersion);
  const found = await pythonsOf(making, base, minor);
  if (found === undefined || found.includes(minor)) return;
  throw new EfError(
    "NOT_RUNNABLE",
    `Cannot build ${image.name}: it was made for Python ${minor}, and ${base.path} has ${found.join(", ") || "no Python"}`,
    { hint: "choose another: ef config set apptainer.base_image IMAGE", path: base.path },
  );
}

const minorOf = (text: string) => text.split(".").slice(0, 2).join(".");

async function build(making: Making, job: Job): Promise<ImageBuilt> {
  const { image, containerPath, pythonVersion, options } = job;
  using work = await packSomewhere(job);
  assertRoom(work.path, work.contentBytes);
  const text = textOf(job, named(job.base, work.path));
  const args = [...job.buildArgs, ...(await squash(making, job))];
  if (job.cacheDir !== undefined) makeCache(job.cacheDir);
  const env = buildEnv(making.env, making.apptainer, join(work.path, "tmp"), job.cacheDir);
  const made = tempBeside(image.sif);
  try {
    options.onEvent?.({ type: "building", name: image.name, workDir: work.path });
    await make({ ...making, env }, work.path, text, args, made);
    const found = await tryImage(making, made, containerPath);
    if (minorOf(found) !== minorOf(pythonVersion))
      throw new EfError("NOT_RUNNABLE", `The image was built with Python ${found} instead of ${pythonVersion}`);
    flush(made);
    options.signal?.throwIfAborted();
    // From here on nothing waits, so that nothing comes between.
    renameSync(made, image.sif);
    writeAtomic(image.definition, text);
  } catch (error) {
    removeTree(made);
    throw writeError(`Cannot put the image at ${image.sif}`, image.sif, error);
  }
  await record(job, Date.now() / 1000, packagesSum(job.packages));
  const tarPath = join(work.path, names.archive);
  const command = buildArgv(making.apptainer, args, image.sif, names.definition);
  return { ...resultOf(job, "built"), definition: text, buildArgs: args, tarPath, command };
}

/** In the first directory that has room. */
async function packSomewhere(job: Job): Promise<ReturnType<typeof workIn> & { contentBytes: number }> {
  const { options, image, venvPath, containerPath, workDirs: dirs } = job;
  const { signal, onEvent } = options;
  const { name } = image;
  await using _ = await lockEnvironment(job);
  for (const [i, dir] of dirs.entries()) {
    const next = dirs[i + 1];
    const work = workIn(dir);
    try {
      let told = false;
      const packed = await packEnvironment(venvPath, join(work.path, names.archive), {
        to: containerPath,
        signal,
        onProgress({ bytes, files, totalBytes, totalFiles }) {
          if (!told) onEvent?.({ type: "copying", name, plan: { files: totalFiles, bytes: totalBytes, names: [] } });
          told = true;
          onEvent?.({ type: "progress", name, bytes, files });
        },
      });
      for (const message of packed.warnings) warner(job)(message);
      return { ...work, contentBytes: packed.contentBytes };
    } catch (error) {
      work[Symbol.dispose]();
      if (!(error instanceof EfError && error.code === "NO_SPACE")) throw error;
      if (next === undefined) {
        const hint = "make room there, or give a directory that has some: --tmpdir DIR";
        throw new EfError(error.code, error.message, { hint, path: error.path, cause: error });
      }
      warner(job)(`there is no room in ${dir}: it is built in ${next}`);
    }
  }
  throw new EfError("BAD_ROOT", "Cannot build anywhere: no directory is left to try");
}

/** No `ef venv install` meanwhile; where nobody can write to the base directory, none of this user either. */
async function lockEnvironment({ config, options, image, venvBase: base }: Job): Promise<AsyncDisposable | undefined> {
  try {
    return await lock(lockFileOf(base, image.venvName), {
      timeoutS: config.lock_timeout_seconds,
      signal: options.signal,
      onWait: (holder) => options.onEvent?.({ type: "waiting", name: image.name, who: describeHolder(holder) }),
    });
  } catch (error) {
    if (error instanceof EfError && error.code === "LOCK_FAILED") return undefined;
    throw error;
  }
}

/** What mksquashfs is told, where this apptainer hands it on. */
async function squash({ apptainer, signal }: Making, job: Job): Promise<string[]> {
  if (job.buildArgs.some((arg) => arg.startsWith("--mksquashfs-args"))) return [];
  if (await takesSquashArgs(apptainer, signal)) return squashArgs(job.compressor, job.processors);
  if (job.compressor !== undefined)
    warner(job)(`this ${apptainer.name} cannot be told how to compress: ${job.compressor} is not used`);
  return [];
}

function makeCache(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw writeError(`Cannot make ef.apptainer.cachedir ${dir}`, dir, error);
  }
}

function flush(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** @throws {EfError} CONFIG_NOT_SAVED and the like: the image is there all the same */
async function record({ image, pythonVersion, env }: Job, at: number, sum: string | undefined): Promise<void> {
  try {
    const built = {
      venv_name: image.venvName,
      python_version: pythonVersion,
      sif_filename: basename(image.sif),
      built_at: at,
    };
    const own = sum === undefined ? {} : { packages_sha256: sum };
    await updateConfig(configPath(env), (raw) => withRecord(raw, image.name, built, own));
  } catch (error) {
    const why = error instanceof Error ? error.message : reasonOf(error);
    throw new EfError("CONFIG_NOT_SAVED", `The image ${image.sif} is built, and not in the configuration yet: ${why}`, {
      hint: `then: ef apptainer build ${image.name} records it, without building it again`,
      path: image.sif,
      cause: error,
    });
  }
}
