"""Which language the learner reads, and that every text of the engine is there in both."""

from __future__ import annotations

import json
import locale
import re
import string
from pathlib import Path

import pytest

from scratchvae import cli
from scratchvae.explain import MISSHAPEN
from scratchvae.practice import content, language
from scratchvae.practice.commands import COMMANDS
from scratchvae.practice.language import Messages, choose

VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
FILES = [path.stem for path in content.files("messages")]
PARTS = {"and", "or", "named", "besides"}  # of sentences
JAPANESE_ONLY = {"diagnosis"}  # its English is written by explain.py


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of a new user, whose locale says nothing."""
    monkeypatch.setattr(language, "data_dir", lambda: tmp_path / "new" / "scratchvae")
    monkeypatch.setattr(locale, "getlocale", lambda: (None, None))
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "new" / "scratchvae" / "settings.json"


def test_a_choice_is_remembered(settings: Path) -> None:
    assert choose() == "en"
    assert not settings.exists()
    assert choose("ja") == "ja"
    assert choose() == "ja"
    assert choose("en") == "en"
    assert choose() == "en"


def test_other_settings_are_kept(settings: Path) -> None:
    settings.parent.mkdir(parents=True)
    settings.write_text('{"colour": "blue", "language": "en"}', encoding="utf-8")
    choose("ja")
    assert json.loads(settings.read_text(encoding="utf-8")) == {"colour": "blue", "language": "ja"}


@pytest.mark.parametrize(
    ("variable", "value", "speech"),
    [
        ("LANG", "ja_JP.UTF-8", "ja"),
        ("LC_MESSAGES", "ja", "ja"),
        ("LC_ALL", "JA_jp", "ja"),
        ("LANG", "de_DE.UTF-8", "en"),
        ("LANG", "C", "en"),
        ("LANG", "", "en"),
    ],
)
def test_the_locale_decides_at_first(
    settings: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, speech: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert choose() == speech


def test_the_first_variable_that_is_set_decides(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert choose() == "en"
    monkeypatch.setenv("LC_ALL", "")
    assert choose() == "ja"


def test_what_is_remembered_goes_before_the_locale(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    choose("en")
    assert choose() == "en"


def test_a_locale_without_variables(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locale, "getlocale", lambda: ("Japanese_Japan", "932"))
    assert choose() == "ja"

    def unknown() -> None:
        raise ValueError("unknown locale")

    monkeypatch.setattr(locale, "getlocale", unknown)
    assert choose() == "en"


@pytest.mark.parametrize(
    "bad", [b"{", b"[]", b'"ja"', b'{"language": "fr"}', b'{"language": ["ja"]}', b"\xff\xfe", b""]
)
def test_broken_settings_stop_nobody(settings: Path, bad: bytes) -> None:
    settings.parent.mkdir(parents=True)
    settings.write_bytes(bad)
    assert choose() == "en"
    assert choose("ja") == "ja"
    assert choose() == "ja"


def test_settings_that_cannot_be_written_stop_nobody(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(language, "data_dir", lambda: tmp_path / "file" / "scratchvae")
    assert choose("ja") == "ja"
    assert choose() == "en"

    def homeless() -> Path:
        raise FileNotFoundError("there is no home directory")

    monkeypatch.setattr(language, "data_dir", homeless)
    assert choose("ja") == "ja"


def test_another_language_is_refused(settings: Path) -> None:
    with pytest.raises(ValueError, match="--lang: got 'fr', want one of en, ja"):
        choose("fr")


# ---------------------------------------------------------------------------------- the texts


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("name", FILES)
def test_every_message_is_there_in_both_languages_with_values_of_the_same_names(name: str) -> None:
    for key, both in content.read(content.ROOT / "messages" / f"{name}.toml").items():
        if name in JAPANESE_ONLY:
            continue
        assert set(both) == {"en", "ja"}, key
        assert both["en"].strip(), key
        assert both["ja"].strip(), key
        english, japanese = placeholders(both["en"]), placeholders(both["ja"])
        assert english <= japanese or japanese <= english, key


@pytest.mark.parametrize("name", FILES)
def test_japanese_messages_have_japanese_punctuation(name: str) -> None:
    for key, both in content.read(content.ROOT / "messages" / f"{name}.toml").items():
        for text in [both["ja"]] if "ja" in both else both.values():
            assert not re.search(r"[ぁ-んァ-ヶ一-龠][,.?!;]( |$)", text), key
            assert not re.search(r"[ぁ-んァ-ヶ一-龠]\([ぁ-んァ-ヶ一-龠]", text), key
            assert not re.search(r"。。|、、| 。| 、", text), key
            assert not text.endswith("、") or key in PARTS, key


def test_messages_are_filled_in() -> None:
    assert Messages("exercise", "en")("next_is", title="3. {x}") == "Next: 3. {x}"
    assert Messages("exercise", "ja")("next_is", title="3. 双曲線") == "次の問題：3. 双曲線"
    with pytest.raises(KeyError):
        Messages("exercise", "en")("nothing")
    with pytest.raises(KeyError):
        Messages("exercise", "en")("next_is")


def test_every_key_that_the_exercises_use_exists_and_none_is_left_over() -> None:
    names = ("exercise", "desk", "diagnosis", "workbook", "sandbox", "grade", "child")
    folder = Path(language.__file__).parent
    code = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in names)
    code += "".join(f'"shape_{why}"' for why in MISSHAPEN)
    for name in ("exercise", "diagnosis", "problem"):
        for key in content.read(content.ROOT / "messages" / f"{name}.toml"):
            if key.startswith("axis_") or key == "terms":
                continue
            stem = re.sub(r"^(progress|silent)_", "", key)
            assert re.search(rf"[\"']({key}|{stem}|{stem.replace('_', ' ')})[\"']", code), key


def test_every_reason_of_a_wrong_shape_has_its_japanese() -> None:
    keys = content.read(content.ROOT / "messages" / "diagnosis.toml")
    assert {f"shape_{why}" for why in MISSHAPEN} == {k for k in keys if k.startswith("shape_")}


def test_content_that_is_no_toml_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("x = \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.toml: Invalid value \(at line 1"):
        content.read(path)
    path.write_bytes(b"x = '\xff'\n")
    with pytest.raises(ValueError, match=r"a\.toml: .*utf-8"):
        content.read(path)


def test_files_come_in_the_order_of_their_names() -> None:
    names = [path.name for path in content.files("exercises")]
    assert names == sorted(names)
    assert "README.md" not in names
    assert content.text({"en": "\na b\n", "ja": "\n\nあ\n"}, "ja") == "あ"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--lang" in out
    assert "--json" in out
    assert f"example: scratchvae {COMMANDS[name][1]}" in " ".join(out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_language_that_is_none_is_a_usage_error(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--lang", "fr"]) == 2
    assert "--lang" in capsys.readouterr().err
