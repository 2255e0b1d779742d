import type { Env } from "../base/paths.ts";
import type { ClusterConfig } from "../config/schema.ts";
import { SshConnection, sshTarget } from "../drivers/ssh.ts";
import type { Host } from "./host.ts";
import { LocalHost } from "./local-host.ts";
import { SshHost } from "./ssh-host.ts";

export interface OpenOptions {
  /** For ssh, and for what is run on this machine. */
  env: Env;
  /** Ends what runs, there too. */
  signal?: AbortSignal | undefined;
  /** Name of the definition in `ef.clusters`, for messages. */
  name?: string;
  /** Never ask for a password, also in front of a terminal. @default false */
  batch?: boolean;
}

/**
 * The machine of a definition: this one, for `local` and for Slurm without a host, or the one that ssh reaches. Over ssh nothing happens before
 * the first call.
 *
 * @throws {EfError} UNSET_VARIABLE, of the path of the private key
 * @example
 * await using host = await openHost({ type: "ssh", host: "login.example.org" }, { env: process.env });
 * const { stdout } = await host.run(["squeue", "--me"]);
 */
export async function openHost(cluster: ClusterConfig, options: OpenOptions): Promise<Host> {
  const { env, signal, name = "NAME", batch = false } = options;
  const { host, type } = cluster;
  if (type === "local" || host === undefined) return new LocalHost({ env, signal });
  const where = `ef.clusters.${name}`;
  const target = sshTarget({ ...cluster, host }, env, where);
  return new SshHost(new SshConnection(target, { env, signal, where, batch }), { env, signal, where });
}
