"""Model cards, and uploads of weights to a Hub look-alike with the real client."""

import json
import re

import pytest
import torch
import yaml
from fake_hub import FakeHub, run_python
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

import timm
from timm.models import save_for_hf

from gkgnet_timm.commands.push import main as push
from gkgnet_timm.weights.folder import read_config, read_results
from gkgnet_timm.weights.model_card import model_card
from gkgnet_timm.weights.publish import push as push_weights

TINY = dict(img_size=32, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3)
NAMES = ['cat: "a"', '---\nlicense: mit', '```\n# heading\u2028| <b>x</b> é\ud800']
RESULT = dict(model='gkgnet_ti_224', checkpoint='/home/x/run/best.pth.tar', dataset='csv', split='/home/x/val.csv',
              img_size=32, images=11, chance=30.0, mAP=61.5, CF1=40.25, OF1=50.0, CP_top3=33.3)  # fmt: skip

# Commands one after the other, with how many requests each made. TOKEN=... changes the token, CLOSE ends the Hub.
PUSH = """
    import json, os, shlex, sys
    from fake_hub import FakeHub

    root, *commands = sys.argv[1:]
    hub = FakeHub(root).__enter__()
    os.environ['HF_ENDPOINT'] = hub.endpoint
    hub.token, hub.read_only = 'hf_good', {'others', 'closed'}
    from gkgnet_timm.commands.push import main

    for command in commands:
        if command.startswith('TOKEN='):
            os.environ['HF_TOKEN'] = command.partition('=')[2]
            continue
        if command == 'CLOSE':
            hub.__exit__()
            continue
        before = len(hub.requests)
        try:
            main(shlex.split(command))
        except (OSError, ValueError) as error:
            assert len(str(error).splitlines()) == 1
            print('error:', error)
        print(len(hub.requests) - before, 'requests')
        print('=' * 9)
    print(json.dumps(sorted(hub.private)))
"""
PUSH_AND_LOAD = """
    import shutil, sys, torch, timm, gkgnet_timm
    from gkgnet_timm.commands.push import main

    stored, results, names, *folders = sys.argv[1:]
    for i, folder in enumerate(folders):
        main([folder, '--repo-id', 'our-team/net.v1', '--results', results])
        shutil.copytree(stored, f'stored{i}')
        model = timm.create_model('hf-hub:our-team/net.v1', pretrained=True).eval()
        assert model.pretrained_cfg['label_names'] == eval(names)
        torch.save(model(torch.linspace(-2, 2, 3 * 32 * 32).view(1, 3, 32, 32)), f'out{i}.pt')
"""


def logits(model):
    return model.eval()(torch.linspace(-2, 2, 3 * 32 * 32).view(1, 3, 32, 32))


def save(folder, name='gkgnet_ti_224', num_classes=3, seed=0, label_names=NAMES, **config):
    torch.manual_seed(seed)
    kwargs = dict(TINY, label_k=3) if name.startswith('gkgnet') else TINY
    if name.startswith('vig'):
        kwargs = dict(img_size=32, embed_dim=32, depth=2)
    model = timm.create_model(name, num_classes=num_classes, **kwargs)
    if label_names:
        config['label_names'] = label_names
    data_config = {**timm.data.resolve_model_data_config(model), 'input_size': (3, 32, 32)}
    save_for_hf(model, folder, config, safe_serialization=True, data_config=data_config)
    return model


def edit(folder, **changes):
    """Set top-level keys of config.json, 'cfg_NAME' those of its pretrained_cfg; None removes."""
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    for name, value in changes.items():
        place = config['pretrained_cfg'] if name.startswith('cfg_') else config
        name = name.removeprefix('cfg_')
        place.pop(name, None)
        if value is not None:
            place[name] = value
    path.write_text(json.dumps(config))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def blocks(card):
    """Headings outside of code blocks, and code blocks by language."""
    headings, found, fence = [], {}, None
    for line in card.split('---\n', 2)[2].split('\n'):
        if fence is None and (start := re.fullmatch('(`{3,})([a-z]*)', line)):
            fence, language = start.groups()
            found[language] = ''
        elif fence is not None and re.fullmatch(f' {{0,3}}{fence}`* *', line):  # as Markdown has it
            fence = None
        elif fence is not None:
            found[language] += line + '\n'
        elif line.startswith('#'):
            headings.append(line)
    assert fence is None
    return headings, found


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / 'weights')
    return tmp_path / 'weights'


