/** One build, in a directory of its own: what is packed is described, built, tried. */
import { mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { EfError, writeError } from "../base/errors.ts";
import { howEnded, lastLines, run } from "../base/exec.ts";
import type { Env } from "../base/paths.ts";
import { span } from "../base/trace.ts";
import { type Apptainer, buildArgv, probeArgv } from "../drivers/apptainer.ts";
import type { BaseImage } from "./base-image.ts";
import { isFakerootFailure } from "./build-args.ts";
import { findPython } from "./definition.ts";
import { fakerootProblem } from "./privileges.ts";

/** Names in the directory of a build: plain ones, which mean nothing else in a definition file. */
export const names = { archive: "venv.tar", definition: "image.def", base: "base" } as const;

export interface Making {
  apptainer: Apptainer;
  /** Of apptainer. */
  env: Env;
  signal?: AbortSignal | undefined;
  /** What apptainer prints, as it comes. */
  onOutput?: ((chunk: Buffer) => void) | undefined;
}

/**
 * The base as a definition file can name it: there `#` begins a comment, and spaces end a path. What holds such is reached by
 * a link in the directory of the build.
 *
 * @param workDir undefined to say it only
 * @throws {EfError} NO_SPACE, IO
 */
export function named(base: BaseImage, workDir: string | undefined): Pick<BaseImage, "bootstrap" | "from"> {
  const { bootstrap, from, path, tag = "" } = base;
  if (path === undefined || /^[A-Za-z0-9_./+@~,=-]+$/.test(path)) return { bootstrap, from };
  try {
    if (workDir !== undefined) symlinkSync(path, join(workDir, names.base));
  } catch (error) {
    throw writeError(`Cannot write to ${workDir}`, path, error);
  }
  return { bootstrap, from: names.base + tag };
}

/** Apptainer's own places for what is temporary and for base images. */
export function buildEnv(env: Env, { name }: Apptainer, tmpDir: string, cacheDir: string | undefined): Env {
  const prefix = name === "apptainer" ? "APPTAINER" : "SINGULARITY";
  return {
    ...env,
    [`${prefix}_TMPDIR`]: tmpDir,
    ...(cacheDir === undefined ? {} : { [`${prefix}_CACHEDIR`]: cacheDir }),
  };
}

/**
 * Build `image` in the directory `workDir`, which holds the archive.
 *
 * @throws {EfError} TOOL_FAILED with the end of what apptainer said, NO_SPACE, IO; the signal's reason
 */
export async function make(making: Making, workDir: string, text: string, args: readonly string[], image: string) {
  const { apptainer, signal, onOutput } = making;
  const definition = join(workDir, names.definition);
  try {
    mkdirSync(join(workDir, "tmp"));
    writeFileSync(definition, text, { mode: 0o600 });
  } catch (error) {
    throw writeError(`Cannot write ${definition}`, definition, error);
  }
  const { code, stderr, stdout } = await span("apptainer build", () =>
    run(buildArgv(apptainer, args, image, names.definition), {
      cwd: workDir,
      env: making.env,
      accept: anyCode,
      guarded: true,
      signal,
      keepBytes: 1 << 16,
      onStderr: onOutput ?? (() => {}),
      ...(onOutput ? { onStdout: onOutput } : {}),
    }),
  );
  if (code !== 0) throw await buildError(apptainer, `${stdout}${stderr}`, code, workDir, image);
  if (!statSync(image, { throwIfNoEntry: false })?.isFile())
    throw new EfError(
      "TOOL_FAILED",
      `Cannot build the image: ${apptainer.name} ended without an error, and made none${lastLines(stderr)}`,
    );
}

/** Not worth repeating: commands of %post (`+ tar …`), the progress and the counts of (un)squashfs, empty lines. */
const isNoise = (line: string) =>
  /^\+ |^\s*\[[=\\|/ -]*\]|^created \d|^\d+ inodes|^Parallel unsquashfs|Skipping mount|^: exit status|^\s*$/.test(line);

async function buildError({ name }: Apptainer, output: string, code: number, workDir: string, image: string) {
  const said = output.split("\n").filter((line) => !isNoise(line));
  const own = said.find((line) => line.startsWith("ef: "))?.slice("ef: ".length);
  const isFull = /no space left on device|disk quota exceeded|Write failed because/i.test(output);
  if (own !== undefined) return new EfError("TOOL_FAILED", `Cannot build the image: ${own}`);
  if (isFull)
    return new EfError("NO_SPACE", `Cannot build the image: no space left${lastLines(said.join("\n"))}`, {
      hint: `make room in ${dirname(workDir)} (or build elsewhere: --tmpdir DIR), and where the image goes, ${dirname(image)}/`,
      path: dirname(workDir),
    });
  const problem = code === killed ? tooLarge : isFakerootFailure(output) ? await fakerootProblem(true) : undefined;
  return new EfError("TOOL_FAILED", `Cannot build the image: ${name} ${howEnded(code)}${lastLines(said.join("\n"))}`, {
    hint: problem ?? "what it was made from is shown by: ef apptainer build --dry-run",
  });
}

/** By SIGKILL. */
const killed = 128 + 9;
const tooLarge =
  "something killed it, for lack of memory mostly: give the job more, or let fewer processors compress: --processors N";

const anyCode = Array.from({ length: 256 }, (_, code) => code);

/**
 * Start the Python of an image.
 *
 * @returns its version
 * @throws {EfError} NOT_RUNNABLE
 */
export async function tryImage(making: Making, image: string, containerPath: string): Promise<string> {
  const code = 'import sys; print("%d.%d.%d" % sys.version_info[:3])';
  const argv = probeArgv(making.apptainer, image, [`${containerPath}/bin/python`, "-I", "-c", code]);
  const said = await span("try", () =>
    run(argv, { env: making.env, accept: anyCode, guarded: true, signal: making.signal }),
  );
  const version = said.stdout.trim();
  if (said.code === 0 && /^\d+\.\d+\.\d+$/.test(version)) return version;
  throw new EfError("NOT_RUNNABLE", `The image was built, and its Python does not start${lastLines(said.stderr)}`, {
    hint: "an image of before is still in its place; try another apptainer.base_image",
  });
}

/**
 * The versions of Python in a base image that is a file or directory here, before anything is built of it.
 *
 * @returns undefined where it cannot be told
 * @throws the signal's reason
 */
export async function pythonsOf(
  making: Making,
  { bootstrap, path }: BaseImage,
  minor: string,
): Promise<string[] | undefined> {
  if (bootstrap !== "localimage" || path === undefined) return undefined;
  const script = `${findPython(minor)}\necho "seen:$seen"`;
  const { code, stdout } = await run(probeArgv(making.apptainer, path, ["/bin/sh", "-c", script]), {
    ...{ env: making.env, accept: anyCode, guarded: true, signal: making.signal },
  });
  const seen = /^seen:(.*)$/m.exec(stdout)?.[1];
  return code === 0 && seen !== undefined ? seen.split(" ").filter((each) => each !== "") : undefined;
}
