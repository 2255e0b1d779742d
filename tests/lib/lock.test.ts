import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { constants, hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { describeHolder, holderOf, type LockOptions, lock } from "../../lib/engine/lock.ts";
import { haveOtherUser } from "../helpers.ts";

const root = join(import.meta.dir, "../..");
const bun = realpathSync(process.execPath);
const eulerFiles = process.env.EF_TEST_PYTHONPATH ?? join(root, "node_modules/.cache/py");
const have = (program: string) => Bun.which(program) !== null;
const haveEulerFiles = have("python3") && existsSync(join(eulerFiles, "euler_files/lock.py"));
const haveNode = have("node");
const asNobody = [Bun.which("setpriv") ?? "", "--reuid=65534", "--regid=65534", "--clear-groups"];

/**
 * What a process of its own does with the lock: `hold` until its stdin ends; `child` and `bystander`: hold it, and run
 * a program that inherits it or does not; `count`: add to a number in a file, not atomically; `crash`: end by SIGKILL.
 * It writes a line of JSON for each thing that happens.
 */
const worker = `
import { readFileSync, writeFileSync } from "node:fs";
import { run } from "${root}/lib/base/exec.ts";
import { lock } from "${root}/lib/engine/lock.ts";

const [task, path, timeoutS, counter, rounds] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
const options = {
  timeoutS: Number(timeoutS),
  onWait: (holder) => task === "count" || say({ waiting: holder ?? null }),
  onFallback: (fallback) => task === "count" || say({ fallback }),
};
const sleeper = ["sh", "-c", "echo $$; exec sleep 1000"];
const tell = (chunk) => say({ child: Number(String(chunk)) });

const tasks = {
  hold: async () => { for await (const _ of process.stdin); },
  child: (held) => run(sleeper, { inheritFd: held.fd, onStdout: tell }),
  bystander: () => run(sleeper, { onStdout: tell }),
  count: async () => {
    const number = Number(readFileSync(counter, "utf8"));
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
    writeFileSync(counter, String(number + 1));
  },
  crash: () => process.kill(process.pid, "SIGKILL"),
};

try {
  for (let round = 0; round < Number(rounds ?? 1); round++) {
    const held = await lock(path, options);
    if (task !== "count") say({ locked: held.kind });
    try {
      await tasks[task](held);
      held.assertHeld();
    } finally {
      await held[Symbol.asyncDispose]();
    }
  }
  say({ done: true });
} catch ({ code, message, hint }) {
  say({ error: code, message, hint });
}
process.stdin.destroy();
`;

const python = `
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX | (0 if sys.argv[2] == "wait" else fcntl.LOCK_NB))
print('{"locked": "python"}', flush=True)
sys.stdin.read()
`;

const eulerPython = `
import sys
from pathlib import Path
from euler_files.lock import acquire_lock, LockTimeout
try:
    with acquire_lock(Path(sys.argv[1]), timeout=int(sys.argv[2]), poll_interval=0.05):
        print('{"locked": "euler-files"}', flush=True)
        sys.stdin.read()
except LockTimeout:
    print('{"error": "LockTimeout"}', flush=True)
`;

let dir: string;
let workerFile: string;
let count = 0;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ef-lock-"));
  chmodSync(dir, 0o755); // for the tests as another user
  workerFile = join(dir, "worker.ts");
  writeFileSync(workerFile, worker);
});

const started: Program[] = [];

afterAll(() => {
  for (const program of started) program.kill();
  rmSync(dir, { recursive: true });
});

/** A lock file's path in a directory of its own. */
function place(mode = 0o755): string {
  const path = join(dir, String(++count));
  mkdirSync(path);
  chmodSync(path, mode);
  return join(path, ".HF_HOME.lock");
}

type Line = Record<string, unknown>;

/** A process that writes lines of JSON. */
class Program {
  readonly lines: Line[] = [];
  readonly process: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly exited: Promise<number>;

