/** What happens while an environment is packed or unpacked. */
export type VenvEvent =
  | { type: "warning"; name: string; message: string }
  /** Somebody else saves, removes or loads the same. */
  | { type: "waiting"; name: string; who: string }
  /** So much is to be packed or unpacked; `bytes` of the contents, or of the archive that is read. */
  | { type: "copying"; name: string; plan: { files: number; bytes: number; names: string[] } }
  | { type: "progress"; name: string; bytes: number; files: number };

export type OnVenvEvent = (event: VenvEvent) => void;
