import { expect, test } from "bun:test";
import { chmodSync, existsSync, linkSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BuiltinOptions } from "../../lib/engine/builtin.ts";
import type { Transfer } from "../../lib/engine/engine.ts";
import { have } from "../helpers.ts";
import { Pair } from "../pair.ts";
import { seeded } from "../tables.ts";
import {
  differences,
  editSource,
  fillTree,
  lookAt,
  type TreeOptions,
  type Work,
  workOnScratch,
  wrongsOf,
} from "../trees.ts";

/** Nothing is left to be done. */
const idle = { files: 0, bytes: 0, links: 0, attributes: 0, newInodes: 0, deleted: 0, names: [], blocked: [] };

async function asRsync(seed: number, options: TreeOptions = {}): Promise<void> {
  using pair = new Pair();
  fillTree(pair.source, seeded(seed), options);
  const reference = join(pair.dir, "rsync");
  const flags = options.xattrs ? "-aHAXS" : "-aHS";
  const rsync = Bun.spawnSync(["rsync", flags, "--", `${pair.source}/`, `${reference}/`]);
  expect(rsync.stderr.toString()).toBe("");
  const { after, warnings } = await pair.sync({ xattrs: options.xattrs ?? false });
  const xattrs = options.xattrs ?? false;
  const copy = pair.look("target", { xattrs });
  expect(differences(pair.look("source", { xattrs }), copy)).toEqual([]);
  expect(differences(lookAt(reference, { xattrs }), copy)).toEqual([]);
  expect(warnings).toEqual([]);
  expect(after.plan).toMatchObject(idle);
  expect(after.plan.kept).toEqual([]);
}

const isRoot = process.geteuid?.() === 0;

test.skipIf(!have("rsync") || !isRoot)(
  "30 random trees: the same as rsync -aHS makes, and nothing to do after [needs root]",
  async () => {
    for (let seed = 1; seed <= 30; seed++) await asRsync(seed, { sparse: seed % 6 === 0 });
  },
  60_000,
);

test.skipIf(!have("rsync") || !isRoot)(
  "extended attributes: the same as rsync -aHAXS makes [needs root]",
  async () => {
    for (let seed = 100; seed < 106; seed++) await asRsync(seed, { xattrs: true });
  },
  60_000,
);

test.skipIf(!have("setfacl"))(
  "ACLs of files and directories come with transfer.xattrs, and never without",
  async () => {
    using pair = new Pair();
    const script = `mkdir d && echo x >d/f && setfacl -m u:12345:r-x,d:g:54321:rwx d && setfacl -m u:12345:rw d/f`;
    expect(Bun.spawnSync(["sh", "-c", script], { cwd: pair.source }).exitCode).toBe(0);
    const acls = (dir: string) => Bun.spawnSync(["getfacl", "-Rn", "."], { cwd: dir }).stdout.toString();
    await pair.sync();
    expect(acls(pair.target)).not.toContain("12345");
    rmSync(join(pair.target, "d"), { recursive: true });
    await pair.sync({ xattrs: true });
    expect(acls(pair.target)).toBe(acls(pair.source));
  },
);

test("a file that becomes a directory: its other names keep their mode", async () => {
  using pair = new Pair();
  writeFileSync(join(pair.source, "a"), "1");
  chmodSync(join(pair.source, "a"), 0o444);
  linkSync(join(pair.source, "a"), join(pair.source, "b"));
  await pair.sync();
  rmSync(join(pair.source, "a"));
  mkdirSync(join(pair.source, "a"));
  writeFileSync(join(pair.source, "a/in it"), "2");
  await pair.sync();
  expect(statSync(join(pair.target, "a")).isDirectory()).toBe(true);
  expect(statSync(join(pair.target, "b")).mode & 0o7777).toBe(0o444);
});

test("directories are a sign of life too, where there is nothing else to copy", async () => {
  using pair = new Pair();
  mkdirSync(join(pair.source, "a/b/c"), { recursive: true });
  let told = 0;
  await pair.carry(await pair.compare(), (cx) => {
    cx.moved = () => void told++;
  });
  expect(told).toBe(3 + 4); // each is made, and gets its time, as the root does
});

test("a file that becomes a FIFO: its copy stays as what the source had, and mirror removes it", async () => {
  using pair = new Pair();
  writeFileSync(join(pair.source, "a"), "1");
  await pair.sync();
  rmSync(join(pair.source, "a"));
  expect(Bun.spawnSync(["mkfifo", join(pair.source, "a")]).exitCode).toBe(0);
  await pair.sync();
  expect(existsSync(join(pair.target, "a"))).toBe(true);
  rmSync(join(pair.source, "a"));
  writeFileSync(join(pair.source, "b"), "2"); // a source that is empty is not believed
  await pair.sync({}, { mirror: true });
  expect(existsSync(join(pair.target, "a"))).toBe(false);
});

/** Both sides change, again and again: the source comes, and no job's work is lost. */
async function mutate(seed: number, options: Partial<BuiltinOptions>, more: () => Partial<Transfer>): Promise<void> {
  using pair = new Pair();
  const random = seeded(seed);
  const work: Work = new Map();
  fillTree(pair.source, random, { small: true });
  await pair.sync(options, more());
  for (let round = 0; round < 3; round++) {
    editSource(pair.source, random, round);
    workOnScratch(pair.target, random, round, work);
    const before = pair.look("source");
    const { after } = await pair.sync(options, more());
    const where = `seed ${seed}, round ${round}`;
    const copy = pair.look("target");
    const { mirror = false, arrivalNs } = more();
    expect([where, ...wrongsOf(before, copy, work, { mirror, times: arrivalNs === undefined })]).toEqual([where]);
    expect(differences(before, pair.look("source"))).toEqual([]);
    expect([where, after.plan]).toMatchObject([where, idle]);
  }
}

test.skipIf(!isRoot).each<[string, Partial<BuiltinOptions>, () => Partial<Transfer>]>([
  ["as it comes", {}, () => ({})],
  ["with mirror", {}, () => ({ mirror: true })],
  ["with times of arrival", {}, () => ({ arrivalNs: BigInt(Date.now()) * 1_000_000n })],
  ["read back", { verify: true, workers: 3 }, () => ({})],
])(
  "both sides change at random: the source comes, and no job's work is lost: %s [needs root]",
  async (_, options, more) => {
    for (let seed = 1; seed <= 8; seed++) await mutate(seed, options, more);
  },
  60_000,
);

test("a second run does nothing at all: no name changes, not even a time of a directory", async () => {
  using pair = new Pair();
  fillTree(pair.source, seeded(5));
  await pair.sync();
  const states = () => Bun.spawnSync(["find", pair.target, "-printf", "%i %C@ %m %s\\n"]).stdout.toString();
  const before = states();
  const { first } = await pair.sync();
  expect(first.plan).toMatchObject(idle);
  expect(states()).toBe(before);
});
