/**
 * Much at once: a million small files, a hundred thousand directories, a file of 50 GB that is mostly hole, two hundred variables.
 * The copy is whole, memory has a bound, and it answers: to a signal, and with progress. Times are shown, never demanded.
 *
 * `npm test` runs a small slice of each; `npm run test:faults` all of it, for which it wants 20 GB of disk.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import {
  type BigIntStats,
  closeSync,
  existsSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { libc } from "../../lib/drivers/libc.ts";
import { isLong } from "../faults/seed.ts";
import { efArgv, Home, have, isBinary, watchMemory } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

setDefaultTimeout(isLong ? 7_200_000 : 120_000);

const calls = await libc();
const { bavail, bsize, ffree } = statfsSync(tmpdir());
const hasRoom = !isLong || (bavail * bsize > 20e9 && ffree > 2_500_000);
const sizes = isLong
  ? { files: 1_000_000, inDir: 1000, directories: 100_000, sparse: 50e9, pieces: 200, vars: 200 }
  : { files: 10_000, inDir: 1000, directories: 2000, sparse: 1e9, pieces: 8, vars: 20 };
const MB = 1e6;
/** A line of the report. */
const note = (line: string) => isLong && console.log(`load: ${line}`);

class Loaded extends Home {
  constructor(dirs: Record<string, string> = { ONE: "one" }, more: object = {}) {
    super();
    this.configure(dirs, more);
  }

  get source(): string {
    return join(this.home, "one");
  }

  get copy(): string {
    return this.cache("ONE");
  }

  /** One call for a tree of any size. */
  override [Symbol.dispose](): void {
    Bun.spawnSync(["rm", "-rf", this.dir]);
  }
}

interface Measured {
  code: number;
  stdout: string;
  stderr: string;
  seconds: number;
  /** Of the process and its threads at most, in bytes. */
  memory: number;
  /** The longest time, in seconds, in which it said nothing. */
  silence: number;
}

/** Run ef; its figures go to the report. */
async function measure(
  at: Home,
  what: string,
  args: readonly string[],
  onStart?: (child: Bun.Subprocess) => unknown,
): Promise<Measured> {
  const began = performance.now();
  const child = Bun.spawn([...efArgv, ...args], {
    cwd: at.home,
    env: at.env as Record<string, string>,
    stdio: ["ignore", "pipe", "pipe"],
  });
  onStart?.(child);
  const watch = watchMemory(child.pid);
  let stderr = "";
  let heard = began;
  let silence = 0;
  const listen = async () => {
    for await (const chunk of child.stderr) {
      silence = Math.max(silence, performance.now() - heard);
      heard = performance.now();
      stderr += Buffer.from(chunk);
    }
    silence = Math.max(silence, performance.now() - heard);
  };
  const [stdout] = await Promise.all([new Response(child.stdout).text(), listen(), child.exited]);
  const seconds = (performance.now() - began) / 1000;
  const memory = watch.stop();
  const code = child.exitCode ?? 128 + ({ SIGINT: 2, SIGTERM: 15 }[child.signalCode as string] ?? 0);
  note(
    `${what}: ${seconds.toFixed(1)} s, ${Math.round(memory / MB)} MB, silent for ${(silence / 1000).toFixed(1)} s at most`,
  );
  return { code, stdout, stderr, seconds, memory, silence: silence / 1000 };
}

/** Run ef to its good end. */
async function succeed(at: Home, what: string, args: readonly string[], most: number): Promise<Measured> {
  const ran = await measure(at, what, args);
  expect([what, ran.code, ran.stderr]).toEqual([what, 0, ran.stderr]);
  expect(ran.memory).toBeGreaterThan(10 * MB); // it is bytes
  expect(ran.memory).toBeLessThan(most);
  return ran;
}

/** What any sync is to do after one that was whole: compare all; and nothing, as the marker says. */
async function settle(at: Home, what: string, most: number): Promise<void> {
  const forced = await succeed(at, `${what}, compared again`, ["sync", "--force"], most);
  expect(forced.stderr).toContain("nothing to copy");
  const fresh = await succeed(at, `${what}, fresh`, ["sync"], most);
  expect(fresh.stderr).toContain("fresh");
  const status = await succeed(at, `${what}, ef status`, ["status"], most);
  expect(status.stdout).toContain("fresh");
}

/**
 * End it in the middle by a signal: it goes at once, says nothing on stdout, and makes no marker.
 *
 * @param amount of what has been copied: when that grows, it is in the middle
 */
