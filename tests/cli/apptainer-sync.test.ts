import { expect, test } from "bun:test";
import {
  appendFileSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { efArgv, Home, have, type Ran, run, until } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { writeRandom } from "../trees.ts";

const MiB = 1 << 20;

/** The time of a stored image: long ago, as there is a short while in which a file counts as being written to. */
const builtS = 1_750_000_000;

/** A configuration with images by name: their file, or their file and more of the record. */
function configure(at: Home, images: Record<string, string | object>, more: object = {}): void {
  const records = Object.entries(images).map(([name, image]) => {
    const own = typeof image === "string" ? { sif_filename: image } : image;
    return [name, { venv_name: name.replaceAll("/", "_"), python_version: "3.11.5", built_at: builtS, ...own }];
  });
  at.configure(
    {},
    {
      apptainer: {
        ...{ venv_base: "~/venvs", sif_store: "~/store", scratch_sif_dir: "$SCRATCH/.cache/euler-files/sif" },
        images: Object.fromEntries(records),
      },
      ...more,
    },
  );
}

const slow = (bwlimit: string) => ({ ef: { transfer: { bwlimit } } });
const storedAt = (at: Home, file: string) => join(at.home, "store", file);
const copyAt = (at: Home, file = "") => at.cache(join("sif", file));

/** Store an image, with the time of its build. */
function store(at: Home, file: string, content: string, timeS = builtS): void {
  utimesSync(at.write(`store/${file}`, content), timeS, timeS);
}

function storeLarge(at: Home, file: string, bytes: number, seed = 1): void {
  writeRandom(at.write(`store/${file}`, ""), bytes, seeded(seed));
  utimesSync(storedAt(at, file), builtS + 0.25, builtS + 0.25);
}

const one = (): Home => {
  const at = new Home();
  store(at, "a.sif", "image");
  configure(at, { a: "a.sif" });
  return at;
};

/** All that is on scratch beside the images. */
const besides = (at: Home) =>
  readdirSync(copyAt(at)).filter((name) => name.startsWith(".") && !/^\..*\.lock$/s.test(name));

const sameFile = (one: string, other: string) => readFileSync(one).equals(readFileSync(other));

test("apptainer sync: enabled images come with their times; unchanged ones are left alone; --force copies anew", async () => {
  using at = new Home();
  store(at, "a.sif", "image a");
  store(at, "b.sif", "image b");
  configure(at, { a: "a.sif", b: { sif_filename: "b.sif", enabled: false } });
  const first = await at.ef(["apptainer", "sync"]);
  expect(first.stderr).toContain("a: complete (7 B");
  expect([first.stdout, first.code]).toEqual(["", 0]);
  expect(at.read(copyAt(at, "a.sif"))).toBe("image a");
  expect(statSync(copyAt(at, "a.sif")).mtimeMs).toBe(builtS * 1000);
  expect(existsSync(copyAt(at, "b.sif"))).toBe(false);
  const { ino } = statSync(copyAt(at, "a.sif"));
  expect((await at.ef(["apptainer", "sync"])).stderr).toContain("a: as stored");
  expect(statSync(copyAt(at, "a.sif")).ino).toBe(ino);
  const forced = await at.ef(["apptainer", "sync", "--force"]);
  expect(forced.stderr).toContain("a: forced");
  expect(statSync(copyAt(at, "a.sif")).ino).not.toBe(ino);
  expect(besides(at)).toEqual([]);
});

test("apptainer sync --json: the shape of euler-files, input keys and flags", async () => {
  using at = new Home();
  store(at, "a.sif", "image a");
  configure(at, { a: { sif_filename: "a.sif", enabled: false }, gone: "gone.sif" });
  for (const [key, status] of [
    ["images", "dry-run"],
    ["only_images", "dry-run"],
  ] as const) {
    const stdin = JSON.stringify({ [key]: ["a"], dry_run: true });
    const { stdout } = await at.ef(["apptainer", "sync", "--json", "--input-json", "-"], { stdin });
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ ok: true, command: "apptainer-sync", dry_run: true, force: false, only_images: ["a"], errors: [] },
      results: [{ name: "a", status, source: storedAt(at, "a.sif"), target: copyAt(at, "a.sif"), bytes: 7 }],
    });
  }
  expect(readdirSync(at.scratch)).toEqual([]);
  const { stdout, stderr, code } = await at.ef(["apptainer", "sync", "--image", "a", "--image", "gone", "--json"]);
  expect(JSON.parse(stdout)).toMatchObject({
    results: [
      { name: "a", status: "synced" },
      { name: "gone", status: "source-missing" },
    ],
    warnings: [expect.stringContaining("gone: the stored image")],
  });
  expect([stderr, code]).toEqual(["", 0]);
});

