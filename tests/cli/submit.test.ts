/** Functions and scripts on clusters: this machine, a real sshd on loopback, the real Slurm, and Slurm behind the sshd. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { mapLimit } from "../../lib/base/async.ts";
import { haveUv, makeEnv, withUv } from "../envs.ts";
import { type PythonProject, projects } from "../functions.ts";
import { efArgv, Home, isBinary, until } from "../helpers.ts";
import { baseSif, haveApptainer, withApptainer } from "../images.ts";
import { haveSlurm, slurmEnv, withSlurm } from "../slurm.ts";
import { haveSshd, type Sshd, startSshd } from "../sshd.ts";
import { Terminal } from "../terminal.ts";

setDefaultTimeout(120_000);

const python = Bun.which("python3", { PATH: "/usr/local/bin:/usr/bin:/bin" }) ?? "";

let sshd: Sshd | undefined;
beforeAll(async () => {
  // "There" has Python and what every Linux has, and no rsync; Slurm's programs know their cluster.
  if (haveSshd) sshd = await startSshd(undefined, { without: ["rsync"], env: slurmEnv });
});
afterAll(() => sshd?.[Symbol.asyncDispose]());

const clusters = {
  here: () => ({ type: "local", work_dir: "$HOME/work dir" }),
  there: () => sshd?.cluster,
  slurm: () => ({ type: "slurm", cpus: 1, time: "5" }),
  "slurm there": () => ({ ...sshd?.cluster, type: "slurm", cpus: 1, time: "5", work_dir: "~/ef work" }),
} as const;
type ClusterName = keyof typeof clusters;

const canRun = (name: ClusterName): boolean =>
  python !== "" && (!name.includes("there") || haveSshd) && (!name.startsWith("slurm") || haveSlurm);

/** A user whose clusters are called `c`. */
function user(name: ClusterName, files: Record<string, string | Uint8Array> = {}, more: object = {}): Home {
  const at = new Home();
  withSlurm(at);
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(at.home, path)), { recursive: true });
    writeFileSync(join(at.home, path), content);
  }
  at.configure({}, { ef: { clusters: { c: { ...clusters[name](), python, ...more } } } });
  return at;
}

const main = `
import os, sys, time
def run(x=1):
    print("to stdout"); print("to stderr", file=sys.stderr)
    return {"x": x, "cwd": os.path.basename(os.getcwd())}
def bad(): raise ValueError("no\\ndata")
def slow(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)
def set_(): return {1}
`;

test.skipIf(!haveSshd || !python || !isBinary)(
  "twenty functions, on nodes that have only Python: as they are here [the binary, needs sshd]",
  async () => {
    using at = user(haveSlurm ? "slurm there" : "there");
    const ran = async (project: PythonProject, i: number) => {
      const { file, functionName, args = [], kwargs = {} } = project;
      const dir = join(at.home, `p ${i}`);
      for (const [path, content] of Object.entries(project.files)) {
        mkdirSync(dirname(join(dir, path)), { recursive: true });
        writeFileSync(join(dir, path), content);
      }
      const flags = ["--args", JSON.stringify(args), "--kwargs", JSON.stringify(kwargs)];
      const target = `${file}:${functionName}`;
      const here = await at.ef(["pack", target, ...flags], { cwd: dir });
      const local = await at.sh("sh", 'exec "$P" "$Z"', { env: { P: python, Z: here.stdout.trim() } });
      const there = await at.ef(["submit", target, ...flags, "--cluster", "c", "-q"], { cwd: dir });
      expect([project.what, there.code, there.stderr]).toEqual([project.what, 0, there.stderr]);
      expect([project.what, JSON.parse(there.stdout)]).toEqual([project.what, JSON.parse(local.stdout)]);
    };
    await mapLimit([...projects.entries()], 5, ([i, project]) => ran(project, i));
  },
);

