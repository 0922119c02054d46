"""The Space of a model: its files, its page, and its upload to a Hub look-alike with the real client."""

import ast
import json

import pytest
import torch
from fake_hub import FakeHub, run_python
from huggingface_hub import SpaceCard
from PIL import Image

import timm
from timm.models import save_for_hf

from gkgnet_timm import __version__, load_model, predict_images
from gkgnet_timm.commands.push import main as push
from gkgnet_timm.weights.folder import read_config
from gkgnet_timm.weights.publish import push as push_weights
from gkgnet_timm.weights.space import space_files

NAMES = ['a "cat"', "it's", '<b>$x$</b>']
FILES = ['README.md', 'app.py', 'requirements.txt']

# Pushes each folder with a Space, and visits the pages.
VISIT = """
    import json, runpy, sys
    from pathlib import Path
    import stand_in_gradio
    from gkgnet_timm.commands.push import main

    root, image, cut, *folders = sys.argv[1:]
    sys.modules['gradio'] = stand_in_gradio
    told = []
    for folder in folders:
        repo = f'our-team/{Path(folder).name}'
        main([folder, '--repo-id', repo, '--space', f'{repo}.page'])
        page = runpy.run_path(f'{root}/spaces/{repo}.page/app.py')

        def state():
            label, choice, overlay, picture = (page[name] for name in ('labels', 'choice', 'overlay', 'picture'))
            drawn = type(picture.value).__name__, overlay.value and overlay.value.size
            return label.settings['label'], label.value, choice.settings['choices'], choice.value, drawn

        upload = page['image'].set
        told.append([upload(image, 'change'), *state()])
        if page['has_graph']:
            overlay = page['overlay'].value
            told.append(page['choice'].set(state()[2][-1], 'input'))
            told.append([page['overlay'].value != overlay, state()[3]])
        for file in (cut, 'no image', None):
            told.append([upload(file, 'change'), *state()[1:]])
            assert not upload(image, 'change')
    print('=' * 9)
    print(json.dumps(told))
"""

# Pushes to Spaces that exist or may not be written, after the model.
REFUSED = """
    import json, sys
    from gkgnet_timm.commands.push import main

    folder, *spaces = sys.argv[1:]
    for space in spaces:
        try:
            main([folder, '--repo-id', 'our-team/net', '--private', '--space', space])
        except (OSError, ValueError) as error:
            assert len(str(error).splitlines()) == 1
            print('error:', error)
"""


def save(folder, name='gkgnet_ti_224', label_names=NAMES, num_classes=3, license='apache-2.0', **config):
    torch.manual_seed(0)
    kwargs = dict(img_size=32, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3)
    if name.startswith('gkgnet'):
        kwargs['label_k'] = 3
    model = timm.create_model(name, num_classes=num_classes, **kwargs)
    heads = [model.head_label, model.head_patch] if name.startswith('gkgnet') else [model.get_classifier()]
    for head in heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, -1)
        head.bias.data -= torch.arange(num_classes) / 4  # scores are below 0.5, the first is the best
    config.update(dict(label_names=label_names) if label_names else {})
    data_config = {**timm.data.resolve_model_data_config(model), 'input_size': (3, 32, 32)}
    save_for_hf(model, folder, config, safe_serialization=True, data_config=data_config)
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    config['pretrained_cfg']['license'] = license
    path.write_text(json.dumps(config))


def scores_of(folder, image):
    ((_, scores, _),) = predict_images(load_model(name=f'local-dir:{folder}', pretrained=True), [image])
    return scores.tolist()


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / 'weights')
    return tmp_path / 'weights'


def test_pages_of_pushed_spaces_show_labels_and_where_they_looked(tmp_path):
    image, cut = tmp_path / 'image.png', tmp_path / 'cut.png'
    Image.effect_noise((60, 40), 90).convert('RGB').save(image)
    cut.write_bytes(image.read_bytes()[:-200])
    graph, plain = tmp_path / 'graph', tmp_path / 'plain'
    save(graph)
    scores = dict(zip(NAMES, scores_of(graph, image)))
    found = [NAMES[0], NAMES[2]]  # not by any one threshold
    thresholds = {name: score + (-1e-3 if name in found else 1e-3) for name, score in scores.items()}
    save(graph, thresholds=thresholds)
    save(plain, 'pvig_ti_224', label_names=None, num_classes=2)
    best = ('class 0', scores_of(plain, image)[0])
    assert best[1] < 0.5 and sorted(scores.values(), reverse=True) == list(scores.values())

    with FakeHub(tmp_path / 'hub') as hub:
        args = [hub.root, image, cut, graph, plain]
        done = run_python(VISIT, *args, home=tmp_path / 'home', endpoint=hub.endpoint)
    assert done.returncode == 0, done.stderr
    printed, _, told = done.stdout.partition('=========\n')
    for name in ('graph', 'plain'):
        assert f'{hub.endpoint}/spaces/our-team/{name}.page\n' in printed
        assert sorted(path.name for path in (hub.root / 'spaces' / 'our-team' / f'{name}.page').iterdir()) == FILES
    assert f'gkgnet-timm=={__version__} from PyPI' in printed

    shown = [[], 'Labels at or above their threshold', {name: pytest.approx(scores[name]) for name in found}, found]
    empty = [None, [], None, ['NoneType', None]]
    first, chosen, second, broken, none, cleared, *plain = json.loads(told)
    assert first == [*shown, found[0], ['Figure', [640, 427]]]
    assert (chosen, second) == ([], [True, found[1]])
    assert broken[0] and broken[0][0].startswith('Cannot read this image: ') and broken[1:] == empty
    assert none == [['This file is no image that can be read.'], *empty]
    assert cleared == [[], *empty]

    first, broken, none, cleared = plain
    labels = [{best[0]: pytest.approx(best[1])}, [best[0]], best[0]]
    assert first == [[], 'No label reaches its threshold. The best one', *labels, ['NoneType', None]]
    assert broken[0] and none[0] and broken[1:] == none[1:] == cleared[1:] == empty