def test_pushed_weights_load_as_they_were_and_a_second_push_updates_them(tmp_path):
    home, hub_root = tmp_path / 'home', tmp_path / 'hub'
    results = tmp_path / 'r.json'
    results.write_text(json.dumps(RESULT))
    folders = [tmp_path / 'first', tmp_path / 'second']
    expected = [logits(save(folder, seed=seed)) for seed, folder in enumerate(folders)]
    before = [contents(folder) for folder in folders]
    with FakeHub(hub_root) as hub:
        stored = hub_root / 'our-team' / 'net.v1'
        done = run_python(PUSH_AND_LOAD, stored, results, NAMES, *folders, home=home, endpoint=hub.endpoint)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f'{hub.endpoint}/our-team/net.v1\n') == 2
        assert done.stdout.count("timm.create_model('hf-hub:our-team/net.v1', pretrained=True)") == 2
        sent = [request.split('/our-team')[0] for request in hub.requests if 'commit' in request]
        assert sent == ['POST /api/models'] * 2  # all files of a push at once
    for i, folder in enumerate(folders):
        assert contents(folder) == before[i]
        pushed = contents(home / f'stored{i}')
        assert pushed.pop('README.md').startswith(b'---\n')
        assert pushed == before[i]  # config.json and model.safetensors
        assert torch.equal(torch.load(home / f'out{i}.pt'), expected[i])
    assert before[0] != before[1]
    card = ModelCard.load(stored / 'README.md')
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == dict(mAP=61.5, CF1=40.25, OF1=50.0)


def test_what_the_hub_refuses_is_one_line_and_a_dry_run_asks_it_nothing(folder, tmp_path):
    hub_root, home = tmp_path / 'hub', tmp_path / 'home'
    (hub_root / 'team' / 'public').mkdir(parents=True)
    (hub_root / 'others' / 'net').mkdir(parents=True)
    run = f'{folder} --repo-id'
    commands = [f'{run} new/net --dry-run', f'{run} team/net', 'TOKEN=hf_bad', f'{run} team/net', 'TOKEN=hf_good']
    commands += [f'{run} others/net', f'{run} closed/new', f'{run} team/public --private']
    commands += [f'{run} team/net --private --license mit', 'CLOSE', f'{run} team/net']
    done = run_python(PUSH, hub_root, *commands, home=home)
    assert done.returncode == 0, done.stderr
    *answers, private = done.stdout.split('=========\n')
    dry, no_token, bad_token, not_ours, not_our_team, public, good, unreachable = answers

    assert dry.endswith('\n0 requests\n') and not (hub_root / 'new').exists()
    size = (folder / 'model.safetensors').stat().st_size
    assert 'repository new/net' in dry and f'{size:,} bytes  model.safetensors' in dry
    card = model_card(read_config(folder), 'new/net')
    assert card in dry and f'{len(card.encode()):,} bytes  README.md' in dry

    for answer in (no_token, bad_token):
        assert answer.startswith("error: The Hub refuses the upload to 'team/net'") and 'hf auth login' in answer
    for answer, repo in ((not_ours, 'others/net'), (not_our_team, 'closed/new')):
        assert repr(repo) in answer and 'may not write' in answer
    assert 'public' in public and 'private on the Hub' in public
    for answer in (no_token, bad_token, not_ours, not_our_team, public, good):
        assert '\n0 requests' not in answer
    assert 'error' not in good
    assert json.loads(private) == ['team/net']
    for repo in ('team/public', 'others/net'):
        assert not list((hub_root / repo).iterdir())
    assert not (hub_root / 'closed').exists()
    uploaded = hub_root / 'team' / 'net'
    assert json.loads((uploaded / 'config.json').read_text())['pretrained_cfg']['license'] == 'mit'
    assert ModelCard.load(uploaded / 'README.md').data.license == 'mit'

    done = run_python(PUSH, hub_root, f'{run} team/net', home=home, HF_HUB_OFFLINE=1)
    assert done.returncode == 0, done.stderr
    for answer, reason in ((unreachable, 'Connect'), (done.stdout, 'HF_HUB_OFFLINE')):
        assert answer.startswith("error: Upload to 'team/net' failed, check the network") and reason in answer


def test_dry_run_from_python(folder):
    done = push_weights(folder, 'team/net', license='mit', dry_run=True)
    assert done.url is None and list(done.sizes) == ['config.json', 'model.safetensors', 'README.md']
    assert done.sizes['README.md'] == len(done.card.encode()) and ModelCard(done.card).data.license == 'mit'
    with pytest.raises(ValueError, match='not a licence id'):
        push_weights(folder, 'team/net', license='MIT: x', dry_run=True)


