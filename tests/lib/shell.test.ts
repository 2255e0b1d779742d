/** Every statement is read back by the shells themselves, in every way that people evaluate it. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EfError } from "../../lib/base/errors.ts";
import { dialects, exportStatement, exportText, parentDialect, type ShellDialect } from "../../lib/base/shell.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ef shell "));
  writeFileSync(join(dir, "ef"), '#!/bin/sh\nexec cat "$TEXT"\n', { mode: 0o755 });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

interface Way {
  dialect: ShellDialect;
  /** The shell with the options that keep the user's own rc files out. */
  argv: string[];
  /** How people evaluate what ef prints. */
  evaluate: string;
}

const posix = 'eval "$(ef sync)"';
const csh = 'eval "`ef sync`"';
const ways: Way[] = [
  { dialect: "bash", argv: ["bash", "--norc"], evaluate: posix },
  { dialect: "bash", argv: ["bash", "--norc", "--posix", "-euo", "pipefail"], evaluate: posix },
  { dialect: "bash", argv: ["bash", "--norc"], evaluate: '. "$TEXT"' },
  { dialect: "bash", argv: ["dash"], evaluate: posix },
  { dialect: "bash", argv: ["ksh"], evaluate: posix },
  { dialect: "zsh", argv: ["zsh", "-f"], evaluate: posix },
  { dialect: "zsh", argv: ["zsh", "-f", "-o", "rc_quotes", "-o", "glob_subst", "-o", "no_unset"], evaluate: posix },
  { dialect: "fish", argv: ["fish", "--no-config"], evaluate: "eval (ef sync)" },
  { dialect: "fish", argv: ["fish", "--no-config"], evaluate: 'eval "$(ef sync)"' },
  { dialect: "fish", argv: ["fish", "--no-config"], evaluate: "ef sync | source" },
  { dialect: "csh", argv: ["tcsh", "-f"], evaluate: csh },
  { dialect: "csh", argv: ["tcsh", "-f"], evaluate: `set backslash_quote; ${csh}` },
  { dialect: "csh", argv: ["tcsh", "-f"], evaluate: "source $TEXT:q" },
];
/** Run `script` in the shell of `way`, where `ef` prints `text`. From a file: `tcsh -c` goes on after an `exit`. */
function run({ argv }: Way, text: string, script: string, env: Record<string, string> = {}) {
  const [program, file] = [join(dir, "script"), join(dir, "it's $TEXT")];
  writeFileSync(program, `${script}\n`);
  writeFileSync(file, text);
  const { stdout, stderr, exitCode } = Bun.spawnSync([...argv, program], {
    env: { PATH: `${dir}:${process.env.PATH}`, HOME: dir, LC_ALL: "C.UTF-8", TEXT: file, ...env },
  });
  return { stdout: stdout.toString(), stderr: stderr.toString(), code: exitCode };
}

/** What the shell hands to its children after it has evaluated `values`. */
function readBack(way: Way, values: Record<string, string>, env?: Record<string, string>) {
  const text = exportText(way.dialect, values, false);
  const { stdout, stderr, code } = run(way, text, `${way.evaluate}\nenv -0`, env);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  const found = stdout.split("\0").map((entry) => /^([^=]*)=(.*)$/s.exec(entry) ?? []);
  return Object.fromEntries(found.flatMap(([, name = "", value]) => (name in values ? [[name, value]] : [])));
}

