import { mkdir, rename, rmdir, stat, unlink, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { EfError, errnoOf, reasonOf } from "./base/errors.ts";
import { type AllocateOptions, Workspace, type WorkspaceOptions } from "./workspace.ts";

export interface CacheWorkspaceOptions extends WorkspaceOptions, AllocateOptions {
  /** Its id. @default "cache" */
  id?: string;
}

/** In the workspace: made by a CacheWorkspace, which is to release it; a file for each that uses it; on its way out. */
const madeFile = ".ef-cache-workspace";
const usersDir = ".ef-cache-users";
const leavingFile = ".ef-cache-leaving";

/** How long one that is being released is waited for, and how often it is looked at. */
const leavingMs = 5000;
const pollMs = 50;

/**
 * A workspace for as long as a script needs it: allocated when it is opened, reused if it is there, released when it is
 * disposed of.
 *
 * Nobody else loses anything by that: it is released only if a CacheWorkspace made it (one that you allocated yourself
 * stays), and only by the last of the scripts that have it open. One that was killed counts as having it open; the
 * workspace then ends at its own time.
 *
 * @example
 * await using cache = await CacheWorkspace.open();
 * const file = `${cache.name}/temp.tiff`;
 */
export class CacheWorkspace implements AsyncDisposable {
  /** The directory; `name` as in Python's `tempfile`. */
  readonly name: string;
  /** The name of the workspace. */
  readonly id: string;
  /** Was it made now, or there already? */
  readonly created: boolean;
  readonly #workspace: Workspace;
  readonly #own: string;
  readonly #filesystem: string | undefined;
  #open = true;

  private constructor(
    workspace: Workspace,
    at: { id: string; path: string; created: boolean; own: string },
    filesystem?: string,
  ) {
    this.#workspace = workspace;
    this.name = at.path;
    this.id = at.id;
    this.created = at.created;
    this.#own = at.own;
    this.#filesystem = filesystem;
  }

  get path(): string {
    return this.name;
  }

  /**
   * Allocate it, or use the one that is there.
   *
   * @param options.days how long it lasts if it is not released before. @default 1
   * @throws {EfError} as {@link Workspace.allocate}; IO if nothing can be written there
   */
  static async open({ id = "cache", env, signal, ...options }: CacheWorkspaceOptions = {}): Promise<CacheWorkspace> {
    const workspace = new Workspace({ ...(env ? { env } : {}), signal });
    const allocation = { days: 1, ...options };
    const own = `${hostname()}-${process.pid}-${crypto.randomUUID()}`;
    for (const until = Date.now() + leavingMs; ; await new Promise((done) => setTimeout(done, pollMs))) {
      signal?.throwIfAborted();
      const { path, created } = await workspace.allocate(id, allocation);
      try {
        if (created) await writeFile(join(path, madeFile), "");
        await mkdir(join(path, usersDir)).catch((error) => {
          if (errnoOf(error) !== "EEXIST") throw error;
        });
        await writeFile(join(path, usersDir, own), "");
      } catch (error) {
        if (errnoOf(error) === "ENOENT" && Date.now() < until) continue; // released meanwhile
        throw new EfError("IO", `Cannot use the workspace ${id} (${path}): ${reasonOf(error)}`, { path, cause: error });
      }
      const isLate = Date.now() >= until; // whoever wanted to release it did not live to do so
      if (isLate) await rename(join(path, leavingFile), join(path, madeFile)).catch(() => {});
      const isLeaving = !isLate && (await isThere(join(path, leavingFile)));
      // Our own file is looked for last: where it is, the directory that is not leaving is still the one that we told.
      if (!isLeaving && (await isThere(join(path, usersDir, own))))
        return new CacheWorkspace(workspace, { id, path, created, own }, options.filesystem);
      await unlink(join(path, usersDir, own)).catch(() => {});
    }
  }

  /** Release it now, whoever made it and uses it. @throws {EfError} as {@link Workspace.release} */
  async cleanup(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#release();
  }

  /** Release it, if nobody else has a use for it. @throws {EfError} as {@link Workspace.release} */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    const [users, made, leaving] = [usersDir, madeFile, leavingFile].map((each) => join(this.name, each)) as [
      string,
      string,
      string,
    ];
    await unlink(join(users, this.#own)).catch(() => {}); // our script may have emptied the directory
    const isUsed = await rmdir(users).then(
      () => false,
      (error) => errnoOf(error) !== "ENOENT",
    );
    if (isUsed) return;
    const isOurs = await rename(made, leaving).then(
      () => true,
      () => false,
    );
    if (!isOurs) return;
    // Who opened it since then has either seen that it is leaving, and waits, or is seen here.
    if (await isThere(users)) await rename(leaving, made).catch(() => {});
    else await this.#release();
  }

  async #release(): Promise<void> {
    await this.#workspace.release(this.id, this.#filesystem === undefined ? {} : { filesystem: this.#filesystem });
  }
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
