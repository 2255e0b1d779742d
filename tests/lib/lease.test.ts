import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { type Identity, isAlive, thisHost } from "../../lib/drivers/host.ts";
import { type Lease, type LeaseOptions, leaseHolder, leaseTaker } from "../../lib/engine/lease.ts";
import { haveOtherUser } from "../helpers.ts";

const root = join(import.meta.dir, "../..");

let dir: string;
let path: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ef-lease-"));
  path = join(dir, ".X.lock.lease");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** This process, as if on a host where others cannot see whether it runs. */
const elsewhere: Identity = { ...thisHost(), host: "elsewhere", boot: "other", pid: 4242 };

/** A lease that nobody keeps beating. */
function leave(holder: Partial<Identity>) {
  writeFileSync(path, `${JSON.stringify({ id: "left", ...thisHost(), ...holder, since: 1, beat: 3 })}\n`);
}

const takeOnce = (options?: LeaseOptions) => leaseTaker(path, options)();

/** Take it now or fail. */
function take(options?: LeaseOptions): Lease {
  const lease = takeOnce(options);
  if (lease === "held") throw new Error(`held: ${readFileSync(path, "utf8")}`);
  return lease;
}

/** Call it until the lease is taken; how many times it was held before. */
async function takeAtLast(attempt: () => Lease | "held"): Promise<{ lease: Lease; heldBefore: number }> {
  for (let heldBefore = 0; heldBefore < 5000; heldBefore++) {
    const lease = attempt();
    if (lease !== "held") return { lease, heldBefore };
    await Bun.sleep(2);
  }
  throw new Error("never taken");
}

const beatOf = () => JSON.parse(readFileSync(path, "utf8")).beat as number;

async function until(condition: () => boolean) {
  for (let tries = 0; !condition(); tries++) {
    if (tries === 5000) throw new Error("never");
    await Bun.sleep(2);
  }
}

/** The pid of a process that has ended. */
function deadPid(): number {
  return Bun.spawnSync(["true"]).pid;
}

function code(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return (error as { code: string }).code;
  }
  throw new Error("no error");
}

describe("one holder", () => {
  test("writes who it is, keeps others out, and leaves nothing behind", async () => {
    const lease = take();
    expect(leaseHolder(path)).toMatchObject({ ...thisHost(), since: expect.any(Number) });
    expect(statSync(path).mode & 0o777).toBe(0o644);
    expect(takeOnce()).toBe("held");
    lease.assertHeld();
    lease[Symbol.dispose]();
    lease[Symbol.dispose]();
    expect(readdirSync(dir)).toEqual([]);
    expect(leaseHolder(path)).toBeUndefined();
  });

  test("is readable for all, whatever the umask", async () => {
    const umask = process.umask(0o077);
    using lease = take();
    process.umask(umask);
    lease.assertHeld();
    expect(statSync(path).mode & 0o777).toBe(0o644);
  });

  test("beats in the same file", async () => {
    using lease = take({ beatMs: 5 });
    const { ino } = statSync(path);
    await until(() => beatOf() >= 12); // through the change of length at 10
    lease.assertHeld();
    expect(statSync(path).ino).toBe(ino);
    expect(readdirSync(dir)).toHaveLength(1);
  });

  test("makes a purged lease again", async () => {
    using lease = take({ beatMs: 5 });
    unlinkSync(path);
    await until(() => existsSync(path));
    const beat = beatOf();
    await until(() => beatOf() > beat);
    expect(takeOnce()).toBe("held");
    lease.assertHeld();
  });

  test("mends a lease that was emptied", async () => {
    using lease = take({ beatMs: 5 });
    truncateSync(path, 0);
    await until(() => leaseHolder(path) !== "unknown");
    lease.assertHeld();
  });

  test("an error of the section comes out as it is, even if the directory is gone", async () => {
    const error = new Error("disk on fire");
    const section = async () => {
      using lease = take();
      lease.assertHeld();
      rmSync(dir, { recursive: true });
      throw error;
    };
    expect(await section().catch((caught) => caught)).toBe(error);
  });
});

