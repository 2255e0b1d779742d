import { version } from "../lib/base/version.ts";

/** Set by the build; absent when run from the sources. */
declare const EF_COMMIT: string;
declare const EF_TARGET: string;

const commit = typeof EF_COMMIT === "undefined" ? "sources" : EF_COMMIT;
const target = typeof EF_TARGET === "undefined" ? `${process.platform}-${process.arch}` : EF_TARGET;

/** `ef 0.1.0 (abc1234, linux-x64, Bun 1.4.5)`. */
export const versionText = (): string => `ef ${version} (${commit}, ${target}, Bun ${process.versions.bun})\n`;
