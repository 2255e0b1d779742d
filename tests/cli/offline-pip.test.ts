/** ef shell-init --offline-pip: what shells do with its text, and pip and uv with the variables that it sets. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { haveUv, makeEnv, pypiBin, uvEnv, wheels } from "../envs.ts";
import { Home, have, run } from "../helpers.ts";

interface Shell {
  name: string;
  argv: string[];
  /** The line for the rc file. */
  load: string;
}

const shells: Shell[] = [
  { name: "bash", argv: ["bash", "--norc"], load: 'eval "$(ef shell-init --shell bash --offline-pip)"' },
  { name: "dash", argv: ["dash"], load: 'eval "$(ef shell-init --shell bash --offline-pip)"' },
  { name: "zsh", argv: ["zsh", "-f"], load: 'eval "$(ef shell-init --shell zsh --offline-pip)"' },
  { name: "fish", argv: ["fish", "--no-config"], load: "ef shell-init --shell fish --offline-pip | source" },
  { name: "fish", argv: ["fish", "--no-config"], load: "eval (ef shell-init --shell fish --offline-pip)" },
  { name: "tcsh", argv: ["tcsh", "-f"], load: 'eval "`ef shell-init --shell csh --offline-pip`"' },
];

const node = hostname().replace(/\..*/, "");
/** All of pip's and uv's variables that the shell hands on. */
const show = "env | grep -E '^(PIP|UV)_' | sort";

/** A home with a wheelhouse that has six and nothing else; its name has all that pip and uv would split at. */
function prepared(): Home & { link: string } {
  const at = new Home();
  const wheelhouse = join(at.dir, "wheels, of é%20");
  mkdirSync(wheelhouse);
  at.configure({}, { ef: { wheelhouse: "$WHEELS" } });
  Object.assign(at.env, { WHEELS: wheelhouse, HOSTNAME: "login-1" });
  const encoded = encodeURI(at.dir).replaceAll(",", "%2C");
  return Object.assign(at, { link: `file://${encoded}/wheels%2C%20of%20%C3%A9%2520` });
}

/** sinfo of a cluster: a line for each node and partition, `-o %N` is its name. Any other use is an error. */
function withSinfo(at: Home, lines: readonly string[]): void {
  const text = lines.map((line) => `${line}\n`).join("");
  program(at, "sinfo", `[ "$*" = "-a -N -h -o %N" ] || exit 1\nprintf '%s' '${text}'`);
}

