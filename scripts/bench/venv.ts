/**
 * `npm run bench:venv`: an environment is saved and loaded by ef, by kpy (kslurm, from PyPI), by kpy's method alone
 * (Python's tarfile, gzip), and by tar and zstd alone.
 *
 *     npm run bench:venv -- [--rounds N] [--env DIR] [--dir DIR] [--python PYTHON] [--only ef,kpy,…]
 *
 * Without --env one of some 20,000 files is made by uv, from the index, with no program in it that kpy's load dies of.
 * Programs take turns; the median counts; what a round made is removed before the next is timed. EF_BIN is the ef that is
 * measured (default: dist/ef). The table goes to stdout, progress to stderr.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { pypiBin as bin, makeEnv } from "./environments.ts";
import { median } from "./report.ts";

const root = resolve(import.meta.dir, "../..");

interface Method {
  name: string;
  save?: (place: Place) => string[];
  load?: (place: Place) => string[];
}

/** Where a method keeps what it makes. */
interface Place {
  env: string;
  store: string;
  /** New in each round. */
  target: string;
}

const ef = resolve(process.env.EF_BIN ?? join(root, "dist/ef"));
const python = join(bin, "python");
const shell = (script: string, ...args: string[]) => ["sh", "-c", script, "sh", ...args];
const tarfile = `import sys, tarfile
with tarfile.open(sys.argv[2], "w:gz") as tar: tar.add(sys.argv[1], arcname="")`;

const methods: Method[] = [
  {
    name: "ef",
    save: ({ env }) => [ef, "venv", "save", "-f", "big", "--venv", env],
    load: () => [ef, "venv", "load", "big", "--as", "again", "--shell", "bash"],
  },
  {
    name: "kpy",
    save: ({ env }) => shell('VIRTUAL_ENV="$1" exec "$2" save -f big', env, join(bin, "kpy")),
    load: ({ target }) => shell('exec "$1" load big --script "$2"; ', join(bin, "kpy"), join(target, "script")),
  },
  { name: "tarfile w:gz", save: ({ env, store }) => [python, "-c", tarfile, env, join(store, "python.tar.gz")] },
  {
    name: "tar",
    save: ({ env, store }) => shell('tar -C "$1" -c . | zstd -q -f -T0 -o "$2"', env, join(store, "plain.tar.zst")),
    load: ({ store, target }) => shell('zstd -q -dc "$1" | tar -C "$2" -x', join(store, "plain.tar.zst"), target),
  },
];

interface Options {
  rounds: string;
  env?: string | undefined;
  python?: string | undefined;
  only?: string | undefined;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "5" },
      env: { type: "string" },
      dir: { type: "string", default: tmpdir() },
      python: { type: "string" },
      only: { type: "string" },
    },
  });
  const work = mkdtempSync(join(resolve(values.dir), "ef-bench-venv-"));
  try {
    await bench(work, values);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function bench(work: string, { rounds: times, env: given, python: version, only }: Options) {
  const rounds = Number(times);
  const chosen = methods.filter(({ name }) => only === undefined || only.split(",").includes(name));
  const env = given === undefined ? await makeEnv(join(work, "env"), version) : resolve(given);
  const store = join(work, "store");
  const home = join(work, "home");
  const tmp = join(work, "tmp");
  for (const dir of [store, home, tmp]) mkdirSync(dir);
  const config = { version: 1, scratch_base: work, vars: {}, ef: { venv_store: store } };
  writeFileSync(join(home, ".euler-files.json"), JSON.stringify(config));
  const variables = { PATH: process.env.PATH ?? "", HOME: home, TMPDIR: tmp, LANG: "C.UTF-8" };
  const run = (argv: string[]) => timed(argv, variables, home);
  await run([join(bin, "kslurm"), "config", "pipdir", store]);
  const files = Number(Bun.spawnSync(["sh", "-c", 'find "$1" | wc -l', "sh", env]).stdout.toString());
  const seconds = new Map<string, number[]>();
  for (let round = 0; round < rounds; round++) {
    for (const what of ["save", "load"] as const) {
      for (const { name, [what]: argvFor } of chosen) {
        if (!argvFor) continue;
        rmSync(tmp, { recursive: true });
        const target = join(tmp, "target");
        mkdirSync(target, { recursive: true });
        const { seconds: took, code, reason } = await run(argvFor({ env, store, target }));
        // kpy's load says with 2 that its script is to be sourced.
        const isGood = code === 0 || (name === "kpy" && what === "load" && code === 2);
        console.error(`round ${round + 1}, ${what}, ${name}: ${isGood ? `${took.toFixed(2)} s` : `failed: ${reason}`}`);
        if (isGood) seconds.set(`${what} ${name}`, [...(seconds.get(`${what} ${name}`) ?? []), took]);
      }
    }
  }
  console.log(table(chosen, files, rounds, seconds));
}

/** Nothing looks at the processes meanwhile: on two cores that slows down the one with most memory. */
async function timed(argv: string[], env: Record<string, string>, cwd: string) {
  const started = performance.now();
  const child = Bun.spawn(argv, { env, cwd, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const said = child.stderr.text();
  const code = await child.exited;
  const seconds = (performance.now() - started) / 1000;
  return { seconds, code, reason: (await said).trim().split("\n").at(-1) ?? "" };
}

function table(chosen: Method[], files: number, rounds: number, seconds: ReadonlyMap<string, number[]>): string {
  const cell = (key: string) => {
    const all = seconds.get(key);
    const own = seconds.get(`${key.split(" ")[0]} ef`);
    if (!all || !own) return "";
    return `${median(all).toFixed(2)} (${(median(all) / median(own)).toFixed(1)}×)`;
  };
  return [
    `${files} files and directories, ${rounds} rounds, median seconds (and how many times that of ef)`,
    "",
    "| | save | load |",
    "|---|---|---|",
    ...chosen.map(({ name }) => `| ${name} | ${cell(`save ${name}`)} | ${cell(`load ${name}`)} |`),
  ].join("\n");
}

await main();
