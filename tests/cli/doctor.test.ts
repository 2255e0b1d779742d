import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Check } from "../../lib/doctor.ts";
import { Home, have, isBinary, type RunOptions, until } from "../helpers.ts";
import { haveSshd, startSshd } from "../sshd.ts";

/** A home with one variable whose source is there. */
function healthy(more: object = {}): Home {
  const at = new Home({ "hf/model.bin": "weights" });
  at.configure({ HF_HOME: "hf" }, more);
  return at;
}

async function doctor(at: Home, options: RunOptions = {}) {
  const { stdout, stderr, code } = await at.ef(["doctor", "--json"], options);
  expect(stderr).toBe("");
  const { ok, command, checks } = JSON.parse(stdout) as { ok: boolean; command: string; checks: Check[] };
  expect(command).toBe("doctor");
  expect(ok).toBe(code === 0);
  expect(code).toBe(checks.some(({ state }) => state === "fail") ? 1 : 0);
  return { code, checks, check: (name: string) => checks.find((each) => each.name === name) };
}

const failed = (checks: Check[]) => checks.filter(({ state }) => state === "fail").map(({ name }) => name);

/** A `PATH` of one directory that has links to the given programs, and scripts by name. */
function pathWith(at: Home, links: string[], scripts: Record<string, string> = {}): string {
  const dir = join(at.dir, "only");
  mkdirSync(dir);
  for (const name of links) symlinkSync(Bun.which(name) as string, join(dir, name));
  for (const [name, text] of Object.entries(scripts)) {
    writeFileSync(join(dir, name), `#!/bin/sh\n${text}\n`);
    chmodSync(join(dir, name), 0o755);
  }
  return dir;
}

describe("all is well", () => {
  test("every check is there, in order, and none fails", async () => {
    using at = healthy();
    const { code, checks, check } = await doctor(at, { env: { SHELL: "/bin/bash" } });
    expect(failed(checks)).toEqual([]);
    expect([...new Set(checks.map(({ group }) => group))]).toEqual([
      "configuration",
      "storage",
      "programs",
      "shell",
      "limits",
    ]);
    expect(checks.map(({ name }) => name)).toEqual([
      ...["file", "keys", "saving", "variables"],
      ...["$SCRATCH", "scratch", "scratch type", "home type", "scratch space", "home space", "locks", "clock", "quota"],
      ...["rsync", "flock", "tar", "zstd", "uv", "apptainer", "ssh", "slurm"],
      ...["PATH", "function", "exports"],
      ...["open files", "processes", "address space"],
    ]);
    expect(check("file")).toMatchObject({ state: "ok", found: "~/.euler-files.json: 1 variable, 1 enabled" });
    expect(check("keys")).toMatchObject({ state: "ok", found: "all known" });
    expect(check("scratch")).toMatchObject({ state: "ok", found: `files can be written in ${at.scratch}` });
    expect(check("locks")).toMatchObject({ state: "ok", found: "flock keeps a second process out" });
    expect(check("clock")?.state).toBe("ok");
    expect(check("rsync")?.found).toMatch(/^rsync version 3\.\d+\.\d+ .*\(\/.*\/rsync\)$/);
    for (const { state, fix } of checks) expect(fix === undefined).toBe(state === "ok");
    expect(code).toBe(0);
  });

  test("nothing is left behind, on scratch, in its cache directory or beside the configuration", async () => {
    using at = healthy();
    mkdirSync(at.cache(""), { recursive: true });
    const { check } = await doctor(at);
    expect(check("scratch")?.found).toContain("/.cache/euler-files");
    expect(readdirSync(at.cache(""))).toEqual([]);
    expect(readdirSync(at.scratch)).toEqual([".cache"]);
    // running from the sources, Bun keeps a cache of its own in HOME
    expect(
      readdirSync(at.home)
        .filter((name) => name !== ".bun")
        .sort(),
    ).toEqual([".euler-files.json", "hf"]);
  });

  test("the text names each group once, and sums up", async () => {
    using at = healthy();
    const { stdout, stderr, code } = await at.ef(["doctor"]);
    expect(stderr).toBe("");
    expect(stdout).toMatch(/^configuration\n {2}ok {4}file {11}~\/\.euler-files\.json: 1 variable, 1 enabled\n/);
    expect(stdout.match(/^storage$/gm)).toHaveLength(1);
    expect(stdout).toMatch(/\n\n\d+ ok, \d+ warnings?, 0 failures\n$/);
    expect(stdout).not.toContain("\u001B");
    expect(code).toBe(0);
  });
});

