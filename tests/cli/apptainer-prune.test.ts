/** ef apptainer prune: what goes, what stays, and who is in the way. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { partNameOf } from "../../lib/engine/copy-large.ts";
import { efArgv, Home, have, haveOtherUser, run, until } from "../helpers.ts";
import { Terminal } from "../terminal.ts";

const venvs = (at: Home) => join(at.home, "venvs");
const store = (at: Home) => join(at.home, "sif");
const copies = (at: Home) => join(at.scratch, "copies");
const saved = (at: Home) => JSON.parse(at.read(join(at.home, ".euler-files.json")));
const record = (name: string, venv = name) => ({
  ...{ venv_name: venv, python_version: "3.11.2", sif_filename: `${name}.sif`, built_at: 1.5, enabled: true },
});

/** A configuration with a record for each image. */
function home(images: Record<string, object> = {}): Home {
  const at = new Home();
  at.configure(
    {},
    {
      other: { kept: 1 },
      apptainer: { venv_base: "~/venvs", sif_store: "~/sif", scratch_sif_dir: "$SCRATCH/copies", newer: 2, images },
    },
  );
  for (const dir of [venvs(at), store(at), copies(at)]) mkdirSync(dir);
  return at;
}

/** What looks like an environment, with so many files in `lib`. */
function makeVenv(at: Home, name: string, files = 3): string {
  const dir = join(venvs(at), name);
  for (const each of ["bin", "lib/python3.11/site-packages"]) mkdirSync(join(dir, each), { recursive: true });
  writeFileSync(join(dir, "pyvenv.cfg"), "home = /usr/bin\nversion = 3.11.2\n");
  symlinkSync("/usr/bin/python3", join(dir, "bin/python"));
  for (let i = 0; i < files; i++) writeFileSync(join(dir, `lib/python3.11/site-packages/m${i}.py`), "x\n");
  return dir;
}

function makeImage(at: Home, name: string): void {
  writeFileSync(join(store(at), `${name}.sif`), "s".repeat(20_000));
  writeFileSync(join(store(at), `${name}.def`), "Bootstrap: docker\n");
  writeFileSync(join(copies(at), `${name}.sif`), "s".repeat(20_000));
}

/** An environment, its image, a copy and a record. */
function whole(name = "train", files = 3): Home {
  const at = home({ [name]: record(name) });
  makeVenv(at, name, files);
  makeImage(at, name);
  return at;
}

const prune = async (at: Home, args: readonly string[], options: Parameters<Home["ef"]>[1] = {}) => {
  const ran = await at.ef(["apptainer", "prune", "--json", ...args], options);
  return { ...ran, json: ran.stdout === "" ? undefined : JSON.parse(ran.stdout) };
};

/** What is there, but for lock files. */
const left = (at: Home) =>
  [venvs(at), store(at), copies(at)].flatMap((dir) => readdirSync(dir).filter((name) => !/^\..*\.lock$/s.test(name)));

const kinds = (targets: { kind: string }[]) => targets.map(({ kind }) => kind);

