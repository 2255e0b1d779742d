/** A site with hpc-workspace: stand-ins for its tools (tests/fakes/ws) on the PATH of a throw-away HOME. */
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Home } from "./helpers.ts";

const tools = ["ws_allocate", "ws_list", "ws_find", "ws_extend", "ws_release", "ws_restore"];

export interface Site {
  /** Whose output and habits: 1.4 (no file system in the list), 1.5, 1.6 (`--delete-data`), 2.0 (the rewrite). */
  version?: "1.4" | "1.5" | "1.6" | "2.0";
  /** Whose workspaces they are. @default one whose name has a dash, as ids have */
  user?: string;
  filesystems?: Record<string, { maxdays?: number; extensions?: number; extendable?: boolean; allocatable?: boolean }>;
}

interface Entry {
  expiration: number;
  extensions: number;
  comment: string;
  reminder: number;
  mail: string;
  group: string;
}

export class Workspaces {
  readonly dir: string;
  readonly #user: string;

  /** Put the tools on the PATH of `at`, in its variable too. */
  constructor(at: Home, { version = "1.5", user = "ann-a", filesystems = { scratch: {} } }: Site = {}) {
    this.#user = user;
    this.dir = join(at.dir, "site");
    const bin = join(this.dir, "bin");
    mkdirSync(bin, { recursive: true });
    for (const tool of tools) symlinkSync(resolve(import.meta.dir, "fakes/ws/ws.py"), join(bin, tool));
    const site = { version, user, default: Object.keys(filesystems)[0], filesystems };
    writeFileSync(join(this.dir, "site.json"), JSON.stringify(site));
    at.env.PATH = `${bin}:${at.env.PATH}`;
    at.env.WS_FAKE = this.dir;
    at.env.USER = user;
  }

  /** The directory of a workspace, there or not. */
  path(name: string, filesystem = "scratch"): string {
    return join(this.dir, filesystem, `${this.#user}-${name}`);
  }

  private file(name: string, filesystem: string): string {
    return join(this.dir, "db", filesystem, `${this.#user}-${name}.json`);
  }

  exists(name: string, filesystem = "scratch"): boolean {
    return existsSync(this.file(name, filesystem));
  }

  entry(name: string, filesystem = "scratch"): Entry {
    return JSON.parse(readFileSync(this.file(name, filesystem), "utf8"));
  }

  /** Change what the site has written down of a workspace. */
  change(name: string, changes: Partial<Entry>, filesystem = "scratch"): void {
    writeFileSync(this.file(name, filesystem), JSON.stringify({ ...this.entry(name, filesystem), ...changes }));
  }

  /** Let it expire in so many days. */
  expireIn(name: string, days: number, filesystem = "scratch"): void {
    this.change(name, { expiration: Math.floor(Date.now() / 1000 + days * 86_400) }, filesystem);
  }

  /** Every command line so far. */
  calls(): string[][] {
    const file = join(this.dir, "calls");
    if (!existsSync(file)) return [];
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    return lines.map((line) => JSON.parse(line));
  }
}
