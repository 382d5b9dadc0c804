// The page is at <stage or prefix>/docs, with or without a slash at its end.
const base = location.pathname.replace(/\/docs\/?$/, "");

const byId = (id) => document.getElementById(id);

// An element with these attributes and children. Text is never read as HTML.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return fill(made, children);
}

function fill(parent, ...children) {
  parent.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== ""));
  return parent;
}

// Text in which `code` stands between backquotes, as a paragraph for each of its paragraphs.
function paragraphs(text) {
  const marked = (part, index) => (index % 2 ? element("code", {}, part) : part);
  return (text ?? "")
    .split("\n\n")
    .filter(Boolean)
    .map((text) => element("p", {}, text.split("`").map(marked)));
}

// Asks the API, whose answer may be of any kind: its status (0 when there is none), headers, text and JSON.
async function call(method, path, headers = {}, body) {
  const token = byId("token").value.trim();
  if (token) headers = { ...headers, authorization: `Bearer ${token}` };
  const begun = performance.now();
  try {
    const response = await fetch(base + path, { method, headers, body });
    const text = await response.text();
    let json;
    try {
      json = JSON.parse(text);
    } catch {}
    return {
      status: response.status,
      headers: response.headers,
      text,
      json,
      took: Math.round(performance.now() - begun),
    };
  } catch (error) {
    return { status: 0, headers: new Headers(), text: String(error), took: Math.round(performance.now() - begun) };
  }
}

// Whether an answer is what was asked for, and not a problem or somebody else's page.
const isGood = ({ status, json }) => status === 200 && json !== undefined;

// A UUID of version 4. `randomUUID` is there in secure contexts only.
function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/* Chat */

// The conversation that the log shows, the cursor of its older turns, and the message that was not answered, whose key
// makes it safe to send again.
const chat = { shown: "", older: undefined, unanswered: undefined, busy: false };

const conversationPath = (id, query = "") => `/api/v1/conversations/${encodeURIComponent(id)}${query}`;

// The id outlives a reload of the page, not its tab.
function remember(id) {
  byId("conversation").value = id;
  try {
    sessionStorage.setItem("conversation", id);
  } catch {}
}

function said(role, text) {
  const who = role === "user" ? "You" : "Assistant";
  return element("div", { class: `said ${role}` }, element("p", { class: "who" }, who), text);
}

function failed({ status, json, text, headers }) {
  const problem = json ?? {};
  const wait = headers.get("retry-after");
  const lines = [
    problem.detail ?? problem.message ?? (status ? text : "There was no answer: the connection failed."),
    wait ? `Try again in ${wait} s.` : "",
    problem.request_id ? `request_id ${problem.request_id}` : "",
  ];
  const name = [status || "", problem.code ?? ""].filter(Boolean).join(" ") || "No answer";
  return element(
    "div",
    { class: "said error" },
    element("p", { class: "who" }, name),
    lines.filter(Boolean).join("\n"),
  );
}

function add(...shown) {
  const log = byId("log");
  log.append(...shown);
  log.scrollTop = log.scrollHeight;
}

function show(id) {
  byId("log").replaceChildren();
  chat.shown = id;
  offerOlder(undefined);
}

function offerOlder(cursor) {
  chat.older = cursor;
  if (!cursor && document.activeElement === byId("older")) byId("log").focus();
  byId("older").hidden = !cursor;
}

// Does one thing at a time; what is asked for meanwhile is passed over.
function once(doing, work) {
  return async (event) => {
    event.preventDefault();
    if (chat.busy) return;
    chat.busy = true;
    const buttons = byId("chat").querySelectorAll("button");
    buttons.forEach((button) => button.setAttribute("aria-disabled", "true"));
    byId("state").textContent = doing;
    try {
      byId("state").textContent = (await work()) ?? "";
    } finally {
      chat.busy = false;
      buttons.forEach((button) => button.removeAttribute("aria-disabled"));
    }
  };
}

