/**
 * Bring one stored image to scratch: lock, look at both sides, check the room, copy, look again.
 *
 * The copy is the engine's, of one file: whole under a temporary name before it gets its own, so that at every moment the
 * name stands for nothing, the old image or the new one; whoever runs from the old one keeps it, since a rename leaves open
 * files alone. What an interrupted copy has written of a large image is gone on with.
 */
import { basename, dirname } from "node:path";
import { type ByteString, bytesOf } from "../base/bytes.ts";
import { EfError, errnoOf, reasonOf, writeError } from "../base/errors.ts";
import { present, realPath } from "../base/paths.ts";
import { walk } from "../base/steps.ts";
import { mark, span } from "../base/trace.ts";
import { sizeText } from "../base/units.ts";
import type { QuotaLeft } from "../drivers/quota.ts";
import { type BuiltinOptions, copyingBetween } from "../engine/builtin.ts";
import { settled } from "../engine/comparing.ts";
import { type Copying, copySmall, type Item, type Outcome, oneGo } from "../engine/copy-file.ts";
import { copyLarge, partNameOf } from "../engine/copy-large.ts";
import type { Sides, TransferPlan } from "../engine/engine.ts";
import { Gauge } from "../engine/gauge.ts";
import { describeHolder, type Holder, lock } from "../engine/lock.ts";
import { sameDirectory } from "../engine/roots.ts";
import { scan } from "../engine/scan.ts";
import type { Reservation, Space } from "../engine/space.ts";
import type { Storage } from "../engine/storage.ts";
import { Flag, type Kind } from "../engine/tree.ts";
import { keepBeginnings } from "./beginnings.ts";
import type { Image, ScratchImage } from "./store.ts";
import { isCopyOf, type Version } from "./whole.ts";

/** What is to be copied: one file, or none. */
export type ImagePlan = Pick<TransferPlan, "files" | "bytes" | "names">;

/** What happens while an image is worked on. */
export type ImageEvent =
  | { type: "warning"; name: string; message: string }
  | { type: "waiting"; name: string; holder: Holder | undefined /** The holder in words. */; who: string }
  | { type: "copying"; name: string; plan: ImagePlan; why: string }
  | { type: "progress"; name: string; plan: ImagePlan; bytes: number; files: number };

export interface ImageContext {
  options: BuiltinOptions;
  sides: Sides;
  space: Space;
  /** What quotas leave on scratch: asked for once, when it is first needed. */
  quotas: () => Promise<readonly QuotaLeft[]>;
  /** Make the directory on scratch; in a dry run, say whether it could be made. */
  makeDir: () => void;
  lockTimeoutS: number;
  /** Copy it though it is there, and over what ef did not put there. */
  force: boolean;
  dryRun: boolean;
  /** Check the room before the first byte. */
  preflight: boolean;
  signal: AbortSignal | undefined;
  tell: (event: ImageEvent) => void;
}

/** How it ended well. */
export interface BroughtImage {
  status: "synced" | "skipped" | "source-missing" | "dry-run";
  /** What was copied, or would be; absent where nothing was to be. */
  plan?: ImagePlan;
}

/** How often it is copied when the stored image changes meanwhile. */
const mostCopies = 2;

/**
 * @throws {EfError} EXISTS, TRANSFER_PARTIAL, NO_SPACE, LOCK_TIMEOUT, IO, BAD_ROOT; the signal's reason. What was on
 *   scratch is still there then.
 */
export async function bringImage(image: Image, scratch: ScratchImage, context: ImageContext): Promise<BroughtImage> {
  const { name } = image;
  const { dryRun, force, lockTimeoutS, signal, tell } = context;
  const stored = await lookAtStored(image, context);
  if (!stored) {
    tell({ type: "warning", name, message: `the stored image ${image.sif} does not exist; nothing to copy` });
    return { status: "source-missing" };
  }
  refuseOnePlace(image, stored, scratch);
  const why = whyCopy(stored, await lookAtCopy(scratch, context), { image, scratch, overwrite: force, anew: force });
  if (why === undefined) return { status: "skipped" };
  context.makeDir();
  if (dryRun) {
    const plan = planOf(stored, scratch);
    (await room(image, scratch, stored.size, context))?.[Symbol.dispose]();
    tell({ type: "copying", name, plan, why });
    return { status: "dry-run", plan };
  }
  // Only who writes to scratch is kept out: a build replaces the stored image by a rename, and the last look sees that.
  await using _ = await lock(scratch.lock, {
    timeoutS: lockTimeoutS,
    signal,
    onWait: (holder) => tell({ type: "waiting", name, holder, who: describeHolder(holder) }),
    onFallback: (reason) =>
      tell({ type: "warning", name, message: `flock does not work there (${reason}); a lease file is used` }),
  });
  return await copyUntilSame(image, scratch, context); // awaited here: the lock is held until then
}

