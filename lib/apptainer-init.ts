/** What `ef apptainer init` proposes, checks and saves; the asking is in `cmd/apptainer-wizard.ts`. */
import { EfError } from "./base/errors.ts";
import { nearest } from "./base/nearest.ts";
import { type Env, expandPath, isWithin, realPath, tilde, variablesIn } from "./base/paths.ts";
import { type Config, type RawConfig, unknownKeys } from "./config/schema.ts";
import { checkConfig, configVersion } from "./config/store.ts";
import { workspaceOf } from "./drivers/hpc-workspace.ts";
import { baseImage } from "./images/base-image.ts";
import { assertContainerPath } from "./images/container-path.ts";
import { columns } from "./init.ts";
import { knownKeys, pathProblem, updateConfig } from "./settings.ts";

type Tree = Record<string, unknown>;
const isTree = (value: unknown): value is Tree => typeof value === "object" && value !== null && !Array.isArray(value);

/** The section of the configuration, with its defaults. */
export type Section = NonNullable<Config["apptainer"]>;
/** What is asked for. */
export type ApptainerAnswers = Pick<Section, DirectoryField | "base_image" | "container_venv_path" | "build_args">;

/** The fields that are directories of this node. */
export const directoryFields = ["venv_base", "sif_store", "scratch_sif_dir"] as const;
export type DirectoryField = (typeof directoryFields)[number];

const inputHint = "see: ef schema --kind input --command apptainer.init";

/** A configuration that has nothing but the section, to check that. */
const alone = (apptainer: unknown): RawConfig => ({ version: configVersion, scratch_base: "/", apptainer });

/**
 * The section in an `--input-json` object: itself, or its key `apptainer`.
 *
 * @throws {EfError} USAGE naming each unknown key, CONFIG_INVALID
 */
export function apptainerInput(input: Tree): Tree {
  const { apptainer: section = input, ...beside } = input;
  if (!isTree(section))
    throw new EfError("USAGE", "Cannot use --input-json: apptainer: expected an object", { hint: inputHint });
  const raw = alone(section);
  const unknown = [...(section === input ? [] : Object.keys(beside)), ...unknownKeys(raw).map(withoutSection)];
  if (unknown.length > 0) {
    const known = [
      "apptainer",
      ...knownKeys(raw)
        .filter((key) => key.startsWith("apptainer."))
        .map(withoutSection),
    ];
    const near = unknown.map((key) => nearest(key, known)).filter((key) => key !== undefined);
    const meant = near.length > 0 ? `did you mean ${near.join(", ")}? ` : "";
    const what = unknown.length === 1 ? "unknown key" : "unknown keys";
    throw new EfError("USAGE", `Cannot use --input-json: ${what} ${unknown.join(", ")}`, { hint: meant + inputHint });
  }
  try {
    checkConfig(raw, "--input-json");
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    throw new EfError(error.code, error.message, { hint: inputHint, cause: error });
  }
  return section;
}

const withoutSection = (key: string) => key.replace(/^apptainer\./, "");

/** The section with every default written out, as euler-files saves it. */
export function filledSection(section: Tree): Section {
  return checkConfig(alone(section), "the configuration").apptainer as Section;
}

/** What {@link apptainerInit} saved. */
export interface ApptainerSaved {
  apptainer: Section;
  warnings: string[];
}

/**
 * Save the section `apptainer`. What is not given gets its default, but for `images`, which stay, as do keys of other versions.
 *
 * @param configFile there must be one
 * @throws {EfError} CONFIG_INVALID for places that cannot be used, CONFIG_NOT_FOUND, CONFIG_NOT_SAVED, LOCK_TIMEOUT
 * @example
 * await apptainerInit({ venv_base: "~/venvs", sif_store: "$PROJECT/images" }, configPath());
 */
export async function apptainerInit(
  section: Tree,
  configFile: string,
  env: Env = process.env,
): Promise<ApptainerSaved> {
  let warnings: string[] = [];
  const config = await updateConfig(configFile, (raw) => {
    const next = withSection(raw, section);
    warnings = assertPlaces(filledSection(next.apptainer as Tree), checkConfig(next, configFile), env);
    return next;
  });
  return { apptainer: config.apptainer as Section, warnings };
}

/** The whole configuration with another section: `images` and what this version does not know stay. */
export function withSection(raw: RawConfig, section: Tree): RawConfig {
  const old = isTree(raw.apptainer) ? raw.apptainer : {};
  const others = new Set(unknownKeys(alone(old)).map(withoutSection));
  const kept = Object.fromEntries(Object.entries(old).filter(([key]) => others.has(key)));
  const images = section.images ?? old.images ?? {};
  return { ...raw, apptainer: { ...kept, ...filledSection({ ...section, images: {} }), images } };
}

