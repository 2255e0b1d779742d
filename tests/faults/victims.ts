/** What is killed: scenarios with enough to do that a signal comes in the middle of it. */
import { expect } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { haveUv, makeEnv } from "../envs.ts";
import { Home, have, type Ran, run } from "../helpers.ts";
import { baseSif, haveApptainer, quickBuild, withApptainer } from "../images.ts";
import { haveSlurm } from "../slurm.ts";
import { nodes, Staging } from "../staging.ts";
import { differences, type Look } from "../trees.ts";
import { openIn } from "./killing.ts";
import { copy, old, type Scenario, seenIn, source, write } from "./scenarios.ts";
import { allocation, environment, hub, later, MiB, nameOf, put, runsAt } from "./work.ts";

const uid = process.geteuid?.() ?? 0;

export interface Victim extends Scenario {
  /** How often it is killed in `npm test`, where tests/cli kills what takes long, and in the long form. */
  rounds: readonly [short: number, long: number];
  /** What it needs, if that is not there. */
  needs?: string | false;
  /** Make its HOME. */
  make?: (under: string) => Home;
  /** What else is wrong, at a moment. */
  also?: (at: Home, now: Look, before: Look, after: Look) => string[] | Promise<string[]>;
  /** Had the first run come to its end, so that it cannot be asked for again? */
  isOver?: (again: Ran) => boolean;
  /** What else is arranged, and held while it is tried. */
  during?: (at: Home) => Promise<AsyncDisposable>;
}

const hidden = (at: Home) => join(at.home, "torch");

/** Two variables, one of them with nothing that others may read. */
function twoVars(at: Home, more: object = {}): void {
  hub(source(at));
  mkdirSync(join(hidden(at), "in"), { recursive: true });
  for (let i = 0; i < 200; i++) put(join(hidden(at), i % 2 === 0 ? "in" : "", `f${i}`), 2000 + i, i, 0o600);
  put(join(hidden(at), "weights"), 12 * MiB, 4, 0o600);
  for (const dir of [join(hidden(at), "in"), hidden(at)]) chmodSync(dir, 0o700);
  at.configure({ HF_HOME: "hf", TORCH_HOME: "torch" }, { skip_if_fresh_seconds: 0, ...more });
}

async function done(at: Home, args: readonly string[]): Promise<void> {
  const { code, stderr } = await at.ef(args);
  expect([code, stderr]).toEqual([0, stderr]);
}

/** Both copies are below it, and ef's own notes beside them. */
const copies = (at: Home) => at.cache("");

const privately = (at: Home): string[] =>
  existsSync(at.cache("TORCH_HOME")) ? openIn(at.cache("TORCH_HOME")).map((line) => `open: ${line}`) : [];

const sync = (more: object): Pick<Victim, "args" | "untouched" | "changed" | "also" | "arrange"> => ({
  args: ["sync", "--shell", "bash"],
  untouched: (at) => [source(at), hidden(at)],
  changed: copies,
  also: privately,
  arrange: (at) => twoVars(at, more),
});

const updated = async (at: Home, more: object = {}) => {
  twoVars(at, more);
  await done(at, ["sync"]);
  later(source(at));
};

const env = (at: Home) => join(at.home, "env");
const store = (at: Home) => join(at.home, "store");

async function savedOnce(at: Home): Promise<void> {
  await environment(env(at));
  at.configure({}, { ef: { venv_store: store(at) } });
  write(join(env(at), "lib/version"), "old");
  await done(at, ["venv", "save", "env", "--venv", env(at)]);
}

/** What is saved can be loaded, and is one of the two; looked at in a copy, or it would be cleaned up by that. */
async function loads(at: Home): Promise<string[]> {
  const probe = join(at.dir, "probe");
  mkdirSync(probe);
  spawnSync("cp", ["-a", store(at), join(probe, "store")]);
  writeFileSync(
    join(probe, "config"),
    JSON.stringify({ version: 1, scratch_base: "/s", ef: { venv_store: `${probe}/store` } }),
  );
  const { code, stderr } = await at.ef(["venv", "load", "env", "--as", "probe"], {
    env: { EF_CONFIG: join(probe, "config"), SLURM_TMPDIR: probe },
  });
  const live = join(probe, `ef-venvs-${uid}/probe`);
  const version = code === 0 ? readFileSync(join(live, "lib/version"), "utf8") : "";
  const found = code !== 0 ? [`cannot be loaded: ${stderr}`] : runsAt(live);
  if (code === 0 && !["old", "new"].includes(version)) found.push(`loaded: version ${version}`);
  rmSync(probe, { recursive: true });
  return found;
}

const disk = (at: Home) => join(at.dir, "disk");

