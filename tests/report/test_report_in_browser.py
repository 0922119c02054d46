"""The page of a report in a browser."""

import pytest
from browser import open_browser, open_page
from reports import HOSTILE, make_evaluation, with_images

from gkgnet_timm.report.page import write_report

NAMES = [*HOSTILE, *(f'class {i}' for i in range(15))]


@pytest.fixture(scope='module')
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope='module')
def evaluation():
    return with_images(make_evaluation(150, 20, NAMES, unknown=0.02))


@pytest.fixture(scope='module')
def address(evaluation, tmp_path_factory):
    def look(image, labels):
        return {label: [[1, 1, 0, 0, 250, 500], [1, 2, 0, 0, 250, 500], [2, 1, 500, 0, 1000, 500]] for label in labels}

    return write_report(tmp_path_factory.mktemp('page'), evaluation, dict(model='m', split='val'), look).as_uri()


@pytest.fixture
def page(browser, address):
    """The page. Whatever a test does, nothing is on the console, and no request goes elsewhere."""
    with open_page(browser, address, viewport=dict(width=1280, height=900)) as page:
        yield page
        assert page.problems == []
        assert {request for request in page.requests if not request.startswith('data:')} == {address}


def column(page, number):
    return page.locator(f'#table tbody td:nth-child({number})').all_inner_texts()


def test_table_is_sorted_by_click_and_keyboard(page, evaluation):
    aps = [float(text) for text in column(page, 3)]
    assert len(aps) == 20 and aps == sorted(aps, reverse=True)
    heading = page.locator('#table th', has_text='Images')
    heading.get_by_role('button').click()
    images = [int(text) for text in column(page, 2)]
    assert images == sorted(images, reverse=True) and heading.get_attribute('aria-sort') == 'descending'
    page.keyboard.press('Enter')
    assert [int(text) for text in column(page, 2)] == sorted(images) and heading.get_attribute(
        'aria-sort'
    ) == 'ascending'
    shown = page.locator('#table tbody button').all()
    assert sorted(button.get_attribute('title') for button in shown) == sorted(NAMES)
    page.get_by_label('Find').fill('CLASS 1')
    assert sorted(column(page, 1)) == [f'class {i}' for i in (1, 10, 11, 12, 13, 14)]
    assert page.locator('#found').inner_text() == '6 classes'


def test_a_class_is_chosen_for_the_whole_page(page, evaluation):
    page.get_by_role('button', name='class 7', exact=True).first.click()
    assert page.locator('#class option:checked').inner_text() == 'class 7'
    assert page.locator('h2 .of').all_inner_texts() == ['of class 7'] * 4
    assert page.locator('#table tr.chosen').locator('td').first.inner_text() == 'class 7'
    label = NAMES.index('class 7')
    scores, targets = evaluation.scores[:, label], evaluation.targets[:, label]
    assert (
        f'{(targets == 1).sum()} scores with, {(targets == 0).sum()} without.'
        in page.locator('#histogram-note').inner_text()
    )
    missed = ((scores < 0.5) & (targets == 1)).sum()
    assert page.locator('#misses button').count() == min(missed, 12)
    assert {text.split()[:2][1] for text in page.locator('#misses button .name b').all_inner_texts()} == {'7'}
    assert 'class 7' in page.locator('#curve-legend').inner_text()
    page.get_by_label('Class', exact=True).select_option('All classes')
    assert page.locator('h2 .of').all_inner_texts() == [''] * 4


def test_curves_are_chosen(page):
    shown = page.locator('#curve-legend li')
    before = shown.count()
    page.get_by_label('Add').select_option('class 3')
    assert shown.count() <= before + 1 and 'class 3' in page.locator('#curve-legend').inner_text()
    page.get_by_role('button', name='Leave out class 3').click()
    assert 'class 3' not in page.locator('#curve-legend').inner_text()


