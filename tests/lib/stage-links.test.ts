import { afterEach, expect, test } from "bun:test";
import { createServer, connect as dial, type Server, type Socket } from "node:net";
import { connect, type Link, LinkLost, type Listener, listen, ownAddresses } from "../../lib/stage/links.ts";
import { until } from "../helpers.ts";

const secret = "0123456789abcdef";
const undo: (() => void)[] = [];
afterEach(() => {
  for (const each of undo.splice(0)) each();
});

interface End {
  listener: Listener;
  links: { round: number; link: Link }[];
}

async function listening(node = "n2"): Promise<End> {
  const links: End["links"] = [];
  const listener = await listen(secret, node, (round, link) => links.push({ round, link }));
  undo.push(() => {
    listener[Symbol.dispose]();
    for (const { link } of links) link.close();
  });
  return { listener, links };
}

async function pair(): Promise<[Link, Link]> {
  const { listener, links } = await listening();
  const near = await connect(secret, { node: "n2", addresses: ["127.0.0.1"], port: listener.port }, 7);
  undo.push(() => near.close());
  const { round, link } = await until("the other end", () => links[0]);
  expect(round).toBe(7);
  return [near, link];
}

async function all(link: Link): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for (let chunk = await link.read(); chunk; chunk = await link.read()) chunks.push(chunk);
  return Buffer.concat(chunks);
}

test("what is sent is read, to its end, also what comes with the greeting", async () => {
  const [near, far] = await pair();
  await near.send(Buffer.from("one "));
  await near.send(Buffer.from("two"));
  near.end();
  expect((await all(far)).toString()).toBe("one two");
  expect(await far.read()).toBeUndefined();
});

test("whoever does not know the secret gets no link, and neither does one who listens without it", async () => {
  const { listener, links } = await listening();
  const peer = { node: "n2", addresses: ["127.0.0.1"], port: listener.port };
  await expect(connect("another secret", peer, 1)).rejects.toThrow("another program answers");
  await expect(connect(secret, { ...peer, node: "n3" }, 1)).rejects.toBeInstanceOf(LinkLost); // it is n2
  expect(links).toEqual([]);
  const link = await connect(secret, peer, 1); // and it is there still
  undo.push(() => link.close());
  await until("the link", () => links.length === 1);
});

/** Say something to a listener, and hear what it answers until it closes. */
function ask(port: number, said: string | Buffer, then?: (answer: string, socket: Socket) => void): Promise<string> {
  return new Promise((resolve) => {
    let heard = "";
    const socket = dial({ host: "127.0.0.1", port }, () => void socket.write(said));
    socket.on("data", (chunk) => {
      heard += chunk.toString("latin1");
      then?.(heard, socket);
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(heard));
  });
}

test("garbage, another protocol and a replayed proof are sent away", async () => {
  const { listener, links } = await listening();
  for (const said of [
    "GET / HTTP/1.1\r\n\r\n",
    "{}\n",
    "null\n",
    "[1]\n",
    '{"round":1}\n',
    "\n",
    Buffer.alloc(5000, 1),
  ])
    expect(await ask(listener.port, said)).toBe("");
  const first = await ask(listener.port, '{"round":1,"nonce":"a"}\n', (_, socket) => socket.write('{"proof":"00"}\n'));
  const { proof, nonce } = JSON.parse(first);
  expect(proof).toHaveLength(64);
  // What it proved itself is no proof of another, though the other end chose what it was asked.
  const replay = (answer: string, socket: Socket) => {
    if (answer.endsWith("\n")) socket.write(`${JSON.stringify({ proof: JSON.parse(answer).proof })}\n`);
  };
  await ask(listener.port, `${JSON.stringify({ round: 1, nonce })}\n`, replay);
  expect(links).toEqual([]);
});

async function program(answer: (socket: Socket) => void): Promise<number> {
  const server: Server = createServer((socket) => {
    socket.on("error", () => {});
    answer(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  undo.push(() => void server.close());
  return (server.address() as { port: number }).port;
}

test("a program that answers in other words is no node, and the reason is said", async () => {
  const ports = await Promise.all([
    program((socket) => socket.end("SSH-2.0-OpenSSH_9.2\r\n")),
    program((socket) => socket.write(Buffer.alloc(100_000, "x"))),
    program((socket) => socket.destroy()),
    program((socket) => socket.end('{"nonce":1,"proof":null}\n')),
  ]);
  for (const port of ports)
    await expect(connect(secret, { node: "n2", addresses: ["127.0.0.1"], port }, 1)).rejects.toThrow(
      new RegExp(`^127\\.0\\.0\\.1 port ${port}: .`),
    );
});

test("addresses are tried in turn", async () => {
  const { listener, links } = await listening();
  const peer = { node: "n2", addresses: ["no-such-host.invalid", "127.0.0.1"], port: listener.port };
  const link = await connect(secret, peer, 3);
  undo.push(() => link.close());
  await until("the link", () => links.length === 1);
  const bad = { ...peer, addresses: ["no-such-host.invalid"] };
  await expect(connect(secret, bad, 3)).rejects.toThrow("no-such-host.invalid");
  await expect(connect(secret, { ...peer, addresses: [] }, 3)).rejects.toBeInstanceOf(LinkLost);
});

test("the end in the midst of it is heard by both", async () => {
  const [near, far] = await pair();
  await near.send(Buffer.alloc(100, "a"));
  expect(await far.read()).toHaveLength(100);
  far.close();
  const lost = (async () => {
    for (;;) {
      await near.send(Buffer.alloc(1 << 20));
      await Bun.sleep(1);
    }
  })();
  await expect(lost).rejects.toBeInstanceOf(LinkLost);

  const [other, killed] = await pair();
  other.close();
  expect(await killed.read().catch(() => undefined)).toBeUndefined();
});

test("one that sends to many waits for the slowest only when much is under way", async () => {
  const [near, far] = await pair();
  let sent = 0;
  let isOver = false;
  const piece = Buffer.alloc(1 << 20, "z");
  const all = 100;
  const sending = (async () => {
    for (; sent < all; sent++) await near.send(piece);
    near.end();
    isOver = true;
  })();
  await until("the other end not to take more", () => near.isBehind && sent >= 32);
  await Bun.sleep(200);
  expect(isOver).toBe(false);
  expect(sent).toBeLessThan(90); // what both ends and the kernel keep
  let bytes = 0;
  for (let chunk = await far.read(); chunk; chunk = await far.read()) bytes += chunk.length;
  await sending;
  expect(bytes).toBe(all * piece.length);
});

test("a node knows where it can be reached, and what only it knows comes last", () => {
  const addresses = ownAddresses();
  expect(new Set(addresses).size).toBe(addresses.length);
  const own = addresses.findIndex((address) => address === "127.0.0.1" || address === "::1");
  expect(addresses.slice(own < 0 ? addresses.length : own).every((one) => /^(?:127\.|::1$)/.test(one))).toBe(true);
});
