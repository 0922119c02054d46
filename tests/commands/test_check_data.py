"""The command check-data: all that it prints, and its status."""

import re

import pytest

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.check_data import main as check_data

COCO = """\
train: 4 images, 1 of them without a label, 1.00 labels an image; 3 classes of 1 to 2 images
  person       2  50.00 %
  dog          1  25.00 %
  bottle       1  25.00 %
  4 images read, width 40 to 40, median 40; height 48 to 48, median 48

"""


def test_all_images_are_read(coco_folder, capsys):
    flags = ['--dataset', 'coco', '--data-dir', str(coco_folder), '-j', '1']
    command(['check-data', *flags, '--split', 'train', 'val'])
    assert capsys.readouterr().out == COCO + COCO.replace('train', 'val')
    (coco_folder / 'val' / '003.png').write_bytes(b'no image')
    (coco_folder / 'val' / '005.png').unlink()
    with pytest.raises(SystemExit) as stopped:
        command(['check-data', *flags, '--split', 'val', 'train', '-j', '0'])
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.err == 'error: 2 images cannot be read, see above.\n'
    files = [f"Cannot read image '{coco_folder}/val/{name}.png': " for name in ('003', '005')]
    assert re.search(r'  2 images read.*\n  ' + r'.*\n  '.join(map(re.escape, files)), captured.out)
    assert captured.out.endswith(COCO)  # the other split is checked all the same


def test_both_usual_splits(small_demo, capsys):
    assert check_data(['-j', '0']) == {'train': [], 'val': []}
    printed = capsys.readouterr().out
    assert 'train: 19 images' in printed and 'val: 11 images' in printed and '11 images read, width 96 to 96' in printed


def test_folder_of_images(coco_folder, capsys):
    (coco_folder / 'table.csv').write_text('file,cat\n003.png,1\n')
    argv = ['--dataset', 'csv', '--data-dir', str(coco_folder), '--split', 'table.csv', '-j', '0', '--images']
    assert check_data([*argv, 'train']) == {'table.csv': []}
    with pytest.raises(ValueError, match='1 images cannot be read'):
        check_data([*argv, 'annotations'])


def test_splits_have_the_same_classes(coco_folder):
    (coco_folder / 'train.csv').write_text('file,labels\n003.png,cat|dog\n')
    (coco_folder / 'val.csv').write_text('file,labels\n005.png,dog\n007.png,cow\n')
    argv = ['--dataset', 'csv', '--data-dir', str(coco_folder), '--images', 'train', '-j', '0']
    with pytest.raises(ValueError, match="val.csv', line 3: class 'cow' is not one of the 2"):
        check_data(argv)


def test_streams_are_described(shards, capsys):
    argv = ['--dataset', 'wds/x', '--data-dir', str(shards), '--split', 'x-{0..1}.tar|10', '--num-samples', '6']
    assert check_data([*argv, '--num-classes', '3', '--target-key', 'indices', '--target-format', 'indices']) == {}
    assert capsys.readouterr().out == 'x-{0..1}.tar|10: a stream of about 6 images, 3 classes\n'


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--dataset', 'coco'], '--dataset coco needs --data-dir.'),
        (['--dataset', 'wds/x', '--data-dir', '.'], '--dataset wds/x needs --split'),
        (['--dataset', 'coco', '--data-dir', '.', '--split', 'nope'], 'instances_nope.json'),
    ],
)
def test_errors_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(['check-data', *argv])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count('\n') == 1 and message in error
