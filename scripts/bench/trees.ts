/**
 * The trees that are copied: made from a seed, so everybody measures the same bytes. Synchronous calls and no process:
 * 20,000 files take about a second.
 */
import {
  closeSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  type Stats,
  symlinkSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";

export interface Making {
  /** Below 1 for a smaller tree of the same shape: fewer files and directories; for `hf` smaller blobs. @default 1 */
  scale?: number;
  /** @default 1 */
  seed?: number;
}

interface Recipe {
  about: string;
  make: (pen: Pen, scale: number) => void;
}

/** What lies in a tree, as far as the number of requests that it takes depends on it. */
export interface Survey {
  /** The root is one of them. */
  directories: number;
  /** Names of regular files; hard links are several names of one file. */
  names: number;
  symlinks: number;
  /** The size of each regular file, hard links once. */
  sizes: number[];
}

/** Modification times start here and go on in seconds: old, so that a file that was changed is newer. */
const epoch = Date.UTC(2024, 0, 1) / 1000;

export const treeNames = ["pip", "hf", "conda", "million"] as const;
export type TreeName = (typeof treeNames)[number];

const kilo = 1024;

export const recipes: Record<TreeName, Recipe> = {
  /** Two levels of hexadecimal digits, as pip, npm and ccache keep what they loaded. */
  pip: {
    about: "package cache: 20,000 files of 1-16 KB in 273 directories, 175 MB",
    make: (pen, scale) => {
      const leaves = atLeastOne(256 * scale);
      const leaf = (i: number) => `${hex(Math.floor(i / 16), 1)}/${hex(i, 2)}`;
      for (let i = 0; i < atLeastOne(20_000 * scale); i++) {
        pen.file(`${leaf(i % leaves)}/${pen.digest(28)}`, pen.between(kilo, 16 * kilo));
      }
    },
  },

  /** HuggingFace hub: blobs by digest, and snapshots whose names are links to them. */
  hf: {
    about: "models: 63 files of which three of 200 MB, 59 symlinks to them, 603 MB",
    make: (pen, scale) => {
      pen.file("version.txt", 1);
      for (const [model, count] of [
        ["models--org--large", 25],
        ["models--org--base", 20],
        ["datasets--org--set", 14],
      ] as const) {
        const commit = pen.digest(40);
        pen.file(`${model}/refs/main`, 40);
        for (let i = 0; i < count; i++) {
          const blob = pen.digest(i === 0 ? 64 : 40);
          pen.file(`${model}/blobs/${blob}`, i === 0 ? atLeastOne(200e6 * scale) : pen.between(kilo, 100 * kilo));
          const name = i === 0 ? "model.safetensors" : `part-${i}.json`;
          pen.symlink(`${model}/snapshots/${commit}/${name}`, `../../blobs/${blob}`);
        }
      }
    },
  },

  /** conda: packages unpacked in pkgs/, an environment of hard links to them, libraries with a link for their version. */
  conda: {
    about: "environments: 14,400 files in 1,542 directories, a third of the names hard links, 619 symlinks",
    make: (pen, scale) => {
      const count = atLeastOne(4800 * scale);
      // The root, pkgs, envs, envs/main; the others are shared out evenly.
      const leaves = Math.max(1, Math.round((1542 * scale - 4) / 2));
      const place = (i: number) => `lib-${hex(i % leaves, 3)}`;
      const size = () => (pen.between(0, 100) < 2 ? pen.between(100 * kilo, 900 * kilo) : pen.between(0, 14 * kilo));
      for (let i = 0; i < count; i++) {
        const name = `${place(i)}/mod_${i}.py`;
        pen.file(`pkgs/${name}`, size());
        pen.hardLink(`envs/main/${name}`, `pkgs/${name}`);
        pen.file(i % 2 ? `pkgs/${place(i)}/info_${i}.json` : `envs/main/${place(i)}/mod_${i}.pyc`, size());
      }
      for (let i = 0; i < atLeastOne(619 * scale); i++) {
        pen.symlink(`envs/main/${place(i)}/libx${i}.so`, `mod_${i}.py`);
      }
    },
  },

  million: {
    about: "1,000,000 files of 0.1-1 KB in 4,369 directories; takes some minutes, only on request",
    make: (pen, scale) => {
      const leaves = atLeastOne(4096 * scale);
      for (let i = 0; i < atLeastOne(1_000_000 * scale); i++) {
        const digits = hex(i % leaves, 3);
        pen.file(`${digits[0]}/${digits[1]}/${digits}/${i}`, pen.between(100, 1000));
      }
    },
  },
};

/** Make a tree in the directory `root`, which must not be there yet. */
export function makeTree(name: TreeName, root: string, { scale = 1, seed = 1 }: Making = {}): void {
  const pen = new Pen(root, seed);
  recipes[name].make(pen, scale);
  pen.finish();
}

/** Writes a tree, and draws names, sizes and contents from one generator of numbers. */
class Pen {
  readonly #root: string;
  readonly #ink: Buffer;
  readonly #directories = new Set<string>();
  #state: number;
  #written = 0;

  constructor(root: string, seed: number) {
    this.#root = root;
    this.#state = seed;
    const words = new Uint32Array(1 << 18).map(() => this.#next());
    this.#ink = Buffer.from(words.buffer);
    mkdirSync(root);
  }

  /** Marsaglia's xorshift32, mixed by a multiplication: the low bits are as good as the high ones. */
  #next(): number {
    let x = this.#state || 1;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return Math.imul(x, 0x9e3779b1) >>> 0;
  }

  /** A whole number, both ends included. */
  between(low: number, high: number): number {
    return low + Math.floor((this.#next() / 2 ** 32) * (high - low + 1));
  }

  digest(digits: number): string {
    let text = "";
    while (text.length < digits) text += hex(this.#next(), 8);
    return text.slice(0, digits);
  }

  file(path: string, size: number): void {
    const fd = openSync(this.#prepare(path), "wx", 0o644);
    try {
      // Each file a piece of the ink from a place of its own: no two are the same, and nothing compresses.
      for (let left = size; left > 0; ) {
        const from = this.between(0, this.#ink.length / 2);
        left -= writeSync(fd, this.#ink, from, Math.min(left, this.#ink.length - from));
      }
    } finally {
      closeSync(fd);
    }
    utimesSync(join(this.#root, path), epoch, epoch + this.#written++);
  }

  symlink(path: string, to: string): void {
    const full = this.#prepare(path);
    symlinkSync(to, full);
    lutimesSync(full, epoch, epoch + this.#written++);
  }

  hardLink(path: string, of: string): void {
    linkSync(join(this.#root, of), this.#prepare(path));
  }

  #prepare(path: string): string {
    const full = join(this.#root, path);
    if (!this.#directories.has(dirname(full))) {
      mkdirSync(dirname(full), { recursive: true });
      for (let dir = dirname(full); dir.length >= this.#root.length; dir = dirname(dir)) this.#directories.add(dir);
    }
    return full;
  }

  /** Times of directories last: each name that is made in one changes them. */
  finish(): void {
    for (const directory of this.#directories) utimesSync(directory, epoch, epoch + this.#written++);
  }
}

/** Every path of a tree below `root`, sorted within its directory: directories before what is in them. */
export function* walk(root: string, below = ""): Generator<{ path: string; stat: Stats }> {
  for (const name of readdirSync(join(root, below)).sort()) {
    const path = below === "" ? name : `${below}/${name}`;
    const stat = lstatSync(join(root, path));
    yield { path, stat };
    if (stat.isDirectory()) yield* walk(root, path);
  }
}

export function survey(root: string): Survey {
  const found: Survey = { directories: 1, names: 0, symlinks: 0, sizes: [] };
  const linked = new Set<number>();
  for (const { stat } of walk(root)) {
    if (stat.isDirectory()) found.directories++;
    else if (stat.isSymbolicLink()) found.symlinks++;
    else {
      found.names++;
      if (stat.nlink === 1 || !linked.has(stat.ino)) found.sizes.push(stat.size);
      linked.add(stat.ino);
    }
  }
  return found;
}

/** The paths of about 1 % of the regular files, at least one and none of the huge: which, depends on `turn`. */
export function onePercent(root: string, turn: number): string[] {
  const files = [...walk(root)].filter(({ stat }) => stat.isFile() && stat.size > 0 && stat.size < 1e6);
  const step = Math.min(100, files.length);
  return files.filter((_, i) => i % step === turn % step).map(({ path }) => path);
}

/** Overwrite the beginning of files in place: same size, other content, a new modification time. */
export function changeFiles(root: string, paths: string[], turn: number): void {
  for (const path of paths) {
    const fd = openSync(join(root, path), "r+");
    const size = Math.min(8, lstatSync(join(root, path)).size);
    writeSync(fd, Buffer.from(`${turn}`.padStart(8)), 8 - size, size, 0);
    closeSync(fd);
  }
}

const hex = (number: number, digits: number) => number.toString(16).padStart(digits, "0");
const atLeastOne = (number: number) => Math.max(1, Math.round(number));
