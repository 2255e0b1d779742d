/** Which of the two copies of an image is to be used: that on scratch if it is whole, else the stored one. */
import { type BigIntStats, lstatSync, statSync } from "node:fs";
import { EfError, errnoOf, reasonOf } from "../base/errors.ts";
import type { Env } from "../base/paths.ts";
import { quote } from "../base/shell.ts";
import type { Config } from "../config/schema.ts";
import { sameTime } from "../engine/diff.ts";
import { type Image, onScratch, type ScratchImage } from "./store.ts";

/** What tells two versions of an image apart. */
export interface Version {
  /** In bytes. */
  size: number;
  mtimeNs: bigint;
}

/** Is the file on scratch a copy of the stored one? By size and modification time, as far as its file system keeps that. */
export const isCopyOf = (stored: Version, copy: Version): boolean =>
  stored.size === copy.size && sameTime(stored.mtimeNs, copy.mtimeNs);

/** What is at a path: a regular file, or why there is none. */
export type FileThere = Version | { missing: string; isAbsent: boolean };

/** The stored image; a link to one counts. */
export const storedFile = ({ sif }: Image): FileThere => fileAt(() => statSync(sif, { bigint: true }));

/** A link on scratch does not count: ef makes none. */
export const scratchFile = ({ sif }: ScratchImage): FileThere => fileAt(() => lstatSync(sif, { bigint: true }));

function fileAt(look: () => BigIntStats): FileThere {
  try {
    const stat = look();
    if (!stat.isFile()) return { missing: "it is not a regular file", isAbsent: false };
    return { size: Number(stat.size), mtimeNs: stat.mtimeNs };
  } catch (error) {
    return { missing: reasonOf(error), isAbsent: errnoOf(error) === "ENOENT" };
  }
}

/** Where the copy on scratch goes; undefined where that cannot be told, as where `$SCRATCH` is not set. */
export function scratchIfSet(config: Config, env: Env, image: Image): ScratchImage | undefined {
  try {
    return onScratch(config, env, image);
  } catch (error) {
    if (error instanceof EfError) return undefined;
    throw error;
  }
}

/** As it is typed in a shell. */
const typed = (name: string) => (/^[\w.+][\w.+-]*$/.test(name) ? name : quote("bash", name));

/** The image file to run. */
export interface BestCopy {
  path: string;
  from: "scratch" | "stored";
  /** Something is not as it should be, and this is used all the same. */
  warning?: string;
}

/**
 * The copy on scratch if it is whole, else the stored image; if that is gone, whatever is on scratch.
 *
 * @throws {EfError} IO if there is neither
 */
export function bestCopy(config: Config, env: Env, image: Image): BestCopy {
  const stored = storedFile(image);
  const scratch = scratchIfSet(config, env, image);
  const copy = scratch && scratchFile(scratch);
  const there = scratch && copy && "size" in copy ? { path: scratch.sif, ...copy } : undefined;
  if ("size" in stored) {
    if (!there) return { path: image.sif, from: "stored" };
    if (isCopyOf(stored, there)) return { path: there.path, from: "scratch" };
    const warning = `${there.path} is another version of the image, so the stored one is used; to bring it to scratch: ef apptainer sync --image ${typed(image.name)}`;
    return { path: image.sif, from: "stored", warning };
  }
  if (there) {
    const warning = `the stored image ${image.sif} cannot be used (${stored.missing}): the copy on scratch may be older`;
    return { path: there.path, from: "scratch", warning };
  }
  throw new EfError("IO", `Cannot use the image ${image.name}: ${image.sif}: ${stored.missing}`, {
    hint: stored.isAbsent
      ? `build it: ef apptainer build ${typed(image.name)}`
      : "is its file system mounted here, and may you read it?",
    path: image.sif,
  });
}
