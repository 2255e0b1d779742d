import { EfError } from "../lib/base/errors.ts";
import { widenPool } from "../lib/base/stat.ts";
import { agent } from "../lib/stage/agent.ts";
import type { Order } from "../lib/stage/messages.ts";
import { command } from "./args.ts";
import { emit, stopSignal } from "./process.ts";

/** For `ef stage`, which starts it on every node. */
export default command({
  name: "__stage-agent",
  description: "The part of ef stage that runs on each node",
  plain: true,
  args: {},
  async run() {
    const node = process.env.SLURMD_NODENAME;
    if (!node) throw new EfError("USAGE", "ef __stage-agent: only for ef stage");
    await widenPool(); // before stdin is read, which uses it
    const gone = new AbortController();
    const signal = AbortSignal.any([stopSignal(), gone.signal]);
    const say = (word: object) => {
      if (!emit(`${JSON.stringify(word)}\n`)) gone.abort(new Error("nobody listens any more"));
    };
    await agent({ node, orders: orders(signal), say, env: process.env, signal });
    return { json: {}, text: "" };
  },
});

async function* orders(signal: AbortSignal): AsyncGenerator<Order> {
  let rest = "";
  const stop = () => void process.stdin.destroy();
  signal.addEventListener("abort", stop, { once: true });
  process.stdin.setEncoding("utf8");
  for await (const text of process.stdin) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) yield JSON.parse(line) as Order;
  }
}