def test_files_are_those_of_a_gradio_space(folder):
    config = read_config(folder)
    files = space_files(config, 'team/net_1')
    assert sorted(files) == FILES
    card = SpaceCard(files['README.md'])
    header = card.data.to_dict()
    assert header['sdk'] == 'gradio' and header['app_file'] == 'app.py' and header['models'] == ['team/net_1']
    assert header['license'] == 'apache-2.0' and header['title'] == 'net_1'
    assert isinstance(header['python_version'], str) and isinstance(header['sdk_version'], str)
    assert len(header['short_description']) <= 60  # the Hub refuses more
    assert 'its 3 labels' in card.text and 'where it looked' in card.text and 'HF_TOKEN' not in card.text
    assert 'HF_TOKEN' in space_files(config, 'team/net_1', private=True)['README.md']
    assert files['requirements.txt'] == f'gkgnet-timm=={__version__}\n'  # gradio is that of sdk_version
    (model,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(files['app.py']).body
        if isinstance(node, ast.Assign) and node.targets[0].id == 'MODEL'
    ]
    assert model == 'team/net_1'


def test_licence_is_that_of_the_weights(tmp_path):
    save(tmp_path, license='other')
    header = SpaceCard(space_files(read_config(tmp_path), 'team/net')['README.md']).data.to_dict()
    assert (header['license'], header['license_name']) == ('other', 'gkgnet-non-commercial')
    done = push_weights(tmp_path, 'team/net', space='team/page', license='mit', dry_run=True)
    assert SpaceCard(done.space['README.md']).data.license == 'mit' and done.space_url is None


def test_dry_run_shows_the_files(folder, capsys):
    run = [str(folder), '--repo-id', 'team/net', '--dry-run']
    push([*run, '--space'])
    shown = capsys.readouterr().out
    assert 'to repository team/net:' in shown and 'to Space team/net:' in shown
    for name, content in space_files(read_config(folder), 'team/net').items():
        assert f'{len(content.encode()):,} bytes  {name}\n\n{content}' in shown
    push([*run, '--space', 'team/page', '--private'])
    shown = capsys.readouterr().out
    assert 'to private repository team/net:' in shown and 'to private Space team/page:' in shown
    push(run)
    assert 'Space' not in capsys.readouterr().out


def test_spaces_of_others_and_refused_ones_stay_as_they_are(folder, tmp_path):
    with FakeHub(tmp_path / 'hub') as hub:
        theirs = hub.root / 'spaces' / 'team' / 'theirs'
        public = hub.root / 'spaces' / 'team' / 'public'
        for space in (theirs, public):
            space.mkdir(parents=True)
        (theirs / 'README.md').write_text('---\nsdk: gradio\ntags: [demo]\n---\n')
        (theirs / 'app.py').write_text('import theirs')
        hub.private.add('spaces/team/theirs')
        hub.token, hub.read_only = 'hf_good', {'closed'}
        spaces = ['team/theirs', 'team/public', 'closed/new', 'team/new', 'team/new']
        args = dict(home=tmp_path / 'home', endpoint=hub.endpoint, HF_TOKEN='hf_good')
        done = run_python(REFUSED, folder, *spaces, **args)
        assert done.returncode == 0, done.stderr
        assert {'our-team/net', 'spaces/team/new'} <= hub.private
    other, public_one, closed = [line for line in done.stdout.splitlines() if line.startswith('error: ')]
    assert "Space 'team/theirs' (the model is uploaded) exists with another app.py" in other
    assert "Space 'team/public' (the model is uploaded) exists and is public" in public_one
    assert "Space 'closed/new' (the model is uploaded): this token may not write there" in closed
    assert done.stdout.count('/spaces/team/new\n') == 2  # the second push updates what the first made
    assert (theirs / 'app.py').read_text() == 'import theirs' and not list(public.iterdir())


@pytest.mark.parametrize('space', ['page', 'a/b/c', "a/b'+x+'", 'a/b\nc', 'a/--b', '../b', 'a/b"""', ''])
def test_names_that_are_none(space, folder):
    for run in (['--repo-id', 'team/net', '--space', space], ['--repo-id', space, '--space']):
        with pytest.raises(ValueError, match='--space' if run[1] == 'team/net' else '--repo-id') as error:
            push([str(folder), '--dry-run', *run])
        assert len(str(error.value).splitlines()) == 1


def test_models_that_have_no_labels(folder, tmp_path):
    save(tmp_path / 'one', 'pvig_ti_224', None, 1000)
    path = tmp_path / 'one' / 'config.json'
    config = json.loads(path.read_text())
    config['pretrained_cfg']['tag'] = 'in1k'
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match='--space is for labels .* pvig_ti_224 tells one class'):
        push([str(tmp_path / 'one'), '--repo-id', 'team/net', '--space', '--dry-run'])
    export = tmp_path / 'export'
    export.mkdir()
    config = json.loads((folder / 'config.json').read_text())
    (export / 'config.json').write_text(json.dumps({**config, 'exported': {'formats': []}}))
    with pytest.raises(ValueError, match='is an export, push the folder of weights'):
        push([str(export), '--repo-id', 'team/net', '--space', '--dry-run'])
