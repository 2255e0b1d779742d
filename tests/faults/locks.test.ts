/**
 * Many at once, under each kind of lock that clusters have: one that works, none at all (a lease), one that everybody gets, and
 * nodes that disagree. And holders that are dead, stopped, or somebody else by now.
 *
 * `npm test` runs four herds of 12 once, by a seed that is shown; `npm run test:faults` all of them, of 30, thirty times.
 */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { ChildProcess } from "node:child_process";
import {
  type Dirent,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { thisHost } from "../../lib/drivers/host.ts";
import { efArgv, eulerFiles, Home, have, haveEulerFiles, isBinary, type Ran, run, until } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { lookAt, pick, type Random, wrongsOf } from "../trees.ts";
import { isLong, seed } from "./seed.ts";

const rounds = isLong ? 4 : 1;
const atOnce = isLong ? 30 : 12;

setDefaultTimeout(isLong ? 3_600_000 : 120_000);

/** How flock(2) behaves on a node; the shim's errno. */
const flocks = { works: undefined, missing: "38", "always granted": "0" } as const;

interface Node {
  flock: keyof typeof flocks;
  /** Its name, if it is not this host's: needs a UTS namespace. */
  host?: string;
}

const canRename = process.geteuid?.() === 0 && Bun.spawnSync(["unshare", "--uts", "true"]).exitCode === 0;

let shims: string;
beforeAll(() => {
  shims = mkdtempSync(join(tmpdir(), "ef-shims-")); // LD_PRELOAD takes no space
  const source = resolve(import.meta.dir, "../fakes/flock-errno.c");
  const made = Bun.spawnSync(["gcc", "-shared", "-fPIC", "-o", join(shims, "flock.so"), source]);
  expect(made.stderr.toString()).toBe("");
});
afterAll(() => rmSync(shims, { recursive: true, force: true }));

const envOn = ({ flock }: Node) =>
  flocks[flock] === undefined ? {} : { LD_PRELOAD: join(shims, "flock.so"), FLOCK_ERRNO: flocks[flock] };

/** ef's command line on that node. */
const argvOn = ({ host }: Node): string[] =>
  host === undefined ? [...efArgv] : ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host, ...efArgv];

function efOn(node: Node, at: Home, args: readonly string[], onStart?: Parameters<typeof run>[1]["onStart"]) {
  return run([...argvOn(node), ...args], {
    ...{ cwd: at.home, env: { ...at.env, ...envOn(node) } },
    ...(onStart ? { onStart } : {}),
  });
}

/** XDG_CACHE_HOME holds HF_HOME, as it does for most people. */
const vars = { HF_HOME: "cache/hf", TORCH_HOME: "torch", XDG_CACHE_HOME: "cache" };
const names = Object.keys(vars) as (keyof typeof vars)[];

function user(): Home {
  const at = new Home();
  for (const dir of ["cache/hf/hub", "cache/other", "torch"])
    for (let i = 0; i < 20; i++) at.write(`${dir}/${i}`, `${dir} ${i} `.repeat(1 + i * 40));
  at.write("torch/large", "weights ".repeat(100_000));
  at.configure(vars, { ef: { transfer: { bwlimit: "40M" } } });
  return at;
}

/** What a job leaves on scratch, by variable and path below it. */
const work = { HF_HOME: { "hub/made": "by a job ".repeat(3000) }, TORCH_HOME: { "runs/log": "epoch\n".repeat(900) } };

function workOn(at: Home): void {
  for (const [name, files] of Object.entries(work))
    for (const [path, content] of Object.entries(files)) {
      mkdirSync(dirname(join(at.cache(name), path)), { recursive: true });
      writeFileSync(join(at.cache(name), path), content);
    }
}

/** Contents by path below HOME. */
function contents(at: Home): Map<string, string> {
  const files = Object.values(vars).flatMap((dir) => filesIn(join(at.home, dir)).map((path) => `${dir}/${path}`));
  return new Map(files.map((path) => [path, readFileSync(join(at.home, path), "utf8")]));
}

const filesIn = (dir: string): string[] =>
  (readdirSync(dir, { recursive: true, withFileTypes: true }) as Dirent[])
    .filter((entry) => entry.isFile())
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)));

/** Names of ef that only a killed run leaves, and only until the next one. */
const isTemporary = (path: string) =>
  /(^|\/)\.(ef-tmp-[^/]*|ef-part-[^/]*|[^/]*\.ef-[^/]*\.tmp|[^/]*\.tmp-[^/]*)(\/|$)/.test(path);

