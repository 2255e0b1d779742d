/** `ws:NAME` in place of directories: what is resolved, at what cost, and when nothing is. */
import { expect, test } from "bun:test";
import { checkConfig } from "../../lib/config/store.ts";
import { withWorkspaces } from "../../lib/scratch-base.ts";
import { Home } from "../helpers.ts";
import { Workspaces } from "../workspaces.ts";

const configOf = (more: object) => checkConfig({ version: 1, scratch_base: "ws:stage", ...more }, "test");

test("scratch and the copies of images: both, by one run of ws_list; the configuration itself stays as it is", async () => {
  using at = new Home();
  const site = new Workspaces(at);
  const config = configOf({
    scratch_base: "ws:stage/of anna",
    apptainer: { sif_store: "/store", scratch_sif_dir: "ws:stage/sif" },
  });
  const warnings: string[] = [];
  const onWarning = (message: string) => void warnings.push(message);
  const made = await withWorkspaces(config, { env: at.env, missing: "allocate", onWarning });
  expect(made.scratch_base).toBe(`${site.path("stage")}/of anna`);
  expect(made.apptainer?.scratch_sif_dir).toBe(`${site.path("stage")}/sif`);
  expect(made.apptainer?.sif_store).toBe("/store");
  expect(config.scratch_base).toBe("ws:stage/of anna");
  expect(warnings).toHaveLength(1);
  const before = site.calls().length;
  expect(await withWorkspaces(config, { env: at.env, missing: "fail" })).toEqual(made);
  expect(site.calls().slice(before)).toEqual([["ws_list", "stage"]]);
});

test("no workspace in it: the same object, and nothing is run", async () => {
  using at = new Home();
  const site = new Workspaces(at);
  const config = configOf({ scratch_base: "$SCRATCH" });
  expect(await withWorkspaces(config, { env: at.env, missing: "allocate" })).toBe(config);
  expect(site.calls()).toEqual([]);
});

test("to be left, it is left, whatever is wrong; else said", async () => {
  using at = new Home();
  const bare = configOf({});
  expect(await withWorkspaces(bare, { env: at.env, missing: "leave" })).toBe(bare);
  const errorOf = async (config: typeof bare, missing: "fail" | "allocate") =>
    withWorkspaces(config, { env: at.env, missing }).catch((error) => error.code);
  expect(await errorOf(bare, "fail")).toBe("TOOL_MISSING");
  const site = new Workspaces(at);
  expect(await errorOf(bare, "fail")).toBe("UNKNOWN_WORKSPACE");
  for (const wrong of ["ws:", "ws:a b", "ws:--help", "ws:../x"])
    expect(await errorOf(configOf({ scratch_base: wrong }), "allocate")).toBe("CONFIG_INVALID");
  expect(site.exists("stage")).toBe(false);
  expect(site.calls()).toEqual([["ws_list", "stage"]]);
});