  constructor(argv: string[], env: Record<string, string> = {}) {
    const { PATH = "", HOME = "" } = process.env;
    this.process = Bun.spawn(argv, {
      env: { PATH, HOME, ...env },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.exited = this.#read().then(() => this.process.exited);
    started.push(this);
  }

  async #read() {
    let rest = "";
    for await (const text of this.process.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      this.lines.push(...lines.map((line) => JSON.parse(line)));
    }
  }

  /** The first line with that key; waits for it. */
  async line(key: string): Promise<Line> {
    const find = () => this.lines.find((line) => key in line);
    await until(() => find() !== undefined || this.process.exitCode !== null || this.process.signalCode !== null);
    await (find() ? undefined : this.exited); // what it said last may still be on its way
    const found = find();
    if (!found) throw new Error(`it ended without "${key}": ${JSON.stringify(this.lines)}`);
    return found;
  }

  /** End its stdin, which ends "hold", and wait for it. */
  async finish(): Promise<Line[]> {
    await this.process.stdin.end();
    await this.exited;
    return this.lines;
  }

  async killed() {
    this.process.kill("SIGKILL");
    await this.process.exited;
  }

  kill() {
    if (this.process.exitCode === null) this.process.kill("SIGKILL");
    for (const { child } of this.lines) if (typeof child === "number") end(child);
  }
}

function end(pid: number) {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // ended
  }
}

async function until(condition: () => boolean, what = "condition", limitMs = 20_000) {
  const from = performance.now();
  while (!condition()) {
    if (performance.now() - from > limitMs) throw new Error(`${what}: not within ${limitMs} ms`);
    await Bun.sleep(5);
  }
}

interface WorkerOptions {
  env?: Record<string, string>;
  timeoutS?: number;
  /** What comes before `bun worker.ts …`. */
  before?: string[];
  more?: string[];
}

function work(task: string, path: string, { env = {}, timeoutS = 20, before = [], more = [] }: WorkerOptions = {}) {
  return new Program([...before, bun, workerFile, task, path, String(timeoutS), ...more], env);
}

const pythonLock = (path: string, how: "wait" | "once") => new Program(["python3", "-c", python, path, how]);
const eulerLock = (path: string, timeoutS: number) =>
  new Program(["python3", "-c", eulerPython, path, String(timeoutS)], { PYTHONPATH: eulerFiles });

const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.unreachable(),
    (error) => error,
  );
const tryOnce = (path: string, options: Partial<LockOptions> = {}) => lock(path, { timeoutS: 0, ...options });

/** How many descriptors of this process are open on `path`. */
function openHere(path: string): number {
  const links = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // the one that read the directory
    }
  });
  return links.filter((link) => link === path).length;
}

/** Compile a library for LD_PRELOAD. */
function compile(name: string): string {
  const to = join(dir, `${name}.so`);
  const gcc = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", to, join(root, "tests/fakes", `${name}.c`)];
  if (!existsSync(to)) expect(Bun.spawnSync(gcc).stderr.toString()).toBe("");
  return to;
}

/** An environment in which flock(2) fails. */
const noFlock = (errno: keyof typeof constants.errno | 0) => ({
  LD_PRELOAD: compile("flock-errno"),
  FLOCK_ERRNO: String(errno === 0 ? 0 : constants.errno[errno]),
});