/** Files that users see and that are neither what they were nor what they will be. */
function halves(at: Home, right: Map<string, string>): string[] {
  const inHome = [...contents(at)].filter(([path, content]) => !isTemporary(path) && right.get(path) !== content);
  const onScratch = Object.entries(vars).flatMap(([name, dir]) => {
    const copy = at.cache(name);
    const files = existsSync(copy) ? filesIn(copy).filter((path) => !isTemporary(path)) : [];
    return files.filter((path) => readFileSync(join(copy, path), "utf8") !== right.get(`${dir}/${path}`));
  });
  return [...inHome.map(([path]) => path), ...onScratch];
}

const commands = [
  ["sync"],
  ["sync", "--force"],
  ["sync", "--var", "HF_HOME", "--var", "XDG_CACHE_HOME"],
  ["sync", "--var", "TORCH_HOME", "--force"],
  ["push"],
  ["status"],
];

interface Herd {
  name: string;
  nodes: readonly Node[];
  /** Is a part of them euler-files, and do some die? */
  withEuler?: boolean;
  withKills?: boolean;
}

const here = (flock: Node["flock"]): Node => ({ flock });

const herds: Herd[] = [
  { name: "a lock that works, with euler-files", nodes: [here("works")], withEuler: true },
  { name: "a lock that works, and some are killed", nodes: [here("works")], withKills: true },
  { name: "leases", nodes: [here("missing")] },
  { name: "leases, and some are killed", nodes: [here("missing")], withKills: true },
  { name: "a lock that everybody gets", nodes: [here("always granted")], withEuler: true },
  { name: "a lock that everybody gets, and some are killed", nodes: [here("always granted")], withKills: true },
  {
    name: "nodes that disagree, and some processes are killed",
    nodes: [here("works"), canRename ? { flock: "missing", host: "other" } : here("missing")],
    withKills: true,
  },
];

/** Of the short form: the first, and what differs most from it. */
const some = herds.filter(
  ({ nodes: [one, other], withKills }, i) => i === 0 || (withKills && (one?.flock !== "works" || other)),
);

/** Start many at once, while the site purges and some are killed; all that is wrong with how they ended. */
async function stampede(at: Home, { nodes, withEuler, withKills }: Herd, random: Random): Promise<string[]> {
  const victims = new Map<number, ChildProcess>();
  const meanwhile = [setInterval(purge, 50, at, random), setInterval(killWriters, 5, at, victims)];
  const ran = await Promise.all(
    Array.from({ length: atOnce }, async (_, i): Promise<string[]> => {
      if (withEuler && i % 5 === 0) return wrongEnd("euler-files", await eulerFiles(at, ["sync", "--force"]), false);
      const args = pick(random, commands);
      const [isVictim, afterMs] = [withKills === true && random(3) === 0, random(3000)];
      let killing: ReturnType<typeof setTimeout> | undefined;
      const ended = await efOn(nodes[i % nodes.length] as Node, at, args, (child) => {
        if (!isVictim) return;
        victims.set(child.pid as number, child);
        killing = setTimeout(() => child.kill("SIGKILL"), afterMs);
      });
      clearTimeout(killing);
      return wrongEnd(`ef ${args.join(" ")}`, ended, isVictim);
    }),
  );
  meanwhile.forEach(clearInterval);
  return ran.flat();
}

/** One file of a copy goes, if it is there, so that those who come later have something to copy. */
function purge(at: Home, random: Random): void {
  const path = random(3) ? `TORCH_HOME/${random(4) ? random(20) : "large"}` : `HF_HOME/hub/${random(20)}`;
  rmSync(at.cache(path), { force: true });
}

/** Those of them that are in the middle of writing a file: its temporary name tells. */
function killWriters(at: Home, victims: Map<number, ChildProcess>): void {
  const dirs = [at.cache("."), at.cache("TORCH_HOME"), at.cache("HF_HOME/hub"), join(at.home, "torch")];
  for (const name of dirs.flatMap((dir) => (existsSync(dir) ? readdirSync(dir) : []))) {
    const pid = /^\..*ef-.*?-(\d+)-[0-9a-f]{16}[-.]/.exec(name)?.[1];
    if (pid !== undefined) victims.get(Number(pid))?.kill("SIGKILL");
  }
}

/** What the purge took at once is said to be missing: true, and the only reason to fail. */
const purged = /^\w+: failed: Cannot copy .*: the files are not there\n.*does something delete on scratch\?\n/gm;

function wrongEnd(what: string, { code, stderr, stdout }: Ran, mayBeKilled: boolean): string[] {
  const rest = stderr.replaceAll(purged, "");
  const isWrong =
    (code !== 0 && !(code === 1 && rest !== stderr)) || /error|failed|cannot|conflict|Traceback/i.test(rest);
  if (!isWrong || (mayBeKilled && code === 137 && stdout === "")) return [];
  return [`${what}: exit ${code}: ${stderr}`];
}