test("apptainer sync: an unknown image is refused before anything is written; no image at all is no error", async () => {
  using at = one();
  const unknown = await at.ef(["apptainer", "sync", "--image", "a", "--image", "bb"]);
  expect(unknown.stderr).toContain('Cannot find an image "bb"');
  expect(unknown.code).toBe(2);
  expect(readdirSync(at.scratch)).toEqual([]);
  at.configure({});
  const unset = await at.ef(["apptainer", "sync"]);
  expect(unset.stderr).toContain("make one with: ef apptainer init");
  expect([unset.stdout, unset.code]).toEqual(["", 2]);
  configure(at, {});
  const none = await at.ef(["apptainer", "sync"]);
  expect(none.stderr).toContain("no image is built yet");
  expect([none.stdout, none.code]).toEqual(["", 0]);
  configure(at, { a: { sif_filename: "a.sif", enabled: false } });
  expect((await at.ef(["apptainer", "sync"])).stderr).toContain("no image is enabled");
});

test("apptainer sync: $SCRATCH not set, not there, or its parent not there: refused, nothing is made", async () => {
  using at = one();
  const unset = await at.ef(["apptainer", "sync"], { env: { SCRATCH: undefined } });
  expect(unset.stderr).toContain("SCRATCH is not set");
  expect(unset.code).toBe(2);
  const unmounted = join(at.dir, "not/mounted");
  for (const flags of [[], ["--dry-run"]]) {
    const { stderr, code } = await at.ef(["apptainer", "sync", ...flags], { env: { SCRATCH: unmounted } });
    expect(stderr).toContain("is the file system mounted");
    expect(code).toBe(1);
  }
  expect(existsSync(join(at.dir, "not"))).toBe(false);
  await at.ef(["config", "set", "apptainer.scratch_sif_dir", `${unmounted}/sif`]);
  expect((await at.ef(["apptainer", "sync"])).stderr).toContain("Cannot make the directory");
  expect(existsSync(join(at.dir, "not"))).toBe(false);
  await at.ef(["config", "set", "apptainer.scratch_sif_dir", join(at.dir, "elsewhere")]);
  expect((await at.ef(["apptainer", "sync"])).code).toBe(0);
  expect(at.read(join(at.dir, "elsewhere/a.sif"))).toBe("image");
});

test("apptainer sync: an older copy is replaced, and who has it open goes on with it", async () => {
  using at = one();
  await at.ef(["apptainer", "sync"]);
  const running = openSync(copyAt(at, "a.sif"), "r");
  try {
    store(at, "a.sif", "rebuilt", builtS + 60);
    expect((await at.ef(["apptainer", "sync"])).stderr).toContain("the stored image is another one");
    expect(at.read(copyAt(at, "a.sif"))).toBe("rebuilt");
    const bytes = Buffer.alloc(20);
    expect(bytes.toString("utf8", 0, readSync(running, bytes, 0, 20, 0))).toBe("image");
  } finally {
    closeSync(running);
  }
});

