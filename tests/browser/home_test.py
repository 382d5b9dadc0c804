"""The chat page in a browser: answers as they are written, what can go wrong, hostile answers, and who can use it."""

import hashlib
import os
import re
import threading
import unittest
import urllib.request
import uuid

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from support import TOO_WIDE, BrowserTest, EmptyTable, Model, NoIndex, Site, Wire

# Nothing listens on this port, so the model cannot be reached.
NO_MODEL = {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}

UNKNOWN = "0f8fad5b-d9cb-469f-a165-70867728950e"

# The most bytes of the page.
LARGEST = 25_000

HTML = {"accept": "text/html"}

# Accepts the token `a-token`.
TOKENS = {"ACCESS_TOKENS": f"ada:{hashlib.sha256(b'a-token').hexdigest()}"}

LIST = "/api/v1/conversations"

# Records what a screen reader would read out: every text of the live region from now on.
LISTEN = """
window.heard = [];
const region = document.getElementById("announcer");
new MutationObserver(() => window.heard.push(region.textContent)).observe(region, { childList: true });
"""

# All the markdown that the page renders.
RICH = """\
# A title

A **bold**, an *italic*, a `code` and a ***both***, \\*escaped\\*,
on two lines. 2 * 3 * 4 and snake_case stay.

1. one
   - inner `a`
   - inner **b**
2. two

> A quote with a [link](https://example.com/a?b=1&c=2)

```python
def add(a, b):
    return "<b>" + a  # **not bold**
```

---

| name | count |
|---|---:|
| apples | **2** |

See https://example.com/path, or [mail](mailto:a@example.com).
"""

# What a hostile model, or a person who makes it repeat something, may try.
HOSTILE = """\
<script>window.ran = 1</script><img src=x onerror="window.ran = 1"><svg onload=window.ran=1>

[a](javascript:window.ran=1) [b](JaVaScRiPt:window.ran=1) [c]( javascript:window.ran=1) [d](java\tscript:window.ran=1)
[e](javascript&colon;window.ran=1) [f](&#106;avascript:window.ran=1) [g](\u0001javascript:window.ran=1)
[h](data:text/html,<script>window.ran=1</script>) [i](vbscript:x) [j](//evil.example) [k](file:///etc/passwd)
[l](https://evil.example/" onclick="window.ran=1) [m](https://evil.example/'onmouseover='window.ran=1)
[n](https://evil.example/<img src=x onerror=window.ran=1>) ![o](https://evil.example/pixel.png)
[<img src=x onerror=window.ran=1>](https://example.com/) [**[p](javascript:1)**](https://example.com/)
<https://example.com/"onclick=window.ran=1> <a href="javascript:window.ran=1">q</a> `<img src=x onerror=window.ran=1>`

```html" onclick="window.ran=1
</code></pre><script>window.ran = 1</script>
```

| <script>window.ran=1</script> | [r](javascript:window.ran=1) |
|---|---|
| <img src=x onerror=window.ran=1> | x |

> > > > > > > > > > [s](javascript:window.ran=1)

- - - - - - - - - - - <b onclick=window.ran=1>t</b>

\u202egpj.exe \u2066hidden\u2069 \u202e
"""

# The elements in the answers, their attributes, and the targets of their links.
MADE = """
const made = [...document.querySelectorAll(".assistant .bubble *")];
return [
  [...new Set(made.map((node) => node.localName))].sort(),
  [...new Set(made.flatMap((node) => node.getAttributeNames()))].sort(),
  made.filter((node) => node.localName === "a").map((node) => node.getAttribute("href")),
];
"""

# The elements of the last answer's bubble as an outline of names and texts.
OUTLINE = """
const outline = (node) =>
  node.nodeType === Node.TEXT_NODE
    ? node.data
    : [node.localName, ...[...node.childNodes].map(outline).filter((child) => child !== "")];
return [...[...document.querySelectorAll(".bubble")].at(-1).childNodes].map(outline);
"""

# The elements that are wider than the page and do not scroll on their own.
OUTSIDE = TOO_WIDE.replace('querySelectorAll("*")', "querySelectorAll(':not(pre *, .table *)')")


