"""Put an agent's loop on the record: every model turn, every tool call, and how it ended.

Run it, then look:  custody show latest
"""

import custody


def model(question: str, turn: int) -> dict:
    """Stands for your model: it asks for two tools, then it answers."""
    if turn == 0:
        wanted = [{"id": "c1", "name": "search", "arguments": {"query": question}}]
        return {"text": "I will look that up.", "calls": wanted, "tokens": {"input": 120, "output": 18}}
    return {"text": "It is 42.", "calls": [], "tokens": {"input": 160, "output": 6}}


def search(query: str) -> list[str]:
    """Stands for your tool."""
    return [f"everything about {query}"]


def main() -> None:
    with custody.open() as runtime, runtime.run("answer a question", agent="oracle", caller="ada") as run:
        answer = ""
        for turn in range(5):
            said = model("life", turn)
            run.step(said["text"], model="gpt-4o", tokens=said["tokens"], calls=said["calls"])
            for wanted in said["calls"]:
                with run.observe(wanted["name"], wanted["arguments"], external_id=wanted["id"]) as call:
                    call.result = search(**wanted["arguments"])
            if not said["calls"]:
                answer = said["text"]
                break
        run.finish(output=answer)
        print(f"run {run.id[:8]}: {run.totals.calls} call, {run.totals.input_tokens} tokens read")


if __name__ == "__main__":
    main()