async function say() {
  const message = byId("message").value;
  const conversation = byId("conversation").value.trim();
  if (!message.trim()) return "Write a message first.";
  if (conversation !== chat.shown) show(conversation);
  const body = JSON.stringify(conversation ? { message, conversation_id: conversation } : { message });
  if (chat.unanswered?.body !== body) chat.unanswered = { body, key: uuid() };
  const mine = said("user", message);
  add(mine);
  byId("message").value = "";
  const headers = { "content-type": "application/json", "idempotency-key": chat.unanswered.key };
  const answer = await call("POST", "/api/v1/chat", headers, body);
  if (!isGood(answer)) {
    mine.remove();
    if (!byId("message").value) byId("message").value = message;
    add(failed(answer));
    return "Not answered. The message is still there to be sent again.";
  }
  const { conversation_id, turn, reply, remembered_turns, saved, usage } = answer.json;
  chat.unanswered = undefined;
  add(said("assistant", reply));
  if (!saved) return `Turn ${turn} was answered, but could not be saved: it is not remembered.`;
  chat.shown = conversation_id;
  remember(conversation_id);
  const turns = remembered_turns === 1 ? "1 earlier turn" : `${remembered_turns} earlier turns`;
  return `Turn ${turn}; ${turns} remembered${usage.total_tokens === null ? "" : `; ${usage.total_tokens} tokens`}.`;
}

async function load(cursor) {
  const id = byId("conversation").value.trim();
  if (!id) return "There is no conversation to load.";
  const answer = await call("GET", conversationPath(id, cursor ? `?cursor=${encodeURIComponent(cursor)}` : ""));
  if (!cursor) show(id);
  if (!isGood(answer)) {
    add(failed(answer));
    return "Not loaded.";
  }
  const { messages, turns, next_cursor } = answer.json;
  const log = byId("log");
  const height = log.scrollHeight;
  log.prepend(...messages.map(({ role, content }) => said(role, content)));
  log.scrollTop = cursor ? log.scrollHeight - height : log.scrollHeight;
  remember(id);
  offerOlder(next_cursor);
  return `${turns === 1 ? "1 turn" : `${turns} turns`} in all.`;
}

async function remove() {
  const id = byId("conversation").value.trim();
  if (!id) return "There is no conversation to delete.";
  if (!confirm("Delete this conversation? It cannot be brought back.")) return "Not deleted.";
  const answer = await call("DELETE", conversationPath(id));
  if (answer.status !== 204) {
    add(failed(answer));
    return "Not deleted.";
  }
  forget();
  return "Deleted.";
}

function forget() {
  show("");
  remember("");
  chat.unanswered = undefined;
  byId("message").focus();
}

function beginChat() {
  byId("access").addEventListener("submit", (event) => event.preventDefault());
  byId("say").addEventListener("submit", once("The model is asked…", say));
  byId("open").addEventListener(
    "submit",
    once("Loading…", () => load()),
  );
  byId("older").addEventListener(
    "click",
    once("Loading…", () => load(chat.older)),
  );
  byId("delete").addEventListener("click", once("Deleting…", remove));
  byId("new").addEventListener(
    "click",
    once("", async () => (forget(), "The next message begins a new conversation.")),
  );
  byId("message").addEventListener("keydown", (event) => {
    // While an input method composes, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("say").requestSubmit();
  });
  try {
    byId("conversation").value = sessionStorage.getItem("conversation") ?? "";
  } catch {}
}

/* Reference */

let openapi;

// The object that a reference stands for; what stands beside the reference is added.
function resolved({ $ref, ...beside }) {
  if (!$ref) return beside;
  const target = $ref
    .slice(2)
    .split("/")
    .reduce((node, name) => node[name.replaceAll("~1", "/").replaceAll("~0", "~")], openapi);
  return { ...resolved(target), ...beside };
}

// A schema in a few words, such as `integer, 1 to 100, default 20`.
function words(schema) {
  const {
    type,
    format,
    enum: values,
    const: value,
    minimum,
    maximum,
    minLength,
    maxLength,
    default: usual,
  } = resolved(schema);
  const between = (least, most, what) => {
    if (least === undefined && most === undefined) return "";
    const range =
      least === undefined ? `up to ${most}` : most === undefined ? `${least} or more` : `${least} to ${most}`;
    return `${range} ${what}`.trim();
  };
  const kind = value !== undefined ? JSON.stringify(value) : (values ?? [].concat(type ?? "any")).join(" or ");
  const missing = usual === undefined ? "" : `default ${usual}`;
  return [kind, format, between(minimum, maximum, ""), between(minLength, maxLength, "characters"), missing]
    .filter(Boolean)
    .join(", ");
}