/** All that is wrong after the last of them, and after one quiet run on each node. */
async function aftermath(at: Home, { nodes, withEuler }: Herd, before: Map<string, string>): Promise<string[]> {
  const after = new Map(before);
  for (const [name, files] of Object.entries(work))
    for (const [path, content] of Object.entries(files))
      for (const dir of name === "HF_HOME" ? ["cache/hf", "cache"] : ["torch"])
        after.set(dir === "cache" ? `cache/hf/${path}` : `${dir}/${path}`, content);
  const wrongs = halves(at, after).map((path) => `half: ${path}`);
  // Without a lock rsync may have copied what a push was writing at the source: named as a temporary file, and gone when ef compares.
  // And one may have made the copy whole, so that it is fresh, while another was still writing that was killed then.
  const isExclusive = nodes.length === 1 && nodes[0]?.flock !== "always granted";
  for (const node of nodes)
    for (const args of [["push"], withEuler || !isExclusive ? ["sync", "--force"] : ["sync"], ["sync"]]) {
      const { code, stderr } = await efOn(node, at, args);
      if (code !== 0) wrongs.push(`then ef ${args}: exit ${code}: ${stderr}`);
    }
  const { stderr } = await efOn(nodes[0] as Node, at, ["sync"]);
  if (stderr.replace(/^.*warning.*\n/gm, "") !== names.map((name) => `${name}: fresh\n`).join(""))
    wrongs.push(`not fresh: ${stderr}`);
  const now = contents(at);
  for (const path of new Set([...after.keys(), ...now.keys()]))
    if (after.get(path) !== now.get(path)) wrongs.push(`source: ${path}`);
  for (const [name, dir] of Object.entries(vars))
    wrongs.push(
      ...wrongsOf(lookAt(join(at.home, dir)), lookAt(at.cache(name)), new Map(), { mirror: true }).map(
        (line) => `${name}: ${line}`,
      ),
    );
  const own = names.flatMap((name) => [name, `.${name}.lock`, `.${name}.manifest`, `.${name}.synced`]);
  wrongs.push(
    ...readdirSync(at.cache("."))
      .filter((name) => !own.includes(name))
      .map((name) => `left over: ${name}`),
  );
  wrongs.push(
    ...(readdirSync(at.dir, { recursive: true }) as string[]).filter(isTemporary).map((path) => `left over: ${path}`),
  );
  return wrongs;
}

describe.skipIf(!have("gcc") || !haveEulerFiles)("many at once", () => {
  test.each(isLong ? herds : some)("$name [needs gcc and euler-files]", async (herd) => {
    for (let round = 0; round < rounds; round++) {
      const random = seeded(seed + round);
      using at = user();
      const before = contents(at);
      if (random(2)) {
        expect((await at.ef(["sync"])).code).toBe(0);
        workOn(at);
      } else {
        for (const name of Object.keys(work)) mkdirSync(at.cache(name), { recursive: true });
        workOn(at);
      }
      const wrongs = [...(await stampede(at, herd, random)), ...(await aftermath(at, herd, before))];
      if (wrongs.length > 0) console.error(`EF_FAULT_SEED=${seed + round}`);
      expect(wrongs).toEqual([]);
    }
  });
});

const faketime = new Bun.Glob("/usr/lib/*/faketime/libfaketime.so.1").scanSync("/").next().value as string | undefined;

/** On a node without flock, and by a clock that runs a hundred times as fast: a minute without a beat is soon over. */
const hurried = (at: Home, node: Node = here("missing")) => {
  const { LD_PRELOAD, ...env } = envOn(node) as Record<string, string>;
  return { ...at.env, ...env, LD_PRELOAD: `${faketime}:${LD_PRELOAD}`, FAKETIME: "+0 x100" };
};

