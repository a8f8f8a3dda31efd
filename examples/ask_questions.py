"""Ask the record: what did it cost, what fails, which runs are still open.

Run the other examples first; this one only looks. The same from the command line:  custody stats --help
"""

import custody


def main() -> None:
    with custody.open() as runtime:
        index = runtime.index
        for tool in index.tool_rates():
            rate = "–" if tool.success_rate is None else f"{tool.success_rate:.0%}"
            print(f"{tool.tool}: {tool.calls} calls, {rate} succeeded, p95 {tool.latency_p95_us} µs")
        for group in (group for group in index.usage(by="model").groups if group.steps):
            cost = "–" if group.cost_nano_usd is None else f"${group.cost_nano_usd / 1e9:.4f}"
            print(f"{group.key}: {group.input_tokens} tokens in, {group.output_tokens} out, {cost}")
        for pattern in index.failure_patterns(count_min=1).items:
            print(f"{pattern.count} × {pattern.tool}: {pattern.pattern} (for example {pattern.example_id})")
        for run in index.last_runs().items:
            print(f"last of {run.agent}: {run.intent!r}, {run.outcome or 'still running'}")


if __name__ == "__main__":
    main()
