/** Directories of a target: made before what goes into them, their times and modes set after. */
import type { ByteString } from "../base/bytes.ts";
import { errnoOf } from "../base/errors.ts";
import { get, type Steps } from "../base/steps.ts";
import { assertBelow, lookBelow } from "./below.ts";
import { type Carrying, type DirectoryRules, each, type Failure, type Job, State } from "./carrying.ts";
import { type Copying, copyAttributes, quietly } from "./copy-file.ts";
import { type Diff, Do, sameTime } from "./diff.ts";

export async function makeDirectories(
  { source, todo, state }: Job,
  cx: Copying,
  carrying: Pick<Carrying, "gauge" | "signal">,
  failures: Failure[],
) {
  const path = (row: number) => source.path(row);
  function* make(row: number): Steps<void> {
    cx.moved(0); // many directories take long: there is somebody who waits
    try {
      yield* get(cx.target.mkdir(`${cx.to}/${path(row)}`, 0o700 | (source.permissions(row) & 0o777)));
      yield* behindNoLink(cx, path(row));
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return;
      if (errnoOf(error) !== "EEXIST") throw error;
      if (!(yield* get(cx.target.lstat(`${cx.to}/${path(row)}`))).isDirectory()) throw error;
    }
    state[row] = State.done;
  }
  // Level by level: a directory is there before those in it.
  let level: number[] = [];
  const depths = new Uint16Array(source.length);
  let depth = 0;
  for (let row = 1; row < source.length; row++) {
    depths[row] = (depths[source.parent[row] as number] as number) + 1;
    if (todo[row] === Do.mkdir) level.push(row);
  }
  level.sort((a, b) => (depths[a] as number) - (depths[b] as number) || a - b);
  while (level.length > 0) {
    depth = depths[level[0] as number] as number;
    const end = level.findIndex((row) => depths[row] !== depth);
    const now = end < 0 ? level : level.slice(0, end);
    level = end < 0 ? [] : level.slice(end);
    await each(now, make, path, carrying, failures);
  }
}

/** A directory that was made behind a link is taken back. */
function* behindNoLink(cx: Copying, path: ByteString): Steps<void> {
  try {
    yield* assertBelow(cx, undefined, path);
  } catch (error) {
    yield* quietly(() => cx.target.rmdir(`${cx.to}/${path}`));
    throw error;
  }
}

/** Times of directories, then their modes: what is deeper first, as a mode may bar the way. @returns how many changed */
export async function finishDirectories(
  diff: Diff,
  cx: Copying,
  carrying: Carrying,
  failures: Failure[],
): Promise<number> {
  let finished = 0;
  const { source, target, todo, there } = diff;
  const { directories } = carrying;
  const touched = touchedDirectories(diff);
  const path = (row: number) => (row === 0 ? cx.to : `${cx.to}/${source.path(row)}`);
  const isNew = (row: number) => todo[row] === Do.mkdir;
  const careful = (work: (row: number) => Steps<void>) =>
    function* (row: number): Steps<void> {
      try {
        yield* work(row);
      } catch (error) {
        const code = errnoOf(error);
        if (code === "ENOENT") return; // purged just now: the look after the copy finds that
        // A directory of a colleague's keeps its own mode and times.
        if (isNew(row) || (code !== "EPERM" && code !== "EACCES")) throw error;
      }
    };
  const setTimes = careful(function* (row) {
    cx.moved(0);
    if (cx.xattrs) copyAttributes(cx, source.path(row), path(row));
    const mtimeNs = cx.arrivalNs ?? (source.mtime[row] as bigint);
    const isTouched = isNew(row) || touched.has(row);
    const asIs = () =>
      cx.arrivalNs !== undefined || sameTime(mtimeNs, target.mtime[(there[row] as number) - 1] as bigint);
    if (!isTouched && asIs()) return;
    finished++;
    yield* assertBelow(cx, undefined, `${source.path(row)}/`);
    yield* get(cx.target.setTimes(path(row), mtimeNs));
  });
  /** The top keeps its mode, which may be a group's choice, but is not more open than the source. */
  const narrow = function* (want: number): Steps<void> {
    if (target.length === 0) return;
    const mode = target.permissions(0);
    const narrower = mode & (want | 0o7700);
    if (narrower !== mode) yield* get(cx.target.chmod(cx.to, narrower));
  };
  const setMode = careful(function* (row) {
    const here = (there[row] as number) - 1;
    const want = directoryMode(source.permissions(row), directories);
    if (row === 0) return yield* narrow(want);
    const differs =
      isNew(row) || cx.xattrs || (touched.has(row) && isShut(diff, row)) || target.permissions(here) !== want;
    if (!differs) return;
    finished++;
    yield* assertBelow(cx, undefined, `${source.path(row)}/`);
    yield* get(cx.target.chmod(path(row), want));
  });
  const rows: number[] = [];
  for (let row = source.length - 1; row >= 0; row--) {
    const here = (there[row] as number) - 1;
    const isThere = isNew(row) || (here >= 0 && target.kind(here) === "dir");
    if (source.kind(row) === "dir" && todo[row] !== Do.blocked && isThere) rows.push(row);
  }
  await each(rows, setTimes, (row) => source.path(row), carrying, failures);
  const isOpen = (row: number) => (source.permissions(row) & 0o700) === 0o700;
  await each(rows.filter(isOpen), setMode, (row) => source.path(row), carrying, failures);
  for (const row of rows) if (!isOpen(row)) await each([row], setMode, () => source.path(row), carrying, failures);
  return finished;
}

