/** Scripts and activate scripts of real programs, relocated to places of any name, and run by real shells and Pythons. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ByteString, bytesOf, osPath } from "../../lib/base/bytes.ts";
import { relocateFile } from "../../lib/envs/relocate.ts";
import { haveUv, makeEnv, pypiBin, systemPython } from "../envs.ts";
import { have, run } from "../helpers.ts";

const names: readonly ByteString[] = [
  "plain",
  "a b",
  "it's",
  '"q"',
  "$HOME `id` $(id)",
  "\\x\\N{x}\\u",
  "100% !x! #1",
  "'''\"\"\"",
  "coding=x",
  bytesOf("übung 雪 𝔘"),
  "\xff\xfe",
  "a\nb",
  "a\rb",
  " blank ",
  "-dash",
  `${"long ".repeat(40)}end`,
  "l".repeat(150),
];

let dir: string;
const env = { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: "/nonexistent", LANG: "C.UTF-8" };
const python = systemPython ?? "python3";

/** Run programs by Python, as paths are bytes there: `[argv, cwd]` in Latin-1. */
async function runAll(commands: readonly { argv: readonly ByteString[]; cwd: ByteString }[]) {
  const code = `import json, subprocess, sys
b = lambda s: s.encode('latin-1')
ends = []
for one in json.load(sys.stdin):
    end = subprocess.run([b(a) for a in one['argv']], cwd=b(one['cwd']), capture_output=True)
    ends.append({'code': end.returncode, 'out': end.stdout.decode('latin-1'), 'err': end.stderr.decode('latin-1')})
print(json.dumps(ends))`;
  const { code: exit, stdout, stderr } = await run([python, "-c", code], { env, stdin: JSON.stringify(commands) });
  if (exit !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as { code: number; out: ByteString; err: ByteString }[];
}

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ef-scripts-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A directory of that name with `bin/python`. */
function place(parent: string, name: ByteString): ByteString {
  const path = `${parent}/${name}`;
  mkdirSync(osPath(`${path}/bin`), { recursive: true });
  symlinkSync(python, osPath(`${path}/bin/python`));
  return path;
}

describe.skipIf(systemPython === null)("scripts [needs python3]", () => {
  const show =
    "import os, sys\nw = sys.stdout.buffer.write\nw(os.fsencode(sys.executable) + b'|' + ' '.join(sys.argv[1:]).encode())\n";
  const scripts: Record<string, { text: ByteString; more: string }> = {
    plain: {
      text: `#!/old/env/bin/python\n# -*- coding: utf-8 -*-\n${show}w(b'|' + '\xc3\xa4'.encode())\n`,
      more: "|\xc3\xa4",
    },
    isolated: { text: `#!/old/env/bin/python -I\n${show}w(b'|%d' % sys.flags.isolated)\n`, more: "|1" },
    latin1: {
      text: `#!/old/env/bin/python\n# vim: set fileencoding=latin-1 :\n${show}w(b'|' + '\xe4'.encode())\n`,
      more: "|\xc3\xa4",
    },
    documented: {
      text: `#!/old/env/bin/python\n"""What it does."""\nfrom __future__ import annotations\n${show}w(b'|' + __doc__.encode())\n`,
      more: "|What it does.",
    },
    launcher: { text: `#!/bin/sh\n'''exec' '/old/env/bin/python' "$0" "$@"\n' '''\n${show}`, more: "" },
  };

  test("run in places of any name", async () => {
    const places = names.map((name) => place(join(dir, "scripts"), name));
    const commands = places.flatMap((to) =>
      Object.entries(scripts).map(([name, { text }]) => {
        const { bytes, left } = relocateFile(`bin/${name}`, Buffer.from(text, "latin1"), [{ from: "/old/env", to }]);
        expect(left).toEqual([]);
        const path = osPath(`${to}/bin/${name}`);
        writeFileSync(path, bytes);
        chmodSync(path, 0o755);
        return { argv: [`${to}/bin/${name}`, "a", "b c"], cwd: "/" };
      }),
    );
    const ends = await runAll(commands);
    const wanted = places.flatMap((to) =>
      Object.values(scripts).map(({ more }) => ({ code: 0, out: `${to}/bin/python|a b c${more}`, err: "" })),
    );
    expect(ends).toEqual(wanted);
  });
});

/** How a shell, in `bin`, activates, and says byte for byte where it is. */
const shells = {
  bash: {
    file: "activate",
    argv: ["bash", "--norc", "-c", '. ./activate; printf "%s|" "$VIRTUAL_ENV"; command -v python'],
  },
  zsh: { file: "activate", argv: ["zsh", "-f", "-c", '. ./activate; printf "%s|" "$VIRTUAL_ENV"; whence -p python'] },
  fish: {
    file: "activate.fish",
    argv: ["fish", "--no-config", "-c", 'source ./activate.fish; printf "%s|" "$VIRTUAL_ENV"; command -s python'],
  },
  tcsh: {
    file: "activate.csh",
    argv: ["tcsh", "-f", "-c", 'set prompt = x; source ./activate.csh; printf "%s|" $VIRTUAL_ENV:q; which python'],
  },
};

/** As CPython 3.8 to 3.13.0 (quotes without a thought) and 3.13.1 (quotes where needed) write them. */
const cpython = {
  activate: [
    'VIRTUAL_ENV="@"\nexport VIRTUAL_ENV\nPATH="$VIRTUAL_ENV/bin:$PATH"\nexport PATH\n',
    'case "$(uname)" in\n    CYGWIN*)\n        export VIRTUAL_ENV=$(cygpath "@")\n        ;;\n    *)\n        export VIRTUAL_ENV="@"\n        ;;\nesac\nPATH="$VIRTUAL_ENV/"bin":$PATH"\n',
    '    export VIRTUAL_ENV=@\nPATH="$VIRTUAL_ENV/"bin":$PATH"\n',
  ],
  "activate.csh": [
    'setenv VIRTUAL_ENV "@"\nset path = ("$VIRTUAL_ENV:q/bin" $path:q)\n',
    'setenv VIRTUAL_ENV @\nset path = ("$VIRTUAL_ENV:q/bin" $path:q)\n',
  ],
  "activate.fish": [
    'set -gx VIRTUAL_ENV "@"\nset -gx PATH "$VIRTUAL_ENV/bin" $PATH\n',
    'set -gx VIRTUAL_ENV @\nset -gx PATH "$VIRTUAL_ENV/bin" $PATH\n',
  ],
};

describe.skipIf(!haveUv)("activate scripts [needs uv]", () => {
  /** The scripts of each tool, made for a plain place, which is given with them. */
  const made: { tool: string; from: ByteString; files: Map<string, Buffer> }[] = [];

  beforeAll(async () => {
    const [uv, venv, virtualenv] = ["uv", "venv", "virtualenv"].map((name) => join(dir, name)) as [
      string,
      string,
      string,
    ];
    await makeEnv(uv, []);
    for (const argv of [
      [python, "-m", "venv", "--without-pip", venv],
      [join(pypiBin, "virtualenv"), "--quiet", "--no-pip", "--no-setuptools", "--python", python, virtualenv],
    ]) {
      const { code, stderr } = await run(argv, { env });
      if (code !== 0) throw new Error(stderr);
    }
    for (const path of [uv, venv, virtualenv]) {
      const found = readdirSync(join(path, "bin")).filter((name) => lstatSync(join(path, "bin", name)).isFile());
      made.push({
        tool: path,
        from: path,
        files: new Map(found.map((name) => [name, readFileSync(join(path, "bin", name))])),
      });
    }
    for (const at of [0, 1, 2]) {
      const files = Object.entries(cpython).flatMap(([name, texts]): [string, Buffer][] => {
        const text = texts[at];
        return text === undefined ? [] : [[name, Buffer.from(text.replaceAll("@", "/old/env"))]];
      });
      made.push({ tool: `cpython${at}`, from: "/old/env", files: new Map(files) });
    }
  });

  for (const [shell, { file, argv }] of Object.entries(shells)) {
    test.skipIf(!have(shell))(
      `set VIRTUAL_ENV and PATH, byte for byte, in ${shell} [needs ${shell}]`,
      async () => {
        // What no PATH can hold, and what tcsh cannot: `which` there says that a name with a newline is not found.
        const wanted = names.filter((name) => shell !== "tcsh" || !/[\n\xff]/.test(name));
        const cases = made.flatMap(({ tool, from, files }, i) =>
          wanted.flatMap((name) => {
            const old = files.get(file);
            return old ? [{ tool, from, name, old, parent: join(dir, `${shell}${i}`) }] : [];
          }),
        );
        const commands = cases.map(({ from, name, old, parent }) => {
          const to = place(parent, name);
          const moved = relocateFile(`bin/${file}`, old, [{ from, to }]);
          expect({ ...moved, bytes: 0 }).toEqual({ bytes: 0, changes: ["VIRTUAL_ENV"], left: [] });
          expect(Buffer.from(moved.bytes).includes(`${from}'`)).toBe(false);
          const twice = relocateFile(`bin/${file}`, moved.bytes, [{ from, to }]);
          expect(twice.changes).toEqual([]);
          writeFileSync(osPath(`${to}/bin/${file}`), moved.bytes);
          return { argv, cwd: `${to}/bin` };
        });
        const ends = (await runAll(commands)).map((end, i) => ({ ...end, tool: cases[i]?.tool }));
        const right = cases.map(({ tool, name, parent }) => {
          const to = `${parent}/${name}`;
          return { code: 0, out: `${to}|${to}/bin/python\n`, err: "", tool };
        });
        expect(ends).toEqual(right);
      },
      30_000,
    );
  }

  test("no other script of theirs keeps the old place", () => {
    for (const { from, files } of made) {
      for (const [name, old] of files) {
        const { bytes, left } = relocateFile(`bin/${name}`, old, [{ from, to: '/new/it\'s "a" $HOME `b`' }]);
        expect({ name, left }).toEqual({ name, left: [] });
        expect(Buffer.from(bytes).includes(from)).toBe(false);
      }
    }
  });
});