test("apptainer sync: a newer file that is no copy stays, unless --force", async () => {
  using at = one();
  mkdirSync(copyAt(at), { recursive: true });
  writeFileSync(copyAt(at, "a.sif"), "built here");
  for (const flags of [[], ["--dry-run"]]) {
    const { stderr, code } = await at.ef(["apptainer", "sync", ...flags]);
    expect(stderr).toContain("what is there is newer");
    expect(stderr).toContain("--force replaces it");
    expect(code).toBe(1);
  }
  const { stdout } = await at.ef(["apptainer", "sync", "--json"]);
  expect(JSON.parse(stdout)).toMatchObject({ ok: false, results: [], failures: [{ name: "a", code: "EXISTS" }] });
  expect(at.read(copyAt(at, "a.sif"))).toBe("built here");
  expect((await at.ef(["apptainer", "sync", "--force"])).code).toBe(0);
  expect(at.read(copyAt(at, "a.sif"))).toBe("image");
});

test.each(["directory", "link", "dangling link", "FIFO"])(
  "apptainer sync: a %s under the name of the copy stays as it is, also with --force; the other images come",
  async (what) => {
    using at = one();
    store(at, "z.sif", "last");
    configure(at, { a: "a.sif", z: "z.sif" }, { parallel_jobs: 1 });
    mkdirSync(copyAt(at), { recursive: true });
    const goal = join(at.dir, "precious");
    if (what !== "dangling link") writeFileSync(goal, "precious");
    if (what === "directory") at.write(join("..", "scratch/.cache/euler-files/sif/a.sif/file"), "precious");
    else if (what === "FIFO") Bun.spawnSync(["mkfifo", copyAt(at, "a.sif")]);
    else symlinkSync(goal, copyAt(at, "a.sif"));
    const before = lstatSync(copyAt(at, "a.sif"));
    for (const flags of [[], ["--force"]]) {
      const { stderr, code } = await at.ef(["apptainer", "sync", ...flags]);
      expect(stderr).toContain("a: failed: Cannot copy to");
      expect(stderr).toContain("it is not a regular file");
      expect(code).toBe(1);
    }
    expect(lstatSync(copyAt(at, "a.sif")).ino).toBe(before.ino);
    expect(existsSync(goal) ? at.read(goal) : undefined).toBe(what === "dangling link" ? undefined : "precious");
    expect(at.read(copyAt(at, "z.sif"))).toBe("last");
  },
);

test("apptainer sync: a stored image that is a link is followed, one that is a directory is refused", async () => {
  using at = one();
  mkdirSync(join(at.dir, "big disk"));
  renameSync(storedAt(at, "a.sif"), join(at.dir, "big disk/renamed.img"));
  symlinkSync(join(at.dir, "big disk/renamed.img"), storedAt(at, "a.sif"));
  expect((await at.ef(["apptainer", "sync"])).code).toBe(0);
  expect(lstatSync(copyAt(at, "a.sif")).isFile()).toBe(true);
  expect(at.read(copyAt(at, "a.sif"))).toBe("image");
  expect((await at.ef(["apptainer", "sync"])).stderr).toContain("a: as stored");
  rmSync(storedAt(at, "a.sif"));
  mkdirSync(storedAt(at, "a.sif"));
  const { stderr, code } = await at.ef(["apptainer", "sync"]);
  expect(stderr).toContain("is not a regular file");
  expect(code).toBe(1);
});

test("apptainer sync: the same place twice is refused: by name, by a link to the directory, by a link to the copy", async () => {
  using at = one();
  const refused = async () => {
    const { stderr, code } = await at.ef(["apptainer", "sync", "--force"]);
    expect(stderr).toContain("both are the same file");
    expect(code).toBe(1);
  };
  await at.ef(["config", "set", "apptainer.scratch_sif_dir", join(at.home, "store")]);
  await refused();
  symlinkSync(join(at.home, "store"), join(at.home, "alias"));
  await at.ef(["config", "set", "apptainer.scratch_sif_dir", join(at.home, "alias")]);
  await refused();
  expect(readdirSync(join(at.home, "store"))).toEqual(["a.sif"]);
  configure(at, { a: "a.sif" });
  mkdirSync(copyAt(at), { recursive: true });
  renameSync(storedAt(at, "a.sif"), copyAt(at, "a.sif"));
  symlinkSync(copyAt(at, "a.sif"), storedAt(at, "a.sif"));
  await refused();
  expect(at.read(copyAt(at, "a.sif"))).toBe("image");
  rmSync(storedAt(at, "a.sif"));
  linkSync(copyAt(at, "a.sif"), storedAt(at, "a.sif")); // two names of one file are two names
  expect((await at.ef(["apptainer", "sync"])).stderr).toContain("a: as stored");
});

