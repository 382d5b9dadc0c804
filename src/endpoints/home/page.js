// The page is at <stage or prefix>/, and the API is below it.
const base = location.pathname.replace(/\/$/, "");

/* Words */

// In English and Korean. Each text is shown in the element whose id is its name.
const WORDS = {
  __proto__: null,
  skip: "Skip to message|메시지 입력으로 건너뛰기",
  list: "Conversations|대화 목록",
  new: "New chat|새 대화",
  delete: "Delete|삭제",
  settings: "Settings|설정",
  greeting: "What can I help with?|무엇을 도와드릴까요?",
  promise: "Answers appear as they are written.|답변이 작성되는 대로 바로 보여 드립니다.",
  prompts:
    "Explain serverless simply/Plan a five-minute demo/Reverse a list in Python|" +
    "서버리스를 쉽게 설명해 줘/5분짜리 데모를 구성해 줘/Python으로 리스트를 뒤집어 줘",
  older: "Show older messages|이전 메시지 보기",
  keys: "Enter sends, Shift+Enter adds a line.|Enter로 보내고 Shift+Enter로 줄을 바꿉니다.",
  docs: "API reference|API 문서",
  label: "Access token|액세스 토큰",
  hint: "If the API asks for one. Kept until this tab closes.|필요할 때만 입력하세요. 탭을 닫으면 지워집니다.",
  done: "Done|완료",
  close: "Close|닫기",
  empty: "No conversations yet.|아직 대화가 없습니다.",
  more: "Show more|더 보기",
  every: "Delete all conversations|모든 대화 삭제",
  rename: "Rename|이름 바꾸기",
  one: "Delete this conversation?|이 대화를 삭제할까요?",
  warning: "This cannot be undone.|삭제하면 되돌릴 수 없습니다.",
  cancel: "Cancel|취소",
  conversation: "Conversation|대화",
  input: "Write a message|메시지를 입력하세요",
  send: "Send|보내기",
  stop: "Stop|중지",
  user: "You|나",
  assistant: "Assistant|어시스턴트",
  copy: "Copy|복사",
  copied: "Copied|복사됨",
  writing: "Writing…|답변 작성 중…",
  stopped: "Stopped. The server may still save all of it.|중지했습니다. 서버에는 답변 전체가 저장될 수 있습니다.",
  unsaved: "Could not be saved, and is not remembered.|저장하지 못해 이 답변을 기억하지 못합니다.",
  deleted: "Deleted|삭제했습니다",
  retry: "Try again|다시 시도",
  wait: "Wait {} s.|{}초 기다리세요.",

  // Failures, by the problem's code or status.
  model_timeout: "The model took too long.|모델이 제시간에 답하지 못했습니다.",
  model_rate_limited: "The model is busy.|모델에 요청이 몰려 있습니다.",
  model_unavailable: "The model cannot be reached.|모델에 연결할 수 없습니다.",
  model_auth_failed: "The model refused the server's key.|모델이 서버의 API 키를 거부했습니다.",
  model_quota_exhausted: "The model's quota is used up.|모델 사용 한도를 모두 썼습니다.",
  quota_exceeded: "Today's tokens are used up.|오늘의 토큰을 다 썼습니다.",
  not_configured: "The server is not set up.|서버가 아직 설정되지 않았습니다.",
  conversation_not_found: "The conversation is gone. A new one begins.|대화를 찾을 수 없어 새 대화를 시작합니다.",
  conversation_deleted: "The conversation was deleted.|삭제된 대화입니다.",
  content_refused: "The model declined to answer.|모델이 답변을 거절했습니다.",
  message_too_long: "The message is too long.|메시지가 너무 깁니다.",
  401: "Enter an access token in the settings.|설정에서 액세스 토큰을 입력하세요.",
  403: "The access token is not accepted.|액세스 토큰에 권한이 없습니다.",
  429: "Too many requests.|요청이 너무 많습니다.",
  offline: "You are offline.|인터넷에 연결되어 있지 않습니다.",
  broken: "The connection was lost.|연결이 끊어졌습니다.",
  other: "Something went wrong.|문제가 발생했습니다.",
};

const [language = "en"] = navigator.languages.join().match(/\b(en|ko)\b/) ?? [];
for (const name in WORDS) WORDS[name] = WORDS[name].split("|")[language === "ko" ? 1 : 0];

