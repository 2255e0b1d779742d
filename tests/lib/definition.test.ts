import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EfError } from "../../lib/base/errors.ts";
import { baseImage } from "../../lib/images/base-image.ts";
import { assertUsable, isFakerootFailure, squashArgs, usableArgs } from "../../lib/images/build-args.ts";
import { type DefinitionInput, definition, findPython } from "../../lib/images/definition.ts";
import { systemPython } from "../envs.ts";
import { run } from "../helpers.ts";

const plain: DefinitionInput = {
  name: "train",
  base: { bootstrap: "docker", from: "python:3.11-slim" },
  archive: "venv.tar",
  containerPath: "/opt/venv",
  pythonVersion: "3.11.2",
  needsGlibc: "2.28",
  packages: { count: 28, sha256: "8d708085" },
  compile: true,
  processors: 4,
  efVersion: "0.1.0",
};

test("the definition, whole", () => {
  expect(definition(plain)).toMatchSnapshot();
});

test("without byte code, and for packages that need no C library", () => {
  const text = definition({ ...plain, compile: false, needsGlibc: undefined });
  expect(text).not.toContain("compileall");
  expect(text).not.toContain("libc_ver");
});

const env = { PATH: process.env.PATH };

/** Lines that begin a section, and the header: what a name must not add to. */
const structure = (text: string) => text.split("\n").filter((line) => /^\s*%|^[A-Z]\w+: /.test(line));
const postOf = (text: string) => /^%post\n(.*?)^%environment$/ms.exec(text)?.[1] ?? "";

describe("hostile values add nothing", () => {
  for (const name of [
    "a b; rm -rf /",
    "x\n%post\n    touch /pwned",
    "x\r%setup\rtouch",
    "{{ secret }}",
    "{{{{a}}}}",
    "'\"`$(touch /pwned)\\",
    "-f",
    "#",
    "%post",
    "\u2028%post",
    "ü",
  ])
    test(JSON.stringify(name), () => {
      const text = definition({ ...plain, name });
      expect(structure(text)).toEqual(structure(definition(plain)));
      expect(postOf(text)).toBe(postOf(definition(plain)));
      expect(text).not.toContain("{{");
      expect(text.split("\n").length).toBe(definition(plain).split("\n").length);
    });

  for (const containerPath of [
    "/opt/a b; touch PWNED",
    "/opt/'; touch PWNED; '",
    '/opt/"$(touch PWNED)`touch PWNED`',
    "/opt/\\",
  ])
    test(`as a path: ${containerPath}`, async () => {
      const post = postOf(definition({ ...plain, containerPath }));
      // The first lines of it as sh reads them: up to where anything outside is touched.
      const end = post.indexOf("    if [ -n");
      expect(end).toBeGreaterThan(0);
      const script = `${post.slice(0, end)}printf %s "$venv"`;
      expect((await run(["sh", "-c", script], { env })).stdout).toBe(containerPath);
      expect((await run(["sh", "-n", "-c", post], { env })).code).toBe(0);
    });
});

test("the script of %post is one that sh reads, and its Python too", async () => {
  const post = postOf(definition(plain));
  expect(await run(["sh", "-n", "-c", post], { env })).toEqual({ code: 0, stdout: "", stderr: "" });
  const codes = Array.from(post.matchAll(/-c '\n(.*?)'/gs), ([, code = ""]) => code);
  expect(codes.length).toBe(2);
  for (const code of codes) {
    const parsed = await run(["python3", "-c", `import ast, sys; ast.parse(sys.argv[1])`, code], { env });
    expect([parsed.code, parsed.stderr]).toEqual([0, ""]);
  }
});

describe.skipIf(systemPython === null)("the Python of a base image [needs python3]", () => {
  const minor = Bun.spawnSync([systemPython ?? "", "-c", 'import sys; print("%d.%d" % sys.version_info[:2])'])
    .stdout.toString()
    .trim();
  /** Programs of that name that come first on PATH, and what is found then. */
  const cases: [what: string, make: (bin: string, name: string) => void][] = [
    ["a script that starts it", (bin, name) => script(join(bin, name), `exec ${systemPython} "$@"`)],
    ["one that is broken", (bin, name) => script(join(bin, name), "exit 3")],
    [
      "one of an environment",
      (bin, name) => {
        symlinkSync(realpathSync(systemPython as string), join(bin, name));
        writeFileSync(
          join(bin, "../pyvenv.cfg"),
          `home = ${realpathSync(systemPython as string).replace(/\/[^/]*$/, "")}\n`,
        );
      },
    ],
  ];
  for (const [what, make] of cases)
    test(`${what} is not taken for it`, async () => {
      const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef-base-"));
      const bin = join(dir, "bin");
      try {
        mkdirSync(bin);
        make(bin, `python${minor}`);
        const { stdout } = await run(["sh", "-c", `${findPython(minor)}\necho "$python $seen"`], {
          env: { PATH: `${bin}:/usr/bin:/bin` },
        });
        const [python = "", ...seen] = stdout.trim().split(/ +/);
        expect([python.startsWith(bin), realpathSync(python)]).toEqual([false, realpathSync(systemPython as string)]);
        expect(seen).toEqual([minor]);
      } finally {
        rmSync(dir, { recursive: true });
      }
    });
});

