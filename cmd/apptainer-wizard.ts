/** The questions of `ef apptainer init`; what they are about is in `lib/apptainer-init.ts`. */
import { existsSync } from "node:fs";
import {
  type ApptainerAnswers,
  apptainerInit,
  apptainerNextSteps,
  baseImageProblem,
  copiesProblem,
  directoryProblem,
  isOnScratch,
  onScratchText,
  proposal,
  sameProblem,
  sectionText,
} from "../lib/apptainer-init.ts";
import { Exit } from "../lib/base/errors.ts";
import { type Env, expandPath, tilde, variablesIn } from "../lib/base/paths.ts";
import { plural } from "../lib/base/units.ts";
import type { Config } from "../lib/config/schema.ts";
import { configPath, loadConfig } from "../lib/config/store.ts";
import { environmentsIn } from "../lib/envs/base.ts";
import { containerPathProblem } from "../lib/images/container-path.ts";
import type { Output } from "./args.ts";
import { Cancelled, confirm, text } from "./ask.ts";
import { paint, Stopped, say, warn } from "./process.ts";
import { wordsOf } from "./wizard.ts";

/** Ask everything, save it, and say what to do next. Nothing is written before the last answer. */
export async function apptainerWizard(): Promise<Output> {
  const path = configPath();
  const { env } = process;
  try {
    const config = await loadConfig(path);
    if (config.apptainer) say(`${tilde(path, env)} is the starting point; images that were built stay\n`);
    const answers = await askAll(config, proposal(config, env, process.geteuid?.() === 0), env);
    say(`\n${paint("bold", tilde(path, env))}\n${sectionText(answers, env)}\n`);
    if (!(await confirm("Save this?", true))) return nothingSaved(path, Exit.failed);
    const { apptainer } = await apptainerInit(answers, path, env);
    say(`saved ${tilde(path, env)}\n\n`);
    return { json: { status: "saved", config_path: path, apptainer }, text: apptainerNextSteps };
  } catch (error) {
    if (error instanceof Cancelled || error instanceof Stopped) return nothingSaved(path, error.exitCode);
    throw error;
  }
}

function nothingSaved(path: string, code: number): Output {
  say("nothing saved\n");
  return { json: { status: "aborted", config_path: path }, text: "", code };
}

async function askAll(config: Config, from: ApptainerAnswers, env: Env): Promise<ApptainerAnswers> {
  const venv_base = await text("Directory of the environments (venv_base)", {
    initial: from.venv_base,
    check: directoryProblem,
  });
  say(`  ${venvsText(venv_base, env)}\n`);
  const sif_store = await askStore(config, from.sif_store, env);
  const scratch_sif_dir = await text("Directory on scratch that they are copied to (scratch_sif_dir)", {
    initial: from.scratch_sif_dir,
    check: (answer) => copiesProblem(answer) ?? sameProblem(sif_store, answer, env),
  });
  say(baseImageHelp);
  const base_image = await text("Base image (base_image)", {
    initial: from.base_image,
    check: (answer) => baseImageProblem(answer, env),
  });
  const container_venv_path = await text("Where the environment is in the image (container_venv_path)", {
    initial: from.container_venv_path,
    check: containerPathProblem,
  });
  say("  --fakeroot builds without being root; without it: leave it empty\n");
  const line = from.build_args.join(" ");
  const args = await text("Extra arguments of apptainer build (build_args)", { initial: line });
  const build_args = args === line ? from.build_args : wordsOf(args);
  return { venv_base, sif_store, scratch_sif_dir, base_image, container_venv_path, build_args };
}

const baseImageHelp = `  {version} is the environment's Python, as 3.11. It can be:
    python:{version}-slim                  of Docker Hub, as docker://python:{version}-slim
    docker://…  oras://…  library://…      of another registry
    oci-archive:PATH  docker-archive:PATH  a file
    PATH                                   a .sif, or a sandbox directory
`;

/** What is lost there is lost. */
async function askStore(config: Config, initial: string, env: Env): Promise<string> {
  for (let from = initial; ; ) {
    const store = await text("Persistent directory of the images (sif_store)", {
      initial: from,
      check: directoryProblem,
    });
    if (!isOnScratch(store, config, env)) return store;
    warn(onScratchText(store));
    if (await confirm("Use it anyway?", false)) return store;
    from = store;
  }
}

/** What is there, or that there is nothing yet. */
function venvsText(written: string, env: Env): string {
  const unset = variablesIn(written).filter((name) => !env[name]);
  if (unset.length > 0) return `${unset.join(", ")} is not set here`;
  const base = expandPath(written, env, "apptainer.venv_base");
  if (!existsSync(base)) return `${base} is not there yet: ef venv install makes it`;
  try {
    return `${plural(environmentsIn(base).length, "environment")} in ${base}`;
  } catch {
    return `${base} cannot be read`;
  }
}
