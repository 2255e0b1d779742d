/** A real apptainer, and images to build from: by scripts/setup-apptainer.sh, without a network. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type Home, have, until } from "./helpers.ts";

const cache = resolve(import.meta.dir, "../node_modules/.cache/apptainer");
const apptainer = join(cache, "bin/apptainer");
const registryProgram = join(cache, "docker-registry/usr/bin/docker-registry");
const registryData = join(cache, "registry");

/** An image with the Python that {@link systemPython} is, in /usr/bin. */
export const baseSif = join(cache, "base.sif");
/** The same as a sandbox: a directory. Tests only read it. */
export const baseSandbox = join(cache, "sandbox");
/** The same as `oci-archive:` and `docker-archive:`. */
export const ociArchive = join(cache, "base.oci.tar");
export const dockerArchive = join(cache, "base.docker.tar");
/** An image with busybox and nothing else. */
export const noPythonSif = join(cache, "nopython.sif");

/** For `test.skipIf(!haveApptainer)("… [needs apptainer]", …)`. */
export const haveApptainer = [apptainer, baseSif, baseSandbox, noPythonSif].every((path) => existsSync(path));
/** For `test.skipIf(!haveRegistry)("… [needs a registry]", …)`: also for the two archives. */
export const haveRegistry =
  haveApptainer && [registryProgram, registryData, ociArchive, dockerArchive].every((path) => existsSync(path));

/** The program of Environment Modules, which cannot be installed beside Lmod; undefined without it, or without Tcl. */
export const environmentModules: string | undefined = have("tclsh")
  ? [...new Bun.Glob("environment-modules/usr/lib/*/modulecmd.tcl").scanSync({ cwd: cache, absolute: true })][0]
  : undefined;

/** Makes a build quick: three seconds instead of eight, of which the default compression takes most. */
export const quickBuild = ["--mksquashfs-args", "-comp gzip -Xcompression-level 1"] as const;

/** Put apptainer on the PATH of a throw-away HOME; what it keeps and what it works in is below that too. */
export function withApptainer(at: Home): void {
  symlinkSync(apptainer, join(at.dir, "bin/apptainer"));
  for (const name of ["CACHEDIR", "TMPDIR"]) {
    const dir = join(at.dir, `apptainer ${name.toLowerCase()}`);
    mkdirSync(dir);
    at.env[`APPTAINER_${name}`] = dir;
  }
  at.env.APPTAINER_NOHTTPS = "1";
}

/**
 * Start a registry on a free port of the loopback device; nothing can be pushed to it.
 *
 * @returns with `image`, as it follows `docker://`, and `address`; `{version}` in `template` is for the Python's minor version
 */
export async function startRegistry(): Promise<AsyncDisposable & { address: string; image: string; template: string }> {
  const dir = mkdtempSync(join(realpathSync(tmpdir()), "ef registry "));
  const config = join(dir, "config.yml");
  writeFileSync(
    config,
    JSON.stringify({
      version: 0.1, // JSON is YAML
      storage: { filesystem: { rootdirectory: registryData }, maintenance: { readonly: { enabled: true } } },
      http: { addr: "127.0.0.1:0" },
    }),
  );
  const child = spawn(registryProgram, ["serve", config], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk) => {
    said += chunk;
  });
  const ended = once(child, "close");
  const stop = async () => {
    child.kill();
    await ended;
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const port = await until("a registry", () => {
      if (child.exitCode !== null) throw new Error(`the registry ended: ${said}`);
      return /listening on 127\.0\.0\.1:(\d+)/.exec(said)?.[1];
    });
    const address = `localhost:${port}`;
    return {
      address,
      image: `${address}/python:${imageTag()}`,
      template: `${address}/python:{version}-slim`,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The one tag that is stored, `3.11-slim` for one. */
function imageTag(): string {
  const [link] = new Bun.Glob("docker/registry/v2/repositories/python/_manifests/tags/*/current/link").scanSync(
    registryData,
  );
  return link?.split("/").at(-3) ?? "";
}
