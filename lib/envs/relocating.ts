/** An environment that was moved: its files are made to name the place where it is now. */
import { lstatSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { basename, dirname } from "node:path/posix";
import { type ByteString, bytesOf, display, osPath } from "../base/bytes.ts";
import { errnoOf, reasonOf } from "../base/errors.ts";
import { type Libc, libc } from "../drivers/libc.ts";
import { editablesOutside, packageDirs } from "./editables.ts";
import { movePath, namesOld, orderMoves } from "./mentions.ts";
import { oldPlaces } from "./old-places.ts";
import { linkText, namesIn, unlessStorageFails } from "./reading.ts";
import { recordChanges } from "./records.ts";
import { type Change, isCompiled, type Left, type Move, relocateFile } from "./relocate.ts";
import { changing, isInside, replaceFile, replaceLink, type Written } from "./replacing.ts";
import { search, searchTerms } from "./searching.ts";

export { oldPlaces } from "./old-places.ts";
export type { Change, Left, Move } from "./relocate.ts";
export { searchTerms } from "./searching.ts";

export interface RelocationReport {
  /** Where it has been. */
  from: ByteString[];
  to: ByteString;
  changed: Change[];
  /** What names an old place, or what is not here, and could not be changed. */
  left: Left[];
  /** `.pyc` files that name an old place: Python mends that when it imports them. */
  compiled: number;
}

/** How many files and links are not what they were. */
export const changedFiles = ({ changed }: RelocationReport): number => new Set(changed.map(({ path }) => path)).size;

export interface RelocateOptions {
  /** Where it will be in the end. @default the real path of the directory */
  to?: string;
  /** Where it has been. @default what {@link oldPlaces} finds */
  from?: readonly ByteString[];
  /** What else has moved, as the directory that holds all environments. */
  moves?: readonly Move[];
  /**
   * Files and links known to name an old place, relative; those that environments are known to have are looked at besides.
   * @default every file is read
   */
  mentions?: readonly ByteString[];
  signal?: AbortSignal;
}

/** Larger texts are not changed: none of the tools that make environments writes one. */
const mostBytes = 256 << 20;

/**
 * Make the files of an environment name the place where it is, or will be. Links are never followed out of it; a file is
 * replaced as a whole, so that one which a package cache shares (hard links) stays what it was there; modes and times
 * stay. Safe to repeat, also after a run that was interrupted.
 *
 * @param dir where it is now
 * @throws {EfError} IO if something cannot be written, or the storage hides something; the signal's reason
 * @example
 * const { left } = await relocateEnv("/scratch/me/env");
 */
export async function relocateEnv(
  dir: string,
  options: RelocateOptions & { /** Report the same, and write nothing. */ dryRun?: boolean } = {},
): Promise<RelocationReport> {
  const { root, report, ...plan } = await planRelocation(dir, options);
  if (!options.dryRun) carryOut(root, plan, await libc());
  return report;
}

/** What is to change, and nothing written. */
export interface Relocation extends Plan {
  root: ByteString;
  report: RelocationReport;
}

/** What {@link relocateEnv} would do. */
export async function planRelocation(dir: string, options: RelocateOptions): Promise<Relocation> {
  const { signal } = options;
  const root = realpathSync(osPath(bytesOf(dir)), { encoding: "latin1" });
  const to = options.to === undefined ? root : bytesOf(options.to).replace(/(?<=.)\/+$/, "");
  const places = options.from ?? oldPlaces(dir);
  const from = [...new Set(places)].filter((place) => place !== to);
  const moves = orderMoves([...from.map((place) => ({ from: place, to })), ...(options.moves ?? []), { from: to, to }]);
  const report: RelocationReport = { from, to, changed: [], left: [], compiled: 0 };
  const plan: Relocation = { root, report, files: [], links: [], stale: [] };
  if (moves.length > 0) {
    const { files: found, links } = await candidates(root, moves, options, report);
    const written: Written[] = [];
    const mentioned = new Set(options.mentions);
    const compiled = new Set<ByteString>();
    for (const path of inOrder(found)) {
      signal?.throwIfAborted();
      const { bytes: old, why } = readInside(root, path, mentioned.has(path));
      if (why !== undefined) report.left.push({ path, why });
      if (old === undefined) continue;
      if (isCompiled(path)) {
        if (namesOld(old.toString("latin1"), moves) !== undefined) compiled.add(path);
        continue;
      }
      const { bytes, changes, left } = relocateFile(path, old, moves);
      for (const what of changes) report.changed.push({ path, what });
      for (const reason of left) report.left.push({ path, why: reason });
      if (bytes !== old) written.push({ path, old, bytes });
    }
    const records = recordChanges(root, written);
    const recorded = new Set(records.map(({ path }) => path));
    plan.files = [...records, ...written.filter(({ path }) => !recorded.has(path))];
    plan.links = links.flatMap(([path, text]) => {
      const now = movePath(text, moves);
      return now === undefined || now === text ? [] : [{ path, text: now }];
    });
    for (const { path } of plan.links) report.changed.push({ path, what: "link" });
    plan.stale = staleCompiled(root, written);
    for (const path of plan.stale) {
      compiled.delete(path);
      report.changed.push({ path, what: "compiled, removed" });
    }
    report.compiled = compiled.size;
  }
  const moved = new Map(plan.links.map(({ path, text }) => [path, text]));
  report.left.push(...editablesOutside(root, to, moves), ...brokenInterpreters(root, to, moved));
  return plan;
}

interface Candidates {
  files: ByteString[];
  links: [path: ByteString, text: ByteString][];
}

async function candidates(
  root: ByteString,
  moves: readonly Move[],
  { mentions, signal }: RelocateOptions,
  report: RelocationReport,
): Promise<Candidates> {
  if (mentions) {
    const paths = [...namesIn(root), ...namesIn(`${root}/bin`).map((name) => `bin/${name}`), ...mentions];
    const links = [...new Set(paths)].flatMap((path): [ByteString, ByteString][] => {
      const text = linkText(`${root}/${path}`);
      return text === undefined || !isInside(root, path) ? [] : [[path, text]];
    });
    return { files: [...new Set([...mentions, ...knownFiles(root)])], links };
  }
  const old = moves.filter(({ from, to }) => from !== to).map(({ from }) => from);
  const { files, links, problems } = await search(root, searchTerms(old), signal);
  for (const { path, error } of problems) {
    unlessStorageFails(`${root}/${path}`, error);
    report.left.push({ path, why: `it cannot be read: ${reasonOf(error)}` });
  }
  return { files: [...new Set([...files, ...knownFiles(root)])], links };
}

/** Files that name the place of an environment, in quotes or escapes of their own. */
function knownFiles(root: ByteString): ByteString[] {
  const within = (dir: ByteString, wanted: RegExp) =>
    namesIn(`${root}/${dir}`)
      .filter((name) => wanted.test(name))
      .map((name) => `${dir}/${name}`);
  return [
    "pyvenv.cfg",
    ...within("bin", /^/).filter((path) => isSmall(`${root}/${path}`)),
    ...within("share/jupyter/kernels", /^/).map((dir) => `${dir}/kernel.json`),
    ...packageDirs(root).flatMap((dir) => [
      ...within(dir, /\.(?:pth|egg-link)$|^__editable__.*\.py$/),
      ...within(dir, /\.dist-info$/).map((info) => `${info}/direct_url.json`),
    ]),
  ];
}

/** Does relocation look at a file of this name, whatever is in it: those that environments are known to have, and RECORD? */
export const isRelocated = (path: ByteString): boolean =>
  /^(?:pyvenv\.cfg|bin\/[^/]+|share\/jupyter\/kernels\/[^/]+\/kernel\.json)$/.test(path) ||
  /^lib\/[^/]+\/site-packages\/(?:[^/]+\.(?:pth|egg-link)|__editable__[^/]*\.py|[^/]+\.dist-info\/(?:RECORD|direct_url\.json))$/.test(
    path,
  );

/** Scripts are small: a large program is read only if it is known to name an old place. */
const isSmall = (path: ByteString): boolean => {
  const stat = lstatSync(osPath(path), { throwIfNoEntry: false });
  return stat !== undefined && stat.size <= 1 << 20;
};

/** What tells where the environment has been comes last: a run that is interrupted can then be repeated. */
function inOrder(files: readonly ByteString[]): ByteString[] {
  const rank = (path: ByteString) =>
    path === "pyvenv.cfg" || path === "bin/activate" ? 2 : path.startsWith("bin/") ? 1 : 0;
  return [...files].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0));
}

