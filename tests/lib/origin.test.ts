import { expect, test } from "bun:test";
import { join } from "node:path";
import { originOf } from "../../lib/engine/origin.ts";
import { placesIn, plan, type Step } from "../../lib/engine/plan.ts";
import { loadConfig, sync } from "../../mod.ts";
import { Home } from "../helpers.ts";

/** Where a copy would be read. */
async function origin(at: Home, more: object, options: Parameters<typeof originOf>[2] = {}): Promise<string> {
  at.configure({ HF_HOME: "hf" }, more);
  const env = { ...at.env };
  const config = await loadConfig(join(at.home, ".euler-files.json"));
  const step = plan(config, env).steps[0] as Step;
  const from = await originOf(step, config, options);
  return from === step.target ? "scratch" : from === step.source ? "source" : from;
}

async function synced(): Promise<Home> {
  const at = new Home({ "hf/a": "a", "hf/sub/b": "b" });
  at.configure({ HF_HOME: "hf" });
  const env = { ...at.env };
  await sync(await loadConfig(join(at.home, ".euler-files.json")), { env });
  return at;
}

test("scratch that was never synced, of another source, or with other excludes", async () => {
  using fresh = new Home({ "hf/a": "a" });
  expect(await origin(fresh, {})).toBe("source");
  using at = await synced();
  expect(await origin(at, {})).toBe("scratch");
  expect(await origin(at, { ef: { vars: { HF_HOME: { exclude: ["x"] } } } })).toBe("scratch"); // both trees are the same
  at.configure({ HF_HOME: "other" });
  const env = { ...at.env };
  const config = await loadConfig(join(at.home, ".euler-files.json"));
  const step = plan(config, env).steps[0] as Step;
  expect(await originOf(step, config)).toBe(step.source);
});

test("times of arrival: always the source, with which all times are compared", async () => {
  using at = await synced();
  expect(await origin(at, { ef: { transfer: { times: "arrival" } } })).toBe("source");
});

test("a copy of that scratch which is fresh itself makes its age no reason to compare both trees", async () => {
  using at = await synced();
  at.write("hf/sub/b", "B"); // in place: only a comparison finds it
  let asked = 0;
  const copyOf = (from: string): Step => {
    asked++;
    const step = { name: "HF_HOME", source: join(at.home, "hf"), ...placesIn(join(at.dir, "none"), "HF_HOME") };
    return { ...step, base: at.dir, from, exclude: [], mirror: false, rules: "", env: {} };
  };
  const aged = { skip_if_fresh_seconds: 0 };
  expect([await origin(at, aged, { copyOf }), asked]).toEqual(["source", 1]);
  expect(await origin(at, {}, { force: true })).toBe("source");
  expect(await origin(at, {})).toBe("scratch");
});
