"""What traces, exported programs and graphs of ONNX keep of the graph operations."""

import re

import pytest
import torch
import torch.nn as nn
from tiny import FAMILIES, assert_close, create, images, nodes

import timm

from gkgnet_timm.graph import cpu, eager, interleave_max_relative, knn_neighbors, recorded
from gkgnet_timm.graph.dense import dense_max_relative, dense_neighbors, relative_position_matrix
from gkgnet_timm.graph.layout import to_nodes
from gkgnet_timm.layers.position import RelativePosition, relative_position_tables

pytestmark = pytest.mark.filterwarnings('ignore')  # of PyTorch, for whoever exports

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), k=3)
OF_FAMILY = dict(gkgnet_ti_224=dict(SMALL, label_k=3), pvig_ti_224=SMALL, vig_ti_224=dict(depth=5, embed_dim=16, k=3))


class Graph(nn.Module):
    """Neighbours of the nodes of a map among those of the same map, pooled, and the largest of them."""

    def __init__(self, grid, reduction=2, k=3, dilation=2, num_groups=2, dim=8):
        super().__init__()
        self.position = RelativePosition(dim, reduction, grid, dtype=torch.float64) if grid else None
        self.reduction, self.options = reduction, (k, dilation, num_groups)

    def forward(self, x):
        position = self.position(x) if self.position else None
        windows = x.unflatten(2, (-1, self.reduction)).unflatten(4, (-1, self.reduction))
        pooled = windows.mean((3, 5))  # as onnxruntime has no pooling in float64
        x, y = to_nodes(x), to_nodes(pooled)
        neighbors = knn_neighbors(x, y, *self.options, position)
        return neighbors, interleave_max_relative(x, y, neighbors)


class Flat(nn.Module):
    """Tables of a position that makes no difference."""

    def __init__(self, height, width):
        super().__init__()
        for name, size in (('row_table', height), ('col_table', width)):
            self.register_buffer(name, torch.zeros(size, height * width))

    def forward(self, x):
        return self.row_table, self.col_table


def maps(batch, height, width, seed=0):
    return nodes(batch, 8, height, width, seed=seed)


def to_onnx(graph, path, x, dynamic_size=False):
    """Write a graph of ONNX that takes any batch. Returns its operators, and how to run it."""
    onnx, onnxruntime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    sizes = {0: torch.export.Dim('batch')}
    if dynamic_size:
        sizes.update({i: 2 * torch.export.Dim(name, min=2, max=64) for i, name in ((2, 'rows'), (3, 'columns'))})
    options = dict(dynamo=True, dynamic_shapes=(sizes,), input_names=['input'], external_data=False, verbose=False)
    torch.onnx.export(graph.eval(), (x,), **options).save(path)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    operators = [node.op_type for node in onnx.load(path).graph.node]
    return operators, lambda x: [torch.from_numpy(out) for out in session.run(None, {'input': x.numpy()})]


def check_graph(run, graph, x):
    neighbors, features = run(x)
    expected = graph(x)
    assert torch.equal(neighbors, expected[0]), x.shape
    assert_close(features, expected[1])


