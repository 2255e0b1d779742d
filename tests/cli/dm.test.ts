import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { Home, type Ran, until } from "../helpers.ts";
import { haveSlurm, slurmEnv, withSlurm } from "../slurm.ts";
import { Terminal } from "../terminal.ts";

/** The controller may take some seconds to start a batch job. */
setDefaultTimeout(60_000);

const fakes = resolve(import.meta.dir, "../fakes/dt");

/** A user of a site with dt* tools. */
function withTools(): Home {
  const at = new Home();
  Object.assign(at.env, { PATH: `${fakes}:${at.env.PATH}`, DT_STATE: join(at.dir, "dt") });
  return at;
}
const calls = (at: Home) => readFileSync(join(at.dir, "dt/calls"), "utf8");

/** A user of a site with Slurm only; the working directory is HOME. */
function onSlurm(datamover?: object): Home {
  const at = new Home();
  withSlurm(at);
  if (datamover) at.configure({}, { ef: { datamover } });
  return at;
}

/** The number of the one job of this name. */
function jobCalled(name: string): string | undefined {
  const env = { ...process.env, ...slurmEnv };
  const ids = Bun.spawnSync(["squeue", "-h", "-n", name, "-o", "%A"], { env }).stdout.toString().trim();
  return ids || undefined;
}

