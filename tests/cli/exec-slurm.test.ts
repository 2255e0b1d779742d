/** ef exec and ef sync in jobs of a real Slurm. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, run } from "../helpers.ts";
import { haveSlurm, withSlurm } from "../slurm.ts";

/** A job may have to wait for those of other tests, in milliseconds. */
setDefaultTimeout(120_000);

/** As `until` of the helpers, and as long as the test may last: jobs of others may be on the nodes. */
async function until(what: string, ready: () => boolean | Promise<boolean>): Promise<void> {
  const limit = Date.now() + 110_000;
  while (!(await ready())) {
    if (Date.now() > limit) throw new Error(`waited in vain for ${what}`);
    await Bun.sleep(50);
  }
}

/** A job's output is read by name; nothing in its path needs quoting. */
function cluster(): Home {
  const at = new Home({ "hf/model": "old", "hf/half": "old" }, "ef-slurm-");
  at.configure({ HF_HOME: "hf" });
  withSlurm(at);
  return at;
}

class Job implements AsyncDisposable {
  private constructor(
    readonly at: Home,
    readonly id: string,
  ) {}

  static async submit(at: Home, script: string, ...options: string[]): Promise<Job> {
    const file = at.write("job.sh", `#!/bin/bash\n${script}\n`);
    const argv = ["sbatch", "--parsable", `--output=${at.dir}/out.%j`, ...options, file];
    const { stdout, stderr, code } = await run(argv, { cwd: at.home, env: at.env });
    expect([code, stderr]).toEqual([0, ""]);
    return new Job(at, stdout.trim());
  }

  /** What it said so far; of an array, all of its tasks. */
  output(): string {
    const names = readdirSync(this.at.dir).filter((name) => name.startsWith("out."));
    return names.map((name) => readFileSync(join(this.at.dir, name), "utf8")).join("");
  }

  slurm(...argv: string[]): Promise<{ stdout: string; stderr: string; code: number }> {
    return run(argv, { env: this.at.env });
  }

