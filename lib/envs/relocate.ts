/**
 * An environment in another place: what its files hold, made to name the new one. Bytes in, bytes out.
 *
 * Works on bytes: encodings, line endings and all that names no old place stay as they are. What cannot be said in a file
 * is told, never half done.
 */
import { basename, dirname } from "node:path/posix";
import { type ByteString, display } from "../base/bytes.ts";
import { isPython, moveHeader, readHeader } from "./launchers.ts";
import { type Move, mentioned, moveMentions, movePath, namesOld, orderMoves } from "./mentions.ts";
import { fitsLine, type Language } from "./quoting.ts";

export type { Move } from "./mentions.ts";

export interface Change {
  path: ByteString;
  /** "shebang", "launcher", "VIRTUAL_ENV", "pyvenv.cfg", ".pth", … */
  what: string;
}

/** What names an old place and was not, or cannot be, changed. */
export interface Left {
  path: ByteString;
  why: string;
  /** What it names lies outside of the environment, and is there: nothing is wrong. */
  isThere?: true;
}

export interface Relocated {
  /** The bytes that were given where nothing changed. */
  bytes: Uint8Array;
  changes: string[];
  left: string[];
}

/**
 * The contents of one file of an environment, for another place.
 *
 * @param path relative to the environment: tells what kind of file it is
 * @param moves where several fit, the one with the longest `from` counts; what names a `to` already stays
 * @example
 * relocateFile("bin/pip", bytes, [{ from: "/old/env", to: "/new/env" }]).changes; // ["shebang"]
 */
export function relocateFile(path: ByteString, bytes: Uint8Array, moves: readonly Move[]): Relocated {
  const ordered = orderMoves(moves);
  const nothing: Relocated = { bytes, changes: [], left: [] };
  if (ordered.length === 0 || isCompiled(path)) return nothing;
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  if (text.includes("\0")) {
    const old = namesOld(text, ordered);
    return old === undefined ? nothing : { ...nothing, left: [`a binary file names ${display(old)}`] };
  }
  const { text: moved, changes, left } = relocateText(path, text, ordered);
  return { bytes: moved === text ? bytes : Buffer.from(moved, "latin1"), changes, left };
}

/** Python compiles it again where it has to, and puts the place of the source in when it loads it. */
export const isCompiled = (path: ByteString): boolean => /\.py[co]$/.test(path);

interface Text {
  text: ByteString;
  changes: string[];
  left: string[];
}

function relocateText(path: ByteString, text: ByteString, moves: readonly Move[]): Text {
  if (path === "pyvenv.cfg") return byLine(text, "pyvenv.cfg", (line) => configLine(line, moves));
  const link = /\.(?:pth|egg-link)$/.exec(path)?.[0];
  if (link) return byLine(text, link, (line) => linkLine(line, moves));

  const changes = new Set<string>();
  const left: string[] = [];
  const header = moveHeader(text, moves);
  if (header?.changed) changes.add(header.changed);
  if (header?.left) left.push(header.left);
  const body = text.slice(header?.end ?? 0);
  const language = languageOf(path, text);
  const clear = isGenerated(path) || moves.every(isClear) ? moves : moves.filter(isClear);
  const rest = moveMentions(body, clear, language);
  if (rest.changed) changes.add(nameOf(path));
  for (const old of rest.left) left.push(`it names ${display(old)} where the new path would need other quotes`);
  const unclear = clear === moves ? [] : mentioned(body, moves, language).filter((move) => !isClear(move));
  for (const { from } of unclear)
    left.push(`it holds ${display(from)}, which may be that place, or mean something else`);
  return { text: (header?.text ?? "") + rest.text, changes: [...changes], left };
}

/**
 * Is a path no other text by chance? `/a` of an environment in the root directory of a container is: `</a>`, `cmd /a`.
 * It is changed only where tools write the place of an environment.
 */
const isClear = ({ from, to }: Move): boolean => from === to || from.indexOf("/", 1) !== -1;

/** Is a file written for an environment, and not part of a package? */
const isGenerated = (path: ByteString): boolean =>
  /(?:^bin\/(?:de)?activate|\/kernel\.json$|\/direct_url\.json$|\/__editable__[^/]*\.py$)/i.test(path);

