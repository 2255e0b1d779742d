import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, lstatSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { eulerFiles, Home, haveEulerFiles } from "../helpers.ts";

const path = (at: Home) => join(at.home, ".euler-files.json");
const saved = (at: Home) => JSON.parse(at.read(path(at)));
const init = (at: Home, payload: unknown, ...flags: string[]) =>
  at.ef(["init", "--input-json", "-", ...flags], { stdin: JSON.stringify(payload) });

const payload = { scratch_base: "$SCRATCH", vars: { HF_HOME: { source: "$HOME/hf" } } };
const filled = {
  version: 1,
  scratch_base: "$SCRATCH",
  cache_root: ".cache/euler-files",
  vars: { HF_HOME: { source: "$HOME/hf", enabled: true } },
  rsync_extra_args: [],
  parallel_jobs: 4,
  lock_timeout_seconds: 300,
  skip_if_fresh_seconds: 3600,
};

const literal = "vars.HF_HOME.source holds ~ or a $VAR: ef expands it, euler-files takes it literally";

describe("init --input-json", () => {
  test("paths are saved as written, defaults are filled in, and the report has the shape of euler-files", async () => {
    using at = new Home();
    const { stdout, stderr, code } = await init(at, payload, "--json");
    expect(JSON.parse(stdout)).toMatchObject({
      ok: true,
      command: "init",
      status: "saved",
      config_path: path(at),
      config: filled,
      warnings: [literal],
    });
    expect(stderr).toBe("saved ~/.euler-files.json\n");
    expect(code).toBe(0);
    expect(saved(at)).toEqual(filled);
    expect(await init(at, payload)).toMatchObject({ stdout: "", code: 0 });
  });

  test("wrapped in config, from a file, with a version and $schema", async () => {
    using at = new Home();
    const config = {
      ...payload,
      version: 1,
      $schema: "./ef.schema.json",
      ef: { transfer: { engine: "rsync" }, clusters: { euler: { host: "login", sbatch_args: ["--hold"] } } },
      apptainer: { venv_base: "$VENVS" },
    };
    const file = at.write("payload.json", { config });
    const { stderr, code } = await at.ef(["init", "--input-json", file]);
    expect(stderr).toBe(`warning: ${literal}\nsaved ~/.euler-files.json\n`);
    expect(code).toBe(0);
    expect(saved(at)).toMatchObject({
      ...config,
      apptainer: { venv_base: "$VENVS", base_image: "python:{version}-slim" },
    });
  });

  test("an old configuration is replaced, kept as .bak, and its mode stays; the same one is not kept again", async () => {
    using at = new Home();
    at.configure({ TORCH_HOME: "torch" }, { migrations: [], apptainer: {} });
    const old = at.read(path(at));
    chmodSync(path(at), 0o600);
    const { stderr } = await init(at, payload);
    expect(stderr).toContain("the old one is ~/.euler-files.json.bak");
    expect(saved(at)).toEqual(filled); // the payload is the whole truth
    expect(at.read(`${path(at)}.bak`)).toBe(old);
    for (const file of [path(at), `${path(at)}.bak`]) expect(statSync(file).mode & 0o777).toBe(0o600);
    expect((await init(at, payload)).stderr).toEndWith("saved ~/.euler-files.json\n");
    expect(at.read(`${path(at)}.bak`)).toBe(old);
  });

  test("what is at .bak is never overwritten, a link neither", async () => {
    using at = new Home({ ".euler-files.json": "{ one", ".euler-files.json.bak": "somebody else's" });
    symlinkSync("nowhere", `${path(at)}.bak.1`);
    expect((await init(at, payload)).stderr).toContain("the old one is ~/.euler-files.json.bak.2\n");
    expect(at.read(`${path(at)}.bak`)).toBe("somebody else's");
    expect(at.read(`${path(at)}.bak.2`)).toBe("{ one");
    expect(existsSync(join(at.home, "nowhere"))).toBe(false);
  });

  test("an old file that is broken, or of another version, is replaced too", async () => {
    using at = new Home({ ".euler-files.json": "{ broken" });
    expect((await init(at, payload)).code).toBe(0);
    expect(at.read(`${path(at)}.bak`)).toBe("{ broken");
    at.write(".euler-files.json", { version: 7 });
    expect((await init(at, payload)).code).toBe(0);
    expect(saved(at)).toEqual(filled);
  });

  test.each([
    ["no scratch_base", { vars: {} }, "scratch_base: is missing"],
    ["another version", { ...payload, version: 2 }, "version: expected 1, found 2"],
    ["a var without a source", { ...payload, vars: { A: {} } }, "vars.A.source: is missing"],
    [
      "a name no shell can export",
      { ...payload, vars: { "A;B": { source: "/a" } } },
      "not a name that a shell can export",
    ],
    [
      "a key that is unknown",
      { ...payload, paralel_jobs: 1 },
      "unknown key paralel_jobs\n  did you mean parallel_jobs?",
    ],
    [
      "an unknown key of a variable",
      { ...payload, vars: { A: { source: "/a", sorce: 1 } } },
      "unknown key vars.A.sorce\n  did you mean vars.A.source?",
    ],
    ["an unknown key beside config", { config: payload, extra: 1 }, "unknown key extra\n"],
    ["a relative source", { ...payload, vars: { A: { source: "rel" } } }, "vars.A.source: expected an absolute path"],
    ["config that is no object", { config: 5 }, "config: expected an object"],
    ["no object", [], "expected a JSON object"],
  ])("%s: exit 2, and nothing is touched", async (_, wrong, why) => {
    using at = new Home();
    at.configure({ TORCH_HOME: "torch" });
    const old = at.read(path(at));
    const { stdout, stderr, code } = await init(at, wrong);
    expect(stderr).toContain(why);
    expect(stdout).toBe("");
    expect(code).toBe(2);
    expect(at.read(path(at))).toBe(old);
    expect(existsSync(`${path(at)}.bak`)).toBe(false);
  });

  test("--config and EF_CONFIG say where; a directory that is missing is made; a link stays a link", async () => {
    using at = new Home();
    const other = join(at.home, "deep/er/ef.json");
    await init(at, payload, "--config", other);
    expect(JSON.parse(at.read(other))).toEqual(filled);
    symlinkSync("deep/er/ef.json", path(at));
    await init(at, { ...payload, parallel_jobs: 9 });
    expect(lstatSync(path(at)).isSymbolicLink()).toBe(true);
    expect(JSON.parse(at.read(other)).parallel_jobs).toBe(9);
  });

  test("$schema is there only when asked for, as the first key", async () => {
    using at = new Home();
    await init(at, payload, "--schema", "./ef.schema.json");
    expect(Object.entries(saved(at))[0]).toEqual(["$schema", "./ef.schema.json"]);
    expect((await at.ef(["config", "validate"])).stderr).toBe("");
  });

  test("ef schema describes it", async () => {
    using at = new Home();
    const { stdout } = await at.ef(["schema", "--kind", "input", "--command", "init"]);
    const [config, wrapper] = JSON.parse(stdout).input_json.anyOf;
    expect(config.required).toEqual(["scratch_base"]);
    expect(config.additionalProperties).toBe(false);
    expect(config.properties.$schema).toEqual({});
    expect(wrapper.required).toEqual(["config"]);
  });
});

