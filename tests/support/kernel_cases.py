"""The GPU kernels against the eager functions, on a GPU or, by Triton's interpreter, on the CPU.

Triton decides at its import whether it interprets, so `test_kernels.py` runs this file in processes of their own.
"""

import copy
import functools
import os

import numpy as np
import pytest
import tiny
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter
from tiny import Recorder

from gkgnet_timm.graph import eager, gpu, gpu_search, interleave_max_relative, knn_neighbors, operators
from gkgnet_timm.graph import gpu_kernels as kernels
from gkgnet_timm.graph.dense import dense_max_relative, dense_neighbors
from gkgnet_timm.layers.block import Block
from gkgnet_timm.layers.position import relative_position_tables

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cpu' if INTERPRETED else 'cuda'
HALF = [torch.float16, torch.bfloat16]

if INTERPRETED:  # as the graph package does for 'cuda', this process alone
    operators.knn_neighbors.register_kernel('cpu', gpu.search)
    operators.interleave_max_relative.register_kernel('cpu', gpu.aggregate)
    operators.scatter_to_winners.register_kernel('cpu', gpu.scatter)


def nodes(*shape, **kwargs):
    return tiny.nodes(*shape, **kwargs).to(DEVICE)


class Builder(interpreter.InterpreterBuilder):
    """The interpreter keeps bfloat16 as 16 bits: it multiplies those as integers, and cuts numbers off to them.

    A GPU multiplies the numbers, and rounds to the nearest.
    """

    def create_dot(self, a, b, *args):
        return super().create_dot(*(self._widen(handle) for handle in (a, b)), *args)

    def _widen(self, handle):
        return self.create_fp_ext(handle, tl.float32) if handle.dtype.scalar == tl.bfloat16 else handle

    def create_fp_trunc(self, src, dst_type):
        if dst_type.scalar != tl.bfloat16:
            return self.cast_impl(src, dst_type)
        data = torch.from_numpy(np.array(src.data)).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(data, tl.bfloat16)


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Kernels on CPU tensors, and the names of those that ran."""
    names = []

    def note(name, launcher, *args):
        launcher(*args)
        names.append(name)

    for name in kernels.__all__:
        launcher = functools.partial(note, name, getattr(kernels, name))
        monkeypatch.setattr(kernels, name, launcher)
    if INTERPRETED:
        monkeypatch.setattr(interpreter.interpreter_builder, '__class__', Builder)
    monkeypatch.setattr(gpu, '_checked', True)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    yield names
    assert gpu._usable, 'a kernel failed'


TILES = {'many': gpu_search.search_tile(64, 512), 'few': gpu_search.search_tile(64, 1)}


@pytest.fixture(params=list(TILES))
def tile(request, monkeypatch):
    monkeypatch.setattr(gpu_search, 'search_tile', lambda queries, graphs: TILES[request.param])
    return TILES[request.param]


def tables(*args):
    return relative_position_tables(*args, device=torch.device(DEVICE))


def random_tables(rows, columns, candidates):
    return nodes(rows, candidates, seed=2).float(), nodes(columns, candidates, seed=3).float()


def assert_neighbors(neighbors, x, y, k, dilation, num_groups, position=None):
    """They are those of the oracle in float64, but for scores closer than 1e-5, which float32 may swap."""
    B, N, _ = x.shape
    M = y.shape[1]
    term = None
    if position is not None:
        term = (position[0][:, None] + position[1][None]).flatten(0, 1).double()  # (N, M)
    x, y = x.detach().double(), y.detach().double()
    expected = dense_neighbors(x, y, k, dilation, num_groups, None if term is None else -term)
    assert neighbors.shape == expected.shape and neighbors.dtype == torch.int64
    assert neighbors.min() >= 0 and neighbors.max() < M
    assert all(len(set(row)) == len(row) for row in neighbors.flatten(0, 2).tolist())
    x, y = (torch.nn.functional.normalize(t.unflatten(2, (num_groups, -1)).transpose(1, 2), dim=-1) for t in (x, y))
    scores = 2 * x @ y.transpose(-1, -2) + (0 if term is None else term)  # (B, G, N, M)
    torch.testing.assert_close(scores.gather(3, neighbors), scores.gather(3, expected), rtol=0, atol=1e-5)
    assert (neighbors == expected).double().mean() > 0.98  # near ties are rare


# --- search

SHAPES = [  # B, N, M, C, G, k, dilation
    (1, 1, 1, 20, 1, 9, 1),
    (2, 1, 30, 40, 2, 9, 3),
    (1, 5, 9, 24, 2, 9, 1),  # as many candidates as neighbours
    (2, 6, 27, 48, 4, 9, 3),
    (1, 6, 20, 40, 2, 9, 3),  # the dilation is shortened
    (1, 18, 70, 40, 2, 3, 1),  # a second tile of two queries
    (1, 18, 150, 80, 2, 9, 3),
    (1, 16, 128, 16, 1, 1, 1),  # whole tiles
    (1, 4, 300, 40, 1, 32, 1),  # as many as a kernel keeps
    (1, 4, 131, 40, 1, 16, 2),
]


@pytest.mark.parametrize('tile, with_position', [('many', True), ('few', False)], indirect=['tile'])
@pytest.mark.parametrize('B, N, M, C, G, k, dilation', SHAPES)
def test_search(B, N, M, C, G, k, dilation, with_position, tile, launched):
    x, y = nodes(B, N, C).float(), nodes(B, M, C, seed=1).float()
    rows = 2 if N % 2 == 0 else 1
    position = random_tables(rows, N // rows, M) if with_position else None
    neighbors = knn_neighbors(x, y, k, dilation, G, position)
    assert launched == ['launch_search']
    assert_neighbors(neighbors, x, y, k, dilation, G, position)


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
@pytest.mark.parametrize('channels', [10, 20, 24, 40, 48, 80, 100, 120, 192, 200, 240, 320, 384, 400, 512, 640])
def test_search_channels(channels, dtype, launched):
    x, y = nodes(1, 4, channels, dtype=dtype), nodes(1, 33, channels, seed=1, dtype=dtype)
    assert_neighbors(knn_neighbors(x, y, 4), x, y, 4, 1, 1)
    assert launched == ['launch_search']


@pytest.mark.parametrize('dtypes', [(d, d) for d in HALF] + [(torch.float32, torch.bfloat16)])
def test_search_of_half_precision_nodes_is_float32(dtypes, tile, launched):
    x, y = nodes(2, 20, 40, dtype=dtypes[0]), nodes(2, 150, 40, seed=1, dtype=dtypes[1])
    position = random_tables(4, 5, 150)
    with torch.autocast(DEVICE, torch.bfloat16):
        neighbors = knn_neighbors(x, y, 9, 2, 2, position)
    assert launched == ['launch_search']
    assert_neighbors(neighbors, x, y, 9, 2, 2, position)


def test_search_with_the_tables_of_a_stage():
    x, y = nodes(1, 64, 40).float(), nodes(1, 16, 40, seed=1).float()
    position = tables(8, 8, 40, 2)
    assert_neighbors(knn_neighbors(x, y, 5, 2, 2, position), x, y, 5, 2, 2, position)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_search_of_any_strides(dtype):
    x = nodes(2, 40, 12, dtype=dtype).transpose(1, 2)  # channels apart, as of a map of channels first
    y = nodes(2, 60, 80, seed=1, dtype=dtype)[:, ::2, ::2]
    assert_neighbors(knn_neighbors(x, y, 4, 2, 2), x, y, 4, 2, 2)
    x = nodes(1, 12, 40, dtype=dtype).expand(2, -1, -1)  # label nodes, the same for all images
    assert_neighbors(knn_neighbors(x, y, 4, 2, 2), x, y, 4, 2, 2)


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
def test_lower_index_of_equal_scores(dtype, tile):
    """Unit vectors of one axis each have scores of 2, 0 and -2 exactly."""
    axes = torch.eye(4, device=DEVICE)
    axis = torch.randint(4, (160,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    sign = torch.randint(2, (160, 1), generator=torch.Generator().manual_seed(1)).to(DEVICE) * 2 - 1
    x = torch.cat([axes, -axes, torch.zeros(1, 4, device=DEVICE)])[None].to(dtype)
    y = (axes[axis] * sign)[None].to(dtype)
    expected = (x.float() @ y.float().transpose(1, 2)).sort(dim=2, descending=True, stable=True).indices
    assert torch.equal(knn_neighbors(x, y, 11, 3)[:, 0], expected[:, :, :31:3])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('nearby', [3, 4, 9])
def test_search_where_one_lane_has_the_nearest(nearby, dtype, tile):
    """A lane keeps three: with more of the nearest in one, the kernel has to look again."""
    y = nodes(1, 10 * tile[1], 24, seed=1, dtype=dtype)
    x = nodes(1, 20, 24, dtype=dtype)
    y[0, 5 : nearby * tile[1] : tile[1]] = x[0, 3]
    y[0, 5 : nearby * tile[1] : tile[1], 0] += torch.arange(nearby, device=DEVICE).to(dtype) / 16
    found = knn_neighbors(x, y, 9)
    assert_neighbors(found, x, y, 9, 1, 1)
    assert set(range(5, nearby * tile[1], tile[1])) <= set(found[0, 0, 3].tolist())


@pytest.mark.parametrize('value', [0.0, 1e-30, 1e25, float('inf'), float('nan')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_search_of_extreme_nodes(value, dtype):
    """Whatever the scores, neighbours are candidates, none twice."""
    x, y = nodes(1, 6, 8, dtype=dtype), nodes(1, 40, 8, seed=1, dtype=dtype)
    x[0, 1] = y[0, 3] = y[0, 20:] = value
    x[0, 2], y[0, 7] = -x[0, 1], -y[0, 3]
    neighbors = knn_neighbors(x, y, 9, 3)
    assert neighbors.min() >= 0 and neighbors.max() < 40
    assert all(len(set(row)) == 9 for row in neighbors.flatten(0, 2).tolist())


def test_search_does_without_the_distances():
    x, y = nodes(1, 200, 8).float(), nodes(1, 400, 8, seed=1).float()
    out = torch.empty(1, 1, 200, 3, dtype=torch.int64, device=DEVICE)
    with Recorder() as recorder:
        kernels.launch_search(x, y, 1, random_tables(20, 10, 400), out)
    assert 0 < recorder.largest < 200 * 400


def test_searches_that_stay_eager(launched):
    x, y = nodes(1, 3, 8).float(), nodes(1, 60, 8, seed=1).float()
    assert_neighbors(knn_neighbors(x, y, 17, 2), x, y, 17, 2, 1)  # 33 nearest
    assert_neighbors(knn_neighbors(x.double(), y.double(), 5), x, y, 5, 1, 1)
    assert launched == []


# --- max-relative

AGGREGATIONS = [  # B, N, M, C, G, k
    (2, 30, 20, 40, 1, 9),
    (3, 12, 40, 20, 2, 5),
    (1, 7, 3, 80, 4, 3),
    (2, 5, 6, 12, 2, 1),
    (1, 1, 1, 8, 2, 1),
    (1, 3, 30, 320, 2, 27),
]


def aggregation(B, N, M, C, G, k, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    neighbors = torch.rand(B, G, N, M, generator=generator).argsort(-1)[..., :k].to(DEVICE)
    # few values, so that many neighbours are equal
    x, y = (nodes(B, n, C, seed=i).mul(2).round().to(dtype) for i, n in enumerate((N, M)))
    return x, y, neighbors


def weight_of(x):
    """A gradient of what is made of nodes x."""
    return nodes(*x.shape[:2], 2 * x.shape[2], seed=2).to(x.dtype)


def eager_aggregate(x, y, neighbors):
    return eager.interleave_max_relative(x, y, neighbors, y.requires_grad)[0]


@pytest.mark.parametrize('dtypes', [(d, d) for d in (torch.float32, *HALF)] + [(torch.bfloat16, torch.float32)])
@pytest.mark.parametrize('case', AGGREGATIONS)
def test_max_relative_bit_for_bit(case, dtypes, launched):
    x, y, neighbors = aggregation(*case)
    x, y = (x + nodes(*x.shape, seed=4).float()).to(dtypes[0]), y.to(dtypes[1])
    out = interleave_max_relative(x, y, neighbors)
    expected = eager_aggregate(x, y, neighbors)
    assert launched == ['launch_max_relative']
    assert out.dtype == expected.dtype and torch.equal(out, expected)
    assert torch.equal(out[..., 1::2], dense_max_relative(x, y, neighbors))


@pytest.mark.parametrize('case', AGGREGATIONS)
def test_first_winner_among_equals(case):
    x, y, neighbors = aggregation(*case)
    _, winner = operators.interleave_max_relative(x, y, neighbors, True)
    assert winner.dtype == torch.int32 and winner.shape == x.shape
    assert torch.equal(winner, eager.gather_max(y, neighbors, True)[1])
    assert operators.interleave_max_relative(x, y, neighbors, False)[1].numel() == 0


@pytest.mark.parametrize('wanted', [('x', 'y'), ('x',), ('y',)])
@pytest.mark.parametrize('case', AGGREGATIONS)
def test_max_relative_gradients(case, wanted, launched):
    x, y, neighbors = aggregation(*case)
    weight = weight_of(x)
    results = []
    for operation in (interleave_max_relative, eager_aggregate):
        inputs = {'x': x.clone(), 'y': y.clone()}
        leaves = [inputs[name].requires_grad_() for name in wanted]
        results.append(torch.autograd.grad(operation(inputs['x'], inputs['y'], neighbors), leaves, weight))
    assert launched == ['launch_max_relative'] + ['launch_scatter_add'] * ('y' in wanted)
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)  # sums in another order


@pytest.mark.parametrize('dtype', HALF)
def test_gradients_of_half_precision_nodes_are_summed_in_float32(dtype):
    x, y, neighbors = aggregation(1, 60, 5, 16, 2, 3, dtype)
    weight = weight_of(x)
    grad = torch.autograd.grad(interleave_max_relative(x, y.requires_grad_(), neighbors), y, weight)[0]
    wide = y.detach().float().requires_grad_()
    expected = torch.autograd.grad(eager_aggregate(x.float(), wide, neighbors), wide, weight.float())[0]
    assert grad.dtype == dtype
    torch.testing.assert_close(grad, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_gradient_of_one_tensor_in_both_roles_and_other_strides():
    x = nodes(2, 40, 30).float().transpose(1, 2)  # (2, 30, 40)
    neighbors = torch.randint(30, (2, 2, 30, 4), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    weight = nodes(2, 80, 60, seed=2).float().transpose(1, 2)[:, ::2]
    gradients = []
    for operation in (interleave_max_relative, eager_aggregate):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        gradients.append(torch.autograd.grad(operation(leaf, leaf, neighbors), leaf, weight)[0])
    assert x.stride(1) == 1
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=2e-6)


def test_deterministic_gradients_are_not_added_atomically(launched):
    x, y, neighbors = aggregation(2, 30, 20, 40, 2, 9)
    weight = weight_of(x)
    y.requires_grad_()
    atomic = torch.autograd.grad(interleave_max_relative(x, y, neighbors), y, weight)[0]
    assert launched.pop() == 'launch_scatter_add'
    torch.use_deterministic_algorithms(True)
    try:
        ordered = torch.autograd.grad(interleave_max_relative(x, y, neighbors), y, weight)[0]
    finally:
        torch.use_deterministic_algorithms(False)
    assert launched == ['launch_max_relative'] * 2
    torch.testing.assert_close(ordered, atomic, rtol=0, atol=2e-6)


def test_max_relative_spreads_nan():
    x, y, neighbors = aggregation(1, 4, 6, 8, 2, 3)
    y[0, 2, 5] = float('nan')
    neighbors[0, 1, 1] = torch.tensor([0, 2, 3], device=DEVICE)
    neighbors[0, 1, 2] = torch.tensor([0, 1, 3], device=DEVICE)
    for keep_winner in (True, False):
        out, winner = operators.interleave_max_relative(x, y, neighbors, keep_winner)
        assert out[0, 1, 11].isnan() and not out[0, 2].isnan().any()
        assert not keep_winner or winner[0, 1, 5] == 2


def test_float64_stays_eager(launched):
    x, y, neighbors = (t.double() if t.is_floating_point() else t for t in aggregation(1, 4, 6, 8, 2, 3))
    interleave_max_relative(x, y.requires_grad_(), neighbors).sum().backward()
    assert launched == []


# --- as operators


def test_compiled_block(launched, monkeypatch):
    """torch.compile takes the operators into one graph, with their gradients."""
    monkeypatch.setattr('gkgnet_timm.layers.conv.FEW_NODES', 0)  # a compiled model has convolutions
    torch.manual_seed(0)
    block = Block(16, 4, 2, 2, device=DEVICE).eval()
    position = tables(4, 4, 16, 1)
    x = nodes(2, 16, 4, 4).float().requires_grad_()
    with torch.no_grad():
        compiled = torch.compile(block, backend='eager', fullgraph=True)
        assert torch.equal(compiled(x, x, position)[0], block(x, x, position)[0])
    results = []
    for module in (torch.compile(block, backend='aot_eager', fullgraph=True), block):
        out, neighbors = module(x, x, position)
        results.append((neighbors, out.detach(), *torch.autograd.grad(out.square().sum(), (x, *block.parameters()))))
    assert launched[-6:] == ['launch_search', 'launch_max_relative', 'launch_scatter_add'] * 2
    assert torch.equal(results[0][0], results[1][0])
    for actual, expected in zip(results[0][1:], results[1][1:]):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_exported_block_needs_no_kernel(launched):
    block = Block(16, 4, 2, 2, device=DEVICE).eval()
    position = tables(4, 4, 16, 1)
    x = nodes(2, 16, 4, 4).float()
    program = torch.export.export(block, (x, x, position))
    assert 'gkgnet_timm' not in program.graph_module.code
    with torch.no_grad():
        out = program.module()(x, x, position)[0]
        assert launched == []
        torch.testing.assert_close(out, block(x, x, position)[0])
    assert launched == ['launch_search', 'launch_max_relative']


def test_trains_like_the_eager_model(launched):
    model = tiny.create(dtype=torch.float32, num_classes=3).to(DEVICE).train()
    plain = copy.deepcopy(model)
    x = tiny.images(2, 32).float().to(DEVICE)
    out = model(x)
    out.square().sum().backward()
    blocks = sum(isinstance(module, Block) for module in model.modules())
    assert sorted(launched) == sorted(kernels.__all__ * blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, '_usable', False)
        expected = plain(x)
        expected.square().sum().backward()
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-3 * scale + 5e-5)


@pytest.mark.parametrize('wrong', [None, 'launch_search', 'launch_max_relative'])
def test_kernels_are_checked_before_they_are_used(monkeypatch, caplog, wrong):
    monkeypatch.setattr(gpu, '_checked', False)
    if wrong:
        position = -1 if wrong == 'launch_search' else -2  # of the output among the arguments
        monkeypatch.setattr(kernels, wrong, lambda *args: args[position].zero_())
    x, y = nodes(1, 12, 16).float(), nodes(1, 30, 16, seed=1).float()
    found = knn_neighbors(x, y, 5, 1, 2)
    assert torch.equal(found, eager.search_neighbors(x, y, 5, 1, 2, None))
    assert gpu._usable == (wrong is None) and len(caplog.records) == (wrong is not None)
    if wrong:
        assert 'than the eager one' in caplog.text
        gpu._usable = True
