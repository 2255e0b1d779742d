/**
 * What is in a package: `metadata.json`, as ef writes it, and what callers get told about a package.
 *
 * A package is a zip archive that the same input makes byte for byte: the id is the SHA-256 of all that is in it, and no time,
 * host, user or absolute path is. Layout:
 *
 *     __main__.py      `python3 PACKAGE.zip` unpacks it and runs `.ef/run.py` (TypeScript: absent)
 *     metadata.json    this
 *     requirements.txt outside packages, pinned; absent if there are none
 *     .ef/run.py       calls the function and writes its result
 *     files/…          the project: everything in its relative place; where the code runs
 *     paths/N/…        modules of other directories of the import path
 */

/** An import, wherever it stands: at the top, in a function, in a condition. */
export interface PackageImport {
  /** `a.b`, `..x` for a relative one. */
  module: string;
  /** The imported names of `from module import …`; empty for `import module`. */
  names: string[];
  alias: string | null;
  is_from_import: boolean;
  file: string;
  lineno: number;
  /** `local`: in the package; `standard`: of Python; `outside`: pinned in `packages`; `missing`: nowhere to be found. */
  kind: "local" | "standard" | "outside" | "missing";
}

export interface PackageWarning {
  file: string;
  lineno: number;
  message: string;
}

export interface PackageDependencies {
  /** Are there local modules, data files or outside packages beside the function's own file? */
  requires_dependencies: boolean;
  /** Are files of the cluster asked for (`cluster_ls` and the like)? */
  requires_cluster_filesystem: boolean;
  imports: PackageImport[];
  local_modules: { module: string; path: string }[];
  local_functions: { name: string; file: string; lineno: number }[];
  data_files: { path: string; size_bytes: number }[];
  /** Outside packages, as installed in the given environment; version null if none was given. */
  packages: { name: string; version: string | null }[];
  filesystem_calls: { function: string; file: string; lineno: number }[];
}

export interface PackageMetadata {
  /** Of this format. */
  format: 1;
  package_id: string;
  kind: "python" | "script";
  /** The function, or for a script its file. */
  function_info: {
    name: string;
    module: string;
    /** Within the archive: `files/src/analysis.py`. */
    file: string;
    lineno: number;
    is_async: boolean;
  };
  dependencies: PackageDependencies;
  /** Python of the given environment, `3.11`; null if none was given, and for scripts. */
  python_version: string | null;
  /** Directories of the archive that are put before Python's own path, in their order. */
  import_paths: string[];
  /** The directory of the archive in which the code runs. */
  working_directory: string;
  /** Variables that were named, and their values. */
  environment: Record<string, string>;
  /** JSON values. Scripts: `args` are texts. */
  arguments: { args: unknown[]; kwargs: Record<string, unknown> };
  /** May the result be a pickle? */
  pickle: boolean;
  files: { path: string; size_bytes: number; sha256: string; executable: boolean }[];
  warnings: PackageWarning[];
}

/** About a package that lies somewhere: of seed 004, with its names in our spelling. */
export interface PackageInfo {
  /** SHA-256 of all that is in it, 64 hexadecimal digits. */
  packageId: string;
  packagePath: string;
  functionName: string;
  dependencies: PackageDependencies;
  sizeBytes: number;
  createdAt: Date;
  /** SHA-256 of the definition of the cluster it was made for; of nothing where there is none. Not part of the id. */
  configHash: string;
  metadata: PackageMetadata & { has_dependencies: boolean; has_filesystem_ops: boolean };
}

/**
 * What `.ef/run.py` writes for a function, and ef for a script: `result.json`.
 *
 * With `pickle` a result that is no JSON is in `result.pickle` beside it.
 */
export type PackageResult =
  | { ok: true; value: unknown }
  | { ok: true; pickle: string; type: string }
  | { ok: false; error: { type: string; message: string; traceback: string } };
