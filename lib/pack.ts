/** Packages of code: a function, or a script, with all that it needs, in one archive that is the same for the same input. */
import { mkdirSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { EfError, reasonOf } from "./base/errors.ts";
import { type Env, isWithin } from "./base/paths.ts";
import type { ClusterConfig } from "./config/schema.ts";
import type { PackageFile } from "./pack/analysis.ts";
import { type Contents, canonical, packFiles, sha256 } from "./pack/archive.ts";
import { namedData } from "./pack/named-data.ts";
import { type Opened, openPackage, writeEntries } from "./pack/open.ts";
import type { PackageInfo, PackageMetadata } from "./pack/package.ts";
import { analysePython, functionsIn } from "./pack/python.ts";
import { bundleScript } from "./pack/script.ts";
import { secretIn } from "./pack/secrets.ts";
import { keep, removeOlder } from "./pack/store.ts";

/** How code is to be run, besides what is in its package (seed 004). */
export interface ExecutionContext {
  /** Where it runs, within the project: where `packageFunction` is called. */
  workingDirectory: string;
  /** `3.11`; null if none was asked for. */
  pythonVersion: string | null;
  environmentVariables: Record<string, string>;
  clusterConfig: ClusterConfig | null;
  functionArgs: unknown[];
  functionKwargs: Record<string, unknown>;
}

interface PackOptions {
  /** Files and directories that go with it; a secret only goes if it is named itself. */
  data?: readonly string[];
  /** Patterns of rsync of what is left out of directories of data. */
  exclude?: readonly string[];
  /** Variables that the code gets, and their values: nothing else of an environment is packed. */
  environment?: Readonly<Record<string, string>>;
  /** Where the archive is to be. @default its own name in `$EF_PACKAGE_DIR`, else `~/.cache/ef/packages` */
  output?: string;
  /** What relative paths are relative to, and where the code runs. @default that of the context, else the working directory */
  cwd?: string;
  /** Directory that holds all of it. @default the working directory, if the file is below it */
  root?: string;
  /** Make nothing: only tell. @default false */
  dryRun?: boolean;
  /** @default process.env: where packages are kept */
  env?: Env;
}

export interface PackageFunctionOptions extends PackOptions {
  /** The Python file. */
  file: string;
  /** At its top, or `Class.method`. */
  functionName: string;
  /** JSON values. */
  args?: readonly unknown[];
  kwargs?: Readonly<Record<string, unknown>>;
  /** More directories of the import path, as of PYTHONPATH. */
  paths?: readonly string[];
  /** The environment whose packages are pinned. @default none: outside packages are not pinned */
  venv?: string;
  /** May the result be a pickle, where it is no JSON? @default false */
  pickle?: boolean;
}

/**
 * Pack a Python function with what it needs, found by reading the code: nothing of it is run.
 *
 * @throws {EfError} NOT_PACKABLE: code that does not parse, no such function, a secret, more than 2 GiB; USAGE: a file that is not
 *   there, arguments that do not fit; IO, NO_SPACE
 * @example
 * const { packagePath, dependencies } = await packageFunction({ file: "analysis.py", functionName: "main", args: [3] });
 * console.log(packagePath, dependencies.local_modules);
 */
export async function packageFunction(
  options: PackageFunctionOptions,
  context?: ExecutionContext,
): Promise<PackageInfo> {
  const cwd = resolve(options.cwd ?? context?.workingDirectory ?? ".");
  const at = (path: string) => resolve(cwd, path);
  const given = {
    args: [...(options.args ?? context?.functionArgs ?? [])],
    kwargs: options.kwargs ?? context?.functionKwargs ?? {},
  };
  const root = options.root === undefined ? undefined : at(options.root);
  const analysis = await analysePython({
    ...{ file: at(options.file), functionName: options.functionName, root, cwd, data: [] },
    ...{
      paths: (options.paths ?? []).map(at),
      venv: options.venv === undefined ? undefined : at(options.venv),
      arguments: given,
    },
  });
  const base = root ?? rootOf(analysis.files, cwd);
  const named = namedData((options.data ?? []).map(at), base, options.exclude ?? []);
  const { dependencies, pythonVersion, importPaths, workingDirectory, warnings } = analysis;
  const code = new Set(analysis.files.filter(({ why }) => why === "code").map(({ path }) => path));
  const data = named
    .filter(({ path }) => !code.has(path))
    .map(({ path, source }) => ({ path, size_bytes: statSync(source).size }));
  const contents: Contents = {
    ...{ format: 1, kind: "python", function_info: analysis.functionInfo },
    dependencies: {
      ...dependencies,
      requires_dependencies: dependencies.requires_dependencies || data.length > 0,
      data_files: merged(dependencies.data_files, data),
    },
    ...{
      python_version: pythonVersion ?? context?.pythonVersion ?? null,
      import_paths: importPaths,
      working_directory: workingDirectory,
    },
    environment: { ...context?.environmentVariables, ...options.environment },
    arguments: { args: given.args, kwargs: { ...given.kwargs } },
    ...{ pickle: options.pickle ?? false, warnings },
  };
  const isNamed = ({ why }: PackageFile) => why === "named";
  const found = named.filter((each) => !isNamed(each));
  return made(contents, merged(found, analysis.files, named.filter(isNamed)), {}, options, context);
}

/** The directory that the analysis took for the root: that of its archive paths. */
function rootOf(files: readonly PackageFile[], cwd: string): string {
  const inside = files.find(({ path }) => path.startsWith("files/"));
  return inside ? inside.source.slice(0, -inside.path.slice("files".length).length) || "/" : cwd;
}

/** By path, the later ones winning: what is named itself is no longer what was only found. */
function merged<T extends { path: string }>(...lists: (readonly T[])[]): T[] {
  const all = new Map(lists.flat().map((each) => [each.path, each]));
  return [...all.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

export interface PackageScriptOptions extends PackOptions {
  /** A TypeScript or JavaScript file. */
  file: string;
  /** What it gets as arguments. */
  args?: readonly string[];
}

/**
 * Bundle a TypeScript file with all that it imports, for `ef run` elsewhere; what `ef run` brings stays an import.
 *
 * @throws {EfError} NOT_PACKABLE with file and line; TOOL_MISSING where there is no Bun; as {@link packageFunction}
 * @example
 * const { packagePath } = await packageScript({ file: "job.ts", args: ["--fast"] });
 * console.log(packagePath);
 */
export async function packageScript(options: PackageScriptOptions, context?: ExecutionContext): Promise<PackageInfo> {
  const cwd = resolve(options.cwd ?? context?.workingDirectory ?? ".");
  const file = resolve(cwd, options.file);
  const paths = (options.data ?? []).map((each) => resolve(cwd, each));
  // Alone, it is the same from wherever it is packed.
  const root = options.root === undefined && paths.length === 0 ? dirname(file) : resolve(cwd, options.root ?? ".");
  const { path, files } = await bundleScript(file, isWithin(file, root) ? root : dirname(file));
  const data = namedData(paths, root, options.exclude ?? []);
  const contents: Contents = {
    ...{ format: 1, kind: "script" },
    function_info: {
      name: basename(path, ".mjs"),
      module: "",
      file: path,
      lineno: 1,
      is_async: true,
    },
    dependencies: {
      ...{ requires_dependencies: data.length > 0, requires_cluster_filesystem: false, imports: [], local_modules: [] },
      ...{ local_functions: [], packages: [], filesystem_calls: [] },
      data_files: data.map((each) => ({ path: each.path, size_bytes: statSync(each.source).size })),
    },
    ...{ python_version: null, import_paths: [], working_directory: "files", pickle: false, warnings: [] },
    environment: { ...context?.environmentVariables, ...options.environment },
    arguments: { args: [...(options.args ?? [])], kwargs: {} },
  };
  return made(contents, data, files, options, context);
}

function made(
  contents: Contents,
  files: readonly PackageFile[],
  texts: Record<string, Uint8Array>,
  { output, dryRun = false, env = process.env }: PackOptions,
  context: ExecutionContext | undefined,
): PackageInfo {
  for (const { path, source, why } of files) {
    const secret = why === "named" ? undefined : secretIn(path, source, why);
    if (secret === undefined) continue;
    throw new EfError("NOT_PACKABLE", `Cannot pack ${source}: ${secret}`, {
      hint: "if it is to leave this machine, name it: --data FILE; else leave it out: --exclude PATTERN",
      path: source,
    });
  }
  const packed = packFiles(contents, files, texts);
  const path = dryRun ? "" : keep(packed, env, output);
  return infoOf(path, { metadata: packed.metadata, sizeBytes: packed.sizeBytes }, context?.clusterConfig ?? null);
}

function infoOf(
  path: string,
  { metadata, sizeBytes }: Pick<Opened, "metadata" | "sizeBytes">,
  cluster: ClusterConfig | null,
): PackageInfo {
  const { dependencies } = metadata;
  return {
    packageId: metadata.package_id,
    packagePath: path,
    functionName: metadata.function_info.name,
    dependencies,
    sizeBytes,
    createdAt: path === "" ? new Date() : statSync(path).mtime,
    configHash: sha256(Buffer.from(canonical(cluster))),
    metadata: {
      ...metadata,
      has_dependencies: dependencies.requires_dependencies,
      has_filesystem_ops: dependencies.requires_cluster_filesystem,
    },
  };
}

/**
 * What is in a package, after each of its files was compared with what was packed.
 *
 * @throws {EfError} BAD_ARCHIVE, USAGE
 * @example
 * const { packagePath } = await packageFunction({ file: "analysis.py", functionName: "main" });
 * for (const { path, size_bytes } of (await inspectPackage(packagePath)).metadata.files) console.log(path, size_bytes);
 */
export async function inspectPackage(archive: string): Promise<PackageInfo> {
  return infoOf(archive, openPackage(archive), null);
}

/**
 * Unpack a package into a directory, which is empty or not there yet: 0700, files 0600.
 *
 * @throws {EfError} BAD_ARCHIVE, USAGE, EXISTS, IO
 * @example
 * const { packagePath } = await packageFunction({ file: "analysis.py", functionName: "main" });
 * const { function_info } = await unpackPackage(packagePath, "unpacked");
 */
export async function unpackPackage(archive: string, dir: string): Promise<PackageMetadata> {
  const opened = openPackage(archive);
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    if (readdirSync(dir).length > 0)
      throw new EfError("EXISTS", `Cannot unpack into ${dir}: it is not empty`, { path: dir });
  } catch (cause) {
    if (cause instanceof EfError) throw cause;
    throw new EfError("IO", `Cannot unpack into ${dir}: ${reasonOf(cause)}`, { path: dir, cause });
  }
  writeEntries(opened, dir);
  return opened.metadata;
}

/**
 * Remove packages that ef made and nobody has used for so long.
 *
 * @returns their paths
 * @throws {EfError} IO
 * @example
 * const removed = cleanPackages({ olderThanS: 30 * 24 * 3600 });
 */
export const cleanPackages = ({
  olderThanS,
  dryRun = false,
  env = process.env,
}: {
  olderThanS: number;
  /** Only find them. @default false */
  dryRun?: boolean;
  env?: Env;
}): string[] => removeOlder(olderThanS, env, dryRun);

/**
 * The functions at the top of a Python file, for {@link packageFunction}: without those that begin with `_`.
 *
 * @throws {EfError} USAGE, NOT_PACKABLE
 * @example
 * for (const functionName of await pythonFunctions("analysis.py")) console.log(functionName);
 */
export const pythonFunctions = (file: string): Promise<string[]> => functionsIn(resolve(file));

/**
 * How a function is to be run: for {@link packageFunction}.
 *
 * @example
 * const context = createExecutionContext({ type: "slurm", host: "login.example.org" }, [3], { fast: true });
 */
export const createExecutionContext = (
  clusterConfig: ClusterConfig | null,
  functionArgs: readonly unknown[] = [],
  functionKwargs: Readonly<Record<string, unknown>> = {},
): ExecutionContext => ({
  ...{ workingDirectory: process.cwd(), pythonVersion: null, environmentVariables: {}, clusterConfig },
  ...{ functionArgs: [...functionArgs], functionKwargs: { ...functionKwargs } },
});

/**
 * Both in one.
 *
 * @throws {EfError} as {@link packageFunction}
 * @example
 * const cluster = { type: "slurm", host: "login.example.org" } as const;
 * const { packageId } = await packageFunctionForExecution({ file: "analysis.py", functionName: "main" }, cluster, [3]);
 */
export const packageFunctionForExecution = (
  options: PackageFunctionOptions,
  clusterConfig: ClusterConfig | null,
  functionArgs: readonly unknown[] = [],
  functionKwargs: Readonly<Record<string, unknown>> = {},
): Promise<PackageInfo> =>
  packageFunction(options, createExecutionContext(clusterConfig, functionArgs, functionKwargs));