/**
 * A regular file of the environment; nothing where there is none, or why not.
 *
 * @param isKnown it was there a moment ago
 */
function readInside(root: ByteString, path: ByteString, isKnown: boolean): { bytes?: Buffer; why?: string } {
  const full = osPath(`${root}/${path}`);
  try {
    const stat = lstatSync(full, { throwIfNoEntry: isKnown });
    if (!stat?.isFile() || !isInside(root, path)) return {};
    return stat.size > mostBytes ? { why: "it is too large to be changed" } : { bytes: readFileSync(full) };
  } catch (error) {
    unlessStorageFails(`${root}/${path}`, error, isKnown);
    return errnoOf(error) === "ENOTDIR" ? {} : { why: `it cannot be read: ${reasonOf(error)}` };
  }
}

interface Plan {
  /** RECORD files first: after an interruption a file can still be made what they say, not the other way round. */
  files: readonly Written[];
  links: readonly { path: ByteString; text: ByteString }[];
  stale: readonly ByteString[];
}

function carryOut(root: ByteString, { files, links, stale }: Plan, calls: Libc | undefined): void {
  const at = (path: ByteString, work: (full: ByteString) => void) =>
    changing(root, path, () => work(`${root}/${path}`));
  for (const path of stale) at(path, (full) => rmSync(osPath(full), { force: true }));
  for (const { path, text } of links) at(path, (full) => replaceLink(full, text));
  for (const { path, bytes } of files) at(path, (full) => replaceFile(full, bytes, calls));
}