describe("ef apptainer prune", () => {
  test("both: all of it goes, and the record; all else stays", async () => {
    using at = whole();
    makeVenv(at, "other");
    const before = saved(at);
    const { json, code } = await prune(at, ["train", "--yes"]);
    expect(code).toBe(0);
    expect(json).toMatchObject({
      ...{ ok: true, command: "apptainer-prune", image_name: "train", mode: "both", status: "pruned" },
      ...{ dry_run: false, yes: true, record: true, errors: [], warnings: [] },
    });
    expect(json.deleted).toEqual(json.targets);
    expect(json.targets.map(({ kind, path }: { kind: string; path: string }) => [kind, path])).toEqual([
      ["venv", join(venvs(at), "train")],
      ["sif", join(store(at), "train.sif")],
      ["def", join(store(at), "train.def")],
      ["scratch sif", join(copies(at), "train.sif")],
    ]);
    const du = await run(["du", "-sh", join(venvs(at), "other")], { env: at.env });
    expect(json.targets[0]).toMatchObject({ size: du.stdout.split("\t")[0], files: 5 });
    expect(json.targets[0].bytes).toBeGreaterThan(10_000);
    expect(left(at)).toEqual(["other"]);
    expect(saved(at)).toEqual({ ...before, apptainer: { ...before.apptainer, images: {} } });
    const again = await prune(at, ["train"]);
    expect(again).toMatchObject({ code: 0, json: { status: "nothing-to-prune", targets: [] } });
  });

  test("venv and sif leave the other one", async () => {
    using at = whole();
    const venv = await prune(at, ["train", "--mode", "venv", "--yes"]);
    expect(kinds(venv.json.deleted)).toEqual(["venv"]);
    expect(left(at).sort()).toEqual(["train.def", "train.sif", "train.sif"]);
    expect(saved(at).apptainer.images.train).toEqual(record("train"));
    makeVenv(at, "train");
    const sif = await prune(at, ["train", "--mode", "sif", "--yes"]);
    expect(kinds(sif.json.deleted)).toEqual(["sif", "def", "scratch sif"]);
    expect(left(at)).toEqual(["train"]);
    expect(saved(at).apptainer.images).toEqual({});
  });

  test("--dry-run touches nothing; without --yes a script is asked for it; keys as in the JSON", async () => {
    using at = whole();
    const tree = () => [venvs(at), store(at), copies(at)].map((dir) => readdirSync(dir));
    const before = tree();
    const nameless = await prune(at, []);
    expect(nameless).toMatchObject({ code: 2, json: { error: { code: "NOT_INTERACTIVE" } } });
    expect(nameless.json.error.hint).toContain("train");
    const input = JSON.stringify({ venv_name: "train", mode: "sif", dry_run: true });
    const planned = await prune(at, ["--input-json", "-"], { stdin: input });
    expect(planned.json).toMatchObject({ status: "dry-run", dry_run: true, mode: "sif" });
    expect(planned.json.deleted).toBeUndefined();
    expect(kinds(planned.json.targets)).toEqual(["sif", "def", "scratch sif"]);
    const human = await at.ef(["apptainer", "prune", "train", "-n"]);
    expect(human.stderr).toContain("would be deleted");
    expect(human.stderr).toContain("apptainer.images.train");
    const unasked = await prune(at, ["train"]);
    expect(unasked).toMatchObject({ code: 2, json: { error: { code: "NOT_INTERACTIVE" } } });
    expect(unasked.json.error.hint).toContain("--yes");
    expect((await at.ef(["apptainer", "prune", "train", "--mode", "all"])).code).toBe(2);
    expect(tree()).toEqual(before);
    expect(saved(at).apptainer.images.train).toEqual(record("train"));
  });

  test("nothing of that name: exit 0, and what may have been meant", async () => {
    using at = whole();
    const { stderr, stdout, code } = await at.ef(["apptainer", "prune", "trian", "--yes"]);
    expect({ stdout, code }).toEqual({ stdout: "", code: 0 });
    expect(stderr).toContain("did you mean train?");
    expect((await prune(at, ["trian"])).json).toMatchObject({ status: "nothing-to-prune", near: "train" });
    for (const bad of ["", "..", "a/b", "x".repeat(300)]) expect((await prune(at, ["--yes", "--", bad])).code).toBe(2);
    expect(left(at)).toHaveLength(4);
  });

  test("a record without files is removed, files without a record too", async () => {
    using at = home({ gone: record("gone") });
    const gone = await prune(at, ["gone", "--yes"]);
    expect(gone.json).toMatchObject({ status: "pruned", targets: [], deleted: [], record: true });
    expect(saved(at).apptainer.images).toEqual({});
    makeImage(at, "stray");
    const stray = await prune(at, ["stray", "--yes"]);
    expect(stray.json).toMatchObject({ status: "pruned", record: false });
    expect(left(at)).toEqual([]);
  });

  test("an image of another environment, one that two share, one file with two records", async () => {
    using at = home({ a: record("a", "base"), b: record("b", "base"), c: { ...record("c"), sif_filename: "a.sif" } });
    makeVenv(at, "base");
    makeImage(at, "a");
    makeImage(at, "b");
    const env = await prune(at, ["base", "-n"]);
    expect(kinds(env.json.targets)).toEqual(["venv"]);
    expect(env.json.warnings.join()).toContain("a, b were built from it, and stay");
    const shared = await prune(at, ["b", "--yes"]);
    expect(kinds(shared.json.deleted)).toEqual(["venv", "sif", "def", "scratch sif"]);
    expect(shared.json.warnings.join()).toContain("a was built from this environment");
    const twice = await prune(at, ["c", "--yes"]);
    expect(twice.json).toMatchObject({ status: "pruned", deleted: [], record: true });
    expect(twice.json.warnings.join()).toContain("it is the image a");
    expect(left(at).sort()).toEqual(["a.def", "a.sif", "a.sif"]);
    expect(Object.keys(saved(at).apptainer.images)).toEqual(["a"]);
  });

  test.each(["a b", 'it\'s "q" $HOME `x`', "two\nlines", "-rf", "ünïcode", ".hidden", "x".repeat(196)])(
    "the name %j",
    async (name) => {
      using at = whole(name);
      const asked = await at.ef(["apptainer", "prune", "--dry-run", "--", name]);
      expect(asked.stderr).not.toContain("two\nlines");
      const { json, code } = await prune(at, ["--yes", "--", name]);
      expect({ code, status: json.status }).toEqual({ code: 0, status: "pruned" });
      expect(json.deleted).toHaveLength(4);
      expect(left(at)).toEqual([]);
      expect(saved(at).apptainer.images).toEqual({});
    },
  );

  test("links: they go, what they lead to stays, inside an environment too", async () => {
    using at = whole();
    const real = join(at.dir, "real");
    mkdirSync(join(real, "env/bin"), { recursive: true });
    writeFileSync(join(real, "env/pyvenv.cfg"), "home = /usr/bin\n");
    writeFileSync(join(real, "image"), "s");
    symlinkSync(real, join(venvs(at), "train/lib/real"));
    rmSync(join(store(at), "train.sif"));
    symlinkSync(join(real, "image"), join(store(at), "train.sif"));
    expect((await prune(at, ["train", "--yes"])).json.deleted).toHaveLength(4);
    symlinkSync(join(real, "env"), join(venvs(at), "linked"));
    symlinkSync("nowhere", join(venvs(at), "dangling"));
    symlinkSync(real, join(venvs(at), "data"));
    const told = await at.ef(["apptainer", "prune", "linked", "-n"]);
    expect(told.stderr).toContain(`(a link to ${real}/env, which stays)`);
    const linked = await prune(at, ["linked", "--yes"]);
    expect(linked.json.deleted).toMatchObject([{ kind: "venv", link_to: join(real, "env") }]);
    expect((await prune(at, ["dangling", "--yes"])).json.status).toBe("pruned");
    expect((await prune(at, ["data", "--yes"])).code).toBe(2);
    expect(left(at)).toEqual(["data"]);
    expect([readdirSync(real).sort(), readdirSync(join(real, "env")).sort()]).toEqual([
      ["env", "image"],
      ["bin", "pyvenv.cfg"],
    ]);
  });

  test("what is no environment, or no file, is refused, and nothing else goes either", async () => {
    using at = home({ data: record("data"), dir: record("dir") });
    mkdirSync(join(venvs(at), "data/precious"), { recursive: true });
    makeImage(at, "data");
    mkdirSync(join(store(at), "dir.sif"));
    makeVenv(at, "dir");
    const before = left(at);
    const data = await prune(at, ["data", "--yes"]);
    expect(data).toMatchObject({ code: 2, json: { error: { code: "UNKNOWN_ENV" } } });
    expect(data.json.error.message).toContain("no pyvenv.cfg");
    const dir = await prune(at, ["dir", "--yes"]);
    expect(dir).toMatchObject({ code: 2, json: { error: { code: "BAD_ROOT" } } });
    expect(left(at)).toEqual(before);
    expect(Object.keys(saved(at).apptainer.images)).toEqual(["data", "dir"]);
    expect((await prune(at, ["data", "--yes", "--mode", "sif"])).code).toBe(0);
    expect(left(at).sort()).toEqual(["data", "dir", "dir.sif"]);
  });

  test("the environment of this shell", async () => {
    using at = whole();
    const { json, code } = await prune(at, ["train", "--yes"], { env: { VIRTUAL_ENV: join(venvs(at), "train") } });
    expect(code).toBe(2);
    expect(json.error.hint).toContain("deactivate");
    expect(left(at)).toHaveLength(4);
    const env = { VIRTUAL_ENV: join(venvs(at), "train") };
    expect((await prune(at, ["train", "--yes", "--mode", "sif"], { env })).code).toBe(0);
  });

  test("no scratch on this node: the rest goes, and what may be left is said", async () => {
    using at = whole();
    const { json, code, stderr } = await prune(at, ["train", "--yes"], { env: { SCRATCH: undefined } });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(json.warnings[0]).toMatch(/a copy on scratch may be left: .*apptainer\.scratch_sif_dir.*SCRATCH is not set/);
    expect(left(at)).toEqual(["train.sif"]);
    expect((await prune(at, ["train", "--yes"])).json.deleted).toMatchObject([{ kind: "scratch sif" }]);
  });

  test("no store or no environments on this node: the rest goes, and what may be left is said", async () => {
    using at = whole();
    renameSync(store(at), join(at.home, "away"));
    const { json, code } = await prune(at, ["train", "--yes", "--mode", "sif"]);
    expect({ code, kinds: kinds(json.deleted) }).toEqual({ code: 0, kinds: ["scratch sif"] });
    expect(json.warnings).toEqual([
      expect.stringMatching(/^an image may be left: .*\/sif does not exist; is its file sys/),
    ]);
    renameSync(join(at.home, "away"), store(at));
    renameSync(venvs(at), join(at.home, "away"));
    const again = await prune(at, ["train", "--yes"]);
    expect(kinds(again.json.deleted)).toEqual(["sif", "def"]);
    expect(again.json.warnings).toEqual([
      expect.stringMatching(/^an environment may be left: .*\/venvs does not exist/),
    ]);
  });

  test("the beginning of an interrupted copy goes too, that of another image stays", async () => {
    using at = home({ big: record("big"), other: record("other") });
    for (const name of ["big", "other"]) writeFileSync(join(store(at), `${name}.sif`), "");
    const part = (name: string) => partNameOf({ path: `${name}.sif`, size: 7, mtimeNs: 1n, mode: 0o644 });
    for (const name of ["big", "other"]) writeFileSync(join(copies(at), part(name)), "begun");
    const { json } = await prune(at, ["big", "--yes"]);
    expect(kinds(json.deleted)).toEqual(["sif", "scratch sif"]);
    expect(left(at).sort()).toEqual([part("other"), "other.sif"].sort());
  });

  test("missing settings are errors that name them", async () => {
    using at = new Home();
    at.configure({});
    const none = await prune(at, ["x", "--yes"]);
    expect(none).toMatchObject({ code: 2, json: { error: { code: "CONFIG_INVALID" } } });
    expect(none.json.error.hint).toContain("ef apptainer init");
    at.configure({}, { apptainer: { venv_base: "$NOWHERE/venvs" } });
    expect((await prune(at, ["x", "--yes"])).json.error.code).toBe("UNSET_VARIABLE");
    expect((await prune(at, ["x", "--yes", "--mode", "sif"])).json.error.message).toContain("apptainer.sif_store");
  });
});

