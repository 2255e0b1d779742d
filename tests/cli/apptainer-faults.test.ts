import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { haveUv, makeEnv } from "../envs.ts";
import { Home, run, until } from "../helpers.ts";
import { baseSif, haveApptainer, noPythonSif, quickBuild, withApptainer } from "../images.ts";
import { seeded } from "../tables.ts";

/** An image is built in three to thirty seconds, in milliseconds. */
setDefaultTimeout(180_000);

const can = haveApptainer && haveUv;
const MiB = 1 << 20;

/** A HOME with the environment `one` and an image of it, which works. */
async function withImage(settings: object = {}): Promise<Home> {
  const at = new Home();
  withApptainer(at);
  mkdirSync(join(at.home, "venvs"));
  await makeEnv(join(at.home, "venvs/one"), ["six"]);
  const apptainer = {
    ...{ venv_base: "$HOME/venvs", sif_store: "~/sif", scratch_sif_dir: "$SCRATCH/sif", base_image: baseSif },
    ...{ build_args: [...quickBuild], ...settings },
  };
  at.configure({}, { apptainer, ef: { apptainer: { compile: false } } });
  expect((await at.ef(["apptainer", "build", "one"])).stderr).toContain("one: built");
  return at;
}

const sif = (at: Home) => join(at.home, "sif/one.sif");
const config = (at: Home) => join(at.home, ".euler-files.json");
const work = (at: Home) => join(at.dir, "apptainer tmpdir");

function change(at: Home, settings: object): void {
  const raw = JSON.parse(at.read(config(at)));
  at.write(".euler-files.json", { ...raw, apptainer: { ...raw.apptainer, ...settings } });
}

/** The image, its definition and what the configuration says of it. */
const state = (at: Home) => [
  String(Bun.hash(readFileSync(sif(at)))),
  at.read(join(at.home, "sif/one.def")),
  JSON.parse(at.read(config(at))).apptainer.images,
];

/** What is in the store besides the image, its definition and the lock. */
const extra = (at: Home) =>
  readdirSync(join(at.home, "sif")).filter((name) => !["one.sif", "one.def", ".one.sif.lock"].includes(name));

/** Processes that work on something of this HOME. */
async function processesOf(at: Home): Promise<string> {
  const { stdout } = await run(["ps", "-eo", "pid,args"], { env: at.env });
  return stdout
    .split("\n")
    .filter((line) => line.includes(at.dir) && !line.includes(" ps "))
    .join("\n");
}

async function stillWorks(at: Home): Promise<void> {
  const { stdout } = await at.ef(["apptainer", "run", "one", "--", "-c", "import six; print(six.__name__)"]);
  expect(stdout).toBe("six\n");
}

/** A file system of that size, until disposed. Apptainer does not find a mount point whose path has a space. */
async function small(at: Home, size: number): Promise<AsyncDisposable & { dir: string }> {
  const dir = mkdtempSync(join(tmpdir(), "ef-small-"));
  const mount = await run(["mount", "-t", "tmpfs", "-o", `size=${size}`, "tmpfs", dir], { env: at.env });
  expect(mount.stderr).toBe("");
  const end = async () => {
    await run(["umount", "-l", dir], { env: at.env });
    rmdirSync(dir);
  };
  return { dir, [Symbol.asyncDispose]: end };
}

