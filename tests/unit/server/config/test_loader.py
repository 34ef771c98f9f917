"""server.toml: what the shipped file says, and each way to get it wrong."""

import json
import re
from pathlib import Path

import pytest
from certificates import write_certificates
from typer.testing import CliRunner

from fleven.server.cli.main import app
from fleven.server.config.loader import load
from fleven.server.config.settings import ServerConfig
from fleven.server.errors import ConfigurationError

NEEDS_A_FILE = (
    "app-path",
    "certificate",
    "private-key",
    "root-certificates",
    "report-token",
    "supernode-authentication",
)


def write(folder: Path, text: str, name: str = "server.toml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def problems(file: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert caught.value.exit_code == 78
    return caught.value.problems


def test_the_shipped_file_changes_nothing(repository: Path) -> None:
    loaded = load(repository / "etc" / "fleven" / "server.toml", {})
    assert loaded.config == ServerConfig()


def test_the_shipped_file_shows_every_key_with_its_default(repository: Path, tmp_path: Path) -> None:
    text = (repository / "etc" / "fleven" / "server.toml").read_text(encoding="utf-8")
    lines = []
    for line in text.splitlines():
        match = re.fullmatch(r"# (([a-z-]+) = .*)", line)
        if match and match.group(2) not in NEEDS_A_FILE:
            lines.append(match.group(1))
        elif line.startswith("["):
            lines.append(line)
    uncommented = write(tmp_path, "\n".join(lines))
    assert load(uncommented, {}).config == ServerConfig()
    shown = set(re.findall(r"^# ([a-z-]+) = ", text, re.MULTILINE))
    known: set[str] = set()
    for name, field in ServerConfig.model_fields.items():
        table = field.annotation
        inner = getattr(table, "model_fields", None)
        known |= {key.replace("_", "-") for key in inner} if inner else {name.replace("_", "-")}
    assert shown == known


def test_a_missing_default_file_is_no_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fleven.server.config.loader.DEFAULT_CONFIG_FILE", tmp_path / "none.toml")
    assert load(None, {}).files == ()


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == (f"{tmp_path / 'none.toml'}: No such file or directory",)


def test_drop_ins_are_merged_in_order_and_named_in_problems(tmp_path: Path) -> None:
    file = write(tmp_path, "[scheduler]\nmax-concurrent-runs = 2\ntick-seconds = 0.5\n")
    write(tmp_path, "[scheduler]\nmax-concurrent-runs = 3\n", "server.toml.d/10.toml")
    second = write(tmp_path, "[scheduler]\nmax-concurrent-runs = 4\n", "server.toml.d/20.toml")
    config = load(file, {}).config
    assert (config.scheduler.max_concurrent_runs, config.scheduler.tick_seconds) == (4, 0.5)
    second.write_text("[scheduler]\nmax-concurrent-runs = 0\n", encoding="utf-8")
    (line,) = problems(file)
    assert line.startswith(f"{second}: scheduler.max-concurrent-runs: ")


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'colour = "red"\n'
        "[superlink]\n"
        'fleet-address = "nowhere"\n'
        "[fleet]\nstale-after-seconds = 100\noffline-after-seconds = 50\n"
        "[scheduler]\nmax-concurrent-runs = 0\n",
    )
    lines = problems(file)
    assert all(line.startswith(f"{file}: ") for line in lines)
    keys = {line.removeprefix(f"{file}: ").split(":")[0] for line in lines}
    assert keys == {"colour", "superlink.fleet-address", "fleet", "scheduler.max-concurrent-runs"}
    assert any("unknown key" in line for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "[superlink]\ncertificate = '/none'\n",
        "[web]\ncertificate = '/none'\nprivate-key = '/dev/null'\n",
        "[web]\ncertificate = '/dev/null'\nprivate-key = '/dev/null'\n",
        "insecure = true\n[superlink]\nsupernode-authentication = true\n",
        "[superlink]\nsupernode-authentication = false\n",
        "[superlink]\ncontrol-address = '127.0.0.1:9092'\n",
        "[web]\naddress = '127.0.0.1:99999'\n",
        "app-path = '/none'\n",
        "log-level = 'loud'\n",
        "superlink = 5\n",
        "[superlink\n",
    ],
)
def test_bad_values_are_one_line_each(tmp_path: Path, text: str) -> None:
    lines = problems(write(tmp_path, text))
    assert len(lines) == 1
    assert "\n" not in lines[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[web]\naddress = '*:9190'\n", 'write "0.0.0.0:9190"'),
        ("[web]\naddress = 'http://0.0.0.0:9190'\n", "without a scheme"),
        ("[web]\naddress = '0.0.0.0:9092'\n", "web.address and superlink.fleet-address need two different ports"),
        ("[web]\naddress = ”0.0.0.0:9092”\n", "line 2: ” is right double quotation mark"),
    ],
)
def test_what_operators_mistype_is_named_with_what_to_write(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = problems(write(tmp_path, text))
    assert expected in line


def test_a_byte_order_mark_is_no_part_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(b"\xef\xbb\xbflog-level = 'debug'\n")
    assert load(file, {}).config.log_level == "debug"


def test_a_certificate_needs_its_own_key(tmp_path: Path) -> None:
    one, other = write_certificates(tmp_path / "one"), write_certificates(tmp_path / "other")
    text = "[web]\ncertificate = '{}/server.crt'\nprivate-key = '{}/server.key'\n"
    assert load(write(tmp_path, text.format(one, one)), {}).config.web.certificate == one / "server.crt"
    (line,) = problems(write(tmp_path, text.format(one, other)))
    assert "key values mismatch" in line


def test_config_check_prints_json_when_it_fails_too(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    good = CliRunner().invoke(app, ["config", "check", "--json", "--config", str(file)])
    assert (good.exit_code, json.loads(good.output)) == (0, {"valid": True, "files": [str(file)], "problems": []})
    write(tmp_path, "colour = 1\n")
    bad = CliRunner().invoke(app, ["config", "check", "--json", "--config", str(file)])
    assert bad.exit_code == 78
    assert json.loads(bad.output)["valid"] is False
    assert "colour" in json.loads(bad.output)["problems"][0]
