"""The page in a real browser, against a real server: what a user does, and what must not happen meanwhile."""

import io
import json

import numpy as np
import pytest
from browser import CHROMIUM, open_browser, open_page
from uploads import NAMES, create_scorer, jpeg, saved, serving, turned

from gkgnet_timm.explanation.explain import explain
from gkgnet_timm.serving.app import create_app
from gkgnet_timm.serving.explainer import Explainer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')

GOOD = dict(name='good.jpg', mimeType='image/jpeg', buffer=jpeg())
OTHER = dict(name='<i>other</i>.png', mimeType='image/png', buffer=saved('PNG', 'RGB', (90, 60)))
BROKEN = dict(name='broken.jpg', mimeType='image/jpeg', buffer=b'this is text')


@pytest.fixture(scope='module')
def scorer():
    return create_scorer()


@pytest.fixture(scope='module')
def address(scorer):
    app = create_app(scorer, name='tiny', explainer=Explainer(scorer, explain, True), max_upload=1_000_000)
    with serving(app) as address:
        yield address


@pytest.fixture(scope='module')
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """The page, which may say nothing on the console and ask no other host."""
    with open_page(browser, address, viewport=dict(width=1280, height=900)) as page:
        yield page
        assert page.problems == []
        assert all(url.startswith((address, 'blob:')) for url in page.requests), page.requests


DROP = """([selector, files]) => {
  const data = new DataTransfer();
  for (const [name, type, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const options = { dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true };
  const event = selector === 'paste' ? new ClipboardEvent('paste', options) : new DragEvent('drop', options);
  document.querySelector('main').dispatchEvent(event);
}"""


def hand_over(page, how, *files):
    page.evaluate(DROP, [how, [[file['name'], file['mimeType'], list(file['buffer'])] for file in files]])


def card(page, name):
    return page.locator('.card').filter(has=page.locator('h2').get_by_text(name, exact=True))


def above(card):
    return card.locator('.label:not(.below) .name').all_text_contents()


def test_drop_labels_and_threshold(page, scorer):
    hand_over(page, 'drop', GOOD)
    found = card(page, 'good.jpg')
    found.locator('.label').first.wait_for()
    scores = dict(zip(found.locator('.name').all_text_contents(), found.locator('.score').all_text_contents()))
    assert set(scores) == set(NAMES) and list(scores.values()) == sorted(scores.values(), reverse=True)
    assert page.locator('#calibrated').is_checked()
    thresholds = dict(zip(NAMES, scorer.thresholds))
    assert above(found) == [name for name in scores if float(scores[name]) >= thresholds[name]]
    page.locator('#calibrated').uncheck()
    for value, expected in ((0.01, list(scores)), (0.99, [])):
        page.locator('#threshold').fill(str(value))
        assert above(found) == expected and page.locator('#threshold-value').inner_text() == f'{value:.2f}'
    assert found.locator('.count').inner_text() == 'No label reaches the threshold.'


def test_a_label_shows_its_patches_and_a_patch_its_neighbours(page, scorer):
    page.set_input_files('#pick', [dict(GOOD, buffer=turned())])
    found = card(page, 'good.jpg')
    found.locator('.label', has_text='d;e').click()
    stage_2 = found.get_by_role('button', name='Stage 2, 8 by 8 patches')
    stage_2.click()
    assert stage_2.get_attribute('aria-pressed') == 'true'
    image = scorer.read_original(io.BytesIO(turned()))[0]
    chosen = explain(scorer.model, image, labels=['d;e'], stages=[2], class_names=NAMES).patches
    rectangles = found.locator('.chosen rect')
    assert rectangles.count() == len({(patch.row, patch.column) for patch in chosen})
    whole = found.locator('img').bounding_box()
    assert whole['height'] == pytest.approx(whole['width'] * 70 / 50, abs=1)  # turned upright
    first = min(chosen, key=lambda patch: patch.rank)
    place = found.locator(f'.chosen rect[aria-label^="Row {first.row}, column {first.column}:"]').bounding_box()
    for side, start, end in (('x', first.box[0], first.box[2]), ('y', first.box[1], first.box[3])):
        length, pixels = ('width', 50) if side == 'x' else ('height', 70)
        middle = (place[side] + place[length] / 2 - whole[side]) / whole[length] * pixels
        assert middle == pytest.approx((start + end) / 2, abs=0.5)
    rectangles.first.hover()
    found.locator('.lines line').first.wait_for(state='attached')
    assert 'neighbours in the trunk' in found.locator('.told').inner_text()
    assert 'no proof of cause' in found.locator('.caution').inner_text()
    page.mouse.move(0, 0)
    assert found.locator('.lines line').count() == 0
    found.locator('.label', has_text='d;e').click()
    assert rectangles.count() == 0 and not found.locator('figcaption').is_visible()


def test_with_the_keyboard_alone(page):
    page.set_input_files('#pick', [GOOD])
    found = card(page, 'good.jpg')
    found.locator('.label').first.focus()
    page.keyboard.press('Enter')
    found.locator('.chosen rect').first.wait_for()
    found.locator('.chosen rect').first.focus()
    page.keyboard.press('ArrowRight')
    focused = page.evaluate('document.activeElement.getAttribute("aria-label")')
    assert focused == found.locator('.chosen rect').nth(1).get_attribute('aria-label')
    found.locator('.lines line').first.wait_for(state='attached')
    assert found.locator('.told').inner_text().startswith(focused)