describe("configuration", () => {
  test("none: the storage checks use $SCRATCH", async () => {
    using at = new Home();
    const { checks, check } = await doctor(at);
    expect(check("file")).toMatchObject({ state: "fail", fix: "make one with: ef init" });
    expect(check("file")?.found).toContain(join(at.home, ".euler-files.json"));
    expect(check("keys")).toBeUndefined();
    expect(check("scratch")?.state).toBe("ok");
    expect(check("locks")?.state).toBe("ok");
    expect(failed(checks)).toEqual(["file"]);
  });

  test.each([
    ["not JSON", '{\n  "version": 1,\n}', "not JSON, line 3, column 1"],
    ["another version", '{"version": 2}', "version: expected 1, found 2"],
    ["a wrong type", '{"version": 1, "scratch_base": "/x", "parallel_jobs": "4"}', "parallel_jobs: "],
  ])("%s", async (_, text, found) => {
    using at = new Home({ ".euler-files.json": text });
    const { checks, check } = await doctor(at);
    expect(check("file")?.found).toContain(found);
    expect(failed(checks)).toEqual(["file"]);
    expect(at.read(join(at.home, ".euler-files.json"))).toBe(text);
  });

  test("unknown keys are warned of", async () => {
    using at = healthy({ paralel_jobs: 3, ef: { transfer: { enigne: "rsync" } } });
    const { check, code } = await doctor(at);
    expect(check("keys")?.state).toBe("warn");
    expect(check("keys")?.found).toContain("paralel_jobs, ef.transfer.enigne");
    expect(code).toBe(0);
  });

  test("a directory that takes no file: nothing can be saved", async () => {
    using at = healthy();
    const { check } = await doctor(at, { env: { EF_CONFIG: join(at.home, "hf/model.bin/config.json") } });
    expect(check("saving")?.state).toBe("warn");
    expect(check("saving")?.found).toContain("ENOTDIR");
  });

  test("a source that is missing is a warning, one that is on scratch a failure", async () => {
    using at = healthy();
    at.configure({ HF_HOME: "hf", TORCH_HOME: "torch" });
    const missing = await doctor(at);
    expect(missing.check("variables")?.state).toBe("warn");
    expect(missing.check("variables")?.found).toContain(`the source of TORCH_HOME does not exist: ${at.home}/torch`);
    at.configure({ HF_HOME: "../scratch/.cache/euler-files/HF_HOME" });
    const looped = await doctor(at);
    expect(failed(looped.checks)).toEqual(["variables"]);
    expect(looped.check("variables")?.found).toContain("are the same directory");
  });

  test("one that does not answer ends in a failure, not in a hang", async () => {
    using at = healthy();
    const fifo = join(at.dir, "hangs");
    Bun.spawnSync(["mkfifo", fifo]);
    const { checks, check } = await doctor(at, { env: { EF_CONFIG: fifo } });
    expect(check("file")).toMatchObject({ state: "fail", found: "no answer within 5 s" });
    // from the sources, Bun has used its thread pool before ef can widen it: with one core, one hanging call fills it
    if (isBinary) expect(failed(checks)).toEqual(["file"]);
  });
});

