"""A script as people write it, where processes start with a new interpreter: that runs the script again."""

import os
import subprocess
import sys

from conftest import ROOT, save_image

SCRIPT = """
import multiprocessing

import timm

import gkgnet_timm
from gkgnet_timm.data import open_split
from gkgnet_timm.evaluation.evaluate import evaluate_dataset
from gkgnet_timm.training.config import TrainConfig

TrainConfig('demo')  # leaves the choice open
multiprocessing.set_start_method('spawn')
model = timm.create_model('test_resnet', num_classes=2)
read = sum(not error for _, _, error in gkgnet_timm.predict_images(model, 'images', batch_size=2))
figures = evaluate_dataset(model, open_split('csv', 'images', 'table.csv'), batch_size=2).metrics
print(read, figures['mAP'] > 0, TrainConfig('demo').workers)
"""


def test_a_script_needs_no_guard(tmp_path):
    for i in range(5):
        save_image(tmp_path / 'images' / f'{i}.png', i)
    (tmp_path / 'table.csv').write_text('file,cat,dog\n' + ''.join(f'{i}.png,{i % 2},{i // 3}\n' for i in range(5)))
    (tmp_path / 'script.py').write_text(SCRIPT)
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    ran = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == '5 True 0', ran
