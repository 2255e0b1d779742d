import { describe, expect, test } from "bun:test";
import { bytesOf } from "../../lib/base/bytes.ts";
import { type Move, relocateFile } from "../../lib/envs/relocate.ts";

const from = "/old/env";
const latin1 = (text: string) => Buffer.from(text, "latin1");

interface Moved {
  text: string;
  changes: string[];
  left: string[];
}

/** Relocate a text; byte strings in and out. */
function move(path: string, text: string, moves: string | readonly Move[]): Moved {
  const list = typeof moves === "string" ? [{ from, to: moves }] : moves;
  const { bytes, changes, left } = relocateFile(path, latin1(text), list);
  return { text: Buffer.from(bytes).toString("latin1"), changes, left };
}

/** Plain, and in need of quotes of each sort. */
const hostile = [
  "/new/place",
  "/new/a b",
  "/new/it's",
  '/new/"q"',
  "/new/$HOME/`id`",
  "/new/\\x\\N\\u",
  "/new/100%",
  "/new/'''",
  "/new/coding:foo",
  bytesOf("/new/übung 雪 𝔘"),
  "/new/\xff\xfe",
  "/new/a\nb",
  "/new/a\rb",
  `/new/${"long/".repeat(40)}end`,
] as const;

describe("first lines", () => {
  test.each([
    ["#!/old/env/bin/python\nx\n", "#!/new/env/bin/python\nx\n", "shebang"],
    ["#!/old/env/bin/python3.11 -I\nx\n", "#!/new/env/bin/python3.11 -I\nx\n", "shebang"],
    ["#! /old/env/bin/python  \r\nx\r\n", "#!/new/env/bin/python  \r\nx\r\n", "shebang"],
    ["#!/old/env/bin/python", "#!/new/env/bin/python", "shebang"],
    ["#!/old/env/bin/tool --fast\nx\n", "#!/new/env/bin/tool --fast\nx\n", "shebang"],
    [`#!/bin/sh\n'''exec' "/old/env/bin/python" "$0" "$@"\n' '''\nx\n`, "#!/new/env/bin/python\nx\n", "shebang"],
    [`#!/bin/sh\n'''exec' '/old/env/bin/python' -I "$0" "$@"\n' '''\nx\n`, "#!/new/env/bin/python -I\nx\n", "shebang"],
    [`#!/bin/sh\n'''exec' /old/env/bin/python "$0" "$@"\n' '''\nx\n`, "#!/new/env/bin/python\nx\n", "shebang"],
  ])("%j", (old, now, what) => {
    expect(move("bin/x", old, "/new/env")).toEqual({ text: now, changes: [what], left: [] });
  });

  test.each([
    "#!/usr/bin/env python\n",
    "#!/usr/bin/python3\n",
    "#!/old/env2/bin/python\n",
    "#!/x/old/env/bin/python\n",
    `#!/bin/sh\n'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"\n' '''\nx\n`,
  ])("%j stays", (text) => {
    expect(move("bin/x", text, "/new/env")).toEqual({ text, changes: [], left: [] });
  });

  test("a shebang of 127 bytes stays one, of 128 becomes a launcher", () => {
    const to = (bytes: number) => `/${"n".repeat(bytes - "#!//bin/python\n".length)}`;
    const fits = move("bin/x", "#!/old/env/bin/python\nx\n", to(127));
    expect(fits.text).toBe(`#!${to(127)}/bin/python\nx\n`);
    const long = move("bin/x", "#!/old/env/bin/python -I\nx\n", to(128));
    expect(long.text).toBe(`#!/bin/sh\n'''exec' "${to(128)}/bin/python" -I "$0" "$@"\n' '''\nx\n`);
    expect(long.changes).toEqual(["launcher"]);
  });

  test("a #! line with a blank in its path, as kpy leaves it, is mended", () => {
    const { text } = move("bin/x", "#!/my env/bin/python\nx\n", [{ from: "/my env", to: "/new/env" }]);
    expect(text).toBe("#!/new/env/bin/python\nx\n");
  });

  test("an encoding that is not UTF-8 stays on the second line", () => {
    const coding = "# -*- coding: latin-1 -*-\n";
    const { text } = move("bin/x", `#!/old/env/bin/python\n${coding}x = '\xe4'\n`, bytesOf("/new/ü"));
    expect(text).toBe(
      `#!/bin/sh\n${coding}'''exec' "$(printf '/new/\\303\\274/bin/python')" "$0" "$@"\n' '''\nx = '\xe4'\n`,
    );
    expect(move("bin/x", text, [{ from: bytesOf("/new/ü"), to: from }]).text).toBe(
      `#!/old/env/bin/python\n${coding}x = '\xe4'\n`,
    );
  });

  test("a script that is no Python has no launcher", () => {
    const old = "#!/old/env/bin/node\nx\n";
    const { text, left } = move("bin/x", old, "/new/a b");
    expect(text).toBe(old);
    expect(left).toEqual(["the new path of its program does not fit on a #! line"]);
  });

  test.each(hostile)("to %j and back", (to) => {
    for (const old of [
      "#!/old/env/bin/python\nimport sys\n",
      '#!/old/env/bin/python3 -I\n# coding: latin-1\n"""Doc."""\nfrom __future__ import annotations\n',
    ]) {
      const there = move("bin/x", old, to);
      expect(there.left).toEqual([]);
      expect(there.text).not.toContain(from);
      expect(move("bin/x", there.text, to)).toEqual({ text: there.text, changes: [], left: [] });
      expect(move("bin/x", there.text, [{ from: to, to: from }]).text).toBe(old);
    }
  });
});

