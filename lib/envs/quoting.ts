/**
 * How a path stands in a text: the ways in which shells, Python and JSON quote it.
 *
 * A path that is looked for is searched in each way in which it may have been written; the new one is written in the way
 * that the place asks for. All texts are byte strings, so that names which are not UTF-8 come through.
 */
import { type ByteString, bytesOf } from "../base/bytes.ts";
import { quote } from "../base/shell.ts";

/** One way of quoting, recognised by what stands just before the path. */
export interface Style {
  /** What ends where the path begins. */
  before: RegExp;
  /** What ends the quoted text; absent where nothing in particular does. */
  close?: string;
  /** Ways in which programs write the path there, apart from as it is. */
  forms: (path: ByteString) => ByteString[];
  /** What stands there for the new path, between what is before and after; undefined if it cannot be said there. */
  write: (path: ByteString) => ByteString | undefined;
  /** The whole quoted text anew, from `before` to `close`, where `write` knows no way and there is nothing but the path. */
  whole?: (path: ByteString) => ByteString | undefined;
}

export type Language = "sh" | "csh" | "fish" | "nu" | "ps1" | "bat" | "python" | "json" | "plain" | "line";

/** Needs no quotes in any of the languages, and has no second meaning in any. */
export const isPlain = (path: ByteString): boolean => /^[A-Za-z0-9._/+@~-]+$/.test(path);

const isUtf8 = (text: ByteString): boolean => Buffer.from(Buffer.from(text, "latin1").toString()).equals(latin1(text));
const latin1 = (text: ByteString) => Buffer.from(text, "latin1");

/** May it stand on a line of its own in a file that Python reads as UTF-8? */
export const fitsLine = (path: ByteString): boolean => !/[\n\r\0]/.test(path) && isUtf8(path);

