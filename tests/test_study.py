"""The study of heads: its page has the figures of its runs, its arms exist, and finetune.yaml is the best of them."""

from pathlib import Path

import pytest
from fake_hub import run_python

RESULTS = Path(__file__).parents[1] / 'results'
STUDY = RESULTS / 'learning' / 'study.py'
TABLE = f"""
import runpy, sys
sys.argv = ['study.py', 'table', '--part', sys.argv[1]]
runpy.run_path({str(STUDY)!r}, run_name='__main__')
"""
ARMS = f"""
import runpy, timm, torch
from gkgnet_timm.commands.train import parse_flags
study = runpy.run_path({str(STUDY)!r})
for flags, *_ in study['ARMS'].values():
    config, _ = parse_flags([*study['COMMON'], *flags.split(), '--dataset', 'voc', '--data-dir', 'VOCdevkit'])
    assert timm.is_model(config.model), config.model
flags, rate, trunk_rate = study['ARMS']['label-last']
flags = [*study['COMMON'], *flags.split(), '--lr', str(rate), '--loss', 'gkgnet', '--model-kwargs', 'out_indices=[-1]']
best, _ = parse_flags([*flags, '--pretrained', '--dataset', 'voc', '--data-dir', 'VOCdevkit'])
assert rate == trunk_rate
assert best == parse_flags('-c finetune --dataset voc --data-dir VOCdevkit --img-size 128'.split())[0]
model = timm.create_model('lite0_ml_decoder', num_classes=3)
assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
assert sum(p.numel() for p in model.get_classifier().parameters()) > 1e6
"""


@pytest.mark.parametrize('part', ['test', 'val'])
def test_tables_of_the_page_are_those_of_the_runs(part, tmp_path):
    done = run_python(TABLE, part, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('\n') > 5 and done.stdout in (RESULTS / 'learning.md').read_text(encoding='utf-8')


def test_arms(tmp_path):
    done = run_python(ARMS, home=tmp_path)
    assert done.returncode == 0, done.stderr
