"""How much memory is left: of the machine's, and of the control groups' that we are in."""

import pytest

from pytest_vmports.system import memory, proc

MIB = 1 << 20


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Return a function that lays out /proc and /sys/fs/cgroup; faked: where they are."""
    monkeypatch.setattr(proc, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")

    def host(groups, available=4096, **files):
        for name, text in {
            "proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {available * 1024} kB\n",
            "proc/self/cgroup": groups,
            **{f"groups/{key}": value for key, value in files.items()},
        }.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return host


def of(most, used, stat="", kind="v2"):
    """Return the files of a control group; sizes in MiB, or a word."""
    names = {
        "v2": ("memory.max", "memory.current"),
        "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    }[kind]
    values = [str(v * MIB) if isinstance(v, int) else v for v in (most, used)]
    return {**dict(zip(names, values, strict=True)), "memory.stat": stat}


def below(folder, files):
    return {f"{folder}{name}": f"{text}\n" for name, text in files.items()}


def test_without_limits_it_is_what_the_machine_has(host):
    host("0::/user\n", 300, **below("user/", of("max", 5)))
    assert memory.available() == 300 * MIB


def test_a_groups_limit_counts_without_what_it_uses_but_for_idle_pages_of_files(host):
    idle = f"anon 1\ninactive_file {40 * MIB}\nactive_file 7"
    host("0::/a/b\n", **below("a/b/", of(500, 100, idle)))
    assert memory.available() == 440 * MIB


def test_the_narrowest_of_the_groups_around_it_counts_also_the_root_of_a_container(host):
    host(
        "0::/a/b\n",
        **below("a/b/", of("max", 1)), **below("a/", of(900, 100)), **below("", of(600, 100)),
    )  # fmt: skip
    assert memory.available() == 500 * MIB


def test_the_first_generation_counts_too(host):
    stat = f"inactive_file 3\ntotal_inactive_file {20 * MIB}"
    host("5:cpu:/x\n4:memory:/x\n0::/\n", **below("memory/x/", of(300, 200, stat, "v1")))
    assert memory.available() == 120 * MIB


def test_a_group_that_is_full_leaves_nothing(host):
    host("0::/\n", **below("", of(100, 130)))
    assert memory.available() == 0


@pytest.mark.parametrize("text", ["", "many", "-1", "9" * 40, "1e9"])
def test_what_is_no_number_is_no_limit(host, text):
    host("0::/\nnonsense\n", 300, **below("", of(text, 1)))
    assert memory.available() == 300 * MIB


def test_where_nothing_tells_it_is_not_known(host, tmp_path):
    (tmp_path / "proc").mkdir()
    assert memory.available() is None
