/** What was measured, as Markdown tables and as panels for the plot. Pure. */
import { type Differences, describeDifferences } from "./compare.ts";
import type { Scenario } from "./model.ts";
import type { Panel } from "./plot.ts";
import type { Requests, Server } from "./slow-fs.ts";

/** As much of a run as a report needs. */
export interface Reported {
  setup: string;
  tree: string;
  peer: string;
  scenario: Scenario;
  seconds: number;
  memoryBytes: number;
  reason?: string | undefined;
  limitS?: number | undefined;
  source?: Requests | undefined;
  target?: Requests | undefined;
  differences?: Differences;
}

export interface Titles {
  setups: Record<string, { about: string; source?: Server; target?: Server }>;
  trees: Record<string, { about: string }>;
  /** As the trees were made; another than 1 is said. */
  scale: number;
}

const headings: Record<Scenario, string> = {
  cold: "cold",
  fresh: "fresh",
  unchanged: "unchanged",
  changed: "1 % changed",
  purged: "one purged",
};

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

const distinct = <T>(values: T[]): T[] => [...new Set(values)];
const secondsText = (seconds: number) =>
  seconds < 9.95 ? seconds.toFixed(2) : seconds.toFixed(seconds < 99.5 ? 1 : 0);
const factorText = (factor: number) => (factor < 9.95 ? factor.toFixed(1) : factor.toFixed(0));
const memoryText = (bytes: number) => (bytes === 0 ? "" : `${Math.ceil(bytes / 2 ** 20)} MiB`);
const sentRequests = (requests: Requests | undefined) => (requests ? requests.meta + requests.data : undefined);

/** One table for each setup and tree. */
export function tables(runs: readonly Reported[], { setups, trees, scale }: Titles): string {
  return groups(runs)
    .map(({ setup, tree, of }) => {
      const about = `${setups[setup]?.about ?? ""}; ${trees[tree]?.about ?? ""}${scale === 1 ? "" : `; ${scale} of it`}`;
      return `### ${setup}, ${tree}\n\n${about}\n\n${table(of)}\n`;
    })
    .join("\n");
}

function groups(runs: readonly Reported[]) {
  return distinct(runs.map(({ setup, tree }) => `${setup} ${tree}`)).map((key) => {
    const of = runs.filter(({ setup, tree }) => key === `${setup} ${tree}`);
    return { setup: of[0]!.setup, tree: of[0]!.tree, of };
  });
}

function table(runs: Reported[]): string {
  const order = Object.keys(headings) as Scenario[];
  const scenarios = order.filter((scenario) => runs.some((run) => run.scenario === scenario && !run.reason));
  const counted = (["cold", "unchanged"] as const).filter((scenario) =>
    runs.some((run) => run.scenario === scenario && !run.reason && run.source),
  );
  const head = ["", ...scenarios.map((s) => headings[s]), ...counted.map((s) => `requests ${headings[s]}`), "memory"];
  const limits = scenarios.map((scenario) => limitOf(runs, scenario));
  const rows = distinct(runs.map(({ peer }) => peer)).map((peer) => {
    const own = runs.filter((run) => run.peer === peer);
    const ok = (scenario: Scenario) => own.filter((run) => run.scenario === scenario && !run.reason);
    return [
      peer,
      ...scenarios.map((scenario) => timeCell(ok(scenario), runs, scenario)),
      ...counted.map((scenario) => requestCell(ok(scenario))),
      memoryText(Math.max(...own.map((run) => run.memoryBytes))),
      remarks(own),
    ];
  });
  if (limits.some((limit) => limit !== undefined)) {
    const cells = limits.map((limit) => (limit === undefined ? "" : secondsText(limit)));
    rows.push(["*limit*", ...cells, ...counted.map(() => ""), "", ""]);
  }
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  const columns = [...head, "remarks"];
  return [
    "Seconds, how many times as fast as rsync, and what multiple of the model's limit.",
    "",
    line(columns),
    line(columns.map(() => "---")),
    ...rows.map(line),
  ].join("\n");
}

const limitOf = (runs: readonly Reported[], scenario: Scenario) =>
  runs.find((run) => run.scenario === scenario && run.limitS !== undefined)?.limitS;

/** For a program without a scenario "fresh" of its own, rsync's is that it looks at everything. */
function rsyncSeconds(runs: Reported[], scenario: Scenario): number | undefined {
  const as = scenario === "fresh" ? "unchanged" : scenario;
  const seconds = runs
    .filter((run) => run.peer === "rsync" && run.scenario === as && !run.reason)
    .map((r) => r.seconds);
  return seconds.length > 0 ? median(seconds) : undefined;
}

function timeCell(own: Reported[], all: Reported[], scenario: Scenario): string {
  if (own.length === 0) return "";
  const seconds = median(own.map((run) => run.seconds));
  const rsync = rsyncSeconds(all, scenario);
  const limit = limitOf(own, scenario);
  const against = [
    ...(rsync === undefined ? [] : [`${factorText(rsync / seconds)}×`]),
    ...(limit === undefined ? [] : [`${factorText(seconds / limit)} of limit`]),
  ];
  return `${secondsText(seconds)}${against.length > 0 ? ` (${against.join(", ")})` : ""}`;
}

function requestCell(own: Reported[]): string {
  const sides = (["source", "target"] as const).map((side) => own.map((run) => sentRequests(run[side])));
  return sides
    .map((counts) => counts.filter((count) => count !== undefined))
    .filter((counts) => counts.length > 0)
    .map((counts) => Math.round(median(counts)).toLocaleString("en"))
    .join(" + ");
}

/** Why it failed, or what its copies lack, each thing once. */
function remarks(own: Reported[]): string {
  const failures = distinct(own.map(({ reason }) => reason).filter((reason) => reason !== undefined));
  if (failures.length > 0) return `failed: ${failures.join("; ").replaceAll("|", "\\|")}`;
  const worst: Differences = {};
  for (const { differences = {} } of own) {
    for (const [what, count] of Object.entries(differences) as [keyof Differences, number][]) {
      worst[what] = Math.max(worst[what] ?? 0, count);
    }
  }
  const text = describeDifferences(worst);
  return text === "" ? "exact copy" : `differs: ${text}`;
}

/** A panel for each setup, tree and scenario that has a bar to show. */
export function panels(runs: readonly Reported[], wanted: readonly Scenario[] = ["cold", "unchanged"]): Panel[] {
  return groups(runs).flatMap(({ setup, tree, of }) =>
    wanted.flatMap((scenario) => {
      const bars = distinct(of.map(({ peer }) => peer)).flatMap((peer) => {
        // A fresh sync is what a user of ef sees of an unchanged tree, so it stands beside the full comparison.
        const shown = scenario === "unchanged" ? (["fresh", "unchanged"] as const) : [scenario];
        return shown.flatMap((as) => {
          const own = of.filter((run) => run.peer === peer && run.scenario === as && !run.reason);
          const label = as === "fresh" ? `${peer}, fresh` : peer;
          return own.length === 0
            ? []
            : [{ label, seconds: median(own.map((run) => run.seconds)), own: peer === "ef" }];
        });
      });
      const title = `${setup}, ${tree}: ${headings[scenario]}`;
      return bars.length === 0 ? [] : [{ title, bars, limitS: limitOf(of, scenario) }];
    }),
  );
}
