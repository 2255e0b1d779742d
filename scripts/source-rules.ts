/**
 * The rules of the source tree that no linter knows: which folder may import from which, what the library must not touch,
 * and how long a file may be. Pure: texts in, violations out.
 *
 * The sources are read by a small scanner instead of a parser. It knows comments, strings, templates and regular
 * expressions well enough to tell code from text, and keeps line numbers.
 */
import { dirname, join, normalize } from "node:path";

export type Source = { path: string; text: string };
export type Violation = { path: string; line: number; rule: string };

/** From the ground up: a file imports from its own layer and from those before it. */
const layers = [
  "lib/base",
  "lib/config",
  "lib/drivers",
  "lib/engine",
  "lib/envs",
  "lib/images",
  "lib/stage",
  "lib/clusters",
  "lib/pack",
  "lib/jobs",
  "lib",
  "mod.ts",
  "cmd",
];
const maxLines = 400;

/** The one file that may import zx; the others use what it exports. */
const zxHome = "lib/base/exec.ts";
const forbiddenInLib = /\bprocess\s*\.\s*(?:argv|stdout|stderr|exit)\b|\bconsole\s*\./g;

// Comments, "…", '…', `…`, and regular expressions (a slash where a value is expected, not a division).
const notCode =
  /\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\[\s\S]|[^`\\])*`|(?<=(?:[(,=:[!&|?{};]|\breturn)\s*)\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\//g;
const importsNext = /\b(?:from|import|(?:import|require)\s*\()\s*$/;

type Scanned = { code: string; imports: { specifier: string; line: number }[] };

/** The text with everything that is not code blanked out (newlines stay), and what it imports. */
function scan(text: string): Scanned {
  const imports: Scanned["imports"] = [];
  let code = "";
  let end = 0;
  for (const match of text.matchAll(notCode)) {
    code += text.slice(end, match.index);
    if (/^["'`]/.test(match[0]) && importsNext.test(code.slice(-40))) {
      imports.push({ specifier: match[0].slice(1, -1), line: lineAt(text, match.index) });
    }
    code += match[0].replace(/[^\n]/g, " ");
    end = match.index + match[0].length;
  }
  return { code: code + text.slice(end), imports };
}

export function checkSources(sources: Source[]): Violation[] {
  return sources.flatMap((source) => {
    const scanned = scan(source.text);
    return [...importDirection(source.path, scanned), ...libraryIsPure(source.path, scanned), ...length(source)];
  });
}

function importDirection(path: string, { imports }: Scanned): Violation[] {
  const own = layerOf(path);
  if (own === undefined) {
    // scripts and tests stand outside the order; a new folder in lib has to be given its place first.
    return path.startsWith("lib/")
      ? [{ path, line: 1, rule: `folder is not in the order: ${layers.join(" < ")}` }]
      : [];
  }
  return imports.flatMap(({ specifier, line }) => {
    if (specifier === "zx" || specifier.startsWith("zx/")) {
      return path.startsWith("lib/") && path !== zxHome
        ? [{ path, line, rule: `zx is imported in ${zxHome} only` }]
        : [];
    }
    const target = resolve(path, specifier);
    if (target === undefined) return [];
    const rank = layerOf(target);
    if (rank !== undefined && rank <= own) return [];
    return [{ path, line, rule: `${layers[own]} must not import from ${rank === undefined ? target : layers[rank]}` }];
  });
}

function libraryIsPure(path: string, { code }: Scanned): Violation[] {
  if (!path.startsWith("lib/")) return [];
  return [...code.matchAll(forbiddenInLib)].map((match) => ({
    path,
    line: lineAt(code, match.index),
    rule: `no ${match[0].replace(/\s|\.\s*$/g, "")} in lib/: only cmd/ talks to the terminal and ends the process`,
  }));
}

function length({ path, text }: Source): Violation[] {
  const lines = text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
  const rule = `${lines} lines, more than ${maxLines}: split the file by what it does`;
  return /^(?:lib|cmd|scripts)\//.test(path) && lines > maxLines ? [{ path, line: maxLines + 1, rule }] : [];
}

/** The file an import means, from the root of the repository; undefined for packages. */
function resolve(path: string, specifier: string): string | undefined {
  if (specifier === "ef") return "mod.ts"; // package.json, exports
  return specifier.startsWith(".") ? normalize(join(dirname(path), specifier)) : undefined;
}

function layerOf(path: string): number | undefined {
  const isIn = (layer: string) => (layer === "lib" ? dirname(path) === layer : `${path}/`.startsWith(`${layer}/`));
  const index = layers.findIndex(isIn);
  return index === -1 ? undefined : index;
}

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split("\n").length;
}
