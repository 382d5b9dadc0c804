/** The stream that the local stack answers, read by the AI SDK: its last three major versions. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import * as ai5 from "ai5";
import * as ai6 from "ai";
import * as ai7 from "ai7";

import { startModel, startStack, until } from "./stack.mjs";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

const UNKNOWN = "0f8fad5b-d9cb-469f-a165-70867728950e";

const FIRST = "My name is Ada.";
const FIRST_REPLY = 'You have said 1 thing: "My name is Ada.".';
const SECOND = "What is my name?";
const SECOND_REPLY = 'You have said 2 things; before this: "My name is Ada.". Now: "What is my name?".';

/** What the model does after its first words, and the problem that the caller then gets. */
const FAILURES = {
  "whose connection breaks": [({ breakOff }) => breakOff(), { status: 502, code: "model_bad_response" }],
  "that tells of an error": [
    ({ fail }) => fail({ message: "The server had an error", type: "server_error" }),
    { status: 503, code: "model_unavailable" },
  ],
  "that the content filter ends": [({ finish }) => finish("content_filter"), { status: 422, code: "content_refused" }],
};

function post(stack, body, headers = {}) {
  const json = { "content-type": "application/json" };
  return fetch(`${stack.url}/api/v1/chat`, {
    method: "POST",
    headers: { ...json, ...headers },
    body: JSON.stringify(body),
  });
}

/** The parts of a stream, after a check that every byte of it is well-formed. */
function parts(text) {
  const events = text.split("\n\n");
  assert.equal(events.pop(), "", "an empty line ends the last event");
  const data = events.map((event) => event.match(/^data: ([^\n]*)$/)?.[1] ?? assert.fail(event));
  assert.equal(data.pop(), "[DONE]");
  return data.map((json) => JSON.parse(json));
}

/** `parts`, with consecutive text-deltas joined into one. */
function joined(parts) {
  return parts.reduce((before, part) => {
    const last = before.at(-1);
    if (part.type !== "text-delta" || last?.type !== "text-delta") return [...before, part];
    return [...before.slice(0, -1), { ...part, delta: last.delta + part.delta }];
  }, []);
}

/** The expected parts of an answer with one delta, with all their members. */
function answered(metadata, delta) {
  const { conversation_id, turn } = metadata;
  return [
    { type: "start", messageMetadata: { conversation_id, turn } },
    { type: "text-start", id: "0" },
    { type: "text-delta", id: "0", delta },
    { type: "text-end", id: "0" },
    { type: "finish", messageMetadata: metadata },
  ];
}

/** A gate at which a model waits until the test opens it. */
function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { open, opened };
}

/** A stack that is closed with the test, and whose model, if there is a script, follows it. */
async function stackOf(t, script, args = ["--function-url"]) {
  if (!script) return closedWith(t, await startStack([...args, "--model-delay", "0"]));
  const model = closedWith(t, await startModel(script));
  return closedWith(t, await startStack(args, { OPENAI_BASE_URL: model.url }));
}

function closedWith(t, service) {
  t.after(() => service.close());
  return service;
}