describe.skipIf(!have("flock"))("while somebody works with it [needs flock]", () => {
  test.each([
    ["venvs/.train.lock", "the environment"],
    ["sif/.train.sif.lock", "the image"],
    ["../scratch/copies/.train.sif.lock", "its copy on scratch"],
  ])("%s is held: nothing goes", async (file, what) => {
    using at = whole();
    const path = join(at.home, file);
    const holder = spawn("flock", ["-F", "-x", path, "sh", "-c", "echo locked; exec sleep 1000"], {
      stdio: "pipe",
    });
    try {
      await new Promise((done) => holder.stdout.once("data", done));
      writeFileSync(path, '{"host":"eu-g1-003","pid":4711,"job":"1234","user":"anna","since":1}\n');
      const { json, code } = await prune(at, ["train", "--yes"]);
      expect({ code, error: json.error.code }).toEqual({ code: 1, error: "LOCK_TIMEOUT" });
      expect(json.error.message).toContain("process 4711 on eu-g1-003 (job 1234, user anna)");
      expect(json.error.message).toContain(what);
      expect(left(at)).toHaveLength(4);
      expect(saved(at).apptainer.images.train).toEqual(record("train"));
      const dry = await prune(at, ["train", "-n"]);
      expect(dry.json.warnings[0]).toContain("not now: process 4711");
    } finally {
      await ended(holder);
    }
    expect((await prune(at, ["train", "--yes"])).json.status).toBe("pruned");
  });
});