const plain = "/cluster/scratch/me/.cache/ef/HF_HOME";
const nasty = [
  ...["", plain, " ", "  two  blanks  ", "\ttab\t\t", "-n", "--", "-x y", "~", "~root", "a=b", "=x", "#no", "%1 %s"],
  ...["'", "''", "'a'", "it's", '"', '"q"', "`date`", "$(date)", "$HOME", "${HOME}", "$", "$$", "$'\\n'", "$?", "$1"],
  ...[
    "\\",
    "\\\\",
    "a\\",
    "\\'",
    "'\\''",
    "\\n",
    "\\$",
    "\\!",
    "\\\\!",
    "!",
    "!!",
    "!$",
    "a!b",
    "!'!",
    "'!",
    "!a:s/b/c/",
  ],
  ...["\n", "\n\n", "\nlead", "trail\n", "a\nb\n\nc\n", "'\n'", "\\\n", "!\n!", " \n ", "\r", "a\r\nb", "\v\f\b\x07"],
  ...[
    "*",
    "?",
    "[a-z]",
    "{a,b}",
    "{}",
    "**/*",
    "^a",
    "a;b",
    "a&b",
    "a|b",
    "<a>",
    "(a)",
    "a)",
    ";",
    "; false",
    "; exit 9 #",
  ],
  ...["ä ö ü €", "日本語", "😀", "\u00a0", "\u3000", "\u2028", "\ufeff", "\ufffd", "\uf600\uf6ff\ue000", "e\u0301"],
  ...[
    "\x01",
    "\x02\x7f",
    "\x1b[31m",
    "\x80\x9f",
    "@x",
    ":x:",
    "a::b:",
    ",x",
    "^x^y",
    "x".repeat(20_000),
    "'".repeat(999),
  ],
];
const numbered = (values: string[]) => Object.fromEntries(values.map((value, i) => [`V${i}`, value]));

/** mulberry32: the same numbers in each run. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Strings of up to 24 characters, two thirds of them special somewhere, the rest anything but NUL and surrogates. */
function randomStrings(count: number, seed: number): string[] {
  const next = random(seed);
  const special = [..."'\"`\\!$\n\t *?[]{}()<>|&;#~^%=:-@,na0"];
  const character = () => {
    if (next() < 0.67) return special[Math.floor(next() * special.length)] as string;
    const code = 1 + Math.floor(next() ** 4 * 0x10fffe);
    return code >= 0xd800 && code < 0xe000 ? "x" : String.fromCodePoint(code);
  };
  return Array.from({ length: count }, () => Array.from({ length: Math.floor(next() * 25) }, character).join(""));
}

for (const way of ways) {
  describe.skipIf(!Bun.which(way.argv[0] as string))(`${way.argv.join(" ")}: ${way.evaluate}`, () => allOf(way));
}

function allOf(way: Way) {
  test("gives back each nasty value", () => {
    const values = numbered(nasty);
    expect(readBack(way, values)).toEqual(values);
  });

  test("gives them back in the C locale too", () => {
    const values = numbered(nasty);
    expect(readBack(way, values, { LC_ALL: "C" })).toEqual(values);
  });

  test("gives back 200 random values", () => {
    const values = numbered(randomStrings(200, 20260101));
    expect(readBack(way, values)).toEqual(values);
  });

  test("sets variables that mean something to a shell", () => {
    const values = { X_PATH: ":/a b::/c:", LD_LIBRARY_PATH: "", _x: "1", i: "2", x: "3", argv_: "4", TMPDIR: "/t m'p" };
    expect(readBack(way, values)).toEqual(values);
  });

  test("replaces a value that is there", () => {
    expect(readBack(way, { V: "new" }, { V: "old" })).toEqual({ V: "new" });
  });

  const guarded = `${way.evaluate} || printf 'caught '\nprintenv V`;

  test("a failure is heard after the good exports", () => {
    const { stdout, code } = run(way, exportText(way.dialect, { V: "good" }, true), guarded);
    expect(stdout).toBe("caught good\n");
    expect(code).toBe(0);
  });

  test("without one the eval succeeds", () => {
    expect(run(way, exportText(way.dialect, { V: "good" }, false), guarded).stdout).toBe("good\n");
  });

  test("a failure without exports is heard", () => {
    expect(run(way, exportText(way.dialect, {}, true), guarded).stdout).toBe("caught ");
  });

  test("a failure ends a script that wants it to", () => {
    const script = {
      bash: `set -e\n${way.evaluate}\necho alive`,
      zsh: `setopt err_exit\n${way.evaluate}\necho alive`,
      fish: `${way.evaluate}; or exit\necho alive`,
      csh: `${way.evaluate} || exit 1\necho alive`,
    }[way.dialect];
    const { stdout, code } = run(way, exportText(way.dialect, { V: "good" }, true), script);
    expect(stdout).toBe("");
    expect(code).toBe(1);
    expect(run(way, exportText(way.dialect, { V: "good" }, false), script).stdout).toBe("alive\n");
  });
}

