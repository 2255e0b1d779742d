/** What reading the code of a function finds: the files that a package must hold, and what is told about them. */
import type { PackageDependencies, PackageMetadata, PackageWarning } from "./package.ts";

export interface AnalysisRequest {
  /** The Python file, absolute. */
  file: string;
  /** A function at its top level, or `Class.method`. */
  functionName: string;
  /**
   * Directory that everything is relative to, and in which the code runs; absolute. @default the working directory if the file is
   * below it, else the directory of the file's topmost package
   */
  root?: string | undefined;
  /** More directories of the import path, as PYTHONPATH has them; absolute, in their order. */
  paths: readonly string[];
  /** Files and directories to be packed besides, absolute, below the root. */
  data: readonly string[];
  /** Directory of the environment whose packages are pinned; absolute. Its editable projects are packed as code. */
  venv?: string | undefined;
  cwd: string;
  /** What it will be called with: checked where the code says for sure what it takes. */
  arguments?: { args: readonly unknown[]; kwargs: Readonly<Record<string, unknown>> };
}

/** A file of the package. */
export interface PackageFile {
  /** In the archive: `files/src/analysis.py`. */
  path: string;
  /** Here, absolute. */
  source: string;
  /** `code` was imported, `data` is named in the code or belongs to a package, `named` was asked for by the caller. */
  why: "code" | "data" | "named";
}

export interface Analysis {
  kind: PackageMetadata["kind"];
  functionInfo: PackageMetadata["function_info"];
  dependencies: PackageDependencies;
  pythonVersion: string | null;
  importPaths: string[];
  workingDirectory: string;
  /** In the order of their paths; no path twice. */
  files: PackageFile[];
  warnings: PackageWarning[];
}
