/** Images of environments: what the configuration says of them, and where their files are. */
import { createHash } from "node:crypto";
import { type Stats, statSync } from "node:fs";
import { basename, join } from "node:path";
import { EfError, writeError } from "../base/errors.ts";
import { nearest } from "../base/nearest.ts";
import type { Env } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { directoryOf } from "../engine/move-what.ts";

/** An image, and every path that building, syncing and removing it touches. All are absolute. */
export interface Image {
  /** Its key in `apptainer.images`. */
  name: string;
  /** The directory of its environment below `apptainer.venv_base`. */
  venvName: string;
  /** The stored image; it need not be there. */
  sif: string;
  /** What it was built from, beside it. */
  definition: string;
  /** Who holds it may replace or remove the stored image. */
  lock: string;
  /** What the last build recorded; undefined before the first. */
  built: BuiltRecord | undefined;
}

export interface BuiltRecord {
  pythonVersion: string;
  /** Seconds since 1970. */
  at: number;
  enabled: boolean;
  /** {@link packagesSum} of what it was built of; euler-files keeps none. */
  packagesSha256: string | undefined;
}

/** Of a list of packages, in hexadecimal. */
export const packagesSum = (packages: readonly string[]): string =>
  createHash("sha256")
    .update(packages.map((each) => `${each}\n`).join(""))
    .digest("hex");

/** The copy of an image on scratch. */
export interface ScratchImage {
  dir: string;
  sif: string;
  /** Who holds it may replace or remove the copy. */
  lock: string;
}

/** Longest file name that leaves room for ef's own names beside it, in bytes. */
const longestName = 200;

/**
 * The image of that name, also before it is built.
 *
 * @throws {EfError} CONFIG_INVALID if there is no `sif_store`; UNSET_VARIABLE, BAD_ROOT; USAGE for a name that no file can have
 */
export function imageOf(config: Config, env: Env, name: string): Image {
  const store = configuredDir(config, env, "sif_store");
  const images = config.apptainer?.images ?? {};
  const record = Object.hasOwn(images, name) ? images[name] : undefined;
  const ofEf = config.ef?.apptainer?.images;
  const file = record?.sif_filename ?? `${name}.sif`;
  const venvName = record?.venv_name ?? name;
  if (record) {
    assertRecorded(file, "sif_filename", name);
    assertRecorded(venvName, "venv_name", name);
  } else assertFileName(file, "the name of an image");
  return {
    name,
    venvName,
    sif: join(store, file),
    definition: join(store, `${basename(file, ".sif")}.def`),
    lock: join(store, `.${file}.lock`),
    built: record && {
      pythonVersion: record.python_version,
      at: record.built_at,
      enabled: record.enabled,
      packagesSha256: ofEf && Object.hasOwn(ofEf, name) ? ofEf[name]?.packages_sha256 : undefined,
    },
  };
}

/** @throws {EfError} CONFIG_INVALID where a build would replace the image of another record */
export function assertAlone(config: Config, { name, sif }: Image): void {
  const file = basename(sif);
  const other = Object.entries(config.apptainer?.images ?? {}).find(
    ([key, { sif_filename }]) => key !== name && sif_filename === file,
  )?.[0];
  if (other === undefined) return;
  throw new EfError("CONFIG_INVALID", `Cannot build ${name}: ${sif} is the image of ${other} in the configuration`, {
    hint: "give one of them another sif_filename in apptainer.images: ef config edit",
    path: sif,
  });
}

/** All that were built, in the order of the configuration. @throws {EfError} as {@link imageOf} */
export const imagesOf = (config: Config, env: Env): Image[] =>
  Object.keys(config.apptainer?.images ?? {}).map((name) => imageOf(config, env, name));

/** One that was built. @throws {EfError} UNKNOWN_IMAGE naming what there is; as {@link imageOf} */
export function builtImage(config: Config, env: Env, name: string): Image {
  const known = Object.keys(config.apptainer?.images ?? {});
  if (known.includes(name)) return imageOf(config, env, name);
  const like = nearest(name, known);
  throw new EfError("UNKNOWN_IMAGE", `Cannot find an image ${JSON.stringify(name)}`, {
    hint:
      known.length === 0
        ? "none is built yet: ef apptainer build NAME"
        : `${like === undefined ? "" : `did you mean ${like}? `}there is: ${known.join(", ")}`,
  });
}

/** @throws {EfError} CONFIG_INVALID if there is no `scratch_sif_dir`; UNSET_VARIABLE, BAD_ROOT */
export function onScratch(config: Config, env: Env, { sif }: Image): ScratchImage {
  const dir = configuredDir(config, env, "scratch_sif_dir");
  return { dir, sif: join(dir, basename(sif)), lock: join(dir, `.${basename(sif)}.lock`) };
}

function configuredDir(config: Config, env: Env, field: "sif_store" | "scratch_sif_dir"): string {
  const written = config.apptainer?.[field];
  if (written) return directoryOf(written, `apptainer.${field}`, env);
  const what = field === "sif_store" ? "images are kept" : "images are synced to";
  throw new EfError("CONFIG_INVALID", `Cannot tell where ${what}: apptainer.${field} is not set`, {
    hint: `ef apptainer init asks for all of it; or: ef config set apptainer.${field} DIR`,
  });
}

/** @throws {EfError} USAGE for what is not the name of a file with room for ef's own names beside it */
export function assertFileName(name: string, what: string): void {
  const why = fileNameProblem(name);
  if (why === undefined) return;
  throw new EfError("USAGE", `Cannot use ${JSON.stringify(name)} as ${what}: ${why}`, {
    hint: "give the name of a directory below apptainer.venv_base, without a /",
  });
}

/** @throws {EfError} CONFIG_INVALID for a record that would lead elsewhere */
function assertRecorded(file: string, field: string, image: string): void {
  const why = fileNameProblem(file);
  if (why === undefined) return;
  const what = `the ${field} ${JSON.stringify(file)} of the image ${JSON.stringify(image)}`;
  throw new EfError("CONFIG_INVALID", `Cannot use ${what}: ${why}`, {
    hint: "correct or remove it in apptainer.images with: ef config edit",
  });
}

function fileNameProblem(name: string): string | undefined {
  return /^\.{0,2}$|[/\0]/.test(name)
    ? "it is not the name of a file"
    : name.includes("\uFFFD")
      ? "it is not valid UTF-8"
      : Buffer.byteLength(name) > longestName
        ? `it is longer than ${longestName} bytes`
        : undefined;
}

/**
 * Is there an image? A link that leads nowhere is none: the new one takes its place.
 *
 * @throws {EfError} EXISTS where there is a directory; IO
 */
export function existingImage(sif: string): boolean {
  let stat: Stats | undefined;
  try {
    stat = statSync(sif, { throwIfNoEntry: false });
  } catch (error) {
    throw writeError("Cannot look for the image", sif, error);
  }
  if (!stat?.isDirectory()) return stat !== undefined;
  throw new EfError("EXISTS", `Cannot build ${sif}: there is a directory of that name`, {
    hint: "move it away, or choose another apptainer.sif_store",
    path: sif,
  });
}