function ended(child: ChildProcess): Promise<void> {
  return new Promise((done) => {
    child.on("exit", () => done());
    child.kill("SIGKILL");
  });
}

describe("stopped", () => {
  let big: Home;
  beforeAll(() => {
    big = whole("big", 20_000);
  });
  afterAll(() => big[Symbol.dispose]());

  test("kill -9 while a large environment is deleted: nobody sees half of it, and the next run finishes", async () => {
    const temps = () => readdirSync(venvs(big)).filter((name) => name.startsWith(".big.tmp-"));
    let child: ChildProcess | undefined;
    const running = big.ef(["apptainer", "prune", "big", "--yes"], {
      onStart: (started) => {
        child = started;
      },
    });
    await until("the environment to be out of sight", () => temps().length > 0);
    child?.kill("SIGKILL");
    expect((await running).code).toBe(137);
    expect(existsSync(join(venvs(big), "big"))).toBe(false);
    expect(temps()).toHaveLength(1);
    expect(saved(big).apptainer.images.big).toEqual(record("big"));
    const again = await prune(big, ["big", "--yes"]);
    expect(again.json).toMatchObject({ status: "pruned", record: true });
    expect(kinds(again.json.deleted)).toEqual(["venv", "sif", "def", "scratch sif"]);
    expect(left(big)).toEqual([]);
    expect(saved(big).apptainer.images).toEqual({});
  });

  test.each(["SIGKILL", "SIGTERM"] as const)(
    "%s at random moments: the record stays until all is gone",
    async (signal) => {
      for (let i = 0; i < 6; i++) {
        using at = whole("train", 400);
        const after = 40 + Math.random() * 160;
        const { code } = await at.ef(["apptainer", "prune", "train", "--yes"], {
          onStart: (child) => void setTimeout(() => child.kill(signal), after),
        });
        const dir = join(venvs(at), "train");
        if (existsSync(dir)) expect(readdirSync(join(dir, "lib/python3.11/site-packages"))).toHaveLength(400);
        if (code === 0) expect(saved(at).apptainer.images).toEqual({});
        if (saved(at).apptainer.images.train === undefined) expect(left(at)).toEqual([]);
        const again = await prune(at, ["train", "--yes"]);
        expect(again.code).toBe(0);
        expect(left(at)).toEqual([]);
        expect(saved(at).apptainer.images).toEqual({});
      }
    },
  );
});

