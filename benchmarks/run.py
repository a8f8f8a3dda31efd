"""Runs every benchmark, one after the other, and then makes the table. `make bench` is this.

`python benchmarks/run.py [--quick] [NAME …]` runs those named only. Each script can be run by itself and has
options of its own (`python benchmarks/record_call.py --help`).
"""

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NOT_A_BENCHMARK = {"run", "table", "harness", "recording", "daemon_echo"}


def main() -> None:
    every = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_A_BENCHMARK)
    parser = argparse.ArgumentParser(description="Run the benchmarks and make the table.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls, nothing written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(every)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(every):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    failed: list[str] = []
    for name in options.names or every:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, str(FOLDER / f"{name}.py"), *(["--quick"] if options.quick else [])]
        if subprocess.run(command).returncode:
            failed.append(name)
    if not options.quick and subprocess.run([sys.executable, str(FOLDER / "table.py")]).returncode:
        failed.append("table")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
