"""What a turn costs, and what is not known rather than guessed."""

import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidSetting
from custody.prices import Prices, load_prices
from custody.prices.reading import BUILT_IN
from custody.prices.table import COST_NANO_USD_MAX
from custody.records import Tokens

ROOT = Path(__file__).resolve().parents[1]

HOUSE = """\
version = "house-1"

[[model]]
match = ["dated:house-1"]
provider = "openai"
input = 2
output = 10.5
cache_read = "0.25"
cache_write = 2.5
"""


@pytest.fixture
def table(tmp_path):
    """Writes a price table and reads it."""

    def read(text: str) -> Prices:
        (tmp_path / "prices.toml").write_text(text, encoding="utf-8")
        return load_prices(os.fspath(tmp_path / "prices.toml"))

    return read


def at(year: int, month: int, day: int) -> int:
    return round(datetime(year, month, day, tzinfo=UTC).timestamp() * 1e6)


# -- the table that ships -----------------------------------------------------------------------------


def shipped() -> dict:
    return tomllib.loads(Path(BUILT_IN).read_text(encoding="utf-8"))


def test_the_table_that_ships_is_read_once_and_says_its_version():
    prices = load_prices()

    assert prices is load_prices()
    assert prices.version == shipped()["version"]
    assert datetime.strptime(prices.version, "%Y-%m-%d").replace(tzinfo=UTC)


def test_every_model_of_the_table_that_ships_has_a_cost_today():
    later = at(2027, 6, 1)
    names = {name.removeprefix("dated:") for model in shipped()["model"] for name in model["match"]}

    unpriced = [
        name for name in sorted(names) if not load_prices().cost_nano_usd(name, Tokens(1000, 1000), later)
    ]

    assert len(names) > 100
    assert unpriced == []


@pytest.mark.parametrize(
    ("model", "tokens", "usd"),
    [
        ("gpt-4o-2024-08-06", Tokens(1_000_000, 100_000), 2.5 + 1.0),
        ("gpt-4o-2024-05-13", Tokens(1_000_000, 100_000), 5.0 + 1.5),
        (
            "claude-opus-4-5-20251101",
            Tokens(100_000, 2_000, None, 80_000, 10_000),
            0.05 + 0.05 + 0.04 + 0.0625,
        ),
        ("gemini-2.5-pro", Tokens(200_000, 1_000), 0.25 + 0.01),
        ("gemini-2.5-pro", Tokens(200_001, 1_000), 0.5000025 + 0.015),
        ("grok-4.3", Tokens(200_000, 0), 0.5),
    ],
)
def test_a_list_price_is_what_the_provider_publishes(model, tokens, usd):
    assert load_prices().cost_nano_usd(model, tokens) == round(usd * 1e9)


def test_a_price_announced_for_a_day_holds_from_that_day():
    tokens = Tokens(1_000_000, 0)
    flash = [
        load_prices().cost_nano_usd("gemini-3.8-flash", tokens, day - offset)
        for day, offset in ((at(2027, 1, 1), 1), (at(2027, 1, 1), 0))
    ]

    assert flash == [750_000_000, 1_500_000_000]


# -- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["house-1", "house-1-20260921", "house-1-2026-09-21"])
@pytest.mark.parametrize("prefix", ["", "openai/", "openai:", "openai-responses:"])
def test_a_dated_name_takes_snapshots_and_the_spellings_of_client_libraries(table, prefix, name):
    assert table(HOUSE).cost_nano_usd(prefix + name, Tokens(1, 0)) == 2000


@pytest.mark.parametrize(
    "name",
    [
        "house", "house-10", "house-1-mini", "HOUSE-1", " house-1", "house-1-2026", "house-1@20260921",
        "anthropic/house-1", "azure/house-1", "openrouter/openai/house-1", "openai/openai/house-1",
        "house-1-20260921-20260921", "house-1-२०२६०९२१", "", "x" * 100_000, "\ud800",
    ],
)  # fmt: skip
def test_any_other_name_is_unknown(table, name):
    assert table(HOUSE).cost_nano_usd(name, Tokens(1, 0)) is None