/** The body of a text in double quotes of a POSIX shell. */
const inDoubleQuotes = (text: ByteString): ByteString => text.replace(/[\\"$`]/g, "\\$&");

const between = (quoted: string): string => quoted.slice(1, -1);
const asShlex = (path: ByteString) => path.replaceAll("'", `'"'"'`);
const asBackslash = (path: ByteString) => path.replaceAll("'", "'\\''");

/** Where a path may stand without quotes. */
const bareWord = /(?:^|[\s;])(?:(?:setenv|set -gx) VIRTUAL_ENV |VIRTUAL_ENV=(?:\$\(cygpath (?:-u )?)?|\[ ! -d )$/;

/** Python 3.13 and virtualenv leave the quotes away where the path needs none. */
const bare = (shell: "bash" | "csh" | "fish"): Style => ({
  before: bareWord,
  forms: () => [],
  write: (path) => (isPlain(path) ? path : quote(shell, path)),
});

/** A text in the escapes that Python and JSON share: nothing but ASCII. */
const escaped = (text: string): string =>
  text.replace(/[\\\x00-\x1f\x7f-\uffff]/g, (c) => {
    const known = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" }[c];
    return known ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });

/** As Python reads file names: a byte that is not UTF-8 is a lone surrogate. */
function surrogateEscaped(path: ByteString): string {
  if (isUtf8(path)) return latin1(path).toString();
  return path.replace(/[\x80-\xff]+/g, (run) => {
    if (isUtf8(run)) return latin1(run).toString();
    let text = "";
    for (let at = 0; at < run.length; ) {
      const length = [2, 3, 4].find((n) => at + n <= run.length && isOneCharacter(run.slice(at, at + n)));
      text += length ? latin1(run.slice(at, at + length)).toString() : String.fromCharCode(0xdc00 + run.charCodeAt(at));
      at += length ?? 1;
    }
    return text;
  });
}

const isOneCharacter = (bytes: ByteString) => isUtf8(bytes) && [...latin1(bytes).toString()].length === 1;

/** JSON with nothing but ASCII: a character beyond U+FFFF is two escapes there. */
const inJson = (path: ByteString) => escaped(surrogateEscaped(path)).replaceAll('"', '\\"');

/** A Python string with nothing but ASCII: there such a character is one long escape. */
function inPython(path: ByteString, mark: string): ByteString {
  const parts = surrogateEscaped(path).split(/([\ud800-\udbff][\udc00-\udfff])/);
  const wide = (pair: string) => `\\U${(pair.codePointAt(0) ?? 0).toString(16).padStart(8, "0")}`;
  return parts
    .map((part, i) => (i % 2 ? wide(part) : escaped(part)))
    .join("")
    .replaceAll(mark, `\\${mark}`);
}

/** As repr() writes it: characters as they are. */
const asRepr = (path: ByteString, mark: string) => path.replaceAll("\\", "\\\\").replaceAll(mark, `\\${mark}`);

function pythonStyle(mark: string): Style[] {
  const forms = (path: ByteString) => [asRepr(path, mark), inPython(path, mark)];
  return [
    // r"", b"", f"": only what means the same in all of them
    { before: new RegExp(`[A-Za-z]${mark}$`), forms, write: (path) => (isPlain(path) ? path : undefined) },
    { before: new RegExp(`${mark}$`), close: mark, forms, write: (path) => inPython(path, mark) },
  ];
}

const nuRaw: Style = {
  before: /r(#+)'$/,
  close: "'#",
  forms: () => [],
  write: (path) => (path.includes("'#") || !fitsLine(path) ? undefined : path),
};

/** Ways of quoting by language: the first whose `before` fits is meant. */
export const styles: Record<Language, readonly Style[]> = {
  sh: [
    {
      // virtualenv: a path that is quoted as a word, but stands inside of double quotes
      before: /"Virtual environment directory '?$/,
      forms: (path) => [asShlex(path), inDoubleQuotes(path)],
      write: inDoubleQuotes,
    },
    { before: /'$/, close: "'", forms: (path) => [asShlex(path), asBackslash(path)], write: asShlex },
    { before: /"$/, close: '"', forms: (path) => [inDoubleQuotes(path)], write: inDoubleQuotes },
    bare("bash"),
  ],
  csh: [
    {
      before: /'$/,
      close: "'",
      forms: (path) => [asShlex(path), between(quote("csh", path))],
      write: (path) => between(quote("csh", path)),
    },
    {
      before: /"$/,
      close: '"',
      forms: () => [],
      write: (path) => (/[$`"!\\\n]/.test(path) ? undefined : path),
      whole: (path) => quote("csh", path),
    },
    bare("csh"),
  ],
  fish: [
    {
      before: /'$/,
      close: "'",
      forms: (path) => [asShlex(path), path.replace(/['\\]/g, "\\$&"), between(quote("fish", path))],
      write: (path) => between(quote("fish", path)),
    },
    {
      before: /"$/,
      close: '"',
      forms: (path) => [path.replace(/[\\"$]/g, "\\$&")],
      write: (path) => path.replace(/[\\"$]/g, "\\$&"),
    },
    bare("fish"),
  ],
  nu: [
    nuRaw,
    {
      before: /'$/,
      close: "'",
      forms: (path) => [asShlex(path)],
      write: (path) => (path.includes("'") || !fitsLine(path) ? undefined : path),
      whole: (path) => (fitsLine(path) ? `"${path.replace(/[\\"]/g, "\\$&")}"` : undefined),
    },
    {
      before: /"$/,
      close: '"',
      forms: (path) => [path.replace(/[\\"]/g, "\\$&")],
      write: (path) => (fitsLine(path) ? path.replace(/[\\"]/g, "\\$&") : undefined),
    },
  ],
  ps1: [
    {
      before: /'$/,
      close: "'",
      forms: (path) => [path.replaceAll("'", "''")],
      // U+2018 to U+201B end the text as well
      write: (path) => (path.includes("\xe2\x80") ? undefined : path.replaceAll("'", "''")),
    },
    {
      before: /"$/,
      close: '"',
      forms: (path) => [path.replace(/[`"$]/g, "`$&")],
      write: (path) => (path.includes("\xe2\x80") ? undefined : path.replace(/[`"$]/g, "`$&")),
    },
  ],
  bat: [
    {
      before: /"$/,
      close: '"',
      forms: (path) => [path.replaceAll("%", "%%")],
      write: (path) => (/["\n\r]/.test(path) ? undefined : path.replaceAll("%", "%%")),
      // uv writes it as it is, which Windows, where no name has a quote, can read
      whole: (path) => (/[\n\r]/.test(path) ? undefined : `"${path.replaceAll("%", "%%")}"`),
    },
  ],
  python: [...pythonStyle("'"), ...pythonStyle('"')],
  json: [{ before: /"$/, close: '"', forms: (path) => [path.replace(/[\\"]/g, "\\$&"), inJson(path)], write: inJson }],
  plain: [],
  line: [],
};

/** Of `file://` URLs: as Python's `quote` writes, which all read. */
export const inUrl = (path: ByteString): ByteString =>
  path.replace(/[^A-Za-z0-9_.~/-]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);

/** As the `url` crate writes (uv), whose set of characters is another. */
const inUrlOfUv = (path: ByteString): ByteString => path.replace(/[\x00-\x20"#%<>?\\^`{|}\x7f-\xff]/g, (c) => inUrl(c));

/** The bytes of a percent-encoded text. */
export const fromUrl = (text: ByteString): ByteString =>
  text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));

/** All ways in which a path may be written in a language, itself first. */
export function formsOf(path: ByteString, language: Language): ByteString[] {
  if (isPlain(path) && !/[+@]/.test(path)) return [path];
  const forms = styles[language].flatMap((style) => style.forms(path));
  return [...new Set([path, inUrl(path), inUrlOfUv(path), ...forms.map(bytesIfText)])];
}

/** A form is ASCII, or made from bytes: both are byte strings. */
const bytesIfText = (form: string): ByteString => (/[^\x00-\xff]/.test(form) ? bytesOf(form) : form);
