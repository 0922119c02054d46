"""Names of a model's outputs, by its answers."""

import numpy as np
import pytest
import torch
from PIL import Image
from runs import NARROW_MODEL, check_one_line

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.class_names import read_class_map
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.label_rows import init_labels_by_name
from gkgnet_timm.weights.load import load_model

pytestmark = pytest.mark.usefixtures('no_curves')

NAMES = ['red', 'green', 'blue', 'striped']
ORDER = [2, 0, 3, 1]  # class of each output


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Pictures that are quickly learned: colours, and stripes."""
    root = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for split, count in (('train', 160), ('val', 60)):
        labels = (rng.random((count, 4)) < 0.4).astype(int)
        rows = ['image,' + ','.join(NAMES)]
        for i, label in enumerate(labels):
            pixels = rng.integers(0, 40, (32, 32, 3)) + 180 * label[:3]
            if label[3]:
                pixels[::4] = 255 - pixels[::4]
            Image.fromarray(pixels.astype(np.uint8)).save(root / f'{split}{i}.png')
            rows.append(f'{split}{i}.png,' + ','.join(map(str, label)))
        (root / f'{split}.csv').write_text('\n'.join(rows) + '\n')
    return root


@pytest.fixture(scope='module')
def run(photos):
    data = ['--data-dir', str(photos), '--train-split', 'train.csv', '--val-split', 'val.csv', '--no-aug', '-j', '0']
    recipe = '--model gkgnet_ti_224 --img-size 32 -b 8 --epochs 8 --warmup-epochs 1 --lr 5e-3 --device cpu'.split()
    train([*data, *recipe, *NARROW_MODEL, '--output', str(photos), '--experiment', 'run'])
    return photos / 'run'


@pytest.fixture(scope='module')
def permuted(photos, run):
    """Flags of a file of weights whose outputs are in the order of no class map, and that names no classes."""
    model = load_model(run)
    init_labels_by_name(model, [NAMES[i] for i in ORDER])
    torch.save(model.state_dict(), photos / 'permuted.pth')
    model_flags = ['--model', 'gkgnet_ti_224', '--img-size', '32', *NARROW_MODEL]
    return ['--checkpoint', str(photos / 'permuted.pth'), *model_flags, '--data-dir', str(photos), '-j', '0']


def test_order_is_found_and_evaluated(photos, run, permuted, capsys):
    """Outputs in another order: validate says so, class-order names them, and with the names all is well."""
    split = ['--split', 'val.csv']
    right = validate(['--checkpoint', str(run / 'model_best.pth.tar'), '-j', '0'])
    assert 'look permuted' not in capsys.readouterr().out and right['mAP'] > 95
    wrong = validate([*permuted, *split])
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if 'look permuted' in line]
    assert warning.startswith('Warning: 4 classes look permuted') and wrong['mAP'] < 60
    assert "those of 'red' by the output of 'green', those of 'green' by the output of 'striped'" in warning
    assert f'the mAP is {right["mAP"]:.4f}. Check it: ' in warning
    assert 'class-order --model=gkgnet_ti_224 --checkpoint=' in warning

    path = photos / 'names.txt'
    command(['class-order', *permuted, *split, '--output', str(path)])
    printed = capsys.readouterr().out
    assert read_class_map(path) == [NAMES[i] for i in ORDER]
    assert f'60 images evaluated, mAP {right["mAP"]:.4f}. 4 of 4 outputs are not in the order' in printed
    assert "output 1 is 'blue', not 'red', output 2 is 'red', not 'green'" in printed
    again = validate([*permuted, *split, '--class-map', str(path)])
    assert again['mAP'] == pytest.approx(right['mAP']) and 'look permuted' not in capsys.readouterr().out


def test_order_as_assumed(run, capsys):
    """Only the names are on stdout. A folder of a run will do, and what it was trained on is known."""
    command(['class-order', '--checkpoint', str(run), '-j', '0'])
    captured = capsys.readouterr()
    assert captured.out.splitlines() == NAMES
    assert 'The 4 outputs are in the order that is assumed' in captured.err and 'Closest:\n' in captured.err


def test_part_of_the_images(permuted, capsys):
    command(['class-order', *permuted, '--split', 'train.csv', '--max-images', '60'])
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [NAMES[i] for i in ORDER] and '60 images evaluated' in captured.err


def test_too_few_images(photos, permuted, tmp_path, capsys):
    """Nothing is written, and the classes are named."""
    path = tmp_path / 'names.txt'
    flags = ['class-order', *permuted, '--output', str(path)]
    few = [*flags, '--split', 'val.csv', '--max-images', '4']
    check_one_line(few, r"on 4 images leave \d of 4 classes open: .*output.*Give more images", capsys)
    rows = (photos / 'train.csv').read_text().splitlines()
    kept = [rows[0], *(row for row in rows[1:] if row.endswith('0'))]
    (photos / 'plain.csv').write_text('\n'.join(kept) + '\n')
    check_one_line([*flags, '--split', 'plain.csv'], r"1 of 4 classes open: no image has 'striped'\. Give", capsys)
    assert not path.exists()


def test_answers_or_files(permuted, tmp_path, capsys):
    for argv, message in (
        ([], 'Give FILE.data and INSTANCES.json to name .* or --checkpoint FILE or --model NAME --pretrained'),
        (['a.data'], 'Give FILE.data and INSTANCES.json'),
        (['a.data', 'b.json', '--dataset', 'coco'], "--dataset: for the answers of a model, not for 'a.data'"),
        (['a.data', 'b.json', '--max-images', '9', '--flip'], '--max-images, --flip: for the answers'),
        (['a.data', 'b.json', *permuted], "'a.data': a file is compared without a model"),
        (['--model', 'gkgnet_ti_224', '--dataset', 'demo'], 'No weights: give --checkpoint FILE, or --model'),
        ([*permuted, '--split', 'val.csv', '--max-images', '0'], '--max-images must be at least 1'),
        ([*permuted, '--split', 'val.csv', '--output', str(tmp_path)], 'is a folder, give a file'),
    ):
        check_one_line(['class-order', *argv], message, capsys)