describe("two processes", () => {
  test("exclude each other; who waits is told by whom", async () => {
    const path = place();
    const first = work("hold", path, { env: { SLURM_JOB_ID: "4711", USER: "anna" } });
    expect(await first.line("locked")).toEqual({ locked: "flock" });
    const second = work("hold", path);
    expect(await second.line("waiting")).toMatchObject({
      waiting: { host: hostname(), pid: first.process.pid, job: "4711", user: "anna", since: expect.any(Number) },
    });
    expect(second.lines).toHaveLength(1);
    await first.finish();
    expect(await second.line("locked")).toEqual({ locked: "flock" });
    expect((await second.finish()).filter((line) => "waiting" in line)).toHaveLength(1);
    expect(readFileSync(path, "utf8")).toBe(""); // nobody holds it, and it stays
  });

  test("two locks in one process exclude each other too", async () => {
    const path = place();
    const held = await tryOnce(path);
    expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
    await held[Symbol.asyncDispose]();
    await held[Symbol.asyncDispose](); // the second time does nothing
    await using again = await tryOnce(path);
    expect(openHere(path)).toBe(1);
    expect(again.kind).toBe("flock");
  });

  test("the timeout error names the holder", async () => {
    const path = place();
    const holder = work("hold", path, { env: { PBS_JOBID: "12.server", USER: "anna" } });
    await holder.line("locked");
    const waits: unknown[] = [];
    const error = await failure(lock(path, { timeoutS: 0.2, onWait: (by) => waits.push(by) }));
    expect(error).toMatchObject({ name: "EfError", code: "LOCK_TIMEOUT", path });
    const who = `process ${holder.process.pid} on ${hostname()} (job 12.server, user anna)`;
    expect(error.message).toBe(`Cannot lock ${path} within 0.2 s: ${who} holds it`);
    expect(error.hint).toContain("lock_timeout_seconds");
    expect(waits).toHaveLength(1);
    // 0 tries once, and does not wait.
    expect(await failure(tryOnce(path, { onWait: () => expect.unreachable() }))).toMatchObject({
      code: "LOCK_TIMEOUT",
    });
  });

  test("aborting ends the wait with the signal's reason, and leaves nothing locked or open", async () => {
    const path = place();
    const holder = work("hold", path);
    await holder.line("locked");
    const stop = new AbortController();
    const reason = new Error("scancel");
    const waiting = lock(path, { timeoutS: 20, signal: stop.signal, onWait: () => stop.abort(reason) });
    expect(await failure(waiting)).toBe(reason);
    expect(await failure(tryOnce(path, { signal: stop.signal }))).toBe(reason);
    expect(openHere(path)).toBe(0);
    await holder.finish();
    await using held = await tryOnce(path);
    expect(held.kind).toBe("flock");
  });

  test("an error of the locked section comes out as it is, even if the directory went away", async () => {
    const path = place();
    const error = new Error("disk on fire");
    const section = async () => {
      await using _ = await tryOnce(path);
      rmSync(join(path, ".."), { recursive: true });
      throw error;
    };
    expect(await failure(section())).toBe(error);
  });

  test.skipIf(!haveNode)("under Node as under Bun [needs node]", async () => {
    const built = await Bun.build({ entrypoints: [workerFile], target: "node", outdir: join(dir, "node") });
    expect(built.success).toBeTrue();
    const path = place();
    const node = (task: string) => new Program(["node", join(dir, "node/worker.js"), task, path, "20"]);
    const first = node("child");
    const { child } = await first.line("child");
    expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
    await first.killed();
    expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
    end(child as number);
    const second = node("hold");
    await second.line("locked");
    expect(await holderOf(path)).toMatchObject({ pid: second.process.pid });
    expect(await second.finish()).toContainEqual({ done: true });
  });
});

describe("eight processes count", () => {
  const processes = 8;
  const rounds = 4;

  async function countTogether(env: Record<string, string>, crashes = 0) {
    const path = place();
    const counter = `${path}.counter`;
    writeFileSync(counter, "0");
    const options = { env, timeoutS: 60, more: [counter, String(rounds)] };
    const crashing = Array.from({ length: crashes }, () => work("crash", path, options));
    const counting = Array.from({ length: processes }, () => work("count", path, options));
    for (const program of counting) expect(await program.finish()).toEqual([{ done: true }]);
    for (const program of crashing) expect(await program.exited).not.toBe(0);
    expect(Number(readFileSync(counter, "utf8"))).toBe(processes * rounds);
    return readdirSync(join(path, "..")).sort();
  }

  test("with flock", async () => {
    expect(await countTogether({})).toEqual([".HF_HOME.lock", ".HF_HOME.lock.counter"]);
  });

  test("with flock, and holders that are killed", async () => {
    await countTogether({}, 3);
  });

  const noProgram = () => ({ PATH: join(dir, "empty") });

  test("with a lease, and nothing is left over", async () => {
    expect(await countTogether(noProgram())).toEqual([".HF_HOME.lock", ".HF_HOME.lock.counter"]);
  });

  test("with a lease, and holders that are killed", async () => {
    const left = await countTogether(noProgram(), 3); // the lease of the last one killed may be there
    expect(left.filter((name) => name !== ".HF_HOME.lock.lease")).toEqual([".HF_HOME.lock", ".HF_HOME.lock.counter"]);
  });

  test.skipIf(!have("gcc"))("with a lease where there are no hard links [needs gcc]", async () => {
    const env = { ...noProgram(), LD_PRELOAD: compile("no-link") };
    expect(await countTogether(env)).toEqual([".HF_HOME.lock", ".HF_HOME.lock.counter"]);
  });
});

