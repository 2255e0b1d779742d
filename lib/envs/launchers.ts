/**
 * The first lines of a script: which program runs it.
 *
 * The kernel takes `#!` lines of at most 127 bytes (Linux before 5.1) whose path holds no blank. Where a path does not fit,
 * pip, distlib and uv write a script that is both: sh replaces itself by Python, which takes the same lines for a string.
 */
import type { ByteString } from "../base/bytes.ts";
import { type Move, movePath } from "./mentions.ts";
import { fitsLine } from "./quoting.ts";

/** What a shebang may have, its newline included: distlib's, pip's and uv's rule. */
const mostBytes = 127;

/** As PEP 263 has it. */
const codingLine = /^[ \t\f]*#.*?coding[:=][ \t]*([-_.a-zA-Z0-9]+).*(?:\n|$)/;
const codingInside = /coding[:=]/;
const hasMore = /[\x80-\xff]/;

export const isPython = (program: ByteString): boolean => /\/(?:python|pypy)[0-9.]*t?$/.test(program);

export interface Header {
  /** In what form the lines are. */
  kind: "shebang" | "launcher";
  program: ByteString;
  /** Between the program and the script. */
  args: ByteString;
  /** What follows the program on a shebang, as it is: blanks, arguments, a carriage return. */
  tail: ByteString;
  /** The line that declares the encoding, where it stands before the launcher. */
  coding: ByteString;
  /** Where the script itself begins. */
  end: number;
}

/** A word of sh, in quotes of any sort: the source of a regular expression without groups that capture. */
export const word = `"\\$\\(printf '[^'\\n]*'\\)"|(?:"(?:[^"\\\\]|\\\\[\\s\\S])*"|'[^']*'|\\\\.|[^\\s"'\\\\])+`;
const launcher = new RegExp(
  `^#![ \\t]*/bin/sh[ \\t]*\\r?\\n((?:[ \\t\\f]*#[^\\n]*\\n)?)` +
    `(?:'''exec'|\\f# 2>/dev/null; exec)[ \\t]+(${word})([^"\\n]*?) "\\$0" "\\$@"[ \\t]*\\r?\\n(?:' '''[ \\t]*(?:\\r?\\n|$))?`,
);

/**
 * @param moves places in which a program may be whose path holds a blank: such a `#!` line never worked, and can be mended
 * @returns undefined if the text does not begin as a script does
 */
export function readHeader(text: ByteString, moves: readonly Move[] = []): Header | undefined {
  const found = launcher.exec(text);
  if (found) {
    const [all, coding = "", quoted = "", rest = ""] = found;
    const args = rest.trim().replace(/^'(.*)'$/, "$1");
    return { kind: "launcher", program: readWord(quoted), args, tail: "", coding, end: all.length };
  }
  const line = /^#![ \t]*([^\n]*)/.exec(text);
  if (!line) return undefined;
  const [all, content = ""] = line;
  const old = moves.find(({ from }) => content.startsWith(`${from}/`))?.from ?? "";
  const program = old + (/^[^\s]*/.exec(content.slice(old.length))?.[0] ?? "");
  const tail = content.slice(program.length);
  return { kind: "shebang", program, args: tail.trim(), tail, coding: "", end: all.length + 1 };
}

