/** What trees.ts leaves out: what belongs to others, ACLs, FIFOs, holes at edges, times at the end of the range; and edits of all that. */
import { dlopen, FFIType } from "bun:ffi";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  ftruncateSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { libc } from "../lib/drivers/libc.ts";
import {
  dirModes,
  fileModes,
  type Look,
  lookAt,
  nameOf,
  os,
  pathsOf,
  pick,
  type Random,
  type Seen,
  setTime,
  timeOf,
  writeRandom,
} from "./trees.ts";

const calls = await libc();
const isRoot = process.geteuid?.() === 0;

const { mknod } = dlopen("libc.so.6", {
  mknod: { args: [FFIType.cstring, FFIType.u32, FFIType.u64], returns: FFIType.i32 },
}).symbols;

/** FIFO, socket, /dev/null, a disk. */
const specials: readonly [mode: number, device: bigint][] = [
  [0o010644, 0n],
  [0o140755, 0n],
  ...(isRoot
    ? ([
        [0o020666, 0x103n],
        [0o060600, 0xfe00n],
      ] as [number, bigint][])
    : []),
];

function makeSpecial(path: string, random: Random): void {
  const [mode, device] = pick(random, specials);
  if (mknod(Buffer.concat([os(path), Buffer.of(0)]), mode, device) !== 0)
    throw new Error(`mknod ${JSON.stringify(path)}`);
}

/** The edges of the second, of 32 bits, and of what ext4 keeps; ef counts nanoseconds in 64 bits, which end in 2262. */
const oddTimes = [
  -1n,
  0n,
  999_999_999n,
  -2_147_483_648_000_000_000n,
  9_223_372_036_000_000_000n,
  2_147_483_648_000_000_001n,
];

const anyTime = (random: Random) => (random(3) === 0 ? pick(random, oddTimes) : timeOf(random));

/** An access or default ACL as the kernel stores it, with some users and groups. */
function aclOf(random: Random): Buffer {
  const entries: [tag: number, bits: number, id: number][] = [[1, random(8), 0xffffffff]];
  const ids = [1, 1000, 54_321, 4_000_000_000].filter(() => random(2) === 0);
  for (const id of ids) entries.push([2, random(8), id]);
  entries.push([4, random(8), 0xffffffff]);
  for (const id of ids) if (random(2) === 0) entries.push([8, random(8), id]);
  entries.push([16, random(8), 0xffffffff], [32, random(8), 0xffffffff]);
  const acl = Buffer.alloc(4 + 8 * entries.length);
  acl.writeUInt32LE(2, 0);
  entries.forEach(([tag, bits, id], i) => {
    acl.writeUInt16LE(tag, 4 + 8 * i);
    acl.writeUInt16LE(bits, 6 + 8 * i);
    acl.writeUInt32LE(id, 8 + 8 * i);
  });
  return acl;
}

/** A file with holes at its beginning, its end, all over, or nothing else; small ones and such that are copied in pieces. */
function writeHoles(path: string, random: Random): void {
  const size = pick(random, [1, 4096, 4097, 1 << 20, (1 << 20) + 1, 5_000_001, 9 << 20]);
  const fd = openSync(os(path), "w");
  const places = pick(random, [
    [],
    [0],
    [size - 1],
    [0, size - 1],
    [size >> 1],
    Array.from({ length: 9 }, () => random(size)),
  ]);
  for (const at of places) writeSync(fd, Buffer.of(1 + random(255)), 0, 1, at);
  ftruncateSync(fd, size);
  closeSync(fd);
}

const uids = [0, 1, 1000, 65_534, 4_000_000_000];

/** Give an entry an owner, a mode, attributes, a time: some of them, or all. */
function dress(path: string, kind: string, random: Random): void {
  if (isRoot && random(3) === 0) lchownSync(os(path), pick(random, uids), pick(random, uids));
  if (kind === "link") return;
  if (random(2) === 0)
    chmodSync(os(path), pick(random, kind === "dir" ? [...dirModes, 0o2755, 0o3777, 0o2000] : fileModes));
  if (random(3) === 0) calls?.setXattr(os(path), "system.posix_acl_access", aclOf(random));
  if (random(3) === 0 && kind === "dir") calls?.setXattr(os(path), "system.posix_acl_default", aclOf(random));
  if (random(3) === 0) calls?.setXattr(os(path), `user.${random(4)}`, Buffer.from(`${random(1e6)}`));
  if (isRoot && random(6) === 0) calls?.setXattr(os(path), "trusted.of.root", Buffer.of(0, 255, random(256)));
}

