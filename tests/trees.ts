/** Real directory trees from a seed, and a look at them that owes nothing to lib/. Paths are byte strings. */
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { libc } from "../lib/drivers/libc.ts";

const calls = await libc();

export type Random = (below: number) => number;

/** What node:fs takes. */
export const os = (path: string): Buffer => Buffer.from(path, "latin1");

export const pick = <T>(random: Random, from: readonly T[]): T => from[random(from.length)] as T;

const longName = (random: Random) =>
  Array.from({ length: 255 }, () => String.fromCharCode(1 + random(255)).replace("/", "x")).join("");

/** A name that no other call gives, of one of the kinds that break programs. */
export function nameOf(random: Random, unique: number): string {
  const suffix = `${unique}`;
  const kinds = [
    () => `plain${suffix}`,
    () => `-rf ${suffix}`,
    () => `new\nline${suffix}`,
    () => `"q' $HOME\`id\` \\ ${suffix}`,
    () => `${suffix}${longName(random)}`.slice(0, 255),
    () => `caf\xe9\xff${suffix}`,
    () => `\xc3\xbc-\xe2\x82\xac${suffix}`,
    () => `.hidden${suffix}`,
    () => `${suffix}.tmp~`,
    () => `a${"é".normalize("NFD").replace(/[^\x00-\xff]/g, "")}${suffix} `,
  ];
  return pick(random, kinds)();
}

/** Nanoseconds since 1970: mostly of our time, now and then before 1970 or far ahead. */
export function timeOf(random: Random): bigint {
  const seconds = pick(random, [
    BigInt(1_500_000_000 + random(200_000_000)),
    BigInt(1_500_000_000 + random(200_000_000)),
    BigInt(1_500_000_000 + random(200_000_000)),
    -BigInt(1 + random(1_000_000_000)),
    BigInt(4_000_000_000 + random(1_000_000_000)),
    0n,
  ]);
  return seconds * 1_000_000_000n + BigInt(pick(random, [0, random(1e9), random(1e9), 999_999_999, 1]));
}

/** Set a modification time to the nanosecond; of a link itself. */
export function setTime(path: string, time: bigint): void {
  if (!calls) throw new Error("this test needs the C library");
  calls.setMtime(os(path), time);
}

export function writeRandom(path: string, size: number, random: Random): void {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at + 4 <= size; at += 4) bytes.writeUInt32LE(random(2 ** 32), at);
  writeFileSync(os(path), bytes);
}

export function writeSparse(path: string, size: number, random: Random): void {
  const fd = openSync(os(path), "w");
  for (let i = random(4); i >= 0; i--) {
    const bytes = Buffer.alloc(1 + random(200_000), 1 + random(255));
    writeSync(fd, bytes, 0, bytes.length, random(size - bytes.length));
  }
  ftruncateSync(fd, size);
  closeSync(fd);
}

export const fileModes = [0o644, 0o600, 0o400, 0o755, 0o444, 0o000, 0o4755, 0o2711, 0o666];
export const dirModes = [0o755, 0o700, 0o750, 0o555, 0o000, 0o1777, 0o711];

export interface TreeOptions {
  /** Sparse files of 40 MB too. */
  sparse?: boolean;
  /** No file of more than 70 kB. */
  small?: boolean;
  xattrs?: boolean;
}

/** Fill an empty directory. */
export function fillTree(root: string, random: Random, { sparse, small, xattrs }: TreeOptions = {}): void {
  const dirs = [root];
  const files: string[] = [];
  const links: string[] = [];
  for (let i = random(14); i >= 0; i--) {
    const dir = `${pick(random, dirs.slice(-8))}/${nameOf(random, i)}`;
    mkdirSync(os(dir));
    dirs.push(dir);
  }
  for (let i = 0, count = random(40); i <= count; i++) {
    const path = `${pick(random, dirs)}/${nameOf(random, 100 + i)}`;
    const kind = random(12);
    if (kind < 2) {
      const texts = ["nowhere", "..", "/", ".", "a\nb\xff", `${"x/".repeat(200)}y`, path, "-n"];
      symlinkSync(os(pick(random, texts)), os(path));
      links.push(path);
    } else if (kind < 4 && files.length > 0) {
      linkSync(os(pick(random, files)), os(path));
    } else {
      const size = pick(random, [
        0,
        1,
        random(100),
        random(5000),
        random(70_000),
        4096,
        random(small ? 9000 : 3 << 20),
      ]);
      if (sparse && random(8) === 0) writeSparse(path, pick(random, [40_000_000, 40_000_001, 1 << 20]), random);
      else writeRandom(path, size, random);
      files.push(path);
    }
  }
  const value = () => Buffer.from(Array.from({ length: random(300) }, () => random(256)));
  for (const path of xattrs ? [...files, ...dirs.slice(1)] : [])
    for (let i = random(4); i > 0; i--) calls?.setXattr(os(path), `user.k${random(5)}`, value());
  for (const path of files) {
    chmodSync(os(path), pick(random, fileModes));
    setTime(path, timeOf(random));
  }
  for (const path of links) setTime(path, timeOf(random));
  for (const path of dirs.reverse()) {
    if (path !== root) chmodSync(os(path), pick(random, dirModes));
    setTime(path, timeOf(random));
  }
}

