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
 * @module
 */
export { EfError, type ErrorCode } from "./lib/base/errors.ts";
export { type Dialect, dialects, exportText } from "./lib/base/shell.ts";
export { type TraceEvent, traceTo } from "./lib/base/trace.ts";
export { type Preset, presets } from "./lib/config/presets.ts";
export type { Config } from "./lib/config/schema.ts";
export { configPath, loadConfig } from "./lib/config/store.ts";
export { type Held, type Holder, type LockOptions, lock } from "./lib/engine/lock.ts";
export { execute } from "./lib/exec.ts";
export { type Status, status, type VarStatus } from "./lib/status.ts";
export { type SyncEvent, type SyncOptions, type SyncResult, type SyncStep, sync } from "./lib/sync.ts";
