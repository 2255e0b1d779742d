import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { presetOf, presets } from "../../lib/config/presets.ts";

describe("the table", () => {
  test("names are unique shell identifiers", () => {
    const names = presets.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[A-Za-z_][A-Za-z0-9_]*$/);
  });

  test.each(presets.map((preset) => [preset.name, preset] as const))("%s is well formed", (_, preset) => {
    const { tool, dir, holds, source, exclude, env, caution } = preset;
    expect(tool).not.toBe("");
    expect(dir).toMatch(/^(\/|~\/|\$)/);
    expect(dir).not.toMatch(/\/$/);
    expect(new URL(source).protocol).toBe("https:");
    expect(holds.trim()).toBe(holds);
    expect(holds).not.toBe("");
    expect(holds.length).toBeLessThan(60);
    for (const pattern of exclude ?? []) expect(pattern).not.toMatch(/^$|^[+-] |\/\//); // "- x" and "+ x" are rules
    for (const key of Object.keys(env ?? {})) expect(key).toMatch(/^[A-Za-z_][A-Za-z0-9_]*$/);
    if (caution !== undefined) expect(caution).toMatch(/^[^\n]+$/);
    // Absent, not empty.
    expect(exclude === undefined || exclude.length > 0).toBeTrue();
    expect(env === undefined || Object.keys(env).length > 0).toBeTrue();
  });

  test("begins with the six of euler-files, with its directories", () => {
    expect(presets.slice(0, 6).map(({ name, dir }) => [name, dir])).toEqual([
      ["HF_HOME", "~/.cache/huggingface"],
      ["TORCH_HOME", "~/.cache/torch"],
      ["TRANSFORMERS_CACHE", "~/.cache/huggingface/transformers"],
      ["PIP_CACHE_DIR", "~/.cache/pip"],
      ["XDG_CACHE_HOME", "~/.cache"],
      ["CONDA_PKGS_DIRS", "~/.conda/pkgs"],
    ]);
  });

  test("presetOf", () => {
    expect(presetOf("JAX_COMPILATION_CACHE_DIR")).toMatchObject({ tool: "JAX", dir: "~/.cache/jax" });
    expect(presetOf("HF_HOME")).toBe(presets[0]);
    expect(presetOf("NO_SUCH_CACHE")).toBeUndefined();
    expect(presetOf("constructor")).toBeUndefined();
  });
});

