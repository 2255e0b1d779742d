import { sleep } from "../lib/base/async.ts";
import { EfError } from "../lib/base/errors.ts";
import { tilde } from "../lib/base/paths.ts";
import { humanAge, humanBytes, humanCount, plural } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { describeHolder } from "../lib/engine/lock.ts";
import { type PurgeRule, purgeText } from "../lib/engine/purge.ts";
import { isNearlyUsedUp, isUsedUp, quotaText } from "../lib/engine/quota-text.ts";
import type { Usage } from "../lib/engine/usage.ts";
import { type Status, type StatusOptions, status, type VarStatus } from "../lib/status.ts";
import { command, type Output } from "./args.ts";
import { emit, paint, stdoutIsTerminal, stopSignal } from "./process.ts";

/** Milliseconds between two looks of `--watch`. */
const watchMs = 2000;

export default command({
  name: "status",
  description: "Show what is on scratch: sizes, last sync, state",
  examples: [
    ["ef status", "sizes, what was purged, quotas: at most 20 s"],
    ["ef status --fast", "without all that has to be counted or asked for"],
  ],
  args: {
    fast: { type: "boolean", description: "Leave out what is counted: sizes, purged files; and quotas" },
    watch: { type: "boolean", alias: "w", description: "Show it again every two seconds, until Ctrl-C" },
  },
  async run({ args }): Promise<Output> {
    if (args.watch && args.json) throw new EfError("USAGE", "ef status: --watch and --json exclude each other");
    const options: StatusOptions = { sizes: !args.fast, signal: stopSignal() };
    for (;;) {
      const found = await status(await loadConfig(), options);
      if (!args.watch) return { json: statusJson(found, !args.fast), text: table(found, !args.fast) };
      const clear = stdoutIsTerminal() ? "\u001B[H\u001B[J" : "";
      if (!emit(`${clear}${table(found, !args.fast)}`)) return { json: {}, text: "" };
      await sleep(watchMs, options.signal);
    }
  },
});

/** The shape of euler-files, and what ef adds (`state`, numbers). */
function statusJson({ vars, warnings, scratchBase, purge, quotas }: Status, sizes: boolean) {
  const total = vars.reduce((sum, { scratchUsage }) => sum + (scratchUsage?.bytes ?? 0), 0);
  return {
    warnings,
    scratch_base: scratchBase,
    variables: vars.map((one) => ({
      name: one.name,
      source: one.source,
      scratch: one.scratch,
      source_size: sizeText(one.sourceUsage, sizes),
      scratch_size: sizeText(one.scratchUsage, sizes),
      last_synced: ageText(one),
      status: plainStatus(one),
      state: one.state,
      enabled: one.enabled,
      why: one.why,
      gone_files: one.goneFiles,
      of_files: one.ofFiles,
      holder: one.holder,
      source_bytes: one.sourceUsage?.bytes,
      scratch_bytes: one.scratchUsage?.bytes,
      files: one.scratchUsage?.files,
      synced_at: Number.isNaN(one.syncedAt) ? null : one.syncedAt,
      purged_in_days: one.purgedInDays === undefined ? undefined : Math.floor(one.purgedInDays * 100) / 100,
      purge_due_files: one.purgeDue,
    })),
    purge,
    quota: sizes
      ? quotas.map(({ tool, scope, ...one }) => ({
          ...{ tool, scope },
          ...{ used_bytes: one.usedBytes, limit_bytes: one.limitBytes, left_bytes: one.bytes },
          ...{ used_files: one.usedInodes, limit_files: one.limitInodes, left_files: one.inodes },
        }))
      : undefined,
    total_scratch_usage: sizes ? humanBytes(total) : "?",
    total_scratch_bytes: sizes ? total : undefined,
  };
}

/** One of the four words of euler-files, which knows no purged files, running syncs or disabled variables here. */
function plainStatus({ state, syncedAt }: VarStatus): string {
  if (state === "purged") return "stale";
  if (state !== "syncing" && state !== "disabled") return state;
  return syncedAt === undefined ? "not-synced" : "stale";
}

/** As `du -h` prints it; `-` if there is nothing, `?` if it was not counted, `>` before what was counted in time. */
function sizeText(used: Usage | undefined, sizes: boolean): string {
  if (!sizes) return "?";
  if (!used) return "-";
  return `${used.complete ? "" : ">"}${humanBytes(used.bytes)}`;
}

function ageText({ syncedAt }: VarStatus): string {
  if (syncedAt === undefined) return "never";
  return Number.isNaN(syncedAt) ? "corrupt" : humanAge(Date.now() / 1000 - syncedAt);
}

