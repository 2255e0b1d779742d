/** Base images, places and apptainers that are not as they should be. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { haveUv, makeEnv, systemPython } from "../envs.ts";
import { Home, run } from "../helpers.ts";
import { baseSandbox, baseSif, haveApptainer, quickBuild, withApptainer } from "../images.ts";

/** An image is built in three to thirty seconds, in milliseconds. */
setDefaultTimeout(180_000);

const can = haveApptainer && haveUv;

/** A HOME with the environment `one`, and a configuration that builds quickly. */
async function withOne(settings: object = {}, venvArgs: readonly string[] = []): Promise<Home> {
  const at = new Home();
  if (haveApptainer) withApptainer(at);
  mkdirSync(join(at.home, "venvs"));
  await makeEnv(join(at.home, "venvs/one"), ["six"], venvArgs);
  const apptainer = {
    ...{ venv_base: "$HOME/venvs", sif_store: "~/sif", scratch_sif_dir: "$SCRATCH/sif", base_image: baseSif },
    ...{ build_args: [...quickBuild], ...settings },
  };
  at.configure({}, { apptainer, ef: { apptainer: { compile: false } } });
  return at;
}

const leftovers = (at: Home) => [
  ...readdirSync(join(at.dir, "apptainer tmpdir")),
  ...readdirSync(join(at.home, "sif")).filter((name) => name.endsWith(".tmp")),
];

/** An apptainer that does this instead; `$image` is what it is to build. */
function fakeApptainer(at: Home, text: string): void {
  rmSync(join(at.dir, "bin/apptainer"), { force: true });
  const find = 'for arg; do case $arg in *.tmp) image=$arg ;; esac; done; case "$*" in *--help* | exec*) exit ;; esac';
  writeFileSync(join(at.dir, "bin/apptainer"), `#!/bin/sh\n${find}\n${text}\n`);
  chmodSync(join(at.dir, "bin/apptainer"), 0o755);
}

describe.skipIf(!can)("base images [needs apptainer, uv]", () => {
  test("without tar, and with a script in front of its Python", async () => {
    using at = await withOne({ base_image: "$HOME/base" });
    const base = join(at.home, "base");
    cpSync(baseSandbox, base, { recursive: true, verbatimSymlinks: true });
    rmSync(join(base, "usr/bin/tar"));
    const python = (await run(["readlink", "-f", systemPython as string], { env: at.env })).stdout.trim();
    const shim = join(base, "usr/local/bin", python.replace(/.*\//, ""));
    writeFileSync(shim, `#!/bin/sh\nexec ${python} "$@"\n`);
    chmodSync(shim, 0o755);
    mkdirSync(join(at.home, "venvs/one/only root"), { mode: 0o500 });
    const { code, stderr } = await at.ef(["apptainer", "build", "one"]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("one: built")]);
    const image = join(at.home, "sif/one.sif");
    const code2 = "import os, six; print(six.__file__, oct(os.stat('/opt/venv/only root').st_mode))";
    const said = await run(["apptainer", "exec", "--cleanenv", "--no-home", image, "python", "-c", code2], {
      env: at.env,
    });
    expect(said.stdout).toMatch(/^\/opt\/venv\/lib\/.*six\.py 0o40555\n$/);
    expect(leftovers(at)).toEqual([]);
  });

  test("with another kind of Python: its packages would not be found", async () => {
    using at = await withOne();
    const lib = join(at.home, "venvs/one/lib");
    const [name = ""] = readdirSync(lib);
    renameSync(join(lib, name), join(lib, `${name}t`));
    const { code, stderr } = await at.ef(["apptainer", "build", "one"]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("was made for another kind of Python")]);
    expect(existsSync(join(at.home, "sif/one.sif"))).toBe(false);
    expect(leftovers(at)).toEqual([]);
  });
});

describe.skipIf(!haveUv)("what is known before a build [needs uv]", () => {
  test("packages of the base Python are not in the image: a warning", async () => {
    using at = await withOne({ base_image: "python:{version}-slim" }, ["--system-site-packages"]);
    expect((await at.ef(["apptainer", "build", "one", "--dry-run"])).stderr).toContain("not in the image");
  });

  test("an image is not built over the one of another record", async () => {
    using at = await withOne({
      base_image: "python:{version}-slim",
      images: { two: { venv_name: "two", python_version: "3.11.2", sif_filename: "one.sif" } },
    });
    const { code, stderr } = await at.ef(["apptainer", "build", "one", "--dry-run"]);
    expect([code, stderr]).toEqual([2, expect.stringContaining("one.sif is the image of two")]);
  });

  test("an image that nobody recorded: its definition tells of which packages it was built, and its time when", async () => {
    using at = await withOne({ base_image: "python:{version}-slim" });
    const image = at.write("sif/one.sif", "an image");
    utimesSync(image, 1000, 1000);
    const { definition } = JSON.parse((await at.ef(["apptainer", "build", "one", "--dry-run", "--json"])).stdout);
    const label = /ef\.packages\.sha256 (\S+)/.exec(definition)?.[1] ?? "";
    const config = join(at.home, ".euler-files.json");
    const original = at.read(config);
    const built = async (text: string) => {
      at.write("sif/one.def", text);
      at.write(".euler-files.json", original);
      const { outdated } = JSON.parse((await at.ef(["apptainer", "build", "one", "--json"])).stdout);
      const { apptainer, ef } = JSON.parse(at.read(config));
      return [outdated, apptainer.images.one.built_at, ef.apptainer.images.one.packages_sha256];
    };
    const other = label.replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
    expect(await built(definition)).toEqual([false, 1000, label]);
    expect(await built(definition.replace(label, other))).toEqual([true, 1000, other]);
    expect(await built("Bootstrap: docker")).toEqual([false, 1000, undefined]);
  });

  test("apptainer.sif_store is a file", async () => {
    using at = await withOne({ base_image: "python:{version}-slim" });
    writeFileSync(join(at.home, "sif"), "");
    const { code, stderr } = await at.ef(["apptainer", "build", "one"]);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^error: Cannot look for the image: .*ENOTDIR/)]);
    expect(stderr).not.toContain("EF_LOG");
  });
});

