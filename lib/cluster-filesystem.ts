/** Look at the files of a cluster: on this machine, or over one connection of ssh. */
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import {
  complaints,
  countScript,
  findScript,
  isKind,
  type Looked,
  listScript,
  lookScript,
  notThere,
  parseLook,
  reasonIn,
  usageScript,
} from "./clusters/files.ts";
import { forFind, isSimple, matches, pattern } from "./clusters/fnmatch.ts";
import { glob, globbed, globScript, parseFound } from "./clusters/glob.ts";
import type { Host } from "./clusters/host.ts";
import { nameText, sortNames } from "./clusters/names.ts";
import { openHost } from "./clusters/open.ts";
import { type ClusterConfig, type Config, pathStart, pathStartText } from "./config/schema.ts";
import { clusterOf, expandThere } from "./jobs/place.ts";

/** A file or a directory; of a symbolic link, what it leads to. */
export interface FileInfo {
  /** The last part of the path that was asked for. */
  name: string;
  /** Absolute, there. */
  path: string;
  sizeBytes: number;
  /** What it takes on the disk; less than `sizeBytes` for a file with holes. */
  allocatedBytes: number;
  /** To the millisecond, where the programs there tell it so. */
  modified: Date;
  isDir: boolean;
  isFile: boolean;
  /** Is the path itself a symbolic link? */
  isLink: boolean;
  /** Permission bits, e.g. 0o644. */
  mode: number;
  uid: number;
  gid: number;
}

/** What regular files take. */
export interface DiskUsage {
  /** The sum of their sizes; a file with several names counts once. */
  totalBytes: number;
  /** What they take on the disk. */
  allocatedBytes: number;
  /** How many names they have. */
  fileCount: number;
  /** `totalBytes` in units of 1024² bytes. */
  totalMb: number;
  /** `totalBytes` in units of 1024³ bytes. */
  totalGb: number;
}

export interface ClusterFilesystemOptions {
  /** What relative paths are relative to; `$VAR` and `~` are those of the cluster. @default work_dir of the cluster, else home there, or the current directory here */
  workDir?: string;
  /** @default process.env */
  env?: Env;
  /** Ends all calls, there too. */
  signal?: AbortSignal;
}

export interface SearchOptions {
  /** Leave out directories that cannot be read, in place of an error. @default false */
  skipUnreadable?: boolean;
}

/**
 * The files of a cluster, with the nine operations of clustrix. Each is one call there; over ssh all share one connection.
 *
 * Paths are absolute, relative to `workDir`, or begin with `~/` or `$VAR/` of the cluster; write `./~/x` for a directory called `~`. Names that are
 * no UTF-8 hold U+DC80 to U+DCFF for the bytes that are none, as in Python; they can be given back here as they are. Nothing is changed anywhere.
 *
 * @example
 * await using files = new ClusterFilesystem({ type: "local" }, { workDir: process.cwd() });
 * const { totalGb, fileCount } = await files.du("data");
 * const tables = await files.find("*.csv", "data");
 */
export class ClusterFilesystem implements AsyncDisposable {
  private readonly cluster: ClusterConfig;
  private readonly options: ClusterFilesystemOptions;
  private readonly env: Env;
  private host: Promise<Host> | undefined;
  /** What paths that begin with a variable or ~ are there. */
  private readonly expanded = new Map<string, string>();

  /**
   * Nothing happens before the first call.
   *
   * @param cluster as in `ef.clusters` of the configuration
   */
  constructor(cluster: ClusterConfig, options: ClusterFilesystemOptions = {}) {
    this.cluster = cluster;
    this.options = options;
    this.env = options.env ?? process.env;
  }

  /**
   * That of a name in `ef.clusters`, or `local`, and make sure that it answers.
   *
   * @param name may be left out where there is only one
   * @throws {EfError} UNKNOWN_CLUSTER, USAGE, UNREACHABLE, UNSET_VARIABLE
   */
  static async open(
    config: Config | undefined,
    name?: string,
    options: ClusterFilesystemOptions = {},
  ): Promise<ClusterFilesystem> {
    const { definition, name: chosen } = clusterOf(config, name);
    const files = new ClusterFilesystem(definition, options);
    files.host = openHost(definition, { ...files.hostOptions(), name: chosen });
    try {
      await (await files.host).run(["true"]);
      return files;
    } catch (error) {
      await files[Symbol.asyncDispose]();
      throw error;
    }
  }

  private hostOptions() {
    return { env: this.env, signal: this.options.signal };
  }

