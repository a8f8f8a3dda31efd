"""The remotes of a repository are hosts of its workspace; what cannot be understood is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody.sandbox.egress import check_hosts, remotes_of
from custody.sandbox.egress.remotes import CONFIG_BYTES_MAX, REMOTES_MAX


def repository(folder: Path, config: str | bytes) -> str:
    (folder / ".git").mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, bytes) else config.encode()
    (folder / ".git" / "config").write_bytes(text)
    return str(folder)


def remotes(folder: Path, *urls: str) -> tuple[str, ...]:
    return remotes_of(
        repository(folder, "".join(f'[remote "r{at}"]\n\turl = {url}\n' for at, url in enumerate(urls)))
    )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.org/a.git", "example.org:443"),
        ("HTTPS://me:secret@Example.ORG:8443/a", "example.org:8443"),
        ("http://example.org/a", "example.org:80"),
        ("ssh://git@example.org/a", "example.org:22"),
        ("ssh://git@example.org:2222/a", "example.org:2222"),
        ("git@example.org:a/b.git", "example.org:22"),
        ("example.org:a", "example.org:22"),
        ("git@[2606:4700::1111]:a", "[2606:4700::1111]:22"),
        ("https://[2606:4700::1111]/a", "[2606:4700::1111]:443"),
        ("https://8.8.8.8/a", "8.8.8.8:443"),
        ("https://bücher.example/", "xn--bcher-kva.example:443"),
        ('"https://example.org/a#b"', "example.org:443"),
        ("https://example.org/a ; a comment", "example.org:443"),
        ("https://exam\\\nple.org/a", "example.org:443"),
    ],
)
def test_a_remote_is_a_host_at_its_port(tmp_path: Path, url: str, host: str):
    assert remotes(tmp_path, url) == (host,)


@pytest.mark.parametrize(
    "url",
    [
        *"/srv/a.git ../a file:///srv/a git://example.org/a ext::sh%20-c%20x ftp://example.org/a".split(),
        *"https:///a https://10.0.0.1/a ssh://git@127.0.0.1/a git@192.168.1.1:a https://localhost/a".split(),
        *"http://169.254.169.254/ https://example.org:0/a https://example.org:99999/a https://a..b/".split(),
        *"https://*.example.org/ https://fe80::1/ https://[fe80::1%25eth0]/ https://%65xample.org/".split(),
        *"https://metadata.google.internal/ git@metadata:a ./a:b a/b:c ssh://".split(),
        '"https://example.org/a',
        "https://example.org\\q/a",
        "",
    ],
)
def test_what_is_no_public_host_is_none(tmp_path: Path, url: str):
    assert remotes(tmp_path, url) == ()


def test_only_addresses_of_remotes_are_read(tmp_path: Path):
    config = """
        ; [remote "comment"] url = https://comment.example/
        [url "https://instead.example/"]
            insteadOf = https://example.org/
        [submodule "a"]
            url = https://submodule.example/
        [include]
            path = /srv/other
        [Remote "a b\\"]"] URL = https://a.example/x
            PushUrl=https://push.example/
            fetch = +refs/heads/*:refs/remotes/a/*
            url
        [remote]
            url = https://default.example/
        [remote "b"] # after
            url = https://b.example/
            url = https://b2.example/
        [http]
            proxy = https://proxy.example/
    """
    found = remotes_of(repository(tmp_path, config))
    assert found == ("a.example:443", "b.example:443", "b2.example:443", "push.example:443")
    assert remotes_of(repository(tmp_path, config.replace("\n", "\r\n"))) == found


def test_hosts_have_a_bound(tmp_path: Path):
    found = remotes(tmp_path, *(f"https://host{number}.example/a" for number in range(REMOTES_MAX + 5)))
    assert len(found) == REMOTES_MAX


@pytest.mark.parametrize(
    "config", [b"\xff\xfe", b"\0" * 100, b'[remote "a', b"[" * 10_000, b"x" * (CONFIG_BYTES_MAX + 1), b""]
)
def test_a_broken_configuration_has_no_remotes(tmp_path: Path, config: bytes):
    whole = b'[remote "a"]\nurl = https://example.org/\n'
    kept = remotes_of(repository(tmp_path, whole + config))
    assert kept == (("example.org:443",) if config.isascii() and len(config) < CONFIG_BYTES_MAX else ())


def test_what_is_no_repository_has_no_remotes(tmp_path: Path):
    assert remotes_of(str(tmp_path)) == ()
    assert remotes_of(str(tmp_path / "missing")) == ()
    (tmp_path / ".git").write_text("gitdir: /missing\n")
    assert remotes_of(str(tmp_path)) == ()
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / ".git").mkdir()
    os.mkfifo(tmp_path / "pipe" / ".git" / "config")
    assert remotes_of(str(tmp_path / "pipe")) == ()
    os.mkfifo(tmp_path / "pipe" / ".git" / "commondir")
    assert remotes_of(str(tmp_path / "pipe")) == ()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_what_git_itself_writes_is_read_in_every_kind_of_work_tree(tmp_path: Path):
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@a.example",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@a.example",
    }  # fmt: skip

    def git(folder: Path, *words: str) -> None:
        done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    main = tmp_path / "main"
    main.mkdir()
    git(main, "init", "-q")
    git(main, "config", 'remote.od"d #\\] name.url', "https://odd.example/a#b;c")
    git(main, "remote", "add", "origin", "git@example.org:a b.git")
    git(main, "commit", "-q", "--allow-empty", "-m", "first")
    git(main, "worktree", "add", "-q", str(tmp_path / "tree"))
    git(main, "config", "url.https://instead.example/.insteadOf", "https://odd.example/")
    git(tmp_path, "init", "-q", "--bare", "bare")
    git(tmp_path / "bare", "remote", "add", "origin", "ssh://example.org:222/a")
    expected = ("example.org:22", "odd.example:443")
    assert remotes_of(str(main)) == expected
    assert remotes_of(str(tmp_path / "tree")) == expected
    assert remotes_of(str(tmp_path / "bare")) == ("example.org:222",)


@settings(max_examples=60)
@given(st.text(alphabet=st.sampled_from('[]remot "\\\nurl=:/@.ahps#;*x1%'), max_size=120))
def test_whatever_a_configuration_says_is_a_list_of_hosts_or_none(
    tmp_path_factory: pytest.TempPathFactory, text: str
):
    folder = tmp_path_factory.getbasetemp() / "any"
    found = remotes_of(
        repository(folder, '[remote "a"]\nurl = https://x.example/\n[remote "b"]\n url = ' + text)
    )
    check_hosts(found)
    assert "x.example:443" in found
