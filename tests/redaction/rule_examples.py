"""Texts that hold a secret of each kind, and texts that nearly do: generated, the same for the same seed.

`EXAMPLES` has the forms of every rule. A form is text with fields: `{b62:36}` is 36 random characters of
an alphabet, `{b62:20+}` 20 and more; what stands between « and » is the secret, all of it where there are no
such signs. `positives` puts them in surroundings. `rule_near_misses` breaks them.
"""

import base64
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from custody.redaction.checks import bech32_remainder

DIGITS = "0123456789"
LOWER = "abcdefghijklmnopqrstuvwxyz"
UPPER = LOWER.upper()
ALPHABETS = {
    "b62": DIGITS + UPPER + LOWER,
    "b64": UPPER + LOWER + DIGITS + "+/",
    "b64u": UPPER + LOWER + DIGITS + "-_",
    "b32": UPPER + "234567",
    "hex": DIGITS + "abcdef",
    "HEX": DIGITS + "ABCDEF",
    "let": UPPER + LOWER,
    "low": LOWER + DIGITS,
    "up": UPPER + DIGITS,
    "dig": DIGITS,
    "wg": "AEIMQUYcgkosw048",
}
UUID = "{hex:8}-{hex:4}-{hex:4}-{hex:4}-{hex:12}"

FIELD = re.compile(r"\{(b62|b64u?|b32|hex|HEX|let|low|up|dig|wg):([0-9]+)(\+?)\}")


class Example(NamedTuple):
    """A secret in the text that belongs to it."""

    text: str
    secret: str


Make = Callable[[random.Random], Example]
Form = str | Make


def drawn(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choices(ALPHABETS[alphabet], k=count))


def _marked(text: str) -> Example:
    if "«" not in text:
        return Example(text, text)
    before, _, rest = text.partition("«")
    secret, _, after = rest.partition("»")
    return Example(before + secret + after, secret)


def made(form: Form, rng: random.Random) -> Example:
    if not isinstance(form, str):
        return form(rng)

    def field(found: re.Match[str]) -> str:
        return drawn(rng, found[1], int(found[2]) + (rng.randrange(12) if found[3] else 0))

    return _marked(FIELD.sub(field, form))


# -- forms with something to compute ------------------------------------------------------------------


def checksum62(text: str) -> str:
    number, out = zlib.crc32(text.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        out = ALPHABETS["b62"][digit] + out
    return out


def github(rng: random.Random) -> Example:
    body = drawn(rng, "b62", 30)
    token = rng.choice(["ghp_", "gho_", "ghu_", "ghs_", "ghr_"]) + body + checksum62(body)
    return Example(token, token)


def grafana(rng: random.Random) -> Example:
    body = "glsa_" + drawn(rng, "b62", 32)
    token = f"{body}_{zlib.crc32(body.encode()).to_bytes(4, 'little').hex()}"
    return Example(token, token)


def age(rng: random.Random) -> Example:
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    values = [rng.randrange(32) for _ in range(51)] + [rng.choice([0, 16])]
    remainder = bech32_remainder(b"age-secret-key-", values + [0] * 6) ^ 1
    values += [remainder >> 5 * (5 - place) & 31 for place in range(6)]
    token = "AGE-SECRET-KEY-1" + "".join(alphabet[value] for value in values).upper()
    return Example(token, token)


def encoded64(data: bytes | str, *, url: bool = False) -> str:
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).decode().rstrip("=") if url else base64.b64encode(data).decode()


def jwt(rng: random.Random) -> Example:
    header = rng.choice([
        {"alg": "HS256", "typ": "JWT"}, {"typ": "JWT", "alg": "RS256"}, {"kid": drawn(rng, "hex", 8), "alg": "ES256"},
    ])  # fmt: skip
    claims = {"sub": drawn(rng, "dig", 9), "iat": rng.randrange(1_700_000_000, 1_800_000_000), "name": "Jo"}
    separators = rng.choice([(",", ":"), (", ", ": ")])
    parts = [encoded64(json.dumps(part, separators=separators), url=True) for part in (header, claims)]
    token = ".".join([*parts, drawn(rng, "b64u", 43)])
    return Example(token, token)


