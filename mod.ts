/**
 * Stage caches and environments on HPC scratch, from a script.
 *
 * ```ts
 * import { loadConfig, sync } from "ef";
 *
 * const { exports, errors } = await sync(await loadConfig());
 * if (errors.length > 0) throw new Error(errors.join("\n"));
 * Object.assign(process.env, exports);
 * ```
 *
 * Nothing here prints, exits or listens to signals: progress comes by `onEvent`, a stop by `signal`.
 *
 * Built (`npm run build`: `dist/mod.js`), it runs under Bun, Node from 20.16 on, and Deno with `--allow-all`, on Linux. What it
 * does is the same in all; only Bun calls the C library, so elsewhere
 * - copies take longer; no holes, extended attributes or ACLs are kept, and nothing is copied inside a file server;
 * - times are kept to the microsecond (Node) or the millisecond (Deno; those before 1970 not at all);
 * - a name that is not UTF-8 is an error in Deno;
 * - archives need the program `zstd` in Deno, and in Node before 22.15;
 * - `packageScript` needs Bun.
 *
 * @module
 */
export {
  type ApptainerBuildOptions,
  apptainerBuild,
  type ImageBuildEvent,
  type ImageBuilt,
} from "./lib/apptainer-build.ts";
export { type ApptainerSaved, apptainerInit } from "./lib/apptainer-init.ts";
export { type ApptainerListOptions, apptainerList, type ListedImage } from "./lib/apptainer-list.ts";
export {
  apptainerPrune,
  type PruneEvent,
  type PruneMode,
  type PruneOptions,
  type PrunePlan,
  type PruneResult,
  type PruneTarget,
  pruneModes,
} from "./lib/apptainer-prune.ts";
export { type ApptainerPathOptions, apptainerPath, apptainerRun } from "./lib/apptainer-run.ts";
export {
  type ApptainerSyncEvent,
  type ApptainerSyncOptions,
  type ApptainerSyncResult,
  apptainerSync,
  type SyncedImage,
} from "./lib/apptainer-sync.ts";
export { EfError, type ErrorCode } from "./lib/base/errors.ts";
export { type Dialect, dialects, exportText } from "./lib/base/shell.ts";
export { type TraceEvent, traceTo } from "./lib/base/trace.ts";
export { CacheWorkspace, type CacheWorkspaceOptions } from "./lib/cache-workspace.ts";
export {
  ClusterFilesystem,
  type ClusterFilesystemOptions,
  type DiskUsage,
  type FileInfo,
  type SearchOptions,
} from "./lib/cluster-filesystem.ts";
export type { CopyOptions, Host, HostRunOptions } from "./lib/clusters/host.ts";
export { type OpenOptions, openHost } from "./lib/clusters/open.ts";
export { type Preset, presets } from "./lib/config/presets.ts";
export type { ClusterConfig, Config, RawConfig } from "./lib/config/schema.ts";
export { checkConfig, configPath, loadConfig } from "./lib/config/store.ts";
export {
  Datamover,
  type DatamoverOptions,
  type DtTool,
  type WaitforOptions,
  waitfor,
} from "./lib/datamover.ts";
export {
  cancelMoverJob,
  type MoverJob,
  type MoverJobState,
  moveInBackground,
  moverJobEnd,
  moverJobState,
  moverJobs,
} from "./lib/datamover-jobs.ts";
export type { MoverProcess } from "./lib/datamover-process.ts";
export { type Check, type DoctorOptions, doctor } from "./lib/doctor.ts";
export type { Deletions } from "./lib/engine/bring-back.ts";
export type { TransferPlan } from "./lib/engine/engine.ts";
export { type Held, type Holder, type LockOptions, lock } from "./lib/engine/lock.ts";
export type { PushConflict, PushSummary } from "./lib/engine/push-summary.ts";
export { type Usage, usage } from "./lib/engine/usage.ts";
export type { VenvEvent } from "./lib/envs/events.ts";
export type { Live } from "./lib/envs/live.ts";
export type { RelocationReport } from "./lib/envs/relocating.ts";
export type { Description as SavedDescription } from "./lib/envs/store.ts";
export { CannotStart, type ExecuteOptions, execute } from "./lib/exec.ts";
export { type Fixed, type FixupEvent, type FixupOptions, type FixupResult, fixup } from "./lib/fixup.ts";
export type { BestCopy } from "./lib/images/whole.ts";
export type { JobEvent, SubmitEvent } from "./lib/jobs/events.ts";
export type { JobPhase, JobRecord } from "./lib/jobs/record.ts";
export type { JobResult, RemoteError } from "./lib/jobs/results.ts";
export {
  type JobOptions,
  jobCancel,
  jobLogs,
  jobResult,
  jobState,
  jobs,
  jobWait,
  type WaitOptions,
} from "./lib/jobs.ts";
export { type MigrateEvent, type MigrateOptions, type MigrateResult, type MovePlan, migrate } from "./lib/migrate.ts";
export type { PackageDependencies, PackageInfo, PackageMetadata, PackageWarning } from "./lib/pack/package.ts";
export {
  cleanPackages,
  createExecutionContext,
  type ExecutionContext,
  inspectPackage,
  type PackageFunctionOptions,
  type PackageScriptOptions,
  packageFunction,
  packageFunctionForExecution,
  packageScript,
  pythonFunctions,
  unpackPackage,
} from "./lib/pack.ts";
export {
  type OnConflict,
  onConflicts,
  type PushEvent,
  type PushOptions,
  type PushResult,
  type PushVar,
  push,
} from "./lib/push.ts";
export { getKey, setKey, updateConfig } from "./lib/settings.ts";
export { type ShellInitOptions, shellInit } from "./lib/shell-init.ts";
export { type StagedCopy, type StageEvent, type StageOptions, type StageResult, stage } from "./lib/stage.ts";
export { type StageJobOptions, stageJob } from "./lib/stage-job.ts";
export { type Status, type StatusOptions, status, type VarState, type VarStatus } from "./lib/status.ts";
export { type Resources, type SubmitOptions, submit } from "./lib/submit.ts";
export { type SyncEvent, type SyncOptions, type SyncResult, type SyncStep, sync } from "./lib/sync.ts";
export { type RemovedCopy, type UnstageOptions, type UnstageResult, unstage } from "./lib/unstage.ts";
export { type Removed, type Use, type UseLocalOptions, useLocal } from "./lib/use-local.ts";
export { type VenvCreated, type VenvCreateOptions, venvCreate } from "./lib/venv-create.ts";
export { type VenvInstalled, type VenvInstallOptions, venvInstall } from "./lib/venv-install.ts";
export { type LiveVenv, type SavedVenv, venvFind, venvList, venvLive, venvRemove } from "./lib/venv-list.ts";
export { type VenvLoaded, type VenvLoadOptions, venvExport, venvLoad } from "./lib/venv-load.ts";
export { type VenvSaved, type VenvSaveOptions, venvSave } from "./lib/venv-save.ts";
export { type VenvWheelOptions, type VenvWheels, venvWheel } from "./lib/venv-wheel.ts";
export {
  type Verified,
  type VerifyEvent,
  type VerifyOptions,
  type VerifyResult,
  verify,
} from "./lib/verify.ts";
export {
  type Allocated,
  type AllocateOptions,
  type Extended,
  type ExtendOptions,
  type Restorable,
  type Restored,
  Workspace,
  type WorkspaceInfo,
  type WorkspaceOptions,
} from "./lib/workspace.ts";
