import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { Home, have, until } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

const path = (at: Home) => join(at.home, ".euler-files.json");
const saved = (at: Home) => JSON.parse(at.read(path(at)));

/** What every new configuration has beside its variables. */
const filled = {
  version: 1,
  scratch_base: "$SCRATCH",
  cache_root: ".cache/euler-files",
  rsync_extra_args: [],
  parallel_jobs: 4,
  lock_timeout_seconds: 300,
  skip_if_fresh_seconds: 3600,
};

/** Caches of a user who has been busy. */
function cachesHome(): Home {
  const at = new Home({ ".cache/huggingface/hub/model": "x".repeat(3_000_000), ".cache/torch/a": "y".repeat(900_000) });
  mkdirSync(join(at.home, ".cache/pip"));
  return at;
}

const caches = "Which caches go to the fast storage?";
/** From the list of caches on, with no to every further question. */
async function refuseMore(terminal: Terminal): Promise<void> {
  await terminal.answer("Add a variable of your own?", "n");
  await terminal.answer("Change any of these directories?", "n");
  await terminal.answer("Change advanced settings?", "n");
}

describe.skipIf(!have("tmux"))("the wizard on a terminal [needs tmux]", () => {
  test("what is found is marked and has its size; two presets picked with the space key are saved", async () => {
    using at = cachesHome();
    await using terminal = await Terminal.open(at, "ef init");
    await terminal.answer(`Use $SCRATCH (${at.scratch}) as the fast storage?`, "Enter");
    const list = await terminal.shows(/CARGO_HOME/);
    expect(list).toMatch(/◼ HF_HOME +2\.9M {2}Hugging Face models, datasets, tokens \(~\/\.cache\/huggingface\)/);
    expect(list).toMatch(/◼ TORCH_HOME +8\d\dK {2}PyTorch Hub/);
    expect(list).toMatch(/◼ PIP_CACHE_DIR +\S+ /);
    expect(list).toMatch(/◻ XDG_CACHE_HOME +3\.\dM /); // contains the others
    expect(list).toMatch(/◻ HF_HUB_CACHE +2\.9M /); // lies in HF_HOME
    expect(list).toMatch(/◻ UV_CACHE_DIR +- /);
    await terminal.press("Down", "Space"); // not torch
    await terminal.shows("◻ TORCH_HOME");
    await terminal.press("Enter");
    await terminal.shows("HF_HOME, PIP_CACHE_DIR");
    expect(await terminal.shows("Add a variable")).toContain("HF_HOME: Holds your tokens");
    await refuseMore(terminal);
    expect(await terminal.shows("Save this?")).toMatch(
      /HF_HOME +2\.9M +~\/\.cache\/huggingface +\$SCRATCH\/\.cache\/euler-files\/HF_HOME/,
    );
    expect(existsSync(path(at))).toBe(false);
    await terminal.press("Enter");
    const end = await terminal.shows("code=0");
    for (const step of ["ef sync --dry-run", 'eval "$(ef sync)"', 'eval "$(ef shell-init --shell bash)"']) {
      expect(end).toContain(step);
    }
    expect(saved(at)).toEqual({
      ...filled,
      vars: {
        HF_HOME: { source: join(at.home, ".cache/huggingface"), enabled: true },
        PIP_CACHE_DIR: { source: join(at.home, ".cache/pip"), enabled: true },
      },
    });
    expect((await at.ef(["sync", "--shell", "bash"])).stdout).toContain("export PIP_CACHE_DIR=");
  });

  test("Ctrl-C, Ctrl-D and Escape at any question: nothing is saved", async () => {
    using at = cachesHome();
    const questions = [`Use $SCRATCH`, caches, "Add a variable of", "Change any of", "Change advanced", "Save this?"];
    const given = ["Enter", "Enter", "n", "n", "n"];
    for (const [i, question] of questions.entries()) {
      await using terminal = await Terminal.open(at, "ef init");
      for (const [j, before] of questions.slice(0, i).entries()) await terminal.answer(before, given[j] ?? "");
      await terminal.answer(question, ["C-c", "C-d", "Escape"][i % 3] ?? "");
      expect(await terminal.shows("code=130")).toContain("nothing saved");
      expect(existsSync(path(at))).toBe(false);
    }
  });

  test("no to the last question: exit 1, nothing is saved", async () => {
    using at = cachesHome();
    await using terminal = await Terminal.open(at, "ef init --json");
    await terminal.answer("Use $SCRATCH", "Enter");
    await terminal.answer(caches, "Enter");
    await refuseMore(terminal);
    await terminal.answer("Save this?", "n");
    expect(await terminal.shows("code=1")).toContain('"status": "aborted"');
    expect(existsSync(path(at))).toBe(false);
  });

  test("NO_COLOR: no colours; without it there are some", async () => {
    using at = cachesHome();
    for (const [NO_COLOR, coloured] of [
      ["1", false],
      ["", true],
    ] as const) {
      await using terminal = await Terminal.open(at, "ef init", { env: { NO_COLOR } });
      await terminal.answer("Use $SCRATCH", "Enter");
      await terminal.shows(caches);
      expect(/\u001B\[\d*m/.test(await terminal.screen({ escapes: true }))).toBe(coloured);
    }
  });

  test("an existing configuration is the starting point: all that is not asked stays", async () => {
    using at = cachesHome();
    const more = { ef: { vars: { MINE: { exclude: ["x"] } } }, other: { kept: 1 }, lock_timeout_seconds: 7 };
    at.configure({ MINE: "mine", TORCH_HOME: "my/torch" }, more);
    const old = saved(at);
    await using terminal = await Terminal.open(at, "ef init");
    await terminal.answer("Which is the fast storage?", "Enter");
    const list = await terminal.shows(/CARGO_HOME/);
    expect(list).toMatch(/◼ MINE +- {2}of your own/);
    expect(list).toMatch(/◼ TORCH_HOME +- /);
    expect(list).toMatch(/◻ HF_HOME +2\.9M/); // found, but was not chosen then
    await terminal.press("Space", "Down", "Down", "Space", "Enter"); // not MINE, but HF_HOME
    await refuseMore(terminal);
    // Somebody else changes the file before the last answer.
    await terminal.shows("Save this?");
    await at.ef(["config", "set", "vars.LATER.source", "/later"]);
    await terminal.press("Enter");
    expect(await terminal.shows("code=0")).toContain(".bak");
    const { vars, ...rest } = saved(at);
    expect(rest).toEqual({ version: 1, scratch_base: "$SCRATCH", ...more });
    expect(vars).toEqual({
      TORCH_HOME: old.vars.TORCH_HOME,
      LATER: { source: "/later" },
      HF_HOME: { source: join(at.home, ".cache/huggingface"), enabled: true },
    });
  });

  test("a broken configuration is said, and replaced only in the end", async () => {
    using at = cachesHome();
    at.write(".euler-files.json", "{ broken");
    await using terminal = await Terminal.open(at, "ef init", { width: 200 });
    expect(await terminal.shows("Use $SCRATCH")).toContain("not JSON, line 1");
    await terminal.press("Enter");
    await terminal.answer(caches, "Enter");
    await refuseMore(terminal);
    expect(at.read(path(at))).toBe("{ broken");
    await terminal.answer("Save this?", "Enter");
    await terminal.shows("code=0");
    expect(at.read(`${path(at)}.bak`)).toBe("{ broken");
    expect(Object.keys(saved(at).vars)).toEqual(["HF_HOME", "TORCH_HOME", "PIP_CACHE_DIR"]);
  });

  test("a variable that is set names the source, but not where ef sync has put it", async () => {
    using at = cachesHome();
    mkdirSync(join(at.home, "elsewhere"));
    mkdirSync(at.cache("TORCH_HOME"), { recursive: true });
    const env = { HF_HOME: join(at.home, "elsewhere"), TORCH_HOME: at.cache("TORCH_HOME") };
    await using terminal = await Terminal.open(at, "ef init", { env });
    await terminal.answer("Use $SCRATCH", "Enter");
    await terminal.answer(caches, "Enter");
    await refuseMore(terminal);
    await terminal.answer("Save this?", "Enter");
    await terminal.shows("code=0");
    expect(saved(at).vars.HF_HOME.source).toBe(join(at.home, "elsewhere"));
    expect(saved(at).vars.TORCH_HOME.source).toBe(join(at.home, ".cache/torch"));
  });

  test("caches that contain each other are said, and may be chosen again", async () => {
    using at = cachesHome();
    await using terminal = await Terminal.open(at, "ef init");
    await terminal.answer("Use $SCRATCH", "Enter");
    await terminal.answer(/XDG_CACHE_HOME/, "Down", "Down", "Down", "Space", "Enter");
    await terminal.answer("Add a variable of your own?", "n");
    await terminal.answer("Change any of these directories?", "n");
    const screen = await terminal.shows("Choose again?");
    expect(screen.replaceAll("\n", "")).toMatch(/the source of XDG_CACHE_HOME \(.*\) contains the source of HF_HOME/);
    await terminal.press("Enter");
    await terminal.answer(/◼ XDG_CACHE_HOME[\s\S]*$/, "Down", "Down", "Down", "Space", "Enter");
    await terminal.answer(/HF_HOME, TORCH_HOME, PIP_CACHE_DIR\n[\s\S]*Add a variable of your own\?\n.*Yes/, "n");
    await terminal.shows(/Change any of these directories\?[\s\S]*Change any of these directories\?/);
    await terminal.press("n");
    await terminal.answer("Change advanced settings?", "n");
    await terminal.answer("Save this?", "Enter");
    await terminal.shows("code=0");
    expect(Object.keys(saved(at).vars)).toEqual(["HF_HOME", "TORCH_HOME", "PIP_CACHE_DIR"]);
  });

  test("no scratch variable, a variable of one's own, a changed path, advanced settings", async () => {
    using at = cachesHome();
    mkdirSync(join(at.home, "models"));
    await using terminal = await Terminal.open(at, "ef init", { env: { SCRATCH: "" } });
    expect(await terminal.shows("Directory on the fast storage")).toContain("No variable such as SCRATCH is set");
    await terminal.press("fast", "Enter");
    await terminal.shows("expected an absolute path");
    await terminal.press("C-u", "$NOT_SET/x", "Enter");
    await terminal.answer("NOT_SET is not set here. Use it anyway?", "n");
    await terminal.answer(/✔ NOT_SET[\s\S]*Directory on/, "C-u", "~/fast", "Enter");
    await terminal.answer(/fast does not exist. Use it anyway/, "y");
    await terminal.answer(caches, "Enter");
    await terminal.answer("Add a variable of your own?", "y");
    await terminal.answer("Its name, e.g. MY_MODELS", "PATH", "Enter");
    await terminal.answer(/▲ Its name[\s\S]*PATH is no cache[\s\S]*❯ Its name.*\nPATH/, "C-u", "MY_MODELS", "Enter");
    await terminal.answer("Persistent directory of MY_MODELS", "$HOME/models", "Enter");
    await terminal.answer("One more?", "n");
    await terminal.answer("Change any of these directories?", "y");
    await terminal.answer("Which?", "Down", "Down", "Space", "Enter");
    await terminal.answer("Persistent directory of TORCH_HOME", "2", "Enter");
    await terminal.answer(/torch2 does not exist. Use it anyway/, "y");
    await terminal.answer("Change advanced settings?", "y");
    await terminal.answer("How many caches", "C-u", "0", "Enter");
    await terminal.answer("A whole number from 1", "C-u", "8", "Enter");
    await terminal.answer("Seconds to wait while", "Enter");
    await terminal.answer("Seconds for which", "C-u", "60", "Enter");
    await terminal.answer("Extra rsync arguments (none", "--bwlimit=50m '--exclude=a b'", "Enter");
    await terminal.answer("Save this?", "Enter");
    await terminal.shows("code=0");
    expect(saved(at)).toEqual({
      ...filled,
      scratch_base: "~/fast",
      vars: {
        MY_MODELS: { source: join(at.home, "models"), enabled: true },
        HF_HOME: { source: join(at.home, ".cache/huggingface"), enabled: true },
        TORCH_HOME: { source: join(at.home, ".cache/torch2"), enabled: true },
        PIP_CACHE_DIR: { source: join(at.home, ".cache/pip"), enabled: true },
      },
      parallel_jobs: 8,
      skip_if_fresh_seconds: 60,
      rsync_extra_args: ["--bwlimit=50m", "--exclude=a b"],
    });
  });

  test("an empty name leads back, and is not echoed as undefined; a disabled variable is enabled when marked", async () => {
    using at = cachesHome();
    at.configure({ MINE: "mine", OTHER: "other", THIRD: "third" });
    const { vars, ...rest } = saved(at);
    for (const name of ["MINE", "OTHER"]) vars[name].enabled = false;
    at.write(".euler-files.json", { ...rest, vars });
    await using terminal = await Terminal.open(at, "ef init", { width: 60 });
    await terminal.answer("Which is the fast storage?", "Enter");
    const list = await terminal.shows(/◼ THIRD/);
    expect(list).toMatch(/◻ MINE .*\(disabled\)/);
    expect(list).toMatch(/◻ HF_HOME +2\.9M( {2}Hugging Face…)?\n/); // no word is cut
    await terminal.press("Space", "Enter");
    await terminal.answer("Add a variable of your own?", "y");
    await terminal.answer("Its name, e.g. MY_MODELS", "Enter");
    await terminal.answer("Change any of these directories?", "n");
    await terminal.answer("Change advanced settings?", "n");
    const end = await terminal.shows("Save this?");
    expect(end).not.toContain("undefined");
    await terminal.press("Enter");
    await terminal.shows("code=0");
    expect(saved(at).vars.MINE.enabled).toBe(true);
    expect(saved(at).vars.OTHER.enabled).toBe(false);
    expect(saved(at).vars.THIRD.enabled).toBe(true);
  });

  test("a small terminal: the list scrolls, and no line wraps", async () => {
    using at = cachesHome();
    await using terminal = await Terminal.open(at, "ef init", { width: 60, height: 14 });
    await terminal.answer("Use $SCRATCH", "Enter");
    await terminal.answer(caches, "Up");
    const screen = await terminal.shows("npm_config_cache");
    expect(screen).toMatch(/◻ npm_config_cache +- {2}npm packages \(~\/\.npm\)/);
    expect(screen.split(caches).length).toBe(2);
    expect(screen.match(/◼ HF_HOME/g)).toBeNull();
  });

  test("the terminal goes, or somebody ends it: no process stays, nothing is saved", async () => {
    using at = cachesHome();
    const pidFile = join(at.dir, "pid");
    const command = `sh -c 'echo $$ > "${pidFile}"; exec ef init'`;
    const isAlive = (pid: number) => {
      try {
        return !at.read(`/proc/${pid}/stat`).includes(") Z "); // ended, if nobody here collects it
      } catch {
        return false;
      }
    };
    const gone = await Terminal.open(at, command);
    await gone.answer("Use $SCRATCH", "Enter");
    await gone.shows(caches);
    const pid = Number(at.read(pidFile));
    await gone[Symbol.asyncDispose]();
    await until("the end of ef", () => !isAlive(pid));

    await using ended = await Terminal.open(at, command);
    await ended.answer("Use $SCRATCH", "Enter");
    await ended.shows(caches);
    process.kill(Number(at.read(pidFile)), "SIGTERM");
    expect(await ended.shows("code=143")).toContain("nothing saved");
    expect(existsSync(path(at))).toBe(false);
  });
});
