"""The list of protected files: what it keeps agents from, what it leaves alone, and what it says."""

import os
import unicodedata
from pathlib import Path

import pytest

from custody.errors import InvalidSetting
from custody.files import Protected, load_protected, other_names
from custody.files.other_names import OtherNames

HOME = "/home/ada"


@pytest.fixture
def protected() -> Protected:
    return load_protected([])


@pytest.mark.parametrize(
    "path",
    [
        ".ssh",
        ".ssh/id_ed25519",
        ".ssh/keys/deep/other",
        "backup/.ssh/config",
        "id_rsa",
        "shop/.env",
        "shop/.env.production",
        ".aws/credentials",
        ".aws/sso/cache/token.json",
        ".netrc",
        ".git-credentials",
        ".docker/config.json",
        ".kube/config",
        ".config/gh/hosts.yml",
        ".npmrc",
        ".pypirc",
        ".codex/auth.json",
        "key.p12",
    ],
)
def test_secrets_are_neither_read_nor_written(protected: Protected, path: str):
    for write in (False, True):
        refusal = protected.refusal(f"{HOME}/{path}", write=write)
        assert refusal is not None
        assert refusal.startswith(f"{HOME}/{path} is protected (")


@pytest.mark.parametrize(
    "path",
    [
        ".bashrc",
        ".zshenv",
        ".profile",
        ".config/fish/config.fish",
        "shop/.git",
        "shop/.git/config",
        "shop/.git/hooks",
        "shop/.git/hooks/pre-commit",
        "shop/.git/modules/sub/config",
        ".gitconfig",
        "shop/.envrc",
        "shop/.vscode/tasks.json",
        "shop/.claude/settings.json",
        "shop/.claude/settings.local.json",
        ".codex/config.toml",
        ".gemini/settings.json",
        "shop/.mcp.json",
        "shop/custody.toml",
    ],
)
def test_what_is_run_or_says_what_may_be_run_is_read_and_not_written(protected: Protected, path: str):
    assert protected.refusal(f"{HOME}/{path}", write=False) is None
    refusal = protected.refusal(f"{HOME}/{path}", write=True)
    assert refusal is not None
    assert refusal.endswith("A person can change it; agents may not.")


@pytest.mark.parametrize(
    "path",
    [
        "foo.env",
        "my_id_rsa",
        "id_rsa.pub",
        "env",
        ".env.example",
        ".env.sample",
        ".environment",
        "ssh/config",
        "config",
        "git/config",
        "shop/.github/workflows/test.yml",
        "shop/.gitignore",
        "shop/hooks/pre-commit",
        ".vscode/settings.json",
        ".claude/agents/reviewer.md",
        "bashrc",
        "dot.bashrc",
        "aws/credentials",
        "shop/src/custody.toml.md",
        "report..final.txt",
        "notes~1.txt",
        "file~",
    ],
)
def test_a_name_that_is_only_like_a_protected_one_is_let_be(protected: Protected, path: str):
    assert protected.refusal(f"{HOME}/{path}", write=True) is None


@pytest.mark.parametrize(
    "path",
    [
        ".ENV",
        ".Env.Local",
        ".SSH/ID_RSA",
        ".Git/Config",
        "ID_RSA",
        ".g\u200cit/config",
        ".git\ufeff/hooks/x",
        ".e\u00adnv",
        "CUSTODY.toml",
        ".GIT/CONFIG",
        ".ba\u017fhrc",  # the long s is an s without case
        "GIT~1/config",
        "ENV~1",
        "ENV~1.LOC",
        "BASHRC~1",
        "SSH~1/authorized_keys",
        "CUSTOD~1.TOM",
    ],
)
def test_a_name_that_a_lenient_file_system_takes_for_a_protected_one_is_that(protected: Protected, path: str):
    assert protected.refusal(f"{HOME}/{path}", write=True) is not None


def test_names_are_compared_after_nfc():
    protected = load_protected([], write=["ré sumé/**"])
    for form in ("NFC", "NFD"):
        path = unicodedata.normalize(form, "/srv/ré sumé/Notes.md")
        assert protected.refusal(path, write=True) is not None
        assert protected.refusal(path, write=False) is None


def test_a_refusal_names_the_pattern_and_what_to_do(protected: Protected):
    assert protected.refusal("/srv/shop/.env.local", write=False) == (
        "/srv/shop/.env.local is protected (.env.*: credentials and keys). Whoever has it can act in your "
        "name elsewhere. A person can read it; agents are not given it."
    )
    assert protected.refusal("/srv/shop/.git/hooks/pre-push", write=True) == (
        "/srv/shop/.git/hooks/pre-push is protected (.git/hooks/**: git's settings and hooks). Git runs the "
        "programs that it names. A person can change it; agents may not."
    )


