"""Ordinary text that looks like secrets: none of it may be touched."""

import base64
import hashlib
import uuid
from collections.abc import Iterator

from tests.evidence.planting import ALNUM, DIGITS, HEX, UPPER32, URL64, Maker

CERTIFICATE = "MIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJ"


def look_alikes() -> list[str]:
    """At least two hundred texts, the same ones each time."""
    make = Maker(42)
    return [*digests(make), *names(make), *near_misses(make), *placeholders(), *code(), *keys_for_all(make)]


def digests(make: Maker) -> Iterator[str]:
    """What numbers and hashes things everywhere."""
    for number in range(8):
        seed = str(number).encode()
        yield hashlib.md5(seed).hexdigest()
        yield hashlib.sha1(seed).hexdigest()
        yield f"sha256:{hashlib.sha256(seed).hexdigest()}"
        yield "sha512-" + base64.b64encode(hashlib.sha512(seed).digest()).decode()
        yield f"h1:{base64.b64encode(hashlib.sha256(seed).digest()).decode()}"
        yield str(uuid.UUID(bytes=hashlib.md5(seed).digest()))
        yield f"00-{hashlib.md5(seed).hexdigest()}-{make.of(HEX, 16)}-01"
        yield f"commit {hashlib.sha1(seed).hexdigest()} (HEAD -> main)"
        yield f'ETag: "{hashlib.md5(seed).hexdigest()}-{number}"'
        yield f"index {make.of(HEX, 7)}..{make.of(HEX, 7)} 100644"
        yield f"data:image/png;base64,iVBORw0KGgo{make.of(ALNUM + '+/', 240)}"
        yield f"1{make.of(DIGITS, 12)}"


def names(make: Maker) -> Iterator[str]:
    """Names and ids that are no secrets."""
    for number in range(4):
        yield f"arn:aws:iam::{make.of(DIGITS, 12)}:role/deploy-{number}"
        yield f"i-0{make.of(HEX, 16)}"
        yield f"registry.example.com/team/app@sha256:{make.of(HEX, 64)}"
        yield f"pod/web-{make.of(HEX, 10)}-{make.of(ALNUM, 5).lower()}"
        yield f"chatcmpl-{make.of(ALNUM, 29)}"
        yield f"toolu_01{make.of(ALNUM, 22)}"
        yield f"call_{make.of(ALNUM, 24)}"
        yield f"req_{make.of(ALNUM, 24)}"
        yield f"cus_{make.of(ALNUM, 14)}"
        yield f"pk_live_{make.of(ALNUM, 24)}"
        yield f"https://cdn.example.com/assets/app.{make.of(HEX, 8)}.js?v={make.of(HEX, 20)}"
        yield f"https://example.com/list?page_token={make.of(ALNUM, 24)}&max_results=50"
        yield f"T{make.of(UPPER32, 10)} C{make.of(UPPER32, 10)} U{make.of(UPPER32, 10)}"
        yield f"ssh://git@git.example.com:2222/team/app-{number}.git"


def near_misses(make: Maker) -> Iterator[str]:
    """Almost of a provider's form: a wrong check, too short, within a longer word."""
    for prefix in ("ghp_", "gho_", "ghs_"):
        value, _ = make.checked62(prefix)
        yield value[:-1] + ("0" if value[-1] != "0" else "1")
        yield value[:-3]
    yield f"AKIA{make.of(UPPER32, 12)}"
    yield f"xAKIA{make.of(UPPER32, 16)}y"
    yield f"glpat_{make.of(ALNUM, 8)}"
    yield f"sk_live_{make.of(ALNUM, 4)}"
    yield f"eyJ{make.of(URL64, 20)}"
    yield "eyJhbGciOiJIUzI1NiJ9"
    yield f"hf_{make.of(ALNUM, 6)}"
    yield f"dapi{make.of(HEX, 8)}"
    yield f"task-{make.of(ALNUM, 20)}"
    yield f"risk-{make.of(ALNUM, 40)}"
    yield f"disk_live_{make.of(ALNUM, 24)}"
    yield "xoxb-not-a-token"
    yield "AIza is how Google's keys begin"
    yield "r8_rounded"