/** The place of a tree that the configuration names has all of it. */
function usesWhole(at: Home, victim: Scenario, after: Look, used: string): string[] {
  const { seen } = seenIn(at, { ...victim, changed: () => used });
  return differences(after, { seen, blocks: new Map() }).map((line) => `in use: ${used}: ${line}`);
}

const configOf = (at: Home) => JSON.parse(at.read(join(at.home, ".euler-files.json")));

/** A part that is seen as a whole or not at all: it is as before, or as after. */
function wholeAt(part: string, now: Look, before: Look, after: Look): string[] {
  const within = ({ seen }: Look): Look => ({
    seen: new Map([...seen].filter(([path]) => path === part || path.startsWith(`${part}/`))),
    blocks: new Map(),
  });
  const [old, all] = [before, after].map((look) => differences(within(look), within(now)));
  return old?.length === 0 ? [] : (all ?? []).map((line) => `as a whole: ${line}`);
}

const stage = {
  needs: !haveSlurm && "Slurm",
  make: (under: string) => new Staging(["HF_HOME"], {}, under),
  args: ["stage", "--json"],
  arrange: (at: Home) => hub(join(at.home, "HF_HOME")),
  untouched: (at: Home) => [join(at.home, "HF_HOME")],
  changed: disk,
} satisfies Partial<Victim>;
const image = (at: Home) => join(at.home, "sif/one.sif");