/**
 * What Python has compiled of sources that change: their time stays, and maybe their size, by which it would take the old
 * for the new.
 */
function staleCompiled(root: ByteString, written: readonly Written[]): ByteString[] {
  return written.flatMap(({ path }) => {
    if (!path.endsWith(".py")) return [];
    const dir = `${dirname(path)}/__pycache__`;
    const start = `${basename(path, ".py")}.`;
    return namesIn(`${root}/${dir}`)
      .filter((name) => name.startsWith(start) && isCompiled(name) && isInside(root, `${dir}/${name}`))
      .map((name) => `${dir}/${name}`);
  });
}

/** Programs of `bin` that lead nowhere. */
function brokenInterpreters(root: ByteString, to: ByteString, links: ReadonlyMap<ByteString, ByteString>): Left[] {
  return namesIn(`${root}/bin`).flatMap((name): Left[] => {
    const path = `bin/${name}`;
    const text = links.get(path) ?? linkText(`${root}/${path}`);
    if (text === undefined || !/^(?:python|pypy)[0-9.]*t?$/.test(name)) return [];
    const target = text.startsWith("/") ? text : `${root}/bin/${text}`;
    const here = movePath(target, [{ from: to, to: root }]) ?? target;
    if (isThere(here)) return [];
    return [{ path, why: `it leads to ${display(text)}, which is not here` }];
  });
}

/** Is something there, be it a link that leads nowhere: each is told once, for itself. */
function isThere(path: ByteString): boolean {
  return lstatSync(osPath(path), { throwIfNoEntry: false }) !== undefined;
}