/** What an entry is; two copies of a tree have the same at each path. */
export interface Seen {
  kind: "file" | "dir" | "link" | "other";
  mode: number;
  mtimeNs: bigint;
  size?: number;
  hash?: string;
  text?: string;
  /** Of a file with several names: the first of them. */
  group?: string;
  xattrs?: string;
  /** `uid:gid`, and `s` for a directory that gives its group to what is made in it. */
  owner?: string;
}

export interface Look {
  seen: Map<string, Seen>;
  /** Bytes on the disk, by path, of files. */
  blocks: Map<string, number>;
}

const kindOf = (stat: BigIntStats): Seen["kind"] =>
  stat.isFile() ? "file" : stat.isDirectory() ? "dir" : stat.isSymbolicLink() ? "link" : "other";

/** Everything below a directory, and itself as "". */
export function lookAt(root: string, { xattrs = false, owners = false } = {}): Look {
  const seen = new Map<string, Seen>();
  const blocks = new Map<string, number>();
  const groups = new Map<bigint, string[]>();
  const visit = (path: string) => {
    const full = path === "" ? root : `${root}/${path}`;
    const stat = lstatSync(os(full), { bigint: true });
    const kind = kindOf(stat);
    // The set-group-id bit of a directory is its new parent's affair.
    const mode = Number(stat.mode) & (kind === "dir" ? 0o5777 : 0o7777);
    const entry: Seen = { kind, mode: path === "" ? 0 : mode, mtimeNs: stat.mtimeNs };
    seen.set(path, entry);
    if (owners && path !== "")
      entry.owner = `${stat.uid}:${stat.gid}${kind === "dir" && stat.mode & 0o2000n ? "s" : ""}`;
    if (kind === "link") entry.text = readlinkSync(os(full), { encoding: "latin1" });
    if (kind === "file") {
      entry.size = Number(stat.size);
      entry.hash = String(Bun.hash(readFileSync(os(full))));
      blocks.set(path, Number(stat.blocks) * 512);
      if (stat.nlink > 1n) groups.set(stat.ino, [...(groups.get(stat.ino) ?? []), path]);
    }
    if (xattrs && path !== "" && kind !== "link") {
      const names = calls?.listXattrs(os(full)).sort() ?? [];
      entry.xattrs = names
        .map((name) => `${name}=${Buffer.from(calls?.getXattr(os(full), name) ?? []).toString("hex")}`)
        .join(" ");
    }
    if (kind !== "dir") return;
    const names = readdirSync(os(full), { encoding: "latin1" }) as string[];
    for (const name of names.sort()) visit(path === "" ? name : `${path}/${name}`);
  };
  visit("");
  for (const names of groups.values())
    if (names.length > 1) for (const name of names) (seen.get(name) as Seen).group = names[0] as string;
  return { seen, blocks };
}

/** Paths of all below a directory. `readdirSync(…, { recursive: true })` follows links: two of them to ".." are 2^40 paths. */
export function pathsBelow(root: string, start = ""): string[] {
  return readdirSync(join(root, start), { withFileTypes: true }).flatMap((entry) => {
    const path = join(start, entry.name);
    return entry.isDirectory() ? [path, ...pathsBelow(root, path)] : [path];
  });
}

/** How two looks differ, in words; nothing if they do not. */
export function differences(expected: Look, found: Look): string[] {
  const lines: string[] = [];
  for (const path of new Set([...expected.seen.keys(), ...found.seen.keys()])) {
    const [a, b] = [expected.seen.get(path), found.seen.get(path)];
    const name = JSON.stringify(path);
    if (!a || !b) {
      lines.push(`${name}: only ${a ? "expected" : "found"}`);
      continue;
    }
    for (const what of ["kind", "mode", "mtimeNs", "size", "hash", "text", "group", "xattrs", "owner"] as const)
      if (a[what] !== b[what]) lines.push(`${name}: ${what} ${String(a[what])} expected, found ${String(b[what])}`);
    const [need, has] = [expected.blocks.get(path) ?? 0, found.blocks.get(path) ?? 0];
    if (has > need + 300_000) lines.push(`${name}: takes ${has} bytes, not ${need}: holes were filled`);
  }
  return lines;
}

/** Paths below a root, itself not. */
export function pathsOf(look: Look, kind: Seen["kind"]): string[] {
  return [...look.seen].filter(([path, seen]) => path !== "" && seen.kind === kind).map(([path]) => path);
}

