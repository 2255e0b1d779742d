import { describe, expect, test } from "bun:test";
import { EfError } from "../../lib/base/errors.ts";
import { baseImage } from "../../lib/images/base-image.ts";
import { assertUsable, isFakerootFailure, squashArgs, usableArgs } from "../../lib/images/build-args.ts";
import { type DefinitionInput, definition } from "../../lib/images/definition.ts";
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
      const script = `${post.slice(0, post.indexOf("    if [ -e"))}printf %s "$venv"`;
      expect((await run(["sh", "-c", script], { env })).stdout).toBe(containerPath);
      expect((await run(["sh", "-n", "-c", post], { env })).code).toBe(0);
    });
});

test("the script of %post is one that sh reads, and its Python too", async () => {
  const post = postOf(definition(plain));
  expect(await run(["sh", "-n", "-c", post], { env })).toEqual({ code: 0, stdout: "", stderr: "" });
  const code = /-c '\n(.*?)' "\$venv"/s.exec(post)?.[1] ?? "";
  const { code: exit, stderr } = await run(["python3", "-c", `import ast, sys; ast.parse(sys.argv[1])`, code], { env });
  expect([exit, stderr]).toEqual([0, ""]);
});

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
  });
  test("how a failure of it looks", () => {
    expect(isFakerootFailure("FATAL:   could not use fakeroot: no mapping entry found in /etc/subuid for me")).toBe(
      true,
    );
    expect(isFakerootFailure("FATAL: no space left on device")).toBe(false);
  });
  test("what would make something else than an image is refused", () => {
    for (const arg of ["--sandbox", "-s", "--update", "--json"]) expect(() => assertUsable([arg])).toThrow(arg);
    assertUsable(["--fakeroot", "--nv", "--bind=/a"]);
  });
  test("what mksquashfs is told", () => {
    expect(squashArgs("zstd", 4)).toEqual(["--mksquashfs-args", "-comp zstd -processors 4"]);
    expect(squashArgs(undefined, 1)).toEqual(["--mksquashfs-args", "-processors 1"]);
  });
});