describe.skipIf(!have("gcc"))("a lease", () => {
  const leaseAt = (at: Home) => at.cache(".HF_HOME.lock.lease");

  /** Somebody's lease, which no process beats. */
  function leave(at: Home, holder: object): void {
    mkdirSync(at.cache("."), { recursive: true });
    const lease = { id: "some-id", ...thisHost(), job: "4711", since: 1_700_000_000, ...holder, beat: 3 };
    writeFileSync(leaseAt(at), `${JSON.stringify(lease)}\n`);
    utimesSync(leaseAt(at), 1_700_000_000, 1_700_000_000);
  }

  function owner(more: object = {}): Home {
    const at = new Home({ "hf/hub/a": "one", "hf/b": "two" });
    at.configure({ HF_HOME: "hf" }, more);
    return at;
  }

  /** All is whole, and nothing else is there. */
  async function expectDone(at: Home): Promise<void> {
    const again = await efOn(here("missing"), at, ["sync"]);
    expect([again.code, again.stderr]).toEqual([0, again.stderr]);
    expect(wrongsOf(lookAt(join(at.home, "hf")), lookAt(at.cache("HF_HOME")), new Map(), { mirror: true })).toEqual([]);
    expect(readdirSync(at.cache(".")).sort()).toEqual([
      ".HF_HOME.lock",
      ".HF_HOME.manifest",
      ".HF_HOME.synced",
      "HF_HOME",
    ]);
  }

  test("of a host that is gone is respected for a minute, whatever its date says, and its holder named", async () => {
    using at = owner({ lock_timeout_seconds: 0.3 });
    leave(at, { host: "dead-node", boot: "another" });
    const { code, stdout, stderr } = await efOn(here("missing"), at, ["sync"]);
    expect(stderr).toContain(`within 0.3 s: process ${process.pid} on dead-node (job 4711`);
    expect([code, stdout]).toEqual([1, "false\n"]);
    expect(readdirSync(at.cache(".")).sort()).toEqual([".HF_HOME.lock", ".HF_HOME.lock.lease", "HF_HOME"]);
    expect(readdirSync(at.cache("HF_HOME"))).toEqual([]);
  });

  test.skipIf(!faketime)("of a host that is gone is taken over after that minute [needs faketime]", async () => {
    using at = owner({ lock_timeout_seconds: 1e6 });
    leave(at, { host: "dead-node", boot: "another" });
    const { code, stderr } = await run([...efArgv, "sync"], { env: hurried(at) });
    expect(stderr).toContain("waiting for process");
    expect([code, stderr]).toEqual([0, expect.stringContaining("HF_HOME: complete")]);
    await expectDone(at);
  });

  test.each([
    ["whose pid another process has now", { started: "1" }],
    ["of an earlier boot of this host", { boot: "earlier" }],
  ])("%s is taken at once", async (_, holder) => {
    using at = owner({ lock_timeout_seconds: 0 });
    leave(at, holder);
    const { code, stderr } = await efOn(here("missing"), at, ["sync"]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("HF_HOME: complete")]);
    await expectDone(at);
  });

  test.skipIf(!faketime || !isBinary)(
    "whose holder is stopped for long is taken over; when it goes on it harms nothing [needs faketime]",
    async () => {
      using at = owner();
      at.write("hf/large", "old ".repeat(500_000));
      at.configure({ HF_HOME: "hf" }, { ef: { transfer: { bwlimit: "1M" } } });
      let stopped: ChildProcess | undefined;
      const first = efOn(here("missing"), at, ["sync"], (child) => {
        stopped = child;
      });
      await until(
        "its copy",
        () => existsSync(at.cache("HF_HOME")) && readdirSync(at.cache("HF_HOME")).some(isTemporary),
      );
      stopped?.kill("SIGSTOP");
      at.configure({ HF_HOME: "hf" }, { lock_timeout_seconds: 1e6 });
      at.write("hf/large", "new ".repeat(600_000));
      const second = await run([...efArgv, "sync"], { env: hurried(at) });
      expect([second.code, second.stderr]).toEqual([0, expect.stringContaining("HF_HOME: complete")]);
      expect(readFileSync(join(at.cache("HF_HOME"), "large"), "utf8")).toBe("new ".repeat(600_000));
      stopped?.kill("SIGCONT");
      const { code, stderr } = await first;
      expect(stderr).not.toMatch(/TypeError|^\s+at /m);
      expect([0, 1]).toContain(code);
      expect(readFileSync(join(at.cache("HF_HOME"), "large"), "utf8")).toBe("new ".repeat(600_000));
      await expectDone(at);
    },
  );

  test.skipIf(!canRename)("of a living holder on another host is waited for [needs root]", async () => {
    using at = owner();
    at.write("hf/large", "weights ".repeat(100_000));
    at.configure({ HF_HOME: "hf" }, { ef: { transfer: { bwlimit: "1M" } } });
    const first = efOn({ flock: "missing", host: "other" }, at, ["sync"]);
    await until("its lease", () => existsSync(leaseAt(at)));
    const second = await efOn(here("missing"), at, ["sync"]);
    expect(second.stderr).toMatch(/waiting for process \d+ on other/);
    expect(second.code).toBe(0);
    expect((await first).code).toBe(0);
    await expectDone(at);
  });
});