def test_an_image_is_looked_at(page):
    first = page.locator('#false_positives button').first
    file = first.locator('small').last.inner_text()
    first.click()
    viewer = page.get_by_role('dialog')
    assert viewer.locator('h2').inner_text() == file and viewer.locator('tr.chosen').count() == 1
    viewer.get_by_role('button', name='Stage 1').click()
    frames = viewer.locator('.frame svg rect')
    assert [frame.get_attribute('stroke') for frame in frames.all()] == ['#CC79A7']  # of both groups
    viewer.get_by_role('button', name='All stages').click()
    colours = page.wait_for_function(
        """() => { const canvas = document.querySelector('#viewer-picture canvas');
        return canvas && canvas.width > 20 && [[1, 1], [canvas.width - 2, canvas.height - 2]].map(
            ([x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]) }"""
    ).json_value()
    assert len(set(colours[0][:3])) > 1 and len(set(colours[1][:3])) == 1  # where nobody looked, it is grey
    page.keyboard.press('ArrowRight')
    assert viewer.locator('h2').inner_text() != file
    page.keyboard.press('Escape')
    assert not viewer.is_visible()


def test_names_are_text(page):
    assert page.locator('main img[src="x"]').count() == 0 and page.locator('script').count() == 2
    page.get_by_label('Class', exact=True).select_option(str(NAMES.index(HOSTILE[1])))
    assert page.locator('h2 .of').first.inner_text() == f'of {HOSTILE[1]}'


@pytest.mark.parametrize('width', [390, 1280])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_nothing_is_wider_than_the_page(browser, address, width, scheme):
    options = dict(viewport=dict(width=width, height=800), color_scheme=scheme)
    with open_page(browser, address, **options) as page:
        assert page.evaluate('document.documentElement.scrollWidth') == width and page.problems == []
        background = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert background == ('rgb(255, 255, 255)' if scheme == 'light' else 'rgb(20, 22, 26)')


def test_the_viewer_has_room_for_scores_on_a_phone(browser, address):
    with open_page(browser, address, viewport=dict(width=390, height=844)) as page:
        page.locator('#misses button').first.click()
        right = page.get_by_role('dialog').bounding_box()
        right = right['x'] + right['width']
        for cell in page.locator('#viewer-labels th, #viewer-labels td').all():
            box = cell.bounding_box()
            assert box['x'] + box['width'] <= right, cell.inner_text()


@pytest.mark.parametrize('unknown', [0, 0.1])
def test_chance_is_a_line_only_if_all_labels_are_known(browser, tmp_path, unknown):
    path = write_report(tmp_path, make_evaluation(unknown=unknown), {})
    with open_page(browser, path.as_uri()) as page:
        assert page.locator('#scatter path.chance').count() == (not unknown)
        assert ('dashed line is chance' in page.locator('#classes').inner_text()) == (not unknown)
        page.get_by_label('Class', exact=True).select_option('0')
        assert page.locator('#scatter path.chance').count() == (not unknown)


def test_an_image_of_which_nothing_is_known_is_not_said_to_have_no_label(browser, tmp_path):
    evaluation = make_evaluation(3, 2)
    evaluation.targets[:] = [[0, 0], [0, -1], [1, 0]]
    evaluation.scores[:] = 0.9
    with open_page(browser, write_report(tmp_path, evaluation, {}).as_uri()) as page:
        texts = page.locator('#false_positives button small:first-of-type').all_inner_texts()
    assert sorted(texts) == ['labels: class 0', 'no known label', 'no label']


@pytest.mark.parametrize('images, classes', [(1, 1), (3, 500)])
def test_extremes(browser, tmp_path, images, classes):
    evaluation = make_evaluation(images, classes)
    evaluation.targets[0] = 0
    path = write_report(tmp_path, evaluation, {})
    with open_page(browser, path.as_uri()) as page:
        assert page.locator('#table tbody tr').count() == classes
        page.get_by_label('Class', exact=True).select_option('0')
        assert page.problems == []