/** A program of a name that no other test uses: so its job has one too. */
function program(at: Home, name: string, script: string): string {
  const path = join(at.dir, name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

describe("the command line", () => {
  test.each<[string[], string[]]>([
    [
      ["cp", "-r", "a b", "--json"],
      ["dtcp", "--blocking", "-r", "a b", "--json"],
    ],
    [
      ["dtcp", "a"],
      ["dtcp", "--blocking", "a"],
    ],
    [
      ["cp", "--help"],
      ["dtcp", "--help"],
    ],
    [
      ["cp", "--version"],
      ["dtcp", "--version"],
    ],
    [
      ["rsync", "--config", "x", "-n", "--", "-h"],
      ["dtrsync", "--blocking", "--config", "x", "-n", "--", "-h"],
    ],
    [
      ["--account", "p", "--time=1:00", "ls"],
      ["dtls", "--blocking", "--account=p", "--time=1:00"],
    ],
    [
      ["--config=/nonexistent/x", "ls", "-"],
      ["dtls", "--blocking", "-"],
    ],
    [
      ["--", "mv", "wait"],
      ["dtmv", "--blocking", "wait"],
    ],
    [
      ["run", "rm", "x"],
      ["dtrm", "--blocking", "x"],
    ],
    [
      ["run", "--", "rm", "x"],
      ["dtrm", "--blocking", "x"],
    ],
    [
      ["tar", "-cf", "dm", "wait"],
      ["dttar", "--blocking", "-cf", "dm", "wait"],
    ],
    [["queue"], ["dtqueue"]],
  ])("ef dm %j", async (args, [tool, ...argv]) => {
    using at = withTools();
    const own = args[0] === "run" ? ["run", "--dry-run", "--json", ...args.slice(1)] : ["--dry-run", "--json", ...args];
    const { stdout, stderr, code } = await at.ef(["dm", ...own]);
    expect(stderr).toBe("");
    expect(JSON.parse(stdout).argv).toEqual([join(fakes, tool ?? ""), ...argv]);
    expect(code).toBe(0);
    expect(existsSync(join(at.dir, "dt"))).toBe(false);
  });

  test("a dry run can be pasted", async () => {
    using at = withTools();
    const { stdout } = await at.ef(["dm", "-n", "cp", "a b", "it's", "$HOME\n"]);
    const ran = await at.sh("sh", `set -- ${stdout}\nfor arg; do printf '[%s]' "$arg"; done`);
    expect(ran.stdout).toBe(`[${fakes}/dtcp][--blocking][a b][it's][$HOME\n]`);
  });

  test.each([
    [["dm", "--background"], "there is no tool to run"],
    [["dm", "run"], "there is no tool to run"],
    [["dm", "--json", "ls"], "stdout is that of the tool"],
    [["dm", "--nonsense", "ls"], "Unknown option '--nonsense'"],
    [["dm", "wait"], "ID is missing"],
    [["dm", "wait", "7"], "Cannot find job 7"],
    [["dm", "log", "../../x"], "Cannot find job ../../x"],
    [["dm", "wait", "--timeout", "soon", "7"], "not a number of seconds"],
  ])("ef %j: usage", async (args, why) => {
    using at = withTools();
    const { stderr, stdout, code } = await at.ef(args);
    expect(stderr + stdout).toContain(why);
    expect(code).toBe(2);
  });

  test("help: of ef dm, and of ef dm run", async () => {
    using at = withTools();
    for (const args of [
      ["dm", "--help"],
      ["help", "dm"],
    ]) {
      const { stdout, code } = await at.ef(args);
      expect(stdout).toContain("dm cancel");
      expect(code).toBe(0);
    }
    const { stdout } = await at.ef(["dm", "-v", "--help"]);
    expect(stdout).toContain("dm cancel");
    expect((await at.ef(["dm", "run", "--help"])).stdout).toContain("--background");
  });

  test("an argument that is not UTF-8 is refused", async () => {
    using at = withTools();
    const { stderr, code } = await at.sh("sh", "ef dm rm \"$(printf 'a\\377')\"");
    expect(stderr).toContain("not valid UTF-8");
    expect(code).toBe(2);
    expect(existsSync(join(at.dir, "dt"))).toBe(false);
  });
});

describe("with dt* tools", () => {
  test("a copy, and its exit code", async () => {
    using at = withTools();
    at.write("-a 'b\n", "content");
    const done = await at.ef(["dm", "cp", "--", "-a 'b\n", "to"]);
    expect(at.read(join(at.home, "to"))).toBe("content");
    expect(done.code).toBe(0);
    expect(calls(at)).toContain("dtcp [--blocking] [--] [-a 'b\n] [to]\n");
    const failed = await at.ef(["dm", "cp", "none", "to"]);
    expect(failed.stderr).toContain("cp: cannot stat 'none'");
    expect(failed.code).toBe(1);
  });

  test("a reader of its stderr that has gone does not stop the tool", async () => {
    using at = withTools();
    const own = join(at.dir, "own");
    mkdirSync(own);
    program(at, "own/dtls", "seq 100000 >&2; exit 4");
    at.configure({}, { ef: { datamover: { dir: own } } });
    const { stdout } = await at.sh("sh", '{ ef dm ls; echo "$?" >code; } 2>&1 >/dev/null | head -1; cat code');
    expect(stdout).toBe("1\n4\n");
  });

  test("tools in a configured directory; --background needs a partition", async () => {
    using at = new Home();
    at.env.DT_STATE = join(at.dir, "dt");
    at.configure({}, { ef: { datamover: { dir: "$TOOLS" } } });
    const env = { TOOLS: fakes, PATH: `${join(at.dir, "bin")}:/nonexistent` };
    expect((await at.ef(["dm", "-n", "ls"], { env })).stdout).toBe(`${fakes}/dtls --blocking\n`);
    const unset = await at.ef(["dm", "ls"], { env: { ...env, TOOLS: undefined } });
    expect(unset.stderr).toContain("TOOLS is not set");
    expect(unset.code).toBe(2);
    const { stderr, code } = await at.ef(["dm", "--background", "ls"], { env });
    expect(stderr).toContain("Slurm's programs are on PATH");
    expect(code).toBe(2);
  });

  test.each(["SIGINT", "SIGTERM"] as const)("%s ends the tool, and its job", async (signal) => {
    using at = withTools();
    mkdirSync(join(at.dir, "dt"));
    writeFileSync(join(at.dir, "dt/busy"), "");
    let sent: Promise<void> | undefined;
    const ran = await at.ef(["dm", "cp", "a", "b"], {
      onStart(child) {
        const isQueued = () => readdirSync(join(at.dir, "dt")).some((name) => name.startsWith("number-"));
        sent = until("the tool to run", isQueued).then(() => void child.kill(signal));
      },
    });
    await sent;
    expect(ran.stdout).toBe("");
    expect(ran.stderr).toContain(`stopped by ${signal}`);
    expect(ran.code).toBe(signal === "SIGINT" ? 130 : 143);
  });
});

test("neither dt* tools nor Slurm: an error that says what to do", async () => {
  using at = new Home();
  const { stderr, code } = await at.ef(["dm", "ls"], { env: { PATH: "/nonexistent" } });
  expect(stderr).toContain("neither dt* tools nor Slurm's programs are on PATH");
  expect(stderr).toContain("ef config set ef.datamover.dir DIR");
  expect(code).toBe(2);
});

describe("a job in the background that has ended", () => {
  function withJob(record: object = {}): Home {
    const at = new Home();
    const dir = join(at.home, ".local/state/ef/dm");
    mkdirSync(dir, { recursive: true });
    const output = join(dir, "x.out");
    const job = { id: "7", argv: ["cp", "a\nb"], cwd: "/w", partition: "dm", submittedMs: 1.7e12, output, ...record };
    writeFileSync(join(dir, "7.json"), JSON.stringify(job));
    writeFileSync(join(dir, "x.code"), "3\n");
    writeFileSync(output, "line\n".repeat(200_000));
    return at;
  }

  test("cancel says that it is over, and asks nobody", async () => {
    using at = withJob();
    const env = { PATH: "/nonexistent" };
    const { stderr, stdout, code } = await at.ef(["dm", "cancel", "7"], { env });
    expect([stderr, stdout, code]).toEqual(["job 7: it was over already: exit 3\n", "", 0]);
    expect(JSON.parse((await at.ef(["dm", "cancel", "7", "--json"], { env })).stdout)).toMatchObject({ was: "failed" });
  });

  test.each(["", "--follow"])("log %s: a reader that has gone is no error", async (follow) => {
    using at = withJob();
    const script = `set -o pipefail; ef dm log ${follow} 7 | head -1; echo "$?"`;
    const { stderr, stdout } = await at.sh("bash", script);
    expect([stderr, stdout]).toEqual(["", "line\n0\n"]);
  });

  test("a damaged record is left out", async () => {
    using at = withJob({ submittedMs: "today" });
    const { stderr, stdout, code } = await at.ef(["dm", "status"]);
    expect([stderr, stdout.trimEnd().split("\n").length, code]).toEqual(["", 1, 0]);
    expect((await at.ef(["dm", "wait", "7"])).code).toBe(2);
  });
});

describe.skipIf(!haveSlurm)("on Slurm [needs Slurm]", () => {
  test("bytes, order, exit code and stderr pass through [needs Slurm]", async () => {
    using at = onSlurm();
    const bytes = crypto.getRandomValues(new Uint8Array(100_000));
    writeFileSync(join(at.home, "binary"), bytes);
    const same = await at.sh("sh", "ef dm cat binary | cmp - binary && ef dm seq 1 30000 | cksum; seq 1 30000 | cksum");
    const [one, two] = same.stdout.trim().split("\n");
    expect([same.stderr, one]).toEqual(["", two as string]);
    const errors = await at.sh("sh", "ef dm sh -c 'printf \"\\377\\n\" >&2; exit 255' 2>&1 >/dev/null | od -c");
    expect(errors.stdout).toContain("377  \\n");
    for (const [script, code] of [
      ["exit 255", 255],
      ["kill -9 $$", 137],
    ] as const) {
      expect((await at.ef(["dm", "sh", "-c", script])).code).toBe(code);
    }
  });

  test("hostile names, as they are [needs Slurm]", async () => {
    using at = onSlurm();
    const names = ["a b", "it's", 'q"', "n\nl", "-r", "$HOME", "é*"];
    for (const [i, name] of names.entries()) at.write(name, String(i));
    mkdirSync(join(at.home, "to"));
    const { stderr, code } = await at.ef(["dm", "cp", "--", ...names, "to"]);
    expect([stderr, code]).toEqual(["", 0]);
    expect(readdirSync(join(at.home, "to")).sort()).toEqual([...names].sort());
  });

  test("what cannot be run at all: why, once, and exit 1 [needs Slurm]", async () => {
    using at = onSlurm();
    const { stderr, stdout, code } = await at.ef(["dm", "--partition", "nope", "ls"]);
    expect(stderr.match(/Invalid partition name/g)).toHaveLength(1);
    expect(stderr).toContain("error: Cannot run ls on the data mover\n");
    expect([stdout, code]).toEqual(["", 1]);
    const missing = await at.ef(["dm", "ef-no-such-tool"]);
    expect(missing.stderr).toContain("the data mover has no program ef-no-such-tool");
    expect(missing.code).toBe(1);
  });

  test("stdin only for a tool that is told to read it [needs Slurm]", async () => {
    using at = onSlurm();
    const { stdout } = await at.sh("sh", "printf 'a\\nb\\n' | while read -r line; do ef dm echo \"$line\"; done");
    expect(stdout).toBe("a\nb\n");
    expect((await at.ef(["dm", "cat", "-"], { stdin: "input" })).stdout).toBe("input");
  });

  test("in a job: a job of its own, on the movers [needs Slurm]", async () => {
    using at = onSlurm();
    const script = 'ef dm sh -c "echo \\$SLURM_JOB_ID \\$SLURM_JOB_PARTITION \\$SLURM_NTASKS"; echo "$SLURM_JOB_ID"';
    const { stdout, stderr } = await at.sh(
      "sh",
      `srun --partition=normal --nodes=1 --ntasks=2 --label sh -c '[ "$SLURM_PROCID" = 1 ] || exit 0; ${script}'`,
    );
    expect(stderr).toBe("");
    const [mover, own] = stdout.trim().split("\n");
    expect(mover).toMatch(/^1: \d+ datamover 1$/);
    expect(mover?.split(" ")[1]).not.toBe(own?.split(" ")[1] as string);
  });

  describe("stopped", () => {
    /** `ef dm NAME`, which gets a signal when its job is in the queue. */
    async function stopped(at: Home, name: string, signal: NodeJS.Signals): Promise<Ran> {
      let sent: Promise<void> | undefined;
      const ran = await at.ef(["dm", program(at, name, "exec sleep 600")], {
        onStart(child) {
          sent = until("its job", () => jobCalled(`ef-dm-${name}`)).then(() => void child.kill(signal));
        },
      });
      await sent;
      return ran;
    }

    test.each([
      ["SIGINT", 130, "running"],
      ["SIGTERM", 143, "running"],
      ["SIGINT", 130, "queued"],
      ["SIGTERM", 143, "queued"],
    ] as const)("%s: exit %d, and no job is left that is %s [needs Slurm]", async (signal, code, what) => {
      using at = onSlurm(what === "queued" ? { srun_args: ["--begin=now+1hour"] } : {});
      const name = `ef-${what}-${signal}`;
      const ran = await stopped(at, name, signal);
      expect(ran.stderr).toContain(`stopped by ${signal}`);
      expect(ran.code).toBe(code);
      await until("the job to be gone", () => jobCalled(`ef-dm-${name}`) === undefined);
    });

    test("Ctrl-C at a terminal, once [needs Slurm]", async () => {
      using at = onSlurm();
      const path = program(at, "ef-ctrl-c", "exec sleep 600");
      await using terminal = await Terminal.open(at, `ef dm '${path}'`);
      await until("its job", () => jobCalled("ef-dm-ef-ctrl-c"));
      await terminal.press("C-c");
      await terminal.shows("code=130");
      await until("the job to be gone", () => jobCalled("ef-dm-ef-ctrl-c") === undefined);
    });
  });

  describe("in the background", () => {
    const json = ({ stdout }: Ran) => JSON.parse(stdout);
    async function submit(at: Home, ...args: string[]): Promise<string> {
      const { stdout, stderr, code } = await at.ef(["dm", "--background", ...args]);
      expect([stderr, code]).toEqual(["", 0]);
      expect(stdout).toMatch(/^\d+\n$/);
      return stdout.trim();
    }

    test("wait ends with the tool's exit code, log prints what it printed [needs Slurm]", async () => {
      using at = onSlurm();
      const id = await submit(
        at,
        "sh",
        "-c",
        'printf "%s|" "$PWD" "$@"; printf "\\377" >&2; exit 9',
        "sh",
        "a b\n#BSUB -J x",
        "'",
      );
      const { code, stdout } = await at.ef(["dm", "wait", id]);
      expect([code, stdout]).toEqual([9, ""]);
      const log = await at.sh("sh", `ef dm log ${id} | od -An -c | tr -d ' \\n'`);
      expect(log.stdout).toBe(`${at.home}|a b\\n#BSUB -J x|'|377`.replaceAll(" ", ""));
      const status = json(await at.ef(["dm", "status", id, "--json"]));
      expect(status.jobs).toMatchObject([
        { job_id: id, state: "failed", exit_code: 9, partition: "datamover", cwd: at.home },
      ]);
      expect(json(await at.ef(["dm", "wait", id, "--json"]))).toMatchObject({ ok: false, exit_code: 9 });
      const table = (await at.ef(["dm", "status"])).stdout.trimEnd().split("\n");
      expect(table).toHaveLength(2); // one line a job, whatever its arguments
      expect(table[1]).toStartWith(`${id} `);
      expect(table[1]).toContain("exit 9");
    });

    test("its files are for nobody else [needs Slurm]", async () => {
      using at = onSlurm();
      const id = await submit(at, "true");
      await at.ef(["dm", "wait", id]);
      const dir = join(at.home, ".local/state/ef/dm");
      expect(statSync(dir).mode & 0o777).toBe(0o700);
      const files = readdirSync(dir);
      expect(files).toHaveLength(3);
      for (const file of files) expect(statSync(join(dir, file)).mode & 0o777).toBe(0o600);
    });

    test("the exit code is known after Slurm has forgotten the job [needs Slurm]", async () => {
      using at = onSlurm();
      const id = await submit(at, "sh", "-c", "exit 5");
      expect((await at.ef(["dm", "wait", id])).code).toBe(5);
      const without = { PATH: `${join(at.dir, "bin")}:/nonexistent`, SLURM_CONF: undefined };
      expect((await at.ef(["dm", "wait", id], { env: without })).code).toBe(5);
    });

    test("log --follow goes on until the end [needs Slurm]", async () => {
      using at = onSlurm();
      const id = await submit(at, "sh", "-c", "echo begun; until [ -e go ]; do sleep 0.05; done; echo ended");
      let text = "";
      const ran = at.ef(["dm", "log", "--follow", id], {
        onStart: (child) => child.stdout?.on("data", (chunk) => (text += chunk)),
      });
      await until("its first line", () => text === "begun\n");
      at.write("go", "");
      expect((await ran).stdout).toBe("begun\nended\n");
      expect((await ran).code).toBe(0);
    });

    test("a timeout leaves the job, cancel ends it, wait says so [needs Slurm]", async () => {
      using at = onSlurm();
      const id = await submit(at, "sleep", "600");
      const late = await at.ef(["dm", "wait", "--timeout", "0.1", id]);
      expect(late.stderr).toContain(`Cannot wait longer than 0.1 s for job ${id}`);
      expect(late.code).toBe(1);
      await until(
        "it to run",
        async () => json(await at.ef(["dm", "status", id, "--json"])).jobs[0].state === "running",
      );
      expect((await at.ef(["dm", "cancel", id])).code).toBe(0);
      const { stderr, code } = await at.ef(["dm", "wait", id]);
      expect(stderr).toContain(`job ${id} left no exit code: cancelled`);
      expect(code).toBe(1);
      const again = await at.ef(["dm", "cancel", id]);
      expect([again.stderr, again.code]).toEqual([`job ${id}: it was over already: cancelled\n`, 0]);
    });

    test("cancelled while it waits for resources [needs Slurm]", async () => {
      using at = onSlurm({ srun_args: ["--begin=now+1hour"] });
      const id = await submit(at, "true");
      expect((await at.ef(["dm", "status"])).stdout).toContain("pending (BeginTime)");
      expect((await at.ef(["dm", "log", id])).stdout).toBe("");
      await at.ef(["dm", "cancel", id]);
      const { stderr, code } = await at.ef(["dm", "wait", id]);
      expect(stderr).toContain("cancelled");
      expect(code).toBe(1);
    });

    test("a stop while waiting leaves the job [needs Slurm]", async () => {
      using at = onSlurm({ srun_args: ["--begin=now+1hour"] });
      const id = await submit(at, "true");
      const { code } = await at.ef(["dm", "wait", id], {
        onStart: (child) => child.stderr?.once("data", () => child.kill("SIGINT")),
      });
      expect(code).toBe(130);
      expect(json(await at.ef(["dm", "status", id, "--json"])).jobs[0].state).toBe("pending");
      await at.ef(["dm", "cancel", id]);
    });

    test("a tool that the mover does not have never ran [needs Slurm]", async () => {
      using at = onSlurm();
      const id = await submit(at, "ef-no-such-tool");
      const { stderr, code } = await at.ef(["dm", "wait", id]);
      expect(stderr).toContain("left no exit code: failed");
      expect(code).toBe(1);
      expect((await at.ef(["dm", "log", id])).stdout).toBe("ef: the data mover has no program ef-no-such-tool\n");
    });

    test("doctor says by what the movers are reached [needs Slurm]", async () => {
      using at = onSlurm();
      at.configure({});
      const line = async () =>
        json(await at.ef(["doctor", "--json"])).checks.find((check: { name: string }) => check.name === "data mover");
      expect(await line()).toMatchObject({ state: "ok", found: "partition datamover, by its name" });
      at.configure({}, { ef: { datamover: { partition: "nope" } } });
      expect(await line()).toMatchObject({ state: "warn", found: "there is no partition nope" });
    });
  });
});
