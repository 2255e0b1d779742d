/**
 * Packages as bytes: the same input makes the same archive, wherever and whenever.
 *
 * Why it is deterministic: entries are in the order of their paths, with one fixed time and no owner; the compressor is JavaScript of a
 * pinned version, so no runtime's zlib has a say; texts are JSON with sorted keys.
 *
 * @see https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
 */
import { createHash } from "node:crypto";
import { chmodSync, closeSync, constants, fstatSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { unzipSync, type Zippable, zipSync } from "fflate";
import * as v from "valibot";
import { EfError, reasonOf } from "../base/errors.ts";
import { sizeText } from "../base/units.ts";
import type { PackageFile } from "./analysis.ts";
import mainText from "./main.py" with { type: "text" };
import type { PackageMetadata } from "./package.ts";
import runText from "./run.py" with { type: "text" };

/** What a zip archive of this kind can hold at most, in bytes. */
const mostBytes = 2 ** 31 - 2 ** 20;
/** Larger files are weights, images, archives: compressing them takes long and gains nothing. */
const storedFromBytes = 16 << 20;

/** Metadata without what is counted here. */
export type Contents = Omit<PackageMetadata, "package_id" | "files">;

export interface Packed {
  id: string;
  bytes: Uint8Array;
  metadata: PackageMetadata;
}

/** A file of an archive, in memory. */
interface Entry {
  content: Uint8Array;
  executable: boolean;
}

/**
 * Put files and metadata into one archive.
 *
 * @param made files that are not on a disk, by their path in the archive
 * @throws {EfError} IO if a file cannot be read, or changes meanwhile; NOT_PACKABLE if all is too large
 */
export function packFiles(
  contents: Contents,
  files: readonly PackageFile[],
  made: Readonly<Record<string, Uint8Array>> = {},
): Packed {
  const entries = new Map<string, Entry>();
  let total = 0;
  for (const { path, source } of files) {
    const entry = readSteady(source);
    total += entry.content.length;
    if (total > mostBytes) throw tooLarge(total);
    entries.set(path, entry);
  }
  for (const [path, content] of Object.entries(made)) entries.set(path, { content, executable: false });
  const listed = [...entries.keys()].sort().map((path) => {
    const { content, executable } = entries.get(path) as Entry;
    return { path, size_bytes: content.length, sha256: sha256(content), executable };
  });
  const without = { ...contents, files: listed };
  if (contents.kind === "python") {
    entries.set("__main__.py", { content: Buffer.from(mainText), executable: false });
    entries.set(".ef/run.py", { content: Buffer.from(runText), executable: false });
  }
  const requirements = requirementsOf(contents);
  if (requirements !== "") entries.set("requirements.txt", { content: Buffer.from(requirements), executable: false });
  const id = idOf(without, entries);
  const metadata: PackageMetadata = { ...without, package_id: id };
  entries.set("metadata.json", { content: Buffer.from(canonical(metadata)), executable: false });
  return { id, bytes: zipped(entries), metadata };
}

const tooLarge = (bytes: number) =>
  new EfError(
    "NOT_PACKABLE",
    `Cannot pack ${sizeText(bytes)} or more: a package holds at most ${sizeText(mostBytes)}`,
    {
      hint: "leave data where it is and stage it with ef sync, or leave it out: --exclude PATTERN",
    },
  );

/** Read a whole file; once more if it changes meanwhile. @throws {EfError} IO */
function readSteady(path: string): Entry {
  for (let round = 0; ; round++) {
    let fd: number | undefined;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const before = fstatSync(fd, { bigint: true });
      if (!before.isFile()) throw Object.assign(new Error("it is not a regular file"), { code: "EINVAL" });
      if (before.size > BigInt(mostBytes)) throw tooLarge(Number(before.size));
      const content = readFileSync(fd);
      const after = fstatSync(fd, { bigint: true });
      const same =
        before.size === after.size && before.mtimeNs === after.mtimeNs && BigInt(content.length) === after.size;
      if (same) return { content, executable: (before.mode & 0o100n) !== 0n };
      if (round > 0) throw new Error("it is being written to");
    } catch (cause) {
      if (cause instanceof EfError) throw cause;
      throw new EfError("IO", `Cannot pack ${path}: ${reasonOf(cause)}`, { path, cause });
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }
}

/** As pip and uv read it: `numpy==2.1.0`. */
const requirementsOf = ({ dependencies }: Pick<PackageMetadata, "dependencies">): string =>
  dependencies.packages.map(({ name, version }) => `${name}${version === null ? "" : `==${version}`}\n`).join("");

/** The SHA-256 of everything: each path, whether it is executable, each byte, and what is said of them. */
function idOf(metadata: object, entries: ReadonlyMap<string, Entry>): string {
  const lines = [...entries.keys()].sort().map((path) => {
    const { content, executable } = entries.get(path) as Entry;
    return `${path}\0${executable ? "x" : "-"}\0${sha256(content)}\n`;
  });
  return sha256(Buffer.from(`${lines.join("")}\0${canonical(metadata)}`));
}

export const sha256 = (content: Uint8Array): string => createHash("sha256").update(content).digest("hex");

/** JSON with keys in order, so that equal values are equal texts. Numbers of `JSON.rawJSON` keep their digits. */
export function canonical(value: unknown): string {
  const sorted = (each: unknown): unknown => {
    if (typeof each !== "object" || each === null || Array.isArray(each) || isRaw(each)) return each;
    return Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)));
  };
  return `${JSON.stringify(value, (_, each) => sorted(each), 2)}\n`;
}

