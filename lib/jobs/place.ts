/** Where a cluster keeps what ef puts there, and what programs it has. */
import { EfError } from "../base/errors.ts";
import { nearest } from "../base/nearest.ts";
import { type Env, expandPath, variablesIn } from "../base/paths.ts";
import type { Host } from "../clusters/host.ts";
import type { ClusterConfig, Config } from "../config/schema.ts";
import { prepareScript, valuesScript } from "./script.ts";

/** Without `work_dir`, in the home directory there. */
const defaultWorkDir = "~/.local/share/ef";

/** A directory there, made ready. */
export interface Place {
  /** Absolute, through all links. */
  work: string;
  /** `python` of the definition, its variables replaced: a path or a name; undefined where it says none. */
  python: string | undefined;
  /** Where programs are; those that are not are undefined. */
  programs: Readonly<Record<"python" | "ef" | "uv" | "sbatch", string | undefined>>;
}

/**
 * The definition of a cluster. Without any in the configuration there is one all the same: `local`, this machine.
 *
 * @param name may be left out where there is only one
 * @throws {EfError} UNKNOWN_CLUSTER, USAGE
 */
export function clusterOf(config: Config | undefined, name?: string): { name: string; definition: ClusterConfig } {
  const all = config?.ef?.clusters ?? {};
  const names = Object.keys(all);
  const chosen = name ?? (names.length === 1 ? names[0] : undefined);
  if (chosen === undefined)
    throw new EfError("USAGE", "Cannot tell on which cluster to run", {
      hint: names.length > 0 ? `name one: --cluster ${names.join(", --cluster ")}` : "name one: --cluster local",
    });
  const definition = Object.hasOwn(all, chosen) ? all[chosen] : undefined;
  if (definition) return { name: chosen, definition };
  if (chosen === "local") return { name: "local", definition: { type: "local" } };
  const like = nearest(chosen, [...names, "local"]);
  throw new EfError("UNKNOWN_CLUSTER", `Cannot find the cluster ${chosen} in the configuration`, {
    hint:
      like === undefined
        ? `define it: ef config set ef.clusters.${chosen} '{"type": "slurm", "host": "HOST"}'`
        : `did you mean ${like}? there are: ${[...names, "local"].join(", ")}`,
  });
}

/**
 * Make the work directory of a cluster, and ask what there is.
 *
 * @param where of the definition in the configuration, for messages: `ef.clusters.euler`
 * @throws {EfError} UNREACHABLE; UNSET_VARIABLE; BAD_ROOT if the directory cannot be used
 */
export async function prepare(
  host: Host,
  definition: ClusterConfig,
  where: string,
  signal?: AbortSignal,
): Promise<Place> {
  const written = definition.work_dir ?? defaultWorkDir;
  const work = await expandThere(host, written, `${where}.work_dir`, signal);
  const named = async (key: "python" | "ef") => {
    const text = definition[key];
    return text === undefined ? undefined : expandThere(host, text, `${where}.${key}`, signal);
  };
  const [chosen, ef = "ef"] = [await named("python"), await named("ef")];
  const python = chosen ?? "python3";
  const asked = [python, ef, "uv", "sbatch"];
  const { code, stdout, stderr } = await host.sh(prepareScript, [work, ...asked], {
    accept: [0, 1, 2, 126, 127],
    signal,
  });
  if (code !== 0) {
    const why = stderr.trim().split("\n").at(-1) ?? "";
    throw new EfError("BAD_ROOT", `Cannot use ${work} on ${host.name}: ${why}`, {
      hint: `choose a directory that you own there: ef config set ${where}.work_dir DIR`,
      path: work,
    });
  }
  const values = new Map(stdout.split("\n").map((each) => splitOnce(each)));
  const at = (program: string) => values.get(program) || undefined;
  return {
    work: at("work") ?? work,
    python: chosen,
    programs: { python: at(python), ef: at(ef), uv: at("uv"), sbatch: at("sbatch") },
  };
}

const splitOnce = (line: string): [string, string] => {
  const at = line.lastIndexOf("=/");
  return at < 0 ? [line.replace(/=$/, ""), ""] : [line.slice(0, at), line.slice(at + 1)];
};

/** `$VAR` and `~` in a text, with their values over there. @throws {EfError} UNSET_VARIABLE */
export async function expandThere(host: Host, text: string, where: string, signal?: AbortSignal): Promise<string> {
  const names = [...new Set(variablesIn(text))];
  if (names.length === 0) return text;
  const { stdout } = await host.sh(valuesScript, names, { signal });
  const values = stdout.split("\0");
  const env: Env = Object.fromEntries(names.map((name, i) => [name, values[i]]));
  try {
    return expandPath(text, env, where);
  } catch (error) {
    if (!(error instanceof EfError) || error.code !== "UNSET_VARIABLE") throw error;
    throw new EfError("UNSET_VARIABLE", `${error.message} on ${host.name}`, {
      hint: `a login shell there does not set it: write the path out, ef config set ${where} DIR`,
      path: text,
    });
  }
}
