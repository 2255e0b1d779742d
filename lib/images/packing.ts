/** An environment packed for an image: as tar, with files that name the place where it will be. */
import { copyFileSync, mkdirSync, realpathSync, writeFileSync } from "node:fs";
import { dirname } from "node:path/posix";
import { type ByteString, bytesOf, display, osPath } from "../base/bytes.ts";
import { EfError, reasonOf, writeError } from "../base/errors.ts";
import { widenPool } from "../base/stat.ts";
import { span } from "../base/trace.ts";
import { type PackProgress, packPlain, type Read } from "../engine/pack.ts";
import { removeTree } from "../engine/temp.ts";
import { belongs } from "../envs/links.ts";
import { stateName } from "../envs/live.ts";
import { movePath, orderMoves } from "../envs/mentions.ts";
import { packedWarnings } from "../envs/packed.ts";
import { isRelocated, oldPlaces, planRelocation, searchTerms } from "../envs/relocating.ts";

export interface PackingOptions {
  /** Where it will be in the image. */
  to: string;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: PackProgress) => void) | undefined;
}

export interface PackedEnvironment {
  files: number;
  /** Of all files, in bytes: what they take when unpacked. */
  contentBytes: number;
  /** What a person should know. */
  warnings: string[];
}

/** The names of its Python, in whose place the image has its own. */
const isInterpreter = (path: ByteString) => /^bin\/(?:python|pypy)[0-9.]*t?$/.test(path);

/**
 * What no image needs: byte code, which names the old place and is made anew; what only the machine here has; the settings
 * of pip, which may hold a password, as whoever has the image can read all of it.
 */
const isLeftOut = (path: ByteString): boolean =>
  path === stateName || path === "pip.conf" || /(?:^|\/)__pycache__$/.test(path) || isInterpreter(path);

/**
 * @param dir the environment
 * @param file must not exist
 * @throws {EfError} as {@link packPlain}: TRANSFER_PARTIAL where it changed meanwhile
 */
export async function packEnvironment(dir: string, file: string, options: PackingOptions): Promise<PackedEnvironment> {
  const { to, signal, onProgress } = options;
  await widenPool();
  const root = realOf(dir);
  const places = [...new Set([bytesOf(root), bytesOf(dir), ...oldPlaces(root)])];
  const isOwn = belongs(places);
  const moves = places.map((from) => ({ from, to: bytesOf(to) }));
  const left: string[] = [];
  const packed = await packPlain(root, file, {
    signal,
    onProgress,
    exclude: isLeftOut,
    find: searchTerms(places),
    onOutsideLink(path, text) {
      const moved = isOwn(path, text) ? movePath(text, orderMoves(moves)) : undefined;
      return moved === undefined ? "follow" : { text: moved };
    },
    keep: isRelocated,
    again: (read) =>
      span("relocate", async () => {
        using outline = outlineOf(root, `${file}.outline`, read);
        const plan = await planRelocation(outline.path, {
          to,
          from: places,
          mentions: read.mentions,
          ...(signal ? { signal } : {}),
        });
        for (const { path, why } of plan.report.left) left.push(`${display(path)}: ${why}`);
        const files = new Map<ByteString, Uint8Array>(plan.files.map(({ path, bytes }) => [path, bytes]));
        files.set("pyvenv.cfg", withoutBase(files.get("pyvenv.cfg") ?? read.kept.get("pyvenv.cfg") ?? Buffer.from("")));
        return files;
      }),
  });
  return { files: packed.files, contentBytes: packed.contentBytes, warnings: [...packedWarnings(packed), ...left] };
}

/**
 * An environment with nothing but the files that relocation looks at, on the disk of this node: to read them again where
 * each request takes a millisecond would take longer than all the rest of it.
 */
function outlineOf(root: string, path: string, { mentions, kept }: Read): Disposable & { path: string } {
  const top = bytesOf(path);
  const place = (name: ByteString) => {
    mkdirSync(osPath(dirname(`${top}/${name}`)), { recursive: true });
    return osPath(`${top}/${name}`);
  };
  try {
    mkdirSync(path, { mode: 0o700 });
    for (const [name, bytes] of kept) writeFileSync(place(name), bytes);
    for (const name of mentions) if (!kept.has(name)) copyFileSync(osPath(`${bytesOf(root)}/${name}`), place(name));
  } catch (error) {
    removeTree(path);
    throw writeError(`Cannot write to ${path}`, path, error);
  }
  return { path, [Symbol.dispose]: () => removeTree(path) };
}

/** Lines of pyvenv.cfg that say which Python it is: the image's own is found there (see the definition). */
const withoutBase = (config: Uint8Array): Uint8Array =>
  Buffer.from(
    Buffer.from(config)
      .toString("latin1")
      .replace(/^[ \t]*(?:home|executable|command|base-[\w-]+)[ \t]*=[^\n]*(?:\n|$)/gim, ""),
    "latin1",
  );

function realOf(dir: string): string {
  try {
    return realpathSync(dir);
  } catch (error) {
    throw new EfError("NOT_RUNNABLE", `Cannot read ${dir}: ${reasonOf(error)}`, { path: dir, cause: error });
  }
}
