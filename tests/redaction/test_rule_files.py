"""Rules that users bring, in the TOML form of gitleaks: added to the floor, never taken from it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from custody.errors import InvalidSetting
from custody.redaction import Redactor, load_rules
from custody.redaction.rule_files import FILE_BYTES_MAX, RULES_MAX, read_rules
from custody.settings import RedactionSection, Settings, SettingsFile
from custody.stores import make_redactor, open_disk

KEY = b"k" * 32
SHOP = r"""
title = "of the shop"
[extend]
useDefault = true

[allowlist]
description = "of the whole file"
paths = ['''vendor/''']
regexes = ['''^0000''']

[[rules]]
id = "shop-api.Key"
description = "Key of the shop"
regex = '''shop_([a-z0-9]{16})\b'''
keywords = ["SHOP_"]
tags = ["key"]

[[rules]]
id = "shop-pin"
description = "PIN of the shop"
regex = '''(?i)pin(\s*)[:=]\s*([0-9]{6,12})'''
secretGroup = 2
entropy = 1.5
keywords = ["pin"]
  [[rules.allowlists]]
  regexTarget = "line"
  regexes = ['''(?i)test system''']
  [[rules.allowlists]]
  condition = "AND"
  regexes = ['''^12''']
  stopwords = ["345"]

[[rules]]
id = "no-keywords"
regex = '''<<[A-F0-9]{12}>>'''

