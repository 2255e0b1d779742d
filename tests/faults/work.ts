/** Trees, environments and jobs that give ef so much to do that a signal comes in the middle of it. */
import { expect } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmodSync, linkSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemPython } from "../envs.ts";
import { type Home, run } from "../helpers.ts";
import { seeded } from "../tables.ts";
import { setTime, writeRandom } from "../trees.ts";
import { old, write } from "./scenarios.ts";

export const MiB = 1 << 20;
const time = (seconds: number) => BigInt(seconds) * 1_000_000_000n;
/** Of the file with that number. */
export const nameOf = (i: number) => `${i % 7}/${i % 30}/f${i}`;

/** One file, at its time. In a large one the same bytes come again and again, so often that no range is like another. */
export function put(path: string, size: number, seed: number, mode = 0o644, seconds = old): void {
  const random = seeded(seed);
  if (size < MiB) writeRandom(path, size, random);
  else writeFileSync(path, Buffer.alloc(size, Buffer.from(Array.from({ length: 65_537 }, () => random(256)))));
  chmodSync(path, mode);
  setTime(path, time(seconds));
}

/** A cache: small files with links of both kinds, one so large that what was done of it is kept, one that is not. */
export function hub(root: string, files = 900): void {
  for (let i = 0; i < 210; i++) mkdirSync(join(root, nameOf(i), ".."), { recursive: true });
  for (let i = 0; i < files; i++) put(join(root, nameOf(i)), (i * 37) % 6000, i, [0o644, 0o600, 0o755][i % 3]);
  for (let i = 0; i < 40; i++) linkSync(join(root, nameOf(i)), join(root, `${nameOf(i + 40)}.same`));
  for (let i = 0; i < 10; i++) symlinkSync(`../../${nameOf(i)}`, join(root, `${nameOf(i)}.link`));
  put(join(root, "large"), 34 * MiB, 1);
  put(join(root, "larger"), 12 * MiB, 2);
}

/** As people do: rewritten in place and anew, grown, deleted, added, another mode, another kind. */
export function later(root: string, { kinds = true } = {}): void {
  const seconds = old + 100;
  for (let i = 100; i < 500; i += 2) put(join(root, nameOf(i)), (i * 53) % 7000, i + 1, 0o644, seconds);
  for (let i = 500; i < 560; i++) rmSync(join(root, nameOf(i)));
  for (let i = 600; i < 640; i++) put(join(root, `${nameOf(i)}.new`), 3000, i, 0o600, seconds);
  for (let i = 640; i < 660; i++) chmodSync(join(root, nameOf(i)), 0o600);
  for (let i = 660; i < 680; i++) {
    write(join(root, "new"), `replaced ${i}`, seconds);
    renameSync(join(root, "new"), join(root, nameOf(i)));
  }
  if (kinds) {
    rmSync(join(root, nameOf(700)));
    mkdirSync(join(root, nameOf(700)));
    write(join(root, nameOf(700), "in"), "a directory now", seconds);
  }
  put(join(root, "large"), 35 * MiB, 3, 0o644, seconds);
}

/** A Python environment with something to copy. */
export async function environment(path: string): Promise<void> {
  const made = await run([systemPython ?? "", "-m", "venv", "--without-pip", path], { env: { PATH: "/usr/bin:/bin" } });
  expect([made.code, made.stderr]).toEqual([0, ""]);
  const lib = join(path, "lib/many");
  for (let i = 0; i < 210; i++) mkdirSync(join(lib, nameOf(i), ".."), { recursive: true });
  for (let i = 0; i < 800; i++) put(join(lib, nameOf(i)), (i * 37) % 6000, i);
  put(join(lib, "large"), 20 * MiB, 5);
  // As uv writes it where the path has a space.
  const start = `#!/bin/sh\n'''exec' "${join(path, "bin/python")}" "$0" "$@"\n' '''\n`;
  writeFileSync(join(path, "bin/tool"), `${start}import sys; print(sys.prefix)\n`, { mode: 0o755 });
}

/** Does the tool of an environment at that place run, and say that it is there? */
export function runsAt(path: string): string[] {
  const { stdout, stderr, error } = spawnSync(join(path, "bin/tool"), { encoding: "utf8" });
  return stdout?.trim() === path ? [] : [`does not run: ${path}: ${error ?? stdout + stderr}`];
}

/** A job of three nodes, in which this HOME then is. */
export async function allocation(at: Home): Promise<AsyncDisposable> {
  const job = Promise.withResolvers<Record<string, string>>();
  const script = `printf 'SLURM_HOLDER=%s\\0' $$; env -0; echo; exec sleep 100000`;
  const ended = run(["salloc", "-Q", "-N3", "--", "sh", "-c", script], {
    env: at.env,
    onStart(child) {
      let text = "";
      child.stdout?.on("data", (chunk) => {
        text += chunk;
        if (!text.endsWith("\0\n")) return;
        const pairs = text.split("\0").map((line) => line.split(/=(.*)/s, 2) as [string, string]);
        job.resolve(Object.fromEntries(pairs.filter(([name]) => name.startsWith("SLURM"))));
      });
    },
  });
  const known = await Promise.race([job.promise, ended.then(({ stderr }) => Promise.reject(new Error(stderr)))]);
  Object.assign(at.env, known);
  return {
    async [Symbol.asyncDispose]() {
      process.kill(Number(known.SLURM_HOLDER));
      await ended;
    },
  };
}
