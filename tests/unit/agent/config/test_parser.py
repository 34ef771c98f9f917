"""node.toml: two lines are enough, every mistake is named at once, nothing ends in a traceback."""

import errno
import json
import os
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleven_agent.common.errors import EXIT_CONFIGURATION
from fleven_agent.config.parser import doubts, load
from fleven_agent.config.settings import Settings, keys, rebuild
from fleven_agent.errors import ConfigurationError

TWO_LINES = 'partition-id = 0\nsuperlink = "100.64.0.1:9092"\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "node.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(folder: Path, text: str) -> list[str]:
    file = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert caught.value.exit_code == EXIT_CONFIGURATION
    assert all(line.startswith(f"{file}: ") for line in caught.value.problems)
    return [line.removeprefix(f"{file}: ") for line in caught.value.problems]


def test_two_lines_are_enough(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, TWO_LINES), hostname="pi")
    assert loaded.settings.partition_id == 0
    assert loaded.settings.insecure is False
    assert loaded.settings.report_url == "https://100.64.0.1:9190"
    assert loaded.settings.node_name == "pi"
    assert loaded.sources["insecure"].startswith("computed")
    assert loaded.sources["gates.undervoltage"] == "default"


def test_the_shipped_file_needs_two_lines_and_names_every_key(repository: Path, tmp_path: Path) -> None:
    shipped = (repository / "etc/fleven/node.toml").read_text(encoding="utf-8")
    assert problems(tmp_path, shipped) == [
        "partition-id: required key is missing (for example partition-id = 0; each car of the fleet has its own)",
        'superlink: required key is missing (for example superlink = "100.64.0.1:9092")',
    ]
    named, table = set(), ""
    for line in shipped.splitlines():
        if line.startswith("["):
            table = line.strip("[]") + "."
        elif line.startswith("#") and not line.startswith("# ") and "=" in line:
            named.add(table + line[1:].partition("=")[0].strip())
    assert named == set(keys())


def test_the_shipped_file_shows_the_real_defaults(repository: Path, tmp_path: Path) -> None:
    uncommented = [
        line.removeprefix("#")
        for line in (repository / "etc/fleven/node.toml").read_text(encoding="utf-8").splitlines()
        if line.startswith("[") or (line.startswith("#") and not line.startswith("# ") and "=" in line)
    ]
    shown = tomllib.loads("\n".join(uncommented))
    defaults = asdict(Settings(partition_id=0, superlink="100.64.0.1:9092"))
    for key in keys():
        value, given_value = defaults, shown
        for part in key.split("."):
            value, given_value = value[part.replace("-", "_")], given_value[part]
        if value is not None:  # without a default the file shows an example
            assert given_value == (list(value) if isinstance(value, tuple) else value), key


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("partiton-id = 1", "partiton-id: unknown key (did you mean partition-id?)"),
        ("[gates]\nundervoltge = true", "gates.undervoltge: unknown key (did you mean undervoltage?)"),
        ("undervoltage = true", "undervoltage: unknown key (did you mean undervoltage in [gates]?)"),
        ("quux = 1", "quux: unknown key (see node.toml(5) for all keys)"),
        ("gates = 3", "gates: must be a table (write [gates] on a line of its own and its keys below)"),
        ('num-partitions = "3"', 'num-partitions: input should be a valid integer, not "3"'),
        ("num-partitions = 0", "num-partitions: input should be greater than or equal to 1, not 0"),
        (
            'clientapp-address = "127.0.0.1"',
            'clientapp-address: "127.0.0.1" is not an address (no port; write "127.0.0.1:9092")',
        ),
        ('data-path = "trips"', 'data-path: "trips" is not an absolute path (begin it with /)'),
        (
            'data-path = "/a\'b"',
            "data-path: holds a quote, a line break or a character that cannot be printed"
            " (Flower cannot pass such a text on to the app)",
        ),
        (
            'report-url = "100.64.0.1:9190"',
            'report-url: "100.64.0.1:9190" is not an HTTP address (for example "http://100.64.0.1:9190")',
        ),
        (
            'report-url = "http://pi:raspberry@100.64.0.1:9190"',
            "report-url: holds a user name, which the server ignores (use report-token)",
        ),
        ('report-token = "raspberry"', "report-token: string should have at least 16 characters"),
        ("report-token = 1234567812345678", "report-token: input should be a valid string"),
        (
            'report-token = "raspberry raspberry"',
            "report-token: holds a space or a character that is not ASCII (use letters, digits, - and _)",
        ),
        (
            'insecure = true\nauth-private-key = "/etc/hostname"',
            "auth-private-key: needs TLS (set root-certificates; Flower refuses it without)",
        ),
        (
            '[gates]\nallowed-hours = ["22-5"]',
            'gates.allowed-hours: "22-5" is not a span of hours (for example "20:00-06:00" or "sat,sun 00:00-24:00")',
        ),
        (
            '[gates]\ntime-zone = "Mars/Base"',
            'gates.allowed-hours: time-zone "Mars/Base" is not known on this machine '
            '(for example "America/Sao_Paulo"; the package tzdata provides the names)',
        ),
        ('[log]\nlevel = "loud"', "log.level: input should be 'debug', 'info', 'warning' or 'error', not \"loud\""),
        (
            "[supervision]\nbackoff-initial-seconds = 500",
            "supervision.backoff-maximum-seconds: 120 is below backoff-initial-seconds (raise it)",
        ),
    ],
)
def test_each_mistake_is_named_with_a_hint(tmp_path: Path, extra: str, expected: str) -> None:
    assert problems(tmp_path, TWO_LINES + extra) == [expected]


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, 'partition-id = -1\nsuperlink = "nowhere"\nquux = 1\n[log]\nlevel = "loud"\n')
    assert [line.partition(":")[0] for line in found] == ["partition-id", "log.level", "quux", "superlink"]


