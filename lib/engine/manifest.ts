/**
 * `.NAME.manifest`: what ef put on scratch, and what it was made from.
 *
 * A line of JSON (padded to 8 bytes), then columns of numbers and names, little-endian, whose places the line gives: a
 * reader takes the columns it knows, so a newer version may add some. Two checksums: one of the directory times, which is
 * all that a fresh sync reads, and one of the rest; both begin with what the line says. What is damaged or of an unknown version counts as missing: then the
 * trees are compared as if ef had never been there.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import type { ByteString } from "../base/bytes.ts";
import { crc32 } from "../base/crc.ts";
import { EfError, errnoOf, isStorageFault, reasonOf } from "../base/errors.ts";
import { randomId, writeAtomic } from "../base/files.ts";
import { oneMore } from "../base/memory.ts";
import { Tree } from "./tree.ts";

/** What was put on scratch by the last sync: the base of every three-way decision. */
export interface Base {
  /** The source as it was then; of a file that is gone there since, as it was when it was copied. */
  tree: Tree;
  /** Modification times on scratch, by row, in nanoseconds; {@link unknownTime} for what was not put there. */
  scratch: BigInt64Array;
}

/** A time that is equal to none. */
export const unknownTime = -(2n ** 63n);

/** A path below both roots ("" is the roots themselves) and the modification times it had there, in nanoseconds. */
export interface TimeEntry {
  path: ByteString;
  source: bigint;
  /** Undefined for a file at the top of the source: scratch may differ there. */
  scratch: bigint | undefined;
}

/** The part that a fresh sync reads. */
export interface Times {
  /** The id of this state, which the marker names: a marker and a manifest that do not belong together are no state. */
  run: string;
  /** Are all directories of the trees among the entries? */
  whole: boolean;
  entries: TimeEntry[];
}

interface Header extends Pick<Times, "run" | "whole"> {
  magic: string;
  version: number;
  rows: number;
  columns: Record<string, [offset: number, bytes: number]>;
  timesCrc: number;
  restCrc: number;
}

const magic = "ef-manifest";
const version = 1;
/** The line of JSON is shorter than this, in bytes. */
const headerLimit = 4096;
/** The columns that a fresh sync reads, first in the file. */
const timeColumns = ["sourceTimes", "scratchTimes", "paths"];

/** @returns the id for the marker */
export function writeManifest(file: string, times: Omit<Times, "run">, base: Base, mode = 0o644): string {
  const { run, pieces } = manifestOf(times, base);
  // Not waited for: it must not be on the disk before the files that it speaks of.
  writeAtomic(file, pieces, mode, false);
  return run;
}

/** What {@link writeManifest} writes. */
export function manifestOf({ entries, whole }: Omit<Times, "run">, base: Base): { run: string; pieces: Uint8Array[] } {
  const run = randomId();
  const { tree } = base;
  const rows = tree.length;
  const times = {
    sourceTimes: BigInt64Array.from(entries, ({ source }) => source),
    scratchTimes: BigInt64Array.from(entries, ({ scratch }) => scratch ?? unknownTime),
    paths: Buffer.from(entries.map(({ path }) => `${path}\0`).join(""), "latin1"),
  };
  const own: number[] = [];
  const several: number[] = [];
  for (let row = 0; row < rows; row++) {
    oneMore();
    if (base.scratch[row] !== tree.mtime[row]) own.push(row);
    if (tree.inode[row] !== 0) several.push(row);
  }
  const links = [...tree.links].filter(([row]) => tree.kind(row) === "link");
  const rest = {
    parent: tree.parent.subarray(0, rows),
    nameEnd: tree.nameEnd.subarray(0, rows),
    mode: tree.mode.subarray(0, rows),
    size: tree.size.subarray(0, rows),
    mtime: tree.mtime.subarray(0, rows),
    names: tree.names.subarray(0, tree.nameEnd[rows - 1] ?? 0),
    ownRows: Uint32Array.from(own),
    ownTimes: BigInt64Array.from(own, (row) => base.scratch[row] as bigint),
    inodeRows: Uint32Array.from(several),
    inodes: Uint32Array.from(several, (row) => tree.inode[row] as number),
    linkRows: Uint32Array.from(links, ([row]) => row),
    linkTexts: Buffer.from(links.map(([, text]) => `${text}\0`).join(""), "latin1"),
  };
  const first = laidOut(times, 0);
  const second = laidOut(rest, first.bytes);
  const said = { run, whole, rows, columns: { ...first.columns, ...second.columns } };
  const header: Header = {
    magic,
    version,
    ...said,
    timesCrc: crcOf(first.pieces, crcOfLine(said)),
    restCrc: crcOf(second.pieces, crcOfLine(said)),
  };
  const line = JSON.stringify(header);
  const padded = Buffer.from(`${line.padEnd(Math.ceil((line.length + 1) / 8) * 8 - 1)}\n`);
  return { run, pieces: [padded, ...first.pieces, ...second.pieces] };
}

