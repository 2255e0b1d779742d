import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { checkConfig } from "../../lib/config/store.ts";
import { Datamover, waitfor } from "../../lib/datamover.ts";
import { dtArgv, moveScript, needsCwd, parseStart } from "../../lib/drivers/dt.ts";
import { until } from "../helpers.ts";
import { haveSlurm, slurmEnv } from "../slurm.ts";

const fakes = resolve(import.meta.dir, "../fakes/dt");
const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef dm "));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const state = join(dir, "state");
const env = { PATH: `${fakes}:${process.env.PATH}`, HOME: dir, DT_STATE: state };
/** What the fakes were called with. */
const calls = () => readFileSync(join(state, "calls"), "utf8");

beforeEach(() => rmSync(state, { recursive: true, force: true }));

/** What it is rejected with. */
const failure = (promise: Promise<unknown>): Promise<Error & { hint?: string }> =>
  promise.then(
    () => expect.unreachable(),
    (error) => error,
  );

describe("command lines", () => {
  const settings = { blocking: true, account: undefined, time: undefined };
  test.each([
    ["/x/dtcp", ["-r", "--", "a"], settings, ["/x/dtcp", "--blocking", "-r", "--", "a"]],
    ["/x/dtcp", ["a"], { ...settings, blocking: false }, ["/x/dtcp", "a"]],
    [
      "/x/dtcp",
      ["a"],
      { ...settings, account: "p", time: "1" },
      ["/x/dtcp", "--blocking", "--account=p", "--time=1", "a"],
    ],
    ["/x/dtqueue", [], { ...settings, account: "p" }, ["/x/dtqueue"]],
    ["/x/dtls", ["--help"], settings, ["/x/dtls", "--help"]],
    ["/x/dtls", ["--help", "x"], settings, ["/x/dtls", "--blocking", "--help", "x"]],
  ])("%s %j", (path, args, options, argv) => {
    expect(dtArgv(path, args, options)).toEqual(argv);
  });

  test.each([
    [["-r", "/a", "/b"], false],
    [["-a", "--delete", "--exclude-from=/x", "/a", "/b"], false],
    [["-rf", "data"], true],
    [["-lh"], true],
    [[], true],
    [["/a", "."], true],
    [["--target-directory=b", "/a"], true],
    [["-tb", "/a"], true],
    [["-Cdir", "-cf", "/a"], true],
    [["host:a", "/b"], true],
    [["/a", "-"], false],
  ])("does %j depend on the working directory?", (args, expected) => {
    expect(needsCwd(args)).toBe(expected);
  });

  test.each([
    ["ef-dm: job 12 on dm1", { jobId: "12", node: "dm1" }],
    ["ef-dm: job 12 on dm1 and more", undefined],
    ["srun: job 12 queued and waiting for resources", undefined],
  ])("start: %s", (line, expected) => {
    expect(parseStart(line)).toEqual(expected as never);
  });
});