/** Kinds of which a walk may go on: entries of a look, in order. */
const entriesOf = ({ seen }: Look) => [...seen].filter(([path]) => path !== "");

/** Add all that to a tree that has been filled. */
export function addOddities(root: string, random: Random, unique: number): void {
  const dirs = ["", ...pathsOf(lookAt(root), "dir")];
  const files = pathsOf(lookAt(root), "file");
  const fresh = (i: number) => join(root, pick(random, dirs), nameOf(random, unique * 100 + i));
  let made = 0;
  for (let i = random(5); i > 0; i--) makeSpecial(fresh(made++), random);
  for (let i = random(6); i > 0; i--) writeHoles(fresh(made++), random);
  for (let i = random(6); i > 0 && files.length > 0; i--)
    linkSync(os(join(root, pick(random, files))), os(fresh(made++)));
  if (random(4) === 0) symlinkSync(`${"y/".repeat(2000)}z`, os(fresh(made++)));
  for (const [path, { kind }] of entriesOf(lookAt(root))) if (kind !== "other") dress(join(root, path), kind, random);
  setTimes(root, random, (path) => random(2) === 0 || path === "");
}

/** Give some files of a tree a name in another one too. */
export function linkBetween(from: string, to: string, random: Random): void {
  const [files, dirs] = [pathsOf(lookAt(from), "file"), ["", ...pathsOf(lookAt(to), "dir")]];
  for (let i = files.length > 0 ? random(4) : 0; i > 0; i--)
    linkSync(os(join(from, pick(random, files))), os(join(to, pick(random, dirs), nameOf(random, 900 + i))));
}

/** New times of some entries; those of directories last, as they change with what is in them. */
function setTimes(root: string, random: Random, isChosen: (path: string) => boolean): void {
  for (const path of [...lookAt(root).seen.keys()].reverse())
    if (isChosen(path)) setTime(join(root, path), anyTime(random));
}

/** A tree of its own, moved, removed, replaced, linked otherwise, in `count` steps. */
export function editOddly(root: string, random: Random, unique: number, { count = 10, retypes = true } = {}): void {
  for (let i = 0; i < count; i++) {
    const look = lookAt(root);
    const [files, dirs, links] = [pathsOf(look, "file"), pathsOf(look, "dir"), pathsOf(look, "link")];
    const fresh = join(root, pick(random, ["", ...dirs]), nameOf(random, unique * 100 + i));
    const one = <T>(from: readonly T[], edit: (value: T) => void) => from.length > 0 && edit(pick(random, from));
    const at = (edit: (path: string) => void) => (path: string) => edit(join(root, path));
    const oneFile = (edit: (path: string) => void) => one(files, at(edit));
    const oneDir = (edit: (path: string) => void) => one(dirs, at(edit));
    const edits: (() => unknown)[] = [
      () => oneFile((path) => renameSync(os(path), os(fresh))),
      () =>
        one(
          [...files, ...links],
          at((path) => unlinkSync(os(path))),
        ),
      () => oneDir((path) => `${fresh}/`.startsWith(`${path}/`) || renameSync(os(path), os(fresh))),
      () => oneDir((path) => random(3) > 0 || rmSync(os(path), { recursive: true })),
      () => oneFile((path) => chmodSync(os(path), pick(random, fileModes))),
      () => oneDir((path) => chmodSync(os(path), pick(random, dirModes))),
      () =>
        one(
          [...files, ...links, ...dirs],
          at((path) => isRoot && lchownSync(os(path), pick(random, uids), pick(random, uids))),
        ),
      () =>
        one(
          [...files, ...dirs], // not of links: a new time alone brings no link anew
          at((path) => setTime(path, anyTime(random))),
        ),
      () => oneFile((path) => linkSync(os(path), os(fresh))),
      () => oneFile((path) => relink(path, join(root, pick(random, files)))),
      () => oneFile((path) => unshare(path, fresh)),
      () => oneFile((path) => writeFileSync(os(path), `edited ${random(1e9)}`, { flag: pick(random, ["a", "w"]) })),
      () => oneFile((path) => truncateSync(os(path), random(3_000_000))),
      () => writeHoles(fresh, random),
      () => writeRandom(fresh, random(20_000), random),
      () => mkdirSync(os(fresh)),
      () => makeSpecial(fresh, random),
    ];
    const retypings = [
      () => oneFile((path) => retype(path, random)),
      () =>
        one(
          links,
          at((path) => retype(path, random)),
        ),
      () => oneDir((path) => random(3) > 0 || retype(path, random)),
      () =>
        one(
          pathsOf(look, "other"),
          at((path) => retype(path, random)),
        ),
    ];
    pick(random, retypes ? [...edits, ...retypings] : edits)();
  }
}

