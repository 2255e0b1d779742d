import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  findUv,
  linkModeFor,
  linksTo,
  pipWheelArgv,
  torchIndex,
  uvPipInstallArgv,
  uvVenvArgv,
} from "../../lib/drivers/uv.ts";

const index = "https://download.pytorch.org/whl/";

describe("torchIndex", () => {
  test.each([
    ["torch==2.4.0+cu121", "cu121"],
    ["torch[opt-einsum]==2.4.0+cpu", "cpu"],
    ["torch == 2.4.0+CU118", "cu118"],
    ["torch===2.4.0+xpu", "xpu"],
    ["torch (==2.4.0+rocm6.2.4)", "rocm6.2.4"],
    ["torch==2.4.0+cu121 ; python_version > '3.8'", "cu121"],
    ["torch==2.4.0+cu121;python_version>'3.8'", "cu121"],
    ["torch>=2,==2.4.0+cu121,<3", "cu121"],
  ])("%s", (requirement, suffix) => {
    expect(torchIndex([requirement])).toBe(`${index}${suffix}`);
  });

  test.each([
    "torch",
    "torch==2.4.0",
    "jaxlib==0.4.7+cuda12.cudnn88",
    "torch==2.4.0+cu118_full",
    "x==1+cpuid",
    "torch @ https://host/torch==2.4.0+cu121.whl",
    "torch; platform_version=='1+cpu'",
    "# torch==2.4.0+cpu",
    "./torch+cpu",
  ])("none for %s", (requirement) => {
    expect(torchIndex([requirement])).toBeUndefined();
  });

  test("the same suffix twice is one; two are an error that names both", () => {
    expect(torchIndex(["numpy", "torch==2.4.0+cu121", "torchvision==0.19.0+cu121"])).toBe(`${index}cu121`);
    expect(() => torchIndex(["torch==2.4.0+cu121", "torchvision==0.19.0+cpu"])).toThrow(/\+cu121 and \+cpu/);
  });
});

test("uv venv", () => {
  expect(uvVenvArgv("/bin/uv", "/v/a b")).toEqual(["/bin/uv", "venv", "/v/a b"]);
  expect(uvVenvArgv("uv", "/v/a", { python: "3.11", offline: true })).toEqual(
    ["uv", "venv", "/v/a", "--python", "3.11", "--offline"], //
  );
});

test("uv pip install: indexes or the wheelhouse, and what is a package stands behind --", () => {
  const base = ["uv", "pip", "install", "--python", "/v/a"];
  const wanted = { packages: ["numpy", "x>1"], requirements: ["r.txt"], editable: ["."] };
  const tail = ["--requirement", "r.txt", "--editable", ".", "--", "numpy", "x>1"];
  expect(uvPipInstallArgv("uv", "/v/a", { packages: ["numpy"] })).toEqual([...base, "--", "numpy"]);
  const indexes = { indexUrl: "https://i/", extraIndexUrls: ["https://a/", "https://b/"], linkMode: "copy" as const };
  expect(uvPipInstallArgv("uv", "/v/a", { ...wanted, ...indexes, indexStrategy: "unsafe-best-match" })).toEqual([
    ...base,
    ...["--link-mode", "copy", "--index-url", "https://i/"],
    ...["--extra-index-url", "https://a/", "--extra-index-url", "https://b/", "--index-strategy", "unsafe-best-match"],
    ...tail,
  ]);
  const house = { offline: true, noIndex: true, findLinks: ["/wheels", "https://l/"] };
  expect(uvPipInstallArgv("uv", "/v/a", { ...wanted, ...indexes, ...house, linkMode: undefined })).toEqual(
    [...base, "--offline", "--no-index", "--find-links", "/wheels", "--find-links", "https://l/", ...tail], //
  );
});

test("pip wheel, which uv runs", () => {
  const argv = pipWheelArgv("uv", { packages: ["a"], wheelDir: "/w/t", python: "3.12", findLinks: ["/w"] });
  const at = argv.indexOf("--");
  expect(argv.slice(0, at)).toEqual(
    ["uv", "run", "--quiet", "--no-project", "--isolated", "--with", "pip", "--python", "3.12"], //
  );
  expect(argv.slice(at + 1, at + 5)).toEqual(["python", "-m", "pip", "wheel"]);
  expect(argv.slice(-6)).toEqual(["--wheel-dir", "/w/t", "--find-links", "/w", "--", "a"]);
});

test.each([
  ["/project/wheels-3.11_x+y", "/project/wheels-3.11_x+y"],
  ["/a b", "file:///a%20b"],
  ["/a,b", "file:///a%2Cb"],
  ["/a%20b#?", "file:///a%2520b%23%3F"],
  ["/it's (é) ~ $x!", "file:///it%27s%20%28%C3%A9%29%20%7E%20%24x%21"],
])("a directory of wheels, as every list of such reads it: %s", (dir, link) => {
  expect(linksTo(dir)).toBe(link);
  expect(decodeURIComponent(new URL(linksTo(dir), "file:///").pathname)).toBe(dir);
});

test("symbolic links into uv's cache are refused, what else the user chose is left alone", () => {
  expect(linkModeFor({ UV_LINK_MODE: "symlink" })).toBe("copy");
  expect(linkModeFor({ UV_LINK_MODE: "hardlink" })).toBeUndefined();
  expect(linkModeFor({})).toBeUndefined();
});

test("findUv: the first on PATH; none: how to get it, also without internet", async () => {
  const dir = mkdtempSync(join(tmpdir(), "ef uv "));
  try {
    for (const name of ["a", "b"]) {
      mkdirSync(join(dir, name));
      writeFileSync(join(dir, name, "uv"), "#!/bin/sh\n");
    }
    const error = await findUv({ PATH: `${dir}/a` }).catch((each) => each); // not executable
    expect(error).toMatchObject({ code: "TOOL_MISSING", exit: 2 });
    expect(error.hint).toContain("module avail uv");
    expect(error.hint).toContain("pip install --user uv");
    expect(error.hint).toContain("copy it");
    chmodSync(join(dir, "b/uv"), 0o755);
    expect(await findUv({ PATH: `${dir}/a:${dir}/b` })).toBe(`${dir}/b/uv`);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