@pytest.mark.parametrize(
    'name, num_classes, names, expected',
    [
        ('gkgnet_ti_224', 3, NAMES, lambda scores: {n: s for n, s in zip(NAMES, scores.tolist()) if s >= 0.5}),
        ('pvig_ti_224', 2, None, lambda scores: scores),
        ('pvig_ti_224', 1000, None, lambda scores: scores.topk(5)),
        ('vig_ti_224', 1000, None, lambda scores: scores.topk(5)),
    ],
)
def test_usage_lines_of_the_card_run(name, num_classes, names, expected, tmp_path, monkeypatch, capsys):
    model = save(tmp_path, name, num_classes, label_names=names)
    with torch.no_grad():
        for head in (model.get_classifier(), getattr(model, 'head_patch', None)):
            if getattr(head, 'bias', None) is not None:
                torch.nn.init.normal_(head.bias)
    monkeypatch.chdir(tmp_path)
    image = Image.effect_noise((40, 50), 90).convert('RGB')
    image.save('image.png')
    code = blocks(model_card(read_config(tmp_path)))[1]['python']
    assert code.startswith('import timm, gkgnet_timm')
    scope = {}
    exec(code.replace('image.jpg', 'image.png'), scope)
    model = timm.create_model('local-dir:.', pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert transform(image).shape == (3, 32, 32)
    out = model(transform(image)[None])[0].detach()
    scores = out.softmax(-1) if num_classes == 1000 else out.sigmoid()
    assert capsys.readouterr().out == f'{expected(scores)}\n'


def test_card_of_odd_names_keeps_its_form_and_says_what_is_known(folder):
    training = dict(dataset='csv', train_split='/home/x/private/train.csv', epochs=3, lr=1e-4, loss='a\n```\n# b')
    edit(folder, training=training, converted_from=dict(file='best.pth.tar', sha256='ab' * 32, ema=False))
    edit(folder, cfg_description='of another tag')
    config = read_config(folder)
    card = model_card(config, 'team/net_1', {**RESULT, 'dataset': 'my: "data"\n---\n# x'})
    headings, code = blocks(card)
    sections = ['Use', 'Classes', 'Evaluation', 'Preprocessing', 'Weights', 'Licence', 'Citation']
    assert headings == [r'# net\_1'] + [f'## {name}' for name in sections]
    assert [json.loads(line) for line in code['json'].splitlines()] == NAMES
    assert yaml.safe_load(code['yaml']) == {**training, 'train_split': 'train.csv'}
    assert "'hf-hub:team/net_1'" in code['python']
    assert 'eprint' not in code['bibtex'] and '2308.14378' in code['bibtex'] and 'Ji' in code['bibtex']
    assert '/home/x' not in card  # folders of the machine are nobody's business
    assert 'of another tag' not in card  # of the weights that training started from
    for fact in (
        '| mAP | 61.50 |',
        '| CP, top 3 | 33.30 |',
        '| mAP by chance | 30.00 |',
        '11 images',
        '`best.pth.tar`',
    ):
        assert fact in card
    assert f'`{"ab" * 32}`' in card and '`[3, 32, 32]`' in card

    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag, data.license) == ('timm', 'image-classification', 'apache-2.0')
    assert 'multi-label' in data.tags
    assert data.model_name == 'team/net_1'
    (dataset,) = {(result.dataset_name, result.dataset_split) for result in data.eval_results}
    assert dataset == ('my: "data" --- # x', 'val.csv')


def test_card_without_facts_leaves_them_out(folder):
    edit(folder, label_names=None, cfg_license=None, cfg_paper_ids=None, cfg_description='87.65 mAP')
    card = model_card(read_config(folder))
    headings, code = blocks(card)
    assert headings == [r'# gkgnet\_ti\_224'] + [f'## {name}' for name in ('Use', 'Preprocessing', 'Citation')]
    assert set(code) == {'python', 'bibtex'} and "'local-dir:.'" in code['python']
    assert '87.65' not in card and 'arxiv.org' not in card, 'it may be of other weights'
    data = ModelCard(card).data
    assert data.license is None and data.model_name is None and data.eval_results is None