/* Elements */

const page = document.documentElement;
const ui = {};
for (const node of document.querySelectorAll("[id]")) ui[node.id] = node;

// Text is never parsed as HTML.
function element(tag, properties, ...children) {
  const [name, className] = tag.split(".");
  const made = Object.assign(document.createElement(name), className && { className }, properties);
  made.append(...children);
  return made;
}

const announce = (text) => (ui.announcer.textContent = text);
const button = (label, onclick, kind = "quiet") => element(`button.${kind}`, { onclick }, label);
const note = (...text) => element("p.small", {}, ...text);

function copyButton(text) {
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    made.textContent = announce(WORDS.copied);
    setTimeout(() => (made.textContent = WORDS.copy), 2000);
  };
  const made = button(WORDS.copy, copy, "copy");
  // Only secure contexts have a clipboard.
  made.hidden = !navigator.clipboard;
  return made;
}

/* Markdown */

const either = (flags, ...patterns) => new RegExp(patterns.map(({ source }) => source).join("|"), flags);

// A soft hyphen ends a text that is still growing, and closes what is open. No repetition takes quadratic time.
const BLOCKS = either(
  "gm",
  /^ {0,3}(`{3,})([^\n`]*)(?:\n|(?![^]))([^]*?)(?:^ *\1.*$|(?![^]))/,
  /^ {0,3}#{1,6} +(.*)/,
  /^ {0,3}([-*_])(?: *\5){2,} *$/,
  /((?:^ {0,3}>.*\n?)+)/,
  /(^ {0,3}(?:[-*+]|\d+[.)]) .*(?:\n(?: ?(?:[-*+]|\d+[.)]) |[ \t]{2}|$).*)*)/,
  /(^[^|\n]*\|.*\n[ |:]*-[-| :]*$(?:\n.*\|.*)*)/,
  / {0,3}[^\s\xad].*(?:\n(?! {0,3}(?:`{3}|-{3}|#{1,6} |>|[-*+] |\d+[.)] )|[^|\n]*\|.*\n[ |:]*-).*[^\s\xad].*)*/,
);
const SPANS = either(
  "gis",
  /\\([^\s\w\xad])/,
  /(`{1,2})(?!`)(.{1,999}?)(?<!`)(?:\2(?!`)|\xad)/,
  /\*\*(?=\S)(.{1,500}?)(?<=\S)(?:\*\*(?!\*)|\xad)/,
  /\*(?=[^\s*])(.{1,500}?)(?<=[^\s*])(?:\*(?!\*)|\xad)/,
  /!?\[([^[\]]+)\]\(((?:https?:\/\/|mailto:)[^()\s\xad]+)\)/,
  /!?\[([^[\]\xad]*)(?:\]|\]\([^()\s\xad]*)?\xad/,
  /(https?:\/\/[-\w/.?%&=#:@+,;~]+(?<![.,:;?]))/,
  /[*`!\\]{1,3}\xad/,
);

function inline(parent, text, depth = 0) {
  let at = 0;
  for (const match of depth < 5 ? text.matchAll(SPANS) : []) {
    const [all, escaped, , code, strong, em, label, target, partial, bare] = match;
    const href = target ?? bare;
    const tag = code ? "code" : strong ? "strong" : em ? "em" : href && "a";
    const made = tag ? element(tag, href && { href, target: "_blank", rel: "noopener noreferrer" }) : "";
    if (code ?? bare) made.append(code ?? bare);
    else if (made) inline(made, (strong ?? em ?? label) + (all.endsWith("\xad") ? "\xad" : ""), depth + 1);
    parent.append(text.slice(at, match.index), made || (escaped ?? partial ?? ""));
    at = match.index + all.length;
  }
  parent.append(text.slice(at));
  return parent;
}

const cells = (tag) => (row) => {
  const texts = row.replace(/^ *\||\| *\xad?$/g, "").split("|");
  return element("tr", {}, ...texts.map((text) => inline(element(tag), text.trim())));
};

// Appends a node for each block, and returns where the last one begins.
function blocks(parent, text, depth = 0) {
  let last = 0;
  for (const match of text.matchAll(BLOCKS)) {
    const [all, fence, info, code, title, rule, quote, list, table] = match;
    const add = (...made) => parent.appendChild(element(...made));
    last = match.index;
    if (fence) {
      const shown = code.replace(/\n\xad?$/, "");
      const caption = element("figcaption.small", {}, info.trim(), copyButton(shown));
      add("figure", {}, caption, element("pre", { tabIndex: 0 }, element("code", {}, shown)));
    }
    // One level, because models skip levels.
    else if (title) inline(add("h2"), title);
    else if (rule) add("hr");
    else if (quote && depth < 5) blocks(add("blockquote"), quote.replace(/^ {0,3}> ?/gm, ""), depth + 1);
    else if (list && depth < 5) {
      const start = parseInt(list);
      const made = start >= 0 ? add("ol", { start }) : add("ul");
      const outdented = list.replaceAll(new RegExp(`^${list.match(/^ */)[0]}`, "gm"), "");
      for (const item of outdented.split(/^ ?(?=(?:[-*+]|\d+[.)]) )/m)) {
        const inner = item.replace(/^\S+ +/, "").replace(start >= 0 ? /^( {1,3}|\t)/gm : /^( {1,2}|\t)/gm, "");
        blocks(made.appendChild(element("li")), inner, depth + 1);
      }
    } else if (table) {
      const [head, , ...rows] = table.split("\n");
      add("div.table", { tabIndex: 0 }, element("table", {}, cells("th")(head), ...rows.map(cells("td"))));
    } else inline(add("p"), all.trim());
  }
  return last;
}

// Characters that would reorder other text are made visible.
const clean = (text) => text.replace(/[\xad\r]/g, "").replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

// A text that may still become any block.
const UNDECIDED = /(^|\n)[ \t]{0,9}([-*+>#=|]+|`{1,2}|\d+[.)]?)?[ \t]{0,9}$/;

// Shows a text as it grows. Only the last block is rendered again, less often if it is long.
function writer(bubble) {
  let [text, rest, timer] = ["", ""];
  const show = (ended) => {
    timer = clearTimeout(timer);
    bubble.lastChild?.remove();
    rest = rest.slice(blocks(bubble, ended ? rest : rest.replace(UNDECIDED, "$1") + "\xad"));
    refresh();
  };
  return (added, ended) => {
    text += clean(added);
    rest += clean(added);
    if (ended) show(true);
    else timer ??= setTimeout(show, 16 + rest.length / 99);
    return text;
  };
}

/* The API */

async function call(path, options) {
  const token = ui.token.value.trim();
  const type = options?.body && { "content-type": "application/json" };
  const headers = { ...type, ...options?.headers, ...(token && { authorization: `Bearer ${token}` }) };
  const response = await fetch(`${base}/api/v1/${path}`, { ...options, headers });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  // A gateway's own errors have `message`.
  throw { detail: problem.message, ...problem, status: response.status, wait: response.headers.get("retry-after") };
}

const json = async (...given) => (await call(...given)).json();

async function stream({ message, key }, signal, write) {
  const body = JSON.stringify({ message, conversation_id: chat.id || undefined, stream: true });
  const response = await call("chat", { method: "POST", headers: { "idempotency-key": key }, body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, problem] = [""];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const part = JSON.parse(event.match(/^data:(.*)/m)?.[1] ?? "{}");
      if (part.type === "start") remember(part.messageMetadata.conversation_id);
      if (part.type === "text-delta") write(part.delta);
      if (part.type === "data-problem") problem = part.data;
      if (part.type === "error") throw problem ?? { detail: part.errorText };
      if (part.type === "finish") return part.messageMetadata;
    }
  }
}

// A blob's URL ends with a UUID (File API, "generate a new blob URL"). `randomUUID` exists only in secure contexts.
const uuid = () => URL.createObjectURL(new Blob()).slice(-36);

/* The conversation */

// `older` is a cursor, and `running` stops an answer.
const chat = { id: "", older: "", running: undefined };

// Outlives a reload, not the tab. It throws where cookies are blocked.
let store = {};
try {
  store = sessionStorage;
} catch {}

function remember(id) {
  store.conversation = chat.id = id;
  refresh();
}

// Unless the reader has scrolled up.
let following = true;

function refresh() {
  ui.welcome.hidden = ui.log.hasChildNodes();
  ui.delete.hidden = !chat.id;
  ui.list.hidden = !ui.token.value.trim();
  ui.older.hidden = !chat.older;
  ui.go.ariaLabel = chat.running ? WORDS.stop : WORDS.send;
  ui.icon.setAttribute("d", chat.running ? "M7 7h10v2H7v2h10v2H7v2h10v2H7" : "M12 19V5m-6 6 6-6 6 6");
  ui.log.ariaBusy = !!chat.running;
  if (following) scrollTo(0, page.scrollHeight);
}

function add(node) {
  ui.log.append(node);
  refresh();
}

function said(role, text) {
  const bubble = element("div.bubble", { dir: "auto" });
  const made = element(`article.${role}`, { ariaLabel: WORDS[role] }, bubble);
  if (role === "user") bubble.append(text);
  else if (text) made.append(note(copyButton(writer(bubble)(text, true))));
  return made;
}

// A card that says what failed.
function tell(error) {
  const problem = error instanceof Error ? { code: navigator.onLine ? "broken" : "offline" } : error;
  const { code, status, detail, wait, request_id } = problem;
  const told = WORDS[code] ?? WORDS[status] ?? WORDS.other;
  const small = [detail, wait > 0 && WORDS.wait.replace("{}", wait), request_id].filter(Boolean).join(" · ");
  announce(`${told} ${small}`);
  return element("div.card", {}, element("strong", {}, told), note(small));
}

// Offers to try again, unless the conversation is gone. Returns whether it is.
function failed(error, again) {
  const { code } = error;
  const card = tell(error);
  const isGone = code === "conversation_not_found";
  const retry = () => {
    card.remove();
    ui.go.focus();
    again();
  };
  if (/^conversation_/.test(code)) remember((chat.older = ""));
  if (!isGone) card.append(button(WORDS.retry, retry));
  add(card);
  return isGone;
}

async function ask(turn) {
  const { id } = chat;
  const running = (chat.running = new AbortController());
  const answer = said("assistant");
  const bubble = answer.lastChild;
  const write = writer(bubble);
  const end = (told) => {
    chat.running = undefined;
    const text = write("", true);
    if (text) answer.append(note(copyButton(text), told));
    else if (told) bubble.replaceWith(note(told));
    else answer.remove();
    refresh();
    announce(`${text.replace(/[*`#>|]+/g, "")}\n${told}`);
  };
  const again = () => {
    answer.remove();
    ask(turn);
  };
  add(answer);
  announce(WORDS.writing);
  try {
    const { model, saved } = await stream(turn, running.signal, write);
    end(saved ? model : WORDS.unsaved);
  } catch (error) {
    // A new conversation has begun.
    if (chat.running !== running) return;
    // The server may still finish the answer and save it, so the conversation stays.
    if (running.signal.aborted) return end(WORDS.stopped);
    end("");
    remember(id);
    if (failed(error, again) && id) again();
  }
}

async function load() {
  const { id, older } = chat;
  try {
    const { messages, next_cursor = "" } = await json(`conversations/${id}${older && `?cursor=${older}`}`);
    if (chat.id !== id || chat.older !== older) return;
    const below = page.scrollHeight - scrollY;
    ui.log.prepend(...messages.map(({ role, content }) => said(role, content)));
    chat.older = next_cursor;
    refresh();
    // The button had the focus and is now hidden.
    if (older && !next_cursor) ui.log.focus();
    if (older) scrollTo(0, page.scrollHeight - below);
  } catch (error) {
    if (chat.id === id) failed(error, load);
  }
}

function begin() {
  chat.running?.abort();
  chat.running = undefined;
  chat.older = "";
  ui.log.replaceChildren();
  remember("");
  ui.message.focus();
}

async function remove() {
  try {
    await call(`conversations/${chat.id}`, { method: "DELETE" });
    begin();
    announce(WORDS.deleted);
  } catch (error) {
    failed(error, remove);
  }
}

/* The conversations of a caller with a token */

// The cursor of the next page.
let next;

// Does something for the list, and shows failures there.
async function attempt(work) {
  ui.more.hidden = ui.every.hidden = true;
  ui.state.textContent = "…";
  try {
    await work();
    ui.state.textContent = ui.rows.hasChildNodes() ? "" : WORDS.empty;
  } catch (error) {
    ui.state.replaceChildren(tell(error));
  }
  ui.more.hidden = !next;
  ui.every.hidden = !ui.rows.hasChildNodes();
}

async function list() {
  const { conversations, next_cursor } = await json(`conversations${next ? `?cursor=${next}` : ""}`);
  const rows = conversations.map(row);
  ui.rows[next ? "append" : "replaceChildren"](...rows);
  // The button had the focus and was hidden.
  if (next) (rows[0]?.firstChild ?? ui.close).focus();
  next = next_cursor;
}

function row({ conversation_id: id, title, updated_at }) {
  const path = `conversations/${id}`;
  const when = new Date(updated_at).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
  const name = element("span", { dir: "auto" }, title ?? WORDS.conversation);
  const open = () => {
    ui.mine.close();
    begin();
    remember(id);
    load();
  };
  const rename = async () => {
    const { title } = await json(path, { method: "PATCH", body: JSON.stringify({ title: ui.name.value }) });
    name.textContent = title;
  };
  const erase = async () => {
    await call(path, { method: "DELETE" });
    entry.parentNode.remove();
    ui.close.focus();
    if (id === chat.id) begin();
  };
  const tool = (icon, title, question, work) => {
    const onclick = () => confirm(question, () => attempt(work), work === rename && name.textContent);
    return element("button", { title, onclick }, icon.cloneNode(true));
  };
  const entry = button(name, open, "entry");
  entry.append(element("span.small", {}, when));
  entry.ariaCurrent = id === chat.id;
  return element(
    "li",
    {},
    entry,
    tool(ui.pen.content, WORDS.rename, WORDS.rename, rename),
    tool(ui.delete.firstChild, WORDS.delete, WORDS.one, erase),
  );
}

async function eraseAll() {
  for (let more = true; more; ) ({ more } = await json("conversations", { method: "DELETE" }));
  next = "";
  ui.rows.replaceChildren();
  begin();
}

// Asks for confirmation before something is deleted, or for a new text instead of `text`.
function confirm(question, act, text) {
  const asks = typeof text === "string";
  ui.question.textContent = question;
  ui.warning.hidden = ui.name.required = asks;
  ui.name.hidden = !asks;
  ui.name.value = text;
  ui.confirmed.textContent = asks ? WORDS.done : WORDS.delete;
  ui.sure.onsubmit = act;
  ui.confirm.showModal();
}

const box = ui.message;

function fill(text) {
  box.value = text;
  box.oninput();
  box.focus();
}

box.oninput = () => {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
};
box.onkeydown = (event) => {
  // While an input method composes, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!chat.running) ui.composer.requestSubmit();
};
ui.composer.onsubmit = (event) => {
  event.preventDefault();
  if (chat.running) return chat.running.abort();
  const message = box.value;
  if (!message.trim()) return;
  for (const old of ui.log.querySelectorAll(".card button")) old.remove();
  following = true;
  add(said("user", message));
  fill("");
  ask({ message, key: uuid() });
};
// A double click sends, and does not stop.
ui.go.onclick = (event) => event.detail < 2;
ui.new.onclick = begin;
ui.older.onclick = load;
ui.settings.onclick = () => ui.access.showModal();
ui.delete.onclick = () => confirm(WORDS.one, remove);
ui.cancel.onclick = () => ui.confirm.close();
ui.list.onclick = () => {
  next = "";
  ui.rows.replaceChildren();
  ui.mine.showModal();
  attempt(list);
};
ui.more.onclick = () => attempt(list);
ui.every.onclick = () => confirm(WORDS.every, () => attempt(eraseAll));
ui.token.onchange = () => {
  store.token = ui.token.value;
  refresh();
};
onscroll = () => (following = innerHeight + scrollY > page.scrollHeight - 64);

page.lang = language;
for (const name in WORDS) ui[name]?.append(WORDS[name]);
ui.title.append(WORDS.list);
ui.log.ariaLabel = WORDS.conversation;
box.ariaLabel = box.placeholder = WORDS.input;
ui.docs.href = `${base}/docs`;
ui.examples.append(...WORDS.prompts.split("/").map((prompt) => button(prompt, () => fill(prompt))));
ui.token.value = store.token ?? "";
ui.app.hidden = false;
remember(store.conversation ?? "");
if (chat.id) load();
