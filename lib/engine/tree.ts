/**
 * One directory tree as a table: a row for each file, directory and link below a root, 40 bytes and its name.
 *
 * Columns instead of objects: a million files take some 60 MB, and a worker thread reads the same memory (the columns are
 * shared buffers). Rows of one directory stand together, in byte order of their names; row 0 is the root itself.
 */
import type { ByteString } from "../base/bytes.ts";

/** What a row is. `gone`: it vanished, or could not be looked at. `other`: FIFO, socket, device. */
export type Kind = "file" | "dir" | "link" | "other" | "gone";

/** `st_mode`: the type of a file (inode(7)). */
const typeMask = 0o170000;
/** In decimal: biome 2.6.8 "simplifies" octal keys to wrong numbers. 0o100000, 0o040000, 0o120000. */
const types: Record<number, Kind> = { 32768: "file", 16384: "dir", 40960: "link", 0: "gone" };

/** Above `st_mode` in the same column. */
export const Flag = {
  /** Fewer blocks than its size needs. */
  sparse: 1 << 16,
  /** It was so young when it was looked at that a later change may have left the same time. */
  racy: 1 << 17,
  /** A directory that could not be read, or an entry that could not be looked at. */
  unreadable: 1 << 18,
  /** In a base: the source has it no more. */
  orphan: 1 << 19,
} as const;

/** What of lstat(2) a row keeps. */
export interface Facts {
  mode: number;
  size: number;
  /** Nanoseconds since 1970. */
  mtimeNs: bigint;
}

/** Columns, for handing a tree to another thread. */
export interface TreeColumns {
  length: number;
  parent: Uint32Array;
  nameEnd: Uint32Array;
  names: Uint8Array;
  mode: Uint32Array;
  size: Float64Array;
  mtime: BigInt64Array;
  inode: Uint32Array;
  first: Uint32Array;
  links: Map<number, ByteString>;
  allocated: Map<number, number>;
}

/** Rows from which the columns left behind by growing are worth a garbage collection (some 10 ms). */
const collectFrom = 100_000;

const shared = (bytes: number) => new SharedArrayBuffer(bytes);

export class Tree implements TreeColumns {
  length = 0;
  parent: Uint32Array = new Uint32Array(shared(4 * 64));
  nameEnd: Uint32Array = new Uint32Array(shared(4 * 64));
  names: Uint8Array = new Uint8Array(shared(1024));
  mode: Uint32Array = new Uint32Array(shared(4 * 64));
  /** Bytes; of a directory, the number of its children. */
  size: Float64Array = new Float64Array(shared(8 * 64));
  mtime: BigInt64Array = new BigInt64Array(shared(8 * 64));
  /** Names of one inode have the same number here; 0 for a file with one name. */
  inode: Uint32Array = new Uint32Array(shared(4 * 64));
  /** Of a directory: the row of its first child. */
  first: Uint32Array = new Uint32Array(shared(4 * 64));
  /** Where symbolic links point. */
  links = new Map<number, ByteString>();
  /** Bytes that files with holes take. */
  allocated = new Map<number, number>();
  #inodes = new Map<string, number>();
  #lastDir = -1;
  #lastPath: ByteString = "";

