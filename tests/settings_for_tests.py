"""Settings under which a test machine that is busy with the other tests still runs calls."""

from pathlib import Path

NEVER_SHORT = """\
[breaker]
memory_percent_max = 100
cpu_pressure_percent_max = 100
disk_free_percent_min = 0
disk_free_bytes_min = 0
zombies_max = 100000
"""


def never_short_of_resources(config_home: Path) -> Path:
    """Write a settings file below `config_home` (an `XDG_CONFIG_HOME`); returns the file."""
    path = config_home / "custody" / "custody.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NEVER_SHORT, encoding="utf-8")
    return path


def nothing_is_asked(config_home: Path) -> None:
    """Write a user's policy that allows what agents are asked about without one."""
    path = config_home / "custody" / "policy.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('default = "allow"\n', encoding="utf-8")


def without_walls(config_home: Path) -> None:
    """Add to the user's settings that commands of agents run at level `process`."""
    path = config_home / "custody" / "custody.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write('[calls]\nlevel = "process"\n')