describe("where a path begins and ends", () => {
  const same = [
    "/old/env2",
    "/old/env-2/x",
    "/old/env.bak",
    "/x/old/env",
    "x/old/env/bin",
    "./old/env",
    "/old/env%20x",
    "/old/environment",
    "${ROOT}/old/env",
    bytesOf("/old/envü"),
  ];
  test.each(same)("%j is another path", (text) => {
    expect(move("share/x.txt", `see ${text} now\n`, "/new")).toEqual({
      text: `see ${text} now\n`,
      changes: [],
      left: [],
    });
  });

  test.each([
    ["see /old/env.", "see /new."],
    ["/old/env", "/new"],
    ["PATH=/a:/old/env/bin:/b", "PATH=/a:/new/bin:/b"],
    ["-I/old/env/include -L/old/env/lib -R/old/env/lib", "-I/new/include -L/new/lib -R/new/lib"],
    ["${X:-/old/env/x} ${X-/old/env} ${X:+/old/env:$X}", "${X:-/new/x} ${X-/new} ${X:+/new:$X}"],
    ["file:///old/env/src", "file:///new/src"],
    ["prefix=/old/env\r\nlibdir=${prefix}/lib\r\n", "prefix=/new\r\nlibdir=${prefix}/lib\r\n"],
    ["</old/env/a>,(/old/env/b)", "</new/a>,(/new/b)"],
  ])("%j", (old, now) => {
    expect(move("share/x.txt", old, "/new")).toEqual({ text: now, changes: ["text"], left: [] });
  });

  test("of several moves the longest counts, and a new place that lies in an old one stays", () => {
    const moves = [
      { from: "/the/old", to: "/base" },
      { from: "/the/old/env", to: "/the/old/env/new" },
    ];
    const { text } = move("a.txt", "/the/old/env/x /the/old/env/new/x /the/old/y", moves);
    expect(text).toBe("/the/old/env/new/x /the/old/env/new/x /base/y");
    expect(move("a.txt", text, moves).changes).toEqual([]);
  });

  test("two places that change sides", () => {
    const moves = [
      { from: "/the/a", to: "/the/b" },
      { from: "/the/b", to: "/the/a" },
    ];
    expect(move("a.txt", "/the/a/x /the/b/x", moves).text).toBe("/the/b/x /the/a/x");
  });

  test("one in the root directory looks like other things: changed only in what tools write of it", () => {
    const to = [{ from: "/a", to: "/new/env" }];
    const html = 'HTML = "<a>/a/b</a>"\n';
    expect(move("lib/python3.11/site-packages/html.py", html, to)).toEqual({
      ...{ text: html, changes: [] },
      left: ["it holds /a, which may be that place, or mean something else"],
    });
    expect(move("bin/tool", `#!/a/bin/python\n${html}`, to).text).toBe(`#!/new/env/bin/python\n${html}`);
    expect(move("bin/activate", "VIRTUAL_ENV='/a'\n", to).text).toBe("VIRTUAL_ENV='/new/env'\n");
    expect(move("lib/x.pth", "/a/src\n", to).text).toBe("/new/env/src\n");
    expect(move("x/direct_url.json", '{"url": "file:///a/src"}', to).text).toBe('{"url": "file:///new/env/src"}');
    expect(move("lib/x.py", "'/a/env/x'", [...to, { from: "/a/env", to: "/new/env" }])).toMatchObject({
      ...{ text: "'/new/env/x'", left: [] },
    });
  });

  test("the same place, the root and relative ones change nothing", () => {
    for (const one of [
      { from, to: from },
      { from: "/", to: "/x" },
      { from: "old", to: "/new" },
    ]) {
      expect(move("a.txt", "/old/env old /", [one])).toEqual({ text: "/old/env old /", changes: [], left: [] });
    }
  });

  test("a text of unknown kind is changed only where the path needs no quotes", () => {
    const { text, left } = move("share/x.txt", "see /old/env\n", "/new/a b");
    expect(text).toBe("see /old/env\n");
    expect(left).toEqual(["it names /old/env where the new path would need other quotes"]);
  });
});

