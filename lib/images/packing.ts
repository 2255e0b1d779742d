/** An environment packed for an image: as tar, with files that name the place where it will be. */
import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { type ByteString, bytesOf, display } from "../base/bytes.ts";
import { EfError, reasonOf } from "../base/errors.ts";
import { widenPool } from "../base/stat.ts";
import { span } from "../base/trace.ts";
import { type PackProgress, packPlain } from "../engine/pack.ts";
import { belongs } from "../envs/links.ts";
import { stateName } from "../envs/live.ts";
import { movePath, orderMoves } from "../envs/mentions.ts";
import { packedWarnings } from "../envs/packed.ts";
import { oldPlaces, planRelocation, searchTerms } from "../envs/relocating.ts";

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
    again: (mentions) =>
      span("relocate", async () => {
        const plan = await planRelocation(root, {
          to,
          from: places,
          mentions,
          ...(signal ? { signal } : {}),
        });
        for (const { path, why } of plan.report.left) if (!isInterpreter(path)) left.push(`${display(path)}: ${why}`);
        const files = new Map(plan.files.map(({ path, bytes }) => [path, bytes]));
        files.set("pyvenv.cfg", withoutBase(files.get("pyvenv.cfg") ?? readFileSync(join(root, "pyvenv.cfg"))));
        return files;
      }),
  });
  return { files: packed.files, contentBytes: packed.contentBytes, warnings: [...packedWarnings(packed), ...left] };
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
