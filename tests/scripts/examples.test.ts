/** Scripts as users write them (tests/scripts/examples), by `ef run`, for real. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { haveUv, makeEnv } from "../envs.ts";
import { Home, type Ran } from "../helpers.ts";
import { baseSif, haveApptainer, quickBuild, withApptainer } from "../images.ts";
import { haveSlurm, withSlurm } from "../slurm.ts";
import { Workspaces } from "../workspaces.ts";

setDefaultTimeout(180_000);

const examples = resolve(import.meta.dir, "examples");

/** As a user starts it: by its first line. */
const run = (at: Home, name: string, ...args: string[]): Promise<Ran> => {
  const script = join(at.home, name);
  copyFileSync(join(examples, name), script);
  chmodSync(script, 0o755);
  const quoted = [script, ...args].map((arg) => `'${arg.replaceAll("'", "'\\''")}'`);
  return at.sh("sh", `exec ${quoted.join(" ")}`);
};

function user(): Home {
  const at = new Home({ "hf/model": "m" });
  at.configure({ HF_HOME: "hf" });
  return at;
}

test("stage-run-push.ts: stages, runs, pushes, and ends as the training did", async () => {
  using at = user();
  const python = join(at.dir, "bin/python");
  writeFileSync(python, '#!/bin/sh\ncat "$HF_HOME/model"; echo made >"$HF_HOME/$1"; exit "$2"\n');
  chmodSync(python, 0o755);
  const ran = await run(at, "stage-run-push.ts", "made by it", "3");
  expect([ran.stdout, ran.code, ran.stderr]).toEqual(["m", 3, "HF_HOME: pushed\n"]);
  expect(at.read(join(at.home, "hf/made by it"))).toBe("made\n");
  expect((await run(at, "stage-run-push.ts", "more", "0")).code).toBe(0);
});

test("pre-stage.ts: says how it stands, and fails where something is not as it should be", async () => {
  using at = user();
  const ran = await run(at, "pre-stage.ts");
  expect([ran.code, ran.stderr]).toEqual([0, ""]);
  expect(ran.stdout).toMatch(/^HF_HOME: synced\nHF_HOME: fresh/);
  writeFileSync(join(at.cache("HF_HOME"), "model"), "changed by a job");
  const changed = await run(at, "pre-stage.ts");
  expect([changed.code, changed.stderr]).toEqual([1, expect.stringContaining("HF_HOME")]);
});

test.skipIf(!haveApptainer || !haveUv)(
  "build-images.ts: two are built, the third is told and stops nobody [needs apptainer, uv]",
  async () => {
    using at = user();
    withApptainer(at);
    const apptainer = { venv_base: "~/venvs", sif_store: "~/images", base_image: baseSif, build_args: [...quickBuild] };
    at.configure({}, { apptainer, ef: { apptainer: { compile: false } } });
    for (const name of ["one", "two"]) await makeEnv(join(at.home, "venvs", name), ["six"]);
    const ran = await run(at, "build-images.ts", "one", "missing", "two");
    expect(ran.stdout.split("\n").sort()).toEqual([
      "",
      `one: ${at.home}/images/one.sif`,
      `two: ${at.home}/images/two.sif`,
    ]);
    expect([ran.code, ran.stderr]).toEqual([1, expect.stringMatching(/^missing: /)]);
    for (const name of ["one", "two"]) expect(existsSync(join(at.home, "images", `${name}.sif`))).toBe(true);
  },
);

test.skipIf(!haveSlurm)("datamover.ts: there and back, once in the background [needs Slurm]", async () => {
  using at = user();
  withSlurm(at);
  for (const dir of ["grp/data", "out", "archive"]) mkdirSync(join(at.home, dir), { recursive: true });
  writeFileSync(join(at.home, "grp/data/x"), "x");
  writeFileSync(join(at.home, "out/result"), "r");
  const path = (name: string) => join(at.home, name);
  const ran = await run(at, "datamover.ts", path("grp/data"), path("here"), path("out"), path("archive"));
  expect([ran.code, ran.stderr]).toEqual([0, ran.stderr]);
  expect(ran.stdout).toMatch(/^x\njob \d+: completed\n$/);
  expect(readFileSync(path("archive/out/result"), "utf8")).toBe("r");
});

test("workspace.ts: extends what ends soon, and leaves no workspace of its own", async () => {
  using at = user();
  const site = new Workspaces(at, { user: "anna" });
  await at.ef(["ws", "allocate", "short", "2"]);
  await at.ef(["ws", "allocate", "long", "60"]);
  const ran = await run(at, "workspace.ts");
  expect([ran.code, ran.stderr]).toEqual([0, ""]);
  expect(ran.stdout).toBe(`short: extended, ${site.path("short")}\n${site.path("cache")}\n`);
  expect([site.exists("short"), site.exists("cache")]).toEqual([true, false]);
});

test("each of them is tested", () => {
  const text = readFileSync(import.meta.path, "utf8");
  for (const name of readdirSync(examples)) expect(text).toContain(`run(at, "${name}"`);
});
