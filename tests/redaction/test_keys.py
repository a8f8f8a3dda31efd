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
    api_token secret_key botToken webhook_secret csrf_token oauthToken xsrf-token APP_KEY licenseKey
    unseal_key
    JWT_SECRET_KEY storage_account_key consumerSecret X-Vault-Token recovery_codes REDISCLI_AUTH
"""

ORDINARY_NAMES = """
    authorization_tier token_count author authors max_tokens tokens total_tokens keyboard primary_key
    public_key PublicKey sort_key foreign_key partition_key key keys PWD OLDPWD pwd pass passed
    compass auth secretary tokenizer tokenize cookie_policy secret_name secretName password_policy
    access_key_id AWS_ACCESS_KEY_ID SSH_AUTH_SOCK session_id progressToken nextToken next_page_token
    nextPageToken NextContinuationToken eos_token cancellation_token max_token passwordless 123 名前
    token_type passphrase_file GIT_ASKPASS path stdout argv idempotency_key
"""

LOOK_ALIKES = """
    authorization_tier authorization_endpoint authorization_url authorization_code_flow authorized
    authorizer author author_id authorship authority authenticate authenticated authentication
    authentication_method auth_type auth_method auth_url auth_provider auth_mode token_count
    token_counts tokens_used tokens_per_second token_limit token_budget token_type token_url
    token_endpoint token_id token_name token_usage token_ttl token_expires_at token_length token_index
    token_ids tokenizer tokenizer_name tokenized tokenization tokenize max_token max_tokens min_tokens
    num_tokens total_tokens input_tokens output_tokens prompt_tokens completion_tokens reasoning_tokens
    cached_tokens next_token nextToken next_page_token nextPageToken page_token pageToken
    continuation_token continuationToken cancellation_token CancellationToken sync_token syncToken
    resume_token progress_token progressToken cursor_token eos_token bos_token pad_token unk_token
    mask_token sep_token cls_token stop_token start_token end_token special_token special_tokens
    last_token first_token new_token_count secretary secretariat secret_name secretName secret_id
    secret_ref secretRef secretKeyRef secret_arn secret_version secret_manager secrets_manager
    secret_path secret_engine secret_type keyboard keyboard_layout key key_id keyId key_name keyName
    key_path key_file keyfile key_type key_size key_count keys keyword keywords keystone monkey donkey
    turkey hockey keynote primary_key primaryKey foreign_key foreignKey sort_key sortKey partition_key
    partitionKey range_key hash_key cache_key cacheKey public_key publicKey PUBLIC_KEY idempotency_key
    idempotencyKey routing_key routingKey translation_key object_key s3_key dedup_key lookup_key map_key
    group_key row_key column_key index_key config_key env_key hot_key hotkey shortcut_key press_key
    api_key_id apiKeyId access_key_id accessKeyId AWS_ACCESS_KEY_ID api_version api_url api_base
    api_name password_policy password_length password_min_length password_reset_url password_field
    password_hint passwordless password_changed_at password_expires_at password_required
    password_strength passwords_match has_password hasPassword is_password requires_password
    show_password passport passenger passage passed passes passing pass_rate pass_count bypass compass
    encompass surpass pass pass_through passive cookie_policy cookie_name cookieName cookie_domain
    cookie_path cookie_consent cookies_enabled cookie_jar credential_type credentialType credential_id
    credentials_file credentials_path credential_helper credential_provider credentials_mode
    bearer_format bearerFormat jwt_algorithm jwt_issuer jwt_audience session_id sessionId session_name
    session_key_count signature signature_version fingerprint digest checksum hash etag nonce
    salt_rounds iteration_count pin_count spinner pinned shipping opinion private privateer private_ip
    private_dns private_repo public access access_level access_mode access_log client_id clientId
    client_name app_id app_name user_id username user_name login email account_id account_name tenant_id
    subscription_id resource_id project_id webhook_url webhook_id callback_url redirect_uri scope scopes
    grant_type token_bucket token_bucket_size tokenomics tokens stop_tokens token_embeddings
    token_logprobs detokenize auth author_email coauthor unauthorized unauthorized_count authorizations
    passphrase_hint authorization_id secretless is_secret has_secret token_address token_symbol
    token_decimals token_price
"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_a_name_ending_in_a_secret_word_names_a_secret(name: str) -> None:
    assert secret_name(name)


@pytest.mark.parametrize("name", [*ORDINARY_NAMES.split(), ""])
def test_a_name_that_only_contains_a_secret_word_does_not(name: str) -> None:
    assert not secret_name(name)


def test_hundreds_of_look_alikes_are_ordinary_names() -> None:
    names = LOOK_ALIKES.split()
    assert len(set(names)) >= 200
    assert [name for name in names if secret_name(name)] == []


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
