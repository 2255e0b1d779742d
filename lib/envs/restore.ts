/** A saved environment, unpacked, made to fit its new place, and tried: for `load` and `export`. */
import { mkdirSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { type ByteString, bytesOf } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { present } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { libc } from "../drivers/libc.ts";
import { thisNode } from "../drivers/node.ts";
import { Space } from "../engine/space.ts";
import { unpack } from "../engine/unpack.ts";
import { judge } from "./describe.ts";
import type { OnVenvEvent } from "./events.ts";
import { basePython, startPython, useBasePython } from "./interpreter.ts";
import { belongs } from "./links.ts";
import type { Packages } from "./packages.ts";
import { type RelocationReport, relocateEnv, searchTerms } from "./relocating.ts";
import { type Description, isUnchecked, type Saved } from "./store.ts";
import { tempDirIn } from "./temp-dir.ts";

export interface RestoreOptions {
  /** Where it will be: does not exist, its directory does. */
  target: string;
  /** Prefix of a temporary directory beside it. */
  tempPrefix: string;
  /** Another base interpreter: a path. */
  python?: string | undefined;
  /** Done with the whole environment before it appears at `target`; `packages` are those it was saved with, if known. */
  finish?: (dir: string, packages: Packages | undefined) => void;
  signal?: AbortSignal | undefined;
  onEvent?: OnVenvEvent | undefined;
}

export interface Restored {
  /** `3.11.2` */
  python: string;
  relocation: RelocationReport;
  files: number;
  contentBytes: number;
}

/**
 * Unpack, relocate, start its Python once, and only then let it appear.
 *
 * @param find what is saved now; asked again where that was replaced before it was read
 * @throws {EfError} BAD_ARCHIVE, NOT_RUNNABLE, NO_SPACE, EXISTS, and what `find` throws; nothing is left behind
 */
export async function restore(find: () => Saved, options: RestoreOptions): Promise<Restored> {
  for (;;) {
    const saved = find();
    try {
      return await restoreOne(saved, options);
    } catch (error) {
      if (!(error instanceof EfError) || error.code !== "BAD_ARCHIVE") throw error;
      if (find().description?.sha256 === saved.description?.sha256) throw error;
    }
  }
}

async function restoreOne(saved: Saved, options: RestoreOptions): Promise<Restored> {
  const { target, tempPrefix, python, finish, signal, onEvent } = options;
  const { name, archive } = saved;
  if (isUnchecked(saved))
    onEvent?.({ type: "warning", name, message: "its sum cannot be checked: its .json is missing or damaged" });
  if (saved.description) await assertRunnable(name, saved.description, python);
  using _ = roomFor(saved, target);
  using temp = tempDirIn(dirname(target), tempPrefix);
  const dir = join(temp.path, "env");
  const readers = statSync(archive).mode & 0o044; // nobody else gets in who could not read the archive
  mkdirSync(dir, 0o700 | readers | (readers >> 2));
  const { description, unpacked, mentions } = await span("unpack", () => unpackOne(saved, dir, options));
  if (python !== undefined) await useBasePython(dir, python);
  else await assertBase(dir, name);
  const relocation = await span("relocate", () =>
    relocateEnv(dir, {
      to: target,
      ...(description ? { from: description.places.map(bytesOf), mentions } : {}),
      ...(signal ? { signal } : {}),
    }),
  );
  const { version } = await span("start", () => startPython(dir));
  if (description && description.python_version !== version && minorOf(description.python_version) !== minorOf(version))
    throw new EfError(
      "NOT_RUNNABLE",
      `Cannot use ${name}: made for Python ${description.python_version}, its Python here is ${version}`,
      {
        hint: `load it with --python and the path of a Python ${minorOf(description.python_version)}`,
        path: archive,
      },
    );
  finish?.(dir, description?.packages);
  signal?.throwIfAborted();
  await appear(dir, target);
  return { python: version, relocation, files: unpacked.files, contentBytes: unpacked.contentBytes };
}

const minorOf = (version: string) => version.split(".").slice(0, 2).join(".");

/** What is recorded says already that it will not run here: then nothing is unpacked. */
async function assertRunnable(name: string, description: Description, python: string | undefined): Promise<void> {
  const known = python === undefined ? description : { ...description, base_python: python };
  const { runs, why } = judge(known, await thisNode());
  if (runs !== "no") return;
  const isBase = why?.includes("--python") ?? false;
  throw new EfError("NOT_RUNNABLE", `Cannot load ${name} on this node: ${why}`, {
    hint: isBase
      ? `give it another Python ${minorOf(description.python_version)}: --python PATH (module avail python, uv python list)`
      : "load it on a node as the one where it was saved, or make it anew here",
  });
}

/** @throws {EfError} NOT_RUNNABLE */
async function assertBase(dir: string, name: string): Promise<void> {
  const { status, path, version, found } = await basePython(dir);
  if (status === "inside" || status === "present") return;
  const why =
    status === "missing"
      ? `its Python ${path} is not here`
      : `${path} is Python ${found}, it needs ${minorOf(version)}`;
  throw new EfError("NOT_RUNNABLE", `Cannot load ${name} on this node: ${why}`, {
    hint: `give it another Python ${minorOf(version)}: --python PATH (module avail python, uv python list)`,
    path,
  });
}

/** Have the room promised; unknown for an archive of kpy. */
function roomFor({ name, description }: Saved, target: string): Disposable {
  if (!description) return { [Symbol.dispose]() {} };
  try {
    return new Space().reserve(name, target, { bytes: description.content_bytes, inodes: description.files });
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    throw new EfError(error.code, error.message, { hint: "make room there", path: target, cause: error });
  }
}

/**
 * Unpack an archive by the description that fits its sum: in the moment in which it is replaced that may be the one of the
 * archive before (see lib/envs/store.ts).
 */
async function unpackOne({ name, archive, description, previous, size }: Saved, dir: string, options: Unpacking) {
  const places = [description, previous].flatMap((each) => each?.places ?? []).map(bytesOf);
  const { signal, onEvent } = options;
  const plan = { files: description?.files ?? 0, bytes: size, names: [] };
  onEvent?.({ type: "copying", name, plan });
  const finding = searchTerms(places);
  const isOwn = belongs(places);
  const links: ByteString[] = [];
  const unpacked = await unpack(archive, dir, {
    ...(signal ? { signal } : {}),
    ...(description && !previous ? { sha256: description.sha256 } : {}),
    allowLink: (path, text) => isOwn(path, text) && links.push(path) > 0,
    find: () => finding,
    onProgress: ({ bytes }) =>
      onEvent?.({ type: "progress", name, bytes, files: Math.floor(plan.files * (bytes / size)) }),
  });
  const fits = [description, previous].find((each) => each?.sha256 === unpacked.sha256);
  if (description && !fits) throw damaged(archive);
  return { mentions: [...unpacked.mentions, ...links], unpacked, description: fits };
}

type Unpacking = Pick<RestoreOptions, "signal" | "onEvent">;

const damaged = (archive: string) =>
  new EfError("BAD_ARCHIVE", `Cannot load ${archive}: its sha256 is not that of what was saved`, {
    hint: "it was damaged or replaced: save the environment again",
    path: archive,
  });

/** Rename, but never over something. */
async function appear(dir: string, target: string): Promise<void> {
  const exists = () =>
    new EfError("EXISTS", `Cannot put the environment at ${target}: there is something`, { path: target });
  try {
    const done = (await libc())?.renameNew(dir, target);
    if (done === true) return;
    if (done === false || present(target)) throw exists();
    renameSync(dir, target);
  } catch (error) {
    if (error instanceof EfError) throw error;
    if (errnoOf(error) === "ENOTEMPTY" || errnoOf(error) === "EEXIST") throw exists();
    throw new EfError("IO", `Cannot rename to ${target}: ${reasonOf(error)}`, { path: target, cause: error });
  }
}