// Names with what they are, each row `[name, words, description, more]`.
function definitions(rows) {
  const row = ([name, words, description, more]) => [
    element("dt", {}, element("code", {}, name), " ", element("span", { class: "quiet-text" }, words)),
    element("dd", {}, paragraphs(description), more),
  ];
  return rows.length ? element("dl", {}, rows.flatMap(row)) : undefined;
}

function members(schema) {
  const { properties = {}, required = [], items } = resolved(schema);
  if (items) return members(items);
  const row = ([name, member]) => {
    const optional = required.includes(name) ? "" : ", may be missing";
    return [name, words(member) + optional, resolved(member).description, members(member)];
  };
  return definitions(Object.entries(properties).map(row));
}

const block = (caption, text) =>
  element(
    "figure",
    {},
    element("figcaption", {}, caption),
    element("pre", { tabindex: "0", role: "group", "aria-label": caption }, text),
  );

const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function content(media) {
  return Object.entries(media ?? {}).flatMap(([type, { schema, examples = {} }]) => [
    element("p", {}, element("code", {}, type)),
    members(schema),
    Object.entries(examples).map(([name, { value }]) => block(`Example: ${name}`, pretty(value))),
  ]);
}

function more(title, ...body) {
  return element("details", {}, element("summary", {}, title), element("div", {}, ...body));
}

function headerList(headers = {}) {
  const rows = Object.entries(headers).map(([name, header]) => {
    const { schema, required, description } = resolved(header);
    return [name, words(schema) + (required ? "" : ", may be missing"), description];
  });
  return rows.length ? more("Headers", definitions(rows)) : undefined;
}

function responses(operation) {
  return Object.entries(operation.responses).map(([status, response]) => {
    const { description, headers, content: media } = resolved(response);
    return more(`${status}: ${description.replaceAll("`", "")}`, headerList(headers), content(media));
  });
}

function parameterList(parameters) {
  const rows = parameters.map(({ name, in: place, required, schema, description }) => {
    return [name, `in the ${place}, ${words(schema)}${required ? "" : ", may be missing"}`, description];
  });
  return rows.length ? [element("h4", {}, "Parameters"), definitions(rows)] : [];
}

// Browsers set these themselves and let no page do it.
const isForbidden = (name) => /^(origin|access-control-)/i.test(name);

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// The form that sends a request, and shows it as a command and what came of it.
function tryIt(method, path, { operationId }, parameters, body) {
  const field = (name, label, control) => {
    control.id = `${operationId}-${name}`;
    return [element("label", { for: control.id }, label), control];
  };
  const inputs = parameters
    .filter(({ name }) => !isForbidden(name))
    .map((parameter) => {
      const { name, required, example, examples } = parameter;
      const input = element("input", {
        autocomplete: "off",
        spellcheck: "false",
        ...(required ? { required: "" } : {}),
      });
      const current = name === "conversation_id" ? byId("conversation").value : "";
      if (required) input.value = current || (example ?? Object.values(examples)[0].value);
      return { ...parameter, input };
    });
  const media = Object.entries(body?.content ?? {})[0];
  const text = media && element("textarea", { rows: "5", class: "mono", spellcheck: "false" });
  if (text) text.value = pretty(Object.values(media[1].examples)[0].value);
  const state = element("p", { role: "status" });
  const result = element("div");
  const form = element(
    "form",
    {},
    inputs.map(({ name, required, input }) => field(name, required ? name : `${name} (may be empty)`, input)),
    text ? field("body", "Body", text) : [],
    element("button", {}, "Send"),
    state,
    result,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let url = path;
    const query = new URLSearchParams();
    const headers = media ? { "content-type": media[0] } : {};
    for (const { name, in: place, required, input } of inputs) {
      if (place === "path") url = url.replace(`{${name}}`, encodeURIComponent(input.value));
      else if (!input.value && !required) continue;
      else if (place === "query") query.set(name, input.value);
      else headers[name] = input.value;
    }
    if (String(query)) url += `?${query}`;
    const command = [
      `curl -i ${method === "HEAD" ? "--head" : `-X ${method}`} ${quoted(location.origin + base + url)}`,
    ];
    for (const [name, value] of Object.entries(headers)) command.push(`-H ${quoted(`${name}: ${value}`)}`);
    if (byId("token").value.trim()) command.push('-H "authorization: Bearer $TOKEN"');
    if (text) command.push(`--data-binary ${quoted(text.value)}`);
    state.textContent = "Sending…";
    const answer = await call(method, url, headers, text?.value);
    state.textContent = answer.status ? `Status ${answer.status} after ${answer.took} ms` : "There was no answer.";
    const fields = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    result.replaceChildren();
    fill(
      result,
      block("The request as a command", command.join(" \\\n  ")),
      fields && block("Headers of the answer", fields),
      answer.text && block("Body of the answer", pretty(answer.json ?? answer.text)),
    );
  });
  return [element("h4", {}, "Try it"), form];
}