interface Line {
  text: ByteString;
  left: string[];
}

/** Line by line, each without its end. */
function byLine(text: ByteString, what: string, change: (line: ByteString) => Line): Text {
  const left = new Set<string>();
  const moved = text.replace(/[^\r\n]+/g, (line) => {
    const now = change(line);
    for (const why of now.left) left.add(why);
    return now.text;
  });
  return { text: moved, changes: moved === text ? [] : [what], left: [...left] };
}

/** A line of pyvenv.cfg: Python takes what is between the `=` and the end, without blanks, and as UTF-8. */
function configLine(line: ByteString, moves: readonly Move[]): Line {
  const [, key = "", value = "", end = ""] = /^([^=]*=[ \t]*)(.*?)([ \t]*)$/.exec(line) ?? [];
  if (/^[ \t]*command[ \t]*=/.test(key)) return commandLine(key, value, end, moves);
  const moved = movePath(value, moves);
  if (moved !== undefined) return asLine(line, value, moved, (path) => key + path + end);
  return plainLine(line, moves);
}

/** `command = PYTHON -m venv … DIR`: for people; nothing is quoted in it, and the directory comes last. */
function commandLine(key: ByteString, value: ByteString, end: ByteString, moves: readonly Move[]): Line {
  const move = moves.find(({ from }) => value.endsWith(` ${from}`));
  const head = move ? value.slice(0, -move.from.length) : value;
  if (move && !fitsLine(move.to)) return { text: key + value + end, left: [noLine(move.from)] };
  const moved = moveMentions(head, moves, "line");
  return { text: key + moved.text + (move?.to ?? "") + end, left: moved.left.map(noLine) };
}

/** A line of a .pth file: a directory, or Python that begins with `import`. */
function linkLine(line: ByteString, moves: readonly Move[]): Line {
  if (/^import[ \t]/.test(line)) {
    const { text, left } = moveMentions(line, moves, "python");
    return { text, left: left.map((old) => `it names ${display(old)} in its code`) };
  }
  const bare = line.trimEnd();
  const moved = movePath(bare, moves);
  if (moved !== undefined) return asLine(line, bare, moved, (path) => path + line.slice(bare.length));
  return plainLine(line, moves);
}

function asLine(line: ByteString, old: ByteString, path: ByteString, write: (path: ByteString) => ByteString): Line {
  if (fitsLine(path) && path.trim() === path) return { text: write(path), left: [] };
  return { text: line, left: [noLine(old)] };
}

const noLine = (old: ByteString) =>
  `it names ${display(old)}: the new path holds a newline, or bytes that are not UTF-8, and cannot stand there`;

function plainLine(line: ByteString, moves: readonly Move[]): Line {
  const { text, left } = moveMentions(line, moves, "plain");
  return { text, left: left.map((old) => `it names ${display(old)}`) };
}

const languages: Record<string, Language> = {
  bash: "sh",
  bat: "bat",
  csh: "csh",
  fish: "fish",
  ipynb: "json",
  json: "json",
  ksh: "sh",
  nu: "nu",
  ps1: "ps1",
  py: "python",
  pyi: "python",
  sh: "sh",
  tcsh: "csh",
  xsh: "python",
  zsh: "sh",
};

function languageOf(path: ByteString, text: ByteString): Language {
  const name = basename(path);
  const byName = languages[/\.([a-z0-9]+)$/i.exec(name)?.[1]?.toLowerCase() ?? ""];
  if (byName) return byName;
  if (name === "activate" && dirname(path) === "bin") return "sh";
  const { kind, program } = readHeader(text) ?? {};
  if (kind === "launcher" || isPython(program ?? "")) return "python";
  return languages[basename(program ?? "")] ?? "plain";
}

/** What a change of a file is called. */
function nameOf(path: ByteString): string {
  const name = basename(path);
  if (/^activate(?:\.|$)/i.test(name) && dirname(path) === "bin") return "VIRTUAL_ENV";
  if (name === "direct_url.json" || name === "kernel.json") return name;
  if (/^__editable__.*\.py$/.test(name)) return "editable";
  return "text";
}
