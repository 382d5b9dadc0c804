"""The documented React page in a browser, with the last three major versions of the AI SDK."""

import json
import os
import re
import subprocess
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from support import PATIENCE, BrowserTest, Site

HERE = os.path.dirname(os.path.abspath(__file__))
COMMANDS = os.path.join(HERE, "node_modules", ".bin")

# The API's address in the documented page. The tests replace only this.
DOCUMENTED_API = '"http://127.0.0.1:8000/api/v1/chat"'

# Nothing listens on this port, so the model cannot be reached.
NO_MODEL = "http://127.0.0.1:1/v1"

# Records every text of the last message as it grows.
WATCH = """
window.seen = [];
new MutationObserver(() => {
  const text = [...document.querySelectorAll("p")].at(-1)?.textContent;
  if (text !== undefined && text !== seen.at(-1)) seen.push(text);
}).observe(document.body, { childList: true, subtree: true, characterData: true });
"""


def documented_page():
    with open(".github/docs/api.md", encoding="utf-8") as documentation:
        [code] = re.findall(r"^```tsx\n(.*?)^```$", documentation.read(), re.DOTALL | re.MULTILINE)
    return code


def run(command, *arguments):
    """Runs a command of the packages and returns its output."""
    done = subprocess.run([os.path.join(COMMANDS, command), *arguments], cwd=HERE, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{command} fails: {done.stdout}{done.stderr}")
    return done.stdout


class Model:
    """A server with the Chat Completions API that says what `script`, a generator, makes of the messages it is sent.

    If it raises an exception, the stream carries an error.
    """

    def __init__(self, script):
        class Completions(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                try:
                    for content in script([message["content"] for message in asked["messages"]]):
                        self.chunk({"content": content}, None)
                    self.chunk({}, "stop")
                    self.send("[DONE]")
                except RuntimeError as error:
                    self.send(json.dumps({"error": {"message": str(error), "type": "server_error"}}))

            def chunk(self, delta, finish_reason):
                choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
                self.send(json.dumps({"object": "chat.completion.chunk", "model": "a-model", "choices": choices}))

            def send(self, data):
                self.wfile.write(f"data: {data}\n\n".encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Page:
    """The tests, with the packages of these names."""

    ai = "ai"
    react = "@ai-sdk/react"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Node.js looks for packages in the parent directories.
        directory = tempfile.TemporaryDirectory(dir=HERE)
        cls.addClassCleanup(directory.cleanup)
        cls.directory = directory.name
        code = os.path.join(cls.directory, "Chat.tsx")
        with open(code, "w", encoding="utf-8") as file:
            file.write(documented_page())
        aliases = {"chat": code, "ai": cls.ai, "@ai-sdk/react": cls.react}
        cls.script = run(
            "esbuild",
            "mount.js",
            "--bundle",
            "--jsx=automatic",
            "--log-level=warning",
            '--define:process.env.NODE_ENV="development"',
            *(f"--alias:{name}={found}" for name, found in aliases.items() if name != found),
        )

    def open(self, stack):
        """Opens the page with this stack as its API."""
        self.assertEqual(self.script.count(DOCUMENTED_API), 1)
        script = self.script.replace(DOCUMENTED_API, json.dumps(stack.url + "/api/v1/chat"))
        head = "<!doctype html><meta charset=utf-8><title>A page</title><link rel=icon href=data:,><div id=root></div>"
        site = Site({"/": f"{head}<script type=module>{script}</script>".encode()})
        self.addCleanup(site.close)
        self.driver.get(site.origin("localhost") + "/")
        self.until(lambda: self.button("Send"), "the page has loaded")
        self.driver.execute_script(WATCH)
        self.requests()

    def button(self, name):
        return next((each for each in self.driver.find_elements(By.TAG_NAME, "button") if each.text == name), None)

    def alert(self):
        return next(iter(self.driver.find_elements(By.CSS_SELECTOR, "[role=alert]")), None)

    def texts(self):
        """The messages, each with its author."""
        said = "return [...document.querySelectorAll('p:not([role])')].map((line) => line.textContent)"
        return self.driver.execute_script(said)

    def say(self, message):
        self.driver.find_element(By.TAG_NAME, "input").send_keys(message, Keys.ENTER)

    def until_texts(self, *expected):
        done = lambda: self.texts() == list(expected) and self.button("Send") and not self.alert()
        self.until(done, f"the messages are {expected}")

    def warnings(self):
        """The lines of the browser's console, without React's messages for developers."""
        return [line for line in self.console() if not line.startswith("INFO ")]

    def keys(self):
        return [headers["idempotency-key"] for method, _, headers in self.requests() if method == "POST"]

    def test_the_code_is_strict_typescript(self):
        options = {
            "strict": True,
            "noUncheckedIndexedAccess": True,
            "noEmit": True,
            "jsx": "react-jsx",
            "module": "esnext",
            "moduleResolution": "bundler",
            "target": "es2022",
            "lib": ["es2022", "dom", "dom.iterable"],
            "types": [],
            # The packages' own types need those of Node.js.
            "skipLibCheck": True,
            "paths": {
                name: [os.path.join(HERE, "node_modules", found, "dist", "index.d.ts")]
                for name, found in {"ai": self.ai, "@ai-sdk/react": self.react}.items()
            },
        }
        project = os.path.join(self.directory, "tsconfig.json")
        with open(project, "w", encoding="utf-8") as file:
            json.dump({"compilerOptions": options, "files": ["Chat.tsx"]}, file)
        run("tsc", "-p", project)

    def test_an_answer_grows_and_the_next_one_remembers(self):
        self.open(self.stack("--function-url", "--model-delay", "30"))
        self.say("My name is Ada.")
        mine, answer = "user My name is Ada.", 'assistant You have said 1 thing: "My name is Ada.".'
        self.until_texts(mine, answer)
        seen = self.driver.execute_script("return seen")
        grown = [text for text in seen if text.startswith("assistant ")]
        self.assertGreater(len(grown), 2, seen)
        self.assertEqual(grown, sorted(grown, key=len))
        for text in grown:
            self.assertTrue(answer.startswith(text), text)

        self.say("What is my name?")
        again = 'assistant You have said 2 things; before this: "My name is Ada.". Now: "What is my name?".'
        self.until_texts(mine, answer, "user What is my name?", again)
        first, second = self.keys()
        self.assertNotEqual(first, second)
        self.assertEqual(self.warnings(), [])

    def test_an_http_api_gives_the_same_page(self):
        self.open(self.stack("--model-delay", "0"))
        self.say("My name is Ada.")
        mine, answer = "user My name is Ada.", 'assistant You have said 1 thing: "My name is Ada.".'
        self.until_texts(mine, answer)
        self.say("And now?")
        again = 'assistant You have said 2 things; before this: "My name is Ada.". Now: "And now?".'
        self.until_texts(mine, answer, "user And now?", again)
        self.assertEqual(self.warnings(), [])

    def test_an_unreachable_model_is_reported_in_words(self):
        self.open(self.stack("--function-url", OPENAI_BASE_URL=NO_MODEL))
        self.say("Hello")
        self.until(self.alert, "the error is shown")
        shown = "The model cannot be reached. Try again later. Try again"
        self.assertEqual((self.alert().text, self.texts()), (shown, ["user Hello"]))
        self.button("Try again").click()
        keys = []
        self.until(lambda: keys.extend(self.keys()) or len(keys) == 2, "the request is sent again")
        self.until(self.alert, "the error is shown again")
        self.assertEqual((self.alert().text, self.texts(), len(set(keys))), (shown, ["user Hello"], 1))

    def test_an_answer_that_breaks_off_is_reported_and_can_be_requested_again(self):
        def script(messages):
            yield "One"
            attempts.append(messages)
            if len(attempts) == 1:
                raise RuntimeError("it has broken")
            yield f" of {len(messages)}"

        attempts = []
        stack = self.model_stack(script)
        self.open(stack)
        self.say("Count")
        self.until(self.alert, "the error is shown")
        self.assertRegex(self.alert().text, r"^[A-Z].*\. Try again$")
        self.assertEqual(self.texts(), ["user Count", "assistant One"])
        self.button("Try again").click()
        self.until_texts("user Count", "assistant One of 1")
        self.assertEqual(len(set(self.keys())), 1)
        self.say("Go on")
        self.until_texts("user Count", "assistant One of 1", "user Go on", "assistant One of 3")

        # The first message was not stored, so a second one has nothing to continue.
        attempts.clear()
        self.open(stack)
        self.say("Count")
        self.until(self.alert, "the error is shown")
        self.say("Hello")
        self.until_texts("user Count", "assistant One", "user Hello", "assistant One of 1")

    def test_a_stopped_answer_is_remembered(self):
        def script(messages):
            if len(messages) > 1:
                yield " / ".join(messages)
                return
            yield "One"
            rest.wait(PATIENCE)
            yield " two"

        rest = threading.Event()
        self.addCleanup(rest.set)
        self.open(self.model_stack(script))
        self.say("Count")
        self.until(lambda: self.texts() == ["user Count", "assistant One"], "the first word has arrived")
        self.button("Stop").click()
        self.until_texts("user Count", "assistant One")
        rest.set()
        self.say("Go on")
        answer = ["user Count", "assistant One", "user Go on", "assistant Count / One two / Go on"]

        def remembered():
            # The conversation is stored when the model has finished, although the client has stopped reading.
            if self.alert() and "There is no such conversation." in self.alert().text:
                self.button("Try again").click()
            return self.texts() == answer

        self.until(remembered, "the stopped answer is remembered")

    def model_stack(self, script):
        model = Model(script)
        self.addCleanup(model.close)
        return self.stack("--function-url", OPENAI_BASE_URL=model.url)


class WithAi5(Page, BrowserTest):
    ai = "ai5"
    react = "ai-sdk-react5"


class WithAi6(Page, BrowserTest):
    pass


class WithAi7(Page, BrowserTest):
    ai = "ai7"
    react = "ai-sdk-react7"


if __name__ == "__main__":
    unittest.main()
