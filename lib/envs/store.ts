/**
 * Saved environments: `NAME.tar.zst` and a small `NAME.json` beside it, which says what is in it; archives of kpy
 * (`NAME.tar.gz`) too.
 *
 * Why a kill at any moment leaves an environment that loads: a new archive is written under a temporary name; then
 * `NAME.json` is replaced by one that describes the new archive and, as `previous`, the one that is still there; then
 * the archive is renamed; then `previous` goes. Whoever loads takes the description that fits the archive's sum. An
 * archive that nothing describes is replaced first: the new one would not fit it, and without one it loads.
 */
import { lstatSync, mkdirSync, readdirSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { EfError, errnoOf, reasonOf, writeError } from "../base/errors.ts";
import { readOwn, removeIfThere, writeAtomic } from "../base/files.ts";
import { nearest } from "../base/nearest.ts";
import { type Env, expandPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { type Held, type LockOptions, lock } from "../engine/lock.ts";
import { checkName, isName } from "./names.ts";

/** Terminals show it, and nobody knows who wrote it. */
const text = v.pipe(v.string(), v.regex(/^\P{Cc}*$/u));
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
/** An absolute path, and not the root. */
const place = v.pipe(v.string(), v.regex(/^\/+[^/\0](?:[^\0]*[^/\0])?$/));

/** What `NAME.json` says of an archive. */
const Description = v.object({
  /** Of this file. */
  version: v.literal(1),
  name: text,
  /** Of the archive, hexadecimal. */
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  /** Of the archive, in bytes. */
  size: count,
  /** Of what is in it. */
  content_bytes: count,
  files: count,
  /** `3.11.2` */
  python_version: text,
  /** The interpreter outside of the environment that it runs on. */
  base_python: text,
  /** `linux-x86_64` */
  platform: text,
  /** Of the node where it was saved. */
  glibc: v.nullable(text),
  cpu: v.nullable(text),
  /** The least that its wheels need; null if they need none. */
  needs_glibc: v.nullable(text),
  /** Packages that were built on that node: they may need its glibc and processor. */
  built: v.array(text),
  /** `numpy==2.4.6` */
  packages: v.array(v.string()),
  /** Where it was: what of it names a place names one of these. */
  places: v.array(place),
  /** Seconds since 1970. */
  saved_at: v.pipe(count, v.maxValue(8_640_000_000_000)),
  host: text,
});
export type Description = v.InferOutput<typeof Description>;

const File = v.object({ ...Description.entries, previous: v.optional(Description) });

/** A saved environment. */
export interface Saved {
  name: string;
  archive: string;
  /** Undefined for kpy's archives, and where the file is gone or damaged. */
  description: Description | undefined;
  /** What the archive was before, in the moment in which it is replaced. */
  previous: Description | undefined;
  /** Of the archive, in bytes. */
  size: number;
  /** Seconds since 1970. */
  savedAt: number;
}

const ownSuffix = ".tar.zst";
const suffixes = [ownSuffix, ".tar.gz"];

/** More than any description has, in bytes. */
const descriptionLimit = 4 << 20;

/**
 * The directory of saved environments.
 *
 * @throws {EfError} CONFIG_INVALID if none is configured, UNSET_VARIABLE
 */
export function storeOf(config: Config, env: Env): string {
  const written = config.ef?.venv_store;
  if (written === undefined)
    throw new EfError("CONFIG_INVALID", "Cannot tell where saved environments are: ef.venv_store is not set", {
      hint: "choose a directory on persistent storage: ef config set ef.venv_store DIR",
    });
  return expandPath(written, env, "ef.venv_store").replace(/(?<=.)\/+$/, "");
}

/** What is saved and can be loaded, by name: one look at the directory, one small file for each. */
export function listSaved(store: string): Saved[] {
  const names = readStore(store);
  const seen = new Set<string>();
  return suffixes
    .flatMap((suffix) =>
      names.flatMap((name) => (name.endsWith(suffix) ? [[name.slice(0, -suffix.length), suffix]] : [])),
    )
    .flatMap(([name = "", suffix = ""]) => {
      if (!isName(name) || seen.has(name)) return [];
      seen.add(name);
      return readSaved(store, name, suffix) ?? [];
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function readStore(store: string): string[] {
  try {
    return readdirSync(store);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return []; // nothing was saved yet
    throw new EfError("IO", `Cannot read ${store}: ${reasonOf(error)}`, {
      hint: "it is ef.venv_store in the configuration",
      path: store,
      cause: error,
    });
  }
}

/**
 * One saved environment.
 *
 * @throws {EfError} UNKNOWN_ENV
 */
export function findSaved(store: string, name: string): Saved {
  checkName(name);
  for (const suffix of suffixes) {
    const saved = readSaved(store, name, suffix);
    if (saved && present(saved.archive)) return saved;
  }
  const known = listSaved(store).map((each) => each.name);
  const like = nearest(name, known);
  const all =
    known.length > 0
      ? `saved: ${known.slice(0, 20).join(", ")}${known.length > 20 ? ", …" : ""}`
      : "nothing is saved yet: ef venv save NAME";
  throw new EfError("UNKNOWN_ENV", `Cannot find a saved environment ${name} in ${store}`, {
    hint: like === undefined ? all : `did you mean ${like}? ${all}`,
    path: store,
  });
}

function readSaved(store: string, name: string, suffix: string): Saved | undefined {
  const archive = join(store, name + suffix);
  const { previous, ...description } = (suffix === ownSuffix && readDescription(store, name)) || {};
  if ("sha256" in description) {
    const { size, saved_at: savedAt } = description;
    return { name, archive, description, previous, size, savedAt };
  }
  const stat = quietly(() => statSync(archive));
  if (!stat?.isFile()) return undefined;
  return { name, archive, description: undefined, previous: undefined, size: stat.size, savedAt: stat.mtimeMs / 1000 };
}

function readDescription(store: string, name: string): v.InferOutput<typeof File> | undefined {
  const text = readOwn(descriptionOf(store, name), descriptionLimit)?.toString("utf8");
  const { success, output } = v.safeParse(v.pipe(v.string(), v.parseJson(), File), text);
  return success ? output : undefined;
}

/** Should it have a description, as those of kpy should not? */
export const isUnchecked = ({ archive, description }: Saved): boolean => !description && archive.endsWith(ownSuffix);

/** The file that says what an archive holds. */
export const descriptionOf = (store: string, name: string): string => join(store, `${name}.json`);

const present = (path: string) => quietly(() => lstatSync(path)) !== undefined;

function quietly<T>(ask: () => T): T | undefined {
  try {
    return ask();
  } catch {
    return undefined;
  }
}

const storeHint = "it is ef.venv_store in the configuration: ef config set ef.venv_store DIR";

/** Seconds to wait for another one that saves the same: as long as a large environment takes. */
const waitS = 600;

/** One that saves or removes at a time. */
export async function lockSaved(
  store: string,
  name: string,
  options: Pick<LockOptions, "signal" | "onWait">,
): Promise<Held> {
  try {
    mkdirSync(store, { recursive: true, mode: 0o775 });
  } catch (error) {
    throw new EfError("IO", `Cannot make ${store}: ${reasonOf(error)}`, {
      hint: storeHint,
      path: store,
      cause: error,
    });
  }
  try {
    return await lock(join(store, `.${name}.lock`), { timeoutS: waitS, ...options });
  } catch (error) {
    if (!(error instanceof EfError) || error.code !== "LOCK_FAILED" || error.hint !== undefined) throw error;
    const { message, path } = error;
    throw new EfError("LOCK_FAILED", message, { hint: storeHint, path, cause: error });
  }
}

/** Is there one of that name? */
export const isSaved = (store: string, name: string): boolean =>
  suffixes.some((suffix) => present(join(store, name + suffix)));

/** Prefix of temporary directories of a save. */
export const tempOf = (store: string, name: string): string => join(store, `.${name}.tmp-`);

/**
 * What of that name is no file and cannot be replaced.
 *
 * @throws {EfError} EXISTS
 */
export function assertReplaceable(store: string, name: string): void {
  const inTheWay = suffixes
    .map((suffix) => join(store, name + suffix))
    .find((path) => quietly(() => lstatSync(path))?.isDirectory());
  if (inTheWay === undefined) return;
  throw new EfError("EXISTS", `Cannot save ${name}: ${inTheWay} is a directory`, {
    hint: "remove it, or save under another name",
    path: inTheWay,
  });
}

/**
 * Put a finished archive, and what it is, in the place of what is there. Call it with the lock held.
 *
 * @param temp the archive, on the same file system
 * @throws {EfError} NO_SPACE, IO
 */
export function publish(store: string, description: Description, temp: string): Saved {
  const { name } = description;
  const archive = join(store, name + ownSuffix);
  const file = descriptionOf(store, name);
  const { previous: _, ...previous } = readDescription(store, name) ?? {};
  const mode = statSync(temp).mode & 0o666;
  const write = (content: object) => writeAtomic(file, `${JSON.stringify(content, null, 2)}\n`, mode);
  const isReplaced = present(archive);
  try {
    if (!isReplaced) write(description);
    else if ("sha256" in previous) write({ ...description, previous });
    renameSync(temp, archive);
    if (isReplaced) write(description);
    for (const suffix of suffixes) if (suffix !== ownSuffix) removeIfThere(join(store, name + suffix));
  } catch (error) {
    throw writeError(`Cannot put ${name} into ${store}`, store, error);
  }
  return { name, archive, description, previous: undefined, size: description.size, savedAt: description.saved_at };
}

/**
 * Remove a saved environment; its description last, as an archive without one cannot be checked.
 *
 * @throws {EfError} IO
 */
export function removeSaved(store: string, { name, archive }: Saved): void {
  try {
    removeIfThere(archive);
    if (archive.endsWith(ownSuffix)) removeIfThere(descriptionOf(store, name));
  } catch (error) {
    throw writeError(`Cannot remove ${archive}`, archive, error);
  }
}
