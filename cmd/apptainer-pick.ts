/** Choosing an environment or an image on a terminal. */
import { lstatSync } from "node:fs";
import { join } from "node:path";
import { type PruneMode, prunable } from "../lib/apptainer-prune.ts";
import { bytesOf, display } from "../lib/base/bytes.ts";
import { EfError } from "../lib/base/errors.ts";
import { humanAge, humanBytes } from "../lib/base/units.ts";
import type { Config } from "../lib/config/schema.ts";
import { environmentsIn, venvBase } from "../lib/envs/base.ts";
import { readPyvenvCfg } from "../lib/envs/interpreter.ts";
import { type Image, imageOf } from "../lib/images/store.ts";
import { columns } from "../lib/init.ts";
import { type Choice, one } from "./ask.ts";

const { env } = process;

/**
 * Ask for an environment below `apptainer.venv_base`.
 *
 * @throws {Cancelled}; {EfError} UNKNOWN_ENV if there is none, CONFIG_INVALID, UNSET_VARIABLE, BAD_ROOT
 */
export async function pickEnvironment(config: Config, question: string): Promise<string> {
  const base = venvBase(undefined, config, env);
  const names = environmentNames(base);
  if (names.length === 0) {
    throw new EfError("UNKNOWN_ENV", `Cannot find an environment in ${display(bytesOf(base))}`, {
      hint: "make one with: ef venv install NAME PACKAGE…",
      path: base,
    });
  }
  return choose(question, names, (name) => [pythonOf(join(base, name)), imageText(config, name)]);
}

/**
 * Ask for an image or an environment, to be pruned.
 *
 * @throws {Cancelled}; {EfError} UNKNOWN_IMAGE if there is none
 */
export async function pickPrunable(config: Config, question: string): Promise<string> {
  const names = prunable(config, env);
  if (names.length === 0)
    throw new EfError("UNKNOWN_IMAGE", "Cannot prune: there is neither an image nor an environment", {
      hint: "where they are: ef config get apptainer",
    });
  const envs = config.apptainer?.venv_base ? environmentNames(venvBase(undefined, config, env)) : [];
  return choose(question, names, (name) => {
    const dir = config.apptainer?.images[name]?.venv_name ?? name;
    return [envs.includes(dir) ? "environment" : "no environment", imageText(config, name)];
  });
}

/** Ask which part of it goes. @throws {Cancelled} */
export const pickMode = async (question: string): Promise<PruneMode> =>
  (await one(question, [
    { value: "both", label: "the environment and its image" },
    { value: "venv", label: "only the environment" },
    { value: "sif", label: "only the image" },
  ])) as PruneMode;

/** In order; without those whose names no file of the configuration could hold. */
function environmentNames(base: string): string[] {
  try {
    return environmentsIn(base)
      .map((name) => Buffer.from(name, "latin1").toString("utf8"))
      .filter((name) => !name.includes("\uFFFD"));
  } catch {
    return []; // it is not there
  }
}

function choose(question: string, names: readonly string[], about: (name: string) => string[]): Promise<string> {
  const lines = columns(names.map((name) => [display(bytesOf(name)), ...about(name)]));
  const width = (process.stdout.columns || 80) - 4; // one that wraps would upset how the list scrolls
  return one(
    question,
    names.map((value, i): Choice => ({ value, label: (lines[i] ?? value).slice(0, width) })),
  );
}

function pythonOf(dir: string): string {
  try {
    const { version } = readPyvenvCfg(dir);
    return version && `Python ${version}`;
  } catch {
    return "";
  }
}

/** `image 812M, built 2d ago`. */
function imageText(config: Config, name: string): string {
  let image: Image;
  try {
    image = imageOf(config, env, name);
  } catch {
    return ""; // nobody knows where it would be
  }
  const stat = lstatSync(image.sif, { throwIfNoEntry: false });
  const built = image.built?.at ? `, built ${humanAge(Date.now() / 1000 - image.built.at)}` : "";
  if (stat) return `image ${humanBytes(stat.size)}${built}`;
  return image.built ? "image is gone" : "no image";
}