def test_the_most_exact_of_several_entries_wins(table):
    def model(match: str, price: int) -> str:
        return f'[[model]]\nmatch = ["{match}"]\nprovider = "p"\ninput = {price}\noutput = 0\n'

    prices = table(
        'version = "1"\n'
        + model("glob:a*", 1)
        + model("glob:*", 2)
        + model("dated:a-x", 3)
        + model("a-x-20260101", 4)
    )

    costs = [
        prices.cost_nano_usd(name, Tokens(1, 0))
        for name in ("a-x-20260101", "a-x-20260102", "a-x", "a-y", "b")
    ]
    assert costs == [4000, 3000, 3000, 1000, 2000]


def test_a_name_may_be_a_kind_of_text():
    class Model(StrEnum):
        MAIN = "gpt-4o"

    assert load_prices().cost_nano_usd(Model.MAIN, Tokens(1, 0)) == 2500


def test_only_so_many_names_are_remembered(table):
    prices = table(HOUSE)

    for number in range(5000):
        prices.cost_nano_usd(f"unknown-{number}", Tokens(1, 1))

    assert prices._remembered.cache_info().currsize < 5000


# -- amounts ------------------------------------------------------------------------------------------


def test_input_includes_what_the_cache_took_part_in(table):
    tokens = Tokens(input=100, output=10, reasoning=10, cache_read=60, cache_write=30)

    assert table(HOUSE).cost_nano_usd("house-1", tokens) == 10 * 2000 + 60 * 250 + 30 * 2500 + 10 * 10_500


def test_what_nobody_counted_of_the_cache_is_priced_as_input(table):
    assert table(HOUSE).cost_nano_usd("house-1", Tokens(100, 0)) == 100 * 2000


def test_nothing_used_costs_nothing_and_that_is_known(table):
    assert table(HOUSE).cost_nano_usd("house-1", Tokens(0, 0)) == 0


@pytest.mark.parametrize(
    ("price", "costs"), [("0.0005", 1), ("0.00049", 0), ("0.0015", 2), ("0.000000001", 0)]
)
def test_the_sum_is_rounded_once_half_up(table, price, costs):
    prices = table(HOUSE.replace("input = 2", f"input = {price}"))

    assert prices.cost_nano_usd("house-1", Tokens(1, 0)) == costs
    assert prices.cost_nano_usd("house-1", Tokens(10**9, 0)) == round(float(price) * 10**12)


def test_a_tier_prices_the_whole_turn(table):
    prices = table(
        'version = "1"\n[[model]]\nmatch = ["m"]\nprovider = "p"\ninput = 1\noutput = 1\n'
        "tiers = [{ above_input_tokens = 10, input = 2, output = 3 },"
        " { above_input_tokens = 20, input = 5, output = 7 }]\n"
    )

    costs = [prices.cost_nano_usd("m", Tokens(count, 1)) for count in (10, 11, 20, 21)]
    assert costs == [11_000, 25_000, 43_000, 112_000]


def test_before_the_first_day_of_an_entry_the_price_is_unknown(table):
    prices = table(HOUSE.replace("input = 2", "valid_from = 2026-07-01\ninput = 2"))

    assert prices.cost_nano_usd("house-1", Tokens(1, 0), at(2026, 7, 1) - 1) is None
    assert prices.cost_nano_usd("house-1", Tokens(1, 0), at(2026, 7, 1)) == 2000
    assert prices.cost_nano_usd("house-1", Tokens(1, 0)) == 2000


@pytest.mark.parametrize(
    "tokens",
    [
        None,
        Tokens(),
        Tokens(1, None),
        Tokens(None, 1),
        Tokens(-1, 1),
        Tokens(1, -1),
        Tokens(10, 1, cache_read=11),
        Tokens(10, 1, cache_read=6, cache_write=5),
        Tokens(10, 1, cache_read=-1),
        Tokens(10, 1, cache_write=-1),
        Tokens(10, 1, reasoning=2),
        Tokens(10, 1, reasoning=-1),
        Tokens(True, 1),
        Tokens(1.5, 1),
        Tokens("1", 1),
        Tokens(1, 1, cache_read=float("nan")),
        Tokens(1, 1, reasoning="1"),
        Tokens(10**30, 1),
    ],
    ids=repr,
)
def test_counts_that_are_missing_or_cannot_be_have_no_cost(table, tokens):
    assert table(HOUSE).cost_nano_usd("house-1", tokens) is None


