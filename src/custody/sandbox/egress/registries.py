"""The package registries that commands of the sandbox `workspace` may reach without anybody listing them.

Owns that list and its reasons. Every host here is one that ecosystems' own tools ask for by default, run by
those who run the registry, at which strangers cannot read what is sent: no code hosting, no buckets, no
mirrors that anybody may fill. What is downloaded there is code of strangers all the same; the walls hold it.
"""

REGISTRIES: tuple[str, ...] = (
    # npm, yarn: the packages and their tarballs
    "registry.npmjs.org:443",
    "registry.yarnpkg.com:443",
    # Python: the index and the files, which lie apart
    "pypi.org:443",
    "files.pythonhosted.org:443",
    # Rust: sparse index, redirects to the files, the files
    "index.crates.io:443",
    "crates.io:443",
    "static.crates.io:443",
    # Go: modules and the log of their checksums
    "proxy.golang.org:443",
    "sum.golang.org:443",
    # Ruby: the site, its index
    "rubygems.org:443",
    "index.rubygems.org:443",
    # Java: both names of Maven Central; Gradle's plugins
    "repo.maven.apache.org:443",
    "repo1.maven.org:443",
    "plugins.gradle.org:443",
    # PHP: the index; the archives themselves lie at code hosting, which has to be listed
    "repo.packagist.org:443",
    "packagist.org:443",
    # Elixir and Erlang
    "repo.hex.pm:443",
    "hex.pm:443",
    # .NET
    "api.nuget.org:443",
)
"""Each at the port of HTTPS alone: a package that came in plain text is whoever's stands between."""
