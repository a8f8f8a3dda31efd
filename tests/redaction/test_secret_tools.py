"""Tools whose step keeps its text to itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.errors import InvalidSetting
from custody.redaction import SecretTools
from custody.redaction.secret_tools import SECRET_TOOLS

SECRET = """
    mcp_call email_send http_get http_request webhook_fire webhook_x
    mcp.call mcp-call mcp/call mcp:call mcp__call mcpCall MCP_CALL McpCall MCPCall
    email-send email.send emailSend EmailSend EMAIL_SEND sendgrid__email_send google_email_send
    functions.email_send mcp__mail__email-send mail:emailSend
    http.get http-get httpGet HTTPGet HTTP_GET web__http_get web/http_post mcp__web__http_get
    functions.http_get     webhook.fire webhook-fire webhookFire hooks__webhook_fire _http_get
"""

ORDINARY = """
    http https https_get httpx_get httpd_status http2 webhook webhooks webhooks_list shell exec read_file
    mcp call mcp_calls mcp__github__create_issue email send_email email_sender email_send_later email_list
    check_http_status get_webhook_log not_mcp xemail_send
"""


@pytest.mark.parametrize("tool", SECRET.split())
def test_a_tool_on_the_list_matches_however_it_is_spelled(tool: str) -> None:
    assert SecretTools().matches(tool)


@pytest.mark.parametrize("tool", [*ORDINARY.split(), "", " ", "_", "*", "名前", "\ud800"])
def test_another_tool_does_not_match(tool: str) -> None:
    assert not SecretTools().matches(tool)


def test_blanks_between_words_make_no_difference() -> None:
    assert SecretTools().matches("Email Send")


def test_an_added_name_matches_in_every_spelling_and_nothing_else_does() -> None:
    tools = SecretTools(["vault_read", "GitHub_push", "glob:sms*"])

    matching = "vault_read vault.read Vault-Read vaultRead x__vault_read github_push git_hub_push sms smsSend"
    assert [tool for tool in matching.split() if not tools.matches(tool)] == []
    ordinary = "vault vault_reader vault_read_all github push mms"
    assert [tool for tool in ordinary.split() if tools.matches(tool)] == []


@given(st.lists(st.text("abc_.-*?!~ ", max_size=8).map("glob:{}".format) | st.text("abc_.-! ", max_size=8)))
def test_whatever_is_added_nothing_is_taken_away(added: list[str]) -> None:
    try:
        tools = SecretTools(added)
    except InvalidSetting:
        return
    assert tools.names[: len(SECRET_TOOLS)] == SECRET_TOOLS
    assert all(tools.matches(tool) for tool in SECRET.split())


def test_added_names_may_come_from_a_generator_and_may_repeat_the_list() -> None:
    tools = SecretTools(name for name in ("email_send", "vault_read"))

    assert tools.names == (*SECRET_TOOLS, "email_send", "vault_read")
    assert tools.matches("vault_read")


def test_a_pattern_for_everything_holds_everything_back() -> None:
    assert SecretTools(["glob:*"]).matches("shell")


@pytest.mark.parametrize(
    "name",
    ["", " ", "\t\n", "glob:", "glob: ", "__", "...", "!email_send", "-email_send", "~http", " vault",
     "!glob:http_*", "glob:!http_*", "sms_*", "sms?", "glob:[ab]*", "x" * 1000, None, 7],
)  # fmt: skip
def test_what_is_no_name_or_could_mean_to_take_one_away_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting):
        SecretTools(["vault_read", name])


def test_a_text_where_a_list_belongs_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"\['vault_read'\]"):
        SecretTools("vault_read")


def test_an_unmarked_pattern_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(InvalidSetting, match='"glob:sms_'):
        SecretTools(["sms_*"])


def test_a_name_too_long_to_be_a_tools_is_held_back() -> None:
    assert SecretTools().matches("x" * 100_000)


def test_only_so_many_names_are_remembered() -> None:
    tools = SecretTools()

    for number in range(10_000):
        tools.matches(f"tool_{number}")

    assert tools._remembered.cache_info().currsize < 10_000