describe.skipIf(!haveOtherUser)("as another user [needs root]", () => {
  const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

  test.each([
    ["sif", "permission denied"],
    ["venvs", "permission denied"],
    ["home", "permission denied"],
  ])("%s cannot be written to: an error, and nothing is deleted", async (which, why) => {
    using at = whole();
    const tmp = mkdtempSync("/tmp/ef-prune-");
    try {
      await run(["chown", "-R", "65534:65534", at.dir], { env: at.env });
      chmodSync(at.dir, 0o755);
      chmodSync(tmp, 0o777);
      const dir = which === "home" ? at.home : join(at.home, which);
      chownSync(dir, 0, 0);
      chmodSync(dir, 0o755);
      const env = { ...at.env, TMPDIR: tmp };
      const ran = await run([...nobody, ...efArgv, "apptainer", "prune", "train", "--yes", "--json"], { env });
      const { error } = JSON.parse(ran.stdout);
      expect(ran.code).toBe(1);
      expect(error.message).toContain(why);
      expect(error.hint).toContain("nothing was deleted");
      expect(left(at)).toHaveLength(4);
      expect(existsSync(join(venvs(at), "train/pyvenv.cfg"))).toBe(true);
      expect(saved(at).apptainer.images.train).toEqual(record("train"));
    } finally {
      rmSync(tmp, { recursive: true });
    }
  });

  test("a file of somebody else in a sticky directory: an error, and nothing is deleted", async () => {
    using at = whole();
    const tmp = mkdtempSync("/tmp/ef-prune-");
    try {
      await run(["chown", "-R", "65534:65534", at.home, at.scratch], { env: at.env });
      for (const dir of [at.dir, store(at)]) chmodSync(dir, 0o755);
      chmodSync(tmp, 0o777);
      for (const path of [store(at), join(store(at), "train.sif")]) chownSync(path, 0, 0);
      chmodSync(store(at), 0o1777);
      const env = { ...at.env, TMPDIR: tmp };
      const argv = [...nobody, ...efArgv, "apptainer", "prune", "train", "--yes", "--json"];
      const ran = await run(argv, { env });
      expect(ran.code).toBe(1);
      expect(JSON.parse(ran.stdout).error.message).toContain("is sticky");
      expect(left(at)).toHaveLength(4);
      chownSync(join(store(at), "train.sif"), 65534, 65534);
      expect((await run(argv, { env })).code).toBe(0);
      expect(left(at)).toEqual([]);
    } finally {
      rmSync(tmp, { recursive: true });
    }
  });

  test("what an interrupted prune left, and cannot be removed, is not said to be deleted", async () => {
    using at = home();
    const tmp = mkdtempSync("/tmp/ef-prune-");
    try {
      const rest = join(venvs(at), `.train.tmp-${hostname()}-999999999-0123456789abcdef`);
      mkdirSync(join(rest, "theirs"), { recursive: true });
      writeFileSync(join(rest, "theirs/file"), "");
      for (const path of [at.home, venvs(at), rest, at.scratch]) chownSync(path, 65534, 65534);
      chmodSync(at.dir, 0o755);
      chmodSync(tmp, 0o777);
      const env = { ...at.env, TMPDIR: tmp };
      const ran = await run([...nobody, ...efArgv, "apptainer", "prune", "train", "--yes", "--json"], { env });
      const json = JSON.parse(ran.stdout);
      expect(json).toMatchObject({ ok: false, deleted: [], errors: [expect.stringContaining("Cannot delete")] });
      expect(ran.code).toBe(1);
      const text = await run([...nobody, ...efArgv, "apptainer", "prune", "train", "--yes"], { env });
      expect(text.stderr).not.toMatch(/deleted \/|: pruned/);
    } finally {
      rmSync(tmp, { recursive: true });
    }
  });

  test("read-only directories within an environment are no obstacle", async () => {
    using at = whole();
    const tmp = mkdtempSync("/tmp/ef-prune-");
    try {
      chmodSync(join(venvs(at), "train/lib/python3.11/site-packages"), 0o555);
      chmodSync(join(venvs(at), "train/bin"), 0o000);
      await run(["chown", "-R", "65534:65534", at.dir], { env: at.env });
      chmodSync(at.dir, 0o755);
      chmodSync(tmp, 0o777);
      const env = { ...at.env, TMPDIR: tmp };
      const ran = await run([...nobody, ...efArgv, "apptainer", "prune", "train", "--yes", "--json"], { env });
      expect(JSON.parse(ran.stdout)).toMatchObject({ ok: true, status: "pruned", errors: [] });
      expect(left(at)).toEqual([]);
    } finally {
      rmSync(tmp, { recursive: true });
    }
  });
});