async function interrupt(at: Loaded, what: string, amount: () => number): Promise<void> {
  for (const [signal, code] of [
    ["SIGTERM", 143],
    ["SIGINT", 130],
  ] as const) {
    const before = amount();
    let asked = 0;
    const ran = await measure(at, `${what}, until ${signal}`, ["sync"], async (child) => {
      while (child.exitCode === null && amount() <= before) await Bun.sleep(10);
      asked = performance.now();
      child.kill(signal);
    });
    const answer = (performance.now() - asked) / 1000;
    note(`${what}: gone ${answer.toFixed(1)} s after ${signal}`);
    expect([ran.code, ran.stdout]).toEqual([code, ""]);
    expect(existsSync(at.cache(".ONE.synced"))).toBe(false);
  }
}

const namesIn = (dir: string) => (existsSync(dir) ? readdirSync(dir) : []);

/** Walk two trees side by side, never more than one directory of each in memory. @returns how many entries are the same */
function compareTrees(one: string, other: string): number {
  const dirs = [""];
  let same = 0;
  for (let dir = dirs.pop(); dir !== undefined; dir = dirs.pop()) {
    const names = readdirSync(`${one}${dir}`).sort();
    expect(readdirSync(`${other}${dir}`).sort()).toEqual(names);
    for (const name of names) {
      const [a, b] = [one, other].map((root) => lstatSync(`${root}${dir}/${name}`, { bigint: true })) as [
        BigIntStats,
        BigIntStats,
      ];
      if (a.mode !== b.mode || a.mtimeNs !== b.mtimeNs || (a.isFile() && a.size !== b.size))
        throw new Error(`differs: ${dir}/${name}`);
      if (a.isDirectory()) dirs.push(`${dir}/${name}`);
      else if (same % 97 === 0)
        expect(readFileSync(`${other}${dir}/${name}`)).toEqual(readFileSync(`${one}${dir}/${name}`));
      same++;
    }
  }
  return same;
}

test.skipIf(!isBinary || !hasRoom)(`${sizes.files} small files [needs the compiled binary, and room]`, async () => {
  using at = new Loaded();
  const began = performance.now();
  for (let i = 0; i < sizes.files; i++) {
    const dir = join(at.source, `d${Math.floor(i / sizes.inDir)}`);
    if (i % sizes.inDir === 0) mkdirSync(dir, { recursive: true });
    writeFileSync(`${dir}/f${i}`, `content of file ${i}`);
  }
  note(`${sizes.files} files made in ${((performance.now() - began) / 1000).toFixed(0)} s`);
  const what = `${sizes.files} files`;
  const amount = () => namesIn(at.copy).reduce((sum, name) => sum + readdirSync(join(at.copy, name)).length, 0);
  if (isLong) await interrupt(at, what, amount);
  if (have("tmux")) await onTerminal(at, what);
  const first = await succeed(at, `${what}, first sync`, ["sync"], 1500 * MB);
  expect(first.stderr).toContain("complete");
  expect(compareTrees(at.source, at.copy)).toBe(sizes.files + sizes.files / sizes.inDir);
  await settle(at, what, 1500 * MB);
  writeFileSync(join(at.copy, "d0/f0"), "a job's");
  writeFileSync(join(at.copy, "new"), "a job's");
  await succeed(at, `${what}, push of two`, ["push"], 1500 * MB);
  expect(readFileSync(join(at.source, "d0/f0"), "utf8")).toBe("a job's");
});

/** On a terminal the figures go on changing, and Ctrl-C ends it. */
async function onTerminal(at: Loaded, what: string): Promise<void> {
  await using terminal = await Terminal.open(at, "ef sync");
  const bars = new Set<string>();
  const looks = new Set<string>();
  const wanted = isLong ? 30 : 1;
  let changed = performance.now();
  let still = 0;
  for (;;) {
    const screen = await terminal.screen();
    if (/code=\d/.test(screen)) break;
    const look = /comparing: [\d,]+ entries/.exec(screen)?.[0];
    if (look !== undefined) looks.add(look);
    const bar = /\d+ of [\d.]+\S* files/.exec(screen)?.[0];
    if (bar !== undefined && !bars.has(bar)) {
      if (bars.size > 0) still = Math.max(still, performance.now() - changed);
      changed = performance.now();
      bars.add(bar);
      if (bars.size === wanted) break;
    }
    await Bun.sleep(isLong ? 250 : 20);
  }
  expect(bars.size).toBeGreaterThanOrEqual(1);
  if (isLong) expect(looks.size).toBeGreaterThanOrEqual(1);
  const asked = performance.now();
  await terminal.press("C-c");
  await terminal.shows(isLong ? "code=130" : /code=(130|0)/); // a slice may end before the key is heard
  note(
    `${what} on a terminal: ${looks.size} figures of the comparison seen, ${bars.size} of the copy, ${(still / 1000).toFixed(1)} s between two at most; gone ${((performance.now() - asked) / 1000).toFixed(1)} s after Ctrl-C`,
  );
}

