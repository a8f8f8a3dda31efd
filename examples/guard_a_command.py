"""Let Custody run the tools: checked against your rules, on the record before they run, under a deadline.

Run it, then look:  custody show latest
"""

import custody


@custody.tool(effect="read")
def word_count(text: str) -> int:
    return len(text.split())


def main() -> None:
    with custody.open(tools=[word_count]) as runtime, runtime.run("count", agent="clerk") as run:
        # A command sees this folder and the system; most of what lies elsewhere is not there for it.
        listed = run.call("exec", {"argv": ["ls", "."]}, timeout=60)
        print(listed.outcome, "at level", listed.level, "-", len(listed.result["stdout"].split()), "names")
        print(run.call("word_count", {"text": "to be or not to be"}).result)
        slow = run.call("exec", {"argv": ["sleep", "30"]}, timeout=0.2)
        print(slow.outcome, "-", slow.reason)
        wrong = run.call("word_count", {"txt": "a misspelled argument"})
        print(wrong.outcome, "-", wrong.decision.reason)


if __name__ == "__main__":
    main()
