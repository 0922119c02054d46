"""Shares of several processes: who labels what, the order in which rows are joined, and what a later run keeps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkgnet_timm.data.shards import Shard
from gkgnet_timm.inference.kept_rows import Kept
from gkgnet_timm.inference.parts import check_other_parts, part_names
from gkgnet_timm.inference.prediction_file import PredictionFile, read_rows, write_joined
from gkgnet_timm.inference.prediction_run import write_run
from gkgnet_timm.inference.share import ImageShare, ShardShare


def label(name):
    return dict(file=name, labels=[dict(label='a,"b"', score=0.5)]) if len(name) % 3 else dict(file=name, error='bad')


def write(path, form, names):
    with PredictionFile(str(path), form, names) as output:
        for name in names:
            output.write([label(name)])


@given(st.integers(0, 40), st.integers(1, 7), st.integers(1, 6), st.sampled_from(['csv', 'json', 'jsonl']))
def test_batches_are_those_of_one_process_and_rows_are_joined_in_order(images, batch_size, processes, form):
    files = [f'{i}\n,"{i}"' for i in range(images)]
    batches = [files[i : i + batch_size] for i in range(0, images, batch_size)]
    shares = [ImageShare(files, batch_size, rank, processes) for rank in range(processes)]
    for rank, share in enumerate(shares):
        of_rank = [share.files[i : i + batch_size] for i in range(0, share.total, batch_size)]
        assert of_rank == batches[rank::processes] and share.todo == share.files
    parts = [[json.dumps(file).encode() for file in share.files] for share in shares]
    assert [json.loads(row) for row in shares[-1].in_order(list(map(iter, parts)), form)] == files


@pytest.mark.parametrize('form', ['csv', 'json', 'jsonl'])
@pytest.mark.parametrize('processes', [1, 2, 3, 5])
def test_joined_files_are_those_of_one_process(form, processes, tmp_path):
    sizes = [3, 1, 4, 2]
    names = [[f'x-{i}.tar/{row}\n,"{i}"' for row in range(size)] for i, size in enumerate(sizes)]
    names[1] = ['x-1.tar']  # which cannot be read
    shards = [Shard(f'x-{i}.tar', list) for i in range(4)]
    write(tmp_path / 'whole', form, sum(names, []))
    parts = part_names(str(tmp_path / f'out.{form}'), processes)
    for rank, part in enumerate(parts):
        write(part, form, sum(names[rank::processes], []))
    share = ShardShare(shards, 2, 0, processes)
    for rows in (9, 10, 11):
        records = share.in_order([read_rows(part, form) for part in parts], form)
        if rows == 10:
            write_joined(str(tmp_path / 'joined'), form, records, rows)
            continue
        with pytest.raises(ValueError, match=f'have 10 rows in order, expected {rows}'):
            write_joined(str(tmp_path / 'other'), form, records, rows)
    assert (tmp_path / 'joined').read_bytes() == (tmp_path / 'whole').read_bytes()
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('form', ['csv', 'jsonl'])
def test_shards_are_kept_up_to_any_byte(form, tmp_path):
    """Rows of the last shard that has some are done again: nobody knows whether it has more."""
    names = [[f'x-{i}.tar/{row}' for row in range(3)] for i in range(3)]
    share = ShardShare([Shard(f'x-{i}.tar', list) for i in range(3)], 2)
    path = str(tmp_path / 'out')
    write(path, form, sum(names, []))
    write_run(path, {})
    whole = (tmp_path / 'out').read_bytes()
    places = []
    for size in range(len(whole) + 1):
        (tmp_path / 'out').write_bytes(whole[:size])
        kept = share.keep(path, form)
        places.append(3 - len(share.todo))
        rest = whole[kept.size :]
        assert kept.size <= size and kept.rows == 3 * places[-1]
        assert not kept.rows or share.todo[0].name.encode() in rest.splitlines()[0]
        assert rest.count(b'.tar/') == 9 - kept.rows and kept.unreadable == whole[: kept.size].count(b'bad')
    assert sorted(set(places)) == [0, 1, 2] and places == sorted(places)
    for other in ([0, 2], [1, 2], [2, 1, 0]):
        with pytest.raises(ValueError, match=r"row [14] of '.*' is of 'x-[01].tar/0', which is not in the shard"):
            ShardShare([Shard(f'x-{i}.tar', list) for i in other], 2).keep(path, form)
    (tmp_path / 'out.run.json').unlink()
    with pytest.raises(ValueError, match="'.*out.run.json' is missing"):
        share.keep(path, form)
    (tmp_path / 'out').unlink()
    assert share.keep(path, form) == Kept()


def test_parts_of_another_number_of_processes_are_named(tmp_path):
    output = str(tmp_path / 'a[1].csv')
    assert part_names(output, 2) == [str(tmp_path / f'a[1].part-{i}-of-2.csv') for i in range(2)]
    for name in ('a[1].part-0-of-2.csv', 'a[1].part-0-of-2.csv.run.json', 'b.part-0-of-3.csv', 'a[1].part-x-of-y.csv'):
        (tmp_path / name).touch()
    check_other_parts(output, 2)
    for count in (1, 3, 22):
        with pytest.raises(ValueError, match=rf'a\[1\].part-0-of-2.csv. is of 2 processes, this run has {count}\.'):
            check_other_parts(output, count)
