/**
 * Scratch that is shared, and somebody there who plants links, files of others, pipes and directories where ef will write or read.
 *
 * Whatever he plants: what lies outside stays as it is, nothing of ours goes to a place of his, no variable leads there, and ef
 * says what is wrong, or is not bothered.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { efArgv, Home, have, isBinary, type Ran, run } from "../helpers.ts";
import { differences, type Look, lookAt } from "../trees.ts";
import { isLong } from "./seed.ts";

setDefaultTimeout(120_000);

const canBeOthers = process.geteuid?.() === 0 && have("setpriv") && isBinary;
const [victim, attacker, group] = [5001, 65534, 5000];

let program: string;
beforeAll(() => {
  if (!canBeOthers) return;
  const dir = mkdtempSync(join(tmpdir(), "ef-planted-bin-")); // where they may read it: the checkout can be closed to others
  chmodSync(dir, 0o755);
  program = join(dir, "ef");
  copyFileSync(efArgv[0] ?? "", program);
});
afterAll(() => program && rmSync(join(program, ".."), { recursive: true }));

/** How scratch is shared. */
const places = {
  "a sticky directory": "1777",
  "a directory of a group": "2775",
} as const;
type Place = keyof typeof places;

class Shared extends Home {
  readonly cacheDir = this.cache("x").slice(0, -2);
  readonly evil = join(this.dir, "evil");
  readonly precious = join(this.home, "precious");

  /** @param plants for each a variable, `V0` and so on */
  constructor(place: Place, uid: number, plants: readonly string[]) {
    super({ "precious/a": "key", "precious/b": "other key" }, "ef-planted-");
    const vars = Object.fromEntries(plants.map((_, i) => [`V${i}`, `hf/${i}`]));
    for (const dir of Object.values(vars)) {
      this.write(`${dir}/a`, "ours");
      this.write(`${dir}/hub/b`, "ours too");
    }
    this.configure(vars, { lock_timeout_seconds: 0.3, parallel_jobs: 2 });
    chmodSync(join(this.precious, "a"), 0o600);
    for (const dir of ["", "/hub"]) {
      mkdirSync(this.evil + dir);
      writeFileSync(`${this.evil}${dir}/a`, "theirs");
    }
    mkdirSync(this.cacheDir, { recursive: true });
    const script = `chmod 755 "$0" && chown -R ${uid}:${group} "$0/home" && chown -R ${attacker} "$0/evil" &&
      chgrp -R ${group} "$0/scratch" && chmod -R ${places[place]} "$0/scratch"`;
    expect(Bun.spawnSync(["sh", "-c", script, this.dir]).stderr.toString()).toBe("");
  }

  as(uid: number, argv: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
    const groups = uid === 0 ? [] : [`--regid=${group}`, "--clear-groups"];
    const who = ["timeout", "90", "setpriv", `--reuid=${uid}`, ...groups];
    return run([...who, ...argv], { cwd: "/", env: { ...this.env, TMPDIR: "/tmp", ...env } });
  }

  /**
   * As the attacker; hard links as root, for they are what only an older kernel lets him make.
   *
   * @param script in which $N is the variable's name, $T the place of its copy, $C the directory of that, $S scratch, $E a
   * directory of his, $P one of the victim's
   */
  async plant(script: string, name: string): Promise<void> {
    const env = { N: name, T: this.cache(name), C: this.cacheDir, S: this.scratch, E: this.evil, P: this.precious };
    const uid = script.startsWith('ln "') ? 0 : attacker;
    const { code, stderr } = await this.as(uid, ["sh", "-c", `umask 0; ${script}`], env);
    expect([code, stderr]).toEqual([0, ""]);
  }
}

const own = ["synced", "manifest", "partial", "pushing", "lock"];

const inPlaceOf = (suffix: string) => [
  `ln -s "$P/a" "$C/.$N.${suffix}"`,
  `ln -s "$E/new" "$C/.$N.${suffix}"`,
  `ln "$P/a" "$C/.$N.${suffix}"`,
  `mkfifo "$C/.$N.${suffix}"`,
  `mkdir "$C/.$N.${suffix}"`,
  `echo garbage >"$C/.$N.${suffix}"`,
];

const plants: string[] = [
  ...own.flatMap(inPlaceOf),
  `ln -s "$E" "$T"`,
  `ln -s "$P" "$T"`,
  `ln -s "$E/new" "$T"`,
  `mkfifo "$T"`,
  `echo garbage >"$T"`,
  `mkdir -m 777 "$T"`,
  `mkdir -m 777 "$T"; ln -s "$P/a" "$T/a"`,
  `mkdir -m 777 "$T"; ln -s "$P" "$T/hub"`,
  `mkdir -m 777 "$T"; ln -s "$E" "$T/hub"`,
  `mkdir -m 777 "$T" "$T/hub"; mkfifo "$T/a" "$T/hub/b"`,
  `mkdir -m 777 "$T" "$T/a"`,
  `mkdir -m 777 "$T"; echo theirs >"$T/a"; chmod 600 "$T/a"`,
  `mkdir -m 755 "$T"; echo theirs >"$T/a"`,
  `cp -r "$E" "$T"; chmod -R 777 "$T"`,
];

