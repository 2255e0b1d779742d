/** The files of a package while they are found, what is warned of, and where each of them is in the archive. */
import { readdirSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import { EfError } from "../base/errors.ts";
import { isWithin } from "../base/paths.ts";
import type { PackageFile } from "./analysis.ts";
import type { Wanted } from "./data-calls.ts";
import type { PackageWarning } from "./package.ts";

/** More files than that a directory of data does not have: it is a data set. */
const mostDataFiles = 10_000;

export class Gathering {
  /** By their paths in the archive. */
  readonly files = new Map<string, PackageFile>();
  readonly warnings = new Map<string, PackageWarning>();

  /**
   * @param root of the project
   * @param roots of imports
   * @param cwd where the code runs
   */
  constructor(
    readonly root: string,
    readonly roots: readonly string[],
    readonly cwd: string,
  ) {}

  want(file: string, wanted: Wanted): void {
    const { lineno } = wanted;
    if (wanted.kind === "unknown") {
      this.warn(file, lineno, `only running it would tell which file is read here: ${shorten(wanted.text)}`);
      return;
    }
    if (wanted.kind === "package") {
      this.#addTree(wanted.dir, file, lineno);
      return;
    }
    const base = this.cwd;
    if (wanted.kind === "glob") {
      const dir = resolve(base, wanted.dir);
      const pattern = isAbsolute(wanted.pattern) ? wanted.pattern : join(dir, wanted.pattern);
      const fixed = pattern.split("/").findIndex((part) => /[*?[]/.test(part));
      const start =
        pattern
          .split("/")
          .slice(0, fixed < 0 ? -1 : fixed)
          .join("/") || "/";
      if (this.#isOutside(start, file, lineno, wanted.pattern)) return;
      const matches = matcher(pattern);
      this.#addTree(start, file, lineno, (path) => matches(path));
      return;
    }
    const path = resolve(base, wanted.path);
    if (wanted.path === "" || this.#isOutside(path, file, lineno, wanted.path)) return;
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat?.isDirectory()) this.#addTree(path, file, lineno, () => true);
    else if (stat?.isFile()) this.add(path, path.endsWith(".py") ? "code" : "data");
    else if (wanted.mustExist)
      this.warn(file, lineno, `there is no ${this.shown(path)}: it must be there when it runs`);
  }

  #isOutside(path: string, file: string, lineno: number, shown: string): boolean {
    if (this.roots.some((root) => isWithin(path, root)) || isWithin(path, this.root)) return false;
    this.warn(file, lineno, `${shown} is outside of the project and not packed: it must be there on the cluster`);
    return true;
  }

  /** The data of a directory: what is not code. Links that lead back to where they lie are not followed. */
  #addTree(
    dir: string,
    file: string,
    lineno: number,
    wants: (path: string) => boolean = (path) => !path.endsWith(".py"),
  ): void {
    let count = 0;
    const visit = (at: string, inside: readonly number[]) => {
      for (const name of namesIn(at)) {
        const path = join(at, name);
        if (["__pycache__", ".git", ".venv", "node_modules"].includes(name)) continue;
        const stat = statSync(path, { throwIfNoEntry: false });
        if (stat?.isDirectory() && !inside.includes(stat.ino)) visit(path, [...inside, stat.ino]);
        if (!stat?.isFile() || !wants(path)) continue;
        this.add(path, path.endsWith(".py") ? "code" : "data");
        if (++count > mostDataFiles)
          throw new EfError(
            "NOT_PACKABLE",
            `Cannot pack ${this.shown(dir)}, which ${this.shown(file)}:${lineno} reads: more than ${mostDataFiles} files`,
            {
              hint: "stage it with ef sync, or let the code take the place of its data as an argument",
              path: dir,
            },
          );
      }
    };
    visit(dir, []);
  }

  add(source: string, why: PackageFile["why"]): void {
    const path = this.archivePath(source);
    const there = this.files.get(path);
    if (there && there.source !== source)
      throw new EfError(
        "NOT_PACKABLE",
        `Cannot pack ${source} and ${there.source}: both would be ${path} in the package`,
        { path: source },
      );
    if (!there) this.files.set(path, { path, source, why });
  }

  /** Where a file is in the archive: in the project by its relative place, else below its import root. */
  archivePath(source: string): string {
    const inside = (root: string, prefix: string) => `${prefix}/${relative(root, source)}`;
    const path = isWithin(source, this.root) ? inside(this.root, "files") : this.#otherPath(source, inside);
    if (/[\0\uFFFD]/.test(path))
      throw new EfError("NOT_PACKABLE", `Cannot pack ${JSON.stringify(source)}: its name cannot be in a package`, {
        path: source,
      });
    return path;
  }

  #otherPath(source: string, inside: (root: string, prefix: string) => string): string {
    const i = this.roots.findIndex((root) => isWithin(source, root));
    return inside(this.roots[i] ?? dirname(source), `paths/${i}`);
  }

  warn(file: string, lineno: number, message: string): void {
    const path = this.archivePath(file);
    const key = `${path}:${lineno}:${message}`;
    if (!this.warnings.has(key)) this.warnings.set(key, { file: path, lineno, message });
  }

  shown(path: string): string {
    return isWithin(path, this.root) ? relative(this.root, path) || "." : path;
  }
}

/** As Python's glob: `*` stays within a name and passes over hidden ones, `**` goes down. */
function matcher(pattern: string): (path: string) => boolean {
  const parts = pattern.split("/").map((part, i, all) => {
    const isLast = i === all.length - 1;
    if (part === "**") return isLast ? ".*" : "(?:[^/]+/)*";
    const text = part
      .replace(/[.+^${}()|\\]/g, "\\$&")
      .replaceAll("[!", "[^")
      .replaceAll("?", "[^/]")
      .replaceAll("*", "[^/]*");
    return `${/^[*?]/.test(part) ? "(?!\\.)" : ""}${text}${isLast ? "" : "/"}`;
  });
  try {
    const compiled = new RegExp(`^${parts.join("")}$`);
    return (path) => compiled.test(path);
  } catch {
    return () => false;
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch {
    return [];
  }
}

export const shorten = (text: string): string => {
  const line = text.replaceAll(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
};