describe.skipIf(!have("tmux"))("on a terminal [needs tmux]", () => {
  test("what is chosen is listed with its size, asked about, and deleted", async () => {
    using at = whole();
    makeVenv(at, "plain");
    await using terminal = await Terminal.open(at, "ef apptainer prune");
    const list = await terminal.shows("What is to go?");
    expect(list).toMatch(/train +environment +image 20K, built/);
    expect(list).toMatch(/plain +environment +no image/);
    await terminal.press("Down", "Enter");
    await terminal.answer("What of plain?", "Enter");
    expect(await terminal.shows("Delete all of this")).toMatch(/venv +\d+K +.*\/venvs\/plain \(5 files\)/);
    await terminal.press("y");
    await terminal.shows("code=0");
    expect(left(at).sort()).toEqual(["train", "train.def", "train.sif", "train.sif"]);
  });

  test("enter is no, and Ctrl-C too: nothing goes", async () => {
    using at = whole();
    for (const [key, code] of [
      ["Enter", 1],
      ["C-c", 130],
    ] as const) {
      await using terminal = await Terminal.open(at, "ef apptainer prune train");
      await terminal.answer("Delete all of this", key);
      expect(await terminal.shows(`code=${code}`)).toContain("nothing deleted");
      expect(left(at)).toHaveLength(4);
      expect(lstatSync(join(venvs(at), "train")).isDirectory()).toBe(true);
    }
  });
});
