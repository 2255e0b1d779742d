import { expect, test } from "bun:test";
import { appendFileSync, copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { efArgv, eulerFiles, Home, have, haveEulerFiles, isBinary, type Ran, run, until } from "../helpers.ts";

/** A cache of `count` files of `bytes` each. */
function tree(at: Home, dir: string, count: number, bytes: number): void {
  for (let i = 0; i < count; i++) at.write(`${dir}/${i % 7}/${i}`, `${i}`.padEnd(bytes, "x"));
}

async function sameTrees(at: Home, a: string, b: string): Promise<void> {
  const { stdout, code } = await at.sh("sh", `diff -r '${a}' '${b}'`);
  expect(stdout).toBe("");
  expect(code).toBe(0);
}

/** Processes whose command line or environment names this home. */
async function processesOf(at: Home): Promise<string[]> {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid)
    .flatMap((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        return `${line}${readFileSync(`/proc/${pid}/environ`, "utf8")}`.includes(at.dir)
          ? [`${pid} ${line.replaceAll("\0", " ")}`]
          : [];
      } catch {
        return [];
      }
    });
}

const lockIsFree = async (at: Home) => (await at.sh("sh", `flock -n '${at.cache(".HF_HOME.lock")}' true`)).code === 0;

test.skipIf(!have("strace"))(
  "50 at once: the source is read once, all export it, none fails",
  async () => {
    using at = new Home();
    tree(at, "hf", 20, 100);
    at.write("hf/deep/weights.bin", "payload");
    at.configure({ HF_HOME: "hf" });
    const log = join(at.dir, "strace");
    const runs = await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        run(
          [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=open,openat,openat2",
            "-o",
            `${log}.${i}`,
            ...efArgv,
            "sync",
            "--shell",
            "bash",
          ],
          { env: at.env },
        ),
      ),
    );
    for (const { stdout, stderr, code } of runs) {
      expect(stderr).not.toContain("failed");
      expect(stdout).toBe(`export HF_HOME='${at.cache("HF_HOME")}'\n`);
      expect(code).toBe(0);
    }
    // The source's file, and no probe for it: opened to be read, with success (or while another thread made a call, too).
    const read = /"(?:[^"]*\/)?weights\.bin", (?!.*O_PATH).*O_RDONLY.*(?:\) = \d+|<unfinished \.\.\.>)$/gm;
    const opened = runs.flatMap((_, i) => readFileSync(`${log}.${i}`, "utf8").match(read) ?? []);
    expect(opened).toHaveLength(1);
    await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
  },
  180_000,
);

test.skipIf(!haveEulerFiles)(
  "20 mixed runs of ef and euler-files at once end with whole copies",
  async () => {
    using at = new Home();
    tree(at, "hf", 60, 2000);
    tree(at, "torch", 60, 2000);
    at.configure({ HF_HOME: "hf", TORCH_HOME: "torch" });
    const runs = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        i % 2 ? at.ef(["sync", "--shell", "bash", "--force"]) : eulerFiles(at, ["sync", "--force"]),
      ),
    );
    for (const { stdout, stderr, code } of runs) {
      expect(stderr).not.toMatch(/fail|Traceback|error/i);
      expect(stdout).toContain("export HF_HOME=");
      expect(code).toBe(0);
    }
    await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
    await sameTrees(at, join(at.home, "torch"), at.cache("TORCH_HOME"));
  },
  180_000,
);

test.skipIf(!haveEulerFiles)(
  "euler-files skips what ef synced, and shows it as fresh; ef compares once what euler-files synced",
  async () => {
    using at = new Home({ "hf/deep/a": "1", "hf/top": "2" });
    at.configure({ HF_HOME: "hf" });
    await at.ef(["sync"]);
    expect((await eulerFiles(at, ["sync"])).stderr).toContain("[SKIP] HF_HOME");
    expect((await eulerFiles(at, ["status", "--json"])).stdout).toContain('"status": "fresh"');

    at.write("hf/top", "changed"); // at the top of the source: euler-files sees it
    expect((await eulerFiles(at, ["sync"])).stderr).toContain("[SYNC] HF_HOME");
    const { stderr } = await at.ef(["sync"]);
    expect(stderr).toContain("synced by euler-files");
    expect(stderr).toContain("nothing to copy");
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  },
);

