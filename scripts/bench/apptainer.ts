/**
 * `npm run bench:apptainer`: an environment on slow storage gets into an image by ef, which packs it first, and by
 * apptainer alone, which copies the directory (`%files`); and tar alone packs it. And the least that
 * packing takes: reading all of it with as many requests at once as ef has.
 *
 *     npm run bench:apptainer -- [--rounds N] [--env DIR] [--dir DIR] [--meta-us N] [--data-us N] [--conc N] [--only LIST]
 *
 * Without --env one of some 20,000 files is made by uv, from the index. The storage is our own FUSE (slow-fs.c), so this
 * needs root; apptainer is that of the tests (scripts/setup-tests.sh), and its base an image of busybox, so that the base
 * counts for little. Methods take turns, each on a new mount; the median counts. The table goes to stdout, progress to
 * stderr.
 */
import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { makeEnv } from "./environments.ts";
import { limitS } from "./model.ts";
import { median } from "./report.ts";
import { setupOf } from "./run.ts";
import { buildSlowFs, type Server, SlowMount, whyNoSlowFs } from "./slow-fs.ts";
import { survey } from "./trees.ts";

const cache = resolve(import.meta.dir, "../../node_modules/.cache/apptainer");
const apptainer = join(cache, "bin/apptainer");
const base = join(cache, "nopython.sif");

/** What a method finds. */
interface Place {
  /** The environment, on slow storage. */
  env: string;
  /** New in each round, on the local disk. */
  work: string;
}

/** Compressing takes longest, and is the same whatever is compressed: without it. */
const buildArgv = ({ work }: Place) => [
  ...[apptainer, "build", "--mksquashfs-args", "-noI -noD -noF -noX"],
  ...[join(work, "image.sif"), join(work, "image.def")],
];

function define({ work }: Place, ...sections: string[]): void {
  writeFileSync(join(work, "image.def"), ["Bootstrap: localimage", `From: ${base}`, "", ...sections, ""].join("\n"));
}

/** A process of its own: what ef holds in memory after one round must not help it in the next. */
const step = (...args: string[]) => [process.execPath, join(import.meta.dir, "apptainer-step.ts"), ...args];

/** Commands that run one after the other; the time of each counts. */
const methods: Record<string, (place: Place) => string[][]> = {
  "reading alone": ({ env }) => [step("read", env)],
  "ef packs": ({ env, work }) => [step("pack", env, join(work, "venv.tar"))],
  "tar packs": ({ env, work }) => [["tar", "-C", env, "-cf", join(work, "venv.tar"), "."]],
  "ef packs and apptainer builds": (place) => {
    const tar = join(place.work, "venv.tar");
    const unpack = ["  mkdir -p /opt/venv", "  tar -xf /venv.tar -C /opt/venv", "  rm /venv.tar"];
    define(place, "%files", "  venv.tar /venv.tar", "%post", ...unpack);
    return [step("pack", place.env, tar), buildArgv(place)];
  },
  "apptainer copies and builds": (place) => {
    define(place, "%files", "  env /opt/venv");
    return [buildArgv(place)];
  },
};

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "3" },
      env: { type: "string" },
      dir: { type: "string", default: tmpdir() },
      "meta-us": { type: "string" },
      "data-us": { type: "string" },
      conc: { type: "string" },
      only: { type: "string", default: Object.keys(methods).join(",") },
    },
  });
  const why = whyNoSlowFs();
  if (why !== undefined) throw new Error(`Cannot slow storage down: ${why}`);
  const given = { metaUs: values["meta-us"], dataUs: values["data-us"], concurrent: values.conc };
  const overrides = Object.fromEntries(
    Object.entries(given).flatMap(([key, value]) => (value === undefined ? [] : [[key, Number(value)]])),
  );
  const { source: server } = setupOf("slow", overrides);
  if (!server) throw new Error("the setup slow is not slow");

  // No spaces or quotes in it: apptainer's %files splits there.
  const dir = realpathSync(mkdtempSync(join(resolve(values.dir), "ef-bench-apptainer-")));
  try {
    const env =
      values.env === undefined ? withoutLinks(await makeEnv(join(dir, "env"), undefined)) : realpathSync(values.env);
    await bench({ dir, env, server, rounds: Number(values.rounds), names: values.only.split(",") });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** `%files` follows links, and apptainer may have a root in which their targets are not. */
function withoutLinks(env: string): string {
  const python = join(env, "bin/python");
  const target = realpathSync(python);
  rmSync(python);
  copyFileSync(target, python);
  return env;
}

interface Plan {
  /** Throw-away. */
  dir: string;
  env: string;
  server: Server;
  rounds: number;
  /** Of methods. */
  names: string[];
}

async function bench({ dir, env, server, rounds, names }: Plan) {
  const slowFs = buildSlowFs(dir);
  const work = join(dir, "work");
  const found = survey(env); // and all of its names are in memory from now on
  const seconds = new Map<string, number[]>(names.map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round) % names.length] ?? "";
      mkdirSync(join(work, "tmp"), { recursive: true });
      const took = await onSlow(slowFs, { env, work }, server, name);
      console.error(`round ${round + 1}, ${name}: ${took.toFixed(2)} s`);
      seconds.get(name)?.push(took);
      rmSync(work, { recursive: true });
    }
  }
  console.log(table(found.names, server, limitS(found, "cold", { source: server }) ?? 0, seconds));
}

async function onSlow(slowFs: string, { env, work }: Place, server: Server, name: string): Promise<number> {
  await using mount = await SlowMount.start(slowFs, env, join(work, "env"), server);
  let sum = 0;
  for (const argv of methods[name]?.({ env: mount.path, work }) ?? []) sum += await timed(argv, work);
  return sum;
}

async function timed(argv: string[], work: string): Promise<number> {
  const tmp = join(work, "tmp");
  const env = { ...process.env, TMPDIR: tmp, APPTAINER_TMPDIR: tmp, UV_THREADPOOL_SIZE: "64" };
  const started = performance.now();
  const child = Bun.spawn(argv, { env, cwd: work, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const said = child.stderr.text();
  const code = await child.exited;
  if (code !== 0) throw new Error(`${argv.join(" ")}: exit code ${code}\n${await said}`);
  return (performance.now() - started) / 1000;
}

const times = (value: number, to: number) => (to > 0 ? `${(value / to).toFixed(2)}×` : "");

function table(files: number, server: Server, limit: number, seconds: ReadonlyMap<string, number[]>): string {
  const { metaUs, dataUs, concurrent } = server;
  const of = (name: string) => median(seconds.get(name) ?? []);
  const row = (name: string, own: string) =>
    `| ${[name, of(name).toFixed(2), times(of(name), of("reading alone")), times(of(name), of(own))].join(" | ")} |`;
  return [
    `${files} files, ${metaUs} µs for each request about names, ${dataUs} µs for each read, ${concurrent} at once (model: at least ${limit.toFixed(2)} s)`,
    "",
    "| | median s | to reading alone | to ef |",
    "|---|---|---|---|",
    ...[...seconds.keys()].map((name) =>
      row(name, name.endsWith("builds") ? "ef packs and apptainer builds" : "ef packs"),
    ),
  ].join("\n");
}

await main();
