/** ef apptainer fixup: real environments whose directory was renamed by hand. */
import { describe, expect, test } from "bun:test";
import type { ChildProcess } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { lock } from "../../mod.ts";
import { haveUv, makeEnv } from "../envs.ts";
import { efArgv, eulerFiles, Home, haveEulerFiles, haveOtherUser, run, until } from "../helpers.ts";
import { differences, lookAt, os } from "../trees.ts";

const clean = { PATH: "/usr/bin:/bin" };
const configured = (at: Home, base: string) => at.configure({}, { apptainer: { venv_base: base, images: {} } });

interface Fixed {
  name: string;
  fixed_files: number;
  status: string;
  to: string;
  changed: { path: string; what: string }[];
  left: { path: string; why: string }[];
}

async function fixup(at: Home, args: readonly string[] = [], stdin = "") {
  const ran = await at.ef(["apptainer", "fixup", ...args, "--json"], { stdin });
  return { ...ran, json: JSON.parse(ran.stdout) as { results: Fixed[]; errors: string[]; [key: string]: unknown } };
}

/** Environments in `venvs`, which was renamed to `new venvs`, as the configuration says. */
async function moved(names: readonly string[], packages = ["six"]): Promise<Home & { old: string; base: string }> {
  const at = new Home();
  const [old, base] = [join(at.home, "venvs"), join(at.home, "new venvs")];
  mkdirSync(old);
  for (const name of names) await makeEnv(join(old, name), packages);
  renameSync(old, base);
  configured(at, "~/new venvs");
  return Object.assign(at, { old, base });
}

async function works(env: string, program: string): Promise<void> {
  const ran = await run([join(env, "bin", program), "--version"], { env: clean });
  expect(ran.stderr).toBe("");
  expect(ran.stdout).toContain(program);
  await activates(env);
}

async function activates(env: string): Promise<void> {
  const script = `. '${env}/bin/activate' && python -c 'import sys; print(sys.prefix)'`;
  expect((await run(["bash", "-c", script], { env: clean })).stdout.trim()).toBe(env);
}

const naming = async (text: string, dir: string) =>
  (await run(["grep", "-rIl", "--", text, dir], { env: clean })).stdout.trim();