def placeholders() -> Iterator[str]:
    """What documentation shows in a secret's place."""
    yield "AKIAIOSFODNN7EXAMPLE"
    yield "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY is the example of the documentation"
    yield "ghp_" + "x" * 36
    yield "ghp_" + "0" * 36
    yield "sk-..."
    yield "sk-ant-api03-..."
    yield "xoxb-your-token-here"
    for value in ("${TOKEN}", "$TOKEN", "<TOKEN>", "<your-token>", "****", "{{ token }}", "%TOKEN%"):
        yield f"Authorization: Bearer {value}"
        yield f'token = "{value}"'
        yield f"export API_TOKEN={value}"
        yield f"password: {value}"
    for value in ("${TOKEN}", "****", "{{token}}"):
        yield f"https://user:{value}@example.com/"
    yield "PASSWORD=changeme"
    yield "password: ''"
    yield "-----BEGIN PRIVATE KEY----- stands at the top of the file"


def code() -> Iterator[str]:
    """Programs that handle secrets and have none."""
    yield "token = get_token()"
    yield "password: str"
    yield "password: str | None = None"
    yield 'api_key=os.environ["API_KEY"]'
    yield 'api_key = os.getenv("OPENAI_API_KEY", "")'
    yield "const token = await fetchToken(user.id);"
    yield "self.assertEqual(response.token, expected_token)"
    yield "def set_password(self, password: str) -> None:"
    yield "if not secrets.compare_digest(given_token, expected_token):"
    yield "cursor.execute('ALTER USER bob IDENTIFIED BY %s', (password,))"
    yield "tokenizer = AutoTokenizer.from_pretrained(name)"
    yield "next_page_token = response.get('nextPageToken')"
    yield "max_tokens=4096, token_count=812, prompt_tokens: 31"
    yield "author: Bob <bob@example.com>"
    yield "authorization_tier: gold"
    yield "secretary: Alice"
    yield "keyboard layout: de-latin1-nodeadkeys"
    yield "primary_key=True, foreign_key='users.id', sort_key=lambda item: item.name"
    yield "passed: 12, failed: 0, pass rate 100 %"
    yield "The password must have 12 characters, and the token expires after 3600 seconds."
    yield "type Password struct { Hash []byte }"
    yield 'resource "aws_secretsmanager_secret" "db" { name = "db-password" }'
    yield "kubectl create secret generic db --from-file=password=./password.txt"
    yield 'curl -u "$USER:$PASSWORD" https://api.example.com'
    yield 'curl -H "Authorization: Bearer $(gcloud auth print-access-token)" https://api.example.com'
    yield "GRANT SELECT ON shop TO reader"
    yield "machine api.example.com login bob password ${NETRC_PASSWORD}"
    yield "docker run -e API_TOKEN -e PASSWORD_FILE=/run/secrets/db web"
    yield "jwt.decode(token, key, algorithms=['HS256'])"
    yield "@app.post('/token', response_model=Token)"


def keys_for_all(make: Maker) -> Iterator[str]:
    """Keys and certificates that are meant to be seen."""
    rows = "\n".join(make.of(ALNUM + "+/", 64) for _ in range(10))
    yield f"-----BEGIN CERTIFICATE-----\n{CERTIFICATE}\n{rows}\n-----END CERTIFICATE-----\n"
    yield f"-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n{rows}\n-----END PUBLIC KEY-----\n"
    yield f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{make.of(ALNUM, 43)} bob@laptop"
    yield f"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ{make.of(ALNUM + '+/', 340)}= bob@laptop"
    yield f'{{"kty": "RSA", "kid": "2026-05", "e": "AQAB", "n": "{make.of(URL64, 340)}"}}'
    yield f"age1{make.of('qpzry9x8gf2tvdw0s3jn54khce6mua7l', 58)}"
    block = "PGP PUBLIC KEY BLOCK"
    yield f"-----BEGIN {block}-----\n\nmQINB{make.of(ALNUM, 59)}\n-----END {block}-----\n"
