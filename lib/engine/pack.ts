/**
 * A directory made into an archive: tar through zstd, with many requests in flight where its storage is slow. The same
 * tree gives the same bytes: entries in a fixed order, no owners, times in whole seconds.
 */
import { closeSync, constants, fstatSync, fsync, openSync } from "node:fs";
import { type ByteString, bytesOf, display } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf, writeError } from "../base/errors.ts";
import { removeIfThere } from "../base/files.ts";
import { oneMore } from "../base/memory.ts";
import { walk } from "../base/steps.ts";
import { span } from "../base/trace.ts";
import { plural } from "../base/units.ts";
import { type Compressor, compressTo, plainTo } from "../drivers/zstd.ts";
import { Changed, Contents, largeBytes, type Seen } from "./archive-contents.ts";
import { FileHash } from "./archive-hash.ts";
import { entryOf, type List, listOf, type OutsideLink } from "./archive-list.ts";
import { NotWritten, Output } from "./archive-output.ts";
import { holds, Search } from "./archive-search.ts";
import { firstChange } from "./archive-still.ts";
import { sidesOf } from "./builtin.ts";
import { Gauge } from "./gauge.ts";
import { type Scan, scan } from "./scan.ts";
import type { Storage } from "./storage.ts";
import { encodeHeader, paddingOf } from "./tar-format.ts";
import type { Tree } from "./tree.ts";

export interface PackProgress {
  /** Contents of regular files. */
  bytes: number;
  files: number;
  totalBytes: number;
  totalFiles: number;
}

export interface PackOptions {
  /** Left out, with all below it; `path` is relative to the root. As for a scan. */
  exclude?: ((path: ByteString, isDirectory: boolean) => boolean) | undefined;
  /**
   * What becomes of a symbolic link that leaves the root. `follow`: the regular file that it leads to is stored in its
   * place; it is dropped if that is none.
   *
   * @default "drop"
   */
  onOutsideLink?: OutsideLink | undefined;
  /** Byte strings to look for in all contents. */
  find?: readonly Uint8Array[] | undefined;
  /** Which contents are to be kept until the end; files of more than 1 MiB are not asked for. */
  keep?: ((path: ByteString) => boolean) | undefined;
  /**
   * Called when all is written. It gives other contents of files, by relative path: they are written once more, and that is
   * what an unpacked archive has.
   */
  again?: ((read: Read) => Promise<ReadonlyMap<ByteString, Uint8Array>>) | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: PackProgress) => void) | undefined;
}

/** What the contents were. */
export interface Read {
  /** Files in which something was found, each name of one with several. */
  mentions: ByteString[];
  kept: ReadonlyMap<ByteString, Uint8Array>;
}

/** What is in an archive. */
export interface PackedTree {
  /** Of all regular files, those with several names once. */
  contentBytes: number;
  /** Regular files, each name of one with several. */
  files: number;
  /** Symbolic links that are not in it. */
  dropped: ByteString[];
  /** Symbolic links in whose place there is the file that they lead to. */
  followed: ByteString[];
  /** Not in it: FIFOs, sockets, devices, temporary files of ef. */
  skipped: ByteString[];
}

export interface Packed extends PackedTree {
  /** Of the archive, in hexadecimal. */
  sha256: string;
  /** Of the archive. */
  sizeBytes: number;
}

/**
 * Write the tree below `root` to `file`, which must not exist; mode 0600, on disk when this is done, and gone after an
 * error. Extended attributes, ACLs and holes of files are not kept.
 *
 * @throws {EfError} EXISTS; TRANSFER_PARTIAL where a file changed meanwhile; NO_SPACE, IO, TOOL_FAILED; the signal's reason
 */
export async function pack(
  root: string,
  file: string,
  options: PackOptions & { /** Of zstd. @default 3 */ level?: number } = {},
): Promise<Packed> {
  const { signal, level = 3 } = options;
  return writing(root, file, options, async (fd) => {
    const hash = new FileHash(fd);
    const compressor = await compressTo(fd, { level, signal });
    const packed = await packTo(compressor, root, file, options, () => hash.upTo(fstatSync(fd).size));
    return { ...packed, sha256: await hash.finish(signal), sizeBytes: hash.bytes };
  });
}