/** @throws {EfError} CONFIG_INVALID @returns warnings */
function assertPlaces(section: Section, config: Config, env: Env): string[] {
  const refuse = (field: string, text: string, why: string) =>
    new EfError("CONFIG_INVALID", `Cannot use apptainer.${field} ${JSON.stringify(text)}: ${why}`, {
      hint: "nothing was saved; give another one",
    });
  for (const field of directoryFields) {
    const problem = field === "scratch_sif_dir" ? copiesProblem : directoryProblem;
    const why = section[field] === "" ? undefined : problem(section[field]);
    if (why) throw refuse(field, section[field], why);
  }
  assertContainerPath(section.container_venv_path, "apptainer.container_venv_path");
  const wrong = baseImageProblem(section.base_image, env);
  if (wrong) throw refuse("base_image", section.base_image, wrong);
  const { sif_store: store, scratch_sif_dir: copies } = section;
  const same = store && copies ? sameProblem(store, copies, env) : undefined;
  if (same) throw refuse("scratch_sif_dir", copies, same);
  return store && isOnScratch(store, config, env) ? [`apptainer.sif_store ${onScratchText(store)}`] : [];
}

/** What speaks against a directory of this node, as it is written; undefined if nothing does. */
export function directoryProblem(text: string): string | undefined {
  if (/\p{Cc}/u.test(text)) return "it holds a control character";
  return text.includes("\uFFFD") ? "it is not valid UTF-8" : pathProblem(text);
}

/** As {@link directoryProblem}, for one on scratch, which may lie in a workspace. */
export const copiesProblem = (text: string): string | undefined =>
  workspaceOf(text) && !/\p{Cc}/u.test(text) ? undefined : directoryProblem(text);

/** Images are copied from one to the other. */
export const sameProblem = (store: string, copies: string, env: Env): string | undefined =>
  placeOf(store, env) === placeOf(copies, env)
    ? "images are kept there (sif_store), so it cannot be where they are copied to"
    : undefined;

export const onScratchText = (text: string): string =>
  `${text} lies on scratch: a purge there would delete images that are nowhere else`;

/** Does a directory lie on the fast storage? */
export function isOnScratch(text: string, config: Config, env: Env): boolean {
  const [place, scratch] = [placeOf(text, env), placeOf(config.scratch_base, env)];
  const home = env.HOME ? placeOf("~", env) : "/";
  // HOME may lie on scratch itself: then what is in it is as persistent as anything there.
  return isWithin(place, scratch) && !(isWithin(home, scratch) && isWithin(place, home));
}

/** To be compared: the real path, or where a variable is not set, the text. */
function placeOf(text: string, env: Env): string {
  const isSet = variablesIn(text).every((name) => env[name]);
  if (isSet) return realPath(expandPath(text, env, text));
  return text
    .replace(/\$\{(\w+)\}/g, "$$$1")
    .replace(/^/, "/")
    .replace(/\/+$/, "");
}

/** What speaks against a base image; undefined if nothing does. */
export function baseImageProblem(text: string, env: Env): string | undefined {
  try {
    baseImage(text, "3.11.2", env, () => true);
    return undefined;
  } catch (error) {
    if (!(error instanceof EfError)) throw error;
    if (error.code === "UNSET_VARIABLE") return undefined; // it is set where images are built
    const why = error.message.split(": ").slice(1).join(": ");
    return error.hint === undefined ? why : `${why} (${error.hint})`;
  }
}

/** What to begin with: what the configuration has, else what fits most. @param asRoot is this the superuser? */
export function proposal(config: Config, env: Env, asRoot: boolean): ApptainerAnswers {
  const defaults = filledSection({});
  const section = config.apptainer ?? { ...defaults, build_args: asRoot ? [] : defaults.build_args };
  const { base_image, container_venv_path, build_args } = section;
  return {
    ...{ base_image, container_venv_path, build_args },
    venv_base: section.venv_base || (env.VENV_DIR ? "$VENV_DIR" : "~/venvs"),
    sif_store: section.sif_store || "~/.cache/euler-files/sif",
    scratch_sif_dir: section.scratch_sif_dir || `${config.scratch_base.replace(/\/+$/, "")}/${config.cache_root}/sif`,
  };
}

/** What would be saved, for people. */
export function sectionText(section: ApptainerAnswers, env: Env): string {
  return columns([
    ["environments", tilde(section.venv_base, env)],
    ["images", tilde(section.sif_store, env)],
    ["copies on scratch", tilde(section.scratch_sif_dir, env)],
    ["base image", section.base_image],
    ["in the image at", section.container_venv_path],
    ["apptainer build", section.build_args.join(" ") || "(no extra arguments)"],
  ])
    .map((line) => `${line}\n`)
    .join("");
}

export const apptainerNextSteps = [
  "Next:",
  "  ef apptainer build NAME                  an image of an environment",
  "  ef apptainer sync                        in a job script: copy images to scratch",
  "  ef apptainer run NAME -- train.py        run Python in it",
  "",
].join("\n");