def check_or_refuse(run, model, x):
    """A program is right, or it stops."""
    try:
        out = run(x)
    except Exception as error:
        assert re.search(
            '(?i)guard|expected|must match|not be greater|out of range|exceeds dimension|positive|is invalid for',
            str(error),
        ), error
    else:
        assert_close(out, model(x))


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('k, dilation', [(1, 1), (3, 1), (3, 2), (9, 3)])
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('reduction', [None, 1, 2])
def test_same_as_the_dense_graph(batch, k, dilation, groups, reduction):
    """None is without position, as labels search."""
    height, width = 6, 10
    x, y = nodes(batch, height * width, 16), nodes(batch, height * width // (reduction or 2) ** 2, 16, seed=1)
    if reduction is None:
        y, tables, matrix = nodes(batch, 33, 16, seed=1), None, None
    else:
        tables = relative_position_tables(height, width, 16, reduction, dtype=torch.float64)
        matrix = relative_position_matrix(height, width, 16, reduction)
    k, dilation = eager.limit_neighbors(k, dilation, y.shape[1])
    neighbors = recorded.search_neighbors(x, y, k, dilation, groups, tables)
    assert torch.equal(neighbors, dense_neighbors(x, y, k, dilation, groups, matrix))
    assert torch.equal(neighbors, eager.search_neighbors(x, y, k, dilation, groups, tables))
    features = recorded.interleave_max_relative(x, y, neighbors)
    assert torch.equal(features, eager.interleave_max_relative(x, y, neighbors, False)[0])
    assert torch.equal(features[..., 1::2], dense_max_relative(x, y, neighbors))


def test_search_is_in_float32():
    """Whatever the type of the nodes and autocast: half precision would tie in droves."""
    x, y = nodes(2, 50, 16, dtype=torch.bfloat16), nodes(2, 70, 16, seed=1, dtype=torch.bfloat16)
    expected = recorded.search_neighbors(x.float(), y.float(), 9, 1, 2, None)
    assert torch.equal(recorded.search_neighbors(x, y, 9, 1, 2, None), expected)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(recorded.search_neighbors(x.float(), y.float(), 9, 1, 2, None), expected)


@pytest.mark.parametrize('name, made_with', [*((name, 2) for name in FAMILIES), ('gkgnet_ti_224', 1)])
def test_trace_takes_any_batch_of_its_size(name, made_with):
    model = create(name, **OF_FAMILY[name]).requires_grad_(False)
    traced = torch.jit.trace(model, images(made_with, 64), check_trace=False)
    assert 'gkgnet_timm::' not in str(traced.inlined_graph)
    for batch in (1, 2, 5):
        x = images(batch, 64, seed=batch)
        assert_close(traced(x), model(x))
    for height, width in ((96, 96), (32, 64), (64, 96), (32, 128)):  # the last one has as many nodes
        check_or_refuse(traced, model, images(made_with, height, width))


def test_traced_labels_take_another_batch_and_size():
    """Nothing of a label graph on a convolutional trunk is made for a size, but labels need patches to choose."""
    torch.manual_seed(0)
    options = dict(backbone='test_resnet', label_k=3, num_classes=5, dtype=torch.float64)
    model = timm.create_model('gkgnet_backbone', **options).eval().requires_grad_(False)
    traced = torch.jit.trace(model, images(1, 96), check_trace=False)
    for x in (images(2, 96), images(3, 128, 64), images(1, 160)):
        assert_close(traced(x), model(x))
    check_or_refuse(traced, model, images(1, 32))


@pytest.mark.parametrize('own', [(4, 4), (8, 8), (10, 10), (12, 20)])  # 4, 16, 25, 60 candidates
def test_trace_keeps_no_limit_of_its_size(own):
    """Neighbours and dilation give way where there are few candidates: then there are not the same ones elsewhere."""
    graph = Graph(None, k=9, dilation=3)
    traced = torch.jit.trace(graph, maps(2, *own), check_trace=False)
    for height, width in ((4, 4), (4, 6), (6, 6), (8, 8), (10, 10), (10, 12), (12, 20)):
        check_or_refuse(traced, graph, maps(3, height, width))
    assert_close(traced(maps(3, *own)), graph(maps(3, *own)))


def test_exported_program_takes_any_batch_or_refuses_it():
    model = create('vig_ti_224', depth=1, embed_dim=16, k=3).requires_grad_(False)
    sizes = ({0: torch.export.Dim('batch')},)
    program = torch.export.export(model, (images(2, 64),), dynamic_shapes=sizes, strict=False)
    assert 'gkgnet_timm' not in program.graph_module.code
    run = program.module()
    for batch in (1, 2, 5):
        x = images(batch, 64, seed=batch)
        assert_close(run(x), model(x))
    run_two = torch.export.export(model, (images(2, 64),), strict=False).module()
    assert_close(run_two(images(2, 64)), model(images(2, 64)))
    for other, shape in ((run, (2, 96, 96)), (run, (2, 32, 128)), (run_two, (1, 64, 64)), (run_two, (3, 64, 64))):
        with pytest.raises((AssertionError, RuntimeError, ValueError), match='(?i)guard|expected'):
            other(images(*shape))


@pytest.mark.parametrize('own', [(8, 12), (16, 8)])
def test_program_of_any_size(own):
    """Also of the size that the model has tables for, and of one side of it, and where dilation has to give way."""
    graph = Graph(own)
    sizes = {i: 2 * torch.export.Dim(name, min=2, max=64) for i, name in ((2, 'rows'), (3, 'columns'))}
    sizes[0] = torch.export.Dim('batch')
    run = torch.export.export(graph, (maps(2, 10, 14),), dynamic_shapes=(sizes,), strict=False).module()
    for height, width in (own, (own[0], 20), (20, own[1]), (10, 14), (6, 8), (24, 6)):
        for batch in (1, 3):
            check_graph(run, graph, maps(batch, height, width))


@pytest.mark.parametrize('dynamic_size', [False, True])
def test_loop_finds_what_one_product_does(tmp_path, monkeypatch, dynamic_size):
    """Where scores are many, or their number is not known. The position is that of the size that is run."""
    graph, example = Graph((8, 12)), maps(2, 10, 14) if dynamic_size else maps(2, 8, 12)
    monkeypatch.setattr(recorded, 'MOST_SCORES', 100)
    operators, run = to_onnx(graph, tmp_path / 'loop.onnx', example, dynamic_size)
    assert operators.count('Scan') == (1 if dynamic_size else 2)
    sizes = [(8, 12), (8, 16), (6, 12), (20, 18)] if dynamic_size else [(8, 12)]
    for height, width in sizes:
        for batch in (1, 2, 5):
            check_graph(run, graph, maps(batch, height, width, seed=batch))


@pytest.mark.parametrize('grid', [None, (4, 6)])
def test_the_lower_index_of_equal_scores_comes_first(tmp_path, monkeypatch, grid):
    """In the operator, a script, a trace, an exported program, a graph of ONNX and its loop."""
    graph = Graph(None, reduction=1, k=5, dilation=2)
    if grid:
        graph.position = Flat(*grid)
    x = maps(2, 4, 6).sign().float()  # of 4 channels a group: lengths and products are exact
    groups = to_nodes(x).unflatten(2, (2, 4)).transpose(1, 2)  # (B, N, C) -> (B, G, N, C/G)
    scores = groups @ groups.transpose(2, 3)
    expected = scores.sort(dim=-1, descending=True, stable=True)[1][..., :10:2]
    assert torch.equal(graph(x)[0], expected)
    assert torch.equal(torch.jit.trace(graph, x, check_trace=False)(x)[0], expected)
    assert torch.equal(torch.export.export(graph, (x,)).module()(x)[0], expected)
    with monkeypatch.context() as without_kernels:
        without_kernels.setattr(cpu, '_load_kernels', lambda: None)
        assert torch.equal(graph(x)[0], expected)
        script = torch.jit.script(eager.search_neighbors)
        assert torch.equal(script(to_nodes(x), to_nodes(x), 5, 2, 2, None), expected)
    for most in (recorded.MOST_SCORES, 10):
        monkeypatch.setattr(recorded, 'MOST_SCORES', most)
        operators, run = to_onnx(graph, tmp_path / f'{most}.onnx', x)
        assert operators.count('Scan') == (0 if most > 10 else 2 if grid else 1)
        assert torch.equal(run(x)[0], expected)


def test_labels_of_any_size(tmp_path):
    """The search without position has no loop. Fewer candidates than it looks at are refused, or it finds fewer."""
    graph = Graph(None, k=9, dilation=3)
    operators, run = to_onnx(graph, tmp_path / 'labels.onnx', maps(2, 10, 14), dynamic_size=True)
    for height, width in ((4, 4), (4, 6), (6, 6), (8, 8), (10, 10), (12, 20)):  # 4 to 60 candidates
        check_or_refuse(lambda x: tuple(run(x)), graph, maps(1, height, width))
    for batch in (1, 3):
        check_graph(run, graph, maps(batch, 12, 20))