describe("Python's fcntl.flock", () => {
  test.skipIf(!have("python3"))("keeps ef out [needs python3]", async () => {
    const path = place();
    const other = pythonLock(path, "wait");
    await other.line("locked");
    expect(await holderOf(path)).toBe("unknown");
    expect((await failure(tryOnce(path))).message).toBe(`Cannot lock ${path} within 0 s: another process holds it`);
    const waits: unknown[] = [];
    const waiting = lock(path, { timeoutS: 20, onWait: (by) => waits.push(by) });
    await until(() => waits.length > 0);
    expect(waits).toEqual([undefined]);
    await other.finish();
    await using held = await waiting;
    expect(held.kind).toBe("flock");
  });

  test.skipIf(!have("python3"))("is kept out by ef, and may empty the file [needs python3]", async () => {
    const path = place();
    const held = await tryOnce(path);
    expect(await holderOf(path)).toMatchObject({ pid: process.pid });
    const waiting = pythonLock(path, "wait");
    await until(() => statSync(path).size === 0, "open(path, 'w')");
    expect(await holderOf(path)).toBe("unknown");
    expect(waiting.lines).toEqual([]);
    await held[Symbol.asyncDispose]();
    expect(await waiting.line("locked")).toEqual({ locked: "python" });
  });

  test.skipIf(!haveEulerFiles)(
    "euler-files and ef exclude each other [needs euler-files in EF_TEST_PYTHONPATH]",
    async () => {
      const path = place();
      const euler = eulerLock(path, 20);
      await euler.line("locked");
      expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
      await euler.finish();
      const held = await lock(path, { timeoutS: 20 });
      expect(await eulerLock(path, 0).line("error")).toEqual({ error: "LockTimeout" });
      const next = eulerLock(path, 20);
      await until(() => statSync(path).size === 0, "open(path, 'w')");
      expect(next.lines).toEqual([]);
      await held[Symbol.asyncDispose]();
      expect(await next.line("locked")).toEqual({ locked: "euler-files" });
    },
  );
});

describe("SIGKILL of the holder", () => {
  test("frees the lock", async () => {
    const path = place();
    const holder = work("hold", path);
    await holder.line("locked");
    await holder.killed();
    await using held = await tryOnce(path);
    expect(held.kind).toBe("flock");
    expect(await holderOf(path)).toMatchObject({ pid: process.pid }); // not what the dead one wrote
  });

  test("keeps the lock while a child that inherited it runs", async () => {
    const path = place();
    const holder = work("child", path);
    const { child } = await holder.line("child");
    await holder.killed();
    expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
    expect(await holderOf(path)).toMatchObject({ pid: holder.process.pid });
    end(child as number);
    await using held = await lock(path, { timeoutS: 20 });
    expect(held.kind).toBe("flock");
  });

  test("frees the lock while a child that did not inherit it runs", async () => {
    const path = place();
    const holder = work("bystander", path);
    const { child } = await holder.line("child");
    await holder.killed();
    await using held = await tryOnce(path);
    expect(held.kind).toBe("flock");
    process.kill(child as number, 0); // it does run
  });
});