describe("scratch", () => {
  test.each([undefined, ""])("$SCRATCH is %p", async (value) => {
    using at = healthy();
    const { checks, check } = await doctor(at, { env: { SCRATCH: value } });
    expect(failed(checks)).toEqual(["$SCRATCH"]);
    expect(check("$SCRATCH")?.found).toBe(value === "" ? "empty" : "not set");
    for (const name of ["scratch", "locks", "clock", "variables"]) expect(check(name)).toBeUndefined();
  });

  test("$SCRATCH may be unset if scratch_base does not name it", async () => {
    using at = healthy();
    at.configure({ HF_HOME: "hf" }, { scratch_base: at.scratch });
    const { check, code } = await doctor(at, { env: { SCRATCH: undefined } });
    expect(check("$SCRATCH")).toMatchObject({ state: "ok", found: "not set, and not used" });
    expect(check("scratch")?.state).toBe("ok");
    expect(code).toBe(0);
  });

  test("another variable of scratch_base is unset", async () => {
    using at = healthy();
    at.configure({ HF_HOME: "hf" }, { scratch_base: "$WORK_DIR/me" });
    const { checks, check } = await doctor(at);
    expect(failed(checks)).toEqual(["scratch"]);
    expect(check("scratch")?.found).toContain("WORK_DIR is not set");
  });

  test("it is a file", async () => {
    using at = healthy();
    const { checks, check } = await doctor(at, { env: { SCRATCH: at.write("a-file", "") } });
    expect(failed(checks)).toEqual(["scratch"]);
    expect(check("scratch")?.found).toContain("is not a directory");
  });

  test("it lies below a file", async () => {
    using at = healthy();
    const { checks, check } = await doctor(at, { env: { SCRATCH: join(at.write("a-file", ""), "x") } });
    expect(failed(checks)).toEqual(["scratch"]);
    expect(check("scratch")?.found).toContain("ENOTDIR");
  });

  test("it is missing: the first sync makes it, but not its parents", async () => {
    using at = healthy();
    const near = await doctor(at, { env: { SCRATCH: join(at.dir, "new") } });
    expect(near.check("scratch")).toMatchObject({ state: "warn", found: `${at.dir}/new does not exist yet` });
    expect(near.code).toBe(0);
    const far = await doctor(at, { env: { SCRATCH: join(at.dir, "not/mounted") } });
    expect(far.check("scratch")?.fix).toContain("mounted");
    expect(failed(far.checks)).toEqual(["scratch"]);
    expect(readdirSync(at.dir)).not.toContain("new");
  });

  test("one on the file system of the source is of no use", async () => {
    using at = healthy();
    const { check } = await doctor(at);
    expect(check("scratch type")?.state).toBe("warn");
    expect(check("scratch type")?.found).toMatch(/the same file system as the source of HF_HOME|memory \(tmpfs\)/); // /tmp may be in memory
  });

  test.each([
    ["granted to everybody", "exit 0", "one lock to two processes"],
    [
      "not supported",
      "echo 'flock: 4: Function not implemented' >&2; exit 69",
      "(Function not implemented): ef uses lease",
    ],
  ])("flock is %s", async (_, script, found) => {
    using at = healthy();
    const PATH = pathWith(at, ["rsync", "sh"], { flock: script });
    const { check, code } = await doctor(at, { env: { PATH } });
    expect(check("locks")?.state).toBe("warn");
    expect(check("locks")?.found).toContain(found);
    expect(readdirSync(at.scratch)).toEqual([]);
    expect(code).toBe(0);
  });
});

