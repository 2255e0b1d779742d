/**
 * `npm run bench`: ef and other programs copy the same trees, on storage that is slow as a cluster's home is, and locally.
 *
 * The slow storage is our own FUSE (slow-fs.c): that needs root, /dev/fuse, gcc and libfuse3-dev; where one is missing it is
 * named and only `local` is measured. Tables go to stdout, progress to stderr, all figures and a plot into `--out`.
 *
 * All programs, trees and three rounds take hours, for some need minutes for one tree. A first look:
 *
 *     npm run bench -- --trees pip --setup slow --rounds 1 --only ef,rsync
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, release, tmpdir, totalmem } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { describeDifferences } from "./compare.ts";
import { scenarios } from "./model.ts";
import { type Peer, peers } from "./peers.ts";
import { plot } from "./plot.ts";
import { panels, tables } from "./report.ts";
import { bench, type Plan, type Run, setupOf, setups } from "./run.ts";
import { recipes, treeNames } from "./trees.ts";

const root = resolve(import.meta.dir, "../..");
const setupNames = Object.keys(setups) as (keyof typeof setups)[];
const peerNames = peers.map(({ name }) => name);

const usage = `Usage: npm run bench -- [OPTION…]

  --trees LIST      ${treeNames.join(",")}            (default: all but million)
  --setup LIST      ${setupNames.join(",")}       (default: all but uncached)
  --scenario LIST   ${scenarios.join(",")}
  --only LIST       ${peerNames.join(",")}
  --rounds N        each program this often, in turns; the median counts  (default: 3)
  --scale X         trees of X times the size                             (default: 1)
  --meta-us N, --data-us N, --conc N, --mbps N, --cache-s N               other slow storage
  --dir DIR         where the trees are made; for local, the disk         (default: the temporary directory)
  --out DIR         results.json and bench.svg go there                   (default: dist/bench)
  --svg FILE        the plot goes there

EF_BIN is the ef that is measured (default: dist/ef). Slow storage needs root, /dev/fuse, gcc, libfuse3-dev.`;

class UsageError extends Error {}

/** The words of a list, which must all be known; all that are known if it is not given. */
function chosen<T extends string>(flag: string, given: string | undefined, known: readonly T[]): T[] {
  if (given === undefined) return [...known];
  return given.split(",").map((word) => {
    const found = known.find((name) => name === word);
    if (found === undefined) throw new UsageError(`--${flag} ${word}: not one of ${known.join(", ")}`);
    return found;
  });
}

function number(flag: string, given: string | undefined, low: number): number | undefined {
  if (given === undefined) return undefined;
  const value = Number(given);
  if (given.trim() === "" || !(value >= low)) throw new UsageError(`--${flag} ${given}: not a number from ${low}`);
  return value;
}

const text = { type: "string" } as const;
const options = {
  ...{
    trees: text,
    setup: text,
    scenario: text,
    only: text,
    rounds: text,
    scale: text,
    dir: text,
    out: text,
    svg: text,
  },
  ...{ "meta-us": text, "data-us": text, conc: text, mbps: text, "cache-s": text },
  help: { type: "boolean" },
} as const;

function parse(args: string[]) {
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>["values"];
  try {
    values = parseArgs({ args, options }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const overrides = {
    metaUs: number("meta-us", values["meta-us"], 0),
    dataUs: number("data-us", values["data-us"], 0),
    concurrent: number("conc", values.conc, 1),
    mbps: number("mbps", values.mbps, 0),
    cacheS: number("cache-s", values["cache-s"], 0),
  };
  const out = resolve(values.out ?? join(root, "dist/bench"));
  return {
    help: values.help ?? false,
    trees:
      values.trees === undefined
        ? treeNames.filter((name) => name !== "million")
        : chosen("trees", values.trees, treeNames),
    setups: chosen("setup", values.setup ?? "slow,both,local", setupNames),
    scenarios: chosen("scenario", values.scenario, scenarios),
    only: chosen("only", values.only, peerNames),
    rounds: Math.floor(number("rounds", values.rounds, 1) ?? 3),
    scale: number("scale", values.scale, 0) ?? 1,
    directory: resolve(values.dir ?? tmpdir()),
    overrides: Object.fromEntries(Object.entries(overrides).filter(([, value]) => value !== undefined)),
    out,
    svg: resolve(values.svg ?? join(out, "bench.svg")),
  };
}

/** Those that are here; the others are named. */
function available(names: string[]): Peer[] {
  return peers.filter((peer) => {
    if (!names.includes(peer.name)) return false;
    const why = peer.missing();
    if (why !== undefined) console.error(`Skipped: ${peer.name}: ${why}`);
    return why === undefined;
  });
}

/** Nobody shall measure a broken copy: whatever ef does not keep is an error. */
function broken({ peer, differences = {} }: Run): boolean {
  const own = peers.find(({ name }) => name === peer)?.own ?? false;
  return own && Object.keys(differences).length > 0;
}

function progress(run: Run): string {
  const { setup, tree, peer, scenario, round, seconds, reason, differences = {} } = run;
  const wrong = broken(run) ? `  WRONG COPY: ${describeDifferences(differences)}` : "";
  const how = reason === undefined ? `${seconds.toFixed(2)} s` : `failed: ${reason}`;
  return `${setup}, ${tree}, ${peer}, ${scenario}, round ${round + 1}: ${how}${wrong}`;
}

async function main(args: string[]): Promise<number> {
  const parsed = parse(args);
  if (parsed.help) {
    console.log(usage);
    return 0;
  }
  const stop = new AbortController();
  let code = 0;
  for (const [name, number] of [
    ["SIGINT", 2],
    ["SIGTERM", 15],
    ["SIGHUP", 1],
  ] as const) {
    process.on(name, () => {
      code = 128 + number;
      stop.abort();
    });
  }

  const tell = (line: string) => console.error(line);
  const plan: Plan = { ...parsed, peers: available(parsed.only), signal: stop.signal, tell };
  if (plan.peers.length === 0) throw new Error("Cannot measure: no program is left");
  const runs: Run[] = [];
  try {
    for await (const run of bench(plan)) {
      runs.push(run);
      tell(progress(run));
      if (broken(run)) code ||= 1;
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    tell("Stopped; everything is unmounted and removed");
  }
  if (runs.length === 0) return code || 1;

  const used = Object.fromEntries(parsed.setups.map((name) => [name, setupOf(name, parsed.overrides)]));
  mkdirSync(parsed.out, { recursive: true });
  const { trees, rounds, scale } = parsed;
  const machine = { cpus: availableParallelism(), memoryBytes: totalmem(), kernel: release() };
  const results = { machine, setups: used, trees, rounds, scale, runs };
  writeFileSync(join(parsed.out, "results.json"), `${JSON.stringify(results, null, 2)}\n`);
  writeFileSync(parsed.svg, plot(panels(runs)));
  console.log(tables(runs, { setups: used, trees: recipes, scale }));
  tell(`All figures: ${join(parsed.out, "results.json")}; plot: ${parsed.svg}`);
  return code;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error((error as Error).message);
  if (error instanceof UsageError) console.error(`\n${usage}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