describe("the lock file", () => {
  test("is made for everybody whom the umask lets", async () => {
    const path = place();
    await using held = await tryOnce(path);
    expect(held.fd).toBeNumber();
    expect(statSync(path).mode & 0o777).toBe(0o666 & ~process.umask());
  });

  test("removed while we wait: the new one is locked, not the one nobody sees", async () => {
    const path = place();
    const holder = work("hold", path);
    await holder.line("locked");
    let removed = false;
    const remove = () => {
      unlinkSync(path);
      removed = true;
    };
    const waiting = lock(path, { timeoutS: 20, onWait: remove });
    await until(() => removed);
    await holder.finish();
    await using held = await waiting;
    expect(held.kind).toBe("flock");
    expect(await holderOf(path)).toMatchObject({ pid: process.pid });
    expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
  });

  test.each([
    ["a link", (path: string) => symlinkSync(`${path}.elsewhere`, path), /symbolic link/],
    ["a directory", (path: string) => mkdirSync(path), /directory|not a regular file/],
    ["a FIFO", (path: string) => void Bun.spawnSync(["mkfifo", path]), /not a regular file/],
  ])("%s in its place is refused and left alone", async (_, plant, reason) => {
    const path = place();
    plant(path);
    for (const use of [tryOnce, holderOf]) {
      const error = await failure(use(path));
      expect(error).toMatchObject({ code: "LOCK_FAILED", path });
      expect(error.message).toStartWith(`Cannot lock ${path}: `);
      expect(error.message).toMatch(reason);
    }
    expect(openHere(path)).toBe(0);
    expect(lstatSync(path).isFile()).toBeFalse();
    expect(existsSync(`${path}.elsewhere`)).toBeFalse();
  });

  test("without its directory there is no lock", async () => {
    const path = join(place(), "nowhere/.X.lock");
    expect(await failure(tryOnce(path))).toMatchObject({
      code: "LOCK_FAILED",
      message: expect.stringContaining("ENOENT"),
    });
  });

  test.skipIf(!haveOtherUser)("of somebody else is locked through a read-only descriptor [needs root]", async () => {
    const path = place();
    writeFileSync(path, "", { mode: 0o644 });
    const nobody = work("hold", path, { before: asNobody });
    expect(await nobody.line("locked")).toEqual({ locked: "flock" });
    expect(await holderOf(path)).toBe("unknown"); // it could not write its name
    expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
    await nobody.finish();
    await using held = await tryOnce(path);
    expect(held.kind).toBe("flock");
  });

  test.skipIf(!haveOtherUser)(
    "of somebody else in a sticky directory, where O_CREAT is forbidden [needs root]",
    async () => {
      const path = place(0o1777);
      writeFileSync(path, "");
      chmodSync(path, 0o666);
      const nobody = work("hold", path, { before: asNobody });
      expect(await nobody.line("locked")).toEqual({ locked: "flock" });
      expect(await holderOf(path)).toMatchObject({ pid: nobody.process.pid });
    },
  );

  test.skipIf(!haveOtherUser)("of somebody else that may not even be read is a clear error [needs root]", async () => {
    const path = place();
    writeFileSync(path, "", { mode: 0o600 });
    expect(await work("hold", path, { before: asNobody }).line("error")).toMatchObject({
      error: "LOCK_FAILED",
      message: `Cannot lock ${path}: permission denied (EACCES)`,
    });
  });

  test.skipIf(!haveOtherUser || !have("gcc"))(
    "of somebody else on NFS (EBADF) names the owner [needs root and gcc]",
    async () => {
      const path = place();
      writeFileSync(path, "", { mode: 0o644 });
      const error = await work("hold", path, { before: asNobody, env: noFlock("EBADF") }).line("error");
      expect(error).toMatchObject({ error: "LOCK_FAILED", hint: expect.stringContaining(`chmod a+w ${path}`) });
      expect(error.message).toBe(`Cannot lock ${path}: the file belongs to root and you may not write to it`);
    },
  );
});

