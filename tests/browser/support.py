"""The local stack, pages of other origins, and a browser to look at them with."""

import json
import os
import subprocess
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

# The built example `local`.
LOCAL = os.path.abspath(os.environ["LOCAL_STACK"])

# How long a page may take for anything, in seconds. A test that passes never waits so long.
PATIENCE = 20

# What does not fit the width of the page.
TOO_WIDE = """
const page = document.documentElement.clientWidth;
const wide = [...document.querySelectorAll("*")].filter((node) => node.getBoundingClientRect().right > page);
return wide.map((node) => node.outerHTML.slice(0, 80));
"""


class Stack:
    """The function behind the local gateway, with these arguments and variables and no others."""

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

    def ask(self, method, path, body=None):
        """Status and JSON of the answer, past any browser."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)
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
                # A connection that is closed with something unread is reset.
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
        """Gives the browser a screen of this size until the test ends: a phone's where it is narrow."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.addCleanup(self.driver.execute_cdp_cmd, "Emulation.clearDeviceMetricsOverride", {})

    def until(self, condition, what):
        # What is looked at may be replaced meanwhile.
        wait = WebDriverWait(self.driver, PATIENCE, 0.02, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition(), what)

    def console(self):
        """What the browser has said since this was last asked: errors, warnings, violations of a policy."""
        return [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self):
        """Method, URL and headers of the requests since this was last asked."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"]["request"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        lower = lambda headers: {name.lower(): value for name, value in headers.items()}
        return [(request["method"], request["url"], lower(request["headers"])) for request in sent]
