/**
 * The Bun executables that a compiled program is made from, one per target. The one for this machine is the Bun that runs
 * this; the others are fetched from the npm registry, as packages of exactly the same version, and kept in
 * node_modules/.cache.
 */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";

export const targets = ["linux-x64", "linux-x64-baseline", "linux-x64-musl", "linux-arm64"] as const;
export type Target = (typeof targets)[number];

const packages: Record<Target, string> = {
  "linux-x64": "bun-linux-x64",
  "linux-x64-baseline": "bun-linux-x64-baseline",
  "linux-x64-musl": "bun-linux-x64-musl",
  "linux-arm64": "bun-linux-aarch64",
};

const cache = join(import.meta.dir, "../node_modules/.cache/bun", Bun.version);

/** The target that fits this machine. */
export function hostTarget(): Target {
  const name = `linux-${process.arch}${isMusl() ? "-musl" : ""}`;
  const target = targets.find((known) => known === name);
  if (process.platform === "linux" && target !== undefined) return target;
  throw new Error(
    `Cannot build for this machine (${process.platform} ${process.arch}): targets are ${targets.join(", ")}`,
  );
}

/** The Bun executable of a target; fetched if it is not here. */
export async function runtimeFor(target: Target): Promise<string> {
  if (target === hostTarget()) return process.execPath;
  const executable = join(cache, target, "bin/bun");
  if (!existsSync(executable)) await fetchRuntime(target, join(cache, target));
  return executable;
}

async function fetchRuntime(target: Target, destination: string): Promise<void> {
  const spec = `@oven/${packages[target]}@${Bun.version}`;
  console.error(`Fetching ${spec} from the npm registry ...`);
  await mkdir(cache, { recursive: true });
  const temporary = await mkdtemp(join(cache, "fetch-"));
  try {
    // npm checks the sum of what it fetches; `pack` neither installs nor minds that the package is for another machine.
    run(["npm", "pack", "--silent", "--pack-destination", temporary, spec], temporary);
    const [archive] = [...new Bun.Glob("*.tgz").scanSync(temporary)];
    if (archive === undefined) throw new Error(`Cannot fetch ${spec}: npm pack left no archive`);
    run(["tar", "-xzf", archive], temporary);
    await rm(destination, { recursive: true, force: true });
    await rename(join(temporary, "package"), destination);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

function run(argv: string[], cwd: string): void {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { cwd, stdin: "ignore" });
  if (exitCode !== 0) throw new Error(`Cannot run \`${argv.join(" ")}\` (exit ${exitCode}): ${stdout}${stderr}`);
}

function isMusl(): boolean {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime === undefined;
}