const colours = {
  fresh: "green",
  stale: "yellow",
  purged: "red",
  "not-synced": "red",
  "source-missing": "yellow",
  syncing: "cyan",
  disabled: "dim",
} as const;

function stateText({ state, why, holder, goneFiles = 0, ofFiles = 0 }: VarStatus): string {
  if (state === "purged") return `purged (${humanCount(goneFiles)} of ${plural(ofFiles, "file")} gone)`;
  if (state === "not-synced") return why === undefined ? "not synced" : `not synced (${why})`;
  if (state === "source-missing") return "source missing";
  if (state === "stale") return `stale (${why})`;
  if (state !== "syncing") return state;
  if (!holder) return "syncing";
  return `syncing (${holder.job ? `job ${holder.job} on ${holder.node ?? holder.host}` : describeHolder(holder)})`;
}

/** Days from which a purge is near. */
const nearDays = 3;

/** When each variable's first files are purged, the next first, and by which rule. */
function purgeLines({ vars, purge }: Status, isTerminal: boolean): string[] {
  if (!purge) return [];
  const known = vars.flatMap(({ name, purgedInDays, purgeDue = 0, scratchUsage }) =>
    purgedInDays === undefined
      ? []
      : [{ name, inDays: purgedInDays, due: purgeDue, all: scratchUsage?.complete ?? false }],
  );
  const lines = known
    .sort((a, b) => a.inDays - b.inDays)
    .map(({ name, inDays, due, all }) => {
      const what = due > 0 ? dueText(due, purge) : purgeText(inDays, purge);
      const text = `${name}: ${what}${all ? "" : " (of those that were counted)"}`;
      return inDays < nearDays ? paint("yellow", text, isTerminal) : text;
    });
  return lines.length > 0 ? [...lines, ruleText(purge)] : [];
}

function dueText(due: number, { unsure }: PurgeRule): string {
  const are = unsure ? "may be" : due === 1 ? "is" : "are";
  return `${plural(due, "file")} ${are} due to be purged now`;
}

const ruleText = ({ days, rule, source }: PurgeRule) =>
  `  (${plural(days, "day")} by ${rule === "any" ? "any of its times" : rule}: ${source ?? "ef.purge in the configuration"})`;

const quotaLines = ({ quotas }: Status, isTerminal: boolean) =>
  quotas.map((quota) => {
    const text = `quota (${quotaText(quota).replace(": ", "): ")}`;
    if (isUsedUp(quota)) return paint("red", text, isTerminal);
    return isNearlyUsedUp(quota) ? paint("yellow", text, isTerminal) : text;
  });

/** A path in one line of a table: what would move the cursor is shown as `?`. */
const printable = (path: string) => path.replace(/\p{C}/gu, "?");

function table(found: Status, sizes: boolean): string {
  const isTerminal = stdoutIsTerminal();
  const { vars, warnings, scratchBase } = found;
  if (vars.length === 0) return "no variables yet: add some with ef init, or ef config set vars.NAME.source DIR\n";
  const rows = vars.map((one) => [
    one.name,
    printable(tilde(one.source, process.env)),
    ...(sizes
      ? [sizeText(one.sourceUsage, sizes), sizeText(one.scratchUsage, sizes), String(one.scratchUsage?.files ?? "-")]
      : []),
    ageText(one),
  ]);
  const heads = ["variable", "source", ...(sizes ? ["size", "scratch", "files"] : []), "synced"];
  const widths = heads.map((head, i) => Math.max(head.length, ...rows.map((row) => (row[i] ?? "").length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => (sizes && i >= 2 && i <= 4 ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
      .join("  ");
  const total = vars.reduce((sum, { scratchUsage }) => sum + (scratchUsage?.bytes ?? 0), 0);
  const files = vars.reduce((sum, { scratchUsage }) => sum + (scratchUsage?.files ?? 0), 0);
  return [
    paint("bold", `${line(heads)}  state`, isTerminal),
    ...rows.map((row, i) => {
      const one = vars[i] as VarStatus;
      return `${line(row)}  ${paint(colours[one.state], stateText(one), isTerminal)}`;
    }),
    "",
    sizes ? `${humanBytes(total)} in ${plural(files, "file")} on ${scratchBase}` : `scratch: ${scratchBase}`,
    ...quotaLines(found, isTerminal),
    ...purgeLines(found, isTerminal),
    ...warnings.map((warning) => `${paint("yellow", "warning:", isTerminal)} ${warning}`),
    "",
  ].join("\n");
}
