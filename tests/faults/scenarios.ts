/** HOMEs in which ef has something to do, and looks at what it did there. */
import { expect } from "bun:test";
import { chmodSync, linkSync, mkdirSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemPython } from "../envs.ts";
import { Home, run } from "../helpers.ts";
import { type Look, lookAt, pathsBelow, setTime } from "../trees.ts";

export interface Scenario {
  name: string;
  args: readonly string[];
  /** Make the directories in which ef then works. */
  arrange: (at: Home) => void | Promise<void>;
  /** Directories that may not change at all. */
  untouched: (at: Home) => string[];
  /** The directory that ef changes. */
  changed: (at: Home) => string;
  /** What is compared of a file, where its contents have a time or a host in them. @default its contents */
  asWritten?: (path: string, content: string) => string;
  /**
   * rsync puts a file in place whose time it could not set: its contents are right, and the next run takes it for a job's. What it has
   * just made, and not noted yet, stays when it is stopped, until the next run.
   */
  byRsync?: boolean;
}

export const old = 1_600_000_000;

export function write(path: string, content: string, seconds = old): void {
  writeFileSync(path, content);
  utimesSync(path, seconds, seconds);
}

/** A small cache: files, a hard link, a symbolic link, a directory in another, an empty and a private file. */
export function cache(root: string): void {
  mkdirSync(join(root, "hub/deep"), { recursive: true });
  write(join(root, "one"), "one, as it was");
  write(join(root, "hub/two"), "two, as it was".repeat(1000));
  write(join(root, "hub/deep/empty"), "");
  write(join(root, "hub/token"), "secret");
  chmodSync(join(root, "hub/token"), 0o600);
  linkSync(join(root, "one"), join(root, "hub/same"));
  symlinkSync("../one", join(root, "hub/link"));
  setTime(join(root, "hub/link"), BigInt(old) * 1_000_000_000n);
}

/** As a person, later. */
export function edit(root: string): void {
  write(join(root, "hub/two"), "two, edited".repeat(900), old + 100);
  write(join(root, "three"), "three is new", old + 100);
  rmSync(join(root, "hub/deep/empty"));
}

export const source = (at: Home) => join(at.home, "hf");
export const copy = (at: Home) => at.cache("HF_HOME");

export async function synced(at: Home, more: object = {}): Promise<void> {
  cache(source(at));
  at.configure({ HF_HOME: "hf" }, { skip_if_fresh_seconds: 0, ...more });
  const { code, stderr } = await at.ef(["sync"]);
  expect([code, stderr]).toEqual([0, stderr]);
}

export const scenarios: Scenario[] = [
  {
    name: "the first sync",
    args: ["sync"],
    arrange(at) {
      cache(source(at));
      at.configure({ HF_HOME: "hf" });
    },
    untouched: (at) => [source(at)],
    changed: copy,
  },
  {
    name: "a sync that updates and mirrors, after a purge",
    args: ["sync"],
    async arrange(at) {
      await synced(at, { ef: { vars: { HF_HOME: { mirror: true } } } });
      edit(source(at));
      rmSync(join(copy(at), "one"));
    },
    untouched: (at) => [source(at)],
    changed: copy,
  },
  {
    name: "a push",
    args: ["push"],
    async arrange(at) {
      await synced(at);
      edit(copy(at));
      mkdirSync(join(copy(at), "made"));
      write(join(copy(at), "made/by-job"), "made".repeat(5000), old + 200);
    },
    untouched: (at) => [copy(at)],
    changed: source,
  },
  {
    name: "a migration",
    args: ["migrate", "HF_HOME", "--to", "NEW", "--yes"],
    arrange(at) {
      cache(source(at));
      at.configure({ HF_HOME: "hf" });
    },
    untouched: () => [],
    changed: (at) => join(at.home, "new"),
  },
  {
    name: "saving an environment over an older one",
    args: ["venv", "save", "-f", "env", "--venv", "ENV"],
    async arrange(at) {
      const env = join(at.home, "env");
      const made = await run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env });
      expect([made.code, made.stderr]).toEqual([0, ""]);
      at.configure({}, { ef: { venv_store: join(at.home, "store") } });
      const { code, stderr } = await at.ef(["venv", "save", "env", "--venv", env]);
      expect([code, stderr]).toEqual([0, stderr]);
      write(join(env, "added"), "added");
    },
    untouched: (at) => [join(at.home, "env")],
    changed: (at) => join(at.home, "store"),
    asWritten: (path, content) => (path.endsWith(".json") ? String(JSON.parse(content).name) : content.slice(0, 4)),
  },
  {
    name: "a sync by rsync",
    byRsync: true,
    args: ["sync"],
    async arrange(at) {
      await synced(at, { ef: { transfer: { engine: "rsync" } } });
      edit(source(at));
    },
    untouched: (at) => [source(at)],
    changed: copy,
  },
  {
    name: "loading an environment",
    args: ["venv", "load", "env"],
    async arrange(at) {
      const env = join(at.home, "env");
      at.env.SLURM_TMPDIR = join(at.dir, "disk");
      mkdirSync(at.env.SLURM_TMPDIR);
      const made = await run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env });
      expect([made.code, made.stderr]).toEqual([0, ""]);
      at.configure({}, { ef: { venv_store: join(at.home, "store") } });
      const { code, stderr } = await at.ef(["venv", "save", "env", "--venv", env]);
      expect([code, stderr]).toEqual([0, stderr]);
    },
    untouched: (at) => [join(at.home, "env"), join(at.home, "store")],
    changed: (at) => join(at.dir, "disk"),
    asWritten: (_, content) => content.replaceAll(/ef test \w{6}|"since":\d+/g, ""),
  },
];

