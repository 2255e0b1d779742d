import { EfError } from "../lib/base/errors.ts";
import type { Config } from "../lib/config/schema.ts";
import { loadConfig } from "../lib/config/store.ts";

/** The configuration for commands that work without one: undefined if there is none; one that is broken is an error. */
export async function optionalConfig(): Promise<Config | undefined> {
  try {
    return await loadConfig();
  } catch (error) {
    if (error instanceof EfError && error.code === "CONFIG_NOT_FOUND") return undefined;
    throw error;
  }
}
