import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { haveUv, makeEnv, systemPython } from "../envs.ts";
import { eulerFiles, Home, haveEulerFiles, type Ran, run } from "../helpers.ts";
import {
  baseSandbox,
  baseSif,
  dockerArchive,
  haveApptainer,
  haveRegistry,
  ociArchive,
  quickBuild,
  startRegistry,
  withApptainer,
} from "../images.ts";

/** An image is built in three to thirty seconds, in milliseconds. */
setDefaultTimeout(180_000);

const can = haveApptainer && haveUv;

/** A HOME with the environments `venvs/NAME`, and a configuration that builds quickly. */
async function withEnvs(
  envs: Record<string, readonly string[]>,
  settings: object = {},
  ef: object = {},
): Promise<Home> {
  const at = new Home();
  if (haveApptainer) withApptainer(at);
  mkdirSync(join(at.home, "venvs"));
  for (const [name, packages] of Object.entries(envs)) await makeEnv(join(at.home, "venvs", name), packages);
  at.configure(
    {},
    {
      apptainer: {
        venv_base: "$HOME/venvs",
        sif_store: "~/sif",
        scratch_sif_dir: "$SCRATCH/sif",
        base_image: baseSif,
        build_args: ["--fakeroot", ...quickBuild],
        ...settings,
      },
      ef: { apptainer: { compile: false, ...ef } },
    },
  );
  return at;
}

const sif = (at: Home, name: string) => join(at.home, "sif", `${name}.sif`);
const inside = (at: Home, image: string, ...argv: string[]): Promise<Ran> =>
  run(["apptainer", "exec", "--cleanenv", "--no-home", image, ...argv], { env: at.env });
const configOf = (at: Home) => JSON.parse(at.read(join(at.home, ".euler-files.json")));
/** What builds leave where they work. */
const leftovers = (at: Home) => [
  ...readdirSync(join(at.dir, "apptainer tmpdir")),
  ...readdirSync(join(at.home, "sif")).filter((name) => /\.tmp|ef-image/.test(name)),
];

