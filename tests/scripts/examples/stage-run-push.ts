#!/usr/bin/env -S ef run
/** A job: stage the caches, run the training, bring back what it made, whatever became of it. */
import { loadConfig, push, sync } from "ef";
import { $ } from "zx";

const config = await loadConfig();
const { exports, errors } = await sync(config);
if (errors.length > 0) throw new Error(errors.join("\n"));

const run = await $({
  env: { ...process.env, ...exports },
  stdio: "inherit",
  nothrow: true,
})`python ${process.argv.slice(2)}`;

const { vars, errors: notPushed } = await push(config);
for (const { name, status } of vars) console.error(`${name}: ${status}`);
for (const error of notPushed) console.error(error);
process.exitCode = run.exitCode || (notPushed.length > 0 ? 1 : 0);