def test_a_partition_beyond_the_fleet_is_refused(tmp_path: Path) -> None:
    text = 'partition-id = 3\nsuperlink = "localhost:9092"\nnum-partitions = 3\n'
    assert problems(tmp_path, text) == ["partition-id: 3 is not below num-partitions = 3 (the first car is 0)"]


@pytest.mark.parametrize("host", ["203.0.113.5", "100.64.0.1", "127.0.0.1", "localhost", "server.tail1234.ts.net"])
def test_no_address_and_no_name_makes_tls_needless_but_a_word_does(tmp_path: Path, host: str) -> None:
    text = f'partition-id = 0\nsuperlink = "{host}:9092"\n'
    settings = load(write(tmp_path, text)).settings
    assert (settings.insecure, settings.report_url) == (False, f"https://{host}:9190")
    settings = load(write(tmp_path, text + "insecure = true\n")).settings
    assert (settings.insecure, settings.report_url) == (True, f"http://{host}:9190")


def test_tls_is_on_with_a_certificate(tmp_path: Path) -> None:
    certificate = tmp_path / "ca.crt"
    certificate.write_text("x", encoding="utf-8")
    text = f'{TWO_LINES}root-certificates = "{certificate}"\n'
    assert load(write(tmp_path, text)).settings.insecure is False
    assert problems(tmp_path, text + "insecure = true\n")[0].startswith("insecure: cannot be true beside")
    certificate.unlink()
    assert problems(tmp_path, text)[0].startswith(f"root-certificates: {certificate}: No such file")


def test_drop_ins_win_key_by_key_in_order(tmp_path: Path) -> None:
    file = write(tmp_path, TWO_LINES + "[gates]\nundervoltage = false\nmemory-minimum-megabytes = 1\n")
    folder = tmp_path / "node.toml.d"
    folder.mkdir()
    (folder / "10-a.toml").write_text("partition-id = 5\n[gates]\nmemory-minimum-megabytes = 2\n", encoding="utf-8")
    (folder / "20-b.toml").write_text("partition-id = 6\n", encoding="utf-8")
    (folder / ".hidden.toml").write_text("partition-id = 7\n", encoding="utf-8")
    loaded = load(file)
    assert (loaded.settings.partition_id, loaded.sources["partition-id"]) == (6, str(folder / "20-b.toml"))
    assert loaded.settings.gates.memory_minimum_megabytes == 2
    assert (loaded.settings.gates.undervoltage, loaded.sources["gates.undervoltage"]) == (False, str(file))


def test_a_folder_of_drop_ins_that_cannot_be_read_is_a_problem_and_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    file = write(tmp_path, TWO_LINES)
    (tmp_path / "node.toml.d").mkdir()
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert caught.value.problems == (f"{file}.d: cannot be read: Permission denied",)


def test_a_mistake_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    file = write(tmp_path, TWO_LINES)
    (tmp_path / "node.toml.d").mkdir()
    drop_in = tmp_path / "node.toml.d" / "x.toml"
    drop_in.write_text("partition-id = -1\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert caught.value.problems[0].startswith(f"{drop_in}: partition-id: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"partition-id = \n", "not valid TOML: Invalid value (at line 1, column 16)"),
        (b"\xff\xfe", "not UTF-8 text at byte 0"),
        (b"partition-id = 1\npartition-id = 2\n", "not valid TOML: Cannot overwrite a value"),
        (b"a = " + b"[" * 5_000, "not valid TOML: "),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{file}: {expected}")


