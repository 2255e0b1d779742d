import { expect, test } from "bun:test";
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { efArgv, eulerFiles, Home, have, haveEulerFiles, isBinary, run, until } from "../helpers.ts";

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
    // The source's file, and no probe for it: opened to be read, with success.
    const read = /"(?:[^"]*\/)?weights\.bin", (?!.*O_PATH).*O_RDONLY.*\) = \d+$/gm;
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

for (const signal of ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"] as const) {
  test(`${signal} in the middle of a copy: no child, lock free, no marker, nothing on stdout; the next run completes`, async () => {
    using at = new Home();
    tree(at, "hf", 40, 3000);
    at.write("hf/large", "y".repeat(3_000_000));
    at.configure({ HF_HOME: "hf" }, { ef: { transfer: { bwlimit: "500K" } } });
    const ran = await at.ef(["sync", "--shell", "bash"], {
      async onStart(child) {
        await until("the copy", () => existsSync(at.cache("HF_HOME")) && readdirSync(at.cache("HF_HOME")).length > 0);
        child.kill(signal);
      },
    });
    expect(ran.stdout).toBe("");
    expect(ran.code).toBe(128 + { SIGKILL: 9, SIGTERM: 15, SIGINT: 2, SIGHUP: 1 }[signal]);
    await until("no child left", async () => (await processesOf(at)).length === 0);
    expect(await lockIsFree(at)).toBe(true);
    expect(existsSync(at.cache(".HF_HOME.synced"))).toBe(false);
    at.configure({ HF_HOME: "hf" });
    expect((await at.ef(["sync"])).code).toBe(0);
    await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
    expect(readdirSync(at.cache(".")).sort()).toEqual([
      ".HF_HOME.lock",
      ".HF_HOME.synced",
      ".HF_HOME.times",
      "HF_HOME",
    ]);
  }, 60_000);
}

/** An rsync that does something after its first real run. */
function rsyncThen(at: Home, script: string): void {
  rsyncThat(
    at,
    `if [ "$(wc -l <'${at.dir}/runs')" = 1 ]; then '${Bun.which("rsync")}' "$@" || exit; ${script}; exit; fi`,
  );
}

test("a purge while the copy runs: what it took is copied again", async () => {
  using at = new Home({ "hf/a/1": "1", "hf/b/2": "2" });
  at.configure({ HF_HOME: "hf" });
  rsyncThen(at, `rm -r '${at.cache("HF_HOME")}/a' '${at.cache("HF_HOME")}/b/2'`);
  expect((await at.ef(["sync"])).code).toBe(0);
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
  expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
});

test("a source that is written while the copy runs: copied once more", async () => {
  using at = new Home({ "hf/a": "old" });
  at.configure({ HF_HOME: "hf" });
  rsyncThen(at, `echo new >'${at.home}/hf/a'`);
  expect((await at.ef(["sync"])).stderr).toContain("HF_HOME: complete");
  await sameTrees(at, join(at.home, "hf"), at.cache("HF_HOME"));
});

test("a source that never stands still: exported with a warning, and not called fresh", async () => {
  using at = new Home({ "hf/a": "old" });
  at.configure({ HF_HOME: "hf" });
  rsyncThat(at, `'${Bun.which("rsync")}' "$@" || exit; echo more >>'${at.home}/hf/a'; exit`);
  const { stderr, stdout, code } = await at.ef(["sync", "--shell", "bash"]);
  expect(stderr).toContain("still changing while it was copied");
  expect(stdout).toContain("export HF_HOME=");
  expect(code).toBe(0);
  expect((await at.ef(["sync"])).stderr).not.toContain("fresh");
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
  at.configure({ HF_HOME: "hf" }, { ef: { transfer: { bwlimit: "500K" } } });
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
  at.configure({ HF_HOME: "hf" });
  rsyncThat(at, `[ "$(wc -l <'${at.dir}/runs')" = 1 ] && { echo 'file has vanished: "/x"' >&2; exit 24; }`);
  const { stderr, code } = await at.ef(["sync"]);
  expect(stderr).toContain("HF_HOME: complete");
  expect(stderr).not.toContain("vanished");
  expect(code).toBe(0);
});

test("files that vanish twice: complete, with a warning that names them", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
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
  at.configure({ HF_HOME: "hf" });
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
    expect((await at.ef(["sync"])).stderr).toBe("HF_HOME: fresh\n");
  },
  60_000,
);

test("A2.8: an error inside the locked part comes out as it is, and the lock is free", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  await at.ef(["sync"]);
  at.write("hf/b", "2");
  await at.sh("sh", `rm '${at.cache(".HF_HOME.times")}'; mkdir '${at.cache(".HF_HOME.times")}'`);
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
