/**
 * `npm run bench:stage`: a tree on slow storage gets onto the own disks of one, two and three nodes of a Slurm job by `ef
 * stage`; and beside it by `rsync` on every node at once (srun).
 *
 *     npm run bench:stage -- [--rounds N] [--tree hf|pip|conda] [--scale X] [--mbps N] [--meta-us N] [--data-us N]
 *                            [--dir DIR] [--nodes 1,2,3] [--only LIST]
 *
 * The storage is our own FUSE (slow-fs.c) and Slurm that of the tests (scripts/slurm.sh), so this needs root. DIR holds the tree
 * and the disks of the nodes: on a tmpfs the figures are steadier. All nodes are this machine: they share its processors, so
 * what each of them does for itself counts three times. Methods take turns, each on a new mount; the median counts. The
 * table goes to stdout, progress to stderr. The nodes have one client here, which keeps no contents, so that each reader asks the storage.
 */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { compareTrees, describeDifferences } from "./compare.ts";
import { median } from "./report.ts";
import { buildSlowFs, type Server, SlowMount, whyNoSlowFs } from "./slow-fs.ts";
import { makeTree, survey, type TreeName, treeNames } from "./trees.ts";

const root = resolve(import.meta.dir, "../..");
const ef = join(root, "dist/ef");

/** Where a copy is made from and to. */
interface Place {
  source: string;
  /** `disks/NODE` is the disk of a node. */
  disks: string;
  home: string;
  nodes: string[];
}

interface Method {
  argv(place: Place): string[];
  /** Where the copy of a node is. */
  copy(disk: string): string;
}

const onEach = (script: string, { nodes }: Place) => [
  ...["srun", "--overlap", `--nodelist=${nodes.join(",")}`, "-N", String(nodes.length), "--ntasks-per-node=1"],
  ...["sh", "-c", script],
];

const methods: Record<string, Method> = {
  "ef stage": { argv: () => [ef, "stage"], copy: (disk) => join(disk, `ef-cache-${process.geteuid?.()}`, "HF_HOME") },
  "rsync on each node": {
    argv: (place) => onEach(`rsync -a ${place.source}/ ${place.disks}/$SLURMD_NODENAME/copy/`, place),
    copy: (disk) => join(disk, "copy"),
  },
};

interface Measured {
  seconds: number;
  /** Of the storage, in bytes. */
  read: number;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "3" },
      tree: { type: "string", default: "hf" },
      scale: { type: "string", default: "1" },
      mbps: { type: "string", default: "100" },
      "meta-us": { type: "string", default: "0" },
      "data-us": { type: "string", default: "0" },
      dir: { type: "string", default: tmpdir() },
      nodes: { type: "string", default: "1,2,3" },
      only: { type: "string", default: Object.keys(methods).join(",") },
    },
  });
  const why = whyNoSlowFs();
  if (why !== undefined) throw new Error(`Cannot slow storage down: ${why}`);
  const tree = treeNames.find((name) => name === values.tree);
  if (!tree) throw new Error(`Cannot make a tree ${values.tree}: there are ${treeNames.join(", ")}`);
  const server = {
    mbps: +values.mbps,
    metaUs: +values["meta-us"],
    dataUs: +values["data-us"],
    cacheS: 30,
    isDirect: true,
  };
  const dir = realpathSync(mkdtempSync(join(resolve(values.dir), "ef-bench-stage-")));
  const env = await slurm();
  const job = allocate(env, 3);
  try {
    const counts = values.nodes.split(",").map(Number);
    const plan = { dir, tree, scale: +values.scale, server, rounds: +values.rounds, counts, env: { ...env, ...job } };
    console.log(await bench(plan, values.only.split(",")));
  } finally {
    Bun.spawnSync(["scancel", job.SLURM_JOB_ID], { env });
    rmSync(dir, { recursive: true, force: true });
  }
}

type Env = Record<string, string | undefined>;

async function slurm(): Promise<Env> {
  const started = Bun.spawnSync(["sh", join(root, "scripts/slurm.sh"), "start"]);
  const [, conf] = /SLURM_CONF='(.*)'/.exec(started.stdout.toString()) ?? [];
  if (conf === undefined) throw new Error(`Cannot start Slurm:\n${started.stderr}`);
  return { ...process.env, SLURM_CONF: conf, EF_LOGIN_NODE: "0" };
}

