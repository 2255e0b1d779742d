/**
 * Where a text names an old place, and the text with the new one in its stead.
 *
 * A path counts only as a whole: `/a/env` is named by `/a/env/bin`, not by `/a/env2`, `/x/a/env` or `/a/env.bak`.
 */
import type { ByteString } from "../base/bytes.ts";
import { fitsLine, formsOf, inUrl, isPlain, type Language, type Style, styles } from "./quoting.ts";

/** What was at `from` is at `to`: absolute directories without a slash at the end. */
export interface Move {
  from: ByteString;
  to: ByteString;
}

/**
 * Moves in the order in which they are tried: the longest `from` first.
 *
 * What names a new place already is left alone, so that a second run changes nothing where the new place lies in the
 * old one: for that each `to` that is no `from` becomes a move to itself.
 */
export function orderMoves(moves: readonly Move[]): Move[] {
  const byFrom = new Map<ByteString, ByteString>();
  for (const { from, to } of moves) if (isPlace(from) && isPlace(to) && !byFrom.has(from)) byFrom.set(from, to);
  if ([...byFrom].every(([from, to]) => from === to)) return [];
  for (const { to } of moves) if (isPlace(to) && !byFrom.has(to)) byFrom.set(to, to);
  return [...byFrom].map(([from, to]) => ({ from, to })).sort((a, b) => b.from.length - a.from.length);
}

/** The root and relative paths are no places that something could have moved from. */
const isPlace = (path: ByteString) => path.startsWith("/") && !path.endsWith("/");

/** Where a path is now; undefined if it is in no old place, itself if it is in a new one. */
export function movePath(path: ByteString, moves: readonly Move[]): ByteString | undefined {
  const move = moves.find(({ from }) => path === from || path.startsWith(`${from}/`));
  return move && move.to + path.slice(move.from.length);
}

/** A name goes on, or an escaped blank or an encoded character does. */
const nameGoesOn = /^(?:[A-Za-z0-9_~+@%$\x80-\xff-]|\.+[A-Za-z0-9_~+@%$\x80-\xff-]|\\[ '"]|'"'"'|'\\'')/;
/** A directory or a name before it: it is another path. */
const nameBefore = /[A-Za-z0-9_.~+@%$})\\/\x80-\xff-]$/;
/** What looks like such a name and is none: compiler flags, a value in `${X:-…}`, escapes for blanks, the beginning of a URL. */
const noName =
  /(?:(?:^|[\s"'=,:;])-(?:[ILBFR]|isystem|idirafter|iquote|isysroot)|\$\{\w+:?[-+]|\\[nrt]|\b[a-z+]+:\/\/(?:localhost)?)$/;
const urlBefore = /\bfile:\/\/(?:localhost)?$/;

interface Needle {
  text: ByteString;
  move: Move;
}

/** A place in a text. */
interface Mention extends Needle {
  at: number;
  end: number;
}

export interface Moved {
  text: ByteString;
  changed: boolean;
  /** Old places that are still named, each once. */
  left: ByteString[];
}

const needlesOf = (moves: readonly Move[], language: Language): Needle[] =>
  moves.flatMap((move) => formsOf(move.from, language).map((text) => ({ text, move })));

/** Each place where the text names one of `from`, from left to right. */
function* mentions(text: ByteString, needles: readonly Needle[]): Generator<Mention, void, number | undefined> {
  const next = needles.map((needle) => text.indexOf(needle.text));
  for (let from = 0; ; ) {
    let at = -1;
    for (const [i, needle] of needles.entries()) {
      const seen = next[i] as number;
      if (seen === -1) continue;
      if (seen < from) next[i] = text.indexOf(needle.text, from);
      const now = next[i] as number;
      if (now !== -1 && (at === -1 || now < at)) at = now;
    }
    if (at === -1) return;
    const found = needles.find((needle, i) => next[i] === at && isWhole(text, at, at + needle.text.length));
    from = at + 1;
    if (found) from = (yield { ...found, at, end: at + found.text.length }) ?? at + found.text.length;
  }
}

/** How much of the text before a place tells what it is. */
const contextBytes = 48;
const before = (text: ByteString, at: number) => text.slice(Math.max(0, at - contextBytes), at);

function isWhole(text: ByteString, at: number, end: number): boolean {
  if (nameGoesOn.test(text.slice(end, end + 8))) return false;
  const start = before(text, at);
  return !nameBefore.test(start) || noName.test(start);
}

/** The first old place that stands in the bytes of a binary, whatever stands before and after it. */
export function namesOld(bytes: ByteString, moves: readonly Move[]): ByteString | undefined {
  for (const { from, to } of moves) {
    if (from === to) continue;
    const news = moves.filter((move) => move.from === move.to && move.from.startsWith(`${from}/`));
    for (let at = bytes.indexOf(from); at !== -1; at = bytes.indexOf(from, at + 1)) {
      if (!news.some((move) => bytes.startsWith(move.from, at))) return from;
    }
  }
  return undefined;
}

/** The moves of which a text names the old place. */
export const mentioned = (text: ByteString, moves: readonly Move[], language: Language): Move[] => [
  ...new Set(Array.from(mentions(text, needlesOf(moves, language)), ({ move }) => move)),
];

/**
 * Put the new places into a text.
 *
 * @param moves in the order of {@link orderMoves}
 * @param language what quotes mean; `plain`: nothing is known, and only what needs no quotes anywhere is written;
 *   `line`: lines that are taken as they are
 */
export function moveMentions(text: ByteString, moves: readonly Move[], language: Language): Moved {
  const left = new Set<ByteString>();
  let out = "";
  let done = 0;
  const all = mentions(text, needlesOf(moves, language));
  for (let turn = all.next(); !turn.done; turn = all.next(done || undefined)) {
    const mention = turn.value;
    const { at, end, move } = mention;
    const written = move.from === move.to ? { at, end, text: text.slice(at, end) } : write(text, mention, language);
    if (!written) left.add(move.from);
    const piece = written ?? { at, end, text: text.slice(at, end) };
    out += text.slice(done, piece.at) + piece.text;
    done = piece.end;
  }
  out += text.slice(done);
  return { text: out, changed: out !== text, left: [...left] };
}

function write(text: ByteString, { at, end, move }: Mention, language: Language) {
  const { to } = move;
  const start = before(text, at);
  if (urlBefore.test(start)) return { at, end, text: inUrl(to) };
  const style = styles[language].find((one) => one.before.test(start));
  if (style) return writeStyled(text, { at, end, to, start }, style);
  if (isPlain(to) || (language === "line" && fitsLine(to))) return { at, end, text: to };
  return undefined;
}

function writeStyled(
  text: ByteString,
  { at, end, to, start }: { at: number; end: number; to: ByteString; start: ByteString },
  style: Style,
) {
  // In quotes a blank goes on with a name: "/a/my" is not "/a/my env".
  if (style.close && text[end] === " ") return undefined;
  const body = style.write(to);
  if (body !== undefined) return { at, end, text: body };
  if (!style.close || !text.startsWith(style.close, end)) return undefined;
  const whole = style.whole?.(to);
  const open = style.before.exec(start)?.[0].length ?? 0;
  return whole === undefined ? undefined : { at: at - open, end: end + style.close.length, text: whole };
}