describe("programs", () => {
  test("rsync is needed only where the configuration has it copy: then none is a failure, with the way to get it", async () => {
    using at = healthy();
    const env = { PATH: pathWith(at, ["flock"]) };
    const plain = await doctor(at, { env });
    expect(failed(plain.checks)).toEqual([]);
    expect(plain.check("rsync")).toMatchObject({
      state: "ok",
      found: "not found (needed for ef.transfer.engine rsync, rsync_extra_args)",
    });
    at.configure({ HF_HOME: "hf" }, { rsync_extra_args: ["--checksum"], ef: { transfer: { engine: "builtin" } } });
    expect((await doctor(at, { env })).check("rsync")?.state).toBe("ok");
    at.configure({ HF_HOME: "hf" }, { rsync_extra_args: ["--checksum"] });
    expect(failed((await doctor(at, { env })).checks)).toEqual(["rsync"]);
    at.configure({ HF_HOME: "hf" }, { ef: { transfer: { engine: "rsync" } } });
    const bare = await doctor(at, { env });
    expect(failed(bare.checks)).toEqual(["rsync"]);
    expect(bare.check("rsync")?.fix).toContain("module load rsync");
    const withModules = await doctor(at, { env: { ...env, LMOD_CMD: "/opt/lmod/libexec/lmod" } });
    expect(withModules.check("rsync")?.fix).toBe("try: module load rsync (module spider rsync shows the versions)");
  });

  test.each([
    [
      "openrsync",
      "echo 'openrsync: protocol version 29'; echo 'rsync version 2.6.9 compatible'",
      "fail",
      "another program",
    ],
    ["an old rsync", "echo 'rsync  version 3.0.9  protocol version 30'", "fail", "too old"],
    ["one without nanoseconds", "echo 'rsync  version 3.1.2  protocol version 31'", "warn", "3.1.3"],
    ["one that does not start", "echo 'libpopt.so.0: not found' >&2; exit 127", "fail", "libpopt.so.0"],
  ] as const)("%s", async (_, script, state, found) => {
    using at = healthy({ ef: { transfer: { engine: "rsync" } } });
    const env = { PATH: pathWith(at, ["flock"], { rsync: script }) };
    const used = await doctor(at, { env });
    expect(used.check("rsync")?.state).toBe(state);
    expect(used.check("rsync")?.found).toContain(found);
    at.configure({ HF_HOME: "hf" });
    const unused = await doctor(at, { env });
    expect(unused.check("rsync")?.state).toBe(state === "fail" ? "warn" : "ok");
    expect(failed(unused.checks)).toEqual([]);
  });

  test("an optional one is missed only if the configuration uses it", async () => {
    using at = healthy();
    const env = { PATH: pathWith(at, ["rsync", "flock"]), MODULESHOME: "/usr/share/modules" };
    const plain = await doctor(at, { env });
    expect(plain.check("apptainer")).toMatchObject({ state: "ok", found: "not found (needed for ef apptainer)" });
    expect(plain.check("ssh")?.state).toBe("ok");
    at.configure(
      { HF_HOME: "hf" },
      { apptainer: { sif_store: "~/sif" }, ef: { clusters: { euler: { host: "no-such-host.invalid" } } } },
    );
    const used = await doctor(at, { env });
    expect(used.check("apptainer")).toMatchObject({ state: "warn" });
    expect(used.check("apptainer")?.fix).toContain("try: module load apptainer (or: module avail apptainer");
    expect(used.check("image builds")?.state).toMatch(/ok|warn/);
    expect(plain.check("image builds")).toBeUndefined();
    expect(used.check("ssh")?.state).toBe("warn");
    expect(used.check("uv")?.state).toBe("ok");
    expect(used.code).toBe(0);
  });

  test("singularity will do; Slurm tells its version and the job", async () => {
    using at = healthy();
    const PATH = pathWith(at, ["rsync", "flock"], {
      singularity: "echo 'singularity-ce version 4.1.0'",
      sbatch: "echo 'slurm 23.11.4'",
    });
    const { check } = await doctor(at, { env: { PATH, SLURM_JOB_ID: "4711" } });
    expect(check("apptainer")?.found).toBe(`singularity-ce version 4.1.0 (${PATH}/singularity)`);
    expect(check("slurm")?.found).toBe(`slurm 23.11.4 (${PATH}/sbatch), sinfo not found, in job 4711`);
  });

  test("what quotas leave on scratch; used up is a failure, one that does not answer a warning", async () => {
    using at = healthy();
    const fakes = resolve(import.meta.dir, "../fakes/quota");
    const limits = join(at.dir, "limits");
    const env = { PATH: `${fakes}:${at.env.PATH}`, EF_FAKE_QUOTA: limits, EF_FAKE_QUOTA_DIR: at.scratch };
    const limit = (kib: number, files: number) =>
      writeFileSync(limits, `user ${process.geteuid?.()} 0 ${kib} 0 ${files} 0`);
    limit(2 ** 31, 1_000_000);
    const plenty = await doctor(at, { env });
    expect(plenty.check("quota")?.state).toBe("ok");
    expect(plenty.check("quota")?.found).toMatch(/^l?quota, user: \S+ of 2\.0T, \d+ of 1M files$/);
    limit(2 ** 31, 1);
    const full = await doctor(at, { env });
    expect(failed(full.checks)).toEqual(["quota"]);
    expect(full.check("quota")?.found).toContain("of 1 files (used up)");
    const late = await doctor(at, { env: { ...env, EF_FAKE_QUOTA_HANG: join(at.dir, "hang") } });
    expect(late.check("quota")?.state).toBe("warn");
    expect(late.check("quota")?.found).toContain("lquota: no answer within 4 s");
    const none = await doctor(at, { env: { PATH: pathWith(at, ["flock"]) } });
    expect(none.check("quota")).toEqual(
      expect.objectContaining({ state: "ok", found: "no limit known (no quota, lfs, lquota found)" }),
    );
  });

  test("SIGTERM while one of them hangs: stdout stays empty, scratch too", async () => {
    using at = healthy();
    const begun = join(at.dir, "begun");
    const PATH = pathWith(at, ["flock", "sleep"], { rsync: `: > '${begun}'; exec sleep 60` });
    const { stdout, code } = await at.ef(["doctor", "--json"], {
      env: { PATH },
      onStart: async (child) => {
        await until("the fake rsync", () => at.exists(begun));
        child.kill("SIGTERM");
      },
    });
    expect(stdout).toBe("");
    expect(readdirSync(at.scratch)).toEqual([]);
    expect(code).toBe(143);
  });
});