test.skipIf(!haveEulerFiles)(
  "ef waits for euler-files and names no holder; euler-files waits for ef",
  async () => {
    using at = new Home();
    tree(at, "hf", 3, 100);
    at.configure({ HF_HOME: "hf" }, { rsync_extra_args: ["--bwlimit=1"] });
    at.write("hf/slow", "x".repeat(8000));
    const first = eulerFiles(at, ["sync"]);
    await until("its lock", async () => existsSync(at.cache(".HF_HOME.lock")) && !(await lockIsFree(at)));
    const second = await at.ef(["sync"]);
    expect(second.stderr).toContain("waiting for");
    expect((await first).code).toBe(0);
    expect(second.code).toBe(0);
  },
  60_000,
);

/** Slow enough that something can happen in the middle of a copy. */
const slow = (bwlimit: string) => ({ ef: { transfer: { bwlimit } } });

/** Names of ef's own below a directory: what a copy writes before it is whole. */
async function temps(at: Home, dir = at.scratch): Promise<string[]> {
  const { stdout } = await at.sh("sh", `find '${dir}' -name '.ef-*' -o -name '*.tmp*'`);
  return stdout.split("\n").filter((line) => line !== "");
}

/** Every file that a user can see in the copy is the source's, from its first to its last byte. */
async function expectWholeFiles(at: Home, source: string, copy: string): Promise<void> {
  const script = `cd '${copy}' && find . -type f ! -name '.ef-*' -exec sh -c 'cmp "$1" "$2/$1"' sh {} '${source}' ';'`;
  const { stdout, stderr } = await at.sh("sh", script);
  expect(`${stdout}${stderr}`).toBe("");
}

for (const signal of ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"] as const) {
  test(`${signal} in the middle of a copy: no half file, lock free, no marker, nothing on stdout; the next run completes`, async () => {
    using at = new Home();
    tree(at, "hf", 40, 3000);
    for (const dir of ["", "0/", "1/"]) at.write(`hf/${dir}large`, `${dir}y`.repeat(1_500_000));
    at.configure({ HF_HOME: "hf" }, slow("500K"));
    const ran = await at.ef(["sync", "--shell", "bash"], {
      async onStart(child) {
        await until("the copy", async () => (await temps(at, at.cache("HF_HOME"))).length > 0);
        child.kill(signal);
      },
    });
    expect(ran.stdout).toBe("");
    expect(ran.code).toBe(128 + { SIGKILL: 9, SIGTERM: 15, SIGINT: 2, SIGHUP: 1 }[signal]);
    await until("no child left", async () => (await processesOf(at)).length === 0);
    expect(await lockIsFree(at)).toBe(true);
    expect(existsSync(at.cache(".HF_HOME.synced"))).toBe(false);
    expect(existsSync(at.cache(".HF_HOME.partial"))).toBe(true);
    await expectWholeFiles(at, join(at.home, "hf"), at.cache("HF_HOME"));
    if (signal !== "SIGKILL") expect(await temps(at)).toEqual([]);
    at.configure({ HF_HOME: "hf" });
    expect((await at.ef(["sync"])).code).toBe(0);
    await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
    expect(await temps(at)).toEqual([]);
    expect(readdirSync(at.cache(".")).sort()).toEqual([
      ".HF_HOME.lock",
      ".HF_HOME.manifest",
      ".HF_HOME.synced",
      "HF_HOME",
    ]);
  }, 60_000);
}

/** The last of many files, which is not opened before most of them are there. */
const last = "00/199";

/** Sync slowly, and do something when `early` is there and the last of many files waits for its turn. */
async function syncMeanwhile(at: Home, early: readonly string[], meanwhile: () => void): Promise<Ran> {
  for (let i = 100; i < 200; i++) at.write(`hf/00/${i}`, `${i}`.padEnd(10_000, "z"));
  at.configure({ HF_HOME: "hf" }, slow("700K"));
  const copied = (path: string) => existsSync(join(at.cache("HF_HOME"), path));
  let doing: Promise<void> | undefined;
  const ran = await at.ef(["sync", "--shell", "bash"], {
    onStart() {
      doing = until("the first files", () => ["00/100", ...early].every(copied)).then(() => {
        if (copied(last)) throw new Error("all files are there already");
        meanwhile();
      });
    },
  });
  await doing;
  return ran;
}