class Home(BrowserTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        clipboard = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        cls.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": clipboard})

    def open(self, stack, path="/", languages="en-US,en"):
        agent = self.driver.execute_script("return navigator.userAgent")
        override = {"userAgent": agent, "acceptLanguage": languages}
        self.driver.execute_cdp_cmd("Network.setUserAgentOverride", override)
        self.driver.get(stack.url + path)
        self.until(lambda: self.one("#message").is_displayed(), "the page is ready")

    def served(self, *answers):
        """A stack whose model streams these answers."""
        model = Model(*answers)
        self.addCleanup(model.close)
        return self.stack("--function-url", **model.variables())

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def write(self, message):
        """Puts a text into the box, even with characters that cannot be typed."""
        self.driver.execute_script("document.getElementById('message').value = arguments[0]", message)

    def send(self, message):
        self.write(message)
        self.one("#message").send_keys(Keys.ENTER)

    def is_busy(self):
        return self.one("#log").get_attribute("aria-busy") == "true"

    def say(self, message):
        """Sends a message, and waits until there is an answer or a failure."""
        self.send(message)
        self.until(lambda: self.one("#message").get_property("value") == "", "it is sent")
        self.until(lambda: not self.is_busy(), f"an answer to {message[:40]!r}")

    def said(self):
        """The messages, each with its author. A text that still grows ends with a soft hyphen, which is invisible."""
        said = "return [...document.querySelectorAll('#log article')].map((node) => [node.className, "
        said = self.driver.execute_script(said + "node.firstChild.innerText.replace('\\xad', '').trim()])")
        return [tuple(each) for each in said]

    def last(self):
        return self.said()[-1][1]

    def failures(self):
        return [card.text.split("\n") for card in self.all(".card")]

    def notes(self):
        return [note.text for note in self.all("article > .small")]

    def conversation(self):
        return self.driver.execute_script("return sessionStorage.getItem('conversation')")

    def active(self):
        return self.driver.switch_to.active_element

    def button(self, name):
        [button] = [button for button in self.all("button") if button.is_displayed() and button.accessible_name == name]
        return button

    def posts(self):
        return [(url, headers) for method, url, headers in self.requests() if method == "POST"]

    def keys(self):
        return [headers["idempotency-key"] for _, headers in self.posts()]

    def test_an_answer_is_shown_as_it_is_written_and_remembered(self):
        more, end = threading.Event(), threading.Event()
        stack = self.served(["Hello, ", more, "**Ada", end, "**!"], ["Your name is Ada."])
        self.open(stack)
        self.driver.execute_script(LISTEN)
        self.send("My name is Ada.")
        self.until(lambda: self.said() == [("user", "My name is Ada."), ("assistant", "Hello,")], "the first words")
        self.assertTrue(self.is_busy())
        self.assertEqual(self.one("#go").accessible_name, "Stop")
        more.set()
        # Markdown that is not closed yet does not look broken.
        self.until(lambda: self.last() == "Hello, Ada", "the next words")
        self.assertEqual(len(self.all(".bubble strong")), 1)
        end.set()
        self.until(lambda: not self.is_busy(), "the end")
        self.assertEqual((self.last(), self.one("#go").accessible_name), ("Hello, Ada!", "Send"))
        self.assertEqual(self.notes(), ["Copy\na-model"])
        self.assertEqual(self.driver.execute_script("return heard"), ["Writing…", "Hello, Ada!\na-model"])
        first = self.conversation()
        self.say("What is my name?")
        self.assertEqual((self.last(), self.conversation()), ("Your name is Ada.", first))
        _, kept = stack.ask("GET", f"/api/v1/conversations/{first}")
        self.assertEqual([message["role"] for message in kept["messages"]], ["user", "assistant"] * 2)
        self.assertEqual(self.console(), [])

    def test_an_answer_in_one_piece_is_shown_too_and_the_conversation_outlives_a_reload(self):
        stack = self.stack()
        self.open(stack)
        self.say("My name is Ada.")
        self.say("And now?")
        expected = [
            ("user", "My name is Ada."),
            ("assistant", 'You have said 1 thing: "My name is Ada.".'),
            ("user", "And now?"),
            ("assistant", 'You have said 2 things; before this: "My name is Ada.". Now: "And now?".'),
        ]
        self.assertEqual(self.said(), expected)
        conversation = self.conversation()
        self.driver.refresh()
        self.until(lambda: self.said() == expected, "the history")
        self.assertFalse(self.one("#welcome").is_displayed())
        self.say("Still there?")
        self.assertEqual((len(self.said()), self.conversation()), (6, conversation))

        self.button("New chat").click()
        self.assertEqual((self.said(), self.conversation(), self.active()), ([], "", self.one("#message")))
        self.assertTrue(self.one("#welcome").is_displayed())
        self.assertFalse(self.one("#delete").is_displayed())
        self.say("Hello")
        self.assertNotEqual(self.conversation(), conversation)
        # Another tab starts a new conversation.
        self.driver.switch_to.new_window("tab")
        self.addCleanup(self.driver.switch_to.window, self.driver.current_window_handle)
        self.open(stack)
        self.assertEqual((self.said(), self.console()), ([], []))

    def test_an_answer_can_be_stopped_and_the_conversation_goes_on(self):
        rest = threading.Event()
        stack = self.served(["Once upon a time", rest, " there was a crab."], ["The end."])
        self.open(stack)
        self.send("Tell me a story")
        self.until(lambda: self.said()[1:] == [("assistant", "Once upon a time")], "the first words")
        # Meanwhile Enter sends nothing.
        self.one("#message").send_keys("Shorter", Keys.ENTER)
        self.button("Stop").click()
        self.until(lambda: not self.is_busy(), "it stops")
        self.assertEqual(self.notes(), ["Copy\nStopped. The server may still save all of it."])
        self.assertEqual(self.said(), [("user", "Tell me a story"), ("assistant", "Once upon a time")])
        self.assertEqual(self.one("#message").get_property("value"), "Shorter")
        rest.set()
        path = f"/api/v1/conversations/{self.conversation()}"
        self.until(lambda: stack.ask("GET", path)[0] == 200, "the server saves it")
        self.one("#message").send_keys(Keys.ENTER)
        self.until(lambda: self.last() == "The end." and not self.is_busy(), "the next answer")
        self.assertEqual(stack.ask("GET", path)[1]["turns"], 2)

    def test_after_a_stop_before_the_server_has_saved_anything_a_new_conversation_begins(self):
        never = threading.Event()
        self.addCleanup(never.set)
        stack = self.served(["Once", never], ["Hello."])
        self.open(stack)
        self.send("Tell me a story")
        self.until(lambda: self.last() == "Once", "the first word")
        self.button("Stop").click()
        self.until(lambda: not self.is_busy(), "it stops")
        stopped = self.conversation()
        self.send("Hello")
        self.until(lambda: self.last() == "Hello." and not self.is_busy(), "the next answer")
        self.assertEqual(self.failures()[0][0], "The conversation is gone. A new one begins.")
        self.assertNotIn(self.conversation(), ["", stopped])

    def test_a_failure_is_shown_and_retried_with_the_same_key(self):
        self.open(self.stack(**NO_MODEL))
        self.say("Hello")
        self.button("Try again").click()
        self.until(lambda: len(self.all(".card")) == 1 and not self.is_busy(), "it fails again")
        self.assertEqual(self.active().accessible_name, "Send")
        [[shown, small, retry]] = self.failures()
        self.assertEqual((shown, retry), ("The model cannot be reached.", "Try again"))
        self.assertRegex(small, r"^The model cannot be reached\. Try again later\. · Wait \d+ s\. · [0-9a-f-]{36}$")
        self.assertEqual(self.said()[0], ("user", "Hello"))
        self.say("Hello again")
        self.assertEqual([len(failure) for failure in self.failures()], [2, 3])
        keys = self.keys()
        self.assertEqual((len(keys), keys[0] == keys[1], keys[1] == keys[2]), (3, True, False))
        self.assertEqual([uuid.UUID(key).version for key in keys], [4] * 3)

    def test_an_answer_that_breaks_off_is_requested_again(self):
        stack = self.served(["Half of", None], ["The whole."])
        self.open(stack)
        self.say("Hello")
        self.assertEqual(self.said(), [("user", "Hello"), ("assistant", "Half of")])
        self.assertEqual((len(self.failures()), self.conversation()), (1, ""))
        self.button("Try again").click()
        self.until(lambda: self.said()[1:] == [("assistant", "The whole.")] and not self.is_busy(), "the answer")
        first, second = self.keys()
        self.assertEqual((first, self.failures()), (second, []))
        self.assertEqual(stack.ask("GET", f"/api/v1/conversations/{self.conversation()}")[1]["turns"], 1)

    def test_a_lost_connection_is_shown_and_the_answer_is_not_doubled(self):
        rest = threading.Event()
        stack = self.served(["Half of", rest, " it."], ["Another."])
        wire = Wire(stack.url)
        self.addCleanup(wire.close)
        self.open(wire)
        self.send("Hello")
        self.until(lambda: self.said()[1:] == [("assistant", "Half of")], "the first words")
        conversation = self.conversation()
        wire.cut()
        self.until(lambda: self.failures(), "the failure is shown")
        self.assertEqual(self.failures(), [["The connection was lost.", "Try again"]])
        rest.set()
        path = f"/api/v1/conversations/{conversation}"
        self.until(lambda: stack.ask("GET", path)[0] == 200, "the server saves it")
        self.button("Try again").click()
        self.until(lambda: self.said()[1:] == [("assistant", "Half of it.")] and not self.is_busy(), "the answer")
        self.assertEqual((self.conversation(), stack.ask("GET", path)[1]["turns"]), (conversation, 1))

    def test_an_unreachable_api_is_shown_as_a_failure(self):
        stack = self.stack()
        self.open(stack)
        stack.process.terminate()
        stack.process.wait()
        self.say("Hello")
        self.assertEqual(self.failures(), [["The connection was lost.", "Try again"]])

    def test_an_answer_that_cannot_be_saved_is_marked(self):
        table, model = EmptyTable(), Model(["Hello."], ["Who are you?"])
        for server in [table, model]:
            self.addCleanup(server.close)
        self.open(self.stack(**table.variables(), **model.variables()))
        self.say("My name is Ada.")
        self.assertEqual(self.notes(), ["Copy\nCould not be saved, and is not remembered."])

    def test_another_servers_page_is_not_taken_for_an_answer(self):
        with urllib.request.urlopen(urllib.request.Request(self.stack().url + "/", headers=HTML)) as answer:
            site = Site({"/": answer.read()})
        self.addCleanup(site.close)
        site.url = site.origin("localhost")
        self.open(site)
        self.say("Hello")
        self.assertEqual(self.failures(), [["The connection was lost.", "Try again"]])
        self.assertEqual(self.console(), [])

    def test_a_missing_conversation_is_reported_and_a_new_one_begins(self):
        stack = self.stack()
        self.open(stack)
        self.driver.execute_script("sessionStorage.setItem('conversation', arguments[0])", UNKNOWN)
        self.driver.refresh()
        self.until(lambda: self.failures(), "the failure is shown")
        self.assertEqual(self.failures()[0][0], "The conversation is gone. A new one begins.")
        self.assertEqual((len(self.failures()[0]), self.conversation()), (2, ""))
        self.say("Hello")
        self.assertEqual(self.last(), 'You have said 1 thing: "Hello".')

        first = self.conversation()
        stack.ask("DELETE", f"/api/v1/conversations/{first}")
        self.send("And now?")
        self.until(lambda: self.last() == 'You have said 1 thing: "And now?".' and not self.is_busy(), "a new one")
        self.assertEqual(len(self.failures()), 2)
        self.assertNotIn(self.conversation(), ["", first])

    def test_a_conversation_is_deleted_after_confirmation(self):
        stack = self.stack()
        self.open(stack)
        self.say("Hello")
        path = f"/api/v1/conversations/{self.conversation()}"
        for leave in [lambda: self.button("Cancel").click(), lambda: self.press(Keys.ESCAPE)]:
            self.button("Delete").click()
            self.until(lambda: self.one("#confirm").is_displayed(), "it asks")
            self.assertEqual(self.one("#confirm").accessible_name, "Delete this conversation?")
            self.assertEqual(self.active().accessible_name, "Cancel")
            leave()
            self.until(lambda: not self.one("#confirm").is_displayed(), "the question is gone")
            self.assertEqual(self.active().get_attribute("id"), "delete")
            self.assertEqual((stack.ask("GET", path)[0], len(self.said())), (200, 2))
        self.button("Delete").click()
        self.one("#confirmed").click()
        self.until(lambda: self.said() == [], "it is deleted")
        self.assertEqual((stack.ask("GET", path)[0], self.conversation()), (404, ""))
        self.assertEqual((self.active(), self.one("#announcer").text), (self.one("#message"), "Deleted"))
        self.assertEqual(self.console(), [])

    def test_older_turns_are_shown_before_the_newer_ones(self):
        stack = self.stack()
        conversation = None
        for number in range(45):
            body = {"message": f"message {number}", "conversation_id": conversation}
            conversation = stack.ask("POST", "/api/v1/chat", body)[1]["conversation_id"]
        self.open(stack)
        self.driver.execute_script("sessionStorage.setItem('conversation', arguments[0])", conversation)
        self.driver.refresh()
        mine = lambda: [text for who, text in self.said() if who == "user"]
        self.until(lambda: len(mine()) == 20, "the newest page")
        self.assertEqual(mine(), [f"message {number}" for number in range(25, 45)])
        at_the_end = "return innerHeight + scrollY >= document.documentElement.scrollHeight - 1"
        self.assertTrue(self.driver.execute_script(at_the_end))
        for turns in [40, 45]:
            where = "return document.querySelector('article').getBoundingClientRect().top"
            button = self.button("Show older messages")
            self.driver.execute_script("arguments[0].scrollIntoView()", button)
            first, top = self.one("article:first-child"), self.driver.execute_script(where)
            button.click()
            self.until(lambda: len(mine()) == turns, "an older page")
            # The text that was read stays where it is.
            self.assertAlmostEqual(first.rect["y"] - self.driver.execute_script("return scrollY"), top, delta=60)
        self.assertEqual(mine(), [f"message {number}" for number in range(45)])
        self.assertFalse(self.one("#older").is_displayed())
        self.assertEqual(self.active().get_attribute("id"), "log")

    def test_the_page_follows_the_text_unless_its_reader_scrolls_up(self):
        more, end = threading.Event(), threading.Event()
        paragraphs = "".join(f"Paragraph {number}\n\n" for number in range(60))
        self.open(self.served([paragraphs, more, paragraphs, end, paragraphs]))
        self.send("Hello")
        count = lambda: len(self.all(".bubble p"))
        left = "return document.documentElement.scrollHeight - innerHeight - scrollY"
        self.until(lambda: count() >= 59 and self.driver.execute_script(left) < 1, "the end is in sight")
        more.set()
        self.until(lambda: count() >= 119 and self.driver.execute_script(left) < 1, "it follows")
        # The page's script notices the scrolling before the browser reports its end.
        self.driver.execute_async_script("onscrollend = () => arguments[0](); scrollTo(0, 100)")
        end.set()
        self.until(lambda: not self.is_busy(), "the end")
        self.assertEqual(self.driver.execute_script("return scrollY"), 100)

    def test_markdown_is_rendered(self):
        self.open(self.served([RICH]))
        self.say("**Plain** <b>text</b>")
        self.assertEqual(self.said()[0], ("user", "**Plain** <b>text</b>"))
        link = lambda target, text=None: ["a", text or target]
        code = ["code", 'def add(a, b):\n    return "<b>" + a  # **not bold**']
        expected = [
            ["h2", "A title"],
            ["p", "A ", ["strong", "bold"], ", an ", ["em", "italic"], ", a ", ["code", "code"], " and a "]
            + [["strong", ["em", "both"]], ", ", "*", "escaped", "*"]
            + [",\non two lines. 2 * 3 * 4 and snake_case stay."],
            [
                "ol",
                ["li", ["p", "one"]]
                + [["ul", ["li", ["p", "inner ", ["code", "a"]]], ["li", ["p", "inner ", ["strong", "b"]]]]],
                ["li", ["p", "two"]],
            ],
            ["blockquote", ["p", "A quote with a ", link("link")]],
            ["figure", ["figcaption", "python", ["button", "Copy"]], ["pre", code]],
            ["hr"],
            [
                "div",
                ["table", ["tr", ["th", "name"], ["th", "count"]], ["tr", ["td", "apples"], ["td", ["strong", "2"]]]],
            ],
            ["p", "See ", link("https://example.com/path"), ", or ", link("mail"), "."],
        ]
        self.assertEqual(self.driver.execute_script(OUTLINE), expected)
        apart = {(each.get_attribute("target"), each.get_attribute("rel")) for each in self.all(".bubble a")}
        self.assertEqual(apart, {("_blank", "noopener noreferrer")})
        self.assertEqual(self.driver.execute_script(MADE)[2][0], "https://example.com/a?b=1&c=2")

    def test_nothing_in_a_models_answer_becomes_more_than_text(self):
        stack = self.stack()
        self.open(stack)
        # The stand-in repeats the message, and the history shows it once more.
        self.say(f"\n\n{HOSTILE}")
        self.say("x" * 20_000)
        self.say("\n\n" + "*a **b `c [d](" * 1_500)
        self.driver.refresh()
        self.until(lambda: len(self.said()) == 6, "the history")
        tags, attributes, targets = self.driver.execute_script(MADE)
        known = ["a", "blockquote", "button", "code", "div", "em", "figcaption", "figure", "li", "p", "pre", "strong"]
        self.assertEqual(set(tags) - {*known, "table", "td", "th", "tr", "ul"}, set())
        self.assertEqual(set(attributes) - {"class", "dir", "href", "rel", "tabindex", "target"}, set())
        self.assertGreater(len(targets), 2)
        self.assertEqual([target for target in targets if not target.startswith("https://")], [])
        self.assertIn("<script>window.ran = 1</script>", self.said()[1][1])
        self.assertIn("</code></pre><script>window.ran = 1</script>", self.said()[1][1])
        self.assertNotRegex(self.said()[1][1], "[\u202a-\u202e\u2066-\u2069]")
        for each in self.all(".assistant a"):
            self.driver.execute_script("arguments[0].dispatchEvent(new MouseEvent('mouseover'))", each)
        self.assertIsNone(self.driver.execute_script("return window.ran"))
        self.assertEqual(self.driver.execute_script(TOO_WIDE), [])
        self.assertEqual(self.console(), [])
        self.assertEqual({url.startswith((stack.url, "data:")) for _, url, _ in self.requests()}, {True})

    def test_a_long_answer_is_shown_without_rebuilding_it(self):
        pieces = [f"word {number} **bold** `code`\n\n" for number in range(3_000)]
        first, rest = threading.Event(), threading.Event()
        self.open(self.served(["The first.\n\nThe second.\n\n", first, *pieces, rest, "The last."]))
        self.send("Hello")
        self.until(lambda: len(self.all(".bubble p")) == 2, "the first paragraphs")
        [paragraph, _] = self.all(".bubble p")
        first.set()
        count = "return document.querySelectorAll('.bubble p').length"
        self.until(lambda: self.driver.execute_script(count) == 3_002, "all paragraphs")
        rest.set()
        self.until(lambda: not self.is_busy(), "the end")
        self.assertEqual((paragraph.text, self.driver.execute_script(count)), ("The first.", 3_003))

    def test_answers_and_code_can_be_copied(self):
        self.open(self.served([RICH]))
        self.say("Hello")
        read = "navigator.clipboard.readText().then(arguments[0], arguments[0])"
        whole, code = RICH, 'def add(a, b):\n    return "<b>" + a  # **not bold**'
        for selector, expected in [("figure .copy", code), ("article > p .copy", whole)]:
            button = self.one(selector)
            button.click()
            self.until(lambda: button.text == "Copied", "it is copied")
            self.assertEqual(self.driver.execute_async_script(read), expected)
            self.assertEqual(self.one("#announcer").get_property("textContent"), "Copied")

    def test_a_prompt_fills_the_box_which_grows(self):
        self.open(self.stack())
        [*prompts] = self.all("#examples button")
        self.assertEqual(len(prompts), 3)
        text = prompts[0].text
        prompts[0].click()
        box = self.one("#message")
        self.assertEqual((box.get_property("value"), self.active()), (text, box))
        height = box.rect["height"]
        box.send_keys(Keys.SHIFT, Keys.ENTER)
        box.send_keys(Keys.NULL, "more")
        self.assertEqual(box.get_property("value"), f"{text}\nmore")
        self.assertGreater(box.rect["height"], height)
        box.send_keys(Keys.ENTER)
        self.until(lambda: len(self.said()) == 2 and not self.is_busy(), "the answer")
        self.assertEqual((self.said()[0], box.rect["height"]), (("user", f"{text}\nmore"), height))

    def test_enter_belongs_to_the_input_method_during_composition(self):
        self.open(self.stack())
        sent = self.driver.execute_script(
            """
            const box = document.getElementById("message");
            box.value = "안녕";
            const enter = (isComposing) =>
              new KeyboardEvent("keydown", { key: "Enter", isComposing, cancelable: true });
            return [box.dispatchEvent(enter(true)), box.dispatchEvent(enter(false))];
            """
        )
        # An event that is not cancelled does what Enter normally does.
        self.assertEqual(sent, [True, False])
        self.until(lambda: len(self.said()) == 2 and not self.is_busy(), "it is sent once")
        self.assertEqual(self.said()[0], ("user", "안녕"))

    def test_a_double_click_sends_and_does_not_stop(self):
        end = threading.Event()
        self.open(self.served(["Hello", end, "."]))
        self.one("#message").send_keys("Hello")
        ActionChains(self.driver).double_click(self.one("#go")).perform()
        self.until(lambda: self.said()[1:] == [("assistant", "Hello")], "the first word")
        end.set()
        self.until(lambda: not self.is_busy(), "the end")
        self.assertEqual((self.last(), len(self.posts())), ("Hello.", 1))

    def test_a_token_is_sent_and_kept_until_the_tab_is_closed(self):
        self.open(self.stack())
        self.button("Settings").click()
        self.one("#token").send_keys("a-token", Keys.ENTER)
        self.until(lambda: not self.one("#access").is_displayed(), "the settings are closed")
        self.requests()
        self.say("Hello")
        self.driver.refresh()
        self.until(lambda: len(self.said()) == 2, "the history")
        sent = [headers.get("authorization") for _, url, headers in self.requests() if "/api/" in url]
        self.assertEqual(sent, ["Bearer a-token", "Bearer a-token"])
        kept = "return JSON.stringify([{ ...localStorage }, document.cookie, location.href])"
        self.assertNotIn("a-token", self.driver.execute_script(kept))

    def test_it_asks_for_an_access_token_if_one_is_needed_and_continues_with_it(self):
        stack = self.stack(**TOKENS)
        self.open(stack)
        for refused, token in enumerate([None, "another"], 1):
            if token:
                self.button("Settings").click()
                self.one("#token").send_keys(token, Keys.ENTER)
                self.until(lambda: not self.one("#access").is_displayed(), "the settings are closed")
            self.one("#message").clear()
            self.say("Hello")
            self.assertIn("Enter an access token in the settings.", " ".join(self.failures()[-1]))
            self.assertEqual(stack.log().count("POST /api/v1/chat 401"), refused)
        self.button("Settings").click()
        self.one("#token").clear()
        self.one("#token").send_keys("a-token", Keys.ENTER)
        self.until(lambda: not self.one("#access").is_displayed(), "the settings are closed")
        self.one("#message").clear()
        self.say("Hello")
        self.until(lambda: not self.is_busy() and self.last().startswith("You have said 1 thing"), "the answer")
        self.driver.refresh()
        self.until(lambda: self.said() and self.last().startswith("You have said 1 thing"), "the history")

    def ask_as_ada(self, stack, method, path, body=None):
        status, answer = stack.ask(method, path, body, authorization="Bearer a-token")
        self.assertEqual(status, 200)
        return answer

    def enter_token(self):
        self.button("Settings").click()
        self.one("#token").send_keys("a-token", Keys.ENTER)
        self.until(lambda: not self.one("#access").is_displayed(), "the settings are closed")

    def open_list(self):
        self.button("Conversations").click()
        self.until(lambda: self.one("#state").text != "…", "the list")

    def entries(self):
        return [entry.text.split("\n")[0] for entry in self.all("#rows .entry")]

    def tool(self, entry, name):
        """A button beside an entry of the list."""
        item = self.all("#rows li")[self.entries().index(entry)]
        [tool] = [button for button in item.find_elements(By.TAG_NAME, "button") if button.accessible_name == name]
        return tool

    def confirm(self):
        self.until(lambda: self.one("#confirm").is_displayed(), "it asks")
        self.one("#confirmed").click()
        self.until(lambda: not self.one("#confirm").is_displayed() and self.one("#state").text != "…", "it is done")

    def test_ones_own_conversations_are_listed_opened_and_renamed(self):
        stack = self.stack(**TOKENS)
        self.requests()
        self.open(stack)
        self.assertFalse(self.one("#list").is_displayed())
        self.enter_token()
        self.assertEqual([url for _, url, _ in self.requests() if "/api/" in url], [], "the list is loaded too early")
        self.open_list()
        self.assertEqual((self.entries(), self.one("#state").text), ([], "No conversations yet."))
        self.assertFalse(self.one("#every").is_displayed())
        self.button("Close").click()
        self.say("Plan a trip")
        self.button("New chat").click()
        self.say("Hello")
        self.open_list()
        self.assertEqual((self.entries(), self.one("#state").text), (["Hello", "Plan a trip"], ""))
        self.assertEqual([entry.get_attribute("aria-current") for entry in self.all(".entry")], ["true", "false"])
        self.assertRegex(self.one("#rows .entry[aria-current=true]").text, r"^Hello\n\w{3} \d{1,2}, \d{4}, \d{1,2}:\d{2}\s[AP]M$")

        self.tool("Plan a trip", "Rename").click()
        self.until(lambda: self.active().get_attribute("id") == "name", "it asks for the name")
        self.assertEqual((self.active().get_property("value"), self.active().accessible_name), ("Plan a trip", "Rename"))
        name = self.one("#name")
        name.clear()
        name.send_keys(Keys.ENTER)
        self.assertTrue(self.one("#confirm").is_displayed(), "a title is needed")
        name.send_keys("Busan <b>trip</b>", Keys.ENTER)
        self.until(lambda: self.entries() == ["Hello", "Busan <b>trip</b>"], "the new name")
        listed = self.ask_as_ada(stack, "GET", LIST)["conversations"]
        self.assertEqual([each["title"] for each in listed], ["Hello", "Busan <b>trip</b>"])
        self.tool("Hello", "Rename").click()
        self.one("#name").send_keys(" again")
        self.button("Cancel").click()
        self.assertEqual(self.entries(), ["Hello", "Busan <b>trip</b>"])

        self.all(".entry")[1].click()
        self.until(lambda: len(self.said()) == 2, "the other conversation")
        self.assertFalse(self.one("#mine").is_displayed())
        self.assertEqual((self.said()[0], self.active()), (("user", "Plan a trip"), self.one("#message")))
        self.say("And then?")
        self.assertIn("You have said 2 things", self.last())
        self.assertEqual(self.console(), [])

    def test_ones_own_conversations_are_deleted_after_confirmation(self):
        stack = self.stack(**TOKENS)
        self.open(stack)
        self.enter_token()
        for message in ["one", "two", "three"]:
            self.button("New chat").click()
            self.say(message)
        self.open_list()
        self.tool("two", "Delete").click()
        self.button("Cancel").click()
        self.tool("two", "Delete").click()
        self.confirm()
        self.assertEqual((self.entries(), self.active()), (["three", "one"], self.one("#close")))
        self.assertEqual(len(self.said()), 2, "another one is shown, and stays")
        self.tool("three", "Delete").click()
        self.confirm()
        self.assertEqual((self.entries(), self.said(), self.conversation()), (["one"], [], ""))
        # The list still shows a conversation that is gone.
        self.ask_as_ada(stack, "DELETE", LIST)
        self.tool("one", "Delete").click()
        self.confirm()
        self.assertIn("The conversation is gone.", self.one("#state").text)
        self.button("Close").click()

        self.say("four")
        self.open_list()
        self.button("Delete all conversations").click()
        self.press(Keys.ESCAPE)
        self.assertEqual(self.entries(), ["four"])
        self.button("Delete all conversations").click()
        self.confirm()
        self.assertEqual((self.entries(), self.one("#state").text, self.said()), ([], "No conversations yet.", []))
        self.assertEqual(self.ask_as_ada(stack, "GET", LIST), {"conversations": []})

    def test_a_long_list_comes_in_pages(self):
        stack = self.stack(**TOKENS)
        for number in range(23):
            self.ask_as_ada(stack, "POST", "/api/v1/chat", {"message": f"Number {number}"})
        self.open(stack)
        self.enter_token()
        self.open_list()
        self.assertEqual(self.entries(), [f"Number {number}" for number in range(22, 2, -1)])
        self.one("#more").send_keys(Keys.ENTER)
        self.until(lambda: len(self.entries()) == 23, "the rest")
        self.assertEqual(self.active().text.split("\n")[0], "Number 2")
        self.assertFalse(self.one("#more").is_displayed())
        self.press(Keys.ESCAPE)
        self.open_list()
        self.assertEqual(len(self.entries()), 20, "the list starts again")

    def test_it_says_why_there_is_no_list(self):
        table = NoIndex()
        self.addCleanup(table.close)
        rows = [
            (TOKENS | table.variables(), "The server is not set up.", "its table has no index owner-updated_at-index."),
            ({}, "Enter an access token in the settings.", "Only a caller with an identity has a list of conversations"),
        ]
        for variables, shown, detail in rows:
            self.open(self.stack(**variables))
            if not self.one("#list").is_displayed():
                self.enter_token()
            self.open_list()
            self.assertTrue(self.one("#state").text.startswith(shown), self.one("#state").text)
            self.assertIn(detail, self.one("#state").text)
            self.assertFalse(self.one("#more").is_displayed() or self.one("#every").is_displayed())

    def test_it_speaks_korean_and_english(self):
        stack = self.stack(**NO_MODEL)
        rows = [
            ("ko-KR,ko,en-US", "ko", "무엇을 도와드릴까요?", "모델에 연결할 수 없습니다.", "다시 시도"),
            ("ja,fr-FR,ko", "ko", "무엇을 도와드릴까요?", "모델에 연결할 수 없습니다.", "다시 시도"),
            ("en-GB,ko", "en", "What can I help with?", "The model cannot be reached.", "Try again"),
            ("fr,de", "en", "What can I help with?", "The model cannot be reached.", "Try again"),
        ]
        for languages, language, greeting, failure, again in rows:
            with self.subTest(languages):
                self.open(stack, languages=languages)
                self.assertEqual(self.one("html").get_attribute("lang"), language)
                self.assertEqual(self.one("#greeting").text, greeting)
                self.say("안녕하세요")
                [[shown, small, retry]] = self.failures()
                self.assertEqual((shown, retry), (failure, again))
                self.assertIn("The model cannot be reached. Try again later. · ", small)
                nodes = self.all("button, textarea, #log, article, a")
                named = [node.accessible_name for node in nodes if node.is_displayed()]
                self.assertGreater(len(named), 7)
                self.assertEqual([name for name in named if not name], [])
                # The product's name, the greeting's words and the server's texts exist in one language only.
                foreign = r"[가-힣]" if language == "en" else r"^[A-Za-z ]+$"
                self.assertEqual([name for name in named if re.search(foreign, name)], [])

    def test_every_text_exists_in_both_languages(self):
        self.open(self.stack())
        script = self.one("script").get_property("textContent")
        words = re.findall(r'^\w+:\s"(.+)",$', script[: script.index("};")], re.MULTILINE)
        self.assertGreater(len(words), 45)
        hangul = lambda text: re.search("[가-힣]", text) is not None
        shown = [[hangul(text) for text in each.split("|")] for each in words]
        self.assertEqual([text for text, each in zip(words, shown) if each != [False, True]], [])

    def test_it_works_on_a_named_stage_and_behind_another_gateway(self):
        named, other = self.stack("--stage", "prod"), self.stack(BASE_PATH="/team-a")
        for stack, path, base in [(named, "/", named.url), (other, "/team-a/", other.url + "/team-a")]:
            self.open(stack, path)
            self.say("Hello")
            self.assertEqual([url for url, _ in self.posts()], [f"{base}/api/v1/chat"])
            self.assertEqual(self.one("#docs").get_property("href"), f"{base}/docs")
        self.assertEqual(self.console(), [])

    def test_the_policy_is_enforced_and_the_whole_page_is_one_small_file(self):
        stack = self.stack()
        self.requests()
        self.open(stack)
        self.say("Hello")
        self.assertEqual(self.console(), [])
        asked = [url.removeprefix(stack.url) for _, url, _ in self.requests() if not url.startswith("data:")]
        self.assertEqual(asked, ["/", "/api/v1/chat"])
        with urllib.request.urlopen(urllib.request.Request(stack.url + "/", headers=HTML)) as answer:
            self.assertLess(len(answer.read()), LARGEST)
        self.assert_policy_is_enforced()

    def test_it_is_not_found_if_it_is_switched_off(self):
        status, problem = self.stack(DOCS="off").ask("GET", "/")
        self.assertEqual((status, problem["code"]), (404, "not_found"))

    def test_it_can_be_used_with_the_keyboard_alone(self):
        stack = self.served(["A `word`:\n\n```\ncode\n```\n\n[link](https://example.com/)"], ["Bye."])
        self.open(stack)

        def tab_to(selector, *keys):
            for _ in range(30):
                self.press(*(keys or [Keys.TAB]))
                seen = self.driver.execute_script(
                    """
                    const node = document.activeElement;
                    const { left, top, width, height } = node.getBoundingClientRect();
                    const over = document.elementFromPoint(left + width / 2, top + height / 2);
                    const seen = over && (node.contains(over) || over.contains(node));
                    return [getComputedStyle(node).outlineStyle, !!seen, node.matches(arguments[0])];
                    """,
                    selector,
                )
                # The focus is visible, and nothing covers it.
                self.assertEqual(seen[:2], ["solid", True], self.active().get_attribute("outerHTML")[:80])
                if seen[2]:
                    return
            self.fail(f"Tab does not lead to {selector}")

        tab_to("#skip")
        self.press(Keys.ENTER)
        self.until(lambda: self.active().get_attribute("id") == "message", "the link skips to the message")
        self.press("Hello")
        tab_to("#go")
        self.press(Keys.SPACE)
        self.until(lambda: len(self.said()) == 2 and not self.is_busy(), "the answer")
        self.assertEqual(self.active().get_attribute("id"), "message")
        back = lambda: ActionChains(self.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
        for selector in ["article > p .copy", ".bubble a", "pre", "figure .copy", "#settings"]:
            back()
            self.assertEqual(self.active(), self.one(selector))
        self.press(Keys.ENTER)
        self.until(lambda: self.active().get_attribute("id") == "token", "the settings are open")
        self.press(Keys.ESCAPE)
        self.until(lambda: self.active().get_attribute("id") == "settings", "they are closed")
        back()
        self.assertEqual(self.active().get_attribute("id"), "delete")
        self.press(Keys.ENTER)
        self.until(lambda: self.active().get_attribute("id") == "cancel", "it asks")
        tab_to("#confirmed")
        self.press(Keys.ENTER)
        self.until(lambda: self.active().get_attribute("id") == "message", "it is deleted")
        self.assertEqual(self.said(), [])

        # The list of one's own conversations.
        listed = self.stack(**TOKENS)
        for message in ["one", "two"]:
            self.ask_as_ada(listed, "POST", "/api/v1/chat", {"message": message})
        self.open(listed)
        tab_to("#settings")
        self.press(Keys.ENTER, "a-token", Keys.ENTER)
        self.until(lambda: self.active().get_attribute("id") == "settings", "the token is entered")
        for _ in range(2):
            back()
        self.assertEqual(self.active().get_attribute("id"), "list")
        self.press(Keys.ENTER)
        self.until(lambda: self.entries() == ["two", "one"], "the list")
        tab_to("#rows li:last-child .entry")
        tab_to("#rows li:last-child [title=Rename]")
        self.press(Keys.SPACE)
        self.until(lambda: self.active().get_attribute("id") == "name", "it asks for the name")
        self.press(" more", Keys.ENTER)
        self.until(lambda: self.entries() == ["two", "one more"], "the new name")
        self.assertEqual(self.active().accessible_name, "Rename")
        tab_to("#rows li:last-child [title=Delete]")
        self.press(Keys.SPACE)
        self.until(lambda: self.active().get_attribute("id") == "cancel", "it asks")
        tab_to("#confirmed")
        self.press(Keys.ENTER)
        self.until(lambda: self.entries() == ["two"] and self.active().get_attribute("id") == "close", "it is deleted")
        tab_to(".entry")
        self.press(Keys.ENTER)
        self.until(lambda: len(self.said()) == 2 and self.active().get_attribute("id") == "message", "it is opened")

    def test_axe_finds_nothing_in_any_state_in_light_and_dark_mode(self):
        with open(os.environ["AXE_CORE"], encoding="utf-8") as file:
            axe = file.read()
        more = threading.Event()
        half = ["# Title\n\nHalf", more, f" of it.\n\n{RICH}"]
        stack = self.served(half, ["Broken", None], half, ["Broken", None])
        table = NoIndex()
        self.addCleanup(table.close)

        def check(state):
            self.driver.execute_script(axe)
            run = "axe.run().then(({ violations }) => arguments[0](violations), (error) => arguments[0](String(error)))"
            found = self.driver.execute_async_script(run)
            shown = [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]
            self.assertEqual(shown, [], state)

        for scheme in ["light", "dark"]:
            self.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
            self.open(stack)
            self.button("New chat").click()
            check(f"{scheme}: empty")
            more.clear()
            self.send("Hello")
            self.until(lambda: self.last().endswith("Half"), "the first words")
            check(f"{scheme}: writing")
            more.set()
            self.until(lambda: not self.is_busy(), "the answer")
            check(f"{scheme}: a conversation")
            self.say("And now?")
            self.assertEqual(len(self.failures()), 1)
            check(f"{scheme}: a failure")
            for name, dialog in [("Settings", "#access"), ("Delete", "#confirm")]:
                self.button(name).click()
                self.until(lambda: self.one(dialog).is_displayed(), "it opens")
                check(f"{scheme}: {name}")
                self.press(Keys.ESCAPE)
                self.until(lambda: not self.one(dialog).is_displayed(), "it is closed")

            for variables in [TOKENS, TOKENS | table.variables()]:
                listed = self.stack(**variables)
                if "HISTORY_TABLE" not in variables:
                    for number in range(21):
                        self.ask_as_ada(listed, "POST", "/api/v1/chat", {"message": f"Number {number}"})
                self.open(listed)
                self.enter_token()
                self.open_list()
                check(f"{scheme}: the list, {self.one('#state').text}")
                for tool in self.all("#rows li:first-child > button:not(.entry)"):
                    tool.click()
                    check(f"{scheme}: {tool.accessible_name}")
                    self.press(Keys.ESCAPE)

    def test_it_fits_every_screen_and_its_buttons_fit_fingers(self):
        self.open(self.served([RICH + "\n" + "x" * 500 + "\n\n    " + "y " * 200], ["Broken", None]))
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        self.say("z" * 500)
        self.say("And now?")
        for width, height in [(320, 568), (390, 844), (844, 390), (1280, 800)]:
            self.screen(width, height)
            self.assertEqual(self.driver.execute_script(OUTSIDE), [], f"{width} pixels")
            # Anything wider scrolls on its own.
            scrolled = "return [...document.querySelectorAll('pre, .table')].map((node) => node.clientWidth)"
            self.assertLess(max(self.driver.execute_script(scrolled)), width)
            box, page = self.one("#composer").rect, self.driver.execute_script("return scrollY + innerHeight")
            self.assertAlmostEqual(box["y"] + box["height"], page, delta=1, msg="the box is at the bottom")
            small = [
                (button.accessible_name, button.size)
                for button in self.all("button, textarea")
                if button.is_displayed() and min(button.size.values()) < 44
            ]
            self.assertEqual(small if width < 600 else [], [], f"{width} pixels")

        listed = self.stack(**TOKENS)
        for title in ["z" * 80, "a " * 40]:
            self.ask_as_ada(listed, "POST", "/api/v1/chat", {"message": title})
        self.open(listed)
        self.enter_token()
        for width, height in [(320, 568), (390, 844), (844, 390), (1280, 800)]:
            self.screen(width, height)
            self.open_list()
            self.assertEqual(self.driver.execute_script(OUTSIDE), [], f"the list, {width} pixels")
            buttons = [button for button in self.all("#mine button") if button.is_displayed()]
            self.assertEqual([each.size for each in buttons if min(each.size.values()) < 44], [], f"{width} pixels")
            self.press(Keys.ESCAPE)


if __name__ == "__main__":
    unittest.main()
