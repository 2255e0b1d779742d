/** Numbers as people read them, and back. */

const suffixes = ["", "K", "M", "G", "T", "P", "E"];

/**
 * A size as `du -h` prints it: powers of 1024, rounded up, one decimal below 10 (`0`, `4.0K`, `1.3M`, `12G`).
 *
 * @see https://www.gnu.org/software/coreutils/manual/html_node/Block-size.html
 */
export function humanBytes(bytes: number): string {
  if (bytes < 1024) return String(Math.ceil(bytes));
  let value = bytes;
  let power = 0;
  while (value >= 1024 && power < suffixes.length - 1) {
    value /= 1024;
    power++;
  }
  const tenths = Math.ceil(value * 10) / 10;
  if (tenths < 10) return `${tenths.toFixed(1)}${suffixes[power]}`;
  const whole = Math.ceil(value);
  return whole < 1024 || power === suffixes.length - 1 ? `${whole}${suffixes[power]}` : `1.0${suffixes[power + 1]}`;
}

/** A size within a sentence: `9 B`, `1.3M`. */
export const sizeText = (bytes: number): string => (bytes < 1024 ? `${Math.ceil(bytes)} B` : humanBytes(bytes));

/** How long ago, in the unit that fits, as euler-files writes it: `12s ago`, `5m ago`, `3h ago`, `2d ago`. */
export function humanAge(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}s ago`;
  if (s < 3600) return `${Math.floor(s / 60)}m ago`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ago`;
  return `${Math.floor(s / 86400)}d ago`;
}

/** A duration for people: `0.4 s`, `12 s`, `3m 05s`, `2h 10m`. */
export function humanDuration(seconds: number): string {
  if (seconds < 0.1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const s = Math.round(seconds);
  if (s < 3600) return `${Math.floor(s / 60)}m ${String(s % 60).padStart(2, "0")}s`;
  return `${Math.floor(s / 3600)}h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
}

/** A count with thousands separated: `1,234,567`. */
export function humanCount(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** `1 file`, `2 files`, `3 directories`. */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${humanCount(count)} ${count === 1 ? one : many}`;
}