describe.skipIf(!can)("the image of before stays [needs apptainer, uv]", () => {
  test("killed at random moments: it is the old one or the new one, whole; the next build leaves nothing behind", async () => {
    using at = await withImage();
    const random = seeded(5);
    let known = state(at)[0];
    const seen = new Set<number>();
    for (let round = 0; round < 14; round++) {
      const child = Promise.withResolvers<number>();
      const building = at.ef(["apptainer", "build", "one", "--force"], {
        onStart: (started) => child.resolve(started.pid as number),
      });
      await child.promise;
      await Bun.sleep(150 + random(3600));
      try {
        process.kill(await child.promise, round % 3 === 2 ? "SIGTERM" : "SIGKILL");
      } catch {
        // it has ended
      }
      const { code } = await building;
      seen.add(code);
      expect([0, 137, 143]).toContain(code);
      const now = state(at)[0];
      if (code === 143)
        expect([readdirSync(work(at)), extra(at), now === known]).toEqual([readdirSync(work(at)), extra(at), true]);
      known = now;
      await until("the end of all that it started", async () => (await processesOf(at)) === "");
      await stillWorks(at);
    }
    expect(seen.has(137)).toBe(true);
    expect((await at.ef(["apptainer", "build", "one", "--force"])).code).toBe(0);
    expect([readdirSync(work(at)), extra(at)]).toEqual([[], []]);
    await stillWorks(at);
  }, 240_000);

  for (const signal of ["SIGTERM", "SIGINT"] as const)
    test(`${signal} while apptainer is at work: its exit code, and nothing is left`, async () => {
      using at = await withImage();
      const before = state(at);
      const { code, stdout } = await at.ef(["apptainer", "build", "one", "--force"], {
        onStart: (child) =>
          void until("the build", () => readdirSync(work(at)).some((name) => existsSync(join(work(at), name, "tmp"))))
            .then(() => Bun.sleep(300))
            .then(() => child.kill(signal)),
      });
      expect([code, stdout]).toEqual([signal === "SIGTERM" ? 143 : 130, ""]);
      expect([readdirSync(work(at)), extra(at)]).toEqual([[], []]);
      expect(state(at)).toEqual(before);
      await until("the end of all that it started", async () => (await processesOf(at)) === "");
    });

  test("a base image without Python: said before anything is built", async () => {
    using at = await withImage();
    const before = state(at);
    change(at, { base_image: noPythonSif });
    const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force"]);
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/Cannot build one: it was made for Python 3\.\d+, and .* has no Python/),
    ]);
    expect(stderr).not.toContain("INFO:");
    expect(state(at)[0]).toBe(before[0]);
    expect([readdirSync(work(at)), extra(at)]).toEqual([[], []]);
  });

  test("a base image with another Python: said with what it has; where it cannot be known before, by the build", async () => {
    using at = await withImage();
    const before = state(at);
    const cfg = join(at.home, "venvs/one/pyvenv.cfg");
    writeFileSync(cfg, at.read(cfg).replace(/^(version_info|version) = .*$/gm, "$1 = 3.7.4"));
    const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force"]);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/made for Python 3\.7, and .* has 3\.\d+\n/)]);
    // An archive is not looked into: its %post finds out.
    const sandboxOnly = { base_image: `docker-archive:${join(at.dir, "none.tar")}` };
    change(at, sandboxOnly);
    const missing = await at.ef(["apptainer", "build", "one", "--force"]);
    expect([missing.code, missing.stderr]).toEqual([2, expect.stringContaining("none.tar: there is nothing")]);
    expect(state(at)[0]).toBe(before[0]);
  });

  test("an environment that changes while it is packed: said, and nothing is built", async () => {
    using at = await withImage();
    const before = state(at);
    const lib = join(at.home, "venvs/one/lib");
    for (let i = 0; i < 4000; i++) writeFileSync(join(lib, `f${i}`), "x".repeat(100));
    let stop = false;
    const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force"], {
      onStart: () =>
        void (async () => {
          for (let i = 0; !stop; i++) {
            writeFileSync(join(lib, `more${i}`), "");
            await Bun.sleep(5);
          }
        })(),
    });
    stop = true;
    expect([code, stderr]).toEqual([1, expect.stringContaining("changed while it was packed")]);
    expect(state(at)).toEqual(before);
    expect([readdirSync(work(at)), extra(at)]).toEqual([[], []]);
  });

  test("what fails in apptainer is said with its own words", async () => {
    using at = await withImage();
    const before = state(at);
    writeFileSync(join(at.home, "broken.sif"), "this is no image");
    for (const [base_image, words] of [
      ["$HOME/broken.sif", "image format not recognized"],
      ["docker://localhost:1/none:1", "connection refused"],
    ] as const) {
      change(at, { base_image });
      const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force"]);
      expect([base_image, code, stderr.includes(words)]).toEqual([base_image, 1, true]);
      expect(stderr).toMatch(/error: Cannot build the image: apptainer failed with exit code \d+/);
      expect(state(at)[0]).toBe(before[0]);
      expect([readdirSync(work(at)), extra(at)]).toEqual([[], []]);
    }
  });

  test("two builds of one image at once: one after the other, both whole", async () => {
    using at = await withImage();
    const [a, b] = await Promise.all([
      at.ef(["apptainer", "build", "one", "--force"]),
      at.ef(["apptainer", "build", "one", "--force"]),
    ]);
    expect([a.code, b.code]).toEqual([0, 0]);
    expect(a.stderr + b.stderr).toMatch(/one: waiting for (?:another )?process/); // its name comes a moment after its lock
    expect([readdirSync(work(at)), extra(at)]).toEqual([[], []]);
    await stillWorks(at);
  });
});

