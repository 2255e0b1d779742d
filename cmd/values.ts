/** What the completion scripts ask for while somebody waits at a prompt: quick, silent, and never an error. */
import { readOwn } from "../lib/base/files.ts";
import { realPath } from "../lib/base/paths.ts";
import { configPath } from "../lib/config/store.ts";
import { type Commands, command, namesOf, type ValueKind } from "./args.ts";

/** How long somebody waits at a prompt for what a program of the site lists, in milliseconds. */
const askMs = 2000;

/** A configuration larger than this is none, in bytes. */
const configLimit = 16 * 2 ** 20;

export default command({
  name: "__values",
  description: "Values for completion scripts, one a line",
  plain: true,
  args: { kind: { type: "positional", valueHint: "KIND", description: "What to list" } },
  async run({ args, commands }) {
    const source = Object.entries(sources).find(([kind]) => kind === args.kind)?.[1];
    const values = (await Promise.resolve(source?.(commands)).catch(() => undefined)) ?? [];
    return {
      json: {},
      text: values
        .filter(isLine)
        .map((value) => `${value}\n`)
        .join(""),
    };
  },
});

const isLine = (value: string) => value !== "" && !/[\n\r\0]/.test(value);

const sources: Record<Exclude<ValueKind, "file" | "dir">, (commands: Commands) => Promise<readonly string[]>> = {
  vars: async () => Object.keys(table(config().vars)),
  "config-keys": async () => (await import("../lib/settings.ts")).knownKeys(config()),
  "saved-venvs": async () => {
    const [{ listSaved, storeOf }, { checkConfig }] = await Promise.all([
      import("../lib/envs/store.ts"),
      import("../lib/config/store.ts"),
    ]);
    return listSaved(storeOf(checkConfig(config(), configPath()), process.env)).map(({ name }) => name);
  },
  "live-venvs": async () => {
    const { listLive } = await import("../lib/envs/live.ts");
    return listLive(process.env).map(({ name }) => name);
  },
  "base-venvs": async () => {
    const [{ environments }, { checkConfig }] = await Promise.all([
      import("../lib/apptainer-prune.ts"),
      import("../lib/config/store.ts"),
    ]);
    return environments(checkConfig(config(), configPath()), process.env);
  },
  prunable: async () => {
    const [{ prunable }, { checkConfig }] = await Promise.all([
      import("../lib/apptainer-prune.ts"),
      import("../lib/config/store.ts"),
    ]);
    return prunable(checkConfig(config(), configPath()), process.env);
  },
  workspaces: async () => {
    const { Workspace } = await import("../lib/workspace.ts");
    return (await new Workspace({ signal: AbortSignal.timeout(askMs) }).list()).map(({ id }) => id);
  },
  "released-workspaces": async () => {
    const { Workspace } = await import("../lib/workspace.ts");
    return (await new Workspace({ signal: AbortSignal.timeout(askMs) }).listExpired()).map(({ id }) => id);
  },
  images: async () => Object.keys(table(table(config().apptainer).images)),
  "mover-jobs": async () => (await import("../lib/datamover-jobs.ts")).moverJobs().map(({ id }) => id),
  jobs: async () => (await import("../lib/jobs/record.ts")).readRecords().map(({ id }) => id),
  clusters: async () => ["local", ...Object.keys(table(table(config().ef).clusters))],
  commands: async (commands) => namesOf(commands).map((name) => name.replaceAll(" ", ".")),
};

/** The configuration as it stands in the file, right or wrong; of regular files only, since a FIFO may never answer. */
function config(): Record<string, unknown> {
  const text = readOwn(realPath(configPath()), configLimit)?.toString("utf8") ?? "{}";
  return table(JSON.parse(text.replace(/^\uFEFF/, "")));
}

const table = (value: unknown) =>
  (typeof value === "object" && value !== null ? { ...value } : {}) as Record<string, unknown>;
