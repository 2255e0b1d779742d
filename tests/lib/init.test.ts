import { expect, test } from "bun:test";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { checkConfig } from "../../lib/config/store.ts";
import { applyAnswers, candidates, initInput, marked, review, scratchChoices, summary } from "../../lib/init.ts";
import { Home } from "../helpers.ts";

test("scratchChoices: absolute, below the root, each directory once", () => {
  const env = { SCRATCH: "/tmp/", PSCRATCH: "/tmp", SCRATCHDIR: "relative", GLOBALSCRATCH: "/", WORK: "/usr" };
  expect(scratchChoices(env)).toEqual([{ text: "$SCRATCH", path: "/tmp", exists: true }]);
  expect(scratchChoices({ SCRATCH: "/a", VSC_SCRATCH: "/b" }).map(({ text }) => text)).toEqual([
    "$SCRATCH",
    "$VSC_SCRATCH",
  ]);
});

/** The proposed source of a variable. */
function source(at: Home, name: string, env: Record<string, string> = {}, scratch = at.scratch): string | undefined {
  return candidates({ HOME: at.home, ...env }, undefined, scratch).find((each) => each.name === name)?.source;
}

test("candidates: where a cache is, from its variable, XDG_CACHE_HOME or the tool's default", () => {
  using at = new Home({ "a/x": "", "b/x": "", "xdg/torch/x": "", ".cache/pip/x": "" });
  const [a, b, usual] = [join(at.home, "a"), join(at.home, "b"), join(at.home, ".cache/huggingface")];
  expect(source(at, "HF_HOME")).toBe(usual);
  expect(source(at, "HF_HOME", { HF_HOME: `${a}/` })).toBe(a);
  expect(source(at, "HF_HOME", { HF_HOME: join(at.home, "not/there") })).toBe(join(at.home, "not/there"));
  expect(source(at, "HF_HOME", { HF_HOME: "relative" })).toBe(usual);
  expect(source(at, "JULIA_DEPOT_PATH", { JULIA_DEPOT_PATH: `:${at.home}/nowhere:${b}:` })).toBe(b);
  expect(source(at, "CONDA_PKGS_DIRS", { CONDA_PKGS_DIRS: `${a},${b}` })).toBe(a);
  expect(source(at, "TORCH_HOME", { XDG_CACHE_HOME: join(at.home, "xdg") })).toBe(join(at.home, "xdg/torch"));
  expect(source(at, "PIP_CACHE_DIR", { XDG_CACHE_HOME: join(at.home, "xdg") })).toBe(join(at.home, ".cache/pip"));
});

test("candidates: nothing on scratch is a source, through links neither; but HOME may lie there", () => {
  using at = new Home();
  const usual = join(at.home, ".cache/huggingface");
  mkdirSync(at.cache("HF_HOME"), { recursive: true });
  symlinkSync(at.scratch, join(at.home, "link"));
  for (const HF_HOME of [at.cache("HF_HOME"), join(at.home, "link/hf")])
    expect(source(at, "HF_HOME", { HF_HOME })).toBe(usual);
  expect(source(at, "HF_HOME", { XDG_CACHE_HOME: at.scratch })).toBe(usual);
  expect(source(at, "HF_HOME", { HF_HOME: join(at.home, "hf") }, at.dir)).toBe(join(at.home, "hf"));
});

test("marked: what the configuration has; without one what is found, but nothing twice", () => {
  using at = new Home({ ".cache/huggingface/hub/x": "", ".cache/pip/x": "" });
  const env = { HOME: at.home };
  expect(marked(candidates(env, undefined, undefined))).toEqual(["HF_HOME", "PIP_CACHE_DIR"]);
  const config = checkConfig(
    { version: 1, scratch_base: "/s", vars: { X: { source: "$NO/x", enabled: false } } },
    "test",
  );
  const list = candidates(env, config, undefined);
  expect(marked(list)).toEqual([]); // it is disabled
  expect(list[0]).toMatchObject({ name: "X", holds: "of your own (disabled)", path: undefined, found: false });
});

test("applyAnswers: what is chosen is enabled; entries and keys that it is not about stay", () => {
  const raw = {
    version: 1,
    mine: 1,
    scratch_base: "/old",
    vars: { A: { source: "/a", enabled: false }, B: { source: "/b" } },
  };
  const answers = { scratchBase: "$S", sources: { A: "/a2", C: "/c" }, dropped: ["B"], settings: { parallel_jobs: 2 } };
  expect(applyAnswers(raw, answers)).toEqual({
    version: 1,
    mine: 1,
    scratch_base: "$S",
    vars: { A: { source: "/a2", enabled: true }, C: { source: "/c", enabled: true } },
    parallel_jobs: 2,
  });
});

test("review: overlaps are warnings, a copy into itself is an error, unknown paths are neither", () => {
  const raw = (vars: Record<string, string>, scratch_base = "/scratch") => ({
    version: 1,
    scratch_base,
    vars: Object.fromEntries(Object.entries(vars).map(([name, dir]) => [name, { source: dir, enabled: false }])),
  });
  expect(review(raw({ A: "/a", B: "/b" }), {})).toEqual({ warnings: [], error: undefined });
  expect(review(raw({ A: "/a", B: "/a/b" }, "$NO"), {}).warnings).toHaveLength(1);
  expect(review(raw({ A: "/scratch" }), {}).error).toContain("the copy would lie inside its source");
  expect(review(raw({ A: "$NO/a", B: "/b" }, "$NO"), {})).toEqual({ warnings: [], error: undefined });
});

test("summary: sizes, what is missing, what is disabled, rsync arguments", () => {
  using at = new Home({ "hf/x": "" });
  const vars = { A: { source: "~/hf" }, B: { source: "/no/such" }, C: { source: "$NO/c", enabled: false } };
  const raw = { version: 1, scratch_base: "$S", vars, rsync_extra_args: ["-z"] };
  const sizes = new Map([[join(at.home, "hf"), { bytes: 4096, files: 1, complete: false }]]);
  expect(summary(raw, sizes, { HOME: at.home }).split("\n")).toEqual([
    "variable  size      source    on scratch",
    "A         >4.0K     ~/hf      $S/.cache/euler-files/A",
    "B         none yet  /no/such  $S/.cache/euler-files/B",
    "C         ?         $NO/c     (disabled)",
    "",
    "4 at once, 300 s for a lock, fresh for 3600 s, rsync -z",
  ]);
  const narrow = summary({ ...raw, vars: { A: { source: `/data/${"x".repeat(90)}` } } }, sizes, {}, 60).split("\n");
  expect(narrow[1]).toMatch(/^A +none yet +…x+ +…?\S*\/A$/);
  for (const line of narrow) expect(line.length).toBeLessThanOrEqual(60);
});

test("initInput: the configuration or its wrapper; unknown keys are errors, sources to expand warnings", () => {
  const config = { scratch_base: "/s" };
  const raw = { version: 1, ...config };
  expect(initInput(config)).toEqual({ raw, warnings: [] });
  expect(initInput({ config })).toEqual({ raw, warnings: [] });
  expect(() => initInput({ config, stray: 1 })).toThrow("unknown key stray");
  const vars = { A: { source: "~/a" }, B: { source: "/b" }, C: { source: "$WORK/c" } };
  expect(initInput({ ...config, vars }).warnings).toEqual([
    "vars.A.source, vars.C.source hold ~ or a $VAR: ef expands it, euler-files takes it literally",
  ]);
});
