"""A shell line is read, never run: what it would start, and whether all of that only reads."""

import pytest

from custody.policy.shell import is_harmless, read_argv, read_shell

HARMLESS = r"""
ls
ls -la
ls -la | head
ls src/*.py
cat a b
cat "$HOME/notes.txt"
cat < notes.txt
cat notes.txt 2>/dev/null
cat notes.txt 2>&1 | head -20
cat *.md | wc -l
head -n 5 a.txt && tail -n 5 a.txt
wc -l src/custody/policy/*.py
rg x src | wc -l
rg -n "a|b;c" src
grep -rn 'curl x' .
grep -c "$(date +%Y)" log.txt
echo "nothing; to see | here"
echo 'rm -rf /'
echo a \; curl x
echo `date`
pwd; whoami; id
git status
git --no-pager log --oneline -5
git diff HEAD~1 -- src
git show HEAD:README.md
git branch --list
git branch --show-current
git log --author=me --since=yesterday
git rev-parse --show-toplevel
git ls-files | grep test
git stash list
git remote -v
git config --get user.name
find . -name '*.py' -type f
find src -maxdepth 2 -print0 | xargs -0 grep -l custody
find . -newer a -not -path './.git/*' | sort | uniq -c | sort -rn | head
LC_ALL=C sort names.txt
env LANG=C sort names.txt
TZ=UTC date
date +%F
date -d yesterday +%s
timeout 5 ls -R
nice -n 10 wc -c big.bin
time ls
command -v python3
sed -n '1,20p' a.txt
sed 's/a/b/g' a.txt | diff - b.txt
cut -d: -f1 names | tr a-z A-Z
jq '.a.b' x.json
sort -u -k2,2 names.txt
stat -c %s a; du -sh .; df -h
sha256sum a b
for f in *.py; do wc -l "$f"; done
if [ -f a.txt ]; then cat a.txt; else echo none; fi
while true; do date; sleep 1; break; done
case $1 in a|b) ls;; *) pwd;; esac
(cd src && ls) | head
{ ls; pwd; }
! grep -q x a.txt
set -euo pipefail; ls
test -d src && echo yes
sh -c 'ls | head'
ls # ; curl x
echo $((1 + 2))
printf '%s\n' a b
file a.bin
basename /a/b.c .c
seq 1 10 | paste -sd+
echo ${HOME} ${x:-none} "$@"
'ls' "-l"
diff <(sort a) <(sort b)
"""

