/** Who is compared: a table of programs, each with its arguments and what it needs. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Scenario } from "./model.ts";

const root = resolve(import.meta.dir, "../..");

/** The variable that ef and euler-files sync. No preset knows it, so nothing is excluded. */
const variable = "BENCH_DATA";
const cacheRoot = ".cache/euler-files";

export interface Job {
  source: string;
  /** The root of the fast storage. */
  scratch: string;
  /** A throw-away home directory, on a local disk. */
  home: string;
  scenario: Scenario;
}

export interface Peer {
  name: string;
  /** ef itself: a wrong copy is then an error, not a remark. */
  own?: boolean;
  /** Why it cannot run here. */
  missing: () => string | undefined;
  /** undefined: it does not know this scenario. */
  argv: (job: Job) => string[] | undefined;
  /** The section "ef" of the configuration. */
  config?: object;
}

/** Where a copy is, whoever makes it. */
export const targetOf = (scratch: string): string => join(scratch, cacheRoot, variable);

const ef = resolve(process.env.EF_BIN ?? join(root, "dist/ef"));
const eulerFiles = join(root, "node_modules/.cache/py/bin/euler-files");

const needs = (program: string) => () => (Bun.which(program) === null ? `${program} is not installed` : undefined);
const needsFile = (path: string, how: string) => () => (existsSync(path) ? undefined : `no ${path}: ${how}`);

/** The first copy, and "fresh" after it, are plain; the others say that what was known before does not count. */
const syncArgs = ({ scenario }: Job) => ["sync", ...(scenario === "cold" || scenario === "fresh" ? [] : ["--force"])];
const contents = (path: string) => `${path}/`;

export const peers: readonly Peer[] = [
  {
    name: "ef",
    own: true,
    missing: needsFile(ef, "npm run build"),
    argv: (job) => [ef, ...syncArgs(job)],
  },
  {
    name: "ef-rsync",
    own: true,
    missing: () => needsFile(ef, "npm run build")() ?? needs("rsync")(),
    argv: (job) => [ef, ...syncArgs(job)],
    config: { transfer: { engine: "rsync" } },
  },
  {
    name: "rsync",
    missing: needs("rsync"),
    argv: copying(({ source, scratch }) => ["rsync", "-a", contents(source), contents(targetOf(scratch))]),
  },
  {
    name: "fpsync",
    missing: () => needs("fpsync")() ?? needs("rsync")(),
    argv: copying(({ source, scratch, home }) => [
      "fpsync",
      ...["-n", "8", "-t", join(home, "fpsync")],
      contents(source),
      contents(targetOf(scratch)),
    ]),
  },
  {
    // Times of files it keeps by itself; those of directories, and modes, it does not (--metadata costs requests).
    name: "rclone",
    missing: needs("rclone"),
    argv: copying(({ source, scratch, home }) => [
      "rclone",
      ...["copy", "--links", "--transfers", "16", "--checkers", "32", "--config", join(home, "rclone.conf")],
      source,
      targetOf(scratch),
    ]),
  },
  {
    name: "cp",
    missing: needs("cp"),
    argv: copying(({ source, scratch, scenario }) => [
      "cp",
      ...(scenario === "cold" ? ["-a"] : ["-a", "--update"]),
      `${source}/.`,
      targetOf(scratch),
    ]),
  },
  {
    // It compares nothing, so there is only a first copy.
    name: "tar",
    missing: needs("tar"),
    argv: copying(({ source, scratch, scenario }) =>
      scenario === "cold"
        ? ["sh", "-c", 'tar -C "$1" -cf - . | tar -C "$2" -xpf -', "sh", source, targetOf(scratch)]
        : undefined,
    ),
  },
  {
    name: "euler-files",
    missing: () => needsFile(eulerFiles, "sh scripts/setup-tests.sh")() ?? needs("rsync")(),
    argv: (job) => [eulerFiles, ...syncArgs(job)],
  },
];

/** A program that copies each time it is called: "fresh" means nothing to it, that is its "unchanged". */
function copying(argv: Peer["argv"]): Peer["argv"] {
  return (job) => (job.scenario === "fresh" ? undefined : argv(job));
}

/** Prepare a home for a peer: its configuration, and the directory that it copies to. */
export function prepare({ config }: Peer, { source, scratch, home }: Omit<Job, "scenario">): void {
  mkdirSync(home, { recursive: true });
  const file = {
    version: 1,
    scratch_base: scratch,
    cache_root: cacheRoot,
    vars: { [variable]: { source, enabled: true } },
    ...(config ? { ef: config } : {}),
  };
  writeFileSync(join(home, ".euler-files.json"), JSON.stringify(file, null, 2));
}

/** Nothing of the developer's own environment but PATH. */
export function environment({ scratch, home }: Pick<Job, "scratch" | "home">): Record<string, string> {
  return {
    PATH: process.env.PATH ?? "/usr/bin:/bin",
    HOME: home,
    TMPDIR: home,
    SCRATCH: scratch,
    LANG: "C.UTF-8",
    NO_COLOR: "1",
  };
}
