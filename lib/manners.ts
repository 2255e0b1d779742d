/** How much of a node is taken where nobody says: little of one that many people share. */
import type { Env } from "./base/paths.ts";
import type { Config } from "./config/schema.ts";
import { isLoginNode } from "./drivers/login-node.ts";

/**
 * Requests in flight and threads on a login node. Sites that set limits give each user about four processors there
 * (help.itc.rwth-aachen.de, "login nodes"); and as many requests are what `cp` in four terminals has.
 */
const loginWorkers = 4;

export interface Manners {
  isLogin: boolean;
  /** What nobody asked for otherwise; absent where that is up to the engine. */
  workers?: number | "auto";
}

/**
 * @param asked by a flag or option: wins over the configuration, and both over what is usual on a login node
 * @throws {EfError} USAGE for an `EF_LOGIN_NODE` that says nothing
 */
export async function manners(config: Config, asked: number | "auto" | undefined, env: Env): Promise<Manners> {
  const isLogin = await isLoginNode(env);
  const workers = asked ?? config.ef?.transfer?.workers ?? (isLogin ? loginWorkers : undefined);
  return workers === undefined ? { isLogin } : { isLogin, workers };
}
