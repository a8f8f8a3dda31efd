"""Ordinary work, without a secret: what tools are given and what they answer.

`calls(seed, count)` yields arguments and results, the same for the same seed. Much of it looks like secrets:
digests, ids, lock files, images in base64, certificates and public keys, code that handles tokens, documents
that show where they go.
"""

import base64
import hashlib
import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

Call = dict[str, Any]

_WORDS = """account adapter address agent amount archive array async author batch billing binary branch bridge
bucket buffer build bundle button cache call carrier cart catalog channel charge check city client clock cluster
code column command comment commit compiler config connect content context counter country cursor customer
dashboard data database debug decode default delete deploy detail device directory display document domain driver
edge editor element email encode engine entry error event example export factory feature field file filter flag
folder font format frame function gateway graph group handler hash header height history host image import index
input insert invoice item job journal key keyboard label language layout length level library license limit line
link list loader locale lock logger login machine manager map margin matrix member memory menu message method
metric middleware migration mobile model module monitor mutex name network node notice number object offset option
order output owner package page panel parser partition password path pattern payload payment pipeline pixel plan
platform plugin point pool port prefix preview price primary process product profile project property protocol
provider proxy queue quota range record reference region registry release render report request resource response
retry role route router row rule runtime sample schema scope script search secret section segment selector sensor
server service session shape shard signal size socket source stack stage state status storage stream string style
subject suffix summary switch symbol system table target task team template tenant test text theme thread ticket
timeout title token tool topic trace tracker transaction type union unit update upload user value variable vector
version view volume watcher webhook widget width window worker workspace writer zone""".split()


def _word(rng: random.Random) -> str:
    return rng.choice(_WORDS)


def _camel(rng: random.Random, count: int = 3) -> str:
    first, *rest = rng.choices(_WORDS, k=count)
    return first + "".join(word.capitalize() for word in rest)


def _snake(rng: random.Random, count: int = 2) -> str:
    return "_".join(rng.choices(_WORDS, k=count))


def _hex(rng: random.Random, count: int) -> str:
    return rng.randbytes((count + 1) // 2).hex()[:count]


def _uuid(rng: random.Random) -> str:
    text = _hex(rng, 32)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _base64(rng: random.Random, size: int) -> str:
    return base64.b64encode(rng.randbytes(size)).decode()


def _time(rng: random.Random) -> str:
    return (
        f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T{rng.randrange(24):02}:{rng.randrange(60):02}"
        f":{rng.randrange(60):02}.{rng.randrange(10**6):06}Z"
    )


def _version(rng: random.Random) -> str:
    return f"{rng.randrange(12)}.{rng.randrange(40)}.{rng.randrange(20)}"


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randrange(5, 14))).capitalize() + "."


def _lines(rng: random.Random, line: Callable[[random.Random], str], few: int, many: int) -> str:
    return "\n".join(line(rng) for _ in range(rng.randrange(few, many))) + "\n"


# -- version control ----------------------------------------------------------------------------------