def test_bytes_that_are_no_utf8_are_said_in_text(protected: Protected):
    refusal = protected.refusal("/srv/caf\udce9/.env", write=False)
    assert refusal is not None
    assert refusal.startswith(r"/srv/caf\xe9/.env is protected")


# -- Custody's own, and what is added -------------------------------------------------------------------


def test_custodys_own_files_are_neither_read_nor_written(tmp_path: Path):
    (tmp_path / "real/store").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    store = tmp_path / "real/store"
    protected = load_protected([str(tmp_path / "link/store")])
    for path in (store, store / "journal/0", Path(str(store).upper())):
        for write in (False, True):
            assert "belongs to Custody itself" in (protected.refusal(str(path), write=write) or "")
    assert protected.refusal(f"{store}-not", write=True) is None


def test_a_folder_that_holds_custodys_own_is_not_removed(tmp_path: Path):
    protected = load_protected([str(tmp_path / "data/store")])
    for holder in (str(tmp_path), str(tmp_path / "data"), "/"):
        assert protected.refusal(holder, write=True) is not None
        assert protected.refusal(holder, write=False) is None
    assert protected.refusal(str(tmp_path / "data/other"), write=True) is None


def test_patterns_are_added_and_none_is_taken_away():
    protected = load_protected([], secret=["payroll.*"], write=["/srv/site/*.conf", "~/notes/**"])
    assert protected.refusal("/srv/payroll.csv", write=False) is not None
    assert protected.refusal("/srv/site/a.conf", write=True) is not None
    assert protected.refusal("/srv/site/a.conf", write=False) is None
    assert protected.refusal("/elsewhere/srv/site/a.conf", write=True) is None
    assert protected.refusal(os.path.expanduser("~/notes/deep/a"), write=True) is not None
    assert protected.refusal("/srv/.env", write=False) is not None


@pytest.mark.parametrize("pattern", ["", "*", "**", "/", "a//b", "../x", "a/./b", "**/x", "a\0b", "folder/"])
def test_a_pattern_that_says_nothing_is_refused_with_its_text(pattern: str):
    for kind in ("secret", "write"):
        with pytest.raises(InvalidSetting, match="is no pattern of protected files") as caught:
            load_protected([], **{kind: [pattern]})
        assert caught.value.details == {"pattern": pattern}


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        (".env", True),
        ("deploy/.env.production", True),
        ("keys/id_ed25519", True),
        ("certs/server.key", True),
        ("certs/server.PEM", True),
        ("credentials.json", True),
        ("config/secrets.yaml", True),
        (".env.example", False),
        ("src/secrets.py", False),
        ("README.md", False),
        (".bashrc", False),
        ("custody.toml", False),
    ],
)
def test_names_that_hold_secrets_are_kept_out_of_commits(protected: Protected, name: str, secret: bool):
    assert protected.secret_name(name) is secret


# -- other names of the same file -----------------------------------------------------------------------


def refusal_of(protected: Protected, path: Path, *, write: bool) -> str | None:
    status = path.stat()
    return protected.refusal(str(path), write=write, inode=(status.st_dev, status.st_ino))


def test_another_name_of_a_secret_above_is_refused(tmp_path: Path, protected: Protected):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / ".env").write_text("SECRET=1")
    (tmp_path / "deep/er/innocent").hardlink_to(tmp_path / ".env")
    refusal = refusal_of(protected, tmp_path / "deep/er/innocent", write=False)
    assert refusal is not None
    assert f"is another name of {tmp_path}/.env, which is protected (.env: credentials and keys)" in refusal


def test_another_name_of_what_is_only_kept_from_writing_may_be_read(tmp_path: Path, protected: Protected):
    (tmp_path / ".git/hooks").mkdir(parents=True)
    (tmp_path / ".git/hooks/pre-commit").write_text("#!/bin/sh")
    (tmp_path / "innocent").hardlink_to(tmp_path / ".git/hooks/pre-commit")
    assert refusal_of(protected, tmp_path / "innocent", write=False) is None
    assert "another name" in (refusal_of(protected, tmp_path / "innocent", write=True) or "")


