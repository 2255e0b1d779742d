/**
 * What ef makes is never more open than what it was made from, whatever the umask, and at no moment: whichever call is the last
 * one before the run is killed.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  type Dirent,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { systemPython } from "../envs.ts";
import { Home, isBinary, run } from "../helpers.ts";
import { canFail, efWith } from "./calls.ts";
import { isLong } from "./seed.ts";

setDefaultTimeout(isLong ? 3_600_000 : 120_000);

const umasks = [0o000, 0o022, 0o077];

/** Programs that are started meanwhile have it. */
async function under<T>(umask: number, work: () => Promise<T>): Promise<T> {
  const before = process.umask(umask);
  try {
    return await work();
  } finally {
    process.umask(before);
  }
}

/** By path below the source. */
const files = {
  token: 0o600,
  "hub/shared": 0o644,
  "hub/private/key": 0o400,
  "hub/tool": 0o755,
  "hub/setuid": 0o4755,
  open: 0o666,
};
const dirs = { hub: 0o755, "hub/private": 0o700 };

function fill(root: string, top: number): void {
  mkdirSync(join(root, "hub/private"), { recursive: true });
  for (const [path, mode] of Object.entries(files)) {
    writeFileSync(join(root, path), `SECRET of ${path}`);
    chmodSync(join(root, path), mode);
  }
  for (const [path, mode] of Object.entries(dirs)) chmodSync(join(root, path), mode);
  chmodSync(root, top);
}

const modeOf = (path: string) => lstatSync(path).mode & 0o7777;

/** Paths of a copy whose mode is not the source's; the top may be less open. */
function otherModes(source: string, copy: string, setIds = true): string[] {
  const wrong = Object.entries({ ...files, ...dirs }).flatMap(([path]) => {
    const [want, has] = [modeOf(join(source, path)) & (setIds ? 0o7777 : 0o777), modeOf(join(copy, path))];
    return want === has ? [] : [`${path}: ${has.toString(8)}, not ${want.toString(8)}`];
  });
  const top = modeOf(copy) & ~modeOf(source);
  return top === 0 ? wrong : [...wrong, `the top: ${modeOf(copy).toString(8)}`];
}

function* walk(dir: string): Generator<string> {
  for (const entry of readdirSync(dir, { withFileTypes: true }) as Dirent[]) {
    yield join(dir, entry.name);
    if (entry.isDirectory()) yield* walk(join(dir, entry.name));
  }
}

/** Of what is new below a HOME, what lets others do more than `most`, but for copies, which are compared. */
function tooOpen(at: Home, before: ReadonlySet<string>, copies: readonly string[], most: number): string[] {
  return [...walk(at.dir)]
    .filter((path) => !before.has(path) && !lstatSync(path).isSymbolicLink())
    .filter((path) => !copies.some((copy) => path === copy || path.startsWith(`${copy}/`)))
    .filter((path) => !path.endsWith(".lock")) // colleagues lock it too, where the umask lets them
    .filter((path) => (modeOf(path) & 0o077 & ~most) !== 0)
    .map((path) => `${relative(at.dir, path)}: ${modeOf(path).toString(8)}`);
}

async function done(at: Home, args: readonly string[]): Promise<void> {
  const { code, stderr } = await at.ef(args);
  expect([code, stderr]).toEqual([0, stderr]);
}

const octal = (mode: number) => mode.toString(8).padStart(3, "0");
const tops = [0o755, 0o700, 0o750];

describe.each(umasks.map((umask) => [octal(umask), umask] as const))("under umask %s", (_, umask) => {
  test.each(tops.map((top) => [octal(top), top] as const))(
    "a sync, a push and a migration of a directory %s",
    async (_, top) => {
      using at = new Home();
      const [source, copy] = [join(at.home, "hf"), at.cache("HF_HOME")];
      fill(source, top);
      at.configure({ HF_HOME: "hf" });
      const before = new Set(walk(at.dir));
      await under(umask, async () => {
        await done(at, ["sync"]);
        expect(otherModes(source, copy)).toEqual([]);
        for (const name of [".HF_HOME.manifest", ".HF_HOME.synced"])
          expect([name, modeOf(at.cache(name)) & 0o077 & ~top]).toEqual([name, 0]);
        chmodSync(source, 0o700); // and what is there follows
        await done(at, ["sync", "--force"]);
        expect(otherModes(source, copy)).toEqual([]);
        writeFileSync(join(copy, "token"), "SECRET, renewed");
        writeFileSync(join(copy, "made"), "SECRET, made");
        chmodSync(join(copy, "made"), 0o640);
        await done(at, ["push"]);
        expect([modeOf(join(source, "token")), modeOf(join(source, "made"))]).toEqual([0o600, 0o640]);
        expect(otherModes(source, copy)).toEqual([]);
        await done(at, ["migrate", "HF_HOME", "--to", join(at.home, "new"), "--yes"]);
        expect(otherModes(copy, join(at.home, "new"))).toEqual([]);
      });
      expect(tooOpen(at, before, [copy, join(at.home, "new"), source], 0o775 & ~umask)).toEqual([]);
    },
  );

  test("a configuration, the text of a shell, and a new value in a configuration that is private", async () => {
    using at = new Home({ "hf/a": "" });
    const before = new Set(walk(at.dir));
    await under(umask, async () => {
      const input = { scratch_base: "$SCRATCH", vars: { HF_HOME: { source: join(at.home, "hf") } } };
      const { code, stderr } = await at.ef(["init", "--input-json", "-"], { stdin: JSON.stringify(input) });
      expect([code, stderr]).toEqual([0, stderr]);
      expect(tooOpen(at, before, [], 0o777 & ~umask & ~0o022)).toEqual([]);
      chmodSync(join(at.home, ".euler-files.json"), 0o600);
      await done(at, ["config", "set", "parallel_jobs", "2"]);
      await done(at, ["shell-init", "--shell", "bash", "--cache"]);
    });
    expect(modeOf(join(at.home, ".euler-files.json"))).toBe(0o600);
    expect(tooOpen(at, before, [], 0o777 & ~umask)).toEqual([]);
  });

  test.skipIf(!systemPython)("a saved environment, one that is loaded, and a package", async () => {
    using at = new Home({ "code.py": "def main():\n    return 1\n" });
    const env = join(at.home, "env");
    expect((await run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env })).code).toBe(0);
    fill(join(env, "share"), 0o755);
    chmodSync(env, 0o700);
    at.configure({}, { ef: { venv_store: join(at.home, "store") } });
    const before = new Set(walk(at.dir));
    await under(umask, async () => {
      await done(at, ["venv", "save", "env", "--venv", env]);
      for (const name of ["env.tar.zst", "env.json"])
        expect([name, modeOf(join(at.home, "store", name)) & 0o077]).toEqual([name, 0]);
      await done(at, ["venv", "load", "env"]);
      await done(at, ["pack", `${at.home}/code.py:main`]);
    });
    const loaded = [...walk(at.dir)].find((path) => path.endsWith("/pyvenv.cfg") && !path.startsWith(at.home)) ?? "";
    expect(otherModes(join(env, "share"), join(loaded, "../share"), false)).toEqual([]);
    expect(modeOf(join(loaded, "..")) & 0o077).toBe(0);
    expect(tooOpen(at, before, [join(loaded, "..")], 0o775 & ~umask)).toEqual([]);
  });
});