def test_card_of_each_licence_and_family(tmp_path):
    save(tmp_path / 'gkgnet')
    edit(tmp_path / 'gkgnet', cfg_license='other')
    card = model_card(read_config(tmp_path / 'gkgnet'))
    data = ModelCard(card).data
    assert data.to_dict()['license_name'] == 'gkgnet-non-commercial'
    assert data.to_dict()['license_link'] == 'https://github.com/jin-s13/GKGNet'
    assert 'non-commercial use only, see <https://github.com/jin-s13/GKGNet>' in card
    edit(tmp_path / 'gkgnet', cfg_origin_url='https://example.org/a_b')
    data = ModelCard(model_card(read_config(tmp_path / 'gkgnet'))).data
    assert data.to_dict()['license_link'] == 'https://example.org/a_b'

    for name, family in (('vig_ti_224', 'ViG'), ('pvig_ti_224', 'Pyramid ViG')):
        save(tmp_path / 'vig', name, 1000, label_names=None)
        config = read_config(tmp_path / 'vig')
        card = model_card(config)
        assert f'- Architecture: `{name}` ({family})' in card and name.partition('_')[0] in ModelCard(card).data.tags
    assert '2206.00272' in blocks(card)[1]['bibtex'] and 'multi-label' not in card
    card = model_card({**config, 'training': dict(epochs=1)})
    assert 'multi-label' in ModelCard(card).data.tags and 'sigmoid' in blocks(card)[1]['python']
    card = model_card({**config, 'pretrained_cfg': {**config['pretrained_cfg'], 'license': 'other'}})
    assert 'gkgnet-non-commercial' not in card and 'GKGNet' not in card


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(architecture='gkgnet_17'), "no architecture 'gkgnet_17'"),
        (dict(architecture=None), 'no architecture None'),
        (dict(pretrained_cfg=None), "no 'pretrained_cfg'"),
        (dict(training='demo'), "'training' must be a mapping, is 'demo'"),
        (dict(num_classes=0), "'num_classes' must be at least 1, is 0"),
        (dict(num_classes='3'), "is '3'"),
        (dict(label_names=['a', 'b']), "2 'label_names' for 3 classes"),
    ],
)
def test_config_that_is_none(changes, message, folder):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        push([str(folder), '--repo-id', 'team/net', '--dry-run'])
    assert 'config.json' in str(error.value)


def test_folder_that_is_none(folder, tmp_path):
    for broken in ('{"architecture": ', '[]', b'\xff\xfe\x00'):
        path = folder / 'config.json'
        path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
        with pytest.raises(ValueError, match='config.json'):
            read_config(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match='has no config.json.*convert'):
        read_config(folder)
    save(folder)
    (folder / 'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='has no model.safetensors.*convert'):
        read_config(folder)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_config(tmp_path / 'nowhere')


def _without_a_tensor(tensors):
    del tensors['head_label.weight']


def _with_another_tensor(tensors):
    tensors['stem.extra'] = torch.zeros(3)


def _with_nan(tensors):
    tensors['label_embed.weight'][0, 0] = float('nan')


def _with_infinity(tensors):
    tensors['label_embed.weight'][0, 0] = float('inf')


def _of_other_width(tensors):
    tensors['label_embed.weight'] = tensors['label_embed.weight'][:, :-1].contiguous()


def _of_other_classes(tensors):
    for name in [name for name in tensors if name.startswith(('head_label', 'head_patch', 'label_embed'))]:
        if tensors[name].shape[:1] == (3,):
            tensors[name] = tensors[name][:2].contiguous()


def _trunk_only(tensors):
    for name in [name for name in tensors if 'label' in name]:
        del tensors[name]


@pytest.mark.parametrize(
    'damage, message',
    [
        (_without_a_tensor, 'head_label.weight'),
        (_with_another_tensor, 'stem.extra'),
        (_with_nan, "'label_embed.weight' has nan"),
        (_with_infinity, "'label_embed.weight' has nan or inf"),
        (_of_other_width, 'label_embed.weight'),
        (_of_other_classes, 'model.safetensors'),
        (_trunk_only, 'label'),
    ],
)
def test_weights_that_are_not_those_of_the_config(damage, message, folder):
    path = folder / 'model.safetensors'
    tensors = load_file(path)
    damage(tensors)
    path.unlink()  # load_file has mapped it
    save_file(tensors, path)
    with pytest.raises(ValueError, match=message) as error:
        push([str(folder), '--repo-id', 'team/net', '--dry-run'])
    assert str(folder) in str(error.value)


def test_weights_that_are_no_safetensors(folder):
    path = folder / 'model.safetensors'
    for content in (b'<!DOCTYPE html>', b'', path.read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='model.safetensors'):
            push([str(folder), '--repo-id', 'team/net', '--dry-run'])


def test_half_precision_weights_are_those_of_the_config(folder, capsys):
    path = folder / 'model.safetensors'
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
    path.unlink()
    save_file(tensors, path)
    push([str(folder), '--repo-id', 'team/net', '--dry-run'])
    assert 'Would upload' in capsys.readouterr().out


@pytest.mark.parametrize('repo_id', ['net', 'a/b/c', 'team/.net', 'team/net@v1', 'team/a--b', ''])
def test_repo_id_that_is_none(repo_id, folder):
    with pytest.raises(ValueError, match='(?i)repo.id'):
        push([str(folder), '--repo-id', repo_id, '--dry-run'])


def test_licence_that_is_not_known_has_to_be_given(folder, capsys):
    edit(folder, cfg_license=None)
    run = [str(folder), '--repo-id', 'team/net', '--dry-run']
    with pytest.raises(ValueError, match='states no licence of the weights, give --license ID'):
        push(run)
    with pytest.raises(ValueError, match='set .license. and .origin_url.'):
        push([*run, '--license', 'other'])
    with pytest.raises(ValueError, match='not a licence id such as apache-2.0'):
        push([*run, '--license', 'MIT: x'])
    capsys.readouterr()
    push([*run, '--license', 'mit'])
    assert '\nlicense: mit\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    'content, message',
    [
        ('{', 'not a JSON file'),
        ('[]', 'not a result of validate.py'),
        ('{"epochs": 3}', 'not a result of validate.py'),
        (dict(model=None), 'does not name its model'),
        (dict(model='gkgnet_576.coco2014'), 'of model gkgnet_576.coco2014, the weights are of gkgnet_ti_224'),
        (dict(model='gkgnet_ti_2'), 'of model gkgnet_ti_2,'),
        (dict(model='gkgnet_ti_2240'), 'of model gkgnet_ti_2240,'),
        (dict(num_classes=80), '80 classes, the weights of 3'),
        (dict(mAP=float('nan')), "'mAP' must be a percentage, is nan"),
        (dict(mAP='61.5'), "is '61.5'"),
        (dict(CP=-1.0), "'CP' must be a percentage, is -1.0"),
        (dict(OF1=101.0), "'OF1' must be"),
        (dict(images=None), "'images' must be"),
    ],
)
def test_results_that_are_none_of_this_model(content, message, folder, tmp_path):
    path = tmp_path / 'r.json'
    path.write_text(content if isinstance(content, str) else json.dumps({**RESULT, **content}))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        push([str(folder), '--repo-id', 'team/net', '--dry-run', '--results', str(path)])
    assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match='validate.py --results-file writes it'):
        push([str(folder), '--repo-id', 'team/net', '--dry-run', '--results', str(tmp_path / 'nowhere.json')])