def test_another_name_of_a_key_in_the_home_folder_is_refused(
    tmp_path: Path, protected: Protected, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home"
    (home / ".ssh/old/keys").mkdir(parents=True)
    (home / ".config/gh").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(home))
    for number, secret in enumerate((".ssh/id_ed25519", ".ssh/old/keys/k", ".netrc", ".config/gh/hosts.yml")):
        (home / secret).write_text("secret")
        (tmp_path / f"work/{number}").hardlink_to(home / secret)
        assert secret in (refusal_of(protected, tmp_path / f"work/{number}", write=False) or "")


def test_another_name_of_custodys_own_is_refused(tmp_path: Path):
    (tmp_path / "store/journal/0").mkdir(parents=True)
    (tmp_path / "store/journal/0/1.segment").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/copy").hardlink_to(tmp_path / "store/journal/0/1.segment")
    protected = load_protected([str(tmp_path / "store")])
    for write in (False, True):
        refusal = refusal_of(protected, tmp_path / "elsewhere/copy", write=write)
        assert "belongs to Custody itself" in (refusal or "")


def test_what_is_custodys_own_stays_so_under_a_name_that_a_person_may_open(tmp_path: Path):
    """`append` writes into the file itself, whatever it is called."""
    (tmp_path / "settings").mkdir()
    own = tmp_path / "settings/policy.toml"
    own.write_text("x")
    (tmp_path / ".env.local").hardlink_to(own)
    (tmp_path / ".env").hardlink_to(own)
    (tmp_path / "plain").hardlink_to(own)
    protected = load_protected([str(own)])
    for name in (".env", "plain"):
        status = (tmp_path / name).stat()
        refused = protected.refused(str(tmp_path / name), write=True, inode=(status.st_dev, status.st_ino))
        assert refused is not None and refused.own


def test_a_protected_file_is_refused_by_all_that_it_is(tmp_path: Path, protected: Protected):
    (tmp_path / ".git/hooks").mkdir(parents=True)
    (tmp_path / ".git/hooks/pre-commit").write_text("#!/bin/sh")
    (tmp_path / ".env").hardlink_to(tmp_path / ".git/hooks/pre-commit")
    refusal = refusal_of(protected, tmp_path / ".env", write=True) or ""
    assert f"{tmp_path}/.env is protected" in refusal
    assert f"another name of {tmp_path}/.git/hooks/pre-commit" in refusal


def test_custodys_own_file_that_is_a_link_is_the_link_and_what_it_leads_to(tmp_path: Path):
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles/policy.toml").write_text("x")
    (tmp_path / "policy.toml").symlink_to("dotfiles/policy.toml")
    protected = load_protected([str(tmp_path / "policy.toml")])
    for name in ("policy.toml", "dotfiles/policy.toml", "dotfiles"):
        refused = protected.refused(str(tmp_path / name), write=True)
        assert refused is not None and refused.own


def test_a_file_with_two_ordinary_names_is_let_be_also_when_asked_again(tmp_path: Path, protected: Protected):
    (tmp_path / "one").write_text("x")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    for _ in range(2):
        assert refusal_of(protected, tmp_path / "two", write=True) is None
    (tmp_path / "one").rename(tmp_path / ".env")
    assert refusal_of(protected, tmp_path / "two", write=True) is not None


def test_what_was_seen_in_a_folder_is_forgotten_though_its_time_was_put_back(
    tmp_path: Path, protected: Protected
):
    (tmp_path / "one").write_text("x")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    before = tmp_path.stat()
    assert refusal_of(protected, tmp_path / "two", write=True) is None
    (tmp_path / "one").rename(tmp_path / ".env")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert refusal_of(protected, tmp_path / "two", write=True) is not None


def test_what_is_seen_in_a_folder_is_kept_once_its_last_change_is_a_while_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Clocks of file systems tick every few milliseconds: of two changes the second may leave no trace."""
    looked: list[str] = []
    names = OtherNames(lambda path: bool(looked.append(path)), lambda path: False)
    (tmp_path / "one").write_text("x")
    changed_ns = tmp_path.stat().st_ctime_ns

    def looks(seconds_later: float) -> int:
        monkeypatch.setattr(other_names, "time_ns", lambda: changed_ns + int(seconds_later * 1e9))
        looked.clear()
        assert not list(names.of(f"{tmp_path}/one", (tmp_path.stat().st_dev, -1), [f"{tmp_path}"]))
        return looked.count(f"{tmp_path}/one")

    assert [looks(0), looks(0.004), looks(-5), looks(5), looks(6)] == [1, 1, 1, 1, 0]