def basic(rng: random.Random) -> Example:
    secret = encoded64(f"{drawn(rng, 'low', 6)}:{drawn(rng, 'b62', 14)}")
    return Example(f"Basic {secret}", secret)


def docker_auth(rng: random.Random) -> Example:
    secret = encoded64(f"{drawn(rng, 'low', 6)}:{drawn(rng, 'b62', 20)}")
    return Example(f'{{"auths": {{"registry.test": {{"auth": "{secret}"}}}}}}', secret)


def discord(rng: random.Random) -> Example:
    number = encoded64(str(rng.randrange(10**17, 10**18)), url=True)
    secret = f"{number}.{drawn(rng, 'b64u', 6)}.{drawn(rng, 'b64u', 38)}"
    return Example(f"DISCORD_TOKEN={secret}", secret)


PEM_KINDS = ("RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY",
             "DSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK")  # fmt: skip


def pem(rng: random.Random, line_end: str = "\n") -> Example:
    kind = rng.choice(PEM_KINDS)
    lines = [f"-----BEGIN {kind}-----"]
    if kind == "RSA PRIVATE KEY" and rng.random() < 0.5:
        lines += ["Proc-Type: 4,ENCRYPTED", f"DEK-Info: AES-128-CBC,{drawn(rng, 'HEX', 32)}", ""]
    lines += [drawn(rng, "b64", 64) for _ in range(rng.randrange(2, 26))]
    lines += [drawn(rng, "b64", 38) + "==", f"-----END {kind}-----"]
    text = line_end.join(lines)
    return Example(text, text)


def pem_in_json(rng: random.Random) -> Example:
    secret = pem(rng, "\\n").text
    return Example(f'{{"type": "service_account", "private_key": "{secret}\\n", "client_id": "1"}}', secret)


def pem_in_json_in_json(rng: random.Random) -> Example:
    secret = pem(rng, "\\\\n").text
    return Example(f'{{\\"private_key\\": \\"{secret}\\\\n\\"}}', secret)


def pem_cut(rng: random.Random) -> Example:
    secret = "\n".join(pem(rng).text.splitlines()[:-1])
    return Example(secret, secret)


def pem_indented(rng: random.Random) -> Example:
    secret = pem(rng, "\n    ").text
    return Example(f"tls.key: |\n    {secret}", secret)


def putty(rng: random.Random) -> Example:
    lines = [drawn(rng, "b64", 64) for _ in range(14)]
    secret = "\n".join(lines)
    head = (
        "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nComment: key\nPublic-Lines: 1\nAAAAB3NzaC1yc2E\n"
    )
    text = f"{head}Private-Lines: 14\n{secret}\nPrivate-MAC: {drawn(rng, 'hex', 40)}\n"
    return Example(text, secret)


def _kubernetes_data(rng: random.Random) -> str:
    return f"  username: {encoded64('admin')}\n  password: {encoded64(drawn(rng, 'b62', 16))}"


def kubernetes(rng: random.Random) -> Example:
    secret = _kubernetes_data(rng)
    head = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: db\ntype: Opaque\n"
    return Example(f"{head}data:\n{secret}\n", secret.strip())


def kubernetes_listed(rng: random.Random) -> Example:
    secret = _kubernetes_data(rng)
    return Example(f"apiVersion: v1\ndata:\n{secret}\nkind: Secret\nmetadata:\n  name: db\n", secret.strip())


def _password(rng: random.Random) -> str:
    """As people choose them: a word, digits and a sign in it."""
    words = ("correct", "horse", "Battery", "staple", "Winter", "dragon", "Monkey", "sunshine")
    return f"{rng.choice(words)}{rng.choice('!$%+?^*')}{rng.randrange(10, 99999)}{rng.choice(words)}"