test.skipIf(!haveUv)("one warning for each of many files: some are shown, all are in the JSON [needs uv]", async () => {
  using at = await withOne({ base_image: "python:{version}-slim" });
  const env = join(at.home, "venvs/one");
  for (let i = 0; i < 30; i++) writeFileSync(join(env, `binary${i}`), `\0${env}\0`);
  fakeApptainer(at, 'echo "the build" >&2; exit 1');
  const { stderr } = await at.ef(["apptainer", "build", "one"]);
  expect(stderr.match(/^warning: .*a binary file names/gm)?.length).toBe(10);
  expect(stderr).toContain("warning: one: and 20 other warnings (all: --json)\n");
});

test.skipIf(!haveUv)("an environment that does not tell its Python [needs uv]", async () => {
  using at = await withOne({ base_image: "python:{version}-slim" });
  const env = join(at.home, "venvs/one");
  rmSync(join(env, "lib"), { recursive: true });
  writeFileSync(join(env, "pyvenv.cfg"), "home = /usr/bin\n");
  const { code, stderr } = await at.ef(["apptainer", "build", "one", "--dry-run"]);
  expect([code, stderr]).toEqual([1, expect.stringContaining("its pyvenv.cfg has no version")]);
});

describe.skipIf(!haveUv)("what an apptainer may do [needs uv]", () => {
  for (const [what, text, words] of [
    ["make nothing, and say that all is well", "exit 0", "ended without an error, and made none"],
    ["make a directory", 'rm "$image"; mkdir "$image" "$image/etc"', "ended without an error, and made none"],
    ["make what is no image", ': >"$image"', "its Python does not start"],
    ["be killed", "kill -9 $$", "--processors N"],
    ["fail over what it says at each start", 'echo "INFO:    fakeroot command not found" >&2; exit 255', "--dry-run"],
  ] as const)
    test(what, async () => {
      using at = await withOne({ base_image: "python:{version}-slim" });
      mkdirSync(join(at.dir, "apptainer tmpdir"), { recursive: true });
      at.env.APPTAINER_TMPDIR = join(at.dir, "apptainer tmpdir");
      fakeApptainer(at, text);
      const { code, stderr } = await at.ef(["apptainer", "build", "one"]);
      expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
      expect(stderr).not.toContain("EF_LOG");
      expect(leftovers(at)).toEqual([]);
      expect(existsSync(join(at.home, "sif/one.sif"))).toBe(false);
    });

  test("its cache is where it was asked for, whichever directory it works in", async () => {
    using at = await withOne({ base_image: "python:{version}-slim" });
    fakeApptainer(at, 'echo "cache=$APPTAINER_CACHEDIR" >&2; exit 1');
    const { stderr } = await at.ef(["apptainer", "build", "one", "--cachedir", "layers"], { cwd: at.home });
    expect(stderr).toContain(`cache=${join(at.home, "layers")}\n`);
  });
});

describe.skipIf(!haveUv || process.geteuid?.() !== 0)("where Apptainer refuses to build [needs uv, root]", () => {
  for (const [what, name, options] of [
    ["noexec", "ef-noexec-", "noexec"],
    ["a space", "ef space ", "exec"],
  ] as const)
    test(`${what}: said if it was asked for, else another place is taken`, async () => {
      using at = await withOne({ base_image: "python:{version}-slim" });
      const dir = mkdtempSync(join(tmpdir(), name));
      await run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", dir], { env: at.env });
      try {
        const asked = await at.ef(["apptainer", "build", "one", "--dry-run", "--tmpdir", dir]);
        expect([asked.code, asked.stderr]).toEqual([2, expect.stringContaining(what)]);
        const env = { APPTAINER_TMPDIR: dir };
        const other = await at.ef(["apptainer", "build", "one", "--dry-run", "--json"], { env });
        expect(JSON.parse(other.stdout).tar_path).toBe(join(at.dir, "venv.tar"));
      } finally {
        await run(["umount", "-l", dir], { env: at.env });
        rmdirSync(dir);
      }
    });
});