def test_result_of_this_model_is_found_among_others(folder, tmp_path):
    config = read_config(folder)
    path = tmp_path / 'r.json'

    def read(*results, **changes):
        path.write_text(json.dumps([{**RESULT, **result} for result in results]))
        return read_results(path, {**config, **changes})

    assert read(dict(model='pvig_ti_224', mAP=1.0), dict(model='gkgnet_ti_224.in1k', mAP=2.0))['mAP'] == 2.0
    with pytest.raises(ValueError, match='2 results of gkgnet_ti_224, give a file with one: a.pth, b.pth'):
        read(dict(checkpoint='a.pth'), dict(checkpoint='b.pth'))
    assert read(dict(model=f'local-dir:{folder}', mAP=3.0))['mAP'] == 3.0
    save(tmp_path / 'vig', 'pvig_ti_224')
    with pytest.raises(ValueError, match='the weights are of gkgnet_ti_224'):
        read(dict(model=f'local-dir:{tmp_path / "vig"}'))

    both = dict(mAP=5.0, mAP_raw=5.0, mAP_ema=6.0)
    assert read(both, converted_from=dict(file='x', ema=False))['mAP'] == 5.0
    with pytest.raises(ValueError, match='not of the ema weights, as the folder is: run validate.py with --use-ema'):
        read(both, converted_from=dict(file='x', ema=True))
    with pytest.raises(ValueError, match='validate.py with --no-use-ema'):
        read({**both, 'mAP': 6.0}, converted_from=dict(file='x', ema=False))


def test_children_of_the_tests_reach_nothing_but_loopback(tmp_path):
    """The guard that every other test of the Hub relies on."""
    code = """
        import os, socket
        far = '192.0.2.1', 80
        for reach in (
            lambda: socket.create_connection(far, 30),
            lambda: socket.socket().connect(far),
            lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', far),
            lambda: socket.gethostbyname('example.org'),
            lambda: socket.create_connection(('::1', 80)),
        ):
            try:
                reach()
            except OSError as error:
                assert 'no network in tests' in str(error), error
            else:
                raise SystemExit('reached')
        assert not [name for name in os.environ if name.lower().endswith('_proxy')]
        assert os.environ['HF_HOME'].startswith(os.getcwd()) and 'HF_ENDPOINT' not in os.environ
    """
    done = run_python(code, home=tmp_path)
    assert done.returncode == 0, done.stderr
