import { join } from "node:path";
import { bytesOf } from "./base/bytes.ts";
import { EfError } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { mayBeEnvironment, venvBase } from "./envs/base.ts";
import { packagesOf } from "./envs/packages.ts";
import { type Image, imagesOf, packagesSum } from "./images/store.ts";
import { isCopyOf, scratchFile, scratchIfSet, storedFile } from "./images/whole.ts";

/** An image that was built, and what is there of it now. */
export interface ListedImage {
  name: string;
  /** Does it take part in `ef apptainer sync`? */
  enabled: boolean;
  /** As it was when the image was built, e.g. `3.11.5`. */
  pythonVersion: string;
  /** Seconds since 1970; 0 if not recorded. */
  builtAt: number;
  stored: { path: string /** Undefined if it is gone. */; bytes: number | undefined };
  /**
   * `stale`: another version than the stored one. `stored image missing`: there is a copy, and nothing to compare it with.
   * `unset`: nobody can tell where it would be, as where `$SCRATCH` is not set.
   */
  scratch: {
    path: string | undefined;
    bytes: number | undefined;
    status: "synced" | "stale" | "not-synced" | "source-missing" | "unset";
  };
  /** What it was built from; `path` is undefined where nobody can tell where it is. */
  environment: {
    name: string;
    path: string | undefined;
    isThere: boolean;
    /** Has it other packages now than the image was built of? Undefined where that is not recorded, as by euler-files. */
    hasChanged: boolean | undefined;
  };
}

export interface ApptainerListOptions {
  /** Values of `$VARS` in paths. @default process.env */
  env?: Env;
}

/**
 * Every image that was built, in the order of the configuration. Looks at a few files of each, and reads none.
 *
 * @throws {EfError} CONFIG_INVALID, UNSET_VARIABLE, BAD_ROOT
 * @example
 * const stale = apptainerList(await loadConfig()).filter(({ scratch }) => scratch.status === "stale");
 */
export const apptainerList = (config: Config, { env = process.env }: ApptainerListOptions = {}): ListedImage[] =>
  imagesOf(config, env).map((image) => ({
    name: image.name,
    enabled: image.built?.enabled ?? true,
    pythonVersion: image.built?.pythonVersion ?? "",
    builtAt: image.built?.at ?? 0,
    ...copiesOf(config, env, image),
    environment: environmentOf(config, env, image),
  }));

function copiesOf(config: Config, env: Env, image: Image): Pick<ListedImage, "stored" | "scratch"> {
  const stored = storedFile(image);
  const bytes = "size" in stored ? stored.size : undefined;
  const scratch = scratchIfSet(config, env, image);
  const listed = { path: image.sif, bytes };
  if (!scratch) return { stored: listed, scratch: { path: undefined, bytes: undefined, status: "unset" } };
  const copy = scratchFile(scratch);
  const { sif: path } = scratch;
  if (!("size" in copy)) return { stored: listed, scratch: { path, bytes: undefined, status: "not-synced" } };
  const status = !("size" in stored) ? "source-missing" : isCopyOf(stored, copy) ? "synced" : "stale";
  return { stored: listed, scratch: { path, bytes: copy.size, status } };
}

function environmentOf(config: Config, env: Env, { venvName: name, built }: Image): ListedImage["environment"] {
  try {
    const path = join(venvBase(undefined, config, env), name);
    const isThere = mayBeEnvironment(bytesOf(path));
    const sum = built?.packagesSha256;
    return {
      ...{ name, path, isThere },
      hasChanged: isThere && sum !== undefined ? sum !== packagesSum(packagesOf(path)) : undefined,
    };
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    return { name, path: undefined, isThere: false, hasChanged: undefined }; // its base is not set here
  }
}