  /**
   * The names in a directory, hidden ones too, sorted.
   *
   * @throws {EfError} IO if it is not there, no directory, or not readable; UNREACHABLE
   */
  async ls(path = "."): Promise<string[]> {
    const { names } = await this.names("list", listScript, await this.resolve(path), []);
    return sortNames(names);
  }

  /**
   * Files below a directory, at any depth, whose names match, relative to it and sorted. Links to files count as files; links to directories are
   * not entered.
   *
   * @param pattern of Python's fnmatch, for the name alone; `*` takes hidden names too
   * @throws {EfError} IO if the directory, or one in it, cannot be read; UNREACHABLE; USAGE
   */
  async find(pattern: string, path = ".", options: SearchOptions = {}): Promise<string[]> {
    const wanted = namePattern(pattern);
    const { names, base } = await this.names(
      "search",
      findScript,
      await this.resolve(path),
      [forFind(wanted)],
      options,
    );
    const isFile = names.length === 1 && names[0] === "";
    const found = isFile ? [base.slice(base.lastIndexOf("/") + 1)] : names;
    return sortNames(found.filter((name) => matches(wanted, name.slice(name.lastIndexOf("/") + 1))));
  }

  /**
   * How many files {@link ClusterFilesystem.find} finds.
   *
   * @throws {EfError} as that
   */
  async countFiles(path = ".", pattern = "*", options: SearchOptions = {}): Promise<number> {
    const wanted = namePattern(pattern);
    if (!isSimple(wanted)) return (await this.find(pattern, path, options)).length;
    const { stdout } = await this.ask(
      "count the files in",
      countScript,
      await this.resolve(path),
      [forFind(wanted)],
      options,
    );
    return Number(stdout.toString());
  }

  /**
   * What a path leads to.
   *
   * @throws {EfError} IO if it is not there, or cannot be looked at; UNREACHABLE
   */
  async stat(path: string): Promise<FileInfo> {
    const at = await this.resolve(path);
    const { looked, stderr, isLink } = await this.look(at);
    if (!looked) throw notThere(await this.what("look at", at), at, stderr, isLink);
    const { mode, sizeBytes, allocatedBytes, modifiedMs, uid, gid } = looked;
    return {
      ...{ name: path.replace(/(?<=[^/])\/+$/, "").replace(/^.*\/(?=[^/])/s, ""), path: at },
      ...{ sizeBytes, allocatedBytes, modified: new Date(modifiedMs) },
      ...{ isDir: isKind(mode, "directory"), isFile: isKind(mode, "file"), isLink: looked.isLink },
      ...{ mode: mode & 0o7777, uid, gid },
    };
  }

  /**
   * Is there something? Links that lead nowhere are not.
   *
   * @throws {EfError} IO if that cannot be told: a directory above may not be entered; UNREACHABLE
   */
  async exists(path: string): Promise<boolean> {
    return (await this.mode(path)) !== undefined;
  }

  /** Is it a directory, or a link to one? @throws {EfError} as {@link ClusterFilesystem.exists} */
  async isDir(path: string): Promise<boolean> {
    return isKind((await this.mode(path)) ?? 0, "directory");
  }

  /** Is it a regular file, or a link to one? @throws {EfError} as {@link ClusterFilesystem.exists} */
  async isFile(path: string): Promise<boolean> {
    return isKind((await this.mode(path)) ?? 0, "file");
  }

  /**
   * Paths that match, relative to a directory and sorted: as `glob.glob(pattern, root_dir=path, recursive=True)` of Python. What cannot be read, or
   * is not there, matches nothing.
   *
   * @param pattern `*`, `?`, `[a-z]`, `[!a]`; `**` is any number of directories; hidden names only where the pattern has the dot
   * @throws {EfError} UNREACHABLE, USAGE
   */
  async glob(pattern: string, path = "."): Promise<string[]> {
    const wanted = glob(pattern);
    const { stdout } = await this.ask("list", globScript(wanted), await this.resolve(path), [], {
      skipUnreadable: true,
    });
    return sortNames(globbed(wanted, parseFound(splitNames(stdout))));
  }

  /**
   * What the regular files below a directory take, links not followed.
   *
   * @throws {EfError} IO if the directory, or one in it, cannot be read; UNREACHABLE
   */
  async du(path = ".", options: SearchOptions = {}): Promise<DiskUsage> {
    const { stdout } = await this.ask("measure", usageScript, await this.resolve(path), [], options);
    const [totalBytes = 0, allocatedBytes = 0, fileCount = 0] = stdout.toString().split(" ").map(Number);
    return { totalBytes, allocatedBytes, fileCount, totalMb: totalBytes / 2 ** 20, totalGb: totalBytes / 2 ** 30 };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await (await this.host?.catch(() => undefined))?.[Symbol.asyncDispose]();
  }

