import { existsSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { EfError } from "./base/errors.ts";
import { howEnded, lastLines, type RunResult, run } from "./base/exec.ts";
import { nearest } from "./base/nearest.ts";
import type { Env } from "./base/paths.ts";
import { launch, type ProcessHandle } from "./drivers/handle.ts";
import {
  type AllocateOptions,
  allocateArgv,
  assertWorkspaceName,
  type ExtendOptions,
  extendArgv,
  findArgv,
  listArgv,
  nameOf,
  parseFilesystems,
  parseList,
  parseRestorable,
  pathIn,
  type Restorable,
  releaseArgv,
  remarks,
  restorableArgv,
  restoreArgv,
  saysError,
  saysUnknown,
  type WorkspaceInfo,
  type WorkspaceTool,
  wasCreated,
} from "./drivers/hpc-workspace.ts";
import { type ExecuteOptions, execute } from "./exec.ts";

export type { AllocateOptions, ExtendOptions, Restorable, WorkspaceInfo } from "./drivers/hpc-workspace.ts";

export interface WorkspaceOptions {
  /** The environment of the tools; their language is set to C. @default process.env */
  env?: Env;
  /** Ends a tool that is running. */
  signal?: AbortSignal | undefined;
}

export interface Allocated {
  id: string;
  path: string;
  /** False: it was there, and is as it was. */
  created: boolean;
  /** What the tool said that one should know, e.g. that a duration was cut. */
  warnings: string[];
}

export interface Extended {
  id: string;
  path: string;
  warnings: string[];
}

export interface Restored {
  id: string;
  target: string;
  /** Where the files are now: in the target, mostly in a directory of the name that {@link Restorable.id} is. */
  path: string;
}

const anyCode = Array.from({ length: 256 }, (_, code) => code);

/**
 * Workspaces of hpc-workspace: directories with an end, which a site gives on request.
 *
 * Each `ws_*` tool is a method that starts it and gives its process back, arguments as of the tool; the other methods
 * wait for it and read what it prints. There is nothing to load or to close.
 *
 * @see https://github.com/holgerBerger/hpc-workspace/blob/master/user-guide.md
 * @example
 * const ws = new Workspace();
 * const { path } = await ws.allocate("my-workspace", { days: 30 });
 * const { stdout } = await ws.ws_list().communicate();
 */
export class Workspace {
  readonly #env: Record<string, string | undefined>;
  readonly #signal: AbortSignal | undefined;

  constructor({ env = process.env, signal }: WorkspaceOptions = {}) {
    this.#env = { ...env, LC_ALL: "C" };
    this.#signal = signal;
  }

  ws_allocate(...args: string[]): ProcessHandle {
    return this.#launch("ws_allocate", args);
  }
  ws_extend(...args: string[]): ProcessHandle {
    return this.#launch("ws_extend", args);
  }
  ws_find(...args: string[]): ProcessHandle {
    return this.#launch("ws_find", args);
  }
  ws_list(...args: string[]): ProcessHandle {
    return this.#launch("ws_list", args);
  }
  ws_register(...args: string[]): ProcessHandle {
    return this.#launch("ws_register", args);
  }
  ws_release(...args: string[]): ProcessHandle {
    return this.#launch("ws_release", args);
  }
  ws_restore(...args: string[]): ProcessHandle {
    return this.#launch("ws_restore", args);
  }
  ws_send_ical(...args: string[]): ProcessHandle {
    return this.#launch("ws_send_ical", args);
  }
  ws_share(...args: string[]): ProcessHandle {
    return this.#launch("ws_share", args);
  }

  /**
   * Make a workspace, or find the one of that name; its duration is then not changed.
   *
   * @throws {EfError} USAGE for a name that the tools would refuse; TOOL_MISSING, TOOL_FAILED with the tool's words
   */
  async allocate(name: string, options: AllocateOptions = {}): Promise<Allocated> {
    const argv = allocateArgv(name, options);
    const wasThere = (await this.find(name, options)) !== undefined;
    const { stdout, stderr } = await this.#call(argv, `allocate the workspace ${name}`);
    const created = wasCreated(stderr) ?? !wasThere;
    return { id: name, path: pathOf(argv, stdout), created, warnings: remarks(stderr) };
  }

  /**
   * The workspaces of this user, in the order of their ends.
   *
   * @param options.name only of that name; one in each file system
   * @param options.verbose who gets a reminder when, and the account
   * @throws {EfError} TOOL_MISSING, TOOL_FAILED, also for output that cannot be read
   */
  async list(options: { name?: string; filesystem?: string; verbose?: boolean } = {}): Promise<WorkspaceInfo[]> {
    const argv = listArgv(options);
    const result = await this.#call(argv, "list workspaces");
    const all = parseList(result.stdout, Date.now()).map((each) => ({ ...each, id: nameOf(each, this.#user) }));
    if (all.length === 0 && saysError(result.stderr)) throw failed(argv, "list workspaces", result);
    const { name } = options;
    const found = name === undefined ? all : all.filter(({ id }) => id === name);
    return found.sort((a, b) => a.remainingS - b.remainingS);
  }

  /** The directory of a workspace; undefined if there is none of that name. @throws {EfError} TOOL_MISSING, TOOL_FAILED */
  async find(name: string, options: { filesystem?: string } = {}): Promise<string | undefined> {
    const argv = findArgv(name, options.filesystem);
    const result = await this.#run(argv);
    if (result.code !== 0 && !saysUnknown(result.stderr)) throw failed(argv, `find the workspace ${name}`, result);
    return result.code === 0 ? pathIn(result.stdout) : undefined;
  }

  /**
   * Let a workspace last for so many days from now; that uses up one of its extensions. Its reminder stays, which some
   * versions forget (https://github.com/holgerBerger/hpc-workspace/issues/78).
   *
   * @throws {EfError} UNKNOWN_WORKSPACE, as old versions would make one; TOOL_FAILED, e.g. if there are no extensions left
   */
  async extend(name: string, days: number, options: ExtendOptions = {}): Promise<Extended> {
    extendArgv(name, days, options); // what is wrong with them is said before anything is run
    const argv = extendArgv(name, days, { ...(await this.#notice(name, days, options)), ...options });
    const { stdout, stderr } = await this.#call(argv, `extend the workspace ${name}`);
    return { id: name, path: pathOf(argv, stdout), warnings: remarks(stderr) };
  }

  /**
   * Give a workspace back: it is hidden at once, and its files are deleted after a time that the site has chosen.
   *
   * @param options.deleteData delete them now (since 1.6)
   * @throws {EfError} UNKNOWN_WORKSPACE; USAGE if several file systems have one of that name; TOOL_FAILED
   */
  async release(name: string, options: { filesystem?: string; deleteData?: boolean } = {}): Promise<void> {
    const { filesystem } = await this.one(name, options.filesystem);
    const where = options.filesystem ?? filesystem; // old versions look into the default one only
    await this.#call(
      releaseArgv(name, { ...options, ...(where === undefined ? {} : { filesystem: where }) }),
      `release the workspace ${name}`,
    );
  }

  /** Workspaces that were released or have expired, and can be restored. @throws {EfError} TOOL_MISSING, TOOL_FAILED */
  async listExpired(): Promise<Restorable[]> {
    const { stdout } = await this.#call(restorableArgv(), "list what can be restored");
    return parseRestorable(stdout, this.#user);
  }

  /**
   * Move the files of a released workspace into one that is there.
   *
   * `ws_restore` asks whether a person is there, by a word that is to be typed: it gets our stdin, and its question goes
   * to stderr. It ends with 0 whatever happens, so that afterwards the list is looked at.
   *
   * @param what its id, or its name if there is only one
   * @param options.forward as of {@link execute}
   * @throws {EfError} UNKNOWN_WORKSPACE, USAGE; TOOL_FAILED if it was not restored
   */
  async restore(
    what: string,
    target: string,
    options: { filesystem?: string; forward?: ExecuteOptions["forward"] } = {},
  ): Promise<Restored> {
    assertWorkspaceName(what);
    const into = await this.find(target);
    if (into === undefined) throw await this.unknown(target, `make it first: ef ws allocate ${target}`);
    const { id } = oneOf(what, await this.listExpired());
    const argv = restoreArgv(id, target, options.filesystem);
    const toStderr = ["/bin/sh", "-c", 'exec "$@" >&2', "sh", ...argv];
    const { forward } = options;
    const code = await execute(toStderr, { env: this.#env, ...(forward ? { forward } : {}) });
    this.#signal?.throwIfAborted();
    if (code !== 0) throw failed(argv, `restore ${id}`, { code, stdout: "", stderr: "" });
    if ((await this.listExpired()).some((each) => each.id === id)) {
      throw new EfError("TOOL_FAILED", `Cannot restore ${id}: ws_restore has left it where it was`, {
        hint: `it asks for a word to be typed on a terminal; by hand: ${argv.join(" ")}`,
      });
    }
    const inside = join(into, id);
    return { id, target, path: existsSync(inside) ? inside : into };
  }

  /** The file systems that have workspaces. @throws {EfError} TOOL_MISSING, TOOL_FAILED */
  async filesystems(): Promise<{ name: string; isDefault: boolean }[]> {
    const { stdout } = await this.#call(["ws_list", "-l"], "list the file systems of workspaces");
    return parseFilesystems(stdout);
  }

  /** The workspace of that name. @throws {EfError} UNKNOWN_WORKSPACE; USAGE if there are several */
  async one(name: string, filesystem?: string): Promise<WorkspaceInfo> {
    const [found, ...more] = await this.list({ name, ...(filesystem === undefined ? {} : { filesystem }) });
    if (!found) throw await this.unknown(name);
    if (more.length === 0) return found;
    throw new EfError("USAGE", `Cannot tell which workspace ${name}: it is in ${placesOf([found, ...more])}`, {
      hint: "choose one with --filesystem",
    });
  }

  /** What to throw where there is no workspace of that name. @param hint @default the names of those that there are */
  async unknown(name: string, hint?: string): Promise<EfError> {
    const names = hint === undefined ? (await this.list().catch(() => [])).map(({ id }) => id) : [];
    const like = nearest(name, names);
    const known = names.length === 0 ? "there is none yet: ef ws allocate NAME" : `there is: ${names.join(", ")}`;
    return new EfError("UNKNOWN_WORKSPACE", `Cannot find a workspace ${JSON.stringify(name)}`, {
      hint: hint ?? (like === undefined ? known : `did you mean ${like}? ${known}`),
    });
  }

  get #user(): string {
    const { USER, LOGNAME } = this.#env;
    try {
      return USER || LOGNAME || userInfo().username;
    } catch {
      return ""; // a container without /etc/passwd
    }
  }

  /** The reminder of a workspace that is to be extended. @throws {EfError} UNKNOWN_WORKSPACE */
  async #notice(name: string, days: number, { filesystem, reminder }: ExtendOptions): Promise<ExtendOptions> {
    const place = filesystem === undefined ? {} : { filesystem };
    const [found] = await this.list({ name, ...place, verbose: true }).catch((error) => {
      if (error instanceof EfError && error.code === "TOOL_FAILED") return []; // it may not know -v
      throw error;
    });
    if (!found && (await this.find(name, place)) === undefined) throw await this.unknown(name);
    if (!found?.mail || !found.reminder || !found.expires || reminder !== undefined) return {};
    const before = Math.round((found.expires.getTime() - found.reminder.getTime()) / 86_400_000);
    return before >= 1 && before < days ? { reminder: before, mail: found.mail } : {};
  }

  #launch(tool: WorkspaceTool, args: readonly string[]): ProcessHandle {
    return launch([tool, ...args], { env: this.#env, signal: this.#signal });
  }

  async #run(argv: readonly string[]): Promise<RunResult> {
    try {
      return await run(argv, { env: this.#env, signal: this.#signal, accept: anyCode });
    } catch (error) {
      if (!(error instanceof EfError && error.code === "TOOL_MISSING")) throw error;
      throw new EfError("TOOL_MISSING", `Cannot run ${argv[0]}: it is not installed, or not on PATH`, {
        hint: "it belongs to hpc-workspace; does this cluster have workspaces, and on this node? Try: module avail",
        cause: error,
      });
    }
  }

  async #call(argv: readonly string[], what: string): Promise<RunResult> {
    const result = await this.#run(argv);
    if (result.code !== 0) throw failed(argv, what, result);
    return result;
  }
}

/** Until 2.0 the tools print their usage on stdout. */
function failed(argv: readonly string[], what: string, { code, stdout, stderr }: RunResult): EfError {
  const how = code === 0 ? "says" : howEnded(code);
  return new EfError("TOOL_FAILED", `Cannot ${what}: ${argv[0]} ${how}${lastLines(stderr.trim() ? stderr : stdout)}`, {
    hint: `it was called as: ${argv.join(" ")}`,
  });
}

function pathOf(argv: readonly string[], stdout: string): string {
  const path = pathIn(stdout);
  if (path !== undefined) return path;
  throw new EfError("TOOL_FAILED", `Cannot read the output of ${argv[0]}: no directory in ${JSON.stringify(stdout)}`, {
    hint: `it was called as: ${argv.join(" ")}`,
  });
}

function oneOf(what: string, released: readonly Restorable[]): Restorable {
  const exact = released.find(({ id }) => id === what);
  const [found, ...more] = exact ? [exact] : released.filter(({ name }) => name === what);
  if (found && more.length === 0) return found;
  const ids = (found ? [found, ...more] : released).map(({ id }) => id);
  throw found
    ? new EfError("USAGE", `Cannot tell which ${what} to restore: there are ${ids.length}`, {
        hint: `give one of: ${ids.join(", ")}`,
      })
    : new EfError("UNKNOWN_WORKSPACE", `Cannot find ${JSON.stringify(what)} among what can be restored`, {
        hint: ids.length === 0 ? "there is nothing" : `there is: ${ids.join(", ")}`,
      });
}

/** Where workspaces of one name are, for people: in the same order whichever ends first. */
export const placesOf = (found: readonly WorkspaceInfo[]): string =>
  found
    .map(({ filesystem, path }) => filesystem ?? path)
    .sort()
    .join(" and ");
