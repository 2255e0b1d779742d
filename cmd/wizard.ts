/** The questions of `ef init`; what they are about is in `lib/init.ts`. */
import { existsSync } from "node:fs";
import { EfError, Exit } from "../lib/base/errors.ts";
import { type Env, expandPath, tilde, variablesIn } from "../lib/base/paths.ts";
import type { Config, RawConfig } from "../lib/config/schema.ts";
import { checkConfig, configPath, configVersion, readRaw } from "../lib/config/store.ts";
import { workspaceOf } from "../lib/drivers/hpc-workspace.ts";
import type { Usage } from "../lib/engine/usage.ts";
import {
  type Answers,
  applyAnswers,
  type Candidate,
  candidates,
  columns,
  filledIn,
  marked,
  measure,
  moved,
  nextSteps,
  ownCandidate,
  review,
  type SettingName,
  savedText,
  scratchChoices,
  shortPath,
  sizeText,
  summary,
  withSchema,
} from "../lib/init.ts";
import { pathProblem, replaceConfig, scratchProblem } from "../lib/settings.ts";
import type { Output } from "./args.ts";
import { Cancelled, type Choice, confirm, one, several, text } from "./ask.ts";
import { paint, Stopped, say, stopSignal, warn } from "./process.ts";

/** How long the sizes of the caches may take to count, in milliseconds. */
const countingMs = 3000;

/** Ask everything, save it, and say what to do next. Nothing is written before the last answer. */
export async function wizard({ schema }: { schema: string | undefined }): Promise<Output> {
  const path = configPath();
  try {
    const old = await oldConfig(path);
    const { answers, sizes } = await askAll(old, process.env);
    const make = (raw: RawConfig | undefined) =>
      withSchema(old && raw ? applyAnswers(raw, answers) : filledIn(applyAnswers({}, answers)), schema);
    const kept = candidates(process.env, asConfig(make(old)), undefined).filter((each) => each.isKept);
    const more = await measure(
      kept.filter((each) => each.path && !sizes.has(each.path)),
      soon(),
    );
    for (const [dir, used] of more) sizes.set(dir, used);
    say(
      `\n${paint("bold", tilde(path, process.env))}\n${summary(make(old), sizes, process.env, process.stdout.columns || 80)}\n\n`,
    );
    if (!(await confirm("Save this?", true))) return nothingSaved(path, Exit.failed);
    const { config, backup } = await replaceConfig(path, make);
    say(`${savedText(path, backup, process.env)}\n`);
    return { json: { status: "saved", config_path: path, config }, text: `${nextSteps(process.env)}\n` };
  } catch (error) {
    if (error instanceof Cancelled || error instanceof Stopped) return nothingSaved(path, error.exitCode);
    throw error;
  }
}

function nothingSaved(path: string, code: number): Output {
  say("nothing saved\n");
  return { json: { status: "aborted", config_path: path }, text: "", code };
}

const soon = () => ({ deadlineMs: Date.now() + countingMs, signal: stopSignal() });
const asConfig = (raw: RawConfig): Config => checkConfig(raw, "the configuration");

/** The configuration to begin with; undefined if there is none, or none that can be used. */
async function oldConfig(path: string): Promise<RawConfig | undefined> {
  if (!existsSync(path)) return undefined;
  try {
    const raw = await readRaw(path);
    checkConfig(raw, path);
    say(`${tilde(path, process.env)} is the starting point; what is not asked here stays as it is\n`);
    return raw;
  } catch (error) {
    if (!(error instanceof EfError && error.code === "CONFIG_INVALID")) throw error;
    warn(`${error.message}; a new one will replace it, and the old one be kept beside it, as .bak`);
    return undefined;
  }
}

async function askAll(old: RawConfig | undefined, env: Env): Promise<{ answers: Answers; sizes: Map<string, Usage> }> {
  const config = old && asConfig(old);
  const scratchBase = await askScratch(config?.scratch_base, env);
  const isKnown = variablesIn(scratchBase).every((name) => env[name]);
  let list = candidates(env, config, isKnown ? expandPath(scratchBase, env, "scratch_base") : undefined);
  say("Looking for caches …\n");
  const sizes = await measure(list, soon());
  let chosen = marked(list);
  for (;;) {
    ({ list, chosen } = await askVars(list, sizes, chosen, env));
    const picked = list.filter(({ name }) => chosen.includes(name));
    const sources = Object.fromEntries(picked.map(({ name, source }) => [name, source]));
    const dropped = Object.entries(config?.vars ?? {})
      .filter(([name, { enabled }]) => enabled && !chosen.includes(name)) // what is disabled is not marked, and stays
      .map(([name]) => name);
    const answers = { scratchBase, sources, dropped, settings: {} };
    const { warnings, error } = review(applyAnswers(old ?? {}, answers), env);
    for (const message of [...warnings, ...(error ? [error] : [])]) warn(message);
    const isFine = !error && (warnings.length === 0 || !(await confirm("Choose again?", true)));
    if (isFine) return { answers: { ...answers, settings: await askSettings(config) }, sizes };
  }
}

