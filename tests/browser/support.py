"""The local stack, the servers that it calls, pages of other origins, and a browser that shows them."""

import json
import os
import socket
import subprocess
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

# The built example `local`.
LOCAL = os.path.abspath(os.environ["LOCAL_STACK"])

# How long a page may take for anything, in seconds. A test that passes never waits this long.
PATIENCE = 20

# The elements that are wider than the page.
TOO_WIDE = """
const page = document.documentElement.clientWidth;
const wide = [...document.querySelectorAll("*")].filter((node) => node.getBoundingClientRect().right > page);
return wide.map((node) => node.outerHTML.slice(0, 80));
"""


class Stack:
    """The function behind the local gateway, with only these arguments and variables."""

    def __init__(self, *arguments, **variables):
        self.directory = tempfile.TemporaryDirectory()
        self.log_path = os.path.join(self.directory.name, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [LOCAL, "--port", "0", *arguments],
                cwd=self.directory.name,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = self.process.stdout.readline()
        if not line.startswith("Listening on "):
            raise RuntimeError(f"the stack does not start: {line}{self.log()}")
        self.url = line.split()[2]

    def log(self):
        """The access log: a line such as `GET /health 200 1 ms` for each request."""
        with open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def ask(self, method, path, body=None, **headers):
        """The status and the JSON of the answer to a request that no browser sends."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text else None

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
        self.directory.cleanup()


class Site:
    """A server on 127.0.0.1, which is also localhost and every name below it, that answers everything with a page.

    It is an empty one, if `pages` has no other for the path. The page /sandboxed has an opaque origin, which browsers
    send as `null`.
    """

    def __init__(self, pages=None):
        class Page(BaseHTTPRequestHandler):
            def do_GET(self):
                # A connection that is closed before everything was read is reset.
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(200)
                self.send_header("content-type", "text/html")
                if self.path == "/sandboxed":
                    self.send_header("content-security-policy", "sandbox allow-scripts")
                self.end_headers()
                empty = b"<!doctype html><title>A page</title><link rel=icon href=data:,>"
                self.wfile.write((pages or {}).get(self.path, empty))

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def origin(self, host):
        return f"http://{host}:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Upstream:
    """A server on 127.0.0.1 that the function calls."""

    def __init__(self):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler):
                self.answer(handler, json.loads(handler.rfile.read(int(handler.headers["content-length"]))))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Model(Upstream):
    """A model that gives these answers, one after the other, in the Chat Completions API's stream.

    An answer is a list of pieces of text. It goes on at an event when that is set, and breaks off at `None`.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        super().__init__()

    def variables(self):
        return {"OPENAI_BASE_URL": self.url + "/v1"}

    def answer(self, handler, _):
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        for piece in self.answers.pop(0):
            if isinstance(piece, threading.Event):
                piece.wait(PATIENCE)
            elif piece is None:
                handler.close_connection = True
                return
            else:
                self.send(handler, {"content": piece}, None)
        self.send(handler, {}, "stop")
        handler.wfile.write(b"data: [DONE]\n\n")

    def send(self, handler, delta, finish_reason):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "a-model", "choices": [choice]}
        handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())


class EmptyTable(Upstream):
    """A DynamoDB that finds nothing and refuses every write."""

    def variables(self):
        keys = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL_DYNAMODB": self.url, "HISTORY_TABLE": "a-table", **keys}

    def answer(self, handler, _):
        reads = handler.headers["x-amz-target"].split(".")[1] in ["GetItem", "Query"]
        body = b'{"Items":[],"Count":0,"ScannedCount":0}' if reads else b'{"__type":"InternalServerError"}'
        handler.send_response(200 if reads else 500)
        handler.send_header("content-type", "application/x-amz-json-1.0")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


class NoIndex(EmptyTable):
    """A DynamoDB whose table has no index."""

    def answer(self, handler, asked):
        if "IndexName" not in asked:
            return super().answer(handler, asked)
        message = f"The table does not have the specified index: {asked['IndexName']}"
        body = json.dumps({"__type": "com.amazon.coral.validate#ValidationException", "message": message}).encode()
        handler.send_response(400)
        handler.send_header("content-type", "application/x-amz-json-1.0")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


class Wire:
    """Forwards connections to a server, and can cut all of them."""

    def __init__(self, url):
        self.target = ("127.0.0.1", int(url.rsplit(":", 1)[1].split("/")[0]))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            self.ends += [near, far]
            for source, sink in [(near, far), (far, near)]:
                threading.Thread(target=self.hand_on, args=(source, sink), daemon=True).start()

    def hand_on(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        for end in self.ends:
            # Both threads stop reading at once.
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        self.ends = []

    def close(self):
        self.listener.close()
        self.cut()


def start_browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in [
        "--headless=new",
        # Chromium has no sandbox for root, and CI is root.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--force-prefers-reduced-motion",
    ]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


class BrowserTest(unittest.TestCase):
    """Tests that share a browser. Each has a tab of its own, and so a session storage of its own."""

    @classmethod
    def setUpClass(cls):
        cls.driver = start_browser()
        cls.addClassCleanup(cls.driver.quit)

    def setUp(self):
        self.driver.switch_to.new_window("tab")
        self.addCleanup(self.close_tab)
        self.console()
        self.requests()

    def close_tab(self):
        self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])

    def stack(self, *arguments, **variables):
        stack = Stack(*arguments, **variables)
        self.addCleanup(stack.close)
        return stack

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        [found] = self.all(selector)
        return found

    def media(self, **features):
        """Makes the browser prefer this, as in `media(prefers_color_scheme="dark")`, until the test ends."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})
        self.addCleanup(self.driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", {"features": []})

    def screen(self, width, height):
        """Gives the browser a screen of this size until the test ends: a phone's, if it is narrow."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.addCleanup(self.driver.execute_cdp_cmd, "Emulation.clearDeviceMetricsOverride", {})

    def until(self, condition, what):
        # The page may replace the element meanwhile.
        wait = WebDriverWait(self.driver, PATIENCE, 0.02, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition(), what)

    def console(self):
        """The lines of the console since the last call: errors, warnings, violations of a policy."""
        return [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]

    def assert_policy_is_enforced(self):
        """Checks that the page calls no other origin, and that nothing can put a script or HTML into it."""
        elsewhere = "fetch('http://localhost:1/').then(() => arguments[0]('asked'), () => arguments[0]('refused'))"
        self.assertEqual(self.driver.execute_async_script(elsewhere), "refused")
        self.assertIn("Content Security Policy", " ".join(self.console()))
        for injected in [
            "document.createElement('script').textContent = 'window.ran = 1'",
            "document.body.setAttribute('onclick', 'window.ran = 1')",
            "document.body.innerHTML = '<b>1</b>'",
        ]:
            with self.assertRaisesRegex(WebDriverException, "Trusted(Script|HTML)"):
                self.driver.execute_script(injected)

    def requests(self):
        """The method, URL and headers of the requests since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"]["request"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        lower = lambda headers: {name.lower(): value for name, value in headers.items()}
        return [(request["method"], request["url"], lower(request["headers"])) for request in sent]