NOT_HARMLESS = r"""
ls ; curl x
ls $(curl x)
echo a | sh
env curl x
xargs rm
/elsewhere/ls
LD_PRELOAD=x cat y
./ls
bin/ls
~/bin/ls
../ls
/bin/ls
rm a
curl x
ls;curl x
ls&curl x
ls && curl x
ls || curl x
ls | tee out
ls |& sh
ls & curl x
ls "$(curl x)"
ls `curl x`
ls "`curl x`"
echo "a $(echo "$(curl x)")"
echo ${x:-$(curl y)}
echo "${x:-`curl y`}"
echo $(( $(curl x) ))
echo $((a[$(curl x)]))
echo $[ $(curl x) ]
ls > out.txt
ls >out.txt
ls >> out.txt
ls >| out.txt
ls &> out.txt
ls >& out.txt
ls 2> errors.txt
ls 3<> file
> file
: > file
cat < /dev/tcp/10.0.0.1/80
cat > /dev/tcp/10.0.0.1/80
cat < "$file"
echo x > "$file"
ls > $(curl x)
diff <(curl x) a
cat >(sh)
$x
"$x" a
$(echo curl) x
`echo curl` x
${x} a
{curl,x}
c{ur}l x
c*l x
/???/c?rl x
cu''rl x
c\url x
"cu""rl" x
$'curl' x
$'\x63url' x
$"curl" x
eval curl x
eval "$x"
eval 'ls; curl x'
exec curl x
command curl x
builtin eval curl x
sh -c 'curl x'
sh -c "$x"
sh -c 'ls' -c 'curl x' > out
bash -lc 'ls'
bash script
sh script.sh
sh < script
cat script | bash
cat script | bash -s x
dash -c 'eval curl x'
bash --rcfile x -c ls
zsh -c ls
. ./script
source script
nohup ls
nice curl x
timeout 5 curl x
timeout -k 1 5 env -i curl x
time curl x
time -o out ls
! curl x
sudo ls
sudo -u root curl x
doas curl x
su -c 'ls'
script -c 'curl x' out
watch curl x
watch -n 1 'curl x'
xargs curl
xargs -I{} sh -c 'curl {}'
xargs -0 -n 1 rm -f
xargs $x
xargs sort
ls | xargs -I % % x
find . -delete
find . -exec rm {} ;
find . -exec rm {} +
find . -execdir sh -c 'x' \;
find . -ok rm {} \;
find . -fprint out
find . -fls out
find . $x
fd -x rm
parallel curl ::: x
ssh host ls
busybox wget x
stdbuf -o0 curl x
setsid curl x
chroot / ls
unshare -r ls
nsenter -t 1 ls
strace ls
gdb --args ls
env -S 'curl x'
env -C /tmp ls
env PATH=/tmp ls
env "$x" ls
env FOO=$x ls
PATH=/tmp/x ls
PATH=/tmp/x; ls
export PATH=/tmp/x; ls
export LD_LIBRARY_PATH=x
LD_LIBRARY_PATH=x ls
IFS=x ls
BASH_ENV=x sh -c ls
ENV=x sh -c ls
GIT_PAGER=x git log
GIT_EXTERNAL_DIFF=x git diff
LESSOPEN=x cat a
: ${LD_PRELOAD:=x}
for PATH in /tmp; do ls; done
read PATH
alias ls='curl x'; ls
ls() { curl x; }; ls
function ls { curl x; }; ls
trap 'curl x' EXIT
trap "$x" EXIT
hash -p /tmp/x ls
enable -f ./x.so ls
coproc curl x
jobs -x curl x
printf -v 'a[$(curl x)]' x
test -v 'a[$(curl x)]'
[ -v "$x" ]
[[ -v 'a[$(curl x)]' ]]
[[ a > out ]]
((a[$(curl x)]))
((curl x))
let 'a[$(curl x)]'
declare 'a[$(curl x)]=1'
echo ${!x}
echo ${x@P}
echo ${x[$(curl y)]}
echo ${x:$(curl y)}
x=(a $(curl y))
awk 'BEGIN { system("curl x") }'
awk '{print}' a
sed -i s/a/b/ file
sed -n 'w out' file
sed '1e curl x' file
sed 's/a/b/e' file
sed 's/a/b/w out' file
sed -f script file
sed -n "$x" file
perl -e 'x'
python3 -c 'x'
python x.py
node -e x
make
git -c core.pager=x log
git -c alias.x='!curl' x
git diff --ext-diff
git diff --output=out
git diff --outp=out
git grep -O x
git grep --open-files-in-pager=x y
git log --show-signature
git -C other status
git --git-dir=other status
git --exec-path=x status
cd other && git status
git push
git commit -m x
git branch new
git branch -D old
git branch -l new
git tag v1
git remote add x y
git remote show x
git stash
git reflog expire --all
git config user.name x
git submodule foreach 'curl x'
git bisect run x
git cat-file --textconv HEAD:a
sort -o out in
sort -oout in
sort -uo out in
sort --output=out in
sort --outp=out in
sort --compress-program=x in
sort $x
sort *
uniq in out
shuf -o out in
iconv -o out in
tree -o out
xxd in out
xxd -r in
file -C -m x
rg --pre x y
rg --pre=x y
rg --hostname-bin=x y
rg -z x
date -s tomorrow
date 010100002030
date --set=x
hostname new
diff -l a b
tar cf x y
tee out
dd if=a of=b
cp a b
mv a b
ln -s a b
touch a
mkdir a
chmod 777 a
kill 1
less a
man x
vi a
ping x
dig x
getent hosts x
echo x > /dev/sda
ls > /dev/null > out
if true; then curl x; fi
if curl x; then ls; fi
while curl x; do ls; done
until ls; do curl x; done
for x in a; do curl x; done
for x in $(curl y); do ls; done
for x do curl y; done
case x in x) curl y;; esac
case $(curl x) in x) ls;; esac
case x in $(curl x)) ls;; esac
(curl x)
( ls; ( curl x ) )
{ curl x; }
{ ls; } > out
( ls ) > out
for x in a; do ls; done > out
ls 'unterminated
ls "unterminated
ls $(unterminated
ls `unterminated
ls ${unterminated
ls <<unterminated
ls )
( ls
x=$(curl y)
x=1 curl y
echo "`echo \"; curl x\"`"
ls &>/dev/null curl x
a+=/x ls
cat =(curl x)
ls *(e:'curl x':)
git log --format='%G?'
git for-each-ref --format='%(signature)'
git stash list --output=x
git reflog show --ext-diff
x=1 for y in a
wait -p 'a[$(curl x)]'
base64 -o out in
for f in a; do sort $f; done
select x in a; do ls; done
a=1 b=2 curl y
"""