test("init without a terminal: exit 2, and what to give instead", async () => {
  using at = new Home();
  const { stdout, stderr, code } = await at.ef(["init"]);
  expect(stderr).toContain("this is not a terminal");
  expect(stderr).toContain("ef init --input-json FILE");
  expect(stdout).toBe("");
  expect(code).toBe(2);
  expect(existsSync(path(at))).toBe(false);
});

describe.skipIf(!haveEulerFiles)("beside euler-files [needs euler-files]", () => {
  test("the same payload gives the same report and file, but for $SCRATCH, which ef keeps", async () => {
    using theirs = new Home();
    using ours = new Home();
    const full = {
      ...payload,
      apptainer: { venv_base: "/v", sif_store: "/s", scratch_sif_dir: "/d" },
      migrations: [{ old_path: "/a", new_path: "/b", migrated_at: 1.5, field_name: "source", var_name: "X" }],
    };
    const one = JSON.parse(
      (await eulerFiles(theirs, ["init", "--input-json", "-", "--json"], JSON.stringify(full))).stdout,
    );
    const two = JSON.parse((await init(ours, full, "--json")).stdout);
    const same = (report: { config: object }, at: Home) => ({
      ...report,
      config_path: path(at),
      config: { ...report.config, scratch_base: "$SCRATCH" },
    });
    expect(same(two, ours)).toMatchObject(same(one, ours));
    expect({ ...saved(theirs), scratch_base: "$SCRATCH" }).toEqual(saved(ours));
  });

  test("euler-files works with what ef init saved, and ef with what euler-files init saved", async () => {
    using at = new Home({ "hf/model": "weights" });
    const plain = { scratch_base: "$SCRATCH", vars: { HF_HOME: { source: join(at.home, "hf") } } };
    await init(at, { ...plain, ef: { vars: { HF_HOME: { exclude: ["*.tmp"] } } } });
    const status = JSON.parse((await eulerFiles(at, ["status", "--json"])).stdout);
    expect(status.variables).toMatchObject([{ name: "HF_HOME", status: "not-synced", scratch: at.cache("HF_HOME") }]);
    await eulerFiles(at, ["init", "--input-json", "-"], JSON.stringify(plain));
    expect((await at.ef(["config", "validate"])).stdout).toContain("ok (1 variable)");
    expect((await at.ef(["config", "set", "parallel_jobs", "2"])).code).toBe(0);
    expect(JSON.parse((await eulerFiles(at, ["status", "--json"])).stdout).ok).toBe(true);
  });
});
