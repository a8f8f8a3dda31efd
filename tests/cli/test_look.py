"""What was recorded, asked for at the command line."""

import json
import shlex
import shutil
import subprocess

import pytest
from tests.cli.conftest import RUN_SECONDS_MAX, Program, eventually


def record(custody):
    """A handful of calls; each by what it was."""
    return {
        "good": custody("exec", "--json", "--agent", "a", "--intent", "say hi", "--", "echo", "hi").json,
        "bad": custody("exec", "--json", "--agent", "b", "--session", "s1", "--", "sh", "-c", "exit 3").json,
        "refused": custody("exec", "--json", "--cwd", "/", "--", "true").json,
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A store for tests that only look, and the calls in it."""
    custody = Program(tmp_path_factory.mktemp("recorded"))
    yield custody, record(custody)
    custody.close()


def test_runs_are_listed_newest_first_with_what_they_were_for(recorded):
    custody, made = recorded
    ran = custody("runs")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["run", "started", "agent", "what", "outcome", "calls", "took"]
    assert [line.split()[0] for line in lines[1:]] == [
        made[name]["run_id"][:8] for name in ("refused", "bad", "good")
    ]
    assert "sh -c 'exit 3'" in lines[2]
    assert "say hi" in lines[3]
    assert ran.err == ""


def test_a_list_in_json_has_items_and_the_next_cursor(recorded):
    custody, _ = recorded
    first = custody("calls", "--json", "--limit", "2").json
    assert set(first) == {"items", "next"}
    assert len(first["items"]) == 2
    second = custody("calls", "--json", "--limit", "2", "--cursor", first["next"]).json
    assert len(second["items"]) == 1
    assert second["next"] is None
    assert custody("calls", "--cursor", "nonsense").code == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--outcome", "failed"], ["bad"]),
        (["--outcome", "rejected"], ["refused"]),
        (["--agent", "a"], ["good"]),
        (["--session", "s1"], ["bad"]),
        (["--tool", "shell"], []),
        (["--text", "hi"], ["good"]),
        (["--since", "1h"], ["refused", "bad", "good"]),
        (["--until", "1h"], []),
        (["--oldest"], ["good", "bad", "refused"]),
        (["--running"], []),
        (["--top-level"], ["refused", "bad", "good"]),
        (["--effect", "unknown", "--door", "cli"], ["refused", "bad", "good"]),
    ],
)
def test_calls_are_filtered(recorded, options, expected):
    custody, made = recorded
    found = [call["id"] for call in custody("calls", "--json", *options).json["items"]]
    assert found == [made[name]["id"] for name in expected]


def test_a_filter_word_that_does_not_exist_is_told_the_ones_that_do(recorded):
    custody, _ = recorded
    ran = custody("calls", "--outcome", "great")
    assert ran.code == 2
    assert "succeeded" in ran.err


def test_calls_of_another_workspace_are_hidden_and_the_footer_says_so(custody):
    inside, outside = custody.work / "project", custody.work / "other"
    for folder in (inside, outside):
        (folder / ".git").mkdir(parents=True)
    custody("exec", "--", "true", cwd=inside)
    ran = custody("runs", cwd=inside)
    assert len(ran.out.splitlines()) == 2
    assert ran.err == ""
    custody("exec", "--", "true", cwd=outside)
    ran = custody("runs", cwd=inside)
    assert len(ran.out.splitlines()) == 2
    assert ran.err == "custody: Shown is this workspace; --all shows every one.\n"
    ran = custody("runs", "--all", cwd=inside)
    assert len(ran.out.splitlines()) == 3
    assert ran.err == ""
    assert len(custody("calls", "--workspace", str(outside), "--json", cwd=inside).json["items"]) == 1


def test_a_run_is_shown_with_its_calls(recorded):
    custody, made = recorded
    ran = custody("show", made["good"]["run_id"][:10])
    assert ran.code == 0
    assert f"Run {made['good']['run_id']}" in ran.out
    assert "say hi" in ran.out
    assert made["good"]["id"][:8] in ran.out


def test_everything_about_a_call_is_shown(recorded):
    custody, made = recorded
    ran = custody("show", made["bad"]["id"][:10])
    assert ran.code == 0
    for text in (
        "sh -c 'exit 3'",
        "failed",
        "exit code 3",
        "allow: nothing is against it",
        "Used",
        f"shard {made['bad']['shard']}",
    ):
        assert text in ran.out, text
    document = custody("show", made["bad"]["id"], "--json").json
    assert document["host_before"] is not None


def test_what_the_command_printed_cannot_steer_the_terminal(custody):
    call = custody("exec", "--json", "--", "printf", "\\033]0;owned\\007 text").json
    ran = custody("show", call["id"])
    assert "\x1b" not in ran.out
    assert "\\x1b]0;owned\\x07 text" in ran.out


def test_names_of_withheld_variables_are_shown_and_their_values_nowhere(custody):
    secret = "tok-5f1c0de5f1c0de"
    call = custody("exec", "--json", "--", "true", DEPLOY_TOKEN=secret).json
    ran = custody("show", call["id"])
    assert "DEPLOY_TOKEN" in ran.out
    assert secret not in ran.out
    assert call["environment_withheld"] == ["DEPLOY_TOKEN"]
    stored = b"".join(file.read_bytes() for file in custody.store.rglob("*") if file.is_file())
    assert secret.encode() not in stored


def test_an_id_that_matches_nothing_or_several_is_a_sentence(custody):
    ids = [custody("exec", "--json", "--", "true").json["id"] for _ in range(3)]
    ran = custody("show", "zz")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("custody: No run, call or step in this store")
    # Seventeen ids have sixteen first digits.
    while len({found[0] for found in ids}) == len(ids):
        ids.append(custody("exec", "--json", "--", "true").json["id"])
    shared = next(found[0] for found in ids if sum(other[0] == found[0] for other in ids) > 1)
    ran = custody("show", shared, "--json")
    assert ran.code == 2
    assert ran.json["error"]["type"] == "Ambiguous"
    assert ran.json["error"]["hint"]


def test_perf_lines_cut_out_the_call(recorded):
    custody, made = recorded
    call = made["good"]
    lines = custody("show", call["id"], "--perf").out.splitlines()
    assert lines[0] == f"perf record -k CLOCK_MONOTONIC -p {call['pid']}"
    start, end = (
        f"{at // 10**9}.{at % 10**9:09d}" for at in (call["monotonic_start_ns"], call["monotonic_end_ns"])
    )
    assert lines[1] == f"perf script --time {start},{end}"
    assert custody("show", made["refused"]["id"], "--perf").code == 2
    assert custody("show", call["run_id"], "--perf").code == 2


@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")
def test_perf_cuts_exactly_the_call_out_of_a_profile(custody, tmp_path):
    """Two calls in one recording; the lines of the first must leave out every sample of the second."""
    data = tmp_path / "perf.data"
    burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    recording = ["perf", "record", "-q", "-k", "CLOCK_MONOTONIC", "-o", str(data), "--"]
    recorded = custody.command("exec", "--", "sh", "-c", burn)
    script = f"{shlex.join(recorded)}; {shlex.join(['sh', '-c', burn])}"
    ran = subprocess.run(
        [*recording, "sh", "-c", script], cwd=custody.work, env=custody.environment, capture_output=True
    )
    if not data.exists() or ran.returncode:
        pytest.skip("perf may not record here")
    call = custody("calls", "--json").json["items"][0]
    line = shlex.split(custody("show", call["id"], "--perf").out.splitlines()[1])
    listed = subprocess.run(
        [*line, "-i", str(data), "-F", "pid,time", "--ns"], capture_output=True, text=True, cwd=custody.work
    )
    samples = [line.split() for line in listed.stdout.splitlines()]
    times = [round(float(time.rstrip(":")) * 1e9) for _, time in samples]
    assert str(call["child_pid"]) in {pid for pid, _ in samples}
    slack = 1000  # a float of seconds
    assert min(times) >= call["monotonic_start_ns"] - slack
    assert max(times) <= call["monotonic_end_ns"] + slack


def test_sessions_are_listed(recorded):
    custody, _ = recorded
    assert [session["id"] for session in custody("sessions", "--json").json["items"]] == ["s1"]
    assert custody("sessions").out.splitlines()[1].split()[0] == "s1"


def test_stats_count_by_tool_and_outcome(recorded):
    custody, _ = recorded
    stats = custody("stats", "--json").json
    assert stats["by_outcome"] == {"succeeded": 1, "failed": 1, "rejected": 1}
    assert stats["tools"][0]["tool"] == "exec"
    head, line = custody("stats").out.splitlines()
    assert head.split() == "tool calls succeeded failed rejected success p50 p95 p99".split()
    assert line.split()[:7] == ["exec", "3", "1", "1", "1", "50", "%"]


def test_tail_prints_every_record_as_a_line_of_json(recorded):
    custody, _ = recorded
    lines = [json.loads(line) for line in custody("tail", "--json").out.splitlines()]
    kinds = [line["kind"] for line in lines if line["kind"] != "event"]
    assert kinds.count("call_started") == 2
    assert kinds.count("call_finished") == 3
    assert kinds.count("run_finished") == 3
    places = [(line["shard"], line["sequence"]) for line in lines]
    assert places == sorted(places)


def test_tail_goes_on_where_its_cursor_file_stands(custody):
    record(custody)
    cursor = custody.folder / "cursor"
    assert custody("tail", "--json", "--cursor", str(cursor)).out
    assert custody("tail", "--json", "--cursor", str(cursor)).out == ""
    custody("exec", "--", "echo", "more")
    lines = custody("tail", "--json", "--cursor", str(cursor)).out.splitlines()
    assert [json.loads(line)["kind"] for line in lines if "event" not in json.loads(line)["kind"]] == [
        "run_started", "call_started", "call_finished", "run_finished",
    ]  # fmt: skip
    cursor.write_text("{")
    ran = custody("tail", "--cursor", str(cursor))
    assert ran.code == 2
    assert "does not hold a cursor" in ran.err


def test_tail_follows_what_is_written_and_ends_quietly_with_its_reader(custody):
    record(custody)
    process = custody.start("tail", "-f", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    while json.loads(process.stdout.readline())["kind"] != "run_finished":
        pass
    custody("exec", "--", "echo", "followed")
    while b"followed" not in process.stdout.readline():
        pass
    process.stdout.close()
    for _ in range(100):
        if process.poll() is not None:
            break
        custody("exec", "--", "true")
    assert process.wait(RUN_SECONDS_MAX) == 0
    assert process.stderr.read() == b""


def test_a_running_call_is_running_and_stays_so_when_looked_at(custody):
    process = custody.start("exec", "--", "sh", "-c", "read line", stdin=subprocess.PIPE)
    call = eventually(
        lambda: custody.store.exists() and custody("calls", "--json", "--running").json["items"]
    )[0]
    assert call["outcome"] is None
    assert "running" in custody("calls").out
    assert [run["outcome"] for run in custody("runs", "--json", "--running").json["items"]] == [None]
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(30) == 0
    assert custody("show", call["id"], "--json").json["outcome"] == "succeeded"


@pytest.mark.parametrize("what", ["id", "run_id"])
def test_cancel_ends_a_call_in_another_process(custody, what):
    process = custody.start("exec", "--json", "--", "sleep", "300", stdout=subprocess.PIPE)
    call = eventually(
        lambda: custody.store.exists() and custody("calls", "--json", "--running").json["items"]
    )[0]
    ran = custody("cancel", call[what][:12], "--json")
    assert (ran.code, ran.json) == (0, {"cancelled": [call["id"]]})
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert json.loads(out)["outcome"] == "cancelled"
    assert custody("cancel", call["id"]).code == 1


@pytest.mark.long
def test_a_policy_that_cannot_be_used_keeps_nobody_from_ending_a_call(custody):
    process = custody.start("exec", "--json", "--", "sleep", "300", stdout=subprocess.PIPE)
    call = eventually(
        lambda: custody.store.exists() and custody("calls", "--json", "--running").json["items"]
    )[0]
    (custody.work / "custody.toml").write_text("[policy]\ndefualt = 1\n")
    ran = custody("cancel", call["id"], "--json")
    assert (ran.code, ran.json) == (0, {"cancelled": [call["id"]]})
    assert "custody.toml:2:1: " in ran.err
    out, _ = process.communicate(timeout=30)
    assert json.loads(out)["outcome"] == "cancelled"


def test_without_a_store_looking_says_what_to_do(custody):
    ran = custody("runs")
    assert (ran.code, ran.out) == (2, "")
    assert "does not exist" in ran.err
    assert "custody init" in ran.err
    assert custody("runs", "--json").json["error"]["type"] == "StoreUnusable"


def test_a_store_path_that_is_a_file_or_below_one_is_said_so(custody):
    file = custody.folder / "file"
    file.write_text("")
    for path in (file, file / "below"):
        ran = custody("runs", "--store", str(path))
        assert ran.code == 2
        assert f"The store {path} is not a folder." in ran.err


def test_at_a_terminal_tables_have_colours_unless_told_not_to(recorded):
    custody, _ = recorded
    assert "\x1b[31mfailed" in custody.at_terminal("calls", columns=80)
    plain = custody.at_terminal("calls", columns=80, NO_COLOR="1")
    assert "failed" in plain
    assert "\x1b[3" not in plain
