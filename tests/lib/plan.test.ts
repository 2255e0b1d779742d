import { expect, test } from "bun:test";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { expandPath, isWithin, realPath, tilde, variablesIn } from "../../lib/base/paths.ts";
import { checkConfig } from "../../lib/config/store.ts";
import { plan } from "../../lib/engine/plan.ts";
import { Home } from "../helpers.ts";

const env = { HOME: "/home/me", SCRATCH: "/scratch", EMPTY: "" };
const config = (more: object) => checkConfig({ version: 1, scratch_base: "$SCRATCH/x", ...more }, "test");
const codeOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return (error as { code: string }).code;
  }
  return "none";
};

test.each([
  ["$SCRATCH/a", "/scratch/a"],
  ["${SCRATCH}a", "/scratcha"],
  ["~", "/home/me"],
  ["~/x y", "/home/me/x y"],
  ["/a/~/b", "/a/~/b"],
  ["~other/x", "~other/x"],
  ["/plain/$", "/plain/$"],
])("expand %s", (text, expanded) => {
  expect(expandPath(text, env, "x")).toBe(expanded);
});

test("an unset or empty variable is named, and never becomes nothing", () => {
  for (const text of ["$NOPE/x", "${NOPE}", "$EMPTY/x"])
    expect(codeOf(() => expandPath(text, env, "scratch_base"))).toBe("UNSET_VARIABLE");
  expect(() => expandPath("$NOPE/x", env, "scratch_base")).toThrow("NOPE is not set");
  expect(() => expandPath("$EMPTY/x", env, "scratch_base")).toThrow("EMPTY is empty");
  expect(variablesIn("~/$A/${B}")).toEqual(["HOME", "A", "B"]);
});

test("a step has every path that it will touch", () => {
  const { scratchBase, steps } = plan(
    config({
      vars: { HF_HOME: { source: "~/hf/" } },
      ef: { vars: { HF_HOME: { exclude: ["*.tmp"], env: { A: "1" } } } },
    }),
    env,
  );
  expect(scratchBase).toBe("/scratch/x");
  expect(steps).toEqual([
    {
      name: "HF_HOME",
      source: "/home/me/hf",
      from: "/home/me/hf",
      base: "/scratch/x",
      target: "/scratch/x/.cache/euler-files/HF_HOME",
      marker: "/scratch/x/.cache/euler-files/.HF_HOME.synced",
      lock: "/scratch/x/.cache/euler-files/.HF_HOME.lock",
      manifest: "/scratch/x/.cache/euler-files/.HF_HOME.manifest",
      partial: "/scratch/x/.cache/euler-files/.HF_HOME.partial",
      temp: "/scratch/x/.cache/euler-files/.HF_HOME.tmp-",
      rules: '[["*.tmp"],[]]',
      exclude: ["*.tmp"],
      mirror: false,
      env: { A: "1" },
    },
  ]);
});

test("mirror is among the rules that a copy was made by", () => {
  const of = (own: object) => {
    const vars = { A: { source: "/a" } };
    const [step] = plan(config({ vars, ef: { vars: { A: own } } }), env).steps;
    return [step?.mirror, step?.rules];
  };
  expect(of({})).toEqual([false, "[[],[]]"]);
  expect(of({ mirror: false })).toEqual([false, "[[],[]]"]);
  expect(of({ mirror: true })).toEqual([true, '[[],[],"mirror"]']);
});

test("which variables: the enabled ones, or those named, once each", () => {
  const two = config({ vars: { A: { source: "/a" }, B: { source: "/b", enabled: false } } });
  const names = (only?: string[]) => plan(two, env, only).steps.map(({ name }) => name);
  expect(names()).toEqual(["A"]);
  expect(names(["B", "A", "B"])).toEqual(["B", "A"]);
  expect(codeOf(() => names(["C"]))).toBe("UNKNOWN_VAR");
  expect(codeOf(() => names(["constructor"]))).toBe("UNKNOWN_VAR");
});

test.each([["/"], ["//"], ["relative"], ["$HOME/../.."]])("scratch_base %s is refused", (scratch_base) => {
  expect(codeOf(() => plan(config({ scratch_base }), env))).toBe("BAD_ROOT");
});

test("a directory whose name holds a $ is taken as it is written, as euler-files does", () => {
  using at = new Home();
  const dir = join(at.dir, "we$ird");
  mkdirSync(dir);
  expect(plan(config({ vars: { A: { source: dir } } }), env).steps[0]?.source).toBe(dir);
  expect(codeOf(() => plan(config({ vars: { A: { source: `${dir}er` } } }), env))).toBe("UNSET_VARIABLE");
});

test("paths: within, real, for people", () => {
  expect(isWithin("/a/b", "/a")).toBe(true);
  expect(isWithin("/a", "/a")).toBe(true);
  expect(isWithin("/ab", "/a")).toBe(false);
  expect(isWithin("/a/..b", "/a")).toBe(true);
  using at = new Home();
  expect(realPath(join(at.dir, "no/such"))).toBe(join(at.dir, "no/such"));
  symlinkSync("other", join(at.dir, "link"));
  symlinkSync("link/x", join(at.dir, "chain"));
  expect(realPath(join(at.dir, "link/below"))).toBe(join(at.dir, "other/below"));
  expect(realPath(join(at.dir, "chain"))).toBe(join(at.dir, "other/x"));
  expect(realPath("/etc/passwd/x/y")).toBe("/etc/passwd/x/y");
  expect(tilde("/home/me/x", env)).toBe("~/x");
  expect(tilde("/home/meagan", env)).toBe("/home/meagan");
});