describe("with dt* tools", () => {
  const dm = new Datamover({ env });

  test("the site's tools, on PATH and in a directory", async () => {
    const all = ["dtcancel", "dtcp", "dtinfo", "dtls", "dtmv", "dtq", "dtqueue", "dtrm", "dtrsync", "dttar", "dtwget"];
    expect(await dm.tools()).toEqual(all);
    expect(await new Datamover({ env: { PATH: "/usr/bin" }, dir: fakes }).tools()).toEqual(all);
    expect(await new Datamover({ env: { PATH: "/usr/bin:/bin" } }).tools()).toEqual([]);
  });

  test("a tool that only this site has is a method too", async () => {
    const own = join(dir, "own");
    mkdirSync(own);
    for (const name of ["dtls", "dtown"]) {
      writeFileSync(join(own, name), `#!/bin/sh\necho ${name} "$@"\n`);
      chmodSync(join(own, name), 0o755);
    }
    const site = new Datamover({ env, dir: own });
    expect(await site.tools()).toEqual(["dtls", "dtown"]);
    expect((await site.dtown?.("x").communicate())?.stdout).toBe("dtown --blocking x\n");
    expect((await site.run("own", "y").communicate()).stdout).toBe("dtown --blocking y\n");
  });

  test("the README of taurus-datamover", async () => {
    const help = await dm.dtls("--help").communicate();
    expect(help.stdout).toStartWith("Usage: ls [OPTION]... [FILE]...");
    mkdirSync(join(dir, "grp/data"), { recursive: true });
    mkdirSync(join(dir, "projects"));
    writeFileSync(join(dir, "grp/data/file"), "content");

    mkdirSync(state, { recursive: true });
    writeFileSync(join(state, "busy"), "");
    const proc = dm.dtls("-lh", join(dir, "grp"));
    await until("the job to be queued", () => proc.poll() === null && proc.jobId);
    expect(proc.pid).toBeNumber();
    expect(proc.jobId).toMatch(/^2754\d+$/);
    rmSync(join(state, "busy"));
    expect(await waitfor(proc)).toBe(0);
    expect(proc.poll()).toBe(0);
    const { stdout, stderr } = await proc.communicate();
    expect(stdout).toMatch(/^total .*\n.* data\n$/);
    expect(stderr).toContain("has been allocated resources\n");

    expect(await waitfor(dm.dtcp("-r", join(dir, "grp/data"), join(dir, "projects/")))).toBe(0);
    expect(readFileSync(join(dir, "projects/data/file"), "utf8")).toBe("content");
    expect(await waitfor(dm.dtrm("-r", join(dir, "projects/data")))).toBe(0);
    expect(existsSync(join(dir, "projects/data"))).toBe(false);
    expect(calls()).toContain(`dtcp [--blocking] [-r] [${dir}/grp/data] [${dir}/projects/]\n`);
  });

  test("the exit code of the tool, and its stderr", async () => {
    const { code, stderr, stdout } = await dm.dtcp("-r", "/nonexistent/x", dir).communicate();
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain("cp: cannot stat '/nonexistent/x'");
  });

  test("not blocking: the submission's exit code", async () => {
    writeFileSync(join(dir, "from"), "x");
    const proc = new Datamover({ env, blocking: false }).dtcp(join(dir, "from"), join(dir, "to"));
    const { stdout, code } = await proc.communicate();
    expect(stdout).toMatch(/^Submitted batch job \d+\n$/);
    expect(code).toBe(0);
    expect(calls()).not.toContain("--blocking");
  });

  test("waitfor shows dots, and each line of stderr on a line of its own", async () => {
    mkdirSync(state, { recursive: true });
    writeFileSync(join(state, "busy"), "");
    let text = "";
    const waiting = waitfor(dm.dtls(dir), { dots: true, write: (piece) => (text += piece) });
    await until("two dots", () => text.includes(".."));
    rmSync(join(state, "busy"));
    expect(await waiting).toBe(0);
    expect(text).toMatch(/^Waiting \.\nsrun: job \d+ queued and waiting for resources\n\.+\nsrun: job \d+ has been/);
    expect(text).toEndWith("disregarding --pty option\n");
  });

  test("waitfor without dots, for a log", async () => {
    let text = "";
    expect(await waitfor(dm.dtls("/nonexistent/x"), { dots: undefined, write: (piece) => (text += piece) })).toBe(2);
    expect(text).toMatch(/^srun: job .*\n(?:srun: .*\n){3}ls: cannot access .*\n$/);
  });

  test("a timeout: wait leaves it running, waitfor ends it, dtcancel cancels its job", async () => {
    mkdirSync(state, { recursive: true });
    writeFileSync(join(state, "busy"), "");
    const proc = dm.dtls(dir);
    await until("the job to be queued", () => proc.poll() === null && proc.jobId);
    expect(await failure(proc.wait({ timeoutS: 0.01 }))).toMatchObject({ code: "TIMEOUT" });
    expect(proc.poll()).toBeNull();
    expect(await failure(waitfor(proc, { timeoutS: 0.01 }))).toMatchObject({ code: "TIMEOUT" });
    expect(proc.poll()).toBe(143);
    expect(calls()).toContain(`dtcancel [${proc.jobId}]\n`);
  });

  test("a stop by signal, before and while it runs", async () => {
    const before = dm.start("ls", [dir], { signal: AbortSignal.abort(new Error("enough")) });
    expect((await failure(before.wait())).message).toBe("enough");
    mkdirSync(state, { recursive: true });
    writeFileSync(join(state, "busy"), "");
    const stop = new AbortController();
    const proc = dm.start("ls", [dir], { signal: stop.signal });
    await until("the job to be queued", () => proc.poll() === null && proc.jobId);
    stop.abort(new Error("enough"));
    expect((await failure(proc.wait())).message).toBe("enough");
    expect(() => process.kill(proc.pid as number, 0)).toThrow("ESRCH");
  });

  test("what nobody reads is kept from its end, and who reads gets all", async () => {
    const own = join(dir, "loud");
    mkdirSync(own);
    writeFileSync(join(own, "dtls"), "#!/bin/sh\nseq 1 3000000\n");
    chmodSync(join(own, "dtls"), 0o755);
    const loud = new Datamover({ env, dir: own });
    const whole = Buffer.byteLength((await loud.dtls().communicate()).stdout);
    expect(whole).toBe(22_888_896);
    const proc = loud.dtls();
    expect(await proc.wait()).toBe(0);
    const { stdout, lostBytes } = await proc.communicate();
    expect(stdout).toEndWith("\n2999999\n3000000\n");
    expect(lostBytes + stdout.length).toBe(whole);
    expect(stdout.length).toBeGreaterThanOrEqual(16 * 2 ** 20);
    const reader = loud.dtls();
    let bytes = 0;
    for await (const chunk of reader.stdout) bytes += chunk.length;
    expect([bytes, await reader.wait()]).toEqual([whole, 0]);
    const late = loud.dtls();
    await until("it to have printed something", () => late.poll() === 0);
    let text = "";
    for await (const chunk of late.stdout) text += chunk;
    expect(text).toEndWith("\n2999999\n3000000\n");
  });
});

