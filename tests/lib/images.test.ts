import { expect, test } from "bun:test";
import { mkdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { apptainerList } from "../../lib/apptainer-list.ts";
import { apptainerPath } from "../../lib/apptainer-run.ts";
import type { EfError } from "../../lib/base/errors.ts";
import { checkConfig } from "../../lib/config/store.ts";
import { imagesOf, packagesSum } from "../../lib/images/store.ts";
import { isCopyOf } from "../../lib/images/whole.ts";
import { Home } from "../helpers.ts";

const version = (size: number, seconds: number) => ({ size, mtimeNs: BigInt(Math.round(seconds * 1e6)) * 1000n });

test.each([
  ["same", version(5, 1000.25), version(5, 1000.25), true],
  ["a file system that keeps whole seconds", version(5, 1000.25), version(5, 1000), true],
  ["another size", version(5, 1000), version(6, 1000), false],
  ["another time", version(5, 1000.25), version(5, 1000.5), false],
  ["a later second", version(5, 1000.25), version(5, 1003), false],
] as const)("isCopyOf: %s", (_, stored, copy, expected) => {
  expect(isCopyOf(stored, copy)).toBe(expected);
});

const built = new Date(1_750_000_000_250);

/** One image: the stored file and its copy, each with a content or missing. */
function place(at: Home, stored: string | undefined, copy: string | undefined): void {
  for (const [dir, content] of [
    [join(at.home, "store"), stored],
    [join(at.scratch, "sif"), copy],
  ] as const) {
    mkdirSync(dir, { recursive: true });
    rmSync(join(dir, "a.sif"), { recursive: true, force: true });
    if (content === undefined) continue;
    writeFileSync(join(dir, "a.sif"), content);
    utimesSync(join(dir, "a.sif"), built, built);
  }
}

const configOf = (more: object = {}, ef: object = {}) =>
  checkConfig(
    {
      version: 1,
      scratch_base: "$SCRATCH",
      apptainer: {
        ...{ venv_base: "~/venvs", sif_store: "~/store", scratch_sif_dir: "$SCRATCH/sif" },
        images: {
          train: { venv_name: "train", python_version: "3.11.5", sif_filename: "a.sif", built_at: 1750000000 },
        },
        ...more,
      },
      ef,
    },
    "test",
  );

test("apptainerPath: the copy on scratch if it is whole, else the stored image, else what there is", () => {
  using at = new Home();
  const stored = join(at.home, "store/a.sif");
  const copy = join(at.scratch, "sif/a.sif");
  const path = (env = at.env) => apptainerPath(configOf(), "train", { env });

  place(at, "image", "image");
  expect(path()).toEqual({ path: copy, from: "scratch" });
  expect(path({ ...at.env, SCRATCH: undefined })).toEqual({ path: stored, from: "stored" });
  place(at, "image", undefined);
  expect(path()).toEqual({ path: stored, from: "stored" });
  place(at, "image", "half");
  expect(path()).toMatchObject({ path: stored, from: "stored", warning: expect.stringContaining("another version") });
  place(at, undefined, "image");
  expect(path()).toMatchObject({ path: copy, from: "scratch", warning: expect.stringContaining("no such file") });
  place(at, undefined, undefined);
  expect(() => path()).toThrow(expect.objectContaining({ code: "IO", hint: "build it: ef apptainer build train" }));
});

test("apptainerPath: hints can be typed as they are", () => {
  using at = new Home();
  const image = { venv_name: "v", python_version: "3.11.5", sif_filename: "a.sif", built_at: 1 };
  const config = configOf({ images: { "it's a; b": image } });
  const path = () => apptainerPath(config, "it's a; b", { env: at.env });
  place(at, undefined, undefined);
  expect(path).toThrow(expect.objectContaining({ hint: "build it: ef apptainer build 'it'\\''s a; b'" }));
  place(at, "image", "half");
  expect(path().warning).toEndWith("ef apptainer sync --image 'it'\\''s a; b'");
});

test("a record that leads elsewhere is refused, with the way to mend it", () => {
  const image = { venv_name: "v", python_version: "3.11.5", sif_filename: "a.sif", built_at: 1 };
  for (const [field, value] of [
    ["sif_filename", "../a.sif"],
    ["venv_name", ".."],
  ] as const) {
    const config = configOf({ images: { x: { ...image, [field]: value } } });
    expect(() => imagesOf(config, { HOME: "/home/me" })).toThrow(
      expect.objectContaining({
        code: "CONFIG_INVALID",
        message: `Cannot use the ${field} "${value}" of the image "x": it is not the name of a file`,
        hint: expect.stringContaining("ef config edit"),
      }),
    );
  }
});

test("apptainerPath: a link or a directory on scratch is no copy; without a scratch directory there is the stored one", () => {
  using at = new Home();
  place(at, "image", undefined);
  const stored = join(at.home, "store/a.sif");
  symlinkSync(stored, join(at.scratch, "sif/a.sif"));
  expect(apptainerPath(configOf(), "train", { env: at.env }).path).toBe(stored);
  rmSync(join(at.scratch, "sif/a.sif"));
  mkdirSync(join(at.scratch, "sif/a.sif"));
  expect(apptainerPath(configOf(), "train", { env: at.env }).path).toBe(stored);
  expect(apptainerPath(configOf({ scratch_sif_dir: "" }), "train", { env: at.env }).path).toBe(stored);
});

test("apptainerPath: an unknown image, and no store", () => {
  using at = new Home();
  const codeOf = (config: ReturnType<typeof configOf>, name: string) => {
    try {
      apptainerPath(config, name, { env: at.env });
    } catch (error) {
      return (error as EfError).code;
    }
    return undefined;
  };
  expect(codeOf(configOf(), "trian")).toBe("UNKNOWN_IMAGE");
  expect(codeOf(configOf({ sif_store: "" }), "train")).toBe("CONFIG_INVALID");
});

test("apptainerList: what is there of each image, and where", () => {
  using at = new Home({ "venvs/train/pyvenv.cfg": "" });
  const list = (env = at.env) => apptainerList(configOf(), { env })[0];
  place(at, "image", "image");
  expect(list()).toEqual({
    ...{ name: "train", enabled: true, pythonVersion: "3.11.5", builtAt: 1750000000 },
    stored: { path: join(at.home, "store/a.sif"), bytes: 5 },
    scratch: { path: join(at.scratch, "sif/a.sif"), bytes: 5, status: "synced" },
    environment: { name: "train", path: join(at.home, "venvs/train"), isThere: true, hasChanged: undefined },
  });
  expect(list({ ...at.env, SCRATCH: undefined })?.scratch).toEqual({
    ...{ path: undefined, bytes: undefined, status: "unset" },
  });
  place(at, "image", "older");
  utimesSync(join(at.scratch, "sif/a.sif"), 1, 1);
  expect(list()?.scratch.status).toBe("stale");
  place(at, "image", undefined);
  expect(list()?.scratch.status).toBe("not-synced");
  place(at, undefined, "image");
  expect(list()).toMatchObject({ stored: { bytes: undefined }, scratch: { status: "source-missing" } });
  rmSync(join(at.home, "venvs"), { recursive: true });
  expect(list()?.environment.isThere).toBe(false);
  expect(statSync(join(at.scratch, "sif/a.sif")).size).toBe(5);
  expect(apptainerList(configOf({ images: {} }), { env: at.env })).toEqual([]);
});

test("apptainerList: an environment whose packages are others than those of the image", () => {
  using at = new Home({ "venvs/train/pyvenv.cfg": "" });
  const site = join(at.home, "venvs/train/lib/python3.11/site-packages");
  mkdirSync(join(site, "numpy-2.4.6.dist-info"), { recursive: true });
  const image = { venv_name: "train", python_version: "3.11.5", sif_filename: "a.sif" };
  const own = { train: { packages_sha256: packagesSum(["numpy==2.4.6"]) } };
  const config = configOf({ images: { train: image } }, { apptainer: { images: own } });
  const changed = () => apptainerList(config, { env: at.env })[0]?.environment.hasChanged;
  expect(changed()).toBe(false);
  mkdirSync(join(site, "scipy-1.0.dist-info"));
  expect(changed()).toBe(true);
});
