#!/usr/bin/env -S ef run
/** Every night: bring to scratch what tomorrow's jobs need, and say what is not as it should be. For cron, on a login node. */
import { loadConfig, status, sync, verify } from "ef";

const config = await loadConfig();
const { steps, errors } = await sync(config, { workers: 4 });
for (const { name, status: done } of steps) console.log(`${name}: ${done}`);

const { vars } = await status(config);
for (const { name, state, scratchUsage } of vars) console.log(`${name}: ${state}, ${scratchUsage?.bytes ?? 0} bytes`);

// On Sundays every byte is read.
const { errors: different } = await verify(config, { checksum: new Date().getDay() === 0 });
for (const error of [...errors, ...different]) console.error(error);
process.exitCode = errors.length + different.length > 0 ? 1 : 0;