/** As {@link pack}, as tar alone: for a file that is read once, on this node. It may be lost when the node crashes. */
export async function packPlain(root: string, file: string, options: PackOptions = {}): Promise<PackedTree> {
  return writing(root, file, { ...options, durable: false }, (fd) => packTo(plainTo(fd), root, file, options));
}

async function writing<T>(
  root: string,
  file: string,
  { signal, durable = true }: PackOptions & { durable?: boolean },
  write: (fd: number) => Promise<T>,
): Promise<T> {
  return span(
    "pack",
    async () => {
      signal?.throwIfAborted();
      const fd = create(file);
      let isWhole = false;
      try {
        const packed = await write(fd);
        if (durable) await flushed(fd, file);
        signal?.throwIfAborted();
        isWhole = true;
        return packed;
      } finally {
        closeSync(fd);
        if (!isWhole) removeIfThere(file);
      }
    },
    { root, file },
  );
}

const flushed = (fd: number, file: string) =>
  new Promise<void>((resolve, reject) =>
    fsync(fd, (error) => (error ? reject(writeError(`Cannot write ${file}`, file, error)) : resolve())),
  );

async function packTo(
  compressor: Compressor,
  root: string,
  file: string,
  options: PackOptions,
  onPiece?: () => void,
): Promise<PackedTree> {
  const { signal } = options;
  try {
    const storage = (await sidesOf("auto")).source;
    return await packTree(compressor, root, await scanned(root, storage, options), storage, options, onPiece);
  } catch (error) {
    await compressor.stop();
    if (signal?.aborted) throw signal.reason;
    const cause = error instanceof NotWritten ? error.cause : error;
    throw cause instanceof EfError || errnoOf(cause) === undefined
      ? cause
      : writeError(`Cannot write ${file}`, file, cause);
  }
}

/**
 * A tree that was scanned, as tar, to whatever takes it.
 *
 * @throws as {@link pack}, and {@link NotWritten} with what `compressor` throws as its cause
 */
export async function packTree(
  compressor: Compressor,
  root: string,
  { tree, temps }: Scan,
  storage: Storage,
  options: PackOptions,
  onPiece?: () => void,
): Promise<PackedTree> {
  const { signal, exclude, onOutsideLink = () => "drop", find, again } = options;
  const list = await listOf(tree, bytesOf(root), storage, onOutsideLink);
  list.skipped.push(...temps);
  const output = new Output(compressor, () => {
    signal?.throwIfAborted();
    onPiece?.();
  });
  const needles = find?.filter(({ length }) => length > 0) ?? [];
  const read = await writeEntries({ tree, list, root, storage, output, needles }, options);
  const more = await again?.(read);
  const changed = await firstChange(tree, bytesOf(root), { storage, exclude, signal });
  if (changed !== undefined) throw changedError(root, changed);
  if (more) await writeAgain(tree, more, output);
  await output.finish();
  const { files, contentBytes, dropped, followed, skipped } = list;
  return { files, contentBytes, dropped, followed, skipped };
}

async function scanned(root: string, storage: Storage, { exclude, signal }: PackOptions): Promise<Scan> {
  const found = await scan(bytesOf(root), { storage, gauge: new Gauge(), signal, exclude }).catch((error) => {
    throw signal?.aborted ? signal.reason : readError(root, "", error);
  });
  const [first] = found.problems;
  if (first) throw readError(root, first.path, first.error, found.problems.length - 1);
  return found;
}

export function readError(root: string, path: ByteString, error: unknown, others = 0): EfError {
  const place = path === "" ? root : `${root}/${display(path)}`;
  const more = others > 0 ? ` (and ${plural(others, "other")})` : "";
  return new EfError("IO", `Cannot pack ${root}: cannot read ${place}: ${reasonOf(error)}${more}`, {
    hint: "make it readable, or leave it out",
    path: place,
    cause: error,
  });
}

function changedError(root: string, path: ByteString): EfError {
  const place = `${root}/${display(path)}`;
  return new EfError("TRANSFER_PARTIAL", `Cannot pack ${root}: ${place} changed while it was packed`, {
    hint: "run it again when nothing writes there",
    path: place,
  });
}

