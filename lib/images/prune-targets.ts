/** What goes when an image or an environment is pruned: a look, and nothing else. */
import { accessSync, constants, existsSync, lstatSync, readdirSync, readlinkSync, type Stats, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { bytesOf, display } from "../base/bytes.ts";
import { EfError, type ErrorCode, errnoOf, reasonOf } from "../base/errors.ts";
import { type Env, isWithin, realPath } from "../base/paths.ts";
import type { Config } from "../config/schema.ts";
import { mounts } from "../drivers/filesystem.ts";
import { partNameOf } from "../engine/copy-large.ts";
import { isTemp, partOf } from "../engine/names.ts";
import { leftoversOf } from "../engine/temp.ts";
import { lockFileOf, mayBeEnvironment, venvBase } from "../envs/base.ts";
import { assertFileName, type Image, imageOf, onScratch, type ScratchImage } from "./store.ts";

export const pruneModes = ["both", "venv", "sif"] as const;
/** `venv`: the environment, and the image stays. `sif`: the image, its copy on scratch and its record; the environment stays. */
export type PruneMode = (typeof pruneModes)[number];

/** Something to be deleted. */
export interface Target {
  kind: "venv" | "sif" | "def" | "scratch sif";
  path: string;
  /** Where it is a symbolic link: what that says. Only the link goes. */
  linkTo?: string;
  /** What an interrupted run has left: of an environment, or of a copy. */
  isRest?: true;
  /** Another file of the same name has another one. */
  id: string;
}

/** A lock, and what its holder does. */
export interface PruneLock {
  path: string;
  doing: string;
}

/** What a name means. */
export interface Subject {
  name: string;
  mode: PruneMode;
  /** Is there a record of it in `apptainer.images`, which goes too? */
  hasRecord: boolean;
  /** Directory of the environments; undefined if it is not to be looked at. */
  base: string | undefined;
  /** Name of the environment in it. */
  venvName: string;
  locks: PruneLock[];
  targets: Target[];
  /** What stays, and perhaps should not. */
  warnings: string[];
}

/**
 * What a name means now, and what there is of it.
 *
 * @throws {EfError} CONFIG_INVALID, UNSET_VARIABLE, BAD_ROOT, USAGE for a name that no file can have; UNKNOWN_ENV for what is
 *   no environment
 */
export function subjectOf(config: Config, env: Env, name: string, mode: PruneMode): Subject {
  const section = config.apptainer;
  if (!section) {
    throw new EfError(
      "CONFIG_INVALID",
      "Cannot tell where environments and images are: there is no section apptainer",
      {
        hint: "make one with: ef apptainer init",
      },
    );
  }
  const images = section.images ?? {};
  const record = Object.hasOwn(images, name) ? images[name] : undefined;
  const others = Object.entries(images).filter(([key]) => key !== name);
  const venvName = record?.venv_name ?? name;
  assertFileName(venvName, "the name of an environment");
  const [takesVenv, takesImage] = [mode !== "sif", mode !== "venv"];
  const warnings: string[] = [];

  const base = takesVenv ? baseOf(config, env, mode) : known(() => baseOf(config, env, mode));
  const image = takesImage ? storedImage(config, env, name, mode) : known(() => imageOf(config, env, name));
  const copy = image && scratchOf(config, env, image, takesImage ? (message) => warnings.push(message) : () => {});

  const ofVenv = takesVenv && base !== undefined ? venvTargets(base, venvName) : [];
  const sharers = others.filter(([, each]) => each.venv_name === venvName).map(([key]) => key);
  if (ofVenv.length > 0 && sharers.length > 0) {
    const were = sharers.length === 1 ? "was built from this environment, and stays" : "were built from it, and stay";
    warnings.push(`${sharers.map(shown).join(", ")} ${were}; to delete an image too: ef apptainer prune NAME`);
  }
  const sameFile = image && others.find(([, each]) => each.sif_filename === basename(image.sif))?.[0];
  const ofImage = takesImage && image && sameFile === undefined ? imageTargets(image, copy) : [];
  if (takesImage && image && sameFile !== undefined && existsSync(image.sif))
    warnings.push(`${shown(image.sif)} stays: it is the image ${shown(sameFile)}`);

  if (takesVenv && base !== undefined) warnings.push(...notThere("an environment", base));
  if (takesImage && image && record) warnings.push(...notThere("an image", dirname(image.sif)));

  const locks = [
    ...(image ? [{ path: image.lock, doing: "builds, syncs or removes the image" }] : []),
    ...(copy ? [{ path: copy.lock, doing: "replaces its copy on scratch" }] : []),
    ...(base === undefined ? [] : [{ path: lockFileOf(base, venvName), doing: "changes the environment" }]),
  ].filter(({ path }, i, all) => existsSync(dirname(path)) && all.findIndex((each) => each.path === path) === i);
  const hasRecord = takesImage && record !== undefined;
  return { name, mode, hasRecord, base, venvName, locks, targets: [...ofVenv, ...ofImage], warnings };
}

const shown = (text: string) => display(bytesOf(text));

/** Who prunes where a file system is not mounted would think that all is gone. */
const notThere = (what: string, dir: string): string[] =>
  existsSync(dir)
    ? []
    : [`${what} may be left: ${shown(dir)} does not exist; is its file system mounted on this node?`];

/** What cannot be told is not looked at. */
function known<T>(find: () => T): T | undefined {
  try {
    return find();
  } catch (error) {
    if (error instanceof EfError || errnoOf(error) !== undefined) return undefined;
    throw error;
  }
}

/** $VENV_DIR does not count: what is deleted is what the configuration names. */
function baseOf(config: Config, env: Env, mode: PruneMode): string | undefined {
  if (config.apptainer?.venv_base) return venvBase(undefined, config, env);
  if (mode !== "venv") return undefined;
  throw new EfError("CONFIG_INVALID", "Cannot tell where environments are kept: apptainer.venv_base is not set", {
    hint: "say where they are: ef config set apptainer.venv_base DIR",
  });
}

const storedImage = (config: Config, env: Env, name: string, mode: PruneMode): Image | undefined =>
  mode === "both" && !config.apptainer?.sif_store ? undefined : imageOf(config, env, name);

function scratchOf(config: Config, env: Env, image: Image, warn: (message: string) => void): ScratchImage | undefined {
  if (!config.apptainer?.scratch_sif_dir) return undefined;
  try {
    const copy = onScratch(config, env, image);
    return realPath(copy.dir) === realPath(dirname(image.sif)) ? undefined : copy;
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    warn(`a copy on scratch may be left: ${error.message}`);
    return undefined;
  }
}

function venvTargets(base: string, name: string): Target[] {
  const path = join(base, name);
  const target = targetAt("venv", path, "isDirectory");
  const isEnv = target && (mayBeEnvironment(bytesOf(path)) || (target.linkTo !== undefined && !existsSync(path)));
  if (target && !isEnv) throw notOurs(path, "it has no pyvenv.cfg, so it is no Python environment", "UNKNOWN_ENV");
  const rests = existsSync(base) ? leftoversOf(tempPrefixOf(base, name)) : [];
  const left = rests.flatMap((rest) => targetAt("venv", rest, "isDirectory") ?? []);
  return [...(target ? [target] : []), ...left.map((each): Target => ({ ...each, isRest: true }))];
}

function imageTargets(image: Image, copy: ScratchImage | undefined): Target[] {
  const begun = copy ? beginnings(copy).flatMap((path) => targetAt("scratch sif", path, "isFile") ?? []) : [];
  return [
    targetAt("sif", image.sif, "isFile"),
    targetAt("def", image.definition, "isFile"),
    copy && targetAt("scratch sif", copy.sif, "isFile"),
    ...begun.map((each): Target => ({ ...each, isRest: true })),
  ].filter((target) => target !== undefined);
}

/** What interrupted copies of any version of the image have left for the next one. */
function beginnings({ dir, sif }: ScratchImage): string[] {
  const any = partOf(partNameOf({ path: bytesOf(basename(sif)), size: 0, mtimeNs: 0n, mode: 0 }));
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((name) => isTemp(name) && partOf(name) === any)
    .map((name) => join(dir, name));
}

/** @throws {EfError} for something of another kind, which ef has not made; IO if it cannot be told */
function targetAt(kind: Target["kind"], path: string, is: "isFile" | "isDirectory"): Target | undefined {
  let stat: Stats | undefined;
  try {
    stat = lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw new EfError("IO", `Cannot look at ${shown(path)}: ${reasonOf(error)}`, { path, cause: error });
  }
  if (!stat) return undefined;
  const id = `${stat.dev}:${stat.ino}`;
  if (stat.isSymbolicLink()) return { kind, path, linkTo: readlinkSync(path), id };
  if (stat[is]()) return { kind, path, id };
  const why = is === "isFile" ? "it is no regular file" : "it is no directory";
  throw notOurs(path, why, kind === "venv" ? "UNKNOWN_ENV" : "BAD_ROOT");
}

const notOurs = (path: string, why: string, code: ErrorCode) =>
  new EfError(code, `Cannot prune ${shown(path)}: ${why}`, {
    hint: "nothing was deleted; if it is of no use, remove it yourself; --mode sif or --mode venv prunes only the other one",
    path,
  });

/** Most bytes that a name keeps in the name of a temporary directory, which has this host's name too. */
const longestPart = 120;

/** What environments are called while they are being deleted, without host, process and random part. */
export function tempPrefixOf(base: string, name: string): string {
  const part = Buffer.from(name)
    .subarray(0, longestPart)
    .toString("utf8")
    .replace(/\uFFFD+$/, "");
  return join(base, `.${part}.tmp-`);
}

/**
 * Can all of it be deleted, and the record removed? Asked before anything is.
 *
 * @param configFile where the record stands
 * @throws {EfError} USAGE for the environment that this shell uses, IO
 */
export function assertDeletable({ targets, hasRecord }: Subject, configFile: string, env: Env): void {
  const { VIRTUAL_ENV: active } = env;
  for (const { kind, path, linkTo } of targets) {
    if (kind === "venv" && active && isSame(active, path)) {
      throw new EfError("USAGE", `Cannot delete the environment ${shown(path)}: this shell uses it`, {
        hint: "leave it first with: deactivate",
        path,
      });
    }
    assertRemovable(path);
    if (kind !== "venv" || linkTo !== undefined) continue;
    if (lstatSync(path).uid !== process.geteuid?.()) assertWritable(path, path);
    const inside = mounts().find(({ point }) => isWithin(point, realPath(path)));
    if (inside) {
      const message = `Cannot delete ${shown(path)}: a file system (${inside.type}) is mounted at ${shown(inside.point)}`;
      throw new EfError("IO", message, { hint: "unmount it first; nothing was deleted", path });
    }
  }
  if (hasRecord) assertRemovable(realPath(configFile));
}

/** In a sticky directory only the owner of a file may remove it, or that of the directory. */
function assertRemovable(path: string): void {
  const dir = dirname(path);
  assertWritable(dir, path);
  const [me, { mode, uid }, file] = [process.geteuid?.(), statSync(dir), lstatSync(path, { throwIfNoEntry: false })];
  if (me === 0 || !(mode & 0o1000) || uid === me || !file || file.uid === me) return;
  throw new EfError("IO", `Cannot delete ${shown(path)}: it belongs to uid ${file.uid}, and ${shown(dir)} is sticky`, {
    hint: "nothing was deleted; ask its owner to delete it",
    path,
  });
}

function isSame(active: string, path: string): boolean {
  return active === path || known(() => realPath(active)) === realPath(path);
}

function assertWritable(dir: string, path: string): void {
  try {
    accessSync(dir, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new EfError(
      "IO",
      `Cannot ${dir === path ? "delete" : "change"} ${shown(path)}: ${shown(dir)}: ${reasonOf(error)}`,
      {
        hint: "nothing was deleted; check who owns that directory, and whether you may write to it here",
        path,
        cause: error,
      },
    );
  }
}
