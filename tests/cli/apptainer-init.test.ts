/** ef apptainer init without a terminal. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { eulerFiles, Home, haveEulerFiles } from "../helpers.ts";

const path = (at: Home) => join(at.home, ".euler-files.json");
const saved = (at: Home) => JSON.parse(at.read(path(at)));
const init = (at: Home, payload: unknown, ...flags: string[]) =>
  at.ef(["apptainer", "init", "--input-json", "-", ...flags], { stdin: JSON.stringify(payload) });

const section = { venv_base: "$HOME/venvs", sif_store: "~/sif", scratch_sif_dir: "$SCRATCH/sif" };
const filled = {
  ...section,
  base_image: "python:{version}-slim",
  container_venv_path: "/opt/venv",
  build_args: ["--fakeroot"],
  images: {},
};
const image = { venv_name: "a", python_version: "3.11.2", sif_filename: "a.sif", built_at: 1, enabled: true };

describe("ef apptainer init", () => {
  test("paths are saved as written, defaults are filled in, and the rest of the file stays", async () => {
    using at = new Home();
    at.configure({ HF_HOME: "hf" }, { other: { kept: 1 } });
    const before = saved(at);
    const { stdout, stderr, code } = await init(at, section, "--json");
    expect(JSON.parse(stdout)).toEqual({
      ...{ ok: true, command: "apptainer-init", errors: [], status: "saved", config_path: path(at) },
      ...{ apptainer: filled, warnings: [] },
    });
    expect(stderr).toBe("saved ~/.euler-files.json\n");
    expect(code).toBe(0);
    expect(saved(at)).toEqual({ ...before, apptainer: filled });
    expect(await init(at, section)).toMatchObject({ stdout: "", code: 0 });
    expect(existsSync(join(at.home, "sif"))).toBe(false);
  });

  test("wrapped, from a file; images and keys of another version stay, a list of images replaces them", async () => {
    using at = new Home();
    at.configure({}, { apptainer: { venv_base: "/old", newer: [1], images: { a: image } } });
    const file = at.write("payload.json", { apptainer: { ...section, build_args: [] } });
    expect((await at.ef(["apptainer", "init", "--input-json", file])).code).toBe(0);
    expect(saved(at).apptainer).toEqual({ ...filled, build_args: [], newer: [1], images: { a: image } });
    const json = JSON.parse((await init(at, { ...section, images: { b: image } }, "--json")).stdout);
    expect(json.apptainer.images).toEqual({ b: image });
    expect(saved(at).apptainer.images).toEqual({ b: image });
  });

  test.each([
    [{ venv_bas: "/v" }, "unknown key venv_bas", "did you mean venv_base?"],
    [{ apptainer: section, force: true }, "unknown key force", ""],
    [{ apptainer: { ...section, images: { a: { ...image, colour: 1 } } } }, "unknown key images.a.colour", ""],
    [{ apptainer: [] }, "apptainer: expected an object", ""],
    [{ build_args: "--fakeroot" }, "apptainer.build_args: expected a list", ""],
    [{ ...section, venv_base: "venvs" }, 'apptainer.venv_base "venvs": expected an absolute path', ""],
    [{ ...section, scratch_sif_dir: "~/sif/" }, "sif_store", "nothing was saved"],
    [{ ...section, container_venv_path: "/usr" }, "apptainer.container_venv_path", "/opt/venv"],
    [{ ...section, base_image: "ftp://x" }, "apptainer.base_image", "nothing was saved"],
  ])("%j is refused: %s", async (payload, why, hint) => {
    using at = new Home();
    at.configure({});
    const before = at.read(path(at));
    const { stdout, stderr, code } = await init(at, payload);
    expect({ stdout, code }).toEqual({ stdout: "", code: 2 });
    expect(stderr).toContain(why);
    expect(stderr).toContain(hint);
    expect(at.read(path(at))).toBe(before);
  });

  test("a store on scratch is a warning", async () => {
    using at = new Home();
    at.configure({});
    const { stderr, code } = await init(at, { ...section, sif_store: "$SCRATCH/images" });
    expect(stderr).toContain("warning: apptainer.sif_store $SCRATCH/images lies on scratch");
    expect(code).toBe(0);
  });

  test("without a configuration, a terminal or an object there is an error that says what to do", async () => {
    using at = new Home();
    const none = await init(at, section, "--json");
    expect(none.code).toBe(2);
    expect(JSON.parse(none.stdout).error).toMatchObject({ code: "CONFIG_NOT_FOUND", hint: "make one with: ef init" });
    expect(existsSync(path(at))).toBe(false);
    at.configure({});
    const nobody = await at.ef(["apptainer", "init"]);
    expect(nobody.code).toBe(2);
    expect(nobody.stderr).toContain("not a terminal");
    expect(nobody.stderr).toContain("--input-json FILE");
    expect((await at.ef(["apptainer", "init", "--input-json", "-"], { stdin: "[1" })).code).toBe(2);
  });

  test.skipIf(!haveEulerFiles)("euler-files reads what ef saved, and the other way [needs euler-files]", async () => {
    using at = new Home();
    at.configure({});
    const theirs = async () => {
      const ran = await eulerFiles(at, ["apptainer", "init", "--input-json", "-", "--json"], JSON.stringify(section));
      expect(ran).toMatchObject({ code: 0, stderr: "" });
      return JSON.parse(ran.stdout);
    };
    const ours = JSON.parse((await init(at, section, "--json")).stdout);
    const { apptainer, ...rest } = await theirs();
    expect(ours).toMatchObject(rest);
    expect(Object.keys(ours.apptainer).sort()).toEqual(Object.keys(apptainer).sort());
    expect((await init(at, { ...section, base_image: "x" })).code).toBe(0);
    expect(saved(at).apptainer.base_image).toBe("x");
  });
});