function create(file: string): number {
  const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  try {
    return openSync(file, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  } catch (error) {
    if (errnoOf(error) !== "EEXIST") throw writeError(`Cannot write ${file}`, file, error);
    throw new EfError("EXISTS", `Cannot write ${file}: it exists already`, { path: file, cause: error });
  }
}

interface Work {
  tree: Tree;
  list: List;
  root: string;
  storage: Storage;
  output: Output;
  /** To look for. */
  needles: readonly Uint8Array[];
}

/** Milliseconds between two reports of progress. */
const tellEveryMs = 50;
/** Of one file, in bytes. */
const mostKept = 1 << 20;

async function writeEntries(
  { tree, list, root, storage, output, needles }: Work,
  { onProgress, keep }: PackOptions,
): Promise<Read> {
  const top = bytesOf(root);
  const withContents = list.entries.filter(
    ({ row, first, followed }) => followed || (tree.kind(row) === "file" && first === row && (tree.size[row] ?? 0) > 0),
  );
  const files = withContents.map(
    ({ row, followed }): Seen =>
      followed ?? {
        get path() {
          return `${top}/${tree.path(row)}`;
        },
        size: tree.size[row] as number,
        mtimeNs: tree.mtime[row] as bigint,
      },
  );
  const contents = new Contents(storage, files);
  const mentions: ByteString[] = [];
  const kept = new Map<ByteString, Uint8Array>();
  /** Rows of their files; other names of a file come after it. */
  const found = new Set<number>();
  const progress = { bytes: 0, files: 0, totalBytes: list.contentBytes, totalFiles: list.files };
  let told = 0;
  let next = 0;
  try {
    for (const planned of list.entries) {
      oneMore();
      const entry = entryOf(tree, planned);
      await output.add(encodeHeader(entry));
      if (planned === withContents[next]) {
        const search = needles.length > 0 ? new Search(needles) : undefined;
        const parts: Buffer[] | undefined = entry.size <= mostKept && keep?.(entry.path) ? [] : undefined;
        const see = (part: Buffer) => {
          if (search && part.length === entry.size) search.found = holds(part, needles);
          else search?.in(part);
          parts?.push(Buffer.from(part));
        };
        try {
          await bring(contents, next, files[next] as Seen, output, see);
        } catch (error) {
          if (error instanceof Changed) throw changedError(root, entry.path);
          throw error instanceof NotWritten ? error : readError(root, entry.path, error);
        }
        if (search?.found) found.add(planned.row);
        if (parts) kept.set(entry.path, Buffer.concat(parts));
        await output.add(padding(entry.size));
        next++;
      }
      if (found.has(planned.first)) mentions.push(entry.path);
      progress.bytes += entry.size;
      if (entry.type === "file" || entry.type === "hardlink") progress.files++;
      if (!onProgress || performance.now() - told < tellEveryMs) continue;
      told = performance.now();
      onProgress({ ...progress });
    }
    onProgress?.({ ...progress });
    return { mentions, kept };
  } finally {
    await contents.landed();
  }
}

const zeros = Buffer.alloc(512);
const padding = (bytes: number) => zeros.subarray(0, paddingOf(bytes));

/** Contents of a file to the output, straight into its memory where they were not read ahead. */
async function bring(
  contents: Contents,
  i: number,
  file: Seen,
  output: Output,
  see: (part: Buffer) => void,
): Promise<void> {
  const ahead = contents.take(i);
  if (ahead !== undefined) {
    const whole = await ahead;
    see(whole);
    await output.add(whole);
    return contents.free(whole);
  }
  const open = await walk(contents.open(file));
  try {
    if (file.size >= largeBytes) {
      for await (const piece of open.pieces()) {
        see(piece);
        await output.add(piece);
      }
      return await walk(open.check());
    }
    for (let left = file.size; left > 0; ) {
      const read = await walk(open.read(output.memory, output.at, Math.min(left, output.room)));
      see(output.memory.subarray(output.at, output.at + read));
      left -= read;
      await output.wrote(read);
    }
    await walk(open.check());
  } finally {
    await walk(open.close());
  }
}

async function writeAgain(tree: Tree, files: ReadonlyMap<ByteString, Uint8Array>, output: Output): Promise<void> {
  for (const [path, bytes] of files) {
    const row = tree.find(path);
    const entry = row === undefined ? undefined : entryOf(tree, { row, first: row, followed: undefined });
    if (entry?.type !== "file") continue;
    await output.add(encodeHeader({ ...entry, size: bytes.length }));
    await output.add(Buffer.from(bytes));
    await output.add(padding(bytes.length));
  }
}