describe("without dt* tools", () => {
  const path = (process.env.PATH ?? "")
    .split(":")
    .filter((entry) => entry !== fakes)
    .join(":");
  const slurm = { PATH: path, HOME: dir, ...slurmEnv };

  test("no Slurm either: an error that says so", async () => {
    const proc = new Datamover({ env: { PATH: join(dir, "nothing") } }).dtls("/");
    expect(await failure(proc.wait())).toMatchObject({ code: "TOOL_MISSING", exit: 2 });
    expect(() => proc.poll()).toThrow("neither dt* tools nor Slurm's programs are on PATH");
    expect((await failure(proc.communicate())).message).toContain("neither dt* tools");
  });

  test("no partition with a usual name: an error with the setting", async () => {
    const bin = join(dir, "sinfo");
    mkdirSync(bin);
    writeFileSync(join(bin, "sinfo"), "#!/bin/sh\nprintf 'transfer*|up\\ngpu|up\\n'\n");
    chmodSync(join(bin, "sinfo"), 0o755);
    const error = await failure(new Datamover({ env: { PATH: bin } }).dtls("/").wait());
    expect(error).toMatchObject({ code: "USAGE", exit: 2 });
    expect(error.message).toContain("(transfer, gpu)"); // the default partition is no mover
    expect(error.hint).toContain("ef config set ef.datamover.partition NAME");
  });

  test("the settings of the configuration, and those that win over it", async () => {
    const raw = {
      ...{ version: 1, scratch_base: "/s" },
      ef: { datamover: { partition: "dtn", account: "p", time: "1:00", srun_args: ["--qos=x"], dir: "$HOME/none" } },
    };
    const dm = Datamover.fromConfig(checkConfig(raw, "test"), { env: slurm, account: "q", time: undefined });
    const { argv, shown } = await dm.prepare("dtcp", ["-r", "a"]);
    const options = [
      "--partition=dtn",
      "--nodes=1",
      "--ntasks=1",
      "--job-name=ef-dm-cp",
      "--chdir=/",
      "--account=q",
      "--time=1:00",
    ];
    expect(shown).toEqual(["srun", ...options, "--qos=x", "--", "cp", "-r", "a"]);
    expect(argv.slice(-5)).toEqual([process.cwd(), "here", "cp", "-r", "a"]);
    expect(dm.options.dir).toBe(join(dir, "none"));
  });

  test("within a job, its variables are taken out", async () => {
    const job = { ...slurm, SLURM_JOB_ID: "7", SLURM_JOB_NODELIST: "n1", SLURM_CONF: "/conf" };
    const prepared = await new Datamover({ env: job, partition: "p" }).prepare("ls", []);
    expect(prepared.env).toEqual({ ...slurm, SLURM_CONF: "/conf" });
  });

  test("the script of a job writes the exit code, or says why nothing ran", () => {
    const output = join(dir, "it's %j\n#BSUB -J x.out");
    const code = join(dir, "it's.code");
    const sh = (move: Parameters<typeof moveScript>[0]) =>
      Bun.spawnSync(["sh", "-c", moveScript(move, output, code)]).exitCode;
    expect(sh({ tool: "sh", args: ["-c", 'pwd; printf "%s" "$1" >&2; exit 255', "sh", "a\n#PBS b"], cwd: dir })).toBe(
      255,
    );
    expect(readFileSync(output, "utf8")).toBe(`${dir}\na\n#PBS b`);
    expect(readFileSync(code, "utf8")).toBe("255\n");
    rmSync(code);
    // Ended by a signal to all of the job: what Slurm says of it counts. A tool that got through all the same is whole.
    expect(sh({ tool: "sh", args: ["-c", "kill -TERM $PPID; exit 3"], cwd: dir })).toBe(3);
    expect(existsSync(code)).toBe(false);
    expect(sh({ tool: "sh", args: ["-c", "kill -TERM $PPID"], cwd: dir })).toBe(0);
    expect(readFileSync(code, "utf8")).toBe("0\n");
    rmSync(code);
    // The programs, not what a shell has of the same name.
    expect(sh({ tool: "echo", args: ["-e", "a\\tb"], cwd: dir })).toBe(0);
    expect(readFileSync(output, "utf8")).toBe("a\tb\n");
    expect(sh({ tool: "exit", args: ["3"], cwd: dir })).toBe(127);
    expect(readFileSync(code, "utf8")).toBe("127\n");
    rmSync(code);
    expect(sh({ tool: "-x", args: [], cwd: dir })).toBe(1);
    expect(readFileSync(output, "utf8")).toBe("ef: the data mover has no program -x\n");
    expect(sh({ tool: "rm", args: ["-r", "data"], cwd: "/nonexistent/x" })).toBe(1);
    expect(readFileSync(output, "utf8")).toBe(
      "ef: the data mover has no directory /nonexistent/x: use absolute paths\n",
    );
    expect(sh({ tool: "ef-no-such", args: ["/x"], cwd: "/nonexistent/x" })).toBe(1);
    expect(readFileSync(output, "utf8")).toBe("ef: the data mover has no program ef-no-such\n");
    expect(existsSync(code)).toBe(false);
  });

  /** srun as it was seen to behave: what it runs, and what is done to it. */
  function withSrun(name: string, script: string): Datamover {
    const bin = join(dir, name);
    mkdirSync(bin);
    writeFileSync(join(bin, "srun"), `#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\n${script}\n`);
    chmodSync(join(bin, "srun"), 0o755);
    return new Datamover({ env: { ...slurm, PATH: `${bin}:${path}` }, partition: "p" });
  }

  test("a node that fails is no success, though srun ends with 0", async () => {
    const dm = withSrun("failing", "echo 'ef-dm: job 5 on n1' >&2; echo 'srun: error: Node failure on n1' >&2; exit 0");
    const error = await failure(dm.run("cp", "/a", "/b").wait());
    expect(error).toMatchObject({ code: "TOOL_FAILED" });
    expect(error.message).toBe(
      "Cannot tell the end of cp: its job on the data mover ended first\n    srun: error: Node failure on n1",
    );
  });

  test.each([
    ["x", "x"],
    ["a line\n", "a line\n"],
    ["the", "the"], // as the telling of the end begins
    ["ef-dm: exi", "ef-dm: exi"],
    ["ef-dm: exit 5\nef-dm abc: exit 5\n", "ef-dm: exit 5\nef-dm abc: exit 5\n"], // an ef dm within ef dm
  ])("stderr %j passes through, in pieces too", async (text, expected) => {
    const dm = withSrun(
      `pieces ${Bun.hash(text)}`,
      '"$@" 2>&1 >/dev/null | while IFS= read -r line; do printf "%s\\n" "$line" >&2; sleep 0.01; done',
    );
    const { stderr, code } = await dm.run("sh", "-c", 'printf "%s" "$1" >&2; exit 7', "sh", text).communicate();
    expect([stderr, code]).toEqual([expected, 7]);
  });

  describe.skipIf(!haveSlurm)("on Slurm [needs Slurm]", () => {
    const dm = new Datamover({ env: slurm });
    const queued = new Datamover({ env: slurm, srunArgs: ["--begin=now+1hour"] });

    test("a tool, its output, its node and its job [needs Slurm]", async () => {
      const proc = dm.run(
        "sh",
        "-c",
        'printf "%s|" "$SLURM_JOB_PARTITION" "$PWD" "$@"; echo e >&2',
        "sh",
        "a b",
        "",
        "n\n",
        "-x",
      );
      expect(proc.poll()).toBeNull();
      const { stdout, stderr, code } = await proc.communicate();
      expect(stdout).toBe(`datamover|${process.cwd()}|a b||n\n|-x|`);
      expect(stderr).toBe("e\n");
      expect([code, proc.node]).toEqual([0, "dm1"]);
      expect(proc.jobId).toMatch(/^\d+$/);
    });

    test.each([
      ["exit 1", 1],
      ["exit 255", 255],
      ["kill -9 $$", 137],
      ["kill -15 $$", 143],
    ])("the true exit code: %s [needs Slurm]", async (script, code) => {
      expect(await dm.run("sh", "-c", script).wait()).toBe(code);
    });

    test("what was never run is an error, not an exit code [needs Slurm]", async () => {
      const failing: [Datamover, string, string][] = [
        [new Datamover({ env: slurm, partition: "nope" }), "ls", "Invalid partition"],
        [dm, "ef-no-such", "the data mover has no program ef-no-such"],
        [new Datamover({ env: slurm, cwd: "/nonexistent/x" }), "ls", "no directory /nonexistent/x"],
      ];
      for (const [mover, tool, why] of failing) {
        const error = await failure(mover.run(tool, "data").wait());
        expect(error).toMatchObject({ code: "TOOL_FAILED", exit: 1 });
        expect(error.message).toContain(why);
      }
    });

    test("a working directory that the mover does not have is no matter for absolute paths [needs Slurm]", async () => {
      const { stdout } = await new Datamover({ env: slurm, cwd: "/nonexistent/x" }).dtls("-d", dir).communicate();
      expect(stdout).toBe(`${dir}\n`);
    });

    test("thousands of lines in order, and bytes as they are [needs Slurm]", async () => {
      const { stdout } = await dm.run("seq", "1", "20000").communicate();
      expect(stdout).toBe(Array.from({ length: 20_000 }, (_, i) => `${i + 1}\n`).join(""));
      const file = join(dir, "binary");
      const bytes = crypto.getRandomValues(new Uint8Array(60_000));
      writeFileSync(file, bytes);
      const chunks: Buffer[] = [];
      for await (const chunk of dm.run("cat", file).stdout) chunks.push(chunk);
      expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
    });

    test("a user's settings of srun do not change what it prints [needs Slurm]", async () => {
      const labels = { ...slurm, SLURM_LABELIO: "1", SLURM_STDOUTMODE: "none" };
      const { stdout, code } = await new Datamover({ env: labels }).run("echo", "-e", "a\\tb").communicate();
      expect([stdout, code]).toEqual(["a\tb\n", 0]);
    });

    test("kill: one that runs, one that waits for resources; the jobs are gone [needs Slurm]", async () => {
      const ids: string[] = [];
      for (const mover of [dm, queued]) {
        const proc = mover.run("sleep", "600");
        ids.push(await until("its job", () => proc.poll() === null && proc.jobId));
        await proc.kill();
        expect(await proc.wait()).toBe(143);
      }
      const left = () => Bun.spawnSync(["squeue", "-h", "-o", "%A"], { env: slurm }).stdout.toString().split("\n");
      await until("the queue to be without them", () => !left().some((id) => ids.includes(id)));
    });

    test("a job that somebody cancels: no exit code of the tool's where it never ran, 143 where it did [needs Slurm]", async () => {
      const cancel = (id: string) => Bun.spawnSync(["scancel", id], { env: slurm });
      const running = dm.run("sleep", "600");
      cancel(await until("its job", () => running.poll() === null && running.node && running.jobId));
      expect(await running.wait()).toBe(143);
      const waiting = queued.run("sleep", "600");
      cancel(await until("its job", () => waiting.poll() === null && waiting.jobId));
      expect((await failure(waiting.wait())).message).toContain("Job has been cancelled");
    });

    test("disposed: the job is cancelled [needs Slurm]", async () => {
      let proc: ReturnType<typeof dm.run> | undefined;
      {
        await using held = dm.run("sleep", "600");
        proc = held;
        await until("its job", () => held.poll() === null && held.jobId);
      }
      expect(proc.poll()).toBe(143);
    });
  });
});
