/**
 * Names of files are bytes. Those that are no UTF-8 are kept in strings as Python's `os.fsdecode` keeps them: a byte that cannot be decoded
 * becomes a lone surrogate, U+DC80 to U+DCFF, so each name is a different string, and each string gives its name back.
 */
import { EfError } from "../base/errors.ts";

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes as a string. */
export function nameText(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    // Sequences that are whole stay as they are; all else, byte by byte.
  }
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes, at);
    text +=
      length === 0
        ? String.fromCharCode(0xdc00 + (bytes[at] as number))
        : strict.decode(bytes.subarray(at, at + length));
    at += Math.max(1, length);
  }
  return text;
}

/** How many bytes the sequence at `at` has; 0 if it is none of UTF-8. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at] as number;
  const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  try {
    strict.decode(bytes.subarray(at, at + length));
    return at + length <= bytes.length ? length : 0;
  } catch {
    return 0;
  }
}

/** Is a byte among it that is no UTF-8? node:fs and execve(2) through node cannot be given such a name. */
export const isRawName = (text: string): boolean => /\p{Surrogate}/u.test(text);

/**
 * A string as bytes.
 *
 * @throws {EfError} USAGE for a NUL, or half a character that stands for no byte
 */
export function nameBytes(text: string): Buffer {
  if (text.includes("\0")) throw noName(text, "holds a NUL");
  if (!isRawName(text)) return Buffer.from(text);
  const pieces = Array.from(text, (char) => {
    const code = char.codePointAt(0) as number;
    if (code >= 0xdc80 && code <= 0xdcff) return Buffer.of(code - 0xdc00);
    if (code >= 0xd800 && code <= 0xdfff) throw noName(text, "holds half a character");
    return Buffer.from(char);
  });
  return Buffer.concat(pieces);
}

const noName = (text: string, why: string) =>
  new EfError("USAGE", `Cannot use ${JSON.stringify(text)} as an argument or a path: it ${why}`);

/** In the order of their bytes, as `sorted` of Python has them: by code points, not by halves of characters. */
export function sortNames(names: string[]): string[] {
  if (!names.some((name) => /[\ud800-\udfff]/.test(name))) return names.sort();
  const keys = new Map(names.map((name) => [name, Array.from(name, (char) => char.codePointAt(0) as number)]));
  return names.sort((a, b) => compare(keys.get(a) ?? [], keys.get(b) ?? []));
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < a.length && i < b.length; i++) if (a[i] !== b[i]) return (a[i] ?? 0) - (b[i] ?? 0);
  return a.length - b.length;
}
