/**
 * Random trees of all that a file system has, copied by ef and by rsync: the same, by one checker.
 *
 * What differs by ef's own rules the checker knows: FIFOs, sockets and devices are left out and named; owners, groups and
 * the set-group-id bit of directories are those of the place (lib/engine/diff.ts, spec). `rsync --no-D` leaves the same out.
 *
 * `npm test` tries a few trees, by a seed that is shown; `npm run test:faults` thousands.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, chownSync, lstatSync, mkdirSync, mkdtempSync, renameSync, rmSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { Home, have, isBinary, type Ran } from "../helpers.ts";
import { addOddities, byRules, editOddly, linkBetween, looseStrays } from "../oddities.ts";
import { seeded } from "../tables.ts";
import { differences, fillTree, type Look, lookAt, os, type Random, type Seen } from "../trees.ts";
import { isLong, seed } from "./seed.ts";

setDefaultTimeout(isLong ? 7_200_000 : 120_000);

const canCopyAll = isBinary && have("rsync") && process.geteuid?.() === 0;
const rounds = isLong ? Number(process.env.EF_FAULT_ROUNDS ?? 200) : 1;
/** A first copy, and others after edits. */
const steps = isLong ? 4 : 2;
const seen = { xattrs: true, owners: true };
let trees = 0;

/** Two variables with trees that share files, where ef and rsync each have a place for copies. */
class Trees extends Home {
  readonly names = ["ONE", "TWO"] as const;

  constructor(
    readonly random: Random,
    transfer: object,
    mirror = false,
  ) {
    super();
    const vars = { ONE: { mirror }, TWO: { mirror } };
    this.configure({ ONE: "one", TWO: "two" }, { skip_if_fresh_seconds: 0, ef: { vars, transfer } });
    const base = join(this.scratch, ".cache/euler-files");
    mkdirSync(base, { recursive: true });
    mkdirSync(join(this.dir, "rsync"));
    if (random(2) === 0) {
      chownSync(base, 0, 4242);
      chmodSync(base, 0o2755);
    }
  }

  source = (name: string) => join(this.home, name.toLowerCase());
  reference = (name: string) => join(this.dir, "rsync", name);

  /** What ef has to make in this place of a tree that is here. */
  expected(look: Look, place: string): Look {
    const { uid, gid, mode } = lstatSync(place);
    return byRules(look, { uid, gid, setgid: (mode & 0o2000) !== 0 });
  }

  /** As after a restore of an empty home, on a machine that ef has never seen. */
  forget(name: string): void {
    Bun.spawnSync(["find", this.source(name), "-mindepth", "1", "-delete"]);
    for (const kind of ["synced", "manifest", "partial"]) rmSync(this.cache(`.${name}.${kind}`), { force: true });
  }

  async run(...args: string[]): Promise<Ran> {
    const ran = await this.ef(args);
    if (ran.code !== 0) throw new Error(`ef ${args.join(" ")}: ${ran.stderr}`);
    return ran;
  }

  override [Symbol.dispose](): void {
    Bun.spawnSync(["rm", "-rf", this.dir]);
  }
}

/** A directory on another file system. */
class Elsewhere {
  readonly dir = mkdtempSync("/dev/shm/ef-test-");

  [Symbol.dispose](): void {
    Bun.spawnSync(["rm", "-rf", this.dir]);
  }
}

/** What no push carries is left out: owners and the bits that give their rights, and the times of directories that were there. */
function asPushed(home: Look, scratch: Look): Look {
  const { seen, blocks } = looseStrays(home, scratch);
  const rest = ([path, { owner: _, ...entry }]: [string, Seen]): [string, Seen] => [
    path,
    { ...entry, mode: entry.mode & ~0o6000, ...(entry.kind === "dir" ? { mtimeNs: 0n } : {}) },
  ];
  return { blocks, seen: new Map([...seen].map(rest)) };
}

function rsync(from: string, to: string, ...more: string[]): void {
  const flags = ["-aHAXS", "--modify-window=-1", "--force", ...more];
  const { exitCode, stderr } = Bun.spawnSync(["rsync", ...flags, "--", `${from}/`, `${to}/`]);
  if (exitCode !== 0) throw new Error(`rsync: ${stderr}`);
}

const fill = (root: string, random: Random) => {
  mkdirSync(root, { recursive: true });
  fillTree(root, random, { small: true, xattrs: true, sparse: random(8) === 0 });
  addOddities(root, random, 7);
};

/** Does stderr name what is left out, if there is anything? */
function expectNamed(look: Look, { stderr }: Ran, name: string): void {
  const count = [...look.seen.values()].filter(({ kind }) => kind === "other").length;
  const line = stderr.split("\n").find((text) => text.includes(`${name}: not a file, directory or link, left out:`));
  expect(line !== undefined).toBe(count > 0);
  if (count > 1) expect(line).toContain(`and ${count - 1} other`);
}

function expectSame(where: unknown[], expected: Look, found: Look): void {
  expect([...where, ...differences(expected, found)]).toEqual(where);
  trees++;
}

/**
 * Where rsync is not the measure, the source is: rsync makes holes of zeros that are written out, and at times loses what the
 * ACL of a directory with special bits says of the owning group (3.5.0).
 */
function measured(reference: Look, source: Look): Look {
  const most = [...source.blocks].map(
    ([path, bytes]) => [path, Math.max(bytes, reference.blocks.get(path) ?? 0)] as const,
  );
  const seen = [...reference.seen].map(([path, entry]) => {
    const there = source.seen.get(path);
    const isSame = there?.kind === entry.kind && there.xattrs !== undefined;
    return [path, isSame ? { ...entry, xattrs: there.xattrs as string } : entry] as const;
  });
  return { seen: new Map(seen), blocks: new Map([...reference.blocks, ...most]) };
}