describe("a stale lease", () => {
  test.each([
    ["of a dead pid", () => ({ pid: deadPid() })],
    ["of a reused pid", () => ({ started: "1" })],
    ["of another boot", () => ({ boot: "00000000-0000-0000-0000-000000000000" })],
  ])("%s is taken over at once", async (_, holder) => {
    leave(holder());
    expect(leaseHolder(path)).toBeUndefined();
    using lease = take();
    lease.assertHeld();
    expect(leaseHolder(path)).toMatchObject({ pid: process.pid });
    expect(readdirSync(dir)).toHaveLength(1);
  });

  test.each([
    ["of another host", { host: "elsewhere" }],
    ["of another pid namespace", { pid: 1_000_000, pidns: "pid:[1]" }],
    ["of this process, which does not beat", {}],
  ])("%s is taken over when it stood still for long enough", async (_, holder) => {
    leave(holder);
    expect(leaseHolder(path)).toMatchObject(holder);
    const attempt = leaseTaker(path, { staleMs: 100 });
    const from = performance.now();
    const { lease, heldBefore } = await takeAtLast(attempt);
    expect(heldBefore).toBeGreaterThan(1);
    expect(performance.now() - from).toBeGreaterThanOrEqual(99);
    lease[Symbol.dispose]();
    expect(readdirSync(dir)).toEqual([]);
  });

  test.each([
    ["garbage", () => writeFileSync(path, "garbage")],
    ["empty", () => writeFileSync(path, "")],
    ["too long", () => writeFileSync(path, "x".repeat(10_000))],
    ["JSON of something else", () => writeFileSync(path, '{"pid":1}')],
    ["a dangling link", () => symlinkSync(join(dir, "nowhere"), path)],
  ])("%s counts as one, after the same time", async (_, plant) => {
    plant();
    expect(leaseHolder(path)).toBe("unknown");
    expect(takeOnce()).toBe("held");
    const { lease, heldBefore } = await takeAtLast(leaseTaker(path, { staleMs: 50 }));
    expect(heldBefore).toBeGreaterThan(1);
    expect(lstatSync(path).isFile()).toBeTrue();
    lease[Symbol.dispose]();
    expect(readdirSync(dir)).toEqual([]);
  });

  test("and a stale takeover lease of a taker that was killed: both at once", async () => {
    leave({ pid: deadPid() });
    copyFileSync(path, `${path}.takeover`);
    using lease = take();
    lease.assertHeld();
    expect(readdirSync(dir)).toHaveLength(1);
  });

  test("what takers left when they were killed goes with the next one, and what living ones write stays", () => {
    const living = `.X.lock.lease.ef-${hostname()}-${process.pid}-0123456789abcdef.tmp`;
    const begun = ["", ".takeover"].map(
      (of) => `.X.lock.lease${of}.ef-${hostname()}-${deadPid()}-0123456789abcdef.tmp`,
    );
    for (const name of [living, ...begun]) writeFileSync(join(dir, name), "{");
    leave({ pid: deadPid() });
    renameSync(path, `${path}.takeover`);
    take()[Symbol.dispose]();
    expect(readdirSync(dir)).toEqual([living]);
  });

  test("is left alone while somebody else takes it over", async () => {
    leave({ host: "elsewhere" });
    copyFileSync(path, `${path}.takeover`);
    leave({ pid: deadPid() });
    expect(takeOnce()).toBe("held");
    const { lease } = await takeAtLast(leaseTaker(path, { staleMs: 50 }));
    lease[Symbol.dispose]();
    expect(readdirSync(dir)).toEqual([]);
  });

  test("garbage that changes is somebody's", async () => {
    const attempt = leaseTaker(path, { staleMs: 30 });
    for (let round = 0; round < 50; round++) {
      writeFileSync(path, `garbage ${round}`);
      expect(attempt()).toBe("held");
      await Bun.sleep(2);
    }
  });

  test("a directory in its place is an error", () => {
    mkdirSync(path);
    expect(code(() => takeOnce())).toBe("LOCK_FAILED");
    expect(code(() => leaseHolder(path))).toBe("LOCK_FAILED");
  });

  test("where no file can be made is an error", () => {
    expect(code(() => leaseTaker(join(dir, "nowhere/x"))())).toBe("LOCK_FAILED");
    expect(leaseHolder(join(dir, "nowhere/x"))).toBeUndefined();
  });

  test.skipIf(!haveOtherUser)("of somebody else in a sticky directory cannot be removed [needs root]", () => {
    chmodSync(dir, 0o1777);
    leave({ pid: deadPid() });
    const script = `import { leaseTaker } from "${root}/lib/engine/lease.ts";
      try { leaseTaker("${path}")() } catch ({ code, message, hint }) { console.log(code, message, hint) }`;
    const setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    const said = Bun.spawnSync([...setpriv, process.execPath, "-e", script]).stdout.toString();
    expect(said).toStartWith(`LOCK_FAILED Cannot use lease file ${path}: operation not permitted (EPERM)`);
    expect(said).toContain("ask them to remove it");
    expect(readdirSync(dir)).toHaveLength(1);
  });
});

