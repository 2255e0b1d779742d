/**
 * Remove a directory that was moved: what was verified, as it was verified, and nothing else.
 *
 * No link is followed. What appeared or changed since stays, and with it the directories above it.
 */
import { type ByteString, bytesOf, display } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { isWithin } from "../base/paths.ts";
import { get, type Steps } from "../base/steps.ts";
import { mounts } from "../drivers/filesystem.ts";
import { lookBelow } from "./below.ts";
import { crew } from "./crew.ts";
import { Gauge } from "./gauge.ts";
import type { Facts, Verified } from "./move-journal.ts";
import { scan } from "./scan.ts";
import type { Storage } from "./storage.ts";
import type { Tree } from "./tree.ts";

export interface RemoveOptions {
  storage: Storage;
  workers: number | "auto";
  signal: AbortSignal | undefined;
  /** So many of so many entries are done. */
  onProgress?: (files: number, totalFiles: number) => void;
}

export interface Removed {
  /** Appeared or changed since they were verified: relative paths. */
  kept: string[];
  /** Could not be removed, and why. */
  failed: string[];
  /** Why the directory itself is still there, empty: it is a mount point, or the one above it belongs to somebody else. */
  rootStays: string | undefined;
}

/**
 * @param root without links
 * @param verified says what may go
 */
export async function removeMoved(
  root: string,
  verified: Pick<Verified, "has">,
  options: RemoveOptions,
): Promise<Removed> {
  const { storage, signal } = options;
  const top = bytesOf(root);
  const inside = mounts().find(({ point }) => point !== root && isWithin(point, root));
  if (inside) {
    const message = `Cannot remove ${root}: ${inside.point}, a mounted file system (${inside.type}), is in it`;
    throw new EfError("IO", message, { path: root, hint: "unmount it, then run the same command again" });
  }
  const { tree, temps, problems } = await scan(top, { storage, gauge: new Gauge(options.workers), signal });
  const removed: Removed = { kept: [], failed: [], rootStays: undefined };
  const failed = (path: ByteString, error: unknown) =>
    void removed.failed.push(`${display(`${top}/${path}`)}: ${reasonOf(error)}`);
  for (const { path, error } of problems) failed(path, error);
  const opened = await openDirectories(top, tree, verified, storage);
  const files = [...entriesOf(tree), ...temps];
  let done = 0;

  function* remove(path: ByteString): Steps<void> {
    const at = `${top}/${path}`;
    try {
      const stat = yield* lookBelow(storage, top, at);
      if (stat) {
        const kind = stat.isFile() ? "file" : stat.isSymbolicLink() ? "link" : stat.isDirectory() ? "dir" : "other";
        const text = kind === "link" ? yield* get(storage.readlink(at)) : undefined;
        const facts: Facts = { kind, size: Number(stat.size), mtimeNs: stat.mtimeNs, text };
        if (kind !== "dir" && verified.has(path, facts)) yield* get(storage.unlink(at));
        else removed.kept.push(display(path));
      }
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") failed(path, error);
    }
    options.onProgress?.(++done, files.length);
  }
  const next = files[Symbol.iterator]();
  await crew(() => next.next().value as ByteString | undefined, remove, {
    gauge: new Gauge(options.workers),
    signal,
  });
  await removeDirectories(top, tree, verified, removed, options);
  for (const [path, mode] of opened) await ignore(() => storage.chmod(path, mode)); // those that stay
  if (removed.kept.length === 0 && removed.failed.length === 0) {
    try {
      await storage.rmdir(top);
    } catch (error) {
      const code = errnoOf(error);
      if (code === "ENOTEMPTY" || code === "EEXIST") removed.kept.push("something that appeared just now");
      else if (code !== "ENOENT") removed.rootStays = reasonOf(error);
    }
  }
  return removed;
}

function* entriesOf(tree: Tree): Generator<ByteString, void> {
  for (let row = 1; row < tree.length; row++) {
    const kind = tree.kind(row);
    if (kind !== "dir" && kind !== "gone") yield tree.path(row);
  }
}

const asDirectory: Facts = { kind: "dir", size: 0, mtimeNs: 0n };

/** Let ourselves into directories that their owner may not write to. @returns their modes */
async function openDirectories(top: ByteString, tree: Tree, verified: Pick<Verified, "has">, storage: Storage) {
  const opened: [ByteString, number][] = [];
  for (let row = 0; row < tree.length; row++) {
    const mode = tree.permissions(row);
    if (tree.kind(row) !== "dir" || (mode & 0o300) === 0o300) continue;
    const path = tree.path(row);
    if (row > 0 && !verified.has(path, asDirectory)) continue;
    const at = row === 0 ? top : `${top}/${path}`;
    await ignore(async () => {
      await storage.chmod(at, mode | 0o700);
      opened.push([at, mode]);
    });
  }
  return opened;
}

/** What is deeper first: level by level, many at once. */
async function removeDirectories(
  top: ByteString,
  tree: Tree,
  verified: Pick<Verified, "has">,
  removed: Removed,
  { storage, workers, signal }: RemoveOptions,
): Promise<void> {
  const depths = new Uint32Array(tree.length);
  const levels: number[][] = [];
  for (let row = 1; row < tree.length; row++) {
    const depth = (depths[tree.parent[row] as number] as number) + 1;
    depths[row] = depth;
    if (tree.kind(row) !== "dir") continue;
    levels[depth] ??= [];
    levels[depth].push(row);
  }
  function* remove(row: number): Steps<void> {
    const path = tree.path(row);
    const [from, to] = tree.children(row);
    if (!verified.has(path, asDirectory)) {
      if (from === to) removed.kept.push(`${display(path)}/`);
      return;
    }
    try {
      yield* get(storage.rmdir(`${top}/${path}`));
    } catch (error) {
      const code = errnoOf(error);
      // Something in it stays, and is named, or it came after the look.
      if (code === "ENOTEMPTY" || code === "EEXIST") {
        if (removed.kept.length === 0 && removed.failed.length === 0) removed.kept.push(`${display(path)}/`);
      } else if (code !== "ENOENT") removed.failed.push(`${display(`${top}/${path}`)}: ${reasonOf(error)}`);
    }
  }
  for (const rows of levels.reverse()) {
    const next = (rows ?? [])[Symbol.iterator]();
    const gauge = new Gauge(workers);
    await crew(() => next.next().value as number | undefined, remove, { gauge, signal });
  }
}

/** A directory that cannot be opened, or is gone, says so where something in it is to be removed. */
async function ignore(work: () => unknown): Promise<void> {
  try {
    await work();
  } catch {
    // see above
  }
}
