/** Real environments for tests: by uv, from wheels that scripts/setup-tests.sh has downloaded, without a network. */
import { existsSync, readdirSync, symlinkSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Home, run } from "./helpers.ts";

const cache = resolve(import.meta.dir, "../node_modules/.cache");

/** The programs of PyPI that tests run: `uv`, `kpy`. */
export const pypiBin = join(cache, "py/bin");
/** pip, setuptools, wheel, numpy, ruff, black, ipython, six, and what they need, for {@link systemPython}. */
export const wheels = join(cache, "wheels");
/** The Python that programs find in a test. */
export const systemPython = Bun.which("python3", { PATH: "/usr/local/bin:/usr/bin:/bin" });

export const haveUv =
  systemPython !== null &&
  existsSync(join(pypiBin, "uv")) &&
  existsSync(wheels) &&
  readdirSync(wheels).some((name) => name.startsWith("numpy-"));

/** Put uv on the PATH of a throw-away HOME, and let it use the wheels and nothing else. */
export function withUv(at: Home): void {
  symlinkSync(join(pypiBin, "uv"), join(at.dir, "bin/uv"));
  Object.assign(at.env, uvEnv);
}

/** What makes uv work without a network. */
export const uvEnv = {
  UV_FIND_LINKS: wheels,
  UV_NO_INDEX: "1",
  UV_OFFLINE: "1",
  UV_PYTHON_DOWNLOADS: "never",
  UV_CACHE_DIR: join(cache, "uv"),
  UV_LINK_MODE: "copy",
} as const;

/**
 * Make an environment with uv.
 *
 * @returns its path
 */
export async function makeEnv(
  path: string,
  packages: readonly string[],
  args: readonly string[] = [],
): Promise<string> {
  const env = { PATH: "/usr/bin:/bin", HOME: "/nonexistent", LANG: "C.UTF-8", ...uvEnv };
  const uv = join(pypiBin, "uv");
  const commands = [
    [uv, "venv", "--quiet", "--python", systemPython ?? "python3", ...args, "--", path],
    ...(packages.length > 0 ? [[uv, "pip", "install", "--quiet", "--python", path, "--", ...packages]] : []),
  ];
  for (const argv of commands) {
    const { code, stderr } = await run(argv, { env });
    if (code !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
  }
  return path;
}