export const victims: Victim[] = [
  { name: "the first sync", rounds: [2, 60], ...sync({}) },
  {
    name: "a sync that updates and mirrors, after a purge",
    rounds: [2, 70],
    ...sync({}),
    async arrange(at) {
      await updated(at, { ef: { vars: { HF_HOME: { mirror: true } } } });
      for (let i = 800; i < 900; i++) rmSync(join(copy(at), nameOf(i)));
    },
  },
  {
    name: "a sync by rsync",
    rounds: [1, 40],
    ...sync({}),
    arrange: (at) => updated(at, { ef: { transfer: { engine: "rsync" } } }),
  },
  {
    name: "a sync where locks are leases",
    rounds: [1, 30],
    ...sync({}),
    needs: !have("gcc") && "gcc",
    make: (under) => new Home({}, "ef-test-", under),
    async arrange(at) {
      const LD_PRELOAD = join(at.dir, "flock.so");
      const source = join(import.meta.dir, "../fakes/flock-errno.c");
      await run(["gcc", "-shared", "-fPIC", "-o", LD_PRELOAD, source], { env: at.env });
      Object.assign(at.env, { LD_PRELOAD, FLOCK_ERRNO: "38" });
      await updated(at);
    },
  },
  {
    name: "a sync to the disk of this node",
    rounds: [1, 30],
    args: ["sync", "--node-local", "--shell", "bash"],
    untouched: (at) => [source(at), hidden(at), copy(at), at.cache("TORCH_HOME")],
    changed: disk,
    async arrange(at) {
      at.env.SLURM_TMPDIR = disk(at);
      mkdirSync(disk(at));
      await updated(at);
      await done(at, ["sync"]);
    },
  },
  {
    name: "a push",
    rounds: [2, 70],
    args: ["push"],
    async arrange(at) {
      twoVars(at);
      await done(at, ["sync"]);
      later(copy(at), { kinds: false });
      for (let i = 0; i < 50; i++) put(join(at.cache("TORCH_HOME"), `made${i}`), 4000, i, 0o600, old + 200);
    },
    untouched: (at) => [copy(at), at.cache("TORCH_HOME")],
    changed: source,
    also: (at) => openIn(hidden(at)).map((line) => `open: ${line}`),
  },
  {
    name: "a migration",
    rounds: [2, 60],
    args: ["migrate", "HF_HOME", "--to", "NEW", "--yes"],
    arrange(at) {
      hub(source(at));
      at.configure({ HF_HOME: "hf" });
    },
    untouched: () => [],
    changed: (at) => join(at.home, "new"),
    also(at, _, __, after) {
      return usesWhole(at, this, after, configOf(at).vars.HF_HOME.source);
    },
    isOver: ({ stderr }) => /already|is there/.test(stderr),
  },
  {
    name: "a migration of environments",
    rounds: [1, 30],
    args: ["migrate", "venv_base", "--to", "NEW", "--yes"],
    async arrange(at) {
      mkdirSync(join(at.home, "envs"));
      await environment(join(at.home, "envs/one"));
      at.configure({}, { apptainer: { venv_base: join(at.home, "envs"), sif_store: join(at.home, "sif") } });
    },
    untouched: () => [],
    changed: (at) => join(at.home, "new"),
    asWritten: (_, content) => String(Bun.hash(content.replaceAll(/(ef test \w{6}\/home\/)(envs|new)/g, "$1"))),
    also(at, _, __, after) {
      const used = configOf(at).apptainer.venv_base as string;
      return [...usesWhole(at, this, after, used), ...runsAt(join(used, "one"))];
    },
    isOver: ({ stderr }) => /already|is there/.test(stderr),
  },
  {
    name: "saving an environment over an older one",
    rounds: [1, 40],
    args: ["venv", "save", "-f", "env", "--venv", "ENV"],
    async arrange(at) {
      await savedOnce(at);
      write(join(env(at), "lib/version"), "new");
    },
    untouched: (at) => [env(at)],
    changed: store,
    asWritten: (path, content) => (path.endsWith(".json") ? String(JSON.parse(content).name) : content.slice(0, 4)),
    also: loads,
  },
  {
    name: "loading an environment",
    rounds: [1, 40],
    args: ["venv", "load", "env", "--shell", "bash"],
    async arrange(at) {
      at.env.SLURM_TMPDIR = disk(at);
      mkdirSync(disk(at));
      await savedOnce(at);
    },
    untouched: (at) => [env(at), store(at)],
    changed: disk,
    asWritten: (_, content) => content.replaceAll(/"since":\d+/g, ""),
    also(at, now, before, after) {
      const live = `ef-venvs-${uid}/env`;
      return [...wholeAt(live, now, before, after), ...(now.seen.has(live) ? runsAt(join(disk(at), live)) : [])];
    },
    isOver: ({ stderr }) => stderr.includes("has an environment of that name"),
  },
  {
    name: "a sync of images",
    rounds: [1, 40],
    args: ["apptainer", "sync"],
    arrange(at) {
      mkdirSync(join(at.home, "sif"));
      mkdirSync(join(at.scratch, "sif"));
      const images = ["a", "b", "c"].map((name, i) => {
        put(join(at.home, "sif", `${name}.sif`), 40 * MiB, i, 0o644, old + 100);
        const record = { venv_name: name, sif_filename: `${name}.sif`, python_version: "3.11.5", built_at: old + 100 };
        return [name, record];
      });
      put(join(at.scratch, "sif/a.sif"), 36 * MiB, 7);
      const places = { venv_base: "~/venvs", sif_store: "~/sif", scratch_sif_dir: "$SCRATCH/sif" };
      at.configure({}, { apptainer: { ...places, images: Object.fromEntries(images) } });
    },
    untouched: (at) => [join(at.home, "sif")],
    changed: (at) => join(at.scratch, "sif"),
  },
  {
    name: "a build of an image",
    rounds: [0, 12],
    needs: !(haveApptainer && haveUv) && "apptainer, uv",
    args: ["apptainer", "build", "one", "--force"],
    async arrange(at) {
      withApptainer(at);
      mkdirSync(join(at.home, "venvs"));
      await makeEnv(join(at.home, "venvs/one"), ["six"]);
      const places = { venv_base: "$HOME/venvs", sif_store: "~/sif", scratch_sif_dir: "$SCRATCH/sif" };
      const apptainer = { ...places, base_image: baseSif, build_args: [...quickBuild] };
      at.configure({}, { apptainer, ef: { apptainer: { compile: false } } });
      await done(at, ["apptainer", "build", "one"]);
    },
    untouched: (at) => [join(at.home, "venvs")],
    changed: (at) => join(at.home, "sif"),
    asWritten: (path, content) => (path.endsWith(".sif") ? content.slice(0, 40) : content),
    async also(at) {
      const { stdout, stderr } = await at.ef([
        "apptainer",
        "run",
        "one",
        "--",
        "-c",
        "import six; print(six.__name__)",
      ]);
      const { images } = configOf(at).apptainer;
      return [
        ...(stdout === "six\n" ? [] : [`the image does not run: ${stderr}`]),
        ...(images?.one?.sif_filename === "one.sif" ? [] : [`not recorded: ${JSON.stringify(images)}`]),
        ...(existsSync(image(at)) ? [] : ["no image"]),
      ];
    },
  },
  {
    name: "staging on three nodes",
    rounds: [1, 15],
    ...stage,
    during: allocation,
    also: (_, now, before, after) =>
      nodes.flatMap((node) => wholeAt(`${node}/ef-cache-${uid}/HF_HOME`, now, before, after)),
  },
  {
    // Jobs may have worked in a copy that is there, so it gets file by file what is new.
    name: "staging over older copies",
    rounds: [0, 15],
    ...stage,
    async during(at) {
      const job = await allocation(at);
      await done(at, ["stage"]);
      later(join(at.home, "HF_HOME"));
      return job;
    },
  },
];
