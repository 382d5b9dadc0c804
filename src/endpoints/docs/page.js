// The page is at <stage or prefix>/docs, with or without a trailing slash.
const base = location.pathname.replace(/\/docs\/?$/, "");

const byId = (id) => document.getElementById(id);

// An element with these attributes and children. Text is never parsed as HTML.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return fill(made, children);
}

function fill(parent, ...children) {
  parent.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== ""));
  return parent;
}

// Text with `code` in backquotes, as paragraphs.
function paragraphs(text) {
  const marked = (part, index) => (index % 2 ? element("code", {}, part) : part);
  return (text ?? "")
    .split("\n\n")
    .filter(Boolean)
    .map((text) => element("p", {}, text.split("`").map(marked)));
}

// Calls the API, which may answer anything: the status (0 if there was no answer), headers, text and JSON.
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

// Whether an answer is what was asked for, and not a problem or another server's page.
const isGood = ({ status, json }) => status === 200 && json !== undefined;

// The conversation of the chat page in this tab. If cookies are blocked, there is no storage.
function chatted() {
  try {
    return sessionStorage.getItem("conversation");
  } catch {
    return "";
  }
}

let openapi;

// The object that a reference points to, with the members next to the reference.
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

// A list of names and their explanations, each row `[name, words, description, more]`.
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

// Browsers set these themselves, and do not let a page set them.
const isForbidden = (name) => /^(origin|access-control-)/i.test(name);

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// The form that sends a request, and shows it as a command with its result.
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
      const current = name === "conversation_id" ? chatted() : "";
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
    definitions([["none", "", "If the operator has put no authorizer on the API."], ...rows]),
  ];
}

function operationPanel(path, method, operation, shared) {
  // An operation's own parameter replaces the path's parameter of the same name.
  const own = (operation.parameters ?? []).map(resolved);
  const parameters = [...shared.map(resolved).filter(({ name }) => !own.some((other) => other.name === name)), ...own];
  const body = operation.requestBody && resolved(operation.requestBody);
  const inside = element("div");
  const title = [element("span", { class: "method" }, method), element("code", {}, path), ` ${operation.summary}`];
  const panel = element("details", { id: `operation-${operation.operationId}` }, element("summary", {}, title), inside);
  // The content is made when it is first opened.
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
  const examples = (type) =>
    all
      .flatMap((response) => Object.values(resolved(response).content?.[type]?.examples ?? {}))
      .map(({ value }) => value);
  // Some problems occur only in a stream.
  const parts = examples("text/event-stream").flatMap((stream) => stream.match(/(?<=^data: )\{.*/gm));
  const streamed = parts.map((part) => JSON.parse(part)).filter(({ type }) => type === "data-problem");
  const problems = [...streamed.map(({ data }) => data), ...examples("application/problem+json")];
  const rows = new Map(problems.map(({ status, code, detail }) => [code, [`${status} ${code}`, "", detail]]));
  fill(byId("errors"), definitions([...rows.values()].sort()));
}

async function begin() {
  byId("access").addEventListener("submit", (event) => event.preventDefault());
  byId("chat").href = `${base}/`;
  byId("document").href = `${base}/openapi.json`;
  const answer = await call("GET", "/openapi.json");
  if (!isGood(answer)) {
    const { status, json, text } = answer;
    const told = json?.detail ?? json?.message ?? (status ? text : "There was no answer: the connection failed.");
    byId("loading").replaceChildren(element("span", { class: "error" }, `${status || ""} ${told}`.trim()));
    return;
  }
  openapi = answer.json;
  byId("loading").remove();
  showReference();
  showErrors();
}

begin();