@pytest.mark.parametrize("part", ["cache_read", "cache_write"])
def test_a_part_without_a_price_leaves_the_cost_unknown_if_it_was_used(table, part):
    prices = table(re.sub(rf"{part} = .*\n", "", HOUSE))

    assert prices.cost_nano_usd("house-1", Tokens(10, 1, **{part: 1})) is None
    assert prices.cost_nano_usd("house-1", Tokens(10, 1, **{part: 0})) == 10 * 2000 + 10_500


def test_no_model_has_no_cost():
    assert load_prices().cost_nano_usd(None, Tokens(1, 1)) is None


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(model=anything, counts=st.tuples(*[anything] * 5), when=st.none() | st.integers())
def test_no_value_raises_and_no_cost_is_beyond_what_a_record_holds(model, counts, when):
    for name in (model, "gpt-6-sol", "gpt-5.6-sol"):
        cost = load_prices().cost_nano_usd(name, Tokens(*counts), when)
        assert cost is None or 0 <= cost <= COST_NANO_USD_MAX


# -- a file of the user's -----------------------------------------------------------------------------


def test_a_file_takes_the_place_of_the_table_that_ships(table):
    prices = table(HOUSE)

    assert prices.version == "house-1"
    assert prices.cost_nano_usd("gpt-4o", Tokens(1, 1)) is None


def test_a_file_that_extends_is_asked_first_and_names_both_versions(table):
    prices = table(
        "extends = true\n" + HOUSE.replace('"dated:house-1"', '"dated:house-1", "gpt-4o", "openai/gpt-4.1"')
    )

    assert prices.version == f"house-1+{load_prices().version}"
    assert prices.cost_nano_usd("openai/gpt-4o", Tokens(1, 0)) == 2000
    assert prices.cost_nano_usd("openai/gpt-4.1", Tokens(0, 1)) == 10_500
    for name in ("gpt-4.1", "gpt-4o-mini", "openai:o3", "claude-opus-4-5"):
        assert prices.cost_nano_usd(name, Tokens(9, 9)) == load_prices().cost_nano_usd(name, Tokens(9, 9)) > 0


