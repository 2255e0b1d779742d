/**
 * The `@example` of each function and class that the library exports: there is one, it compiles, and it runs.
 *
 * Each runs in a HOME of its own, of a user who has what the examples speak of; what this machine lacks is named.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import * as ef from "../mod.ts";
import { declarations } from "../scripts/declarations.ts";
import { haveUv, makeEnv, wheels, withUv } from "./envs.ts";
import { Home, run } from "./helpers.ts";
import { baseSif, haveApptainer, quickBuild, withApptainer } from "./images.ts";
import { haveSlurm, withSlurm } from "./slurm.ts";
import { Workspaces } from "./workspaces.ts";

setDefaultTimeout(180_000);

const repo = resolve(import.meta.dir, "..");
const mod = readFileSync(join(repo, "mod.ts"), "utf8");

/** Values that are no functions, and classes of errors: nobody calls them. */
const others = ["CannotStart", "EfError", "dialects", "onConflicts", "presets", "pruneModes"];

/** Its example, without the comment around it. */
function exampleOf(name: string, source: string): string | undefined {
  const doc = new RegExp(
    `(/\\*\\*(?:(?!\\*/)[\\s\\S])*?\\*/)\\s*export (?:async )?(?:function|const|class|abstract class) ${name}\\b`,
  ).exec(source)?.[1];
  const [, text] = /@example\n([\s\S]*?)(?=\n \* @|\s*\*\/$)/.exec(doc ?? "") ?? [];
  return text?.replaceAll(/^ \* ?/gm, "");
}

const examples = [...mod.matchAll(/export \{([^}]*)\} from "\.\/([^"]+)"/g)].flatMap(([, names = "", file = ""]) =>
  names
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "" && !name.startsWith("type ") && !others.includes(name))
    .map((name) => ({ name, file, code: exampleOf(name, readFileSync(join(repo, file), "utf8")) })),
);

/** What it uses of the library. */
const importsOf = (code: string): string =>
  `import { ${Object.keys(ef)
    .filter((name) => new RegExp(`\\b${name}\\b`).test(code))
    .join(", ")} } from "ef";\nexport {};\n`;

test("every function and class of the library has an example", () => {
  expect(examples.length).toBeGreaterThan(50);
  expect(examples.filter(({ code }) => code === undefined).map(({ name }) => name)).toEqual([]);
});

test("every example compiles against the types of the built library", async () => {
  using at = new Home();
  const types = at.write("types/mod.d.ts", await declarations());
  for (const { name, code = "" } of examples) writeFileSync(join(at.home, `${name}.ts`), importsOf(code) + code);
  const readme = readFileSync(join(repo, "README.md"), "utf8");
  const scripts = [...readme.matchAll(/^```ts\n(.*?)^```$|^(?:cat > \w+\.ts|ef run - .*) <<'END'\n(.*?)^END$/gms)];
  expect(scripts.length).toBeGreaterThan(3);
  for (const [i, [, block, here]] of scripts.entries()) at.write(`readme-${i}.ts`, `${block ?? here}export {};\n`);
  const config = {
    extends: join(repo, "tsconfig.json"),
    compilerOptions: {
      types: [join(repo, "node_modules/bun-types")],
      paths: { ef: [types], zx: [join(repo, "node_modules/zx")] },
      preserveSymlinks: false,
    },
    include: ["*.ts"],
  };
  at.write("tsconfig.json", config);
  const { stdout } = await run([join(repo, "node_modules/.bin/tsc"), "-p", "."], {
    cwd: at.home,
    env: { PATH: process.env.PATH, HOME: at.home },
  });
  expect(stdout).toBe("");
});

/** What an example needs that is not everywhere. */
const needs: readonly [RegExp, string, boolean][] = [
  [/Datamover|moveInBackground|moverJob|MoverJob|stage\(|stageJob|unstage/, "Slurm", haveSlurm],
  [/apptainer(?!Init|List|Path)/, "apptainer", haveApptainer && haveUv],
  [/venv|Venv/, "uv", haveUv],
];
/** These need what cannot be made for a moment: a cluster behind a login node, a job to wait for, a terminal. */
const elsewhere: Record<string, string> = {
  ClusterFilesystem: "tests/readme.test.ts",
  openHost: "tests/lib/hosts.test.ts",
  jobState: "tests/cli/submit.test.ts",
  jobWait: "tests/cli/submit.test.ts",
  jobResult: "tests/cli/submit.test.ts",
  jobLogs: "tests/cli/submit.test.ts",
  jobCancel: "tests/cli/submit.test.ts",
  stage: "tests/cli/stage.test.ts",
  unstage: "tests/cli/stage.test.ts",
  packageScript: "tests/cli/submit.test.ts",
  push: "tests/cli/push.test.ts",
};

/** A user with caches, code, environments and images, as far as an example asks for them. */
async function user(code: string): Promise<Home> {
  const at = new Home({
    ".cache/huggingface/model": "m",
    ".cache/torch/weights": "w",
    "analysis.py": "def main(x=1):\n    return x\n",
  });
  const vars = { HF_HOME: ".cache/huggingface", TORCH_HOME: ".cache/torch" };
  const apptainer = {
    venv_base: "~/venvs",
    sif_store: "~/images",
    scratch_sif_dir: "$SCRATCH/images",
    base_image: baseSif,
    build_args: [...quickBuild],
  };
  const clusters = { local: { type: "local", python: "/usr/bin/python3" } };
  at.configure(vars, {
    apptainer,
    ef: { venv_store: "~/store", wheelhouse: "~/wheels", apptainer: { compile: false }, clusters },
  });
  for (const dir of ["data", "venvs", "wheels"]) mkdirSync(join(at.home, dir));
  new Workspaces(at, { user: "anna" });
  if (haveSlurm) withSlurm(at);
  if (/venv|Venv|apptainer/i.test(code) && haveUv) {
    withUv(at);
    Object.assign(at.env, { PIP_NO_INDEX: "1", PIP_FIND_LINKS: wheels });
    const env = await makeEnv(join(at.home, "venvs/train"), ["six"]);
    for (const name of ["torch2.1", "train"]) await at.ef(["venv", "save", name, "--venv", env]);
  }
  if (/apptainer(?!Init)/.test(code) && haveApptainer) {
    withApptainer(at);
    if (!code.includes("apptainerBuild")) await at.ef(["apptainer", "build", "train"]);
  }
  return at;
}

test.each(examples.filter(({ name }) => elsewhere[name] === undefined))(
  "the example of $name runs",
  async ({ name, code = "" }) => {
    const missing = needs.find(([pattern, , isHere]) => (pattern.test(name) || pattern.test(code)) && !isHere);
    if (missing) return console.warn(`not here: ${missing[1]}`);
    using at = await user(code + name);
    mkdirSync(join(at.home, "node_modules"));
    symlinkSync(repo, join(at.home, "node_modules/ef"));
    const file = at.write("example.ts", importsOf(code) + code);
    const { code: exit, stderr } = await run([process.execPath, file], {
      cwd: at.home,
      env: { ...at.env, USER: "anna", PROJECT: join(at.home, "project"), VIRTUAL_ENV: join(at.home, "venvs/train") },
    });
    expect([exit, stderr]).toEqual([0, stderr]);
  },
);