describe("binaries", () => {
  test("are never changed", () => {
    const { text, changes, left } = move("bin/ruff", "\x7fELF\0x/old/env/lib\0", "/new");
    expect({ text, changes }).toEqual({ text: "\x7fELF\0x/old/env/lib\0", changes: [] });
    expect(left).toEqual(["a binary file names /old/env"]);
    expect(move("bin/uv", "\x7fELF\0\xff", "/new").left).toEqual([]);
  });

  test("what Python compiled is not told", () => {
    expect(move("lib/__pycache__/x.cpython-311.pyc", "\0/old/env\0", "/new").left).toEqual([]);
  });
});

describe("pyvenv.cfg", () => {
  const config = (env: string, base: string, end = "\n") =>
    [
      `home = ${base}/bin`,
      "include-system-site-packages = false",
      "version = 3.11.2",
      `executable = ${base}/bin/python3.11`,
      `command = ${base}/bin/python3 -m venv --prompt x ${env}`,
      "prompt = 'x'",
      "",
    ].join(end);
  const moves = (to: string) => [
    { from, to },
    { from: "/old", to: "/elsewhere" },
  ];

  test.each(["\n", "\r\n"])("with lines that end with %j", (end) => {
    for (const to of ["/new/a b", '/new/it\'s "$HOME"', bytesOf("/new/ü")]) {
      const { text, changes, left } = move("pyvenv.cfg", config(from, "/old/python", end), moves(to));
      expect(text).toBe(config(to, "/elsewhere/python", end));
      expect({ changes, left }).toEqual({ changes: ["pyvenv.cfg"], left: [] });
    }
  });

  test.each(["/new/a\nb", "/new/\xff"])("%j cannot stand there", (to) => {
    const old = `home = /usr/bin\ncommand = /usr/bin/python3 -m venv ${from}\n`;
    const { text, left } = move("pyvenv.cfg", old, to);
    expect(text).toBe(old);
    expect(left).toEqual([
      "it names /old/env: the new path holds a newline, or bytes that are not UTF-8, and cannot stand there",
    ]);
  });
});

describe("links to sources", () => {
  test(".pth: lines are paths, or Python", () => {
    const old = "/old/env/src/a\r\n# /old/env\nimport sys; sys.path.insert(0, '/old/env/b')\n/outside\n";
    const plain = move("lib/python3.11/site-packages/a.pth", old, "/new");
    expect(plain.text).toBe("/new/src/a\r\n# /new\nimport sys; sys.path.insert(0, '/new/b')\n/outside\n");
    expect(plain.changes).toEqual([".pth"]);
    const quoted = move("lib/python3.11/site-packages/a.pth", old, "/new/it's");
    expect(quoted.text).toBe(
      "/new/it's/src/a\r\n# /old/env\nimport sys; sys.path.insert(0, '/new/it\\'s/b')\n/outside\n",
    );
    expect(quoted.left).toEqual(["it names /old/env"]);
  });

  test(".egg-link", () => {
    expect(move("lib/x.egg-link", "/old/env/src/a b\n../", "/new/c d").text).toBe("/new/c d/src/a b\n../");
  });

  test("direct_url.json, percent-encoded as pip and as uv do", () => {
    const path = "lib/python3.11/site-packages/a-1.dist-info/direct_url.json";
    const json = (url: string) => `{"url": "${url}", "dir_info": {"editable": true}}`;
    const moves = [{ from: "/old/it's (1)", to: bytesOf("/new/ü %$") }];
    for (const old of [
      "file:///old/it%27s%20%281%29/a",
      "file:///old/it's%20(1)/a",
      "file://localhost/old/it's%20(1)/a",
    ]) {
      const { text, changes } = move(path, json(old), moves);
      expect(text).toBe(json(`${old.slice(0, old.indexOf("/old"))}/new/%C3%BC%20%25%24/a`));
      expect(changes).toEqual(["direct_url.json"]);
      expect(move(path, text, moves).changes).toEqual([]);
    }
  });

  test("kernel.json and other JSON", () => {
    const json = (place: string) => JSON.stringify({ argv: [`${place}/bin/python`, "-m", "ipykernel"] });
    for (const to of hostile.filter((path) => !/[\xff]/.test(path))) {
      const { text, changes } = move("share/jupyter/kernels/x/kernel.json", json(from), to);
      expect(JSON.parse(text)).toEqual(JSON.parse(json(latin1(to).toString())));
      expect(changes).toEqual(["kernel.json"]);
      expect(move("share/jupyter/kernels/x/kernel.json", text, [{ from: to, to: from }]).text).toBe(json(from));
    }
  });
});