test.each(Object.keys(clusters) as ClusterName[])(
  "on %s: results, output, errors, and all of it private",
  async (name) => {
    if (!canRun(name)) return console.warn(`not here: ${name}`);
    using at = user(name, { "main.py": main });
    const good = await at.ef(["submit", "main.py:run", "--args", "[12345678901234567890]", "--cluster", "c"]);
    expect(good.stderr).toContain("to stdout\n");
    expect(good.stderr).toContain("to stderr\n");
    expect(good.stdout).toBe('{"x": 12345678901234567890, "cwd": "files"}\n');
    expect(good.code).toBe(0);

    const bad = await at.ef(["submit", "main.py:bad", "--cluster", "c", "--json"]);
    const { error, status, errors, job_id: id } = JSON.parse(bad.stdout);
    expect(error).toMatchObject({ type: "ValueError", message: "no\ndata" });
    expect(error.traceback).toContain('File "files/main.py", line 6, in bad');
    expect([bad.code, status, errors]).toEqual([1, "failed", [`${id}: ValueError: no\ndata`]]);
    const set = await at.ef(["submit", "main.py:set_", "--cluster", "c", "-q"]);
    expect([set.code, set.stdout]).toEqual([1, ""]);
    expect(set.stderr).toContain("result is a set, which is no JSON");

    const kept = join(at.home, ".local/state/ef/jobs", id);
    for (const file of readdirSync(kept)) expect(statSync(join(kept, file)).mode & 0o777).toBe(0o600);
    const home = name.includes("there") ? (sshd?.home ?? "") : at.home;
    const work = join(home, name === "here" ? "work dir" : name === "slurm there" ? "ef work" : ".local/share/ef");
    const modes = (dir: string): number[] => readdirSync(dir).map((each) => statSync(join(dir, each)).mode & 0o077);
    for (const dir of ["packages", "jobs", `jobs/${id}`]) expect(new Set(modes(join(work, dir)))).toEqual(new Set([0]));

    // The package is there: it is not sent again.
    const again = await at.ef(["submit", "main.py:bad", "--cluster", "c"]);
    expect(again.stderr).not.toContain("sending");
  },
);

test.skipIf(!python)("a package that was made anew under its old name is sent anew", async () => {
  using at = user("here");
  for (const value of ["one", "two"]) {
    at.write("main.py", `def run():\n    return "${value}"\n`);
    expect((await at.ef(["pack", "main.py:run", "-o", "x.zip"])).code).toBe(0);
    const { code, stdout, stderr } = await at.ef(["submit", "x.zip", "--cluster", "c"]);
    expect([code, stdout, stderr]).toEqual([0, `"${value}"\n`, stderr]);
  }
});

test.each(["here", "there"] as const)("on %s: its Python may be named from the HOME there", async (name) => {
  if (!canRun(name)) return console.warn(`not here: ${name}`);
  using at = user(
    name,
    { "main.py": "import sys\ndef run():\n    return sys.executable\n" },
    { python: "~/my python" },
  );
  const home = name === "there" ? (sshd?.home ?? "") : at.home;
  symlinkSync(python, join(home, "my python"));
  const { code, stdout, stderr } = await at.ef(["submit", "main.py:run", "--cluster", "c"]);
  expect([code, stdout, stderr]).toEqual([0, `"${home}/my python"\n`, stderr]);
});

test.each(["here", "there", "slurm"] as const)(
  "on %s: a detached job is listed, followed, and cancelled with all it started",
  async (name) => {
    if (!canRun(name)) return console.warn(`not here: ${name}`);
    using at = user(name, { "main.py": main });
    const started = join(at.dir, "started");
    const args = JSON.stringify([started]);
    const submitted = await at.ef(["submit", "main.py:slow", "--args", args, "--cluster", "c", "--detach"]);
    const id = submitted.stdout.trim();
    expect(id).toMatch(/^slow-[0-9a-f]{8}$/);
    const pid = Number(await until("its start", () => existsSync(started) && readFileSync(started, "utf8")));
    const listed = JSON.parse((await at.ef(["jobs", "list", "--json"])).stdout);
    expect(listed.jobs).toEqual([expect.objectContaining({ id, state: "running", cluster: "c" })]);
    const early = await at.ef(["jobs", "result", id]);
    expect([early.code, early.stderr]).toEqual([2, expect.stringContaining("it is running")]);
    const late = await at.ef(["jobs", "wait", id, "--timeout", "0.1"]);
    expect([late.code, late.stderr]).toEqual([1, expect.stringContaining(`ef jobs wait ${id}`)]);
    const cancelled = await at.ef(["jobs", "cancel", id.slice(0, -2)]);
    expect([cancelled.code, cancelled.stderr]).toEqual([0, `${id}: cancelled\n`]);
    await until(
      "its end",
      () => !existsSync(`/proc/${pid}/cmdline`) || readFileSync(`/proc/${pid}/cmdline`).length === 0,
    );
    const result = await at.ef(["jobs", "wait", id]);
    expect([result.code, result.stdout]).toEqual([1, ""]);
    expect(result.stderr).toContain("cancelled");
  },
);

