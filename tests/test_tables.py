"""Files of tables: names of columns, what parts them, quotes, and lines that are no rows."""

import json

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from bert_jax.errors import UserError
from train.config import TrainConfig
from train.data.reading import read

TEXT = "a film of note"


def rows_of(path, **options):
    data = read(TrainConfig(data=str(path), **options))
    rows = [row for split in data.splits.values() for row in split.rows]
    return [(row.text, row.label) for row in sorted(rows, key=lambda row: row.number)]


@pytest.mark.fault(67)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("all.csv", f"text,label,label\n{TEXT},1,0\n{TEXT},0,1\n"),
        ("all.tsv", f"text\tlabel\tlabel\n{TEXT}\t1\t0\n{TEXT}\t0\t1\n"),
        ("all.jsonl", f'{{"text": "{TEXT}", "label": 1, "label": 0}}\n' * 2),
        ("all.json", f'[{{"text": "{TEXT}", "label": 1, "label": 0}}]'),
    ],
)
def test_two_columns_of_one_name_are_refused(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"two (columns|members) are called label"):
        rows_of(tmp_path / name)


def test_two_columns_of_one_name_in_parquet(tmp_path):
    columns = [pyarrow.array([TEXT, TEXT]), pyarrow.array([0, 1]), pyarrow.array([1, 0])]
    table = pyarrow.Table.from_arrays(columns, names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    with pytest.raises(UserError, match="two columns are called label; rename one of them"):
        rows_of(tmp_path / "all.parquet")


@pytest.mark.fault(67)
def test_names_that_differ_in_case_alone_are_refused_unless_one_is_named(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(f"text,label,Label\n{TEXT},1,0\n{TEXT} too,0,1\n")
    with pytest.raises(UserError, match="columns label and Label differ in case alone; rename one of them"):
        rows_of(path)
    assert rows_of(path, label_column="Label") == [(TEXT, "0"), (f"{TEXT} too", "1")]


@pytest.mark.fault(68)
@pytest.mark.parametrize("name", ["all.csv", "all.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_the_delimiter_is_found_in_the_line_of_names(name, delimiter, tmp_path):
    texts = ["good, or not", "it; was", "or | that"]
    frame = pandas.DataFrame({"text": texts, "label": [0, 1, 0]})
    frame.to_csv(tmp_path / name, sep=delimiter, index=False)
    assert rows_of(tmp_path / name) == [(text, str(label)) for text, label in zip(texts, [0, 1, 0], strict=True)]


def test_a_tsv_of_pandas_and_one_of_bare_quotes(tmp_path):
    texts = ['he said "hi"', '"all of it"', '"', 'a "', ""]
    frame = pandas.DataFrame({"text": texts, "label": [0, 1, 0, 1, 0]})
    frame.to_csv(tmp_path / "pandas.tsv", sep="\t", index=False)
    assert [text for text, _ in rows_of(tmp_path / "pandas.tsv")] == texts
    frame.to_csv(tmp_path / "all.tsv", sep="\t", index=False, quoting=1)
    assert [text for text, _ in rows_of(tmp_path / "all.tsv")] == texts
    bare = ['"a quoted line"', 'the "best" film', '"unfinished']
    (tmp_path / "bare.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(bare)))
    assert [text for text, _ in rows_of(tmp_path / "bare.tsv")] == bare


@pytest.mark.fault(68)
def test_a_quoted_tsv_holds_tabs_and_ends_of_lines(tmp_path):
    texts = ["a film of\nnote", "a\ttab", 'a "word"', "other"]
    frame = pandas.DataFrame({"text": texts, "label": [0, 1, 0, 1]})
    frame.to_csv(tmp_path / "all.tsv", sep="\t", index=False)
    assert [text for text, _ in rows_of(tmp_path / "all.tsv")] == texts
    frame = pandas.DataFrame({"label": [0, 1], "text": ["a film of\nnote: tab\there", "other"]})
    frame.to_csv(tmp_path / "odd.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match=r"odd.tsv: from line 2 on, quotes can be read in two ways; write it as csv"):
        rows_of(tmp_path / "odd.tsv")
    # Not so, as this is not how a writer quotes: `quoted` and `not` need no quotes.
    (tmp_path / "bare.tsv").write_text('text\tlabel\n"quoted"\t1\n"open\t0\n"not"\t1\nclosed"\t0\n')
    assert [text for text, _ in rows_of(tmp_path / "bare.tsv")] == ['"quoted"', '"open', '"not"', 'closed"']


@pytest.mark.fault(67)
@pytest.mark.parametrize(
    "content",
    [
        f"{TEXT} it is,1\n{TEXT},0\nanother {TEXT},1\nand {TEXT},0\n",
        f'"4","14678","NO_QUERY","user0","{TEXT}"\n"0","14679","NO_QUERY","user1","another {TEXT}"\n',
    ],
)
def test_a_first_line_of_data_is_not_taken_for_names(content, tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(content)
    with pytest.raises(UserError, match="the names of its columns look like a row of data"):
        rows_of(path)


def test_lines_that_are_no_rows_are_bad_rows(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(f"text,label\n{TEXT},1\n{TEXT},0,1\n{TEXT}\n{TEXT} too,0\n")
    with pytest.raises(UserError, match="line 3 has 3 fields, the header has 2"):
        rows_of(path)
    assert len(rows_of(path, skip_bad=True)) == 2
    path = tmp_path / "all.jsonl"
    path.write_text(json.dumps({"text": TEXT, "label": 1}) + '\n{"text"\n[1]\n' + json.dumps({"text": "b", "label": 0}))
    with pytest.raises(UserError, match="line 2: bad JSON"):
        rows_of(path)
    assert len(rows_of(path, skip_bad=True)) == 2


@pytest.mark.fault(67)
def test_files_put_one_after_another_have_two_lines_of_names(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(f"text,label\n{TEXT},1\n{TEXT} too,0\ntext, label\nanother,1\n")
    with pytest.raises(UserError, match="line 4 is the line of names again; leave it out"):
        rows_of(path)
    assert len(rows_of(path, skip_bad=True)) == 3