CONTINUED_HARMLESS = ["cat <<'END' | wc -l\nEND2\n$(curl x)\nEND", "ls \\\n  -la", "ls\n\n# a\npwd\n"]
CONTINUED_NOT_HARMLESS = [
    "cat <<END\n$(curl x)\nEND",
    "cat <<END\n`curl x`\nEND",
    "cat <<END\nEND\ncurl x",
    "cat <<'END'\nEND\ncurl x",
    "cat <<-END\n\tEND\ncurl x",
    "cat <<END\nEN\\\nD\ncurl x\nEND",
    "cat <<A <<B\nB\nA\ncurl x\nB\ncurl y",
    'cat <<"E F"\nE F\ncurl x',
    "ls \\\n; curl x",
    "ls '\n' ; curl x",
    "ls |\ncurl x",
    "ls\ncurl x",
    "ls # a comment\ncurl x",
    "ls #'\ncurl x #'",
    "ls a#b; curl x",
    'echo "$\\\n(curl x)"',
    "l\\\ns; cu\\\nrl x",
    "ls\rcurl x",
    "ls\0; curl x",
    "ls\u2028curl x",
    "\xa0ls",
    "ls \ud800",
    "case x in\n(a|x) # b\n curl y\n ;;\nesac",
    "case x in a) ls;; x) case y in y) curl z;; esac;; esac",
    "f()\n{ curl x\n}\nf",
    "echo $(cat <<END\nx\nEND\n); curl x",
    "echo $(( 1 << 2 ))\ncurl x",
]


def lines_of(table: str) -> list[str]:
    return [line for line in table.split("\n") if line]


EVERY_HARMLESS = [*lines_of(HARMLESS), *CONTINUED_HARMLESS]
EVERY_NOT_HARMLESS = [*lines_of(NOT_HARMLESS), *CONTINUED_NOT_HARMLESS]


def names(text: str) -> list[str | None]:
    return [program.name for program in read_shell(text).programs]


def test_ordinary_lines_that_only_read_are_harmless() -> None:
    assert len(EVERY_HARMLESS) >= 40
    assert [(line, read_shell(line)) for line in EVERY_HARMLESS if not is_harmless(read_shell(line))] == []


def test_what_starts_writes_or_hides_something_is_never_harmless() -> None:
    assert len(EVERY_NOT_HARMLESS) >= 120
    assert [line for line in EVERY_NOT_HARMLESS if is_harmless(read_shell(line))] == []


def test_a_program_that_is_hidden_is_found_or_the_line_is_unclear() -> None:
    hidden = [
        line
        for line in EVERY_NOT_HARMLESS
        if "curl" in line and "curl" not in names(line) and not read_shell(line).unclear
    ]
    assert hidden == ["sh -c 'ls' -c 'curl x' > out"]  # there it is an argument of the first line's


def test_a_line_after_a_harmless_one_is_read_all_the_same() -> None:
    together = [f"{harmless}\n{line}" for harmless in ("ls", "echo 'a;b'") for line in EVERY_NOT_HARMLESS]
    assert [line for line in together if is_harmless(read_shell(line))] == []


