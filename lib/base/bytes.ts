/**
 * Names and paths as byte strings: each character is one byte (0 to 255).
 *
 * A file name on Linux is any bytes but `/` and NUL, not text. As a byte string it is a cheap JavaScript string that
 * compares in byte order, survives as it is, and goes to a system call unchanged: as itself where it is ASCII, else as a
 * Buffer.
 */
import { isDeno } from "./runtimes.ts";

export type ByteString = string;

const notAscii = /[\x80-\xff]/;

/** The bytes of a text (UTF-8). */
export const bytesOf = (text: string): ByteString => {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x7f) return Buffer.from(text).toString("latin1");
  return text;
};

/** What node:fs is to be given. @throws an error with the code EILSEQ where the runtime can name UTF-8 only, and this is none */
export const osPath = (path: ByteString): string | Buffer =>
  !notAscii.test(path) ? path : isDeno ? utf8Only(path) : Buffer.from(path, "latin1");

/** Deno reads other bytes as U+FFFD, and would then look for a file of that name: nothing may be said or done of it. */
function utf8Only(path: ByteString): string {
  const text = Buffer.from(path, "latin1").toString();
  if (!text.includes("\uFFFD")) return text;
  throw Object.assign(new Error(`EILSEQ: not UTF-8, '${display(path)}'`), { code: "EILSEQ", path: text });
}

/** For people: UTF-8 where it is, and escapes where a terminal would be misled (control characters, other bytes). */
export function display(name: ByteString): string {
  const text = notAscii.test(name) ? decode(name) : name;
  return text.replace(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, (c) =>
    c === "\n" ? "\\n" : c === "\t" ? "\\t" : `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

/** UTF-8 to text; a byte that is not UTF-8 becomes `\xNN`. */
function decode(name: ByteString): string {
  const bytes = Buffer.from(name, "latin1");
  const whole = bytes.toString("utf8");
  if (!whole.includes("\uFFFD")) return whole;
  return name.replace(/[\x80-\xff]+/g, (run) => {
    const text = Buffer.from(run, "latin1").toString("utf8");
    return text.includes("\uFFFD")
      ? run.replace(/./gs, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`)
      : text;
  });
}