test.skipIf(!isBinary || !hasRoom)(
  `${sizes.directories} directories [needs the compiled binary, and room]`,
  async () => {
    using at = new Loaded();
    for (let i = 0; i < sizes.directories; i++) {
      const dir = join(at.source, `${i % 10}`, `${Math.floor(i / 10) % 100}`, `${i}`);
      mkdirSync(dir, { recursive: true });
      if (i % 10 === 0) writeFileSync(`${dir}/f`, `${i}`);
    }
    const what = `${sizes.directories} directories`;
    await succeed(at, `${what}, first sync`, ["sync"], 1000 * MB);
    expect(compareTrees(at.source, at.copy)).toBeGreaterThan(sizes.directories * 1.1);
    await settle(at, what, 1000 * MB);
  },
);

/** Where a file has data: what is between is hole. */
function* dataOf(fd: number, size: number): Generator<[from: number, to: number]> {
  for (let at = calls?.nextData(fd, 0); at !== undefined && at < size; ) {
    const to = calls?.nextHole(fd, at) ?? size;
    yield [at, to];
    at = calls?.nextData(fd, to);
  }
}

/** Are two sparse files the same, wherever one of them has data? @returns bytes compared */
function compareSparse(one: string, other: string): number {
  const [size, otherSize] = [one, other].map((path) => lstatSync(path).size) as [number, number];
  expect(otherSize).toBe(size);
  const [a, b] = [one, other].map((path) => openSync(path, "r")) as [number, number];
  let compared = 0;
  for (const fd of [a, b])
    for (const [from, to] of dataOf(fd, size))
      for (let at = from; at < to; at += 1 << 20) {
        const [x, y] = [Buffer.alloc(Math.min(1 << 20, to - at)), Buffer.alloc(Math.min(1 << 20, to - at))];
        readSync(a, x, 0, x.length, at);
        readSync(b, y, 0, y.length, at);
        if (!x.equals(y)) throw new Error(`differs from byte ${at} on`);
        compared += x.length;
      }
  closeSync(a);
  closeSync(b);
  return compared;
}

test.skipIf(!isBinary || !hasRoom || !calls)(
  `a file of ${sizes.sparse} bytes, mostly hole [needs the compiled binary, and room]`,
  async () => {
    using at = new Loaded({ ONE: "one" }, { ef: { transfer: { bwlimit: isLong ? "20M" : "4M" } } });
    mkdirSync(at.source);
    const path = join(at.source, "sparse");
    const fd = openSync(path, "w");
    for (let i = 0; i < sizes.pieces; i++) {
      const piece = Buffer.alloc(1 << 20, 1 + (i % 255));
      writeSync(fd, piece, 0, piece.length, Math.floor((i * (sizes.sparse - piece.length)) / (sizes.pieces - 1)));
    }
    ftruncateSync(fd, sizes.sparse);
    closeSync(fd);
    const what = `sparse file of ${sizes.sparse / 1e9} GB`;
    const blocks = (file: string) => lstatSync(file).blocks * 512;
    await interrupt(at, what, () => namesIn(at.copy).reduce((sum, name) => sum + blocks(join(at.copy, name)), 0));
    at.configure({ ONE: "one" });
    await succeed(at, `${what}, sync`, ["sync"], 300 * MB);
    const copied = join(at.copy, "sparse");
    expect(compareSparse(path, copied)).toBeGreaterThan(sizes.pieces * 2 * 1e6);
    expect(blocks(copied)).toBeLessThan(blocks(path) + 10 * MB);
    await settle(at, what, 300 * MB);
    const job = openSync(copied, "r+");
    writeSync(job, "a job's", Math.floor(sizes.sparse / 3));
    closeSync(job);
    await succeed(at, `${what}, push`, ["push"], 300 * MB);
    expect(compareSparse(path, copied)).toBeGreaterThan(sizes.pieces * 2 * 1e6);
    expect(blocks(path)).toBeLessThan(blocks(copied) + 10 * MB);
  },
);

test.skipIf(!isBinary || !hasRoom)(`${sizes.vars} variables [needs the compiled binary, and room]`, async () => {
  const vars = Object.fromEntries(Array.from({ length: sizes.vars }, (_, i) => [`VAR_${i}`, `caches/${i}`]));
  using at = new Loaded(vars);
  for (const dir of Object.values(vars)) for (let i = 0; i < 20; i++) at.write(`${dir}/sub/${i}`, `${dir} ${i}`);
  const what = `${sizes.vars} variables`;
  const first = await succeed(at, `${what}, first sync`, ["sync", "--shell", "bash"], 600 * MB);
  expect(first.stdout.match(/^export VAR_\d+=/gm)?.length).toBe(sizes.vars);
  for (const [name, dir] of Object.entries(vars)) expect(compareTrees(join(at.home, dir), at.cache(name))).toBe(21);
  await settle(at, what, 600 * MB);
});