test.skipIf(!Bun.which("tcsh"))("tcsh -e ends at the failure", () => {
  const way: Way = { dialect: "csh", argv: ["tcsh", "-f", "-e"], evaluate: csh };
  const { stdout, code } = run(way, exportText("csh", { V: "good" }, true), `${csh}\necho alive`);
  expect(stdout).toBe("");
  expect(code).toBe(1);
});

test.each([
  ["bash", "export V='it'\\''s $x!\\\n'"],
  ["zsh", "export V='it'\\''s $x!\\\n'"],
  ["fish", "set -gx V 'it\\'s $x!\\\\'\\n'';"],
  ["csh", "setenv V 'it'\\''s $x'\\!''\\\\''$'\\n''';"],
  ["json", '{"V":"it\'s $x!\\\\\\n"}'],
] as const)("exportStatement: %s", (dialect, expected) => {
  expect(exportStatement(dialect, "V", "it's $x!\\\n")).toBe(expected);
});

test("exportText: nothing to say is no text, in JSON an empty object", () => {
  expect(dialects.map((dialect) => exportText(dialect, {}, false))).toEqual(["", "", "", "", "{}\n"]);
});

test("exportText: JSON gives back each value, whether or not something failed", () => {
  const values = { ...numbered(nasty), __proto__x: "1" };
  expect(JSON.parse(exportText("json", values, false))).toEqual(values);
  expect(exportText("json", values, true)).toBe(exportText("json", values, false));
});

test("exportText: fish and csh statements stay on one line each", () => {
  const values = numbered(nasty);
  for (const dialect of ["fish", "csh"] as const) {
    const lines = exportText(dialect, values, true).trimEnd().split("\n");
    expect(lines).toHaveLength(nasty.length + 1);
    expect(lines.filter((line) => !line.endsWith(";"))).toEqual([]);
  }
});

const codeOf = (action: () => unknown) => {
  try {
    return action();
  } catch (error) {
    return error instanceof EfError ? error.code : error;
  }
};

describe.each([...dialects])("%s refuses", (dialect) => {
  test.each(["", "1A", "A-B", "A B", "A=B", "A;x", "A\n", "\nA", "Ä", "$A", "A'", "a.b"])("the name %j", (name) => {
    expect(codeOf(() => exportStatement(dialect, name, "x"))).toBe("USAGE");
    expect(codeOf(() => exportText(dialect, { GOOD: "1", [name]: "x" }, false))).toBe("USAGE");
  });

  test("a value with NUL", () => {
    expect(codeOf(() => exportText(dialect, { GOOD: "1", A: "x\0y" }, false))).toBe("USAGE");
  });
});

describe("parentDialect", () => {
  const module = JSON.stringify(join(import.meta.dir, "../../lib/base/shell.ts"));
  const ask = `import { parentDialect } from ${module}; console.log(parentDialect(process.ppid));`;

  const shells = { bash: "bash", dash: "bash", zsh: "zsh", fish: "fish", tcsh: "csh" };
  for (const [shell, expected] of Object.entries(shells)) {
    const path = Bun.which(shell);
    test.skipIf(!path)(`of a ${shell} script is ${expected}, whatever its name and $SHELL`, () => {
      const [question, script] = [join(dir, "ask.ts"), join(dir, "perl")];
      writeFileSync(question, ask);
      writeFileSync(script, `#!${path}\n'${process.execPath}' '${question}'\ntrue\n`, { mode: 0o755 });
      const env = { PATH: process.env.PATH ?? "", HOME: dir, SHELL: "/bin/other" };
      expect(Bun.spawnSync([script], { env }).stdout.toString()).toBe(`${expected}\n`);
    });
  }

  test("is bash where the parent is no shell, or not there", () => {
    expect(parentDialect(process.pid)).toBe("bash");
    expect(parentDialect(2 ** 30)).toBe("bash");
  });
});
