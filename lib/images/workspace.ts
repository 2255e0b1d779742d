/** Where an image is put together: on this node's own disk, as that is fast and builds fail on network file systems. */
import { accessSync, constants, realpathSync, statSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { EfError, reasonOf } from "../base/errors.ts";
import { type Env, expandPath } from "../base/paths.ts";
import { sizeText } from "../base/units.ts";
import { mountOf, mounts } from "../drivers/filesystem.ts";
import { freeSpace } from "../engine/space.ts";
import { removeLeftovers, type tempDirFor } from "../engine/temp.ts";
import { tempDirIn } from "../envs/temp-dir.ts";

const nameStart = ".ef-image-";

/**
 * Directories to try, the best first: the one that was asked for, and no other; else this node's own, and last `fallback`.
 *
 * @param asked `--tmpdir` or `ef.apptainer.tmpdir`
 * @throws {EfError} CONFIG_INVALID if what was asked for is no directory to write to
 */
export function workDirs(asked: string | undefined, env: Env, fallback: string): string[] {
  if (asked !== undefined) {
    const path = expandPath(asked, env, "ef.apptainer.tmpdir");
    const why = isAbsolute(path) ? whyNot(path) : "it is not an absolute path";
    if (why === undefined) return [path];
    throw new EfError("CONFIG_INVALID", `Cannot build in ${path}: ${why}`, {
      hint: "give another directory: --tmpdir DIR, or ef config set ef.apptainer.tmpdir DIR",
      path,
    });
  }
  const own = [env.APPTAINER_TMPDIR, env.SLURM_TMPDIR, env.TMPDIR, "/tmp"].flatMap((dir) =>
    dir && isAbsolute(dir) && whyNot(dir) === undefined ? [dir] : [],
  );
  return [...new Set([...own, fallback])];
}

function whyNot(dir: string): string | undefined {
  try {
    accessSync(dir, constants.W_OK | constants.X_OK);
    return statSync(dir).isDirectory() ? whyNotByMount(realpathSync(dir)) : "it is not a directory";
  } catch (error) {
    return reasonOf(error);
  }
}

/** What Apptainer refuses to build in. */
function whyNotByMount(dir: string): string | undefined {
  const mount = mountOf(dir, mounts());
  if (mount?.options.includes("noexec"))
    return `${mount.point} is mounted noexec, and programs of the image run there while it is built`;
  return /\s/.test(mount?.point ?? "") ? "Apptainer does not find a mount point with a space in its name" : undefined;
}

/** A directory of our own, removed when disposed; what killed runs left there goes first. @throws {EfError} NO_SPACE, IO */
export function workIn(dir: string): ReturnType<typeof tempDirFor> {
  const prefix = join(dir, `${nameStart}${process.geteuid?.() ?? 0}.tmp-`);
  removeLeftovers(prefix);
  return tempDirIn(dir, prefix);
}

/**
 * A build holds the archive and what is unpacked from it, besides the base image, whose size nobody tells before.
 *
 * @param contentBytes of the environment
 * @throws {EfError} NO_SPACE
 */
export function assertRoom(dir: string, contentBytes: number): void {
  const { bytes } = freeSpace(dir);
  const need = 2 * contentBytes;
  if (bytes === undefined || bytes >= need) return;
  throw new EfError(
    "NO_SPACE",
    `Cannot build in ${dir}: it needs at least ${sizeText(need)}, ${sizeText(bytes)} are left`,
    {
      hint: "give a larger directory that only this node has: --tmpdir DIR",
      path: dir,
    },
  );
}