test("apptainer sync: hostile names", async () => {
  using at = new Home();
  const files = ["-rf *.sif", "[a-z]?\\*.sif", "new\nline'\".sif", "ü $HOME `id`.sif", ".hidden", "+ x", "- *"];
  for (const file of files) store(at, file, `image ${file}`);
  store(at, "ab.sif", "not asked for");
  configure(at, Object.fromEntries(files.map((file, i) => [`${file}${i}`, file])));
  const { stderr, code } = await at.ef(["apptainer", "sync"]);
  expect(stderr).not.toContain("failed");
  expect(code).toBe(0);
  for (const file of files) expect(at.read(copyAt(at, file))).toBe(`image ${file}`);
  expect(existsSync(copyAt(at, "ab.sif"))).toBe(false);
  const again = await at.ef(["apptainer", "sync", "--json"]);
  expect(JSON.parse(again.stdout).results.map(({ status }: { status: string }) => status)).toEqual(
    files.map(() => "skipped"),
  );
});

/** Sync slowly, and do something when so much of the file is there. Nobody ever sees a part of it under its name. */
async function syncMeanwhile(
  at: Home,
  file: string,
  bytes: number,
  meanwhile: (child: Parameters<NonNullable<Parameters<Home["ef"]>[1]>["onStart"] & {}>[0]) => void,
): Promise<Ran> {
  const before = existsSync(copyAt(at, file)) ? statSync(copyAt(at, file)).ino : undefined;
  let doing: Promise<void> | undefined;
  const ran = await at.ef(["apptainer", "sync"], {
    onStart(child) {
      doing = until("the first part", () => {
        const seen = existsSync(copyAt(at, file)) ? statSync(copyAt(at, file)).ino : undefined;
        expect(seen).toBe(before);
        const temp = existsSync(copyAt(at)) && readdirSync(copyAt(at)).find((name) => name.startsWith(".ef-tmp-"));
        return temp && statSync(copyAt(at, temp), { throwIfNoEntry: false }) && written(at, temp) > bytes;
      }).then(() => meanwhile(child));
    },
  });
  await doing;
  return ran;
}

const written = (at: Home, name: string) => statSync(copyAt(at, name)).blocks * 512;

/** Sync under strace. @returns bytes that were copied in pieces, as a large file's are */
async function bytesMoved(at: Home, ...args: string[]): Promise<number> {
  const log = join(at.dir, "strace");
  const calls = "trace=read,pread64,copy_file_range";
  const argv = ["strace", "-f", "-qq", "-e", calls, "-o", log, ...efArgv, "apptainer", "sync", ...args];
  expect((await run(argv, { env: at.env })).code).toBe(0);
  const results = readFileSync(log, "utf8").matchAll(/(?:pread64|copy_file_range).* = (\d+)$/gm);
  return [...results].map(([, bytes]) => Number(bytes)).reduce((a, b) => a + b, 0);
}

for (const signal of ["SIGKILL", "SIGTERM"] as const)
  test.skipIf(!have("strace"))(
    `apptainer sync: ${signal} in the middle of a large image: it goes on where it stopped, also after a sync of another one [needs strace]`,
    async () => {
      using at = new Home();
      storeLarge(at, "a.sif", 100 * MiB);
      store(at, "b.sif", "small");
      const images = { a: "a.sif", b: { sif_filename: "b.sif", enabled: false } };
      configure(at, images, slow("60M"));
      const { stdout, code } = await syncMeanwhile(at, "a.sif", 70 * MiB, (child) => child.kill(signal));
      expect(stdout).toBe("");
      expect(code).toBe(signal === "SIGKILL" ? 137 : 143);
      expect(existsSync(copyAt(at, "a.sif"))).toBe(false);
      expect(besides(at)).toHaveLength(1);
      const kept = written(at, besides(at)[0] as string);
      configure(at, images);
      expect((await at.ef(["apptainer", "sync", "--image", "b"])).code).toBe(0);
      expect(besides(at)).toHaveLength(1);
      const moved = await bytesMoved(at);
      expect(moved).toBeGreaterThanOrEqual(100 * MiB - kept);
      expect(moved).toBeLessThan(80 * MiB);
      expect(sameFile(copyAt(at, "a.sif"), storedAt(at, "a.sif"))).toBe(true);
      expect(besides(at)).toEqual([]);
    },
    60_000,
  );