async function askScratch(old: string | undefined, env: Env): Promise<string> {
  const found = scratchChoices(env);
  const label = ({ text, path, exists }: (typeof found)[number], others = 6) => {
    const state = exists ? "" : ", not there yet";
    return `${text} (${shortPath(path, screenWidth() - text.length - state.length - others)}${state})`;
  };
  const [only] = found;
  if (old === undefined && found.length === 1 && only) {
    if (await confirm(`Use ${label(only, "? Use  as the fast storage? ()".length)} as the fast storage?`, true))
      return only.text;
  } else if (found.length > 0 || old !== undefined) {
    const kept = old === undefined ? [] : [{ value: old, label: `${shortPath(old, screenWidth() - 15)} (as it is)` }];
    const others = found.filter((each) => each.text !== old).map((each) => ({ value: each.text, label: label(each) }));
    const answer = await one("Which is the fast storage?", [
      ...kept,
      ...others,
      { value: "", label: "another directory" },
    ]);
    if (answer) return answer;
  } else {
    const hint = env.TMPDIR ? ` TMPDIR (${env.TMPDIR}) is of one node, and empty after a job.` : "";
    say(`No variable such as SCRATCH is set here.${hint}\n`);
  }
  return askPath("Directory on the fast storage, or ws:NAME for a workspace", env, "", scratchProblem);
}

/** Ask for a directory until it is one, or is wanted all the same. */
async function askPath(question: string, env: Env, initial = "", check = pathProblem): Promise<string> {
  for (let from = initial; ; ) {
    const path = await text(question, { initial: from, check });
    if (workspaceOf(path)) return path; // the first sync makes it
    const unset = variablesIn(path).filter((name) => !env[name]);
    const why =
      unset.length > 0 ? `${unset.join(", ")} is not set here` : whyNoDirectory(expandPath(path, env, question));
    if (!why || (await confirm(`${why}. Use it anyway?`, false))) return path;
    from = path;
  }
}

/** A persistent directory as it is saved: absolute where that is known here, for euler-files expands nothing in it. */
async function askSource(name: string, env: Env, initial?: string): Promise<string> {
  const path = await askPath(`Persistent directory of ${name}`, env, initial);
  return variablesIn(path).every((variable) => env[variable]) ? expandPath(path, env, name) : path;
}

const screenWidth = () => process.stdout.columns || 80;

const whyNoDirectory = (path: string) => (existsSync(path) ? undefined : `${path} does not exist`);

/** Which variables, and where each is: the list with what was changed or added, and the names of the chosen. */
async function askVars(
  list: Candidate[],
  sizes: ReadonlyMap<string, Usage>,
  marks: readonly string[],
  env: Env,
): Promise<{ list: Candidate[]; chosen: string[] }> {
  for (;;) {
    say("Space marks, a marks all, enter goes on.\n");
    const names = await several("Which caches go to the fast storage?", choices(list, sizes, env), marks);
    for (const { name, caution, isKept } of list) {
      if (caution && !isKept && names.includes(name)) say(`  ${name}: ${caution}\n`);
    }
    const own = await askOwn(list, env);
    const all = [...own, ...list];
    const chosen = [...own.map(({ name }) => name), ...names];
    if (chosen.length > 0) return { list: await changePaths(all, chosen, env), chosen };
    say("Nothing is chosen: mark at least one with the space key, or name one of your own.\n");
  }
}

