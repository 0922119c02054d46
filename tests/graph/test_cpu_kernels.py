"""The selection of neighbours and their aggregation, by the compiled kernels and by PyTorch."""

import shutil

import pytest
import torch

from gkgnet_timm.graph import cpu, eager, interleave_max_relative, knn_neighbors, operators
from gkgnet_timm.graph.cpu import MOST
from gkgnet_timm.graph.selection import select, select_by_topk, select_largest


@pytest.fixture
def compiler(monkeypatch):
    """Sets which compiler is there, for kernels that were not loaded yet."""

    def set_compiler(name):
        monkeypatch.setenv('CC', name)
        cpu._load_kernels.cache_clear()

    yield set_compiler
    cpu._load_kernels.cache_clear()


@pytest.fixture
def no_kernels(monkeypatch):
    """Fails a test in which a kernel runs."""

    class NoKernels:
        def __getattr__(self, name):
            raise AssertionError('not for the kernel')

    monkeypatch.setattr(cpu, '_load_kernels', NoKernels)


def random_scores(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(not shutil.which('gcc'), reason='there is no compiler that is known to have OpenMP')
def test_kernels_are_compiled(compiler, caplog):
    compiler('gcc')
    assert cpu._load_kernels() is not None and not caplog.records


@pytest.mark.parametrize('count', [1, 2, 9, 17, 25, 32, 33, 52, 69, MOST])
@pytest.mark.parametrize('size', [1, 9, 49, 63, 64, 65, 127, 144, 324, 1296, 4096, 4100, 8191])
def test_largest_are_those_of_topk(size, count):
    scores = random_scores(3, 50, size).argsort(-1).float()  # without equal ones, which come in any order
    count = min(count, size)
    expected = scores.topk(count, dim=-1)[1]
    assert torch.equal(select_largest(scores, count), expected)
    assert torch.equal(select_by_topk(scores, count), expected)


@pytest.mark.parametrize('order', ['ascending', 'descending', 'in one part', 'in one block'])
@pytest.mark.parametrize('count, parts', [(25, 64), (69, 128), (MOST, 128)])
def test_order_of_scores_does_not_matter(order, count, parts):
    scores = random_scores(4, 128 * 150).sort(dim=-1, descending=order != 'ascending')[0]
    if order == 'in one part':  # every 64th or 128th
        scores = scores.view(4, parts, -1).transpose(1, 2).flatten(1)
    if order == 'in one block':
        scores = scores.roll(-500, dims=-1)
    assert torch.equal(select_largest(scores, count), scores.topk(count, dim=-1)[1])


@pytest.mark.parametrize('values', [1, 3, 40])
@pytest.mark.parametrize('size, count', [(30, 9), (700, 9), (700, 69), (700, MOST), (20000, 25)])
def test_the_lower_index_of_equal_scores_comes_first(values, size, count):
    scores = torch.randint(values, (20, size), generator=torch.Generator().manual_seed(0)) - 1.0
    scores[::2] *= -1
    scores[0, ::3] = 0.0  # beside -0.0, which equals it
    expected = scores.sort(dim=-1, descending=True, stable=True)[1][:, :count]
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(select_largest(scores.to(dtype), count), expected)
        assert torch.equal(select_by_topk(scores.to(dtype), count), expected)


@pytest.mark.parametrize('value', [float('-inf'), float('inf'), float('nan')])
@pytest.mark.parametrize('size, count', [(20, 9), (700, 9), (196, 69)])
def test_indices_are_valid_whatever_the_scores(value, size, count):
    scores = random_scores(3, size)
    scores[1] = value
    scores[2, ::2] = value
    index = select_largest(scores, count)
    assert index.min() >= 0 and index.max() < size
    assert torch.equal(index[0], scores[0].topk(count)[1])
    if value != value and cpu._load_kernels():
        assert torch.equal(index[2], scores[2].nan_to_num(float('-inf')).topk(count)[1])


def test_rows_with_gaps_between():
    scores = random_scores(4, 60, 200)[::2, 10:50]
    assert torch.equal(select_largest(scores, 9), scores.topk(9, dim=-1)[1])


def test_the_operator_takes_what_the_kernel_does_not():
    scores = random_scores(2, 200)
    for dtype, count in ((torch.float64, 9), (torch.float32, MOST + 1)):
        assert torch.equal(select_largest(scores.to(dtype), count), scores.to(dtype).topk(count)[1])
    with pytest.raises(RuntimeError, match='out of range'):
        select_largest(scores, 201)
    with pytest.raises(RuntimeError, match='out of range'):
        select_largest(scores[:, :4], 9)


def test_no_rows():
    assert select_largest(torch.empty(2, 0, 30), 9).shape == (2, 0, 9)


def test_what_the_kernel_is_not_for(no_kernels):
    scores = random_scores(2, 200)
    for dtype, count in ((torch.float64, 9), (torch.float32, MOST + 1)):
        assert torch.equal(select(scores.to(dtype), count), scores.to(dtype).topk(count)[1])
    with pytest.raises(AssertionError, match='not for the kernel'):
        select(scores, 9)
    with select_largest.set_kernel_enabled('cpu', False):
        assert torch.equal(select(scores, 9), scores.topk(9)[1])


KERNEL_DTYPES = [torch.float32, torch.bfloat16]


def aggregation(B=2, N=30, M=50, C=16, G=2, k=5, dtype=torch.float32):
    neighbors = torch.randint(M, (B, G, N, k), generator=torch.Generator().manual_seed(2))
    return random_scores(B, N, C).to(dtype), random_scores(B, M, C, seed=1).to(dtype), neighbors


def assert_aggregates(x, y, neighbors):
    """The operator gives the numbers, the winners and the shapes of plain PyTorch."""
    for keep_winner in (False, True):
        expected = eager.interleave_max_relative(x, y, neighbors, keep_winner)
        for actual, wanted in zip(operators.interleave_max_relative(x, y, neighbors, keep_winner), expected):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    'shape',
    [(1, 1, 1, 1, 1, 1), (2, 30, 50, 16, 2, 9), (3, 7, 20, 130, 2, 4), (1, 9, 12, 400, 4, 27), (2, 0, 5, 8, 1, 2)],
)
@pytest.mark.parametrize('dtype', KERNEL_DTYPES)
def test_aggregation_bit_for_bit(shape, dtype):
    x, y, neighbors = aggregation(*shape, dtype=dtype)
    assert_aggregates(x, y, neighbors)
    assert_aggregates(x.round(), y.round(), neighbors)  # many are equal
    assert torch.equal(
        interleave_max_relative(x, y, neighbors), eager.interleave_max_relative(x, y, neighbors, False)[0]
    )