/** Is a directory of the target one that its owner may not write to? */
function isShut({ source, target, there }: Pick<Diff, "source" | "target" | "there">, row: number): boolean {
  const here = (there[row] as number) - 1;
  const areDirs = source.kind(row) === "dir" && here >= 0 && target.kind(here) === "dir";
  return areDirs && (target.permissions(here) & 0o700) !== 0o700;
}

/** Let ourselves into directories of the target where something is to be done (a Go module cache has none to write to). */
export async function openDirectories(diff: Diff, cx: Copying, carrying: Carrying, failures: Failure[]): Promise<void> {
  const { source, target, there } = diff;
  const rows = [...touchedDirectories(diff)].filter((row) => isShut(diff, row)).sort((a, b) => a - b);
  function* open(row: number): Steps<void> {
    const mode = target.permissions((there[row] as number) - 1) | 0o700;
    if (!(yield* lookBelow(cx.target, cx.to, `${cx.to}/${source.path(row)}`))?.isDirectory()) return;
    yield* get(cx.target.chmod(`${cx.to}/${source.path(row)}`, mode));
  }
  for (const row of rows) await each([row], open, () => source.path(row), carrying, failures);
}

/** Directories whose time changed because of what was done in them. */
function touchedDirectories({ source, todo, clear, remove, target, leaders }: Diff): Set<number> {
  const touched = new Set<number>();
  let last = -1;
  for (let row = 1; row < source.length; row++) {
    if (todo[row] === Do.nothing || todo[row] === Do.keep || source.parent[row] === last) continue;
    last = source.parent[row] as number;
    touched.add(last);
  }
  for (const row of leaders.keys()) touched.add(source.parent[row] as number);
  for (const row of [...clear, ...remove]) {
    const dir = source.find(target.path(target.parent[row] as number));
    if (dir !== undefined) touched.add(dir);
  }
  return touched;
}

/** What the root of a tree says of new directories in it. */
export const rulesOf = ({ mode }: { mode: number }): DirectoryRules => ({
  setgid: (mode & 0o2000) !== 0,
  groupWritable: (mode & 0o2020) === 0o2020,
});

/** Has a directory of scratch other permissions than its source, but for those that scratch gives to all? */
export function hasOtherModes({ source, target, there }: Diff, groupWritable: boolean): boolean {
  const bits = 0o1777 & ~(groupWritable ? 0o020 : 0);
  for (let row = 1; row < source.length; row++) {
    const here = (there[row] as number) - 1;
    if (source.kind(row) !== "dir" || here < 0 || target.kind(here) !== "dir") continue;
    if (((source.permissions(row) ^ target.permissions(here)) & bits) !== 0) return true;
  }
  return false;
}

export function directoryMode(permissions: number, { setgid, groupWritable }: DirectoryRules): number {
  return (permissions & ~0o2000) | (setgid ? 0o2000 : 0) | (groupWritable ? 0o020 : 0);
}
