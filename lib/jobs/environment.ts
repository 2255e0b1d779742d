/** With which Python a job runs: a saved environment, an image, one made of the pins of the package, or the cluster's own. */
import { createHash } from "node:crypto";
import { statSync } from "node:fs";
import { basename, join } from "node:path";
import { EfError } from "../base/errors.ts";
import { lastLines } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import type { Host } from "../clusters/host.ts";
import type { ClusterConfig, Config } from "../config/schema.ts";
import { configPath } from "../config/store.ts";
import { newline, shellLine } from "../drivers/slurm-jobs.ts";
import { findSaved, storeOf } from "../envs/store.ts";
import { builtImage } from "../images/store.ts";
import { bestCopy } from "../images/whole.ts";
import type { PackageMetadata } from "../pack/package.ts";
import type { SubmitEvent } from "./events.ts";
import { expandThere, type Place } from "./place.ts";
import type { JobPython } from "./script.ts";

export interface Surroundings {
  config: Config | undefined;
  definition: ClusterConfig;
  /** `ef.clusters.euler`, for messages. */
  where: string;
  /** Runs programs there. */
  host: Host;
  /** Puts files there: the host, or this machine where it has the same directory. */
  files: Host;
  place: Place;
  /** What starts ef here. */
  program: readonly string[];
  env: Env;
  signal: AbortSignal | undefined;
  onEvent: (event: SubmitEvent) => void;
}

/**
 * Choose, and bring what it needs.
 *
 * @param wanted a saved environment or a directory there, an image or its file there; a path is told by its slash
 * @throws {EfError} UNKNOWN_ENV, UNKNOWN_IMAGE, TOOL_MISSING, TOOL_FAILED, and what shipping throws
 */
export async function pythonFor(
  metadata: PackageMetadata,
  wanted: { venv?: string | undefined; image?: string | undefined },
  at: Surroundings,
): Promise<JobPython> {
  if (metadata.kind === "script") return { from: "ef", ef: efThere(at) };
  if (wanted.image !== undefined) return image(wanted.image, at);
  if (wanted.venv?.includes("/")) {
    const dir = await expandThere(at.host, wanted.venv, "--venv", at.signal);
    return { from: "python", python: join(dir, "bin/python") };
  }
  if (wanted.venv !== undefined) return saved(wanted.venv, at);
  const { packages } = metadata.dependencies;
  if (packages.length === 0) return { from: "python", python: plainPython(at) };
  const loose = packages.filter(({ version }) => version === null).map(({ name }) => name);
  if (loose.length === 0) return made(metadata, at);
  const message = `not pinned, so the Python of the cluster must have them: ${loose.join(", ")}`;
  at.onEvent({ type: "warning", message });
  return { from: "python", python: plainPython(at) };
}

/** A node may have what its login node has not, so only a job that runs on the host itself is refused here. */
function plainPython({ definition, place, where, host }: Surroundings): string {
  const asked = place.python ?? "python3";
  const isChecked = definition.type !== "slurm" && !definition.modules?.length;
  if (!isChecked || place.programs.python !== undefined) return place.programs.python ?? asked;
  throw new EfError("TOOL_MISSING", `Cannot run Python on ${host.name}: there is no ${asked}`, {
    hint: `say where it is: ef config set ${where}.python PATH, or name its module in ${where}.modules`,
  });
}

function efThere({ host, place, program, where }: Surroundings): readonly string[] {
  if (host.isLocal) return program;
  if (place.programs.ef !== undefined) return [place.programs.ef];
  throw new EfError("TOOL_MISSING", `Cannot find ef on ${host.name}`, {
    hint: `copy the binary to ~/bin/ef there, or say where it is: ef config set ${where}.ef PATH`,
  });
}

async function saved(name: string, at: Surroundings): Promise<JobPython> {
  const { config, env, files, place, signal } = at;
  if (!config) throw new EfError("CONFIG_NOT_FOUND", "Cannot use a saved environment: there is no configuration");
  const { archive, description } = findSaved(storeOf(config, env), name);
  const ef = efThere(at);
  if (at.host.isLocal) return { from: "saved", ef, config: configPath(env), name };
  // By its sum: another archive of that name is another directory.
  const key = description?.sha256.slice(0, 16) ?? versionOf(archive);
  const store = `${place.work}/venvs/${key}`;
  await makeDirectory(at, store);
  await ship(archive, `${store}/${basename(archive)}`, at);
  if (description) {
    const text = `${archive.slice(0, -".tar.zst".length)}.json`;
    await files.put(text, `${store}/${basename(text)}`, { signal });
  }
  const config2 = `${store}/ef.json`;
  await writeThere(at, config2, `${JSON.stringify({ version: 1, scratch_base: store, ef: { venv_store: store } })}\n`);
  return { from: "saved", ef, config: config2, name };
}

async function image(name: string, at: Surroundings): Promise<JobPython> {
  const { config, env, place, host, definition, signal } = at;
  if (name.includes("/"))
    return { from: "image", image: await expandThere(host, name, "--image", signal), python: "python3" };
  if (!config) throw new EfError("CONFIG_NOT_FOUND", "Cannot use an image: there is no configuration");
  const { path } = bestCopy(config, env, builtImage(config, env, name));
  const python = `${config.apptainer?.container_venv_path ?? "/opt/venv"}/bin/python`;
  if (host.isLocal || definition.shared) return { from: "image", image: path, python };
  const there = `${place.work}/images/${versionOf(path)}-${basename(path)}`;
  await ship(path, there, at);
  return { from: "image", image: there, python };
}