function security(operation) {
  const named = (operation.security ?? []).flatMap((schemes) => Object.keys(schemes));
  if (!named.length) return [];
  const rows = named.map((name) => {
    const { type, scheme, description } = openapi.components.securitySchemes[name];
    return [name, scheme ?? type, description];
  });
  return [
    element("h4", {}, "Access"),
    definitions([["none", "", "Where the operator has put no authorizer on the API."], ...rows]),
  ];
}

function operationPanel(path, method, operation, shared) {
  // An operation's own parameter stands for the path's of the same name.
  const own = (operation.parameters ?? []).map(resolved);
  const parameters = [...shared.map(resolved).filter(({ name }) => !own.some((other) => other.name === name)), ...own];
  const body = operation.requestBody && resolved(operation.requestBody);
  const inside = element("div");
  const title = [element("span", { class: "method" }, method), element("code", {}, path), ` ${operation.summary}`];
  const panel = element("details", { id: `operation-${operation.operationId}` }, element("summary", {}, title), inside);
  // What is inside is made when it is first looked at.
  panel.addEventListener(
    "toggle",
    () =>
      fill(
        inside,
        paragraphs(operation.description),
        parameterList(parameters),
        body ? [element("h4", {}, "Body"), paragraphs(body.description), content(body.content)] : [],
        element("h4", {}, "Answers"),
        responses(operation),
        security(operation),
        tryIt(method, path, operation, parameters, body),
      ),
    { once: true },
  );
  return panel;
}

const METHODS = ["get", "head", "post", "put", "patch", "delete", "options"];

function operations() {
  return Object.entries(openapi.paths).flatMap(([path, { parameters = [], ...item }]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method], parameters })),
  );
}

function showReference() {
  const { info, tags } = openapi;
  byId("version").textContent = info.version;
  byId("summary").textContent = `${info.summary}.`;
  const panels = operations();
  fill(
    byId("reference"),
    paragraphs(info.description),
    tags.map(({ name, description }) => [
      element("h3", {}, name[0].toUpperCase() + name.slice(1)),
      paragraphs(description),
      panels
        .filter(({ operation }) => operation.tags.includes(name))
        .map(({ path, method, operation, parameters }) =>
          operationPanel(path, method.toUpperCase(), operation, parameters),
        ),
    ]),
  );
}

function showErrors() {
  const all = [
    ...operations().flatMap(({ operation }) => Object.values(operation.responses)),
    ...Object.values(openapi.components.responses),
  ];
  const examples = all.flatMap((response) =>
    Object.values(resolved(response).content?.["application/problem+json"]?.examples ?? {}),
  );
  const rows = new Map(examples.map(({ value }) => [value.code, [`${value.status} ${value.code}`, "", value.detail]]));
  fill(byId("errors"), definitions([...rows.values()].sort()));
}

async function beginReference() {
  byId("document").href = `${base}/openapi.json`;
  const answer = await call("GET", "/openapi.json");
  if (!isGood(answer)) {
    byId("loading").replaceChildren(failed(answer));
    return;
  }
  openapi = answer.json;
  byId("loading").remove();
  showReference();
  showErrors();
}

beginChat();
beginReference();
