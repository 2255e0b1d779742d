/** A saved environment, unpacked, made to fit its new place, and tried: for `load` and `export`. */
import { mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { bytesOf } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import { present } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { libc } from "../drivers/libc.ts";
import { thisNode } from "../drivers/node.ts";
import { Space } from "../engine/space.ts";
import { tempDirFor } from "../engine/temp.ts";
import { unpack } from "../engine/unpack.ts";
import { judge } from "./describe.ts";
import type { OnVenvEvent } from "./events.ts";
import { basePython, startPython, useBasePython } from "./interpreter.ts";
import { belongs } from "./links.ts";
import { type RelocationReport, relocateEnv, searchTerms } from "./relocating.ts";
import type { Description, Saved } from "./store.ts";

export interface RestoreOptions {
  /** Where it will be: does not exist, its directory does. */
  target: string;
  /** Prefix of a temporary directory beside it. */
  tempPrefix: string;
  /** Another base interpreter: a path. */
  python?: string | undefined;
  /** Done with the whole environment before it appears at `target`. */
  finish?: (dir: string) => void;
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
 * @throws {EfError} BAD_ARCHIVE, NOT_RUNNABLE, NO_SPACE, EXISTS; nothing is left behind
 */
export async function restore(saved: Saved, options: RestoreOptions): Promise<Restored> {
  const { target, tempPrefix, python, finish, signal } = options;
  const { name, archive } = saved;
  if (saved.description) await assertRunnable(saved.description, python);
  using _ = roomFor(saved, target);
  using temp = tempDirFor(dirname(target), tempPrefix);
  const dir = join(temp.path, "env");
  mkdirSync(dir, 0o755);
  const { description, unpacked } = await span("unpack", () => unpackOne(saved, dir, options));
  if (python !== undefined) await useBasePython(dir, python);
  else await assertBase(dir, name);
  const relocation = await span("relocate", () =>
    relocateEnv(dir, {
      to: target,
      ...(description ? { from: description.places.map(bytesOf), mentions: unpacked.mentions } : {}),
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
  finish?.(dir);
  signal?.throwIfAborted();
  await appear(dir, target);
  return { python: version, relocation, files: unpacked.files, contentBytes: unpacked.contentBytes };
}

const minorOf = (version: string) => version.split(".").slice(0, 2).join(".");

/** What is recorded says already that it will not run here: then nothing is unpacked. */
async function assertRunnable(description: Description, python: string | undefined): Promise<void> {
  const known = python === undefined ? description : { ...description, base_python: python };
  const { runs, why } = judge(known, await thisNode());
  if (runs !== "no") return;
  const isBase = why?.includes("--python") ?? false;
  throw new EfError("NOT_RUNNABLE", `Cannot load ${description.name} on this node: ${why}`, {
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
  return new Space().reserve(name, target, { bytes: description.content_bytes, inodes: description.files });
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
  const unpacked = await unpack(archive, dir, {
    ...(signal ? { signal } : {}),
    ...(description && !previous ? { sha256: description.sha256 } : {}),
    allowLink: belongs(places),
    find: () => finding,
    onProgress: ({ bytes }) =>
      onEvent?.({ type: "progress", name, bytes, files: Math.floor(plan.files * (bytes / size)) }),
  });
  const fits = [description, previous].find((each) => each?.sha256 === unpacked.sha256);
  if (description && !fits) throw damaged(archive);
  return { unpacked, description: fits };
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
