/** Make the trees, let each program copy them, and give what was measured, run by run. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { compareTrees, type Differences } from "./compare.ts";
import { type Measured, measure } from "./measure.ts";
import { limitS, type Scenario, scenarios } from "./model.ts";
import { environment, type Peer, prepare, targetOf } from "./peers.ts";
import { buildSlowFs, isMounted, type Requests, type Server, SlowMount, whyNoSlowFs } from "./slow-fs.ts";
import { changeFiles, makeTree, onePercent, type Survey, survey, type TreeName } from "./trees.ts";

interface Setup {
  about: string;
  source?: Server;
  target?: Server;
}

/** As an NFS or Lustre client, which keeps names and attributes for a while; each run gets a new mount, so an empty cache. */
const server: Server = { metaUs: 1000, dataUs: 500, concurrent: 32, mbps: 0, cacheS: 30 };
const half: Server = { ...server, metaUs: 500 };

export const setups = {
  slow: { about: "source with 1 ms latency, target in memory", source: server },
  both: { about: "source and target with 0.5 ms latency", source: half, target: half },
  local: { about: "source and target on one local disk, source in the page cache" },
  uncached: {
    about: "source with 1 ms latency that is asked again for each step of each path, target in memory",
    source: { ...server, cacheS: 0 },
  },
} satisfies Record<string, Setup>;

export type SetupName = keyof typeof setups;

export interface Run extends Measured {
  setup: SetupName;
  tree: TreeName;
  peer: string;
  scenario: Scenario;
  round: number;
  /** What the model says is the least, in seconds. */
  limitS?: number | undefined;
  source?: Requests | undefined;
  target?: Requests | undefined;
  /** In what the copy is not as the source. */
  differences?: Differences;
}

export interface Plan {
  peers: readonly Peer[];
  trees: readonly TreeName[];
  setups: readonly SetupName[];
  scenarios: readonly Scenario[];
  rounds: number;
  scale: number;
  /** Where the throw-away directory is made; for `local` the disk that is measured. */
  directory: string;
  /** Other latencies, for all slowed sides. */
  overrides: Partial<Server>;
  signal: AbortSignal;
  tell: (line: string) => void;
}

/** A setup as it will be used. */
export function setupOf(name: SetupName, overrides: Partial<Server>): Setup {
  const { about, source, target }: Setup = setups[name];
  return {
    about,
    ...(source ? { source: { ...source, ...overrides } } : {}),
    ...(target ? { target: { ...target, ...overrides } } : {}),
  };
}

/** Everything is in one directory, which is gone at the end, whatever the end. */
export async function* bench(plan: Plan): AsyncGenerator<Run> {
  const directory = realpathSync(mkdtempSync(join(plan.directory, "ef-bench-")));
  const memory = join(directory, "memory");
  try {
    const slow = prepareSlow(plan, directory, memory);
    for (const setup of plan.setups) {
      if (setup !== "local" && slow === undefined) continue;
      const place = setup === "local" ? directory : memory;
      for (const tree of plan.trees) yield* benchTree(plan, { setup, tree, place, home: directory, slow });
    }
  } finally {
    if (isMounted(memory)) Bun.spawnSync(["umount", memory]);
    // Never through a mount that would not go.
    if (isMounted(directory)) plan.tell(`Cannot remove ${directory}: something is still mounted there`);
    else rmSync(directory, { recursive: true, force: true });
  }
}

/** The slow-fs executable, and memory to keep the real directories in; undefined, and said, where that cannot be. */
function prepareSlow({ setups: wanted, tell }: Plan, directory: string, memory: string): string | undefined {
  if (wanted.every((setup) => setup === "local")) return undefined;
  const skip = (why: string) => {
    tell(`Skipped: ${wanted.filter((setup) => setup !== "local").join(", ")}: ${why}`);
    return undefined;
  };
  const why = whyNoSlowFs();
  if (why !== undefined) return skip(why);
  mkdirSync(memory);
  const { exitCode, stderr } = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=90%,nr_inodes=0", "tmpfs", memory]);
  if (exitCode !== 0) return skip(`cannot mount a tmpfs: ${String(stderr).trim()}`);
  try {
    return buildSlowFs(directory);
  } catch (error) {
    return skip((error as Error).message);
  }
}

