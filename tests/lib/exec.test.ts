import { expect, test } from "bun:test";
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { EfError } from "../../lib/base/errors.ts";
import { lastLines, run } from "../../lib/base/exec.ts";
import { Home, run as start, until } from "../helpers.ts";

const modulePath = resolve(import.meta.dir, "../../lib/base/exec.ts");

/** Is there a process whose command line holds `text`? */
function running(text: string): boolean {
  return readdirSync("/proc").some((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(text);
    } catch {
      return false;
    }
  });
}

test.each([{ guarded: false }, { guarded: true }])(
  "run: arguments arrive as they are, $guarded",
  async ({ guarded }) => {
    const args = ["a b", "", "$HOME", "`id`", "'", '"', "\\", "x\ny", "-n", "--", "ü", "*", "~"];
    const { stdout, code } = await run(["printf", "[%s]", ...args], { guarded });
    expect(stdout).toBe(args.map((arg) => `[${arg}]`).join(""));
    expect(code).toBe(0);
  },
);

test.each([{ guarded: false }, { guarded: true }])(
  "run: codes, streams and what is not installed, $guarded",
  async ({ guarded }) => {
    const ran = await run(["sh", "-c", "echo out; echo err >&2; exit 3"], { accept: [3], guarded });
    expect(ran).toEqual({ code: 3, stdout: "out\n", stderr: "err\n" });
    const failed = await run(["sh", "-c", "echo why >&2; exit 4"], { guarded }).catch((error) => error);
    expect(failed).toBeInstanceOf(EfError);
    expect(failed.code).toBe("TOOL_FAILED");
    expect(failed.message).toBe("sh failed with exit code 4\n    why");
    const missing = await run(["no-such-program"], { guarded }).catch((error) => error);
    expect(missing.code).toBe("TOOL_MISSING");
    const killed = await run(["sh", "-c", "kill -9 $$"], { guarded }).catch((error) => error);
    expect(killed.message).toContain("signal 9");
  },
);

test("run: a long output is streamed, only its end is kept", async () => {
  let bytes = 0;
  const script = "i=0; while [ $i -lt 300 ]; do printf '%01000d' $i; i=$((i+1)); done; echo END";
  const streamed = await run(["sh", "-c", script], { onStdout: (chunk) => (bytes += chunk.length) });
  expect(bytes).toBe(300_004);
  expect(streamed.stdout).toBe("");
  const kept = await run(["sh", "-c", script], { keepBytes: 100 });
  expect(kept.stdout).toHaveLength(100);
  expect(kept.stdout).toEndWith("END\n");
});

test.each([{ guarded: false }, { guarded: true }])(
  "run: an abort ends the program and its children, $guarded",
  async ({ guarded }) => {
    const stop = new AbortController();
    const name = `1${process.pid}${guarded ? 1 : 2}.5`;
    const running1 = run(["sh", "-c", `sleep ${name} & sleep ${name}`], { guarded, signal: stop.signal }).catch(
      (error) => error,
    );
    await until("the program", () => running(name));
    stop.abort(new Error("enough"));
    expect((await running1).message).toBe("enough");
    await until("the end of its child, which got the signal at the same time", () => !running(name));
  },
);

test("run: a callback that throws ends the program, and comes out as it is", async () => {
  const name = `3${process.pid}.5`;
  const error = await run(["sh", "-c", `echo x; sleep ${name}`], {
    guarded: true,
    onStdout() {
      throw new Error("terminal gone");
    },
  }).catch((reason) => reason);
  expect(error.message).toBe("terminal gone");
  await until("the end of its child, which got the signal at the same time", () => !running(name));
});

test.each([{ guarded: false }, { guarded: true }])(
  "run: an abort is over when all that the program had started is, though the program ends before it, $guarded",
  async ({ guarded }) => {
    using at = new Home();
    const file = join(at.dir, "ended");
    const slow = `trap "" TERM; echo ready; exec >&- 2>&-; sleep 0.7; echo >"$0"`;
    const stop = new AbortController();
    const onStdout = () => stop.abort(new Error("enough"));
    const script = 'trap "exit 1" TERM; sh -c "$1" "$0" & while :; do sleep 0.01; done';
    const error = await run(["sh", "-c", script, file, slow], { signal: stop.signal, guarded, onStdout }).catch(
      (reason) => reason,
    );
    expect([error.message, existsSync(file)]).toEqual(["enough", true]);
  },
);

test("run: an abort before the start starts nothing", async () => {
  const error = await run(["true"], { signal: AbortSignal.abort(new Error("no")) }).catch((reason) => reason);
  expect(error.message).toBe("no");
});

test("run, guarded: SIGKILL of the caller ends the program; what it inherited is free at that moment", async () => {
  using at = new Home();
  const name = `2${process.pid}.5`;
  const lock = join(at.dir, "lock");
  at.write(
    "caller.ts",
    `import { openSync } from "node:fs";
     import { run } from ${JSON.stringify(modulePath)};
     const fd = openSync(${JSON.stringify(lock)}, "a+");
     await run(["flock", "-x", "4"], { inheritFd: fd });
     await run(["sleep", ${JSON.stringify(name)}], { guarded: true, inheritFd: fd });`,
  );
  await start([process.execPath, "caller.ts"], {
    cwd: at.home,
    env: at.env,
    async onStart(child) {
      await until("the program", () => running(`sleep\0${name}`));
      child.kill("SIGKILL");
    },
  });
  await until("its end", () => !running(name));
  const fd = openSync(lock, "r");
  try {
    expect((await run(["flock", "-n", "-x", "4"], { inheritFd: fd, accept: [0, 1] })).code).toBe(0);
  } finally {
    closeSync(fd);
  }
});

test("the last lines of a long stderr, and how many there were before", () => {
  expect(lastLines("a\n\nb\n")).toBe("\n    a\n    b");
  expect(lastLines("1\n2\n3\n4", 2)).toBe("\n    … (2 lines before)\n    3\n    4");
  expect(lastLines("")).toBe("");
});
