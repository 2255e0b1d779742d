/** Where a module of the project is, as Python's own import would find it. */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";

export type Found =
  | { kind: "module"; file: string }
  | { kind: "package"; file: string; dir: string }
  /** A directory without `__init__.py`; it may have parts below several roots. */
  | { kind: "namespace"; dirs: string[] }
  /** A compiled module of the project: it runs on machines like this one only. */
  | { kind: "extension"; file: string };

/** Endings of compiled modules, as importlib.machinery.EXTENSION_SUFFIXES has them, of any version. */
const compiled = /^\.(?:cpython-\d+\w*-[\w-]+|abi3|pypy\d+-[\w-]+)?\.?so$/;

/**
 * Looks for modules below the roots, the first that has one winning: a package before a compiled module, that before a file, and
 * only where there is none of them a namespace.
 *
 * @see https://docs.python.org/3/reference/import.html#the-path-based-finder
 */
export class Modules {
  readonly #names = new Map<string, Set<string>>();
  readonly #found = new Map<string, Found | undefined>();

  /** @param roots absolute, in their order */
  constructor(readonly roots: readonly string[]) {}

  /** @param name `a.b.c` */
  find(name: string): Found | undefined {
    if (!this.#found.has(name)) this.#found.set(name, this.#look(name));
    return this.#found.get(name);
  }

  #look(name: string): Found | undefined {
    const at = name.lastIndexOf(".");
    if (at < 0) return this.#in(this.roots, name);
    const parent = this.find(name.slice(0, at));
    const dirs = parent?.kind === "package" ? [parent.dir] : parent?.kind === "namespace" ? parent.dirs : [];
    return this.#in(dirs, name.slice(at + 1));
  }

  #in(dirs: readonly string[], last: string): Found | undefined {
    if (last === "") return undefined;
    const namespaces: string[] = [];
    for (const dir of dirs) {
      const names = this.#namesIn(dir);
      const inside = join(dir, last);
      const isDirectory = names.has(last) && isDir(inside);
      if (isDirectory && this.#namesIn(inside).has("__init__.py"))
        return { kind: "package", file: join(inside, "__init__.py"), dir: inside };
      for (const each of names)
        if (each.startsWith(`${last}.`) && compiled.test(each.slice(last.length)))
          return { kind: "extension", file: join(dir, each) };
      if (names.has(`${last}.py`) && !isDir(`${inside}.py`)) return { kind: "module", file: `${inside}.py` };
      if (isDirectory) namespaces.push(inside);
    }
    return namespaces.length > 0 ? { kind: "namespace", dirs: namespaces } : undefined;
  }

  #namesIn(dir: string): Set<string> {
    const known = this.#names.get(dir);
    if (known) return known;
    let names: Set<string>;
    try {
      names = new Set(readdirSync(dir));
    } catch {
      names = new Set(); // not there, or not readable: Python passes over it too
    }
    this.#names.set(dir, names);
    return names;
  }
}

function isDir(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** The directory that an import of a file's package begins in, and its name there: `src`, `pkg.sub.mod`. */
export function placeOf(file: string): { root: string; module: string } {
  const parts = file.split("/");
  const last = (parts.pop() ?? "").replace(/\.py$/, "");
  const names = last === "__init__" ? [] : [last];
  for (; parts.length > 1; ) {
    if (!hasInit(parts.join("/"))) break;
    names.unshift(parts.pop() as string);
  }
  return { root: parts.join("/") || "/", module: names.join(".") };
}

function hasInit(dir: string): boolean {
  try {
    return statSync(`${dir}/__init__.py`).isFile();
  } catch {
    return false;
  }
}
