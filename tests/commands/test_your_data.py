"""The page on own data, as a stranger follows it: its files, its commands, what it says they print."""

import contextlib
import io
import json
import os
import random
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT, save_image
from runs import NARROW_MODEL

from gkgnet_timm.__main__ import main

pytestmark = pytest.mark.usefixtures('no_curves')

PAGE = (ROOT / 'docs' / 'your-data.md').read_text(encoding='utf-8')
SECTIONS = dict(part.split('\n', 1) for part in re.split(r'^##+ ', PAGE, flags=re.M)[1:])
BLOCK = re.compile(r'(?:^<!-- file: (\S+) -->\n)?(?:^```\w*\n(.*?)^```\n|((?:^ {4}[^\n]+\n)+))', re.S | re.M)
CHECK = 'python -m gkgnet_timm check-data --dataset csv --data-dir photos --split table.csv'
SMALL = ['--img-size', '32', '-b', '8', '--epochs', '1', '-j', '0', '--device', 'cpu', *NARROW_MODEL]


def pattern(text):
    """A line of the page, which leaves out what is long."""
    return re.compile(re.sub(r'\\\.\\\.\\\.|…', '.*', re.escape(' '.join(text.split()))))


def run(command):
    """Type a command of the page, on a small model if it trains; returns the lines, paths from the current folder."""
    words = shlex.split(command.removeprefix('python '))
    argv = ['train', *words[1:], *SMALL] if words[0] == 'train_multilabel.py' else words[2:]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), contextlib.suppress(SystemExit):
        main(argv)
    text = stdout.getvalue() + stderr.getvalue()
    return text.replace(f'{Path.cwd()}{os.sep}', '').replace(os.sep, '/').splitlines()


def read_section(section):
    """Files of a section by name, and its commands, each with the lines that the page has below it."""
    files, commands, end = {}, [], 0
    for match in BLOCK.finditer(section):
        name, fenced, indented = match.groups()
        lines = (fenced or textwrap.dedent(indented)).splitlines()
        if name:
            files[name] = lines
        elif lines[0].startswith('python '):
            commands.append((lines[0], lines[1:]))
        elif commands and not section[end : match.start()].strip():
            commands[-1][1].extend(lines)
        end = match.end()
    return files, commands


def write(folder, files):
    """Write the files of a section, and an image for each name in them."""
    for name, lines in files.items():
        if lines[-1] == '...':  # 40 images, of which the page shows the first
            labels = ['cat'] * 11 + ['dog'] * 7 + ['cow'] * 2 + ['cat;dog'] * 4 + [''] * 13
            random.Random(0).shuffle(labels)
            lines = lines[:-1] + [f'{i:03d}.jpg,{label}' for i, label in enumerate(labels, 4)]
        text = '\n'.join(lines) + '\n'
        Path(folder, name).write_text(text)
        names = re.findall(r'\w+\.jpg', text) or [f'{row.partition(",")[0]}.jpg' for row in lines[1:] if row[0] != '/']
        for i, image in enumerate(dict.fromkeys(names)):
            save_image(Path(folder, 'photos', image), i, (8, 8))


def write_voc(folder):
    """A devkit of classes of its own, of which the page shows one image."""
    for part in ('train', 'val'):
        ids = [f'{part}{i}' for i in range(8)]
        for i, image in enumerate(ids):
            save_image(folder / 'VOCdevkit' / 'VOC2020' / 'JPEGImages' / f'{image}.png', i, (8, 8))
            path = folder / 'VOCdevkit' / 'VOC2020' / 'Annotations' / f'{image}.xml'
            path.parent.mkdir(exist_ok=True)
            name = 'zebu' if i % 2 else 'okapi'
            path.write_text(
                f'<annotation><filename>{image}.png</filename><object><name>{name}</name>'
                '<difficult>0</difficult></object></annotation>'
            )
        path = folder / 'VOCdevkit' / 'VOC2020' / 'ImageSets' / 'Main' / f'{part}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(ids))