test("a purge while the copy runs: what it took is copied again", async () => {
  using at = new Home({ "hf/a/1": "1", "hf/b/2": "2" });
  const { code } = await syncMeanwhile(at, ["a/1", "b/2"], () => {
    rmSync(join(at.cache("HF_HOME"), "a"), { recursive: true });
    rmSync(join(at.cache("HF_HOME"), "b/2"));
  });
  expect(code).toBe(0);
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("a source that is written before its turn comes: copied as it is then", async () => {
  using at = new Home();
  const { stderr, code } = await syncMeanwhile(at, [], () => {
    at.write("hf/00/198", "shorter");
    at.write(`hf/${last}`, "longer".repeat(20_000));
  });
  expect(stderr).toContain("HF_HOME: complete");
  expect(stderr).not.toContain("warning");
  expect(code).toBe(0);
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("a source that is written after it came: the next sync sees it, however soon that is", async () => {
  using at = new Home({ "hf/a": "old", "hf/deep/er/b": "old" });
  await syncMeanwhile(at, ["a"], () => {
    at.write("hf/a", "new");
    at.write("hf/deep/er/c", "new");
  });
  const { stderr } = await at.ef(["sync"]);
  expect(stderr).toContain("the source changed");
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
});

test("a large file that is written while it is copied: copied once more", async () => {
  using at = new Home({ "hf/large": "x".repeat(3_000_000) });
  at.configure({ HF_HOME: "hf" }, slow("3M"));
  const { stderr, code } = await at.ef(["sync"], {
    async onStart() {
      await until("its copy", async () => (await temps(at, at.cache("HF_HOME"))).length > 0);
      appendFileSync(join(at.home, "hf/large"), "and more");
      expect(existsSync(join(at.cache("HF_HOME"), "large"))).toBe(false);
    },
  });
  expect(stderr).toContain("HF_HOME: complete");
  expect(stderr).not.toContain("warning");
  expect(code).toBe(0);
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
});

test("a source that never stands still: exported with a warning, and not called fresh", async () => {
  using at = new Home({ "hf/a": "old", "hf/large": "x".repeat(1_200_000) });
  at.configure({ HF_HOME: "hf" }, slow("6M"));
  const writing = setInterval(() => appendFileSync(join(at.home, "hf/large"), "more"), 20);
  try {
    const { stderr, stdout, code } = await at.ef(["sync", "--shell", "bash"]);
    expect(stderr).toContain("still changing while it was copied (the next sync compares again): large");
    expect(stdout).toContain("export HF_HOME=");
    expect(code).toBe(0);
    expect((await at.ef(["sync"])).stderr).not.toContain("fresh");
    expect(await temps(at)).toEqual([]);
  } finally {
    clearInterval(writing);
  }
  at.configure({ HF_HOME: "hf" });
  expect((await at.ef(["sync"])).stderr).toContain("HF_HOME: complete");
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
});

test("files that vanish while the copy runs: complete, with a warning that names the first", async () => {
  using at = new Home({ "hf/a": "1" });
  const { stderr, stdout, code } = await syncMeanwhile(at, [], () => {
    rmSync(join(at.home, "hf/00/198"));
    rmSync(join(at.home, "hf", last));
  });
  expect(stderr).toContain("2 files vanished at the source while it was copied: 00/198");
  expect(stdout).toContain("export HF_HOME=");
  expect(code).toBe(0);
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
  await at.ef(["sync"]);
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test.each([["the first sync"], ["a later one"]])(
  "%s: a file that a job makes before ours gets there is kept, and said",
  async (which) => {
    using at = new Home({ "hf/a": "1" });
    if (which === "a later one") {
      at.configure({ HF_HOME: "hf" });
      await at.ef(["sync"]);
    }
    const theirs = join(at.cache("HF_HOME"), last);
    const { stderr, code } = await syncMeanwhile(at, [], () => writeFileSync(theirs, "a job's"));
    expect(stderr).toContain(`1 file changed on scratch while it was copied, and kept: ${last}`);
    expect(readFileSync(theirs, "utf8")).toBe("a job's");
    expect(code).toBe(0);
    expect(await temps(at)).toEqual([]);
    await at.ef(["sync", "--force"]);
    expect(readFileSync(theirs, "utf8")).toBe("a job's");
  },
);

test("a file that a job writes to while its new version is on its way is kept, and said", async () => {
  using at = new Home({ "hf/a": "1", [`hf/${last}`]: "old" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  const theirs = join(at.cache("HF_HOME"), last);
  rmSync(join(at.home, "hf/00"), { recursive: true });
  at.configure({ HF_HOME: "hf" }, slow("700K"));
  for (let i = 100; i < 200; i++) at.write(`hf/00/${i}`, `${i}`.padEnd(10_000, "z"));
  let doing: Promise<void> | undefined;
  const { stderr } = await at.ef(["sync"], {
    onStart() {
      doing = until("the first files", () => existsSync(join(at.cache("HF_HOME"), "00/100"))).then(() => {
        expect(readFileSync(theirs, "utf8")).toBe("old");
        writeFileSync(theirs, "a job's");
      });
    },
  });
  await doing;
  expect(stderr).toContain(`1 file changed on scratch while it was copied, and kept: ${last}`);
  expect(readFileSync(theirs, "utf8")).toBe("a job's");
});

test("a lock file that is a hard link to something else is refused, and that stays as it is", async () => {
  using at = new Home({ "hf/a": "1", precious: "data" });
  at.configure({ HF_HOME: "hf" });
  await at.sh("sh", `mkdir -p '${at.cache(".")}'; ln precious '${at.cache(".HF_HOME.lock")}'`);
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("hard link");
  expect(code).toBe(1);
  expect(at.read(join(at.home, "precious"))).toBe("data");
  expect((await at.ef(["status", "--fast"])).code).toBe(0);
});

test("a marker of the sync before is gone while the next one copies", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  at.write("hf/large", "y".repeat(3_000_000));
  at.configure({ HF_HOME: "hf" }, slow("500K"));
  await at.ef(["sync"], {
    async onStart(child) {
      await until("the copy", () => !existsSync(at.cache(".HF_HOME.synced")));
      child.kill("SIGKILL");
    },
  });
  expect(existsSync(at.cache(".HF_HOME.synced"))).toBe(false);
});

/** An rsync that misbehaves the first time, and the real one after that. */
function rsyncThat(at: Home, first: string): void {
  at.configure({ HF_HOME: "hf" }, { rsync_extra_args: ["--max-size=1G"] }); // rsync walks the tree itself
  const real = Bun.which("rsync");
  const file = join(at.dir, "bin/rsync");
  writeFileSync(
    file,
    `#!/bin/sh
case " $* " in *" --version "*|*" --dry-run "*) exec '${real}' "$@";; esac
echo run >>'${at.dir}/runs'
${first}
exec '${real}' "$@"
`,
    { mode: 0o755 },
  );
}

test("files that vanish (exit 24): one more try, then complete", async () => {
  using at = new Home({ "hf/a": "1" });
  rsyncThat(at, `[ "$(wc -l <'${at.dir}/runs')" = 1 ] && { echo 'file has vanished: "/x"' >&2; exit 24; }`);
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("HF_HOME: complete");
  expect(stderr).not.toContain("vanished");
  expect(code).toBe(0);
});

test("files that vanish twice: complete, with a warning that names them", async () => {
  using at = new Home({ "hf/a": "1" });
  rsyncThat(at, `'${Bun.which("rsync")}' "$@"; echo 'file has vanished: "/x/y"' >&2; exit 24`);
  const { stderr, stdout, code } = await at.ef(["sync", "--shell", "bash"]);
  expect(stderr).toContain("1 file vanished at the source");
  expect(stderr).toContain("/x/y");
  expect(stdout).toContain("export HF_HOME=");
  expect(code).toBe(0);
  expect(readFileSync(join(at.dir, "runs"), "utf8")).toBe("run\nrun\n");
});

test("rsync missing, too old, or openrsync: named, with what to do, and exit 1 for the variable", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" }, { ef: { transfer: { engine: "rsync" } } });
  for (const line of [
    "openrsync: protocol version 29, rsync version 2.6.9 compatible",
    "rsync  version 3.0.9  protocol version 30",
  ]) {
    writeFileSync(join(at.dir, "bin/rsync"), `#!/bin/sh\necho '${line}'\n`, { mode: 0o755 });
    const { stderr, code } = await at.ef(["sync"]);
    expect(stderr).toContain(line);
    expect(stderr).toContain("3.1 or newer");
    expect(code).toBe(1);
  }
});

/** A library for LD_PRELOAD whose flock(2) answers FLOCK_ERRNO; its path may hold no space. */
async function flockShim(at: Home): Promise<string> {
  const shim = join(at.dir, "flock.so");
  const { stderr } = await at.sh("sh", `gcc -shared -fPIC -o '${shim}' '${import.meta.dir}/../fakes/flock-errno.c'`);
  expect(stderr).toBe("");
  return shim;
}

test.skipIf(!have("gcc"))(
  "A2.7: where flock does not work, a lease is used at once, and said once a variable",
  async () => {
    using at = new Home({ "hf/a": "1" }, "ef-test-");
    at.configure({ HF_HOME: "hf" });
    const LD_PRELOAD = await flockShim(at);
    const began = performance.now();
    const { stderr, code } = await at.ef(["sync"], { env: { LD_PRELOAD, FLOCK_ERRNO: "38" } });
    expect(stderr.match(/lease/g)).toHaveLength(1);
    expect(stderr).toContain("HF_HOME: complete");
    expect(performance.now() - began).toBeLessThan(60_000); // euler-files waits the whole time-out, 300 s
    expect(code).toBe(0);
    expect(readdirSync(at.cache(".")).filter((name) => name.includes("lease"))).toEqual([]);
  },
);

test.skipIf(!have("gcc"))(
  "a lock that everybody gets (localflock): ten syncs at once damage nothing",
  async () => {
    using at = new Home({}, "ef-test-");
    tree(at, "hf", 60, 5000);
    at.configure({ HF_HOME: "hf" });
    const LD_PRELOAD = await flockShim(at);
    const runs = await Promise.all(
      Array.from({ length: 10 }, () => at.ef(["sync", "--force"], { env: { LD_PRELOAD, FLOCK_ERRNO: "0" } })),
    );
    for (const { stderr, code } of runs) {
      expect(stderr).toContain("HF_HOME: complete");
      expect(code).toBe(0);
    }
    await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
    // Two that end at the same moment may leave one's marker and the other's manifest: then the next one compares once.
    expect((await at.ef(["sync"])).stderr).toMatch(/^HF_HOME: (fresh|its manifest .*; contents are the same)\n/);
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  },
  60_000,
);

test("A2.8: an error inside the locked part comes out as it is, and the lock is free", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  at.write("hf/b", "2");
  await at.sh("sh", `rm '${at.cache(".HF_HOME.manifest")}'; mkdir '${at.cache(".HF_HOME.manifest")}'`);
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("HF_HOME: failed");
  expect(stderr).toContain("is not a regular file");
  expect(stderr).not.toContain("generator");
  expect(code).toBe(1);
  expect(await lockIsFree(at)).toBe(true);
});

test.skipIf(process.geteuid?.() !== 0 || !have("setpriv") || !isBinary)(
  "a copy that a group shares: a second user brings it up to date [needs the compiled binary and root]",
  async () => {
    using at = new Home({ "hf/deep/a": "1" }, "ef-test-");
    at.configure({ HF_HOME: "hf" });
    const program = join(at.dir, "ef"); // where they may read it: the checkout can be closed to others
    copyFileSync(efArgv[0] ?? "", program);
    await at.sh(
      "sh",
      `mkdir -p '${at.cache("HF_HOME")}' && chgrp -R 5000 '${at.scratch}'; chmod -R g+ws '${at.scratch}'`,
    );
    await at.sh("sh", `chown -R 5001 '${at.scratch}'; chmod -R a+rX '${at.dir}'`);
    const as = (uid: number) =>
      run(["setpriv", `--reuid=${uid}`, "--regid=5000", "--clear-groups", program, "sync"], {
        env: at.env,
        cwd: "/",
      });
    expect((await as(5001)).code).toBe(0);
    at.write("hf/deep/b", "2");
    const second = await as(5002);
    expect(second.stderr).toContain("HF_HOME: complete (1 file");
    expect(second.code).toBe(0);
    expect((await as(5001)).stderr).toBe("HF_HOME: fresh\n");
  },
);
