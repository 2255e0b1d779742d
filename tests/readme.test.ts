/** Every example of the README, as it stands there. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { checkConfig } from "../lib/config/store.ts";
import { haveUv, makeEnv, systemPython, wheels, withUv } from "./envs.ts";
import { efArgv, Home, have, type Ran, run } from "./helpers.ts";
import { baseSif, haveApptainer, quickBuild, withApptainer } from "./images.ts";
import { haveSlurm, withSlurm } from "./slurm.ts";
import { Workspaces } from "./workspaces.ts";

/** Some build images, in milliseconds. */
setDefaultTimeout(180_000);

const repo = resolve(import.meta.dir, "..");
const text = await Bun.file(join(repo, "README.md")).text();
const blocks = [...text.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language = "", code = ""]) => ({
  language,
  code,
}));
const title = (code: string) => code.trim().split("\n")[0] ?? "";

/** A user's HOME after `ef init`, with a `python` that says where its models are. */
function user(): Home {
  const at = new Home({ ".cache/huggingface/hub/model": "m", ".cache/torch/weights": "w" });
  at.write(".euler-files.json", {
    version: 1,
    scratch_base: "$SCRATCH",
    vars: { HF_HOME: { source: "~/.cache/huggingface" }, TORCH_HOME: { source: "~/.cache/torch" } },
  });
  const python = join(at.dir, "bin/python");
  writeFileSync(python, '#!/bin/sh\necho "python $* with $(cat "$HF_HOME/hub/model") $(cat "$TORCH_HOME/weights")"\n');
  chmodSync(python, 0o755);
  mkdirSync(join(at.home, "dist"));
  copyFileSync(join(at.dir, "bin/ef"), join(at.home, "dist/ef"));
  return at;
}

/** One who has uv and, for an example that needs it, a saved environment; PyPI is a directory of wheels. */
async function envUser(at: Home, code: string): Promise<void> {
  withUv(at);
  rmSync(join(at.dir, "bin/python")); // uv would ask it what it is
  Object.assign(at.env, { PIP_NO_INDEX: "1", PIP_FIND_LINKS: wheels });
  if (!code.includes("ef venv load")) return;
  const env = await makeEnv(join(at.dir, "env"), ["numpy"]);
  await at.ef(["config", "set", "ef.venv_store", "~/venv-archives"]);
  const { code: exit, stderr } = await at.ef(["venv", "save", "torch2.1", "--venv", env]);
  expect([exit, stderr]).toEqual([0, stderr]);
}

/** One who has apptainer, and for a job script a built image. */
async function imageUser(at: Home, code: string): Promise<void> {
  withApptainer(at);
  if (code.includes("ef venv install")) return envUser(at, code);
  rmSync(join(at.dir, "bin/python"));
  await makeEnv(join(at.home, "venvs/train"), ["numpy"]);
  const apptainer = {
    venv_base: "~/venvs",
    sif_store: "~/images",
    scratch_sif_dir: "$SCRATCH/images",
    base_image: baseSif,
  };
  at.configure({}, { apptainer: { ...apptainer, build_args: [...quickBuild] }, ef: { apptainer: { compile: false } } });
  const { code: exit, stderr } = await at.ef(["apptainer", "build", "train"]);
  expect([exit, stderr]).toEqual([0, stderr]);
}

/** Of the Python for which the wheels are: `3.11`. */
const pythonVersion = Bun.spawnSync([
  systemPython ?? "true",
  "-c",
  "import sys; print('%d.%d' % sys.version_info[:2], end='')",
]).stdout.toString();

const shells: Record<string, string> = { bash: "bash", zsh: "zsh", fish: "fish", csh: "tcsh" };
const scripts = blocks
  .filter(({ language }) => language in shells)
  .map((block) => ({ ...block, title: title(block.code) }));