def test_aggregation_of_tensors_with_gaps_between():
    x, y, neighbors = aggregation(4, 60, 40, 32, 2, 6)
    x, y, neighbors = x[::2, 10:40, 8:24], y[1::2, :, ::2], neighbors[::2, :, 10:40]
    for near in (neighbors, neighbors[..., ::2], neighbors.int()):
        assert_aggregates(x, y, near)


@pytest.mark.parametrize('value', [float('-inf'), float('inf'), float('nan'), 3e38])
@pytest.mark.parametrize('dtype', KERNEL_DTYPES)
def test_aggregation_of_special_values(value, dtype):
    x, y, neighbors = aggregation(dtype=dtype)
    x[:, 3] = -3e38
    y[:, ::3] = value
    y[:, 0] = float('nan')
    assert_aggregates(x, y, neighbors)


@pytest.mark.skipif(not cpu._load_kernels(), reason='there is no compiler')
def test_aggregation_checks_its_arguments():
    x, y, neighbors = aggregation()
    for wrong in (-1, 50, 1 << 40):
        bad = neighbors.clone()
        bad[1, 1, 4, 2] = wrong
        with pytest.raises(IndexError, match='1 neighbors are not in the range of the 50 candidates'):
            interleave_max_relative(x, y, bad)
    for near in (neighbors[:, :, 1:], neighbors[:, :0], neighbors[..., :0], neighbors.float()):
        with pytest.raises(ValueError, match='Expected x'):
            interleave_max_relative(x, y, near)
    for args in ((x[:1], y, neighbors), (x, y[..., :8], neighbors)):
        with pytest.raises(ValueError, match='Expected x'):
            interleave_max_relative(*args)
    with pytest.raises(ValueError, match='Expected x'):  # 16 channels are not 3 groups
        interleave_max_relative(x, y, neighbors[:, [0, 1, 1]])
    with pytest.raises(IndexError, match='0 candidates'):
        interleave_max_relative(x, y[:, :0], neighbors)