/** A word of sh: quotes of all sorts, and our own `"$(printf '…')"`. A `$` stands for itself. */
export function readWord(quoted: ByteString): ByteString {
  const octal = /^"\$\(printf '([^']*)'\)"$/.exec(quoted)?.[1];
  if (octal !== undefined) {
    return octal.replace(/%%|\\([0-7]{1,3})/g, (_, digits?: string) =>
      digits === undefined ? "%" : String.fromCharCode(Number.parseInt(digits, 8)),
    );
  }
  return quoted.replace(/'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)/gs, (_, single, double, one) => {
    if (double !== undefined) return (double as string).replace(/\\([\\"$`])/g, "$1").replaceAll("\\\n", "");
    return single ?? one;
  });
}

export interface MovedHeader {
  text: ByteString;
  /** Where the script goes on in the old text. */
  end: number;
  changed?: "shebang" | "launcher";
  left?: string;
}

/** What the lines are to say. */
interface Target {
  program: ByteString;
  /** The encoding of the script is not UTF-8: a path could not be read in it. */
  asciiOnly: boolean;
}

/** The first lines with the new place of the program; undefined if they name none, neither old nor new. */
export function moveHeader(text: ByteString, moves: readonly Move[]): MovedHeader | undefined {
  const header = readHeader(text, moves);
  const program = header && movePath(header.program, moves);
  if (!header || program === undefined) return undefined;
  const { kind, end } = header;
  const same = { text: text.slice(0, end), end };
  if (program === header.program) return same;

  const coding = header.coding || (codingLine.exec(text.slice(end))?.[0] ?? "");
  const encoding = codingLine.exec(coding)?.[1] ?? "utf-8";
  const to = { program, asciiOnly: isPython(program) && !/^utf[-_]?8/i.test(encoding) };
  const line = asShebang(header, to);
  if (line !== undefined) {
    const newline = end > text.length ? "" : "\n";
    return { text: line + newline + header.coding, end, changed: "shebang" };
  }
  if (!isPython(program)) return { ...same, left: "the new path of its program does not fit on a #! line" };
  const option = launcherOption(header.args);
  if (option === undefined) return { ...same, left: "the arguments on its #! line cannot be kept" };
  // Only the first two lines can declare an encoding; that of UTF-8 stays where pip and uv leave it, behind.
  const takes = kind === "shebang" && to.asciiOnly ? coding.length : 0;
  const call = `${launcherWord(to)}${option} "$0" "$@"\n`;
  const lines = startsWithString(text.slice(end + takes)) ? `\f# 2>/dev/null; exec ${call}` : `'''exec' ${call}' '''\n`;
  return { text: `#!/bin/sh\n${takes > 0 ? coding : header.coding}${lines}`, end: end + takes, changed: "launcher" };
}

/** Without its newline; undefined if the kernel or Python could not read it. */
function asShebang({ kind, args, tail }: Header, { program, asciiOnly }: Target): ByteString | undefined {
  if (kind === "launcher" && /\s/.test(args)) return undefined; // the kernel hands over one argument
  const line = `#!${program}${kind === "shebang" ? tail : args && ` ${args}`}`;
  if (line.length + 1 > mostBytes || !/^[\x21-\x7e\x80-\xff]+$/.test(program)) return undefined;
  if (!isPython(program)) return line;
  return fitsLine(program) && !codingInside.test(program) && !(asciiOnly && hasMore.test(program)) ? line : undefined;
}

/** What stands between the program and the script, for sh and in a string of Python. */
function launcherOption(args: ByteString): ByteString | undefined {
  if (args === "") return "";
  if (/^[\w=.,:/+-]+(?: +[\w=.,:/+-]+)*$/.test(args)) return ` ${args}`;
  return /["'\\\x00-\x1f\x7f-\xff]/.test(args) ? undefined : ` '${args}'`;
}

/**
 * A path as a word that means itself to sh, and to Python as a part of a string in `'''` or of a comment: where that is
 * in doubt, every character that is not plain is an octal escape, which both read alike, for sh's printf.
 */
function launcherWord({ program, asciiOnly }: Target): ByteString {
  const isSafe = fitsLine(program) && !(asciiOnly && hasMore.test(program)) && !codingInside.test(program);
  if (isSafe && !/['"$`\\\x00-\x1f\x7f]/.test(program)) return `"${program}"`;
  const octal = program.replace(/[^A-Za-z0-9/._+@%-]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, "0")}`);
  return `"$(printf '${octal.replaceAll("%", "%%")}')"`;
}

/**
 * Does a Python script begin with a string, which is its `__doc__`, and behind which alone `from __future__` may stand?
 *
 * A launcher that is a string itself would take that place (https://github.com/astral-sh/uv/issues/6489). There it is a
 * comment: a form feed is nothing to Python, and to sh a part of a word, a command that does not exist.
 */
const startsWithString = (script: ByteString): boolean =>
  /^(?:[ \t\f]*(?:#[^\n]*)?\r?\n)*[ \t\f]*[rRuUbB]{0,2}["']/.test(script);
