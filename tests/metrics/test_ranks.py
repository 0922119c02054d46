"""The metrics over ranks: the same bits as of one process, in the memory of the first rank."""

import os
import time
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked import fork

from timm.data.distributed_sampler import OrderedDistributedSampler

from gkgnet_timm.metrics import MultiLabelEvaluator, ranks
from gkgnet_timm.metrics.ranks import on_first_rank

RANK_CASES = {'even': 12, 'padded': 13, 'one': 1, 'stream': 15}


def rank_data(name):
    generator = torch.Generator().manual_seed(RANK_CASES[name])
    logits = (torch.randn(RANK_CASES[name], 4, generator=generator) * 16).round() / 8  # some are equal
    targets = torch.randint(-1, 2, logits.shape, generator=generator).float()
    if len(logits) > 1:
        logits[[3, 10]] = targets[[3, 10]] = float('nan')
    return logits, targets


def stream_order(world_size):
    """An uneven split: the last rank has all but the first images."""
    return [[rank] for rank in range(world_size - 1)] + [list(range(world_size - 1, RANK_CASES['stream']))]


def rank_results(rank, world_size):
    results = {}
    for name in RANK_CASES:
        logits, targets = rank_data(name)
        sampler = OrderedDistributedSampler(logits, world_size, rank)
        indices, limit = list(sampler), sampler.num_valid_samples
        if name == 'stream':
            indices, limit = stream_order(world_size)[rank], None
        evaluator = MultiLabelEvaluator('cpu', max_samples=limit)
        for start in range(0, len(indices), 2):
            batch = indices[start : start + 2]
            evaluator.update(logits[batch], targets[batch])
        results[name] = (evaluator.compute(distributed=True), evaluator.gathered)

    evaluator = MultiLabelEvaluator()
    if rank == 0:  # the only one with rows
        evaluator.update(*rank_data('even'))
    results['first'] = (evaluator.compute(distributed=True), evaluator.gathered)
    evaluator.reset()
    with pytest.raises(ValueError, match='Nothing to evaluate'):
        evaluator.compute(distributed=True)
    assert evaluator.images == 0
    evaluator.update(torch.tensor([[0.0, float('nan') if rank == 1 else 1.0]]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match='nan or inf, first in row 1, column 1'):  # seen by the first rank alone
        evaluator.compute(distributed=True)
    assert evaluator.images == world_size
    return results


def run_rank(rank, folder):
    torch.set_num_threads(1)  # the only thread of a forked process
    for world_size in (3, 2):
        if rank < world_size:
            init = f'file://{folder}/init{world_size}'
            dist.init_process_group('gloo', init_method=init, rank=rank, world_size=world_size)
            torch.save(rank_results(rank, world_size), f'{folder}/{rank}_of_{world_size}.pt')
            dist.destroy_process_group()


def in_ranks(function, count, folder):
    """Run a function of the rank in so many processes; returns whether each has ended well."""
    processes = [fork(partial(function, rank, folder)) for rank in range(count)]
    return [os.waitpid(process, 0)[1] == 0 for process in processes]


def test_ranks_equal_one_process(tmp_path):
    assert in_ranks(run_rank, 3, tmp_path) == [True] * 3
    paths = sorted(tmp_path.glob('*.pt'))
    assert len(paths) == 5
    for name in (*RANK_CASES, 'first'):
        evaluator = MultiLabelEvaluator()
        evaluator.update(*rank_data('even' if name == 'first' else name))
        expected = (evaluator.compute(), *evaluator.gathered)
        for path in paths:
            figures, gathered = torch.load(path, weights_only=False)[name]
            assert figures == expected[0], (name, path.name)  # bit for bit
            assert (gathered is None) == (path.name[0] != '0'), (name, path.name)  # the first rank alone holds rows
            if gathered is not None:
                assert all(np.array_equal(*arrays) for arrays in zip(gathered, expected[1:])), (name, path.name)


def test_rows_in_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, 'CHUNK', 50)  # a row or two of a rank at a time
    test_ranks_equal_one_process(tmp_path)


def work_of_first(rank, folder):
    """Work that fails, and work that takes longer than the others wait for a sign."""
    torch.set_num_threads(1)
    ranks.SIGN = 0.2
    init = f'file://{folder}/init'
    dist.init_process_group('gloo', init_method=init, rank=rank, world_size=2, timeout=timedelta(seconds=2))

    def fail():
        assert rank == 0
        raise MemoryError('no room')

    with pytest.raises(MemoryError if rank == 0 else RuntimeError, match='no room'):
        on_first_rank(fail)
    assert on_first_rank(lambda: time.sleep(4) or rank) == 0
    dist.destroy_process_group()


def test_work_of_the_first_rank(tmp_path):
    assert in_ranks(work_of_first, 2, tmp_path) == [True, True]
