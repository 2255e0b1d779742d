/**
 * Packages as bytes: the same input makes the same archive, wherever and whenever.
 *
 * Entries are in the order of their paths, texts are JSON with sorted keys, and the rest is in zip.ts.
 */
import { createHash } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { EfError, reasonOf } from "../base/errors.ts";
import { humanCount, sizeText } from "../base/units.ts";
import type { PackageFile } from "./analysis.ts";
import mainText from "./main.py" with { type: "text" };
import type { PackageMetadata } from "./package.ts";
import runText from "./run.py" with { type: "text" };
import { mostBytes, mostEntries, type ZipEntry, zipArchive, zipEntry } from "./zip.ts";

/** Metadata without what is counted here. */
export type Contents = Omit<PackageMetadata, "package_id" | "files">;

export interface Packed {
  id: string;
  /** One after the other. */
  pieces: readonly Uint8Array[];
  sizeBytes: number;
  metadata: PackageMetadata;
}

/** What the id and `metadata.json` say of a file. */
type Listed = PackageMetadata["files"][number];

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
  const known = new Map<string, { entry: ZipEntry; listed: Listed }>();
  let total = 0;
  const add = (path: string, content: Uint8Array, executable: boolean) => {
    total += content.length;
    if (total > mostBytes) throw tooLarge(`${sizeText(total)} or more: a package holds at most ${sizeText(mostBytes)}`);
    if (known.size >= mostEntries)
      throw tooLarge(`${humanCount(known.size)} files or more: a package holds at most so many`);
    const listed = { path, size_bytes: content.length, sha256: sha256(content), executable };
    known.set(path, { entry: zipEntry(path, content, executable), listed });
  };
  for (const { path, source } of files) {
    const { content, executable } = readSteady(source);
    add(path, content, executable);
  }
  for (const [path, content] of Object.entries(made)) add(path, content, false);
  const without = { ...contents, files: sorted(known).map(({ listed }) => listed) };
  for (const [path, content] of Object.entries(ownFiles(contents))) add(path, Buffer.from(content), false);
  const all = sorted(known).map(({ listed }) => listed);
  const id = idOf(canonical(without), all);
  const metadata: PackageMetadata = { ...without, package_id: id };
  add("metadata.json", Buffer.from(canonical(metadata)), false);
  const pieces = zipArchive(sorted(known).map(({ entry }) => entry));
  return { id, pieces, sizeBytes: pieces.reduce((sum, { length }) => sum + length, 0), metadata };
}

const sorted = <T>(byPath: ReadonlyMap<string, T>): T[] =>
  [...byPath].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, each]) => each);

/** What a package has besides the user's files. */
function ownFiles(contents: Contents): Record<string, string> {
  const requirements = requirementsOf(contents);
  return {
    ...(contents.kind === "python" ? { "__main__.py": mainText, ".ef/run.py": runText } : {}),
    ...(requirements === "" ? {} : { "requirements.txt": requirements }),
  };
}

const tooLarge = (why: string) =>
  new EfError("NOT_PACKABLE", `Cannot pack ${why}`, {
    hint: "leave data where it is and stage it with ef sync, or leave it out: --exclude PATTERN",
  });

/** Read a whole file; once more if it changes meanwhile. @throws {EfError} IO */
function readSteady(path: string): { content: Uint8Array; executable: boolean } {
  for (let round = 0; ; round++) {
    let fd: number | undefined;
    try {
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const before = fstatSync(fd, { bigint: true });
      if (!before.isFile()) throw new Error("it is not a regular file");
      if (before.size > BigInt(mostBytes))
        throw tooLarge(`${path}, ${sizeText(Number(before.size))}: a package holds at most ${sizeText(mostBytes)}`);
      const content = readFileSync(fd);
      const after = fstatSync(fd, { bigint: true });
      const isSame = before.size === after.size && before.mtimeNs === after.mtimeNs;
      if (isSame && BigInt(content.length) === after.size)
        return { content, executable: (before.mode & 0o100n) !== 0n };
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
const requirementsOf = ({ dependencies }: Contents): string =>
  dependencies.packages.map(({ name, version }) => `${name}${version === null ? "" : `==${version}`}\n`).join("");

/**
 * The SHA-256 of everything: each path, whether it is executable, each byte, and what is said of them.
 *
 * @param text `metadata.json` without the id
 * @param files all of the archive but that, in the order of their paths
 */
export function idOf(text: string, files: readonly Omit<Listed, "size_bytes">[]): string {
  const lines = files.map(({ path, executable, sha256: sum }) => `${path}\0${executable ? "x" : "-"}\0${sum}\n`);
  return sha256(Buffer.from(`${lines.join("")}\0${text}`));
}

export const sha256 = (content: Uint8Array): string => createHash("sha256").update(content).digest("hex");

/**
 * JSON with keys in order, so that equal values are equal texts; within `arguments` as they were given, since Python keeps that order.
 * Numbers of `JSON.rawJSON` keep their digits.
 */
export const canonical = (value: unknown): string => `${JSON.stringify(inOrder(value), null, 2)}\n`;

function inOrder(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inOrder);
  if (typeof value !== "object" || value === null || isRaw(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, each]) => [key, key === "arguments" ? each : inOrder(each)]));
}

/** (ECMAScript proposal JSON.parse source text access.) */
const isRaw = (value: object): boolean =>
  (JSON as unknown as { isRawJSON?: (value: unknown) => boolean }).isRawJSON?.(value) === true;
