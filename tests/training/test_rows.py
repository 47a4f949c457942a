import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.errors import InputError
from stillroom.training.rows import PackedRows, rewrite, rows_of_step, share

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 7, -100, 9, -100], "cu_seqlens": [0, 3, 5]},
    {"input_ids": [4, 4], "labels": [4, -100], "cu_seqlens": [0, 2]},
]


def stored(folder, rows, vocabulary=10):
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    rewrite(folder / "rows.parquet", folder / "rows.arrow", vocabulary)
    return PackedRows(folder / "rows.arrow")


def test_rows_come_back_with_their_counts(tmp_path):
    rows = stored(tmp_path, ROWS)
    assert rows.tokens.tolist() == [5, 2]
    assert rows.loss_tokens.tolist() == [2, 1]
    assert rows.cost(hidden=1).tolist() == [12 * 5 + 9 + 4, 12 * 2 + 4]


def test_rows_are_laid_end_to_end_and_positions_begin_anew_in_every_document(tmp_path):
    batch = stored(tmp_path, ROWS).collate([1, 0])
    assert batch.input_ids.tolist() == [[4, 4, 5, 6, 7, 8, 9]]
    assert batch.labels.tolist() == [4, -100, -100, 7, -100, 9, -100]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 0, 1]]
    assert batch.cu_seqlens.tolist() == [0, 2, 5, 7]


def test_no_rows_make_one_token_without_loss(tmp_path):
    batch = stored(tmp_path, ROWS).collate([])
    assert batch.input_ids.shape == (1, 1)
    assert batch.labels.tolist() == [-100]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": [1]}, "5 ids and 1 labels"),
        ({"cu_seqlens": [0, 3]}, "cu_seqlens do not divide its 5 tokens"),
        ({"cu_seqlens": [0, 3, 3, 5]}, "cu_seqlens do not divide its 5 tokens"),
        ({"input_ids": [5, 6, 7, 8, 10]}, "ids lie outside the vocabulary of 10"),
        ({"labels": [-100, 7, 8, 9, -100]}, "a label crosses into the next document"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, says):
    with pytest.raises(InputError, match=says) as caught:
        stored(tmp_path, [ROWS[1], ROWS[0] | change])
    assert caught.value.where.endswith("rows.parquet: row 1")
    assert not (tmp_path / "rows.arrow").exists()


def test_a_missing_file_or_column_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        rewrite(tmp_path / "rows.parquet", tmp_path / "rows.arrow", 10)
    with pytest.raises(InputError, match="no column 'cu_seqlens'"):
        stored(tmp_path, [{"input_ids": [1], "labels": [1]}])


@given(rows=st.integers(1, 40), batch=st.integers(1, 9), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_each_row_comes_once_per_epoch(rows, batch, epochs, seed):
    total = epochs * rows
    taken = [
        row for step in range(-(-total // batch)) for row in rows_of_step(seed, step, batch, rows, total)
    ]
    assert len(taken) == total
    for epoch in range(epochs):
        assert sorted(taken[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=30),
    world=st.integers(1, 5),
    micro=st.integers(1, 4),
)
def test_every_row_goes_to_one_process_and_all_have_as_many_micro_batches(lengths, world, micro):
    cost = np.array(lengths)
    shares = [share(range(len(lengths)), cost, world, rank, micro) for rank in range(world)]
    assert len({len(part) for part in shares}) == 1
    assert max(len(batch) for part in shares for batch in part) <= micro
    assert sorted(row for part in shares for batch in part for row in batch) == list(range(len(lengths)))


def test_rows_of_like_cost_are_computed_at_the_same_time():
    cost = np.array([1, 100, 3, 98, 2, 99])
    shares = [share(range(6), cost, 2, rank, 1) for rank in range(2)]
    together = [(cost[a[0]], cost[b[0]]) for a, b in zip(*shares, strict=True)]
    assert together == [(100, 99), (98, 3), (2, 1)]
