/**
 * Purges: before a sync, anything of a copy and of ef's own notes may be gone; while syncs and pushes run, a child purges and edits
 * at random. One sync makes it whole, and until then no status says that it is.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { efArgv, Home, have, isBinary, watchMemory } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { lookAt, pathsBelow, pick, wrongsOf } from "../trees.ts";
import { leftovers } from "./scenarios.ts";
import { isLong, seed } from "./seed.ts";

setDefaultTimeout(isLong ? 3_600_000 : 120_000);

const old = 1_600_000_000;

/** As HuggingFace has it: blobs, and snapshots of links to them. */
function hub(root: string): void {
  for (const model of ["a", "b"]) {
    for (const dir of ["blobs", "snapshots/1", "refs"])
      mkdirSync(join(root, "hub", `models--${model}`, dir), { recursive: true });
    const at = (path: string) => join(root, "hub", `models--${model}`, path);
    for (let i = 0; i < 3; i++) {
      writeFileSync(at(`blobs/${i}`), `blob ${i} of ${model}`.repeat(500));
      utimesSync(at(`blobs/${i}`), old, old);
      symlinkSync(`../../blobs/${i}`, at(`snapshots/1/file${i}`));
    }
    writeFileSync(at("refs/main"), "1");
  }
  writeFileSync(join(root, "version"), "1");
}

async function user(): Promise<Home> {
  const at = new Home();
  hub(join(at.home, "hf"));
  at.configure({ HF_HOME: "hf" });
  const { code, stderr } = await at.ef(["sync"]);
  expect([code, stderr]).toEqual([0, stderr]);
  return at;
}

/** Everything that a purge can take: of the copy, and of what is beside it. */
function purgeable(at: Home): string[] {
  const copy = at.cache("HF_HOME");
  const inside = pathsBelow(copy).map((path) => join(copy, path));
  const notes = ["synced", "manifest", "lock"].map((name) => at.cache(`.HF_HOME.${name}`));
  return [...inside, ...notes, copy, join(copy, "..")];
}

const stateOf = async (at: Home): Promise<string> =>
  JSON.parse((await at.ef(["status", "--json"])).stdout).variables[0].state as string;

test("whatever was purged before: a status says so, and one sync makes it whole", async () => {
  for (let round = 0; round < (isLong ? 400 : 3); round++) {
    const random = seeded(seed + round);
    using at = await user();
    const all = purgeable(at);
    const gone = Array.from({ length: 1 + random(6) }, () => pick(random, all));
    for (const path of gone) rmSync(path, { recursive: true, force: true });
    const what = `EF_FAULT_SEED=${seed + round}: without ${gone.join(", ")}`;
    const isWhole = gone.every((path) => path.endsWith(".lock"));
    const first = await stateOf(at);
    expect([first === "fresh", what]).toEqual([isWhole, what]);
    const { code, stdout, stderr } = await at.ef(["sync"]);
    expect([code, stdout.startsWith("export HF_HOME="), what]).toEqual([0, true, `${what}${code ? stderr : ""}`]);
    expect([what, wrongsOf(lookAt(join(at.home, "hf")), lookAt(at.cache("HF_HOME")), new Map())]).toEqual([what, []]);
    expect([what, await stateOf(at)]).toEqual([what, "fresh"]);
    expect([what, leftovers(at.dir)]).toEqual([what, []]);
  }
});

/** More than any of these takes; a program that grows without an end is to fail alone. */
const limits = ["prlimit", "--as=8000000000"];
const mostMemory = 400 << 20;

/** Run ef, and see how much memory it had. */
async function measured(at: Home, args: readonly string[]) {
  const child = Bun.spawn([...limits, ...efArgv, ...args], {
    cwd: at.home,
    env: at.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const memory = watchMemory(child.pid);
  const stop = setTimeout(() => child.kill("SIGKILL"), 60_000);
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  const code = await child.exited;
  clearTimeout(stop);
  return { code, stdout, stderr, bytes: memory.stop() };
}

test.skipIf(!isBinary || !have("prlimit"))(
  "while a child edits and purges at random: no crash, bounded, and equal in the end [needs prlimit]",
  async () => {
    for (let round = 0; round < (isLong ? 20 : 1); round++) {
      using at = new Home();
      const [source, copy] = [join(at.home, "hf"), at.cache("HF_HOME")];
      mkdirSync(source);
      at.configure({ HF_HOME: "hf" }, { skip_if_fresh_seconds: 0 });
      const count = isLong ? 3000 : 400;
      const mutator = Bun.spawn(
        [process.execPath, join(import.meta.dir, "mutator.ts"), source, copy, String(seed + round), String(count)],
        {
          stdio: ["ignore", "ignore", "inherit"],
        },
      );
      const wrong: string[] = [];
      let runs = 0;
      let most = 0;
      for (; mutator.exitCode === null; runs++) {
        const args = runs % 3 === 2 ? ["push"] : ["sync"];
        const { code, stderr, bytes } = await measured(at, args);
        if (![0, 1].includes(code)) wrong.push(`${args}: exit ${code}: ${stderr}`);
        if (/^\s+at .*:\d+|\b(Type|Range|Reference)Error\b|panic/m.test(stderr)) wrong.push(`${args}: ${stderr}`);
        most = Math.max(most, bytes);
        if (bytes > mostMemory) wrong.push(`${args}: ${bytes} bytes of memory`);
      }
      expect(await mutator.exited).toBe(0);
      expect(most).toBeGreaterThan(10 << 20); // it was measured
      if (isLong) console.log(`round ${round}: ${runs} runs`);
      // Without its notes a push takes every difference for a change of both sides. Then scratch is given up.
      const pushed = await at.ef(["push", "--on-conflict", "scratch"]);
      if (pushed.code !== 0 && !/conflict/.test(pushed.stderr)) wrong.push(`the last push: ${pushed.stderr}`);
      if (pushed.code !== 0) rmSync(copy, { recursive: true, force: true });
      const synced = await at.ef(["sync"]);
      if (synced.code !== 0) wrong.push(`the last sync: exit ${synced.code}: ${synced.stderr}`);
      wrong.push(
        // Where a push found equal contents, each side keeps its time.
        ...wrongsOf(lookAt(source), lookAt(copy), new Map(), { times: false }),
        ...leftovers(at.dir).map((path) => `left over: ${path}`),
      );
      expect([`EF_FAULT_SEED=${seed + round}`, wrong]).toEqual([`EF_FAULT_SEED=${seed + round}`, []]);
    }
  },
);
