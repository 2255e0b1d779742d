/** What `import … from "ef"` gives: a name that goes away breaks somebody's script. */
import { expect, test } from "bun:test";
import { renameSync } from "node:fs";
import { join } from "node:path";
import * as ef from "../../mod.ts";
import { Home } from "../helpers.ts";

test("the names of the library", () => {
  expect(Object.keys(ef).sort()).toEqual([
    "CacheWorkspace",
    "CannotStart",
    "ClusterFilesystem",
    "Datamover",
    "EfError",
    "Workspace",
    "apptainerBuild",
    "apptainerInit",
    "apptainerList",
    "apptainerPath",
    "apptainerPrune",
    "apptainerRun",
    "apptainerSync",
    "cancelMoverJob",
    "checkConfig",
    "cleanPackages",
    "configPath",
    "createExecutionContext",
    "dialects",
    "doctor",
    "execute",
    "exportText",
    "fixup",
    "getKey",
    "inspectPackage",
    "jobCancel",
    "jobLogs",
    "jobResult",
    "jobState",
    "jobWait",
    "jobs",
    "loadConfig",
    "lock",
    "migrate",
    "moveInBackground",
    "moverJobEnd",
    "moverJobState",
    "moverJobs",
    "onConflicts",
    "openHost",
    "packageFunction",
    "packageFunctionForExecution",
    "packageScript",
    "presets",
    "pruneModes",
    "push",
    "pythonFunctions",
    "setKey",
    "shellInit",
    "stage",
    "stageJob",
    "status",
    "submit",
    "sync",
    "traceTo",
    "unpackPackage",
    "unstage",
    "updateConfig",
    "usage",
    "useLocal",
    "venvCreate",
    "venvExport",
    "venvFind",
    "venvInstall",
    "venvList",
    "venvLive",
    "venvLoad",
    "venvRemove",
    "venvSave",
    "venvWheel",
    "verify",
    "waitfor",
  ]);
});

test("a sync from a script: progress by events, an abort by its signal, nothing printed", async () => {
  using at = new Home({ "hf/a": "1" });
  at.configure({ HF_HOME: "hf" });
  const config = await ef.loadConfig(join(at.home, ".euler-files.json"));
  const env = { HOME: at.home, SCRATCH: at.scratch };
  const types: string[] = [];
  const entries: number[] = [];
  const onEvent = (event: ef.SyncEvent | ef.PushEvent) => {
    types.push(event.type);
    if (event.type === "comparing") entries.push(event.entries);
  };
  const { exports, steps } = await ef.sync(config, { env, onEvent });
  expect(exports).toEqual({ HF_HOME: at.cache("HF_HOME") });
  expect(steps[0]).toMatchObject({ status: "synced", plan: { files: 1, bytes: 1 } });
  expect(new Set(types)).toEqual(new Set(["comparing", "copying", "progress", "result"]));
  expect(entries[0]).toBe(1);
  at.write("b", "of a job");
  renameSync(join(at.home, "b"), join(at.cache("HF_HOME"), "b"));
  entries.length = 0;
  expect((await ef.push(config, { env, onEvent })).vars[0]).toMatchObject({ status: "pushed", plan: { files: 1 } });
  expect(entries.at(-1)).toBeGreaterThanOrEqual(3);
  const { vars } = await ef.status(config, { env });
  expect(vars[0]).toMatchObject({ name: "HF_HOME", state: "fresh" });
  const stopped = await ef
    .sync(config, { env, signal: AbortSignal.abort(new Error("enough")) })
    .catch((error) => error);
  expect(stopped.message).toBe("enough");
  const unknown = await ef.sync(config, { env, only: ["NOPE"] }).catch((error) => error);
  expect(unknown).toBeInstanceOf(ef.EfError);
  expect(unknown).toMatchObject({ code: "UNKNOWN_VAR", exit: 2 });
});