/** Both sides are looked at before each copy and after the last one: another job may have done the work meanwhile. */
async function copyUntilSame(image: Image, scratch: ScratchImage, context: ImageContext): Promise<BroughtImage> {
  const { force, tell } = context;
  let plan: ImagePlan | undefined;
  for (let copies = 0; ; copies++) {
    const stored = await lookAtStored(image, context);
    if (!stored) throw sourceGone(image);
    const there = await lookAtCopy(scratch, context);
    const why = whyCopy(stored, there, { image, scratch, overwrite: force, anew: force && copies === 0 });
    if (why === undefined) return plan ? { status: "synced", plan } : { status: "skipped" };
    if (copies === mostCopies) throw keepsChanging(image, scratch);
    plan = planOf(stored, scratch);
    await copyOnce(image, scratch, { stored, there, plan, why }, context);
    if (copies > 0) tell({ type: "warning", name: image.name, message: "it changed while it was copied: copied anew" });
  }
}

const planOf = ({ size }: Version, { sif }: ScratchImage): ImagePlan => ({
  files: 1,
  bytes: size,
  names: [basename(sif)],
});

/** A file as a scan found it. */
interface Found extends Version {
  mode: number;
  hasHoles: boolean;
}

/** The stored image, and where it really is. */
interface Stored extends Found {
  dir: string;
  file: string;
}

/** A link is followed: where a store is full, its images are on another disk. */
async function lookAtStored(image: Image, { sides, signal }: ImageContext): Promise<Stored | undefined> {
  const real = stillThere(image.sif);
  if (real === undefined) return undefined;
  const [dir, file] = [dirname(real), basename(real)];
  const found = await lookAt(dir, file, { storage: sides.source, look: settled, signal });
  if (found.kind === "gone") return undefined;
  if (found.file) return { ...found.file, dir, file };
  throw new EfError("IO", `Cannot copy the image ${image.name}: ${image.sif} is not a regular file`, {
    hint: `build it anew: ef apptainer build ${image.name} --force`,
    path: image.sif,
  });
}

function stillThere(path: string): string | undefined {
  try {
    return present(path) ? realPath(path) : undefined;
  } catch (error) {
    throw new EfError("IO", `Cannot read ${path}: ${reasonOf(error)}`, { path, cause: error });
  }
}

/** What is on scratch under the name of the image, and temporary files of all images there. */
interface There {
  file: Found | undefined;
  temps: readonly ByteString[];
}

async function lookAtCopy({ dir, sif }: ScratchImage, { sides, signal }: ImageContext): Promise<There> {
  if (stillThere(dir) === undefined) return { file: undefined, temps: [] };
  const found = await lookAt(dir, basename(sif), { storage: sides.target, look: scan, signal });
  if (found.kind === "gone" || found.file) return found;
  throw new EfError("EXISTS", `Cannot copy to ${sif}: it is not a regular file, and not ef's`, {
    hint: "move it away, or remove it",
    path: sif,
  });
}

interface Looking {
  storage: Storage;
  look: typeof scan;
  signal: AbortSignal | undefined;
}

async function lookAt(
  dir: string,
  file: string,
  { storage, look, signal }: Looking,
): Promise<There & { kind: Kind; file: Found | undefined }> {
  const name = bytesOf(file);
  const exclude = (path: ByteString) => path !== name;
  const path = `${dir}/${file}`;
  const cannot = (error: unknown) => {
    signal?.throwIfAborted();
    return new EfError("IO", `Cannot read ${path}: ${reasonOf(error)}`, { path, cause: error });
  };
  const { tree, problems, temps } = await look(bytesOf(dir), { storage, gauge: new Gauge(1), signal, exclude }).catch(
    (error) => {
      throw cannot(error);
    },
  );
  const row = tree.child(0, name);
  const [problem] = problems;
  if (row === undefined || tree.kind(row) !== "file") {
    if (problem && (row === undefined || tree.kind(row) === "gone")) throw cannot(problem.error);
    return { kind: row === undefined ? "gone" : tree.kind(row), file: undefined, temps };
  }
  const [mode, size, mtimeNs] = [tree.mode[row] as number, tree.size[row] as number, tree.mtime[row] as bigint];
  return { kind: "file", file: { mode, size, mtimeNs, hasHoles: tree.has(row, Flag.sparse) }, temps };
}

interface Question {
  image: Image;
  scratch: ScratchImage;
  /** May a file be replaced that ef did not put there? */
  overwrite: boolean;
  /** Copy it though it is there. */
  anew: boolean;
}

/**
 * Why the image is to be copied; undefined if it is there.
 *
 * @throws {EfError} EXISTS for a file that is younger than the image: a copy has the time of what it was made from, and
 *   what it was made from was not younger
 */
function whyCopy(stored: Version, { file }: There, { image, scratch, overwrite, anew }: Question): string | undefined {
  if (!file) return "not on scratch";
  if (isCopyOf(stored, file)) return anew ? "forced" : undefined;
  if (file.mtimeNs <= stored.mtimeNs || overwrite) return "the stored image is another one";
  const facts = ({ size, mtimeNs }: Version) => `${sizeText(size)}, of ${dateText(mtimeNs)}`;
  throw new EfError(
    "EXISTS",
    `Cannot copy ${image.sif} (${facts(stored)}) to ${scratch.sif} (${facts(file)}): what is there is newer, and so no copy of it`,
    { hint: "--force replaces it; to keep it, move it away", path: scratch.sif },
  );
}

