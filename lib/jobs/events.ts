/** What happens while a job is sent and followed. */
import type { JobPhase } from "./record.ts";

export type SubmitEvent =
  | { type: "warning"; message: string }
  /** A file goes to the cluster. */
  | { type: "shipping"; what: string; bytes: number }
  /** An environment is made there of so many packages. */
  | { type: "installing"; packages: number; dir: string }
  /** What that prints. */
  | { type: "output"; text: string };

export type JobEvent =
  | { type: "state"; state: JobPhase; reason: string | undefined }
  | { type: "output"; stream: "stdout" | "stderr"; bytes: Buffer };
