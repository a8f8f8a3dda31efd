"""Texts that look like a secret of a rule and are none: placeholders, cut and spoilt tokens, wrong checksums, code
that handles secrets.

`near_misses` yields them for one rule, the same for the same seed; `glued` yields tokens inside longer words.
"""

import json
import random
import re
from collections.abc import Callable, Iterator

from tests.redaction.rule_examples import (
    EXAMPLES,
    FIELD,
    Make,
    age,
    drawn,
    encoded64,
    github,
    grafana,
    jwt,
    made,
    pem,
)

Spoil = Callable[[random.Random], str]

AROUND_NEAR = (
    "{}",
    "see {} there",
    "2026-01-02T03:04:05Z INFO got {} from store",
    '["{}"]',
    "\n{}\n",
    "({})",
)
"""Where nothing but the text itself says secret."""


def _replaced(form: str, found: re.Match[str], text: str) -> str:
    return form[: found.start()] + text + form[found.end() :]


def _broken(form: str) -> Iterator[str]:
    """Forms of which none is a secret: the longest field gone, cut, spoilt, or a placeholder."""
    longest = max(FIELD.finditer(form), key=lambda found: int(found[2]))
    size = int(longest[2])
    half = f"{{{longest[1]}:{min(2, size // 3)}}}"
    yield _replaced(form, longest, "x" * size)
    yield _replaced(form, longest, "X" * size)
    yield _replaced(form, longest, half)
    yield _replaced(form, longest, half + "§" + half)
    yield _replaced(form, longest, half + "…")
    yield _replaced(form, longest, "...")
    yield _replaced(form, longest, "${TOKEN}")
    yield _replaced(form, longest, "<TOKEN>")
    yield _replaced(form, longest, "*" * size)
    yield _replaced(form, longest, "0" * size)
    if longest[1] in ("b62", "b64", "b64u", "let"):
        yield _replaced(form, longest, f"EXAMPLE{{{longest[1]}:{max(0, size - 7)}}}")
        yield _replaced(form, longest, ("your-token-here-" * 20)[:size])


def near_misses(rule: str, seed: int, count: int) -> Iterator[str]:
    """Texts that look like the rule's, and hold no secret."""
    rng = random.Random(f"near {rule} {seed}")
    texts = [*NEAR.get(rule, ())]
    forms = [form for form in EXAMPLES[rule] if isinstance(form, str) and FIELD.search(form)]
    broken = [broken for form in forms for broken in _broken(form)]
    number = 0
    while number < count:
        for text in [
            *texts,
            *(made(form, rng).text for form in broken),
            *(spoil(rng) for spoil in SPOILT.get(rule, ())),
        ]:
            for where in AROUND_NEAR if "\n" not in text else AROUND_NEAR[:1]:
                yield where.replace("{}", text)
                number += 1


def glued(rule: str, seed: int) -> Iterator[str]:
    """Tokens of a fixed length inside a longer word: part of a digest or an encoded image, no secret."""
    rng = random.Random(f"glued {rule} {seed}")
    for form in EXAMPLES[rule]:
        example = made(form, rng)
        yield f"zQ7{example.text}"
        yield f"{example.text}zQ7"


def _wrong_checksum(make: Make) -> Spoil:
    def spoilt(rng: random.Random) -> str:
        token = make(rng).text
        place = rng.randrange(16, len(token) - 10)
        return token[:place] + ("A" if token[place] != "A" else "C") + token[place + 1 :]

    return spoilt


def _headless_jwt(rng: random.Random) -> str:
    """Three parts of base64url whose first is JSON, but no header."""
    parts = [encoded64(json.dumps({"a": drawn(rng, "hex", 12)}), url=True) for _ in range(2)]
    return ".".join([*parts, drawn(rng, "b64u", 43)])


SPOILT: dict[str, tuple[Spoil, ...]] = {
    "github_token": (_wrong_checksum(github),) * 4,
    "grafana_service_token": (_wrong_checksum(grafana),) * 4,
    "age_key": (_wrong_checksum(age),) * 4,
    "jwt": (
        _headless_jwt,
        lambda rng: jwt(rng).text.rpartition(".")[0].partition(".")[0],
        lambda rng: f"eyJ{drawn(rng, 'b64u', 60)}",
    ),
    "basic_auth": (
        lambda rng: f"Basic {encoded64(drawn(rng, 'b62', 20))}",
        lambda rng: f"Basic {encoded64('user:')}",
    ),
    "docker_auth": (lambda rng: f'"auth": "{encoded64(drawn(rng, "b62", 24))}"',),
    "discord_bot_token": (
        lambda rng: f"discord.py {drawn(rng, 'b64u', 24)}.{drawn(rng, 'b64u', 6)}.{drawn(rng, 'b64u', 27)}",
    ),
    "private_key": (
        lambda rng: pem(rng).text.replace("PRIVATE KEY", "CERTIFICATE"),
        lambda rng: pem(rng).text.replace("PRIVATE KEY", "PUBLIC KEY"),
    ),
}

