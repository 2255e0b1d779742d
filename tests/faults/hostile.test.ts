/**
 * Names that people give to files, and to directories in which ef works: every byte but `/` and NUL, alone and in pairs.
 *
 * Through each engine and each verb they come out as they went in. `npm test` takes pairs of bytes that break programs;
 * `npm run test:faults` takes all of them.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemPython } from "../envs.ts";
import { Home, have, run } from "../helpers.ts";
import { differences, type Look, lookAt, os } from "../trees.ts";
import { isLong } from "./seed.ts";

setDefaultTimeout(isLong ? 3_600_000 : 120_000);

const byte = (code: number) => String.fromCharCode(code);
/** All names of one byte; "." and "/" are none. */
const singles = Array.from({ length: 255 }, (_, i) => byte(i + 1)).filter((name) => name !== "/" && name !== ".");
/** What shells, globs, terminals, decoders, tools and lists of names trip over. */
const breakers = [..."\n\t\x1b\x7f\x80\xc3\xff \"$'*-.:\\`~a"];
const firsts = isLong ? [...singles, "."] : breakers;
const pairs = firsts.flatMap((a) => firsts.map((b) => a + b)).filter((name) => name !== "..");
/** As programs take them for something else. */
const words = [
  ...[
    "--help",
    "-rf",
    "--delete",
    "-",
    "--",
    "...",
    "~",
    "~root",
    "$HOME",
    "$(touch pwned)",
    "`touch pwned`",
    "a\nb\n",
    "CON",
    " ",
  ],
  ...[
    "\xef\xbb\xbfbom",
    "\xe2\x80\xaertl",
    "e\xcc\x81",
    "\xc3\xa9",
    "\xed\xa0\x80",
    "\xf4\x90\x80\x80",
    "x".repeat(255),
  ],
  ...[
    "\xff".repeat(255),
    "*",
    "{a,b}",
    "[!a]",
    "\\n",
    "'\"'",
    "#",
    "!",
    "& echo pwned",
    "; touch pwned",
    "| cat",
    "a:b",
    "user@host:x",
  ],
  ...[".ef", ".ef-tmp", ".ef-tmp-x", ".ef-part-", "x.ef-conflict", ".synced", "NAME.lock"],
];

const old = 1_600_000_000;

/** Each name as a file, a directory and a link. */
function fill(root: string): void {
  for (const dir of ["files", "dirs", "links", "pairs", "words"]) mkdirSync(`${root}/${dir}`, { recursive: true });
  const file = (path: string) => {
    writeFileSync(os(path), `content of ${path.slice(root.length)}`, "latin1");
    utimesSync(os(path), old, old);
  };
  for (const name of singles) {
    file(`${root}/files/${name}`);
    mkdirSync(os(`${root}/dirs/${name}`));
    file(`${root}/dirs/${name}/${name}`);
    symlinkSync(os(`../files/${name}`), os(`${root}/links/${name}`));
  }
  for (const name of pairs) file(`${root}/pairs/${name}`);
  for (const name of words) {
    mkdirSync(os(`${root}/words/${name}`));
    file(`${root}/words/${name}/${name}`);
    symlinkSync(os(name), os(`${root}/words/${name}/link`));
  }
}

/** Without times of directories and links, which each verb keeps in its own way. */
function look(root: string): Look {
  const found = lookAt(root);
  for (const seen of found.seen.values()) if (seen.kind !== "file") seen.mtimeNs = 0n;
  return found;
}

const wrongs = (expected: Look, root: string) => differences(expected, look(root)).slice(0, 20);

async function expectDone(at: Home, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await at.ef(args);
  expect(stderr).not.toMatch(/failed|error|left out/i);
  expect([code, stderr]).toEqual([0, stderr]);
  return stdout;
}

