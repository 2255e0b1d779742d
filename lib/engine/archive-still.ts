/** Is a tree still what it was when it was looked at? For a copy of it that took its time. */
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Steps } from "../base/steps.ts";
import { crew } from "./crew.ts";
import { Gauge } from "./gauge.ts";
import { isTemp } from "./names.ts";
import { lookOf, type Storage } from "./storage.ts";
import type { Tree } from "./tree.ts";

export interface StillOptions {
  storage: Storage;
  /** What the tree was scanned without. */
  exclude?: ((path: ByteString, isDirectory: boolean) => boolean) | undefined;
  signal?: AbortSignal | undefined;
}

/** What Python compiles as it imports: it is made anew from the modules, and read only where it fits them. */
const compiled = "__pycache__";

/**
 * One lstat(2) for each directory; one that changed is looked at closely, as what was put in or taken out may be of what the
 * scan left out, or what a Python in use compiles. A file that is rewritten in place shows in no directory: whoever reads it
 * finds that.
 *
 * @param root absolute
 * @returns what changed first, relative; undefined where nothing did
 */
export async function firstChange(
  tree: Tree,
  root: ByteString,
  options: StillOptions,
): Promise<ByteString | undefined> {
  const { storage, signal, exclude } = options;
  const full = (path: ByteString) => (path === "" ? `${root}/` : `${root}/${path}`);
  let found: ByteString | undefined;

  function* look(row: number): Steps<void> {
    if (found !== undefined) return;
    const path = tree.path(row);
    try {
      const { mtimeNs } = lookOf(yield* get(storage.lstat(full(path))));
      if (mtimeNs !== tree.mtime[row]) found ??= yield* changeIn(row, path);
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      found ??= path;
    }
  }

  function* changeIn(dir: number, path: ByteString): Steps<ByteString | undefined> {
    if (tree.name(dir) === compiled) return undefined;
    const below = (name: ByteString) => (path === "" ? name : `${path}/${name}`);
    const [from, to] = tree.children(dir);
    const before = new Map<ByteString, number>();
    for (let row = from; row < to; row++) if (tree.kind(row) !== "gone") before.set(tree.name(row), row);
    for (const name of yield* get(storage.list(full(path)))) {
      const row = before.get(name);
      before.delete(name);
      if (row === undefined && (isTemp(name) || name === compiled)) continue;
      const look = lookOf(yield* get(storage.lstat(full(below(name)))));
      const isDirectory = (look.mode & 0o170000) === 0o040000;
      if (row === undefined && exclude?.(below(name), isDirectory)) continue;
      if (row === undefined || (isDirectory ? tree.kind(row) !== "dir" : look.mtimeNs !== tree.mtime[row]))
        return below(name);
    }
    const [gone] = before.keys();
    return gone === undefined ? undefined : below(gone);
  }

  let next = 0;
  const directories = () => {
    while (next < tree.length) {
      const row = next++;
      if (tree.kind(row) === "dir") return row;
    }
    return undefined;
  };
  await crew(directories, look, { gauge: new Gauge(), signal });
  return found;
}