/** Change a source as a person would: edit, grow, delete, rename, retype, add. */
export function editSource(root: string, random: Random, round: number): void {
  for (let i = 0; i < 12; i++) {
    const look = lookAt(root);
    const [files, links, dirs] = [pathsOf(look, "file"), pathsOf(look, "link"), ["", ...pathsOf(look, "dir")]];
    const fresh = `${root}/${pick(random, dirs)}/${nameOf(random, 1000 * (round + 1) + i)}`.replaceAll("//", "/");
    const file = files.length > 0 ? `${root}/${pick(random, files)}` : undefined;
    const entry = [...files, ...links].length > 0 ? `${root}/${pick(random, [...files, ...links])}` : undefined;
    const what = random(12);
    if (what === 0) {
      mkdirSync(os(fresh));
      writeRandom(`${fresh}/in`, random(9000), random);
    } else if (what === 1) writeRandom(fresh, random(90_000), random);
    else if (what === 2) symlinkSync(os(pick(random, ["a", "../b", "nowhere"])), os(fresh));
    else if (what === 3 && file) linkSync(os(file), os(fresh));
    else if (what === 4 && file)
      writeRandom(file, random(5000), random); // in place, all names of it
    else if (what === 5 && file) {
      writeRandom(fresh, random(5000), random);
      renameSync(os(fresh), os(file));
    } else if (what === 6 && entry) unlinkSync(os(entry));
    else if (what === 7 && entry) renameSync(os(entry), os(fresh));
    else if (what === 8 && file) chmodSync(os(file), pick(random, fileModes));
    else if (what === 9 && dirs.length > 2) setTime(`${root}/${pick(random, dirs.slice(1))}`, timeOf(random));
    else if (what === 10 && file) {
      unlinkSync(os(file));
      symlinkSync("instead of a file", os(file));
    } else if (what === 11 && links.length > 0) {
      const link = `${root}/${pick(random, links)}`;
      unlinkSync(os(link));
      writeRandom(link, random(5000), random);
    }
  }
}

/** What a job did on scratch: by path, the contents that must be there for ever after. */
export type Work = Map<string, string>;

const hashAt = (path: string) => String(Bun.hash(readFileSync(os(path))));

/** Change a copy as a job, or a purge, would. */
export function workOnScratch(root: string, random: Random, round: number, work: Work): void {
  for (let i = 0; i < 5; i++) {
    const look = lookAt(root);
    const [files, dirs] = [pathsOf(look, "file"), ["", ...pathsOf(look, "dir")]];
    const file = files.length > 0 ? pick(random, files) : undefined;
    const what = random(5);
    if (what === 0) {
      const path = `${pick(random, dirs)}/job${round}-${i}`.replace(/^\//, "");
      writeRandom(`${root}/${path}`, 1 + random(5000), random);
      work.set(path, hashAt(`${root}/${path}`));
    } else if (what === 1 && file) {
      writeRandom(`${root}/${file}`, 1 + random(5000), random); // in place: all names of it
      const { ino } = lstatSync(os(`${root}/${file}`));
      for (const path of files)
        if (lstatSync(os(`${root}/${path}`)).ino === ino) work.set(path, hashAt(`${root}/${path}`));
    } else if (what === 2 && file) {
      writeRandom(`${root}/job-temp`, 1 + random(5000), random);
      renameSync(os(`${root}/job-temp`), os(`${root}/${file}`));
      work.set(file, hashAt(`${root}/${file}`));
    } else if (what === 3 && file) {
      unlinkSync(os(`${root}/${file}`));
      work.delete(file);
    } else if (what === 4 && dirs.length > 1 && random(3) === 0) {
      const gone = pick(random, dirs.slice(1));
      rmSync(os(`${root}/${gone}`), { recursive: true });
      for (const path of [...work.keys()]) if (path.startsWith(`${gone}/`)) work.delete(path);
    }
  }
}

/** Is a copy what it has to be: the source, but for what a job did there, which stands as the job left it? */
export function wrongsOf(source: Look, copy: Look, work: Work, { mirror = false, times = true } = {}): string[] {
  const wrongs: string[] = [];
  const isWorkBelow = (dir: string) => [...work.keys()].some((path) => path.startsWith(`${dir}/`));
  for (const [path, { kind }] of mirror ? copy.seen : [])
    if (!source.seen.has(path) && !work.has(path) && !(kind === "dir" && isWorkBelow(path)))
      wrongs.push(`${JSON.stringify(path)}: not at the source, and still there`);
  for (const [path, hash] of work)
    if (copy.seen.get(path)?.hash !== hash) wrongs.push(`${JSON.stringify(path)}: a job's work is lost`);
  for (const [path, a] of source.seen) {
    const b = copy.seen.get(path);
    const name = JSON.stringify(path);
    if (work.has(path)) continue;
    if (!b) wrongs.push(`${name}: missing`);
    else {
      const facts = [
        "kind",
        "mode",
        "size",
        "hash",
        "text",
        ...(a.kind === "file" && times ? ["mtimeNs"] : []),
      ] as (keyof Seen)[];
      for (const what of facts)
        if (a[what] !== b[what]) wrongs.push(`${name}: ${what} ${String(a[what])} expected, found ${String(b[what])}`);
    }
    if (a.group === undefined) continue;
    const same = [...source.seen].find(([other, { group }]) => group === a.group && !work.has(other))?.[0] ?? path;
    if (same !== path && b && copy.seen.get(same)?.group !== b?.group)
      wrongs.push(`${name}: no longer the same file as ${same}`);
  }
  return wrongs;
}