def test_a_file_that_is_gone(page, tmp_path):
    """The user's side is to blame, not the server."""
    path = tmp_path / 'gone.jpg'
    path.write_bytes(jpeg())
    page.set_input_files('#pick', path)
    found = card(page, 'gone.jpg')
    found.locator('.label').first.wait_for()
    path.unlink()
    found.locator('.label').first.click()
    found.locator('.told', has_text='the browser cannot read the file').wait_for()
    page.set_input_files('#pick', [dict(name='folder', mimeType='', buffer=b'')])  # as some systems hand one over
    card(page, 'folder').locator('.error', has_text='empty, or a folder').wait_for()


def test_the_threshold_of_the_model_until_the_slider_is_moved(browser):
    scorer = create_scorer()
    scorer.thresholds = np.full(5, 0.4376)
    with serving(create_app(scorer)) as address, open_page(browser, address) as page:
        page.locator('#threshold-value', has_text='0.4376').wait_for()
        row = dict(file='x', labels=[], scores=dict(a=0.4377, b=0.4375))
        page.route('**/predict*', lambda route: route.fulfill(json=[row]))
        page.set_input_files('#pick', [GOOD])
        found = card(page, 'good.jpg')
        found.locator('.label').first.wait_for()
        assert above(found) == ['a']
        page.locator('#threshold').focus()
        page.keyboard.press('ArrowLeft')
        assert page.locator('#threshold-value').inner_text() == '0.43' and above(found) == ['a', 'b']


def test_a_broken_file_among_others(page):
    large = dict(name='large.png', mimeType='image/png', buffer=b'0' * 1_100_000)
    page.set_input_files('#pick', [GOOD, BROKEN, large, OTHER])
    for name in ('good.jpg', '<i>other</i>.png'):
        card(page, name).locator('.label').first.wait_for()
    assert 'not an image' in card(page, 'broken.jpg').locator('.error').inner_text()
    assert 'takes up to 1.0 MB' in card(page, 'large.png').locator('.error').inner_text()
    assert page.locator('h2').all_text_contents() == ['good.jpg', 'broken.jpg', 'large.png', '<i>other</i>.png']
    assert page.locator('h2 i').count() == 0
    status = page.locator('#status')
    assert status.get_attribute('aria-live') == 'polite' and status.inner_text()
    card(page, 'broken.jpg').get_by_role('button', name='Remove broken.jpg').click()
    assert page.locator('.card').count() == 3


def test_paste_and_copy(browser, address):
    with open_page(browser, address, permissions=['clipboard-read', 'clipboard-write']) as page:
        hand_over(page, 'paste', GOOD)
        found = card(page, 'good.jpg')
        found.locator('.label').first.click()
        found.locator('.chosen rect').first.wait_for()
        found.get_by_role('button', name='Copy as JSON').click()
        found.get_by_role('button', name='Copied').wait_for()
        copied = json.loads(page.evaluate('navigator.clipboard.readText()'))
        assert copied['file'] == 'good.jpg' and set(copied['scores']) == set(NAMES)
        assert set(copied['patches'][0]) == {
            'label', 'stage', 'group', 'rank', 'row', 'column', 'box', 'similarity',
        }  # fmt: skip
        assert page.problems == []


def test_a_busy_server_is_asked_again(browser, address):
    refusals = [503, 503]

    def answer(route):
        if refusals:
            route.fulfill(status=refusals.pop(), headers={'retry-after': '0'}, body='{"detail": "busy"}')
        else:
            route.continue_()

    with open_page(browser, address) as page:
        page.route('**/predict*', answer)
        page.set_input_files('#pick', [GOOD, OTHER])
        for name in ('good.jpg', '<i>other</i>.png'):
            card(page, name).locator('.label').first.wait_for()
        assert not refusals and page.locator('.failed').count() == 0


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_narrow_screen_with_touch(browser, address, scheme):
    options = dict(viewport=dict(width=390, height=844), color_scheme=scheme, has_touch=True)
    with open_page(browser, address, **options) as page:
        page.set_input_files('#pick', [GOOD, dict(OTHER, name='a_long_name_' * 8 + '.png')])
        found = card(page, 'good.jpg')
        found.locator('.label').first.tap()
        found.locator('.chosen rect').first.tap()
        found.locator('.lines line').first.wait_for(state='attached')
        assert page.evaluate('document.documentElement.scrollWidth') <= 390
        background = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert (background == 'rgb(255, 255, 255)') == (scheme == 'light')


def test_what_the_foot_says(page):
    page.locator('#about dt').first.wait_for()
    facts = page.locator('#about').inner_text()
    for fact in ('tiny, 5 labels', '64 × 64 pixels', 'apache-2.0', 'bit_depth full', 'gkgnet_timm 0.'):
        assert fact in facts
    page.get_by_role('link', name='Use this server from a program').click()
    assert '/predict' in page.locator('pre').first.inner_text() + page.locator('pre').nth(1).inner_text()