function program(at: Home, name: string, script: string): void {
  const path = join(at.dir, "bin", name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
}

function script(at: Home, shell: Shell, lines: readonly string[], env: Record<string, string | undefined> = {}) {
  const file = at.write("script", `${lines.join("\n")}\n`);
  return run([...shell.argv, file], { cwd: at.home, env: { ...at.env, ...env } });
}

const set = (link: string, pip = link, uv = link) =>
  `PIP_FIND_LINKS=${pip}\nPIP_NO_INDEX=1\nUV_FIND_LINKS=${uv}\nUV_NO_INDEX=1\nUV_OFFLINE=1\n`;

for (const shell of shells) {
  describe.skipIf(!have(shell.name))(`${shell.name}: ${shell.load}`, () => {
    test(`in a job, of any scheduler [needs ${shell.name}]`, async () => {
      using at = prepared();
      for (const name of ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"]) {
        const { stdout, stderr } = await script(at, shell, [shell.load, show], { [name]: "4711" });
        expect(stderr).toBe("");
        expect(stdout).toBe(set(at.link));
      }
    });

    test(`on a login node nothing is set, with and without sinfo [needs ${shell.name}]`, async () => {
      using at = prepared();
      const job = { SLURM_JOB_ID: "" };
      expect(await script(at, shell, [shell.load, show], job)).toMatchObject({ stdout: "", stderr: "" });
      withSinfo(at, ["cn-1", "cn-1", `${node}x`, `x${node}`, "cn-2"]);
      expect(await script(at, shell, [shell.load, show])).toMatchObject({ stdout: "", stderr: "" });
    });

    test(`on a node that sinfo lists, without a job [needs ${shell.name}]`, async () => {
      using at = prepared();
      withSinfo(at, ["cn-1", "cn-1", node, `${node}.cluster.example`, "cn-2"]);
      const { stdout, stderr } = await script(at, shell, [shell.load, show]);
      expect(stderr).toBe("");
      expect(stdout).toBe(set(at.link));
    });

    test(`own places stay, and nothing is added twice [needs ${shell.name}]`, async () => {
      using at = prepared();
      const own = { SLURM_JOB_ID: "1", PIP_FIND_LINKS: "/a  https://h/b?c=[d]*", UV_FIND_LINKS: "/a b,/c" };
      const { stdout, stderr } = await script(at, shell, [shell.load, shell.load, show], own);
      expect(stderr).toBe("");
      expect(stdout).toBe(set(at.link, `${own.PIP_FIND_LINKS} ${at.link}`, `${own.UV_FIND_LINKS},${at.link}`));
    });

    test(`a long list of nodes, and the function ef [needs ${shell.name}]`, async () => {
      using at = prepared();
      const nodes = Array.from({ length: 4000 }, (_, i) => `eu-g${i % 40}-${String(i).padStart(4, "0")}`);
      withSinfo(at, [...nodes, node]);
      const { stdout, stderr } = await script(at, shell, [shell.load, "ef config path", "echo $PIP_NO_INDEX"]);
      expect(stderr).toBe("");
      expect(stdout).toBe(`${at.home}/.euler-files.json\n1\n`);
    });
  });
}

test("under set -euo pipefail, in a job and outside", async () => {
  using at = prepared();
  withSinfo(at, ["cn-1"]);
  const lines = ["set -euo pipefail", shells[0]?.load ?? "", 'echo "[${PIP_NO_INDEX-}]"'];
  const [shell] = shells as [Shell];
  expect(await script(at, shell, lines)).toMatchObject({ stdout: "[]\n", stderr: "", code: 0 });
  const job = { SLURM_JOB_ID: "1" };
  expect(await script(at, shell, lines, job)).toMatchObject({ stdout: "[1]\n", stderr: "", code: 0 });
});

test.each(shells.filter(({ name, load }) => have(name) && name !== "dash" && !load.startsWith("eval (")))(
  "$name: a stored text starts no program, and asks no sinfo",
  async ({ name, argv }) => {
    using at = prepared();
    withSinfo(at, [node]);
    const shell = name === "tcsh" ? "csh" : name;
    const { stdout, code } = await at.ef(["shell-init", "--shell", shell, "--offline-pip", "--cache", "--json"]);
    expect(code).toBe(0);
    const { file, script: text } = JSON.parse(stdout);
    expect(at.read(file)).toBe(text);
    rmSync(join(at.dir, "bin/sinfo"));
    const start =
      name === "fish" ? "set -gx PATH /nowhere" : name === "tcsh" ? "setenv PATH /nowhere" : "PATH=/nowhere";
    const script = [start, `source '${file}'`, "echo $PIP_NO_INDEX $UV_OFFLINE", ""].join("\n");
    const ran = await run([...argv, at.write("script", script)], { cwd: at.home, env: at.env });
    expect(ran.stdout).toBe("1 1\n");
    expect(ran.stderr).toBe("");
  },
);

describe("a sinfo that", () => {
  test.each([
    ["fails", "echo cn-1; exit 1"],
    ["does not answer", "exec sleep 60"],
    ["prints something else", "echo '$(touch x)'; echo \"';'\"; echo -n; echo 'a b'"],
  ])("%s: no list", async (_, script) => {
    using at = prepared();
    program(at, "sinfo", script);
    const with_ = await at.ef(["shell-init", "--shell", "bash", "--offline-pip"]);
    rmSync(join(at.dir, "bin/sinfo"));
    const without = await at.ef(["shell-init", "--shell", "bash", "--offline-pip"]);
    expect(with_).toEqual(without);
    expect(without.code).toBe(0);
  });
});

describe("what pip's configuration names as find-links is not lost", () => {
  const links = async (at: Home, env: Record<string, string> = {}) => {
    const [shell] = shells as [Shell];
    const { stdout } = await script(at, shell, [shell.load, 'echo "$PIP_FIND_LINKS"'], { SLURM_JOB_ID: "1", ...env });
    return stdout.trimEnd().split(" ");
  };

  test("in the file of the user, in that of PIP_CONFIG_FILE instead; several lines, sections, comments", async () => {
    using at = prepared();
    at.write(".pip/pip.conf", "[global]\nfind-links = /old\n");
    expect(await links(at)).toEqual(["/old", at.link]);
    const text =
      "[global]\nindex-url = https://i/\nfind-links =\n    /a/x86-64-v3\n\t# no\n    https://h/b\ntimeout: 5\n  /no\n";
    at.write(".config/pip/pip.conf", text);
    expect(await links(at)).toEqual(["/a/x86-64-v3", "https://h/b", at.link]);
    const file = at.write(
      "site.conf",
      "[wheel]\nfind-links = /no\n[install]\nfind_links: /c /d\n[global]\nfind-links=/e\n",
    );
    expect(await links(at, { PIP_CONFIG_FILE: file })).toEqual(["/c", "/d", at.link]);
    expect(await links(at, { PIP_CONFIG_FILE: file, PIP_FIND_LINKS: "/own" })).toEqual(["/own", at.link]);
  });

  test.skipIf(!haveUv)("as pip itself reads it [needs uv]", async () => {
    using at = prepared();
    const text = "[global]\nno-index = true\nfind-links =\n  /a\n # no\n  /b  /c\n[install]\nfind-links = /d\n   /e\n";
    at.write(".config/pip/pip.conf", text);
    const [uv, ...args] = [join(pypiBin, "uv"), "run", "-q", "--no-project", "--isolated", "--with", "pip"];
    const argv = [uv, ...args, "python", "-m", "pip", "install", "--dry-run", "nothing"];
    const { stdout, stderr } = await run(argv, { env: { ...at.env, ...uvEnv } });
    const read = /Looking in links: (.*)/.exec(stdout + stderr)?.[1]?.split(", ") ?? [];
    expect(await links(at)).toEqual([...read, at.link]);
  });
});

test.each([
  ["no configuration", undefined],
  ["no wheelhouse in it", {}],
])("%s: exit 2, and how to get one", async (_, ef) => {
  using at = new Home();
  if (ef) at.configure({}, { ef });
  const { stdout, stderr, code } = await at.ef(["shell-init", "--shell", "bash", "--offline-pip"]);
  expect(stdout).toBe("");
  expect(stderr).toContain("ef config set ef.wheelhouse DIR");
  expect(stderr).toContain("ef venv wheel");
  expect(code).toBe(2);
});

describe.skipIf(!haveUv)("pip and uv pip [needs uv]", () => {
  let env = "";
  beforeAll(async () => {
    const dir = mkdtempSync(join(tmpdir(), "ef pip "));
    env = await makeEnv(join(dir, "env"), ["pip"]);
  });
  afterAll(() => rmSync(join(env, ".."), { recursive: true, force: true }));

  test.each(shells.filter(({ name }) => have(name)))(
    "in $name ($load): install from the wheelhouse",
    async (shell) => {
      using at = prepared();
      const [six = ""] = readdirSync(wheels).filter((name) => name.startsWith("six-"));
      copyFileSync(join(wheels, six), join(at.env.WHEELS ?? "", six));
      const nowhere = "http://127.0.0.1:9/simple/";
      const vars = {
        SLURM_JOB_ID: "1",
        PIP_INDEX_URL: nowhere,
        UV_DEFAULT_INDEX: nowhere,
        UV_PYTHON_DOWNLOADS: "never",
      };
      // in a script of its own: what it starts has the variables too
      program(at, "job", 'for name; do "$RUN" pip install -q --target "$HOME/$name" "$name" || echo "no $name"; done');
      program(at, "both", `RUN='${join(pypiBin, "uv")}'; export RUN; job "$@"; RUN='${env}/bin/pip-run'; job "$@"`);
      writeFileSync(join(env, "bin/pip-run"), `#!/bin/sh\nshift\nexec '${env}/bin/python' -m pip "$@"\n`, {
        mode: 0o755,
      });
      const { stdout, stderr } = await script(at, shell, [shell.load, "both six click"], vars);
      expect(stdout).toBe("no click\nno click\n");
      expect(stderr).toContain("click was not found in the cache"); // uv
      expect(stderr).toContain("No matching distribution found for click"); // pip
      expect(stderr).not.toContain("127.0.0.1");
      expect(readdirSync(join(at.home, "six"))).toContain("six.py");
    },
    30_000,
  );
});