test.skipIf(!python)("SIGTERM ends what runs on this machine; a job on a cluster goes on", async () => {
  using at = user("here", { "main.py": main });
  const started = join(at.dir, "started");
  const ran = await at.ef(["submit", "main.py:slow", "--args", JSON.stringify([started]), "--cluster", "c"], {
    onStart: (child) =>
      void until("its start", () => existsSync(started) && readFileSync(started, "utf8") !== "").then(() =>
        child.kill("SIGTERM"),
      ),
  });
  expect(ran.stderr).toContain("is cancelled");
  expect([ran.code, ran.stdout]).toEqual([143, ""]);
  const pid = Number(readFileSync(started, "utf8"));
  await until(
    "its end",
    () => !existsSync(`/proc/${pid}/cmdline`) || readFileSync(`/proc/${pid}/cmdline`).length === 0,
  );
});

test.skipIf(!haveSlurm || !python)(
  "options of Slurm: the definition's, the flags over them, and those after -- [needs Slurm]",
  async () => {
    using at = user(
      "slurm",
      {
        "main.py":
          "import os\ndef run():\n    return [os.environ[k] for k in ('SLURM_JOB_NAME', 'SLURM_CPUS_PER_TASK', 'MINE', 'SLURM_JOB_COMMENT') if k in os.environ]\n",
      },
      { env: { MINE: "a 'b'\nc" }, cpus: 3 },
    );
    const { stdout, stderr, code } = await at.ef([
      "submit",
      "main.py:run",
      "--cluster",
      "c",
      "--cpus",
      "2",
      "-q",
      "--",
      "--job-name=mine",
    ]);
    expect([code, stderr]).toEqual([0, stderr]);
    expect(JSON.parse(stdout)).toEqual(["mine", "2", "a 'b'\nc"]);
    const refused = await at.ef(["submit", "main.py:run", "--cluster", "c", "--partition", "nowhere"]);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/invalid partition/i)]);
    const [known] = JSON.parse((await at.ef(["jobs", "list", "--json"])).stdout).jobs;
    expect(known).toMatchObject({ state: "failed", reason: expect.stringMatching(/invalid partition/i) });
    const result = await at.ef(["jobs", "result", known.id]);
    expect([result.code, result.stderr]).toEqual([1, expect.stringMatching(/invalid partition/i)]);
    const limit = await at.ef(["submit", "main.py:run", "--cluster", "c", "--nodes", "many"]);
    expect(limit.code).toBe(2);
  },
);

test.skipIf(!haveUv || !python)(
  "an environment of the pins is made once; another in a saved one [needs uv]",
  async () => {
    using at = user("here", {
      "main.py": "import six, sys\ndef run():\n    return [six.__version__, sys.prefix != sys.base_prefix]\n",
    });
    withUv(at);
    const env = await makeEnv(join(at.home, "env"), ["six"]);
    const submit = (...more: string[]) => at.ef(["submit", "main.py:run", "--cluster", "c", ...more]);
    const first = await submit("--pins", env);
    expect(first.stderr).toContain("making an environment of 1 package");
    expect([first.code, JSON.parse(first.stdout)[1]]).toEqual([0, true]);
    const second = await submit("--pins", env);
    expect(second.stderr).not.toContain("making");
    expect(second.stdout).toBe(first.stdout);

    await at.ef(["config", "set", "ef.venv_store", "~/store"]);
    await at.ef(["venv", "save", "mine", "--venv", env]);
    const saved = await submit("--venv", "mine");
    expect([saved.code, saved.stdout, saved.stderr]).toEqual([0, first.stdout, saved.stderr]);
    const unknown = await submit("--venv", "other");
    expect([unknown.code, unknown.stderr]).toEqual([2, expect.stringContaining("other")]);
    // An environment that cannot be made is nobody's success.
    const broken = await at.ef(["submit", "main.py:run", "--cluster", "c", "--pins", env], {
      env: {
        UV_FIND_LINKS: "/nonexistent",
        XDG_CACHE_HOME: join(at.dir, "x"),
        HOME: at.home,
        EF_CONFIG: at.write("other.json", {
          version: 1,
          scratch_base: "/s",
          ef: { clusters: { c: { type: "local", python, work_dir: join(at.dir, "w") } } },
        }),
      },
    });
    expect([broken.code, broken.stdout]).toEqual([1, ""]);
    expect(broken.stderr).toContain("Cannot make an environment of the 1 pinned packages");
  },
);