describe.skipIf(!can)("ef apptainer build [needs apptainer, uv]", () => {
  test("numpy and console scripts, with byte code: all answer, nothing names the old place", async () => {
    using at = await withEnvs({ train: ["numpy", "ruff", "black", "ipython", "pip"] }, {}, { compile: true });
    const old = join(at.home, "venvs/train");
    const { code, stdout, stderr } = await at.ef(["apptainer", "build", "train"]);
    expect(stderr).toContain("INFO:    Creating SIF file...");
    expect(stderr).toContain(`train: built: ${sif(at, "train")}`);
    expect([code, stdout]).toEqual([0, ""]);
    expect(
      (await inside(at, sif(at, "train"), "python", "-c", "import numpy; print(numpy.ones(3).sum())")).stdout,
    ).toBe("3.0\n");
    const scripts = readdirSync(join(old, "bin")).filter(
      (name) => !/^activate|^deactivate|^python|^\.|^pydoc/.test(name),
    );
    expect(scripts).toContain("ruff");
    for (const script of scripts) {
      const before = await run([join(old, "bin", script), "--help"], { env: at.env });
      const said = await inside(at, sif(at, "train"), script, "--help");
      expect([script, said.code, said.stdout]).toEqual([
        script,
        before.code,
        before.stdout.replaceAll(old, "/opt/venv"),
      ]);
    }
    const found = await inside(at, sif(at, "train"), "grep", "-rl", at.dir, "/opt/venv");
    expect(found.stdout).toBe("");
    expect(
      (await inside(at, sif(at, "train"), "find", "/opt/venv", "!", "-type", "l", "!", "-perm", "-004")).stdout,
    ).toBe("");
    const compiled = await inside(
      at,
      sif(at, "train"),
      "ls",
      "/opt/venv/lib/python3.11/site-packages/numpy/__pycache__",
    );
    expect(compiled.stdout).toContain("__init__.cpython-3");
    // As `ef apptainer run` has it: the runscript is Python with its arguments.
    const ran = await run(
      ["apptainer", "run", sif(at, "train"), "-c", "import sys; print(sys.argv, sys.prefix)", "a b", "c'd"],
      { env: at.env },
    );
    expect(ran.stdout).toBe("['-c', 'a b', \"c'd\"] /opt/venv\n");

    const labels = (await run(["apptainer", "inspect", "--labels", sif(at, "train")], { env: at.env })).stdout;
    const { built_at: builtAt, ...record } = configOf(at).apptainer.images.train;
    const { packages_sha256: sum } = configOf(at).ef.apptainer.images.train;
    expect(labels).toContain(`ef.packages.sha256: ${sum}`);
    expect(labels).toContain("ef.name: train");
    expect(labels).toContain(`ef.python: ${record.python_version}`);
    expect(record).toEqual({
      venv_name: "train",
      python_version: expect.any(String),
      sif_filename: "train.sif",
      enabled: true,
    });
    expect(Math.abs(builtAt - Date.now() / 1000)).toBeLessThan(120);
    if (haveEulerFiles) expect((await eulerFiles(at, ["apptainer", "sync", "--dry-run", "--json"])).code).toBe(0);
    expect(at.read(join(at.home, "sif/train.def"))).toContain("Bootstrap: localimage");
    expect(leftovers(at)).toEqual([]);
  });

  test("there already: skipped; after a change of packages that is said; --force builds it again", async () => {
    using at = await withEnvs({ one: ["six"] });
    expect((await at.ef(["apptainer", "build", "one"])).code).toBe(0);
    const first = statSync(sif(at, "one")).ino;
    const again = await at.ef(["apptainer", "build", "one"]);
    expect(again.stderr).toBe(`one: ${sif(at, "one")} is there already: --force builds it again\n`);
    const json = async (...more: string[]) =>
      JSON.parse((await at.ef(["apptainer", "build", "one", "--json", ...more])).stdout);
    expect(await json()).toMatchObject({
      ok: true,
      command: "apptainer-build",
      status: "skipped",
      outdated: false,
      force: false,
    });
    expect(statSync(sif(at, "one")).ino).toBe(first);

    mkdirSync(join(at.home, "venvs/one", siteOf(at, "one"), "added-1.0.dist-info"));
    writeFileSync(join(at.home, "venvs/one/lib/added.txt"), "");
    expect((await at.ef(["apptainer", "build", "one"])).stderr).toContain(
      "the packages of the environment have changed since",
    );
    expect((await json()).outdated).toBe(true);
    const built = await json("--force");
    expect(built).toMatchObject({
      ...{
        status: "built",
        venv_name: "one",
        venv_path: join(at.home, "venvs/one"),
        sif_path: sif(at, "one"),
        force: true,
      },
      ...{ definition_path: join(at.home, "sif/one.def"), dry_run: false, bytes: statSync(sif(at, "one")).size },
    });
    expect(built.build_args).not.toContain("--fakeroot"); // a test with apptainer runs as root
    expect(statSync(sif(at, "one")).ino).not.toBe(first);
    expect((await inside(at, sif(at, "one"), "ls", "/opt/venv/lib/added.txt")).code).toBe(0);
  });

  test("an image that was built and not recorded is recorded, and not built again", async () => {
    using at = await withEnvs({ one: ["six"] });
    expect((await at.ef(["apptainer", "build", "one"])).code).toBe(0);
    const config = configOf(at);
    delete config.apptainer.images;
    at.write(".euler-files.json", config);
    expect((await at.ef(["apptainer", "build", "one"])).stderr).toContain("is there already");
    expect(configOf(at).apptainer.images.one.sif_filename).toBe("one.sif");
  });

  test("a link in the store that leads nowhere is no image: it is built", async () => {
    using at = await withEnvs({ one: ["six"] });
    expect((await at.ef(["apptainer", "build", "one"])).code).toBe(0);
    rmSync(sif(at, "one"));
    symlinkSync("/nonexistent/one.sif", sif(at, "one"));
    expect((await at.ef(["apptainer", "build", "one"])).stderr).toContain("one: built");
    expect((await inside(at, sif(at, "one"), "python", "-c", "import six")).code).toBe(0);
  });

  test("a dry run shows the definition and writes nothing; it needs no apptainer", async () => {
    using at = await withEnvs({ one: ["six"] });
    const { stdout, code, stderr } = await at.ef(["apptainer", "build", "one", "--dry-run"], {
      env: { PATH: "/usr/bin:/bin" },
    });
    expect(stderr).toContain("--fakeroot is left out: you are root here already");
    expect(code).toBe(0);
    expect(stdout).toContain('%runscript\n    exec python "$@"\n');
    expect(stdout).toContain(`# apptainer build`);
    expect(existsSync(join(at.home, "sif"))).toBe(false);
    const json = JSON.parse((await at.ef(["apptainer", "build", "one", "--dry-run", "--json"])).stdout);
    expect(json).toMatchObject({
      status: "dry-run",
      dry_run: true,
      sif_path: sif(at, "one"),
      python_version: expect.any(String),
    });
    expect(json.definition).toBe(stdout.slice(0, json.definition.length));
    expect(json.build_command.slice(0, 2)).toEqual(["apptainer", "build"]);
  });

  test("its arguments from JSON", async () => {
    using at = await withEnvs({ one: ["six"] });
    const input = at.write("in.json", { venv_name: "one", dry_run: true, force: true });
    const json = JSON.parse((await at.ef(["apptainer", "build", "--input-json", input, "--json"])).stdout);
    expect(json).toMatchObject({ status: "dry-run", venv_name: "one", force: true });
    const wrong = await at.ef(["apptainer", "build", "--input-json", at.write("in.json", { venv: "one" })]);
    expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining("venv")]);
  });

  const bases: [what: string, of: (at: Home) => string, needs: boolean][] = [
    ["a sandbox", () => baseSandbox, can],
    ["a sandbox whose path is hostile", (at) => linked(at, baseSandbox, "sand #1 'box'"), can],
    ["an image whose path is hostile", (at) => linked(at, baseSif, '-b # "x" $(touch y).sif'), can],
    ["an OCI archive", () => `oci-archive:${ociArchive}`, haveRegistry],
    [
      "an OCI archive whose path is hostile",
      (at) => `oci-archive:${linked(at, ociArchive, "o #c i.tar")}`,
      haveRegistry,
    ],
    ["a docker archive", () => `docker-archive:${dockerArchive}`, haveRegistry],
  ];
  for (const [what, of, needs] of bases)
    test.skipIf(!needs)(`built on ${what}${needs ? "" : " [needs a registry]"}`, async () => {
      using at = await withEnvs({ one: ["six"] });
      const config = configOf(at);
      config.apptainer.base_image = of(at);
      at.write(".euler-files.json", config);
      const { code, stderr } = await at.ef(["apptainer", "build", "one"]);
      expect([code, stderr]).toEqual([0, expect.stringContaining("one: built")]);
      expect((await inside(at, sif(at, "one"), "python", "-c", "import six; print(six.__file__)")).stdout).toStartWith(
        "/opt/venv/",
      );
      expect(leftovers(at)).toEqual([]);
    });

  test.skipIf(!haveRegistry)(
    "built on what a registry has, by version; its layers are kept where they are to be",
    async () => {
      await using registry = await startRegistry();
      using at = await withEnvs(
        { one: ["six"] },
        { base_image: `docker://${registry.template}` },
        { cachedir: "$SCRATCH/layers" },
      );
      const { code, stderr } = await at.ef(["apptainer", "build", "one"]);
      expect([code, stderr]).toEqual([0, expect.stringContaining("one: built")]);
      expect((await inside(at, sif(at, "one"), "python", "-c", "import six; print(six.__name__)")).stdout).toBe(
        "six\n",
      );
      expect(readdirSync(join(at.scratch, "layers"))).toEqual(["cache"]);
    },
  );

  test("an image of ef is a base too: the environment takes the place of the one in it", async () => {
    using at = await withEnvs({ one: ["six"], two: ["wheel"] });
    expect((await at.ef(["apptainer", "build", "one"])).code).toBe(0);
    const config = configOf(at);
    config.apptainer.base_image = "$HOME/sif/one.sif";
    at.write(".euler-files.json", config);
    expect((await at.ef(["apptainer", "build", "two"])).stderr).toContain("two: built");
    expect((await inside(at, sif(at, "two"), "python", "-c", "import wheel")).code).toBe(0);
    expect((await inside(at, sif(at, "two"), "python", "-c", "import six")).code).toBe(1);
  });

  for (const name of ["a b; rm -rf ~", "-x", "{{x}}", 'it\'s "q" $(touch pwned)', "%post", "new\nline", "ü", "#"])
    test(`a name that is hostile: ${JSON.stringify(name)}`, async () => {
      using at = await withEnvs({ [name]: ["six"] }, { container_venv_path: hostilePath });
      const { code, stderr } = await at.ef(["apptainer", "build", "--", name]);
      const shown = name.replace("\n", "\\n");
      expect([code, stderr]).toEqual([0, expect.stringContaining(`\n${shown}: built: ${at.home}/sif/${shown}.sif (`)]);
      const image = sif(at, name);
      const said = await inside(
        at,
        image,
        "/bin/sh",
        "-c",
        'ls -d /PWNED /pwned /tmp/pwned; python -c "import six, sys; print(sys.prefix)"',
      );
      expect(said.stdout).toBe(`${hostilePath}\n`);
      expect(existsSync(join(at.home, "pwned"))).toBe(false);
      expect(Object.keys(configOf(at).apptainer.images)).toEqual([name]);
    });

  test("an environment that was moved, a link to one, links in it, what an image is not to have", async () => {
    using at = await withEnvs({ first: ["ruff", "six"] });
    const venvs = join(at.home, "venvs");
    renameSync(join(venvs, "first"), join(at.home, "moved"));
    symlinkSync(join(at.home, "moved"), join(venvs, "linked"));
    const env = join(at.home, "moved");
    writeFileSync(join(at.home, "data"), "of elsewhere");
    symlinkSync(join(at.home, "data"), join(env, "data"));
    symlinkSync(join(venvs, "first/lib"), join(env, "own")); // absolute, to where it was made
    symlinkSync("/nonexistent", join(env, "dangling"));
    writeFileSync(join(env, "pip.conf"), "[global]\nindex-url = https://me:secret@example.org/\n", { mode: 0o600 });
    mkdirSync(join(env, "share"));
    writeFileSync(join(env, "share/private"), `${venvs}/first/lib`, { mode: 0o600 });
    chmodSync(join(env, "share"), 0o700);
    const { code, stderr } = await at.ef(["apptainer", "build", "linked"]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("linked: built")]);
    expect(stderr).toContain("link to files elsewhere, stored as files: data");
    expect(stderr).toContain("left out: dangling");
    const image = sif(at, "linked");
    const look = await inside(
      at,
      image,
      "/bin/sh",
      "-c",
      "cd /opt/venv && cat data && readlink own && cat share/private && ls pip.conf; stat -c %a share share/private",
    );
    expect(look.stdout).toBe("of elsewhere/opt/venv/lib/opt/venv/lib755\n644\n".replace("lib/opt", "lib\n/opt"));
    expect((await inside(at, image, "ruff", "--version")).stdout).toStartWith("ruff ");
  });

  test("a Python that is another program: Python's own copy, and links of several names", async () => {
    using at = await withEnvs({});
    const dir = join(at.home, "venvs/copied");
    expect(
      (await run([systemPython as string, "-m", "venv", "--copies", "--without-pip", dir], { env: at.env })).code,
    ).toBe(0);
    expect((await at.ef(["apptainer", "build", "copied"])).code).toBe(0);
    const said = await inside(
      at,
      sif(at, "copied"),
      "python",
      "-c",
      "import os, sys; print(os.path.realpath(sys.executable), sys.prefix)",
    );
    expect(said.stdout).toBe(
      `${(await inside(at, baseSif, "readlink", "-f", "/usr/bin/python3")).stdout.trim()} /opt/venv\n`,
    );
  });

  test("compressor, processors: what mksquashfs is told", async () => {
    using at = await withEnvs({ one: ["six"] }, { build_args: [] });
    const json = JSON.parse(
      (await at.ef(["apptainer", "build", "one", "--json", "--compressor", "zstd", "--processors", "1"])).stdout,
    );
    expect(json.build_args).toEqual(["--mksquashfs-args", "-comp zstd -processors 1"]);
    expect((await inside(at, sif(at, "one"), "python", "-c", "import six")).code).toBe(0);
    const wrong = await at.ef(["apptainer", "build", "one", "--processors", "many"]);
    expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining('--processors "many"')]);
  });

  test("its old name is accepted: singularity", async () => {
    using at = await withEnvs({ one: ["six"] });
    const bin = join(at.dir, "bin");
    const real = (await run(["readlink", "-f", join(bin, "apptainer")], { env: at.env })).stdout.trim();
    renameSync(join(bin, "apptainer"), join(bin, "singularity"));
    const env = { PATH: `${bin}:/usr/bin:/bin` };
    expect(real).not.toBe("");
    const { code, stderr } = await at.ef(["apptainer", "build", "one"], { env });
    expect([code, stderr]).toEqual([0, expect.stringContaining("one: built")]);
    const ran = await at.ef(["apptainer", "run", "one", "--", "-c", "import six; print(six.__name__)"], { env });
    expect(ran.stdout).toBe("six\n");
  });

  test("the whole way: build, sync, run from scratch, list, prune", async () => {
    using at = await withEnvs({ one: ["six"] });
    expect((await at.ef(["apptainer", "build", "one"])).code).toBe(0);
    expect((await at.ef(["apptainer", "path", "one"])).stdout).toBe(`${sif(at, "one")}\n`);
    expect((await at.ef(["apptainer", "sync"])).stderr).toContain("one: complete");
    const copy = join(at.scratch, "sif/one.sif");
    expect((await at.ef(["apptainer", "path", "one"])).stdout).toBe(`${copy}\n`);
    const ran = await at.ef([
      "apptainer",
      "run",
      "one",
      "--",
      "-c",
      "import six, sys; sys.exit(len(sys.argv))",
      "a",
      "b",
    ]);
    expect(ran.code).toBe(3);
    expect((await at.ef(["apptainer", "build", "one", "--force"])).code).toBe(0);
    const other = await at.ef(["apptainer", "path", "one"]);
    expect(other.stdout).toBe(`${sif(at, "one")}\n`);
    expect(other.stderr).toContain("ef apptainer sync --image one");
    expect((await at.ef(["apptainer", "sync"])).stderr).toContain("one: complete");
    expect((await at.ef(["apptainer", "sync"])).stderr).toContain("one: as stored");
    expect((await at.ef(["apptainer", "list"])).stdout).toContain("synced");
    expect((await at.ef(["apptainer", "prune", "one", "--yes"])).code).toBe(0);
    for (const path of [copy, sif(at, "one"), join(at.home, "venvs/one"), join(at.home, "sif/one.def")])
      expect([path, existsSync(path)]).toEqual([path, false]);
    expect(configOf(at).apptainer.images).toEqual({});
  });
});

const hostilePath = '/opt/in "side" $(touch PWNED); `touch PWNED` \\';

const siteOf = (at: Home, name: string) => {
  const [version] = readdirSync(join(at.home, "venvs", name, "lib"));
  return `lib/${version}/site-packages`;
};

/** A link of that name in HOME. */
function linked(at: Home, path: string, name: string): string {
  symlinkSync(path, join(at.home, name));
  return join(at.home, name);
}