const dateText = (ns: bigint) =>
  `${new Date(Number(ns / 1_000_000n)).toISOString().slice(0, 19).replace("T", " ")} UTC`;

interface Copy {
  stored: Stored;
  there: There;
  plan: ImagePlan;
  why: string;
}

async function copyOnce(
  image: Image,
  scratch: ScratchImage,
  { stored, there, plan, why }: Copy,
  context: ImageContext,
): Promise<void> {
  const { name } = image;
  const { options, sides, signal, tell } = context;
  const warnings: string[] = [];
  const path = bytesOf(basename(scratch.sif));
  const item: Item = { path, from: bytesOf(stored.file), ...versionOf(stored), replaces: there.file };
  let reserved: Reservation | undefined;
  const cx = await copyingBetween(
    { source: stored.dir, target: realPath(scratch.dir), arrivalNs: undefined },
    options,
    {
      ...{ signal, sides, warnings, progress: { bytes: 0, files: 0 } },
      onProgress({ bytes, files }) {
        reserved?.used(bytes, files);
        tell({ type: "progress", name, plan, bytes, files });
      },
    },
  );
  const begun = await keepBeginnings(cx, there.temps, bytesOf(partNameOf(item)));
  reserved = await room(image, scratch, stored.size - begun, context);
  using _ = reserved;
  tell({ type: "copying", name, plan, why });
  const outcome = await span(`copy ${name}`, async () => walk(bring(cx, item, signal))).catch((error) => {
    signal?.throwIfAborted();
    throw copyError(image, scratch, error);
  });
  mark("image", { name, outcome });
  for (const message of warnings) tell({ type: "warning", name, message });
}

const versionOf = ({ mode, size, mtimeNs, hasHoles }: Found) => ({ mode, size, mtimeNs, hasHoles });

const bring = (cx: Copying, item: Item, signal: AbortSignal | undefined): Generator<Promise<unknown>, Outcome> =>
  item.size <= oneGo && !item.hasHoles ? copySmall(cx, item) : copyLarge(cx, item, signal);

const blockBytes = 4096;

/** Have the room promised for so many bytes: the old copy stays until the new one is whole. @throws {EfError} NO_SPACE */
async function room(
  { name }: Image,
  { sif }: ScratchImage,
  bytes: number,
  { preflight, space, quotas }: ImageContext,
): Promise<Reservation | undefined> {
  if (!preflight) return undefined;
  const need = { bytes: Math.ceil(Math.max(0, bytes) / blockBytes) * blockBytes, inodes: 1 };
  const left = await quotas();
  try {
    return space.reserve(name, sif, need, left);
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    const hint = "make room there, or try it all the same with --no-preflight";
    throw new EfError(error.code, error.message, { hint, path: sif, cause: error });
  }
}

/** A link in the store to the very copy on scratch: a purge of scratch would take the image. */
function refuseOnePlace(image: Image, { dir, file }: Stored, scratch: ScratchImage): void {
  if (`${dir}/${file}` !== realPath(scratch.sif) && !sameDirectory(dirname(image.sif), scratch.dir)) return;
  throw new EfError("BAD_ROOT", `Cannot copy ${image.sif} to ${scratch.sif}: both are the same file`, {
    hint: "images are to be kept elsewhere than on scratch: ef config set apptainer.sif_store DIR",
    path: image.sif,
  });
}

function sourceGone({ name, sif }: Image): EfError {
  return new EfError("IO", `Cannot copy the image ${name}: ${sif} was removed meanwhile`, { path: sif });
}

function keepsChanging({ name, sif }: Image, scratch: ScratchImage): EfError {
  return new EfError(
    "TRANSFER_PARTIAL",
    `Cannot copy the image ${name} to ${scratch.sif}: it, or ${sif}, changed each time while it was copied`,
    { hint: "wait until what writes there is done, then run it again", path: scratch.sif },
  );
}

function copyError({ sif }: Image, scratch: ScratchImage, error: unknown): unknown {
  const what = `Cannot copy ${sif} to ${scratch.sif}`;
  const known = writeError(what, scratch.sif, error);
  if (known instanceof EfError && known.hint !== undefined) return known;
  return new EfError("IO", `${what}: ${reasonOf(error)}`, {
    hint: hints[errnoOf(error) ?? ""],
    path: scratch.sif,
    cause: error,
  });
}

const mayNot = "may you write to that directory on this node?";
const hints: Record<string, string> = {
  ...{ EROFS: mayNot, EACCES: mayNot, EPERM: mayNot },
  ENOENT: "something removes files there, as a purge does; run it again",
  ESTALE: "something changed there on another node; run it again",
};