for (const [version, sdk] of Object.entries({ ai5, ai6, ai7 })) {
  describe(version, () => {
    let shared;
    before(async () => (shared = await startStack(["--function-url", "--model-delay", "5"])));
    after(() => shared?.close());

    /** Sends a message as `useChat` does, and returns the stream of the answer's parts. */
    function send(stack, text, { conversation_id, key = crypto.randomUUID(), abortSignal } = {}) {
      const transport = new sdk.DefaultChatTransport({
        api: `${stack.url}/api/v1/chat`,
        prepareSendMessagesRequest: ({ messages }) => ({
          headers: { "Idempotency-Key": messages.at(-1).id },
          body: { message: messages.at(-1).parts[0].text, conversation_id, stream: true },
        }),
      });
      const messages = [{ id: key, role: "user", parts: [{ type: "text", text }] }];
      return transport.sendMessages({ chatId: "chat", messages, trigger: "submit-message", abortSignal });
    }

    /** All states of the message that a stream becomes, and the errors that the stream reports. */
    async function read(stream) {
      const states = [];
      const errors = [];
      try {
        const onError = (error) => errors.push(error.message);
        for await (const state of sdk.readUIMessageStream({ stream, onError, terminateOnError: true })) {
          states.push(state);
        }
      } catch (error) {
        assert.deepEqual(errors, [error.message]);
      }
      return { states, errors, message: states.at(-1) };
    }

    const textsOf = ({ states }) => states.map(({ parts }) => parts.find(({ type }) => type === "text")?.text ?? "");

    async function assertValid(parts) {
      const schema = sdk.asSchema(sdk.uiMessageChunkSchema);
      for (const part of parts) {
        const { success, error } = await schema.validate(part);
        assert.ok(success, `${JSON.stringify(part)}: ${error}`);
      }
    }

    test("a chat becomes a message that grows, with all that an answer contains", async () => {
      const result = await read(await send(shared, FIRST));
      assert.deepEqual(result.errors, []);
      const [{ text, state }, ...others] = result.message.parts;
      assert.deepEqual([text, state, others], [FIRST_REPLY, "done", []]);
      const { conversation_id, usage, ...metadata } = result.message.metadata;
      assert.match(conversation_id, UUID);
      const expected = { turn: 1, model: "gpt-6-luna", finish_reason: "stop", remembered_turns: 0, saved: true };
      assert.deepEqual(metadata, expected);
      assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);

      const texts = new Set(textsOf(result));
      assert.ok(texts.size > 4, `it has grown by the word: ${[...texts]}`);
      for (const text of texts) assert.ok(FIRST_REPLY.startsWith(text), text);
      assert.deepEqual(result.states[0].metadata, { conversation_id, turn: 1 });
    });

    test("a delta arrives before the model sends the next one", async (t) => {
      const next = gate();
      const stack = await stackOf(t, async ({ say, finish }) => {
        say("One");
        await next.opened;
        say(" two");
        finish("stop");
      });
      const texts = [];
      for await (const { parts } of sdk.readUIMessageStream({ stream: await send(stack, "Count") })) {
        texts.push(parts[0]?.text);
        if (texts.at(-1) === "One") next.open();
      }
      assert.equal(texts.at(-1), "One two");
    });

    test("every part follows the schema", async () => {
      const response = await post(shared, { message: FIRST, stream: true });
      assert.equal(response.status, 200);
      const header = (name) => response.headers.get(name);
      assert.equal(header("content-type"), "text/event-stream");
      for (const [name, value] of Object.entries(sdk.UI_MESSAGE_STREAM_HEADERS)) {
        // Its other headers are for a server that holds the connection itself.
        if (name.startsWith("x-")) assert.equal(header(name), value, name);
      }
      assert.equal(header("cache-control"), "no-store");
      const sent = parts(await response.text());
      await assertValid(sent);
      assert.deepEqual(joined(sent), answered(sent.at(-1).messageMetadata, FIRST_REPLY));
      assert.ok(sent.filter(({ type }) => type === "text-delta").length > 4);
    });

    test("the second turn of a conversation remembers the first", async () => {
      const first = await read(await send(shared, FIRST));
      const { conversation_id } = first.message.metadata;
      const { message, errors } = await read(await send(shared, SECOND, { conversation_id }));
      assert.deepEqual([errors, message.parts[0].text], [[], SECOND_REPLY]);
      const { turn, remembered_turns } = message.metadata;
      assert.deepEqual([message.metadata.conversation_id, turn, remembered_turns], [conversation_id, 2, 1]);
    });

    test("a repeated key gets the stored answer in one delta", async () => {
      const key = crypto.randomUUID();
      const first = await read(await send(shared, FIRST, { key }));
      const again = [];
      for await (const part of await send(shared, FIRST, { key })) again.push(part);
      assert.deepEqual(again, answered(first.message.metadata, FIRST_REPLY));
      const conversation = await fetch(`${shared.url}/api/v1/conversations/${first.message.metadata.conversation_id}`);
      assert.equal((await conversation.json()).turns, 1);
    });

    test("an HTTP API answers the same parts in one piece", async (t) => {
      const stack = await stackOf(t, null, []);
      const response = await post(stack, { message: FIRST, stream: true });
      assert.equal(response.headers.get("content-type"), "text/event-stream");
      assert.equal(response.headers.get("x-vercel-ai-ui-message-stream"), "v1");
      const length = Number(response.headers.get("content-length"));
      const body = await response.text();
      assert.equal(length, Buffer.byteLength(body), "the answer has a Content-Length");
      const sent = parts(body);
      await assertValid(sent);
      assert.deepEqual(joined(sent), answered(sent.at(-1).messageMetadata, FIRST_REPLY));

      const { conversation_id } = sent.at(-1).messageMetadata;
      const { message, errors } = await read(await send(stack, SECOND, { conversation_id }));
      assert.deepEqual([errors, message.parts[0].text], [[], SECOND_REPLY]);
    });

    test("an error before the first word is thrown with its problem document", async (t) => {
      // Nothing listens on this port, so the model cannot be reached.
      const alone = closedWith(t, await startStack(["--function-url"], { OPENAI_BASE_URL: "http://127.0.0.1:1/v1" }));
      const rows = [
        [shared, " ", {}, 400, "invalid_field"],
        [shared, FIRST, { key: "no-uuid" }, 400, "invalid_idempotency_key"],
        [shared, FIRST, { conversation_id: UNKNOWN }, 404, "conversation_not_found"],
        [alone, FIRST, {}, 503, "model_unavailable"],
      ];
      for (const [stack, text, options, status, code] of rows) {
        const error = await send(stack, text, options).then(() => assert.fail(code), (error) => error);
        const problem = JSON.parse(error.message);
        assert.deepEqual([problem.status, problem.code], [status, code]);
        assert.match(problem.detail, /\.$/);
      }
    });

    for (const [what, [end, expected]] of Object.entries(FAILURES)) {
      test(`an answer ${what} is reported in a part and as an error`, async (t) => {
        let fails = true;
        const stack = await stackOf(t, async (model) => {
          model.say("One");
          model.say(" two");
          if (!fails) return model.finish("stop");
          // The text must be on its way before the connection breaks.
          await seen.opened;
          end(model);
        });
        const seen = gate();
        const key = crypto.randomUUID();
        const sent = [];
        const watched = new TransformStream({
          transform(part, controller) {
            sent.push(part);
            if (part.delta === " two") seen.open();
            controller.enqueue(part);
          },
        });
        const { message, errors } = await read((await send(stack, "Count", { key })).pipeThrough(watched));
        await assertValid(sent);
        const kinds = ["start", "text-start", "text-delta", "text-delta", "data-problem", "error"];
        assert.deepEqual(sent.map(({ type }) => type), kinds);
        const [text, { data: problem }] = message.parts;
        assert.deepEqual([text.type, text.text, text.state], ["text", "One two", "streaming"]);
        assert.deepEqual([problem.status, problem.code], [expected.status, expected.code]);
        assert.match(problem.request_id, UUID);
        assert.deepEqual([errors, sent.at(-1).errorText], [[problem.detail], problem.detail]);
        assert.match(problem.detail, /\.$/);
        const { conversation_id } = message.metadata;
        const stored = await fetch(`${stack.url}/api/v1/conversations/${conversation_id}`);
        assert.equal(stored.status, 404, "nothing is stored");

        fails = false;
        const retried = await read(await send(stack, "Count", { key }));
        const { saved, turn } = retried.message.metadata;
        assert.deepEqual([retried.errors, retried.message.parts[0].text], [[], "One two"]);
        assert.deepEqual([retried.message.metadata.conversation_id, saved, turn], [conversation_id, true, 1]);
      });
    }

    test("a conversation that is deleted meanwhile is reported after the whole text", async (t) => {
      const rest = gate();
      let answers = 0;
      const stack = await stackOf(t, async ({ say, finish }) => {
        say("One");
        answers += 1;
        if (answers === 2) await rest.opened;
        finish("stop");
      });
      const { conversation_id } = (await read(await send(stack, "Count"))).message.metadata;
      const sent = [];
      for await (const part of await send(stack, "Go on", { conversation_id })) {
        sent.push(part);
        if (part.type !== "text-delta") continue;
        const address = `${stack.url}/api/v1/conversations/${conversation_id}`;
        assert.equal((await fetch(address, { method: "DELETE" })).status, 204);
        rest.open();
      }
      await assertValid(sent);
      const kinds = ["start", "text-start", "text-delta", "text-end", "data-problem", "error"];
      assert.deepEqual(sent.map(({ type }) => type), kinds);
      const { status, code, detail } = sent.at(-2).data;
      assert.deepEqual([status, code, sent.at(-1).errorText], [409, "conversation_deleted", detail]);
    });

    test("a stopped answer is stored all the same", async (t) => {
      const rest = gate();
      const stack = await stackOf(t, async ({ say, finish }) => {
        say("One");
        await rest.opened;
        say(" two");
        finish("stop");
      });
      const stop = new AbortController();
      const stream = await send(stack, "Count", { abortSignal: stop.signal });
      let message;
      await assert.rejects(
        async () => {
          for await (message of sdk.readUIMessageStream({ stream, terminateOnError: true })) {
            if (message.parts[0]?.text) stop.abort();
          }
        },
        { name: "AbortError" },
      );
      assert.equal(message.parts[0].text, "One");
      rest.open();
      const address = `${stack.url}/api/v1/conversations/${message.metadata.conversation_id}`;
      const stored = await until(async () => {
        const answer = await fetch(address);
        return answer.ok && answer.json();
      }, "the turn is stored");
      const texts = stored.messages.map(({ role, content }) => [role, content]);
      assert.deepEqual(texts, [["user", "Count"], ["assistant", "One two"]]);
    });
  });
}

test("the body requests a stream, or Accept does if the body says nothing", async (t) => {
  const accept = { accept: "text/event-stream" };
  const rows = [
    [{ stream: true }, {}, "text/event-stream"],
    [{ stream: true }, { accept: "application/json" }, "text/event-stream"],
    [{}, accept, "text/event-stream"],
    [{}, { accept: "application/json, text/event-stream;q=0.9" }, "text/event-stream"],
    [{ stream: false }, accept, "application/json"],
    [{}, {}, "application/json"],
    [{ stream: "true" }, accept, "application/problem+json"],
  ];
  const stack = await stackOf(t);
  for (const [stream, headers, kind] of rows) {
    const response = await post(stack, { message: FIRST, ...stream }, headers);
    const body = await response.text();
    assert.equal(response.headers.get("content-type"), kind, JSON.stringify([stream, headers, body]));
    if (kind === "text/event-stream") assert.equal(parts(body)[2].type, "text-delta");
  }
});