test("apptainer sync: a rebuild after an interrupted copy begins anew, and nothing is left of the old one", async () => {
  using at = new Home();
  storeLarge(at, "a.sif", 60 * MiB);
  configure(at, { a: "a.sif" }, slow("40M"));
  await syncMeanwhile(at, "a.sif", 40 * MiB, (child) => child.kill("SIGKILL"));
  expect(besides(at)).toHaveLength(1);
  storeLarge(at, "a.sif", 60 * MiB, 2);
  utimesSync(storedAt(at, "a.sif"), builtS + 60, builtS + 60);
  configure(at, { a: "a.sif" });
  expect((await at.ef(["apptainer", "sync"])).code).toBe(0);
  expect(sameFile(copyAt(at, "a.sif"), storedAt(at, "a.sif"))).toBe(true);
  expect(besides(at)).toEqual([]);
}, 60_000);

test("apptainer sync: scratch is purged while it copies: exit 1, what to do is said, and that works", async () => {
  using at = new Home();
  storeLarge(at, "a.sif", 8 * MiB);
  configure(at, { a: "a.sif" }, slow("4M"));
  const purged = await at.ef(["apptainer", "sync"], {
    async onStart() {
      await until("its beginning", () => existsSync(copyAt(at)) && besides(at).length > 0);
      rmSync(at.cache(""), { recursive: true });
    },
  });
  expect(purged.stderr).toMatch(
    /a: failed: Cannot copy .*\n {2}something removes files there, as a purge does; run it again/,
  );
  expect(purged.code).toBe(1);
  configure(at, { a: "a.sif" });
  expect((await at.ef(["apptainer", "sync"])).code).toBe(0);
  expect(sameFile(copyAt(at, "a.sif"), storedAt(at, "a.sif"))).toBe(true);
});

test("apptainer sync: two at once: one copies, the other waits and finds it there", async () => {
  using at = new Home();
  storeLarge(at, "a.sif", 40 * MiB);
  configure(at, { a: "a.sif" });
  mkdirSync(copyAt(at), { recursive: true });
  const lock = copyAt(at, ".a.sif.lock");
  writeFileSync(lock, "");
  const holder = Bun.spawn(["flock", "--no-fork", lock, "sleep", "60"]);
  try {
    await until("the lock", async () => (await at.sh("sh", `flock -n '${lock}' true`)).code !== 0);
    let waiting = 0;
    const sync = () =>
      at.ef(["apptainer", "sync"], {
        onStart(child) {
          child.stderr?.on("data", (chunk) => {
            if (String(chunk).includes("waiting for") && ++waiting === 2) holder.kill();
          });
        },
      });
    const ran = await Promise.all([sync(), sync()]);
    expect(ran.map(({ code }) => code)).toEqual([0, 0]);
    expect(ran.filter(({ stderr }) => stderr.includes("a: complete"))).toHaveLength(1);
    expect(ran.filter(({ stderr }) => stderr.includes("a: as stored"))).toHaveLength(1);
    expect(sameFile(copyAt(at, "a.sif"), storedAt(at, "a.sif"))).toBe(true);
    expect(besides(at)).toEqual([]);
  } finally {
    holder.kill();
  }
}, 60_000);

