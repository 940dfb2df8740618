"""Files of a few lines that mean more than anybody could have meant: refused within seconds, with a line that says which and why."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import NoFiles, find_files
from mm1_ablate.data.items._expressions import AnnotationRow, _is_expression, _is_template, evaluate, file_name
from mm1_ablate.data.readers.annotation_files import WrongShape, rows_of
from mm1_ablate.data.readers.compression import Damaged, chunks
from mm1_ablate.data.readers.image_folder import ImageFolder
from mm1_ablate.data.readers.tar import first_samples
from mm1_ablate.data.readers.tar_headers import DamagedTar, tar_entries


@pytest.fixture(autouse=True)
def _within_seconds() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 30


# ---------------------------------------------------------------- sweeps
AXES = [
    "training.steps",
    "training.batch_rows",
    "training.warmup_steps",
    "evaluation.items",
    "data.packing.row_tokens",
    "data.packing.buffer_documents",
    "data.packing.nominal_image_tokens",
    "model.connector.image_tokens",
    "model.image_encoder.width",
    "model.image_encoder.depth",
]


def told(sweep: Path) -> str:
    with pytest.raises(FileErrors) as caught:
        load_study(sweep)
    return str(caught.value)


def test_axes_are_counted_before_they_are_multiplied(tiny_sweep: Path) -> None:
    axes = "\n".join(f"      {path}: [{', '.join(map(str, range(1, 11)))}]" for path in AXES)
    tiny_sweep.write_text(tiny_sweep.read_text().replace("compare:", f"  wide:\n    grid:\n{axes}\ncompare:"))
    assert "ablations.wide.grid: up to this group the study has more than 10,000 arms" in told(tiny_sweep)


def test_arms_of_all_groups_and_their_seeds_are_counted_together(tiny_sweep: Path) -> None:
    text = tiny_sweep.read_text()
    values = ", ".join(map(str, range(1, 76)))
    grid = f"    grid: {{training.steps: [{values}], evaluation.items: [{values}]}}\n"
    tiny_sweep.write_text(text.replace("compare:", f"  one:\n{grid}  two:\n{grid}compare:"))
    assert "ablations.two.grid: up to this group" in told(tiny_sweep)
    tiny_sweep.write_text(text.replace("[0, 1]", f"[{', '.join(map(str, range(40_000)))}]"))
    assert "100,000 trials" in told(tiny_sweep)


def test_one_problem_repeated_on_a_long_line_is_told_a_few_times(tiny_sweep: Path) -> None:
    tiny_sweep.write_text(tiny_sweep.read_text().replace("[0, 1]", f"[{', '.join(['x'] * 3_000)}]"))
    done = call("validate", tiny_sweep)
    assert done.exit_code == 2 and len(done.stderr) < 5_000
    assert done.stderr.count("expected a whole number") == 3 and "and 2,997 more like these" in done.stderr
    assert len(call("validate", tiny_sweep, "--json").stdout) < 1_000_000
    assert len(call("plan", tiny_sweep).stderr) < 5_000


@pytest.mark.parametrize(
    "text",
    [
        "experiment: " + "[" * 100_000 + "\n",
        "experiment: " + "{a: " * 100_000 + "\n",
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)).replace("*a0", "*a"),
        "sweep: x\nexperiment: x\nseeds: [" + "9" * 5_000 + "]\n",
        "sweep: x\nexperiment: x\nseeds: [0x" + "f" * 100_000 + "]\n",
        "sweep: x\nexperiment: x\nseeds: [1e" + "9" * 5_000 + "]\n",
        "sweep: " + "x" * 1_000_000 + "\nexperiment: y\n",
        "sweep: x\nexperiment: " + "../" * 100_000 + "\n",
        "sweep: x\nexperiment: y\nablations: {a: {alter: {" + "data." * 20_000 + "x: 1}}}\n",
    ],
    ids=["brackets", "mappings", "laughs", "digits", "hexadecimal", "exponent", "name", "path", "dotted"],
)
def test_texts_that_mean_too_much_are_refused_in_a_few_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    done = call("validate", path)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit) and "Traceback" not in done.stderr, done.exception
    assert str(path) in done.stderr and len(done.stderr) < 20_000


# ---------------------------------------------------------------- names of files
@pytest.mark.parametrize(
    "pattern",
    [
        "/x/{0..9999999999}.tar",
        "/x/" + "{0..9}" * 12,
        "/x/{a,{0..99999}{0..99999}}",
        "/x/" + "{a,b}" * 40,
        "/x/{0.." + "9" * 5000 + "}",
        "/" + "{" * 5000 + "a,b" + "}" * 5000,
    ],
    ids=["range", "product", "nested", "choices", "digits", "depth"],
)
def test_braces_that_stand_for_very_many_names_are_counted_first(pattern: str) -> None:
    with pytest.raises(NoFiles, match="more than 1,000,000 names"):
        find_files([pattern])


def test_braces_mean_what_they_meant(tmp_path: Path) -> None:
    for name in ("a-01", "a-02", "b-01", "b-02", "c"):
        (tmp_path / f"{name}.tar").touch()
    found = find_files([f"{tmp_path}/{{{{a,b}}-{{01..02}},c}}.tar"])
    assert [file.name for file in found] == ["a-01.tar", "a-02.tar", "b-01.tar", "b-02.tar", "c.tar"]


# ---------------------------------------------------------------- files of data
def bomb(path: Path, megabytes: int = 200, head: bytes = b"[") -> Path:
    with gzip.open(path, "wb", compresslevel=6) as packed:
        packed.write(head)
        for _ in range(megabytes):
            packed.write(b" " * (1 << 20))
    return path


@pytest.mark.parametrize("name", ["annotations.json.gz", "annotations.jsonl.gz", "annotations.csv.gz", "annotations.txt.gz"])
def test_annotations_that_unpack_to_gigabytes_are_refused(tmp_path: Path, name: str) -> None:
    files = find_files([str(bomb(tmp_path / name))])
    with pytest.raises(WrongShape, match="unpack to more than 100 times as many"):
        list(rows_of(files))


def test_lines_that_unpack_to_gigabytes_end_there(tmp_path: Path) -> None:
    (file,) = find_files([str(bomb(tmp_path / "lines.jsonl.gz", head=b'{"text": "a"}\n'))])
    done = 0
    with pytest.raises(Damaged, match="unpack to more than 100 times as many"):
        for chunk in chunks(file):
            done += len(chunk)
    assert done < 100 << 20


def test_json_of_many_brackets_or_digits_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "[" + "9" * 5_000 + "]"):
        path = tmp_path / "annotations.json"
        path.write_text(text)
        with pytest.raises(WrongShape, match="is not JSON"):
            list(rows_of(find_files([str(path)])))
        path = tmp_path / "annotations.jsonl"
        path.write_text(text + "\n")
        assert all(isinstance(row, Unreadable) for row in rows_of(find_files([str(path)])))


def header(size: int | str, name: str = "a.jpg", kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    if isinstance(size, str):
        entry.pax_headers = {"size": size}
        return entry.tobuf(tarfile.PAX_FORMAT)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "size", [1 << 40, 1 << 62, (1 << 88) - 1, "9" * 5_000, "²"], ids=["terabyte", "exabytes", "binary", "digits", "superscript"]
)
def test_a_header_that_claims_a_terabyte_is_damage(tmp_path: Path, size: int | str) -> None:
    content = header(size) + b"x" * 512
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    (file,) = find_files([str(path)])
    for looks in (lambda: list(tar_entries(file.read, file.size)), lambda: first_samples(file, 3)):
        with pytest.raises(DamagedTar):
            looks()
    packed = tmp_path / "b.tar"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(DamagedTar):
        first_samples(find_files([str(packed)])[0], 3)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "coco.tar").write_bytes(content)
    with pytest.raises(Unreadable, match="missing"):
        ImageFolder(str(folder)).find("coco/a.jpg")()


def test_pax_records_of_a_megabyte_are_read_in_moments() -> None:
    records = b"6 a=b\n" * ((1 << 20) // 6)
    entry = header(len(records), "x", tarfile.XHDTYPE) + records + b"\0" * (-len(records) % 512)
    content = entry + header(0) + b"\0" * 1024
    assert [one.name for one in tar_entries(lambda offset, length: content[offset : offset + length], len(content))] == ["a.jpg"]
    digits = header(512, "x", tarfile.XHDTYPE) + b"9" * 512
    with pytest.raises(DamagedTar):
        list(tar_entries(lambda offset, length: digits[offset : offset + length], len(digits)))


def test_a_picture_in_a_zip_that_says_it_is_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coco/a.jpg", b"\0" * 1000)
    written = bytearray(content.getvalue())
    place = written.index(b"PK\x01\x02")
    written[place + 24 : place + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    (tmp_path / "coco.zip").write_bytes(written)
    with pytest.raises(Unreadable, match="cannot be read"):
        ImageFolder(str(tmp_path)).find("coco/a.jpg")()


# ---------------------------------------------------------------- expressions
@pytest.mark.parametrize(
    "expression",
    [
        "'a' * 10**9",
        "10**9 * 'a'",
        "[0] * 10**9",
        "7 ** (10 ** 9)",
        "'%1000000000d' % 1",
        "'%*d' % (1000000000, 1)",
        "'{:>1000000000}'.format('a')",
        "'a'.ljust(1000000000)",
        "'a'.zfill(1000000000)",
        "'a' | center(1000000000)",
        "'%1000000000d' | format(1)",
        "('a' * 1000000).replace('a', 'a' * 1000000)",
        "('a' * 1000000).join(['b'] * 1000000)",
        "'a\\nb' | indent(1000000000)",
    ],
)
def test_expressions_make_no_texts_of_gigabytes(expression: str) -> None:
    _is_expression(expression)
    with pytest.raises(Unreadable, match="no answer: SecurityError"):
        evaluate(expression, AnnotationRow({}, 0), "answer")


def test_expressions_of_common_lengths_are_what_they_were() -> None:
    row = AnnotationRow({"number": 7, "answers": ["b", "a", "b"], "text": "one\n two"}, 3)
    values = {
        "'-' * 10": "-" * 10,
        "number ** 2 + 1": 50,
        "'%03d' % number": "007",
        "'{:03d}'.format(number)": "007",
        "'100%'": "100%",
        "answers | most_common_first | unique | list": ["b", "a"],
        "text | one_line | upper | center(11)": "  ONE TWO  ",
        "answers | map('upper') | join(', ')": "B, A, B",
        "text | regex_replace('one', '1') | one_line": "1 two",
        "answers | length * 2": 6,
    }
    assert {source: evaluate(source, row, "answer") for source in values} == values


def test_names_of_files_have_no_fields_of_a_gigabyte() -> None:
    with pytest.raises(ValueError, match="more than 255 characters"):
        _is_template("images/{number:01000000000d}.jpg")
    with pytest.raises(Unreadable, match="cannot be filled in"):
        file_name("images/{number:{wide}}.jpg", {"number": 1, "wide": "01000000000d"}, "image")
    assert file_name(_is_template("images/{number:012d}.jpg"), {"number": "7"}, "image") == "images/000000000007.jpg"


# ---------------------------------------------------------------- paths
def strange_paths(folder: Path) -> list[str]:
    loop = folder / "loop.yaml"
    loop.symlink_to(folder / "loop.yaml")
    (folder / "circle").symlink_to(folder / "circle")
    return [
        str(loop),
        str(folder / "circle" / "x.yaml"),
        "~nouser/x.yaml",
        "x" * 300 + ".yaml",
        "/" + "y/" * 3000 + "x.yaml",
        "",
        "/dev/null",
    ]


def one_sentence(said: str, place: str) -> None:
    assert said.strip() and "Traceback" not in said and len(said) < 30_000, (place[:80], said[-500:])


def test_strange_paths_on_the_command_line_are_told_of(tmp_path: Path, tiny_sweep: Path) -> None:
    for path in strange_paths(tmp_path):
        for arguments in (
            ["validate", path],
            ["plan", path],
            ["status", path],
            ["data", tiny_sweep, "--to", f"{path}/x.html"],
            ["report", tiny_sweep, "--store", f"{path}/store"],
            ["plan", tiny_sweep, "--store", f"{path}/store"],
            ["init", f"{path}/x"],
            ["schema", f"{path}/x"],
        ):
            if path == "" or (path in ("/dev/null", "~nouser/x.yaml") and "validate plan status".find(str(arguments[0])) < 0):
                continue
            done = call(*arguments)
            assert done.exit_code in (0, 1, 2) and (done.exception is None or isinstance(done.exception, SystemExit)), (
                arguments,
                done.exception,
            )
            one_sentence(done.stdout + done.stderr, path)


def test_strange_paths_in_files_are_told_at_their_line(tmp_path: Path, tiny_sweep: Path) -> None:
    experiment = tiny_sweep.parent.parent / "experiments" / "tiny.yaml"
    sweep_text, text = tiny_sweep.read_text(), experiment.read_text()
    for path in strange_paths(tmp_path):
        if not path:
            continue
        quoted = json.dumps(path)
        for sweep, edited in (
            (sweep_text.replace("../experiments/tiny.yaml", quoted), text),
            (f"include: {quoted}\n{sweep_text}", text),
            (sweep_text, f"{text}\nstarts_from: {quoted}\n"),
            (sweep_text, text.replace("tasks:\n  - miniature_vqa", f"tasks:\n  - {quoted}")),
            (
                sweep_text.replace(
                    "compare:", f"  other:\n    replace:\n      data.sources.text: {{type: text, files: {quoted}}}\ncompare:"
                ),
                text,
            ),
            (sweep_text.replace("compare:", f"  other:\n    alter: {{model.language_model.tokenizer: {quoted}}}\ncompare:"), text),
        ):
            assert (sweep, edited) != (sweep_text, text)
            tiny_sweep.write_text(sweep)
            experiment.write_text(edited)
            done = call("validate", tiny_sweep)
            # A tokenizer may have any name on the hub.
            assert done.exit_code in ((0, 2) if "tokenizer: " + quoted in sweep else (2,)), (path[:60], done.exception, done.stdout)
            assert done.exception is None or isinstance(done.exception, SystemExit)
            one_sentence(done.stdout + done.stderr, path)


@pytest.mark.parametrize("port", ["99999", "0", "-1", "http"])
def test_a_port_that_is_none_is_refused(tiny_sweep: Path, port: str) -> None:
    done = call("ui", tiny_sweep, "--port", port)
    assert done.exit_code == 2 and "--port" in done.stderr and "Traceback" not in done.stderr
