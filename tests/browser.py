"""A headless Chromium for tests of pages."""

import shutil
from contextlib import contextmanager

COMMANDS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def command():
    """Return where Chromium is, or None."""
    return next(filter(None, map(shutil.which, COMMANDS)), None)


class Browser:
    """Opens pages, and notes what they complain about and what they ask the network for."""

    def __init__(self, chromium):
        self._chromium = chromium

    @contextmanager
    def opened(self, path, *, width=1280, scheme="light", javascript=True):
        context = self._chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=javascript
        )
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(path.as_uri())
        if javascript:
            page.wait_for_selector("html[data-drawn]", state="attached")
        try:
            yield page
        finally:
            context.close()


@contextmanager
def running():
    """Yield a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=command(), args=[*FLAGS])
        yield Browser(chromium)
        chromium.close()
