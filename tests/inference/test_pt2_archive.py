"""Programs of torch.export from strangers: nothing in them runs before it is known to be harmless."""

import json
import zipfile

import pytest
import torch
from torch import nn

from gkgnet_timm.inference.pt2_archive import load_pt2


class Doubled(nn.Module):
    def forward(self, images):
        return {'logits': images.flatten(1) * 2}


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp('pt2') / 'model.pt2'
    sides = {0: torch.export.Dim('batch'), 2: 2 * torch.export.Dim('half', min=2, max=9)}
    program = torch.export.export(Doubled(), (torch.ones(2, 1, 6, 4),), dynamic_shapes=(sides,))
    torch.export.save(program, path)
    return path


def edited(archive, target, edit):
    """Write an archive with each part, by its place, as a function of it and its content gives it."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, 'w') as result:
        for name in source.namelist():
            for place, content in edit(name.partition('/')[2], source.read(name)):
                result.writestr(f'{name.partition("/")[0]}/{place}', content)
    return str(target)


def in_program(change):
    """Edit the program alone, as the mapping that it is."""

    def edit(place, content):
        if place == 'models/model.json':
            program = json.loads(content)
            change(program)
            content = json.dumps(program).encode()
        return [(place, content)]

    return edit


def test_a_program_of_ours_runs(archive):
    images = torch.rand(3, 1, 8, 4)
    assert torch.equal(load_pt2(str(archive))(images)['logits'], images.flatten(1) * 2)


@pytest.mark.parametrize(
    'target', ['torch.os.system', 'torch.ops.aten.from_file.default', 'torch.hub.load', '_operator.attrgetter', 'print']
)
def test_function_of_another_kind(archive, tmp_path, target):
    def change(program):
        program['graph_module']['graph']['nodes'][-1]['target'] = target

    with pytest.raises(ValueError, match='it calls .* not run'):
        load_pt2(edited(archive, tmp_path / 'model.pt2', in_program(change)))


@pytest.mark.parametrize('key', ['guards_code', 'expr_str'])
def test_expression_that_runs_code(archive, tmp_path, key):
    ran = tmp_path / 'ran'
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"

    def change(program):
        if key == 'guards_code':
            program['guards_code'] = [f"L['images'].size()[0] >= 0 or {code}"]
        else:
            values = program['graph_module']['graph']['sym_int_values']
            values['s0'] = {'as_expr': {'expr_str': code, 'hint': {'as_int': 2}}}

    with pytest.raises(ValueError, match='it evaluates .* not run'):
        load_pt2(edited(archive, tmp_path / 'model.pt2', in_program(change)))
    assert not ran.exists()


@pytest.mark.parametrize('place', ['argument', 'node', 'constant'])
def test_name_that_is_code(archive, tmp_path, place):
    """PyTorch writes source code with the names of a program."""
    ran = tmp_path / 'ran'
    code = f"images=__import__('pathlib').Path({str(ran)!r}).touch()):\n    '''#"

    def change(program):
        graph = program['graph_module']['graph']
        if place == 'argument':
            program['graph_module']['module_call_graph'][0]['signature']['forward_arg_names'] = [code]
        elif place == 'node':
            graph['inputs'][0]['as_tensor']['name'] = code
        else:
            graph['tensor_values'][code] = next(iter(graph['tensor_values'].values()))

    with pytest.raises(ValueError, match='it has a name'):
        load_pt2(edited(archive, tmp_path / 'model.pt2', in_program(change)))
    assert not ran.exists()


def test_type_of_another_module(archive, tmp_path):
    def change(program):
        spec = '[1, {"type": "collections.defaultdict", "context": "[\\"evil\\"]", "children_spec": []}]'
        program['graph_module']['module_call_graph'][0]['signature']['out_spec'] = spec

    with pytest.raises(ValueError, match='it has a type'):
        load_pt2(edited(archive, tmp_path / 'model.pt2', in_program(change)))


def test_directory_that_other_readers_see(archive, tmp_path):
    """What PyTorch reads is what was checked: a copy, whatever else is in the file."""
    path = tmp_path / 'model.pt2'
    path.write_bytes(b'before' + archive.read_bytes())  # Python reads an archive with something in front
    assert load_pt2(str(path))(torch.ones(1, 1, 4, 4))['logits'].shape == (1, 16)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_pickle_among_the_sample_inputs(archive, tmp_path):
    ran = tmp_path / 'ran'
    torch.save(Touch(str(ran)), tmp_path / 'sample.pt')

    def edit(place, content):
        return [(place, (tmp_path / 'sample.pt').read_bytes() if place == 'data/sample_inputs/model.pt' else content)]

    with pytest.raises(Exception, match='.'):
        load_pt2(edited(archive, tmp_path / 'model.pt2', edit))
    assert not ran.exists()


def test_parts_that_an_export_does_not_have(archive, tmp_path):
    def edit(place, content):
        return [(place, content), *([('data/aotinductor/model.so', b'')] if place == 'byteorder' else [])]

    with pytest.raises(ValueError, match='aotinductor'):
        load_pt2(edited(archive, tmp_path / 'other.pt2', edit))

    def twice(place, content):
        return [(place, content), *([('MODELS/model.json', content)] if place == 'models/model.json' else [])]

    with pytest.raises(ValueError, match='twice'):
        load_pt2(edited(archive, tmp_path / 'twice.pt2', twice))


@pytest.mark.parametrize('entry', [dict(use_pickle=True), dict(path_name='opaque_obj_0')])
def test_objects_among_the_constants(archive, tmp_path, entry):
    def edit(place, content):
        if place == 'data/constants/model_constants_config.json':
            content = json.dumps(
                {'config': {'x': dict({'path_name': 'tensor_0', 'is_param': False}, **entry)}}
            ).encode()
        return [(place, content)]

    with pytest.raises(ValueError, match='pickles|not a tensor'):
        load_pt2(edited(archive, tmp_path / 'model.pt2', edit))
