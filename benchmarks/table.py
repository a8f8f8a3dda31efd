"""Makes `benchmarks/results.json` and the table in the README from what the scripts measured.

`python benchmarks/table.py` reads `benchmarks/results/*.json`, writes the summary that is kept in the
repository and puts the table between the markers of the README. With `--check` it changes nothing and fails
when the README's table is not the one the summary gives.
"""

import json
import sys
from typing import Any

from harness import FOLDER, RESULTS, Measurement, figure

SUMMARY = FOLDER / "results.json"
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def collect() -> dict[str, Any]:
    """One summary of all result files."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    if not documents:
        sys.exit("There is nothing in benchmarks/results: run `make bench` first.")
    found = [measurement for document in documents for measurement in document["measurements"]]
    for measurement in found:
        for derived in ("met", "ratios"):
            del measurement[derived]
    return {
        "measured_at": max(document["measured_at"] for document in documents),
        "machine": documents[-1]["machine"],
        "measurements": sorted(found, key=lambda measurement: (measurement["row"], measurement["what"])),
    }


def table(summary: dict[str, Any]) -> str:
    lines = ["| What | Custody | Beside it | Ratio | Target | |", "|---|---|---|---|---|---|"]
    for fields in summary["measurements"]:
        measurement = Measurement(**fields)
        ratios = measurement.ratios()
        beside = "<br>".join(
            f"{peer}: {figure(value, measurement.unit)}" for peer, value in measurement.peers.items()
        )
        ratio = "<br>".join(f"{ratios[peer]:.2f}" for peer in measurement.peers if peer in ratios)
        verdict = "met" if measurement.met else f"missed by {measurement.missed_by:.0%}"
        value = figure(measurement.value, measurement.unit)
        lines.append(
            f"| {measurement.what} | {value} | {beside} | {ratio} | {measurement.target} | {verdict} |"
        )
    machine = summary["machine"]
    place = (
        f"Measured {summary['measured_at'][:10]} on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['kernel']}, {machine['filesystem']}, {machine['python']}. Ratios carry over to other "
        "machines, absolute figures do not."
    )
    return "\n".join([*lines, "", place])


def with_table(readme: str, text: str) -> str:
    if BEGIN not in readme or END not in readme:
        sys.exit(f"README.md has no {BEGIN} and {END} to put the table between.")
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    check = sys.argv[1:] == ["--check"]
    if not check:
        SUMMARY.write_text(json.dumps(collect(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    summary = json.loads(SUMMARY.read_text(encoding="utf-8"))
    before = README.read_text(encoding="utf-8")
    after = with_table(before, table(summary))
    if check:
        sys.exit(None if before == after else "The README's table is not the one of benchmarks/results.json.")
    README.write_text(after, encoding="utf-8")
    print(table(summary))


if __name__ == "__main__":
    main()