describe.skipIf(!can)("a full disk [needs apptainer, uv, root]", () => {
  test("where it is packed: another directory is used, and that is said", async () => {
    using at = await withImage();
    await using full = await small(at, 32 << 10);
    const env = { APPTAINER_TMPDIR: full.dir };
    const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force"], { env });
    expect(stderr).toContain(`there is no room in ${full.dir}: it is built in ${at.dir}`);
    expect([code, readdirSync(full.dir), extra(at)]).toEqual([0, [], []]);
    await stillWorks(at);
  });

  test("the directory that was asked for: no other is used", async () => {
    using at = await withImage();
    const before = state(at);
    await using full = await small(at, 32 << 10);
    const { dir } = full;
    const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force", "--tmpdir", dir]);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/no space left[\s\S]*--tmpdir/)]);
    expect([state(at), readdirSync(dir)]).toEqual([before, []]);
  });

  for (const [what, size] of [
    ["too small for what is unpacked", 3 * MiB],
    ["full while the base image is unpacked", 60 * MiB],
  ] as const)
    test(`where it is built: ${what}`, async () => {
      using at = await withImage();
      writeFileSync(join(at.home, "venvs/one/lib/data"), Buffer.alloc(MiB, "data"));
      const before = state(at);
      await using full = await small(at, size);
      const { dir } = full;
      const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force", "--tmpdir", dir]);
      expect([code, stderr]).toEqual([1, expect.stringMatching(/^error: Cannot build .*(no space left|are left)/m)]);
      expect(stderr).toContain("--tmpdir");
      expect([state(at), readdirSync(dir), extra(at)]).toEqual([before, [], []]);
      await stillWorks(at);
    });

  test("where images are kept", async () => {
    using at = await withImage();
    await using full = await small(at, 60 * MiB);
    rmSync(join(at.home, "sif"), { recursive: true });
    symlinkSync(full.dir, join(at.home, "sif"));
    expect((await at.ef(["apptainer", "build", "one"])).code).toBe(0);
    const before = state(at);
    const { code, stderr } = await at.ef(["apptainer", "build", "one", "--force"]);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^error: Cannot build the image: no space left/m)]);
    expect(stderr).toContain(sif(at).replace("one.sif", ""));
    expect([state(at), readdirSync(work(at)), extra(at)]).toEqual([before, [], []]);
    await stillWorks(at);
  });

  test("where the configuration is: the image is there, and the next run records it", async () => {
    using at = await withImage();
    const raw = JSON.parse(at.read(config(at)));
    delete raw.apptainer.images;
    await using full = await small(at, 16384);
    const { dir } = full;
    writeFileSync(join(dir, "c.json"), JSON.stringify(raw));
    rmSync(sif(at));
    const size = 16384 - statSync(join(dir, "c.json")).size;
    try {
      writeFileSync(join(dir, "fill"), Buffer.alloc(size + 4096));
    } catch {}
    const args = ["apptainer", "build", "one", "--config", join(dir, "c.json")];
    const { code, stderr } = await at.ef(args);
    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining(`The image ${sif(at)} is built, and not in the configuration yet`),
    ]);
    expect(JSON.parse(readFileSync(join(dir, "c.json"), "utf8")).apptainer.images).toBeUndefined();
    rmSync(join(dir, "fill"));
    expect((await at.ef(args)).stderr).toContain("is there already");
    expect(JSON.parse(readFileSync(join(dir, "c.json"), "utf8")).apptainer.images.one.sif_filename).toBe("one.sif");
  });
});