test.each(scripts)("README, $language: $title", async ({ language, code }) => {
  const shell = shells[language] ?? "";
  if (!have(shell)) return console.warn(`not here: ${shell}`);
  using at = user();
  if (code.includes("ef venv") && !code.includes("ef apptainer")) {
    if (!haveUv) return console.warn("not here: uv");
    await envUser(at, code);
  }
  if (code.includes("ef apptainer")) {
    if (!haveUv || !haveApptainer) return console.warn("not here: uv, apptainer");
    await imageUser(at, code);
  }
  if (code.includes("ef submit")) {
    at.write("analysis.py", "def main(scale):\n    return {'sum': 6 * scale}\n");
    await at.ef([
      "config",
      "set",
      "ef.clusters",
      JSON.stringify({ local: { type: "local", python: "/usr/bin/python3" } }),
    ]);
  }
  if (code.includes("ef ws")) new Workspaces(at, { user: "anna" });
  if (code.includes("ef dm") || code.includes("ef stage")) {
    if (!haveSlurm) return console.warn("not here: Slurm");
    withSlurm(at);
  }
  const example = code.replaceAll(/\b3\.11\b/g, pythonVersion).replaceAll("python:{version}-slim", baseSif);
  const file = at.write("example", example);
  const argv = shell === "tcsh" ? [shell, "-f", file] : [shell, file];
  const ran = code.includes("ef stage\n")
    ? await submitted(at, file)
    : await run(argv, { cwd: at.home, env: { ...at.env, USER: "jdoe" } });
  expect(ran.stderr.replaceAll(/^INFO: .*$/gm, "")).not.toMatch(/error|not found|Undefined|unknown/i);
  if (code.includes("ef submit")) expect(ran.stdout).toContain('{"sum": 60}\n');
  if (code.includes("python train.py")) expect(ran.stdout).toMatch(/python train\.py( .*)? with m w/);
  expect(ran.code).toBe(0);
});

/** Run a job script, on nodes whose own disks are below its HOME. */
async function submitted(at: Home, file: string): Promise<Ran> {
  for (const node of ["n1", "n2", "n3"]) mkdirSync(join(at.dir, "disks", node), { recursive: true });
  await at.ef(["config", "set", "ef.node_local_base", `${at.dir}/disks/$SLURMD_NODENAME`]);
  const [out, err] = [join(at.dir, "out"), join(at.dir, "err")];
  const argv = ["sbatch", "--wait", `--output=${out}`, `--error=${err}`, file];
  const { code, stderr } = await run(argv, { cwd: at.home, env: at.env });
  return { code, stdout: await Bun.file(out).text(), stderr: stderr + (await Bun.file(err).text()) };
}

test("README: there are examples for every shell", () => {
  expect(new Set(scripts.map(({ language }) => language))).toEqual(new Set(Object.keys(shells)));
});

test("README: the annotated configuration is valid and complete", () => {
  const [block] = blocks.filter(({ language }) => language === "jsonc");
  const raw = JSON.parse((block?.code ?? "").replace(/^\s*\/\/.*$/gm, ""));
  const config = checkConfig(raw, "README.md");
  expect(config.ef?.vars?.HF_HOME?.env).toEqual({ HF_HUB_OFFLINE: "1" });
});

test("README: the script runs", async () => {
  const [block] = blocks.filter(({ language }) => language === "ts");
  using at = user();
  mkdirSync(join(at.home, "node_modules"));
  symlinkSync(repo, join(at.home, "node_modules/ef"));
  const file = at.write("script.ts", block?.code ?? "");
  const { stdout, stderr, code } = await run([process.execPath, file], { env: at.env });
  expect(stderr).toBe("");
  expect(stdout).toBe(`${at.cache("HF_HOME")}\n`);
  expect(code).toBe(0);
});

test("README: the files of a cluster", async () => {
  const [, block] = blocks.filter(({ language }) => language === "ts");
  using at = user();
  at.configure({}, { ef: { clusters: { euler: { type: "local" } } } });
  at.write("runs/a/b/metrics.json", "{}");
  mkdirSync(join(at.home, "node_modules"));
  symlinkSync(repo, join(at.home, "node_modules/ef"));
  const file = at.write("script.ts", `${block?.code}\nconsole.log(totalGb * 2 ** 30, fileCount);\n`);
  const { stdout, stderr } = await run([process.execPath, file], { env: at.env });
  expect([stdout, stderr]).toEqual(["a/b/metrics.json 2\n2 1\n", ""]);
});

test("README: the table of commands is that of the program", async () => {
  const { stdout } = await run([...efArgv, "schema", "--kind", "cli"], {
    env: { PATH: process.env.PATH, HOME: "/nonexistent" },
  });
  const { cli } = JSON.parse(stdout);
  const rows = [...text.matchAll(/^\| `ef ([\w-]+)[^|]*\| (.*?) +\|$/gm)];
  expect(rows.map(([, name]) => name).sort()).toEqual(Object.keys(cli.commands).sort());
  for (const [, name = "", description = ""] of rows) {
    const command = cli.commands[name];
    if (command.commands) expect([...(description.match(/\w+/g) ?? [])]).toEqual(Object.keys(command.commands));
    else expect(command.help).toBe(description);
  }
});
