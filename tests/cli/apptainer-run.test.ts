import { expect, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { Home, until } from "../helpers.ts";

/** Two images in the store, of which one is on scratch, and an `apptainer` that says how it was called. */
function home(): Home {
  const at = new Home();
  for (const file of ["store/a b.sif", "store/stored.sif"]) at.write(file, "image");
  at.write("../scratch/sif/a b.sif", "image");
  for (const path of [join(at.home, "store/a b.sif"), join(at.scratch, "sif/a b.sif")]) utimesSync(path, 1e9, 1e9);
  const image = (sif_filename: string) => ({ venv_name: "x", python_version: "3.11.5", sif_filename });
  at.configure(
    {},
    {
      apptainer: {
        ...{ venv_base: "~/venvs", sif_store: "~/store", scratch_sif_dir: "$SCRATCH/sif" },
        images: { "a b": image("a b.sif"), stored: image("stored.sif"), gone: image("gone.sif") },
      },
    },
  );
  program(at, "apptainer", `for arg; do printf '[%s]' "$arg"; done; cat; exit 7`);
  return at;
}

function program(at: Home, name: string, script: string): void {
  mkdirSync(join(at.dir, "bin"), { recursive: true });
  chmodSync(at.write(`../bin/${name}`, `#!/bin/sh\n${script}\n`), 0o755);
}

test("apptainer path: the path and nothing else on stdout; in JSON also which one it is", async () => {
  using at = home();
  const path = join(at.scratch, "sif/a b.sif");
  expect(await at.ef(["apptainer", "path", "a b"])).toEqual({ stdout: `${path}\n`, stderr: "", code: 0 });
  const { stdout } = await at.ef(["apptainer", "path", "a b", "--json"]);
  expect(JSON.parse(stdout)).toMatchObject({ ok: true, image_name: "a b", path, from: "scratch" });
  const stored = await at.ef(["apptainer", "path", "stored"]);
  expect(stored).toEqual({ stdout: `${at.home}/store/stored.sif\n`, stderr: "", code: 0 });
  at.write("../scratch/sif/stored.sif", "half");
  const stale = await at.ef(["apptainer", "path", "stored"]);
  expect(stale.stdout).toBe(`${at.home}/store/stored.sif\n`);
  expect(stale.stderr).toContain("ef apptainer sync --image stored");
});

test("apptainer path: without $SCRATCH the stored image; an image that is nowhere is an error that says what to do", async () => {
  using at = home();
  const { stdout, code } = await at.ef(["apptainer", "path", "a b"], { env: { SCRATCH: undefined } });
  expect([stdout, code]).toEqual([`${at.home}/store/a b.sif\n`, 0]);
  const gone = await at.ef(["apptainer", "path", "gone"]);
  expect(gone.stdout).toBe("");
  expect(gone.stderr).toContain("build it: ef apptainer build gone");
  expect(gone.code).toBe(1);
  expect((await at.ef(["apptainer", "path"])).code).toBe(2);
  expect((await at.ef(["apptainer", "path", "nope"])).code).toBe(2);
});

test("apptainer run: the image and the arguments arrive as they are, stdin too, and its exit code is ours", async () => {
  using at = home();
  const args = ["train.py", "a b", "", "$HOME", "--nv", "--", "--help", "x\ny"];
  const { stdout, stderr, code } = await at.ef(["apptainer", "run", "a b", "--", ...args], { stdin: "input" });
  const words = ["run", join(at.scratch, "sif/a b.sif"), ...args];
  expect(stdout.replace(/\[--(?:nv|rocm)\](?=\[\/)/, "")).toBe(`${words.map((arg) => `[${arg}]`).join("")}input`);
  expect([stderr, code]).toEqual(["", 7]);
});

test("apptainer run --dry-run: a command line that a shell can run", async () => {
  using at = home();
  const { stdout, code } = await at.ef(["apptainer", "run", "a b", "--dry-run", "--", "it's", "$HOME"]);
  expect(code).toBe(0);
  const stdin = JSON.stringify({ image_name: "a b", dry_run: true });
  const asked = await at.ef(["apptainer", "run", "--input-json", "-", "--", "it's", "$HOME"], { stdin });
  expect(asked.stdout).toBe(stdout);
  const ran = await at.sh("bash", stdout);
  expect(ran.stdout).toEndWith("/sif/a b.sif][it's][$HOME]");
  expect(ran.code).toBe(7);
});

test("apptainer run: SIGTERM reaches what runs, which may end in its own way", async () => {
  using at = home();
  const started = join(at.dir, "started");
  program(at, "apptainer", `trap 'echo stopped; exit 3' TERM; : > '${started}'; while :; do sleep 0.1; done`);
  const { stdout, code } = await at.ef(["apptainer", "run", "stored"], {
    async onStart(child) {
      await until("its start", () => at.exists(started));
      child.kill("SIGTERM");
    },
  });
  expect([stdout, code]).toEqual(["stopped\n", 3]);
});

test("apptainer run: what belongs after --, bytes that are not UTF-8, no apptainer at all: exit 2 and the way out", async () => {
  using at = home();
  const without = await at.ef(["apptainer", "run", "a b", "train.py"]);
  expect(without.stderr).toContain("write: ef apptainer run a b -- train.py");
  expect(without.code).toBe(2);
  const bytes = await at.sh("bash", "ef apptainer run stored -- $'\\xff'");
  expect(bytes.stderr).toContain("UTF-8");
  expect(bytes.code).toBe(2);
  const efOnly = `${process.execPath.replace(/\/[^/]*$/, "")}:${at.dir}/none`;
  const missing = await at.ef(["apptainer", "run", "stored"], { env: { PATH: efOnly } });
  expect(missing.stderr).toContain("module load apptainer");
  expect(missing.code).toBe(2);
});

test("apptainer run: singularity where there is no apptainer", async () => {
  using at = home();
  program(at, "singularity", 'echo "older $1"');
  rmSync(join(at.dir, "bin/apptainer"));
  const ran = await at.ef(["apptainer", "run", "stored"], { env: { PATH: `${at.dir}/bin` } });
  expect(ran.stdout).toBe("older run\n");
  expect(ran.code).toBe(0);
});

test("apptainer list: a table on stdout, and what is where in JSON", async () => {
  using at = home();
  at.write("venvs/x/pyvenv.cfg", "");
  const { stdout, code } = await at.ef(["apptainer", "list"]);
  const rows = stdout
    .trimEnd()
    .split("\n")
    .map((line) => line.split(/ {2,}/));
  expect(rows).toEqual([
    ["name", "python", "built", "size", "scratch", "environment"],
    ["a b", "3.11.5", "?", "5", "synced", "there"],
    ["stored", "3.11.5", "?", "5", "not synced", "there"],
    ["gone", "3.11.5", "?", "missing", "not synced", "there"],
  ]);
  expect(code).toBe(0);
  const { images } = JSON.parse((await at.ef(["apptainer", "list", "--json"])).stdout);
  expect(images[0]).toMatchObject({ name: "a b", sif_path: `${at.home}/store/a b.sif`, bytes: 5, status: "synced" });
  expect(images[2]).toMatchObject({ name: "gone", bytes: null, status: "not-synced" });
  const unset = await at.ef(["apptainer", "list"], { env: { SCRATCH: undefined } });
  expect(unset.stdout).toContain("unset here");
  const config = JSON.parse(readFileSync(join(at.home, ".euler-files.json"), "utf8"));
  config.apptainer.images.stored.enabled = false;
  at.write(".euler-files.json", config);
  expect((await at.ef(["apptainer", "list"])).stdout).toContain("stored (disabled)");
  delete config.apptainer;
  at.write(".euler-files.json", config);
  expect((await at.ef(["apptainer", "list"])).stdout).toContain("no image is built yet");
});

test("the names of images are offered", async () => {
  using at = home();
  expect((await at.ef(["__values", "images"])).stdout).toBe("a b\nstored\ngone\n");
});