/** Columns one after the other, each beginning at a multiple of 8 bytes, from `start` on. */
function laidOut(columns: Record<string, ArrayBufferView>, start: number) {
  const places: Header["columns"] = {};
  const pieces: Uint8Array[] = [];
  let at = start;
  for (const [name, { buffer, byteOffset, byteLength }] of Object.entries(columns)) {
    places[name] = [at, byteLength];
    const padding = -byteLength & 7;
    pieces.push(new Uint8Array(buffer, byteOffset, byteLength), new Uint8Array(padding));
    at += byteLength + padding;
  }
  return { columns: places, pieces, bytes: at };
}

const crcOf = (pieces: readonly Uint8Array[], before: number) =>
  pieces.reduce((crc, piece) => crc32(piece, crc), before);

/** Of what the line says: a damaged place of a column would be a wrong table. */
const crcOfLine = ({ run, whole, rows, columns }: Pick<Header, "run" | "whole" | "rows" | "columns">) =>
  crc32(Buffer.from(JSON.stringify([run, whole, rows, columns])));

/** Read what a fresh sync needs; undefined if it is missing, damaged or of another version. */
export function readTimes(file: string): Times | undefined {
  return reading(file, (read) => {
    const found = headerOf(read);
    if (!found) return undefined;
    const { header, start } = found;
    const [from, to] = extent(header, timeColumns);
    const bytes = read(start + from, to - from);
    if (!bytes || crc32(bytes, crcOfLine(header)) !== header.timesCrc) return undefined;
    const column = (name: string) => columnIn(bytes, header, name, from);
    const source = new BigInt64Array(...column("sourceTimes"));
    const scratch = new BigInt64Array(...column("scratchTimes"));
    const paths = Buffer.from(...column("paths"))
      .toString("latin1")
      .split("\0");
    const entries = Array.from(source, (time, i) => ({
      path: paths[i] ?? "",
      source: time,
      scratch: scratch[i] === unknownTime ? undefined : scratch[i],
    }));
    return { run: header.run, whole: header.whole, entries };
  });
}

/**
 * Read the table of what was put there; undefined if it is missing, damaged or of another version.
 *
 * @param run the id that the marker names; any if left out
 * @throws {EfError} IO if the storage fails: taken for missing, it would be forgotten for ever what is ef's and what a job's
 */