describe("shell", () => {
  test("a stale export", async () => {
    using at = healthy();
    const { check } = await doctor(at, { env: { HF_HOME: "/old/place" } });
    expect(check("exports")).toMatchObject({
      state: "warn",
      found: `HF_HOME is set to /old/place but config source is ${at.home}/hf`,
    });
    const fine = await doctor(at, { env: { HF_HOME: at.cache("HF_HOME") } });
    expect(fine.check("exports")?.state).toBe("ok");
  });

  test("another ef comes first on PATH, and euler-files is there", async () => {
    using at = healthy();
    const PATH = pathWith(at, ["rsync", "flock"], { ef: "exit 0", "euler-files": "exit 0" });
    const { check } = await doctor(at, { env: { PATH } });
    expect(check("PATH")?.state).toBe("warn");
    expect(check("PATH")?.found).toStartWith(`ef is ${PATH}/ef, and this is /`);
    expect(check("PATH")?.found).toEndWith(`euler-files is ${PATH}/euler-files`);
  });

  test.skipIf(!have("bash"))("a limit that bash set is seen", async () => {
    using at = healthy();
    const { stdout } = await at.sh("bash", "ulimit -n 512; ulimit -v 40000000; ef doctor --json");
    const { checks } = JSON.parse(stdout) as { checks: Check[] };
    const find = (name: string) => checks.find((each) => each.name === name);
    expect(find("open files")).toMatchObject({ state: "warn", found: "at most 512" });
    expect(find("address space")?.state).toBe("warn");
    expect(find("address space")?.found).toStartWith("limited to 39G");
  });
});

describe.skipIf(!haveSshd)("clusters", () => {
  test("each host answers, or why not, without a question", async () => {
    await using sshd = await startSshd();
    const odd = { ...sshd.cluster, port: 1 };
    const clusters = { here: { type: "local" }, near: sshd.cluster, odd };
    using at = healthy({ ef: { clusters } });
    const { check, code } = await doctor(at);
    expect(check("clusters")?.state).toBe("warn");
    expect(check("clusters")?.found).toMatch(/^near answers \(\d+\.\d s\); odd: Cannot reach .*Connection refused/);
    expect(check("clusters")?.fix).toContain("ef.clusters.odd.port");
    expect(check("ssh")?.state).toBe("ok");
    expect(code).toBe(0);
    expect(sshd.logins()).toBe(1);
  });

  test("nothing is asked where no cluster has a host", async () => {
    using at = healthy({ ef: { clusters: { here: { type: "local" } } } });
    const { check } = await doctor(at, { env: { PATH: pathWith(at, ["sh"]) } });
    expect(check("clusters")).toBeUndefined();
    expect(check("ssh")?.state).toBe("ok"); // not there, and not needed
  });
});