/** Where nothing is above it yet. */
const higher = [
  `ln -s "$E" "$S/.cache"`,
  `ln -s "$P" "$S/.cache"`,
  `mkdir -m 777 "$S/.cache"; ln -s "$E" "$C"`,
  `mkdir -m 777 "$S/.cache" "$C"`,
  `mkdir -m 777 "$S/.cache" "$C" "$T"`,
  `mkfifo "$S/.cache"`,
  `echo garbage >"$S/.cache"`,
];

/** Once the copies are there, where he may rename them: one that looks the same, to the last nanosecond. */
const exchanges = [
  `mv "$T" "$C/$N.old"; cp -a "$C/$N.old" "$E/$N"; ln -s "$E/$N" "$T"`,
  `mv "$T" "$C/$N.old"; ln -s "$P" "$T"`,
  `mv "$C/.$N.synced" "$E/"; ln -s "$E/.$N.synced" "$C/.$N.synced"`,
  `mv "$C/.$N.manifest" "$E/"; ln -s "$E/.$N.manifest" "$C/.$N.manifest"`,
  `mv "$S/.cache" "$S/.old"; cp -a "$S/.old" "$E/.cache"; ln -s "$E/.cache" "$S/.cache"`,
];

/** All that is wrong after each of ef's verbs met the plants. */
async function wrongs(at: Shared, uid: number, place: Place, scripts: readonly string[]): Promise<string[]> {
  // Members of a group may write to its copies, and what they write may be pushed.
  const mayPush = place === "a directory of a group";
  const outside = [at.precious, at.evil, ...(mayPush ? [] : [join(at.home, "hf")])];
  const before = outside.map((dir) => lookAt(dir));
  const found: string[] = [];
  for (const args of [["sync"], ["sync"], ["status"], ["push"], ["sync", "--force"]]) {
    const { code, stdout, stderr } = await at.as(uid, [
      program,
      ...args,
      ...(args[0] === "sync" ? ["--shell", "bash"] : []),
    ]);
    const what = `ef ${args.join(" ")} (exit ${code})`;
    if (![0, 1, 2].includes(code) || /^\s+at .*:\d+|TypeError/m.test(stderr)) found.push(`${what}: ${stderr}`);
    if (code !== 0 && !/cannot|failed|conflict/i.test(stderr)) found.push(`${what}: no reason: ${stderr}`);
    for (const [i, dir] of outside.entries())
      found.push(
        ...differences(before[i] as Look, lookAt(dir)).map((line) => `${what}: ${dir.slice(at.dir.length)}: ${line}`),
      );
    for (const [i, script] of scripts.entries())
      if (stdout.includes(`export V${i}=`))
        found.push(...wrongExport(at, place, `V${i}`).map((line) => `${what}: ${script}: ${line}`));
  }
  return found;
}

function wrongExport(at: Shared, place: Place, name: string): string[] {
  const target = at.cache(name);
  const real = realpathSync(target);
  if (real !== target) return [`it leads to ${real}`];
  // In a directory of a group members may do all; in a sticky one only what each made is his.
  for (let dir = target; place === "a sticky directory" && dir !== at.scratch; dir = dirname(dir))
    if (lstatSync(dir).uid === attacker) return [`it is in a directory of his: ${dir}`];
  return [];
}

describe.skipIf(!canBeOthers)("planted by another user [needs the compiled binary and root]", () => {
  const victims = { "a user": victim, root: 0 };
  const some = <T>(all: T[]) => (isLong ? all : all.filter((_, i) => i % 2 === 0));
  const cases = (Object.keys(places) as Place[]).flatMap((place) =>
    Object.entries(victims).map(([who, uid]) => [place, who, uid] as const),
  );

  test.each(cases)("in the place of the copy and of ef's own files, in %s, against %s", async (place, _, uid) => {
    using at = new Shared(place, uid, plants);
    for (const [i, script] of plants.entries()) await at.plant(script, `V${i}`);
    expect(await wrongs(at, uid, place, plants)).toEqual([]);
  });

  test.skipIf(!have("gcc")).each(some(cases))(
    "in the place of a lease, where flock does not work, in %s, against %s",
    async (place, _, uid) => {
      const leases = ["lock.lease", "lock.lease.takeover"].flatMap(inPlaceOf);
      using at = new Shared(place, uid, leases);
      const source = join(import.meta.dir, "../fakes/flock-errno.c");
      const made = await run(["gcc", "-shared", "-fPIC", "-o", join(at.dir, "flock.so"), source], { env: at.env });
      expect([made.code, made.stderr]).toEqual([0, ""]);
      Object.assign(at.env, { LD_PRELOAD: join(at.dir, "flock.so"), FLOCK_ERRNO: "38" });
      for (const [i, script] of leases.entries()) await at.plant(script, `V${i}`);
      expect(await wrongs(at, uid, place, leases)).toEqual([]);
    },
  );

  test.each(some(cases))("above it, in %s, against %s", async (place, _, uid) => {
    for (const script of higher) {
      using at = new Shared(place, uid, [script]);
      rmSync(join(at.scratch, ".cache"), { recursive: true });
      await at.plant(script, "V0");
      expect(await wrongs(at, uid, place, [script])).toEqual([]);
    }
  });

  test.each(some(cases.slice(2)))("in exchange for it, in %s, against %s", async (place, _, uid) => {
    for (const script of exchanges) {
      using at = new Shared(place, uid, [script]);
      expect((await at.as(uid, [program, "sync"])).code).toBe(0);
      await at.plant(script, "V0");
      expect(await wrongs(at, uid, place, [script])).toEqual([]);
    }
  });
});
