/** A program beside the caller. */
import { expect, test } from "bun:test";
import { launch } from "../../lib/drivers/handle.ts";
import { until } from "../helpers.ts";

test("poll is null while it runs, then its exit code; what it printed is still there", async () => {
  const proc = launch(["sh", "-c", "echo out; echo err >&2; exit 3"]);
  expect(proc.poll()).toBeNull();
  expect(await proc.wait()).toBe(3);
  expect(proc.poll()).toBe(3);
  expect(await proc.communicate()).toEqual({ stdout: "out\n", stderr: "err\n", code: 3, lostBytes: 0 });
});

test("much output, and nobody but poll: it comes to its end all the same", async () => {
  const proc = launch(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]);
  await until("its end", () => proc.poll() !== null);
  expect((await proc.communicate()).stdout.length).toBe(3_000_000);
});

test("streamed as it comes", async () => {
  const proc = launch(["sh", "-c", "echo one; read -r _; echo two", "sh"]);
  const lines: string[] = [];
  for await (const chunk of proc.stdout) lines.push(String(chunk));
  expect(lines.join("")).toBe("one\ntwo\n"); // its stdin is empty
});

test("wait gives up in time and leaves it running; kill ends all that it started", async () => {
  const proc = launch(["sh", "-c", "sleep 1000 & echo $!; wait"]);
  expect(await proc.wait({ timeoutS: 0.2 }).catch((error) => error.code)).toBe("TIMEOUT");
  expect(proc.poll()).toBeNull();
  proc.kill();
  expect(await proc.wait()).toBe(143);
  const pid = Number((await proc.communicate()).stdout);
  await until("the end of the sleep", () => {
    try {
      process.kill(pid, 0);
      return false;
    } catch {
      return true;
    }
  });
  proc.kill(); // of what has ended: nothing
});

test("communicate gives all of it, wait keeps the end of it, and a reader of one stream leaves the other to communicate", async () => {
  const script = "head -c 20000000 /dev/zero | tr '\\0' x; echo err >&2";
  const whole = await launch(["sh", "-c", script]).communicate();
  expect([whole.stdout.length, whole.lostBytes]).toEqual([20_000_000, 0]);
  const waited = launch(["sh", "-c", script]);
  await waited.wait();
  const { stdout, lostBytes } = await waited.communicate();
  expect(stdout.length).toBeLessThan(20_000_000);
  expect(stdout.length + lostBytes).toBe(20_000_000);
  const read = launch(["sh", "-c", script]);
  let bytes = 0;
  for await (const chunk of read.stdout) bytes += chunk.length;
  expect(await read.communicate()).toEqual({ stdout: "", stderr: "err\n", code: 0, lostBytes: 0 });
  expect(bytes).toBe(20_000_000);
});

test.each([2 ** 31 / 1000, 90 * 86_400, Number.POSITIVE_INFINITY])(
  "a timeout of %d s is not over at once",
  async (timeoutS) => {
    expect(await launch(["sleep", "0.1"]).wait({ timeoutS })).toBe(0);
  },
);

test.each([
  ["a\0b", "NUL"],
  ["x".repeat(200_000), "too long"],
])("an argument that no program can get is a usage error: %.5s", async (argument, why) => {
  const proc = launch(["true", argument]);
  const error = await proc.wait().catch((error) => error);
  expect(error).toMatchObject({ name: "EfError", code: "USAGE" });
  expect(error.message).toContain(why);
  expect(() => proc.poll()).toThrow(why);
  proc.kill();
});

test("a signal ends it; a program that is not there is told by whoever waits", async () => {
  const stop = new AbortController();
  const proc = launch(["sleep", "1000"], { signal: stop.signal });
  stop.abort();
  expect(await proc.wait()).toBe(143);
  const missing = launch(["ef-no-such-program"]);
  expect(await missing.wait().catch((error) => error.code)).toBe("TOOL_MISSING");
  expect(() => missing.poll()).toThrow("ef-no-such-program");
  expect(missing.pid).toBeUndefined();
});
