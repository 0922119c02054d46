"""Evaluations for tests of reports, and what a page says."""

import html
import json
import re

import numpy as np
from PIL import Image

from gkgnet_timm.evaluation.evaluate import Evaluation
from gkgnet_timm.evaluation.scores_file import exact_scores
from gkgnet_timm.metrics import multilabel_metrics

HOSTILE = ['</script><script>alert(1)</script>', '<img src=x onerror=alert(2)>', '"&lt;\u2028\'', '猫 ไก่', 'a' * 300]


def make_evaluation(images=60, classes=5, names=None, threshold=0.5, unknown=0.0, files=None, seed=0):
    """An evaluation of scores that are better than chance."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, classes)) < 0.3).astype(np.int8)
    targets[rng.random(targets.shape) < unknown] = -1
    logits = (3 * (targets > 0) - 1.5 + 1.5 * rng.standard_normal(targets.shape)).astype(np.float32)
    scores = exact_scores(logits)
    metrics = multilabel_metrics(scores, targets, threshold)
    del metrics['per_class_ap']
    names = names or [f'class {i}' for i in range(classes)]
    files = files or [f'{i:03d}.png' for i in range(images)]
    return Evaluation(metrics, scores, logits, targets, files, names, threshold)


def with_images(evaluation, size=(40, 30)):
    """The evaluation with a picture of noise for each row."""

    def read_image(row):
        pixels = np.random.default_rng(row).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return evaluation._replace(read_image=read_image)


def data_of(page):
    """The figures in a page."""
    text = page.read_text(encoding='utf-8')
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def links_of(page):
    """Addresses in the HTML of a page."""
    text = page.read_text(encoding='utf-8')
    return [html.unescape(link) for link in re.findall('(?:href|src)="([^"#][^"]*)"', text)]
