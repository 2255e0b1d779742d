import type { Commands } from "./args.ts";

/** Every command. */
export const commands: Commands = {
  sync: () => import("./sync.ts"),
  push: () => import("./push.ts"),
  exec: () => import("./exec.ts"),
  status: () => import("./status.ts"),
  verify: () => import("./verify.ts"),
  init: () => import("./init.ts"),
  "config path": () => import("./config-path.ts"),
  "config show": () => import("./config-show.ts"),
  "config get": () => import("./config-get.ts"),
  "config set": () => import("./config-set.ts"),
  "config unset": () => import("./config-unset.ts"),
  "config edit": () => import("./config-edit.ts"),
  "config validate": () => import("./config-validate.ts"),
  doctor: () => import("./doctor.ts"),
  "shell-init": () => import("./shell-init.ts"),
  completions: () => import("./completions.ts"),
  schema: () => import("./schema.ts"),
  __values: () => import("./values.ts"),
};

/** Groups of the help. */
export const groups: Record<string, readonly string[]> = {
  "Stage data": ["sync", "push", "exec", "status", "verify"],
  "Set up": ["init", "config", "shell-init", "completions", "doctor"],
  "For programs": ["schema"],
};