function script(path: string, text: string): void {
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
}

describe("base_image", () => {
  const env = { HOME: "/home/me", PROJECT: "/pro ject" };
  const of = (text: string, isThere = (_: string) => false) => baseImage(text, "3.11.2", env, isThere);
  test("each form of it", () => {
    expect(of("python:{version}-slim")).toEqual({ bootstrap: "docker", from: "python:3.11-slim" });
    expect(of("python:{full_version}")).toEqual({ bootstrap: "docker", from: "python:3.11.2" });
    expect(of("docker://ghcr.io/a/b@sha256:00ff")).toEqual({ bootstrap: "docker", from: "ghcr.io/a/b@sha256:00ff" });
    expect(of("localhost:5000/python:{version}-slim").from).toBe("localhost:5000/python:3.11-slim");
    expect(of("oras://reg/a:1")).toEqual({ bootstrap: "oras", from: "reg/a:1" });
    expect(of("library://u/c/n:latest")).toEqual({ bootstrap: "library", from: "u/c/n:latest" });
    const sif = { bootstrap: "localimage", from: "/pro ject/py3.11.sif", path: "/pro ject/py3.11.sif" } as const;
    expect(of("$PROJECT/py{version}.sif")).toEqual(sif);
    expect(of("~/sandbox/")).toEqual({ bootstrap: "localimage", from: "/home/me/sandbox", path: "/home/me/sandbox" });
    const archive = { bootstrap: "oci-archive", from: "/a/b.tar:v1", path: "/a/b.tar", tag: ":v1" } as const;
    expect(of("oci-archive:/a/b.tar:v1")).toEqual(archive);
    expect(of("oci-archive:/a/b.tar:v1", (path) => path.endsWith(":v1")).path).toBe("/a/b.tar:v1");
    expect(of("docker-archive:~/b.tar")).toMatchObject({ bootstrap: "docker-archive", path: "/home/me/b.tar" });
  });

  for (const text of [
    ...[
      "",
      " ",
      "python:{versoin}",
      "shub://a",
      "http://a/b",
      "a b",
      "a\nb",
      "-a",
      "x.sif",
      "docker://",
      "docker://a b",
    ],
    ...["oci-archive:relative.tar", "/a\n%post", "docker://{{a}}", "python:{{version}}", "./x.sif"],
  ])
    test(`refused: ${JSON.stringify(text)}`, () => {
      expect(() => of(text)).toThrow(EfError);
      expect(() => of(text)).toThrow("Cannot use apptainer.base_image");
    });
});

describe("build_args", () => {
  test("root needs no --fakeroot, and it is said; others keep it", () => {
    expect(usableArgs(["--fakeroot", "--nv", "-f"], 0)).toEqual({
      args: ["--nv"],
      note: expect.stringMatching("root"),
    });
    expect(usableArgs(["--nv"], 0)).toEqual({ args: ["--nv"], note: undefined });
    expect(usableArgs(["--fakeroot"], 1000)).toEqual({ args: ["--fakeroot"], note: undefined });
    expect(usableArgs(["--fakeroot=true", "-fT", "-B/f"], 0).args).toEqual(["-T", "-B/f"]);
  });
  test("how a failure of it looks", () => {
    expect(isFakerootFailure("FATAL:   could not use fakeroot: no mapping entry found in /etc/subuid for me")).toBe(
      true,
    );
    expect(isFakerootFailure("set_attributes: failed to change uid and gids on /image/rootfs/etc/shadow")).toBe(true);
    expect(isFakerootFailure("FATAL: no space left on device")).toBe(false);
    // So it begins for everybody without a line in /etc/subuid.
    const start =
      "INFO:    User not listed in /etc/subuid, trying root-mapped namespace\nINFO:    fakeroot command not found\n";
    expect(isFakerootFailure(`${start}FATAL:   While performing build: dial tcp: connection refused`)).toBe(false);
  });
  test("what would make something else than an image is refused", () => {
    for (const arg of ["--sandbox", "-s", "--update", "--json", "--sandbox=true", "-Fs"])
      expect(() => assertUsable([arg])).toThrow(arg);
    assertUsable(["--fakeroot", "--nv", "--bind=/a"]);
  });
  test("what mksquashfs is told", () => {
    expect(squashArgs("zstd", 4)).toEqual(["--mksquashfs-args", "-comp zstd -processors 4"]);
    expect(squashArgs(undefined, 1)).toEqual(["--mksquashfs-args", "-processors 1"]);
  });
});
