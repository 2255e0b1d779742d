/**
 * The `import … from` of a script and of its own files, by their text.
 *
 * The runtime tells what could not be imported, and not where. This is for its messages alone, so a small scanner does:
 * what it finds in a comment is never what could not be imported.
 */
import { readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

/** A place in a file; line and column from 1. */
export interface Place {
  file: string;
  line: number;
  column: number;
}

/** One statement that imports, or exports from elsewhere. */
export interface ImportStatement {
  specifier: string;
  /** The file it means, where that is one of the script's own. */
  target: string | undefined;
  place: Place;
  /** Where a name stands in it. */
  placeOf(name: string): Place | undefined;
}

/** More files than any script has. */
const mostFiles = 1000;

/** What stands between `import` and `from` holds no quote and no semicolon; `import(…)` is none of them. */
const statement =
  /(?:^|;)[ \t]*(?:import\s+(?=[\w$*{'"])|import(?=[{*'"])|export\s*(?:type\s*)?(?=[*{]))(?<names>[^"'`;]*?)\s*(?<quote>["'])(?<specifier>[^"'\n]+)\k<quote>/gm;

/** Every such statement of the script and of the files that it imports by them, the script's first. */
export function importsOf(script: string, read: (file: string) => string = readText): ImportStatement[] {
  const files = [script];
  const all: ImportStatement[] = [];
  for (let i = 0; i < files.length && i < mostFiles; i++) {
    const file = files[i] as string;
    for (const found of statementsOf(file, read(file))) {
      all.push(found);
      if (found.target !== undefined && !files.includes(found.target)) files.push(found.target);
    }
  }
  return all;
}

function statementsOf(file: string, text: string): ImportStatement[] {
  return [...text.matchAll(statement)].map(({ 0: whole, index, groups }) => {
    const { names = "", specifier = "" } = groups ?? {};
    const at = (offset: number) => placeAt(file, text, offset);
    const namesAt = index + whole.indexOf(names);
    return {
      specifier,
      target: ownFile(file, specifier),
      place: at(index + whole.length - specifier.length - 2),
      placeOf(name) {
        const found = new RegExp(`(?<![\\w$])${name.replaceAll("$", "\\$")}(?![\\w$])`).exec(names);
        return found ? at(namesAt + found.index) : undefined;
      },
    };
  });
}

/** As a text editor counts them. */
function placeAt(file: string, text: string, offset: number): Place {
  const before = text.slice(0, offset).split("\n");
  return { file, line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

/** As the runtime finds it: by its name, with an ending, or as a directory with an index. */
function ownFile(from: string, specifier: string): string | undefined {
  if (!/^\.{0,2}\//.test(specifier)) return undefined;
  const path = resolve(dirname(from), specifier);
  const kinds = [".ts", ".tsx", ".mts", ".js", ".jsx", ".mjs", ".cjs"];
  const names = [path, ...kinds.map((kind) => path + kind), path.replace(/js(x?)$/, "ts$1")];
  return [...names, ...kinds.map((kind) => join(path, `index${kind}`))].find(isFile);
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** The text of a file, empty if it cannot be read: it is for a message about something else. */
export function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