/** Temporary files of ef, which only one that was killed leaves behind, and only until the next run. */
export const isTemporary = (path: string) =>
  /(^|\/)\.(ef-tmp-[^/]*|[^/]*\.ef-[^/]*\.tmp|[^/]*\.tmp-[^/]*)(\/|$)/.test(path);
/** Those of rsync; no other file below a scenario's `changed` has such a name. */
const isRsyncs = (path: string) => /(^|\/)\.[^/]+\.[0-9A-Za-z]{6}$/.test(path);
/** ef's own hidden files: those, locks, and the mark of a migration that has not come to its end. */
export const isOwn = (path: string) => isTemporary(path) || /(^|\/)\.(ef-part-[^/]*|[^/]*\.lock)$/.test(path);

/** What a directory holds for users: without ef's temporary files, and without the times of directories, which those change. */
export function seenIn(at: Home, { changed, asWritten, byRsync }: Scenario): Look {
  const dir = changed(at);
  let look: Look;
  try {
    look = lookAt(dir);
  } catch {
    return { seen: new Map(), blocks: new Map() }; // not made yet
  }
  for (const [path, seen] of look.seen) {
    if (isOwn(path) || (byRsync && isRsyncs(path))) look.seen.delete(path);
    else if (seen.kind === "dir") Object.assign(seen, { mtimeNs: 0n, mode: 0 });
    else if (asWritten && seen.kind === "link") seen.mtimeNs = 0n;
    else if (asWritten && seen.kind === "file") {
      const hash = asWritten(path, readFileSync(join(dir, path), "latin1"));
      look.seen.set(path, { kind: "file", mode: seen.mode, mtimeNs: 0n, hash });
    }
  }
  if (asWritten) look.blocks.clear();
  return look;
}

/** In a file that has a temporary name beside it, or lost one of its names, the group of names may be another meanwhile. */
export const withoutGroups = ({ seen, blocks }: Look): Look => ({
  seen: new Map([...seen].map(([path, { group: _, ...entry }]) => [path, entry])),
  blocks,
});

/** Paths whose contents are neither what they were nor what they will be. */
export function halves(now: Look, before: Look, after: Look): string[] {
  return [...now.seen].flatMap(([path, { kind, size, hash, text }]) => {
    const is = (look: Look) => {
      const other = look.seen.get(path);
      return other?.kind === kind && other.size === size && other.hash === hash && other.text === text;
    };
    return kind === "dir" || is(before) || is(after) ? [] : [path];
  });
}

export const leftovers = (dir: string): string[] => pathsBelow(dir).filter(isTemporary);

/** Those, and where rsync copied its own. */
export const allLeftovers = (at: Home, { byRsync, changed }: Scenario): string[] => [
  ...leftovers(at.dir),
  ...(byRsync ? pathsBelow(changed(at)).filter(isRsyncs) : []),
];

/** Give a new HOME in that state. */
export async function arranged<H extends Home>(
  { arrange, args }: Scenario,
  make: () => H = () => new Home() as H,
): Promise<{ at: H; args: string[] }> {
  const at = make();
  await arrange(at);
  return { at, args: args.map((arg) => (arg === "NEW" || arg === "ENV" ? join(at.home, arg.toLowerCase()) : arg)) };
}