test.skipIf(!haveSshd || !isBinary || !haveUv)(
  "a saved environment goes to a host that has only ef and Python [needs sshd, uv]",
  async () => {
    using at = user("there", { "main.py": "import six, sys\ndef run():\n    return six.__name__\n" });
    mkdirSync(join(sshd?.home ?? "", "bin"), { recursive: true });
    copyFileSync(efArgv[0] as string, join(sshd?.home ?? "", "bin/ef"));
    const env = await makeEnv(join(at.home, "env"), ["six"]);
    await at.ef(["config", "set", "ef.venv_store", "~/store"]);
    await at.ef(["venv", "save", "mine", "--venv", env]);
    const { code, stdout, stderr } = await at.ef(["submit", "main.py:run", "--cluster", "c", "--venv", "mine"]);
    expect([code, stdout, stderr]).toEqual([0, '"six"\n', stderr]);
    // And a script, which needs ef alone.
    at.write(
      "job.ts",
      'import { version } from "./v.ts"; console.log(version, process.argv.slice(2)); process.exitCode = 4;',
    );
    at.write("v.ts", "export const version: number = 7;");
    const script = await at.ef(["submit", "job.ts", "--args", '["a b"]', "--cluster", "c"]);
    expect([script.code, script.stdout]).toEqual([4, '7 [ "a b" ]\n']);
  },
);

test.skipIf(!haveApptainer)("in an image: its Python, and the job's directory inside [needs apptainer]", async () => {
  using at = user("here", {
    "main.py":
      "import os, sys\ndef run(x):\n    return [x, 'APPTAINER_CONTAINER' in os.environ, os.getcwd().split('/')[-1]]\n",
  });
  withApptainer(at);
  const { code, stdout, stderr } = await at.ef([
    "submit",
    "main.py:run",
    "--args",
    "[1]",
    "--cluster",
    "c",
    "--image",
    baseSif,
  ]);
  expect([code, stderr]).toEqual([0, stderr]);
  expect(JSON.parse(stdout)).toEqual([1, true, "files"]);
});

test("what is wrong is said before anything is sent", async () => {
  using at = user("here", { "main.py": main, "notes.ipynb": "{}" });
  for (const [args, why] of [
    [["submit", "main.py:run"], undefined],
    [["submit", "main.py:nope", "--cluster", "c"], "there is no such function"],
    [["submit", "main.py", "--cluster", "c"], "main.py:FUNCTION"],
    [["submit", "notes.ipynb:run", "--cluster", "c"], "notebook"],
    [["submit", "gone.zip", "--cluster", "c"], "no such file"],
    [["submit", "main.py:run", "--cluster", "x"], "Cannot find the cluster x"],
    [["submit", "main.py:run", "--args", "[1", "--cluster", "c"], "--args: not JSON"],
    [["submit", "main.py:run", "--args", "[1,2]", "--cluster", "c"], "2 by their place"],
    [["submit", "main.py:run", "--env", "NOT_SET", "--cluster", "c"], "it is not set"],
    [["submit", "main.py:run", "--image", "none", "--cluster", "c"], "none"],
    [["jobs", "wait", "nope"], "Cannot find job"],
  ] as const) {
    const { code, stdout, stderr } = await at.ef([...args]);
    if (why === undefined) continue;
    expect([args, code, stdout]).toEqual([args, 2, ""]);
    expect(stderr).toContain(why);
  }
});

test.skipIf(!haveSshd)("a host that does not answer: the reason and the next step, nothing remembered", async () => {
  using at = user("there", { "main.py": main }, { port: 1 });
  const { code, stderr } = await at.ef(["submit", "main.py:run", "--cluster", "c"]);
  expect([code, stderr]).toEqual([1, expect.stringMatching(/refused/i)]);
  expect((await at.ef(["jobs", "list"])).stdout).toContain("there is no job yet");
});

test.skipIf(!python)("Ctrl-C asks: the job goes on, or is cancelled", async () => {
  using at = user("here", { "main.py": main });
  const started = join(at.dir, "started");
  await using terminal = await Terminal.open(
    at,
    `cd "$HOME" && ef submit main.py:slow --args '["${started}"]' --cluster c`,
  );
  await terminal.shows("running");
  await until("its start", () => existsSync(started) && readFileSync(started, "utf8") !== "");
  await terminal.press("C-c");
  await terminal.answer("leave it running", "Enter"); // go on
  await terminal.shows("go on following it\n");
  await terminal.press("C-c");
  await terminal.answer(/❯ .*\n● go on following it[\s\S]*cancel it\s*$/, "Up", "Enter");
  await terminal.shows("code=130");
  const { jobs } = JSON.parse((await at.ef(["jobs", "list", "--json"])).stdout);
  expect(jobs[0].state).toBe("cancelled");
});