/** A job of so many nodes that does nothing: our steps run in it. */
function allocate(env: Env, nodes: number) {
  const argv = ["salloc", "--no-shell", "--overcommit", "-N", String(nodes), "--job-name=ef-bench"];
  const { stderr } = Bun.spawnSync(argv, { env });
  const [, id] = /Granted job allocation (\d+)/.exec(stderr.toString()) ?? [];
  if (id === undefined) throw new Error(`Cannot get ${nodes} nodes:\n${stderr}`);
  return { SLURM_JOB_ID: id };
}

interface Plan {
  /** Throw-away. */
  dir: string;
  tree: TreeName;
  scale: number;
  server: Partial<Server>;
  rounds: number;
  /** Of nodes. */
  counts: number[];
  env: Env;
}

async function bench({ dir, tree, scale, server, rounds, counts, env }: Plan, names: string[]): Promise<string> {
  const slowFs = buildSlowFs(dir);
  const made = join(dir, "tree");
  makeTree(tree, made, { scale });
  const { sizes } = survey(made); // and all of its names are in memory from now on
  const runs = names.flatMap((name) => counts.map((count) => ({ name, count, measured: [] as Measured[] })));
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < runs.length; i++) {
      const run = runs[(i + round) % runs.length] as (typeof runs)[number];
      const measured = await once(run.name, { dir, made, slowFs, server, count: run.count, env });
      run.measured.push(measured);
      const { seconds, read } = measured;
      console.error(`round ${round + 1}, ${run.name}, ${run.count}: ${seconds.toFixed(2)} s, ${read / 1e6} MB read`);
    }
  }
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  return table(sizes.length, bytes, server, runs);
}

interface Once {
  dir: string;
  made: string;
  slowFs: string;
  server: Partial<Server>;
  count: number;
  env: Env;
}

async function once(name: string, { dir, made, slowFs, server, count, env }: Once): Promise<Measured> {
  const method = methods[name];
  if (!method) throw new Error(`There is no method ${name}: there are ${Object.keys(methods).join(", ")}`);
  const work = join(dir, "work");
  const nodes = ["n1", "n2", "n3"].slice(0, count);
  const place = { source: join(work, "source"), disks: join(work, "disks"), home: join(work, "home"), nodes };
  for (const path of [place.home, ...nodes.map((node) => join(place.disks, node))])
    mkdirSync(path, { recursive: true });
  const config = {
    ...{ version: 1, scratch_base: join(work, "scratch"), vars: { HF_HOME: { source: place.source } } },
    ef: { node_local_base: `${place.disks}/$SLURMD_NODENAME` },
  };
  writeFileSync(join(place.home, ".euler-files.json"), JSON.stringify(config));
  try {
    await using mount = await SlowMount.start(slowFs, made, place.source, server);
    const seconds = await timed(method.argv(place), { ...env, HOME: place.home, SLURM_JOB_NODELIST: nodes.join(",") });
    const read = mount.requests().bytesRead;
    for (const node of nodes) {
      const differences = describeDifferences(compareTrees(made, method.copy(join(place.disks, node))));
      if (differences !== "") throw new Error(`${name}: ${node} has not the same: ${differences}`);
    }
    return { seconds, read };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function timed(argv: string[], env: Env): Promise<number> {
  const started = performance.now();
  const child = Bun.spawn(argv, { env, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const said = child.stderr.text();
  const code = await child.exited;
  if (code !== 0) throw new Error(`${argv.join(" ")}: exit code ${code}\n${await said}`);
  return (performance.now() - started) / 1000;
}

function table(
  files: number,
  bytes: number,
  { mbps = 0, metaUs = 0, dataUs = 0 }: Partial<Server>,
  runs: { name: string; count: number; measured: Measured[] }[],
): string {
  const of = (run: (typeof runs)[number]) => median(run.measured.map(({ seconds }) => seconds));
  const rows = runs.map((run) => {
    const alone = runs.find(({ name, count }) => name === run.name && count === 1);
    const ratio = alone ? `${(of(run) / of(alone)).toFixed(2)}×` : "";
    const read = median(run.measured.map((each) => each.read)) / bytes;
    return `| ${[run.name, run.count, of(run).toFixed(2), ratio, `${read.toFixed(2)}×`].join(" | ")} |`;
  });
  const least = mbps > 0 ? `; at least ${(bytes / mbps / 1e6).toFixed(2)} s` : "";
  return [
    `${files} files, ${(bytes / 1e6).toFixed(0)} MB; ${mbps} MB/s, ${metaUs} µs for each request about names, ${dataUs} µs for each read${least}`,
    "",
    "| | nodes | median s | to one node | read |",
    "|---|---|---|---|---|",
    ...rows,
  ].join("\n");
}

await main();