def test_a_missing_file_and_a_folder_are_one_line_each(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "no.toml", "file not found"), (tmp_path, "cannot be read: Is a directory")):
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert caught.value.problems[0].startswith(f"{path}: {expected}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, TWO_LINES)
    file.chmod(0)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert caught.value.problems == [f"{file}: cannot be read: Permission denied"]


def test_the_daemon_rebuilds_exactly_what_was_validated(tmp_path: Path) -> None:
    text = TWO_LINES + '[gates]\nallowed-hours = ["20:00-06:00"]\n[warm]\nmodules = ["torch"]\n'
    loaded = load(write(tmp_path, text)).settings
    assert rebuild(Settings, json.loads(json.dumps(asdict(loaded)))) == loaded


def load_or_problems(file: Path) -> Settings | list[str]:
    """Return settings, or a list that is not empty; anything else fails the test."""
    try:
        return load(file).settings
    except ConfigurationError as error:
        return error.problems


VALUES = st.recursive(
    st.one_of(
        st.integers(), st.booleans(), st.text(max_size=30), st.floats(), st.datetimes(), st.just("100.64.0.1:9092")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(keys()), inner, max_size=3)),
    max_leaves=6,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else str(value).replace(" ", "T")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*keys(), "partition-id", "superlink", "gates", "x"]), VALUES, max_size=5))
def test_any_values_are_settings_or_problems(tmp_path: Path, values: dict[str, object]) -> None:
    file = write(tmp_path, "".join(f"{key} = {toml(value)}\n" for key, value in values.items()))
    found = load_or_problems(file)
    assert isinstance(found, Settings) or all(line.startswith(str(file)) and "\n" not in line for line in found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_problems(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(TWO_LINES.encode() + content)
    assert load_or_problems(file)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ('superlink = "“100.64.0.1:9092”"', "is left double quotation mark"),
    ],
)
def test_an_address_in_the_place_of_another_is_refused_with_the_right_one(
    tmp_path: Path, extra: str, expected: str
) -> None:
    (line,) = problems(tmp_path, f"partition-id = 0\n{extra}\n")
    assert expected in line


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            'superlink = "100.64.0.1:9092"\nreport-url = "http://100.64.0.1:9092"',
            'for example "http://100.64.0.1:9190"',
        ),
        (
            'superlink = "100.64.0.1:9092"\nreport-url = "http://100.64.0.1:9190/v1/reports"',
            'write "http://100.64.0.1:9190"',
        ),
        ('superlink = "100.64.0.1:9092"\nreport-url = "http://100.64.0.1:9190/v1/"', 'write "http://100.64.0.1:9190"'),
        ('superlink = "100.64.0.1:9092"\nreport-url = "https://a.b/fleet/v1/reports/"', 'write "https://a.b/fleet"'),
        (
            'superlink = "100.64.0.1:9092"\nreport-url = "http://100.64.0.1:9190/?a=1"',
            'write "http://100.64.0.1:9190/"',
        ),
    ],
)
def test_reports_that_go_astray_are_doubted_and_keep_no_car_from_training(
    tmp_path: Path, extra: str, expected: str
) -> None:
    ((key, _, hint),) = doubts(load(write(tmp_path, f"partition-id = 0\n{extra}\n")).settings)
    assert key == "report-url"
    assert expected in hint


def test_a_server_behind_a_path_of_a_proxy_is_taken(tmp_path: Path) -> None:
    text = f'{TWO_LINES}report-url = "https://example.org/fleet/v1x"\n'
    assert load(write(tmp_path, text)).settings.report_url == "https://example.org/fleet/v1x"


@pytest.mark.parametrize(
    ("text", "keys_in_doubt"),
    [
        (TWO_LINES, []),
        ('partition-id = 0\nsuperlink = "100.64.0.1:9093"\n', ["superlink"]),
        ('partition-id = 0\nsuperlink = "100.64.0.1:9190"\nreport-url = "http://100.64.0.1:80"\n', ["superlink"]),
        (f'{TWO_LINES}report-url = "http://server:9093"\n', ["report-url"]),
    ],
)
def test_a_port_of_another_part_is_doubted_and_taken(tmp_path: Path, text: str, keys_in_doubt: list[str]) -> None:
    found = doubts(load(write(tmp_path, text)).settings)
    assert [key for key, _, _ in found] == keys_in_doubt
