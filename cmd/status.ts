import { sleep } from "../lib/base/async.ts";
import { EfError } from "../lib/base/errors.ts";
import { tilde } from "../lib/base/paths.ts";
import { humanAge, humanBytes, plural } from "../lib/base/units.ts";
import { loadConfig } from "../lib/config/store.ts";
import { describeHolder } from "../lib/engine/lock.ts";
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
    ["ef status", "sizes counted, at most 20 s"],
    ["ef status --fast", "without sizes"],
  ],
  args: {
    fast: { type: "boolean", description: "Leave the sizes out" },
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
function statusJson({ vars, warnings, scratchBase }: Status, sizes: boolean) {
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
      holder: one.holder,
      source_bytes: one.sourceUsage?.bytes,
      scratch_bytes: one.scratchUsage?.bytes,
      files: one.scratchUsage?.files,
      synced_at: Number.isNaN(one.syncedAt) ? null : one.syncedAt,
    })),
    total_scratch_usage: sizes ? humanBytes(total) : "?",
    total_scratch_bytes: sizes ? total : undefined,
  };
}

/** One of the four words of euler-files, which knows neither running syncs nor disabled variables here. */
function plainStatus({ state, syncedAt }: VarStatus): string {
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
  "not-synced": "red",
  "source-missing": "yellow",
  syncing: "cyan",
  disabled: "dim",
} as const;

function stateText({ state, why, holder }: VarStatus): string {
  if (state === "not-synced") return why === undefined ? "not synced" : `not synced (${why})`;
  if (state === "source-missing") return "source missing";
  if (state === "stale") return `stale (${why})`;
  if (state !== "syncing") return state;
  return holder ? `syncing (${describeHolder(holder)})` : "syncing";
}

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
    ...warnings.map((warning) => `${paint("yellow", "warning:", isTerminal)} ${warning}`),
    "",
  ].join("\n");
}
