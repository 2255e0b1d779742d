/** Who hands a copy on to whom. */
import type { Peer } from "./links.ts";

/**
 * Each node sends to so many others: with two, a node's network carries the copy three times, and a thousand nodes are ten
 * steps away.
 */
const width = 2;

/**
 * Every node of a round with those that it sends to.
 *
 * @param nodes the first one reads
 */
export function spreadOver(nodes: readonly string[], peerOf: (node: string) => Peer): Record<string, Peer[]> {
  const next: Record<string, Peer[]> = {};
  nodes.forEach((node, i) => {
    next[node] = nodes.slice(width * i + 1, width * i + 1 + width).map(peerOf);
  });
  return next;
}

/** A node, and all that get the copy through it. */
export function below(next: Readonly<Record<string, readonly Peer[]>>, node: string): string[] {
  return [node, ...(next[node] ?? []).flatMap((peer) => below(next, peer.node))];
}