describe("every name", () => {
  const engines: [string, object][] = [
    ["ef's own engine", {}],
    ["rsync", { ef: { transfer: { engine: "rsync" } } }],
    ["an rsync that walks the tree itself", { rsync_extra_args: ["--max-size=1G"] }],
  ];

  test.each(isLong ? engines : engines.slice(0, 2))(
    "sync, and what a purge took; push of all of it; by %s",
    async (_, config) => {
      using at = new Home();
      fill(join(at.home, "data"));
      const source = look(join(at.home, "data"));
      at.configure({ DATA_HOME: "data" }, config);
      await expectDone(at, ["sync"]);
      expect(wrongs(source, at.cache("DATA_HOME"))).toEqual([]);
      expect((await at.ef(["sync"])).stderr).toBe("DATA_HOME: fresh\n");
      for (const dir of ["files", "dirs", "links", "words"])
        rmSync(join(at.cache("DATA_HOME"), dir), { recursive: true });
      await expectDone(at, ["sync"]);
      expect(wrongs(source, at.cache("DATA_HOME"))).toEqual([]);
      const status = await expectDone(at, ["status", "--json"]);
      expect(JSON.parse(status)).toBeObject();
      rmSync(join(at.home, "data"), { recursive: true });
      mkdirSync(join(at.home, "data"));
      rmSync(at.cache(".DATA_HOME.manifest"));
      rmSync(at.cache(".DATA_HOME.synced"));
      await expectDone(at, ["push"]);
      expect(wrongs(source, join(at.home, "data"))).toEqual([]);
      expect(existsSync(join(at.home, "pwned"))).toBe(false);
    },
  );

  test("migrate: verified, moved, and gone where it was", async () => {
    using at = new Home();
    fill(join(at.home, "data"));
    const source = look(join(at.home, "data"));
    at.configure({ DATA_HOME: "data" });
    await expectDone(at, ["migrate", "DATA_HOME", "--to", join(at.home, "new"), "--yes"]);
    expect(wrongs(source, join(at.home, "new"))).toEqual([]);
    expect(existsSync(join(at.home, "data"))).toBe(false);
  });

  test.skipIf(!systemPython)("venv save and load", async () => {
    using at = new Home();
    const env = join(at.home, "env");
    expect((await run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env })).code).toBe(0);
    fill(join(env, "share"));
    const source = look(join(env, "share"));
    at.configure({}, { ef: { venv_store: join(at.home, "store") } });
    await expectDone(at, ["venv", "save", "env", "--venv", env]);
    await expectDone(at, ["venv", "load", "env"]);
    const [loaded] = (readdirSync(at.dir, { recursive: true }) as string[]).filter(
      (path) => path.endsWith("/pyvenv.cfg") && !path.startsWith("home/"),
    );
    expect(wrongs(source, join(at.dir, loaded ?? "", "../share"))).toEqual([]);
  });
});

const shells = {
  bash: "bash",
  zsh: "zsh",
  dash: "bash",
  fish: "fish",
  tcsh: "csh",
};

describe("a directory with any name", () => {
  const evil = "-n a'b\"c$(touch pwned)`touch pwned`$HOME;!! !x \\\\n\n\ty\\'z é%d*?[a]{b,c}~#&|<>=^\x07";

  test.each(Object.entries(shells).filter(([shell]) => have(shell)))(
    "comes out of the exports in %s as it is",
    async (shell, dialect) => {
      using at = new Home();
      const [home, scratch] = [join(at.dir, `home ${evil}`), join(at.dir, `scratch ${evil}`)];
      for (const dir of [home, scratch, join(home, "hf")]) mkdirSync(dir);
      writeFileSync(join(home, "hf/a"), "a");
      writeFileSync(
        join(home, ".euler-files.json"),
        JSON.stringify({ version: 1, scratch_base: "$SCRATCH", vars: { HF_HOME: { source: "~/hf", enabled: true } } }),
      );
      const env = { HOME: home, SCRATCH: scratch };
      const synced = await run(["sh", "-c", `ef sync --shell ${dialect} >exports`], {
        cwd: at.dir,
        env: { ...at.env, ...env },
      });
      expect([synced.code, synced.stderr]).toEqual([0, synced.stderr]);
      const evaluate = {
        fish: "source exports; ",
        csh: "source exports; ",
        bash: ". ./exports; ",
        zsh: ". ./exports; ",
      }[dialect];
      const script = `${evaluate}printenv HF_HOME`;
      const read = await at.sh(shell, script, { cwd: at.dir, env });
      expect([read.stdout, read.stderr]).toEqual([`${scratch}/.cache/euler-files/HF_HOME\n`, ""]);
      expect(readdirSync(at.dir, { recursive: true }).filter((path) => String(path).endsWith("pwned"))).toEqual([]);
    },
  );

  test("a name that is not UTF-8 is refused, as is one in a configuration; nothing is made", async () => {
    using at = new Home({ "hf/a": "a" });
    at.configure({ HF_HOME: "hf" });
    const odd = await at.sh(
      "sh",
      `cd "$SCRATCH"; SCRATCH="$SCRATCH/$(printf '\\377\\303x')"; mkdir "$SCRATCH"; export SCRATCH; ef sync`,
    );
    expect(odd.stderr).toContain("not valid UTF-8");
    expect([odd.code, odd.stdout]).toEqual([2, "false\n"]);
    expect(readdirSync(at.scratch)).toHaveLength(1);
    expect(await at.sh("sh", `ls -A "$SCRATCH"/*`)).toMatchObject({ stdout: "" });
    const home = await at.sh(
      "sh",
      `NEW="$PWD/$(printf 'h\\351')"; mkdir "$NEW"; cp .euler-files.json "$NEW"; HOME="$NEW"; export HOME; ef sync --json; ls -A "$HOME" "$SCRATCH/.cache"`,
    );
    expect(home.stderr).not.toMatch(/TypeError|^\s+at /m);
    expect(home.stdout + home.stderr).toMatch(/UTF-8|cannot/i);
  });
});