describe("a live lease of another host", () => {
  test("is left alone while it beats", async () => {
    using lease = take({ self: elsewhere, beatMs: 10 });
    const attempt = leaseTaker(path, { staleMs: 300 });
    const from = beatOf();
    while (beatOf() < from + 60) {
      expect(attempt()).toBe("held");
      await Bun.sleep(5);
    }
    lease.assertHeld();
  });

  test("is taken over when its beat stalls; the one that lost it is told and harms nothing", async () => {
    const stalled = take({ self: elsewhere, beatMs: 1e9 });
    const { lease } = await takeAtLast(leaseTaker(path, { staleMs: 50 }));
    expect(() => stalled.assertHeld()).toThrow(`Lost lease ${path}: process ${process.pid} on ${thisHost().host}`);
    expect(code(() => stalled.assertHeld())).toBe("LOCK_FAILED");
    stalled[Symbol.dispose]();
    lease.assertHeld();
    expect(takeOnce()).toBe("held");
    lease[Symbol.dispose]();
    expect(readdirSync(dir)).toEqual([]);
  });

  test("notices by its beat that it was taken over", async () => {
    using stalled = take({ self: elsewhere, beatMs: 5 });
    unlinkSync(path);
    leave({ pid: 77, host: "third" }); // in one turn of the event loop: no beat in between
    await Bun.sleep(20);
    expect(() => stalled.assertHeld()).toThrow("process 77 on third");
    expect(beatOf()).toBe(3);
  });

  test("of two that watch the same stale lease one gets it", async () => {
    for (let round = 0; round < 20; round++) {
      leave({ host: "elsewhere" });
      const takers = Array.from({ length: 8 }, () => leaseTaker(path, { staleMs: 10 }));
      const leases: Lease[] = [];
      while (leases.length === 0) {
        for (const attempt of takers) {
          const lease = attempt();
          if (lease !== "held") leases.push(lease);
        }
        await Bun.sleep(2);
      }
      expect(leases).toHaveLength(1);
      for (const lease of leases) {
        lease.assertHeld();
        lease[Symbol.dispose]();
      }
    }
  });
});

describe("isAlive", () => {
  const me = thisHost();

  test("this process", () => {
    expect(me.started).toMatch(/^\d+$/);
    expect(isAlive(me)).toBe("yes");
  });

  test.each([
    ["another host", { host: "elsewhere" }, "unknown"],
    ["another boot", { boot: "x" }, "no"],
    ["unknown boot", { boot: "" }, "unknown"],
    ["another pid namespace", { pidns: "pid:[1]" }, "unknown"],
    ["unknown start time", { started: "" }, "unknown"],
    ["another start time", { started: "1" }, "no"],
  ])("%s", (_, change, expected) => {
    expect(isAlive({ ...me, ...change })).toBe(expected as "no");
  });

  test("a dead pid, whatever its start time", () => {
    const pid = deadPid();
    expect(isAlive({ ...me, pid })).toBe("no");
    expect(isAlive({ ...me, pid, started: "" })).toBe("no");
  });

  test("a process whose name holds parentheses and spaces", async () => {
    const program = join(dir, "a) R 1 (b");
    copyFileSync(Bun.which("sleep") ?? "", program);
    const child = Bun.spawn([program, "1000"]);
    const stat = () => readFileSync(`/proc/${child.pid}/stat`, "utf8");
    const started = stat().split(") ").at(-1)?.split(" ")[19] ?? "";
    try {
      await until(() => stat().includes("(a) R 1 (b)"));
      expect(isAlive({ ...me, pid: child.pid, started })).toBe("yes");
    } finally {
      child.kill();
      await child.exited;
    }
    expect(isAlive({ ...me, pid: child.pid, started })).toBe("no");
  });

  test("a zombie is dead", async () => {
    // `exec` replaces the shell, which would wait for its child, by a program that does not.
    const parent = Bun.spawn(["sh", "-c", "sleep 1000 & echo $!; exec tail -f"], { stdin: "pipe" });
    try {
      const { value } = await parent.stdout.getReader().read();
      const pid = Number(new TextDecoder().decode(value));
      const stat = (of: number) => readFileSync(`/proc/${of}/stat`, "utf8");
      const started = stat(pid).split(") ").at(-1)?.split(" ")[19] ?? "";
      await until(() => stat(parent.pid).includes("(tail)"));
      expect(isAlive({ ...me, pid, started })).toBe("yes");
      process.kill(pid, "SIGKILL");
      await until(() => stat(pid).includes(") Z "));
      expect(isAlive({ ...me, pid, started })).toBe("no");
    } finally {
      parent.kill();
      await parent.exited;
    }
  });

  test.each([["SLURM_JOB_ID"], ["PBS_JOBID"], ["LSB_JOBID"], ["FLUX_JOB_ID"]])("the job is %s", (name) => {
    const script = `import { thisHost } from "${root}/lib/drivers/host.ts"; console.log(JSON.stringify(thisHost()))`;
    const env = { PATH: process.env.PATH ?? "", USER: "anna", [name]: "12[3].server" };
    const { stdout } = Bun.spawnSync([process.execPath, "-e", script], { env });
    expect(JSON.parse(stdout.toString())).toMatchObject({ job: "12[3].server", user: "anna", host: me.host });
  });
});
