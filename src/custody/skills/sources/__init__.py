"""Where a skill may come from, one file a kind: each brings its files into the staging folder, or says why
not.

`wanted` reads what was asked for, `folder`, `archive`, `git` and `https` fetch it, `inside` finds the skill
in what came. None of them knows a root, or what a skill has to say of itself.
"""
