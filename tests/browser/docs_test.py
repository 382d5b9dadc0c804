"""The page at /docs in a browser: what it shows, the forms, and how it can be used."""

import hashlib
import subprocess
import unittest
import urllib.request

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from support import TOO_WIDE, BrowserTest, Site

# The number of visible texts, and those whose contrast ratio with their background (WCAG 2.2) is below 4.5, or below
# 3 for large text. A translucent color is blended with what lies behind it.
LOW_CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const blend = (over, under) => {
  const [r, g, b, a = 1] = over;
  return [r, g, b].map((value, index) => value * a + under[index] * (1 - a));
};
const luminance = (rgb) => {
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.map((value) => linear(value / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  if (!node) return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  return blend(channels(getComputedStyle(node).backgroundColor), behind(node.parentElement));
};
const low = [];
let seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  const hidden = !node.checkVisibility() || ["SCRIPT", "STYLE"].includes(node.tagName);
  if (hidden || !walker.currentNode.data.trim()) continue;
  seen += 1;
  const style = getComputedStyle(node);
  const under = behind(node);
  const [lighter, darker] = [luminance(blend(channels(style.color), under)), luminance(under)].sort((a, b) => b - a);
  const ratio = (lighter + 0.05) / (darker + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) low.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 40)}`);
}
return [seen, low];
"""


class Docs(BrowserTest):
    def open(self, stack, path="/docs"):
        self.driver.get(stack.url + path)
        self.until(lambda: self.all("#errors dt"), "the reference is shown")

    def panel(self, operation):
        """The opened panel of an operation."""
        panel = self.one(f"#operation-{operation}")
        if panel.get_attribute("open") is None:
            panel.find_element(By.TAG_NAME, "summary").click()
            self.until(lambda: panel.find_elements(By.TAG_NAME, "form"), f"the panel of {operation} is filled")
        return panel

    def open_everything(self):
        for _ in range(3):
            self.driver.execute_script("for (const panel of document.querySelectorAll('details')) panel.open = true;")
            self.until(
                lambda: len(self.all("[id^=operation-] form")) == len(self.all("[id^=operation-]")), "all is filled"
            )

    def send(self, operation, **values):
        """Sends a form with these values, and returns the state and the blocks that are shown afterwards."""
        panel = self.panel(operation)
        for name, value in values.items():
            field = panel.find_element(By.ID, f"{operation}-{name}")
            field.clear()
            field.send_keys(value)
        before = panel.find_elements(By.CSS_SELECTOR, "form figure")
        panel.find_element(By.CSS_SELECTOR, "form button").click()
        state = panel.find_element(By.CSS_SELECTOR, "form [role=status]")
        shown = lambda: panel.find_elements(By.CSS_SELECTOR, "form figure")
        self.until(lambda: [figure for figure in shown() if figure not in before], "there is an answer")
        blocks = {figure.find_element(By.TAG_NAME, "figcaption").text: figure for figure in shown()}
        return state.text, {name: figure.find_element(By.TAG_NAME, "pre").text for name, figure in blocks.items()}

    def test_the_page_shows_every_operation_and_the_console_stays_empty(self):
        stack = self.stack()
        self.open(stack)
        self.open_everything()
        _, document = stack.ask("GET", "/openapi.json")
        operations = [operation for item in document["paths"].values() for operation in item.values()]
        described = {operation["operationId"] for operation in operations if "operationId" in operation}
        shown = {panel.get_attribute("id").removeprefix("operation-") for panel in self.all("[id^=operation-]")}
        self.assertEqual(shown, described)
        codes = {term.text.split()[1] for term in self.all("#errors dt")}
        self.assertEqual(codes, set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]))
        text = self.one("main").text
        for part in ["1 to 100, default 20", "remembered_turns", "access-control-max-age", "jwt bearer"]:
            self.assertIn(part, text)
        self.assertEqual(self.console(), [])
        asked = [url.removeprefix(stack.url) for _, url, _ in self.requests() if not url.startswith("data:")]
        self.assertEqual(asked, ["/docs", "/openapi.json"])

    def test_the_policy_is_enforced(self):
        self.open(self.stack())
        self.assert_policy_is_enforced()

    def test_another_servers_page_is_not_taken_for_an_answer(self):
        with urllib.request.urlopen(self.stack().url + "/docs") as answer:
            site = Site({"/docs": answer.read()})
        self.addCleanup(site.close)
        self.driver.get(site.origin("localhost") + "/docs")
        self.until(lambda: "A page" in self.one("#loading").text, "an error is shown instead of the reference")
        self.assertEqual(self.console(), [])

    def test_a_form_sends_its_request_and_shows_the_answer(self):
        stack = self.stack()
        self.open(stack)
        state, shown = self.send("echo", q="안녕, 1+1 & 'more'")
        self.assertTrue(state.startswith("Status 200 after "), state)
        self.assertEqual(shown["Body of the answer"], '{\n  "echo": "안녕, 1+1 & \'more\'"\n}')
        self.assertIn("x-request-id: ", shown["Headers of the answer"])
        self.assertIn("curl -i -X GET '", shown["The request as a command"])

        state, shown = self.send("chat", body='{"message":"Hello"}')
        self.assertIn('"turn": 1', shown["Body of the answer"])
        conversation = shown["Body of the answer"].split('"conversation_id": "')[1][:36]
        _, shown = self.send("readConversation", conversation_id=conversation, limit="1")
        self.assertIn('"content": "Hello"', shown["Body of the answer"])
        state, shown = self.send("deleteConversation", conversation_id=conversation)
        self.assertTrue(state.startswith("Status 204 "), state)
        self.assertNotIn("Body of the answer", shown)
        state, shown = self.send("deleteConversation", conversation_id=conversation)
        self.assertIn('"code": "conversation_not_found"', shown["Body of the answer"])
        state, shown = self.send("headHealth")
        self.assertEqual((state.split(" after ")[0], "Body of the answer" in shown), ("Status 200", False))
        state, shown = self.send("optionsChat")
        self.assertIn("allow: POST, OPTIONS", shown["Headers of the answer"])
        # The one request that gets a 404 on purpose.
        self.assertEqual(len(self.console()), 1)

    def test_the_command_that_a_form_shows_does_the_same(self):
        stack = self.stack()
        self.open(stack)
        _, shown = self.send("chat", body='{"message":"it\'s $HOME \\"quoted\\""}')
        command = shown["The request as a command"]
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        self.assertIn("""You have said 1 thing: \\"it's $HOME \\"quoted\\"\\".""", done.stdout)

    def test_a_token_is_sent_but_not_stored(self):
        self.open(self.stack())
        self.one("#access-panel summary").click()
        self.one("#token").send_keys("a-token", Keys.ENTER)
        self.requests()
        self.send("chat")
        self.send("health")
        sent = [headers.get("authorization") for _, _, headers in self.requests()]
        self.assertEqual(sent, ["Bearer a-token", "Bearer a-token"])
        stores = "return JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie])"
        kept = self.driver.execute_script(stores)
        self.assertNotIn("a-token", kept)
        self.driver.refresh()
        self.assertEqual(self.one("#token").get_property("value"), "")

    def test_with_the_token_from_the_field_requests_are_accepted(self):
        self.open(self.stack(ACCESS_TOKENS=f"ada:{hashlib.sha256(b'a-token').hexdigest()}"))
        for token, status in [("", "401"), ("a-token", "200")]:
            if token:
                self.one("#access-panel summary").click()
                self.one("#token").send_keys(token, Keys.ENTER)
            answered, _ = self.send("chat")
            self.assertIn(status, answered)

    def test_it_works_on_a_named_stage_with_and_without_a_slash(self):
        stack = self.stack("--stage", "prod")
        for path in ["/docs", "/docs/"]:
            self.open(stack, path)
            self.assertEqual(self.one("#document").get_property("href"), f"{stack.url}/openapi.json")
            self.assertEqual(self.one("#chat").get_property("href"), f"{stack.url}/")
            for operation in ["chat", "health"]:
                state, _ = self.send(operation)
                self.assertTrue(state.startswith("Status 200 "), state)
        self.assertEqual(self.console(), [])

    def test_it_works_with_another_gateway_in_front(self):
        stack = self.stack(BASE_PATH="/team-a")
        self.open(stack, "/team-a/docs")
        state, _ = self.send("chat")
        self.assertTrue(state.startswith("Status 200 "), state)
        posted = [url for method, url, _ in self.requests() if method == "POST"]
        self.assertEqual(posted, [f"{stack.url}/team-a/api/v1/chat"])

    def test_its_link_leads_to_the_chat_and_the_forms_offer_that_conversation(self):
        stack = self.stack()
        self.open(stack)
        self.one("#chat").click()
        self.until(lambda: self.all("#message"), "the chat is shown")
        self.one("#message").send_keys("Hello", Keys.ENTER)
        kept = "return sessionStorage.getItem('conversation')"
        conversation = self.until(lambda: self.driver.execute_script(kept), "the conversation has an id")
        self.one("#docs").click()
        self.until(lambda: self.all("#errors dt"), "the reference is shown")
        field = self.panel("readConversation").find_element(By.ID, "readConversation-conversation_id")
        self.assertEqual(field.get_property("value"), conversation)

    def test_it_is_not_found_if_it_is_switched_off(self):
        stack = self.stack(DOCS="off")
        for path in ["/docs", "/openapi.json"]:
            status, problem = stack.ask("GET", path)
            self.assertEqual((status, problem["code"]), (404, "not_found"))

    def test_it_can_be_used_with_the_keyboard_alone(self):
        self.open(self.stack())
        active = lambda: self.driver.switch_to.active_element
        press = lambda *keys: ActionChains(self.driver).send_keys(*keys).perform()

        def tab_to(selector):
            for _ in range(60):
                press(Keys.TAB)
                outline = self.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
                self.assertEqual(outline, "solid", f"the focus is visible on {active().get_attribute('outerHTML')[:80]}")
                if self.driver.execute_script("return document.activeElement.matches(arguments[0])", selector):
                    return
            self.fail(f"Tab does not lead to {selector}")

        tab_to("a.skip")
        press(Keys.ENTER)
        self.until(lambda: active().get_attribute("id") == "main", "the link skips to the content")
        tab_to("#operation-echo > summary")
        press(Keys.ENTER)
        self.until(lambda: any(input.is_displayed() for input in self.all("#operation-echo form input")), "it opens")
        tab_to("#operation-echo form input")
        press(Keys.END, " and more", Keys.ENTER)
        self.until(lambda: 'hello and more"' in self.one("#operation-echo form").text, "the form is sent")

    def test_every_control_has_an_accessible_name(self):
        self.open(self.stack())
        self.open_everything()
        controls = self.all("a, button, input, textarea, summary, [tabindex='0']")
        named = [(control.accessible_name, control.aria_role) for control in controls if control.is_displayed()]
        self.assertGreater(len(named), 100)
        self.assertEqual([role for name, role in named if not name.strip()], [])
        ids = self.driver.execute_script("return [...document.querySelectorAll('[id]')].map((element) => element.id)")
        self.assertEqual(len(ids), len(set(ids)))
        self.assertEqual(self.one("html").get_attribute("lang"), "en")
        levels = [int(heading.tag_name[1]) for heading in self.all("h1, h2, h3, h4, h5, h6")]
        self.assertEqual([pair for pair in zip(levels, levels[1:]) if pair[1] > pair[0] + 1], [])

    def test_it_is_readable_in_light_and_dark_mode_and_on_a_phone(self):
        self.open(self.stack())
        self.open_everything()
        pages = set()
        for scheme in ["light", "dark"]:
            for width in [360, 1280]:
                self.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
                self.screen(width, 740)
                seen, low = self.driver.execute_script(LOW_CONTRAST)
                self.assertGreater(seen, 200)
                self.assertEqual(low, [], f"{scheme}, {width} pixels")
                self.assertEqual(self.driver.execute_script(TOO_WIDE), [], f"{scheme}, {width} pixels")
                pages.add(self.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        self.assertEqual(len(pages), 2)


if __name__ == "__main__":
    unittest.main()