describe("where flock does not work", () => {
  const refusals = [
    ["ENOSYS", "Function not implemented"],
    ["EOPNOTSUPP", "Operation not supported"],
    ["ENOLCK", "No locks available"],
  ] as const;

  // euler-files waits until its time is up there, and then blames another sync (peers A2.7).
  test.skipIf(!have("gcc")).each(refusals)("%s: a lease at once, said once [needs gcc]", async (errno, why) => {
    const path = place();
    const from = performance.now();
    const first = work("hold", path, { env: noFlock(errno), timeoutS: 300 });
    expect(await first.line("locked")).toEqual({ locked: "lease" });
    expect(performance.now() - from).toBeLessThan(20_000);
    expect(first.lines).toEqual([{ fallback: why }, { locked: "lease" }]);
    expect(await holderOf(path)).toMatchObject({ pid: first.process.pid });

    const second = work("hold", path, { env: noFlock(errno) });
    expect(await second.line("waiting")).toMatchObject({ waiting: { pid: first.process.pid } });
    expect(await work("hold", path, { env: noFlock(errno), timeoutS: 0 }).line("error")).toMatchObject({
      error: "LOCK_TIMEOUT",
      message: expect.stringContaining(`process ${first.process.pid} on ${hostname()}`),
    });
    await first.finish();
    expect(await second.line("locked")).toEqual({ locked: "lease" });
    expect(await second.finish()).toContainEqual({ done: true });
    expect(readdirSync(join(path, ".."))).toEqual([".HF_HOME.lock"]);
    expect(await holderOf(path)).toBeUndefined();
  });

  test("flock is not installed: the same", async () => {
    const path = place();
    const env = { PATH: join(dir, "empty") };
    const holder = work("hold", path, { env });
    expect(await holder.line("locked")).toEqual({ locked: "lease" });
    expect(holder.lines[0]).toEqual({ fallback: "flock is not installed" });
    await holder.killed();
    expect(await work("hold", path, { env, timeoutS: 0 }).line("locked")).toEqual({ locked: "lease" });
  });

  test.skipIf(!have("gcc"))("another error is no lease, and is told [needs gcc]", async () => {
    const path = place();
    expect(await work("hold", path, { env: noFlock("EIO") }).line("error")).toMatchObject({
      error: "LOCK_FAILED",
      message: `Cannot lock ${path}: flock failed with exit code 65: Input/output error`,
    });
    expect(readdirSync(join(path, ".."))).toEqual([".HF_HOME.lock"]);
  });

  test.skipIf(!have("gcc"))("granted to everybody (localflock): two work, neither fails [needs gcc]", async () => {
    const path = place();
    const programs = [work("hold", path, { env: noFlock(0) }), work("hold", path, { env: noFlock(0) })];
    for (const program of programs) expect(await program.line("locked")).toEqual({ locked: "flock" });
    for (const program of programs) expect(await program.finish()).toContainEqual({ done: true });
  });

  test.each([
    ["busybox: held", "exit 1", "LOCK_TIMEOUT", "another process holds it"],
    [
      "held, while the loader complains",
      "echo 'ERROR: ld.so: object cannot be preloaded' >&2; exit 1",
      "LOCK_TIMEOUT",
      "",
    ],
    ["busybox: an error", "echo 'flock: Bad file descriptor' >&2; exit 1", "LOCK_FAILED", "Bad file descriptor"],
    ["a signal", "kill -TERM $$", "LOCK_FAILED", "exit code 143"],
  ])("what flock says: %s", async (_, script, code, text) => {
    const path = place();
    const bin = join(path, "../bin");
    mkdirSync(bin);
    writeFileSync(join(bin, "flock"), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const program = work("hold", path, { env: { PATH: `${bin}:${process.env.PATH}` }, timeoutS: 0 });
    expect(await program.line("error")).toMatchObject({ error: code, message: expect.stringContaining(text) });
  });

  test("busybox: not supported is a lease", async () => {
    const path = place();
    const bin = join(path, "../bin");
    mkdirSync(bin);
    writeFileSync(join(bin, "flock"), "#!/bin/sh\necho 'flock: Not supported' >&2; exit 1\n", { mode: 0o755 });
    const program = work("hold", path, { env: { PATH: `${bin}:${process.env.PATH}` } });
    expect(await program.line("locked")).toEqual({ locked: "lease" });
  });
});

describe("who holds it", () => {
  test("nobody: no file is made, none is changed", async () => {
    const path = place();
    expect(await holderOf(path)).toBeUndefined();
    expect(readdirSync(join(path, ".."))).toEqual([]);
    const left = JSON.stringify({ host: "dead", pid: 1, since: 1 }); // as a killed ef leaves it
    writeFileSync(path, left);
    expect(await holderOf(path)).toBeUndefined();
    expect(readFileSync(path, "utf8")).toBe(left);
  });

  test("looking does not lock it, and does not free it", async () => {
    const path = place();
    const held = await tryOnce(path);
    expect(await holderOf(path)).toMatchObject({ pid: process.pid, since: expect.any(Number) });
    expect(await failure(tryOnce(path))).toMatchObject({ code: "LOCK_TIMEOUT" });
    await held[Symbol.asyncDispose]();
    expect(await holderOf(path)).toBeUndefined();
    await using again = await tryOnce(path);
    expect(again.kind).toBe("flock");
  });

  test.each([
    ["not JSON", "pid 12"],
    ["not of a holder", '{"pid": "12"}'],
    ["with an escape sequence", JSON.stringify({ host: "\u001b[2J", pid: 1, since: 1 })],
  ])("text %s is unknown", async (_, text) => {
    const path = place();
    await using held = await tryOnce(path);
    writeFileSync(path, text);
    expect(held.kind).toBe("flock");
    expect(await holderOf(path)).toBe("unknown");
  });

  test("in words", () => {
    expect(describeHolder(undefined)).toBe("another process");
    expect(describeHolder({ host: "n1", pid: 7, since: 0 })).toBe("process 7 on n1");
    expect(describeHolder({ host: "n1", pid: 7, since: 0, job: "8", user: "anna" })).toBe(
      "process 7 on n1 (job 8, user anna)",
    );
  });
});