/** Put something of another type in its place. */
function retype(path: string, random: Random): void {
  const was = lstatSync(os(path));
  rmSync(os(path), { recursive: true });
  const makeDir = () => {
    mkdirSync(os(path));
    writeRandom(`${path}/in it`, 10, random);
  };
  const kinds = [
    ...(was.isFile() ? [] : [() => writeRandom(path, random(5000), random)]),
    ...(was.isSymbolicLink() ? [] : [() => symlinkSync(`elsewhere${random(1e9)}`, os(path))]),
    ...(was.isDirectory() ? [] : [makeDir]),
    ...(was.isFIFO() ? [] : [() => makeSpecial(path, random)]),
  ];
  pick(random, kinds)();
}

/** Make a name one of another file. By size and time it must differ from what it was, or nobody could see it. */
function relink(path: string, other: string): void {
  const [was, is] = [lstatSync(os(path), { bigint: true }), lstatSync(os(other), { bigint: true })];
  if (was.ino === is.ino || (was.size === is.size && was.mtimeNs === is.mtimeNs)) return;
  unlinkSync(os(path));
  linkSync(os(other), os(path));
}

/** Make a name of several a file of its own, with other contents. */
function unshare(path: string, temp: string): void {
  copyFileSync(os(path), os(temp));
  writeFileSync(os(temp), "its own", { flag: "a" });
  renameSync(os(temp), os(path));
}

/** What a copy of a tree has to be by ef's rules: nothing but files, directories and links; all of it the user's, the group that of its place. */
export function byRules({ seen, blocks }: Look, owner: { uid: number; gid: number; setgid: boolean }): Look {
  const ours = (kind: string) => `${owner.uid}:${owner.gid}${owner.setgid && kind === "dir" ? "s" : ""}`;
  const kept = entriesOf({ seen, blocks }).filter(([, { kind }]) => kind !== "other");
  const root = seen.get("") ?? { kind: "dir" as const, mode: 0, mtimeNs: 0n };
  return {
    blocks,
    seen: new Map([["", root], ...kept.map(([path, entry]) => [path, { ...entry, owner: ours(entry.kind) }] as const)]),
  };
}

/**
 * What the source has no more, and is still there, is as it was: but of an inode that it may share with what the source has,
 * or not, no copy says anything.
 */
export function looseStrays(copy: Look, source: Look): Look {
  const first = new Map<string, string[]>();
  const isStray = (path: string) => (source.seen.get(path)?.kind ?? "other") === "other";
  for (const [path, { group }] of copy.seen)
    if (group !== undefined && !isStray(path)) first.set(group, [...(first.get(group) ?? []), path]);
  const loose = ([path, entry]: [string, Seen]): [string, Seen] => {
    const { kind, mode, mtimeNs, group: old, xattrs, owner, ...contents } = entry;
    if (isStray(path)) return [path, kind === "file" ? { kind, mode: 0, mtimeNs: 0n, ...contents } : entry];
    const [name, another] = first.get(old ?? "") ?? [];
    const { group: _, ...rest } = entry;
    return [path, name !== undefined && another !== undefined ? { ...rest, group: name } : rest];
  };
  return {
    blocks: new Map([...copy.blocks].filter(([path]) => !isStray(path))),
    seen: new Map([...copy.seen].map(loose)),
  };
}