  async ended(): Promise<void> {
    await until("the end of the job", async () => {
      const { stdout } = await this.slurm("squeue", "-h", "-j", this.id);
      return stdout.trim() === "";
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.slurm("scancel", this.id);
    await this.ended();
  }
}

/** Until `end` is there, unless a signal ends it earlier; what it wrote a minute ago is settled. */
const work = (at: Home, traps: string) => `
${traps}
echo new >$HF_HOME/model; touch -d '1 minute ago' $HF_HOME/model
echo ha >$HF_HOME/half
touch '${at.dir}/works' "${at.dir}/works.$SLURM_PROCID"
until [ -e '${at.dir}/end' ]; do sleep 0.1; done
echo whole >$HF_HOME/half
exit 7`;

const source = (at: Home, name: string) =>
  existsSync(join(at.home, "hf", name)) ? readFileSync(join(at.home, "hf", name), "utf8").trim() : undefined;

async function submitWork(at: Home, traps: string, before = "", ...options: string[]): Promise<Job> {
  at.write("work.sh", work(at, traps));
  // `|| :` would keep the shell; exec makes ef what Slurm signals.
  return Job.submit(at, `${before}\nexec ef exec --push -- bash "$HOME/work.sh"`, "--time=5", ...options);
}

describe.skipIf(!haveSlurm)("ef exec --push in a job [needs Slurm]", () => {
  test("the signal of --signal=B:USR1: pushed while the command works, the rest at its end", async () => {
    using at = cluster();
    await using job = await submitWork(at, "trap 'echo it has USR1' USR1");
    await until("the command", () => at.exists(join(at.dir, "works")));
    await job.slurm("scancel", "--batch", "--signal=USR1", job.id);
    await until("the early push", () => source(at, "model") === "new");
    expect(source(at, "half")).toBe("old"); // it was being written
    writeFileSync(join(at.dir, "end"), "");
    await job.ended();
    expect(job.output()).toContain("SIGUSR1: pushing what is there");
    expect(job.output()).toContain("it has USR1");
    expect(source(at, "half")).toBe("whole");
  });

  test("before the time limit: pushed while the command works", async () => {
    using at = cluster();
    const soon = "scontrol update jobid=$SLURM_JOB_ID EndTime=now+8seconds";
    await using job = await submitWork(at, "", soon);
    await until("the early push", () => source(at, "model") === "new");
    expect(source(at, "half")).toBe("old");
    writeFileSync(join(at.dir, "end"), "");
    await job.ended();
    expect(job.output()).toMatch(/time limit in [0-9.]+ s: pushing what is there/);
    expect(source(at, "half")).toBe("whole");
  });

  test("scancel: the command ends in its own way, and all is pushed", async () => {
    using at = cluster();
    await using job = await submitWork(at, "trap 'echo last >$HF_HOME/last; exit 3' TERM");
    await until("the command", () => at.exists(join(at.dir, "works")));
    await job.slurm("scancel", job.id);
    await job.ended();
    expect(job.output()).toContain("SIGTERM: what can be pushed within 7 s is pushed"); // KillWait is 10
    expect([source(at, "model"), source(at, "half"), source(at, "last")]).toEqual(["new", "ha", "last"]);
  });

  test("tasks of a step that get SIGTERM push; those that get SIGKILL (scancel JOB.STEP) lose nothing", async () => {
    for (const isGentle of [true, false]) {
      using at = cluster();
      at.write("work.sh", work(at, "trap 'echo last >$HF_HOME/last.$SLURM_PROCID; exit 3' TERM"));
      const step = 'srun ef exec --push -- bash "$HOME/work.sh"';
      await using job = await Job.submit(at, step, "--nodes=2", "--ntasks-per-node=2", "--time=5");
      const isThere = (task: number) => at.exists(join(at.dir, `works.${task}`));
      await until("the command of each task", () => [0, 1, 2, 3].every(isThere));
      await job.slurm("scancel", ...(isGentle ? ["--signal=TERM"] : []), `${job.id}.0`);
      if (isGentle) await until("the push", () => source(at, "last.0") === "last");
      await job.ended();
      if (!isGentle) expect([source(at, "model"), source(at, "half")]).toEqual(["old", "old"]);
      expect((await at.ef(["push"])).code).toBe(0); // nothing is locked
      expect([source(at, "model"), source(at, "half")]).toEqual(["new", "ha"]);
    }
  });
});

describe.skipIf(!haveSlurm)("ef sync in jobs [needs Slurm]", () => {
  test("requeued in the middle of a sync: the next start goes on, and nothing is left over", async () => {
    using at = cluster();
    for (let i = 0; i < 8; i++) at.write(`hf/f${i}`, `${i}`.repeat(200_000));
    const script = `
      case \${SLURM_RESTART_COUNT:-0} in 0) rate=200K ;; *) rate=1G ;; esac
      exec ef exec --bwlimit $rate -- true`;
    await using job = await Job.submit(at, script, "--requeue", "--open-mode=append", "--time=5");
    await until("a file on scratch", () => at.exists(join(at.cache("HF_HOME"), "f1")));
    await job.slurm("scontrol", "requeue", job.id);
    // Slurm revokes the right to run of what was started until now, by the second.
    const revoked = Date.now() + 2000;
    await until("its end", async () => {
      const { stdout } = await job.slurm("squeue", "-h", "-o", "%T", "-j", job.id);
      return stdout.trim() === "PENDING" && Date.now() > revoked;
    });
    await until("its second start, which Slurm puts off", async () => {
      await job.slurm("scontrol", "update", `jobid=${job.id}`, "StartTime=now");
      return job.output().includes("complete");
    });
    await job.ended();
    const [whole = 0, rest = 0] = [...job.output().matchAll(/(\d+) files?, \S+ to copy/g)].map(([, count]) =>
      Number(count),
    );
    expect(whole).toBe(10);
    expect(rest).toBeLessThan(10);
    expect(rest).toBeGreaterThan(0);
    expect(readdirSync(join(at.cache("HF_HOME"))).sort()).toEqual(readdirSync(join(at.home, "hf")).sort());
    expect(readdirSync(join(at.cache(""))).filter((name) => /partial|tmp|ef-/.test(name))).toEqual([]);
  });

  test("tasks of an array at once: one copies, the others wait for it by the name that users know", async () => {
    using at = cluster();
    at.write("hf/large", "x".repeat(600_000));
    const barrier = `touch '${at.dir}/here'.$SLURM_ARRAY_TASK_ID; until [ -e '${at.dir}/go' ]; do sleep 0.1; done`;
    await using job = await Job.submit(
      at,
      `${barrier}\nef sync --shell bash --bwlimit 200K`,
      "--array=3-6",
      "--time=5",
    );
    await until("all tasks", () => [3, 4, 5, 6].every((task) => at.exists(`${at.dir}/here.${task}`)));
    writeFileSync(join(at.dir, "go"), "");
    const name = `job ${job.id}_[3-6]`;
    await until("the status", async () => {
      const { stdout } = await at.ef(["status", "--fast"]);
      return new RegExp(`syncing \\(${name} on n[123]\\)`).test(stdout);
    });
    await job.ended();
    expect(job.output().match(/HF_HOME: complete/g)).toHaveLength(1);
    expect(job.output().match(/HF_HOME: fresh/g)).toHaveLength(3);
    expect(job.output()).toMatch(new RegExp(`waiting for process \\d+ on n[123] \\(${name}`));
    expect(job.output().match(/^export HF_HOME=/gm)).toHaveLength(4);
  });

  test("three nodes with four tasks each: every line begins with the node, one task copies", async () => {
    using at = cluster();
    const argv = ["srun", "-N3", "--ntasks-per-node=4", "ef", "sync", "--shell", "bash"];
    const { stdout, stderr, code } = await run(argv, { cwd: at.home, env: at.env });
    const lines = stderr.split("\n").filter((line) => line !== "" && !line.startsWith("srun:"));
    expect(lines.filter((line) => !/^n[123] HF_HOME: \S/.test(line))).toEqual([]);
    expect(lines.filter((line) => line.includes("complete"))).toHaveLength(1);
    expect(lines.filter((line) => line.includes("fresh"))).toHaveLength(11);
    expect(stdout.match(/^export HF_HOME=/gm)).toHaveLength(12);
    expect(code).toBe(0);
    const one = await run(["srun", "-N1", "-n1", ...argv.slice(3)], { cwd: at.home, env: at.env });
    expect(one.stderr).toContain("\nHF_HOME: fresh".trimStart());
    expect(one.stderr).not.toMatch(/^n[123] /m);
  });
});