@pytest.mark.parametrize('keep_winner', [False, True])
def test_what_the_aggregation_is_not_for(no_kernels, keep_winner):
    x, y, neighbors = aggregation()
    for dtypes in ((torch.float64, torch.float64), (torch.float32, torch.bfloat16), (torch.float16, torch.float16)):
        assert_aggregates(x.to(dtypes[0]), y.to(dtypes[1]), neighbors)
    with pytest.raises(AssertionError, match='not for the kernel'):
        interleave_max_relative(x, y.requires_grad_(keep_winner), neighbors)


@pytest.mark.parametrize('shape', [(2, 30, 7, 16), (1, 1, 1, 1), (3, 50, 9, 130), (2, 0, 4, 8), (0, 3, 4, 8)])
@pytest.mark.parametrize('dtype', [*KERNEL_DTYPES, torch.float64])
def test_gradients_go_to_winners_bit_for_bit(shape, dtype):
    B, N, M, C = shape
    grad = random_scores(B, N, 2 * C).to(dtype)
    winner = torch.randint(M, (B, N, C), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    for part in (*grad.unflatten(2, (C, 2)).unbind(3), grad[..., :C]):
        expected = eager.scatter_to_winners(part, winner, M)
        actual = operators.scatter_to_winners(part, winner, M)
        assert actual.dtype == expected.dtype and torch.equal(actual, expected)


@pytest.mark.skipif(not cpu._load_kernels(), reason='there is no compiler')
def test_winners_are_candidates():
    grad, winner = random_scores(2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.int32)
    winner[1, 2, 3] = 5
    with pytest.raises(IndexError, match='1 winners are not in the range of the 5 candidates'):
        operators.scatter_to_winners(grad, winner, 5)
    with pytest.raises(ValueError, match='Expected grad and winner'):
        operators.scatter_to_winners(grad, winner[:1], 5)


def test_without_a_compiler(compiler, monkeypatch, caplog):
    compiler('')
    monkeypatch.setenv('PATH', '')
    scores, nodes = random_scores(2, 200), aggregation()
    assert torch.equal(select(scores, 9), scores.topk(9)[1])
    assert_aggregates(*nodes)
    assert cpu._load_kernels() is None and not caplog.records


@pytest.mark.parametrize('name', ['false', 'no-such-compiler', 'true', 'cc "', 'cc -Dselect_largest=other'])
def test_a_compiler_that_fails_is_one_warning(compiler, caplog, name):
    """One that stops, is missing, makes no file, can not be read, or makes another function."""
    compiler(name)
    scores = random_scores(2, 200)
    for _ in range(3):
        assert torch.equal(select(scores, 9), scores.topk(9)[1])
    assert len(caplog.records) == 1 and 'CPU kernels are not used' in caplog.text


class Search(torch.nn.Module):
    def forward(self, x, y):
        return interleave_max_relative(x, y, knn_neighbors(x, y, 5, 2, 2))


def test_compiled_search():
    """Search and aggregation are one operator of a graph each, here and with shapes only."""
    x, y = random_scores(2, 40, 16), random_scores(2, 70, 16, seed=1)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(Search(), backend=keep, fullgraph=True)
    assert torch.equal(compiled(x, y), Search()(x, y))
    assert 'gkgnet_timm.knn_neighbors' in graphs[0].code
    assert 'gkgnet_timm.interleave_max_relative' in graphs[0].code
    torch.library.opcheck(select_largest, (x, 5))
    torch.library.opcheck(operators.interleave_max_relative, (x, y, knn_neighbors(x, y, 5, 2, 2), False))


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning', 'ignore::torch.jit.TracerWarning')
def test_traced_and_exported_search_needs_no_operator_of_ours():
    x, y = random_scores(2, 40, 16), random_scores(2, 70, 16, seed=1)
    traced = torch.jit.trace(Search(), (x, y))
    assert 'gkgnet_timm::' not in str(traced.inlined_graph) and torch.equal(traced(y, x), Search()(y, x))
    program = torch.export.export(Search(), (x, y))
    assert 'gkgnet_timm' not in program.graph_module.code and torch.equal(program.module()(x, y), Search()(x, y))
