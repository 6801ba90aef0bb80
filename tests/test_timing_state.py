"""Clocks, load and what of them makes times doubtful, from directories that stand in for `/`."""

import pytest
from helpers_device import jetson_root, write_files
from helpers_timing import machine

from sttm_export.machine.clocks import ClockFacts, read_clocks
from sttm_export.machine.load import Ticks, processor_name, read_ticks
from sttm_export.timing.result import Moment
from sttm_export.timing.state import Watch, warnings

GPU = "sys/class/devfreq/17000000.gpu"


def cores(governor, least, most, now=(1_200_000, 1_400_000)):
    """cpufreq of two cores, in kHz."""
    files = {}
    for number, khz in enumerate(now):
        folder = f"sys/devices/system/cpu/cpu{number}/cpufreq"
        values = {"governor": governor, "min_freq": least, "max_freq": most, "cur_freq": khz}
        files |= {f"{folder}/scaling_{name}": f"{value}\n" for name, value in values.items()}
    return files


def smi(text="1410, 1980, 54, 570.86.15\n"):
    return lambda: text


@pytest.mark.parametrize(
    ("governor", "least", "most", "pinned"),
    [("schedutil", 700_000, 1_500_000, "no"), ("schedutil", 1_500_000, 1_500_000, "yes"), ("performance", 1, 2, "yes")],
)
def test_the_processor_is_pinned_by_its_governor_or_its_limits(tmp_path, governor, least, most, pinned):
    found = read_clocks(write_files(tmp_path, cores(governor, least, most)), smi(""))
    assert (found.processor_mhz, found.processor_pinned, found.governor) == (1300.0, pinned, governor)
    assert (found.gpu_mhz, found.gpu_pinned) == (None, "unknown")


@pytest.mark.parametrize(("least", "pinned"), [(306_000_000, "no"), (918_000_000, "yes")])
def test_a_jetson_says_whether_its_gpu_is_pinned(tmp_path, least, pinned):
    files = {f"{GPU}/cur_freq": "612000000", f"{GPU}/min_freq": str(least), f"{GPU}/max_freq": "918000000"}
    found = read_clocks(write_files(tmp_path, files), smi())
    assert (found.gpu_mhz, found.gpu_most_mhz, found.gpu_pinned, found.driver) == (612.0, 918.0, pinned, "")


def test_other_gpus_are_asked_by_nvidia_smi(tmp_path):
    assert read_clocks(tmp_path, smi()) == ClockFacts(
        gpu_mhz=1410.0, gpu_most_mhz=1980.0, gpu_celsius=54.0, driver="570.86.15"
    )
    assert read_clocks(tmp_path, smi("[N/A], 1980, [N/A], 570.86.15")).gpu_mhz is None
    assert read_clocks(tmp_path, smi("no devices were found")) == ClockFacts()


def test_what_others_took_is_what_is_busy_and_not_ours(tmp_path):
    root = write_files(tmp_path, {"proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n", "proc/cpuinfo": ""})
    ticks = read_ticks(root)
    assert (ticks.total, ticks.idle) == pytest.approx((10.0, 8.0))
    before = Ticks(100.0, 80.0, 1.0)
    assert Ticks(120.0, 85.0, 11.0).others_since(before) == pytest.approx(0.25)
    assert Ticks(120.0, 95.0, 11.0).others_since(before) == 0.0
    assert before.others_since(before) is None
    assert read_ticks(tmp_path / "nowhere").total == 0
    assert processor_name(root)


def moment(load=0.2, **clocks):
    return Moment(ClockFacts(**clocks), load)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"others": 0.4}, "Other processes took 40% of the machine"),
        ({"before": moment(3.0)}, "The machine was busy before (load 3)"),
        ({"before": moment(processor_pinned="no", governor="schedutil")}, "not pinned (governor schedutil)"),
        ({"before": moment(gpu_pinned="no")}, "The GPU's clock is not pinned; run sudo jetson_clocks"),
        ({"before": moment(gpu_mhz=900.0), "after": moment(gpu_mhz=600.0)}, "The GPU's clock fell from 900 to 600 MHz"),
    ],
)
def test_what_makes_times_doubtful_is_said_with_what_to_do(changes, words):
    (said,) = warnings(machine(**changes))
    assert words in said
    assert said.endswith(".")


def test_a_quiet_machine_with_pinned_clocks_is_not_doubted():
    assert warnings(machine()) == []
    # Clocks that rise under work are those of an idle device.
    assert warnings(machine(before=moment(gpu_mhz=300.0), after=moment(gpu_mhz=900.0))) == []
    assert warnings(machine(power_mode="15W"), "the fastest is MAXN_SUPER: sudo nvpmodel -m 2") == [
        "The power mode is 15W; the fastest is MAXN_SUPER: sudo nvpmodel -m 2."
    ]


def test_a_watch_has_both_moments_and_versions(monkeypatch, tmp_path):
    from sttm_export.machine.facts import read_machine

    root = jetson_root(tmp_path)
    monkeypatch.setattr("sttm_export.timing.state.read_machine", lambda **_: read_machine(root))
    clocks = iter([ClockFacts(gpu_mhz=1.0, driver="570"), ClockFacts(gpu_mhz=2.0)])
    ticks = iter([Ticks(0.0, 0.0, 0.0), Ticks(10.0, 5.0, 2.0)])
    watch = Watch(lambda: next(clocks), lambda: next(ticks))
    state = watch.state()
    assert (state.before.clocks.gpu_mhz, state.after.clocks.gpu_mhz, state.others) == (1.0, 2.0, 0.3)
    assert (state.power_mode, state.jetpack) == ("MAXN_SUPER", "6.2")
    assert state.versions["nvidia driver"] == "570"
    assert state.versions["jetson linux"] == "36.4.3"
    assert watch.advice == ""