def _filled(form: str, value: Callable[[random.Random], str] = _password) -> Make:
    """A form whose secret is drawn by a function, at `@`."""
    return lambda rng: _marked(form.replace("@", f"«{value(rng)}»"))


def _random_text(rng: random.Random) -> str:
    return drawn(rng, "b62", rng.randrange(20, 48))


# -- the forms of every rule --------------------------------------------------------------------------

EXAMPLES: dict[str, tuple[Form, ...]] = {
    # clouds
    "aws_access_key_id": ("AKIA{b32:16}", "ASIA{b32:16}", "ABIA{b32:16}"),
    "aws_secret_access_key": (
        "aws_secret_access_key = «{b64:40}»", "AWS_SECRET_ACCESS_KEY=«{b64:40}»",
        '"SecretAccessKey": "«{b64:40}»"', "awsSecretKey: 'x', secretAccessKey: '«{b64:40}»'",
    ),
    "aws_key_pair": ("AKIA{b32:16},«{b64:40}»", "AKIA{b32:16}:«{b64:40}»"),
    "aws_session_token": ("IQoJb3JpZ2lu{b64:200+}", "FwoGZXIvYXdz{b64:200+}"),
    "aws_bedrock_key": ("ABSKQmVkcm9ja0FQSUtleS{b64:109+}",),
    "aws_signature": ("https://b.s3.test/k?X-Amz-Expires=60&X-Amz-Signature=«{hex:64}»",),
    "url_signature": (
        "https://d1.cloudfront.test/a?Expires=1&Signature=«{b64u:86}»&Key-Pair-Id=K2", "/a?Expires=1&Signature=«{b62:27}%3D»",
        "https://b.oss.test/a?x-oss-expires=60&x-oss-signature=«{hex:64}»", "/a?x-obs-security-token=«{b64u:120}»&x=1",
        "/a?Expires=1%26Signature=«{b64u:86}»", r"/a?Expires=1\u0026Signature=«{b64u:86}»",
    ),
    "google_api_key": ("AIza{b64u:34}{b62:1}",),
    "google_auth_key": ("AQ.Ab{b64u:50}",),
    "google_client_secret": ("GOCSPX-{b64u:28}",),
    "google_access_token": ("ya29.{b64u:120+}",),
    "google_refresh_token": ("1//0{b64u:60+}",),
    "azure_storage_key": (
        "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=«{b64:86}==»;EndpointSuffix=core.test",
    ),
    "azure_shared_key": (
        "Endpoint=sb://shop.test/;SharedAccessKeyName=Root;SharedAccessKey=«{b64:43}=»",
        "Endpoint=https://shop.test;AccessKey=«{b64:43}=»;Version=1.0;",
    ),
    "azure_identifiable_key": (
        "{b64:76}+ASt{b64:5}A==", "{b64:33}+ASb{b64:5}A=", "{b62:42}AzSeA{b62:5}", "{b64u:44}AzFu{b64u:5}A==",
        "{b64:42}+ACRA{b64:5}",
    ),
    "azure_ai_key": ("{b62:52}JQQJ99{b62:26}",),
    "azure_sas": (
        "https://shop.blob.test/c?sv=2024-01-01&se=2026-01-01&sr=b&sig=«{b64u:43}%3D»",
        "https://prod.logic.test/workflows/1/triggers/manual/paths/invoke?sp=run&sig=«{b64u:43}»",
    ),
    "azure_client_secret": ("{b62:3}8Q~{b62:34}", "{b62:3}7Q~{b62:31}"),
    "azure_devops_pat": ("{b62:76}AZDO{b62:4}",),
    "digitalocean_token": ("dop_v1_{hex:64}", "doo_v1_{hex:64}", "dor_v1_{hex:64}"),
    "heroku_token": ("HRKU-AA{b64u:58}", f"HRKU-{UUID}"),
    "heroku_key": (f"HEROKU_API_KEY=«{UUID}»", f'heroku_api_key: "«{UUID}»"'),
    "cloudflare_token": ("cfut_{b62:48}", "cfat_{b62:48}"),
    "cloudflare_key": ("CLOUDFLARE_API_TOKEN=«{b62:40}»", "X-Auth-Key: «{hex:37}»", 'CF_API_KEY="«{hex:37}»"'),
    "cloudflare_origin_key": ("v1.0-{hex:24}-{hex:146}",),
    "cloudflare_tunnel_token": ("eyJhIjoi{b62:120+}",),
    "fly_token": ("fo1_{b64u:42}{b62:1}", "FlyV1 «fm2_{b64:120+}»"),
    "vercel_token": ("vcp_{b62:56}", "vck_{b62:56}", "vercel_blob_rw_{b62:16}_{b62:32}"),
    "vercel_key": ("VERCEL_TOKEN=«{b62:24}»",),
    "netlify_token": ("nfp_{b62:36}",),
    "linode_token": ("LINODE_TOKEN=«{hex:64}»", '"linode_cli_token": "«{hex:64}»"'),
    "hetzner_token": ("HCLOUD_TOKEN=«{b62:64}»", "hetzner_api_token: «{b62:64}»"),
    "alibaba_access_key_id": ("LTAI{b62:20}", "LTAI{b62:12}"),
    "alibaba_secret": ('"AccessKeySecret": "«{b62:30}»"', "ALIBABA_CLOUD_ACCESS_KEY_SECRET=«{b62:30}»"),
    "tencent_secret_id": ("AKID{b62:32}",),
    "yandex_key": ("AQVN{b64u:35}{b62:1}",),
    "ibm_cloud_key": ("IBMCLOUD_API_KEY=«{b64u:43}{b62:1}»", "watsonx_api_key = '«{b64u:43}{b62:1}»'"),
    "scaleway_secret_key": (f"SCW_SECRET_KEY=«{UUID}»",),
    "render_key": ("rnd_{b62:32}",),
    # code hosts and packages
    "github_token": (github,),
    "github_app_token": ("ghs_{dig:6}_eyJ{b64u:40}.{b64u:200}.{b64u:340}",),
    "github_pat": ("github_pat_{b62:22}_{b62:59}",),
    "gitlab_pat": ("glpat-{b64u:20}", "glpat-{b64u:27}.01.{low:9}"),
    "gitlab_deploy_token": ("gldt-{b64u:20}",),
    "gitlab_runner_token": ("glrt-{b64u:20}", "GR1348941{b64u:20}"),
    "gitlab_job_token": ("glcbt-64_{b64u:20}",),
    "gitlab_trigger_token": ("glptt-{hex:40}",),
    "gitlab_other_token": ("glft-{b64u:20}", "glagent-{b64u:50}", "gloas-{hex:64}", "glsoat-{b64u:20}"),
    "bitbucket_token": ("ATBB{b62:32}", "ATCTT3xFfG{b64u:171}={HEX:8}"),
    "atlassian_token": ("ATATT3xFfGF0{b64u:170}={HEX:8}",),
    "sourcegraph_token": ("sgp_{hex:40}", "sgp_{hex:16}_{hex:40}"),
    "sonar_token": ("sqp_{hex:40}", "squ_{hex:40}"),
    "npm_token": ("npm_{b62:36}",),
    "npmrc_auth": (f"//registry.npmjs.test/:_authToken=«{UUID}»", "//npm.test/:_auth=«{b64:24}»"),
    "pypi_token": ("pypi-AgEIcHlwaS5vcmc{b64u:140+}",),
    "rubygems_key": ("rubygems_{hex:48}",),
    "crates_token": ("cio{b62:32}",),
    "docker_token": ("dckr_pat_{b64u:27}", "dckr_oat_{b64u:32}"),
    "docker_auth": (docker_auth,),
    "nuget_key": ("oy2{low:43}",),
    "artifactory_key": ("AKCp{b62:69}", "cmVmdGtuOj{b62:54}"),
    "clojars_token": ("CLOJARS_{low:60}",),
    # models
    "openai_key": (
        "sk-{b62:20}T3BlbkFJ{b62:20}", "sk-proj-{b64u:74}T3BlbkFJ{b64u:73}{b62:1}", "sk-svcacct-{b64u:58}T3BlbkFJ{b62:58}",
    ),
    "sk_key": ("sk-{hex:32}", "sk-{b62:48}"),
    "anthropic_key": ("sk-ant-api03-{b64u:93}AA", "sk-ant-oat01-{b64u:93}AA", "sk-ant-admin01-{b64u:93}AA"),
    "huggingface_token": ("hf_{let:34}", "api_org_{let:34}"),
    "replicate_token": ("r8_{b62:37}",),
    "groq_key": ("gsk_{b62:52}",),
    "xai_key": ("xai-{b62:80}",),
    "perplexity_key": ("pplx-{b62:48}", "pplx-{hex:56}"),
    "mistral_key": ("MISTRAL_API_KEY=«{b62:32}»", '"mistral_api_key": "«{b62:32}»"'),
    "cohere_key": ("COHERE_API_KEY=«{b62:40}»", "CO_API_KEY='«{b62:40}»'"),
    "fireworks_key": ("fw_{b62:24}",),
    "together_key": ("tgp_v1_{b64u:43}",),
    "langsmith_key": ("lsv2_pt_{hex:32}_{hex:10}", "lsv2_sk_{hex:32}_{hex:10}"),
    "langfuse_key": (f"sk-lf-{UUID}",),
    "openrouter_key": ("sk-or-v1-{hex:64}",),
    "cerebras_key": ("csk-{low:48}",),
    "elevenlabs_key": ("xi-api-key: «{hex:32}»", "ELEVENLABS_API_KEY=«sk_{hex:48}»"),
    "pinecone_key": ("pcsk_{b62:6}_{b62:63}",),
    "nvidia_key": ("nvapi-{b64u:64}",),
    "wandb_key": ("wandb_v1_{b62:77}",),
    "wandb_named_key": ("WANDB_API_KEY=«{hex:40}»", "machine api.wandb.ai\n  login user\n  password «{hex:40}»"),
    "tavily_key": ("tvly-{b62:32}", "tvly-dev-{b62:32}"),
    "llamacloud_key": ("llx-{b62:48}",),
    "jina_key": ("jina_{hex:32}{b64u:30}",),
    "e2b_key": ("e2b_{hex:40}",),
    # chat, mail and payment
    "slack_token": (
        "xoxb-{dig:12}-{dig:13}-{b62:24}", "xoxp-{dig:12}-{dig:12}-{dig:13}-{hex:32}", "xoxe.xoxp-1-{b62:146}",
    ),
    "slack_app_token": ("xapp-1-A{up:10}-{dig:13}-{hex:64}",),
    "slack_webhook": ("https://hooks.slack.com/services/«T{up:8}/B{up:10}/{b62:24}»",),
    "discord_bot_token": (discord,),
    "discord_webhook": ("https://discord.com/api/webhooks/{dig:18}/«{b64u:68}»",),
    "telegram_bot_token": ("{dig:10}:AA{b64u:32}{b62:1}", "https://api.telegram.test/bot«{dig:10}:AA{b64u:32}{b62:1}»/getMe"),
    "teams_webhook": (
        f"https://shop.webhook.office.com/webhookb2/«{UUID}@{UUID}/IncomingWebhook/{{hex:32}}/{UUID}»",
    ),
    "sendgrid_key": ("SG.{b64u:22}.{b64u:43}",),
    "mailgun_key": ("MAILGUN_API_KEY=«key-{hex:32}»", "curl --user 'api:«key-{hex:32}»'", "mailgun: «{hex:32}-{hex:8}-{hex:8}»"),
    "mailchimp_key": ("{hex:32}-us14", "{hex:32}-us6"),
    "postmark_token": (f"X-Postmark-Server-Token: «{UUID}»", f"POSTMARK_API_TOKEN=«{UUID}»"),
    "brevo_key": ("xkeysib-{hex:64}-{b62:16}", "xsmtpsib-{hex:64}-{b62:16}"),
    "resend_key": ("re_{b62:8}_{b62:24}",),
    "twilio_key": ("TWILIO_AUTH_TOKEN=«{hex:32}»", '"twilio_api_secret": "«{hex:32}»"'),
    "twilio_api_key_sid": ("SK{hex:32}",),
    "facebook_token": ("EAA{b62:180}",),
    "stripe_key": ("sk_live_{b62:24}", "rk_live_{b62:99}", "sk_test_{b62:99}"),
    "webhook_secret": ("whsec_{b62:32}", "whsec_{b64:43}="),
    "square_token": ("EAAA{b64u:60}", "sq0atp-{b64u:22}"),
    "square_secret": ("sq0csp-{b64u:43}",),
    "shopify_token": ("shpat_{hex:32}", "shpss_{hex:32}"),
    "paypal_token": ("access_token$production${low:16}${hex:32}",),
    "paypal_secret": ("PAYPAL_CLIENT_SECRET=«E{b64u:78}{b62:1}»",),
    "adyen_key": ("AQE{let:1}hmf{b64:60}=-{b64:43}=-{b62:16}",),
    "plaid_token": (f"access-production-{UUID}",),
    "flutterwave_key": ("FLWSECK-{hex:32}-X", "FLWSECK_TEST-{hex:32}-X"),
    "easypost_key": ("EZAK{b62:54}",),
    # tools
    "vault_token": ("hvs.{b64u:95}", "hvs.{b62:24}", "hvb.{b64u:140}"),
    "terraform_token": ("{b62:14}.atlasv1.{b62:67}",),
    "cluster_token": (f"CONSUL_HTTP_TOKEN=«{UUID}»", f"X-Nomad-Token: «{UUID}»"),
    "databricks_token": ("dapi{hex:32}", "dapi{hex:32}-2"),
    "planetscale_token": ("pscale_tkn_{b64u:43}", "pscale_pw_{b64u:43}"),
    "supabase_key": ("sbp_{hex:40}", "sb_secret_{b64u:31}"),
    "neon_key": ("napi_{low:64}", "npg_{b62:12}"),
    "doppler_token": ("dp.pt.{b62:43}", "dp.st.prd.{b62:40}"),
    "pulumi_token": ("pul-{hex:40}",),
    "onepassword_token": ("ops_eyJ{b64:300}", "A3-{up:6}-{up:11}-{up:5}-{up:5}-{up:5}"),
    "tailscale_key": ("tskey-auth-{b62:12}CNTRL-{b62:32}", "tskey-api-{b62:12}-{b62:32}"),
    "ngrok_token": ("ngrok config add-authtoken «2{b62:26}_{b62:21}»", "authtoken: «2{b62:26}_{b62:21}»"),
    "swarm_token": ("SWMTKN-1-{low:50}-{low:25}",),
    "kubeadm_token": ("kubeadm join 10.0.0.1:6443 --token «{low:6}.{low:16}» --discovery-token-ca-cert-hash sha256:1",),
    "rancher_token": ("token-{low:5}:{low:54}",),
    "openshift_token": ("sha256~{b64u:43}",),
    "wireguard_key": ("PrivateKey = «{b64:42}{wg:1}=»", "PresharedKey = «{b64:42}{wg:1}=»"),
    "newrelic_key": ("NRAK-{up:27}", "{hex:36}NRAL"),
    "datadog_key": ("DD_API_KEY=«{hex:32}»", "DD-APPLICATION-KEY: «{hex:40}»", '"datadog_api_key": "«{hex:32}»"'),
    "grafana_service_token": (grafana,),
    "grafana_cloud_token": ("glc_eyJ{b64:120}", "eyJrIjoi{b62:80}"),
    "sentry_token": ("sntryu_{hex:64}", "sntrys_eyJ{b62:120}=_{b64:43}"),
    "pagerduty_key": ("Authorization: Token token=«{b62:20}»", "PAGERDUTY_API_KEY=«u+{b62:18}»"),
    "circleci_token": ("CCIPAT_{b62:22}_{hex:40}",),
    "buildkite_token": ("bkua_{hex:40}",),
    "dynatrace_token": ("dt0c01.{up:24}.{up:64}",),
    "elastic_key": ("essu_{b64:80}==",),
    "posthog_key": ("phx_{b62:43}",),
    "prefect_key": ("pnu_{b62:36}",),
    "linear_key": ("lin_api_{b62:40}", "lin_oauth_{hex:64}"),
    "notion_token": ("ntn_{dig:11}{b62:35}", "secret_{b62:43}"),
    "figma_token": ("figd_{b64u:40}",),
    "airtable_token": ("pat{b62:14}.{hex:64}",),
    "asana_token": ("ASANA_ACCESS_TOKEN=«1/{dig:16}:{hex:32}»",),
    "postman_key": ("PMAK-{hex:24}-{hex:34}",),
    "contentful_token": ("CFPAT-{b64u:43}",),
    "typeform_token": ("tfp_{b64u:59}",),
    "okta_token": ("Authorization: SSWS «00{b64u:39}{b62:1}»",),
    "mapbox_token": ("sk.eyJ{b62:90}.{b64u:22}",),
    "launchdarkly_key": (f"sdk-{UUID}",),
    # general
    "private_key": (pem, pem_in_json, pem_in_json_in_json, pem_cut, pem_indented),
    "putty_key": (putty,),
    "age_key": (age,),
    "password_hash": (
        "$2b$12${b62:53}", "$6${b62:16}${b62:86}", "$y$j9T${b62:22}${b62:43}",
        "$argon2id$v=19$m=65536,t=3,p=4${b62:22}${b62:43}",
    ),
    "kubernetes_secret": (kubernetes,),
    "kubernetes_secret_listed": (kubernetes_listed,),
    "jwt": (jwt,),
    "basic_auth": (basic,),
    "bearer_token": ("Authorization: Bearer «{b62:32}»", '"Authorization": "Bearer «{b64u:43}»"', "authorization: token «{hex:40}»"),
    "authorization": ('"Authorization": "«{b62:40}»"', "Authorization: «{hex:40}»"),
    "secret_header": ("X-Api-Key: «{b62:32}»", '"x-auth-token": "«{hex:32}»"', "PRIVATE-TOKEN: «{b62:20}»"),
    "cookie": ("Cookie: «sessionid={b62:32}; theme=dark»", "Set-Cookie: «sid={hex:32}; Path=/; HttpOnly»"),
    "url_parameter": (
        "https://shop.test/cb?state=1&access_token=«{b62:32}»&x=1", "/api?api_key=«{hex:32}»", "wss://s.test/?token=«{b62:24}»",
    ),
    "command_password": (
        _filled("curl -s -u admin:@ https://shop.test"), _filled("mysql -h db -u root -p@ shop"),
        _filled("sshpass -p '@' ssh me@host".replace("me@host", "host")), _filled("redis-cli -h db -a @ ping"),
        _filled("docker login -u me -p @ registry.test"), _filled("openssl rsa -in k.pem -passin pass:@ -noout"),
    ),
    "option_secret": (
        _filled("deploy --password @ --verbose"), _filled("deploy --db-password=@"), _filled("tool --api-key=@", _random_text),
        _filled("tool --access-token @ now", _random_text),
    ),
    "sql_password": (
        _filled("CREATE USER 'app'.'%' IDENTIFIED BY '@';"), _filled("ALTER ROLE app WITH LOGIN PASSWORD '@';"),
    ),
    "connection_password": (
        _filled("Server=db.test;Database=shop;User Id=sa;Password=@;Encrypt=true"),
        _filled("host=db.test port=5432 user=app password=@ dbname=shop"),
    ),
    "netrc_password": (_filled("machine shop.test login me password @"), _filled("db.test:5432:shop:app:@")),
    "quoted_password": (
        _filled('password = "@"'), _filled("DB_PASSWORD: '@'"), _filled('{"db_password":"@"}'), _filled('\\"password\\": \\"@\\"'),
        _filled('passphrase: str = "@"'),
    ),
    "quoted_secret": (
        _filled('api_key = "@"', _random_text), _filled("clientSecret: '@'", _random_text),
        _filled('{"access_token":"@"}', _random_text), _filled('\\"secret\\": \\"@\\"', _random_text),
        _filled('TOKEN = "@"', _random_text),
    ),
    "password_setting": (
        _filled("DB_PASSWORD=@"), _filled("spring.datasource.password=@"), _filled("export PGPASSWORD=@"),
        _filled("  password: @"), _filled("connecting user=app password=@"),
    ),
    "environment_secret": (
        _filled("STORE_TOKEN=@", _random_text), _filled("export WEBHOOK_SECRET=@", _random_text), _filled("SHOP_API_KEY=@", _random_text),
    ),
    "secret_setting": (
        _filled("api_key=@", _random_text), _filled("  client_secret: @", _random_text), _filled("shop.auth-token = @", _random_text),
    ),
}  # fmt: skip


