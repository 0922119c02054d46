"""A headless Chromium for tests of pages, and a look at what they say and fetch.

The browser is that of the system, or the one that GKGNET_TIMM_CHROMIUM names; Playwright brings none.
"""

import os
import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
CHROMIUM = os.environ.get('GKGNET_TIMM_CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser():
    """A Chromium of Playwright, closed at the end. Without one the test is skipped, but not in CI."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get('CI') else pytest.skip)('There is no Chromium: apt install chromium.')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser, address, **options):
    """A page of a browser, with `page.problems`, errors of the console and of scripts, and `page.requests`, addresses.

    Options are those of `browser.new_context`, such as `viewport=dict(width=390, height=844), color_scheme='dark'`.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.problems, page.requests = [], []
    page.on('console', lambda message: message.type in ('error', 'warning') and page.problems.append(message.text))
    page.on('pageerror', lambda error: page.problems.append(str(error)))
    page.on('request', lambda request: page.requests.append(request.url))
    try:
        page.goto(address)
        yield page
    finally:
        context.close()