/** The verbs that carry secrets, and where those are. */
const scenarios = [
  { name: "a sync", args: ["sync"], config: {} },
  { name: "a sync by rsync", args: ["sync"], config: { ef: { transfer: { engine: "rsync" } } } },
  { name: "a push", args: ["push"], config: {} },
  { name: "a migration", args: ["migrate", "HF_HOME", "--to", "NEW", "--yes"], config: {} },
  {
    name: "saving an environment",
    args: ["venv", "save", "env", "--venv", "ENV"],
    config: { ef: { venv_store: "STORE" } },
  },
];

type Scenario = (typeof scenarios)[number];

async function arranged({ args, config }: Scenario): Promise<{ at: Home; args: string[] }> {
  const at = new Home();
  const real = (text: string) => text.replace(/^(NEW|ENV|STORE)$/, (word) => join(at.home, word.toLowerCase()));
  fill(join(at.home, "hf"), 0o700);
  at.configure({ HF_HOME: "hf" }, JSON.parse(real(JSON.stringify(config).replace("STORE", join(at.home, "store")))));
  if (args[0] === "push") {
    await done(at, ["sync"]);
    for (const path of ["token", "hub/private/key", "hub/private/made"]) {
      rmSync(join(at.cache("HF_HOME"), path), { force: true });
      writeFileSync(join(at.cache("HF_HOME"), path), "SECRET, renewed", { mode: 0o600 });
    }
  }
  if (args[0] === "venv") {
    expect(
      (await run([systemPython ?? "", "-m", "venv", "--without-pip", join(at.home, "env")], { env: at.env })).code,
    ).toBe(0);
    fill(join(at.home, "env/share"), 0o700);
    chmodSync(join(at.home, "env"), 0o700);
  }
  return { at, args: args.map(real) };
}

/** Files that others can read, and could not where they come from; ef's own may tell no names of a private directory. */
function exposed(at: Home): string[] {
  const shown = new Set(
    Object.entries(files).flatMap(([path, mode]) => ((mode & 0o044) === 0 ? [] : [`SECRET of ${path}`])),
  );
  return [...walk(at.dir)].filter((path) => {
    const { mode } = lstatSync(path);
    if (!lstatSync(path).isFile() || (mode & 0o044) === 0) return false;
    const content = readFileSync(path, "latin1");
    const isPart = [...shown].some((text) => text.startsWith(content));
    if (content.startsWith("SECRET")) return !isPart;
    return /\.zst$|\/archive$|\.manifest|\.partial|\.pushing/.test(path) && content !== "";
  });
}

/** Of each temporary file, the call on it that comes after the first bytes: it has contents, and not all of its mode yet. */
function afterWrites(calls: readonly string[]): number[] {
  const written = new Set<string>();
  return calls.flatMap((call, i) => {
    const [, name = "", path = ""] = /^(\w+) (.*[./](?:ef-|tmp-).*)/.exec(call) ?? [];
    if (/write/.test(name)) written.add(path);
    else if (written.delete(path)) return [i + 1];
    return [];
  });
}

describe("whichever call is the last", () => {
  test.skipIf(!isBinary || !canFail || !systemPython).each(scenarios)(
    "$name shows no secret [needs seccomp and gcc]",
    async (scenario) => {
      await under(0, async () => {
        const { at, args } = await arranged(scenario);
        const { calls, code, stderr } = await efWith(at, args);
        expect([code, stderr, exposed(at)]).toEqual([0, stderr, []]);
        at[Symbol.dispose]();
        const every = calls.map((_, i) => i + 1);
        for (const k of isLong ? every : afterWrites(calls)) {
          const again = await arranged(scenario);
          using _ = again.at;
          const ran = await efWith(again.at, again.args, k, "kill");
          expect([`killed at ${k}, ${ran.calls[k - 1]}`, ...exposed(again.at)]).toEqual([expect.anything()]);
        }
      });
    },
  );
});