def _git_log(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return (
            f"commit {_hex(rng, 40)}\nAuthor: {_word(rng).title()} <{_word(rng)}@shop.test>\n"
            f"Date:   {_time(rng)}\n\n    {_sentence(rng)}\n"
        )

    return _lines(rng, one, 3, 20)


def _git_diff(rng: random.Random) -> str:
    name = f"src/{_word(rng)}/{_snake(rng)}.py"
    body = "\n".join(f"{rng.choice(' +-')}{line}" for line in _source(rng, 1500).splitlines())
    return (
        f"diff --git a/{name} b/{name}\nindex {_hex(rng, 10)}..{_hex(rng, 10)} 100644\n--- a/{name}\n+++ b/{name}\n"
        f"@@ -{rng.randrange(900)},7 +{rng.randrange(900)},9 @@\n{body}\n"
    )


# -- source code --------------------------------------------------------------------------------------


@lru_cache(1)
def _sources() -> tuple[Path, ...]:
    """The standard library's own files. Its tests, which hold keys, are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "site-packages", "idlelib", "__pycache__"}
    files = [path for path in root.rglob("*.py") if left_out.isdisjoint(path.relative_to(root).parts)]
    return tuple(sorted(files))


@lru_cache(512)
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _source(rng: random.Random, size: int = 6000) -> str:
    text = _read(rng.choice(_sources()))
    start = rng.randrange(max(1, len(text) - size))
    return text[start : start + size]


def _javascript(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name, other = _camel(rng), _camel(rng, 2)
        return rng.choice([
            f"export async function {name}({other}, {{ token, apiKey, password }} = {{}}) {{",
            f"  const {name} = await {other}.get{name.capitalize()}({{ accessToken: this.accessToken }});",
            f"  if (!token || token.length < {rng.randrange(64)}) throw new Error('{_sentence(rng)}');",
            f"  headers: {{ Authorization: `Bearer ${{{name}}}`, 'X-Request-Id': '{_uuid(rng)}' }},",
            f"  password: Joi.string().min({rng.randrange(20)}).max(128).required(),",
            f"  const secret = process.env.{_snake(rng).upper()}_SECRET || '';",
            f"import {{ {name} }} from '@{_word(rng)}/{_word(rng)}-{_word(rng)}';",
            f"  this.token = {other}.nextToken(); // {_sentence(rng)}",
            f"  <input type=\"password\" name=\"{name}\" autocomplete=\"current-password\" />",
            f"  apiKey: config.get('{_word(rng)}.apiKey'), credentials: 'same-origin',",
            f"}} // {rng.randrange(10**9)}",
        ])  # fmt: skip

    return _lines(rng, one, 10, 60)


def _go(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name = _camel(rng)
        return rng.choice([
            f"func (s *{name.capitalize()}) {name}(ctx context.Context, token string) (*Token, error) {{",
            f"\ttok := &oauth2.Token{{AccessToken: {name}, TokenType: \"Bearer\"}}",
            f"\tif err := s.{_camel(rng)}(ctx, req.GetPassword(), cfg.SecretKey); err != nil {{",
            f"\t\treturn nil, fmt.Errorf(\"{_sentence(rng)}: token=%s: %w\", token, err)",
            f"\tPassword string `json:\"password\" yaml:\"password,omitempty\" env:\"{_snake(rng).upper()}_PASSWORD\"`",
            f"\treq.Header.Set(\"Authorization\", \"Bearer \"+{name})",
            f"\tapiKey := os.Getenv(\"{_snake(rng).upper()}_API_KEY\")",
            f"const {name.capitalize()} = 0x{_hex(rng, 8)}",
        ])  # fmt: skip

    return _lines(rng, one, 10, 60)


def _typed_python(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name = _snake(rng)
        return rng.choice([
            f"    token = get_{name}(token={name}, timeout={rng.randrange(99)})",
            f"    password: str = field(default=\"\", repr=False)  # {_sentence(rng)}",
            f"def {name}(token: str, *, api_key: str | None = None, secret: bytes = b\"\") -> Token:",
            f"    api_key=os.environ[\"{name.upper()}_API_KEY\"],",
            f"    secret_key = settings.{name}.secret_key.get_secret_value()",
            f"    assert response.json()[\"access_token\"] == {name}.access_token",
            f"    headers = {{\"Authorization\": f\"Bearer {{{name}}}\", \"X-Api-Key\": {name}_key}}",
            f"    client = Client(username={name}, password={name}_password2, token=token1)",
            f"    private_key: Ed25519PrivateKey = load_pem_private_key({name}.read_bytes(), password=None)",
            f"    token = tokenizer.decode([{rng.randrange(50000)}, {rng.randrange(50000)}], skip_special_tokens=True)",
            "PASSWORD_PATTERN = re.compile(r\"(?i)password\\s*[:=]\\s*(\\S+)\")",
            f"    credentials = Credentials.from_file({name}, scopes=[\"https://auth.test/{name}.readonly\"])",
            f"    parser.add_argument(\"--api-key\", default=os.getenv(\"{name.upper()}\"), help=\"{_sentence(rng)}\")",
            f"    if token in {{\"{_word(rng)}\", \"{_camel(rng)}\", \"utf8mb4\", \"ISO-8859-1\", \"sha256\"}}:",
        ])  # fmt: skip

    return _lines(rng, one, 10, 50)


def _minified(rng: random.Random) -> str:
    parts = [
        f"function {rng.choice('abcdefgh')}{rng.randrange(99)}(e,t){{return e.{_camel(rng)}=t.{_word(rng)}"
        f'||{rng.randrange(9999)},e.token===t.token&&"{_word(rng)}"!==typeof e.password}}'
        for _ in range(rng.randrange(20, 120))
    ]
    return "!" + "".join(parts) + f"//# sourceMappingURL=data:application/json;base64,{_base64(rng, 900)}"


def _sql(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return (
            f"INSERT INTO {_word(rng)} VALUES ({rng.randrange(10**6)},'{_uuid(rng)}','{_sentence(rng)}','{_time(rng)}',"
            f"X'{_hex(rng, 32)}',NULL,{rng.random():.6f},'{_word(rng)}@shop.test','{_hex(rng, 32)}');"
        )

    head = (
        "CREATE TABLE users (id bigint PRIMARY KEY, email text, password_hash text NOT NULL, token_count int,\n"
        "  api_token_id uuid, secret_name varchar(64) DEFAULT 'none', password varchar(255));\n"
    )
    return head + _lines(rng, one, 5, 40)


def _yaml(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name = _word(rng)
        return rng.choice([
            f"  - name: {name}\n    image: registry.test/{name}:{_version(rng)}@sha256:{_hex(rng, 64)}",
            f"    env:\n    - name: {name.upper()}_PASSWORD\n      valueFrom:\n        secretKeyRef:\n          name: {name}-db"
            "\n          key: password",
            f"  {name}_token: ${{{{ secrets.{name.upper()}_TOKEN }}}}",
            f"  password: \"{{{{ lookup('env', '{name.upper()}') }}}}\"",
            f"    secretName: {name}-tls-{rng.randrange(9)}",
            f"  uses: actions/cache@{_hex(rng, 40)} # v4\n    with:\n      key: {name}-key-{_hex(rng, 32)}",
            f"    token: {name}\n    max_tokens: {rng.randrange(9999)}",
            f"  checksum/config: {_hex(rng, 64)}\n  uid: {_uuid(rng)}\n  resourceVersion: \"{rng.randrange(10**8)}\"",
            f"      password: !vault {name}\n      api_key: !ENV ${{{name.upper()}_KEY}}",
        ])  # fmt: skip

    return _lines(rng, one, 4, 25)


# -- packages -----------------------------------------------------------------------------------------


def _package_lock(rng: random.Random) -> str:
    packages = {
        f"node_modules/{_word(rng)}-{_word(rng)}": {
            "version": _version(rng),
            "resolved": f"https://registry.npmjs.test/{_word(rng)}/-/{_word(rng)}-{_version(rng)}.tgz",
            "integrity": f"sha512-{_base64(rng, 64)}",
            "license": "MIT",
        }
        for _ in range(rng.randrange(5, 40))
    }
    return json.dumps({"name": _word(rng), "lockfileVersion": 3, "packages": packages}, indent=2)


def _poetry_lock(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return (
            f'[[package]]\nname = "{_word(rng)}-{_word(rng)}"\nversion = "{_version(rng)}"\nfiles = [\n'
            f'    {{file = "{_word(rng)}-{_version(rng)}-py3-none-any.whl", hash = "sha256:{_hex(rng, 64)}"}},\n]\n'
        )

    return _lines(rng, one, 5, 30) + f'content-hash = "{_hex(rng, 64)}"\n'


def _other_locks(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name, version = f"{_word(rng)}-{_word(rng)}", _version(rng)
        return rng.choice([
            f'"{name}@^{version}":\n  version "{version}"\n  resolved "https://registry.yarnpkg.test/{name}/-/{name}-'
            f'{version}.tgz#{_hex(rng, 40)}"\n  integrity sha512-{_base64(rng, 64)}',
            f'[[package]]\nname = "{name}"\nversion = "{version}"\nchecksum = "{_hex(rng, 64)}"',
            f"host.test/{_word(rng)}/{name} v{version} h1:{_base64(rng, 32)}\n"
            f"host.test/{_word(rng)}/{name} v{version}/go.mod h1:{_base64(rng, 32)}",
            f"{name}=={version} \\\n    --hash=sha256:{_hex(rng, 64)} \\\n    --hash=sha256:{_hex(rng, 64)}",
            f"    {name} ({version})\n      {_word(rng)} (~> {version})",
        ])  # fmt: skip

    return _lines(rng, one, 5, 30)


def _pip(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name, version = f"{_word(rng)}_{_word(rng)}", _version(rng)
        return rng.choice([
            f"Collecting {name}=={version}",
            f"  Downloading {name}-{version}-cp311-cp311-manylinux_2_17_x86_64.whl ({rng.randrange(999)} kB)",
            f"     ━━━━━━━━━━━━━━━━━━━━ {rng.randrange(999)}.{rng.randrange(9)}/999.9 kB {rng.randrange(99)} MB/s",
            f"  https://files.pythonhosted.test/packages/{_hex(rng, 2)}/{_hex(rng, 2)}/{_hex(rng, 60)}/{name}-{version}.tar.gz",
            f"Requirement already satisfied: {name}>={version} in ./.venv/lib (from {_word(rng)}) ({version})",
        ])  # fmt: skip

    return _lines(rng, one, 5, 40)


# -- encoded things -----------------------------------------------------------------------------------

_IMAGES = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\0\0\0\x02\0",
    b"\xff\xd8\xff\xe0\0\x10JFIF",
    b"wOF2\0\1\0\0\0\0",
    b"GIF89a",
)


def _image_bytes(rng: random.Random) -> bytes:
    body = rng.randbytes(rng.randrange(300, 9000))
    return rng.choice(_IMAGES) + bytes(rng.randrange(40)) + body + bytes(rng.randrange(80))


def _image(rng: random.Random) -> str:
    text = base64.b64encode(_image_bytes(rng)).decode()
    if rng.random() < 0.3:
        return "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    return f"data:image/png;base64,{text}"


def _certificate(rng: random.Random) -> str:
    kind = rng.choice(
        [
            "CERTIFICATE",
            "PUBLIC KEY",
            "RSA PUBLIC KEY",
            "CERTIFICATE REQUEST",
            "PGP PUBLIC KEY BLOCK",
            "X509 CRL",
        ]
    )
    text = base64.b64encode(b"0\x82\x03" + rng.randbytes(800)).decode()
    body = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"


def _public_keys(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return rng.choice([
            f"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ{_base64(rng, 384)} {_word(rng)}@host",
            f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{_base64(rng, 32)[:43]} {_word(rng)}@host",
            json.dumps({"kty": "RSA", "kid": _hex(rng, 40), "use": "sig", "alg": "RS256", "e": "AQAB",
                        "n": base64.urlsafe_b64encode(rng.randbytes(256)).decode().rstrip("=")}),
            f"PublicKey = {_base64(rng, 32)}\nAllowedIPs = 10.0.0.{rng.randrange(255)}/32",
            f"age1{''.join(rng.choices('qpzry9x8gf2tvdw0s3jn54khce6mua7l', k=58))}",
            f"SHA256:{_base64(rng, 32)[:43]} {_word(rng)}@host (ED25519)",
        ])  # fmt: skip

    return _lines(rng, one, 1, 8)


def _hex_dump(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        data = rng.randbytes(16)
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
        return f"{rng.randrange(2**24):08x}  {data[:8].hex(' ')}  {data[8:].hex(' ')}  |{shown}|"

    return _lines(rng, one, 10, 60)


def _svg(rng: random.Random) -> str:
    path = " ".join(
        f"{rng.choice('MLCQAZmlcqa')}{rng.uniform(-99, 99):.3f},{rng.uniform(-99, 99):.3f}"
        for _ in range(rng.randrange(30, 200))
    )
    return f'<svg viewBox="0 0 24 24" id="{_word(rng)}-{_hex(rng, 6)}"><path d="{path}"/></svg>'


def _digests(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        data = rng.randbytes(8)
        name = rng.choice(["md5", "sha1", "sha256", "sha512", "blake2b"])
        return f"{hashlib.new(name, data).hexdigest()}  dist/{_word(rng)}-{_version(rng)}.tar.gz"

    return _lines(rng, one, 3, 20)


# -- machines and services ----------------------------------------------------------------------------


def _log(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return rng.choice([
            f"{_time(rng)} INFO [{_word(rng)}] {_sentence(rng)} trace_id={_hex(rng, 32)} span_id={_hex(rng, 16)}",
            f'10.0.{rng.randrange(99)}.{rng.randrange(255)} - - [21/Nov/2026:14:39:26 +0000] "GET /api/{_word(rng)}/{_uuid(rng)}'
            f'?page={rng.randrange(99)}&sort={_word(rng)} HTTP/1.1" 200 {rng.randrange(10**5)} "-" "Mozilla/5.0 (X11)"',
            f"{_time(rng)} DEBUG http traceparent=00-{_hex(rng, 32)}-{_hex(rng, 16)}-01 request-id: {_uuid(rng)}",
            f"{rng.randrange(10**12, 2 * 10**12)} WARN token expired after {rng.randrange(9999)} s, refreshing token for {_word(rng)}",
            f"{_time(rng)} ERROR Invalid password for user {_word(rng)} from 10.0.0.{rng.randrange(255)} port {rng.randrange(65536)} ssh2",
            f"{_time(rng)} INFO usage prompt_tokens={rng.randrange(9999)} completion_tokens={rng.randrange(999)} total_tokens={rng.randrange(9999)}",
            f"{_time(rng)} INFO etag=\"{_hex(rng, 32)}-{rng.randrange(40)}\" x-amz-request-id: {_hex(rng, 16).upper()} x-amz-id-2: {_base64(rng, 56)}",
            f"{_time(rng)} INFO authorization granted, bearer token accepted, credential cache hit for {_camel(rng)}",
            f"{_time(rng)} DEBUG nextToken={_base64(rng, 48)} page_token={_base64(rng, 24)} cursor={_base64(rng, 30)}",
            f"{_time(rng)} INFO Authorization: required; Cookie: theme=dark; lang=en; consent=true",
        ])  # fmt: skip

    return _lines(rng, one, 5, 50)


def _containers(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return rng.choice([
            f"registry.test/{_word(rng)}   {_version(rng)}   {_hex(rng, 12)}   {rng.randrange(9)} weeks ago   {rng.randrange(999)}MB",
            f"{_word(rng)}-{_hex(rng, 10)}-{''.join(rng.choices('bcdfghjklmnpqrstvwxz2456789', k=5))}   1/1   Running   0   {rng.randrange(99)}d",
            f"sha256:{_hex(rng, 64)}: Pull complete",
            f"default   {_word(rng)}-token-{''.join(rng.choices('bcdfghjklmnpqrstvwxz2456789', k=5))}   kubernetes.io/service-account-token   3   41d",
            f"arn:aws:iam::{rng.randrange(10**11, 10**12)}:role/{_camel(rng)}-{_hex(rng, 8)}",
            f"i-{_hex(rng, 17)}  ami-{_hex(rng, 17)}  subnet-{_hex(rng, 17)}  vpc-{_hex(rng, 8)}",
        ])  # fmt: skip

    return _lines(rng, one, 5, 40)


def _traceback(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return f'  File "/srv/app/{_word(rng)}/{_snake(rng)}.py", line {rng.randrange(999)}, in {_snake(rng)}\n    return {_snake(rng)}(token=token, password=self._password)'

    return "Traceback (most recent call last):\n" + _lines(rng, one, 3, 15) + f"KeyError: '{_snake(rng)}'\n"


def _csv(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return f"{rng.randrange(10**6)},{_uuid(rng)},{_word(rng)},{rng.random():.8f},{_time(rng)},{_hex(rng, 40)}"

    return "id,uuid,token,score,created_at,sha1\n" + _lines(rng, one, 10, 60)


def _environment(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name = _snake(rng).upper()
        return rng.choice([
            f"{name}=/usr/local/{_word(rng)}/{_word(rng)}", f"{name}={rng.randrange(10**6)}", f"{name}={_word(rng)}",
            f"{name}_FILE=/run/{_word(rng)}/{_word(rng)}.json", f"{name}_URL=https://{_word(rng)}.test:8443/{_word(rng)}?x={_hex(rng, 8)}",
            f"{name}_VERSION={_version(rng)}", f"{name}_COMMIT={_hex(rng, 40)}", f"{name}_ID={_uuid(rng)}", "SSH_AUTH_SOCK=/tmp/ssh-XXXXXXabc/agent.812",
            f"{name}_TOKEN_TTL={rng.randrange(9999)}s", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus", f"{name}_TOKEN=", f"{name}_PASSWORD=",
        ])  # fmt: skip

    return _lines(rng, one, 10, 40)


def _documents(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        name = _word(rng).upper()
        return rng.choice([
            f"export {name}_API_KEY=<your API key>", f"export {name}_TOKEN=your-token-here", f"{name}_API_KEY=sk-...",
            f"curl -H \"Authorization: Bearer ${name}_TOKEN\" https://{name.lower()}.test/v1", "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", f"git clone https://<token>@host.test/{name.lower()}.git",
            f"Set `password` to the password of {name.lower()}: {_sentence(rng)}", "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "xoxb-your-bot-token", "The token looks like `eyJhbGciOi...`.", f"docker login -u {name.lower()} --password-stdin",
            "mysql -u root -p shop < dump.sql", "`Authorization: Basic <credentials>`", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
            f"| `--api-key` | your API key | `${name}_API_KEY` |", f"postgres://USER:PASSWORD@HOST:5432/{name.lower()}",
            f"{name}_PASSWORD=changeme", "secret: <base64 of the secret>", f"curl -u \"$USER:$PASS\" https://{name.lower()}.test",
            f"## {_sentence(rng)}", _sentence(rng), _sentence(rng),
        ])  # fmt: skip

    return _lines(rng, one, 8, 40)


def _translations(rng: random.Random) -> str:
    texts = {
        "password": rng.choice(["Password", "Mot de passe", "Passwort", "Contraseña"]),
        "passwordPlaceholder": "Enter your password", "login.password.too_short": "The password is too short (minimum 8)",
        "token.invalid": "Token invalide", "forgotPassword": "Forgot your password?", f"{_camel(rng)}": _sentence(rng),
        "secretKeyLabel": "Secret key", "apiKeyHelp": "Create an API key in your account", "cookie": "Cookies on this site",
    }  # fmt: skip
    return json.dumps(texts, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.5)


def _json_answer(rng: random.Random) -> Any:
    return {
        "id": f"{rng.choice(['call', 'msg', 'run', 'toolu', 'chatcmpl'])}_{''.join(rng.choices('ABCDEFGHabcdefgh0123456789', k=24))}",
        "object": _word(rng),
        "created": rng.randrange(10**9, 2 * 10**9),
        "usage": {
            "prompt_tokens": rng.randrange(9999),
            "max_tokens": rng.randrange(9999),
            "token_count": rng.randrange(99),
        },
        "etag": f'W/"{_hex(rng, 32)}"',
        "next_page_token": _base64(rng, 48),
        "nextToken": _base64(rng, 60),
        "author": _word(rng),
        "authorization_tier": rng.choice(["free", "pro"]),
        "items": [
            {"uuid": _uuid(rng), "sha": _hex(rng, 40), "key": _snake(rng), "created_at": _time(rng)}
            for _ in range(rng.randrange(9))
        ],
        "checksum": _base64(rng, 32),
    }


def _web_page(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return rng.choice([
            f'<script src="/static/{_word(rng)}.{_hex(rng, 20)}.js" integrity="sha384-{_base64(rng, 48)}" crossorigin="anonymous"></script>',
            f'<a class="{_word(rng)}-{_word(rng)}" href="/{_word(rng)}/{_hex(rng, 24)}?utm_source={_word(rng)}&ref={_hex(rng, 10)}#{_word(rng)}">{_sentence(rng)}</a>',
            f'<input id="password" type="password" name="password" placeholder="{_word(rng)} password" data-testid="{_uuid(rng)}">',
            f'<img src="https://images.test/{_base64(rng, 24).replace("/", "_")}/w={rng.randrange(2000)}" alt="{_sentence(rng)}">',
            f'<meta name="{_word(rng)}" content="{_sentence(rng)}">',
        ])  # fmt: skip

    return _lines(rng, one, 8, 50)


def _terminal(rng: random.Random) -> str:
    def one(rng: random.Random) -> str:
        return rng.choice([
            f"\x1b[32m✓\x1b[0m {_snake(rng)} \x1b[2m({rng.randrange(999)} ms)\x1b[0m", f"tests/test_{_snake(rng)}.py::test_{_snake(rng, 4)} PASSED [{rng.randrange(99):3}%]",
            f"-rw-r--r-- 1 {_word(rng)} staff {rng.randrange(10**7)} Nov 21 14:39 {_word(rng)}-{_hex(rng, 8)}.log", f"warning: unused variable `{_snake(rng)}`",
            f"  --> src/{_word(rng)}.rs:{rng.randrange(999)}:{rng.randrange(80)}", f"npm warn deprecated {_word(rng)}@{_version(rng)}: {_sentence(rng)}",
            f"{rng.randrange(999)} passing ({rng.randrange(99)}s)", f"0x{_hex(rng, 16)} in {_snake(rng)} (task-{_hex(rng, 8)}, disk-{_word(rng)}-{rng.randrange(99)})",
        ])  # fmt: skip

    return _lines(rng, one, 8, 60)


TEXTS: tuple[Callable[[random.Random], str], ...] = (
    _git_log, _git_diff, _source, _source, _source, _javascript, _go, _typed_python, _minified, _sql, _yaml, _package_lock,
    _poetry_lock, _other_locks, _pip, _image, _certificate, _public_keys, _hex_dump, _svg, _digests, _log, _log, _containers,
    _traceback, _csv, _environment, _documents, _translations, _web_page, _terminal,
)  # fmt: skip


def _call(rng: random.Random) -> Call:
    make = rng.choice(TEXTS)
    text = make(rng)
    path = f"/srv/{_word(rng)}/{_word(rng)}/{_snake(rng)}.{rng.choice(['py', 'json', 'txt', 'lock', 'ts'])}"
    arguments, result = rng.choice([
        ({"command": f"cat {path} | head -n {rng.randrange(999)}", "timeout": 30}, {"stdout": text, "stderr": "", "exit_code": 0}),
        ({"path": path}, {"content": text, "bytes": len(text), "digest": _hex(rng, 64)}),
        ({"path": path, "content": text}, {"written": True, "sha256": _hex(rng, 64)}),
        ({"argv": ["git", "show", _hex(rng, 40), "--", path], "max_tokens": 4096}, text.encode()),
        ({"url": f"https://{_word(rng)}.test/{_word(rng)}?id={_uuid(rng)}&page_token={_hex(rng, 20)}"}, _json_answer(rng)),
        ({"messages": [{"role": "user", "content": text}], "model": _word(rng)}, {"content": [{"type": "text", "text": _sentence(rng)}]}),
        ({"query": _sentence(rng), "cursor": _base64(rng, 30)}, json.dumps({"rows": [text[:2000]], "next_page_token": _hex(rng, 40)})),
        ({"image": make.__name__}, {"image": _image_bytes(rng), "text": text}),
    ])  # fmt: skip
    return {"make": make.__name__, "arguments": arguments, "result": result}


def calls(seed: int, count: int) -> Iterator[Call]:
    """So many calls of ordinary work."""
    rng = random.Random(f"ordinary {seed}")
    for _ in range(count):
        yield _call(rng)