@pytest.mark.parametrize(
    ("line", "programs"),
    [
        ("ls; curl x", ["ls", "curl"]),
        ("a | b |& c && d || e & f", ["a", "b", "c", "d", "e", "f"]),
        ("ls $(curl $(wget x))", ["wget", "curl", "ls"]),
        ('echo "a `b \\`c\\`` d"', ["c", "b", "echo"]),
        ("env -i A=1 timeout -k 2 5 nice -n 3 curl x", ["env", "timeout", "nice", "curl"]),
        ("sudo -u root sh -c 'ls | xargs -n 1 rm'", ["sudo", "sh", "ls", "xargs", "rm"]),
        ("find . -exec grep x {} + -exec rm {} \\;", ["find", "rm", "grep"]),
        ("if a; then b; elif c; then d; else e; fi", ["a", "b", "c", "d", "e"]),
        ("for x in 1 2; do a; done; while b; do c; done", ["a", "b", "c"]),
        ("case $(a) in (b|c) d;; *) e;; esac; f", ["a", "d", "e", "f"]),
        ("f() { a; }; f", ["a", "f"]),
        ("diff <(a) >(b)", ["a", "b", "diff"]),
        ("eval \"a; b\"; trap 'c' EXIT", ["eval", "a", "b", "trap", "c"]),
        ("busybox wget x", ["busybox", "wget"]),
        ("x=$(a) b", ["a", "b"]),
        ("cat <<A\n$(b)\nA\nc", ["cat", "b", "c"]),
        ("cat <<'A'\n$(b)\nA\nc", ["cat", "c"]),
        ("watch -n 1 'a | b'", ["watch", "a", "b"]),
        ("echo a # ; b", ["echo"]),
        ("echo a#b; c", ["echo", "c"]),
        ("(a; (b)) > c", ["a", "b"]),
        ("time -p a", ["time", "a"]),
        ('echo "${x:-$(a)}"', ["a", "echo"]),
        ("jobs -x a b", ["jobs", "a"]),
    ],
)
def test_every_program_of_a_line_is_named(line: str, programs: list[str]) -> None:
    assert sorted(map(str, names(line))) == sorted(programs)


@pytest.mark.parametrize(
    "spelling", ["curl", "c'url'", "c\\url", '"cu""rl"', "''curl", "cu\\\nrl", '"curl"', "'c'u\"r\"l"]
)
def test_quotes_do_not_change_the_name_of_a_program(spelling: str) -> None:
    assert names(f"{spelling} x") == ["curl"]


@pytest.mark.parametrize(
    ("path", "name"), [("/elsewhere/ls", "ls"), ("./ls", "ls"), ("bin/ls", "ls"), ("/usr/bin/curl", "curl")]
)
def test_a_program_named_by_a_path_keeps_its_path(path: str, name: str) -> None:
    (program,) = read_shell(f"{path} x").programs
    assert (program.name, program.path) == (name, path)


def test_what_only_running_would_tell_is_unknown_and_not_guessed() -> None:
    (program,) = read_shell('cp "$a" b/*.txt c{1,2} "x$y" ~/d plain').programs
    assert program.argv == ("cp", None, None, None, None, None, "plain")


def test_assignments_redirections_and_moves_are_told() -> None:
    line = read_shell("A=1 env B=2 x; export C=3; cd /tmp; y > out 2>&1 < in; for D in 1; do :; done")
    assert set(line.assignments) == {"A", "B", "C", "D"}
    assert [(redirect.op, redirect.target.text) for redirect in line.redirects] == [
        (">", "out"),
        (">&", "1"),
        ("<", "in"),
    ]
    assert line.moves


def test_tee_writes_like_a_redirection() -> None:
    assert [(made.op, made.target.text) for made in read_shell("a | tee -a b c").redirects] == [
        (">", "b"),
        (">", "c"),
    ]


def test_how_a_program_came_to_be_started_is_told() -> None:
    line = read_shell("a | env b $(c)")
    assert {program.name: program.via for program in line.programs} == {
        "a": "line",
        "env": "pipe",
        "b": "wrapper",
        "c": "substitution",
    }


@pytest.mark.parametrize(
    "argv",
    [["curl", "x"], ["env", "curl"], ["sh", "-c", "curl x"], ["/bin/ls"], ["sort", "-o", "x"], [], ["ls\0"]],
    ids=" ".join,
)
def test_words_without_a_shell_are_read_by_the_same_table(argv: list[str]) -> None:
    assert not is_harmless(read_argv(argv))


def test_words_without_a_shell_have_no_grammar() -> None:
    line = read_argv(["echo", "a; rm -rf x", "$(curl y)", "> z"])
    assert is_harmless(line)
    assert [program.argv for program in line.programs] == [("echo", "a; rm -rf x", "$(curl y)", "> z")]


def test_a_line_beyond_the_bounds_is_unclear() -> None:
    assert read_shell("ls " * 30_000).why == ("too long",)
    assert "nesting" in read_shell("$(" * 100).why
    assert "nesting" in read_shell("ls " + "${x:-" * 100 + "}" * 100).why
    assert "too many programs" in read_shell("ls;" * 5_000).why
    assert read_argv(["ls"] * 40_000).unclear


def test_a_line_of_nothing_starts_nothing_and_is_not_harmless() -> None:
    for text in ("", " ", "\n\n", "# a comment", ";"):
        assert read_shell(text).programs == ()
        assert not is_harmless(read_shell(text))
