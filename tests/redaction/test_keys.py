"""Names that say their value is a secret, and values worth hiding."""

import pytest

from custody.redaction import secret_name, secrets_of
from custody.redaction.keys import has_secret_argument, secret_arguments

SECRET_NAMES = """
    password PASSWORD DB_PASSWORD db-password dbPassword user.password new_password passwd passphrase
    secret client_secret clientSecret ClientSecret AWS_SECRET_ACCESS_KEY awsSecretAccessKey token
    API_TOKEN GITHUB_TOKEN github_token accessToken id_token api_key apikey apiKey APIKey X-API-Key
    x-api-key OPENAI_API_KEY access_key private_key PrivateKey privateKeys authorization
    Authorization Proxy-Authorization cookie Cookie Set-Cookie set_cookie cookies credential
    credentials session_key bearer bearer_token password2 token_1 passwordConfirmation _authToken
    OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TRACES_HEADERS
    SecretString PGPASSWORD DB_PASS MYSQL_PWD pass_word signingKey jwt connectionString
"""

ORDINARY_NAMES = """
    authorization_tier token_count author authors max_tokens tokens total_tokens keyboard primary_key
    public_key PublicKey sort_key foreign_key partition_key key keys PWD OLDPWD pwd pass passed
    compass auth secretary tokenizer tokenize cookie_policy secret_name secretName password_policy
    access_key_id AWS_ACCESS_KEY_ID SSH_AUTH_SOCK session_id progressToken nextToken next_page_token
    nextPageToken NextContinuationToken eos_token cancellation_token max_token passwordless 123 名前
    token_type passphrase_file GIT_ASKPASS path stdout argv idempotency_key
"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_a_name_ending_in_a_secret_word_names_a_secret(name: str) -> None:
    assert secret_name(name)


@pytest.mark.parametrize("name", [*ORDINARY_NAMES.split(), ""])
def test_a_name_that_only_contains_a_secret_word_does_not(name: str) -> None:
    assert not secret_name(name)


def test_only_the_end_of_a_very_long_name_is_looked_at() -> None:
    assert secret_name("x_" * 1_000_000 + "password")
    assert not secret_name("password_" + "x" * 1_000_000)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["curl", "--password=x"], [(1, 11)]),
        (["API_KEY=x", "PATH=/bin"], [(0, 8)]),
        (["tool", "--api-key", "x", "y"], [(2, 0)]),
        (["tool", "--token", "--verbose"], []),
        (["tool", "--no-password", "host"], []),
        (["tool", "--ask-password", "host"], []),
        (["tool", "--password-stdin", "host"], []),
        (["tool", "--password=", "host"], []),
        (["curl", "-H", "X-Api-Key: x"], [(2, 11)]),
        (["curl", "-H", "Accept: x"], []),
        (["X-Api-Key: x"], []),
        (["Authorization: Bearer x"], [(0, 15)]),
        (["a", 7, None, "--token", 5], []),
        (["what is --token= for", "x"], []),
        (["the secret: never tell", "password must be long"], []),
        (["--max-tokens=5", "--max-tokens", "5"], []),
        ([], []),
    ],
)
def test_secrets_are_found_in_argument_lists(arguments: list[object], found: list[tuple[int, int]]) -> None:
    assert list(secret_arguments(arguments)) == found
    assert has_secret_argument(arguments) == bool(found)


def test_values_of_secret_looking_variables_are_known() -> None:
    assert secrets_of({"API_TOKEN": "s3cr3t-value", "PATH": "/usr/bin", "NPM_TOKEN": "npm_abcdef"}) == {
        "API_TOKEN": "s3cr3t-value",
        "NPM_TOKEN": "npm_abcdef",
    }


@pytest.mark.parametrize(
    "value",
    ["", "true", "none", "short", "1234567", "  abc  ", "aaaaaaaa", "********", "Password", "changeme"],
)
def test_values_that_stand_in_ordinary_text_are_not_worth_hiding(value: str) -> None:
    assert secrets_of({"API_TOKEN": value}) == {}


@pytest.mark.parametrize(
    "value", ["/bin/sh", "/run/secrets/token", "~/.config/token.json", "/home/me/key file.pem"]
)
def test_a_file_named_by_a_secret_looking_variable_is_not_the_secret(value: str) -> None:
    assert secrets_of({"API_TOKEN_FILE": value, "CREDENTIALS": value}) == {}


@pytest.mark.parametrize(
    "value", ["12345678", "hunter2", "/aBcD/eFgHiJkLmNoPqRsTuVwXyZ0123456789+ab", "correct horse battery"]
)
def test_values_that_can_be_told_from_ordinary_text_are(value: str) -> None:
    assert secrets_of({"API_TOKEN": value}) == {"API_TOKEN": value}
