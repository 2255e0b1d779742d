/** What ef shell-init prints, in the shells themselves: the function, its completions, the file of --cache. */
import { describe, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { ShellDialect } from "../../lib/base/shell.ts";
import { efArgv, Home, have, isBinary, run } from "../helpers.ts";

interface Shell {
  name: string;
  argv: string[];
  /** The line for the rc file. */
  load: string;
  /** The last exit code. */
  status: string;
  /** What shell-init calls this shell. */
  dialect: ShellDialect;
}

const posix = (name: string, ...argv: string[]): Shell => {
  const dialect = name === "zsh" ? "zsh" : "bash";
  return { name, argv: [name, ...argv], load: `eval "$(ef shell-init --shell ${dialect})"`, status: "$?", dialect };
};
const shells: Shell[] = [
  posix("bash", "--norc"),
  posix("zsh", "-f"),
  posix("dash"),
  {
    name: "fish",
    argv: ["fish", "--no-config"],
    load: "ef shell-init --shell fish | source",
    status: "$status",
    dialect: "fish",
  },
  { name: "tcsh", argv: ["tcsh", "-f"], load: 'eval "`ef shell-init --shell csh`"', status: "$status", dialect: "csh" },
];

/** A home with one small cache. Its path has a space, as every {@link Home}. */
function prepared(): Home {
  const at = new Home({ "hf cache/model": "weights" });
  at.configure({ HF_HOME: "hf cache" });
  return at;
}

/** Run lines as a script of the shell. */
function script(at: Home, shell: Shell, lines: readonly string[], env: Record<string, string | undefined> = {}) {
  const file = at.write("script", `${lines.join("\n")}\n`);
  return run([...shell.argv, file], { cwd: at.home, env: { ...at.env, ...env } });
}

for (const shell of shells) {
  describe.skipIf(!have(shell.name))(shell.name, () => {
    test(`ef alone sets the variables in this shell [needs ${shell.name}]`, async () => {
      using at = prepared();
      const { stdout, code } = await script(at, shell, [shell.load, "ef", 'cat "$HF_HOME/model"']);
      expect(stdout).toBe("weights");
      expect(code).toBe(0);
    });

    test(`ef --config FILE sync is a sync too [needs ${shell.name}]`, async () => {
      using at = prepared();
      const config = `${at.home}/other config.json`;
      renameSync(join(at.home, ".euler-files.json"), config);
      const lines = [
        shell.load,
        `ef --config '${config}' sync`,
        'cat "$HF_HOME/model"',
        `ef --config '${config}' config path`,
      ];
      const { stdout, stderr } = await script(at, shell, lines);
      expect(stderr).toContain("HF_HOME: complete");
      expect(stdout).toBe(`weights${config}\n`);
    });

    test(`other commands pass through, with their exit codes [needs ${shell.name}]`, async () => {
      using at = prepared();
      const lines = [
        shell.load,
        "ef config path",
        `echo "code ${shell.status}"`,
        "ef sync --dry-run",
        `echo "code ${shell.status}"`,
        "ef status --fast",
        `echo "code ${shell.status}"`,
        "ef status --nonsense",
        `echo "code ${shell.status}"`,
        "ef exec -- sh -c 'exit 7'",
        `echo "code ${shell.status}"`,
        "ef sync --var NONSENSE",
        `echo "code ${shell.status}"`,
        "printenv HF_HOME",
      ];
      const { stdout, stderr } = await script(at, shell, lines);
      const [config, dry, status, nonsense, exec, failed, last] = stdout.split(/code (?=\d)/);
      expect(config).toBe(`${at.home}/.euler-files.json\n`);
      expect(dry).toBe("0\n");
      expect(status).toMatch(/^0\n.*HF_HOME/s);
      expect(nonsense).toBe("0\n");
      expect(exec).toBe("2\n");
      expect(failed).toBe("7\n");
      expect(last).toBe("2\n"); // and HF_HOME was not set by any of them
      expect(stderr).toContain("nonsense");
    });
  });
}

describe.each([
  ["bash", "set -euo pipefail"],
  ["zsh", "setopt err_exit no_unset pipe_fail"],
])("%s under %s", (name, strict) => {
  const shell = shells.find((one) => one.name === name) as Shell;

  test.skipIf(!have(name))(`a success goes on [needs ${name}]`, async () => {
    using at = prepared();
    const { stdout, code } = await script(at, shell, [
      strict,
      shell.load,
      "ef",
      "ef status --fast >/dev/null",
      'echo "$HF_HOME"',
    ]);
    expect(stdout).toBe(`${at.cache("HF_HOME")}\n`);
    expect(code).toBe(0);
  });

  test.skipIf(!have(name))(`a failure ends the script [needs ${name}]`, async () => {
    using at = prepared();
    const { stdout, code } = await script(at, shell, [strict, shell.load, "ef sync --var NONSENSE", "echo alive"]);
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });
});

// Which shell it is for.

describe("the default of --shell", () => {
  const first: Record<ShellDialect, string> = {
    bash: "# ef for bash",
    zsh: "# ef for zsh",
    fish: ": '# ef for fish",
    csh: ": '# ef for csh",
  };

  for (const shell of shells) {
    test.skipIf(!have(shell.name))(`is the calling shell: ${shell.name} [needs ${shell.name}]`, async () => {
      using at = new Home();
      const { stdout } = await script(at, shell, ["ef shell-init", "true"], { SHELL: "/bin/other" });
      expect(stdout).toStartWith(first[shell.dialect]);
    });
  }

  test.each([
    ["/usr/bin/fish", "fish"],
    ["/bin/tcsh", "csh"],
    ["/usr/local/bin/zsh", "zsh"],
    ["/bin/bash", "bash"],
    ["/bin/nonsense", "bash"],
    [undefined, "bash"],
  ] as const)("is $SHELL where no shell calls: %p", async (SHELL, dialect) => {
    using at = new Home();
    const { stdout } = await at.ef(["shell-init"], { env: { SHELL } });
    expect(stdout).toStartWith(first[dialect]);
  });
});

test("--json and --input-json", async () => {
  using at = new Home();
  const text = await at.ef(["shell-init", "--shell", "fish"]);
  const json = await at.ef(["shell-init", "--json", "--input-json", "-"], { stdin: '{"shell": "fish"}' });
  expect(JSON.parse(json.stdout)).toEqual({ ok: true, command: "shell-init", shell: "fish", script: text.stdout });
  const flag = await at.ef(["shell-init", "--json", "--shell=zsh", "--input-json", "-"], {
    stdin: '{"shell": "fish"}',
  });
  expect(JSON.parse(flag.stdout).shell).toBe("zsh");
  const wrong = await at.ef(["shell-init", "--json", "--input-json", "-"], { stdin: '{"shell": "json"}' });
  expect(JSON.parse(wrong.stdout)).toMatchObject({ ok: false, error: { type: "UsageError" } });
  expect(wrong.code).toBe(2);
});

// A login must not hang.

test("the configuration is not opened: a FIFO in its place would stop it for ever", async () => {
  using at = new Home();
  const fifo = join(at.home, "fifo");
  Bun.spawnSync(["mkfifo", fifo]);
  for (const args of [
    ["--shell", "bash"],
    ["--shell", "zsh", "--json"],
    ["--shell", "fish", "--cache"],
  ]) {
    const killIfStuck = {
      onStart: (child: { kill(): boolean }) => void setTimeout(() => child.kill(), 10_000).unref(),
    };
    const { stdout, code } = await at.ef(["shell-init", ...args], { env: { EF_CONFIG: fifo }, ...killIfStuck });
    expect(stdout).not.toBe("");
    expect(code).toBe(0);
  }
});

test.skipIf(!have("strace"))(
  "no file of HOME or scratch is looked at, and the text looks at none [needs strace]",
  async () => {
    using at = prepared();
    const log = join(at.dir, "strace.log");
    const text = `eval "$(ef shell-init --shell bash)"`;
    const { code } = await run(["strace", "-f", "-e", "trace=%file", "-o", log, "bash", "--norc", "-c", text], {
      cwd: "/",
      env: at.env,
    });
    expect(code).toBe(0);
    const calls = at.read(log);
    expect(calls).toContain("execve("); // strace saw something
    const own = calls.split("\n").filter((call) => call.includes(at.home) || call.includes(at.scratch));
    expect(own.filter((call) => !call.includes("/.bun"))).toEqual([]); // Bun's own cache of transpiled sources
  },
);

// Completions come with it.

test("bash: completions, with ef known only as the function", async () => {
  using at = prepared();
  const load = `set -eu; ${shells[0]?.load}; PATH=/usr/bin:/bin`;
  const { stdout, stderr } = await at.sh(
    "bash",
    `${load}; COMP_WORDS=(ef sync --var H); COMP_CWORD=3; _ef; echo "$COMPREPLY"`,
  );
  expect(stderr).toBe("");
  expect(stdout).toBe("HF_HOME\n");
});

test.skipIf(!have("fish"))("fish: completions, also from an eval that joins the lines [needs fish]", async () => {
  using at = prepared();
  for (const load of ["ef shell-init --shell fish | source", "eval (ef shell-init --shell fish)"]) {
    const { stdout, stderr } = await at.sh("fish", `${load}; set PATH /usr/bin /bin; complete -C 'ef sync --var H'`);
    expect(stderr).toBe("");
    expect(stdout).toStartWith("HF_HOME\t");
  }
});

test.skipIf(!have("zsh"))("zsh: completions [needs zsh]", async () => {
  using at = prepared();
  const setup = "autoload -Uz compinit; compinit -u -d ~/.zcompdump";
  const { stdout, stderr } = await at.sh("zsh", `${setup}; eval "$(ef shell-init --shell zsh)"; echo $_comps[ef]`);
  expect(stderr).toBe("");
  expect(stdout).toBe("_ef\n");
});

// --cache

describe("--cache", () => {
  for (const shell of shells) {
    test.skipIf(!have(shell.name))(
      `the line it prints gives ${shell.name} the function [needs ${shell.name}]`,
      async () => {
        using at = prepared();
        const cache = join(at.dir, "it's a cache");
        const env = { XDG_CACHE_HOME: cache };
        const {
          stdout: line,
          stderr,
          code,
        } = await at.ef(["shell-init", "--shell", shell.dialect, "--cache"], { env });
        expect(stderr).toContain(join(cache, "ef", `init.${shell.dialect}`));
        expect(code).toBe(0);
        expect(line.trimEnd().split("\n")).toHaveLength(1);
        expect(readdirSync(join(cache, "ef"))).toEqual([`init.${shell.dialect}`]); // no temporary file is left
        const PATH = "/usr/bin:/bin"; // the text knows where ef is
        const ran = await script(at, shell, [line, "ef", "printenv HF_HOME"], { PATH });
        expect(ran.stdout).toBe(`${at.cache("HF_HOME")}\n`);
        rmSync(cache, { recursive: true });
        const gone = await script(at, shell, [line, "echo alive"], { PATH });
        expect(gone).toEqual({ stdout: "alive\n", stderr: "", code: 0 });
      },
    );
  }

  test("goes to ~/.cache without a usable XDG_CACHE_HOME, and --json tells where", async () => {
    using at = new Home();
    for (const XDG_CACHE_HOME of [undefined, "", "relative"]) {
      const { stdout } = await at.ef(["shell-init", "--shell", "zsh", "--cache", "--json"], {
        env: { XDG_CACHE_HOME },
      });
      const { file, line, script: text } = JSON.parse(stdout);
      expect(file).toBe(join(at.home, ".cache/ef/init.zsh"));
      expect(line).toContain(file);
      expect(at.read(file)).toBe(text);
    }
  });

  test("what cannot be written is an error that names it, and what was there stays", async () => {
    using at = new Home({ ".cache": "a file" });
    const { stdout, stderr, code } = await at.ef(["shell-init", "--shell", "bash", "--cache"]);
    expect(stdout).toBe("");
    expect(stderr).toContain(join(at.home, ".cache/ef/init.bash"));
    expect(code).toBe(1);
    expect(at.read(join(at.home, ".cache"))).toBe("a file");
  });

  test.skipIf(!isBinary)("goes on working when a link is set to a newer ef [needs the compiled binary]", async () => {
    using at = prepared();
    const [bin, old] = [join(at.dir, "it's bin"), join(at.dir, "old-ef")];
    mkdirSync(bin);
    copyFileSync(efArgv[0] as string, old);
    symlinkSync(old, join(bin, "ef"));
    const cached = await run([join(bin, "ef"), "shell-init", "--shell", "bash", "--cache"], { env: at.env });
    expect(cached.code).toBe(0);
    rmSync(join(bin, "ef"));
    rmSync(old);
    writeFileSync(join(bin, "ef"), "#!/bin/sh\necho \"export GOT='newer $*'\"\n", { mode: 0o755 });
    const { stdout } = await at.sh("bash", `${cached.stdout}\nef; echo "$GOT"`);
    expect(stdout).toBe("newer sync --shell bash\n");
    expect(existsSync(old)).toBe(false);
  });
});