/** A line each, short enough to fit: one that wraps would upset how the list scrolls. */
function choices(list: readonly Candidate[], sizes: ReadonlyMap<string, Usage>, env: Env): Choice[] {
  const width = screenWidth() - 4;
  const size = ({ path, found }: Candidate) => (path && found ? sizeText(sizes.get(path)) : "-").padStart(6);
  const starts = columns(list.map((each) => [each.name, size(each)]));
  return list.map(({ name, source, holds, isDisabled }, i) => {
    const path = tilde(source, env);
    const start = starts[i] ?? name;
    const room = width - Math.min(path.length, Math.floor(width / 3)) - start.length - 5;
    const about = room < Math.min(holds.length, leastAbout) || isDisabled ? (isDisabled ? "(disabled)" : "") : holds;
    const label = `${start}${about && `  ${cut(about, Math.max(room, leastAbout))}`}`;
    return { value: name, label, hint: shortPath(path, width - label.length - 3) };
  });
}

/** Of what a variable holds, less says nothing. */
const leastAbout = 12;

/** The beginning of a line that is too long, to the end of a word. */
const cut = (line: string, width: number) =>
  line.length <= width ? line : `${line.slice(0, width - 1).replace(/(?<=\S)\s+\S*$/, "")}…`;

/** Variables of the user's own; moving these would break the shell, not a cache. */
const neverOwn = ["HOME", "PATH", "PWD", "OLDPWD", "SHELL", "USER", "LOGNAME", "TMPDIR", "SCRATCH", "LD_LIBRARY_PATH"];

async function askOwn(list: readonly Candidate[], env: Env): Promise<Candidate[]> {
  const own: Candidate[] = [];
  const check = (name: string) => {
    if (name === "") return undefined;
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) return "That is not a name that a shell can export.";
    if (neverOwn.includes(name)) return `${name} is no cache: programs rely on it as it is.`;
    return [...own, ...list].some((each) => each.name === name)
      ? `${name} is there already: mark it in the list.`
      : undefined;
  };
  while (await confirm(own.length > 0 ? "One more?" : "Add a variable of your own?", false)) {
    const name = await text("Its name, e.g. MY_MODELS (none: leave it empty)", { check });
    if (name === "") return own;
    own.push(ownCandidate(name, await askSource(name, env, env[name]), env));
  }
  return own;
}

async function changePaths(list: Candidate[], chosen: readonly string[], env: Env): Promise<Candidate[]> {
  const picked = list.filter(({ name }) => chosen.includes(name));
  const room = screenWidth() - Math.max(...picked.map(({ name }) => name.length)) - 6;
  const lines = columns(picked.map(({ name, source }) => [name, shortPath(tilde(source, env), room)]));
  say(lines.map((line) => `  ${line}\n`).join(""));
  if (!(await confirm("Change any of these directories?", false))) return list;
  const options = picked.map(({ name }, i) => ({ value: name, label: lines[i] ?? name }));
  const changed = new Map<string, string>();
  for (const name of await several("Which? (space marks)", options, [])) {
    const from = picked.find((each) => each.name === name)?.source;
    changed.set(name, await askSource(name, env, from));
  }
  return list.map((each) => {
    const source = changed.get(each.name);
    return source === undefined ? each : moved(each, source, env);
  });
}

const questions: readonly (readonly [SettingName, string, number])[] = [
  ["parallel_jobs", "How many caches are copied at once", 1],
  ["lock_timeout_seconds", "Seconds to wait while another job copies the same cache", 0],
  ["skip_if_fresh_seconds", "Seconds for which a finished copy counts as fresh", 0],
];

/** Settings that are to be different. */
async function askSettings(config: Config | undefined): Promise<Answers["settings"]> {
  if (!(await confirm("Change advanced settings?", false))) return {};
  const now = config ?? asConfig({ version: configVersion, scratch_base: "/" });
  const settings: Answers["settings"] = {};
  for (const [name, question, least] of questions) {
    const check = (answer: string) =>
      /^\d+$/.test(answer) && Number(answer) >= least ? undefined : `A whole number from ${least}, please.`;
    settings[name] = Number(await text(question, { initial: String(now[name]), check }));
  }
  say("Extra rsync arguments make rsync do the copying instead of ef itself, for example: --bwlimit=50m\n");
  const args = await text("Extra rsync arguments (none: leave it empty)", { initial: now.rsync_extra_args.join(" ") });
  return {
    ...settings,
    rsync_extra_args: args === now.rsync_extra_args.join(" ") ? now.rsync_extra_args : wordsOf(args),
  };
}

/** Words as in a shell: parts in quotes belong together. */
export function wordsOf(line: string): string[] {
  const words = line.match(/(?:"[^"]*"|'[^']*'|[^\s"'])+/g) ?? [];
  return words.map((word) => word.replace(/"([^"]*)"|'([^']*)'/g, (_, double, single) => double ?? single));
}