test("apptainer sync: a stored image that is rebuilt, or written to, while it is copied: the new one comes, whole", async () => {
  using at = new Home();
  for (const how of ["rename", "write"] as const) {
    storeLarge(at, "a.sif", 40 * MiB);
    configure(at, { a: "a.sif" }, slow("40M"));
    const { stderr, code } = await syncMeanwhile(at, "a.sif", 5 * MiB, () => {
      if (how === "write") return appendFileSync(storedAt(at, "a.sif"), "more");
      writeRandom(at.write("store/next", ""), 10 * MiB, seeded(2));
      renameSync(storedAt(at, "next"), storedAt(at, "a.sif"));
    });
    expect(stderr).toContain("copied anew");
    expect(code).toBe(0);
    expect(sameFile(copyAt(at, "a.sif"), storedAt(at, "a.sif"))).toBe(true);
    expect(besides(at)).toEqual([]);
    rmSync(copyAt(at, "a.sif"));
  }
}, 60_000);

test("apptainer sync: a stored image that does not come to rest is an error, and no mix of it is ever there", async () => {
  using at = new Home();
  storeLarge(at, "a.sif", 5 * MiB);
  configure(at, { a: "a.sif" }, slow("10M"));
  let timer: ReturnType<typeof setInterval> | undefined;
  const { stderr, code } = await syncMeanwhile(at, "a.sif", 0, () => {
    timer = setInterval(() => appendFileSync(storedAt(at, "a.sif"), "more"), 50);
  });
  clearInterval(timer);
  expect(stderr).toContain("changed each time while it was copied");
  expect(code).toBe(1);
  expect(readdirSync(copyAt(at))).toEqual([".a.sif.lock"]);
}, 60_000);

test("apptainer sync: no room: refused before the first byte; without that check the old copy stays, and no part [needs root]", async () => {
  using at = new Home();
  if ((await at.sh("sh", `mount -t tmpfs -o size=3m tmpfs '${at.scratch}'`)).code !== 0)
    return console.warn("not here: mount (needs root)");
  try {
    store(at, "a.sif", "old", builtS - 60);
    configure(at, { a: "a.sif" });
    await at.ef(["apptainer", "sync"]);
    storeLarge(at, "a.sif", 4 * MiB);
    const { stderr, code } = await at.ef(["apptainer", "sync"]);
    expect(stderr).toMatch(/needs 4.0M, 3.0M left there/);
    expect(code).toBe(1);
    const tried = await at.ef(["apptainer", "sync", "--no-preflight"]);
    expect(tried.stderr).toContain("no space left");
    expect(tried.code).toBe(1);
    const { stdout } = await at.ef(["apptainer", "sync", "--json", "--no-preflight"]);
    expect(JSON.parse(stdout).failures).toMatchObject([{ code: "NO_SPACE" }]);
    expect(at.read(copyAt(at, "a.sif"))).toBe("old");
    expect(besides(at)).toEqual([]);
    await at.sh("sh", `mount -o remount,size=8m '${at.scratch}'`);
    expect((await at.ef(["apptainer", "sync"])).code).toBe(0);
    expect(sameFile(copyAt(at, "a.sif"), storedAt(at, "a.sif"))).toBe(true);
  } finally {
    await at.sh("sh", `umount '${at.scratch}'`);
  }
});

test("apptainer sync: the rest of an interrupted image needs only the room for that [needs root]", async () => {
  using at = new Home();
  if ((await at.sh("sh", `mount -t tmpfs -o size=72m tmpfs '${at.scratch}'`)).code !== 0)
    return console.warn("not here: mount (needs root)");
  try {
    storeLarge(at, "a.sif", 60 * MiB);
    configure(at, { a: "a.sif" }, slow("40M"));
    await syncMeanwhile(at, "a.sif", 40 * MiB, (child) => child.kill("SIGKILL"));
    configure(at, { a: "a.sif" });
    const { stderr, code } = await at.ef(["apptainer", "sync"]);
    expect(stderr).toContain("a: complete");
    expect(code).toBe(0);
  } finally {
    await at.sh("sh", `umount '${at.scratch}'`);
  }
}, 60_000);
