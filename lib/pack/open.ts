/** Packages that somebody hands us: read, checked, and unpacked. Nothing that they say of themselves is taken on trust. */
import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { unzipSync } from "fflate";
import * as v from "valibot";
import { EfError, reasonOf } from "../base/errors.ts";
import { idOf, sha256 } from "./archive.ts";
import type { PackageMetadata } from "./package.ts";
import { mostBytes } from "./zip.ts";

/** A relative path of plain parts: it cannot leave the directory that it is put in. */
const isInside = (path: string): boolean =>
  path.split("/").every((part) => part !== "" && part !== "." && part !== "..") && !path.includes("\0");

const text = v.string();
const inside = v.pipe(text, v.check(isInside, "a path that leaves the package"));
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const place = v.object({ file: text, lineno: count });

/** `metadata.json`, as far as ef relies on it. */
const Metadata = v.looseObject({
  format: v.literal(1),
  package_id: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  kind: v.picklist(["python", "script"]),
  function_info: v.looseObject({ name: text, module: text, file: inside, lineno: count, is_async: v.boolean() }),
  dependencies: v.looseObject({
    requires_dependencies: v.boolean(),
    requires_cluster_filesystem: v.boolean(),
    imports: v.array(v.looseObject({ module: text, ...place.entries })),
    local_modules: v.array(v.object({ module: text, path: text })),
    local_functions: v.array(v.object({ name: text, ...place.entries })),
    data_files: v.array(v.object({ path: text, size_bytes: count })),
    packages: v.array(v.object({ name: text, version: v.nullable(text) })),
    filesystem_calls: v.array(v.object({ function: text, ...place.entries })),
  }),
  python_version: v.nullable(text),
  import_paths: v.array(inside),
  working_directory: inside,
  environment: v.record(text, text),
  arguments: v.object({ args: v.array(v.unknown()), kwargs: v.record(text, v.unknown()) }),
  pickle: v.boolean(),
  files: v.array(v.object({ path: inside, size_bytes: count, sha256: text, executable: v.boolean() })),
  warnings: v.array(v.looseObject({ message: text, ...place.entries })),
});

/** An archive that was read and found to be whole. */
export interface Opened {
  metadata: PackageMetadata;
  entries: ReadonlyMap<string, Uint8Array>;
  sizeBytes: number;
}

/**
 * Read a package and check it: that it is one of ours, that no name leaves it, and that each byte is what was packed.
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
  let entries: Map<string, Uint8Array>;
  try {
    entries = unzip(bytes, () => true);
  } catch (cause) {
    throw bad(`it is no zip archive, or damaged (${(cause as Error).message})`, cause);
  }
  const wrong = [...entries.keys()].find((path) => !isInside(path));
  if (wrong !== undefined) throw bad(`it has a file ${JSON.stringify(wrong)}, which leaves it`);
  const written = entries.get("metadata.json");
  const metadata = metadataOf(written);
  if (!written || !metadata) throw bad("ef pack did not make it: it has no metadata.json of that form");
  const sums = new Map([...entries].map(([path, content]) => [path, sha256(content)]));
  for (const { path, sha256: expected } of metadata.files) {
    if (!sums.has(path)) throw bad(`${path} is missing`);
    if (sums.get(path) !== expected) throw bad(`${path} is not what was packed`);
  }
  if (idFrom(written, metadata, sums) !== metadata.package_id) throw bad("its id is not that of what is in it");
  return { metadata, entries, sizeBytes: bytes.length };
}

/** Of a file that may be anything: what it says it is, if it is a package; its other files are not looked at. */
export function readMetadata(archive: string): PackageMetadata | undefined {
  try {
    return metadataOf(unzip(readArchive(archive), (name) => name === "metadata.json").get("metadata.json"));
  } catch {
    return undefined;
  }
}

/** No more than a package can hold, however small it is packed; no name twice, as others may take the other one. */
function unzip(bytes: Uint8Array, isWanted: (name: string) => boolean): Map<string, Uint8Array> {
  const seen = new Set<string>();
  let total = 0;
  const unpacked = unzipSync(bytes, {
    filter({ name, originalSize }) {
      if (!isWanted(name)) return false;
      total += originalSize;
      if (total > mostBytes) throw new Error("what is in it is too large");
      if (seen.has(name)) throw new Error(`${JSON.stringify(name)} is in it twice`);
      seen.add(name);
      return true;
    },
  });
  return new Map(Object.entries(unpacked));
}

/** As it was made: of the text without the line of the id, so that numbers are compared by all their digits. */
function idFrom(written: Uint8Array, { files, package_id: id }: PackageMetadata, sums: ReadonlyMap<string, string>) {
  const executables = new Set(files.filter(({ executable }) => executable).map(({ path }) => path));
  const all = [...sums]
    .filter(([path]) => path !== "metadata.json")
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([path, sum]) => ({ path, sha256: sum, executable: executables.has(path) }));
  return idOf(Buffer.from(written).toString("utf8").replace(`\n  "package_id": "${id}",`, ""), all);
}

function readArchive(path: string): Uint8Array {
  const unreadable = (why: string, cause?: unknown) =>
    new EfError("USAGE", `Cannot read the package ${path}: ${why}`, { path, cause });
  let isFile: boolean;
  try {
    const stat = statSync(path); // first: opening a FIFO waits for its other end
    isFile = stat.isFile();
    if (isFile && stat.size <= mostBytes + 2 ** 20) return readFileSync(path);
  } catch (cause) {
    throw unreadable(reasonOf(cause), cause);
  }
  throw unreadable(isFile ? "it is too large to be one" : "it is no regular file");
}

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
  const attempt = (to: string, write: () => void) => {
    try {
      write();
    } catch (cause) {
      throw new EfError("IO", `Cannot unpack ${to}: ${reasonOf(cause)}`, { path: to, cause });
    }
  };
  for (const [path, content] of entries) {
    const to = join(dir, path);
    attempt(to, () => {
      mkdirSync(dirname(to), { recursive: true, mode: 0o700 });
      writeFileSync(to, content, { flag: "wx", mode: 0o600 });
      if (executables.has(path)) chmodSync(to, 0o700);
    });
  }
  const work = join(dir, metadata.working_directory); // it may have no file in it
  attempt(work, () => void mkdirSync(work, { recursive: true, mode: 0o700 }));
}