/** Size and time of a file that is too large to be read for a sum. */
function versionOf(path: string): string {
  const { size, mtimeNs } = statSync(path, { bigint: true });
  return `${size.toString(36)}-${mtimeNs.toString(36)}`;
}

/** Put a file there, unless it is: whole files only ever appear there under their names. */
export async function ship(from: string, to: string, at: Surroundings): Promise<void> {
  const { size } = statSync(from);
  const { stdout } = await at.host.sh('wc -c 2>/dev/null <"$1"; exit 0', [to], { signal: at.signal });
  if (stdout.trim() === String(size)) return;
  at.onEvent({ type: "shipping", what: from, bytes: size });
  await at.files.put(from, to, { signal: at.signal });
}

/** Small texts: in one request, whole or not at all. */
export async function writeThere({ host, signal }: Surroundings, path: string, text: string): Promise<void> {
  const script = 'umask 077; cat >"$1.tmp" && mv -f -- "$1.tmp" "$1"';
  await host.sh(script, [path], { input: Buffer.from(text), signal });
}

/** The directory of a job: what it prints is its owner's alone, whoever opens these files first. */
export async function makeJobDirectory({ host, signal }: Surroundings, path: string): Promise<void> {
  await host.sh('umask 077; mkdir -p -- "$1" && cd -- "$1" && : >stdout && : >stderr', [path], { signal });
}

async function makeDirectory({ host, signal }: Surroundings, path: string): Promise<void> {
  await host.sh('umask 077; mkdir -p -- "$1"', [path], { signal });
}

/**
 * An environment of exactly the pinned packages, made once for each set of them, by uv if it is there, else by pip.
 *
 * On the host, not in the job: nodes often have no internet. It stays where it was made, as an environment cannot be moved.
 */
async function made(metadata: PackageMetadata, at: Surroundings): Promise<JobPython> {
  const { definition, place, host, signal, onEvent } = at;
  const pins = metadata.dependencies.packages.map(({ name, version }) => `${name}==${version}`);
  const python = place.python ?? metadata.python_version ?? "python3";
  const key = createHash("sha256")
    .update([python, ...pins].join("\n"))
    .digest("hex")
    .slice(0, 16);
  const dir = `${place.work}/envs/${key}`;
  const script = [newline, ...preludeOf(definition), makeScript].join("\n");
  const args = [dir, python, place.programs.uv ?? "", place.programs.python ?? "python3"];
  const { code: there } = await host.run(["test", "-e", `${dir}/.complete`], { accept: [0, 1], signal });
  if (there === 0) return { from: "python", python: `${dir}/bin/python` };
  onEvent({ type: "installing", packages: pins.length, dir });
  const argv = definition.modules?.length
    ? ["bash", "-lc", script, "ef", ...args]
    : ["sh", "-c", script, "ef", ...args];
  const { code, stderr } = await host.run(argv, {
    input: Buffer.from(pins.map((pin) => `${pin}\n`).join("")),
    accept: Array.from({ length: 255 }, (_, i) => i),
    signal,
    onStderr: (piece) => onEvent({ type: "output", text: piece.toString("utf8") }),
  });
  if (code === 0) return { from: "python", python: `${dir}/bin/python` };
  throw new EfError(
    "TOOL_FAILED",
    `Cannot make an environment of the ${pins.length} pinned packages on ${host.name}${lastLines(stderr)}`,
    {
      hint: "has it internet? else take a saved environment: --venv NAME, or set PIP_FIND_LINKS and UV_FIND_LINKS in the cluster's env",
      path: dir,
    },
  );
}

/** What the definition asks to be done before anything runs. */
function preludeOf({ modules = [], env = {} }: ClusterConfig): string[] {
  return [
    ...modules.map((module) => `module load ${shellLine([module])} || exit 1`),
    ...Object.entries(env).map(([name, value]) => `export ${name}=${shellLine([value])}`),
  ];
}

/** `$1` directory, `$2` Python as uv takes it, `$3` uv or nothing, `$4` a Python for venv; the requirements are on stdin. */
const makeScript = `umask 077
[ -e "$1/.complete" ] && exit 0
exec 9>"$1.lock" || exit 1
if command -v flock >/dev/null 2>&1; then flock 9; fi
[ -e "$1/.complete" ] && exit 0
rm -rf -- "$1"
cat >"$1.txt" || exit 1
if [ -n "$3" ]; then
  "$3" venv --quiet --python "$2" -- "$1" >&2 9>&- && "$3" pip install --quiet --python "$1/bin/python" -r "$1.txt" >&2 9>&-
else
  python=python$2
  command -v "$python" >/dev/null 2>&1 || python=$4
  "$python" -m venv -- "$1" >&2 9>&- &&
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$1.txt" >&2 9>&-
fi || { code=$?; rm -rf -- "$1"; exit $code; }
: >"$1/.complete"`;