interface Place {
  setup: SetupName;
  tree: TreeName;
  /** The directory that all is made in. */
  place: string;
  home: string;
  slow: string | undefined;
}

async function* benchTree(plan: Plan, at: Place): AsyncGenerator<Run> {
  const source = join(at.place, "source");
  plan.tell(`${at.setup}, ${at.tree}: making the tree`);
  const broken = new Set<Peer>();
  try {
    makeTree(at.tree, source, { scale: plan.scale });
    const found = survey(source);
    for (let round = 0; round < plan.rounds; round++) {
      for (let i = 0; i < plan.peers.length; i++) {
        const peer = plan.peers[(i + round) % plan.peers.length]!;
        if (broken.has(peer)) continue;
        for await (const run of benchPeer(plan, at, peer, round, found)) {
          if (run.reason !== undefined) broken.add(peer);
          yield run;
        }
      }
    }
  } finally {
    rmSync(source, { recursive: true, force: true });
  }
}

/** One program through all scenarios, in their order: each needs the copy that those before it have left. */
async function* benchPeer(plan: Plan, at: Place, peer: Peer, round: number, tree: Survey): AsyncGenerator<Run> {
  const setup = setupOf(at.setup, plan.overrides);
  const real = { source: join(at.place, "source"), scratch: join(at.place, "scratch"), home: join(at.home, "home") };
  const seen = {
    ...real,
    ...(setup.source ? { source: join(at.place, "slow-source") } : {}),
    ...(setup.target ? { scratch: join(at.place, "slow-scratch") } : {}),
  };
  const target = targetOf(real.scratch);
  try {
    mkdirSync(target, { recursive: true });
    prepare(peer, seen);
    for (const scenario of scenarios) {
      if (scenario !== "cold" && !plan.scenarios.includes(scenario)) continue;
      const argv = peer.argv({ ...seen, scenario });
      if (argv === undefined) continue;
      const copied = before(scenario, real.source, target, round);

      await using mounts = await mountAll(at.slow, setup, real, seen);
      const measured = await measure(argv, { env: environment(seen), cwd: real.home, signal: plan.signal });
      const run: Run = {
        ...{ setup: at.setup, tree: at.tree, peer: peer.name, scenario, round },
        ...measured,
        limitS: limitS(tree, scenario, setup, copied),
        source: mounts.source?.requests(),
        target: mounts.target?.requests(),
        ...(measured.code === 0 ? { differences: compareTrees(real.source, target) } : {}),
      };
      if (plan.scenarios.includes(scenario) || measured.code !== 0) yield run;
      if (measured.code !== 0) return;
      // What is still to be written would disturb the next.
      if (at.setup === "local") Bun.spawnSync(["sync", "-f", at.place]);
    }
  } finally {
    rmSync(real.scratch, { recursive: true, force: true });
    rmSync(real.home, { recursive: true, force: true });
  }
}

/** Bring about what a scenario is about. Gives the sizes of the files that have to be copied. */
function before(scenario: Scenario, source: string, target: string, round: number): number[] {
  if (scenario !== "changed" && scenario !== "purged") return [];
  const paths = onePercent(source, round);
  const chosen = scenario === "changed" ? paths : paths.slice(0, 1);
  if (scenario === "changed") changeFiles(source, chosen, round);
  else for (const path of chosen) rmSync(join(target, path), { force: true });
  return chosen.map((path) => statSync(join(source, path)).size);
}

interface Paths {
  source: string;
  scratch: string;
}

/** New mounts for each run: the client remembers nothing, and the counters start from zero. */
async function mountAll(slow: string | undefined, setup: Setup, real: Paths, seen: Paths) {
  const stack = new AsyncDisposableStack();
  const start = async (directory: string, mountpoint: string, as: Server | undefined) =>
    slow !== undefined && as ? stack.use(await SlowMount.start(slow, directory, mountpoint, as)) : undefined;
  try {
    return {
      source: await start(real.source, seen.source, setup.source),
      target: await start(real.scratch, seen.scratch, setup.target),
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}
