/** What the RECORD of a package says of its files stays true when they change. */
import { createHash } from "node:crypto";
import { lstatSync, readFileSync } from "node:fs";
import { relative } from "node:path/posix";
import { type ByteString, osPath } from "../base/bytes.ts";
import { packageDirs } from "./editables.ts";
import { namesIn, unlessStorageFails } from "./reading.ts";
import { isInside, type Written } from "./replacing.ts";

const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("base64url");

/** `path,sha256=…,size`; a path with a comma or quotes stands in quotes. */
const line = /^("(?:[^"\n]|"")*"|[^",\n]*),sha256=([\w-]+),(\d+)(?=\r?$)/gm;

/**
 * RECORD files with the sums and sizes of files that are to be written. A line whose sum was wrong before stays as it is.
 *
 * @see https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
 */
export function recordChanges(root: ByteString, written: readonly Written[]): Written[] {
  if (written.length === 0) return [];
  return packageDirs(root).flatMap((dir) => {
    const byName = new Map(written.map((file) => [relative(dir, file.path), file]));
    return namesIn(`${root}/${dir}`)
      .filter((name) => name.endsWith(".dist-info"))
      .flatMap((name) => recordOf(root, `${dir}/${name}/RECORD`, byName, written));
  });
}

function recordOf(
  root: ByteString,
  path: ByteString,
  byName: ReadonlyMap<ByteString, Written>,
  written: readonly Written[],
): Written[] {
  let old: Buffer;
  try {
    if (!isInside(root, path) || !lstatSync(osPath(`${root}/${path}`)).isFile()) return [];
    old = readFileSync(osPath(`${root}/${path}`));
  } catch (error) {
    unlessStorageFails(`${root}/${path}`, error);
    return []; // conda and Debian leave it away
  }
  const changed = written.find((file) => file.path === path)?.bytes ?? old;
  const text = Buffer.from(changed).toString("latin1");
  const now = text.replace(line, (all, name: string, sum: string) => {
    const file = byName.get(name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name);
    if (!file || sum !== hashOf(file.old)) return all;
    return `${name},sha256=${hashOf(file.bytes)},${file.bytes.length}`;
  });
  return now === text ? [] : [{ path, old, bytes: Buffer.from(now, "latin1") }];
}