  /** A tree over columns that another thread filled. */
  static over(columns: TreeColumns, inodes: readonly string[] = []): Tree {
    const tree = Object.assign(new Tree(), columns);
    inodes.forEach((key, i) => void tree.#inodes.set(key, i + 1));
    return tree;
  }

  columns(): TreeColumns {
    const { length, parent, nameEnd, names, mode, size, mtime, inode, first, links, allocated } = this;
    return { length, parent, nameEnd, names, mode, size, mtime, inode, first, links, allocated };
  }

  /** Make row 0. */
  addRoot(facts: Facts): void {
    this.#grow(1, 0);
    this.nameEnd[0] = 0;
    this.length = 1;
    this.set(0, facts);
  }

  /**
   * Make a row for each name, in the order given, which must be byte order. They are `gone` until they are {@link set}.
   *
   * @returns the row of the first
   */
  addChildren(dir: number, names: readonly ByteString[]): number {
    const first = this.length;
    const at = this.nameEnd[first - 1] ?? 0;
    const bytes = Buffer.from(names.join(""), "latin1");
    this.#grow(names.length, bytes.length);
    this.names.set(bytes, at);
    let end = at;
    for (let i = 0; i < names.length; i++) {
      end += (names[i] as string).length;
      this.nameEnd[first + i] = end;
      this.parent[first + i] = dir;
    }
    this.length += names.length;
    this.first[dir] = first;
    this.size[dir] = names.length;
    return first;
  }

  set(row: number, { mode, size, mtimeNs }: Facts): void {
    this.mode[row] = mode;
    if ((mode & typeMask) !== 0o040000) this.size[row] = size;
    this.mtime[row] = mtimeNs;
  }

  /** Say which inode a row with several names is; rows of the same one get the same number. */
  setInode(row: number, key: string): void {
    const known = this.#inodes.get(key) ?? this.#inodes.size + 1;
    this.#inodes.set(key, known);
    this.inode[row] = known;
  }

  /** Keys of inodes with several names, by their numbers from 1 on. */
  inodeKeys(): string[] {
    return [...this.#inodes.keys()];
  }

  /** Has an inode with several names a key of this form? */
  hasInodes(key: RegExp): boolean {
    return [...this.#inodes.keys()].some((known) => key.test(known));
  }

  /**
   * Give all facts of a row to a row of another tree.
   *
   * @param group goes before the number of its inode: rows of different origin are not the same file
   */
  copyRow(row: number, to: Tree, at: number, group: string): void {
    const [mode, size] = [this.mode[row] as number, this.size[row] as number];
    to.set(at, { mode, size, mtimeNs: this.mtime[row] as bigint });
    if (this.inode[row] !== 0) to.setInode(at, `${group}${this.inode[row]}`);
    const text = this.links.get(row);
    if (text !== undefined) to.links.set(at, text);
    const blocks = this.allocated.get(row);
    if (blocks !== undefined) to.allocated.set(at, blocks);
  }

  flag(row: number, flag: number): void {
    this.mode[row] = (this.mode[row] as number) | flag;
  }
  has(row: number, flag: number): boolean {
    return ((this.mode[row] as number) & flag) !== 0;
  }

  kind(row: number): Kind {
    return types[(this.mode[row] as number) & typeMask] ?? "other";
  }
  /** Permission bits, set-id and sticky bits. */
  permissions(row: number): number {
    return (this.mode[row] as number) & 0o7777;
  }

  /** Rows of a directory's children: from the first up to, not including, the second. */
  children(dir: number): [from: number, to: number] {
    const count = this.size[dir] as number;
    const from = this.first[dir] as number;
    return from === 0 || this.kind(dir) !== "dir" ? [0, 0] : [from, from + count];
  }

  name(row: number): ByteString {
    const from = row === 0 ? 0 : (this.nameEnd[row - 1] as number);
    return this.#text(from, this.nameEnd[row] as number);
  }

  /** Relative to the root, which is "". */
  path(row: number): ByteString {
    if (row === 0) return "";
    const dir = this.parent[row] as number;
    if (dir === 0) return this.name(row);
    if (dir !== this.#lastDir) {
      const path = this.#pathOf(dir);
      this.#lastDir = dir;
      this.#lastPath = path;
    }
    return `${this.#lastPath}/${this.name(row)}`;
  }

  #pathOf(row: number): ByteString {
    const parts: ByteString[] = [];
    for (let at = row; at !== 0; at = this.parent[at] as number) parts.push(this.name(at));
    return parts.reverse().join("/");
  }

  /** Negative, 0 or positive as the name of `row` is before, equal to or after that of `other`'s `otherRow`. */
  compareNames(row: number, other: Tree, otherRow: number): number {
    const from = row === 0 ? 0 : (this.nameEnd[row - 1] as number);
    const length = (this.nameEnd[row] as number) - from;
    const otherFrom = otherRow === 0 ? 0 : (other.nameEnd[otherRow - 1] as number);
    const otherLength = (other.nameEnd[otherRow] as number) - otherFrom;
    const common = Math.min(length, otherLength);
    for (let i = 0; i < common; i++) {
      const difference = (this.names[from + i] as number) - (other.names[otherFrom + i] as number);
      if (difference !== 0) return difference;
    }
    return length - otherLength;
  }

  /** The row of a path; undefined if there is none. */
  find(path: ByteString): number | undefined {
    let row = 0;
    for (const part of path === "" ? [] : path.split("/")) {
      const next = this.child(row, part);
      if (next === undefined) return undefined;
      row = next;
    }
    return row;
  }

  /** The row of a name in a directory, by bisection. */
  child(dir: number, name: ByteString): number | undefined {
    let [from, to] = this.children(dir);
    while (from < to) {
      const middle = (from + to) >> 1;
      const there = this.name(middle);
      if (there === name) return middle;
      if (there < name) from = middle + 1;
      else to = middle;
    }
    return undefined;
  }

  /**
   * Is this what {@link addChildren} would have made: parents before their children, those together and in order, names
   * that are names? For a table that was read from a file.
   */
  isSound(): boolean {
    if (this.length === 0 || this.kind(0) !== "dir" || this.nameEnd[0] !== 0) return false;
    const bytes = Buffer.from(this.names.buffer as ArrayBuffer, this.names.byteOffset, this.nameEnd[this.length - 1]);
    if (bytes.includes(0) || bytes.includes(0x2f)) return false;
    const counts = new Map<number, number>();
    for (let row = 1; row < this.length; row++) {
      const parent = this.parent[row] as number;
      if (parent >= row || this.kind(parent) !== "dir") return false;
      if ((this.nameEnd[row] as number) <= (this.nameEnd[row - 1] as number)) return false;
      const sibling = row > 1 && this.parent[row - 1] === parent;
      if (sibling ? this.compareNames(row - 1, this, row) >= 0 : counts.has(parent)) return false;
      counts.set(parent, (counts.get(parent) ?? 0) + 1);
      const length = (this.nameEnd[row] as number) - (this.nameEnd[row - 1] as number);
      if (length < 3 && /^\.\.?$/.test(this.name(row))) return false;
    }
    for (let row = 0; row < this.length; row++)
      if (this.kind(row) === "dir" && this.size[row] !== (counts.get(row) ?? 0)) return false;
    return (this.nameEnd[this.length - 1] as number) <= this.names.length;
  }

  #text(from: number, to: number): ByteString {
    const { buffer, byteOffset } = this.names;
    return Buffer.from(buffer as ArrayBuffer, byteOffset + from, to - from).toString("latin1");
  }

  #grow(rows: number, bytes: number): void {
    const end = this.nameEnd[this.length - 1] ?? 0;
    if (end + bytes > this.names.length) this.names = grown(this.names, end + bytes);
    const need = this.length + rows;
    if (need <= this.parent.length) return;
    this.parent = grown(this.parent, need);
    this.nameEnd = grown(this.nameEnd, need);
    this.mode = grown(this.mode, need);
    this.size = grown(this.size, need);
    this.mtime = grown(this.mtime, need);
    this.inode = grown(this.inode, need);
    this.first = grown(this.first, need);
    // The runtime does not see how large the old columns are, and would keep them for long.
    if (need > collectFrom && typeof Bun !== "undefined") Bun.gc(true);
  }
}

type Column = Uint8Array | Uint32Array | Float64Array | BigInt64Array;

/** The same contents with room for `need` elements and half as many more. */
function grown<C extends Column>(column: C, need: number): C {
  const room = Math.ceil(need * 1.5);
  const type = column.constructor as new (buffer: SharedArrayBuffer) => C;
  const larger = new type(shared(room * column.BYTES_PER_ELEMENT));
  (larger as Uint8Array).set(column as Uint8Array);
  return larger;
}
