/** Packages that are installed as a link to their sources, which may lie anywhere. */
import { existsSync, readFileSync } from "node:fs";
import { type ByteString, display, osPath } from "../base/bytes.ts";
import { type Move, movePath } from "./mentions.ts";
import { fromUrl } from "./quoting.ts";
import { namesIn, unlessStorageFails } from "./reading.ts";
import type { Left } from "./relocate.ts";

/** Directories of packages, relative to the environment. */
export function packageDirs(root: ByteString): ByteString[] {
  return namesIn(`${root}/lib`)
    .map((name) => `lib/${name}/site-packages`)
    .filter((path) => /^lib\/(?:python|pypy)/.test(path) && existsSync(osPath(`${root}/${path}`)));
}

/**
 * Sources that lie outside of the environment: they do not move with it.
 *
 * @param root where the environment is now
 * @param to where it will be: what lies below is inside
 * @param moves what the files will say once they are changed
 */
export function editablesOutside(root: ByteString, to: ByteString, moves: readonly Move[]): Left[] {
  const found: { path: ByteString; name: string; target: ByteString }[] = [];
  const add = (path: ByteString, name: string, said: ByteString) => {
    const target = movePath(said, moves) ?? said;
    const isInside = movePath(target, [{ from: to, to }]) !== undefined || target.startsWith(`${root}/`);
    const isTold = found.some((one) => target === one.target || target.startsWith(`${one.target}/`));
    if (target.startsWith("/") && !isInside && !isTold) found.push({ path, name, target });
  };
  for (const dir of packageDirs(root)) {
    const names = namesIn(`${root}/${dir}`);
    const infos = names.filter((name) => name.endsWith(".dist-info"));
    for (const info of infos) {
      const path = `${dir}/${info}/direct_url.json`;
      const target = editableTarget(readText(`${root}/${path}`));
      if (target !== undefined) add(path, info.replace(/-[^-]*\.dist-info$/, ""), target);
    }
    for (const name of names.filter((each) => /\.(?:pth|egg-link)$/.test(each))) {
      const path = `${dir}/${name}`;
      const of = name.replace(/^__editable__\.|(?:-\d.*)?\.(?:pth|egg-link)$/g, "");
      for (const line of (readText(`${root}/${path}`) ?? "").split(/\r?\n/)) add(path, of, line.trimEnd());
    }
  }
  return found.map(({ path, name, target }) => {
    const what = `editable ${display(name)} points to ${display(target)}`;
    return existsSync(osPath(target))
      ? { path, why: `${what}, outside of the environment`, isThere: true }
      : { path, why: `${what}, which is not here` };
  });
}

function readText(path: ByteString): ByteString | undefined {
  try {
    return readFileSync(osPath(path), "latin1");
  } catch (error) {
    unlessStorageFails(path, error);
    return undefined;
  }
}

/** The directory that direct_url.json names, if the package is editable (PEP 610). */
function editableTarget(text: ByteString | undefined): ByteString | undefined {
  if (text === undefined) return undefined;
  try {
    const { url, dir_info: info } = JSON.parse(text);
    if (info?.editable !== true || typeof url !== "string" || !url.startsWith("file://")) return undefined;
    return fromUrl(url.replace(/^file:\/\/(?:localhost)?/, ""));
  } catch {
    return undefined;
  }
}
