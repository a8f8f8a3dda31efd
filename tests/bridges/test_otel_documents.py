"""What the documents say of the export to OpenTelemetry."""

from pathlib import Path

from tests.bridges.otel_reference import MARKED, PAGE, made, tables

from custody.bridges.otel import mapping
from custody.bridges.otel.destination import OtelSection

SETTINGS = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_the_reference_is_made_from_the_mapping():
    page = PAGE.read_text(encoding="utf-8")

    assert {found[1] for found in MARKED.findall(page)} == tables().keys()
    assert made(page) == page


def test_every_key_of_the_section_is_explained():
    _, _, section = SETTINGS.read_text(encoding="utf-8").partition("## `[otel]`")
    section, _, _ = section.partition("\n## ")

    for key in OtelSection.__struct_fields__:
        assert f"| `{key}` |" in section, key


def test_no_attribute_has_two_sources():
    for rows in (mapping.RUN, mapping.STEP, mapping.CALL):
        names = [row.name for row in rows]
        assert len(names) == len(set(names))


def test_what_the_conventions_do_not_know_has_our_own_prefix():
    for row in (*mapping.RUN, *mapping.STEP, *mapping.CALL):
        assert row.name.startswith(("gen_ai.", "custody.")) or row.name == "error.type"
