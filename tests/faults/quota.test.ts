/** A real quota, of btrfs: whatever it stops half-way is refused in words, leaves nothing half, and completes once there is room. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemPython } from "../envs.ts";
import { Home, type Ran, run } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { type Look, lookAt, writeRandom } from "../trees.ts";

setDefaultTimeout(120_000);

const dir = mkdtempSync(join(tmpdir(), "ef quota "));
const disk = join(dir, "disk");
const sh = (script: string, ...args: string[]): Ran["code"] =>
  Bun.spawnSync(["sh", "-c", script, "sh", ...args], {
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    stderr: "ignore",
  }).exitCode;

/** Is there a disk with quotas? Needs root, a loop device, and btrfs with its programs. */
const made = `mkdir "$1" && truncate -s 200M "$1.img" && mkfs.btrfs -q -f "$1.img" && mount -o loop "$1.img" "$1" &&
  btrfs -q quota enable "$1"`;
const haveDisk = process.geteuid?.() === 0 && sh(made, disk) === 0;
afterAll(() => {
  if (haveDisk) sh('umount "$1"', disk);
  rmSync(dir, { recursive: true, force: true });
});

const limit = (bytes: string, name: string) => expect(sh('btrfs qgroup limit "$1" "$2"', bytes, name)).toBe(0);

interface Scenario {
  name: string;
  /** `SMALL` is the directory with the quota. */
  args: (at: Home, small: string) => string[];
  /** Before there is a quota. */
  arrange: (at: Home, small: string) => void | Promise<void>;
  /** In the directory with the quota: what the command changes. */
  changed: string;
}

/** A cache of 3 MB that does not compress: more than the quota leaves. */
function fill(root: string, seed = 1): void {
  mkdirSync(join(root, "hub"), { recursive: true });
  for (let i = 0; i < 90; i++) writeRandom(join(root, "hub", `${i}`), 11_000 + i, seeded(seed * 1000 + i));
  writeRandom(join(root, "large"), 2_000_000, seeded(seed));
}

const succeeds = async (ran: Promise<Ran>) => {
  const { code, stderr } = await ran;
  expect([code, stderr]).toEqual([0, stderr]);
};

const hf = (at: Home) => join(at.home, "hf");

const scenarios: Scenario[] = [
  {
    name: "the first sync",
    args: () => ["sync", "--no-preflight"],
    arrange(at, small) {
      fill(hf(at));
      at.configure({ HF_HOME: "hf" }, { scratch_base: small });
    },
    changed: ".cache/euler-files/HF_HOME",
  },
  {
    name: "a later sync",
    args: () => ["sync", "--force", "--no-preflight"],
    async arrange(at, small) {
      mkdirSync(join(hf(at), "hub"), { recursive: true });
      for (let i = 0; i < 90; i++) at.write(`hf/hub/${i}`, `old ${i}`);
      at.configure({ HF_HOME: "hf" }, { scratch_base: small });
      await succeeds(at.ef(["sync"]));
      fill(hf(at));
    },
    changed: ".cache/euler-files/HF_HOME",
  },
  {
    name: "a push",
    args: () => ["push", "--no-preflight"],
    async arrange(at, small) {
      at.write("hf/x", "");
      mkdirSync(join(small, "hf/hub"), { recursive: true });
      for (let i = 0; i < 90; i++) appendFileSync(join(small, "hf/hub", `${i}`), `old ${i}`);
      at.configure({}, { vars: { HF_HOME: { source: join(small, "hf"), enabled: true } } });
      await succeeds(at.ef(["sync"]));
      fill(at.cache("HF_HOME"));
    },
    changed: "hf",
  },
  {
    name: "a migration",
    args: (_, small) => ["migrate", "HF_HOME", "--to", join(small, "new"), "--yes", "--no-preflight"],
    arrange(at) {
      fill(hf(at));
      at.configure({ HF_HOME: "hf" });
    },
    changed: "new",
  },
  {
    name: "saving an environment over an older one",
    args: (at) => ["venv", "save", "-f", "env", "--venv", join(at.home, "env")],
    async arrange(at, small) {
      const env = join(at.home, "env");
      await succeeds(run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env }));
      at.configure({}, { ef: { venv_store: join(small, "store") } });
      await succeeds(at.ef(["venv", "save", "env", "--venv", env]));
      writeRandom(join(env, "added"), 4_000_000, seeded(3));
    },
    changed: "store",
  },
  {
    name: "loading an environment",
    args: () => ["venv", "load", "env"],
    async arrange(at, small) {
      at.env.SLURM_TMPDIR = small;
      const env = join(at.home, "env");
      await succeeds(run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env }));
      writeRandom(join(env, "added"), 4_000_000, seeded(3));
      at.configure({}, { ef: { venv_store: join(at.home, "store") } });
      await succeeds(at.ef(["venv", "save", "env", "--venv", env]));
    },
    changed: "",
  },
];

/** Files and links, with what is in them; ef's own hidden files not. */
function contents(path: string): Record<string, string> {
  let look: Look;
  try {
    look = lookAt(path);
  } catch {
    return {};
  }
  const all = [...look.seen].filter(([name, { kind }]) => kind !== "dir" && !/(^|\/)\.[^/]*(ef-|lock$)/.test(name));
  return Object.fromEntries(all.map(([name, { hash, text }]) => [name, `${hash ?? text}`]));
}

const temps = (path: string) =>
  (readdirSync(path, { recursive: true }) as string[]).filter((name) => /(^|\/)\.(ef-tmp|.*\.tmp)/.test(name));

let count = 0;

test.skipIf(!haveDisk || !systemPython).each(scenarios)(
  "$name beyond a quota: said so, nothing half; with more room it completes [needs root and btrfs]",
  async ({ args, arrange, changed }) => {
    using at = new Home();
    const small = join(disk, `small ${count++}`);
    expect(sh('btrfs -q subvolume create "$1" >/dev/null', small)).toBe(0);
    await arrange(at, small);
    const before = contents(join(small, changed));
    limit("1500000", small);
    const ran = await at.ef(args(at, small));
    expect(ran.stderr).toMatch(/quota exceeded/);
    expect(ran.stderr).toContain(small);
    expect([ran.code, ran.stdout.replace("false\n", "")]).toEqual([1, ""]);
    const then = contents(join(small, changed));
    expect(temps(small)).toEqual([]);

    limit("none", small);
    await succeeds(at.ef(args(at, small)));
    const after = contents(join(small, changed));
    for (const [path, hash] of Object.entries(then)) expect([before[path], after[path]]).toContain(hash);
    for (const path of Object.keys(before)) expect(Object.keys(then)).toContain(path);
    expect(after).not.toEqual(then);
  },
);