export function readBase(file: string, run?: string): (Base & { run: string }) | undefined {
  const use = (read: Read) => {
    const found = headerOf(read);
    if (!found || (run !== undefined && found.header.run !== run)) return undefined;
    const { header, start } = found;
    const [from, to] = extent(
      header,
      Object.keys(header.columns).filter((name) => !timeColumns.includes(name)),
    );
    const bytes = read(start + from, to - from);
    if (!bytes || crc32(bytes, crcOfLine(header)) !== header.restCrc) return undefined;
    const column = (name: string) => columnIn(bytes, header, name, from);
    const tree = new Tree();
    tree.length = header.rows;
    tree.parent = new Uint32Array(...column("parent"));
    tree.nameEnd = new Uint32Array(...column("nameEnd"));
    tree.mode = new Uint32Array(...column("mode"));
    tree.size = new Float64Array(...column("size"));
    tree.mtime = new BigInt64Array(...column("mtime"));
    tree.names = new Uint8Array(...column("names"));
    tree.inode = new Uint32Array(header.rows);
    tree.first = new Uint32Array(header.rows);
    if (!tree.isSound()) return undefined;
    for (let row = header.rows - 1; row > 0; row--) tree.first[tree.parent[row] as number] = row;
    const scratch = tree.mtime.slice(0, header.rows);
    const ownTimes = new BigInt64Array(...column("ownTimes"));
    new Uint32Array(...column("ownRows")).forEach((row, i) => {
      scratch[row] = ownTimes[i] as bigint;
    });
    const inodes = new Uint32Array(...column("inodes"));
    new Uint32Array(...column("inodeRows")).forEach((row, i) => {
      tree.inode[row] = inodes[i] as number;
    });
    const texts = Buffer.from(...column("linkTexts"))
      .toString("latin1")
      .split("\0");
    new Uint32Array(...column("linkRows")).forEach((row, i) => void tree.links.set(row, texts[i] ?? ""));
    return { tree, scratch, run: header.run };
  };
  return reading(file, use, (cause) => {
    throw new EfError("IO", `Cannot read ${file}: ${reasonOf(cause)}`, {
      hint: "run it again; if it stays so, remove that file: then all on scratch that is not as at the source is kept as a job's",
      path: file,
      cause,
    });
  });
}

type Read = (offset: number, length: number) => Buffer | undefined;

/**
 * Open the file, not following a link at its end, and hand out pieces of it; undefined for whatever goes wrong.
 *
 * @param onFault what to do if it is the storage that failed. @default nothing
 */
function reading<T>(
  file: string,
  use: (read: Read) => T | undefined,
  onFault?: (error: unknown) => never,
): T | undefined {
  let fd: number;
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    return isStorageFault(error) ? onFault?.(error) : undefined;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) return undefined;
    return use((offset, length) => {
      const end = Math.min(offset + length, stat.size);
      if (end < offset) return undefined;
      const bytes = Buffer.from(new ArrayBuffer(end - offset)); // of its own: columns must begin at multiples of 8
      let at = 0;
      while (at < bytes.length) {
        const got = readSync(fd, bytes, at, bytes.length - at, offset + at);
        if (got === 0) return undefined;
        at += got;
      }
      return bytes;
    });
  } catch (error) {
    // Of a file that is open each error is the storage's; what is wrong in what was read has no number.
    return errnoOf(error) === undefined ? undefined : onFault?.(error);
  } finally {
    closeSync(fd);
  }
}

function headerOf(read: Read): { header: Header; start: number } | undefined {
  const bytes = read(0, headerLimit);
  const end = bytes?.indexOf(10) ?? -1;
  if (!bytes || end < 0) return undefined;
  const header = JSON.parse(bytes.toString("utf8", 0, end)) as Header;
  const known = header?.magic === magic && header.version === version && typeof header.run === "string";
  const counts = Number.isSafeInteger(header.rows) && header.rows > 0 && typeof header.whole === "boolean";
  return known && counts ? { header, start: end + 1 } : undefined;
}

/** From the first byte of these columns to past the last, counted from the end of the header. */
function extent(header: Header, names: readonly string[]): [from: number, to: number] {
  const places = names.map((name): [number, number] => header.columns[name] ?? [Number.NaN, Number.NaN]);
  const from = Math.min(...places.map(([at]) => at));
  const to = Math.max(...places.map(([at, bytes]) => at + bytes + (-bytes & 7)));
  if (!(from >= 0 && to >= from)) throw new Error("columns are missing");
  return [from, to];
}

/** What a typed array is made of: buffer, offset, number of elements. */
function columnIn(bytes: Buffer, header: Header, name: string, from: number): [ArrayBuffer, number, number] {
  const [at = Number.NaN, length = 0] = header.columns[name] ?? [];
  return [bytes.buffer as ArrayBuffer, bytes.byteOffset + at - from, length / elementBytes(name)];
}

const eights = new Set(["sourceTimes", "scratchTimes", "size", "mtime", "ownTimes"]);
const ones = new Set(["paths", "names", "linkTexts"]);
const elementBytes = (name: string) => (eights.has(name) ? 8 : ones.has(name) ? 1 : 4);
