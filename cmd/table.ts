import type { Commands } from "./args.ts";

/** Every command. */
export const commands: Commands = {
  sync: () => import("./sync.ts"),
  push: () => import("./push.ts"),
  exec: () => import("./exec.ts"),
  status: () => import("./status.ts"),
  verify: () => import("./verify.ts"),
  migrate: () => import("./migrate.ts"),
  "venv create": () => import("./venv-create.ts"),
  "venv save": () => import("./venv-save.ts"),
  "venv load": () => import("./venv-load.ts"),
  "venv activate": () => import("./venv-activate.ts"),
  "venv deactivate": () => import("./venv-deactivate.ts"),
  "venv list": () => import("./venv-list.ts"),
  "venv rm": () => import("./venv-rm.ts"),
  "venv export": () => import("./venv-export.ts"),
  "venv install": () => import("./venv-install.ts"),
  "venv wheel": () => import("./venv-wheel.ts"),
  "apptainer fixup": () => import("./apptainer-fixup.ts"),
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
  "__venv-prompt": () => import("./venv-prompt.ts"),
  __values: () => import("./values.ts"),
};

/** Groups of the help. */
export const groups: Record<string, readonly string[]> = {
  "Stage data": ["sync", "push", "exec", "status", "verify", "migrate"],
  "Python environments": ["venv", "apptainer"],
  "Set up": ["init", "config", "shell-init", "completions", "doctor"],
  "For programs": ["schema"],
};