# -- surroundings -------------------------------------------------------------------------------------

AROUND_ANY = (
    "{}", "{}\n", "\n{}\nnext line", "first line\n{}\n", "{} and more", "a" * 3000 + "\n{}\n" + "b" * 3000, "\t{}\t",
    "stdout:\r\n{}\r\n", "é – {} – ü",
)  # fmt: skip
"""Fit for every text, one of several lines too."""

AROUND_TOKENS = (
    "see {} there", "VALUE={}", "export X='{}'", '{{"value": "{}"}}', '{{\\"value\\":\\"{}\\"}}', "{},1,2", "['{}']",
    "curl -H 'X-Thing: {}' https://shop.test", "https://shop.test/?x={}&y=1", "https://shop.test/{}/z", "`{}`", "<b>{}</b>",
    "2026-01-02T03:04:05Z INFO got {} from store", "\x1b[32m{}\x1b[0m", "%22{}%22", "line\\n{}\\nline", "x:{}", "({})",
    "{};", "a=1 b={} c=3", "\\u0022{}\\u0022",
)  # fmt: skip
"""Fit for tokens, which hold no quotation marks, blanks or line ends."""

AROUND_NEAR = (
    "{}",
    "see {} there",
    "2026-01-02T03:04:05Z INFO got {} from store",
    '["{}"]',
    "\n{}\n",
    "({})",
)
"""Where nothing but the text itself says secret."""

_OF_TOKENS = re.compile(r"[0-9A-Za-z_.~$:=+/-]+")


def positives(rule: str, seed: int, count: int) -> Iterator[Example]:
    """Texts that hold a secret of the rule, each form of it and each of its surroundings in turn."""
    rng = random.Random(f"{rule} {seed}")
    forms = EXAMPLES[rule]
    for number in range(count):
        example = made(forms[number % len(forms)], rng)
        around: tuple[str, ...] = AROUND_ANY
        if _OF_TOKENS.fullmatch(example.text) and example.text == example.secret:
            around = AROUND_TOKENS + AROUND_ANY
        where = around[number // len(forms) % len(around)] if number else "{}"
        yield Example(where.format(example.text), example.secret)