describe("what rsync leaves out", () => {
  let root: string;
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), "ef-presets-"));
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  /** Files (and `link -> target`) of a cache, sorted by whether they arrive. */
  const cases: Record<string, { drop: string[]; keep: string[] }> = {
    HF_HOME: {
      drop: [
        ".locks/x",
        "hub/.locks/models--a/abc.lock",
        "hub/models--a/blobs/abc.incomplete",
        "hub/models--a/blobs/abc.1f2e3d4c.incomplete",
        "hub/models--a/blobs/abc.lock",
        "hub/models--a/trees/tmpabcd1234.tmp",
        "hub/blobs/ab/abcd.lock",
        "hub/blobs/ab/abcd.refs.01234567.tmp",
        "datasets/_home_u_.cache_huggingface_datasets_a.lock",
        "datasets/downloads/0a1b.incomplete",
        "datasets/a/default/0.0.0/f00d.incomplete/a-train.arrow",
        "datasets/a/default/0.0.0/f00d_builder.lock",
        "xet/logs/xet_1.log",
        "stored_tokens.lock",
      ],
      keep: [
        "token",
        "stored_tokens",
        "hub/CACHEDIR.TAG",
        "hub/models--a/blobs/abc",
        "hub/models--a/refs/main",
        "hub/models--a/trees/r.json",
        "hub/models--a/.no_exist/r/adapter_config.json",
        "hub/models--a/snapshots/r/model.safetensors -> ../../blobs/abc",
        "hub/models--a/snapshots/r/notes.incomplete -> ../../blobs/abc",
        "hub/models--a/snapshots/r/poetry.lock -> ../../blobs/abc",
        "hub/models--a/snapshots/r/blobs/x.lock -> ../../../blobs/abc",
        "hub/models--a/snapshots/r/.locks/x -> ../../../blobs/abc",
        "hub/models--b/blobs/def -> ../../blobs/ab/abcd",
        "hub/blobs/.huggingface-shared-blobs",
        "hub/blobs/ab/abcd",
        "hub/blobs/ab/abcd.refs",
        "datasets/a/default/0.0.0/f00d/a-train.arrow",
        "datasets/downloads/0a1b",
        "datasets/downloads/extracted/0a1b/project/uv.lock",
        "xet/https___cas_serv-x/shard-cache/a.mdb",
        "xet/https___cas_serv-x/staging/shard-session/a.mdb",
      ],
    },
    XDG_CACHE_HOME: {
      drop: [
        "huggingface/hub/.locks/x",
        "huggingface/xet/logs/a.log",
        "pip/http-v2/a/b/c/d/e/abc0.tmp",
        "uv/.tmpAbC/f",
      ],
      keep: [
        "huggingface/token",
        "huggingface/hub/models--a/blobs/abc",
        "pip/http-v2/a/b/c/d/e/abc.body",
        "other/.lock",
      ],
    },
    TORCH_HOME: {
      drop: ["hub/checkpoints/resnet18-f37072fd.pth.0123.partial"],
      keep: ["hub/checkpoints/resnet18-f37072fd.pth", "hub/owner_repo_main/templates/nav.partial"],
    },
    PIP_CACHE_DIR: {
      drop: ["http-v2/a/b/c/d/e/abcq1w2.tmp", "selfcheck/abcq1w2.tmp"],
      keep: [
        "http-v2/a/b/c/d/e/abc",
        "http-v2/a/b/c/d/e/abc.body",
        "wheels/a/b/c/d/x-1-py3-none-any.whl",
        "selfcheck/abc",
      ],
    },
    UV_CACHE_DIR: {
      drop: [".lock", ".tmpAbCdEf/x.whl", "archive-v0/.tmpAbCdEf/x.py"],
      keep: [
        "CACHEDIR.TAG",
        "archive-v0/idid/pkg/.tmpl/a",
        "archive-v0/idid/pkg/uv.lock",
        "wheels-v7/pypi/six/1.17.0-py2.py3-none-any -> ../../../archive-v0/idid",
      ],
    },
    APPTAINER_CACHEDIR: {
      drop: [
        "docker-config.json",
        "remote.yaml",
        "keys/pgp-secret",
        "instances/logs/n/u/a.err",
        "cache/oci-tmp/tmp_123",
      ],
      keep: ["cache/blob/blobs/sha256/abc", "cache/library/sha256.abc", "cache/blob/index.json"],
    },
    GOMODCACHE: {
      drop: [
        "cache/lock",
        "cache/vcs/abc.lock",
        "cache/download/x.org/a/@v/v1.0.0.lock",
        "cache/download/b/@v/v1.zip7.tmp",
      ],
      keep: [
        "cache/download/x.org/a/@v/v1.0.0.zip",
        "cache/download/x.org/a/@v/v1.0.0.partial",
        "x.org/a@v1.0.0/go.lock",
      ],
    },
    TRITON_CACHE_DIR: {
      drop: ["KEY/lock", "KEY/tmp.pid_12_ab/k.cubin"],
      keep: ["KEY/k.cubin", "KEY/__grp__k.json"],
    },
    OLLAMA_MODELS: {
      drop: ["blobs/sha256-ab-partial", "blobs/sha256-ab-partial-0"],
      keep: ["blobs/sha256-ab", "manifests/registry.ollama.ai/library/x-partial/latest"],
    },
    KAGGLEHUB_CACHE: {
      drop: ["datasets/o/d/1.archive", "models/o/m/f/v/1.archive", "competitions/c.archive"],
      keep: ["datasets/o/d/1.complete", "datasets/o/d/versions/1/x.archive", "models/o/m/f/v/1/x.archive"],
    },
    TFDS_DATA_DIR: {
      drop: ["mnist/incomplete.A1B2C3_3.0.1/x", "glue/cola/incomplete.A1B2C3_2.0.0/x", "downloads/url.tmp.0123/x.tgz"],
      keep: ["mnist/3.0.1/mnist-train.tfrecord-00000-of-00001", "downloads/manual/x.tmp", "downloads/url.INFO"],
    },
    npm_config_cache: {
      drop: ["_logs/2026-debug-0.log", "_cacache/tmp/ab12"],
      keep: ["_cacache/content-v2/sha512/ab/cd/ef", "_cacache/index-v5/ab/cd/ef", "_npx/1/node_modules/a/_logs/x"],
    },
  };

  test.each(Object.entries(cases))("%s", (name, { drop, keep }) => {
    const [from, to] = [join(root, name, "from"), join(root, name, "to")];
    for (const entry of [...drop, ...keep]) {
      const [path = "", target] = entry.split(" -> ");
      mkdirSync(dirname(join(from, path)), { recursive: true });
      if (target === undefined) writeFileSync(join(from, path), path);
      else symlinkSync(target, join(from, path));
    }
    const filters = (presetOf(name)?.exclude ?? []).map((pattern) => `--exclude=${pattern}`);
    const { exitCode, stderr } = Bun.spawnSync(["rsync", "-a", ...filters, `${from}/`, `${to}/`], { stderr: "pipe" });
    expect(stderr.toString()).toBe("");
    expect(exitCode).toBe(0);
    expect(drop.filter((path) => existsSync(join(to, path)))).toEqual([]);
    for (const entry of keep) {
      const [path = "", target] = entry.split(" -> ");
      const stat = lstatSync(join(to, path), { throwIfNoEntry: false });
      expect({ path, kept: stat !== undefined, link: stat?.isSymbolicLink() ?? false }).toEqual({
        path,
        kept: true,
        link: target !== undefined,
      });
    }
  });

  test("rsync takes every pattern", () => {
    const filters = presets.flatMap(({ exclude = [] }) => exclude.map((pattern) => `--exclude=${pattern}`));
    mkdirSync(join(root, "empty"), { recursive: true });
    const { exitCode } = Bun.spawnSync(["rsync", "-an", ...filters, `${root}/empty/`, `${root}/nowhere/`]);
    expect(exitCode).toBe(0);
  });
});
