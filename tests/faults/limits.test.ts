/** Limits that nodes have: open files, sizes, memory, read-only and full places, clocks, coarse times. The work is whole, or refused in words. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemPython } from "../envs.ts";
import { Home, have, type Ran, run } from "../helpers.ts";
import { differences, lookAt, wrongsOf } from "../trees.ts";

setDefaultTimeout(60_000);

const isRoot = process.geteuid?.() === 0;

/** A user with 200 small files and one of 3 MB. */
function user(): Home {
  const at = new Home();
  mkdirSync(join(at.home, "hf/hub"), { recursive: true });
  for (let i = 0; i < 200; i++) writeFileSync(join(at.home, "hf/hub", `${i}`), `content of ${i}`);
  writeFileSync(join(at.home, "hf/big"), Buffer.alloc(3_000_000, 7));
  at.configure({ HF_HOME: "hf" }, { skip_if_fresh_seconds: 0 });
  return at;
}

/** Is the copy all that it should be? */
const wrongs = (at: Home) => wrongsOf(lookAt(join(at.home, "hf")), lookAt(at.cache("HF_HOME")), new Map());

function expectWhole(at: Home, { code, stdout, stderr }: Ran): void {
  expect(stderr).not.toMatch(/error|failed|warning/i);
  expect(wrongs(at)).toEqual([]);
  expect(stdout).toContain("export HF_HOME=");
  expect(code).toBe(0);
}

test.each([
  ["64 open files", "ulimit -n 64"],
  ["4 GB of address space", "ulimit -v 4000000"],
  ["no core files, no locked memory", "ulimit -c 0 -l 0"],
])("with %s all is copied, and pushed", async (_, limit) => {
  using at = user();
  expectWhole(at, await at.sh("bash", `${limit}; ef sync`));
  writeFileSync(join(at.cache("HF_HOME"), "hub/7"), "a job's");
  const { code, stderr } = await at.sh("bash", `${limit}; ef push`);
  expect([code, stderr]).toEqual([0, stderr]);
  expect(readFileSync(join(at.home, "hf/hub/7"), "utf8")).toBe("a job's");
});

test.skipIf(!systemPython).each([
  ["64 open files", "ulimit -n 64"],
  ["4 GB of address space", "ulimit -v 4000000"],
])("with %s a migration, and an environment that is saved and loaded", async (_, limit) => {
  using at = user();
  at.configure({ HF_HOME: "hf" }, { ef: { venv_store: join(at.home, "store") } });
  const before = lookAt(join(at.home, "hf"));
  const env = join(at.home, "env");
  await run([systemPython ?? "", "-m", "venv", "--without-pip", env], { env: at.env });
  for (let i = 0; i < 200; i++) at.write(`env/lib/many/${i}.py`, `x = ${i}`);
  const script = `${limit}; ef migrate HF_HOME --to "$HOME/new" --yes && ef venv save env --venv "$HOME/env" &&
    eval "$(ef venv load env)" && python -c 'import sys; print(sys.prefix)'`;
  const { code, stdout, stderr } = await at.sh("bash", script);
  expect([code, stderr]).toEqual([0, stderr]);
  expect(stdout).toBe(`${at.dir}/ef-venvs-${process.getuid?.()}/env\n`);
  expect(differences(before, lookAt(join(at.home, "new")))).toEqual([]);
});

test("a file larger than the limit of sizes: named, not exported, and copied without it", async () => {
  using at = user();
  const { code, stdout, stderr } = await at.sh("bash", "ulimit -f 1000; ef sync");
  expect(stderr).toContain("big: larger than the limit of file sizes (ulimit -f) (EFBIG)");
  expect([code, stdout]).toEqual([1, "false\n"]);
  expectWhole(at, await at.ef(["sync"]));
});

const cgroup = "/sys/fs/cgroup/memory";

test.skipIf(!isRoot)("in a job with 120 MB of memory [needs root and a memory cgroup]", async () => {
  using at = user();
  const group = join(cgroup, `ef-test-${process.pid}`);
  const make = `mkdir '${group}' && echo 120M >'${group}/memory.limit_in_bytes'`;
  if ((await at.sh("sh", make)).code !== 0) return console.warn("not here: a memory cgroup of version 1");
  try {
    expectWhole(at, await at.sh("sh", `echo $$ >'${group}/cgroup.procs'; exec ef sync`));
  } finally {
    await at.sh("sh", `for i in 1 2 3 4 5; do rmdir '${group}' && break; sleep 0.2; done`);
  }
});

/** Run a script with mounts of its own. */
const inNamespace = (at: Home, script: string) =>
  at.sh("sh", `exec unshare --mount sh -c '${script.replaceAll("'", "'\\''")}'`);
const canMount = isRoot && have("unshare") && Bun.spawnSync(["unshare", "--mount", "true"]).exitCode === 0;

