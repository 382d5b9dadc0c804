/** The local stack, and a model whose answers a test writes. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";

/** The built example `local`. */
const LOCAL = path.resolve(process.env.LOCAL_STACK);

/** How long anything may take, in milliseconds. A test that passes never waits this long. */
const PATIENCE = 20_000;

/** Waits until `condition` returns something truthy, and returns that. */
export async function until(condition, what) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not in ${PATIENCE} ms: ${what}`);
    await setTimeout(20);
  }
}

/** Starts the function behind the local gateway, with only these arguments and variables. */
export async function startStack(args, env = {}) {
  const cwd = await mkdtemp(path.join(tmpdir(), "stack-"));
  const stack = spawn(LOCAL, ["--port", "0", ...args], { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  stack.stderr.on("data", (data) => (log += data));
  const exited = once(stack, "exit");
  const lines = createInterface(stack.stdout);
  const [line] = await Promise.race([once(lines, "line"), exited]);
  const url = String(line).match(/^Listening on (\S+) /)?.[1];
  if (!url) throw new Error(`the stack does not start: ${line} ${log}`);
  return {
    url,
    /** The access log: a line such as `GET /health 200 1 ms` for each request. */
    log: () => log,
    async close() {
      stack.kill();
      await exited;
      await rm(cwd, { recursive: true });
    },
  };
}

/**
 * Starts a server with the Chat Completions API, whose every answer is what `script` does with the functions that it
 * is given.
 */
export async function startModel(script) {
  const server = createServer(async (request, response) => {
    const said = JSON.parse(Buffer.concat(await request.toArray()));
    const send = (data) => response.write(`data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`);
    const chunk = (delta, finish_reason = null) => {
      const choices = [{ index: 0, delta, finish_reason }];
      send({ id: "chatcmpl-1", object: "chat.completion.chunk", created: 1, model: said.model, choices });
    };
    response.writeHead(200, { "content-type": "text/event-stream" });
    await script({
      say: (content) => chunk({ content }),
      fail: (error) => send({ error }),
      breakOff: () => response.destroy(),
      finish(reason) {
        chunk({}, reason);
        const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
        send({ id: "chatcmpl-1", object: "chat.completion.chunk", created: 1, model: said.model, choices: [], usage });
        send("[DONE]");
        response.end();
      },
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}/v1`,
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}
