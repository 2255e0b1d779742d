/**
 * Patterns of names as Python's `fnmatch` reads them: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`. A backslash is a character like any other, a `[`
 * without its `]` too, and a range that runs backwards holds nothing.
 *
 * @see https://docs.python.org/3/library/fnmatch.html
 */
import { quote } from "../base/shell.ts";

type Token =
  | { kind: "star" }
  | { kind: "any" }
  | { kind: "char"; char: string }
  | { kind: "set"; not: boolean; ranges: readonly (readonly [number, number])[] };

export interface Pattern {
  readonly text: string;
  readonly tokens: readonly Token[];
  /** Is it more than a name? */
  readonly isMagic: boolean;
}

export function pattern(text: string): Pattern {
  const chars = Array.from(text);
  const tokens: Token[] = [];
  for (let at = 0; at < chars.length; at++) {
    const char = chars[at] as string;
    const end = char === "[" ? endOfSet(chars, at + 1) : -1;
    if (char === "*") {
      if (tokens.at(-1)?.kind !== "star") tokens.push({ kind: "star" });
    } else if (char === "?") {
      tokens.push({ kind: "any" });
    } else if (end >= 0) {
      tokens.push(set(chars.slice(at + 1, end)));
      at = end;
    } else {
      tokens.push({ kind: "char", char });
    }
  }
  return { text, tokens, isMagic: /[*?[]/.test(text) };
}

/** Where the `]` of a set is whose contents begin at `from`; the first character may be a `]` itself. */
function endOfSet(chars: readonly string[], from: number): number {
  const first = chars[from] === "!" ? from + 1 : from;
  return chars.indexOf("]", chars[first] === "]" ? first + 1 : first);
}

function set(body: readonly string[]): Token {
  const not = body[0] === "!";
  const codes = (not ? body.slice(1) : body).map((char) => char.codePointAt(0) as number);
  const ranges: [number, number][] = [];
  const dash = 0x2d;
  for (let at = 0; at < codes.length; at++) {
    const from = codes[at] as number;
    const to = codes[at + 1] === dash ? codes[at + 2] : undefined;
    ranges.push([from, to ?? from]);
    if (to !== undefined) at += 2;
  }
  return { kind: "set", not, ranges };
}

/** Does the whole name match? In time proportional to the lengths of both, whatever the pattern is. */
export function matches({ tokens }: Pattern, name: string): boolean {
  const chars = Array.from(name);
  let [token, at] = [0, 0];
  let [star, starAt] = [-1, 0]; // the last `*`, and what it has not eaten yet
  while (at < chars.length) {
    const next = tokens[token];
    if (next?.kind === "star") {
      [star, starAt] = [token, at];
      token++;
    } else if (next && takes(next, chars[at] as string)) {
      token++;
      at++;
    } else if (star >= 0) {
      token = star + 1;
      at = ++starAt;
    } else {
      return false;
    }
  }
  while (tokens[token]?.kind === "star") token++;
  return token === tokens.length;
}

function takes(token: Token, char: string): boolean {
  if (token.kind === "any") return true;
  if (token.kind === "char") return token.char === char;
  if (token.kind !== "set") return false;
  const code = char.codePointAt(0) as number;
  return token.ranges.some(([from, to]) => from <= code && code <= to) !== token.not;
}

const isAscii = (char: string): boolean => (char.codePointAt(0) as number) < 0x80;

/** Do {@link forFind} and the pattern match the same names? */
export const isSimple = ({ tokens }: Pattern): boolean =>
  tokens.every((token) => token.kind === "star" || (token.kind === "char" && isAscii(token.char)));

/**
 * A pattern for `find -name` in the C locale that matches these names, and perhaps more: programs disagree on all but `*` and plain
 * characters, and the locale says what a character is.
 */
export const forFind = ({ tokens }: Pattern): string =>
  tokens
    .map((token) => (token.kind === "char" && isAscii(token.char) ? token.char.replace(/[*?[\]\\]/, "\\$&") : "*"))
    .join("")
    .replace(/(?<!\\)\*+/g, "*");

/** The same for pathname expansion of a POSIX shell, as a part of a script. */
export const forShell = ({ tokens }: Pattern): string =>
  tokens.map((token) => (token.kind === "char" && isAscii(token.char) ? quote("bash", token.char) : "*")).join("");
