/** What the one who conducts a staging and the agents on the nodes say to each other, a line of JSON each, through srun. */
import { EfError, reasonOf } from "../base/errors.ts";
import type { Config } from "../config/schema.ts";
import type { Step } from "../engine/plan.ts";
import type { Peer } from "./links.ts";

/** To all agents: srun hands its stdin to each of them. */
export type Order =
  | {
      order: "look";
      /** Of the copies on scratch, with where they are read. */
      steps: Step[];
      config: Config;
      secret: string;
      force: boolean;
      preflight: boolean;
      /** Only look: nothing is locked or made. */
      dryRun: boolean;
      job: string | undefined;
    }
  /** A copy goes from one node to the others. */
  | Round
  /** Nodes that are no longer to be waited for, or to wait. */
  | { order: "drop"; round: number; nodes: string[]; why: string }
  /** The file of a round has been handed to all nodes by sbcast(1). */
  | { order: "unpack"; round: number }
  /** Take away what ef made. */
  | { order: "remove"; steps: Step[]; config: Config }
  | { order: "end" };

export interface Round {
  order: "round";
  round: number;
  /** The variable. */
  name: string;
  /** The node that reads. */
  first: string;
  /** What it reads: where the step says, or the copy that it has itself. */
  read: "origin" | "copy";
  /** Every node that takes part, and those that it hands it on to. */
  next: Record<string, Peer[]>;
  /** Not from node to node, but by sbcast(1), through a file of this name, which is the same on all nodes. */
  file?: string;
}

/** Of an agent. */
export type Word = { node: string } & (
  | { word: "hello"; addresses: string[]; port: number; root: string }
  | { word: "fresh"; name: string; target: string }
  | { word: "needed"; name: string; target: string; why: string }
  /** Another process has the lock of its copy: the answer comes later. */
  | { word: "waiting"; name: string; who: string }
  /** Said now and then, when there is nothing else to say. */
  | { word: "alive" }
  | { word: "warning"; name: string; message: string }
  /** Also says that it is alive. */
  | { word: "progress"; round: number; name: string; files: number; bytes: number; ofBytes: number }
  | { word: "removed"; name: string; target: string; left: number; first: string | undefined }
  /** Processes use it: it stays. */
  | { word: "used"; name: string; target: string }
  | { word: "unreached"; round: number; next: string; why: string }
  /** The file of a round is on all nodes. */
  | { word: "handed"; round: number }
  | { word: "done"; round: number; name: string; files: number; bytes: number; seconds: number }
  | { word: "failed"; round: number | undefined; name: string; because: Because; error: Failure }
);

/** Where a failure lies: on this node, at the nodes before it, or where all of it is read. */
export type Because = "node" | "upstream" | "source";

export interface Failure {
  code: string;
  message: string;
  hint?: string | undefined;
}

/** Each word of this node. */
type Words = Word extends infer W ? (W extends { node: string } ? Omit<W, "node"> : never) : never;
export type Say = (word: Words) => void;

export function failureOf(error: unknown): Failure {
  if (error instanceof EfError) return { code: error.code, message: error.message, hint: error.hint };
  return { code: "IO", message: reasonOf(error) };
}