describe.skipIf(!haveUv)("environments [needs uv]", () => {
  test("all, after a look: fixed, they run, no text names the old place; then they are already correct", async () => {
    using at = await moved(["one", "two"], ["black", "pip"]);
    mkdirSync(join(at.base, "no environment"));
    writeFileSync(join(at.base, "notes.txt"), at.old);
    symlinkSync("one", join(at.base, "a link"));
    const before = lookAt(at.base);

    const dry = await fixup(at, ["--dry-run"]);
    expect(dry.code).toBe(0);
    expect(dry.json).toMatchObject({ ok: true, command: "apptainer-fixup", venv_name: null, dry_run: true });
    expect(differences(before, lookAt(at.base))).toEqual([]);

    const { json, stderr, code } = await fixup(at);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(json).toMatchObject({ ok: true, venv_name: null, venv_base: at.base, dry_run: false, errors: [] });
    expect(json.results).toEqual(dry.json.results);
    expect(json.results).toMatchObject(
      ["one", "two"].map((name) => ({ name, status: "fixed", to: join(at.base, name), left: [] })),
    );
    for (const { name, fixed_files: count, changed } of json.results) {
      expect(count).toBe(new Set(changed.map(({ path }) => path)).size);
      expect(changed.map(({ path }) => path)).toEqual(expect.arrayContaining(["bin/activate", "bin/black", "bin/pip"]));
      await works(join(at.base, name), "black");
      await works(join(at.base, name), "pip");
    }
    expect(await naming(at.old, at.base)).toBe(join(at.base, "notes.txt"));

    const after = lookAt(at.base);
    const again = await fixup(at);
    expect(again.json.results).toMatchObject(
      ["one", "two"].map((name) => ({ name, status: "already-correct", fixed_files: 0, changed: [] })),
    );
    expect(again.code).toBe(0);
    expect(differences(after, lookAt(at.base))).toEqual([]);
  }, 60_000);

  test("in words: one line for each, a warning for what it cannot change", async () => {
    using at = await moved(["one", "two"]);
    const site = join(at.base, "one/lib", readdirSync(join(at.base, "one/lib"))[0] ?? "", "site-packages");
    writeFileSync(join(site, "gone.pth"), "/nowhere/project\n");
    const dry = await at.ef(["apptainer", "fixup", "-n"]);
    expect(dry.stderr).toMatch(/^one: \d+ files would be changed to name .*\/new venvs\/one$/m);
    const { stdout, stderr, code } = await at.ef(["apptainer", "fixup"]);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^one: fixed: \d+ files changed to name .*\/new venvs\/one\n/);
    expect(stderr).toMatch(/^warning: one: .*gone\.pth: .*\/nowhere\/project, which is not here$/m);
    expect(stderr).toMatch(/^two: fixed: \d+ files changed to name .*\/new venvs\/two$/m);
    expect(code).toBe(0);
    expect((await at.ef(["apptainer", "fixup", "two"])).stderr).toBe("two: already correct\n");
  }, 60_000);

  test("one by its name, on the command line or in JSON; the others stay", async () => {
    using at = await moved(["one", "two"]);
    const two = lookAt(join(at.base, "two"));
    const named = await fixup(at, ["one"]);
    expect(named.json).toMatchObject({ venv_name: "one", results: [{ name: "one", status: "fixed" }] });
    expect(differences(two, lookAt(join(at.base, "two")))).toEqual([]);
    const dry = await fixup(at, ["--input-json", "-"], '{"venv_name": "two", "dry_run": true}');
    expect(dry.json).toMatchObject({ venv_name: "two", dry_run: true, results: [{ name: "two", status: "fixed" }] });
    expect(differences(two, lookAt(join(at.base, "two")))).toEqual([]);
  }, 60_000);

  test("a project in the base moved with it; one beside a base that is still there did not", async () => {
    using at = await moved(["one"]);
    const site = join(at.base, "one/lib", readdirSync(join(at.base, "one/lib"))[0] ?? "", "site-packages");
    mkdirSync(join(at.base, "project"));
    const link = join(site, "project.pth");
    writeFileSync(link, `${at.old}/project\n`);
    mkdirSync(join(at.old, "project"), { recursive: true });
    const [copied] = (await fixup(at, ["-n"])).json.results;
    expect(copied?.status).toBe("fixed");
    expect(copied?.changed.filter(({ path }) => path.endsWith("project.pth"))).toEqual([]);
    rmSync(at.old, { recursive: true });
    symlinkSync(at.base, at.old);
    expect((await fixup(at)).json.results).toMatchObject([{ status: "fixed" }]);
    expect(at.read(link)).toBe(`${at.base}/project\n`);
  }, 60_000);

  test("a link in the base, by its name: what it leads to names its own place", async () => {
    using at = await moved(["one"]);
    const elsewhere = join(at.dir, "elsewhere");
    renameSync(join(at.base, "one"), elsewhere);
    symlinkSync(elsewhere, join(at.base, "link"));
    expect((await fixup(at)).json.results).toEqual([]);
    expect((await fixup(at, ["link"])).json.results).toMatchObject([{ name: "link", to: elsewhere, status: "fixed" }]);
    await activates(elsewhere);
  }, 60_000);

  test("one fails, the others are fixed; exit code 1", async () => {
    using at = await moved(["one", "three", "two"]);
    mkdirSync(join(at.base, ".one.lock"));
    writeFileSync(join(at.base, "three/pyvenv.cfg"), "nonsense\n");
    const strange = os(`${at.base}/caf\xe9`);
    mkdirSync(strange);
    writeFileSync(os(`${at.base}/caf\xe9/pyvenv.cfg`), "home = /usr/bin\n");
    const { json, code } = await fixup(at);
    expect(code).toBe(1);
    expect(json).toMatchObject({ ok: false, results: [{ name: "two", status: "fixed" }] });
    expect(json.errors).toHaveLength(3);
    expect(json.errors[0]).toMatch(/^caf\\xe9: .*not valid UTF-8/);
    expect(json.errors[1]).toMatch(/^one: Cannot lock .*\.one\.lock: it is a directory/);
    expect(json.errors[2]).toMatch(/^three: .* is no Python environment/);
    expect(at.read(join(at.base, "one/bin/activate"))).toContain(at.old);
    const words = await at.ef(["apptainer", "fixup", "one"]);
    expect(words.stderr).toContain("one: failed: Cannot lock");
    expect(words.stderr).toContain("remove it");
    expect(words.code).toBe(1);
  }, 60_000);

  test.skipIf(!haveOtherUser)(
    "of another user: unreadable and read-only ones are errors, a correct one needs no lock [needs root]",
    async () => {
      using at = await moved(["closed", "read-only", "right"]);
      expect((await fixup(at, ["right"])).code).toBe(0);
      rmSync(join(at.base, ".right.lock"));
      for (const dir of [at.dir, at.home, at.base]) chmodSync(dir, 0o755);
      chmodSync(join(at.home, ".euler-files.json"), 0o644);
      chmodSync(join(at.base, "closed"), 0o700);
      writeFileSync(join(at.base, ".read-only.lock"), "");
      chmodSync(join(at.base, ".read-only.lock"), 0o666);
      const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
      const tmp = mkdtempSync("/tmp/ef-fixup-");
      chmodSync(tmp, 0o777);
      try {
        const env = { ...at.env, TMPDIR: tmp };
        const { stdout, code } = await run([...nobody, ...efArgv, "apptainer", "fixup", "--json"], { env });
        expect(code).toBe(1);
        const { results, errors } = JSON.parse(stdout);
        expect(results).toMatchObject([{ name: "right", status: "already-correct" }]);
        expect(errors).toHaveLength(2);
        expect(errors[0]).toMatch(/^closed: .*permission denied/);
        expect(errors[1]).toMatch(/^read-only: Cannot change .*permission denied/);
        expect(at.exists(join(at.base, ".right.lock"))).toBe(false);
      } finally {
        rmSync(tmp, { recursive: true, force: true });
      }
    },
    60_000,
  );

  test("waits while somebody installs into it; a look does not", async () => {
    using at = await moved(["one"]);
    const activate = join(at.base, "one/bin/activate");
    const install = await lock(join(at.base, ".one.lock"), { timeoutS: 10 });
    expect((await at.ef(["apptainer", "fixup", "-n"])).stderr).not.toContain("waiting");
    let said = "";
    const onStart = (child: ChildProcess) => child.stderr?.on("data", (chunk) => (said += chunk));
    const ended = at.ef(["apptainer", "fixup"], { onStart });
    await until("the wait", () => said.includes("one: waiting for "));
    expect(at.read(activate)).toContain(at.old);
    await install[Symbol.asyncDispose]();
    expect((await ended).code).toBe(0);
    expect(at.read(activate)).not.toContain(at.old);
  }, 60_000);

  test.skipIf(!haveEulerFiles)(
    "each key of euler-files, of the same meaning [needs euler-files]",
    async () => {
      using at = await moved(["one", "two"]);
      configured(at, at.base);
      for (const args of [["--dry-run"], ["one", "--dry-run"], ["--input-json", "-"]]) {
        const stdin = args.includes("-") ? '{"venv_name": "two", "dry_run": true}' : "";
        const their = JSON.parse((await eulerFiles(at, ["apptainer", "fixup", ...args, "--json"], stdin)).stdout);
        const { json } = await fixup(at, args, stdin);
        const same = ({ name, status, fixed_files: count }: Fixed) => ({ name, status, fixes: count > 0 });
        expect(their.results.length).toBeGreaterThan(0);
        expect(json.results.map(same)).toEqual(their.results.map(same));
        expect(Object.keys(json.results[0] ?? {})).toEqual(expect.arrayContaining(Object.keys(their.results[0])));
        expect(json).toMatchObject({ ...their, results: json.results });
      }
      expect((await fixup(at)).code).toBe(0);
      const { stdout } = await eulerFiles(at, ["apptainer", "fixup", "--json"]);
      expect(JSON.parse(stdout).results).toEqual(
        ["one", "two"].map((name) => ({ name, fixed_files: 0, status: "already-correct" })),
      );
    },
    60_000,
  );
});

