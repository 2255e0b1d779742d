/** What `ef doctor` says of the clusters that ssh reaches: does each answer? */
import { mapLimit } from "./base/async.ts";
import { EfError, reasonOf } from "./base/errors.ts";
import type { Env } from "./base/paths.ts";
import { openHost } from "./clusters/open.ts";
import type { ClusterConfig, Config } from "./config/schema.ts";
import { type Finding, ok, warn } from "./engine/finding.ts";

interface Context {
  env: Env;
  config: Config | undefined;
  signal: AbortSignal;
}

/** Seconds for one host: less than a check may take, so that it can say which of them does not answer. */
const hostS = 4;
/** As many are asked at the same time. */
const mostHosts = 8;

/**
 * One login on each, without a question: where a second factor is asked for, it says so.
 *
 * @returns undefined where no cluster has a host
 */
export async function checkClusters({ env, config, signal }: Context): Promise<Finding | undefined> {
  const reached = Object.entries(config?.ef?.clusters ?? {}).filter(([, { host }]) => host !== undefined);
  if (reached.length === 0) return undefined;
  const answers = await mapLimit(reached, mostHosts, ([name, cluster]) => answer(name, cluster, { env, signal }));
  const problems = answers.filter(({ error }) => error !== undefined);
  const found = answers.map(({ name, seconds, error }) =>
    error === undefined
      ? `${name} answers (${seconds.toFixed(1)} s)`
      : `${name}: ${error.message.replace(/\s*\n\s*/, ": ").replace(/\s*\n\s*/g, " ")}`,
  );
  if (problems.length === 0) return ok(found.join(", "));
  return warn(found.join("; "), problems[0]?.error?.hint);
}

interface Answer {
  name: string;
  seconds: number;
  error?: EfError;
}

async function answer(
  name: string,
  cluster: ClusterConfig,
  { env, signal }: { env: Env; signal: AbortSignal },
): Promise<Answer> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(noAnswer(cluster)), hostS * 1000);
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  try {
    const either = AbortSignal.any([signal, late.signal]);
    await using host = await openHost(cluster, { env, name, signal: either, batch: true });
    await host.run(["true"]);
    return { name, seconds: seconds() };
  } catch (error) {
    signal.throwIfAborted();
    return {
      name,
      seconds: seconds(),
      error: error instanceof EfError ? error : new EfError("UNREACHABLE", reasonOf(error)),
    };
  } finally {
    clearTimeout(timer);
  }
}

const noAnswer = ({ host }: ClusterConfig) =>
  new EfError("UNREACHABLE", `${host} does not answer within ${hostS} s`, {
    hint: "is a VPN needed, or is it slow to let one in? Try ssh by hand",
  });