test.skipIf(!canMount)(
  "scratch that is mounted read-only: said so, nothing exported, what is there can be used",
  async () => {
    using at = user();
    const mount = `mount --bind "$SCRATCH" "$SCRATCH" && mount -o remount,bind,ro "$SCRATCH"`;
    const first = await inNamespace(at, `${mount} && ef sync`);
    expect(first.stderr).toMatch(/the file system is read-only|read-only file system/i);
    expect([first.code === 0, /export/.test(first.stdout)]).toEqual([false, false]);
    await at.ef(["sync"]);
    const status = await inNamespace(at, `${mount} && ef status`);
    expect(status.stdout).toMatch(/fresh|stale/);
    expect(status.code).toBe(0);
  },
);

test.skipIf(!canMount)("a source and a HOME that are mounted read-only are all a sync needs", async () => {
  using at = user();
  const mount = `mount --bind "$HOME" "$HOME" && mount -o remount,bind,ro "$HOME"`;
  expectWhole(at, await inNamespace(at, `${mount} && ef sync`));
  const push = await inNamespace(at, `${mount} && echo new >'${at.cache("HF_HOME")}/new' && ef push`);
  expect(push.stderr).toMatch(/the file system is read-only|read-only file system/i);
  expect(push.code).toBe(1);
  const config = await inNamespace(at, `${mount} && ef config set parallel_jobs 2`);
  expect(config.stderr).toMatch(/the file system is read-only|read-only file system/i);
  expect(config.code).not.toBe(0);
});

test.skipIf(!canMount)("a HOME that is full: the configuration stays, a sync works", async () => {
  using at = user();
  const fill = `mkdir small && mount -t tmpfs -o size=64k tmpfs small && cp .euler-files.json small/ && HOME=$PWD/small &&
    { head -c 1000000 /dev/zero >small/fill; true; }`;
  const { code, stdout, stderr } = await inNamespace(
    at,
    `${fill} 2>/dev/null; ef config set cache_root "$(head -c 20000 /dev/zero | tr "\\0" x)" >&2; echo "code $?"; cmp .euler-files.json small/.euler-files.json && ef sync`,
  );
  expect(stderr).toMatch(/no space left/i);
  expect(stdout).toMatch(/^code [12]\nexport HF_HOME=/);
  expect(code).toBe(0);
});

test.skipIf(!canMount)("without /dev/shm, and with a TMPDIR where nothing may be executed", async () => {
  using at = user();
  const mounts = `mkdir "$HOME/tmp" && mount -t tmpfs -o noexec tmpfs "$HOME/tmp" && export TMPDIR="$HOME/tmp"
    mount -t tmpfs -o ro,size=4k tmpfs /dev/shm`;
  expectWhole(at, await inNamespace(at, `${mounts} && ef sync`));
});

test.skipIf(!have("faketime"))(
  "clocks that are set back and forward: never fresh by mistake, all whole [needs faketime]",
  async () => {
    using at = user();
    at.configure({ HF_HOME: "hf" });
    expectWhole(at, await at.sh("sh", "faketime '2031-05-05' ef sync"));
    writeFileSync(join(at.home, "hf/hub/3"), "edited, by the clock of the server");
    utimesSync(join(at.home, "hf/hub/3"), 1_600_000_000, 1_600_000_000);
    const back = await at.ef(["sync"]);
    expect(back.stderr).toContain("from the future");
    expect(wrongs(at)).toEqual([]);
    expectWhole(at, await at.sh("sh", "faketime '2021-05-05' ef sync --force"));
    writeFileSync(join(at.cache("HF_HOME"), "hub/4"), "a job's");
    const push = await at.sh("sh", "faketime '2020-05-05' ef push");
    expect([push.code, readFileSync(join(at.home, "hf/hub/4"), "utf8")]).toEqual([0, "a job's"]);
  },
);

/** ext4 with inodes of 128 bytes has room for seconds alone. */
test.skipIf(!isRoot || !have("mkfs.ext4"))(
  "times of whole seconds: an edit in the same second is seen [needs root and loop devices]",
  async () => {
    using at = user();
    const made = await at.sh(
      "sh",
      `PATH=$PATH:/usr/sbin:/sbin; head -c 30000000 /dev/zero >img && mkfs.ext4 -q -F -I 128 img 2>/dev/null && mkdir coarse && mount -o loop img coarse && cp -r hf coarse/`,
    );
    if (made.code !== 0) return console.warn("not here: a loop device");
    try {
      at.configure({ HF_HOME: "coarse/hf" }, { scratch_base: join(at.home, "coarse/scratch") });
      const path = join(at.home, "coarse/hf/hub/5");
      const copied = join(at.home, "coarse/scratch/.cache/euler-files/HF_HOME/hub/5");
      mkdirSync(join(at.home, "coarse/scratch"));
      for (const text of ["one", "two", "six"]) {
        writeFileSync(path, text); // of one length, perhaps in one second
        const { code, stderr } = await at.ef(["sync", "--force"]);
        expect([code, readFileSync(copied, "utf8"), stderr]).toEqual([0, text, stderr]);
      }
    } finally {
      await at.sh("sh", "umount coarse");
    }
  },
);
