"""Send what is on the record to an OpenTelemetry collector; it may be down while the agent works.

Usage:  python examples/export_to_opentelemetry.py http://127.0.0.1:4318
Needs:  pip install 'custody-runtime[otel]'
"""

import subprocess
import sys

import custody


def main(endpoint: str) -> int:
    with custody.open() as runtime, runtime.run("greet", agent="host") as run:
        run.step("Hello!", model="gpt-4o", tokens={"input": 9, "output": 3})
        with run.observe("bow", {"depth_degrees": 15}) as call:
            call.result = "bowed"

    # A cursor in the store says what has been sent. A span that is sent again has the same id.
    command = [sys.executable, "-m", "custody", "export", "otel", "--endpoint", endpoint]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:4318"))