RUN = [title for title, section in SECTIONS.items() if '<!-- file: ' in section]
RUN += ['Divide a data set into files', 'PASCAL VOC, and own classes in its form']


def test_all_blocks_of_commands_are_run():
    others = [title for title in SECTIONS.keys() - {*RUN} if re.search(r'(?<! -->)\n```bash', SECTIONS[title])]
    assert not others


@pytest.mark.parametrize('title', RUN)
def test_examples(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files, commands = read_section(SECTIONS[title])
    if title.startswith('Divide'):
        pytest.importorskip('iterstrat')
        files, _ = read_section(SECTIONS['Only one table: hold out a part'])
    write(tmp_path, files)
    write_voc(tmp_path)
    for command, lines in commands or [(CHECK, [])]:
        printed = run(command)
        print('\n'.join(printed))
        remaining = iter([' '.join(line.split()) for line in printed])  # in this order
        for line in lines:
            assert any(pattern(line).fullmatch(other) for other in remaining), line
    for said in re.findall(r'prints\s+`([^`]+)`', SECTIONS[title]):
        assert ' '.join(said.split()) in printed


PROSE = re.sub(r'^```.*?^```', '', PAGE, flags=re.S | re.M)
CODE = [*re.findall(r'`([^`]+)`', PROSE), *re.findall(r'^ {4}(.*)$', PROSE, re.M)]
MESSAGES = [pattern(line) for line in CODE if len(line) > 20]
HEAD = 'file,cat,dog\n'
CATEGORIES = [dict(id=1, name='pear')]


def coco(images=2, annotations=(), categories=CATEGORIES, **more):
    images = [dict(id=i, file_name=f'{i}.jpg') for i in range(1, images + 1)] if isinstance(images, int) else images
    annotations = [dict(image_id=image, category_id=category) for image, category in annotations]
    return dict(images=images, annotations=annotations, categories=list(categories), **more)


@pytest.mark.parametrize(
    'name, content, flags',
    [
        ('table.csv', HEAD + 'a.jpg,1,0\nb.jpg,0,1\n001.jpg,1,maybe\n', ''),
        ('table.csv', 'file,labels\na.jpg,0\nb.jpg,1\n001.jpg,maybe\n', ''),
        ('val.csv', HEAD + 'a.jpg,1,0\nb.jpg,-1,1\n', 'train'),
        ('train.csv', HEAD + 'a.jpg,1,\nb.jpg,,1\n001.jpg,nan,1\n', 'train --val-split train.csv --allow-same-split'),
        ('table.csv', 'file,labels\na.jpg,scab complex\nb.jpg,scab\n001.jpg,complex\n', ''),
        ('table.csv', 'file,labels\na.jpg,cat\nb.jpg,Cat\n', ''),
        ('table.csv', 'file,labels\na.jpg,[1 0 1]\nb.jpg,[0 0 0]\n', ''),
        ('table.csv', 'file,labels\na.jpg,"[sky, water]"\n', ''),
        ('table.csv', 'file,labels\na.jpg,[0 0 ... 1]\n', ''),
        ('all.csv', ',file,width,labels,split\n0,a.jpg,640,cat,train\n1,b.jpg,480,dog,val\n', ''),
        ('all.csv', 'image,mask,cat\na.jpg,b.jpg,1\nb.jpg,a.jpg,0\n', ''),
        ('all.csv', 'file,width,labels,split\na.jpg,640,cat,train\n', '--label-columns tag'),
        ('all.csv', 'file,labels,split\na.jpg,cat,train\nb.jpg,dog,val\n', '--where split=test'),
        ('table.csv', '000001,cat\n000002,dog\n', ''),
        ('labels.csv', 'ImageID,LabelName,Confidence\na,/m/1,0.7\n', ''),
        ('labels.csv', 'ImageID,LabelName,Confidence\n0a,/m/1,1\n0a,/m/1,0\n', ''),
        ('labels.csv', 'ImageID,LabelName,Confidence\na,/m/9,1\n', '--label-names ids.csv'),
        ('val.csv', 'ImageID,LabelName,Confidence\na,/m/1,1\n', 'train --train-split long.csv'),
        ('table.csv', 'file,labels\na.jpg,cat\na.jpg,dog\n', '--table-format wide'),
        ('table.csv', 'file\tx,y\na.jpg\tb.jpg,c\n', ''),
        ('table.csv', 'file,labels\na.jpg,cat,dog\n', ''),
        ('table.csv', 'file,labels\na.jpg,é\n'.encode('cp1252'), ''),
        ('table.csv', 'file,labels\na.jpg,cat\n'.encode('utf-16-le'), ''),
        ('val.json', coco(categories=[dict(id=1, name='Pear')], annotations=[(1, 1)]), '--split train.json val.json'),
        ('train.json', coco(categories=[*CATEGORIES, dict(id=2, name='pear')]), ''),
        ('train.json', coco(categories=[dict(id=1, name='a\ud800')]), ''),
        ('train.json', coco(annotations=[('4', 1)]), ''),
        ('train.json', coco(images=[dict(id=1, file_name='1.jpg'), dict(id='1', file_name='2.jpg')]), ''),
        ('test.json', dict(images=coco()['images']), ''),
        ('results.json', [], ''),
        ('train.json', coco(images=[dict(id=1)]), ''),
        ('lvis.json', coco(images=[dict(id=1, file_name='1.jpg', neg_category_ids=[1])], annotations=[(1, 1)]), ''),
        ('train.json', b'{"a":1x}', ''),
        ('labels.json', coco(images=[dict(id=i, file_name=f'{n}.jpg') for i, n in enumerate('012')]
                             + [dict(id=7, file_name='a.JPG')]), 'train --train-split labels.json'),
        ('table.csv', 'file,labels\ntwo,cat\nb.jpg,cat\n', ''),
        ('table.csv', 'file,labels\n../x.png,cat\nb.jpg,cat\n', ''),
        ('table.csv', 'file,labels\nhttps://x.org/a.jpg,cat\nb.jpg,cat\n', ''),
        ('table.csv', 'file,labels\nsub\\a.jpg,cat\nsub/a.jpg,cat\n', ''),
    ],
)  # fmt: skip
def test_messages(name, content, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for image in ('a', 'b', '001', '0a', '0', '1', '2', 'two', 'sub/a'):
        save_image(tmp_path / 'photos' / f'{image}.jpg', 0, (8, 8))
    save_image(tmp_path / 'photos' / 'two.png', 0, (8, 8))
    Path('train.csv').write_text(HEAD + 'a.jpg,1,-1\nb.jpg,-1,1\n')
    Path('long.csv').write_text('ImageID,LabelName,Confidence\na,/m/1,1\na,/m/2,0\n')
    Path('ids.csv').write_text('/m/1,cat\n')
    Path('train.json').write_text(json.dumps(coco(annotations=[(1, 1)])))
    content = json.dumps(content) if isinstance(content, (dict, list)) else content
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = 'coco' if name.endswith('.json') else 'csv'
    is_training = flags.startswith('train')
    flags = f'--dataset {dataset} --data-dir photos {flags.removeprefix("train")}'
    if is_training:
        printed = run(f'python train_multilabel.py --train-split train.csv --val-split val.csv {flags}')
    else:
        split = '' if '--split' in flags else f'--split {name}'
        printed = run(f'python -m gkgnet_timm check-data -j 0 {split} {flags}')
    said = printed[-1].removeprefix('error: ').replace("'photos", "'/data/photos")
    print(said)
    # the page leaves out the place where that goes without saying
    texts = {said, re.sub(rf'^{re.escape(repr(name))}(, line 2)?: ', '', said)}
    texts |= {text.removesuffix('.') for text in texts}
    assert any(message.fullmatch(text) for message in MESSAGES for text in texts)