[[rules]]
id = "files-of-keys"
path = '''\.p12$'''
"""


@pytest.fixture
def shop(tmp_path: Path) -> Redactor:
    (tmp_path / "shop.toml").write_text(SHOP, encoding="utf-8")
    found = read_rules(tmp_path / "shop.toml")
    assert [rule.id for rule in found.rules] == ["shop_api_key", "shop_pin", "no_keywords"]
    assert found.skipped == 1
    return Redactor(KEY, rules=found.rules)


def kept(redactor: Redactor, value: Any) -> Any:
    return msgspec.msgpack.decode(redactor.keep(value, "").data)


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("key shop_a1b2c3d4e5f6a7b8 here", "a1b2c3d4e5f6a7b8", "key shop_[redacted:shop_api_key:"),
        ("PIN: 918273", "918273", "PIN: [redacted:shop_pin:"),
        ("x" * 50_000 + " pin = 918273" + "y" * 50_000, "918273", "pin = [redacted:shop_pin:"),
        ("a <<AB12CD34EF56>> b", "AB12CD34EF56", "a [redacted:no_keywords:"),
    ],
)
def test_a_rule_of_a_file_is_found_beside_the_built_in_ones(
    shop: Redactor, text: str, gone: str, left: str
) -> None:
    data = kept(shop, {"out": text, "url": "https://me:geheim77@host/"})
    assert gone not in data["out"] and left in data["out"]
    assert "geheim77" not in data["url"]


@pytest.mark.parametrize(
    "text",
    [
        "shop_0000c3d4e5f6a7b8",  # of the file's allow list
        "shop_a1b2c3d4e5f6a7b",
        "pin: 111111",  # too little entropy
        "the test system has pin: 918273",
        "pin: 123459",  # the pattern and the stopword
    ],
)
def test_what_the_file_allows_is_left(shop: Redactor, text: str) -> None:
    assert kept(shop, [text]) == [text]


def test_of_two_conditions_that_are_both_needed_one_is_not_enough(shop: Redactor) -> None:
    assert "129876" not in kept(shop, ["pin: 129876"])[0]
    assert "983457" not in kept(shop, ["pin: 983457"])[0]


def test_a_files_allow_list_excuses_nothing_that_a_built_in_rule_finds(tmp_path: Path) -> None:
    token = "ASIAGV3MCYKRDSZNC376"
    path = tmp_path / "all.toml"
    path.write_text(
        "[allowlist]\nregexes=['.*']\nstopwords=['a']\n[[rules]]\nid='x'\nregex='xx+'\n", encoding="utf-8"
    )
    redactor = Redactor(KEY, {"API_TOKEN": "hunter2-hunter2"}, rules=load_rules(path))
    data = kept(redactor, {"out": f"{token} hunter2-hunter2 xxxx", "password": "abc"})
    assert token not in str(data) and "hunter2" not in str(data) and "abc" not in str(data)
    assert "xxxx" in data["out"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rules]]\nid='a'\nregex='(x'\n", "rule 'a' has a regex that RE2 refuses"),
        ("[[rules]]\nid='a'\nregex='(?=x)'\n", "rule 'a' has a regex that RE2 refuses"),
        ("[[rules]]\nid='a'\nregex='x'\nsecretGroup=1\n", "rule 'a' names group 1"),
        ("[[rules]]\nid='a'\nregex='x'\nsecretGroup=-1\n", "rule 'a' names group -1"),
        ("[[rules]]\nid='a'\nregex='x'\n[[rules]]\nid='A'\nregex='x'\n", "rule 'A' is there already"),
        ("[[rules]]\nid='AWS access-key id'\nregex='x'\n", "is there already"),
        ("[[rules]]\nid='--'\nregex='x'\n", "no usable id"),
        ("[[rules]]\nregex='x'\n", "rule 1 has no id"),
        ("[[rules]]\nid=7\nregex='x'\n", "rule 1 has no id"),
        ("[[rules]]\nid='a'\nregex='x'\nkeywords='xyz'\n", "rule 'a' has keywords"),
        ("[[rules]]\nid='a'\nregex='x'\nentropy='high'\n", "rule 'a' has the entropy 'high'"),
        ("[[rules]]\nid='a'\nregex='x'\n[rules.allowlist]\nregexes=['(']\n", "RE2 refuses"),
        ("[[rules]]\nid='a'\nregex='x'\n[rules.allowlist]\nregexTarget='file'\n", "regexTarget"),
        ("rules = 1\n", "no tables"),
        ("[extend]\npath='/etc/passwd'\n", "extends another file"),
        ("not toml", "is not TOML"),
        ("[[rules]]\nid='a'\nregex='x'\n" * (RULES_MAX + 1), "at most 2000"),
        ("#" * (FILE_BYTES_MAX + 1), "larger than"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name_and_rule(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidSetting) as raised:
        load_rules(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot be read"):
        load_rules(tmp_path / "none.toml")
    with pytest.raises(InvalidSetting, match="cannot be read"):
        load_rules(tmp_path)


def test_two_files_cannot_have_a_rule_of_one_id(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("[[rules]]\nid='a'\nregex='x'\n", encoding="utf-8")
    first = load_rules(tmp_path / "one.toml")
    with pytest.raises(InvalidSetting, match="rule 'a' is there already"):
        load_rules(tmp_path / "one.toml", frozenset(rule.id for rule in first))


def test_the_rules_and_bounds_of_the_settings_hold_for_what_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[[rules]]\nid='shop'\nregex='shop_[0-9]{8}'\nkeywords=['shop_']\n", encoding="utf-8")
    section = RedactionSection(rules=(str(path),), bytes_max=200)
    settings = Settings(
        store=str(tmp_path / "store"),
        cwd=str(tmp_path),
        workspace=None,
        roots=(),
        file=SettingsFile(redaction=section),
        files_read=(),
    )
    redactor = make_redactor(open_disk(settings.store), {}, settings)
    assert "shop_12345678" not in str(kept(redactor, "a shop_12345678 b"))
    assert kept(redactor, "x" * 201)["$type"] == "unscanned"
    path.write_text("[[rules]]\nid='shop'\nregex='('\n", encoding="utf-8")
    with pytest.raises(InvalidSetting, match="RE2 refuses"):
        make_redactor(open_disk(settings.store), {}, settings)
