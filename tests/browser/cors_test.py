"""CORS for real: pages of other origins call the API, and the browser decides what they see."""

import unittest

from support import BrowserTest, Site

# What a page gets from `fetch`: the status and what else the page may read, or that the request failed.
FETCH = """
const [url, options, done] = arguments;
fetch(url, options).then(
  async (answer) => done({
    status: answer.status,
    body: await answer.text(),
    id: answer.headers.get("x-request-id"),
    nosniff: answer.headers.get("x-content-type-options"),
  }),
  (error) => done({ error: error.name }),
);
"""

REFUSED = {"error": "TypeError"}

JSON = {"content-type": "application/json"}
CHAT = {"method": "POST", "headers": JSON, "body": '{"message":"Hello"}'}


class Cors(BrowserTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.site = Site()
        cls.addClassCleanup(cls.site.close)
        cls.allowed = cls.site.origin("localhost")
        cls.foreign = cls.site.origin("127.0.0.1")

    def fetch(self, page, url, **options):
        """The result of a script that runs in `page`."""
        if self.driver.current_url != page:
            self.driver.get(page)
        return self.driver.execute_async_script(FETCH, url, options)

    def posts(self, stack):
        return [line for line in stack.log().splitlines() if line.startswith("POST ")]

    def test_a_page_of_an_allowed_origin_uses_the_whole_api(self):
        stack = self.stack(ALLOWED_ORIGINS=self.allowed)
        page = self.allowed + "/"
        health = self.fetch(page, stack.url + "/health")
        self.assertEqual((health["status"], health["body"]), (200, '{"status":"ok"}'))
        self.assertRegex(health["id"], "^[0-9a-f-]{36}$")
        self.assertIsNone(health["nosniff"], "a header that is not exposed cannot be read")

        key = {"idempotency-key": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "authorization": "Bearer a-token"}
        said = self.fetch(page, stack.url + "/api/v1/chat", **{**CHAT, "headers": {**JSON, **key}})
        self.assertEqual(said["status"], 200)
        conversation = said["body"].split('"conversation_id":"')[1][:36]
        path = f"{stack.url}/api/v1/conversations/{conversation}"
        self.assertEqual(self.fetch(page, path)["status"], 200)
        self.assertEqual(self.fetch(page, path, method="DELETE")["status"], 204)
        gone = self.fetch(page, path)
        self.assertEqual((gone["status"], '"code":"conversation_not_found"' in gone["body"]), (404, True))

    def test_a_page_of_another_origin_sees_nothing_and_changes_nothing(self):
        stack = self.stack(ALLOWED_ORIGINS=self.allowed)
        # Another host, another port, and an opaque origin.
        other = Site()
        self.addCleanup(other.close)
        for page in [self.foreign + "/", other.origin("localhost") + "/", self.allowed + "/sandboxed"]:
            self.assertEqual(self.fetch(page, stack.url + "/health"), REFUSED, page)
            self.assertEqual(self.fetch(page, stack.url + "/api/v1/chat", **CHAT), REFUSED, page)
            self.assertEqual(self.fetch(page, stack.url + "/nothing"), REFUSED, page)
            # Without a preflight a page cannot send JSON.
            text = {"method": "POST", "body": '{"message":"Hello"}', "mode": "no-cors"}
            self.assertEqual(self.fetch(page, stack.url + "/api/v1/chat", **text)["status"], 0, page)
        statuses = [line.split()[2] for line in self.posts(stack)]
        self.assertEqual(statuses, ["415"] * 3)

    def test_credentials_are_for_listed_origins_that_may_send_them(self):
        page = self.allowed + "/"
        rows = [
            ({"ALLOWED_ORIGINS": "*"}, True, False),
            ({"ALLOWED_ORIGINS": self.allowed}, True, False),
            ({"ALLOWED_ORIGINS": self.allowed, "CORS_ALLOW_CREDENTIALS": "true"}, True, True),
            ({"ALLOWED_ORIGINS": self.foreign, "CORS_ALLOW_CREDENTIALS": "true"}, False, False),
        ]
        for variables, without, with_credentials in rows:
            stack = self.stack(**variables)
            for credentials, allowed in [("omit", without), ("include", with_credentials)]:
                for path, request in [("/health", {}), ("/api/v1/chat", CHAT), ("/nothing", {})]:
                    got = self.fetch(page, stack.url + path, credentials=credentials, **request)
                    self.assertEqual(got != REFUSED, allowed, f"{variables} {credentials} {path}: {got}")

    def test_a_star_allows_every_origin(self):
        stack = self.stack(ALLOWED_ORIGINS="*")
        for page in [self.allowed + "/", self.foreign + "/", self.allowed + "/sandboxed"]:
            self.assertEqual(self.fetch(page, stack.url + "/api/v1/chat", **CHAT)["status"], 200, page)

    def test_a_pattern_allows_the_subdomains_and_not_the_domain(self):
        pattern = self.site.origin("*.localhost")
        stack = self.stack(ALLOWED_ORIGINS=pattern)
        for host, allowed in [("app.localhost", True), ("a.b.localhost", True), ("localhost", False)]:
            got = self.fetch(self.site.origin(host) + "/", stack.url + "/api/v1/chat", **CHAT)
            self.assertEqual(got != REFUSED, allowed, f"{host}: {got}")

    def test_listed_methods_and_headers_are_all_that_a_page_may_use(self):
        variables = {"ALLOWED_METHODS": "GET,POST", "ALLOWED_HEADERS": "content-type"}
        stack = self.stack(ALLOWED_ORIGINS=self.allowed, **variables)
        page = self.allowed + "/"
        conversation = stack.ask("POST", "/api/v1/chat", {"message": "Hello"})[1]["conversation_id"]
        path = f"{stack.url}/api/v1/conversations/{conversation}"
        self.assertEqual(self.fetch(page, stack.url + "/api/v1/chat", **CHAT)["status"], 200)
        self.assertEqual(self.fetch(page, path, method="DELETE"), REFUSED)
        self.assertEqual(self.fetch(page, path, headers={"x-other": "1"}), REFUSED)
        self.assertEqual(self.fetch(page, path)["status"], 200)
        self.assertNotIn("DELETE ", stack.log())

    def test_the_docs_page_calls_only_its_own_origin_and_cannot_be_framed(self):
        stack = self.stack()
        self.driver.get(self.allowed + "/")
        self.driver.execute_async_script(
            """
            const [url, done] = arguments;
            const frame = document.createElement("iframe");
            frame.onload = () => done();
            frame.src = url;
            document.body.append(frame);
            """,
            stack.url + "/docs",
        )
        self.until(lambda: any("frame-ancestors" in line for line in self.said_so_far()), "the frame is refused")

    def said_so_far(self):
        self.lines = getattr(self, "lines", []) + self.console()
        return self.lines


if __name__ == "__main__":
    unittest.main()