  private async opened(): Promise<Host> {
    this.host ??= openHost(this.cluster, this.hostOptions());
    return this.host;
  }

  /** @returns an absolute path there */
  private async resolve(path: string): Promise<string> {
    if (path.startsWith("/")) return path;
    if (/^(?:~|\$\w+|\$\{\w+\})(?:\/|$)/.test(path)) {
      const slash = path.indexOf("/");
      const start = slash < 0 ? path : path.slice(0, slash);
      return (await this.expand(start, "the path")) + path.slice(start.length);
    }
    const { workDir = this.cluster.work_dir } = this.options;
    if (workDir === undefined && (await this.opened()).isLocal) return below(process.cwd(), path);
    if (workDir !== undefined && !pathStart.test(workDir))
      throw new EfError("USAGE", `Cannot use workDir "${workDir}": ${pathStartText}`);
    return below(await this.expand(workDir ?? "~", "workDir"), path);
  }

  private async expand(text: string, where: string): Promise<string> {
    const known = this.expanded.get(text);
    if (known !== undefined) return known;
    const value = await expandThere(await this.opened(), text, where, this.options.signal);
    this.expanded.set(text, value);
    return value;
  }

  private async what(verb: string, at: string): Promise<string> {
    return `Cannot ${verb} ${at} on ${(await this.opened()).name}`;
  }

  /** Run a script with a path, and see whether it could do all. */
  private async ask(
    verb: string,
    script: string,
    at: string,
    args: readonly string[],
    { skipUnreadable = false }: SearchOptions = {},
  ): Promise<{ stdout: Buffer }> {
    const pieces: Buffer[] = [];
    const host = await this.opened();
    const { code, stderr } = await host.sh(script, [at, ...args], {
      accept: [0, 1, 2, 3, 126, 127],
      signal: this.options.signal,
      onStdout: (piece) => void pieces.push(piece),
    });
    if (code === 3) throw notThere(await this.what(verb, at), at, stderr);
    const [first] = complaints(stderr);
    const isDenied = first?.endsWith(": Permission denied") === true;
    if (first !== undefined && !(skipUnreadable && isDenied))
      throw new EfError("IO", `${await this.what(verb, at)}: ${first.replace(/^\S+: /, "")}`, {
        path: at,
        hint: isDenied ? "to leave out what cannot be read: skipUnreadable" : undefined,
      });
    if (first === undefined && code > 3)
      throw new EfError("IO", `${await this.what(verb, at)}: the script there failed with exit code ${code}`, {
        path: at,
      });
    return { stdout: Buffer.concat(pieces) };
  }

  /** Names that a script prints after that of the directory itself, relative to it. */
  private async names(...asked: Parameters<ClusterFilesystem["ask"]>): Promise<{ names: string[]; base: string }> {
    const [base = "", ...paths] = splitNames((await this.ask(...asked)).stdout);
    const start = base.length + (base.endsWith("/") ? 0 : 1);
    return { names: paths.map((path) => path.slice(start)), base };
  }

  private async look(at: string): Promise<{ looked: Looked | undefined; stderr: string; isLink: boolean }> {
    const host = await this.opened();
    const { stdout, stderr } = await host.sh(lookScript, [at], { accept: [0, 1], signal: this.options.signal });
    const looked = parseLook(stdout);
    if (looked) return { looked, stderr, isLink: looked.isLink };
    const [line] = complaints(stderr);
    if (line !== undefined)
      throw new EfError("IO", `${await this.what("look at", at)}: ${reasonIn(line)}`, { path: at });
    return { looked, stderr: stderr.split("\n")[0] ?? "", isLink: stdout.trim() !== "" };
  }

  private async mode(path: string): Promise<number | undefined> {
    return (await this.look(await this.resolve(path))).looked?.mode;
  }
}

const below = (dir: string, path: string): string =>
  path === "." || path === "" ? dir : `${dir.replace(/\/+$/, "")}/${path}`;

function namePattern(text: string) {
  if (!text.includes("/")) return pattern(text);
  throw new EfError(
    "USAGE",
    `Cannot search for "${text}": a pattern of find and countFiles is one of names, without /`,
    {
      hint: `with directories: glob("**/${text.replace(/^\/+/, "")}")`,
    },
  );
}

/** Texts that end in a NUL each. */
function splitNames(bytes: Buffer): string[] {
  const names: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0, at);
    names.push(nameText(bytes.subarray(at, end < 0 ? bytes.length : end)));
    at = end < 0 ? bytes.length : end + 1;
  }
  return names;
}