/** (ECMAScript proposal JSON.parse source text access.) */
const isRaw = (value: object): boolean =>
  (JSON as unknown as { isRawJSON?: (value: unknown) => boolean }).isRawJSON?.(value) === true;

function zipped(entries: ReadonlyMap<string, Entry>): Uint8Array {
  const files: Zippable = {};
  for (const path of [...entries.keys()].sort()) {
    const { content, executable } = entries.get(path) as Entry;
    const level = content.length >= storedFromBytes ? 0 : 6;
    // By the clock of this place: the archive holds its parts, not a moment. Unix, a regular file with its mode.
    const mode = 0o100000 | (executable ? 0o755 : 0o644);
    files[path] = [content, { level, mtime: new Date(1980, 0, 1), os: 3, attrs: mode << 16 }];
  }
  return zipSync(files);
}

const text = v.string();
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const place = v.object({ file: text, lineno: count });

/** `metadata.json`, as far as ef relies on it. */
const Metadata = v.looseObject({
  format: v.literal(1),
  package_id: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  kind: v.picklist(["python", "script"]),
  function_info: v.looseObject({ name: text, module: text, file: text, lineno: count, is_async: v.boolean() }),
  dependencies: v.looseObject({
    requires_dependencies: v.boolean(),
    requires_cluster_filesystem: v.boolean(),
    imports: v.array(v.looseObject({ module: text, ...place.entries })),
    local_modules: v.array(v.object({ module: text, path: text })),
    data_files: v.array(v.object({ path: text, size_bytes: count })),
    packages: v.array(v.object({ name: text, version: v.nullable(text) })),
  }),
  python_version: v.nullable(text),
  import_paths: v.array(text),
  working_directory: text,
  environment: v.record(text, text),
  arguments: v.object({ args: v.array(v.unknown()), kwargs: v.record(text, v.unknown()) }),
  pickle: v.boolean(),
  files: v.array(v.object({ path: text, size_bytes: count, sha256: text, executable: v.boolean() })),
  warnings: v.array(v.looseObject({ message: text, ...place.entries })),
});

/** An archive that was read and found to be whole. */
export interface Opened {
  metadata: PackageMetadata;
  entries: ReadonlyMap<string, Uint8Array>;
  sizeBytes: number;
}

/**
 * Read a package and check it: that it is one of ours, that no name leaves it, and that each file is what was packed.
 *
 * @throws {EfError} BAD_ARCHIVE; USAGE if there is no such file
 */
export function openPackage(archive: string): Opened {
  const bytes = readArchive(archive);
  const bad = (why: string, cause?: unknown) =>
    new EfError("BAD_ARCHIVE", `Cannot use the package ${archive}: ${why}`, {
      hint: "make it again with: ef pack",
      path: archive,
      cause,
    });
  let total = 0;
  let entries: Map<string, Uint8Array>;
  try {
    const unpacked = unzipSync(bytes, {
      filter({ originalSize }) {
        total += originalSize;
        if (total > mostBytes) throw new Error("what is in it is too large");
        return true;
      },
    });
    entries = new Map(Object.entries(unpacked));
  } catch (cause) {
    throw bad(`it is no zip archive, or damaged (${(cause as Error).message})`, cause);
  }
  const wrong = [...entries.keys()].find((path) => !isInside(path));
  if (wrong !== undefined) throw bad(`it has a file ${JSON.stringify(wrong)}, which leaves it`);
  const metadata = metadataOf(entries.get("metadata.json"));
  if (!metadata) throw bad("ef pack did not make it: it has no metadata.json of that form");
  for (const { path, sha256: expected } of metadata.files) {
    const content = entries.get(path);
    if (!content) throw bad(`${path} is missing`);
    if (sha256(content) !== expected) throw bad(`${path} is not what was packed`);
  }
  return { metadata, entries, sizeBytes: bytes.length };
}

function readArchive(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new EfError("USAGE", `Cannot read the package ${path}: ${reasonOf(cause)}`, { path, cause });
  }
}

/** A relative path of plain parts. */
const isInside = (path: string): boolean =>
  path !== "" && path.split("/").every((part) => part !== "" && part !== "." && part !== "..") && !/[\0\\]/.test(path);

function metadataOf(bytes: Uint8Array | undefined): PackageMetadata | undefined {
  try {
    const { success, output } = v.safeParse(Metadata, JSON.parse(Buffer.from(bytes ?? []).toString("utf8")));
    return success ? (output as unknown as PackageMetadata) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Write what is in a package below an empty directory: files 0600 or 0700, directories 0700.
 *
 * @throws {EfError} IO
 */
export function writeEntries({ metadata, entries }: Opened, dir: string): void {
  const executables = new Set(metadata.files.filter(({ executable }) => executable).map(({ path }) => path));
  for (const [path, content] of entries) {
    const to = join(dir, path);
    try {
      mkdirSync(dirname(to), { recursive: true, mode: 0o700 });
      writeFileSync(to, content, { flag: "wx", mode: 0o600 });
      if (executables.has(path)) chmodSync(to, 0o700);
    } catch (cause) {
      throw new EfError("IO", `Cannot unpack ${to}: ${reasonOf(cause)}`, { path: to, cause });
    }
  }
}