SECOND = '[[model]]\nmatch = ["{}"]\nprovider = "{}"\ninput = 1\noutput = 1\n'


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("version = 1.1.1", "line 1"),
        (HOUSE.replace("version", "vesrion"), "vesrion"),
        (HOUSE.replace('version = "house-1"\n', ""), "version"),
        (HOUSE.replace('"house-1"\n', '" "\n', 1), "version"),
        (HOUSE.replace('"house-1"\n', '"' + "v" * 65 + '"\n', 1), "version"),
        (HOUSE.replace("[[model]]", "[[models]]"), "models"),
        (HOUSE.replace("input = 2", "input = -1"), "model[0] (dated:house-1): input"),
        (HOUSE.replace("input = 2", "input = nan"), "model[0] (dated:house-1): input"),
        (HOUSE.replace("input = 2", "input = inf"), "model[0] (dated:house-1): input"),
        (HOUSE.replace("input = 2", "input = true"), "model[0] (dated:house-1): input"),
        (HOUSE.replace("input = 2", "input = '2 USD'"), "model[0] (dated:house-1): input"),
        (HOUSE.replace("input = 2", "input = '٢'"), "model[0] (dated:house-1): input"),
        (HOUSE.replace("input = 2", "input = 1e999999999"), "model[0] (dated:house-1): input"),
        (HOUSE.replace("input = 2", "input = 1e9999999999999999999999"), "cannot be read"),
        (HOUSE.replace("input = 2", f"input = {'9' * 5000}"), "cannot be read"),
        (HOUSE.replace("input = 2", "input = 1e-999999999"), "decimals"),
        (HOUSE.replace("input = 2", "input = 0.1234567891"), "decimals"),
        (HOUSE.replace("input = 2", "input = 1.00000000000000000000000000000000001"), "decimals"),
        (HOUSE.replace("input = 2", "input = 1000001"), "input"),
        (HOUSE.replace("input = 2\n", ""), "input"),
        (HOUSE.replace("output = 10.5\n", ""), "output"),
        (HOUSE.replace('provider = "openai"\n', ""), "provider"),
        (HOUSE.replace('provider = "openai"', 'provider = ""'), "provider"),
        (HOUSE.replace("cache_read", "cached"), "cached"),
        (HOUSE.replace('["dated:house-1"]', '"house-1"'), "match"),
        (HOUSE.replace('["dated:house-1"]', "[]"), "match"),
        (HOUSE.replace('"dated:house-1"', '"dated:"'), "'dated:'"),
        (HOUSE.replace('"dated:house-1"', '" x"'), "' x'"),
        (HOUSE.replace('"dated:house-1"', '"house-*"'), '"glob:house-*"'),
        (HOUSE.replace('"dated:house-1"', '"dated:house-*"'), '"glob:house-*"'),
        (HOUSE.replace('"dated:house-1"', '"x", "x"'), "'x' is priced in model[0]"),
        (HOUSE + SECOND.format("dated:house-1", "openai"), "model[1] (dated:house-1): "),
        (HOUSE + SECOND.format("house-1", "openai"), "model[1] (house-1): 'house-1' is priced in model[0]"),
        (HOUSE + SECOND.format("house-1", "p") + "valid_from = 2026-01-01", "'openai''s in model[0]"),
        (HOUSE + "valid_from = 2026-01-01T00:00:00", "valid_from"),
        (HOUSE + "tiers = [{ above_input_tokens = 5, input = 1, output = 1 }]", "tiers[0].cache_read"),
        (HOUSE + "tiers = [{ input = 1, output = 1 }]", "above_input_tokens"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_and_entry(table, tmp_path, text, names):
    with pytest.raises(InvalidSetting) as caught:
        table(text)

    assert os.fspath(tmp_path / "prices.toml") in str(caught.value)
    assert names in str(caught.value)


@pytest.mark.parametrize("above", [(0,), (-5,), (9, 9), (9, 8)])
def test_tiers_go_up(table, above):
    tiers = ", ".join(f"{{ above_input_tokens = {count}, input = 1, output = 1 }}" for count in above)

    with pytest.raises(InvalidSetting, match="above_input_tokens"):
        table('version = "1"\n' + SECOND.format("m", "p") + f"tiers = [{tiers}]\n")


@pytest.mark.parametrize("content", [b"\xff", b"x = " + b"[" * 20_000, b"#" * 3_000_000])
def test_a_file_that_is_no_price_table_is_refused_by_name(tmp_path, content):
    path = tmp_path / "prices.toml"
    path.write_bytes(content)

    with pytest.raises(InvalidSetting, match=re.escape(os.fspath(path))):
        load_prices(os.fspath(path))


@pytest.mark.parametrize("name", ["absent.toml", ".", "zero\0byte"])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, name):
    with pytest.raises(InvalidSetting, match="cannot be read"):
        load_prices(os.fspath(tmp_path / name))


def test_a_table_without_models_prices_nothing(table):
    assert table('version = "none"').cost_nano_usd("gpt-4o", Tokens(1, 1)) is None


def test_the_example_in_the_documents_is_a_price_table(table):
    text = (ROOT / "docs" / "reference" / "prices.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)

    prices = table(example)

    assert prices.version == f"acme-2026-11+{load_prices().version}"
    assert prices.cost_nano_usd("claude-opus-5-5-20260921", Tokens(1000, 0)) == 3_600_000
    assert prices.cost_nano_usd("house-large", Tokens(1000, 0), at(2026, 12, 31)) == 400_000
    assert prices.cost_nano_usd("acme/house-large", Tokens(1000, 0), at(2027, 1, 1)) == 500_000
    assert prices.cost_nano_usd("llama-9-70b-instruct", Tokens(5, 5)) == 0
    assert prices.cost_nano_usd("gpt-4o", Tokens(1000, 0)) == 2_500_000


def test_importing_custody_reads_no_prices():
    program = "import sys, custody; print('custody.prices' in sys.modules, 'tomllib' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.split() == ["False", "False"]
