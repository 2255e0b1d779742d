import {
  type ApptainerSyncEvent,
  type ApptainerSyncResult,
  apptainerSync,
  type SyncedImage,
} from "../lib/apptainer-sync.ts";
import { bytesOf, display } from "../lib/base/bytes.ts";
import { Exit } from "../lib/base/errors.ts";
import { humanDuration, sizeText } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { command, syncing } from "./args.ts";
import { paint, say, stopSignal } from "./process.ts";
import { type Copying, progress } from "./progress.ts";
import { transferFlags } from "./transfer.ts";

export default command({
  name: "apptainer sync",
  description: "Copy built images to scratch",
  examples: [
    ["ef apptainer sync", "in a job script: all that are enabled"],
    ["ef apptainer sync --image train", "only this one, enabled or not"],
    ["ef apptainer sync --dry-run", "what would be copied"],
  ],
  args: {
    image: {
      type: "string",
      multiple: true,
      valueHint: "NAME",
      description: "Only this image, also a disabled one; repeatable",
      input: "images",
      inputAliases: ["only_images"],
      values: "images",
    },
    "dry-run": { type: "boolean", alias: "n", description: "Say what would be copied, touch nothing" },
    force: { type: "boolean", description: "Copy it though it is there, and over what ef did not put there" },
    preflight: syncing.preflight,
    workers: syncing.workers,
    bwlimit: syncing.bwlimit,
  },
  async run({ args }) {
    const { "dry-run": dryRun, force, image: only, json } = args;
    const config = await loadConfig();
    const result = await apptainerSync(config, {
      ...{ only, force, dryRun, preflight: args.preflight, signal: stopSignal() },
      ...transferFlags(args),
      onEvent: progress<Copying<ApptainerSyncEvent>, SyncedImage>(
        { quiet: json, names: "none" },
        { copying: ({ why, plan }) => `${why}; ${sizeText(plan.bytes)} to copy`, result: resultLine },
      ),
    });
    if (result.results.length === 0 && !json) say(nothingText(Object.keys(config.apptainer?.images ?? {}).length));
    return {
      json: resultJson(result, { dry_run: dryRun, force, only_images: only }),
      text: "",
      code: result.errors.length > 0 ? Exit.failed : Exit.ok,
    };
  },
});

const nothingText = (built: number) =>
  built === 0
    ? "no image is built yet: ef apptainer build NAME\n"
    : "no image is enabled; name one: ef apptainer sync --image NAME\n";

function resultLine({ name: any, target, status, plan, error, seconds }: SyncedImage): string {
  const name = display(bytesOf(any));
  switch (status) {
    case "skipped":
      return `${name}: as stored, at ${target}`;
    case "synced":
      return `${name}: ${paint("green", "complete")} (${sizeText(plan?.bytes ?? 0)}, ${humanDuration(seconds)})`;
    case "source-missing":
      return `${name}: not copied`;
    case "dry-run":
      return `${name}: would be copied to ${target}`;
    case "failed":
      return `${name}: ${paint("red", "failed")}: ${error?.message}${error?.hint ? `\n  ${error.hint}` : ""}`;
  }
}

function resultJson({ results, errors, warnings }: ApptainerSyncResult, asked: Record<string, unknown>) {
  return {
    ...asked,
    results: results
      .filter(({ status }) => status !== "failed")
      .map(({ name, status, source, target, plan, seconds }) => ({
        ...{ name, status, source, target, seconds },
        bytes: plan?.bytes,
      })),
    warnings,
    errors,
    failures: results.flatMap(({ name, error }) =>
      error ? [{ name, code: error.code, message: error.message, hint: error.hint, path: error.path }] : [],
    ),
  };
}