describe("what there is nothing to do for", () => {
  test.each([
    [["nope"], "UNKNOWN_ENV", "Cannot find an environment nope", "there is: train"],
    [["trian"], "UNKNOWN_ENV", "there is nothing of that name", "did you mean train? there is: train"],
    [["plain"], "UNKNOWN_ENV", "it has no pyvenv.cfg", "there is: train"],
    [["a/b"], "USAGE", 'Cannot take "a/b"', "without a /"],
    [[".."], "USAGE", 'Cannot take ".."', "without a /"],
    [[""], "USAGE", 'Cannot take ""', "without a /"],
  ])("%j", async (args, code, message, hint) => {
    using at = new Home({ "venvs/train/pyvenv.cfg": "home = /usr/bin\n", "venvs/plain/file": "" });
    configured(at, "$HOME/venvs");
    const { json, code: exit } = await fixup(at, args);
    expect(exit).toBe(2);
    expect(json).toMatchObject({ ok: false, error: { code } });
    expect(String((json.error as { message: string }).message)).toContain(message);
    expect(String((json.error as { hint: string }).hint)).toContain(hint);
  });

  test("no venv_base, not even with VENV_DIR; one that is gone; an empty one", async () => {
    using at = new Home();
    at.configure({});
    const env = { VENV_DIR: at.home };
    const none = await at.ef(["apptainer", "fixup"], { env });
    expect(none.stderr).toContain("apptainer.venv_base is not set\n  say where they are now: ef config set");
    expect(none.code).toBe(2);
    const set = await at.ef(["config", "set", "apptainer.venv_base", "~/venvs"]);
    expect(set.code).toBe(0);
    const gone = await at.ef(["apptainer", "fixup"], { env });
    expect(gone.stderr).toMatch(/Cannot read apptainer\.venv_base, .*venvs: no such file/);
    expect(gone.stderr).toContain("if it was moved");
    expect(gone.code).toBe(2);
    mkdirSync(join(at.home, "venvs"));
    const empty = await at.ef(["apptainer", "fixup"]);
    expect(empty.stderr).toBe(`there is no environment in ${realpathSync(at.home)}/venvs\n`);
    expect(empty.code).toBe(0);
    expect(existsSync(join(at.home, "venvs"))).toBe(true);
  });
});
