/** The completion scripts in the shells themselves: what is offered, in real completion where a terminal is needed. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Home, have, type Ran, run, until } from "../helpers.ts";

const dialects = ["bash", "zsh", "fish", "csh", "json"];

/** What `ef dm` runs on a data mover: offered like its sub-commands. */
const tools = ["cp", "ls", "mv", "rm", "rsync", "tar", "wget"];

let at: Home;

beforeAll(async () => {
  at = new Home({ "inputs.json": "{}", "my dir/file": "x", README: "x", "venvs/lab/pyvenv.cfg": "" });
  const image = { venv_name: "x", python_version: "3.11", sif_filename: "x.sif" };
  at.configure(
    { HF_HOME: "hf", HF_TOKENS: "t", OTHER: "o" },
    { apptainer: { venv_base: "~/venvs", images: { "my image": image } } },
  );
  for (const shell of ["bash", "zsh", "fish"]) {
    const { stdout, stderr, code } = await at.ef(["completions", shell]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    at.write(`ef.${shell}`, stdout);
  }
});
afterAll(() => at[Symbol.dispose]());

test("ef completions: an unknown shell, and none", async () => {
  const unknown = await at.ef(["completions", "csh"]);
  expect(unknown.stderr).toContain('expected bash, zsh, fish, found "csh"');
  expect(unknown.code).toBe(2);
  const none = await at.ef(["completions"]);
  expect(none.stderr).toContain("SHELL is missing");
  expect(none.code).toBe(2);
});

test("the scripts offer each command, and not what is not for people", async () => {
  const { stdout } = await at.ef(["schema", "--kind", "cli"]);
  const { commands } = JSON.parse(stdout).cli as { commands: Record<string, { commands?: object }> };
  const groups = Object.entries(commands).flatMap(([name, { commands: subs }]) =>
    subs ? [[name, subs] as const] : [],
  );
  expect((await bash(["ef", ""])).offers).toEqual(Object.keys(commands));
  expect(groups.length).toBeGreaterThan(0);
  for (const [name, subs] of groups) {
    const { offers } = await bash(["ef", name, ""]);
    expect(offers.filter((word) => name !== "dm" || !tools.includes(word))).toEqual(Object.keys(subs));
  }
  expect((await bash(["ef", "dm", ""])).offers).toEqual(expect.arrayContaining(tools));
  expect((await bash(["ef", "dm", "cp", "-r", ""])).compopt).toEqual(files);
});

// bash: the function is called as readline calls it; `compopt` is only there while readline does, so it is recorded.

const bashScript = `
set -euo pipefail
source ~/ef.bash
complete -p ef
compopt() { echo "compopt $*"; }
_ef
for one in \${COMPREPLY[@]+"\${COMPREPLY[@]}"}; do printf 'offer %s\\n' "$one"; done
`;

/** What bash offers for the last of `words`, which are broken as readline breaks them. */
async function bash(words: readonly string[], { breaks = true } = {}) {
  const pieces = breaks
    ? words.flatMap((word) => word.split(/((?<!['"].*)[=:]+)/).filter((it, i) => it || i === 0))
    : words;
  const quoted = pieces.map((piece) => `'${piece.replaceAll("'", "'\\''")}'`).join(" ");
  const ran = await at.sh("bash", `COMP_WORDS=(${quoted}); COMP_CWORD=${pieces.length - 1}\n${bashScript}`);
  expect(ran.stderr).toBe("");
  expect(ran.code).toBe(0);
  const lines = ran.stdout.trimEnd().split("\n");
  expect(lines.shift()).toBe("complete -F _ef ef");
  const of = (kind: string) =>
    lines.flatMap((line) => (line.startsWith(`${kind} `) ? [line.slice(kind.length + 1)] : []));
  return { offers: of("offer"), compopt: of("compopt") };
}

const files = ["-o default -o bashdefault"];

describe("bash", () => {
  test.each([
    [["ef", "sy"], ["sync"]],
    [["ef", "sync", "--sh"], ["--shell"]],
    [
      ["ef", "sync", "--no-"],
      ["--no-fail", "--no-preflight"],
    ],
    [["ef", "sync", "--shell", ""], dialects],
    [["ef", "sync", "--shell", "z"], ["zsh"]],
    [["ef", "sync", "--shell=ba"], ["bash"]],
    [["ef", "sync", "--shell="], dialects],
    [
      ["ef", "sync", "--force", "--var", "HF_"],
      ["HF_HOME", "HF_TOKENS"],
    ],
    [["ef", "sync", "--var=HF_H"], ["HF_HOME"]],
    [["ef", "sync", "--var", "HF_HOME", "--var", "O"], ["OTHER"]],
    [["ef", "exec", "--var", "O"], ["OTHER"]],
    [["ef", "--config", "x", "sync", "--sh"], ["--shell"]],
    [["ef", "--config=x", "sync", "--sh"], ["--shell"]],
    [["ef", "--config", "sync", "sy"], ["sync"]],
    [
      ["ef", "--"],
      ["--version", "--config", "--help"],
    ],
    [["ef", "config", "g"], ["get"]],
    [["ef", "config", "get", "scratch"], ["scratch_base"]],
    [
      ["ef", "config", "get", "vars.HF_H"],
      ["vars.HF_HOME", "vars.HF_HOME.source", "vars.HF_HOME.enabled"],
    ],
    [["ef", "config", "get", "--js"], ["--json"]],
    [["ef", "config", "set", "scratch_base", ""], []],
    [
      ["ef", "completions", ""],
      ["bash", "zsh", "fish"],
    ],
    [["ef", "completions", "bash", ""], []],
    [["ef", "schema", "--command", "config.g"], ["config.get"]],
    [["ef", "schema", "--kind=i"], ["input"]],
    [["ef", "sync", ""], []],
    [["ef", "nonsense", ""], []],
    [["ef", "sync", "--", "--sh"], []],
    [["ef", "exec", "--var"], ["--var"]],
    [["ef", "apptainer", "build", ""], ["lab"]],
    [["ef", "apptainer", "fixup", "l"], ["lab"]],
    [
      ["ef", "apptainer", "prune", ""],
      ["my\\ image", "lab"],
    ],
    [["ef", "apptainer", "run", "my"], ["my\\ image"]],
  ])("%j", async (words, expected) => {
    expect(await bash(words)).toEqual({ offers: expected, compopt: [] });
  });

  test("where readline does not break words at =", async () => {
    expect((await bash(["ef", "sync", "--shell=ba"], { breaks: false })).offers).toEqual(["--shell=bash"]);
  });

  test.each([
    ["apptainer.images.my", ["apptainer.images.my\\ image", "apptainer.images.my\\ image.sif_filename"]],
    ["apptainer.images.my\\ image.s", ["apptainer.images.my\\ image.sif_filename"]],
    ['"apptainer.images.my image.s', ["apptainer.images.my image.sif_filename"]],
    ["'apptainer.images.my im", ["apptainer.images.my image", "apptainer.images.my image.sif_filename"]],
  ])("values with a space are quoted as %s began", async (typed, expected) => {
    expect((await bash(["ef", "config", "get", typed])).offers).toEqual(expect.arrayContaining(expected));
  });

  test.each([
    [["ef", "sync", "--input-json", "in"]],
    [["ef", "--config", ""]],
    [["ef", "sync", "--config="]],
    [["ef", "exec", "--", "cat", "REA"]],
    [["ef", "exec", "--", "./"]],
    [["ef", "exec", "--force", "--", "cat", "--", "x"]],
    [["ef", "apptainer", "run", "lab", "--", "printe"]],
    [["ef", "apptainer", "run", "lab", "--", "x", "REA"]],
  ])("%j: files", async (words) => {
    expect(await bash(words)).toEqual({ offers: [], compopt: files });
  });

  test("exec: a command stands after --", async () => {
    const { offers, compopt } = await bash(["ef", "exec", "--var", "OTHER", "--", "printe"]);
    expect(offers).toContain("printenv");
    expect(offers.filter((offer) => !offer.startsWith("printe"))).toEqual([]);
    expect(compopt).toEqual(files);
  });
});

// fish answers `complete -C LINE` with what it would offer.

async function fish(line: string): Promise<string[]> {
  const ran = await at.sh("fish", `source ~/ef.fish; complete -C ${JSON.stringify(line)}`);
  expect(ran.stderr).toBe("");
  return ran.stdout.trimEnd().split("\n").filter(Boolean);
}

const firsts = (offers: readonly string[]) => offers.map((offer) => offer.split("\t")[0] ?? "");

describe.skipIf(!have("fish"))("fish", () => {
  test.each([
    ["ef syn", ["sync\tCopy caches to scratch and print the exports to eval"]],
    ["ef sync --dry", ["--dry-run\tSay what would be copied, touch nothing, print no exports"]],
    ["ef config g", ["get\tPrint one value of the configuration"]],
  ])("%s: with descriptions [needs fish]", async (line, expected) => {
    expect(await fish(line)).toEqual(expected);
  });

  test.each([
    ["ef sync --shell ", dialects.toSorted()],
    ["ef sync --shell=ba", ["--shell=bash"]],
    ["ef sync --var HF_", ["HF_HOME", "HF_TOKENS"]],
    ["ef sync --var HF_HOME --var=O", ["--var=OTHER"]],
    ["ef --config x sync --no-", ["--no-fail", "--no-preflight"]],
    ["ef --config sync sy", ["sync"]],
    ["ef config get vars.HF_HOME.", ["vars.HF_HOME.enabled", "vars.HF_HOME.source"]],
    ["ef config get apptainer.images.my\\ image.si", ["apptainer.images.my image.sif_filename"]],
    ["ef config set scratch_base ", []],
    ["ef completions ", ["bash", "fish", "zsh"]],
    ["ef completions bash ", []],
    ["ef schema --command config.g", ["config.get"]],
    ["ef sync --input-json in", ["inputs.json"]],
    ["ef sync ", []],
    ["ef sync -- ", []],
    ["ef nonsense ", []],
    ["ef exec -- cat RE", ["README"]],
    ["ef apptainer run lab -- REA", ["README"]],
    ["ef apptainer run lab -- -m REA", ["README"]],
    ["ef apptainer prune ", ["lab", "my image"]],
  ])("%s [needs fish]", async (line, expected) => {
    expect(firsts(await fish(line))).toEqual(expected);
  });

  test("exec: a command stands after -- [needs fish]", async () => {
    expect(firsts(await fish("ef exec --var OTHER -- printe"))).toContain("printenv");
  });

  test("the script survives an eval that joins its lines [needs fish]", async () => {
    const { stdout, stderr } = await at.sh("fish", "eval (cat ~/ef.fish); complete -C 'ef sync --shell=z'");
    expect(stderr).toBe("");
    expect(stdout).toStartWith("--shell=zsh\t");
  });
});

// Real completion: an interactive shell on a terminal of tmux, keys, and what the screen shows then.

class Terminal implements Disposable {
  private constructor(
    private readonly home: Home,
    private readonly socket: string,
  ) {}

  static async start(home: Home, command: string): Promise<Terminal> {
    const terminal = new Terminal(home, join(home.dir, `tmux-${crypto.randomUUID().slice(0, 8)}`));
    await terminal.tmux("new-session", "-d", "-x", "150", "-y", "50", command);
    await until("the prompt", async () => (await terminal.screen()).includes("ready>"));
    return terminal;
  }

  private tmux(...args: string[]): Promise<Ran> {
    const env = { ...this.home.env, TERM: "xterm" };
    return run(["tmux", "-S", this.socket, "-f", "/dev/null", ...args], { env, cwd: this.home.home });
  }

  async screen(): Promise<string> {
    return (await this.tmux("capture-pane", "-p", "-J")).stdout;
  }

  /** Type a line with tabs in it, and wait until the screen has `expected`. */
  async type(keys: string, expected: string): Promise<void> {
    await this.tmux("send-keys", "C-u");
    await this.tmux("send-keys", "C-l");
    await this.tmux("send-keys", "-l", keys);
    let screen = "";
    await until(`"${expected}" after typing ${JSON.stringify(keys)}`, async () => {
      screen = await this.screen();
      return screen.includes(expected);
    }).catch((error) => {
      throw new Error(`${error.message}; the screen:\n${screen}`);
    });
    expect(screen).not.toMatch(/:\d+: |command not found|parameter not set|unbound variable/);
  }

  [Symbol.dispose](): void {
    Bun.spawnSync(["tmux", "-S", this.socket, "kill-server"]);
  }
}

describe.skipIf(!have("tmux"))("bash on a terminal", () => {
  test("commands, = and :, files, spaces [needs tmux]", async () => {
    at.write(".bashrc", "PS1='ready> '\nset -u\nsource ~/ef.bash\nbind 'set bell-style none'\n");
    using terminal = await Terminal.start(at, "bash --rcfile ~/.bashrc -i");
    await terminal.type("ef syn\t--dr\t", "ready> ef sync --dry-run");
    await terminal.type("ef sync --shell=ba\t", "ready> ef sync --shell=bash");
    await terminal.type("ef sync --var=HF_H\t", "ready> ef sync --var=HF_HOME");
    await terminal.type("ef sync --input-json inp\t", "ready> ef sync --input-json inputs.json");
    await terminal.type("ef sync --config=my\tf\t", "ready> ef sync --config=my\\ dir/file");
    await terminal.type("ef exec -- printen\tREA\t", "ready> ef exec -- printenv README");
    await terminal.type(
      "ef config get appt\t.im\t.my\t.si\t",
      "ef config get apptainer.images.my\\ image.sif_filename",
    );
    await terminal.type(
      'ef config get "apptainer.images.my image.si\t',
      'get "apptainer.images.my image.sif_filename"',
    );
  });
});

describe.skipIf(!have("tmux") || !have("zsh"))("zsh on a terminal", () => {
  const compinit = "autoload -Uz compinit; compinit -u -d ~/.zcompdump";
  test.each([
    ["evaluated after compinit", `${compinit}; eval "$(cat ~/ef.zsh)"`],
    ["evaluated before compinit", `eval "$(cat ~/ef.zsh)"; ${compinit}`],
    ["a file in fpath", `mkdir -p ~/zfunc; cp ~/ef.zsh ~/zfunc/_ef; fpath=(~/zfunc $fpath); ${compinit}`],
  ])("%s [needs zsh and tmux]", async (_, setup) => {
    at.write(".zshrc", `${setup}\nunsetopt beep\nsetopt no_unset\nPS1='ready> '\n`);
    using terminal = await Terminal.start(at, "zsh -i -o no_global_rcs");
    await terminal.type("ef syn\t--dr\t", "ready> ef sync --dry-run");
    await terminal.type("ef sync --dry\t", "ready> ef sync --dry-run");
    await terminal.type("ef con\tge\tscratch\t", "ready> ef config get scratch_base");
    await terminal.type("ef sync --shell=ba\t", "ready> ef sync --shell=bash");
    await terminal.type("ef sync --shell zs\t", "ready> ef sync --shell zsh");
    await terminal.type("ef sync --var HF_H\t", "ready> ef sync --var HF_HOME");
    await terminal.type("ef --config x sync --var=OT\t", "ready> ef --config x sync --var=OTHER");
    await terminal.type("ef sync --input-json inp\t", "ready> ef sync --input-json inputs.json");
    await terminal.type("ef completions zs\t", "ready> ef completions zsh");
    await terminal.type("ef exec --var OTHER -- printen\t", "ready> ef exec --var OTHER -- printenv");
    await terminal.type("ef exec -- cat REA\t", "ready> ef exec -- cat README");
    await terminal.type("ef apptainer run lab -- -m REA\t", "ready> ef apptainer run lab -- -m README");
    await terminal.type("ef config get apptainer.images.my\t.si\t", "get apptainer.images.my\\ image.sif_filename");
    await terminal.type("ef config \t", "validate  -- Check the configuration");
    await terminal.type("ef sync --no\t\t", "--no-preflight  -- Do not check first that there is room");
  });
});

// What the scripts ask for while somebody waits at a prompt.

describe("ef __values", () => {
  const ask = (kind: string, env: Record<string, string> = {}) => at.ef(["__values", kind], { env });

  test("one value a line", async () => {
    expect((await ask("vars")).stdout).toBe("HF_HOME\nHF_TOKENS\nOTHER\n");
    expect((await ask("commands")).stdout.split("\n")).toEqual(expect.arrayContaining(["sync", "config.get"]));
    expect((await ask("commands")).stdout).not.toContain("__");
    expect((await ask("config-keys")).stdout.split("\n")).toEqual(
      expect.arrayContaining(["scratch_base", "vars.OTHER.source", "apptainer.images.my image.venv_name"]),
    );
  });

  test("what cannot be read gives nothing, at once, and is no error", async () => {
    const odd = {
      "not-json": "{",
      "a-list": "[1]",
      "vars-list": '{"vars": [1]}',
      "vars-null": '{"vars": null}',
      text: '"x"',
    };
    for (const [name, content] of Object.entries(odd)) at.write(`odd/${name}`, content);
    Bun.spawnSync(["mkfifo", join(at.home, "odd/fifo")]);
    const paths = [...readdirSync(join(at.home, "odd")), "missing", "text/below-a-file", "."];
    expect(paths).toContain("fifo");
    for (const path of paths) {
      const ran = await ask("vars", { EF_CONFIG: join(at.home, "odd", path) });
      expect({ path, ...ran }).toEqual({ path, stdout: path === "vars-list" ? "0\n" : "", stderr: "", code: 0 });
    }
    for (const kind of ["nonsense", "toString", "file"])
      expect(await ask(kind)).toEqual({ stdout: "", stderr: "", code: 0 });
    expect(await at.ef(["__values"], { env: { HOME: undefined } })).toEqual({ stdout: "", stderr: "", code: 0 });
  });

  test("is neither in the help nor a suggestion", async () => {
    expect((await at.ef(["--help"])).stdout).not.toContain("__values");
    expect((await at.ef(["__value"])).stderr).not.toContain("__values");
  });
});