describe.skipIf(!canCopyAll)("[needs the compiled binary, root, rsync]", () => {
  test.each([
    ["builtin", false],
    ["builtin", true],
    ["rsync", false],
    ["rsync", true],
  ] as const)("ef sync by the engine %s, mirror %p: as rsync -aHAXS, and again after edits", async (engine, mirror) => {
    for (let round = 0; round < rounds; round++) {
      using at = new Trees(seeded(seed * 1000 + round), { xattrs: true, engine }, mirror);
      for (const name of at.names) fill(at.source(name), at.random);
      linkBetween(at.source("ONE"), at.source("TWO"), at.random);
      for (let step = 0; step < steps; step++) {
        if (step > 0) for (const name of at.names) editOddly(at.source(name), at.random, 10 + step);
        const ran = await at.run("sync", "--force");
        for (const name of at.names) {
          // Without mirror what became a FIFO stays as it was: rsync leaves it so if it is to leave out FIFOs.
          rsync(at.source(name), at.reference(name), mirror ? "--delete" : "--no-D");
          const source = lookAt(at.source(name), seen);
          const reference = at.expected(lookAt(at.reference(name), seen), at.cache(name));
          const where = [`EF_FAULT_SEED=${seed}`, round, step, name];
          const copy = lookAt(at.cache(name), seen);
          expectSame(where, measured(looseStrays(reference, source), source), looseStrays(copy, source));
          expectNamed(source, ran, name);
        }
      }
    }
  });

  test("ef push to a home that is as it was, or empty: what scratch has is there, and the rest as it was", async () => {
    for (let round = 0; round < rounds; round++) {
      using at = new Trees(seeded(seed * 1000 + 400 + round), { xattrs: true });
      for (const name of at.names) fill(at.source(name), at.random);
      await at.run("sync");
      for (const step of ["edited", "edited again", "empty home"]) {
        for (const name of at.names)
          if (step === "empty home") at.forget(name);
          else editOddly(at.cache(name), at.random, 10 + step.length, { retypes: false });
        const before = at.names.map((name) => lookAt(at.source(name), seen));
        const ran = await at.run("push");
        for (const [i, name] of at.names.entries()) {
          const scratch = lookAt(at.cache(name), seen);
          const [was, brought, found] = [before[i] as Look, scratch, lookAt(at.source(name), seen)].map((look) =>
            asPushed(at.expected(look, at.source(name)), scratch),
          ) as [Look, Look, Look];
          const expected = { blocks: brought.blocks, seen: new Map([...was.seen, ...brought.seen]) };
          expectSame([`EF_FAULT_SEED=${seed}`, round, step, name], expected, found);
          expectNamed(scratch, ran, name);
        }
      }
    }
  });

  test("a path longer than the kernel takes is named; the other variable comes, this one is neither exported nor moved", async () => {
    using at = new Trees(seeded(seed), {});
    for (const name of at.names) at.write(`${name.toLowerCase()}/file`, "1");
    const [outer, inner] = ["one", "inner"].map((name) => join(at.home, name, ...Array(10).fill("d".repeat(250))));
    for (const dir of [outer, inner] as string[]) mkdirSync(dir, { recursive: true });
    renameSync(join(at.home, "inner"), join(outer as string, "inner"));
    const { code, stdout, stderr } = await at.ef(["sync", "--shell", "bash"]);
    expect(stdout).toBe(`export TWO='${at.cache("TWO")}'\nfalse\n`);
    expect(stderr).toMatch(/ONE: failed.*(name|path).*too long/is);
    expect(code).toBe(1);
    const migrate = await at.ef(["migrate", "ONE", "--to", join(at.dir, "new"), "--yes"]);
    expect([migrate.code, migrate.stderr]).toEqual([1, expect.stringMatching(/too long/i)]);
    expect(at.exists(join(at.source("ONE"), "file"))).toBe(true);
  });

  test("ef migrate to another file system: the same tree is there, and what cannot move stays", async () => {
    for (let round = 0; round < rounds; round++) {
      using at = new Trees(seeded(seed * 1000 + 800 + round), {});
      using other = new Elsewhere();
      const [old, place] = [at.source("ONE"), join(other.dir, "new")];
      const where = [`EF_FAULT_SEED=${seed}`, round];
      fill(old, at.random);
      const first = lookAt(old, seen);
      const odd = [...first.seen].filter(([, { kind }]) => kind === "other").map(([path]) => path);
      const args = ["migrate", "ONE", "--to", place, "--yes"];
      if (odd.length > 0) {
        const { code, stderr } = await at.ef(args);
        expect([...where, code, stderr]).toEqual([...where, 1, expect.stringContaining("these are no files,")]);
        expectSame(where, first, lookAt(old, seen));
        for (const path of odd) unlinkSync(os(join(old, path)));
      }
      const expected = at.expected(lookAt(old, seen), other.dir);
      // Links that name the old place name the new one.
      for (const entry of expected.seen.values()) if (entry.text) entry.text = entry.text.replace(old, place);
      await at.run(...args);
      expectSame(where, expected, lookAt(place, seen));
      expect(at.exists(old)).toBe(false);
    }
  });
});

afterAll(() => {
  if (isLong) console.log(`${trees} trees compared`);
});
