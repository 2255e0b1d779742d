#!/usr/bin/env -S ef run
/** Images of many environments, two at a time; one that fails does not stop the others. */
import { apptainerBuild, loadConfig } from "ef";

const names = process.argv.slice(2);
const failed: string[] = [];

async function build(): Promise<void> {
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    try {
      // The configuration is read anew: each build has written its record into it.
      const { sif } = await apptainerBuild(await loadConfig(), name);
      console.log(`${name}: ${sif}`);
    } catch (error) {
      console.error(`${name}: ${(error as Error).message}`);
      failed.push(name);
    }
  }
}

await Promise.all([build(), build()]);
process.exitCode = failed.length > 0 ? 1 : 0;
