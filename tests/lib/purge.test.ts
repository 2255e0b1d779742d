import { expect, test } from "bun:test";
import { statSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { PurgeForecast, type PurgeRule, purgeRule, purgesInDays, purgeText } from "../../lib/engine/purge.ts";
import { Home } from "../helpers.ts";

const day = 86_400_000;
const now = Date.UTC(2026, 8, 1);

/** Times of so many days ago. */
const ago = (mtime: number, atime: number, ctime: number) => ({
  mtimeMs: now - mtime * day,
  atimeMs: now - atime * day,
  ctimeMs: now - ctime * day,
});

test.each([
  // days, rule, [mtime, atime, ctime] in days ago, in days
  [14, "mtime", [10, 1, 2], 4],
  [14, "mtime", [400, 0, 0], -386], // rsync -t to a site that looks at mtime
  [30, "atime", [400, 29.5, 0], 0.5],
  [30, "ctime", [400, 400, 1], 29],
  [15, "any", [1, 12, 3], 3],
  [15, "any", [20, 1, 1], -5],
  [60, "ctime and atime", [400, 70, 50], 10],
  [60, "ctime and atime", [0, 61, 60], 0],
] as const)("purge: %p days by %s, times of %j days ago: in %p days", (days, rule, [m, a, c], expected) => {
  expect(purgesInDays({ days, rule }, ago(m, a, c), now)).toBeCloseTo(expected, 9);
});

test.each([
  [3, "first files are purged in 3 days"],
  [3.9, "first files are purged in 3 days"],
  [1.2, "first files are purged in 1 day"],
  [0.9, "first files are purged in less than a day"],
  [0, "files are due to be purged now"],
  [-20, "files are due to be purged now"],
])("purge: %p days as text: %s", (inDays, text) => {
  expect(purgeText(inDays)).toBe(text);
  expect(purgeText(inDays, { unsure: true })).toBe(text.replace(" are ", " may be "));
});

const at = (scratch: string, { env = {}, host = "node1", purge = {} as object } = {}) =>
  purgeRule({ ef: { purge } } as never, env, scratch, host);

test.each([
  ["Euler, login node", "/cluster/scratch/anna", { host: "eu-login-11" }, 15, "any"],
  ["Euler, job", "/cluster/scratch/anna/x", { env: { SLURM_CLUSTER_NAME: "euler" } }, 15, "any"],
  ["CSCS capstor", "/capstor/scratch/cscs/anna", {}, 30, "atime"],
  ["CSCS iopsstor", "/iopsstor/scratch/cscs/anna", {}, 14, "atime"],
  ["CUBI", "/data/cephfs-1/scratch/groups/lab/users/anna_c", {}, 14, "mtime"],
  ["CUBI, by the link in the home directory", "/data/cephfs-1/home/users/anna_c/scratch/x", {}, 14, "mtime"],
  ["Narval", "/lustre07/scratch/anna", { env: { CC_CLUSTER: "narval" } }, 60, "ctime and atime"],
  ["Fir", "/scratch/anna", { env: { CC_CLUSTER: "fir" } }, 60, "ctime and atime"],
  ["Trillium, by the link", "/home/anna/scratch/x", { env: { CC_CLUSTER: "trillium" } }, 60, "ctime and atime"],
  ["EPFL", "/scratch/izar/anna", { env: { SLURM_CLUSTER_NAME: "izar" } }, 30, "any"],
  ["EPFL by host", "/scratch/anna", { host: "jed.hpc.epfl.ch" }, 30, "any"],
] as const)("purge: %s has a known rule", (_, scratch, where, days, rule) => {
  const found = at(scratch, where);
  expect(found).toMatchObject({ days, rule });
  expect(found?.source).toStartWith("https://");
  expect(found?.unsure).toBe(rule === "any" ? true : undefined);
});

test.each([
  ["/cluster/scratch of another site", "/cluster/scratch/anna", {}],
  ["Euler, but not its scratch", "/cluster/work/lab", { host: "eu-login-11" }],
  ["a host that begins alike", "/cluster/scratch/anna", { host: "europa" }],
  ["any /scratch", "/scratch/anna", {}],
  ["Nibi: another rule", "/scratch/anna", { env: { CC_CLUSTER: "nibi" } }],
  ["Narval's home", "/home/anna", { env: { CC_CLUSTER: "narval" } }],
  ["CSCS store", "/capstor/store/cscs/lab", {}],
  ["CUBI work", "/data/cephfs-1/work/groups/lab", {}],
  ["CUBI home", "/data/cephfs-1/home/users/anna_c/scratchpad", {}],
  ["a laptop", "/home/anna/scratch", { host: "laptop" }],
])("purge: %s has none", (_, scratch, where) => {
  expect(at(scratch, where)).toBeUndefined();
});

test("purge: what is configured comes first", () => {
  const cscs = "/capstor/scratch/cscs/anna";
  expect(at("/x", { purge: { days: 90, rule: "ctime" } })).toEqual({ days: 90, rule: "ctime" });
  expect(at("/x", { purge: { days: 90 } })).toEqual({ days: 90, rule: "any" });
  expect(at(cscs, { purge: { days: 7 } })).toEqual({ days: 7, rule: "any" });
  expect(at(cscs, { purge: { days: 0 } })).toBeUndefined();
  expect(at(cscs, { purge: { rule: "mtime" } })).toMatchObject({ days: 30, rule: "mtime" });
  expect(at("/x", { purge: { rule: "mtime" } })).toBeUndefined();
  expect(purgeRule({}, {}, "/x")).toBeUndefined();
});

test("purge: the forecast of a tree is that of its first file", () => {
  const rule: PurgeRule = { days: 14, rule: "mtime" };
  const forecast = new PurgeForecast(rule, now);
  expect([forecast.inDays, forecast.due, forecast.text]).toEqual([undefined, 0, undefined]);
  for (const days of [1, 11, 3]) forecast.add(ago(days, 0, 0));
  expect(forecast.inDays).toBeCloseTo(3, 9);
  expect(forecast.text).toBe("first files are purged in 3 days");
  forecast.add(ago(14, 0, 0));
  forecast.add(ago(40, 0, 0));
  expect([forecast.due, forecast.text]).toEqual([2, "files are due to be purged now"]);
  expect(new PurgeForecast({ ...rule, unsure: true }, now).rule.unsure).toBe(true);
});

test("purge: it takes the times of real files", () => {
  using home = new Home({ file: "x" });
  const file = join(home.home, "file");
  utimesSync(file, (now - 10 * day) / 1000, (now - 2 * day) / 1000);
  const forecast = (rule: PurgeRule["rule"]) => {
    const it = new PurgeForecast({ days: 14, rule }, now);
    it.add(statSync(file));
    return it.text;
  };
  expect(forecast("mtime")).toBe("first files are purged in 12 days");
  expect(forecast("atime")).toBe("first files are purged in 4 days");
});