NEAR: dict[str, tuple[str, ...]] = {
    "github_token": ("ghp_" + "x" * 36, "ghp_${TOKEN}", "ghp_...", "gho_<your token>"),
    "grafana_service_token": ("glsa_" + "x" * 32 + "_" + "0" * 8, "glsa_<TOKEN>"),
    "age_key": ("AGE-SECRET-KEY-1" + "Q" * 58, "AGE-SECRET-KEY-1..."),
    "docker_auth": ('"auth": "none"', '"auth": "bearer"', '"auth": ""'),
    "basic_auth": ("Basic authentication", "Basic information about", "Basic realm=shop", "basic <credentials>", "Basic ${AUTH}"),
    "private_key": (
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        '"-----BEGIN PRIVATE KEY-----\\n" + encoded + "\\n-----END PRIVATE KEY-----"',
        "a file that begins with -----BEGIN RSA PRIVATE KEY----- and ends with -----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n<your private key>\n-----END PRIVATE KEY-----",
        "PEM_BEGIN = b'-----BEGIN PRIVATE KEY-----'",
        "grep -l 'BEGIN OPENSSH PRIVATE KEY-----' ~/.ssh/*",
    ),
    "putty_key": ("Private-Lines: 14", "Private-Lines: {count}\n{lines}", "the field private-lines: 3 is missing"),
    "kubernetes_secret": (
        "kind: Secret", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\ntype: Opaque\n",
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  colour: Ymx1ZQ==\n", "kind: SecretStore\nspec:\n  x: 1\n",
    ),
    "kubernetes_secret_listed": (
        "apiVersion: v1\ndata:\n  colour: Ymx1ZQ==\nkind: ConfigMap\n", "kind: Secret", "data: {}\nkind: Secret\n",
    ),
    "discord_bot_token": ("discord.js.org", "bot token", "DISCORD_TOKEN=${DISCORD_TOKEN}", "Bot MTIz"),
    "command_password": (
        "curl -u admin:$PASSWORD https://shop.test", 'curl -u "$USER:${PASS}" https://shop.test', "mysql -u root -p shop",
        "docker login -u me --password-stdin", "mysql --port 3306 -h db", "redis-cli -h db ping", "curl -u me https://shop.test",
        "openssl rsa -passin env:PASS", "curl -sSfL https://shop.test:8443/x", "mysql -p$MYSQL_PASSWORD shop", "apt install mysql-client",
    ),
    "option_secret": (
        "deploy --password $PASSWORD", "deploy --password=<password>", "deploy --token ${TOKEN}", "tool --password-stdin",
        "tool --max-tokens 4096", "tool --password PASSWORD", "tool --next-token 2abc3def4ghi5", "tool --api-key YOUR_API_KEY",
        "tool --secret my-secret-name", "tool --token-count 128000", "tool --access-key-id 1",
    ),
    "sql_password": (
        "IDENTIFIED BY 'password'", "ALTER ROLE app WITH LOGIN PASSWORD NULL", "CREATE USER x IDENTIFIED BY '${PASS}'",
        "identified by name", "ALTER USER app PASSWORD %s", "user enters the password 'twice'",
    ),
    "connection_password": (
        "Server=db;User Id=sa;Password=${DB_PASSWORD};", "host=db user=app password=$PGPASSWORD dbname=shop",
        "Server=db;Password=<password>;", "host=db user=app dbname=shop", "Server=db;Integrated Security=true",
    ),
    "netrc_password": (
        "machine shop.test login me password <password>", "machine learning and password rules", "db.test:5432:shop:app:*****",
        "machine shop.test login me password ${PASSWORD}", "listening on 0.0.0.0:5432: ok",
    ),
    "quoted_password": (
        'password = "password"', 'password: str = ""', '"password": "Password"', '"password": "********"', "password='${PASSWORD}'",
        'password = "<your password>"', 'password="changeme"', '"password": "The password is too short"', "password = 'secret'",
        '{"password": "string"}', 'password = os.environ["DB_PASSWORD"]', 'password = getpass("Password: ")', '"password": "xxxxxxxx1"',
        "password: '{{ vault_password }}'", 'password="%s1"', 'type="password" name="login-field"',
    ),
    "quoted_secret": (
        'token = "identifier"', 'secret = "my-app-secret-name"', 'api_key=os.environ["API_KEY"]', '"nextToken": "a1b2c3d4e5f6g7"',
        'api_key = "YOUR_API_KEY"', '"token": "Token invalide"', 'secretName: "db-tls-2"', '"token_type": "bearer2you"',
        'api_key = "sk-..."', 'token = "${TOKEN}"', 'access_key = "us-east-1"', 'token = "latin-1-supplement"',
        'credentials: "include"', '"credentials": "same-origin"', 'secret = "projects/p1/secrets/s2"', '"secret": "arn:aws:x:1a2b3c"',
    ),
    "password_setting": (
        "password=password", "PASSWORD=$(cat /run/secrets/db)", "DB_PASSWORD=${DB_PASSWORD:-x}", "PASSWORD=changeme", "password: str",
        "password: string", "self.password = password", "connect(password=self.password2)", "password=get_password(user1)",
        "PASSWORD=********", "password: required", "POSTGRES_PASSWORD=<password>", "PASSWORD_FILE=/run/secrets/db1a2b",
    ),
    "environment_secret": (
        "API_KEY=$API_KEY", "SHOP_TOKEN=your-token-here", "SHOP_TOKEN=${TOKEN:?}", "APP_SECRET=$(cat secret)", "PRIMARY_KEY=order_id_2b3c4d",
        "CACHE_KEY=shop-orders-v2", "SHOP_API_KEY=<key>", "NEXT_TOKEN=", "SHOP_TOKEN=ShopTokenProvider", "SHOP_SECRET=/run/secrets/shop",
    ),
    "secret_setting": (
        "token = get_token()", "API_KEY=$API_KEY", "token: Optional[str]", "api_key: str", "secret_key: Ed25519PrivateKey",
        "TOKEN=your-token-here", "token=token2", "jwt=encode_jwt2(claims)", "secret: db-credentials", "token: identifier",
        "api_key=settings.api_key2", "access_key: AKIA", "max_tokens=4096a1b2c3d4", "page_token=a1b2c3d4e5", "next_token: a1b2c3d4e5f6",
    ),
    "cookie": ("Cookie: ", "Cookie: theme=dark; lang=en", "cookie: consent", "Set-Cookie: theme=dark; Path=/", "cookie: str = None"),
    "authorization": ("Authorization: required", '"Authorization": "${AUTH_HEADER_VALUE}"', "authorization: str", "Authorization: $TOKEN"),
    "bearer_token": (
        "Authorization: Bearer ${TOKEN}", "Authorization: Bearer <token>", "Authorization: Bearer $TOKEN", "Authorization: Bearer YOUR_API_KEY",
        'f"Bearer {token}"', "Bearer authentication", "bearer of bad news", "Authorization: Bearer ...", "Bearer your-access-token-here",
    ),
    "secret_header": ("X-Api-Key: ${API_KEY}", "X-Api-Key: <key>", "x-api-key: string", "X-Auth-Token: YOUR_TOKEN_1a2b", "PRIVATE-TOKEN: $TOKEN"),
    "url_signature": (
        "/a?Signature=<signature>", "/a?Signature=${SIGNATURE_OF_THE_REQUEST}", "/a?x-oss-signature=YOUR_SIGNATURE_GOES_HERE_AS_HEX",
        "/a?X-Amz-SignedHeaders=host;x-amz-content-sha256;x-amz-date", "/a?signature=required", "def check(signature=SIGNATURE): ...",
        "/a?signature=sha256&expected=1", "/a?x-oss-signature-version=OSS4-HMAC-SHA256",
    ),
    "url_parameter": (
        "/api?token=${TOKEN}", "/api?api_key=YOUR_API_KEY", "/list?pageToken=a1b2c3d4e5f6", "/x?token=<token>", "/x?token=identifier",
        "/list?page_token=a1b2c3d4e5f6&x=1", "/x?password=", "/search?q=token=",
    ),
}  # fmt: skip

GLUED = frozenset({
    "aws_access_key_id", "google_api_key", "digitalocean_token", "npm_token", "sonar_token", "rubygems_key", "crates_token",
    "nuget_key", "clojars_token", "groq_key", "e2b_key", "shopify_token",
    "pulumi_token", "prefect_key", "twilio_api_key_sid", "netlify_token", "tencent_secret_id", "langfuse_key", "easypost_key",
    "azure_ai_key", "square_token", "mailchimp_key",
})  # fmt: skip
"""Rules of tokens of a fixed length and no sign of their own within a word."""
