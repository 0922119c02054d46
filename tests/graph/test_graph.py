"""The graph operations against their dense versions, and what they hold in memory."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from tiny import Recorder, nodes

from gkgnet_timm.graph import eager, functional, knn_neighbors
from gkgnet_timm.graph.dense import dense_max_relative, dense_neighbors, relative_position_matrix
from gkgnet_timm.graph.eager import interleave, limit_neighbors
from gkgnet_timm.graph.layout import chunk_ranges
from gkgnet_timm.layers.position import relative_position_tables, resample_pos_embed


def max_relative(x, y, neighbors):
    return functional.interleave_max_relative(x, y, neighbors)[..., 1::2]


def position_of(height, width, dim, reduction, dtype=torch.float64):
    """The position term as tables and as a matrix."""
    tables = relative_position_tables(height, width, dim, reduction, dtype=dtype)
    return tables, relative_position_matrix(height, width, dim, reduction)


@pytest.mark.parametrize('reduction', [1, 2, 4])
@pytest.mark.parametrize('height, width', [(8, 8), (28, 28), (8, 12), (24, 4)])
@pytest.mark.parametrize('dim', [8, 48, 80])
def test_tables_are_the_separated_matrix(height, width, dim, reduction):
    (row_table, col_table), matrix = position_of(height, width, dim, reduction)
    candidates = height * width // reduction**2
    assert row_table.shape == (height, candidates)
    assert col_table.shape == (width, candidates)
    term = row_table[:, None] + col_table[None]  # (H, W, M)
    torch.testing.assert_close(term.flatten(0, 1), -matrix, rtol=0, atol=1e-12)


def test_position_term_of_a_node_with_itself():
    """A row of E is C / 2 pairs of sine and cosine, so that the diagonal of 2 / C * E E^T is 1."""
    row_table, col_table = relative_position_tables(6, 10, 16, 1, dtype=torch.float64)
    term = (row_table[:, None] + col_table[None]).flatten(0, 1)
    torch.testing.assert_close(term.diagonal(), torch.ones(60, dtype=torch.float64), rtol=0, atol=1e-12)


def test_tables_are_computed_in_float64():
    exact = relative_position_tables(56, 40, 80, 2, dtype=torch.float64)
    for table, wide in zip(relative_position_tables(56, 40, 80, 2), exact):
        assert table.dtype == torch.float32
        assert torch.equal(table, wide.float())


def test_tables_never_hold_the_matrix():
    with Recorder() as recorder:
        row_table, _ = relative_position_tables(144, 144, 80, 4)  # of the first stage at 576 px
    candidates = row_table.shape[1]
    assert recorder.largest * 10 < 144 * 144 * candidates * 8


def test_tables_ignore_the_default_device():
    """Models are built under `with torch.device('meta')`, where nothing can be computed."""
    with torch.device('meta'):
        row_table, _ = relative_position_tables(4, 4, 8, 1, device=torch.device('cpu'))
    assert torch.equal(row_table, relative_position_tables(4, 4, 8, 1)[0])


def test_resampled_pos_embed_keeps_its_type_and_size():
    embed = nodes(1, 3, 4, 6)
    assert resample_pos_embed(embed, 4, 6) is embed
    small = resample_pos_embed(embed.to(torch.bfloat16), 8, 3)
    assert small.shape == (1, 3, 8, 3)
    assert small.dtype == torch.bfloat16
    constant = resample_pos_embed(torch.full((1, 2, 4, 4), 3.0, dtype=torch.float64), 7, 9)
    torch.testing.assert_close(constant, torch.full_like(constant, 3.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize('k, dilation', list(itertools.product([1, 2, 3, 9], [1, 2, 3, 5])))
def test_limit_neighbors(k, dilation):
    for candidates in range(1, 60):
        kept, spread = limit_neighbors(k, dilation, candidates)
        assert kept == min(k, candidates)
        assert 1 <= spread <= dilation
        assert kept * spread <= candidates
        # the dilation is shortened no more than it has to be
        assert spread == dilation or kept * (spread + 1) > candidates


def nearest_by_definition(x, y, k, dilation, num_groups, position=None):
    """Neighbours from distances between unit vectors, one query and group at a time."""
    B, N, _ = x.shape
    result = torch.empty(B, num_groups, N, k, dtype=torch.int64)
    for b, g, i in itertools.product(range(B), range(num_groups), range(N)):
        query = F.normalize(x[b, i].chunk(num_groups)[g], dim=0)
        candidates = F.normalize(y[b].chunk(num_groups, dim=1)[g], dim=1)
        distance = (candidates - query).square().sum(1)
        if position is not None:
            distance = distance + position[i]
        result[b, g, i] = distance.argsort()[: k * dilation : dilation]
    return result


@pytest.mark.parametrize('search', ['chunked', 'dense'])
@pytest.mark.parametrize('num_groups', [1, 2, 4])
@pytest.mark.parametrize('dilation', [1, 3])
def test_search_by_definition(search, num_groups, dilation):
    x, y = nodes(2, 24, 16), nodes(2, 24, 16, seed=1)
    tables, matrix = position_of(4, 6, 16, 1)
    if search == 'chunked':
        neighbors = knn_neighbors(x, y, 4, dilation, num_groups, tables)
    else:
        neighbors = dense_neighbors(x, y, 4, dilation, num_groups, matrix)
    assert torch.equal(neighbors, nearest_by_definition(x, y, 4, dilation, num_groups, matrix))


@pytest.mark.parametrize('with_position', [True, False])
@pytest.mark.parametrize('dilation', [1, 2, 3])
@pytest.mark.parametrize('num_groups', [1, 2, 4])
@pytest.mark.parametrize('height, width, reduction', [(16, 16, 4), (8, 12, 2), (6, 5, 1)])
def test_neighbors_are_those_of_the_dense_search(height, width, reduction, num_groups, dilation, with_position):
    x = nodes(3, height * width, 16)
    y = nodes(3, height * width // reduction**2, 16, seed=1)
    tables, matrix = position_of(height, width, 16, reduction) if with_position else (None, None)
    neighbors = knn_neighbors(x, y, 5, dilation, num_groups, tables)
    assert torch.equal(neighbors, dense_neighbors(x, y, 5, dilation, num_groups, matrix))


@pytest.mark.parametrize('dilation', [1, 3])
@pytest.mark.parametrize('batch_size, side, reduction', [(1, 48, 2), (3, 24, 1)])
def test_float32_neighbors_are_those_of_the_dense_search(batch_size, side, reduction, dilation):
    """By the kernel of the CPU. Near-ties may be sorted otherwise."""
    x = nodes(batch_size, side**2, 16, dtype=torch.float32)
    y = nodes(batch_size, side**2 // reduction**2, 16, seed=1, dtype=torch.float32)
    tables, matrix = position_of(side, side, 16, reduction, torch.float32)
    found = knn_neighbors(x, y, 9, dilation, 2, tables)
    assert (found == dense_neighbors(x, y, 9, dilation, 2, matrix)).float().mean() > 0.999


def test_position_takes_part_in_the_search():
    x = nodes(1, 36, 16)
    tables, _ = position_of(6, 6, 16, 1)
    assert not torch.equal(knn_neighbors(x, x, 4, position=tables), knn_neighbors(x, x, 4))


@pytest.mark.parametrize('budget', [1 << 20, 1 << 26])
@pytest.mark.parametrize('batch_size, rows, row_size', [(1, 1, 1), (7, 30, 9000), (3, 144, 46080), (2, 3, 1 << 27)])
def test_chunk_ranges(batch_size, rows, row_size, budget):
    covered = torch.zeros(batch_size, rows)
    for first, last, start, stop in chunk_ranges(batch_size, rows, row_size, budget):
        covered[first:last, start:stop] += 1
        assert last == first + 1 or (start, stop) == (0, rows), 'whole grids or rows of one'
        assert (last - first) * (stop - start) * row_size <= budget or (last - first, stop - start) == (1, 1)
    assert (covered == 1).all()


@pytest.mark.parametrize('height, width', [(122, 40), (53, 40)])
def test_chunks_of_grid_rows(height, width):
    reduction = 2 if height % 2 == 0 else 1
    x = nodes(1, height * width, 16)
    y = nodes(1, height * width // reduction**2, 16, seed=1)
    tables, matrix = position_of(height, width, 16, reduction)
    with Recorder() as recorder:
        neighbors = eager.search_neighbors(x, y, 9, 2, 4, tables)
    rows = [shape[1] for shape in recorder.selected_shapes]
    assert len(rows) > 3 and rows[-1] < rows[0], 'the case has to have many chunks and a shorter last one'
    assert torch.equal(neighbors, dense_neighbors(x, y, 9, 2, num_groups=4, position=matrix))


def test_chunks_of_queries_without_a_grid():
    x, y = nodes(2, 5999, 16), nodes(2, 400, 16, seed=1)
    with Recorder() as recorder:
        neighbors = eager.search_neighbors(x, y, 9, 3, 2, None)
    rows = [shape[1] for shape in recorder.selected_shapes]
    assert len(rows) > 2 and rows[-1] < rows[0], 'the case has to have many chunks and a shorter last one'
    assert torch.equal(neighbors, dense_neighbors(x, y, 9, 3, num_groups=2))


def test_one_grid_row_may_be_more_than_a_chunk():
    x = nodes(1, 4 * 600, 8)
    tables, matrix = position_of(4, 600, 8, 1)
    with Recorder() as recorder:
        neighbors = eager.search_neighbors(x, x, 3, 1, 1, tables)
    assert [shape[1] for shape in recorder.selected_shapes] == [600] * 4
    assert torch.equal(neighbors, dense_neighbors(x, x, 3, position=matrix))


@pytest.mark.parametrize(
    'queries, candidates, k, dilation, kept',
    [
        (1, 1, 9, 1, 1),
        (1, 30, 9, 3, 9),
        (7, 5, 9, 1, 5),  # fewer candidates than neighbours
        (7, 5, 9, 3, 5),
        (7, 20, 9, 3, 9),  # enough for the neighbours, not for the dilation
        (7, 26, 9, 3, 9),
    ],
)
def test_few_candidates(queries, candidates, k, dilation, kept):
    x, y = nodes(2, queries, 8), nodes(2, candidates, 8, seed=1)
    neighbors = knn_neighbors(x, y, k, dilation, num_groups=2)
    assert neighbors.shape == (2, 2, queries, kept)
    assert torch.equal(neighbors, dense_neighbors(x, y, k, dilation, num_groups=2))
    shortened = min(dilation, candidates // kept)
    assert torch.equal(neighbors, nearest_by_definition(x, y, kept, shortened, 2))


def test_groups_are_contiguous_channels():
    x, y = nodes(2, 10, 12), nodes(2, 15, 12, seed=1)
    neighbors = knn_neighbors(x, y, 4, num_groups=3)
    for group in range(3):
        channels = slice(4 * group, 4 * group + 4)
        assert torch.equal(neighbors[:, group : group + 1], knn_neighbors(x[..., channels], y[..., channels], 4))


def test_search_ignores_the_length_of_nodes():
    x, y = nodes(1, 20, 8), nodes(1, 30, 8, seed=1)
    lengths = torch.rand(1, 30, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.1
    assert torch.equal(knn_neighbors(3 * x, lengths * y, 5), knn_neighbors(x, y, 5))


def test_search_takes_zero_nodes():
    """An untrained map can be all zero; every candidate is as near as any other then."""
    neighbors = knn_neighbors(torch.zeros(1, 4, 8), torch.zeros(1, 6, 8), 3)
    assert all(len(set(row.tolist())) == 3 for row in neighbors.flatten(0, 2))


def test_search_keeps_nothing_for_a_backward_pass():
    x, y = (nodes(1, 12, 8, seed=seed).requires_grad_() for seed in (0, 1))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape), lambda _: None):
        neighbors = knn_neighbors(x, y, 3, position=position_of(3, 4, 8, 1)[0])
    assert not neighbors.dtype.is_floating_point
    assert saved == []


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('with_position', [True, False])
def test_search_of_half_precision_nodes_is_float32(dtype, with_position):
    x, y = nodes(1, 400, 16, dtype=dtype), nodes(1, 400, 16, seed=1, dtype=dtype)
    tables = position_of(20, 20, 16, 1, torch.float32)[0] if with_position else None
    neighbors = knn_neighbors(x, y, 9, 2, 2, tables)
    assert torch.equal(neighbors, knn_neighbors(x.float(), y.float(), 9, 2, 2, tables))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('with_position', [True, False])
def test_search_under_autocast_is_float32(dtype, with_position):
    x, y = nodes(1, 400, 16, dtype=dtype), nodes(1, 400, 16, seed=1, dtype=dtype)
    tables = position_of(20, 20, 16, 1, torch.float32)[0] if with_position else None
    with torch.autocast('cpu', torch.bfloat16):
        neighbors = knn_neighbors(x, y, 9, 2, 2, tables)
    assert torch.equal(neighbors, knn_neighbors(x.float(), y.float(), 9, 2, 2, tables))


def test_dense_search_under_autocast_is_float32():
    x, y = nodes(1, 400, 16, dtype=torch.float32), nodes(1, 400, 16, seed=1, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        neighbors = dense_neighbors(x, y, 9, num_groups=2)
    assert torch.equal(neighbors, dense_neighbors(x, y, 9, num_groups=2))


@pytest.mark.parametrize('with_position', [True, False])
def test_search_never_holds_all_distances(with_position):
    """A map of 96 x 96, its distances in float32 are 170 MB."""
    N, M, G = 9216, 2304, 2
    x, y = nodes(1, N, 16, dtype=torch.float32), nodes(1, M, 16, seed=1, dtype=torch.float32)
    tables = relative_position_tables(96, 96, 16, 2) if with_position else None
    with Recorder() as recorder:
        eager.search_neighbors(x, y, 9, 1, G, tables)
    assert recorder.largest * 16 < N * M * G * 4


def test_dense_search_holds_all_distances():
    """The recorder sees what the test above is to exclude."""
    x, y = nodes(1, 300, 16, dtype=torch.float32), nodes(1, 200, 16, seed=1, dtype=torch.float32)
    with Recorder() as recorder:
        dense_neighbors(x, y, 9, num_groups=2)
    assert recorder.largest >= 300 * 200 * 2 * 4


def test_max_relative_never_holds_all_gathered_neighbors():
    N, M, C, G, k = 9216, 2304, 48, 2, 9
    x, y = nodes(1, N, C, dtype=torch.float32), nodes(1, M, C, seed=1, dtype=torch.float32)
    neighbors = torch.randint(M, (1, G, N, k), generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), Recorder() as recorder:
        eager.gather_max(y, neighbors, keep_winner=True)
    assert recorder.largest * 4 < N * k * C * 4
    with torch.no_grad(), Recorder() as recorder:
        dense_max_relative(x, y, neighbors)
    assert recorder.largest >= N * k * C * 4


CASES = [(2, 30, 20, 16, 1, 9), (3, 12, 40, 16, 2, 5), (1, 7, 3, 8, 4, 3), (2, 5, 6, 8, 2, 1), (1, 1, 1, 8, 2, 1)]


def aggregation(B, N, M, C, G, k, dtype=torch.float64):
    neighbors = torch.stack(
        [torch.randperm(M, generator=torch.Generator().manual_seed(s))[:k] for s in range(B * G * N)]
    )
    x, y = nodes(B, N, C, dtype=dtype), nodes(B, M, C, seed=1, dtype=dtype)
    return x, y, neighbors.view(B, G, N, k)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('case', CASES)
def test_max_relative_bit_for_bit(case, dtype):
    x, y, neighbors = aggregation(*case, dtype)
    with torch.no_grad():
        assert torch.equal(max_relative(x, y, neighbors), dense_max_relative(x, y, neighbors))


@pytest.mark.parametrize('wanted', [('x', 'y'), ('x',), ('y',)])
@pytest.mark.parametrize('case', CASES)
def test_max_relative_gradients(case, wanted):
    x, y, neighbors = aggregation(*case)
    weight = nodes(*x.shape, seed=2)
    results = []
    for operation in (max_relative, dense_max_relative):
        inputs = {'x': x.clone(), 'y': y.clone()}
        leaves = [inputs[name].requires_grad_() for name in wanted]
        out = operation(inputs['x'], inputs['y'], neighbors)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, weight)))
    assert torch.equal(results[0][0], results[1][0])
    for actual, expected in zip(results[0][1:], results[1][1:]):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_max_relative_gradient_of_one_tensor_in_both_roles():
    """In a block without pooling queries and candidates are the same tensor."""
    x, _, neighbors = aggregation(2, 20, 20, 8, 2, 4)
    weight = nodes(*x.shape, seed=2)
    gradients = []
    for operation in (max_relative, dense_max_relative):
        leaf = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(operation(leaf, leaf, neighbors), leaf, weight)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize('case', [(2, 4, 5, 4, 2, 3), (1, 3, 4, 4, 1, 2)])
def test_max_relative_gradcheck(case):
    x, y, neighbors = aggregation(*case)
    args = x.requires_grad_(), y.requires_grad_(), neighbors
    assert torch.autograd.gradcheck(functional.interleave_max_relative, args)
    assert torch.autograd.gradgradcheck(functional.interleave_max_relative, args)


def test_max_relative_of_known_nodes():
    x = torch.tensor([[[1.0, 10.0]]])
    y = torch.tensor([[[5.0, 0.0], [2.0, 3.0], [9.0, 9.0]]])
    neighbors = torch.tensor([[[[0, 1]], [[1, 2]]]])  # a group for each of the two channels
    assert max_relative(x, y, neighbors).tolist() == [[[4.0, -1.0]]]


@pytest.mark.parametrize('case', CASES)
def test_plain_pytorch_has_the_same_gradients(case):
    """What scripted, traced and exported models differentiate, against the gradient of the operator."""
    x, y, neighbors = aggregation(*case)
    weight = nodes(*x.shape[:2], 2 * x.shape[2], seed=2)
    results = []
    for operation in (functional.interleave_max_relative, lambda *args: eager.interleave_max_relative(*args, True)[0]):
        leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
        out = operation(*leaves, neighbors)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, weight)))
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_winners_are_the_first_of_equals():
    y = torch.tensor([[[1.0], [3.0], [3.0], [2.0]]])
    neighbors = torch.tensor([[[[0, 2, 1], [3, 0, 0], [1, 2, 3]]]])
    largest, winner = eager.gather_max(y, neighbors, keep_winner=True)
    assert largest.tolist() == [[[3.0], [2.0], [3.0]]] and winner.tolist() == [[[2], [3], [1]]]
    assert winner.dtype == torch.int32 and eager.gather_max(y, neighbors, keep_winner=False)[1].shape == (0,)


def test_interleave_alternates_channels():
    x, relative = nodes(2, 3, 4), nodes(2, 3, 4, seed=1)
    out = interleave(x, relative)
    assert out.shape == (2, 3, 8)
    assert torch.equal(out[..., 0::2], x)
    assert torch.equal(out[..., 1::2], relative)
    neighbors = torch.randint(3, (2, 1, 3, 2), generator=torch.Generator().manual_seed(2))
    assert torch.equal(functional.interleave_max_relative(x, relative, neighbors)[..., 0::2], x)
